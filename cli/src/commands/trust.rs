//! `lekiwi trust`: documents are written, signed and checked here, without a relay. What is signed is the file as it lies
//! there, byte by byte.

mod key;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use lekiwi_protocol::RobotId;
use lekiwi_protocol::limits::{MAX_DOCUMENT_BYTES, MAX_ROOTS};
use lekiwi_protocol::message::{Settings, check_settings};
use lekiwi_protocol::signed::minisign::{PublicKey, sign};
use lekiwi_protocol::signed::{
    Artefact, Artefacts, Configuration, Document, Keys, Proof, Receiving, Robots, Role, Root,
    Signed,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use webpki::ring::ED25519;

use super::config::{change, read as settings_of};
use crate::args::trust::{
    AddRoot, DraftArtefacts, DraftConfiguration, DraftRoot, Show, Sign, Signatures, Trust, Verify,
};
use crate::clock;
use crate::failure::Failure;
use crate::ui::Ui;

pub(super) fn run(trust: Trust, ui: &mut Ui) -> Result<(), Failure> {
    match trust {
        Trust::Root(arguments) => draft_root(&arguments),
        Trust::Configuration(arguments) => draft_configuration(&arguments),
        Trust::Artefacts(arguments) => draft_artefacts(&arguments),
        Trust::Sign(arguments) => sign_file(&arguments),
        Trust::AddRoot(arguments) => add_root(&arguments, ui),
        Trust::Show(arguments) => show(&arguments, ui),
        Trust::Verify(arguments) => verify(&arguments, ui),
    }
}

/// What goes with settings to a robot, after it was looked at as the robot will.
pub(super) fn proof(
    file: &Path,
    signatures: &Signatures,
    trust: &Path,
    robot: &RobotId,
) -> Result<(Settings, Proof), Failure> {
    let mut roots = read_trust(trust)?;
    let root = root_of(trust, &roots)?;
    let statement = read_signed(file, signatures)?;
    let configuration: Configuration = believe(file, &root, &statement)?;
    if !configuration.robots.include(robot) {
        let robots = &configuration.robots;
        return Err(unbelieved(
            file,
            format!("expected a configuration for {robot}, got one for {robots}"),
        ));
    }
    let later = roots.len().saturating_sub(MAX_ROOTS);
    roots.drain(..later);
    Ok((configuration.settings, Proof { roots, statement }))
}

fn draft_root(arguments: &DraftRoot) -> Result<(), Failure> {
    let before = match &arguments.after {
        Some(path) => Some(root_of(path, &read_trust(path)?)?),
        None => None,
    };
    let version = before.as_ref().map_or(1, |root| root.version + 1);
    let mut roles = before.map(|root| root.roles).unwrap_or_default();
    for (role, files, threshold) in [
        (Role::Root, &arguments.root, arguments.root_threshold),
        (
            Role::Artefacts,
            &arguments.artefacts,
            arguments.artefacts_threshold,
        ),
        (
            Role::Configuration,
            &arguments.configuration,
            arguments.configuration_threshold,
        ),
    ] {
        if files.is_empty() {
            continue;
        }
        let keys: Result<Vec<PublicKey>, Failure> =
            files.iter().map(|path| public_key(path)).collect();
        let keys = Keys {
            keys: keys?,
            threshold: threshold.unwrap_or(1),
        };
        roles.insert(role.to_string(), keys);
    }
    let root = Root {
        role: Role::Root,
        version,
        expires: clock::now().plus(arguments.expires),
        roles,
    };
    write_document(&arguments.output, &root)
}

fn draft_configuration(arguments: &DraftConfiguration) -> Result<(), Failure> {
    let settings = match &arguments.file {
        Some(path) => settings_of(path)?,
        None => {
            let mut settings = Settings::new();
            for (key, value) in &arguments.settings {
                change(&mut settings, key, value.clone());
            }
            settings
        }
    };
    check_settings(&settings).map_err(|error| unbelieved(&arguments.output, error.to_string()))?;
    let robots = arguments.robot.clone().map_or(Robots::All, Robots::One);
    let configuration = Configuration {
        role: Role::Configuration,
        version: arguments.version,
        expires: clock::now().plus(arguments.expires),
        robots,
        settings,
    };
    write_document(&arguments.output, &configuration)
}

fn draft_artefacts(arguments: &DraftArtefacts) -> Result<(), Failure> {
    let mut artefacts = BTreeMap::new();
    for path in &arguments.artefacts {
        let (mut length, mut hash) = (0, Sha256::new());
        pieces(path, |piece| {
            length += piece.len() as u64;
            hash.update(piece);
            Ok(())
        })?;
        let sha256 = hex::encode(hash.finalize());
        let artefact = Artefact { length, sha256 };
        if artefacts.insert(name_of(path), artefact).is_some() {
            return Err(unbelieved(
                path,
                "expected each name once, got it twice".to_owned(),
            ));
        }
    }
    let artefacts = Artefacts {
        role: Role::Artefacts,
        version: arguments.version,
        expires: clock::now().plus(arguments.expires),
        artefacts,
    };
    write_document(&arguments.output, &artefacts)
}

fn sign_file(arguments: &Sign) -> Result<(), Failure> {
    let text = read_text(&arguments.key, MAX_DOCUMENT_BYTES)?;
    let (id, pair) =
        key::parse(&text).map_err(|reason| unbelieved(&arguments.key, reason.to_owned()))?;
    let document = fs::read(&arguments.file).map_err(|source| unread(&arguments.file, source))?;
    let signature = sign(&document, id, &arguments.comment, |bytes| {
        key::sign(&pair, bytes)
    });
    let output = arguments.output.clone();
    let output = output.unwrap_or_else(|| beside(&arguments.file));
    fs::write(&output, signature).map_err(|source| unwritten(&output, source))
}

fn add_root(arguments: &AddRoot, ui: &mut Ui) -> Result<(), Failure> {
    let path = &arguments.trust;
    let mut roots = if path.exists() {
        read_trust(path)?
    } else {
        Vec::new()
    };
    roots.push(read_signed(&arguments.root, &arguments.signatures)?);
    let root = root_of(&arguments.root, &roots)?;
    let mut new = path.clone().into_os_string();
    new.push(".new");
    let new = PathBuf::from(new);
    let json = pretty(&roots)?;
    fs::write(&new, json)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|source| unwritten(path, source))?;
    ui.line(shown(&root))
}

fn show(arguments: &Show, ui: &mut Ui) -> Result<(), Failure> {
    let root = root_of(&arguments.trust, &read_trust(&arguments.trust)?)?;
    if arguments.output.json {
        super::json(ui, &root)
    } else {
        ui.line(shown(&root))
    }
}

fn verify(arguments: &Verify, ui: &mut Ui) -> Result<(), Failure> {
    let root = root_of(&arguments.trust, &read_trust(&arguments.trust)?)?;
    let file = &arguments.file;
    let signed = read_signed(file, &arguments.signatures)?;
    if arguments.artefacts.is_empty() && Configuration::parse(&signed.document).is_ok() {
        let read: Configuration = believe(file, &root, &signed)?;
        let (version, robots, expires) = (read.version, read.robots, read.expires);
        return ui.line(format!(
            "configuration {version} for {robots}, until {expires}"
        ));
    }
    let read: Artefacts = believe(file, &root, &signed)?;
    for path in &arguments.artefacts {
        let name = name_of(path);
        let artefact = read.artefacts.get(&name);
        let artefact = artefact
            .ok_or_else(|| unbelieved(path, format!("expected an artefact, got no {name:?}")))?;
        let mut receiving = Receiving::new(artefact.clone());
        pieces(path, |piece| {
            let taken = receiving.take(piece);
            taken.map_err(|error| unbelieved(path, error.to_string()))
        })?;
        receiving
            .finish()
            .map_err(|error| unbelieved(path, error.to_string()))?;
    }
    let (version, count, expires) = (read.version, read.artefacts.len(), read.expires);
    ui.line(format!(
        "artefacts {version}: {count} of them, {} looked at, until {expires}",
        arguments.artefacts.len()
    ))
}

/// What a robot with this root believes now, whatever it has seen before.
fn believe<D: Document>(path: &Path, root: &Root, signed: &Signed) -> Result<D, Failure> {
    let document: D = root
        .believe(signed, ED25519)
        .map_err(|error| unbelieved(path, error.to_string()))?;
    let now = clock::now();
    for (what, expires) in [("root", root.expires), ("document", document.expires())] {
        if expires <= now {
            return Err(unbelieved(
                path,
                format!("expected a {what} that has not ended, got one until {expires}"),
            ));
        }
    }
    Ok(document)
}

fn shown(root: &Root) -> String {
    let mut text = format!("root {}, until {}", root.version, root.expires);
    for (role, Keys { keys, threshold }) in &root.roles {
        // A text takes everything.
        let _ = write!(text, "\n{role}: {threshold} of");
        for key in keys {
            let _ = write!(text, " {}", key.id);
        }
    }
    text
}

fn public_key(path: &Path) -> Result<PublicKey, Failure> {
    let text = read_text(path, MAX_DOCUMENT_BYTES)?;
    PublicKey::from_file(&text).map_err(|error| unbelieved(path, error.to_string()))
}

fn read_signed(path: &Path, signatures: &Signatures) -> Result<Signed, Failure> {
    let default = [beside(path)];
    let files = match &signatures.files[..] {
        [] => &default[..],
        files => files,
    };
    let read = |path: &PathBuf| read_text(path, MAX_DOCUMENT_BYTES);
    Ok(Signed {
        document: read_text(path, MAX_DOCUMENT_BYTES)?,
        signatures: files.iter().map(read).collect::<Result<_, _>>()?,
    })
}

fn read_trust(path: &Path) -> Result<Vec<Signed>, Failure> {
    // Twice, for what JSON escapes.
    let text = read_text(path, 2 * MAX_ROOTS * MAX_DOCUMENT_BYTES)?;
    serde_json::from_str(&text).map_err(|error| {
        let reason = format!("expected a trust file of `lekiwi trust add-root`: {error}");
        unbelieved(path, reason)
    })
}

fn root_of(path: &Path, roots: &[Signed]) -> Result<Root, Failure> {
    Root::pinned(roots, ED25519).map_err(|error| unbelieved(path, error.to_string()))
}

fn write_document(path: &Path, document: &(impl Document + Serialize)) -> Result<(), Failure> {
    let text = pretty(document)?;
    let refused = |reason: String| unbelieved(path, reason);
    reparse(&text, document).map_err(refused)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| unwritten(path, source))
}

/// What cannot be is refused before anybody signs it.
fn reparse<D: Document>(text: &str, _: &D) -> Result<(), String> {
    D::parse(text).map(drop).map_err(|error| error.to_string())
}

fn pretty(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|source| Failure::Output(source.into()))?;
    Ok(text + "\n")
}

fn read_text(path: &Path, most: usize) -> Result<String, Failure> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(most as u64 + 1).read_to_string(&mut text))
        .map_err(|source| unread(path, source))?;
    if text.len() > most {
        return Err(unbelieved(path, format!("expected at most {most} bytes")));
    }
    Ok(text)
}

fn pieces(path: &Path, mut take: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut file = File::open(path).map_err(|source| unread(path, source))?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => take(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(unread(path, source)),
        }
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn beside(path: &Path) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(".minisig");
    name.into()
}

fn unbelieved(path: &Path, reason: String) -> Failure {
    Failure::Unbelieved {
        path: path.to_owned(),
        reason,
    }
}

fn unread(path: &Path, source: io::Error) -> Failure {
    let path = path.to_owned();
    Failure::File {
        path,
        did: "read",
        source,
    }
}

fn unwritten(path: &Path, source: io::Error) -> Failure {
    let path = path.to_owned();
    Failure::File {
        path,
        did: "written",
        source,
    }
}
