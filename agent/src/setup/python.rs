//! The profile's Python environment: made by `venv`, filled by pip from the index or from a wheelhouse on
//! the card, completed by folders of repositories.
//!
//! pip does not sync what it writes, so that a power cut can leave empty files that count as installed.
//! Hence the mark beside the environment: while it is there the environment is not finished, and is made
//! anew from nothing; pip's cache spares the downloads.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use lekiwi_protocol::profile::{Overlay, Python};

use super::steps::{CARD, StepError, Workshop, file, with_ending};
use crate::program::ProgramError;
use crate::storage::write_atomically;

/// Does the whole step.
pub(super) async fn make(workshop: &mut Workshop, python: &Python) -> Result<(), StepError> {
    let venv = workshop.at(&python.venv);
    let mark = mark_of(&venv);
    let interpreter = venv.join("bin/python");
    let anew = mark.exists() || !interpreter.exists();
    let folder = venv.parent().unwrap_or(&venv);
    fs::create_dir_all(folder).map_err(file("make", folder))?;
    write_atomically(&mark, b"unfinished\n", 0o644).map_err(file("write", &mark))?;
    if anew {
        let found = find(workshop, &python.version).await?;
        let mut make = Command::new(found);
        make.args(["-m", "venv", "--clear"]).arg(&venv);
        workshop.slow(make).await?;
    }
    if !python.requirements.is_empty() {
        install(workshop, &interpreter, &python.requirements).await?;
    }
    for overlay in &python.overlays {
        lay_over(workshop, &venv, overlay).await?;
    }
    // All of it is on the card before it counts.
    nix::unistd::sync();
    fs::remove_file(&mark).map_err(file("remove", &mark))?;
    let cache = cache(workshop);
    if cache.exists() {
        fs::remove_dir_all(&cache).map_err(file("remove", &cache))?;
    }
    Ok(())
}

fn mark_of(venv: &Path) -> PathBuf {
    let mut name = venv.file_name().unwrap_or_default().to_owned();
    name.push(".unfinished");
    venv.with_file_name(name)
}

fn cache(workshop: &Workshop) -> PathBuf {
    workshop.scratch.join("pip")
}

/// The first Python that is new enough and can make environments.
async fn find(workshop: &mut Workshop, version: &str) -> Result<String, StepError> {
    let minor = version.split('.').nth(1).unwrap_or("0");
    let test = format!("import sys, venv, ensurepip; sys.exit(sys.version_info < (3, {minor}))");
    for name in ["python3".to_owned(), format!("python{version}")] {
        match workshop.quick(&name, &["-c", &test]).await {
            Ok(()) => return Ok(name),
            Err(StepError::Program(ProgramError::Stopped)) => {
                return Err(ProgramError::Stopped.into());
            }
            Err(error) => log::debug!("{name} will not do: {error}"),
        }
    }
    Err(StepError::Python {
        version: version.to_owned(),
    })
}

async fn install(
    workshop: &mut Workshop,
    interpreter: &Path,
    requirements: &[String],
) -> Result<(), StepError> {
    let scratch = workshop.scratch.clone();
    let list = scratch.join("requirements.txt");
    let temporary = scratch.join("tmp");
    // Of an attempt that was cut off.
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(file("remove", &temporary))?;
    }
    fs::create_dir_all(&temporary).map_err(file("make", &temporary))?;
    let text = requirements.join("\n") + "\n";
    fs::write(&list, text).map_err(file("write", &list))?;
    let mut pip = Command::new(interpreter);
    pip.args(["-m", "pip", "install", "--no-input", "--progress-bar=off"])
        .args(["--disable-pip-version-check", "--root-user-action=ignore"])
        .arg("--requirement")
        .arg(&list)
        .env("PIP_CACHE_DIR", cache(workshop))
        .env("TMPDIR", &temporary);
    let wheels = workshop.at(&format!("{CARD}/wheels"));
    if !with_ending(&wheels, &[".whl", ".tar.gz", ".zip"]).is_empty() {
        pip.args(["--no-index", "--find-links"]).arg(&wheels);
    }
    let installed = workshop.slow(pip).await;
    fs::remove_dir_all(&temporary).map_err(file("remove", &temporary))?;
    if installed.is_err() && is_nearly_full(&scratch) {
        log::warn!("the disk is nearly full: what pip has fetched is given up");
        let cache = cache(workshop);
        fs::remove_dir_all(&cache).map_err(file("remove", &cache))?;
    }
    installed
}

/// Whether less is free than an unpacked package may need.
fn is_nearly_full(folder: &Path) -> bool {
    const LEAST: u64 = 512 << 20;
    nix::sys::statvfs::statvfs(folder)
        .is_ok_and(|fs| fs.blocks_available().saturating_mul(fs.fragment_size()) < LEAST)
}

/// Copies a repository's folder into `site-packages`.
async fn lay_over(
    workshop: &mut Workshop,
    venv: &Path,
    overlay: &Overlay,
) -> Result<(), StepError> {
    let card = workshop.at(&format!("{CARD}/overlays/{}", overlay.commit));
    let clone = workshop.scratch.join("overlay");
    let (checkout, source_of) = if card.is_dir() {
        (card.clone(), card.display().to_string())
    } else {
        fetch(workshop, overlay, &clone).await?;
        (clone.clone(), overlay.repository.clone())
    };
    let from = checkout.join(&overlay.folder);
    if !from.is_dir() {
        return Err(StepError::Overlay {
            folder: overlay.folder.clone(),
            source_of,
            commit: overlay.commit.clone(),
        });
    }
    let to = site_packages(venv)?.join(&overlay.into);
    if to.exists() {
        fs::remove_dir_all(&to).map_err(file("remove", &to))?;
    }
    copy(&from, &to).map_err(file("copy into", &to))?;
    if clone.exists() {
        fs::remove_dir_all(&clone).map_err(file("remove", &clone))?;
    }
    Ok(())
}

/// One commit of a repository, without its history. Git checks that it is that commit.
async fn fetch(workshop: &mut Workshop, overlay: &Overlay, clone: &Path) -> Result<(), StepError> {
    if clone.exists() {
        fs::remove_dir_all(clone).map_err(file("remove", clone))?;
    }
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(clone).args(arguments);
        git.env("GIT_TERMINAL_PROMPT", "0");
        git
    };
    fs::create_dir_all(clone).map_err(file("make", clone))?;
    workshop.slow(git(&["init", "--quiet"])).await?;
    let Overlay {
        repository, commit, ..
    } = overlay;
    let fetch = ["fetch", "--quiet", "--depth=1", repository, commit];
    workshop.slow(git(&fetch)).await?;
    let checkout = ["checkout", "--quiet", "--force", "FETCH_HEAD"];
    workshop.slow(git(&checkout)).await
}

fn site_packages(venv: &Path) -> Result<PathBuf, StepError> {
    let lib = venv.join("lib");
    let entries = fs::read_dir(&lib).map_err(file("read", &lib))?;
    let python = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| name.starts_with("python3"))
    };
    let mut folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let found = folders.find(python).ok_or(io::ErrorKind::NotFound.into());
    Ok(found
        .map_err(file("find python3 in", &lib))?
        .join("site-packages"))
}

/// Files and folders; links and the like are no part of a Python package.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
