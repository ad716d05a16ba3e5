//! SQLite: one file beside the relay. In WAL mode readers never wait for the writer, and the log is synced at
//! every commit, which is what an acknowledgement promises.

use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, params, params_from_iter};

use super::StoreError;
use super::database::{Database, News, Result, Row, SampleRow, Value, storable};
use super::records::NewEvent;
use crate::clock;

/// One step per version; the file's version is the number of steps it has seen. Never edit a step that was
/// released: add one.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/sqlite/0001_first.sql"),
    include_str!("migrations/sqlite/0002_token_uses.sql"),
    include_str!("migrations/sqlite/0003_commands.sql"),
    include_str!("migrations/sqlite/0004_configurations.sql"),
    include_str!("migrations/sqlite/0005_history.sql"),
    include_str!("migrations/sqlite/0006_queries.sql"),
    include_str!("migrations/sqlite/0007_pictures.sql"),
    include_str!("migrations/sqlite/0008_base.sql"),
    include_str!("migrations/sqlite/0009_people.sql"),
];

/// Statements that stay prepared: all that there are.
const STATEMENTS: usize = 64;
/// How long the check at the start may take; what it did not reach by then is not checked.
const CHECK: Duration = Duration::from_millis(300);
/// Steps of SQLite's machine between two looks at the clock.
const CHECK_STEPS: i32 = 50_000;

/// A connection to a file.
pub(super) struct Sqlite {
    connection: Connection,
}

impl Sqlite {
    /// Opens the one writing connection, creating or migrating the file.
    pub(super) fn open_writer(path: &Path) -> std::result::Result<Self, StoreError> {
        let fail = |error| refusal(path, error);
        let mut connection = Connection::open(path).map_err(fail)?;
        let found = version(&connection).map_err(fail)?;
        if found > MIGRATIONS.len() {
            return Err(StoreError::Newer {
                place: path.display().to_string(),
                found,
                known: MIGRATIONS.len(),
            });
        }
        prepare(&connection).map_err(fail)?;
        quick_check(&mut connection, path)?;
        migrate(&mut connection, found, MIGRATIONS.len()).map_err(fail)?;
        Ok(Self { connection })
    }

    /// Opens a connection that cannot write.
    pub(super) fn open_reader(path: &Path) -> Result<Self> {
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(Self { connection })
    }

    /// Opens a file as it is, without making it a relay's.
    pub(super) fn open_plain(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        Ok(Self { connection })
    }

    /// What is wrong with the file, looking at all of it.
    pub(super) fn damage(&self) -> Result<Option<String>> {
        let found: String = self
            .connection
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        Ok((found != "ok").then_some(found))
    }

    /// The file's version, and that of this program.
    pub(super) fn versions(&self) -> Result<(usize, usize)> {
        Ok((version(&self.connection)?, MIGRATIONS.len()))
    }

    /// The connection itself, for what only SQLite does.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
         PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY;",
    )
}

fn version(connection: &Connection) -> rusqlite::Result<usize> {
    connection.pragma_query_value(None, "user_version", |row| {
        row.get::<_, u32>(0).map(|v| v as usize)
    })
}

/// Looks for damage, for a bounded time: a large file must not delay the start. `lekiwi-relay verify` looks at all.
fn quick_check(connection: &mut Connection, path: &Path) -> std::result::Result<(), StoreError> {
    let fail = |error| refusal(path, error);
    let end: Instant = clock::monotonic() + CHECK;
    connection
        .progress_handler(CHECK_STEPS, Some(move || clock::monotonic() >= end))
        .map_err(fail)?;
    let found = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    connection
        .progress_handler(0, None::<fn() -> bool>)
        .map_err(fail)?;
    match found {
        Ok(answer) if answer == "ok" => Ok(()),
        Ok(damage) => Err(StoreError::Damaged {
            place: path.display().to_string(),
            damage,
        }),
        // The time is up, and nothing was found so far.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(()),
        Err(error) => Err(fail(error)),
    }
}

/// Why a file cannot be opened: damage is said as such, wherever it shows.
fn refusal(path: &Path, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Damaged {
            place: path.display().to_string(),
            damage: error.to_string(),
        },
        _ => StoreError::open(path.display(), error.into()),
    }
}

/// Runs the steps from version `found` to version `to`, in one transaction.
fn migrate(connection: &mut Connection, found: usize, to: usize) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in &MIGRATIONS[found..to] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", to as u32)?;
    transaction.commit()
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Null => ValueRef::Null,
            Self::Int(integer) => ValueRef::Integer(integer),
            Self::Real(real) => ValueRef::Real(real),
            Self::Text(text) => match storable(text) {
                Cow::Borrowed(text) => ValueRef::Text(text.as_bytes()),
                Cow::Owned(text) => return Ok(ToSqlOutput::Owned(text.into())),
            },
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl Database for Sqlite {
    fn execute(&mut self, sql: &str, parameters: &[Value<'_>]) -> Result<u64> {
        let changed = self
            .connection
            .prepare_cached(sql)?
            .execute(params_from_iter(parameters))?;
        Ok(changed as u64)
    }

    fn query(
        &mut self,
        sql: &str,
        parameters: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(parameters))?;
        while let Some(row) = rows.next()? {
            each(&Row::Sqlite(row))?;
        }
        Ok(())
    }

    fn batch(&mut self, sql: &str) -> Result<()> {
        Ok(self.connection.execute_batch(sql)?)
    }

    fn begin(&mut self) -> Result<i64> {
        self.batch("BEGIN IMMEDIATE")?;
        // Every commit is answered: there is nothing on the way to the file that could be lost.
        Ok(0)
    }

    fn begin_reading(&mut self) -> Result<()> {
        // The state is that of the first read.
        self.batch("BEGIN; SELECT 1 FROM sqlite_schema LIMIT 1")
    }

    fn commit(&mut self) -> Result<()> {
        self.batch("COMMIT")
    }

    fn is_committed(&mut self, _transaction: i64) -> Result<bool> {
        Ok(false)
    }

    fn rollback(&mut self) {
        if self.is_in_transaction() {
            // What cannot be undone is not committed either: the next `begin` says what is wrong.
            let _ = self.batch("ROLLBACK");
        }
    }

    fn is_in_transaction(&self) -> bool {
        // A full disk rolls the whole transaction back; a constraint does not.
        !self.connection.is_autocommit()
    }

    fn is_usable(&mut self) -> bool {
        true
    }

    fn insert_events(&mut self, events: &[&NewEvent]) -> Result<Vec<Option<u64>>> {
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO events (aggregate_type, aggregate_id, source, stream, seq, type, ts, received, data, metadata)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (source, stream, seq) DO NOTHING",
        )?;
        let mut positions = Vec::with_capacity(events.len());
        for event in events {
            let new = insert.execute(params![
                storable(event.aggregate_type),
                storable(&event.aggregate_id),
                storable(&event.source),
                event.stream.as_bytes(),
                event.seq as i64,
                storable(&event.kind),
                event.ts_ms as i64,
                event.received_ms as i64,
                storable(&event.data),
                storable(&event.metadata),
            ])?;
            positions.push((new == 1).then(|| self.connection.last_insert_rowid() as u64));
        }
        Ok(positions)
    }

    fn insert_samples(&mut self, samples: &[SampleRow]) -> Result<()> {
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO telemetry (robot, metric, ts, value) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (robot, metric, ts) DO UPDATE SET value = excluded.value",
        )?;
        for sample in samples {
            insert.execute(params![
                sample.robot,
                sample.metric,
                sample.ts,
                sample.value
            ])?;
        }
        Ok(())
    }

    fn make_room(&mut self, _ts_ms: i64) -> Result<()> {
        // One table takes all times.
        Ok(())
    }

    fn drop_history(&mut self, _before_ms: u64) -> Result<()> {
        // Pages that are empty are used again.
        Ok(())
    }

    fn probe(&mut self) -> Result<()> {
        let version: i64 = self
            .connection
            .pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok(self
            .connection
            .pragma_update(None, "user_version", version)?)
    }

    fn tell(&mut self, _news: News) -> Result<()> {
        // One relay has the file.
        Ok(())
    }

    fn renumber(&mut self, _table: &str) -> Result<()> {
        // New rows are numbered from the largest number on.
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
