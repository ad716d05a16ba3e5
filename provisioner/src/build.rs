//! Builds a base image from Debian packages: `recipe → inputs → rootfs → disk`. Called by `lekiwi-provisioner
//! build`; needs root, since packages' scripts run in a chroot.
//!
//! Invariants: the same inputs give the same bytes; what was built is kept under the digest of its inputs and
//! never built twice; nothing half done stands under a final name.

mod disk;
mod inputs;
mod job;
mod recipe;
mod rootfs;
mod sbom;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use inputs::{Inputs, Package};
pub use recipe::{Recipe, RecipeError};

use crate::watch::Watch;
use job::Workshop;

/// What is to be built, and from what.
#[derive(Debug, Clone)]
pub struct BuildOrder {
    /// Folder with `base.yml`, `early/` and `overlay/`.
    pub image: PathBuf,
    /// The agent's Debian package for arm64.
    pub agent_deb: PathBuf,
    /// Debian's archive; mmdebstrap's own choice when absent.
    pub mirror: Option<String>,
    /// Where built parts are kept between runs.
    pub cache: PathBuf,
    /// Folder for the image and what describes it.
    pub out: PathBuf,
}

/// What was built.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Built {
    /// The raw disk image.
    pub image: PathBuf,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// What is in it, CycloneDX 1.6.
    pub sbom: PathBuf,
    /// Digest of all inputs, hex.
    pub inputs: String,
    /// Whether it lay in the cache already.
    pub cached: bool,
}

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The recipe is none.
    #[error("{} is no recipe", path.display())]
    Recipe {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: RecipeError,
    },
    /// Only root can build.
    #[error("expected to run as root: packages are configured in a chroot")]
    NotRoot,
    /// A program is not installed.
    #[error("expected {program} on this machine ({package} in Debian)")]
    Missing {
        /// The program.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// This machine runs no arm64 programs.
    #[error(
        "expected this machine to run arm64 programs through qemu-user, but its kernel is not told to"
    )]
    NoEmulation,
    /// The agent's package is of another kind.
    #[error("expected the agent's package for arm64, got {actual:?} in {}", path.display())]
    AgentPackage {
        /// The file.
        path: PathBuf,
        /// `Package Architecture` as it says.
        actual: String,
    },
    /// A program failed.
    #[error("{step} failed ({status}):\n{tail}")]
    Program {
        /// What it was to do.
        step: String,
        /// How it ended.
        status: String,
        /// Its last lines.
        tail: String,
    },
    /// A program could not be started, or a file not be used.
    #[error("cannot {what} {}", path.display())]
    File {
        /// `read`, `write`, `start`, …
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Asked to stop.
    #[error("stopped; what was finished is kept for the next run")]
    Stopped,
}

impl BuildError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotRoot => Some("run it with sudo".into()),
            Self::Missing { package, .. } => Some(format!("sudo apt-get install {package}")),
            Self::NoEmulation => Some(
                "sudo apt-get install qemu-user-static binfmt-support; in a container also \
                 `mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && update-binfmts --enable`"
                    .into(),
            ),
            Self::AgentPackage { .. } => {
                Some("`cargo xtask dist --only agent` makes it: target/dist/lekiwi-agent_…_arm64.deb".into())
            }
            Self::Recipe { .. } | Self::Program { .. } | Self::File { .. } | Self::Stopped => None,
        }
    }

    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}

/// Builds the image, or takes it from the cache when all its inputs are the same.
///
/// # Errors
/// When the recipe is wrong, the machine lacks something, or a step fails.
pub fn build(order: &BuildOrder, watch: &dyn Watch) -> Result<Built, BuildError> {
    let path = order.image.join("base.yml");
    let text = fs::read_to_string(&path).map_err(BuildError::file("read", &path))?;
    let recipe = Recipe::parse(&text).map_err(|source| BuildError::Recipe { path, source })?;
    check_machine()?;
    for folder in [&order.cache, &order.out] {
        fs::create_dir_all(folder).map_err(BuildError::file("create", folder))?;
    }
    let shop = Workshop::open(&order.cache, recipe.source_date_epoch, watch)?;

    watch.begin("asking for versions", None);
    let inputs = Inputs::resolve(order, &text, &recipe, &shop)?;
    let kept = order.cache.join(format!("image-{}", inputs.image));
    let cached = kept.join("done").is_file();
    if !cached {
        let root = rootfs::debian(order, &recipe, &inputs, &shop)?;
        let tools = rootfs::tools(order, &recipe, &inputs, &shop)?;
        let tree = rootfs::finish(order, &root, &shop)?;
        let sbom = sbom::of(&tree.root, &recipe)?;
        let disk = disk::write(&recipe, &tree, &tools, &shop)?;
        keep(&kept, &disk, &sbom)?;
    }
    let stem = format!(
        "{}-{}-arm64-{}",
        recipe.name,
        recipe.suite,
        &inputs.image[..12]
    );
    let image = order.out.join(format!("{stem}.img"));
    // Nothing half done has a finished image's name.
    let part = order.out.join(format!(".{stem}.img.part"));
    let sbom = order.out.join(format!("{stem}.cdx.json"));
    shop.run(
        "copying",
        "cp",
        &["--reflink=auto", "--sparse=always"],
        &[&kept.join("disk.img"), &part],
    )?;
    shop.run("copying", "cp", &[], &[&kept.join("sbom.json"), &sbom])?;
    watch.begin("digesting", fs::metadata(&part).ok().map(|file| file.len()));
    let sha256 = inputs::digest_file(&part, watch)?;
    fs::rename(&part, &image).map_err(BuildError::file("write", &image))?;
    let sums = order.out.join(format!("{stem}.img.sha256"));
    fs::write(&sums, format!("{sha256}  {stem}.img\n"))
        .map_err(BuildError::file("write", &sums))?;
    Ok(Built {
        image,
        sha256,
        sbom,
        inputs: inputs.image,
        cached,
    })
}

/// Moves what was built to where the next run finds it; `done` comes last.
fn keep(place: &Path, disk: &Path, sbom: &str) -> Result<(), BuildError> {
    if place.exists() {
        fs::remove_dir_all(place).map_err(BuildError::file("remove", place))?;
    }
    fs::create_dir_all(place).map_err(BuildError::file("create", place))?;
    let image = place.join("disk.img");
    fs::rename(disk, &image).map_err(BuildError::file("write", &image))?;
    let file = place.join("sbom.json");
    fs::write(&file, sbom).map_err(BuildError::file("write", &file))?;
    let done = place.join("done");
    fs::write(&done, "").map_err(BuildError::file("write", &done))
}

/// Says what is missing before an hour is spent.
fn check_machine() -> Result<(), BuildError> {
    for (program, package) in [
        ("mmdebstrap", "mmdebstrap"),
        ("tar", "tar"),
        ("dpkg-deb", "dpkg"),
        ("chroot", "coreutils"),
    ] {
        if !on_path(program) {
            return Err(BuildError::Missing { program, package });
        }
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_root = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        == Some("0");
    if !is_root {
        return Err(BuildError::NotRoot);
    }
    if std::env::consts::ARCH != "aarch64"
        && !Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists()
    {
        return Err(BuildError::NoEmulation);
    }
    Ok(())
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| {
            fs::metadata(folder.join(program))
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        })
}
