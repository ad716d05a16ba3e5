//! What reads bytes of strangers, a function for each kind of bytes. `cargo xtask fuzz` lets libFuzzer look for bytes that break
//! one; tests try the seeds that are checked in: here those of `pure`, and each program's own tests those of that program.

#[cfg(feature = "agent")]
mod agent;
#[cfg(feature = "provisioner")]
mod provisioner;
pub mod pure;
#[cfg(feature = "relay")]
mod relay;

/// A name, and what is tried on the bytes; it panics where they break something.
pub type Target = (&'static str, fn(&[u8]));

/// Those of all parts that are compiled in.
pub fn targets() -> impl Iterator<Item = Target> {
    let parts: &[&[Target]] = &[
        pure::TARGETS,
        #[cfg(feature = "agent")]
        agent::TARGETS,
        #[cfg(feature = "provisioner")]
        provisioner::TARGETS,
        #[cfg(feature = "relay")]
        relay::TARGETS,
    ];
    parts.concat().into_iter()
}
