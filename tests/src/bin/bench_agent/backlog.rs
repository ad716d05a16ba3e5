//! A day that nobody was told of, in the outbox of an agent: written by the agent's own outbox, by a clock that
//! passes at once.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use lekiwi_agent::outbox::Outbox;
use lekiwi_protocol::message::{Metrics, metric};
use lekiwi_protocol::{MetricName, Timestamp};
use serde_json::json;

const DAY_MS: u64 = 24 * 3_600_000;
/// Time between two samples of a robot at work: the processor's shortest interval.
const SAMPLE_MS: u64 = 10_000;
/// Time between two events.
const EVENT_MS: u64 = 600_000;

/// Fills the outbox at `database` with the day that ends now.
pub(crate) fn write(database: &Path) -> Result<()> {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let end_ms = u64::try_from(unix.as_millis())?;
    let start_ms = end_ms - DAY_MS;
    let wall = |ms: u64| Timestamp::from_ms(start_ms + ms);
    let mut outbox = Outbox::open(database, wall(0));
    let start = Instant::now();
    for ms in (SAMPLE_MS..=DAY_MS).step_by(usize::try_from(SAMPLE_MS)?) {
        let now = start + Duration::from_millis(ms);
        outbox.keep(now, wall(ms), &metrics(ms)?);
        if ms.is_multiple_of(EVENT_MS) {
            outbox.append("custom.bumped", wall(ms), json!({ "x": ms }));
        }
    }
    outbox.close(wall(DAY_MS));
    ensure!(
        outbox.is_durable() && outbox.late() > 4_000,
        "expected a day's samples on the disk, got {}: {:?}",
        outbox.late(),
        outbox.trouble()
    );
    Ok(())
}

/// Bytes of the database with its log.
pub(crate) fn size(database: &Path) -> Result<u64> {
    let folder = database.parent().context("a database lies in a folder")?;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("agent.db") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// What a robot at work would have said: the processor each time, the rest every half minute.
fn metrics(ms: u64) -> Result<Metrics> {
    let noise = (ms / SAMPLE_MS * 7_919 % 700) as f64 / 10.0;
    let mut named = vec![(metric::CPU_PERCENT.to_owned(), 20.0 + noise)];
    named.extend((0..4).map(|core| (format!("{}.{core}", metric::CPU_PERCENT), 15.0 + noise)));
    if ms.is_multiple_of(30_000) {
        named.push((metric::MEMORY_PERCENT.to_owned(), 30.0 + noise / 10.0));
        named.push((metric::TEMPERATURE_C.to_owned(), 45.0 + noise / 5.0));
        for direction in [metric::NET_RX_BYTES_PER_S, metric::NET_TX_BYTES_PER_S] {
            named.push((format!("{direction}.wlan0"), noise * 1_000.0));
        }
    }
    let each = named.into_iter();
    each.map(|(name, value)| Ok((name.parse::<MetricName>()?, value)))
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_written_with_its_events_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.db");
        write(&path).unwrap();
        let bytes = size(&path).unwrap();
        assert!((500_000..6_000_000).contains(&bytes), "{bytes}");
        let outbox = Outbox::open(&path, Timestamp::default());
        assert_eq!(outbox.late(), 8_640);
        assert_eq!(outbox.len(), 144);
    }
}
