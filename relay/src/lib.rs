//! scratch
pub mod clock;
