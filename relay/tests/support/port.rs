//! Ports for programs that have to be told one.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Nobody listens there, and it is below those that the kernel gives away by itself (32,768 and more): until the program
/// listens, nobody else is given it.
pub(crate) fn free() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Programs of tests that run at the same time begin at different places.
    let first = std::process::id() % 600 * 20;
    loop {
        let port = 20_000 + (first as u16 + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
