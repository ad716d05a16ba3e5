//! `cargo xtask tidy`: the architecture's invariants, as far as a machine can read them off the checkout.
//! ARCHITECTURE.md names these checks; [`invariants`] in turn checks that what it names exists.

mod arrows;
mod invariants;
mod providers;
mod sources;

use anyhow::{Result, bail};

use crate::command::{command, read};
use crate::ui;

/// One check: it adds a line to `problems` for each thing that is wrong.
struct Check {
    name: &'static str,
    run: fn(&mut Vec<String>) -> Result<()>,
}

const CHECKS: &[Check] = &[
    Check {
        name: "arrows",
        run: arrows::check,
    },
    Check {
        name: "pure",
        run: sources::pure,
    },
    Check {
        name: "providers",
        run: providers::check,
    },
    Check {
        name: "lints",
        run: arrows::lints,
    },
    Check {
        name: "files",
        run: sources::files,
    },
    Check {
        name: "words",
        run: sources::words,
    },
    Check {
        name: "decisions",
        run: invariants::decisions,
    },
    Check {
        name: "invariants",
        run: invariants::check,
    },
];

/// Runs all of them and shows everything that is wrong.
pub(crate) fn run() -> Result<()> {
    let mut wrong = 0;
    for check in CHECKS {
        let mut problems = Vec::new();
        (check.run)(&mut problems)?;
        wrong += problems.len();
        for problem in &problems {
            ui::result(format_args!("tidy {}: {problem}", check.name));
        }
        if problems.is_empty() {
            ui::say(format_args!("tidy {}: ok", check.name));
        }
    }
    if wrong > 0 {
        bail!("expected a tidy checkout, found {wrong} problems");
    }
    Ok(())
}

/// Files that are or would be committed.
fn files() -> Result<Vec<String>> {
    let listed = read(command("git").args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut files: Vec<String> = listed
        .split_terminator('\0')
        .map(str::to_owned)
        .filter(|file| crate::workspace::root().join(file).is_file()) // deleted, not yet committed
        .collect();
    files.sort();
    Ok(files)
}
