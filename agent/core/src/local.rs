//! What the robot's own programs say, and how much of it is taken. Pure; the socket and the driver call it.
//!
//! Invariants: at most [`MAX_CUSTOM_METRICS`] metrics of their own are known at a time; a metric that nobody
//! reports any more is given up after [`LIFETIME`], since an old value that looks new is a lie; a [`Rate`]
//! lets through at most its burst and one more each interval.

use std::time::{Duration, Instant};

use lekiwi_protocol::MetricName;
use lekiwi_protocol::limits::MAX_CUSTOM_METRICS;
use lekiwi_protocol::message::OperatingMode;
use lekiwi_protocol::message::metric::CUSTOM;

use crate::debounce::Rule;

/// How long a reported metric counts when nobody reports it again.
pub const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// The rule of every metric that is reported: any change, but not more often than is useful.
pub const RULE: Rule = Rule {
    deadband: 0.0,
    min_interval: Duration::from_secs(10),
    keep_alive: Duration::from_secs(300),
    alert: None,
};

/// One more name would be too many.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected at most {MAX_CUSTOM_METRICS} metrics of local programs, and {0} would be one more"
)]
pub struct TooMany(MetricName);

/// What local programs said last.
#[derive(Debug, Default)]
pub struct Reported {
    /// Who is in charge, unless nobody said.
    pub mode: Option<OperatingMode>,
    /// Who drives.
    pub operator: Option<String>,
    metrics: Vec<(MetricName, Instant)>,
}

impl Reported {
    /// A metric was reported at `now`. Says whether it is a new one.
    ///
    /// # Errors
    /// When it would be one too many of [`CUSTOM`]; it is not taken then.
    pub fn metric(&mut self, now: Instant, name: &MetricName) -> Result<bool, TooMany> {
        if let Some((_, at)) = self.metrics.iter_mut().find(|(known, _)| known == name) {
            *at = now;
            return Ok(false);
        }
        let is_custom = |name: &MetricName| name.as_str().starts_with(CUSTOM);
        let customs = self.metrics.iter().filter(|(name, _)| is_custom(name));
        if is_custom(name) && customs.count() >= MAX_CUSTOM_METRICS {
            return Err(TooMany(name.clone()));
        }
        self.metrics.push((name.clone(), now));
        Ok(true)
    }

    /// The next metric that nobody has reported for [`LIFETIME`]; it is forgotten.
    pub fn poll_stale(&mut self, now: Instant) -> Option<MetricName> {
        let is_stale = |at: Instant| now.saturating_duration_since(at) >= LIFETIME;
        let index = self.metrics.iter().position(|(_, at)| is_stale(*at))?;
        Some(self.metrics.swap_remove(index).0)
    }
}

/// Lets `burst` through at once, and after that one each `every`.
#[derive(Debug, Clone)]
pub struct Rate {
    burst: u32,
    every: Duration,
    /// When all of the burst is there again.
    full_at: Option<Instant>,
}

impl Rate {
    /// Nothing was let through yet.
    #[must_use]
    pub const fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst,
            every,
            full_at: None,
        }
    }

    /// Lets one through.
    ///
    /// # Errors
    /// When it is too early: how long to wait.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.unwrap_or(now).max(now) + self.every;
        let ahead = full_at - now;
        let most = self.every * self.burst;
        if ahead > most {
            return Err(ahead - most);
        }
        self.full_at = Some(full_at);
        Ok(())
    }
}

/// Something that is done at once when it was not done for a while, and else as soon as it may be again.
#[derive(Debug)]
pub struct Throttle {
    every: Duration,
    done_at: Option<Instant>,
    is_wanted: bool,
}

impl Throttle {
    /// At most once each `every`.
    #[must_use]
    pub const fn new(every: Duration) -> Self {
        Self {
            every,
            done_at: None,
            is_wanted: false,
        }
    }

    /// It is wanted: [`Self::poll`] says when.
    pub fn want(&mut self) {
        self.is_wanted = true;
    }

    /// Whether it is to be done now.
    pub fn poll(&mut self, now: Instant) -> bool {
        if self.poll_timeout(now).is_none_or(|at| at > now) {
            return false;
        }
        self.is_wanted = false;
        self.done_at = Some(now);
        true
    }

    /// When [`Self::poll`] next says yes; `None` while nothing is wanted.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        self.is_wanted
            .then(|| self.done_at.map_or(now, |at| at + self.every))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> MetricName {
        MetricName::new(text).unwrap()
    }

    #[test]
    fn names_are_bounded_and_those_nobody_reports_make_room() {
        let start = Instant::now();
        let mut reported = Reported::default();
        assert_eq!(reported.metric(start, &name("battery_percent")), Ok(true));
        for index in 0..MAX_CUSTOM_METRICS {
            let name = name(&format!("custom.m{index}"));
            assert_eq!(reported.metric(start, &name), Ok(true));
        }
        let late = start + LIFETIME;
        assert_eq!(
            reported
                .metric(late, &name("custom.more"))
                .unwrap_err()
                .to_string(),
            "expected at most 32 metrics of local programs, and custom.more would be one more"
        );
        assert_eq!(reported.metric(late, &name("battery_v")), Ok(true));
        assert_eq!(reported.metric(late, &name("custom.m7")), Ok(false));
        let just_before = late - Duration::from_millis(1);
        assert_eq!(reported.poll_stale(just_before), None);
        let mut gone = 0;
        while let Some(name) = reported.poll_stale(late) {
            assert_ne!(name.as_str(), "custom.m7");
            gone += 1;
        }
        assert_eq!(gone, MAX_CUSTOM_METRICS);
        assert_eq!(reported.metric(late, &name("custom.more")), Ok(true));
    }

    #[test]
    fn the_state_is_told_at_once_and_then_not_too_often() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut throttle = Throttle::new(Duration::from_secs(1));
        assert!(!throttle.poll(start));
        throttle.want();
        assert!(throttle.poll(start));
        for ms in 1..1000 {
            throttle.want();
            assert!(!throttle.poll(after(ms)));
            assert_eq!(throttle.poll_timeout(after(ms)), Some(after(1000)));
        }
        assert!(throttle.poll(after(1000)));
        assert_eq!(throttle.poll_timeout(after(1001)), None);
    }

    proptest! {
        /// Whoever asks however often: never more than the burst and one more each interval, and whoever
        /// waits as long as told is let through.
        #[test]
        fn a_rate_holds(pauses in proptest::collection::vec(0_u64..2000, 1..300)) {
            let (burst, every) = (5, Duration::from_secs(1));
            let start = Instant::now();
            let mut rate = Rate::new(burst, every);
            let (mut now, mut taken) = (start, 0_u32);
            for pause in pauses {
                now += Duration::from_millis(pause);
                match rate.take(now) {
                    Ok(()) => taken += 1,
                    Err(wait) => prop_assert_eq!(rate.clone().take(now + wait), Ok(())),
                }
                let most = burst + (now - start).as_secs() as u32;
                prop_assert!(taken <= most, "{} of {}", taken, most);
            }
        }
    }
}
