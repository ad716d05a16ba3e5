//! Files that are either whole or absent, whatever moment the machine stops at. Blocking; called at
//! start and when the authority renews a certificate.
//!
//! A person, who may be root, changes the authority beside a relay that runs as a user of its own: what is made for the
//! relay belongs to whom its folder belongs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown, lchown};
use std::path::Path;

/// Mode of files that hold a secret.
pub const SECRET: u32 = 0o600;
/// Mode of files that anybody may read.
pub const PUBLIC: u32 = 0o644;

/// Replaces `path` by `bytes`: written beside it, synced, renamed. It belongs to whom its folder belongs.
///
/// # Errors
/// When the folder cannot be written.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    // What a crash left may have another mode; `mode` below only counts for a file that is made.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    create_for_owner(beside, bytes, mode)?;
    fs::rename(beside, path)?;
    sync_parent(path)
}

/// Writes a file that must not exist yet.
///
/// # Errors
/// When it exists, or the folder cannot be written.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    fill(new(path, mode)?, bytes)
}

/// The same; it belongs to whom its folder belongs.
///
/// # Errors
/// When it exists, or the folder cannot be written.
pub fn create_for_owner(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let file = new(path, mode)?;
    give(path, |owner, group| fchown(&file, owner, group))?;
    fill(file, bytes)
}

fn new(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
}

fn fill(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a folder, and what is missing above it; it, too, belongs to whom the folder around it belongs.
///
/// # Errors
/// When it cannot be made.
pub fn create_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // Never what a link points at, which somebody else may have put there.
    give(path, |owner, group| lchown(path, owner, group))
}

/// Gives what was just made at `path` to whom its folder belongs, where its maker is somebody else who may do that.
fn give(
    path: &Path,
    change: impl FnOnce(Option<u32>, Option<u32>) -> io::Result<()>,
) -> io::Result<()> {
    let of_folder = fs::metadata(folder(path))?;
    if fs::symlink_metadata(path)?.uid() == of_folder.uid() {
        return Ok(());
    }
    match change(Some(of_folder.uid()), Some(of_folder.gid())) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

/// Makes a rename or creation in `path`'s folder durable.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_left_over_does_not_lend_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(folder.path().join("secret.new"), "half").unwrap();
        replace(&path, b"whole", SECRET).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(!folder.path().join("secret.new").exists());
    }
}
