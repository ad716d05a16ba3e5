//! The robot's own disk at its worst, under a real agent with a real relay: full, read-only, damaged. The robot
//! stays connected and goes on; whatever got a number reaches the relay once, or an event says that it is gone.
//! Needs root.

mod disk;
mod site;

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use disk::Kind;
use lekiwi_protocol::Timestamp;
use site::{Account, Site, damage};
use uuid::Uuid;

/// Pace of the reports.
const OFTEN: Duration = Duration::from_millis(20);
/// More than memory holds of them: 256 KiB.
const TOO_MANY: usize = 400;

fn now_ms() -> u64 {
    Timestamp::from(SystemTime::now()).as_ms()
}

#[tokio::test]
async fn a_full_disk_means_memory_which_says_what_it_dropped() -> Result<()> {
    let mut site = Site::start(Kind::Memory("2m")).await?;
    let process = site.agent.process().id();
    site.report(OFTEN);
    site.reports(20).await?;

    site.relay_away(true).await?;
    site.disk.fill()?;
    let full_from = now_ms();
    let status = site
        .until("in memory", |status| !status.outbox.durable)
        .await?;
    let trouble = status.outbox.trouble.unwrap_or_default();
    ensure!(
        trouble == "expected a disk that takes events: database or disk is full",
        "got {trouble:?}"
    );
    site.reports(TOO_MANY).await?;

    // With the relay, and still without room.
    site.relay_away(false).await?;
    site.dropped(|event| event.data["reason"].is_null()).await?;
    let full_to = now_ms();
    site.has_telemetry(full_from, full_to).await?;
    site.until("in memory still", |status| !status.outbox.durable)
        .await?;

    site.disk.make_room()?;
    site.until("back on the disk", |status| status.outbox.durable)
        .await?;
    site.reports(20).await?;
    ensure!(
        site.agent.process().id() == process && site.agent.process().exited()?.is_none(),
        "expected the agent to have run all the time"
    );
    let account = site.settle().await?;
    ensure!(
        account.missing > 0 && account.lost.is_empty(),
        "expected some to be dropped, and no stream to be given up, got {account:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_disk_that_becomes_read_only_loses_nothing() -> Result<()> {
    let mut site = Site::start(Kind::Card).await?;
    site.report(OFTEN);
    site.reports(20).await?;

    // While it runs, with events on the disk that nobody has.
    site.relay_away(true).await?;
    site.reports(20).await?;
    site.disk.fail()?;
    site.until("in memory", |status| !status.outbox.durable)
        .await?;
    site.reports(20).await?;
    site.relay_away(false).await?;
    site.silence().await;
    site.until("with an empty outbox", |status| status.outbox.pending == 0)
        .await?;

    // The next boot checks the disk, and has it read-only at first.
    ensure!(
        site.agent.process().stop()?.success(),
        "expected a clean end"
    );
    site.disk.boot()?;
    site.agent.restart()?;
    let status = site
        .until("connected", |status| status.session.is_some())
        .await?;
    ensure!(!status.outbox.durable, "got {:?}", status.outbox);
    site.report(OFTEN);
    site.reports(20).await?;

    site.disk.is_good()?;
    site.until("back on the disk", |status| status.outbox.durable)
        .await?;
    site.reports(20).await?;
    let account = site.settle().await?;
    ensure!(
        account.missing == 0 && account.lost.is_empty(),
        "expected nothing to be dropped, got {account:?}"
    );
    Ok(())
}

/// A way in which files are damaged while nobody has them open.
type Harm = fn(&Site) -> Result<()>;

/// Everything that can be said of the database and its log.
const HARMS: [(&str, Harm); 4] = [
    ("both files", |site| {
        for name in ["agent.db", "agent.db-wal"] {
            damage(&site.file(name), 0, 8_192)?;
        }
        Ok(())
    }),
    ("the log's first page", |site| {
        damage(&site.file("agent.db-wal"), 500, 3_000)
    }),
    ("no database", |site| {
        for name in ["agent.db", "agent.db-wal"] {
            std::fs::remove_file(site.file(name))?;
        }
        Ok(())
    }),
    ("another program's database", |site| {
        std::fs::remove_file(site.file("agent.db-wal"))?;
        Ok(std::fs::write(
            site.file("agent.db"),
            "not a database ".repeat(999),
        )?)
    }),
];

#[tokio::test]
async fn a_database_that_is_damaged_between_two_starts_is_said() -> Result<()> {
    let mut site = Site::start(Kind::Memory("8m")).await?;
    let mut damaged: Vec<Uuid> = Vec::new();
    for (what, harm) in HARMS {
        site.report(OFTEN);
        site.reports(10).await?;
        site.relay_away(true).await?;
        site.reports(40).await?;
        site.silence().await;
        let stream = site.until("answering", |_| true).await?.outbox.stream;
        damaged.push(stream);
        site.agent.kill()?;
        harm(&site).with_context(|| what.to_owned())?;
        site.agent.restart()?;
        site.until("starting", |status| status.outbox.durable)
            .await?;
        site.report(OFTEN);
        site.relay_away(false).await?;
        site.dropped(|event| event.data["stream"] == stream.to_string())
            .await
            .with_context(|| what.to_owned())?;
        site.silence().await;
    }
    let aside = std::fs::read_dir(site.file("."))?
        .filter_map(Result::ok)
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("agent.db.damaged-")
        });
    ensure!(aside.count() == 2, "expected two databases to be set aside");
    let account = site.settle().await?;
    ensure!(
        account.missing > 0 && account.lost == damaged.into_iter().collect(),
        "expected the damaged streams to be given up, got {account:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_damaged_while_it_is_open_is_said() -> Result<()> {
    let mut site = Site::start(Kind::Memory("8m")).await?;
    site.relay_away(true).await?;
    site.report(OFTEN);
    // More than the database's cache.
    site.reports(500).await?;
    site.silence().await;
    let before = site.until("answering", |_| true).await?.outbox.stream;
    for name in ["agent.db", "agent.db-wal"] {
        let length = std::fs::metadata(site.file(name))?.len();
        damage(&site.file(name), 4_096, length)?;
    }
    site.relay_away(false).await?;
    site.until("in memory", |status| !status.outbox.durable)
        .await?;
    site.report(OFTEN);
    site.reports(20).await?;
    site.until("with a new database", |status| status.outbox.durable)
        .await?;
    site.dropped(|event| event.data["stream"] == before.to_string())
        .await?;
    let Account {
        reported,
        missing,
        lost,
    } = site.settle().await?;
    ensure!(
        missing > 0 && missing < reported && lost == [before].into(),
        "expected one stream to be given up, got {missing} of {reported} missing, and {lost:?}"
    );
    Ok(())
}
