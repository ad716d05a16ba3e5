//! What the robot's own programs say, and how often it is told. Pure; the driver calls it.
//!
//! Invariant: an operator counts for as long as detection believes a report, since who drove once need not
//! drive now.

use std::time::{Duration, Instant};

use lekiwi_protocol::message::OperatingMode;

use crate::teleop::REPORT_LIFE;

/// What local programs said last.
#[derive(Debug, Default)]
pub struct Reported {
    /// Who is in charge, unless nobody said.
    pub mode: Option<OperatingMode>,
    operator: Option<(String, Instant)>,
}

impl Reported {
    /// Somebody drives, as a program said at `now`, or nobody does any more.
    pub fn set_operator(&mut self, now: Instant, operator: Option<String>) {
        self.operator = operator.map(|id| (id, now));
    }

    /// Who drives, as far as it was said.
    #[must_use]
    pub fn operator(&self) -> Option<&str> {
        self.operator.as_ref().map(|(id, _)| id.as_str())
    }

    /// Forgets an operator whom nobody has reported for [`REPORT_LIFE`]; says whether there was one.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let is_over = self.poll_timeout().is_some_and(|at| at <= now);
        if is_over {
            self.operator = None;
        }
        is_over
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        Some(self.operator.as_ref()?.1 + REPORT_LIFE)
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
#[expect(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_operator_counts_as_long_as_somebody_says_so() {
        let start = Instant::now();
        let mut reported = Reported::default();
        assert_eq!(reported.poll_timeout(), None);
        reported.set_operator(start, Some("alice".to_owned()));
        let later = start + REPORT_LIFE / 2;
        reported.set_operator(later, Some("alice".to_owned()));
        assert!(!reported.handle_timeout(start + REPORT_LIFE));
        assert_eq!(reported.operator(), Some("alice"));
        assert_eq!(reported.poll_timeout(), Some(later + REPORT_LIFE));
        assert!(reported.handle_timeout(later + REPORT_LIFE));
        assert_eq!(reported.operator(), None);
        reported.set_operator(later, Some("bob".to_owned()));
        reported.set_operator(later, None);
        assert_eq!(reported.poll_timeout(), None);
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
}
