//! The hardware profiles on this robot: those of the package, and before them those of one's own.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lekiwi_protocol::ProfileName;
use lekiwi_protocol::profile::{OWN_FOLDER, Profile, ProfileError};

use crate::driver::chain;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("expected a readable file at {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is wrong.
    #[error(transparent)]
    Wrong(#[from] ProfileError),
    /// It is somebody else's.
    #[error("{}: expected the name {name}.yml for the profile {name}", path.display())]
    Misnamed {
        /// The file.
        path: PathBuf,
        /// What is in it.
        name: String,
    },
}

/// Reads the profile `name`. The package's folder and one's own are below `root`.
///
/// # Errors
/// When there is none, or it is wrong.
pub fn load(packaged: &Path, root: &Path, name: &ProfileName) -> Result<Profile, LoadError> {
    read(&path(packaged, root, name.as_str()))
}

/// Whether there is a profile of this name.
#[must_use]
pub fn exists(packaged: &Path, root: &Path, name: &str) -> bool {
    path(packaged, root, name).is_file()
}

/// All profiles by name, and what is wrong with those that are left out.
#[must_use]
pub fn all(packaged: &Path, root: &Path) -> (Vec<Profile>, Vec<String>) {
    let (mut paths, mut complaints) = (BTreeMap::new(), Vec::new());
    for folder in folders(packaged, root).into_iter().rev() {
        match fs::read_dir(&folder) {
            Ok(entries) => {
                let files = entries.flatten().map(|entry| entry.path());
                let files = files.filter(|path| path.extension().is_some_and(|end| end == "yml"));
                paths.extend(files.filter_map(|path| Some((path.file_name()?.to_owned(), path))));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let folder = folder.display();
                complaints.push(format!("expected profiles in {folder}: {error}"));
            }
        }
    }
    let mut profiles = Vec::new();
    for path in paths.values() {
        match read(path) {
            Ok(profile) => profiles.push(profile),
            Err(LoadError::Wrong(error)) => complaints.push(match error.hint() {
                Some(hint) => format!("{} ({hint})", chain(&error)),
                None => chain(&error),
            }),
            Err(error) => complaints.push(chain(&error)),
        }
    }
    if profiles.is_empty() && complaints.is_empty() {
        let folder = packaged.display();
        complaints.push(format!("expected profiles in {folder}, found none"));
    }
    (profiles, complaints)
}

/// The first one counts.
fn folders(packaged: &Path, root: &Path) -> [PathBuf; 2] {
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    [below(Path::new(OWN_FOLDER)), below(packaged)]
}

fn path(packaged: &Path, root: &Path, name: &str) -> PathBuf {
    let [own, packaged] = folders(packaged, root).map(|folder| folder.join(format!("{name}.yml")));
    if own.is_file() { own } else { packaged }
}

fn read(path: &Path) -> Result<Profile, LoadError> {
    let text = fs::read_to_string(path).map_err(|source| LoadError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let profile = Profile::parse(&text, &path.display().to_string())?;
    let stem = path.file_stem().unwrap_or_default();
    if stem != profile.name.as_str() {
        return Err(LoadError::Misnamed {
            path: path.to_owned(),
            name: profile.name.to_string(),
        });
    }
    Ok(profile)
}
