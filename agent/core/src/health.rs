//! Whether the robot's own software works: results of looks at services and checks go in, one steady
//! answer comes out. Pure; called by the driver, which looks.
//!
//! A single failed look is noise. A check counts as failing after [`IN_A_ROW`] failures in a row or
//! [`AMONG_LAST`] among its last [`MEMORY`] looks, and as passing again after a number of passes in a row
//! that doubles with each relapse. One that never passed has [`START_GRACE`] to come up. Invariants:
//! nothing is looked at before the setup is done; at most one look at a check is under way; `healthy` and
//! `unhealthy` alternate, and a check that flaps for ever changes the answer ever more rarely.

use std::time::{Duration, Instant};

use lekiwi_protocol::message::{Failing, RobotHealth, SetupStatus};

/// So many failures in a row are one too many.
pub const IN_A_ROW: u32 = 2;
/// So many failures among the last [`MEMORY`] looks as well.
pub const AMONG_LAST: u32 = 3;
/// Looks that are remembered.
pub const MEMORY: u32 = 8;
/// Passes in a row after which a failing check passes again, the first time.
pub const PASSES: u32 = 3;
/// The most passes in a row that are asked for.
pub const MAX_PASSES: u32 = 96;
/// After so many passes in a row a relapse is a first one again.
pub const FORGIVEN: u32 = 2 * MAX_PASSES;
/// How long a check that never passed may fail, from the first look.
pub const START_GRACE: Duration = Duration::from_secs(60);

/// Something that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The unit, or the check's name.
    pub name: String,
    /// Time between two looks.
    pub every: Duration,
}

/// What became known about all of them together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All pass.
    Healthy,
    /// These do not.
    Unhealthy(Vec<Failing>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unknown,
    Passing,
    Failing,
}

#[derive(Debug)]
struct Slot {
    target: Target,
    standing: Standing,
    reason: String,
    /// One bit a look, the newest lowest; set for a failure.
    failures: u32,
    first_failure: Option<Instant>,
    passes: u32,
    wanted_passes: u32,
    under_way: bool,
    due: Instant,
}

impl Slot {
    fn new(now: Instant, target: Target) -> Self {
        Self {
            target,
            standing: Standing::Unknown,
            reason: String::new(),
            failures: 0,
            first_failure: None,
            passes: 0,
            wanted_passes: PASSES,
            under_way: false,
            due: now,
        }
    }

    /// Takes one result; says whether the standing changed.
    fn observe(&mut self, now: Instant, result: Result<(), String>) -> bool {
        let before = self.standing;
        let mask = (1 << MEMORY) - 1;
        self.failures = ((self.failures << 1) | u32::from(result.is_err())) & mask;
        match result {
            Ok(()) => {
                self.passes = self.passes.saturating_add(1);
                match self.standing {
                    Standing::Unknown => self.standing = Standing::Passing,
                    Standing::Failing if self.passes >= self.wanted_passes => {
                        self.standing = Standing::Passing;
                        self.failures = 0;
                    }
                    Standing::Passing if self.passes >= FORGIVEN => self.wanted_passes = PASSES,
                    Standing::Passing | Standing::Failing => {}
                }
            }
            Err(reason) => {
                self.passes = 0;
                self.reason = reason;
                let began = *self.first_failure.get_or_insert(now);
                let row = (1 << IN_A_ROW) - 1;
                let too_many =
                    self.failures & row == row || self.failures.count_ones() >= AMONG_LAST;
                match self.standing {
                    Standing::Passing if too_many => {
                        self.standing = Standing::Failing;
                    }
                    Standing::Unknown if now.duration_since(began) >= START_GRACE => {
                        self.standing = Standing::Failing;
                    }
                    _ => {}
                }
            }
        }
        if self.standing == Standing::Passing && before == Standing::Failing {
            // The next recovery is believed later.
            self.wanted_passes = (self.wanted_passes * 2).min(MAX_PASSES);
        }
        self.standing != before
    }
}

/// The health of a robot.
#[derive(Debug)]
pub struct Health {
    setup: SetupStatus,
    slots: Vec<Slot>,
    said: Option<bool>,
    verdict: Option<Verdict>,
    changed: bool,
}

impl Health {
    /// Knows these targets; the setup has not begun.
    #[must_use]
    pub fn new(now: Instant, targets: impl IntoIterator<Item = Target>) -> Self {
        Self {
            setup: SetupStatus::Pending,
            slots: targets.into_iter().map(|t| Slot::new(now, t)).collect(),
            said: None,
            verdict: None,
            changed: true,
        }
    }

    /// The setup stands so. Told whenever it is looked at.
    pub fn setup(&mut self, now: Instant, setup: SetupStatus) {
        if self.setup == setup {
            return;
        }
        self.setup = setup;
        self.changed = true;
        if setup == SetupStatus::Done {
            // What was installed has time to come up.
            for slot in &mut self.slots {
                slot.due = now;
                slot.first_failure = None;
            }
        }
        self.judge();
    }

    /// The next target to look at now; answer with [`Self::observe`].
    pub fn poll_look(&mut self, now: Instant) -> Option<usize> {
        if self.setup != SetupStatus::Done {
            return None;
        }
        let due = |slot: &Slot| !slot.under_way && slot.due <= now;
        let index = self.slots.iter().position(due)?;
        let slot = &mut self.slots[index];
        slot.under_way = true;
        slot.due = now + slot.target.every;
        Some(index)
    }

    /// The look at target `index` cannot be made now: the next is as far away as after another.
    pub fn put_off(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.under_way = false;
        }
    }

    /// What a look at target `index` found; `Err` says what was expected and what came.
    pub fn observe(&mut self, now: Instant, index: usize, result: Result<(), String>) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        slot.under_way = false;
        if slot.observe(now, result) {
            self.changed = true;
            self.judge();
        }
    }

    /// When [`Self::poll_look`] next has something, if nothing else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.setup != SetupStatus::Done {
            return None;
        }
        let waiting = self.slots.iter().filter(|slot| !slot.under_way);
        waiting.map(|slot| slot.due).min()
    }

    /// A verdict that differs from the last one.
    pub fn poll_verdict(&mut self) -> Option<Verdict> {
        self.verdict.take()
    }

    /// Whether [`Self::report`] says something else than at the last call.
    pub fn poll_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// As the robot's state says it.
    #[must_use]
    pub fn report(&self) -> RobotHealth {
        let passing = |slot: &Slot| slot.standing == Standing::Passing;
        RobotHealth {
            healthy: self.setup == SetupStatus::Done && self.slots.iter().all(passing),
            setup: self.setup,
            failing: self.failing(),
        }
    }

    fn failing(&self) -> Vec<Failing> {
        let failing = |slot: &&Slot| slot.standing == Standing::Failing;
        self.slots
            .iter()
            .filter(failing)
            .map(|slot| Failing {
                name: slot.target.name.clone(),
                reason: slot.reason.clone(),
            })
            .collect()
    }

    /// A verdict is passed when the setup is done and every target has a standing, or one fails.
    fn judge(&mut self) {
        if self.setup != SetupStatus::Done {
            return;
        }
        let failing = self.failing();
        let healthy = failing.is_empty();
        let unknown = |slot: &Slot| slot.standing == Standing::Unknown;
        if self.said == Some(healthy) || (healthy && self.slots.iter().any(unknown)) {
            return;
        }
        self.said = Some(healthy);
        self.verdict = Some(if healthy {
            Verdict::Healthy
        } else {
            Verdict::Unhealthy(failing)
        });
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    fn targets(names: &[&str]) -> Vec<Target> {
        let target = |name: &&str| Target {
            name: (*name).to_owned(),
            every: EVERY,
        };
        names.iter().map(target).collect()
    }

    /// Looks at every target each 10 s; a row has one letter a target and look: `.` passes, `x` fails.
    fn check(names: &[&str], rows: &[&str], expected: &Expect) {
        let start = Instant::now();
        let mut health = Health::new(start, targets(names));
        let mut story = String::new();
        health.setup(start, SetupStatus::Done);
        for look in 0..rows[0].len() {
            let now = start + EVERY * u32::try_from(look).unwrap();
            while let Some(index) = health.poll_look(now) {
                let result = match rows[index].as_bytes()[look] {
                    b'x' => Err(format!("expected {}", names[index])),
                    _ => Ok(()),
                };
                health.observe(now, index, result);
            }
            let second = (now - start).as_secs();
            match health.poll_verdict() {
                Some(Verdict::Healthy) => writeln!(story, "{second} s: healthy").unwrap(),
                Some(Verdict::Unhealthy(failing)) => {
                    let failing: Vec<_> = failing
                        .into_iter()
                        .map(|failing| format!("{} ({})", failing.name, failing.reason))
                        .collect();
                    writeln!(story, "{second} s: unhealthy: {}", failing.join(", ")).unwrap();
                }
                None => {}
            }
        }
        expected.assert_eq(&story);
    }

    #[test]
    fn one_failed_look_is_noise_and_two_are_not() {
        check(
            &["host", "port"],
            &["...x.....xx......", "................."],
            &expect![[r#"
                0 s: healthy
                100 s: unhealthy: host (expected host)
                130 s: healthy
            "#]],
        );
    }

    #[test]
    fn what_never_passed_has_time_to_come_up() {
        check(
            &["host", "port"],
            &[".............", "xxxxx........"],
            &expect![[r#"
                50 s: healthy
            "#]],
        );
        check(
            &["host", "port"],
            &[".............", "xxxxxxxxxxxxx"],
            &expect![[r#"
                60 s: unhealthy: port (expected port)
            "#]],
        );
    }

    #[test]
    fn what_comes_and_goes_is_failing() {
        check(
            &["host"],
            &[".x.x.x.x.x.x.x.x.x.x.x.x"],
            &expect![[r#"
                0 s: healthy
                50 s: unhealthy: host (expected host)
            "#]],
        );
    }

    #[test]
    fn a_recovery_is_believed_later_each_time() {
        let relapses = "xx...........".repeat(10);
        check(
            &["host"],
            &[&format!(".{relapses}")],
            &expect![[r#"
                0 s: healthy
                20 s: unhealthy: host (expected host)
                50 s: healthy
                150 s: unhealthy: host (expected host)
                210 s: healthy
                280 s: unhealthy: host (expected host)
            "#]],
        );
    }

    #[test]
    fn a_second_failure_is_in_the_state_and_no_second_event() {
        let start = Instant::now();
        let mut health = Health::new(start, targets(&["host", "port"]));
        assert!(health.poll_change(), "the first report");
        assert_eq!(health.poll_look(start), None, "before the setup is done");
        assert_eq!(health.poll_timeout(), None);
        assert_eq!(
            health.report(),
            RobotHealth::default(),
            "pending and not healthy"
        );
        health.setup(start, SetupStatus::Running);
        assert!(health.poll_change());
        health.setup(start, SetupStatus::Running);
        assert!(!health.poll_change(), "nothing new");
        health.setup(start, SetupStatus::Done);
        assert_eq!(health.poll_look(start), Some(0));
        assert_eq!(health.poll_look(start), Some(1));
        assert_eq!(health.poll_look(start), None, "both are under way");
        assert_eq!(health.poll_timeout(), None);
        for index in [0, 1] {
            health.observe(start, index, Ok(()));
        }
        assert_eq!(health.poll_timeout(), Some(start + EVERY));
        assert_eq!(health.poll_verdict(), Some(Verdict::Healthy));
        assert!(health.report().healthy && health.poll_change());
        for _ in 0..2 {
            health.observe(start, 1, Err("late".to_owned()));
        }
        assert!(matches!(
            health.poll_verdict(),
            Some(Verdict::Unhealthy(failing)) if failing.len() == 1
        ));
        assert!(health.poll_change());
        for _ in 0..2 {
            health.observe(start, 0, Err("gone".to_owned()));
        }
        assert_eq!(health.poll_verdict(), None);
        assert!(health.poll_change());
        let failing = |name: &str, reason: &str| Failing {
            name: name.to_owned(),
            reason: reason.to_owned(),
        };
        assert_eq!(
            health.report(),
            RobotHealth {
                healthy: false,
                setup: SetupStatus::Done,
                failing: vec![failing("host", "gone"), failing("port", "late")],
            }
        );
        health.observe(start, 7, Ok(()));
    }

    #[test]
    fn a_look_that_is_put_off_is_made_another_time_and_finds_nothing() {
        let start = Instant::now();
        let mut health = Health::new(start, targets(&["host"]));
        health.setup(start, SetupStatus::Done);
        assert_eq!(health.poll_look(start), Some(0));
        health.put_off(0);
        health.put_off(7);
        assert_eq!(health.poll_look(start), None);
        assert_eq!(health.poll_timeout(), Some(start + EVERY));
        assert_eq!(health.poll_look(start + EVERY), Some(0));
        assert_eq!(health.poll_verdict(), None);
    }

    #[test]
    fn nothing_to_watch_is_healthy_once_the_setup_is_done() {
        let start = Instant::now();
        let mut health = Health::new(start, []);
        health.setup(start, SetupStatus::Failed);
        assert_eq!(health.poll_verdict(), None);
        assert!(!health.report().healthy);
        health.setup(start, SetupStatus::Done);
        assert_eq!(health.poll_verdict(), Some(Verdict::Healthy));
        assert!(health.report().healthy);
        health.setup(start, SetupStatus::Running);
        health.setup(start, SetupStatus::Done);
        assert_eq!(health.poll_verdict(), None, "said already");
    }

    proptest! {
        /// Whatever the looks find, verdicts alternate, and in an hour of looks there are few.
        #[test]
        fn verdicts_alternate_and_are_few(looks in proptest::collection::vec(any::<bool>(), 360)) {
            let start = Instant::now();
            let mut health = Health::new(start, targets(&["host"]));
            health.setup(start, SetupStatus::Done);
            let mut verdicts = Vec::new();
            for (number, fails) in looks.into_iter().enumerate() {
                let now = start + EVERY * u32::try_from(number).unwrap();
                prop_assert_eq!(health.poll_look(now), Some(0));
                health.observe(now, 0, if fails { Err(String::new()) } else { Ok(()) });
                verdicts.extend(health.poll_verdict().map(|verdict| verdict == Verdict::Healthy));
            }
            prop_assert!(verdicts.windows(2).all(|pair| pair[0] != pair[1]));
            // Seven recoveries take 3 + 6 + 12 + 24 + 48 + 96 + 96 of the 360 looks, an eighth does not fit.
            prop_assert!(verdicts.len() <= 16, "{verdicts:?}");
        }
    }
}
