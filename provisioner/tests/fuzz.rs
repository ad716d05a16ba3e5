//! The seeds of the fuzzer's targets that are in this package break nothing.

#[path = "../../fuzz/src/provisioner.rs"]
mod provisioner;
#[path = "../../fuzz/src/seeds.rs"]
mod seeds;

#[test]
fn no_seed_breaks_anything() {
    seeds::try_all("provisioner", provisioner::TARGETS);
}
