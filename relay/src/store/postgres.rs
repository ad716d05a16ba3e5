//! PostgreSQL: one database that several relays share. The blocking client, for the store's writer and readers are
//! threads of their own.
//!
//! Every writing transaction takes one advisory lock first, of all relays on the database: so positions appear in
//! their order (who follows the log never misses one that comes late), and what is uncertain after a lost
//! connection can be found out.

mod lead;
mod listen;
mod migrate;
mod options;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::postgres::error::{Error, Severity};
use ::postgres::fallible_iterator::FallibleIterator;
use ::postgres::types::{FromSql, IsNull, ToSql, Type, WrongType, to_sql_checked};
use ::postgres::{Client, SimpleQueryMessage, Statement};
use uuid::Uuid;

use super::StoreError;
use super::database::{
    Cell, Database, DatabaseError, News, Result, Row, SampleRow, Value, storable, values,
};
use super::records::NewEvent;
use crate::clock;
pub(super) use lead::campaign;
pub(super) use listen::listen;
pub use options::{Options, OptionsError};

/// The advisory lock of the one transaction that writes ("lekiwi w").
const WRITER_LOCK: i64 = 0x6c65_6b69_7769_2077;
/// The channel on which relays tell each other.
const CHANNEL: &str = "lekiwi";
/// A connection that was used so recently is taken to be good.
const FRESH: Duration = Duration::from_secs(1);
/// How long a connection may take to say that it is.
const ANSWER: Duration = Duration::from_secs(2);
const DAY_MS: i64 = 86_400_000;

/// A connection to a database; made again where it was lost.
pub(super) struct Postgres {
    options: Arc<Options>,
    is_reader: bool,
    client: Option<Client>,
    statements: HashMap<Box<str>, Statement>,
    is_in_transaction: bool,
    /// Days for which there is room in history.
    days: HashSet<i64>,
    used: Instant,
}

impl Postgres {
    /// Connects, and brings the database to this version.
    pub(super) fn open_writer(options: &Arc<Options>) -> std::result::Result<Self, StoreError> {
        let mut this = Self::new(options, false);
        migrate::run(&mut this, options)?;
        Ok(this)
    }

    /// Connects for reading only.
    pub(super) fn open_reader(options: &Arc<Options>) -> Result<Self> {
        let mut this = Self::new(options, true);
        this.with(|_, _| Ok(()))?;
        Ok(this)
    }

    fn new(options: &Arc<Options>, is_reader: bool) -> Self {
        Self {
            options: options.clone(),
            is_reader,
            client: None,
            statements: HashMap::new(),
            is_in_transaction: false,
            days: HashSet::new(),
            used: clock::monotonic(),
        }
    }

    /// Does something with the connection, made again where there is none. What is lost with it is forgotten.
    fn with<T>(
        &mut self,
        work: impl FnOnce(
            &mut Client,
            &mut HashMap<Box<str>, Statement>,
        ) -> std::result::Result<T, Error>,
    ) -> Result<T> {
        let client = match &mut self.client {
            Some(client) => client,
            None => self.client.insert(self.options.connect(self.is_reader)?),
        };
        self.used = clock::monotonic();
        let error = match work(client, &mut self.statements) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if !is_lost(&error) {
            return Err(error.into());
        }
        self.client = None;
        self.statements.clear();
        self.days.clear();
        self.is_in_transaction = false;
        Err(DatabaseError::Lost(in_words(&error)))
    }

    /// Runs a statement with typed parameters.
    fn typed(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        self.with(|client, statements| {
            let statement = prepared(client, statements, sql)?;
            client.execute(&statement, parameters)
        })
    }
}

/// The statement, prepared once for each connection.
fn prepared(
    client: &mut Client,
    statements: &mut HashMap<Box<str>, Statement>,
    sql: &str,
) -> std::result::Result<Statement, Error> {
    if let Some(statement) = statements.get(sql) {
        return Ok(statement.clone());
    }
    // Nothing else in the store's SQL has a question mark.
    let statement = client.prepare(&sql.replace('?', "$"))?;
    statements.insert(sql.into(), statement.clone());
    Ok(statement)
}

/// Whether the connection is over: what the server refuses by itself leaves it as it is.
fn is_lost(error: &Error) -> bool {
    match error.as_db_error() {
        Some(refusal) => matches!(
            refusal.parsed_severity(),
            Some(Severity::Fatal | Severity::Panic)
        ),
        None => !error
            .source()
            .is_some_and(|source| source.is::<WrongType>()),
    }
}

/// What happened, for people.
pub(super) fn in_words(error: &Error) -> String {
    if let Some(refusal) = error.as_db_error() {
        let detail = refusal
            .detail()
            .map_or_else(String::new, |detail| format!(" ({detail})"));
        return format!("PostgreSQL says: {}{detail}", refusal.message());
    }
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut ::postgres::types::private::BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match *self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(integer) => integer.to_sql(ty, out),
            Self::Real(real) => real.to_sql(ty, out),
            Self::Text(text) => storable(text).to_sql(ty, out),
            Self::Blob(bytes) => bytes.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        [
            Type::INT8,
            Type::FLOAT8,
            Type::TEXT,
            Type::BYTEA,
            Type::UUID,
        ]
        .contains(ty)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Cell<'a> {
    fn from_sql(
        ty: &Type,
        raw: &'a [u8],
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match *ty {
            Type::INT8 => Self::Int(i64::from_sql(ty, raw)?),
            Type::INT4 => Self::Int(i32::from_sql(ty, raw)?.into()),
            Type::BOOL => Self::Int(bool::from_sql(ty, raw)?.into()),
            Type::FLOAT8 => Self::Real(f64::from_sql(ty, raw)?),
            Type::TEXT | Type::NAME => Self::Text(<&str>::from_sql(&Type::TEXT, raw)?),
            _ => Self::Blob(raw),
        })
    }

    fn from_sql_null(
        _: &Type,
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(ty: &Type) -> bool {
        [
            Type::INT8,
            Type::INT4,
            Type::BOOL,
            Type::FLOAT8,
            Type::TEXT,
            Type::NAME,
            Type::BYTEA,
            Type::UUID,
        ]
        .contains(ty)
    }
}

/// What a column of an answer holds.
pub(super) fn cell(row: &::postgres::Row, column: usize) -> Result<Cell<'_>> {
    Ok(row.try_get(column)?)
}

impl Database for Postgres {
    fn execute(&mut self, sql: &str, parameters: &[Value<'_>]) -> Result<u64> {
        let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|p| p as _).collect();
        self.typed(sql, &parameters)
    }

    fn query(
        &mut self,
        sql: &str,
        parameters: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut outcome = Ok(());
        self.with(|client, statements| {
            let statement = prepared(client, statements, sql)?;
            let parameters = parameters.iter().map(|p| p as &(dyn ToSql + Sync));
            let mut rows = client.query_raw(&statement, parameters)?;
            while let Some(row) = rows.next()? {
                outcome = each(&Row::Postgres(&row));
                if outcome.is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        outcome
    }

    fn batch(&mut self, sql: &str) -> Result<()> {
        self.with(|client, _| client.batch_execute(sql))
    }

    fn begin(&mut self) -> Result<i64> {
        let was_connected = self.client.is_some();
        let begun = match self.begin_once() {
            // It went away while nobody used it: once more, with a new one.
            Err(DatabaseError::Lost(_)) if was_connected => self.begin_once(),
            other => other,
        };
        self.is_in_transaction = !matches!(begun, Err(DatabaseError::Lost(_)));
        if begun.is_err() {
            self.rollback();
        }
        begun
    }

    fn begin_reading(&mut self) -> Result<()> {
        self.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        self.is_in_transaction = true;
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        let committed = self.batch("COMMIT");
        self.is_in_transaction = false;
        committed
    }

    fn is_committed(&mut self, transaction: i64) -> Result<bool> {
        let status = "SELECT COALESCE(txid_status(?1), '') = 'committed'";
        match (self as &mut dyn Database).value(status, values![transaction]) {
            Err(error @ DatabaseError::Lost(_)) => Err(error),
            // A server that does not know it has lost it; what is written again and is there is a duplicate.
            answer => Ok(answer.ok().flatten().unwrap_or_default()),
        }
    }

    fn rollback(&mut self) {
        // Room that was made in history may be undone with it.
        self.days.clear();
        if self.is_in_transaction {
            self.is_in_transaction = false;
            // A lost connection undoes it as well.
            let _ = self.batch("ROLLBACK");
        }
    }

    fn is_in_transaction(&self) -> bool {
        self.is_in_transaction
    }

    fn is_usable(&mut self) -> bool {
        if self.used.elapsed() < FRESH {
            return self.client.is_some();
        }
        self.client
            .as_mut()
            .is_some_and(|client| client.is_valid(ANSWER).is_ok())
    }

    fn insert_events(&mut self, events: &[&NewEvent]) -> Result<Vec<Option<u64>>> {
        let known = self.known(events)?;
        let last: i64 = self.with(|client, statements| {
            let sql = "SELECT COALESCE(max(position), 0) FROM events";
            let statement = prepared(client, statements, sql)?;
            client.query_one(&statement, &[])?.try_get(0)
        })?;
        let mut seen = HashSet::new();
        let mut new = Vec::new();
        let mut positions = Vec::with_capacity(events.len());
        for (event, known) in events.iter().zip(known) {
            if known || !seen.insert((&*event.source, event.stream, event.seq)) {
                positions.push(None);
            } else {
                new.push(*event);
                positions.push(Some(last as u64 + new.len() as u64));
            }
        }
        if new.is_empty() {
            return Ok(positions);
        }
        let numbers: Vec<i64> = (last + 1..).take(new.len()).collect();
        fn texts<'a>(events: &[&'a NewEvent], text: fn(&NewEvent) -> &str) -> Vec<Cow<'a, str>> {
            events.iter().map(|event| storable(text(event))).collect()
        }
        let times = |time: fn(&NewEvent) -> u64| -> Vec<i64> {
            new.iter().map(|event| time(event) as i64).collect()
        };
        let streams: Vec<Uuid> = new.iter().map(|event| event.stream).collect();
        self.typed(
            "INSERT INTO events (position, aggregate_type, aggregate_id, source, stream, seq, type, ts, received, data, metadata)
             SELECT * FROM unnest(?1::int8[], ?2::text[], ?3::text[], ?4::text[], ?5::uuid[], ?6::int8[], ?7::text[],
                                  ?8::int8[], ?9::int8[], ?10::text[], ?11::text[])",
            &[
                &numbers,
                &texts(&new, |e| e.aggregate_type),
                &texts(&new, |e| &e.aggregate_id),
                &texts(&new, |e| &e.source),
                &streams,
                &times(|e| e.seq),
                &texts(&new, |e| &e.kind),
                &times(|e| e.ts_ms),
                &times(|e| e.received_ms),
                &texts(&new, |e| &e.data),
                &texts(&new, |e| &e.metadata),
            ],
        )?;
        Ok(positions)
    }

    fn insert_samples(&mut self, samples: &[SampleRow]) -> Result<()> {
        for sample in samples {
            self.make_room(sample.ts)?;
        }
        let column =
            |column: fn(&SampleRow) -> i64| -> Vec<i64> { samples.iter().map(column).collect() };
        let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
        self.typed(
            "INSERT INTO telemetry (robot, metric, ts, value)
             SELECT DISTINCT ON (robot, metric, ts) robot, metric, ts, value
             FROM unnest(?1::int8[], ?2::int8[], ?3::int8[], ?4::float8[])
                  WITH ORDINALITY AS s (robot, metric, ts, value, n)
             ORDER BY robot, metric, ts, n DESC
             ON CONFLICT (robot, metric, ts) DO UPDATE SET value = excluded.value",
            &[
                &column(|s| s.robot),
                &column(|s| s.metric),
                &column(|s| s.ts),
                &values,
            ],
        )?;
        Ok(())
    }

    fn make_room(&mut self, ts_ms: i64) -> Result<()> {
        if self.days.insert(ts_ms.div_euclid(DAY_MS)) {
            self.typed("SELECT telemetry_prepare(?1)", &[&ts_ms])?;
        }
        Ok(())
    }

    fn drop_history(&mut self, before_ms: u64) -> Result<()> {
        self.days.clear();
        self.execute("SELECT telemetry_forget(?1)", values![before_ms])?;
        Ok(())
    }

    fn probe(&mut self) -> Result<()> {
        self.batch("UPDATE lekiwi_schema SET version = version")
    }

    fn tell(&mut self, news: News) -> Result<()> {
        let news = match news {
            News::Log(position) => format!("log {position}"),
            News::Identity => "identity".to_owned(),
        };
        self.execute(
            "SELECT pg_notify(?1, ?2)",
            &[Value::Text(CHANNEL), Value::Text(&news)],
        )?;
        Ok(())
    }

    fn renumber(&mut self, table: &str) -> Result<()> {
        self.batch(&format!(
            "SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT COALESCE(max(id), 0) + 1 FROM {table}), false)"
        ))
    }
}

impl Postgres {
    /// Begins, takes the lock and learns the transaction's number, all in one message: a round trip to a server may
    /// cost as much as what is written.
    fn begin_once(&mut self) -> Result<i64> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
             SELECT pg_advisory_xact_lock({WRITER_LOCK}), txid_current()"
        );
        let answers = self.with(|client, _| client.simple_query(&begin))?;
        let number = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(1)?.parse().ok(),
            _ => None,
        });
        number.ok_or(DatabaseError::Column {
            column: 1,
            expected: "the number of the transaction",
            actual: "something else",
        })
    }

    /// Which of the events the log has.
    fn known(&mut self, events: &[&NewEvent]) -> Result<Vec<bool>> {
        let sources: Vec<&str> = events.iter().map(|event| &*event.source).collect();
        let streams: Vec<Uuid> = events.iter().map(|event| event.stream).collect();
        let seqs: Vec<i64> = events.iter().map(|event| event.seq as i64).collect();
        let mut known = vec![false; events.len()];
        self.with(|client, statements| {
            let statement = prepared(
                client,
                statements,
                "SELECT k.n FROM unnest(?1::text[], ?2::uuid[], ?3::int8[]) WITH ORDINALITY AS k (source, stream, seq, n)
                 JOIN events e ON e.source = k.source AND e.stream = k.stream AND e.seq = k.seq",
            )?;
            for row in client.query(&statement, &[&sources, &streams, &seqs])? {
                let number: i64 = row.try_get(0)?;
                // Counted from 1.
                if let Some(known) = known.get_mut(number as usize - 1) {
                    *known = true;
                }
            }
            Ok(())
        })?;
        Ok(known)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The client has a runtime of its own inside, which must not end on a thread of the program's.
        if let Some(client) = self.client.take()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            std::thread::spawn(move || drop(client));
        }
    }
}
