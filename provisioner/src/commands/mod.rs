//! What each command does: options in, library called, result shown.

pub(crate) mod customise;
pub(crate) mod lint;
mod ordering;
pub(crate) mod seed;
