//! The tables, and how a file gets from any earlier version to this one. Migrations only go forward;
//! a file of a later version is refused, never guessed at.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::StoreError;

/// One step per version; the file's version is the number of steps it has seen. Never edit a step
/// that was released: add one.
const MIGRATIONS: &[&str] = &[
    "
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
",
    // A token may let in more keys than one: each use is a row.
    "
CREATE TABLE token_uses (
    token       TEXT    NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    key         BLOB    NOT NULL,
    used        INTEGER NOT NULL,
    certificate TEXT    NOT NULL,
    PRIMARY KEY (token, key)
) STRICT, WITHOUT ROWID;
INSERT INTO token_uses (token, key, used, certificate)
    SELECT id, used_key, used, certificate FROM tokens
    WHERE used_key IS NOT NULL AND used IS NOT NULL AND certificate IS NOT NULL;
ALTER TABLE tokens ADD COLUMN max_uses INTEGER NOT NULL DEFAULT 1;
ALTER TABLE tokens DROP COLUMN used_key;
ALTER TABLE tokens DROP COLUMN used;
ALTER TABLE tokens DROP COLUMN certificate;
",
    // Commands, as their events tell of them.
    "
CREATE TABLE commands (
    id      TEXT PRIMARY KEY,
    robot   TEXT    NOT NULL,
    command TEXT    NOT NULL,
    issued  INTEGER NOT NULL,
    state   TEXT    NOT NULL,
    updated INTEGER NOT NULL,
    result  TEXT,
    reason  TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX commands_of_robot ON commands (robot, issued);
CREATE INDEX commands_open ON commands (issued) WHERE state NOT IN ('successful', 'failed');
",
    // Desired configurations, as their events tell of them; without a state until the robot said what became of one.
    "
CREATE TABLE configurations (
    robot   TEXT    NOT NULL,
    version INTEGER NOT NULL,
    desired TEXT    NOT NULL,
    state   TEXT,
    PRIMARY KEY (robot, version)
) STRICT, WITHOUT ROWID;
",
];

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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A file as the first version left it, with a spent and a fresh token.
    fn first_version(path: &Path) {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch(MIGRATIONS[0]).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        connection
            .execute_batch(
                "INSERT INTO certificates VALUES ('c1', 'kiwi-01', 'robot', x'AA', 1, 2, NULL, x'00');
                 INSERT INTO tokens VALUES ('t1', x'01', 'lekiwi', NULL, NULL, 1, 9, x'AA', 5, 'c1');
                 INSERT INTO tokens VALUES ('t2', x'02', NULL, NULL, 'kiwi-02', 2, 9, NULL, NULL, NULL);",
            )
            .unwrap();
    }

    #[test]
    fn spent_tokens_of_the_first_version_stay_spent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.db");
        first_version(&path);
        for _ in 0..2 {
            let connection = open_writer(&path).unwrap();
            assert_eq!(version(&connection).unwrap(), MIGRATIONS.len());
            let uses: Vec<(String, Vec<u8>, i64, String)> = connection
                .prepare("SELECT token, key, used, certificate FROM token_uses")
                .unwrap()
                .query_map([], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            assert_eq!(uses, [("t1".to_owned(), vec![0xAA], 5, "c1".to_owned())]);
            let tokens: Vec<(String, Option<String>, Option<String>, i64)> = connection
                .prepare("SELECT id, profile, robot, max_uses FROM tokens ORDER BY id")
                .unwrap()
                .query_map([], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            assert_eq!(
                tokens,
                [
                    ("t1".to_owned(), Some("lekiwi".to_owned()), None, 1),
                    ("t2".to_owned(), None, Some("kiwi-02".to_owned()), 1),
                ]
            );
        }
    }

    #[test]
    fn a_later_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.db");
        let later = MIGRATIONS.len() + 1;
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", later as u32)
            .unwrap();
        assert_eq!(
            open_writer(&path).unwrap_err().to_string(),
            format!(
                "expected a store of version {} or earlier, got version {later} in {}",
                MIGRATIONS.len(),
                path.display()
            )
        );
    }
}
