//! What is checked in, and every profile, breaks nothing. Inputs that once broke something lie among the seeds.

use std::path::Path;

#[test]
fn no_seed_breaks_anything() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, target) in lekiwi_fuzz::TARGETS {
        let seeds = std::fs::read_dir(here.join("seeds").join(name));
        let mut count = 0;
        for seed in seeds.unwrap_or_else(|error| panic!("seeds/{name}: {error}")) {
            target(&std::fs::read(seed.expect("a file").path()).expect("a file"));
            count += 1;
        }
        assert!(count > 0, "expected seeds of {name}");
    }
    for profile in std::fs::read_dir(here.join("../image/profiles")).expect("profiles") {
        let text = std::fs::read(profile.expect("a file").path()).expect("a file");
        lekiwi_protocol::profile::Profile::parse(&String::from_utf8_lossy(&text), "a profile")
            .expect("the grammar that the target knows is that of the profiles");
    }
}
