//! The store in one file: taken beside a running relay, checked, put back, or carried to another database. The
//! file is a database of SQLite with the relay's own tables and one more, `backup`, which says what they hold; it
//! is the same wherever the store is, so that a file from PostgreSQL can be restored into SQLite and the other
//! way round. Called by the command line; everything blocks.
//!
//! A table's checksum is over its rows in the order of their key, not over pages of a file: it is the same for
//! the same contents in any database.

mod tables;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::audit::{Broken, Mark};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use serde::Serialize;

use super::audit;
use super::database::{Database, DatabaseError, ToValue};
use super::sqlite::Sqlite;
use super::{Location, StoreError};
use crate::{clock, files};
pub use tables::Table;
use tables::{TABLES, Texts, contents, copy, is_empty};

/// Pages of one step of SQLite's own backup: 4 MiB.
const PAGES: i32 = 1_024;

/// What a store or a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// The position of the log's newest event.
    pub position: u64,
    /// Every table.
    pub tables: Vec<Table>,
}

/// Is told how far it is: what is being done, how much of it is done, and how much there is.
pub type Progress<'a> = dyn FnMut(&'static str, u64, u64) + 'a;

/// Why a backup could not be made, checked or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database refuses.
    #[error("the database could not carry out a statement")]
    Database(#[from] DatabaseError),
    /// The file cannot be written or read.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Something is there already.
    #[error("expected nothing at {path}, found a file")]
    Exists {
        /// What.
        path: PathBuf,
    },
    /// The target has a store already.
    #[error("expected an empty store in {place}, found one with a history")]
    NotEmpty {
        /// Where.
        place: String,
    },
    /// It is no backup.
    #[error("expected a backup of a relay in {path}, got something else")]
    NoBackup {
        /// What.
        path: PathBuf,
    },
    /// The file is of another version than this program.
    #[error("expected version {known} of a store in {path}, got version {found}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// The version of this program.
        known: usize,
    },
    /// The file is damaged.
    #[error("expected {place} without damage, got: {damage}")]
    Damaged {
        /// What.
        place: String,
        /// What the database found.
        damage: String,
    },
    /// The record of who did what is not whole.
    #[error("expected {place} with the audit that was written")]
    Audit {
        /// What.
        place: String,
        /// Where the chain breaks.
        #[source]
        source: Broken,
    },
    /// A table does not hold what it should.
    #[error("expected {expected} in {place}, got {actual}")]
    Mismatch {
        /// Where.
        place: String,
        /// The table as it should be.
        expected: Table,
        /// The table as it is.
        actual: Table,
    },
    /// The store is in PostgreSQL already.
    #[error("expected a store in a file to move, found it in {place}")]
    AlreadyThere {
        /// Where.
        place: String,
    },
}

impl From<rusqlite::Error> for BackupError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}

impl BackupError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Exists { .. } => Some("choose another name, or move it away first"),
            Self::NotEmpty { .. } => Some(
                "nothing is overwritten: move the store's files away, or make an empty database",
            ),
            Self::Version { .. } => Some(
                "use the relay of that version; this one, once started on it, brings it to its own",
            ),
            Self::Damaged { .. } | Self::Mismatch { .. } => {
                Some("use another backup; this one cannot be trusted")
            }
            Self::Audit { .. } => Some(
                "see docs/audit.md: somebody changed it, or the store is of before the checkpoint",
            ),
            Self::Store(error) => error.hint(),
            _ => None,
        }
    }
}

type Result<T> = std::result::Result<T, BackupError>;

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io {
        action,
        path,
        source,
    }
}

/// Writes a backup of the store to `file`, beside a running relay: all of it as it was at one moment.
///
/// # Errors
/// When there is such a file, or one of both cannot be read or written. Then there is no file afterwards.
pub fn backup(location: &Location, file: &Path, progress: &mut Progress<'_>) -> Result<Contents> {
    refuse_existing(file)?;
    let partial = Partial::beside(file)?;
    match location {
        Location::Sqlite(path) => copy_file(path, &partial.0, progress)?,
        Location::Postgres(_) => {
            let mut from = location.reader()?;
            let mut to: Box<dyn Database> = Box::new(Sqlite::open_writer(&partial.0)?);
            from.begin_reading()?;
            to.begin()?;
            copy(&mut *from, &mut *to, progress)?;
            to.commit()?;
            from.rollback();
        }
    }
    let connection = Connection::open(&partial.0)?;
    // One file, without a journal beside it.
    connection.execute_batch(
        "PRAGMA journal_mode = DELETE;
         CREATE TABLE backup (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;",
    )?;
    drop(connection);
    let mut file_of_it = Sqlite::open_plain(&partial.0)?;
    let database: &mut dyn Database = &mut file_of_it;
    let found = contents(database, Texts::AsTheyAre, "checksums", progress)?;
    database.begin()?;
    let mut note = |name: &str, value: &str| {
        let parameters = [name.to_value(), value.to_value()];
        database.execute(
            "INSERT INTO backup (name, value) VALUES (?1, ?2)",
            &parameters,
        )
    };
    note("relay", env!("CARGO_PKG_VERSION"))?;
    note("taken", &Timestamp::from_ms(clock::now_ms()).to_string())?;
    note("position", &found.position.to_string())?;
    for table in &found.tables {
        note(&format!("rows of {}", table.name), &table.rows.to_string())?;
        note(&format!("sha256 of {}", table.name), &table.sha256)?;
    }
    database.commit()?;
    drop(file_of_it);
    partial.keep(file)?;
    Ok(found)
}

/// Checks that a backup is whole and holds what it held when it was taken.
///
/// # Errors
/// When it is not.
pub fn verify_file(file: &Path, progress: &mut Progress<'_>) -> Result<Contents> {
    let mut database = open_backup(file)?;
    let place = file.display().to_string();
    check_pages(&database, &place, progress)?;
    let database: &mut dyn Database = &mut database;
    let expected = noted(database, file)?;
    let actual = contents(database, Texts::AsTheyAre, "checksums", progress)?;
    compare(&place, &expected, &actual)?;
    check_audit(database, &place, &[])?;
    Ok(actual)
}

/// Checks the store itself, beside a running relay: that everything in it can be read, and what there is; that who did what
/// is a whole chain, and the one that `marks` were signed of.
///
/// # Errors
/// When something cannot be read, or entries of the audit were changed.
pub fn verify_store(
    location: &Location,
    marks: &[Mark],
    progress: &mut Progress<'_>,
) -> Result<Contents> {
    let mut database = match location {
        Location::Sqlite(path) => {
            let database = Sqlite::open_reader(path)?;
            check_version(&database, path)?;
            check_pages(&database, &location.to_string(), progress)?;
            Box::new(database)
        }
        Location::Postgres(_) => location.reader()?,
    };
    database.begin_reading()?;
    let found = contents(&mut *database, Texts::AsTheyAre, "checksums", progress)?;
    check_audit(&mut *database, &location.to_string(), marks)?;
    database.rollback();
    Ok(found)
}

/// Puts a backup in the place of a store that is not there yet. No relay may run on it.
///
/// # Errors
/// When the backup is not whole, or there is a store already.
pub fn restore(file: &Path, location: &Location, progress: &mut Progress<'_>) -> Result<Contents> {
    let expected = verify_file(file, progress)?;
    match location {
        Location::Sqlite(path) => {
            refuse_existing(path)?;
            // What a store's journal has would be taken for a part of this one.
            refuse_existing(&with_suffix(path, "-wal"))?;
            let partial = Partial::beside(path)?;
            fs::copy(file, &partial.0).map_err(io("write", &partial.0))?;
            let connection = Connection::open(&partial.0)?;
            connection.execute_batch("DROP TABLE backup")?;
            drop(connection);
            partial.keep(path)?;
        }
        Location::Postgres(_) => {
            let mut from: Box<dyn Database> = Box::new(open_backup(file)?);
            return fill(&mut *from, location, progress);
        }
    }
    Ok(expected)
}

/// Copies a store from its file into a database of PostgreSQL, and compares both. The file stays as it is. No
/// relay may run on either.
///
/// # Errors
/// When the database is not empty, or does not hold the same afterwards; then it stays empty.
pub fn move_store(from: &Location, to: &Location, progress: &mut Progress<'_>) -> Result<Contents> {
    let Location::Sqlite(path) = from else {
        return Err(BackupError::AlreadyThere {
            place: from.to_string(),
        });
    };
    // Brings the file to this version first.
    drop(Sqlite::open_writer(path)?);
    let mut database: Box<dyn Database> = Box::new(Sqlite::open_reader(path)?);
    database.begin_reading()?;
    let moved = fill(&mut *database, to, progress)?;
    database.rollback();
    Ok(moved)
}

/// Fills an empty database, and looks at what it holds before that counts.
fn fill(
    from: &mut dyn Database,
    location: &Location,
    progress: &mut Progress<'_>,
) -> Result<Contents> {
    let expected = contents(from, Texts::AsTheyAreKept, "checksums", progress)?;
    let mut to = location.writer()?;
    to.begin()?;
    let mut filled = || {
        if !is_empty(&mut *to)? {
            return Err(BackupError::NotEmpty {
                place: location.to_string(),
            });
        }
        copy(from, &mut *to, progress)?;
        let actual = contents(
            &mut *to,
            Texts::AsTheyAre,
            "checksums of the copy",
            progress,
        )?;
        compare(&location.to_string(), &expected, &actual)
    };
    match filled() {
        Ok(()) => {
            to.commit()?;
            Ok(expected)
        }
        Err(error) => {
            to.rollback();
            Err(error)
        }
    }
}

fn check_audit(database: &mut dyn Database, place: &str, marks: &[Mark]) -> Result<()> {
    let found = audit::check(database, marks)?;
    found.map(drop).map_err(|source| BackupError::Audit {
        place: place.to_owned(),
        source,
    })
}

/// SQLite's own backup: pages, of one moment, however much is written meanwhile.
fn copy_file(from: &Path, to: &Path, progress: &mut Progress<'_>) -> Result<()> {
    let mut source = Sqlite::open_reader(from)?;
    check_version(&source, from)?;
    // As long as it reads, what others write is not part of it.
    source.begin_reading()?;
    let mut target = Connection::open(to)?;
    let pages = Backup::new(source.connection(), &mut target)?;
    loop {
        let step = pages.step(PAGES)?;
        let at = pages.progress();
        let total = u64::try_from(at.pagecount).unwrap_or_default();
        let left = u64::try_from(at.remaining).unwrap_or_default();
        progress("pages", total.saturating_sub(left), total);
        match step {
            StepResult::Done => break,
            StepResult::More => {}
            // Somebody opens the source, which takes a moment.
            _ => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
    drop(pages);
    source.rollback();
    Ok(())
}

fn check_pages(database: &Sqlite, place: &str, progress: &mut Progress<'_>) -> Result<()> {
    progress("pages", 0, 1);
    let damage = match database.damage() {
        Ok(damage) => damage,
        Err(error) => Some(error.to_string()),
    };
    progress("pages", 1, 1);
    match damage {
        None => Ok(()),
        Some(damage) => Err(BackupError::Damaged {
            place: place.to_owned(),
            damage,
        }),
    }
}

fn open_backup(file: &Path) -> Result<Sqlite> {
    File::open(file).map_err(io("read", file))?;
    let no_backup = || BackupError::NoBackup {
        path: file.to_owned(),
    };
    let mut database = Sqlite::open_reader(file).map_err(|_| no_backup())?;
    let is_backup = (&mut database as &mut dyn Database)
        .exists("SELECT 1 FROM sqlite_schema WHERE name = 'backup'", &[])
        .map_err(|_| no_backup())?;
    if !is_backup {
        return Err(no_backup());
    }
    check_version(&database, file)?;
    Ok(database)
}

fn check_version(database: &Sqlite, path: &Path) -> Result<()> {
    match database.versions()? {
        (found, known) if found != known => Err(BackupError::Version {
            path: path.to_owned(),
            found,
            known,
        }),
        _ => Ok(()),
    }
}

/// What a backup says of itself.
fn noted(database: &mut dyn Database, file: &Path) -> Result<Contents> {
    let mut read = |name: &str| -> Result<String> {
        database
            .value(
                "SELECT value FROM backup WHERE name = ?1",
                &[name.to_value()],
            )?
            .ok_or_else(|| BackupError::NoBackup {
                path: file.to_owned(),
            })
    };
    let number = |text: String| {
        text.parse().map_err(|_| BackupError::NoBackup {
            path: file.to_owned(),
        })
    };
    let mut tables = Vec::new();
    for table in TABLES {
        tables.push(Table {
            name: table.name,
            rows: number(read(&format!("rows of {}", table.name))?)?,
            sha256: read(&format!("sha256 of {}", table.name))?,
        });
    }
    Ok(Contents {
        position: number(read("position")?)?,
        tables,
    })
}

fn compare(place: &str, expected: &Contents, actual: &Contents) -> Result<()> {
    for (expected, actual) in expected.tables.iter().zip(&actual.tables) {
        if expected != actual {
            return Err(BackupError::Mismatch {
                place: place.to_owned(),
                expected: expected.clone(),
                actual: actual.clone(),
            });
        }
    }
    Ok(())
}

fn refuse_existing(path: &Path) -> Result<()> {
    if fs::exists(path).map_err(io("look for", path))? {
        return Err(BackupError::Exists {
            path: path.to_owned(),
        });
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A file that is not finished: removed unless it is kept.
struct Partial(PathBuf);

impl Partial {
    fn beside(path: &Path) -> Result<Self> {
        let this = Self(with_suffix(path, ".partial"));
        this.remove();
        // Passwords and sessions are in it, if only as hashes.
        files::create(&this.0, b"", files::SECRET).map_err(io("create", &this.0))?;
        Ok(this)
    }

    fn remove(&self) {
        for suffix in ["", "-journal", "-wal", "-shm"] {
            // Most of them are not there.
            let _ = fs::remove_file(with_suffix(&self.0, suffix));
        }
    }

    /// Makes it durable under its name, unless somebody else has made such a file meanwhile.
    fn keep(self, path: &Path) -> Result<()> {
        File::open(&self.0)
            .and_then(|file| file.sync_all())
            .map_err(io("write", &self.0))?;
        // Unlike a rename, a link replaces nothing.
        fs::hard_link(&self.0, path).map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => BackupError::Exists {
                path: path.to_owned(),
            },
            _ => io("create", path)(source),
        })?;
        files::sync_parent(path).map_err(io("write", path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.remove();
    }
}
