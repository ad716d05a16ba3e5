//! A scenario from its start to its verdict: the robots run, settle, and what they numbered is compared with the
//! relay's log.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::{StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::admin::Admin;
use super::identity::Identity;
use super::kept::Kept;
use super::robot::{Counters, Pulses, Site, Told, run};
use super::scenario::{Pace, Scenario, Schedule};
use super::wire::Endpoint;

/// Logs that are read at once.
const AT_ONCE: usize = 8;

/// What a simulation goes through.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Its kind.
    pub scenario: Scenario,
    /// How often each robot says something.
    pub pace: Pace,
    /// How long it takes, without what settling takes.
    pub length: Duration,
    /// Chooses phases and times of all robots.
    pub seed: u64,
}

/// Robots that run.
pub struct Simulation {
    plan: Plan,
    robots: Vec<JoinHandle<Result<Told>>>,
    stop: watch::Sender<bool>,
    start: Instant,
    counters: Arc<Counters>,
}

impl Simulation {
    /// Starts one robot for each identity, with what `kept` makes for it.
    ///
    /// # Errors
    /// When `kept` fails.
    pub fn start(
        plan: Plan,
        identities: &[Arc<Identity>],
        endpoint: &Endpoint,
        pulses: Option<Pulses>,
        kept: impl Fn(&Identity) -> Result<Kept>,
    ) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let site = Site {
            endpoint: endpoint.clone(),
            start: Instant::now(),
            counters: Arc::default(),
            pulses,
            stop: stopped,
        };
        let robots = (0..)
            .zip(identities)
            .map(|(number, identity)| {
                let schedule =
                    Schedule::new(plan.scenario, &plan.pace, plan.length, plan.seed, number);
                let kept = kept(identity)?;
                Ok(tokio::spawn(run(
                    Arc::clone(identity),
                    schedule,
                    kept,
                    site.clone(),
                )))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            plan,
            robots,
            stop,
            start: site.start,
            counters: site.counters,
        })
    }

    /// What the robots do.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Waits until the schedules are over, every robot is online, and all that was kept is acknowledged.
    ///
    /// # Errors
    /// When that takes longer than `patience` after the schedules' end.
    pub async fn settled(&self, patience: Duration) -> Result<()> {
        let all = self.robots.len() as u64;
        let deadline = (self.start + self.plan.length).max(Instant::now()) + patience;
        loop {
            let settled = self.counters.settled.load(Ordering::Relaxed);
            if settled == all {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "expected {all} robots online with everything acknowledged {patience:?} after the end, {settled} are"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until `robots` are online at once.
    ///
    /// # Errors
    /// When that takes longer than `patience`.
    pub async fn online(&self, robots: usize, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.counters.online.load(Ordering::Relaxed) < robots as u64 {
            ensure!(
                Instant::now() < deadline,
                "expected {robots} robots online within {patience:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until none is online.
    ///
    /// # Errors
    /// When that takes longer than `patience`.
    pub async fn offline(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.counters.online.load(Ordering::Relaxed) > 0 {
            ensure!(
                Instant::now() < deadline,
                "expected no robot online within {patience:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Lets all robots say goodbye; what each has numbered.
    ///
    /// # Errors
    /// When one of them had failed.
    pub async fn stop(self) -> Result<Vec<Told>> {
        self.stop.send_replace(true);
        let mut told = Vec::with_capacity(self.robots.len());
        for robot in self.robots {
            told.push(robot.await??);
        }
        Ok(told)
    }

    /// The simulation's end: settles, stops and compares with the log.
    ///
    /// # Errors
    /// When the robots do not settle within `patience`, or the relay does not answer.
    pub async fn report(self, admin: &Admin, patience: Duration) -> Result<Report> {
        let over = async {
            tokio::time::sleep_until(self.start + self.plan.length).await;
            self.settled(patience).await
        };
        let settled = over.await;
        let counters = Arc::clone(&self.counters);
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let calm = self
            .plan
            .scenario
            .calm_after(self.plan.length, &self.plan.pace);
        let last_up = Duration::from_millis(read(&counters.last_up_ms));
        let is_settled = settled.is_ok();
        let mut report = Report {
            robots: self.robots.len(),
            online: read(&counters.online),
            connections: read(&counters.connections),
            failures: read(&counters.failures),
            messages: read(&counters.messages),
            renewals: read(&counters.renewals),
            moves: Moves::of(
                &counters
                    .moves
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            ),
            all_back_s: is_settled.then(|| last_up.saturating_sub(calm).as_secs_f64()),
            settled_s: is_settled.then(|| {
                let since = self.start.elapsed().saturating_sub(self.plan.length);
                since.as_secs_f64()
            }),
            tally: Tally::default(),
        };
        let told = self.stop().await?;
        report.tally = compare(admin, &told).await?;
        Ok(report)
    }
}

/// What the relay's log has of what these robots numbered.
///
/// # Errors
/// When the relay does not answer.
pub async fn compare(admin: &Admin, told: &[Told]) -> Result<Tally> {
    let tallies = futures_util::stream::iter(told).map(|told| async move {
        let events = admin.events(&told.robot).await?;
        let own = events
            .into_iter()
            .filter(|event| event.source == told.robot.as_str() && event.stream == told.stream);
        anyhow::Ok(Tally::of(
            told.emitted,
            own.map(|event| event.seq).collect(),
        ))
    });
    tallies
        .buffer_unordered(AT_ONCE)
        .try_fold(Tally::default(), |sum, one| async move { Ok(sum.and(one)) })
        .await
}

/// Events: what was numbered against what is in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Numbered by robots.
    pub emitted: u64,
    /// In the log.
    pub logged: u64,
    /// Numbered, and not in the log.
    pub lost: u64,
    /// In the log once more than once.
    pub doubled: u64,
    /// In the log with a number that no robot gave.
    pub invented: u64,
}

impl Tally {
    /// That of a stream of `emitted` events, of which the log has these numbers.
    #[must_use]
    pub fn of(emitted: u64, mut logged: Vec<u64>) -> Self {
        let all = logged.len() as u64;
        logged.sort_unstable();
        logged.dedup();
        let distinct = logged.len() as u64;
        let known = logged.partition_point(|seq| *seq <= emitted) as u64;
        Self {
            emitted,
            logged: all,
            lost: emitted - known,
            doubled: all - distinct,
            invented: distinct - known,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            emitted: self.emitted + other.emitted,
            logged: self.logged + other.logged,
            lost: self.lost + other.lost,
            doubled: self.doubled + other.doubled,
            invented: self.invented + other.invented,
        }
    }

    /// Whether the log has each event once and no other.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.lost + self.doubled + self.invented == 0
    }
}

/// How long robots were without a connection when they moved to a new certificate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Moves {
    /// Of how many.
    pub count: usize,
    /// The median, s.
    pub median_s: f64,
    /// 99 of 100 were shorter than this, s.
    pub p99_s: f64,
    /// The longest, s.
    pub longest_s: f64,
}

impl Moves {
    fn of(moves: &[Duration]) -> Option<Self> {
        let mut sorted = moves.to_vec();
        sorted.sort_unstable();
        let at = |index: usize| sorted.get(index).map(Duration::as_secs_f64);
        let count = sorted.len();
        Some(Self {
            count,
            median_s: at(count / 2)?,
            p99_s: at(count * 99 / 100)?,
            longest_s: at(count.checked_sub(1)?)?,
        })
    }
}

/// How a simulation ended.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Robots that took part.
    pub robots: usize,
    /// Robots online before the goodbyes.
    pub online: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections lost, or not made, that the scenario did not ask for.
    pub failures: u64,
    /// Messages sent.
    pub messages: u64,
    /// Certificates renewed.
    pub renewals: u64,
    /// Moves to those.
    pub moves: Option<Moves>,
    /// From the moment when nothing holds a robot off any more until the last is back, s; absent when some were not.
    pub all_back_s: Option<f64>,
    /// From the schedules' end until all that was kept was acknowledged, s; absent when it was not.
    pub settled_s: Option<f64>,
    /// Events.
    pub tally: Tally,
}

impl Report {
    /// Whether all are back, and the log is exact.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.settled_s.is_some() && self.online == self.robots as u64 && self.tally.is_exact()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally {
            emitted,
            logged,
            lost,
            doubled,
            invented,
        } = self.tally;
        writeln!(
            f,
            "{}: {} robots, {} online at the end",
            if self.is_good() { "good" } else { "NOT GOOD" },
            self.robots,
            self.online
        )?;
        writeln!(
            f,
            "  events: {emitted} emitted, {logged} in the log, {lost} lost, {doubled} doubled, {invented} never emitted"
        )?;
        writeln!(
            f,
            "  connections: {} made, {} failed or lost unasked; {} messages; {} certificates renewed",
            self.connections, self.failures, self.messages, self.renewals
        )?;
        if let Some(moves) = &self.moves {
            writeln!(
                f,
                "  {} moves to a new certificate, without a connection for {:.3} s (median), {:.3} s (99 %), {:.3} s (longest)",
                moves.count, moves.median_s, moves.p99_s, moves.longest_s
            )?;
        }
        match (self.all_back_s, self.settled_s) {
            (Some(back), Some(settled)) => write!(
                f,
                "  all back after {back:.2} s, all acknowledged {settled:.2} s after the end"
            ),
            _ => f.write_str("  not all came back, or not all was acknowledged"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_doubled_and_invented_events_are_told_apart() {
        let tally = |emitted, logged: &[u64]| {
            let tally = Tally::of(emitted, logged.to_vec());
            (tally.lost, tally.doubled, tally.invented, tally.is_exact())
        };
        assert_eq!(tally(3, &[2, 1, 3]), (0, 0, 0, true));
        assert_eq!(tally(0, &[]), (0, 0, 0, true));
        assert_eq!(tally(3, &[1, 3]), (1, 0, 0, false));
        assert_eq!(tally(3, &[1, 2, 2, 2, 3]), (0, 2, 0, false));
        assert_eq!(tally(2, &[1, 2, 3]), (0, 0, 1, false));
    }
}
