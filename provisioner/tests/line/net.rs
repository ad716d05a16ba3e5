//! A network of its own for each test: the test's thread (and what it starts) has the line's side, boards have the
//! other. Gone with the test.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

/// The line's address.
pub(crate) const LINE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Its interface.
pub(crate) const INTERFACE: &str = "line0";

/// The boards' side.
pub(crate) struct Boards(File);

/// The address of a board, from 0.
pub(crate) fn board(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 10 + number)
}

fn run(program: &str, arguments: &str) {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error} (hint: apt-get install -y iproute2)"));
    assert!(
        output.status.success(),
        "{program} {arguments}: {} (hint: namespaces need root)",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn own() -> File {
    File::open("/proc/thread-self/ns/net").expect("a network namespace")
}

/// Takes this thread, and the processes that it starts from now on, into a new network, with `boards` others on
/// the far side.
pub(crate) fn network(boards: u8) -> Boards {
    let far = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root makes a network namespace");
        own()
    })
    .join()
    .expect("the far side");
    unshare(CloneFlags::CLONE_NEWNET).expect("root makes a network namespace");
    let far = Boards(far);
    run("ip", "link set lo up");
    run(
        "ip",
        &format!("link add {INTERFACE} type veth peer name board0"),
    );
    let name = format!("/proc/{}/fd/{}", std::process::id(), far.0.as_raw_fd());
    run("ip", &format!("link set board0 netns {name}"));
    run("ip", &format!("addr add {LINE}/24 brd + dev {INTERFACE}"));
    run("ip", &format!("link set {INTERFACE} up"));
    far.there(|| {
        run("ip", "link set lo up");
        for number in 0..boards {
            run(
                "ip",
                &format!("addr add {}/24 brd + dev board0", board(number)),
            );
        }
        run("ip", "link set board0 up");
        run("ip", "route add 255.255.255.255/32 dev board0");
    });
    far
}

impl Boards {
    /// Does something on the boards' side.
    pub(crate) fn there<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).expect("the far side");
                what()
            });
            match there.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}
