//! What the log has of alerts: of one robot, for replays, and of all, for people who look at the past.
//!
//! An alert's id begins with its rule and its robot, so that both find its events by what they are about. What receivers
//! were told is about many alerts at once, and is looked through from its newest on, so far at a time.

use lekiwi_protocol::message::kind;
use lekiwi_relay_core::alerts::history::About;
use lekiwi_relay_core::alerts::{ALERT, ALERT_RECEIVER, ALERT_SILENCE};

use super::database::{Database, Result, ToValue, Value, values};
use super::log::{COLUMNS, event};
use super::records::StoredEvent;
use super::{Store, StoreError};

/// Events of a type that are looked through at once.
const LOOKS: usize = 10_000;

/// Events about alerts that may be asked for, in any order.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertEvents {
    /// The events. Some may be about others.
    pub events: Vec<StoredEvent>,
    /// From this position on they are all there are; of what is before, some may be missing.
    pub down_to: u64,
}

impl Store {
    /// The newest events about alerts before a position: at least `limit`, where so many are found without looking too
    /// far.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn alert_events(
        &self,
        about: About,
        before: u64,
        limit: usize,
    ) -> std::result::Result<AlertEvents, StoreError> {
        self.inner
            .readers
            .read("alert_events", move |database| {
                // One event that is appended meanwhile must not be there without those before it.
                database.begin_reading()?;
                let found = find(database, &about, before, limit);
                database.rollback();
                found
            })
            .await
    }
}

fn find(
    database: &mut dyn Database,
    about: &About,
    before: u64,
    limit: usize,
) -> Result<AlertEvents> {
    let mut search = Search {
        database,
        before,
        limit,
        found: AlertEvents {
            events: Vec::new(),
            down_to: 0,
        },
    };
    let robot = about.robot.as_ref();
    match (&about.alert, robot) {
        (Some(alert), _) => {
            search.about(&alert.id(), None)?;
        }
        (None, Some(robot)) => {
            for rule in rules(search.database)? {
                if about
                    .rule
                    .as_ref()
                    .is_none_or(|wanted| wanted.as_str() == rule)
                {
                    let (first, beyond) = ids(&rule, robot.as_str());
                    search.about(&first, Some(&beyond))?;
                }
            }
        }
        (None, None) => {
            let id = about.rule.as_ref().map(|rule| format!("{rule}:%"));
            for kind in [
                kind::ALERT_FIRING,
                kind::ALERT_RESOLVED,
                kind::ALERT_ACKNOWLEDGED,
            ] {
                search.of_type(ALERT, kind, "aggregate_id", id.as_deref())?;
            }
        }
    }
    for kind in [kind::ALERT_SILENCED, kind::ALERT_UNSILENCED] {
        search.of_type(ALERT_SILENCE, kind, "data", None)?;
    }
    let told = match (&about.alert, &about.rule, robot) {
        (Some(alert), _, _) => Some(format!("%\"{}\"%", alert.id())),
        (None, Some(rule), Some(robot)) => Some(format!("%\"{rule}:{robot}:%")),
        (None, Some(rule), None) => Some(format!("%\"{rule}:%")),
        (None, None, Some(robot)) => Some(format!("%:{robot}:%")),
        (None, None, None) => None,
    };
    for kind in [kind::ALERT_NOTIFIED, kind::ALERT_UNDELIVERED] {
        search.of_type(ALERT_RECEIVER, kind, "data", told.as_deref())?;
    }
    Ok(search.found)
}

struct Search<'a> {
    database: &'a mut dyn Database,
    before: u64,
    limit: usize,
    found: AlertEvents,
}

impl Search<'_> {
    /// Events about the alert of this id, or of those from it to before another.
    fn about(&mut self, id: &str, beyond: Option<&str>) -> Result<()> {
        match beyond {
            None => self.take(ALERT, "aggregate_id = ?4", &[id.to_value()], 0),
            Some(beyond) => {
                let between = "aggregate_id >= ?4 AND aggregate_id < ?5";
                self.take(ALERT, between, &[id.to_value(), beyond.to_value()], 0)
            }
        }
    }

    /// Events of a type; of those with `like` in a column, as far as is looked at once.
    fn of_type(
        &mut self,
        aggregate: &'static str,
        kind: &str,
        column: &str,
        like: Option<&str>,
    ) -> Result<()> {
        let Some(like) = like else {
            return self.take(aggregate, "type = ?4", &[kind.to_value()], 0);
        };
        let last = "SELECT position FROM events WHERE type = ?1 AND position < ?2 ORDER BY position DESC LIMIT 1 OFFSET ?3";
        let last = self
            .database
            .value(last, values![kind, self.before, LOOKS - 1])?;
        let condition = format!("type = ?4 AND {column} LIKE ?5");
        let values = [kind.to_value(), like.to_value()];
        self.take(aggregate, &condition, &values, last.unwrap_or_default())
    }

    /// The newest events that `condition` is true of, whose values are from `?4` on, down to a position.
    fn take(
        &mut self,
        aggregate: &'static str,
        condition: &str,
        values: &[Value<'_>],
        down_to: u64,
    ) -> Result<()> {
        // One more tells whether there is another page.
        let most = self.limit + 1;
        let sql = format!(
            "SELECT {COLUMNS} FROM events WHERE position < ?1 AND position >= ?2 AND aggregate_type = '{aggregate}'
               AND {condition} ORDER BY position DESC LIMIT ?3"
        );
        let mut parameters = values![self.before, down_to, most].to_vec();
        parameters.extend_from_slice(values);
        let found = self.database.rows(&sql, &parameters, event)?;
        let last = found.last().filter(|_| found.len() == most);
        let down_to = last.map_or(down_to, |last| last.position);
        self.found.down_to = self.found.down_to.max(down_to);
        self.found.events.extend(found);
        Ok(())
    }
}

/// Events of a robot's alerts beyond a position, by rule; the first `limit` of each.
pub(super) fn of_robot(
    database: &mut dyn Database,
    robot: &str,
    after: u64,
    limit: usize,
) -> Result<Vec<StoredEvent>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM events WHERE aggregate_type = '{ALERT}' AND aggregate_id >= ?1 AND aggregate_id < ?2
           AND position > ?3 ORDER BY position LIMIT ?4"
    );
    let mut events = Vec::new();
    for rule in rules(database)? {
        let (first, beyond) = ids(&rule, robot);
        events.extend(database.rows(&sql, values![first, beyond, after, limit], event)?);
    }
    Ok(events)
}

/// All rules by which there ever was an alert. Each costs one step in the index, however many alerts there are.
fn rules(database: &mut dyn Database) -> Result<Vec<String>> {
    let next = format!(
        "SELECT aggregate_id FROM events WHERE aggregate_type = '{ALERT}' AND aggregate_id >= ?1 ORDER BY aggregate_id LIMIT 1"
    );
    let (mut rules, mut from) = (Vec::new(), String::new());
    while let Some(id) = database.value::<String>(&next, values![from])? {
        let rule = id.split(':').next().unwrap_or_default();
        // The character that follows the colon.
        from = format!("{rule};");
        rules.push(rule.to_owned());
    }
    Ok(rules)
}

/// The ids of a robot's alerts by a rule: from the first text on, to before the second one.
fn ids(rule: &str, robot: &str) -> (String, String) {
    (format!("{rule}:{robot}:"), format!("{rule}:{robot};"))
}
