//! Disk images as files, worked on without root: nothing is mounted, no loop device is made.
//!
//! [`compressed`] unpacks what people download, [`checksum`] verifies it before, [`partition`] finds the partitions,
//! [`fat`] changes files on the boot partition and answers with a [`patch::Patch`], [`sparse`] writes and copies images
//! with holes for their zeros, [`bmap`] says which blocks of an image matter.

pub mod bmap;
pub mod checksum;
pub mod compressed;
pub mod fat;
mod occupied;
pub mod partition;
pub mod patch;
pub mod sparse;
