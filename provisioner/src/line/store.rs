//! What outlives the line's process, in one SQLite file that only its owner may read: units with their steps, the
//! token of each until it is used, and what other processes ask of a running line.
//!
//! Invariant: a unit and its steps change together; a process that is killed at any moment leaves the last whole
//! change behind.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lekiwi_protocol::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::unit::{Key, State, Step, Unit};

const VERSION: u32 = 1;
const SCHEMA: &str = "
    CREATE TABLE unit (
        key TEXT PRIMARY KEY, serial TEXT, mac TEXT, board TEXT, memory_mib INTEGER, robot_id TEXT,
        profile TEXT NOT NULL, image TEXT, expected INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT,
        since_ms INTEGER NOT NULL, attempt INTEGER NOT NULL, attempt_since_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE step (
        unit TEXT NOT NULL REFERENCES unit (key) ON DELETE CASCADE, number INTEGER NOT NULL,
        attempt INTEGER NOT NULL, at_ms INTEGER NOT NULL, name TEXT NOT NULL, detail TEXT NOT NULL,
        PRIMARY KEY (unit, number)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE token (
        unit TEXT PRIMARY KEY REFERENCES unit (key) ON DELETE CASCADE, attempt INTEGER NOT NULL,
        token_id TEXT NOT NULL, token TEXT NOT NULL, given_to TEXT NOT NULL
    ) STRICT;
    CREATE TABLE wish (id INTEGER PRIMARY KEY, unit TEXT NOT NULL) STRICT;
";

/// Why something was not kept or found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be made.
    #[error("cannot open {0}")]
    File(PathBuf, #[source] io::Error),
    /// SQLite refuses.
    #[error("cannot use {0}")]
    Open(PathBuf, #[source] rusqlite::Error),
    /// Another version made it.
    #[error("expected {path} to have version {VERSION}, got {actual}")]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        actual: u32,
    },
    /// A change or a question failed.
    #[error("the line's records cannot be used")]
    Query(#[from] rusqlite::Error),
}

/// The enrolment token of a unit's attempt, and who got it.
#[derive(Clone, PartialEq, Eq)]
pub struct Grant {
    /// Of which attempt.
    pub attempt: u32,
    /// The relay's handle of the token.
    pub token_id: Uuid,
    /// The secret.
    pub token: String,
    /// The address that fetched the seed.
    pub given_to: String,
}

/// The records.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

impl Store {
    /// Opens the file, and makes it where there is none.
    ///
    /// # Errors
    /// When it cannot be used, or another version made it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| StoreError::File(path.to_owned(), error))?;
        let (connection, version) =
            prepare(path).map_err(|error| StoreError::Open(path.to_owned(), error))?;
        if version == VERSION {
            Ok(Self { connection })
        } else {
            Err(StoreError::Version {
                path: path.to_owned(),
                actual: version,
            })
        }
    }

    /// All units, by key.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub fn units(&self) -> Result<Vec<Unit>, StoreError> {
        let mut units: Vec<Unit> = self
            .connection
            .prepare("SELECT * FROM unit ORDER BY key")?
            .query_map([], unit)?
            .collect::<Result<_, _>>()?;
        let mut steps = self.connection.prepare(
            "SELECT attempt, at_ms, name, detail FROM step WHERE unit = ?1 ORDER BY number",
        )?;
        for unit in &mut units {
            unit.steps = steps
                .query_map([&unit.key.0], step)?
                .collect::<Result<_, _>>()?;
        }
        Ok(units)
    }

    /// Keeps a unit as it is now; its token goes when it is of no more use.
    ///
    /// # Errors
    /// When SQLite refuses; then nothing changed.
    pub fn keep(&mut self, unit: &Unit) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        let key = &unit.key.0;
        transaction
            .prepare_cached(
                "INSERT INTO unit VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
                 ON CONFLICT (key) DO UPDATE SET serial = ?2, mac = ?3, board = ?4, memory_mib = ?5, robot_id = ?6,
                 profile = ?7, image = ?8, expected = ?9, state = ?10, reason = ?11, since_ms = ?12, attempt = ?13,
                 attempt_since_ms = ?14",
            )?
            .execute(params![
                key,
                unit.serial.as_ref().map(|serial| serial.as_str()),
                unit.mac.map(|mac| mac.to_string()),
                unit.board,
                unit.memory_mib,
                unit.robot_id.as_ref().map(|robot| robot.as_str()),
                unit.profile,
                unit.image,
                unit.expected,
                unit.state.name(),
                unit.state.reason(),
                ms(unit.since),
                unit.attempt,
                ms(unit.attempt_since),
            ])?;
        let kept: u32 = transaction
            .prepare_cached("SELECT count(*) FROM step WHERE unit = ?1")?
            .query_row([key], |row| row.get(0))?;
        let mut insert =
            transaction.prepare_cached("INSERT INTO step VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        for (number, step) in (0_u32..).zip(&unit.steps).skip(kept as usize) {
            insert.execute(params![
                key,
                number,
                step.attempt,
                ms(step.at),
                step.name,
                step.detail
            ])?;
        }
        drop(insert);
        if matches!(unit.state, State::Enrolled | State::Healthy) {
            transaction.execute("DELETE FROM token WHERE unit = ?1", [key])?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Forgets a unit that turned out to be another.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub fn forget(&mut self, key: &Key) -> Result<(), StoreError> {
        self.connection
            .execute("DELETE FROM unit WHERE key = ?1", [&key.0])?;
        Ok(())
    }

    /// The token of a unit, of whichever attempt.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub fn grant(&self, key: &Key) -> Result<Option<Grant>, StoreError> {
        let grant = self
            .connection
            .prepare_cached("SELECT attempt, token_id, token, given_to FROM token WHERE unit = ?1")?
            .query_row([&key.0], |row| {
                let token_id: String = row.get(1)?;
                Ok(Grant {
                    attempt: row.get(0)?,
                    token_id: token_id.parse().unwrap_or_default(),
                    token: row.get(2)?,
                    given_to: row.get(3)?,
                })
            })
            .optional()?;
        Ok(grant)
    }

    /// Keeps a token before it is given away.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub fn grant_to(&mut self, key: &Key, grant: &Grant) -> Result<(), StoreError> {
        self.connection.execute(
            "INSERT OR REPLACE INTO token VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                key.0,
                grant.attempt,
                grant.token_id.to_string(),
                grant.token,
                grant.given_to
            ],
        )?;
        Ok(())
    }

    /// Asks the running line, or the next one, to try a unit again.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub fn wish(&mut self, key: &Key) -> Result<(), StoreError> {
        self.connection
            .execute("INSERT INTO wish (unit) VALUES (?1)", [&key.0])?;
        Ok(())
    }

    /// What other processes asked for since the last call.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub fn take_wishes(&mut self) -> Result<Vec<Key>, StoreError> {
        // Reading takes no lock; there is hardly ever one.
        let wished: bool = self
            .connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM wish)")?
            .query_row([], |row| row.get(0))?;
        if !wished {
            return Ok(Vec::new());
        }
        let keys = self
            .connection
            .prepare("DELETE FROM wish RETURNING unit")?
            .query_map([], |row| Ok(Key(row.get(0)?)))?
            .collect::<Result<_, _>>()?;
        Ok(keys)
    }
}

fn prepare(path: &Path) -> rusqlite::Result<(Connection, u32)> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;
         PRAGMA secure_delete = ON;",
    )?;
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()?;
    Ok((connection, if version == 0 { VERSION } else { version }))
}

/// Times fit until long after the year 9999.
fn ms(time: Timestamp) -> i64 {
    i64::try_from(time.as_ms()).unwrap_or(i64::MAX)
}

fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    let ms: i64 = row.get(column)?;
    Ok(Timestamp::from_ms(u64::try_from(ms).unwrap_or_default()))
}

fn step(row: &Row<'_>) -> rusqlite::Result<Step> {
    Ok(Step {
        attempt: row.get("attempt")?,
        at: time(row, "at_ms")?,
        name: row.get("name")?,
        detail: row.get("detail")?,
    })
}

fn unit(row: &Row<'_>) -> rusqlite::Result<Unit> {
    let text = |column: &str| row.get::<_, Option<String>>(column);
    let state: String = row.get("state")?;
    let state = match state.as_str() {
        "booting" => State::Booting,
        "installing" => State::Installing,
        "enrolled" => State::Enrolled,
        "healthy" => State::Healthy,
        "failed" => State::Failed {
            reason: text("reason")?.unwrap_or_default(),
        },
        _ => State::Waiting,
    };
    Ok(Unit {
        key: Key(row.get("key")?),
        serial: text("serial")?.and_then(|text| text.parse().ok()),
        mac: text("mac")?.and_then(|text| text.parse().ok()),
        board: text("board")?,
        memory_mib: row.get("memory_mib")?,
        robot_id: text("robot_id")?.and_then(|text| text.parse().ok()),
        profile: row.get("profile")?,
        image: text("image")?,
        expected: row.get("expected")?,
        state,
        since: time(row, "since_ms")?,
        attempt: row.get("attempt")?,
        attempt_since: time(row, "attempt_since_ms")?,
        steps: Vec::new(),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::line::unit::{Event, Limits};

    #[test]
    fn units_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("line.sqlite");
        let limit = Duration::from_secs(1);
        let limits = Limits {
            booting: limit,
            installing: limit,
            enrolled: limit,
        };
        let at = Timestamp::from_ms;
        let mut unit = Unit::new(Key("abcdef01".into()), "lekiwi".into(), at(5));
        unit.serial = Some("10000000abcdef01".parse().unwrap());
        unit.mac = Some("dc:a6:32:01:36:c2".parse().unwrap());
        unit.robot_id = Some("kiwi-01".parse().unwrap());
        unit.memory_mib = Some(3800);
        let grant = Grant {
            attempt: 1,
            token_id: Uuid::from_u128(7),
            token: "lkt_secret".into(),
            given_to: "10.0.0.5".into(),
        };
        {
            let mut store = Store::open(&path).unwrap();
            store.keep(&unit).unwrap();
            store.grant_to(&unit.key, &grant).unwrap();
            unit.handle(at(6), &limits, Event::Dhcp).unwrap();
            store.keep(&unit).unwrap();
            unit.handle(at(60_000), &limits, Event::Tick).unwrap();
            store.keep(&unit).unwrap();
            store.wish(&unit.key).unwrap();
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut store = Store::open(&path).unwrap();
        assert_eq!(store.units().unwrap(), [unit.clone()]);
        assert!(store.grant(&unit.key).unwrap() == Some(grant));
        assert_eq!(store.take_wishes().unwrap(), [unit.key.clone()]);
        assert_eq!(store.take_wishes().unwrap(), []);
        // A used token is of no use to anybody.
        let robot = unit.robot_id.clone().unwrap();
        unit.handle(at(70_000), &limits, Event::Enrolled(robot))
            .unwrap();
        store.keep(&unit).unwrap();
        assert!(store.grant(&unit.key).unwrap().is_none());
        store.forget(&unit.key).unwrap();
        assert_eq!(store.units().unwrap(), []);
    }

    #[test]
    fn another_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("line.sqlite");
        drop(Store::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 9).unwrap();
        drop(connection);
        assert_eq!(
            Store::open(&path).unwrap_err().to_string(),
            format!("expected {} to have version 1, got 9", path.display())
        );
        std::fs::write(&path, "no database, but long enough to be taken for one").unwrap();
        assert_eq!(
            Store::open(&path).unwrap_err().to_string(),
            format!("cannot use {}", path.display())
        );
    }
}
