//! What each command does: options in, library called, result shown.

pub(crate) mod build;
pub(crate) mod customise;
pub(crate) mod flash;
pub(crate) mod line;
pub(crate) mod lint;
mod ordering;
pub(crate) mod seed;
pub(crate) mod serve;
