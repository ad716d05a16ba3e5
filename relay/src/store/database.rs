//! What the store needs of a database: one connection that takes statements, and a few operations that each
//! database does in its own best way. Everything else is SQL that both understand, written once: parameters
//! are `?1`, `?2`, …; integers are 64 bits wide; ids and digests are bytes.
//!
//! Values are checked on their way back: a column that does not hold what the program expects is an error,
//! never a guess.

use std::borrow::Cow;
use std::sync::Arc;

use rusqlite::types::ValueRef;
use uuid::Uuid;

use super::records::NewEvent;

/// What a database answers.
pub(super) type Result<T> = std::result::Result<T, DatabaseError>;

/// Why a database did not do something.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite says so.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL, or the way to it, says so.
    #[error("{}", super::postgres::in_words(.0))]
    Postgres(#[from] ::postgres::Error),
    /// PostgreSQL cannot be reached.
    #[error("no connection to PostgreSQL ({0})")]
    Lost(String),
    /// A column holds something else than the program expects.
    #[error("expected {expected} in column {column} of the answer, got {actual}")]
    Column {
        /// Which one, from 0.
        column: usize,
        /// What the program can use.
        expected: &'static str,
        /// What came.
        actual: &'static str,
    },
}

/// A parameter of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Null,
    Int(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}

/// The parameters of a statement, in their order.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::store::database::ToValue::to_value(&$value)),*] };
}
pub(super) use values;

/// The text as a store keeps it: without the one character that PostgreSQL has no room for. What strangers say may
/// have it, and must not keep everything else from being written; in SQLite it would keep a file from being moved.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{FFFD}").into()
    } else {
        text.into()
    }
}

/// What can be a parameter.
pub(super) trait ToValue {
    fn to_value(&self) -> Value<'_>;
}

macro_rules! to_value {
    ($($type:ty: $value:ident => $expression:expr;)*) => {$(
        impl ToValue for $type {
            fn to_value(&self) -> Value<'_> {
                let $value = self;
                $expression
            }
        }
    )*};
}
// Numbers beyond what a database can hold are as large as it goes: bounds of searches say "no bound" so.
to_value! {
    i64: integer => Value::Int(*integer);
    u32: integer => Value::Int((*integer).into());
    u64: integer => Value::Int(i64::try_from(*integer).unwrap_or(i64::MAX));
    usize: integer => Value::Int(i64::try_from(*integer).unwrap_or(i64::MAX));
    str: text => Value::Text(text);
    String: text => Value::Text(text);
    Arc<str>: text => Value::Text(text);
    Vec<u8>: bytes => Value::Blob(bytes);
    [u8; 32]: bytes => Value::Blob(bytes);
    Uuid: uuid => Value::Blob(uuid.as_bytes());
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Value<'_> {
        (**self).to_value()
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, T::to_value)
    }
}

/// One value of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell<'a> {
    Null,
    Int(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}

impl Cell<'_> {
    const fn name(self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Int(_) => "a whole number",
            Self::Real(_) => "a number",
            Self::Text(_) => "a text",
            Self::Blob(_) => "bytes",
        }
    }
}

impl<'a> From<Cell<'a>> for Value<'a> {
    fn from(cell: Cell<'a>) -> Self {
        match cell {
            Cell::Null => Self::Null,
            Cell::Int(integer) => Self::Int(integer),
            Cell::Real(real) => Self::Real(real),
            Cell::Text(text) => Self::Text(text),
            Cell::Blob(bytes) => Self::Blob(bytes),
        }
    }
}

/// What a column can be read as.
pub(super) trait FromCell: Sized {
    /// For the error.
    const EXPECTED: &'static str;
    /// `None` for what cannot be one.
    fn from_cell(cell: Cell<'_>) -> Option<Self>;
}

macro_rules! to_integer {
    ($($integer:ty, $expected:literal);*) => {$(
        impl FromCell for $integer {
            const EXPECTED: &'static str = $expected;
            fn from_cell(cell: Cell<'_>) -> Option<Self> {
                match cell {
                    Cell::Int(integer) => integer.try_into().ok(),
                    _ => None,
                }
            }
        }
    )*};
}
to_integer!(i64, "a whole number"; u64, "a whole number from 0"; u32, "a whole number of 32 bits"; usize, "a whole number from 0");

impl FromCell for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_cell(cell: Cell<'_>) -> Option<Self> {
        match cell {
            Cell::Int(0) => Some(false),
            Cell::Int(1) => Some(true),
            _ => None,
        }
    }
}

impl FromCell for f64 {
    const EXPECTED: &'static str = "a number";
    fn from_cell(cell: Cell<'_>) -> Option<Self> {
        match cell {
            Cell::Real(real) => Some(real),
            _ => None,
        }
    }
}

impl FromCell for String {
    const EXPECTED: &'static str = "a text";
    fn from_cell(cell: Cell<'_>) -> Option<Self> {
        match cell {
            Cell::Text(text) => Some(text.to_owned()),
            _ => None,
        }
    }
}

impl FromCell for Arc<str> {
    const EXPECTED: &'static str = "a text";
    fn from_cell(cell: Cell<'_>) -> Option<Self> {
        match cell {
            Cell::Text(text) => Some(text.into()),
            _ => None,
        }
    }
}

impl FromCell for Vec<u8> {
    const EXPECTED: &'static str = "bytes";
    fn from_cell(cell: Cell<'_>) -> Option<Self> {
        match cell {
            Cell::Blob(bytes) => Some(bytes.to_owned()),
            _ => None,
        }
    }
}

impl FromCell for [u8; 32] {
    const EXPECTED: &'static str = "32 bytes";
    fn from_cell(cell: Cell<'_>) -> Option<Self> {
        match cell {
            Cell::Blob(bytes) => bytes.try_into().ok(),
            _ => None,
        }
    }
}

impl FromCell for Uuid {
    const EXPECTED: &'static str = "16 bytes";
    fn from_cell(cell: Cell<'_>) -> Option<Self> {
        match cell {
            Cell::Blob(bytes) => Self::from_slice(bytes).ok(),
            _ => None,
        }
    }
}

impl<T: FromCell> FromCell for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn from_cell(cell: Cell<'_>) -> Option<Self> {
        match cell {
            Cell::Null => Some(None),
            cell => T::from_cell(cell).map(Some),
        }
    }
}

/// One row of an answer.
pub(super) enum Row<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a ::postgres::Row),
}

impl Row<'_> {
    /// How many columns it has.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Sqlite(row) => row.as_ref().column_count(),
            Self::Postgres(row) => row.len(),
        }
    }

    /// What the column holds.
    pub(super) fn cell(&self, column: usize) -> Result<Cell<'_>> {
        Ok(match self {
            Self::Sqlite(row) => match row.get_ref(column)? {
                ValueRef::Null => Cell::Null,
                ValueRef::Integer(integer) => Cell::Int(integer),
                ValueRef::Real(real) => Cell::Real(real),
                ValueRef::Text(text) => match std::str::from_utf8(text) {
                    Ok(text) => Cell::Text(text),
                    Err(_) => Cell::Blob(text),
                },
                ValueRef::Blob(bytes) => Cell::Blob(bytes),
            },
            Self::Postgres(row) => super::postgres::cell(row, column)?,
        })
    }

    /// The column as the program needs it.
    pub(super) fn get<T: FromCell>(&self, column: usize) -> Result<T> {
        let cell = self.cell(column)?;
        T::from_cell(cell).ok_or(DatabaseError::Column {
            column,
            expected: T::EXPECTED,
            actual: cell.name(),
        })
    }
}

/// One sample with the numbers of its names.
#[derive(Debug, Clone, Copy)]
pub(super) struct SampleRow {
    pub(super) robot: i64,
    pub(super) metric: i64,
    pub(super) ts: i64,
    pub(super) value: f64,
}

/// What other relays on the same database are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// The log goes up to here.
    Log(u64),
    /// Certificates or sessions may have changed.
    Identity,
}

/// One connection to a database. Used by one thread at a time.
pub(super) trait Database: Send {
    /// Runs a statement; how many rows it changed.
    fn execute(&mut self, sql: &str, parameters: &[Value<'_>]) -> Result<u64>;

    /// Runs a query to its end and hands over each row.
    fn query(
        &mut self,
        sql: &str,
        parameters: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()>;

    /// Runs statements without parameters.
    fn batch(&mut self, sql: &str) -> Result<()>;

    /// Begins the one writing transaction that there can be at a time, of all relays on this database; connects
    /// again where that is necessary. By its number it is found again where its commit was not answered.
    fn begin(&mut self) -> Result<i64>;

    /// Begins a transaction in which all reads see the same state.
    fn begin_reading(&mut self) -> Result<()>;

    /// Makes the transaction durable. [`DatabaseError::Lost`] leaves open whether it is.
    fn commit(&mut self) -> Result<()>;

    /// Whether this transaction, which has ended, was committed.
    fn is_committed(&mut self, transaction: i64) -> Result<bool>;

    /// Undoes the transaction, if there is (still) one.
    fn rollback(&mut self);

    /// Whether the transaction can go on after an error, from a savepoint.
    fn is_in_transaction(&self) -> bool;

    /// Whether statements have a chance: asked before a connection that waited is used again.
    fn is_usable(&mut self) -> bool;

    /// Puts events into the log in this order, those that it does not have; the position of each new one.
    /// Called within the writing transaction.
    fn insert_events(&mut self, events: &[&NewEvent]) -> Result<Vec<Option<u64>>>;

    /// Puts samples into history; a later one with the same time replaces an earlier one.
    fn insert_samples(&mut self, samples: &[SampleRow]) -> Result<()>;

    /// Makes sure that history of this time has a place to go.
    fn make_room(&mut self, ts_ms: i64) -> Result<()>;

    /// Lets go of the place of history that is older, as far as nothing newer is in it.
    fn drop_history(&mut self, before_ms: u64) -> Result<()>;

    /// Writes something that changes nothing: only a real write proves that the disk takes writes again.
    fn probe(&mut self) -> Result<()>;

    /// Within a transaction: tells other relays once it is committed.
    fn tell(&mut self, news: News) -> Result<()>;

    /// After rows were put in with numbers of their own, lets new ones begin beyond them.
    fn renumber(&mut self, table: &str) -> Result<()>;
}

impl dyn Database + '_ {
    /// Does something in a writing transaction of its own.
    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut dyn Database) -> Result<T>,
    ) -> Result<T> {
        self.begin()?;
        let done = work(self).and_then(|done| {
            self.commit()?;
            Ok(done)
        });
        if done.is_err() {
            self.rollback();
        }
        done
    }

    /// All rows of an answer.
    pub(super) fn rows<T>(
        &mut self,
        sql: &str,
        parameters: &[Value<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        self.query(sql, parameters, &mut |row| {
            rows.push(read(row)?);
            Ok(())
        })?;
        Ok(rows)
    }

    /// The first row of an answer, if there is one.
    pub(super) fn row<T>(
        &mut self,
        sql: &str,
        parameters: &[Value<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut first = None;
        self.query(sql, parameters, &mut |row| {
            if first.is_none() {
                first = Some(read(row)?);
            }
            Ok(())
        })?;
        Ok(first)
    }

    /// The one value of an answer of one row; `T` is an `Option` where it can be absent.
    pub(super) fn value<T: FromCell>(
        &mut self,
        sql: &str,
        parameters: &[Value<'_>],
    ) -> Result<Option<T>> {
        self.row(sql, parameters, |row| row.get(0))
    }

    /// Whether there is any row.
    pub(super) fn exists(&mut self, sql: &str, parameters: &[Value<'_>]) -> Result<bool> {
        Ok(self.row(sql, parameters, |_| Ok(()))?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_what_the_program_expects_or_refused() {
        let cells = [
            Cell::Null,
            Cell::Int(-1),
            Cell::Int(1),
            Cell::Real(1.5),
            Cell::Text("a"),
            Cell::Blob(&[7; 16]),
            Cell::Blob(&[7; 32]),
        ];
        fn taken<T: FromCell>(cells: &[Cell<'_>]) -> Vec<usize> {
            (0..cells.len())
                .filter(|i| T::from_cell(cells[*i]).is_some())
                .collect()
        }
        assert_eq!(taken::<i64>(&cells), [1, 2]);
        assert_eq!(taken::<u64>(&cells), [2]);
        assert_eq!(taken::<u32>(&cells), [2]);
        assert_eq!(taken::<bool>(&cells), [2]);
        assert_eq!(taken::<f64>(&cells), [3]);
        assert_eq!(taken::<String>(&cells), [4]);
        assert_eq!(taken::<Vec<u8>>(&cells), [5, 6]);
        assert_eq!(taken::<Uuid>(&cells), [5]);
        assert_eq!(taken::<[u8; 32]>(&cells), [6]);
        assert_eq!(taken::<Option<u64>>(&cells), [0, 2]);
    }

    #[test]
    fn a_number_beyond_the_databases_is_the_largest() {
        assert!(matches!(u64::MAX.to_value(), Value::Int(i64::MAX)));
        assert!(matches!(7_u64.to_value(), Value::Int(7)));
        assert!(matches!(None::<u64>.to_value(), Value::Null));
    }
}
