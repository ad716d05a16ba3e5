//! All that decides the bytes of an image, and digests of it: the recipe, the laid-over files, the agent, and the
//! versions that Debian's archive has today. Reads files and asks the archive; writes nothing.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::job::Workshop;
use super::recipe::Recipe;
use super::{BuildError, BuildOrder};
use crate::watch::Watch;

/// Grows when this module builds the same inputs into other bytes.
const FORMAT: u32 = 2;

/// A package and its version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Debian's version of it.
    pub version: String,
}

/// Digests of what goes in, hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inputs {
    /// Of the system without agent and overlay.
    pub(super) system: String,
    /// Of the tools that write the file systems.
    pub(super) tools: String,
    /// Of everything.
    pub(super) image: String,
}

/// What writes the file systems, of the image's own suite, so that the bytes depend on no other machine.
pub(super) const TOOLS: &[&str] = &[
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "libarchive13t64",
    "mtools",
];

impl Inputs {
    /// Asks the archive for today's versions, and digests everything.
    pub(super) fn resolve(
        order: &BuildOrder,
        text: &str,
        recipe: &Recipe,
        shop: &Workshop<'_>,
    ) -> Result<Self, BuildError> {
        check_agent(&order.agent_deb, shop)?;
        let system_packages = versions(order, recipe, "arm64", "apt", &recipe.wanted(), shop)?;
        let tools: Vec<String> = TOOLS.iter().map(|&name| name.to_owned()).collect();
        let tool_packages = versions(order, recipe, native(), "essential", &tools, shop)?;

        let mut system = Sha256::new();
        system.update(format!("{FORMAT}\n{text}\n{}", listing(&system_packages)));
        digest_tree(&order.image.join("early"), &mut system)?;
        let system = hex::encode(system.finalize());
        let tools = hex::encode(Sha256::digest(format!(
            "{FORMAT}\n{}",
            listing(&tool_packages)
        )));
        let mut image = Sha256::new();
        image.update(format!("{system}\n{tools}\n"));
        digest_tree(&order.image.join("overlay"), &mut image)?;
        image.update(digest_file(&order.agent_deb, &crate::watch::Unwatched)?);
        Ok(Self {
            system,
            tools,
            image: hex::encode(image.finalize()),
        })
    }
}

/// Debian's name of this machine's processor.
pub(super) fn native() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

fn check_agent(deb: &Path, shop: &Workshop<'_>) -> Result<(), BuildError> {
    let mut command = Command::new("dpkg-deb");
    command
        .arg("--show")
        .arg("--showformat=${Package} ${Architecture}")
        .arg(deb);
    let actual = shop.read("reading the agent's package", command)?;
    if actual == "lekiwi-agent arm64" {
        return Ok(());
    }
    Err(BuildError::AgentPackage {
        path: deb.to_owned(),
        actual,
    })
}

/// What would be installed today.
fn versions(
    order: &BuildOrder,
    recipe: &Recipe,
    architecture: &str,
    variant: &str,
    packages: &[String],
    shop: &Workshop<'_>,
) -> Result<Vec<Package>, BuildError> {
    let mut command = Command::new("mmdebstrap");
    command
        .args([
            "--simulate",
            "--verbose",
            "--mode=root",
            "--aptopt=APT::Install-Recommends \"false\"",
        ])
        .arg(format!("--architectures={architecture}"))
        .arg(format!("--variant={variant}"))
        .arg(format!("--components={}", recipe.components.join(" ")))
        .arg(format!("--include={}", packages.join(",")))
        .arg(&recipe.suite)
        .arg("/dev/null")
        .args(recipe.sources(order.mirror.as_deref()));
    Ok(simulated(&shop.read("asking for versions", command)?))
}

/// Reads `Inst NAME (VERSION …)` lines of a simulated installation.
fn simulated(text: &str) -> Vec<Package> {
    let mut packages: Vec<Package> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("Inst ")?.split_whitespace();
            let name = words.next()?.split(':').next()?.to_owned();
            let version = words.find(|word| word.starts_with('('))?;
            Some(Package {
                name,
                version: version.trim_start_matches('(').to_owned(),
            })
        })
        .collect();
    packages.sort();
    packages.dedup();
    packages
}

fn listing(packages: &[Package]) -> String {
    packages.iter().fold(String::new(), |mut text, package| {
        let _ = writeln!(text, "{} {}", package.name, package.version);
        text
    })
}

/// Every file below a folder, sorted, relative to it.
fn files(folder: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).map_err(BuildError::file("read", &next))? {
            let path = entry.map_err(BuildError::file("read", &next))?.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(relative) = path.strip_prefix(folder) {
                found.push(relative.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn digest_tree(folder: &Path, digest: &mut Sha256) -> Result<(), BuildError> {
    for relative in files(folder)? {
        let path = folder.join(&relative);
        let bytes = fs::read(&path).map_err(BuildError::file("read", &path))?;
        digest.update(format!("{} {}\n", relative.display(), bytes.len()));
        digest.update(&bytes);
    }
    Ok(())
}

/// SHA-256 of a file, hex.
pub(super) fn digest_file(path: &Path, watch: &dyn Watch) -> Result<String, BuildError> {
    let mut file = File::open(path).map_err(BuildError::file("read", path))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file
            .read(&mut buffer)
            .map_err(BuildError::file("read", path))?;
        if read == 0 {
            return Ok(hex::encode(digest.finalize()));
        }
        if watch.stopped() {
            return Err(BuildError::Stopped);
        }
        digest.update(&buffer[..read]);
        watch.advance(read as u64);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_is_read() {
        let text = "NOTE: This is only a simulation!\n\
                    Inst libc6 (2.41-12 Debian:13.2/stable [arm64]) []\n\
                    Inst base-files (13.8 Debian:13.2/stable [arm64])\n\
                    Conf base-files (13.8 Debian:13.2/stable [arm64])\n\
                    Inst python3:any [3.12] (3.13.5-1 Debian:13.2/stable [arm64])\n";
        let package = |name: &str, version: &str| Package {
            name: name.into(),
            version: version.into(),
        };
        assert_eq!(
            simulated(text),
            [
                package("base-files", "13.8"),
                package("libc6", "2.41-12"),
                package("python3", "3.13.5-1")
            ]
        );
    }

    #[test]
    fn a_trees_digest_knows_names_and_contents() {
        let digest = |files: &[(&str, &str)]| {
            let folder = tempfile::tempdir().unwrap();
            for (name, content) in files {
                super::super::job::put(&folder.path().join(name), content.as_bytes()).unwrap();
            }
            let mut digest = Sha256::new();
            digest_tree(folder.path(), &mut digest).unwrap();
            digest.finalize()
        };
        let one = digest(&[("etc/a", "x"), ("etc/b", "y")]);
        assert_eq!(one, digest(&[("etc/b", "y"), ("etc/a", "x")]));
        assert_ne!(one, digest(&[("etc/a", "xy"), ("etc/b", "")]));
        assert_ne!(one, digest(&[("etc/a", "x"), ("etc/c", "y")]));
    }
}
