//! `lekiwi-provisioner seed`: a seed into a folder, such as a card's mounted boot partition.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use lekiwi_provisioner::apply;
use lekiwi_provisioner::plan::{self, Content, PlannedFile};
use serde_json::json;

use super::ordering::{Ordering, warn_of_no_agent};
use crate::failure::Failure;

/// What `seed` takes.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    ordering: Ordering,
    /// Where to write: the card's mounted boot partition
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Replace the files of the image or of an earlier seed
    #[arg(long)]
    force: bool,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Writes the seed, or says what would be written.
pub(crate) fn run(options: Options) -> Result<(), Failure> {
    let lacks_agent = options.ordering.lacks_agent();
    let files = plan::seed(&options.ordering.order()?);
    if !options.dry_run {
        apply::seed(&options.out, &files, options.force).map_err(|error| {
            let hint = error.hint();
            Failure::new(error).hint(hint)
        })?;
    }
    if lacks_agent {
        warn_of_no_agent();
    }
    let mut out = io::stdout().lock();
    if options.json {
        let files: Vec<_> = files
            .iter()
            .map(|file| {
                let mut entry =
                    json!({ "path": options.out.join(&file.name), "secret": file.secret });
                match &file.content {
                    Content::Text(text) => entry["bytes"] = json!(text.len()),
                    Content::Copy(path) => entry["copy_of"] = json!(path),
                    Content::Edit(edit) => entry["words"] = json!(edit.words()),
                }
                entry
            })
            .collect();
        writeln!(
            out,
            "{}",
            json!({ "written": !options.dry_run, "files": files })
        )?;
        return Ok(());
    }
    for file in &files {
        let place = options.out.join(&file.name);
        writeln!(out, "{} {}", verb(file, options.dry_run), place.display())?;
    }
    if io::stdout().is_terminal() && !options.dry_run {
        writeln!(
            out,
            "unmount the card, put it into the robot, and switch it on"
        )?;
    }
    Ok(())
}

fn verb(file: &PlannedFile, dry_run: bool) -> String {
    let (would, did) = match &file.content {
        Content::Text(_) => ("would write", "wrote"),
        Content::Copy(_) => ("would copy", "copied"),
        Content::Edit(_) => ("would edit", "edited"),
    };
    let note = if file.secret { " with secrets" } else { "" };
    format!("{}{note}:", if dry_run { would } else { did })
}
