//! Container images as OCI archives, written without a container engine: one layer with the program, the
//! shared libraries it needs (none for static programs), a user and its folder, nothing else.
//! `skopeo copy oci-archive:FILE docker-daemon:NAME` or `podman load` take them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::program::{Program, Target};
use super::{VERSION, libraries, sha256, timestamp};
use crate::command::{command, read};

/// The unprivileged user of our containers.
const USER: u64 = 65532;

/// Writes the archive into `folder` and answers its path.
pub(super) fn write(
    program: &Program,
    target: Target,
    binary: &Path,
    folder: &Path,
) -> Result<PathBuf> {
    let (architecture, variant) = target.oci();
    let time = timestamp()?;
    let layer = layer(program, target, binary, time)?;
    let mut gzip = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::best());
    gzip.write_all(&layer)?;
    let layer_blob = Blob::new(
        "application/vnd.oci.image.layer.v1.tar+gzip",
        gzip.finish()?,
    );

    let mut entrypoint = vec![program.path()];
    entrypoint.extend(program.arguments.iter().map(|word| (*word).to_owned()));
    let ports: serde_json::Map<String, Value> = program
        .ports
        .iter()
        .map(|port| (format!("{port}/tcp"), json!({})))
        .collect();
    let volumes: serde_json::Map<String, Value> = program
        .volume
        .iter()
        .map(|folder| ((*folder).to_owned(), json!({})))
        .collect();
    let mut config = json!({
        "created": rfc3339(time),
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "Entrypoint": entrypoint[..1],
            "Cmd": entrypoint[1..],
            "ExposedPorts": ports,
            "Volumes": volumes,
            "Labels": {
                "org.opencontainers.image.title": program.package,
                "org.opencontainers.image.version": VERSION,
                "org.opencontainers.image.licenses": "Apache-2.0",
                "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
        "history": [{ "created": rfc3339(time), "created_by": "cargo xtask dist" }],
    });
    if let Some(variant) = variant {
        config["variant"] = json!(variant);
    }
    let config_blob = Blob::json("application/vnd.oci.image.config.v1+json", &config)?;
    let manifest_blob = Blob::json(
        "application/vnd.oci.image.manifest.v1+json",
        &json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config_blob.descriptor(),
            "layers": [layer_blob.descriptor()],
        }),
    )?;
    let mut described = manifest_blob.descriptor();
    described["annotations"] = json!({ "org.opencontainers.image.ref.name": VERSION });
    described["platform"] = json!({ "os": "linux", "architecture": architecture });
    if let Some(variant) = variant {
        described["platform"]["variant"] = json!(variant);
    }
    let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [described] }))?;

    let path = folder.join(format!(
        "{}-{VERSION}-{architecture}.oci.tar",
        program.package
    ));
    let mut archive = Files::new(time);
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.file("index.json", 0o644, &index)?;
    for blob in [&layer_blob, &config_blob, &manifest_blob] {
        archive.file(&format!("blobs/sha256/{}", blob.digest), 0o644, &blob.bytes)?;
    }
    std::fs::write(&path, archive.finish()?)
        .with_context(|| format!("could not write {}", path.display()))?;
    Ok(path)
}

/// Bytes that are named by their digest.
struct Blob {
    media_type: &'static str,
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self {
            media_type,
            digest: sha256(&bytes),
            bytes,
        }
    }

    fn json(media_type: &'static str, value: &Value) -> Result<Self> {
        Ok(Self::new(media_type, serde_json::to_vec(value)?))
    }

    fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": format!("sha256:{}", self.digest),
            "size": self.bytes.len(),
        })
    }
}

/// The image's file system.
fn layer(program: &Program, target: Target, binary: &Path, time: u64) -> Result<Vec<u8>> {
    let mut files = Files::new(time);
    let libraries = libraries::of(binary, target)?;
    for (name, source) in &libraries.files {
        // The loader lies where the program says, the rest where that loader looks.
        let loader = libraries
            .loader
            .as_deref()
            .filter(|path| path.ends_with(name));
        let place = loader.map_or_else(
            || format!("lib/{}-linux-gnu/{name}", target.architecture()),
            |path| path.trim_start_matches('/').to_owned(),
        );
        files.file(&place, 0o755, &std::fs::read(source)?)?;
    }
    if let Some(loader) = &libraries.loader
        && !libraries.files.keys().any(|name| loader.ends_with(name))
    {
        let name = loader.rsplit('/').next().unwrap_or(loader);
        let source = libraries::find(name, target)?;
        files.file(
            loader.trim_start_matches('/'),
            0o755,
            &std::fs::read(source)?,
        )?;
    }
    files.file(
        program.path().trim_start_matches('/'),
        0o755,
        &std::fs::read(binary)?,
    )?;
    let passwd = format!("root:x:0:0:root:/:/none\nlekiwi:x:{USER}:{USER}:lekiwi:/:/none\n");
    files.file("etc/passwd", 0o644, passwd.as_bytes())?;
    let group = format!("root:x:0:\nlekiwi:x:{USER}:\n");
    files.file("etc/group", 0o644, group.as_bytes())?;
    files.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n")?;
    if let Some(volume) = program.volume {
        files.folder(volume.trim_start_matches('/'), 0o700, USER)?;
    }
    files.folder("tmp", 0o1777, 0)?;
    files.finish()
}

/// A tar archive whose bytes depend on nothing but what is put in.
struct Files {
    tar: Builder<Vec<u8>>,
    folders: BTreeSet<String>,
    time: u64,
}

impl Files {
    fn new(time: u64) -> Self {
        Self {
            tar: Builder::new(Vec::new()),
            folders: BTreeSet::new(),
            time,
        }
    }

    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.entry(EntryType::Regular, path, mode, 0, bytes)
    }

    fn folder(&mut self, path: &str, mode: u32, owner: u64) -> Result<()> {
        self.parents(path)?;
        self.folders.insert(path.to_owned());
        self.entry(EntryType::Directory, path, mode, owner, &[])
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        for (end, _) in path.match_indices('/') {
            let parent = &path[..end];
            if self.folders.insert(parent.to_owned()) {
                self.entry(EntryType::Directory, parent, 0o755, 0, &[])?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        kind: EntryType,
        path: &str,
        mode: u32,
        owner: u64,
        bytes: &[u8],
    ) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(self.time);
        Ok(self.tar.append_data(&mut header, path, bytes)?)
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }
}

/// Seconds since the epoch as OCI writes times.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date in the proleptic Gregorian calendar, counted in eras of 400 years from 0000-03-01.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Reads an image back with a tool that others wrote.
pub(super) fn check(target: Target, image: &Path) -> Result<()> {
    let inspected = read(
        command("skopeo")
            .args(["inspect", "--override-os", "linux"])
            .args(["--override-arch", target.oci().0])
            .arg(format!("oci-archive:{}", image.display())),
    )?;
    let inspected: Value = serde_json::from_str(&inspected)?;
    ensure!(
        inspected["Architecture"] == target.oci().0
            && inspected["Os"] == "linux"
            && inspected["Labels"]["org.opencontainers.image.version"] == VERSION
            && inspected["Layers"]
                .as_array()
                .is_some_and(|layers| layers.len() == 1),
        "expected one layer of version {VERSION} for {}, got {inspected}",
        target.oci().0
    );
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::program::AGENT;
    use super::*;

    #[test]
    fn an_image_is_read_back_by_another_tool_and_is_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let target = if cfg!(target_arch = "aarch64") {
            Target::Aarch64Gnu
        } else {
            Target::X86_64Gnu
        };
        let binary = std::path::PathBuf::from("/bin/true");
        let first = write(&AGENT, target, &binary, folder.path()).unwrap();
        check(target, &first).unwrap();
        let bytes = std::fs::read(&first).unwrap();
        let second = write(&AGENT, target, &binary, folder.path()).unwrap();
        assert_eq!(first, second);
        assert!(
            bytes == std::fs::read(&second).unwrap(),
            "the same input gave other bytes"
        );
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_735_689_599), "2024-12-31T23:59:59Z");
    }
}
