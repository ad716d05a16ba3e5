//! What the command line does with a store: backup, restore, verify, move, let an administrator in. Prints what came of it,
//! for people or as JSON; a bar on a terminal while it takes time.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::runtime::Builder;

use crate::audit::{self, Action, Notary};
use crate::cli;
use crate::exit::Exit;
use crate::metrics::Metrics;
use crate::paths::{DataError, Lock};
use crate::people::admin;
use crate::store::backup::{self, BackupError, Contents, Progress};
use crate::store::{Location, PostgresOptions, Store};
use crate::{clock, ui};

/// `backup`: writes the store into a file.
#[must_use]
pub fn backup(location: &Location, options: &cli::Backup) -> Exit {
    let folder = options.of.data.folder();
    let outcome = with_bar(|progress| backup::backup(location, &options.file, progress));
    let name = options.file.display().to_string();
    if outcome.is_ok()
        && let Err(exit) = told(location, Action::StoreBackup, [("file", name)])
    {
        return exit;
    }
    report(
        outcome,
        &options.of,
        &options.file.display().to_string(),
        |found| {
            ui::note(&format!(
                "the authority's key is not in it: keep a copy of {} as well\n",
                folder.authority().display()
            ));
            format!(
                "{} has {location} up to position {}, {} rows",
                options.file.display(),
                found.position,
                rows(found)
            )
        },
    )
}

/// `restore`: puts a backup in the place of a store.
#[must_use]
pub fn restore(location: &Location, options: &cli::Restore) -> Exit {
    let _lock = match lock(&options.of) {
        Ok(lock) => lock,
        Err(exit) => return exit,
    };
    let outcome = with_bar(|progress| backup::restore(&options.file, location, progress));
    if outcome.is_ok() {
        let aside = Notary::set_aside(&options.of.data.folder().audit());
        if let Err(error) = aside {
            return failed(&error);
        }
        let name = options.file.display().to_string();
        if let Err(exit) = told(location, Action::StoreRestore, [("file", name)]) {
            return exit;
        }
    }
    report(outcome, &options.of, &location.to_string(), |found| {
        format!(
            "{location} has what {} held, up to position {}, {} rows",
            options.file.display(),
            found.position,
            rows(found)
        )
    })
}

/// `admin reset`: lets an administrator in who is locked out.
#[must_use]
pub fn reset_admin(location: &Location, options: &cli::AdminReset) -> Exit {
    let folder = options.of.data.folder();
    if matches!(location, Location::Sqlite(_)) && !folder.has_store() {
        ui::note(&format!(
            "error: expected a relay's data in {}, found none\n  (hint: name its folder with --data)\n",
            folder.path().display()
        ));
        return Exit::Failure;
    }
    // A relay that runs would go on with what it knows of people.
    let _lock = match lock(&options.of) {
        Ok(lock) => lock,
        Err(exit) => return exit,
    };
    let (store, _commits) = match Store::open_at(location, Arc::new(Metrics::default())) {
        Ok(opened) => opened,
        Err(error) => {
            ui::error(&error, error.hint());
            return Exit::Failure;
        }
    };
    let name = options.name.clone();
    let reset = Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| {
            runtime.block_on(async {
                let password = admin::reset(&store, name, clock::now_ms()).await?;
                let who = audit::operator();
                let entry = audit::of_system(&who, Action::AdminReset, options.name.as_str(), []);
                store.record(entry).await?;
                Ok::<_, admin::AdminError>(password)
            })
        });
    store.close();
    let password = match reset {
        Ok(Ok(password)) => password,
        Ok(Err(error)) => {
            ui::error(&error, None);
            return Exit::Failure;
        }
        Err(error) => {
            ui::error(&error, None);
            return Exit::Failure;
        }
    };
    let name = &options.name;
    tracing::warn!(person = %name, "administrator reset on the relay's machine");
    if options.of.json {
        let told = serde_json::json!({ "user": name, "password": password });
        ui::print(&format!("{told}\n"));
    } else {
        ui::print(&format!("{password}\n"));
        ui::note(&format!(
            "{name} is an administrator again, with this password and without a second factor; their sessions ended\n"
        ));
    }
    Exit::Success
}

/// `verify`: checks a backup or the store.
#[must_use]
pub fn verify(location: &Location, options: &cli::Verify) -> Exit {
    let (place, outcome) = match &options.file {
        Some(file) => (
            file.display().to_string(),
            with_bar(|progress| backup::verify_file(file, progress)),
        ),
        None => {
            let marks = match Notary::marks(&options.of.data.folder().audit()) {
                Ok(marks) => marks,
                Err(error) => return failed(&error),
            };
            (
                location.to_string(),
                with_bar(|progress| backup::verify_store(location, &marks, progress)),
            )
        }
    };
    report(outcome, &options.of, &place, |found| {
        format!(
            "{place} is sound, up to position {}, {} rows",
            found.position,
            rows(found)
        )
    })
}

/// `move`: copies the store into a database.
#[must_use]
pub fn move_store(location: &Location, options: &cli::Move) -> Exit {
    if let Location::Sqlite(path) = location
        && !path.exists()
    {
        ui::note(&format!(
            "error: expected a relay's store in {}, found none\n  (hint: name its folder with --data)\n",
            path.display()
        ));
        return Exit::Failure;
    }
    let target = match PostgresOptions::read(
        &options.to,
        options.password_file.as_deref(),
        options.ca.as_deref(),
    ) {
        Ok(target) => Location::Postgres(Arc::new(target)),
        Err(error) => {
            ui::error(&error, None);
            return Exit::Config;
        }
    };
    let _lock = match lock(&options.of) {
        Ok(lock) => lock,
        Err(exit) => return exit,
    };
    let outcome = with_bar(|progress| backup::move_store(location, &target, progress));
    if outcome.is_ok()
        && let Err(exit) = told(&target, Action::StoreMove, [("from", location.to_string())])
    {
        return exit;
    }
    report(outcome, &options.of, &target.to_string(), |found| {
        ui::note("now say `store: { postgres: … }` in relay.yml; the file stays as it is\n");
        format!(
            "{target} has what {location} has, up to position {}, {} rows",
            found.position,
            rows(found)
        )
    })
}

/// Puts on record what was done offline, to a store of this version.
fn told<const N: usize>(
    location: &Location,
    action: Action,
    detail: [(&'static str, String); N],
) -> Result<(), Exit> {
    let entry = audit::of_system(&audit::operator(), action, "store", detail);
    Store::keep_offline(location, &entry).map_err(|error| failed(&error))
}

fn failed(error: &dyn std::error::Error) -> Exit {
    ui::error(error, None);
    Exit::Failure
}

fn rows(found: &Contents) -> u64 {
    found.tables.iter().map(|table| table.rows).sum()
}

/// No relay runs on the data folder as long as this is held.
fn lock(of: &cli::OfStore) -> Result<Lock, Exit> {
    of.data.folder().lock().map_err(|error| {
        let (hint, exit) = match error {
            DataError::Locked { .. } => (Some("stop the relay first"), Exit::Unavailable),
            DataError::Io { .. } => (None, Exit::Failure),
        };
        ui::error(&error, hint);
        exit
    })
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    place: &'a str,
    #[serde(flatten)]
    contents: &'a Contents,
}

fn report(
    outcome: Result<Contents, BackupError>,
    of: &cli::OfStore,
    place: &str,
    in_words: impl FnOnce(&Contents) -> String,
) -> Exit {
    let contents = match outcome {
        Ok(contents) => contents,
        Err(error) => {
            ui::error(&error, error.hint());
            return Exit::Failure;
        }
    };
    let words = in_words(&contents);
    if of.json {
        let report = Report {
            place,
            contents: &contents,
        };
        // Strings and numbers always become JSON.
        let json = serde_json::to_string(&report).unwrap_or_default();
        ui::print(&format!("{json}\n"));
    } else {
        ui::print(&format!("{words}\n"));
    }
    Exit::Success
}

/// Shows a bar while it works, on a terminal only.
fn with_bar<T>(work: impl FnOnce(&mut Progress<'_>) -> T) -> T {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:32}] {percent}% {eta}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let done = work(&mut |what, at, total| {
        bar.set_message(what);
        bar.set_length(total);
        bar.set_position(at);
    });
    bar.finish_and_clear();
    done
}
