//! How long work is watched, and stopped. The work only knows this trait; the command line shows a bar for it and
//! sets the stop on Ctrl-C, tests count.

/// Whoever watches long work.
pub trait Watch: Sync {
    /// Another step begins: what it does, and how many bytes it will go through where that is known.
    fn begin(&self, step: &str, bytes: Option<u64>);
    /// So many bytes more are through.
    fn advance(&self, bytes: u64);
    /// Whether to stop: the work cleans up after itself and fails with its own `Stopped` error.
    fn stopped(&self) -> bool;
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn stopped(&self) -> bool {
        false
    }
}
