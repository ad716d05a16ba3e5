//! The shared libraries of a program, read with `readelf`, for programs of other processors too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::program::Target;
use crate::command::{command, read};

/// What a program needs of its system.
#[derive(Debug, Default)]
pub(super) struct Libraries {
    /// Path of the program loader as the program names it; absent for static programs.
    pub(super) loader: Option<String>,
    /// The libraries, by name, where they lie on this machine.
    pub(super) files: BTreeMap<String, PathBuf>,
    /// The newest version of the C library that something was linked against.
    pub(super) glibc: Option<(u32, u32)>,
}

/// Finds all of them, those of libraries included.
pub(super) fn of(binary: &Path, target: Target) -> Result<Libraries> {
    let mut libraries = Libraries {
        loader: loader(&readelf("--program-headers", binary)?),
        glibc: newest_glibc(&readelf("--version-info", binary)?),
        ..Libraries::default()
    };
    let mut waiting = needed(&readelf("--dynamic", binary)?);
    while let Some(name) = waiting.pop() {
        if libraries.files.contains_key(&name) {
            continue;
        }
        let path = find(&name, target)?;
        waiting.extend(needed(&readelf("--dynamic", &path)?));
        libraries.files.insert(name, path);
    }
    Ok(libraries)
}

fn readelf(what: &str, binary: &Path) -> Result<String> {
    read(
        command("readelf")
            .env("LC_ALL", "C")
            .args([what, "--wide"])
            .arg(binary),
    )
}

/// Debian's folders of libraries, its cross-compilers' included.
pub(super) fn find(name: &str, target: Target) -> Result<PathBuf> {
    let tuple = format!("{}-linux-gnu", target.architecture());
    let folders = if target.is_native() {
        [format!("/lib/{tuple}"), format!("/usr/lib/{tuple}")]
    } else {
        [format!("/usr/{tuple}/lib"), format!("/usr/lib/{tuple}")]
    };
    let found = folders
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file());
    match found {
        Some(path) => path
            .canonicalize()
            .with_context(|| format!("could not follow {}", path.display())),
        None => bail!(
            "expected the library {name} in {}, found none",
            folders.join(" or ")
        ),
    }
}

/// `[Requesting program interpreter: /lib64/ld-linux-x86-64.so.2]`
fn loader(headers: &str) -> Option<String> {
    let (_, rest) = headers.split_once("program interpreter: ")?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// `0x… (NEEDED) Shared library: [libc.so.6]`
fn needed(dynamic: &str) -> Vec<String> {
    dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned()))
        .collect()
}

/// `Name: GLIBC_2.34  Flags: none`
fn newest_glibc(versions: &str) -> Option<(u32, u32)> {
    versions
        .split("GLIBC_")
        .skip(1)
        .filter_map(|rest| {
            let number: String = rest
                .chars()
                .take_while(|letter| letter.is_ascii_digit() || *letter == '.')
                .collect();
            let mut parts = number.split('.');
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        })
        .max()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn readelf_is_understood() {
        assert_eq!(
            loader("      [Requesting program interpreter: /lib64/ld-linux-x86-64.so.2]\n")
                .as_deref(),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(loader("There are no program headers in this file."), None);
        assert_eq!(
            needed(
                " 0x01 (NEEDED)  Shared library: [libm.so.6]\n 0x0e (SONAME)  Library soname: [libx.so]\n"
            ),
            ["libm.so.6"]
        );
        assert_eq!(
            newest_glibc(
                "Name: GLIBC_2.9  Flags\n Name: GLIBC_2.34 F\n Name: GLIBC_2.2.5\n GLIBC_PRIVATE"
            ),
            Some((2, 34))
        );
    }

    #[test]
    fn this_program_is_dynamic_and_its_libraries_are_found() {
        let own = std::env::current_exe().unwrap();
        let target = if cfg!(target_arch = "aarch64") {
            Target::Aarch64Gnu
        } else {
            Target::X86_64Gnu
        };
        let libraries = of(&own, target).unwrap();
        assert!(libraries.loader.unwrap().contains("ld-linux"));
        assert!(libraries.files.contains_key("libc.so.6"));
        assert!(libraries.glibc.unwrap() >= (2, 2));
    }
}
