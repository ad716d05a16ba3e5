//! Writes images to cards, and to nothing else. `survey` looks at this machine's devices, [`device`] judges which may
//! be overwritten, [`card`] takes one exclusively, [`mod@write`] fans the image out to all, `verify` reads each back.

pub mod bmap;
pub mod card;
pub mod check;
pub mod device;
pub mod survey;
mod verify;
pub mod write;
