//! `lekiwi-provisioner lint`: what is wrong with a seed.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use lekiwi_provisioner::clock;
use lekiwi_provisioner::lint::{self, FILES, Seed, Severity};
use serde_json::json;

use crate::failure::Failure;

/// What `lint` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// The folder of a seed, such as a card's mounted boot partition
    path: PathBuf,
    /// The partition's label, to be checked too
    #[arg(long)]
    label: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints the findings, and fails when one of them is an error.
pub(crate) fn run(options: Options) -> Result<(), Failure> {
    let mut seed = read(&options.path)?;
    seed.label = options.label;
    let findings = lint::lint(&seed, clock::now());
    let errors = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    let warnings = findings.len() - errors;
    let mut out = io::stdout().lock();
    if options.json {
        let object = json!({ "errors": errors, "warnings": warnings, "findings": findings });
        writeln!(out, "{object}")?;
    } else {
        for finding in &findings {
            writeln!(out, "{finding}")?;
        }
    }
    if errors == 0 {
        if findings.is_empty() && !options.json {
            writeln!(out, "nothing found")?;
        }
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} has {errors} errors and {warnings} warnings",
        options.path.display()
    )))
}

fn read(folder: &Path) -> Result<Seed, Failure> {
    if !folder.is_dir() {
        return Err(Failure::new(format!(
            "expected a folder such as a card's mounted boot partition, got {}",
            folder.display()
        )));
    }
    let mut seed = Seed::default();
    for name in FILES {
        let path = folder.join(name);
        match fs::read(&path) {
            Ok(bytes) => drop(seed.files.insert(name.to_owned(), bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::file("read", &path, error)),
        }
    }
    Ok(seed)
}
