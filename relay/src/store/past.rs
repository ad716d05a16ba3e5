//! Looking back: pictures of robots that are kept over time, and the fleet as the log had it at an earlier position.
//!
//! Invariants:
//! * Of each robot at most one picture an hour is kept; after a week one a day, after a quarter of a year one in 30 days.
//!   Each robot's hour begins at a time of its own, so that not all are written at once.
//! * An answer is exact in all that the log says, or refused: an event that changes a robot's record is forgotten only
//!   when a picture includes it, and before the latest such picture nobody can look back.

use lekiwi_protocol::Timestamp;
use lekiwi_relay_core::{Past, Picture};

use super::database::{Database, DatabaseError, Result, values};
use super::log::{COLUMNS, EventRetention, event};
use super::records::Snapshot;
use super::{Store, StoreError};

/// Time between two pictures of a robot that are kept.
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// For how long all of them are.
const ALL_MS: u64 = 7 * DAY_MS;
/// For how long the last of each day is.
const DAILY_MS: u64 = 90 * DAY_MS;
/// Of such spans the last is kept for ever: what may be forgotten of the log later needs a picture of its time.
const MONTH_MS: u64 = 30 * DAY_MS;

/// Events that change what is recorded of robots.
pub(super) const RECORDED: &str =
    "(type = 'configuration.desired' OR (type >= 'robot.' AND type < 'robot/'))";
/// The position before which the log is not whole.
const BASE: &str = "(SELECT COALESCE(max(position), 0) FROM log_base)";

/// Which moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// As of the last event that a relay took by then.
    Time(u64),
    /// As of this position of the log.
    Position(u64),
}

/// What looking back brings.
#[derive(Debug)]
pub enum LookedBack {
    /// The robots then, and the log's position.
    Past(Past, u64),
    /// It is before what can be looked back at, which begins at this position, taken then; not at all where the log is
    /// empty.
    Gone(Option<(u64, u64)>),
    /// The log goes only so far.
    NotYet(u64),
}

impl Store {
    /// All robots at an earlier moment, or one of them.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn look_back(
        &self,
        moment: Moment,
        robot: Option<String>,
    ) -> std::result::Result<LookedBack, StoreError> {
        self.inner
            .readers
            .read("look_back", move |database| {
                // What is forgotten meanwhile must not be missing in one half of the answer.
                database.begin_reading()?;
                let answer = look_back(database, moment, robot.as_deref());
                database.rollback();
                answer
            })
            .await
    }
}

fn look_back(
    database: &mut dyn Database,
    moment: Moment,
    robot: Option<&str>,
) -> Result<LookedBack> {
    let place = |database: &mut dyn Database, rest: &str| {
        let sql = format!("SELECT position, received FROM events WHERE {rest} LIMIT 1");
        database.row(&sql, &[], |row| {
            Ok((row.get::<u64>(0)?, row.get::<u64>(1)?))
        })
    };
    let begin = place(database, &format!("position >= {BASE} ORDER BY position"))?;
    let Some((first, _)) = begin else {
        return Ok(LookedBack::Gone(None));
    };
    let position = match moment {
        Moment::Position(position) => {
            let last = super::log::last_position(database)?;
            if position > last {
                return Ok(LookedBack::NotYet(last));
            }
            position
        }
        Moment::Time(ms) => database
            .value(
                "SELECT position FROM events WHERE received <= ?1 ORDER BY received DESC, position DESC LIMIT 1",
                values![ms],
            )?
            .unwrap_or_default(),
    };
    if position < first {
        return Ok(LookedBack::Gone(begin));
    }
    let by = match moment {
        Moment::Position(_) => u64::MAX,
        Moment::Time(ms) => ms,
    };
    let mut past = Past::new(position);
    // The newest picture of each robot by then.
    let mut sql = "SELECT r.robot, p.position, p.taken, p.picture FROM robots r JOIN pictures p ON p.robot = r.id
         AND p.position = (SELECT max(position) FROM pictures WHERE robot = r.id AND position <= ?1)"
        .to_owned();
    let mut parameters = values![position, robot].to_vec();
    match robot {
        Some(_) => sql.push_str(" WHERE r.robot = ?2"),
        None => drop(parameters.pop()),
    }
    database.query(&sql, &parameters, &mut |row| {
        let json: String = row.get(3)?;
        let picture = Picture::from_json(&json).map_err(|_| DatabaseError::Column {
            column: 3,
            expected: "the picture of a robot",
            actual: "another text",
        })?;
        // While nothing happens in the log, a picture may be of its position and of a later time.
        let taken: u64 = row.get(2)?;
        let taken = (taken <= by).then_some(Timestamp::from_ms(taken));
        past.restore(picture, row.get(1)?, taken);
        Ok(())
    })?;
    // What the log has of each robot since.
    let columns = COLUMNS.replace("position", "e.position");
    let mut sql = format!(
        "SELECT {columns} FROM robots r JOIN events e ON e.aggregate_type = 'robot' AND e.aggregate_id = r.robot
         AND e.position <= ?1 AND e.position > COALESCE(
             (SELECT max(position) FROM pictures WHERE robot = r.id AND position <= ?1), 0)
         WHERE {RECORDED}"
    );
    if robot.is_some() {
        sql.push_str(" AND r.robot = ?2");
    }
    sql.push_str(" ORDER BY e.position");
    database.query(&sql, &parameters, &mut |row| {
        if let Some(fact) = event(row)?.fact() {
            past.fold(&fact);
        }
        Ok(())
    })?;
    Ok(LookedBack::Past(past, position))
}

/// When the last picture of the robot was kept.
pub(super) fn last_kept(database: &mut dyn Database, robot: i64) -> Result<Option<u64>> {
    let sql = "SELECT taken FROM pictures WHERE robot = ?1 ORDER BY position DESC LIMIT 1";
    database.value(sql, values![robot])
}

/// Whether it is time to keep another one of this robot, by its number: in each of its hours, also by a clock that was
/// set back.
pub(super) fn is_due(robot: i64, last_ms: u64, now_ms: u64) -> bool {
    let hour = |ms: u64| (ms + phase(robot)) / HOUR_MS;
    hour(now_ms) != hour(last_ms)
}

/// How much before that of the clock the robot's hour begins. Multiples of the golden ratio, of which numbers that follow
/// each other are spread the most evenly.
fn phase(robot: i64) -> u64 {
    let part = (robot as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    (part * HOUR_MS) >> 32
}

/// Keeps a picture, and lets go of those that are too many by now. `last_ms`: when the one before was kept.
pub(super) fn keep(
    database: &mut dyn Database,
    robot: i64,
    snapshot: &Snapshot,
    last_ms: Option<u64>,
) -> Result<()> {
    database.execute(
        "INSERT INTO pictures (robot, position, taken, picture) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (robot, position) DO NOTHING",
        values![
            robot,
            snapshot.position,
            snapshot.taken_ms,
            snapshot.picture
        ],
    )?;
    // A clock that was just set says nothing of how old the others are; the next picture is of the same clock.
    if last_ms.is_none_or(|last| snapshot.taken_ms.abs_diff(last) > ALL_MS) {
        return Ok(());
    }
    // Each beside the next one: where nobody can look back, all but the last; of a day, and later of a month, all but
    // the last. What the log's base stands on has its next one beyond it, and stays.
    database.execute(
        &format!(
            "DELETE FROM pictures WHERE robot = ?1 AND position IN (
                 SELECT p.position FROM pictures p JOIN pictures n ON n.robot = p.robot AND n.position =
                     (SELECT min(position) FROM pictures WHERE robot = p.robot AND position > p.position)
                 WHERE p.robot = ?1 AND (n.position <= {BASE} OR (p.position > {BASE}
                     AND ((p.taken < ?3 AND p.taken / {MONTH_MS} = n.taken / {MONTH_MS})
                         OR (p.taken < ?2 AND p.taken / {DAY_MS} = n.taken / {DAY_MS})))))"
        ),
        values![
            robot,
            snapshot.taken_ms.saturating_sub(ALL_MS),
            snapshot.taken_ms.saturating_sub(DAILY_MS)
        ],
    )?;
    Ok(())
}

/// Deletes at most `limit` events that change what is recorded of robots, of types from `first` to before `beyond`;
/// how many. Pictures of them must be there; from the latest one that is as old as the events may be on, the log is
/// as good as whole.
pub(super) fn forget(
    database: &mut dyn Database,
    rule: &EventRetention,
    (first, beyond): (&str, &str),
    never: &str,
    limit: u64,
) -> Result<u64> {
    // None of these types changes a record but `robot.*`: what wants a configuration is never forgotten.
    if beyond <= "robot." || first >= "robot/" {
        return Ok(0);
    }
    let base: u64 = database
        .value(
            "SELECT COALESCE(max(position), 0) FROM pictures WHERE taken <= ?1",
            values![rule.before_ms],
        )?
        .unwrap_or_default();
    let deleted = database.execute(
        &format!(
            "DELETE FROM events WHERE position IN (SELECT position FROM events
             WHERE {RECORDED} AND aggregate_type = 'robot' AND type >= ?1 AND type < ?2 AND received < ?3
               AND position < (SELECT max(position) FROM events)
               AND position <= (SELECT max(p.position) FROM robots r JOIN pictures p ON p.robot = r.id
                   WHERE r.robot = events.aggregate_id AND p.position <= ?4){never} LIMIT ?5)"
        ),
        values![first, beyond, rule.before_ms, base, limit],
    )?;
    let before: u64 = database
        .value(&format!("SELECT {BASE}"), &[])?
        .unwrap_or_default();
    if deleted > 0 && base > before {
        database.execute("DELETE FROM log_base", &[])?;
        database.execute("INSERT INTO log_base (position) VALUES (?1)", values![base])?;
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A relay takes pictures of all robots that change twice a minute.
    #[test]
    fn hourly_pictures_of_a_fleet_are_spread_over_the_hour() {
        const TICK_MS: u64 = 30_000;
        const ROBOTS: i64 = 1_200;
        // All were kept at once, when the relay started.
        let start = 1_795_000_000_000;
        let mut last = vec![start; ROBOTS as usize];
        let mut kept = vec![0; ROBOTS as usize];
        for tick in 1..=2 * HOUR_MS / TICK_MS {
            let now = start + tick * TICK_MS;
            let mut at_once = 0;
            for (robot, (last, kept)) in (1..).zip(last.iter_mut().zip(&mut kept)) {
                if is_due(robot, *last, now) {
                    (*last, at_once, *kept) = (now, at_once + 1, *kept + 1);
                }
            }
            let even = ROBOTS as u64 * TICK_MS / HOUR_MS;
            assert!(at_once <= even + 2, "{at_once} of {ROBOTS} at tick {tick}");
        }
        assert!(kept.iter().all(|kept| *kept == 2), "each once an hour");
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_no_picture_from_being_taken() {
        let now = 1_795_000_000_000;
        for robot in 1..100 {
            assert!(!is_due(robot, now, now));
            assert!(is_due(robot, now, now + HOUR_MS));
            assert!(is_due(robot, now, now - HOUR_MS));
        }
    }
}
