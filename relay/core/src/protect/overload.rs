//! What is given up first when there is more than can be done, and when that is said.
//!
//! Invariant: a beginning and an end are said in turn, and beginnings at least [`SAID_EVERY`] apart, however load comes and
//! goes; what is given up is counted in any case.

use std::time::{Duration, Instant};

/// Without anything given up for so long, it is over.
const CALM_AFTER: Duration = Duration::from_secs(10);
const SAID_EVERY: Duration = Duration::from_secs(300);

/// How much a message may wait for others, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Telemetry of an outage, which the robot keeps until it is acknowledged.
    Late,
    /// Telemetry, which the next one replaces.
    Telemetry,
    /// Everything else. Events that find no room are not acknowledged, and the robot says them again.
    Rest,
}

impl Urgency {
    /// Whether there is room for it in a queue for `room` messages, with `free` of them free.
    #[must_use]
    pub fn fits(self, free: usize, room: usize) -> bool {
        let kept_free = match self {
            Self::Late => room / 2,
            Self::Telemetry => room / 4,
            Self::Rest => 0,
        };
        free > kept_free
    }
}

/// What is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Something is given up.
    Begun,
    /// Nothing is any more.
    Over {
        /// How many messages and samples were.
        shed: u64,
        /// For how long, in seconds.
        lasted_s: u64,
    },
}

#[derive(Debug, Clone, Copy)]
struct Spell {
    begun: Instant,
    /// When something was given up last.
    last: Instant,
    /// What had been given up when it began.
    before: u64,
    is_said: bool,
}

/// Watches how much is given up.
#[derive(Debug, Default)]
pub struct Overload {
    shed: u64,
    spell: Option<Spell>,
    said: Option<Instant>,
}

impl Overload {
    /// So much was given up in all by `now`.
    pub fn observe(&mut self, now: Instant, shed: u64) -> Option<Said> {
        let before = std::mem::replace(&mut self.shed, shed);
        if shed > before {
            if let Some(spell) = &mut self.spell {
                spell.last = now;
                return None;
            }
            let is_said = self.said.is_none_or(|said| said + SAID_EVERY <= now);
            self.spell = Some(Spell {
                begun: now,
                last: now,
                before,
                is_said,
            });
            if is_said {
                self.said = Some(now);
            }
            return is_said.then_some(Said::Begun);
        }
        let spell = self.spell.filter(|spell| spell.last + CALM_AFTER <= now)?;
        self.spell = None;
        spell.is_said.then(|| Said::Over {
            shed: shed - spell.before,
            lasted_s: (spell.last - spell.begun).as_secs(),
        })
    }

    /// How much was given up since it began; nothing when it is over.
    #[must_use]
    pub fn shedding(&self) -> Option<u64> {
        self.spell.map(|spell| self.shed - spell.before)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_less_urgent_make_room_first() {
        let fits = |free| {
            [Urgency::Late, Urgency::Telemetry, Urgency::Rest]
                .map(|urgency| urgency.fits(free, 100))
        };
        assert_eq!(fits(51), [true, true, true]);
        assert_eq!(fits(50), [false, true, true]);
        assert_eq!(fits(25), [false, false, true]);
        assert_eq!(fits(0), [false, false, false]);
    }

    #[test]
    fn a_spell_is_said_at_its_beginning_and_end_and_one_soon_after_is_not() {
        let start = Instant::now();
        let mut overload = Overload::default();
        let mut at = |seconds, shed| {
            let said = overload.observe(start + Duration::from_secs(seconds), shed);
            (said, overload.shedding())
        };
        assert_eq!(at(0, 0), (None, None));
        assert_eq!(at(1, 5), (Some(Said::Begun), Some(5)));
        assert_eq!(at(3, 7), (None, Some(7)));
        assert_eq!(at(12, 7), (None, Some(7)));
        let over = Said::Over {
            shed: 7,
            lasted_s: 2,
        };
        assert_eq!(at(13, 7), (Some(over), None));
        assert_eq!(at(20, 9), (None, Some(2)), "soon after");
        assert_eq!(at(40, 9), (None, None));
        assert_eq!(at(301, 10), (Some(Said::Begun), Some(1)));
    }

    proptest! {
        #[test]
        fn begun_and_over_alternate_and_come_seldom(steps in proptest::collection::vec((0_u64..60, 0_u64..3), 0..300)) {
            let (mut now, mut shed) = (Instant::now(), 0);
            let (mut overload, mut open, mut begun) = (Overload::default(), false, None::<Instant>);
            for (seconds, more) in steps {
                now += Duration::from_secs(seconds);
                shed += more;
                match overload.observe(now, shed) {
                    Some(Said::Begun) => {
                        prop_assert!(!open && begun.is_none_or(|at| at + SAID_EVERY <= now));
                        (open, begun) = (true, Some(now));
                    }
                    Some(Said::Over { shed, .. }) => {
                        prop_assert!(open && shed > 0);
                        open = false;
                    }
                    None => {}
                }
            }
        }
    }
}
