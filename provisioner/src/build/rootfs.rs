//! The files of the image: Debian's, then the agent and what is laid over. Writes below the workshop and the cache.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::inputs::{Inputs, TOOLS, native};
use super::job::Workshop;
use super::recipe::Recipe;
use super::{BuildError, BuildOrder};

/// The finished files.
pub(super) struct Tree {
    /// Everything but the boot partition.
    pub(super) root: PathBuf,
    /// The boot partition.
    pub(super) boot: PathBuf,
}

/// What every robot would otherwise share with every other, or what differs at each build.
const FORGOTTEN: &[&str] = &[
    "etc/hostname",
    "etc/ssh/ssh_host_*",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/cache/ldconfig/aux-cache",
    "var/cache/apt/*.bin",
    "var/cache/debconf/*-old",
    "var/lib/dpkg/*-old",
    "var/log/*.log",
    "var/log/apt/*",
    "boot/initrd.img-*.old-dkms",
];

/// Python compiles itself at first use; the start-up image is made once, at the end, instead of three times.
const DIVERTED: &str = "for p in /usr/bin/py3compile /usr/sbin/update-initramfs; do \
    chroot \"$1\" dpkg-divert --quiet --local --add --rename --divert $p.distrib $p; \
    printf '#!/bin/sh\\nexit 0\\n' > \"$1$p\"; chmod 755 \"$1$p\"; done";
const RESTORED: &str = "for p in /usr/bin/py3compile /usr/sbin/update-initramfs; do \
    rm \"$1$p\"; chroot \"$1\" dpkg-divert --quiet --local --remove --rename $p; done";
/// What made the build quick would lose packages to a power cut on a robot.
const SAFE_AGAIN: &str = "sed -i '/^force-unsafe-io$/d' \"$1\"/etc/dpkg/dpkg.cfg.d/99mmdebstrap";
const START_UP_IMAGE: &str = "chroot \"$1\" update-initramfs -c -k all";

/// Debian's part, as a tar archive in the cache.
pub(super) fn debian(
    order: &BuildOrder,
    recipe: &Recipe,
    inputs: &Inputs,
    shop: &Workshop<'_>,
) -> Result<PathBuf, BuildError> {
    let archive = order.cache.join(format!("system-{}.tar", inputs.system));
    if archive.is_file() {
        return Ok(archive);
    }
    let mut command = bootstrap(order, recipe, "arm64", "apt", &recipe.wanted());
    // Emulation is slow enough without waiting for the disk at each file.
    command.arg("--dpkgopt=force-unsafe-io");
    for pattern in &recipe.without {
        command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    for pattern in &recipe.keep {
        command.arg(format!("--dpkgopt=path-include={pattern}"));
    }
    let early = order.image.join("early");
    let laid = shop.path("early.tar");
    pack_overlay(&early, &laid, shop)?;
    command
        .arg(format!("--essential-hook={DIVERTED}"))
        .arg(format!("--customize-hook={RESTORED}"))
        .arg(format!("--customize-hook=tar-in {} /", laid.display()))
        .arg(format!("--customize-hook={START_UP_IMAGE}"))
        .arg(format!("--customize-hook={SAFE_AGAIN}"));
    make(
        "installing Debian's packages",
        command,
        recipe,
        order,
        &archive,
        shop,
    )
}

/// The tools that write file systems, as a tar archive in the cache.
pub(super) fn tools(
    order: &BuildOrder,
    recipe: &Recipe,
    inputs: &Inputs,
    shop: &Workshop<'_>,
) -> Result<PathBuf, BuildError> {
    let archive = order.cache.join(format!("tools-{}.tar", inputs.tools));
    if archive.is_file() {
        return Ok(archive);
    }
    let packages: Vec<String> = TOOLS.iter().map(|&name| name.to_owned()).collect();
    let command = bootstrap(order, recipe, native(), "essential", &packages);
    make("installing tools", command, recipe, order, &archive, shop)
}

fn bootstrap(
    order: &BuildOrder,
    recipe: &Recipe,
    architecture: &str,
    variant: &str,
    packages: &[String],
) -> Command {
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--mode=root", "--format=tar"])
        .args([
            "--aptopt=APT::Install-Recommends \"false\"",
            "--aptopt=Acquire::Languages \"none\"",
        ])
        .arg(format!("--architectures={architecture}"))
        .arg(format!("--variant={variant}"))
        .arg(format!("--components={}", recipe.components.join(" ")))
        .arg(format!("--include={}", packages.join(",")));
    // Work beside the cache: /tmp may be small.
    command.env("TMPDIR", &order.cache);
    command
}

fn make(
    step: &str,
    mut command: Command,
    recipe: &Recipe,
    order: &BuildOrder,
    archive: &Path,
    shop: &Workshop<'_>,
) -> Result<PathBuf, BuildError> {
    shop.watch().begin(step, None);
    let half = shop.path("half.tar");
    command
        .arg(&recipe.suite)
        .arg(&half)
        .args(recipe.sources(order.mirror.as_deref()));
    shop.command(step, command)?;
    fs::rename(&half, archive).map_err(BuildError::file("write", archive))?;
    Ok(archive.to_owned())
}

/// Unpacks Debian's part, lays the overlay over it, installs the agent, and forgets what must not be shared.
pub(super) fn finish(
    order: &BuildOrder,
    archive: &Path,
    shop: &Workshop<'_>,
) -> Result<Tree, BuildError> {
    let step = "installing the agent";
    shop.watch().begin(step, None);
    let root = shop.path("root");
    unpack(archive, &root, shop)?;
    let laid = shop.path("overlay.tar");
    pack_overlay(&order.image.join("overlay"), &laid, shop)?;
    unpack(&laid, &root, shop)?;
    let deb = root.join("agent.deb");
    fs::copy(&order.agent_deb, &deb).map_err(BuildError::file("copy", &order.agent_deb))?;
    shop.inside(step, &root, &["dpkg", "--install", "/agent.deb"])?;
    fs::remove_file(&deb).map_err(BuildError::file("remove", &deb))?;
    for pattern in FORGOTTEN {
        forget(&root, pattern)?;
    }
    let machine_id = root.join("etc/machine-id");
    fs::write(&machine_id, "").map_err(BuildError::file("write", &machine_id))?;
    let boot = shop.path("boot");
    let firmware = root.join("boot/firmware");
    fs::rename(&firmware, &boot).map_err(BuildError::file("move", &firmware))?;
    fs::create_dir(&firmware).map_err(BuildError::file("create", &firmware))?;
    Ok(Tree { root, boot })
}

pub(super) fn unpack(archive: &Path, into: &Path, shop: &Workshop<'_>) -> Result<(), BuildError> {
    fs::create_dir_all(into).map_err(BuildError::file("create", into))?;
    shop.run(
        "unpacking",
        "tar",
        &[
            "--extract",
            "--preserve-permissions",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "--file",
        ],
        &[archive, Path::new("--directory"), into],
    )
}

/// A folder of the checkout as root's files, whatever the checkout's owner and umask are.
fn pack_overlay(folder: &Path, archive: &Path, shop: &Workshop<'_>) -> Result<(), BuildError> {
    shop.run(
        "packing",
        "tar",
        &[
            "--create",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--mode=u=rwX,go=rX",
            "--sort=name",
            "--file",
        ],
        &[archive, Path::new("--directory"), folder, Path::new(".")],
    )
}

/// Removes the files that match `folder/name`, where the name may have one `*`.
fn forget(root: &Path, pattern: &str) -> Result<(), BuildError> {
    let (folder, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let folder = root.join(folder);
    let (start, end) = name.split_once('*').unwrap_or((name, ""));
    let Ok(entries) = fs::read_dir(&folder) else {
        return Ok(()); // nothing of the kind was installed
    };
    for entry in entries {
        let entry = entry.map_err(BuildError::file("read", &folder))?;
        let text = entry.file_name().to_string_lossy().into_owned();
        let fits = if name.contains('*') {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        } else {
            text == name
        };
        if fits && !entry.path().is_dir() {
            fs::remove_file(entry.path()).map_err(BuildError::file("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// The tree as one archive with sorted names and bounded times; `mke2fs` takes it.
pub(super) fn pack(
    tree: &Path,
    archive: &Path,
    epoch: u64,
    shop: &Workshop<'_>,
) -> Result<(), BuildError> {
    // Folders that only root may pass stay so; the top is the file system's root.
    fs::set_permissions(tree, PermissionsExt::from_mode(0o755))
        .map_err(BuildError::file("change", tree))?;
    let mtime = format!("--mtime=@{epoch}");
    shop.run(
        "packing",
        "tar",
        &[
            "--create",
            "--sort=name",
            "--numeric-owner",
            "--clamp-mtime",
            &mtime,
            "--xattrs",
            "--xattrs-include=*",
            "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
            "--file",
        ],
        &[archive, Path::new("--directory"), tree, Path::new(".")],
    )
}
