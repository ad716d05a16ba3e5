//! The seeds of the fuzzer's targets that are in this package break nothing.

#[path = "../../fuzz/src/relay.rs"]
mod relay;
#[path = "../../fuzz/src/seeds.rs"]
mod seeds;

#[test]
fn no_seed_breaks_anything() {
    seeds::try_all("relay", relay::TARGETS);
}
