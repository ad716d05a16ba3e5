//! When an expensive probe runs: at its own pace, but not while the machine is busy with the robot's work.
//! Pure; called by the driver before each such probe.
//!
//! Invariant: a probe that is asked for steadily runs at least once per [`LONGEST`], whatever the load.

use std::time::{Duration, Instant};

/// Load a core above which expensive probes wait.
pub const BUSY: f64 = 1.5;
/// The longest that a probe waits for the machine to calm down.
pub const LONGEST: Duration = Duration::from_secs(600);

/// The pace of one probe.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    every: Duration,
    /// When it ran last, or when it was first wanted.
    since: Instant,
    has_run: bool,
}

impl Patience {
    /// A probe that should run now, and every `every` after that.
    #[must_use]
    pub fn new(now: Instant, every: Duration) -> Self {
        Self {
            every,
            since: now,
            has_run: false,
        }
    }

    /// Whether to run it now; then it counts as run. A load that is not known holds nothing up.
    pub fn is_due(&mut self, now: Instant, load_per_core: Option<f64>) -> bool {
        let waited = now.saturating_duration_since(self.since);
        let is_time = !self.has_run || waited >= self.every;
        let is_calm = load_per_core.is_none_or(|load| load <= BUSY);
        let runs = is_time && (is_calm || waited >= LONGEST);
        if runs {
            self.since = now;
            self.has_run = true;
        }
        runs
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn probes_wait_while_the_machine_is_busy_but_not_for_ever() {
        let start = Instant::now();
        let mut patience = Patience::new(start, Duration::from_secs(30));
        let story = [
            (0, Some(0.2), true),
            (29, Some(0.2), false),
            (30, None, true),
            (60, Some(1.5), true),
            (100, Some(1.6), false),
            (500, Some(9.0), false),
            (659, Some(9.0), false),
            (660, Some(9.0), true),
            (700, Some(9.0), false),
            (702, Some(0.0), true),
        ];
        for (second, load, runs) in story {
            let now = start + Duration::from_secs(second);
            assert_eq!(patience.is_due(now, load), runs, "{second} s");
        }
        let mut never = Patience::new(start, Duration::from_secs(30));
        assert!(!never.is_due(start, Some(2.0)), "busy from the start");
        assert!(never.is_due(start + LONGEST, Some(2.0)));
    }

    proptest! {
        /// Whatever the load: never twice within the pace, and never waiting longer than agreed.
        #[test]
        fn the_pace_holds_and_patience_ends(
            looks in proptest::collection::vec((0_u64..120, 0.0_f64..4.0), 1..300),
        ) {
            let start = Instant::now();
            let every = Duration::from_secs(30);
            let mut patience = Patience::new(start, every);
            let (mut now, mut last) = (start, None::<Instant>);
            for (pause, load) in looks {
                now += Duration::from_secs(pause);
                let waited = now - last.unwrap_or(start);
                if patience.is_due(now, Some(load)) {
                    prop_assert!(last.is_none() || waited >= every, "{waited:?}");
                    prop_assert!(load <= BUSY || waited >= LONGEST);
                    last = Some(now);
                } else {
                    prop_assert!(waited < LONGEST, "{waited:?}");
                }
            }
        }
    }
}
