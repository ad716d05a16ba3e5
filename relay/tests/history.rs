//! Telemetry history in the store: packed little by little, late, twice, cut off, and read the same throughout.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::api::{Aggregate, Resolution, TelemetrySeries};
use lekiwi_relay::metrics::Metrics;
use lekiwi_relay::store::records::{NewBacklog, NewSample};
use lekiwi_relay::store::{Batch, Health, Store};
use lekiwi_relay_core::history::query::{Plan, Range};
use lekiwi_relay_core::history::{DAY_MS, Retention, day_of};
use rusqlite::Connection;
use support::until;
use tempfile::TempDir;
use uuid::Uuid;

/// Noon of some day.
const NOW: u64 = 20_000 * DAY_MS + DAY_MS / 2;
const ROBOT: &str = "kiwi-01";
const CPU: &str = "cpu_percent";
const UPTIME: &str = "uptime_s";

/// A store in a folder of its own; what it commits is of no interest.
struct Home {
    store: Store,
    path: PathBuf,
    _dir: TempDir,
}

fn open(path: &Path) -> Store {
    let (store, mut commits) = Store::open(path, Arc::new(Metrics::default())).unwrap();
    tokio::spawn(async move { while commits.recv().await.is_some() {} });
    store
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.db");
        Self {
            store: open(&path),
            path,
            _dir: dir,
        }
    }

    async fn say(&self, samples: Vec<NewSample>) {
        let (before, stream) = (samples.len(), Uuid::from_u128(1));
        let backlog = NewBacklog {
            source: ROBOT.into(),
            stream,
            seqs: vec![1],
            samples,
        };
        self.store.submit(Batch {
            backlogs: vec![backlog],
            ..Batch::default()
        });
        // The queue is in order: once a job is done, what was before it is on disk.
        self.store.expire_sessions(0).await.unwrap();
        assert_eq!(*self.store.health().borrow(), Health::Writing, "{before}");
    }

    fn count(&self, sql: &str) -> i64 {
        let connection = Connection::open(&self.path).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Walks until nothing of before today is a row.
    async fn pack(&self, retention: Retention, now_ms: u64) {
        self.store.keep_history(retention, now_ms);
        let today = day_of(now_ms) * DAY_MS;
        let left = format!("SELECT COUNT(*) FROM telemetry WHERE ts < {today}");
        until("the days are packed", async || self.count(&left) == 0).await;
        self.over(retention, now_ms).await;
    }

    /// Waits until what is kept no longer is gone, which is what a walk does last.
    async fn over(&self, retention: Retention, now_ms: u64) {
        let days = [
            retention.raw_days,
            retention.minute_days,
            retention.quarter_days,
            retention.hour_days,
        ];
        let today = day_of(now_ms);
        let old: Vec<String> = (0..)
            .zip(days)
            .map(|(level, days)| format!("level = {level} AND day < {}", today - u64::from(days)))
            .collect();
        let old = format!(
            "SELECT COUNT(*) FROM telemetry_blocks WHERE {}",
            old.join(" OR ")
        );
        until("what is old is gone", async || self.count(&old) == 0).await;
    }

    async fn samples(&self, metric: &str) -> Vec<(u64, f64)> {
        let all = self.store.telemetry(ROBOT, metric, 0, u64::MAX, 1_000_000);
        let all = all.await.unwrap();
        all.into_iter().map(|s| (s.ts_ms, s.value)).collect()
    }

    async fn series(&self, range: Range) -> (Resolution, Vec<TelemetrySeries>) {
        let plan = Plan::new(range, &Retention::default(), NOW);
        let metrics = vec![CPU.to_owned(), "none".to_owned(), UPTIME.to_owned()];
        let series = self.store.history(ROBOT, metrics, plan).await.unwrap();
        (plan.level, series)
    }

    /// Everything that can be asked, more or less.
    async fn everything(&self) -> Vec<(Resolution, Vec<TelemetrySeries>)> {
        let mut answers = Vec::new();
        for (from_ms, length) in [
            (NOW - 3 * DAY_MS, 3 * DAY_MS),
            (NOW - 2 * DAY_MS - 77_777, 3_600_000),
            (NOW - DAY_MS - 1, DAY_MS),
            (NOW - 8 * DAY_MS, 8 * DAY_MS),
            (NOW - 90 * DAY_MS, 90 * DAY_MS),
        ] {
            for (points, aggregate) in [
                (50, None),
                (400, None),
                (3_000, Some(Aggregate::Sum)),
                (70, Some(Aggregate::Last)),
            ] {
                let range = Range {
                    from_ms,
                    to_ms: from_ms + length,
                    points,
                    aggregate,
                };
                answers.push(self.series(range).await);
            }
        }
        answers
    }
}

fn sample(metric: &str, ts_ms: u64, value: f64) -> NewSample {
    NewSample {
        robot: ROBOT.into(),
        metric: metric.into(),
        ts_ms,
        value,
    }
}

/// Four days up to now: processor every ten seconds or so, uptime by the hour.
fn days() -> Vec<NewSample> {
    let start = NOW - 4 * DAY_MS;
    let cpu = (0..4 * 8_640).map(|n| {
        let wave = (n as f64 / 700.0).sin() * 40.0 + 50.0;
        sample(
            CPU,
            start + n * 10_000 + n % 13,
            (wave * 10.0).round() / 10.0,
        )
    });
    let uptime = (0..4 * 24).map(|n| sample(UPTIME, start + n * 3_600_000 + 7, n as f64 * 3_600.0));
    cpu.chain(uptime).collect()
}

#[tokio::test]
async fn reading_is_the_same_before_and_after_packing() {
    let home = Home::new();
    home.say(days()).await;
    let (answers, samples) = (home.everything().await, home.samples(CPU).await);
    let levels: Vec<Resolution> = answers.iter().map(|(level, _)| *level).collect();
    for level in [
        Resolution::Raw,
        Resolution::Minute,
        Resolution::Quarter,
        Resolution::Hour,
    ] {
        assert!(levels.contains(&level), "{level:?}");
    }
    assert_eq!(samples.len(), 4 * 8_640);
    home.pack(Retention::default(), NOW).await;
    assert_eq!(
        home.count("SELECT COUNT(*) FROM telemetry_blocks"),
        2 * 4 * 4
    );
    let rows = home.count("SELECT COUNT(*) FROM telemetry");
    assert_eq!(rows, 8_640 / 2 + 12, "today's");
    assert_eq!(home.everything().await, answers);
    assert_eq!(home.samples(CPU).await, samples);
    let newest = home.store.telemetry(ROBOT, CPU, 0, u64::MAX, 5_000);
    let newest = newest.await.unwrap();
    let newest: Vec<_> = newest.iter().map(|s| (s.ts_ms, s.value)).collect();
    assert_eq!(newest, samples[samples.len() - 5_000..]);
    // A day later the rest of it is packed as well, and a new name has joined.
    home.say(vec![sample("load_1m", NOW + DAY_MS, 0.25)]).await;
    home.pack(Retention::default(), NOW + DAY_MS).await;
    assert_eq!(home.everything().await, answers);
    assert_eq!(home.count("SELECT COUNT(*) FROM telemetry"), 1);
    let known = home.store.metrics_of_robot(ROBOT).await.unwrap();
    assert_eq!(known, [CPU, "load_1m", UPTIME]);
}

#[tokio::test]
async fn late_samples_of_packed_days_land_in_their_spans_once() {
    let (home, other) = (Home::new(), Home::new());
    let all = days();
    // An outage of a day and a half, told afterwards, in parts, some of them twice and newest first.
    let outage = NOW - 3 * DAY_MS..NOW - 3 * DAY_MS / 2;
    let (late, live): (Vec<_>, Vec<_>) = all
        .iter()
        .cloned()
        .partition(|sample| outage.contains(&sample.ts_ms));
    home.say(live).await;
    home.pack(Retention::default(), NOW).await;
    let mut parts: Vec<Vec<NewSample>> = late.chunks(3_000).map(<[_]>::to_vec).collect();
    parts.reverse();
    for (index, part) in parts.iter().enumerate() {
        home.say(part.clone()).await;
        if index % 2 == 0 {
            home.pack(Retention::default(), NOW).await;
        }
    }
    other.say(all).await;
    let answers = other.everything().await;
    assert_eq!(home.everything().await, answers, "rows beside blocks");
    home.pack(Retention::default(), NOW).await;
    assert_eq!(home.everything().await, answers, "packed again");
    for part in parts {
        home.say(part).await;
    }
    assert_eq!(home.everything().await, answers, "told twice");
    home.pack(Retention::default(), NOW).await;
    assert_eq!(home.everything().await, answers, "packed twice");
    assert_eq!(home.samples(CPU).await, other.samples(CPU).await);
}

#[tokio::test]
async fn each_level_is_kept_for_its_own_time() {
    let home = Home::new();
    home.say(days()).await;
    let retention = Retention {
        raw_days: 1,
        minute_days: 2,
        quarter_days: 3,
        hour_days: 4,
    };
    home.pack(retention, NOW).await;
    let days = || {
        let connection = Connection::open(&home.path).unwrap();
        let mut statement = connection
            .prepare("SELECT level, COUNT(DISTINCT day) FROM telemetry_blocks GROUP BY level")
            .unwrap();
        let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)));
        rows.unwrap().collect::<Result<BTreeMap<_, i64>, _>>()
    };
    // What is too old is not packed at all.
    assert_eq!(
        days().unwrap(),
        BTreeMap::from([(0, 1), (1, 2), (2, 3), (3, 4)])
    );
    // A walk that only packs deletes nothing.
    home.store.pack_history(retention, NOW + DAY_MS);
    until("the day is packed", async || {
        home.count("SELECT COUNT(*) FROM telemetry") == 0
    })
    .await;
    assert_eq!(
        days().unwrap(),
        BTreeMap::from([(0, 2), (1, 3), (2, 4), (3, 5)])
    );
    home.pack(retention, NOW + DAY_MS).await;
    assert_eq!(
        days().unwrap(),
        BTreeMap::from([(0, 1), (1, 2), (2, 3), (3, 4)])
    );
    home.pack(retention, NOW + 4 * DAY_MS).await;
    assert_eq!(days().unwrap(), BTreeMap::from([(3, 1)]));
    // Late samples of a day of which the samples are gone: spans that have some keep them.
    let range = Range {
        from_ms: NOW - DAY_MS,
        to_ms: NOW + DAY_MS,
        points: 2_000,
        aggregate: Some(Aggregate::Count),
    };
    let counts = async || {
        let plan = Plan::new(range, &retention, NOW + 4 * DAY_MS);
        assert_eq!(plan.level, Resolution::Hour);
        let series = home.store.history(ROBOT, vec![CPU.into()], plan).await;
        let points = series.unwrap().remove(0).points;
        let whole: f64 = points.iter().map(|point| point.1).sum();
        (points.len(), whole)
    };
    assert_eq!(counts().await, (12, 4_320.0));
    let late = vec![
        sample(CPU, NOW - 5, 99.0),
        sample(CPU, NOW + 3_600_000, 1.0),
        sample(CPU, NOW + 3_600_001, 2.0),
    ];
    for _ in 0..2 {
        home.say(late.clone()).await;
        assert_eq!(counts().await, (13, 4_322.0), "rows");
        home.pack(retention, NOW + 4 * DAY_MS).await;
        assert_eq!(counts().await, (13, 4_322.0), "packed");
    }
    assert_eq!(
        days().unwrap(),
        BTreeMap::from([(3, 1)]),
        "no part of a day"
    );
}

#[tokio::test]
async fn a_walk_that_is_cut_off_goes_on_after_the_next_start() {
    let mut home = Home::new();
    let mut all = Vec::new();
    for metric in 0..60 {
        let name = format!("custom.m{metric}");
        all.extend((0..400).map(|n| sample(&name, NOW - 3 * DAY_MS + n * 600_000, n as f64)));
    }
    home.say(all).await;
    let read = async |home: &Home| {
        let mut answers = Vec::new();
        for metric in 0..60 {
            answers.push(home.samples(&format!("custom.m{metric}")).await);
        }
        answers
    };
    let before = read(&home).await;
    let mut cuts = 0;
    loop {
        home.store.keep_history(Retention::default(), NOW);
        // Stops within the walk, at another place each time.
        home.store.close();
        home.store = open(&home.path);
        let today = day_of(NOW) * DAY_MS;
        let left = home.count(&format!(
            "SELECT COUNT(*) FROM telemetry WHERE ts < {today}"
        ));
        assert_eq!(read(&home).await, before);
        if left == 0 {
            break;
        }
        cuts += 1;
        assert!(cuts < 1_000, "each start packs something");
    }
    assert!(cuts > 0, "a walk takes more than one transaction");
}

#[tokio::test]
async fn packing_goes_on_beside_a_stream_of_writes() {
    let home = Home::new();
    home.say(days()).await;
    home.store.keep_history(Retention::default(), NOW);
    let store = home.store.clone();
    let writes = tokio::spawn(async move {
        for n in 0.. {
            let samples = (0..500)
                .map(|m| sample(&format!("custom.m{}", m % 50), NOW + n * 500 + m, 1.0))
                .collect();
            store.submit(Batch {
                samples,
                ..Batch::default()
            });
            // Never idle, never more than it takes.
            if n % 4 == 3 {
                store.expire_sessions(0).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let today = day_of(NOW) * DAY_MS;
    let left = format!("SELECT COUNT(*) FROM telemetry WHERE ts < {today}");
    until("the days are packed", async || home.count(&left) == 0).await;
    assert!(!writes.is_finished());
    writes.abort();
}

#[tokio::test]
async fn a_day_of_very_many_samples_is_packed_in_parts() {
    let home = Home::new();
    let start = (day_of(NOW) - 1) * DAY_MS;
    let fast = (0..45_000).map(|n| sample(CPU, start + n * 1_900 + n % 7, (n % 90) as f64));
    home.say(fast.collect()).await;
    let samples = home.samples(CPU).await;
    assert_eq!(samples.len(), 45_000);
    let range = Range {
        from_ms: start,
        to_ms: start + DAY_MS,
        points: 1_000,
        aggregate: Some(Aggregate::Count),
    };
    let counts = home.series(range).await;
    home.pack(Retention::default(), NOW).await;
    assert_eq!(home.samples(CPU).await, samples);
    assert_eq!(home.series(range).await, counts);
}

#[tokio::test]
async fn a_damaged_block_takes_nothing_else_with_it() {
    let home = Home::new();
    home.say(days()).await;
    home.pack(Retention::default(), NOW).await;
    let whole = home.samples(CPU).await;
    let connection = Connection::open(&home.path).unwrap();
    let day = day_of(NOW) - 2;
    let damaged = connection.execute(
        "UPDATE telemetry_blocks SET data = x'0105' WHERE level = 0 AND day = ?1",
        [day as i64],
    );
    assert_eq!(damaged.unwrap(), 2);
    let without = |day: u64| -> Vec<(u64, f64)> {
        let rest = whole.iter().filter(|(ts, _)| day_of(*ts) != day);
        rest.copied().collect()
    };
    assert_eq!(home.samples(CPU).await, without(day));
    // Roll-ups do not need it, and a late sample of that day does not make them less.
    let range = Range {
        from_ms: day * DAY_MS,
        to_ms: (day + 1) * DAY_MS,
        points: 200,
        aggregate: Some(Aggregate::Count),
    };
    let before = home.series(range).await;
    home.say(vec![sample(CPU, day * DAY_MS + 77, 1.0)]).await;
    home.pack(Retention::default(), NOW).await;
    assert_eq!(home.series(range).await, before);
}
