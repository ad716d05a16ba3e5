//! What a robot's telemetry takes on disk, with what a real agent sent: `tests/telemetry/` has it (milliseconds, metric, value),
//! of an idle robot and of one that is driven, with numbers of its own programs each second. Printed with `--nocapture`;
//! `docs/performance.md` has the figures.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::Arc;

use lekiwi_relay::clock;
use lekiwi_relay::metrics::Metrics;
use lekiwi_relay::store::records::NewSample;
use lekiwi_relay::store::{Batch, Health, Store};
use lekiwi_relay_core::history::{DAY_MS, Retention};
use rusqlite::Connection;
use support::until;

/// Most bytes of a robot and month.
const BUDGET: f64 = 20e6;
const IDLE: &str = include_str!("telemetry/idle.csv");
const BUSY: &str = include_str!("telemetry/busy.csv");
/// The first day that is written.
const FIRST: u64 = 20_000;
const DAYS: u64 = 8;

/// A robot that goes on as it was recorded.
struct Recording {
    samples: Vec<(u64, Arc<str>, f64)>,
    length_ms: u64,
}

impl Recording {
    fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let mut fields = line.split(',');
            let mut field = || fields.next().unwrap();
            let (at, metric, value) = (field(), field(), field());
            (at.parse().unwrap(), metric.into(), value.parse().unwrap())
        };
        let samples: Vec<(u64, Arc<str>, f64)> = text.lines().map(sample).collect();
        // Whole minutes; and rounds do not begin at the same millisecond.
        let length_ms = samples.last().unwrap().0.next_multiple_of(60_000) + 7;
        Self { samples, length_ms }
    }

    /// All of one day.
    fn day(&self, robot: &str, day: u64) -> Vec<NewSample> {
        let (start, end) = (day * DAY_MS, (day + 1) * DAY_MS);
        let rounds = start / self.length_ms..=end / self.length_ms;
        let all = rounds.flat_map(|round| {
            self.samples
                .iter()
                .map(move |(at, metric, value)| NewSample {
                    robot: robot.into(),
                    metric: metric.clone(),
                    ts_ms: round * self.length_ms + at,
                    value: *value,
                })
        });
        all.filter(|sample| (start..end).contains(&sample.ts_ms))
            .collect()
    }
}

fn ask(path: &Path, sql: &str) -> f64 {
    let connection = Connection::open(path).unwrap();
    connection
        .query_row(&format!("SELECT CAST(({sql}) AS REAL)"), [], |row| {
            row.get(0)
        })
        .unwrap()
}

/// Bytes of the pages that something is in.
fn bytes(path: &Path) -> f64 {
    let pragma = |name: &str| ask(path, &format!("SELECT {name} FROM pragma_{name}"));
    (pragma("page_count") - pragma("freelist_count")) * pragma("page_size")
}

/// Writes day after day and packs each once it is over; samples and bytes of a month, the latter as rows and packed.
async fn month(recording: &Recording) -> (f64, f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.db");
    let (store, mut commits) = Store::open(&path, Arc::new(Metrics::default())).unwrap();
    tokio::spawn(async move { while commits.recv().await.is_some() {} });
    let empty = bytes(&path);
    let mut as_rows = 0.0;
    for day in FIRST..FIRST + DAYS {
        let samples = recording.day("kiwi-01", day);
        for part in samples.chunks(5_000) {
            store.submit(Batch {
                samples: part.to_vec(),
                ..Batch::default()
            });
            store.expire_sessions(0).await.unwrap();
        }
        assert_eq!(*store.health().borrow(), Health::Writing);
        if day == FIRST {
            as_rows = bytes(&path) - empty;
        }
        let started = clock::monotonic();
        store.keep_history(Retention::default(), (day + 1) * DAY_MS);
        until("the day is packed", async || {
            ask(&path, "SELECT COUNT(*) FROM telemetry") == 0.0
        })
        .await;
        if day == FIRST {
            let took = started.elapsed().as_millis();
            println!(
                "  a day of {} samples is packed in {took} ms",
                samples.len()
            );
        }
    }
    let share = 30.0 / DAYS as f64;
    let samples = recording.day("kiwi-01", FIRST).len() as f64 * 30.0;
    let packed = bytes(&path) - empty;
    for level in 0..4 {
        let sum = format!("SELECT SUM(LENGTH(data)) FROM telemetry_blocks WHERE level = {level}");
        println!("  level {level}: {:.2} MB", ask(&path, &sum) * share / 1e6);
    }
    (samples, as_rows * 30.0, packed * share)
}

#[tokio::test]
async fn a_month_of_a_busy_robot_fits_into_twenty_megabytes() {
    for (name, text, most) in [("idle", IDLE, 0.1), ("busy", BUSY, 0.75)] {
        let (samples, as_rows, packed) = month(&Recording::parse(text)).await;
        println!(
            "{name}: {samples:.0} samples a month; as rows {:.2} MB ({:.1} bytes each), packed with all roll-ups {:.2} MB ({:.1})",
            as_rows / 1e6,
            as_rows / samples,
            packed / 1e6,
            packed / samples
        );
        assert!(packed < BUDGET * most, "{name}: {packed} bytes");
        assert!(
            packed < as_rows * 0.7,
            "{name}: {packed} of {as_rows} bytes"
        );
    }
}
