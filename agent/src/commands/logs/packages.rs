//! The list of installed packages as a file: a line each, so that its SHA-256 is the digest that the state has.

use std::io::BufWriter;
use std::path::Path;

use lekiwi_protocol::limits::MAX_PACKAGES_BYTES;
use lekiwi_protocol::message::Arguments;

use super::Collected;
use super::collect::create;
use crate::telemetry::packages;

/// What the digest begins with.
const SHA256: &str = "sha256:";

/// Writes the packages of the system below `root` into `to`.
pub(super) async fn collect(root: &Path, to: &Path) -> Result<Collected, String> {
    let cannot_write = |error| format!("cannot write {}: {error}", to.display());
    let (file, read_back) = create(to).map_err(cannot_write)?;
    let installed = packages::write(root, &mut BufWriter::new(file))
        .await
        .map_err(|error| format!("cannot list the installed packages: {error}"))?;
    let bytes = read_back.metadata().map_err(cannot_write)?.len();
    match bytes {
        0 => Err("expected installed packages, got none".to_owned()),
        1..=MAX_PACKAGES_BYTES => Ok(Collected {
            bytes,
            lines: installed.count.into(),
            sha256: installed.digest.trim_start_matches(SHA256).to_owned(),
            is_cut: false,
        }),
        _ => Err(format!(
            "expected a list of at most {MAX_PACKAGES_BYTES} bytes, got {bytes}"
        )),
    }
}

pub(super) fn result(collected: &Collected) -> Arguments {
    let digest = format!("{SHA256}{}", collected.sha256);
    Arguments::from([
        ("count".to_owned(), collected.lines.into()),
        ("digest".to_owned(), digest.into()),
    ])
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;

    use sha2::{Digest, Sha256};

    use super::*;

    async fn listed(packages: usize) -> (tempfile::TempDir, Result<Collected, String>) {
        let folder = tempfile::tempdir().unwrap();
        let status = folder.path().join("var/lib/dpkg");
        fs::create_dir_all(&status).unwrap();
        let one = |n| {
            format!(
                "Package: lib{n:0>60}\nStatus: install ok installed\nArchitecture: arm64\nVersion: 1.{n}\n\n"
            )
        };
        let text: String = (0..packages).map(one).collect();
        fs::write(status.join("status"), text).unwrap();
        let collected = collect(folder.path(), &folder.path().join("logs/list")).await;
        (folder, collected)
    }

    #[tokio::test]
    async fn the_file_is_what_the_digest_says() {
        let (folder, collected) = listed(1000).await;
        let collected = collected.unwrap();
        let text = fs::read(folder.path().join("logs/list")).unwrap();
        assert_eq!(collected.bytes, text.len() as u64);
        assert_eq!(collected.lines, 1000);
        assert_eq!(collected.sha256, hex::encode(Sha256::digest(&text)));
        let result = result(&collected);
        assert_eq!(result["count"], 1000);
        assert_eq!(result["digest"], format!("sha256:{}", collected.sha256));
    }

    #[tokio::test]
    async fn nothing_and_too_much_are_refused() {
        let (_, none) = listed(0).await;
        assert_eq!(
            none,
            Err("expected installed packages, got none".to_owned())
        );
        let (_, many) = listed(14_000).await;
        assert_eq!(
            many,
            Err("expected a list of at most 1048576 bytes, got 1080890".to_owned())
        );
        let folder = tempfile::tempdir().unwrap();
        let without_dpkg = collect(folder.path(), &folder.path().join("list")).await;
        assert_eq!(
            without_dpkg,
            Err(
                "cannot list the installed packages: No such file or directory (os error 2)"
                    .to_owned()
            )
        );
    }
}
