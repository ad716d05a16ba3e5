//! Tries what is checked in; a part of each test that does. Inputs that once broke something lie among the seeds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Panics where the bytes break something.
type Try = fn(&[u8]);

/// Tries the targets of a part on their seeds.
///
/// # Panics
/// When a seed breaks something, or a target has none.
pub(crate) fn try_all(part: &str, targets: &[(&str, Try)]) {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds")).join(part);
    for (name, target) in targets {
        let seeds = std::fs::read_dir(folder.join(name));
        let mut count = 0;
        for seed in seeds.unwrap_or_else(|error| panic!("seeds/{part}/{name}: {error}")) {
            let path = seed.expect("a file").path();
            let bytes = std::fs::read(&path).expect("a file");
            let tried = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
            assert!(tried.is_ok(), "{name} is broken by {}", path.display());
            count += 1;
        }
        assert!(count > 0, "expected seeds of {name}");
    }
}
