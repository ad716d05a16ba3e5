//! The event log: what is found in it, what is put into it on a condition, and what of it may be forgotten.

use std::sync::Arc;

use lekiwi_protocol::message::kind;
use lekiwi_relay_core::alerts::{ALERT, ALERT_RECEIVER, ALERT_RULE, ALERT_SILENCE};

use super::database::{Database, Result, Row, ToValue, Value, values};
use super::past::RECORDED;
use super::records::{NewEvent, RELAY, StoredEvent};
use super::writer::Op;
use super::{Store, StoreError, alerts, past, transaction};

pub(super) const COLUMNS: &str = "position, aggregate_type, aggregate_id, source, stream, seq, type, ts, received, data, metadata";

/// Types in one [`EventQuery`].
pub const MAX_KINDS: usize = 32;

/// What never is forgotten, whatever the policy says: who takes part, what was ordered and what became of it, and
/// where the log itself has holes; and what fires, by which rules, and who was told.
pub const NEVER_FORGOTTEN: [&str; 13] = [
    "alert.*",
    "alert_rule.*",
    "command.*",
    "configuration.*",
    "estop.*",
    kind::DROPPED,
    kind::REGISTERED,
    kind::QUARANTINED,
    kind::APPROVED,
    kind::REJECTED,
    kind::REFLASHED,
    kind::RENEWED,
    kind::REVOKED,
];

/// Which events of the log. Without conditions: all of them, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventQuery {
    /// Of this robot.
    pub robot: Option<String>,
    /// Of these types, `command.*` being all that begin so; of all types when there are none. The first
    /// [`MAX_KINDS`] count.
    pub kinds: Vec<String>,
    /// Taken by a relay at this time or later.
    pub from_ms: Option<u64>,
    /// Taken by a relay before this time.
    pub to_ms: Option<u64>,
    /// Beyond this position.
    pub after: u64,
    /// Up to this position.
    pub up_to: Option<u64>,
    /// The newest first instead of the oldest.
    pub newest_first: bool,
}

/// What a pattern of types takes.
enum Kind<'a> {
    /// This one.
    One(&'a str),
    /// From the first text on, to before the second one.
    From(&'a str, String),
}

impl<'a> Kind<'a> {
    fn of(pattern: &'a str) -> Self {
        match pattern.strip_suffix('*') {
            // No type has a character beyond this one.
            Some(prefix) => Self::From(prefix, format!("{prefix}\u{10FFFF}")),
            None => Self::One(pattern),
        }
    }
}

impl EventQuery {
    fn read(&self, database: &mut dyn Database, limit: usize) -> Result<Vec<StoredEvent>> {
        let kinds: Vec<Kind<'_>> = self
            .kinds
            .iter()
            .take(MAX_KINDS)
            .map(|kind| Kind::of(kind))
            .collect();
        let mut statement = Statement {
            sql: format!("SELECT {COLUMNS} FROM events WHERE position > "),
            parameters: Vec::new(),
        };
        statement.bind("", self.after.to_value());
        if let Some(position) = &self.up_to {
            statement.bind(" AND position <= ", position.to_value());
        }
        if let Some(robot) = &self.robot {
            let condition = " AND aggregate_type = 'robot' AND aggregate_id = ";
            statement.bind(condition, robot.to_value());
        }
        if let Some(from) = &self.from_ms {
            statement.bind(" AND received >= ", from.to_value());
        }
        if let Some(to) = &self.to_ms {
            statement.bind(" AND received < ", to.to_value());
        }
        for (index, kind) in kinds.iter().enumerate() {
            statement
                .sql
                .push_str(if index == 0 { " AND (" } else { " OR " });
            match kind {
                // Of one type the index has the events in their order.
                Kind::One(kind) => statement.bind("type = ", kind.to_value()),
                Kind::From(first, beyond) => {
                    statement.bind("(type >= ", first.to_value());
                    statement.bind(" AND type < ", beyond.to_value());
                    statement.sql.push(')');
                }
            }
        }
        if !kinds.is_empty() {
            statement.sql.push(')');
        }
        let order = if self.newest_first { "DESC" } else { "ASC" };
        statement.bind(
            &format!(" ORDER BY position {order} LIMIT "),
            limit.to_value(),
        );
        database.rows(&statement.sql, &statement.parameters, event)
    }

    fn page(&self, database: &mut dyn Database, limit: usize) -> Result<Page> {
        let end = last_position(database)?;
        let mut events = self.read(database, limit)?;
        if let Some(robot) = &self.robot {
            events.extend(alerts::of_robot(database, robot, self.after, limit)?);
            events.sort_by_key(|stored| stored.position);
        }
        // Each part has its first `limit`, and so has what they are together.
        let whole = events.len() < limit;
        events.truncate(limit);
        let last = events.last().map_or(self.after, |last| last.position);
        Ok(Page {
            position: if whole { last.max(end) } else { last },
            events,
            whole,
        })
    }
}

/// Events that follow a position.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The events, oldest first.
    pub events: Vec<StoredEvent>,
    /// Everything up to this position is among them, or was before.
    pub position: u64,
    /// Whether there is nothing more.
    pub whole: bool,
}

/// A statement with its values, which are bound and never written into it.
pub(super) struct Statement<'a> {
    pub(super) sql: String,
    pub(super) parameters: Vec<Value<'a>>,
}

impl<'a> Statement<'a> {
    pub(super) fn bind(&mut self, before: &str, value: Value<'a>) {
        self.parameters.push(value);
        self.sql.push_str(before);
        self.sql.push_str(&format!("?{}", self.parameters.len()));
    }
}

/// The log's aggregates are a closed set.
fn aggregate(kind: &str) -> &'static str {
    let known = [
        "robot",
        RELAY,
        ALERT,
        ALERT_RULE,
        ALERT_SILENCE,
        ALERT_RECEIVER,
    ];
    let found = known.into_iter().find(|known| *known == kind);
    found.unwrap_or("other")
}

/// A row of [`COLUMNS`].
pub(super) fn event(row: &Row<'_>) -> Result<StoredEvent> {
    let kind: String = row.get(1)?;
    Ok(StoredEvent {
        position: row.get(0)?,
        event: NewEvent {
            aggregate_type: aggregate(&kind),
            aggregate_id: row.get(2)?,
            source: row.get(3)?,
            stream: row.get(4)?,
            seq: row.get(5)?,
            kind: row.get(6)?,
            ts_ms: row.get(7)?,
            received_ms: row.get(8)?,
            data: row.get(9)?,
            metadata: row.get(10)?,
        },
    })
}

/// What [`Store::append`] expects of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Any,
    /// No event of the same thing yet.
    Empty,
    /// The newest event of the same thing at this position.
    Exact(u64),
}

/// What became of [`Store::append`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// They are in the log, at these positions; also when they were there before.
    Appended {
        /// One for each event, in their order.
        positions: Vec<u64>,
    },
    /// Somebody else was faster: nothing was written.
    Conflict {
        /// The position of the newest event of the same thing, 0 when there is none.
        actual: u64,
    },
}

/// Which events may be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRetention {
    /// The type, or `session.*` for all that begin so.
    pub kind: String,
    /// Those that a relay took before this time.
    pub before_ms: u64,
}

/// Deletes at most `limit` events of each sort; false when there are no more. What is not in any picture yet stays, and
/// so does the newest event of the log: no position is given twice. What changes a robot's record is for
/// [`past::forget`].
pub(super) fn forget(
    database: &mut dyn Database,
    rule: &EventRetention,
    limit: u64,
) -> Result<bool> {
    // Of one type: from its name on, to before the next text that there can be.
    let (first, beyond) = match Kind::of(&rule.kind) {
        Kind::One(kind) => (kind, format!("{kind}\u{1}")),
        Kind::From(first, beyond) => (first, beyond),
    };
    let never = NEVER_FORGOTTEN.map(|kind| match kind.strip_suffix('*') {
        Some(prefix) => format!(" AND type NOT LIKE '{prefix}%'"),
        None => format!(" AND type <> '{kind}'"),
    });
    let never = never.concat();
    let deleted = database.execute(
        &format!(
            "DELETE FROM events WHERE position IN (SELECT position FROM events
             WHERE type >= ?1 AND type < ?2 AND received < ?3 AND NOT {RECORDED}
               AND position <= (SELECT COALESCE(max(position), 0) FROM robots)
               AND position < (SELECT max(position) FROM events){never} LIMIT ?4)"
        ),
        values![first, beyond, rule.before_ms, limit],
    )?;
    let recorded = past::forget(database, rule, (first, &beyond), &never, limit)?;
    Ok(deleted == limit || recorded == limit)
}

/// The newest position of what the event is about.
const NEWEST: &str =
    "SELECT COALESCE(max(position), 0) FROM events WHERE aggregate_type = ?1 AND aggregate_id = ?2";
const PLACE: &str = "SELECT position FROM events WHERE source = ?1 AND stream = ?2 AND seq = ?3";

impl Store {
    /// Events that the query is about, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find_events(
        &self,
        query: EventQuery,
        limit: usize,
    ) -> std::result::Result<Vec<StoredEvent>, StoreError> {
        self.inner
            .readers
            .read("find_events", move |database| query.read(database, limit))
            .await
    }

    /// Events of one robot with a position beyond `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn events_of_robot(
        &self,
        robot: &str,
        after: u64,
        limit: usize,
    ) -> std::result::Result<Vec<StoredEvent>, StoreError> {
        let query = EventQuery {
            robot: Some(robot.to_owned()),
            after,
            ..EventQuery::default()
        };
        self.find_events(query, limit).await
    }

    /// At most `limit` events beyond `after`, of one robot and its alerts or of everything, and how far that reaches
    /// into the log: of a robot that has nothing new it is the log's end.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn page(
        &self,
        robot: Option<&str>,
        after: u64,
        limit: usize,
    ) -> std::result::Result<Page, StoreError> {
        let query = EventQuery {
            robot: robot.map(str::to_owned),
            after,
            ..EventQuery::default()
        };
        self.inner
            .readers
            .read("page", move |database| {
                // What is appended meanwhile must not be missing in a part of the answer.
                database.begin_reading()?;
                let page = query.page(database, limit);
                database.rollback();
                page
            })
            .await
    }

    /// Events of all aggregates with a position beyond `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn events(
        &self,
        after: u64,
        limit: usize,
    ) -> std::result::Result<Vec<StoredEvent>, StoreError> {
        let query = EventQuery {
            after,
            ..EventQuery::default()
        };
        self.find_events(query, limit).await
    }

    /// The position of the newest event; 0 for an empty log.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn last_position(&self) -> std::result::Result<u64, StoreError> {
        self.inner
            .readers
            .read("last_position", last_position)
            .await
    }

    /// Puts events about one thing into the log if it stands there as expected, and answers after the commit. The
    /// same events again (source, stream, seq) are no conflict: they are where they are.
    ///
    /// # Errors
    /// When they are about more than one thing, or cannot be written.
    pub async fn append(
        &self,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> std::result::Result<Appended, StoreError> {
        let about = |event: &NewEvent| (event.aggregate_type, event.aggregate_id.clone());
        let Some(first) = events.first().map(about) else {
            return Ok(Appended::Appended {
                positions: Vec::new(),
            });
        };
        if let Some(other) = events.iter().map(about).find(|other| *other != first) {
            let name = |(kind, id): (&str, Arc<str>)| format!("{kind} {id}");
            return Err(StoreError::Mixed {
                first: name(first),
                other: name(other),
            });
        }
        self.write_events(
            move |database, commit| {
                let place = |database: &mut dyn Database, event: &NewEvent| {
                    database.value::<u64>(PLACE, values![event.source, event.stream, event.seq])
                };
                let mut known = Vec::with_capacity(events.len());
                for event in &events {
                    known.extend(place(database, event)?);
                }
                if known.len() == events.len() {
                    return Ok(Appended::Appended { positions: known });
                }
                let actual = database
                    .value(NEWEST, values![first.0, first.1])?
                    .unwrap_or_default();
                let stands = match expected {
                    Expected::Any => true,
                    Expected::Empty => actual == 0,
                    Expected::Exact(position) => actual == position,
                };
                if !stands {
                    return Ok(Appended::Conflict { actual });
                }
                let new: Vec<&NewEvent> = events.iter().collect();
                transaction::insert_events(database, &new, commit)?;
                let mut positions = Vec::with_capacity(events.len());
                for event in &events {
                    positions.extend(place(database, event)?);
                }
                Ok(Appended::Appended { positions })
            },
            |_| (),
        )
        .await
    }

    /// Deletes events by these rules, little by little, beside other writes. What [`NEVER_FORGOTTEN`] says, and the
    /// newest event of all, stays.
    pub fn forget_events(&self, rules: Vec<EventRetention>) {
        // A full queue has better things to do; the next call will come.
        let _ = self.inner.queue.try_send(Op::Forget(rules));
    }
}

/// The position of the newest event; 0 for an empty log.
pub(super) fn last_position(database: &mut dyn Database) -> Result<u64> {
    let position = database.value("SELECT COALESCE(max(position), 0) FROM events", &[])?;
    Ok(position.unwrap_or_default())
}
