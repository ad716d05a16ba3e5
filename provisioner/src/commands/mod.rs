//! What each command does: options in, library called, result shown.

pub(crate) mod flash;
pub(crate) mod seed;
