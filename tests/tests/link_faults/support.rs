//! One robot with proxies between it and its relay, a stream of events from it, and a clock on its
//! reconnects.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lekiwi_agent::ipc::{Report, Status, ask_status, report_event};
use lekiwi_protocol::api::EventRecord;
use lekiwi_protocol::message::Priority;
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Agent, FaultyProxy, Relay, target};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use uuid::Uuid;

static PLACES: Semaphore = Semaphore::const_new(2);

/// Times are measured, and most of them is waiting: two tests at a time.
pub(crate) async fn place() -> Result<SemaphorePermit<'static>> {
    Ok(PLACES.acquire().await?)
}

/// A relay and a robot of it.
pub(crate) struct Site {
    pub(crate) relay: Relay,
    pub(crate) agent: Agent,
    admin: Admin,
    reporter: JoinHandle<()>,
    _place: SemaphorePermit<'static>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.reporter.abort();
    }
}

/// The part of a configuration that says where the relay is, for `{mqtt}` lines of YAML.
pub(crate) fn endpoints(ways: &[&FaultyProxy], more: &str) -> String {
    let ways = ways.iter().enumerate().map(|(index, proxy)| {
        let address = proxy.address();
        format!("{{mqtt: 'mqtts://{address}', preference: {index}}}")
    });
    let ways: Vec<String> = ways.collect();
    format!("endpoints: [{}]\n  {more}", ways.join(", "))
}

impl Site {
    /// `mqtt` makes the lines that replace `mqtt: …` of the agent's configuration; it may start proxies.
    pub(crate) async fn start(
        relay: Relay,
        program: &Path,
        first: &[std::ffi::OsString],
        edit: impl FnOnce(String) -> String,
    ) -> Result<Self> {
        let place = place().await?;
        let admin =
            Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
        let token = relay.token(&["--robot", "kiwi-01"])?;
        let agent = Agent::start_edited(&relay, "kiwi-01", &token, program, first, edit)?;
        let reporter = tokio::spawn(report(agent.socket()));
        let mut site = Self {
            relay,
            agent,
            admin,
            reporter,
            _place: place,
        };
        site.connected(None, Duration::from_secs(30)).await?;
        Ok(site)
    }

    /// A robot whose only way is `proxy`, which is not cut to what the relay is behind.
    pub(crate) async fn behind(relay: Relay, ways: &[&FaultyProxy], more: &str) -> Result<Self> {
        let program = target("lekiwi-agent", "lekiwi-agent")?;
        let mqtt = format!("mqtt: mqtts://{}", relay.mqtt());
        let ways = endpoints(ways, more);
        Self::start(relay, &program, &[], |config| config.replace(&mqtt, &ways)).await
    }

    /// What the agent says of itself; nothing while it does not answer.
    pub(crate) async fn status(&self) -> Option<Status> {
        ask_status(&self.agent.socket()).await.ok()
    }

    /// The session, while there is one.
    pub(crate) async fn session(&self) -> Option<Uuid> {
        self.status().await?.session
    }

    /// Waits until the robot is connected by another session than `before`; how long that took.
    pub(crate) async fn connected(
        &mut self,
        before: Option<Uuid>,
        limit: Duration,
    ) -> Result<Duration> {
        let began = Instant::now();
        self.until("connected", limit, |status| {
            status.session.is_some() && status.session != before
        })
        .await?;
        Ok(began.elapsed())
    }

    /// Waits until `wanted` likes what the agent says.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let began = Instant::now();
        loop {
            let status = self.status().await;
            if let Some(status) = status.clone().filter(&wanted) {
                return Ok(status);
            }
            ensure!(
                began.elapsed() < limit,
                "expected the agent {what} within {limit:?}, got {status:?}; it said\n{}",
                self.agent.process().log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the stream of events, and waits until all are acknowledged.
    pub(crate) async fn quiet(&mut self) -> Result<Status> {
        self.reporter.abort();
        // What it asked last may still be under way inside the agent.
        tokio::time::sleep(Duration::from_millis(300)).await;
        // After an hour without a relay there is much to say.
        self.until("with an empty outbox", Duration::from_secs(600), |status| {
            status.outbox.pending == 0
        })
        .await
    }

    /// Ends the stream of events, and compares the relay's log with what the robot numbered: every event
    /// once, and those of a priority in order. How many there were.
    pub(crate) async fn nothing_lost(mut self) -> Result<u64> {
        let mut last = self.quiet().await?.outbox.last_seq;
        loop {
            let events = self.admin.events(&"kiwi-01".parse()?).await?;
            let now = self.quiet().await?.outbox.last_seq;
            if now == last {
                each_once(&events, last)?;
                return Ok(last);
            }
            // The agent had something to say itself meanwhile, of the load of its machine say.
            last = now;
        }
    }
}

/// Fails unless a relay's log has the events 1 to `last` of the robot once each, and those of a priority in order.
pub(crate) fn each_once(events: &[EventRecord], last: u64) -> Result<()> {
    let own = events.iter().filter(|event| event.source == "kiwi-01");
    let said: Vec<(Priority, u64)> = own
        .map(|event| (Priority::of(&event.kind), event.seq))
        .collect();
    let mut times: BTreeMap<u64, usize> = (1..=last).map(|seq| (seq, 0)).collect();
    for (_, seq) in &said {
        *times.entry(*seq).or_default() += 1;
    }
    let wrong: Vec<_> = times.iter().filter(|(_, times)| **times != 1).collect();
    ensure!(
        wrong.is_empty() && times.len() as u64 == last,
        "expected the events 1 to {last} once each, got these so many times: {wrong:?}, of {}",
        times.len()
    );
    for priority in Priority::ALL {
        let of = said.iter().filter(|(which, _)| *which == priority);
        let of: Vec<u64> = of.map(|(_, seq)| *seq).collect();
        let late = of.windows(2).find(|pair| pair[0] > pair[1]);
        ensure!(
            late.is_none(),
            "expected the events of priority {priority:?} in order, got {late:?}"
        );
    }
    Ok(())
}

/// A local program that has something to say all the time, also while the agent cannot listen.
pub(crate) async fn report(socket: PathBuf) {
    for number in 0_u64.. {
        let report = Report {
            kind: "setup.progress".to_owned(),
            data: serde_json::json!({ "number": number }),
        };
        // An agent that is stopped takes it later, or never; its numbers count.
        let _ = report_event(&socket, &report).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A table of what was measured, on the terminal of whoever runs the suite: the harness of Rust's tests
/// keeps what `println` says of tests that pass.
pub(crate) fn print(title: &str, rows: &[(String, String)]) -> Result<()> {
    let mut text = format!("\n| {title} | |\n|---|---|\n");
    for (what, measured) in rows {
        text.push_str(&format!("| {what} | {measured} |\n"));
    }
    std::io::stderr()
        .write_all(text.as_bytes())
        .context("expected a standard error output")
}

pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
