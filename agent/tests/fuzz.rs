//! The seeds of the fuzzer's targets that are in this package break nothing.

#[path = "../../fuzz/src/agent.rs"]
mod agent;
#[path = "../../fuzz/src/seeds.rs"]
mod seeds;

#[test]
fn no_seed_breaks_anything() {
    seeds::try_all("agent", agent::TARGETS);
}
