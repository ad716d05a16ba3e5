//! libFuzzer over the target that the variable `LEKIWI_FUZZ` names; see `cargo xtask fuzz`.

#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("LEKIWI_FUZZ").unwrap_or_default();
    let found = lekiwi_fuzz::targets().find(|(name, _)| *name == wanted);
    found.expect("LEKIWI_FUZZ is the name of a target").1
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
