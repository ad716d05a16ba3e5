//! `lekiwi-provisioner line`: a line's records, whether it runs or not.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use lekiwi_provisioner::clock;
use lekiwi_provisioner::line::file::Line;
use lekiwi_provisioner::line::label::Label;
use lekiwi_provisioner::line::roster::Roster;
use lekiwi_provisioner::line::store::Store;
use lekiwi_provisioner::line::table;
use lekiwi_provisioner::line::unit::{Event, Unit};

use super::serve;
use crate::failure::Failure;

/// What `line` takes.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the units.
    List {
        #[command(flatten)]
        line: File,
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Print all units for a spreadsheet.
    Export {
        #[command(flatten)]
        line: File,
        /// As CSV.
        #[arg(long, required = true)]
        csv: bool,
    },
    /// Start a unit again: the running line does so at once, else the next one.
    Retry {
        #[command(flatten)]
        line: File,
        /// Serial number, Ethernet address or robot.
        unit: String,
    },
    /// Make a unit's label with a QR code.
    Label {
        #[command(flatten)]
        line: File,
        /// Serial number, Ethernet address or robot.
        unit: String,
        /// Where to write: a name that ends with .svg or .pdf.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Args)]
struct File {
    /// The file that describes the line.
    #[arg(long)]
    line: PathBuf,
}

/// What a line has on record.
struct Records {
    line: Line,
    store: Store,
    roster: Roster,
}

impl Records {
    fn open(file: &File) -> Result<Self, Failure> {
        let line = serve::read(&file.line)?;
        if !line.database.exists() {
            return Err(Failure::new(format!(
                "{} is not there: the line never ran",
                line.database.display()
            )));
        }
        let store = Store::open(&line.database).map_err(Failure::new)?;
        let stored = store.units().map_err(Failure::new)?;
        let roster = Roster::new(
            line.limits(),
            line.roster_defaults(),
            stored,
            &line.planned(),
            clock::now(),
        );
        Ok(Self {
            line,
            store,
            roster,
        })
    }

    fn units(&self) -> Vec<Unit> {
        self.roster.units().cloned().collect()
    }
}

/// Does what was asked.
pub(crate) fn run(options: Options) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match options.command {
        Command::List { line, json } => {
            let units = Records::open(&line)?.units();
            if json {
                let units: Vec<_> = units.iter().map(table::json).collect();
                writeln!(out, "{}", serde_json::Value::from(units))?;
                return Ok(());
            }
            for unit in &units {
                let robot = unit.robot_id.as_ref().map_or("-", |id| id.as_str());
                let reason = unit.state.reason().unwrap_or_default();
                let text = format!(
                    "{:<18} {robot:<24} {:<12} {:<11} {reason}",
                    unit.key.0,
                    unit.profile,
                    unit.state.name()
                );
                writeln!(out, "{}", text.trim_end())?;
            }
        }
        Command::Export { line, csv: _ } => {
            out.write_all(table::csv(&Records::open(&line)?.units()).as_bytes())?;
        }
        Command::Retry { line, unit } => {
            let Records {
                line,
                mut store,
                roster,
            } = Records::open(&line)?;
            let mut unit = roster.named(&unit).map_err(Failure::new)?.clone();
            let key = unit.key.clone();
            // Tried on a copy, so that a wish that makes no sense is refused here.
            unit.handle(clock::now(), &line.limits(), Event::Retry)
                .map_err(Failure::new)?;
            store.wish(&key).map_err(Failure::new)?;
            writeln!(out, "{key} starts again")?;
        }
        Command::Label {
            line,
            unit,
            out: path,
        } => {
            let records = Records::open(&line)?;
            let unit = records.roster.named(&unit).map_err(Failure::new)?;
            let label = Label::new(unit, &records.line.relay.https).map_err(Failure::new)?;
            let bytes = match path.extension().and_then(|end| end.to_str()) {
                Some("svg") => label.svg().into_bytes(),
                Some("pdf") => label.pdf(),
                _ => return Err(wrong_end(&path)),
            };
            std::fs::write(&path, bytes)
                .map_err(|source| Failure::file("written", &path, source))?;
            writeln!(out, "wrote {}", path.display())?;
        }
    }
    Ok(())
}

fn wrong_end(path: &Path) -> Failure {
    Failure::new(format!(
        "expected a name that ends with .svg or .pdf, got {}",
        path.display()
    ))
}
