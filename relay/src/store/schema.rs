//! The tables, and how a file gets from any earlier version to this one. Migrations only go forward;
//! a file of a later version is refused, never guessed at.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::StoreError;

/// One step per version; the file's version is the number of steps it has seen. Never edit a step
/// that was released: add one.
const MIGRATIONS: &[&str] = &["
CREATE TABLE events (
    position       INTEGER PRIMARY KEY,
    aggregate_type TEXT    NOT NULL,
    aggregate_id   TEXT    NOT NULL,
    source         TEXT    NOT NULL,
    stream         BLOB    NOT NULL,
    seq            INTEGER NOT NULL,
    type           TEXT    NOT NULL,
    ts             INTEGER NOT NULL,
    received       INTEGER NOT NULL,
    data           TEXT    NOT NULL,
    metadata       TEXT    NOT NULL,
    UNIQUE (source, stream, seq)
) STRICT;
CREATE INDEX events_of_aggregate ON events (aggregate_type, aggregate_id, position);

CREATE TABLE robots (
    id         INTEGER PRIMARY KEY,
    robot      TEXT    NOT NULL UNIQUE,
    position   INTEGER NOT NULL DEFAULT 0,
    taken      INTEGER NOT NULL DEFAULT 0,
    picture    TEXT
) STRICT;

CREATE TABLE metrics (
    id     INTEGER PRIMARY KEY,
    metric TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE telemetry (
    robot  INTEGER NOT NULL,
    metric INTEGER NOT NULL,
    ts     INTEGER NOT NULL,
    value  REAL    NOT NULL,
    PRIMARY KEY (robot, metric, ts)
) STRICT, WITHOUT ROWID;

CREATE TABLE refused (
    id      INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    client  TEXT    NOT NULL,
    topic   TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    reason  TEXT    NOT NULL,
    payload BLOB    NOT NULL,
    bytes   INTEGER NOT NULL
) STRICT;

CREATE TABLE tokens (
    id          TEXT PRIMARY KEY,
    hash        BLOB NOT NULL UNIQUE,
    profile     TEXT,
    serial      TEXT,
    robot       TEXT,
    created     INTEGER NOT NULL,
    expires     INTEGER NOT NULL,
    used_key    BLOB,
    used        INTEGER,
    certificate TEXT
) STRICT;

CREATE TABLE certificates (
    serial      TEXT PRIMARY KEY,
    common_name TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    key         BLOB    NOT NULL,
    not_before  INTEGER NOT NULL,
    not_after   INTEGER NOT NULL,
    revoked     INTEGER,
    der         BLOB    NOT NULL
) STRICT;
CREATE INDEX certificates_by_name ON certificates (common_name);

CREATE TABLE sessions (
    hash    BLOB PRIMARY KEY,
    user    TEXT    NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE credentials (
    user TEXT PRIMARY KEY,
    hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"];

/// Opens the one writing connection, creating or migrating the file.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let fail = |source| StoreError::open(path, source);
    let mut connection = Connection::open(path).map_err(fail)?;
    let found = version(&connection).map_err(fail)?;
    if found > MIGRATIONS.len() {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known: MIGRATIONS.len(),
        });
    }
    prepare(&connection).map_err(fail)?;
    migrate(&mut connection, found).map_err(fail)?;
    Ok(connection)
}

/// Opens a connection that cannot write.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    // FULL: in WAL mode the log is synced at every commit, which is what an acknowledgement promises.
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

/// Runs the steps that a file of version `found` has not seen, in one transaction.
fn migrate(connection: &mut Connection, found: usize) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in &MIGRATIONS[found..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as u32)?;
    transaction.commit()
}
