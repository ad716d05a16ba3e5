//! Telemetry history on disk. New samples are rows; a day that is over is packed into blocks, one for each level, and its rows
//! deleted, in one transaction. What is packed, and what is read of a day that has rows as well as blocks, is
//! [`lekiwi_relay_core::history`]'s to say, and the same for both.
//!
//! Readers ask for rows first, and for blocks after that: what is packed between the two is in both, and counts once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use lekiwi_protocol::api::{Resolution, TelemetrySeries};
use lekiwi_relay_core::history::block::{
    BlockError, pack_rollups, pack_samples, unpack_rollups, unpack_samples,
};
use lekiwi_relay_core::history::day::{merge, rolled_up};
use lekiwi_relay_core::history::query::Plan;
use lekiwi_relay_core::history::rollup::{Rollup, extend};
use lekiwi_relay_core::history::{DAY_MS, LEVELS, Retention, Sample, day_of, number, width_ms};

use super::database::{Database, Result, Row, values};
use super::writer::Op;
use super::{Store, StoreError};
use crate::clock;

/// Rows of a day that are packed at once; what is more of it follows.
const CHUNK: usize = 20_000;
/// How long one transaction of the walk takes, but for its last day: so long does everything else wait.
const STEP: Duration = Duration::from_millis(10);
/// Pause between two of them while there is something else to write.
const PAUSE: Duration = Duration::from_millis(250);

/// One metric of one robot, by the store's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Series {
    robot: i64,
    metric: i64,
}

/// Before all series.
const FIRST: Series = Series {
    robot: 0,
    metric: 0,
};

/// A walk through history, little by little: packs days that are over, and deletes what is kept no longer.
#[derive(Debug)]
pub(super) struct Upkeep {
    retention: Retention,
    today: u64,
    /// Whether blocks are looked through as well.
    expires: bool,
    at: Place,
    due: Option<Instant>,
}

/// Where the walk goes on.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// With the rows of this series from this time on.
    Rows(Series, i64),
    /// With the blocks behind this series and level.
    Blocks(Series, i64),
    /// Nowhere.
    End,
}

impl Upkeep {
    pub(super) fn new(retention: Retention, now_ms: u64, expires: bool) -> Self {
        Self {
            retention,
            today: day_of(now_ms),
            expires,
            at: Place::Rows(FIRST, 0),
            due: None,
        }
    }

    /// Whether it is time for a step although others want to write.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_none_or(|due| due <= clock::monotonic())
    }

    /// One transaction; false when the walk is over.
    pub(super) fn step(&mut self, database: &mut dyn Database) -> Result<bool> {
        let at = database.transaction(|database| self.walk(database))?;
        self.at = at;
        self.due = Some(clock::monotonic() + PAUSE);
        if !matches!(at, Place::End) {
            return Ok(true);
        }
        if self.expires {
            // What is left of whole months is nothing.
            database.drop_history(self.retention.oldest_ms(self.today * DAY_MS))?;
        }
        Ok(false)
    }

    /// As far as it gets within a transaction's time.
    fn walk(&self, database: &mut dyn Database) -> Result<Place> {
        let started = clock::monotonic();
        let mut at = self.at;
        while started.elapsed() < STEP {
            at = match at {
                Place::Rows(series, from) => self.pack_next(database, series, from)?,
                Place::Blocks(series, level) => self.expire_next(database, series, level)?,
                Place::End => break,
            };
        }
        Ok(at)
    }

    /// Looks at the next series with rows and packs its first day, if that is over.
    fn pack_next(&self, database: &mut dyn Database, series: Series, from: i64) -> Result<Place> {
        let next = database.row(
            "SELECT robot, metric, ts FROM telemetry WHERE (robot, metric, ts) >= (?1, ?2, ?3)
             ORDER BY robot, metric, ts LIMIT 1",
            values![series.robot, series.metric, from],
            |row| {
                let (robot, metric) = (row.get(0)?, row.get(1)?);
                Ok((Series { robot, metric }, row.get::<i64>(2)?))
            },
        )?;
        let Some((series, first)) = next else {
            return Ok(match self.expires {
                true => Place::Blocks(FIRST, 0),
                false => Place::End,
            });
        };
        let day = day_of(first as u64);
        if day >= self.today {
            let metric = series.metric + 1;
            return Ok(Place::Rows(Series { metric, ..series }, 0));
        }
        let end = ((day + 1) * DAY_MS) as i64;
        let chunk = database.value(
            "SELECT ts FROM telemetry WHERE robot = ?1 AND metric = ?2 AND ts >= ?3 AND ts < ?4
             ORDER BY ts LIMIT 1 OFFSET ?5",
            values![series.robot, series.metric, first, end, CHUNK],
        )?;
        let end = chunk.unwrap_or(end);
        // What is packed is exactly what is deleted, whoever else writes.
        let mut rows = database.rows(
            "DELETE FROM telemetry WHERE robot = ?1 AND metric = ?2 AND ts >= ?3 AND ts < ?4 RETURNING ts, value",
            values![series.robot, series.metric, first, end],
            sample,
        )?;
        rows.sort_unstable_by_key(|row| row.ts_ms);
        self.pack(database, series, day, &rows)?;
        Ok(Place::Rows(series, end))
    }

    /// Puts rows of a day into its blocks.
    fn pack(
        &self,
        database: &mut dyn Database,
        series: Series,
        day: u64,
        rows: &[Sample],
    ) -> Result<()> {
        let start = day * DAY_MS;
        let is_kept = |level| self.retention.keeps(level, day, self.today);
        let mut block = |level| -> Result<Option<Vec<u8>>> {
            Ok(blocks(database, series, level, day..day + 1)?.remove(&day))
        };
        let mut known = BTreeMap::new();
        for level in LEVELS {
            if let (Some(width), Some(block)) = (width_ms(level), block(level)?) {
                known.insert(level, spans(series, day, width, &block));
            }
        }
        let packed = match is_kept(Resolution::Raw) {
            true => block(Resolution::Raw)?.and_then(|block| samples(series, day, &block)),
            false => None,
        };
        let is_whole = packed.is_some() || known.is_empty();
        let samples = merge(packed.unwrap_or_default(), rows);
        for level in LEVELS.into_iter().filter(|level| is_kept(*level)) {
            let data = match width_ms(level) {
                // A part of a day must not be taken for all of it the next time.
                None if !is_whole => continue,
                None => pack_samples(start, &samples),
                Some(width) => {
                    let known = known.remove(&level).unwrap_or_default();
                    pack_rollups(start, width, &rolled_up(known, &samples, is_whole, width))
                }
            };
            database.execute(
                "INSERT INTO telemetry_blocks (robot, metric, level, day, data) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (robot, metric, level, day) DO UPDATE SET data = excluded.data",
                values![series.robot, series.metric, number(level), day, data],
            )?;
        }
        Ok(())
    }

    /// Deletes what is kept no longer of the next series and level.
    fn expire_next(
        &self,
        database: &mut dyn Database,
        series: Series,
        level: i64,
    ) -> Result<Place> {
        let next = database.row(
            "SELECT robot, metric, level FROM telemetry_blocks WHERE (robot, metric, level) > (?1, ?2, ?3)
             ORDER BY robot, metric, level LIMIT 1",
            values![series.robot, series.metric, level],
            |row| {
                let (robot, metric) = (row.get(0)?, row.get(1)?);
                Ok((Series { robot, metric }, row.get::<i64>(2)?))
            },
        )?;
        let Some((series, stored)) = next else {
            return Ok(Place::End);
        };
        if let Some(level) = LEVELS.into_iter().find(|level| number(*level) == stored) {
            let first = self.retention.first_day(level, self.today);
            database.execute(
                "DELETE FROM telemetry_blocks WHERE robot = ?1 AND metric = ?2 AND level = ?3 AND day < ?4",
                values![series.robot, series.metric, stored, first],
            )?;
        }
        Ok(Place::Blocks(series, stored))
    }
}

fn sample(row: &Row<'_>) -> Result<Sample> {
    Ok(Sample {
        ts_ms: row.get(0)?,
        value: row.get(1)?,
    })
}

/// The series' number, if it has any history.
fn series(database: &mut dyn Database, robot: &str, metric: &str) -> Result<Option<Series>> {
    database.row(
        "SELECT r.id, m.id FROM robots r, metrics m WHERE r.robot = ?1 AND m.metric = ?2",
        values![robot, metric],
        |row| {
            let (robot, metric) = (row.get(0)?, row.get(1)?);
            Ok(Series { robot, metric })
        },
    )
}

/// The newest `limit` rows within a range, oldest first.
fn rows(
    database: &mut dyn Database,
    series: Series,
    range: &Range<u64>,
    limit: usize,
) -> Result<Vec<Sample>> {
    let mut rows = database.rows(
        "SELECT ts, value FROM telemetry WHERE robot = ?1 AND metric = ?2 AND ts >= ?3 AND ts < ?4
         ORDER BY ts DESC LIMIT ?5",
        values![series.robot, series.metric, range.start, range.end, limit],
        sample,
    )?;
    rows.reverse();
    Ok(rows)
}

/// Rows of whole days, by day.
fn rows_by_day(
    database: &mut dyn Database,
    series: Series,
    days: &Range<u64>,
) -> Result<BTreeMap<u64, Vec<Sample>>> {
    let range = days.start.saturating_mul(DAY_MS)..days.end.saturating_mul(DAY_MS);
    let mut by_day: BTreeMap<u64, Vec<Sample>> = BTreeMap::new();
    for row in rows(database, series, &range, usize::MAX)? {
        by_day.entry(day_of(row.ts_ms)).or_default().push(row);
    }
    Ok(by_day)
}

/// Blocks of a level, by day.
fn blocks(
    database: &mut dyn Database,
    series: Series,
    level: Resolution,
    days: Range<u64>,
) -> Result<BTreeMap<u64, Vec<u8>>> {
    let blocks = database.rows(
        "SELECT day, data FROM telemetry_blocks WHERE robot = ?1 AND metric = ?2 AND level = ?3
         AND day >= ?4 AND day < ?5",
        values![
            series.robot,
            series.metric,
            number(level),
            days.start,
            days.end
        ],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(blocks.into_iter().collect())
}

/// The samples of a block. One that cannot be read takes nothing else with it.
fn samples(series: Series, day: u64, block: &[u8]) -> Option<Vec<Sample>> {
    unpack_samples(day * DAY_MS, block)
        .map_err(|error| damaged(series, day, &error))
        .ok()
}

/// The roll-ups of a block; none of one that cannot be read.
fn spans(series: Series, day: u64, width: u64, block: &[u8]) -> Vec<Rollup> {
    unpack_rollups(day * DAY_MS, width, block)
        .map_err(|error| damaged(series, day, &error))
        .unwrap_or_default()
}

fn damaged(Series { robot, metric }: Series, day: u64, error: &BlockError) {
    tracing::error!(robot, metric, day, %error, "a block of telemetry history cannot be read");
}

/// The days that a range of time touches.
fn days(range: &Range<u64>) -> Range<u64> {
    day_of(range.start)..day_of(range.end.saturating_sub(1)) + 1
}

/// All samples within a range, oldest first.
fn read_samples(
    database: &mut dyn Database,
    series: Series,
    range: &Range<u64>,
) -> Result<Vec<Sample>> {
    let mut rows = rows_by_day(database, series, &days(range))?;
    let mut blocks = blocks(database, series, Resolution::Raw, days(range))?;
    let mut read = Vec::new();
    let all: BTreeSet<u64> = rows.keys().chain(blocks.keys()).copied().collect();
    for day in all {
        let block = blocks.remove(&day);
        let packed = block.and_then(|block| samples(series, day, &block));
        let rows = rows.remove(&day).unwrap_or_default();
        let merged = merge(packed.unwrap_or_default(), &rows);
        read.extend(merged.into_iter().filter(|s| range.contains(&s.ts_ms)));
    }
    Ok(read)
}

/// Roll-ups of the plan's level, by its step.
fn read_steps(
    database: &mut dyn Database,
    series: Series,
    plan: &Plan,
    (width, step): (u64, u64),
) -> Result<Vec<Rollup>> {
    let range = plan.reads();
    let rows = rows_by_day(database, series, &days(&range))?;
    let mut rolled = blocks(database, series, plan.level, days(&range))?;
    let mut steps = Vec::new();
    let all: BTreeSet<u64> = rows.keys().chain(rolled.keys()).copied().collect();
    for day in all {
        let block = rolled.remove(&day);
        let mut known = block.map_or_else(Vec::new, |block| spans(series, day, width, &block));
        if let Some(rows) = rows.get(&day) {
            let packed = match plan.counts_samples(day) {
                true => blocks(database, series, Resolution::Raw, day..day + 1)?
                    .remove(&day)
                    .and_then(|block| samples(series, day, &block)),
                false => None,
            };
            let is_whole = packed.is_some() || known.is_empty();
            let samples = merge(packed.unwrap_or_default(), rows);
            known = rolled_up(known, &samples, is_whole, width);
        }
        let within = known
            .into_iter()
            .filter(|span| range.contains(&span.start_ms));
        extend(&mut steps, within, step);
    }
    Ok(steps)
}

/// The newest `limit` samples within a range, oldest first: of what is packed no more is read than it takes.
fn read_newest(
    database: &mut dyn Database,
    series: Series,
    range: &Range<u64>,
    limit: usize,
) -> Result<Vec<Sample>> {
    let rows = rows(database, series, range, limit)?;
    let mut packed: Vec<Vec<Sample>> = Vec::new();
    let mut count = 0;
    let touched = days(range);
    let mut beyond = touched.end;
    // A row may replace what is packed.
    while count < limit + rows.len() {
        let block: Option<(u64, Vec<u8>)> = database.row(
            "SELECT day, data FROM telemetry_blocks WHERE robot = ?1 AND metric = ?2 AND level = ?3
             AND day >= ?4 AND day < ?5 ORDER BY day DESC LIMIT 1",
            values![
                series.robot,
                series.metric,
                number(Resolution::Raw),
                touched.start,
                beyond
            ],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let Some((day, data)) = block else { break };
        let mut of_day = samples(series, day, &data).unwrap_or_default();
        of_day.retain(|sample| range.contains(&sample.ts_ms));
        count += of_day.len();
        packed.push(of_day);
        beyond = day;
    }
    let packed: Vec<Sample> = packed.into_iter().rev().flatten().collect();
    let mut samples = newest(packed, &rows);
    samples.drain(..samples.len().saturating_sub(limit));
    Ok(samples)
}

/// Both in order; a row replaces what is packed with its time.
fn newest(packed: Vec<Sample>, rows: &[Sample]) -> Vec<Sample> {
    let both = packed.into_iter().chain(rows.iter().copied());
    let by_time: BTreeMap<u64, f64> = both.map(|s| (s.ts_ms, s.value)).collect();
    let sample = |(ts_ms, value)| Sample { ts_ms, value };
    by_time.into_iter().map(sample).collect()
}

impl Store {
    /// Packs the days that are over, little by little, beside other writes.
    pub fn pack_history(&self, retention: Retention, now_ms: u64) {
        self.walk_history(Upkeep::new(retention, now_ms, false));
    }

    /// The same, and deletes what is kept no longer. That looks at all blocks: once a day is enough.
    pub fn keep_history(&self, retention: Retention, now_ms: u64) {
        self.walk_history(Upkeep::new(retention, now_ms, true));
    }

    fn walk_history(&self, walk: Upkeep) {
        // A full queue has better things to do; the next call will come.
        let _ = self.inner.queue.try_send(Op::Upkeep(walk));
    }

    /// History of some metrics of one robot as `plan` says, in the order of `metrics`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn history(
        &self,
        robot: &str,
        metrics: Vec<String>,
        plan: Plan,
    ) -> std::result::Result<Vec<TelemetrySeries>, StoreError> {
        let robot = robot.to_owned();
        let read = move |database: &mut dyn Database| {
            let one = |metric: String| {
                let steps = width_ms(plan.level).zip(plan.step_ms);
                let of = series(database, &robot, &metric)?;
                Ok(match (of, steps) {
                    (None, _) => plan.of_samples(metric, &[]),
                    (Some(of), None) => {
                        plan.of_samples(metric, &read_samples(database, of, &plan.reads())?)
                    }
                    (Some(of), Some(steps)) => {
                        plan.of_steps(metric, &read_steps(database, of, &plan, steps)?)
                    }
                })
            };
            metrics.into_iter().map(one).collect()
        };
        self.inner.readers.read("history", read).await
    }

    /// Samples of one metric within `from_ms..to_ms`, oldest first, as long as they are kept. When there are more than
    /// `limit`, the newest `limit` are given.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn telemetry(
        &self,
        robot: &str,
        metric: &str,
        from_ms: u64,
        to_ms: u64,
        limit: usize,
    ) -> std::result::Result<Vec<Sample>, StoreError> {
        let (robot, metric) = (robot.to_owned(), metric.to_owned());
        self.inner
            .readers
            .read("telemetry", move |database| {
                match series(database, &robot, &metric)? {
                    Some(series) => read_newest(database, series, &(from_ms..to_ms), limit),
                    None => Ok(Vec::new()),
                }
            })
            .await
    }

    /// The metrics that one robot has history of, sorted.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn metrics_of_robot(
        &self,
        robot: &str,
    ) -> std::result::Result<Vec<String>, StoreError> {
        let robot = robot.to_owned();
        self.inner
            .readers
            .read("metrics_of_robot", move |database| {
                database.rows(
                    "SELECT m.metric FROM metrics m, robots r WHERE r.robot = ?1
                     AND (EXISTS (SELECT 1 FROM telemetry t WHERE t.robot = r.id AND t.metric = m.id)
                       OR EXISTS (SELECT 1 FROM telemetry_blocks b WHERE b.robot = r.id AND b.metric = m.id))
                     ORDER BY m.metric",
                    values![robot],
                    |row| row.get(0),
                )
            })
            .await
    }
}
