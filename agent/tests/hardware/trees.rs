//! Recorded trees of `/proc` and `/sys`, one text file each: `path = content` and `path -> target`.

use std::os::unix::fs::symlink;
use std::path::Path;

/// Lays a tree out in a new folder.
pub(crate) fn lay(text: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some((path, target)) = line.split_once(" -> ") {
            let path = make_room(root.path(), path);
            symlink(target, path).unwrap();
        } else {
            let (path, content) = line.split_once(" = ").expect("path = content");
            let path = make_room(root.path(), path);
            std::fs::write(path, content.replace("\\0", "\0") + "\n").unwrap();
        }
    }
    root
}

fn make_room(root: &Path, path: &str) -> std::path::PathBuf {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    path
}
