//! What each command does: options in, library called, result shown.

pub(crate) mod line;
pub(crate) mod seed;
pub(crate) mod serve;
