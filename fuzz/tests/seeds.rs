//! What is checked in, and every profile, breaks nothing.

#[path = "../src/seeds.rs"]
mod seeds;

use std::path::Path;

#[test]
fn no_seed_breaks_anything() {
    seeds::try_all("pure", lekiwi_fuzz::pure::TARGETS);
    let profiles = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/profiles");
    for profile in std::fs::read_dir(profiles).expect("profiles") {
        let text = std::fs::read(profile.expect("a file").path()).expect("a file");
        lekiwi_protocol::profile::Profile::parse(&String::from_utf8_lossy(&text), "a profile")
            .expect("the grammar that the target knows is that of the profiles");
    }
}
