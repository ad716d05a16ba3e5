//! The tables of a store, row by row, in SQL that every database understands.

use std::fmt;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::super::database::{Cell, Database, Result, Row, SampleRow, ToValue, Value, storable};
use super::super::log::last_position;
use super::{Contents, Progress};

/// Rows between two reports.
const REPORT_ROWS: u64 = 4_096;
/// Values of one statement; SQLite takes 32,766 and PostgreSQL 65,535.
const VALUES: usize = 4_000;
/// Samples of one statement.
const SAMPLES: usize = 20_000;

/// The column of [`BLOCKS`] that says when.
const DAY: usize = 3;
const DAY_MS: i64 = 86_400_000;

/// A table by its columns, in the order in which they can be filled.
pub(super) struct Layout {
    pub(super) name: &'static str,
    columns: &'static [&'static str],
    /// The columns that its rows are in order of: their key.
    order: &'static str,
    /// Whether its rows have numbers that the database gives.
    is_numbered: bool,
}

const fn layout(
    name: &'static str,
    columns: &'static [&'static str],
    order: &'static str,
    is_numbered: bool,
) -> Layout {
    Layout {
        name,
        columns,
        order,
        is_numbered,
    }
}

const TELEMETRY: &str = "telemetry";
const BLOCKS: &str = "telemetry_blocks";

/// All tables.
pub(super) const TABLES: &[Layout] = &[
    layout(
        "events",
        &[
            "position",
            "aggregate_type",
            "aggregate_id",
            "source",
            "stream",
            "seq",
            "type",
            "ts",
            "received",
            "data",
            "metadata",
        ],
        "position",
        false,
    ),
    layout(
        "robots",
        &["id", "robot", "position", "taken", "picture"],
        "id",
        true,
    ),
    layout("metrics", &["id", "metric"], "id", true),
    layout(
        "pictures",
        &["robot", "position", "taken", "picture"],
        "robot, position",
        false,
    ),
    layout("log_base", &["position"], "position", false),
    layout(
        TELEMETRY,
        &["robot", "metric", "ts", "value"],
        "robot, metric, ts",
        false,
    ),
    layout(
        BLOCKS,
        &["robot", "metric", "level", "day", "data"],
        "robot, metric, level, day",
        false,
    ),
    layout(
        "refused",
        &[
            "id", "at", "client", "topic", "kind", "reason", "payload", "bytes",
        ],
        "id",
        true,
    ),
    layout(
        "tokens",
        &[
            "id", "hash", "profile", "serial", "robot", "created", "expires", "max_uses",
        ],
        "id",
        false,
    ),
    layout(
        "certificates",
        &[
            "serial",
            "common_name",
            "kind",
            "key",
            "not_before",
            "not_after",
            "revoked",
            "der",
        ],
        "serial",
        false,
    ),
    layout(
        "renewals",
        &["certificate", "renews", "asked", "used"],
        "certificate",
        false,
    ),
    layout(
        "token_uses",
        &["token", "key", "used", "certificate"],
        "token, key",
        false,
    ),
    layout(
        "sessions",
        &["hash", "\"user\"", "created", "expires", "address", "agent"],
        "hash",
        false,
    ),
    layout("credentials", &["\"user\"", "hash"], "\"user\"", false),
    layout(
        "people",
        &["name", "created", "disabled", "issuer", "subject"],
        "name",
        false,
    ),
    layout(
        "rights",
        &["person", "role", "scope", "lender", "until"],
        "person, scope, role, lender",
        false,
    ),
    layout("robot_groups", &["name"], "name", false),
    layout("group_robots", &["name", "robot"], "name, robot", false),
    layout(
        "keys",
        &[
            "id",
            "owner",
            "name",
            "note",
            "permissions",
            "scope",
            "hash",
            "old_hash",
            "old_until",
            "created",
            "expires",
            "used",
        ],
        "id",
        false,
    ),
    layout(
        "second_factors",
        &["person", "secret", "confirmed", "last_step", "misses"],
        "person",
        false,
    ),
    layout("recovery_codes", &["person", "hash"], "person, hash", false),
    layout(
        "invitations",
        &[
            "id", "hash", "person", "roles", "inviter", "created", "expires", "used", "revoked",
        ],
        "id",
        false,
    ),
    layout(
        "audit",
        &[
            "number", "at", "who", "address", "action", "subject", "outcome", "trace", "detail",
            "hash",
        ],
        "number",
        false,
    ),
    layout(
        "consumer_reads",
        &["consumer", "filter"],
        "consumer, filter",
        false,
    ),
    layout(
        "commands",
        &[
            "id", "robot", "command", "issued", "state", "updated", "result", "reason",
        ],
        "id",
        false,
    ),
    layout(
        "configurations",
        &["robot", "version", "desired", "state"],
        "robot, version",
        false,
    ),
];

impl Layout {
    fn select(&self) -> String {
        format!(
            "SELECT {} FROM {} ORDER BY {}",
            self.columns.join(", "),
            self.name,
            self.order
        )
    }

    /// Puts this many rows in.
    fn insert(&self, rows: usize) -> String {
        let width = self.columns.len();
        let row = |row: usize| {
            let places: Vec<String> = (1..=width)
                .map(|n| format!("?{}", row * width + n))
                .collect();
            format!("({})", places.join(", "))
        };
        let rows: Vec<String> = (0..rows).map(row).collect();
        format!(
            "INSERT INTO {} ({}) VALUES {}",
            self.name,
            self.columns.join(", "),
            rows.join(", ")
        )
    }
}

/// What a table holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// How many rows.
    pub rows: u64,
    /// SHA-256 of its rows in the order of their key.
    pub sha256: String,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.sha256.get(..12).unwrap_or(&self.sha256);
        write!(f, "{} rows of {} (sha256 {start}…)", self.rows, self.name)
    }
}

/// Which texts a checksum is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Texts {
    /// Those that there are.
    AsTheyAre,
    /// What becomes of them in a copy: earlier versions kept characters in SQLite that PostgreSQL has no room for.
    AsTheyAreKept,
}

/// Every table's rows and checksum, and how far the log goes.
pub(super) fn contents(
    database: &mut dyn Database,
    texts: Texts,
    what: &'static str,
    progress: &mut Progress<'_>,
) -> Result<Contents> {
    let total = total(database)?;
    let mut done = 0;
    let mut tables = Vec::new();
    for layout in TABLES {
        let (mut rows, mut sum) = (0, Sha256::new());
        database.query(&layout.select(), &[], &mut |row| {
            add(&mut sum, texts, row)?;
            rows += 1;
            done += 1;
            if done % REPORT_ROWS == 0 {
                progress(what, done, total);
            }
            Ok(())
        })?;
        tables.push(Table {
            name: layout.name,
            rows,
            sha256: hex::encode(sum.finalize()),
        });
    }
    progress(what, done, total.max(done));
    Ok(Contents {
        position: last_position(database)?,
        tables,
    })
}

/// Each value with its kind and length: no two different rows make the same bytes.
fn add(sum: &mut Sha256, texts: Texts, row: &Row<'_>) -> Result<()> {
    for column in 0..row.len() {
        match row.cell(column)? {
            Cell::Null => sum.update([0]),
            Cell::Int(integer) => {
                sum.update([1]);
                sum.update(integer.to_be_bytes());
            }
            Cell::Real(real) => {
                sum.update([2]);
                sum.update(real.to_bits().to_be_bytes());
            }
            Cell::Text(text) => {
                let text = match texts {
                    Texts::AsTheyAre => text.into(),
                    Texts::AsTheyAreKept => storable(text),
                };
                sum.update([3]);
                sum.update((text.len() as u64).to_be_bytes());
                sum.update(&*text);
            }
            Cell::Blob(bytes) => {
                sum.update([4]);
                sum.update((bytes.len() as u64).to_be_bytes());
                sum.update(bytes);
            }
        }
    }
    Ok(())
}

fn total(database: &mut dyn Database) -> Result<u64> {
    let mut total = 0;
    for layout in TABLES {
        let sql = format!("SELECT count(*) FROM {}", layout.name);
        total += database.value::<u64>(&sql, &[])?.unwrap_or_default();
    }
    Ok(total)
}

/// Whether there is nothing in any table.
pub(super) fn is_empty(database: &mut dyn Database) -> Result<bool> {
    for layout in TABLES {
        if database.exists(&format!("SELECT 1 FROM {} LIMIT 1", layout.name), &[])? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A value that is on its way from one database to another.
enum Held {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl From<Cell<'_>> for Held {
    fn from(cell: Cell<'_>) -> Self {
        match cell {
            Cell::Null => Self::Null,
            Cell::Int(integer) => Self::Int(integer),
            Cell::Real(real) => Self::Real(real),
            Cell::Text(text) => Self::Text(text.to_owned()),
            Cell::Blob(bytes) => Self::Blob(bytes.to_owned()),
        }
    }
}

impl ToValue for Held {
    fn to_value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Int(integer) => Value::Int(*integer),
            Self::Real(real) => Value::Real(*real),
            Self::Text(text) => Value::Text(text),
            Self::Blob(bytes) => Value::Blob(bytes),
        }
    }
}

/// Copies every row. Both have begun what they need to.
pub(super) fn copy(
    from: &mut dyn Database,
    to: &mut dyn Database,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let total = total(from)?;
    let mut done = 0;
    let mut report = |rows: usize| {
        done += rows as u64;
        progress("rows", done, total);
    };
    for layout in TABLES {
        if layout.name == TELEMETRY {
            copy_samples(from, to, &layout.select(), &mut report)?;
            continue;
        }
        let width = layout.columns.len();
        let most = VALUES / width;
        let full = layout.insert(most);
        let mut held: Vec<Held> = Vec::with_capacity(most * width);
        from.query(&layout.select(), &[], &mut |row| {
            if layout.name == BLOCKS {
                to.make_room(row.get::<i64>(DAY)?.saturating_mul(DAY_MS))?;
            }
            for column in 0..width {
                held.push(row.cell(column)?.into());
            }
            if held.len() == most * width {
                put(to, &full, &held)?;
                held.clear();
                report(most);
            }
            Ok(())
        })?;
        if !held.is_empty() {
            let rows = held.len() / width;
            put(to, &layout.insert(rows), &held)?;
            report(rows);
        }
        if layout.is_numbered {
            to.renumber(layout.name)?;
        }
    }
    Ok(())
}

fn put(to: &mut dyn Database, sql: &str, held: &[Held]) -> Result<()> {
    let values: Vec<Value<'_>> = held.iter().map(ToValue::to_value).collect();
    to.execute(sql, &values).map(drop)
}

/// History, for which the target may have to make room first.
fn copy_samples(
    from: &mut dyn Database,
    to: &mut dyn Database,
    select: &str,
    report: &mut dyn FnMut(usize),
) -> Result<()> {
    let mut samples = Vec::with_capacity(SAMPLES);
    from.query(select, &[], &mut |row| {
        samples.push(SampleRow {
            robot: row.get(0)?,
            metric: row.get(1)?,
            ts: row.get(2)?,
            value: row.get(3)?,
        });
        if samples.len() == SAMPLES {
            to.insert_samples(&samples)?;
            report(SAMPLES);
            samples.clear();
        }
        Ok(())
    })?;
    if !samples.is_empty() {
        to.insert_samples(&samples)?;
        report(samples.len());
    }
    Ok(())
}
