//! Images onto loop devices, by the library and by the program; each refusal on a device that deserves it. Needs root
//! for the loop devices, and the tools of util-linux, LVM and bmap-tools as witnesses.

#[path = "flash/devices.rs"]
mod devices;
#[path = "flash/refusals.rs"]
mod refusals;
#[path = "flash/writing.rs"]
mod writing;
