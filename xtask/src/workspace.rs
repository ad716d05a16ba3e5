//! Where things are: the checkout, its build folder, what was built.

use std::path::{Path, PathBuf};

/// The checkout's top folder.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// Cargo's build folder.
pub(crate) fn target() -> PathBuf {
    environment("CARGO_TARGET_DIR").map_or_else(
        || root().join("target"),
        |folder| root().join(folder), // an absolute path stays what it is
    )
}

/// Helper programs that belong to this checkout alone.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// A non-empty variable of the environment.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a continuous-integration service runs this.
pub(crate) fn in_ci() -> bool {
    environment("CI").is_some_and(|value| value != "false" && value != "0")
}

/// A program on the search path.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = environment("PATH").unwrap_or_default();
    // Debian keeps servers in sbin, which is not on every user's path.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}
