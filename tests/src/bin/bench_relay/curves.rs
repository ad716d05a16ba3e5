//! Cost against robots, message rate and length of the log: what a unit of each costs is to stay flat.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lekiwi_tests::fleet::{Admin, Pace};
use serde::Serialize;

use crate::goal::{Table, Wish, median, quantile};
use crate::ingest;
use crate::presence::{answers, count, quiet, states};
use crate::site::{Counts, Site};

/// Above the cheapest point, a curve's last one may be so many times as much: noise, and not growth.
const FLAT: f64 = 1.5;
/// What settles: births, their commits, a heap that grew.
const SETTLE: Duration = Duration::from_secs(5);
/// In which everything comes round that the relay does now and then: it keeps all pictures each half a minute.
const ROUND: Duration = Duration::from_secs(30);
/// Messages a second of all robots together, where their number is what changes.
const RATE: f64 = 500.0;
/// Robots, where their messages are what changes.
const ROBOTS: usize = 100;

/// How a quantity may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum May {
    /// Not at all: it is a unit's.
    Stay,
    /// As what it is drawn against, and no faster.
    GrowAlong,
}

/// One quantity against another.
#[derive(Debug, Serialize)]
pub(crate) struct Curve {
    /// What is drawn.
    pub(crate) title: &'static str,
    /// What grows.
    pub(crate) of: &'static str,
    /// Unit of what is drawn.
    pub(crate) unit: &'static str,
    /// How it may grow.
    may: May,
    /// Pairs of both, by what grows.
    pub(crate) points: Vec<(f64, f64)>,
}

impl Curve {
    fn new(title: &'static str, of: &'static str, unit: &'static str) -> Self {
        let (may, points) = (May::Stay, Vec::new());
        Self {
            title,
            of,
            unit,
            may,
            points,
        }
    }

    fn add(&mut self, of: f64, cost: f64) {
        let (title, what, unit) = (self.title, self.of, self.unit);
        crate::say(&format!("{title}: {cost:.3} {unit} at {of} {what}"));
        self.points.push((of, cost));
    }

    /// A unit's cost at the last point against the lowest.
    fn growth(&self) -> f64 {
        let costs = self.points.iter().map(|(of, cost)| match self.may {
            May::Stay => *cost,
            May::GrowAlong => cost / of,
        });
        let last = costs.clone().next_back().unwrap_or(f64::NAN);
        last / costs.fold(f64::INFINITY, f64::min)
    }
}

/// How long one measurement of a point takes, and how many there are; their median is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Of one.
    pub(crate) duration: Duration,
    /// Of a point.
    pub(crate) rounds: usize,
}

impl Effort {
    /// The median of what `measure` gives.
    async fn median(self, mut measure: impl AsyncFnMut(Duration) -> Result<f64>) -> Result<f64> {
        let mut found = Vec::new();
        for _ in 0..self.rounds {
            found.push(measure(self.duration).await?);
        }
        Ok(median(&found))
    }
}

/// All of them, and in the table whether they are flat.
pub(crate) async fn all(
    robots: usize,
    events: u64,
    effort: Effort,
    table: &mut Table,
) -> Result<Vec<Curve>> {
    let mut curves = against_robots(robots, effort).await?;
    curves.extend(against_rate().await?);
    curves.extend(against_log(events, effort).await?);
    for curve in &curves {
        let each = match curve.may {
            May::Stay => "",
            May::GrowAlong => ", for each",
        };
        let (title, of) = (curve.title, curve.of);
        let what = format!("{title}, by {of}{each}: last to lowest");
        table.add(what, "x", Wish::AtMost(FLAT), vec![curve.growth()]);
    }
    Ok(curves)
}

/// 10, 100, … up to `most`.
fn decades(first: u64, most: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(first), |n| n.checked_mul(10)).take_while(move |n| *n <= most)
}

/// Telemetry of all together `rate` times a second.
fn pace(site: &Site, rate: f64) -> Pace {
    Pace {
        telemetry: Some(Duration::from_secs_f64(count(site) / rate)),
        ..quiet(site)
    }
}

/// The relay's processor time for each message that it took meanwhile, µs.
async fn cost(site: &mut Site, admin: &Admin) -> Result<f64> {
    let counts = Counts::read(admin).await?;
    let before = site.processor()?;
    tokio::time::sleep(ROUND).await;
    let spent = site.processor()? - before;
    let messages = Counts::read(admin)
        .await?
        .since(&counts, "lekiwi_messages_total");
    ensure!(
        messages > 0.0,
        "expected messages within {ROUND:?}, none came"
    );
    Ok(spent.as_secs_f64() * 1e6 / messages)
}

/// A relay of its own for each number of robots: those that are away cost something as well.
async fn against_robots(most: usize, effort: Effort) -> Result<Vec<Curve>> {
    let of = "robots";
    let mut memory = Curve::new("memory for each robot", of, "KB");
    let mut message = Curve::new("processor time for each message, 500/s in all", of, "µs");
    let mut query = Curve::new("state query, p99, 500 messages/s in all", of, "ms");
    for robots in decades(10, most as u64) {
        let robots = usize::try_from(robots)?;
        let mut site = Site::start(robots).await?;
        // A fresh process: nothing that enrolment left in its heap is reused.
        site.relay.kill()?;
        site.relay.restart()?;
        let before = site.resident_kb()?;
        let simulation = site.online(pace(&site, RATE), None).await?;
        tokio::time::sleep(SETTLE).await;
        let each = (site.resident_kb()? - before) / count(&site);
        // What a relay needs for its first robots is not what they cost.
        if robots > 10 {
            memory.add(count(&site), each);
        }
        let admin = site.admin().await?;
        message.add(count(&site), cost(&mut site, &admin).await?);
        let tail = async |of| Ok(quantile(&states(&site, of)?, 0.99));
        query.add(count(&site), effort.median(tail).await?);
        simulation.stop().await?;
    }
    Ok(vec![memory, message, query])
}

async fn against_rate() -> Result<Vec<Curve>> {
    let mut message = Curve::new(
        "processor time for each message, 100 robots",
        "messages/s",
        "µs",
    );
    let mut site = Site::start(ROBOTS).await?;
    let admin = site.admin().await?;
    for rate in [100.0, 1_000.0, 10_000.0] {
        let simulation = site.online(pace(&site, rate), None).await?;
        tokio::time::sleep(SETTLE).await;
        message.add(rate, cost(&mut site, &admin).await?);
        simulation.stop().await?;
    }
    Ok(vec![message])
}

/// One log that grows.
async fn against_log(most: u64, effort: Effort) -> Result<Vec<Curve>> {
    let of = "events in the log";
    let mut append = Curve::new("processor time for each event", of, "µs");
    let mut start = Curve {
        may: May::GrowAlong,
        ..Curve::new("restart to the first answer", of, "s")
    };
    let mut page = Curve::new("a page of 100 events of a robot, p99", of, "ms");
    let mut site = Site::start(ingest::CLIENTS).await?;
    let admin = site.admin().await?;
    let mut length = 0;
    for events in decades(10_000, most) {
        let before = site.processor()?;
        ingest::fill(&site, events - length).await?;
        let spent = site.processor()? - before;
        #[expect(clippy::cast_precision_loss, reason = "counts of events")]
        let (all, new) = (events as f64, (events - length) as f64);
        append.add(all, spent.as_secs_f64() * 1e6 / new);
        length = events;
        site.relay.kill()?;
        let killed = Instant::now();
        site.relay.restart()?;
        admin.robots().await?;
        start.add(all, killed.elapsed().as_secs_f64());
        let robot = &site.identities[0].id;
        let path = format!("/api/v1/robots/{robot}/events?limit=100");
        let tail = async |of| {
            let paths = std::iter::repeat_with(|| path.clone());
            Ok(quantile(&answers(&site, of, paths)?, 0.99))
        };
        page.add(all, effort.median(tail).await?);
    }
    Ok(vec![append, start, page])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_grows_by_what_its_last_point_is_above_its_lowest() {
        let curve = |costs: &[f64]| Curve {
            points: [1.0, 10.0, 100.0]
                .into_iter()
                .zip(costs.iter().copied())
                .collect(),
            ..Curve::new("cost", "robots", "µs")
        };
        let along = |costs: &[f64]| Curve {
            may: May::GrowAlong,
            ..curve(costs)
        };
        assert_eq!(curve(&[30.0, 10.0, 12.0]).growth(), 1.2);
        assert_eq!(curve(&[10.0, 20.0, 40.0]).growth(), 4.0);
        assert_eq!(along(&[30.0, 40.0, 140.0]).growth(), 1.0);
        assert_eq!(along(&[30.0, 200.0, 6_000.0]).growth(), 3.0);
        assert!(curve(&[]).growth().is_nan(), "no points are not flat");
    }

    #[test]
    fn decades_end_with_the_most() {
        assert_eq!(decades(10, 1_000).collect::<Vec<_>>(), [10, 100, 1_000]);
        assert_eq!(decades(10, 999).collect::<Vec<_>>(), [10, 100]);
    }
}
