//! `lekiwi audit …`: who did what, and whether that is all of it. Chains are checked here, whoever kept them.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use lekiwi_protocol::api::{AuditCheckpoint, AuditEntry};
use lekiwi_protocol::audit::{Chain, Mark, Whole};
use lekiwi_protocol::signed::minisign::PublicKey;
use webpki::ring::ED25519;

use crate::args::audit::{Audit, AuditCommand};
use crate::client::Relay;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::ui::{Ui, plain};

pub(super) async fn run(
    environment: &Environment,
    arguments: Audit,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let relay = || Relay::of(environment);
    match arguments.command {
        None => {
            let page = relay()?.audit(&arguments.which).await?;
            if arguments.output.json {
                return super::json(ui, &page);
            }
            page.entries
                .iter()
                .try_for_each(|entry| ui.line(shown(entry)))
        }
        Some(AuditCommand::Export { file }) => export(&relay()?, &file, ui).await,
        Some(AuditCommand::Verify { file, key, since }) => {
            let key = key.as_ref();
            let mut marks = Vec::new();
            if let Some(since) = since {
                marks.push(mark(&since, &read(&since)?.1, key)?);
            }
            let (whole, place) = match &file {
                Some(file) => {
                    let (entries, checkpoint) = read(file)?;
                    marks.push(mark(file, &checkpoint, key)?);
                    let whole = check(entries.iter(), marks);
                    (whole, file.display().to_string())
                }
                None => {
                    let relay = relay()?;
                    let signed = relay.audit_checkpoint().await?;
                    let signed = signed.read(key, ED25519);
                    marks.push(signed.map_err(|error| Failure::Audit(error.to_string()))?);
                    let entries = all(&relay).await?;
                    (check(entries.iter(), marks), relay.url().to_string())
                }
            };
            let whole = whole?;
            ui.line(format!(
                "{place}: entries {} to {} are whole",
                whole.first, whole.last
            ))
        }
    }
}

/// One entry as a line.
fn shown(entry: &AuditEntry) -> String {
    let AuditEntry {
        number,
        at,
        who,
        action,
        on,
        outcome,
        ..
    } = entry;
    let mut text = format!("{number} {at} {who} {action} {on} {outcome}");
    for (name, value) in &entry.detail {
        text.push_str(&format!(" {name}={value}"));
    }
    plain(&text)
}

/// Every entry that the relay has.
async fn all(relay: &Relay) -> Result<Vec<AuditEntry>, Failure> {
    let (mut entries, mut after) = (Vec::new(), Some(0));
    while let Some(position) = after {
        let page = relay.audit_after(position).await?;
        entries.extend(page.entries);
        after = page.next_after;
    }
    Ok(entries)
}

/// The chain up to a checkpoint that is signed first: what happens meanwhile is for the next export.
async fn export(relay: &Relay, path: &Path, ui: &mut Ui) -> Result<(), Failure> {
    let checkpoint = relay.audit_checkpoint().await?;
    let signed = checkpoint.read(None, ED25519);
    let mark = signed.map_err(|error| Failure::Audit(error.to_string()))?;
    let unwritten = |source| Failure::File {
        path: path.to_owned(),
        did: "written",
        source,
    };
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = io::BufWriter::new(file.map_err(unwritten)?);
    let (mut chain, mut after) = (Chain::expecting(vec![mark.clone()]), Some(0));
    while let Some(position) = after {
        let page = relay.audit_after(position).await?;
        after = page.next_after;
        for entry in page.entries {
            if entry.number > mark.number {
                after = None;
                break;
            }
            chain.take(&entry).map_err(broken)?;
            line(&mut file, &entry).map_err(unwritten)?;
        }
    }
    line(&mut file, &checkpoint).map_err(unwritten)?;
    let file = file
        .into_inner()
        .map_err(|error| unwritten(error.into_error()))?;
    file.sync_all().map_err(unwritten)?;
    let whole = chain.finish().map_err(broken)?;
    ui.line(format!(
        "{}: entries {} to {}, signed by {}",
        path.display(),
        whole.first,
        whole.last,
        checkpoint.key
    ))
}

fn line(file: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *file, value)?;
    file.write_all(b"\n")
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::Audit(error.to_string())
}

fn check<'a>(
    mut entries: impl Iterator<Item = &'a AuditEntry>,
    marks: Vec<Mark>,
) -> Result<Whole, Failure> {
    let mut chain = Chain::expecting(marks);
    entries
        .try_for_each(|entry| chain.take(entry))
        .map_err(broken)?;
    chain.finish().map_err(broken)
}

fn mark(
    path: &Path,
    checkpoint: &AuditCheckpoint,
    key: Option<&PublicKey>,
) -> Result<Mark, Failure> {
    checkpoint
        .read(key, ED25519)
        .map_err(|error| unbelieved(path, error.to_string()))
}

/// An export: entries, and a checkpoint in the last line.
fn read(path: &Path) -> Result<(Vec<AuditEntry>, AuditCheckpoint), Failure> {
    let unread = |source| Failure::File {
        path: path.to_owned(),
        did: "read",
        source,
    };
    let expected = |number: usize, what: &str| {
        unbelieved(path, format!("expected {what} in line {}", number + 1))
    };
    let file = BufReader::new(File::open(path).map_err(unread)?);
    let (mut entries, mut last) = (Vec::new(), None);
    for (number, text) in file.lines().enumerate() {
        let text = text.map_err(unread)?;
        if let Some((number, text)) = last.replace((number, text)) {
            let entry = serde_json::from_str(&text);
            entries.push(entry.map_err(|_| expected(number, "an entry of an audit"))?);
        }
    }
    let (number, text) = last.unwrap_or_default();
    let checkpoint = serde_json::from_str(&text);
    let checkpoint = checkpoint.map_err(|_| expected(number, "a checkpoint"))?;
    Ok((entries, checkpoint))
}

fn unbelieved(path: &Path, reason: String) -> Failure {
    Failure::Unbelieved {
        path: path.to_owned(),
        reason,
    }
}
