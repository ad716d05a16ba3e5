//! From any earlier version of the tables to this one, once, however many relays start at the same time.

use std::sync::Arc;

use super::super::StoreError;
use super::super::database::{Database, DatabaseError, Result, values};
use super::{Options, Postgres};

/// One step per version. Never edit a step that was released: add one.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/postgres/0001_first.sql"),
    include_str!("../migrations/postgres/0002_pictures.sql"),
    include_str!("../migrations/postgres/0003_base.sql"),
    include_str!("../migrations/postgres/0004_people.sql"),
];
const PARTITIONS: &str = include_str!("../migrations/postgres/history_partitions.sql");
const TIMESCALE: &str = include_str!("../migrations/postgres/history_timescale.sql");
/// The advisory lock of those who migrate ("lekiwi m").
const LOCK: i64 = 0x6c65_6b69_7769_206d;

/// Brings the database to this version, and says how history is kept.
pub(super) fn run(
    database: &mut Postgres,
    options: &Arc<Options>,
) -> std::result::Result<(), StoreError> {
    let fail = |source| StoreError::open(options, source);
    database.batch("BEGIN").map_err(fail)?;
    database.is_in_transaction = true;
    let migrated = migrate(database);
    match migrated {
        Ok(Outcome::Done) => database.commit().map_err(fail)?,
        Ok(Outcome::Newer(found)) => {
            database.rollback();
            return Err(StoreError::Newer {
                place: options.to_string(),
                found,
                known: MIGRATIONS.len(),
            });
        }
        Err(error) => {
            database.rollback();
            return Err(fail(error));
        }
    }
    let history = if has_partitions(database).map_err(fail)? {
        "a partition per month"
    } else {
        "a hypertable of TimescaleDB"
    };
    tracing::info!(store = %options, history, "the store is a database of PostgreSQL");
    Ok(())
}

enum Outcome {
    Done,
    Newer(usize),
}

fn migrate(database: &mut dyn Database) -> Result<Outcome> {
    // As long as another relay migrates, this one waits; without an end, for tables may be large.
    database.batch(&format!(
        "SET LOCAL lock_timeout = 0; SELECT pg_advisory_xact_lock({LOCK});
         CREATE TABLE IF NOT EXISTS lekiwi_schema (version bigint NOT NULL)"
    ))?;
    let found = database.value::<usize>("SELECT version FROM lekiwi_schema", &[])?;
    let version = found.unwrap_or_default();
    if version > MIGRATIONS.len() {
        return Ok(Outcome::Newer(version));
    }
    for (index, step) in MIGRATIONS.iter().enumerate().skip(version) {
        database.batch(step)?;
        if index == 0 {
            make_history(database)?;
        }
    }
    let known = MIGRATIONS.len();
    if found.is_none() {
        database.execute(
            "INSERT INTO lekiwi_schema (version) VALUES (?1)",
            values![known],
        )?;
    } else if version < known {
        database.execute("UPDATE lekiwi_schema SET version = ?1", values![known])?;
    }
    Ok(Outcome::Done)
}

/// With TimescaleDB where the server has loaded it and lets this user have it, with partitions otherwise.
fn make_history(database: &mut dyn Database) -> Result<()> {
    // One that was installed and not loaded would end the connection; the setting is there once it is loaded.
    let is_there = database.exists(
        "SELECT 1 FROM pg_available_extensions
         WHERE name = 'timescaledb' AND current_setting('timescaledb.disable_load', true) IS NOT NULL",
        &[],
    )?;
    if is_there {
        database.batch("SAVEPOINT timescale")?;
        let made = database
            .batch("CREATE EXTENSION IF NOT EXISTS timescaledb")
            .and_then(|()| database.batch(TIMESCALE));
        match made {
            Ok(()) => return database.batch("RELEASE SAVEPOINT timescale"),
            Err(error @ DatabaseError::Lost(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "TimescaleDB is there and cannot be used; history is kept in partitions");
                database.batch("ROLLBACK TO SAVEPOINT timescale")?;
            }
        }
    }
    database.batch(PARTITIONS)
}

fn has_partitions(database: &mut dyn Database) -> Result<bool> {
    database.exists(
        "SELECT 1 FROM pg_partitioned_table WHERE partrelid = 'telemetry'::regclass",
        &[],
    )
}
