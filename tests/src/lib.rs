//! What the end-to-end suites, the simulator, the soak and the benchmarks are made of. Nothing of this
//! runs on a robot or a server.

pub mod fleet;
pub mod flood;
pub mod harness;
#[path = "../../relay/tests/support/secrets.rs"]
mod secrets;
