//! What is told of the services, processes and checks that the profile names: each change at once, unless
//! one changes too often. Pure; called by the driver, which looks.
//!
//! After [`MOST`] changes within [`WINDOW`] the next one is told as `flapping` and the rest are not told
//! one by one; once nothing changed for [`WINDOW`], `steady` says what came of it. Invariants: at most
//! [`MOST`] + 2 sayings about one service in any [`WINDOW`]; what was told last, the state included, is
//! how it is once it is steady.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lekiwi_protocol::message::{
    Service, ServiceChanged, ServiceFlapping, ServiceKind, ServiceState, ServiceSteady,
};

/// The time in which changes are counted, and after which one that does not change is steady.
pub const WINDOW: Duration = Duration::from_secs(300);
/// So many changes within [`WINDOW`] are told one by one.
pub const MOST: usize = 4;

/// What one look saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// What it does.
    pub state: ServiceState,
    /// It is another run, or another process, than at the last look, without having been stopped.
    pub restarted: bool,
}

/// What to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saying {
    /// It changed.
    Changed(ServiceChanged),
    /// It changes too often.
    Flapping(ServiceFlapping),
    /// It has stopped doing that.
    Steady(ServiceSteady),
}

#[derive(Debug)]
struct Slot {
    name: String,
    kind: ServiceKind,
    state: ServiceState,
    restarts: u32,
    flapping: bool,
    changed: Instant,
    /// When the last changes were told, the oldest first.
    told: VecDeque<Instant>,
}

/// All services of a robot.
#[derive(Debug)]
pub struct Services {
    slots: Vec<Slot>,
    sayings: VecDeque<Saying>,
    news: bool,
}

impl Services {
    /// Knows these by name, none looked at yet.
    #[must_use]
    pub fn new(now: Instant, services: impl IntoIterator<Item = (String, ServiceKind)>) -> Self {
        let slot = |(name, kind)| Slot {
            name,
            kind,
            state: ServiceState::Unknown,
            restarts: 0,
            flapping: false,
            changed: now,
            told: VecDeque::with_capacity(MOST),
        };
        Self {
            slots: services.into_iter().map(slot).collect(),
            sayings: VecDeque::new(),
            news: false,
        }
    }

    /// What a look at service `index` saw. The first is where it begins, and no change.
    pub fn observe(&mut self, now: Instant, index: usize, sight: Sight) {
        self.handle_timeout(now);
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let from = std::mem::replace(&mut slot.state, sight.state);
        if from == ServiceState::Unknown {
            self.news |= sight.state != from;
            return;
        }
        if from == sight.state && !sight.restarted {
            return;
        }
        slot.restarts = slot.restarts.saturating_add(u32::from(sight.restarted));
        slot.changed = now;
        if slot.flapping {
            return;
        }
        while slot.told.front().is_some_and(|at| *at + WINDOW <= now) {
            slot.told.pop_front();
        }
        self.news = true;
        self.sayings.push_back(if slot.told.len() < MOST {
            slot.told.push_back(now);
            Saying::Changed(ServiceChanged {
                name: slot.name.clone(),
                from,
                to: sight.state,
                restarts: slot.restarts,
            })
        } else {
            slot.flapping = true;
            let first = slot.told.front().copied().unwrap_or(now);
            Saying::Flapping(ServiceFlapping {
                name: slot.name.clone(),
                changes: u32::try_from(MOST + 1).unwrap_or(u32::MAX),
                within_s: now.duration_since(first).as_secs().max(1),
            })
        });
    }

    /// What is steady again is told.
    pub fn handle_timeout(&mut self, now: Instant) {
        for slot in &mut self.slots {
            if slot.flapping && slot.changed + WINDOW <= now {
                slot.flapping = false;
                self.news = true;
                self.sayings.push_back(Saying::Steady(ServiceSteady {
                    name: slot.name.clone(),
                    state: slot.state,
                    restarts: slot.restarts,
                }));
            }
        }
    }

    /// When [`Self::handle_timeout`] has something to do, if nothing is observed before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let flapping = self.slots.iter().filter(|slot| slot.flapping);
        flapping.map(|slot| slot.changed + WINDOW).min()
    }

    /// The next thing to tell, oldest first.
    pub fn poll_saying(&mut self) -> Option<Saying> {
        self.sayings.pop_front()
    }

    /// Whether [`Self::report`] is worth telling again: since the last call a first look was taken, or
    /// something was to be told.
    pub fn poll_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// As the robot's state says it; what nothing here knows, the memory, is absent.
    pub fn report(&self) -> impl Iterator<Item = Service> {
        self.slots.iter().map(|slot| Service {
            name: slot.name.clone(),
            kind: slot.kind,
            state: slot.state,
            restarts: slot.restarts,
            flapping: slot.flapping,
            memory_bytes: None,
        })
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    const EVERY: Duration = Duration::from_secs(5);

    fn services() -> Services {
        Services::new(
            Instant::now(),
            [("host.service".to_owned(), ServiceKind::Unit)],
        )
    }

    fn word(state: ServiceState) -> &'static str {
        match state {
            ServiceState::Unknown => "unknown",
            ServiceState::Active => "active",
            ServiceState::Restarting => "restarting",
            ServiceState::Inactive => "inactive",
        }
    }

    fn told(saying: &Saying) -> String {
        match saying {
            Saying::Changed(it) => format!(
                "{} to {}, {} restarts",
                word(it.from),
                word(it.to),
                it.restarts
            ),
            Saying::Flapping(it) => format!("flapping: {} in {} s", it.changes, it.within_s),
            Saying::Steady(it) => {
                format!("steady: {}, {} restarts", word(it.state), it.restarts)
            }
        }
    }

    /// A look each 5 s; a letter a look: `+` active, `!` active again as another run, `~` restarting, `-`
    /// inactive, `?` no look.
    fn check(looks: &str, expected: &Expect) {
        let start = Instant::now();
        let mut services = services();
        let mut story = String::new();
        for (number, letter) in looks.chars().enumerate() {
            let now = start + EVERY * u32::try_from(number).unwrap();
            let state = match letter {
                '+' | '!' => ServiceState::Active,
                '~' => ServiceState::Restarting,
                _ => ServiceState::Inactive,
            };
            let restarted = letter == '!';
            match letter {
                '?' => services.handle_timeout(now),
                _ => services.observe(now, 0, Sight { state, restarted }),
            }
            while let Some(saying) = services.poll_saying() {
                let second = (now - start).as_secs();
                writeln!(story, "{second} s: {}", told(&saying)).unwrap();
            }
        }
        expected.assert_eq(&story);
    }

    #[test]
    fn each_change_is_told_at_once_and_a_first_look_is_none() {
        check(
            "++~!++--+",
            &expect![[r#"
                10 s: active to restarting, 0 restarts
                15 s: restarting to active, 1 restarts
                30 s: active to inactive, 1 restarts
                40 s: inactive to active, 1 restarts
            "#]],
        );
        check(
            "+!++",
            &expect![[r#"
                5 s: active to active, 1 restarts
            "#]],
        );
    }

    #[test]
    fn what_changes_too_often_is_said_to_flap_and_later_how_it_ended() {
        let calm = "+".repeat(70);
        check(
            &format!("+{}{calm}", "~!".repeat(20)),
            &expect![[r#"
                5 s: active to restarting, 0 restarts
                10 s: restarting to active, 1 restarts
                15 s: active to restarting, 1 restarts
                20 s: restarting to active, 2 restarts
                25 s: flapping: 5 in 20 s
                500 s: steady: active, 20 restarts
            "#]],
        );
        // Without another look it is said as well.
        check(
            &format!("+{}{}", "~!".repeat(3), "?".repeat(70)),
            &expect![[r#"
                5 s: active to restarting, 0 restarts
                10 s: restarting to active, 1 restarts
                15 s: active to restarting, 1 restarts
                20 s: restarting to active, 2 restarts
                25 s: flapping: 5 in 20 s
                330 s: steady: active, 3 restarts
            "#]],
        );
    }

    #[test]
    fn news_are_what_the_state_should_say() {
        let now = Instant::now();
        let mut services = services();
        let sight = |state| Sight {
            state,
            restarted: false,
        };
        assert!(!services.poll_news());
        services.observe(now, 0, sight(ServiceState::Active));
        assert!(services.poll_news(), "the first look");
        services.observe(now, 0, sight(ServiceState::Active));
        services.observe(now, 7, sight(ServiceState::Inactive));
        assert!(!services.poll_news());
        services.observe(now, 0, sight(ServiceState::Inactive));
        assert!(services.poll_news());
        let report: Vec<Service> = services.report().collect();
        assert_eq!(
            report,
            [Service {
                name: "host.service".to_owned(),
                kind: ServiceKind::Unit,
                state: ServiceState::Inactive,
                restarts: 0,
                flapping: false,
                memory_bytes: None,
            }]
        );
        assert_eq!(services.poll_timeout(), None);
    }

    proptest! {
        /// Whatever the looks see and however long the pauses are: few sayings in any window, and in the
        /// end everybody knows how it is.
        #[test]
        fn sayings_are_few_and_the_last_state_is_told(
            looks in proptest::collection::vec((0_u64..90, 0_usize..3, any::<bool>()), 1..200),
        ) {
            let start = Instant::now();
            let mut services = services();
            let states = [ServiceState::Active, ServiceState::Restarting, ServiceState::Inactive];
            let mut now = start;
            let mut at: Vec<Instant> = Vec::new();
            // What a listener believes: it had the first state from the picture after the connect.
            let mut believed = (states[looks[0].1], 0);
            let mut take = |services: &mut Services, now: Instant, at: &mut Vec<Instant>| {
                while let Some(saying) = services.poll_saying() {
                    at.push(now);
                    match saying {
                        Saying::Changed(it) => {
                            assert_eq!(it.from, believed.0, "changes join");
                            believed = (it.to, it.restarts);
                        }
                        Saying::Steady(it) => believed = (it.state, it.restarts),
                        Saying::Flapping(_) => {}
                    }
                }
                believed
            };
            for (pause, state, restarted) in looks {
                let next = now + Duration::from_secs(pause);
                if let Some(due) = services.poll_timeout().filter(|due| *due <= next) {
                    services.handle_timeout(due);
                    take(&mut services, due, &mut at);
                }
                now = next;
                services.observe(now, 0, Sight { state: states[state], restarted });
                take(&mut services, now, &mut at);
            }
            let end = now + WINDOW;
            services.handle_timeout(end);
            let believed = take(&mut services, end, &mut at);
            let last = services.report().next().unwrap();
            prop_assert_eq!(believed, (last.state, last.restarts));
            prop_assert!(!last.flapping && services.poll_timeout().is_none());
            for first in &at {
                let within = at.iter().filter(|t| *t >= first && **t < *first + WINDOW).count();
                prop_assert!(within <= MOST + 2, "{within}");
            }
        }
    }
}
