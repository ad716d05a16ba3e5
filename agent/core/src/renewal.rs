//! When the robot asks for its next certificate, and when that takes the place of the present one. Pure; the driver has
//! disk, network and clock.
//!
//! ```text
//! Resting ─due, or wanted→ Asking ─got→ Proving ─accepted→ Proved ─promoted→ Resting
//!      ↑ ←──── failed (back-off) ──┘       └─ only the present one is accepted: dropped (back-off)
//! ```
//! The next certificate proves itself by the connection that the robot lives by: whatever a probe may say, a broker that
//! does not take it would lock the robot out. The present one stays until then.
//!
//! Invariants: robots of a fleet that was enrolled at once ask over a fifth of the time that they wait; nothing is asked
//! for again sooner than [`MIN_WAIT`], unless somebody wants it, whatever the clock says; the next certificate is
//! promoted only after a broker has accepted it, and dropped only after one has accepted the present one where
//! the next one had just failed; what fails otherwise is tried with both by turns.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lekiwi_protocol::{RobotId, Timestamp};
use sha2::{Digest, Sha256};

/// Shortest time between two requests.
pub const MIN_WAIT: Duration = Duration::from_secs(5);
/// The first wait after a failure, which doubles.
const FIRST_WAIT: Duration = Duration::from_secs(60);
/// Longest wait after a failure.
const MAX_WAIT: Duration = Duration::from_secs(6 * 3600);
/// Time between two looks at a clock that may have been set.
const LOOK: Duration = Duration::from_secs(3600);
/// Time after which a robot that was busy is asked again to move to its next certificate, and the disk to keep it.
const AGAIN: Duration = Duration::from_secs(10);
/// Of its lifetime, the share that each certificate serves at least.
const ANEW: u32 = 30;
/// Of what is left, the share that a robot waits at most after a failure.
const HURRY: u32 = 10;

/// From when until when a certificate serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// When the robot got it.
    pub since: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

impl Term {
    /// When `robot` asks for the next: with a third left, a tenth of that time sooner or later.
    #[must_use]
    pub fn renews_at(self, robot: &RobotId) -> Timestamp {
        let share = 1.0 + 0.1 * (2.0 * lot(robot) - 1.0);
        let wait = self.not_after.since(self.since) * 2 / 3;
        self.since.plus(wait.mul_f64(share))
    }
}

/// A number from 0 to 1 that is this robot's own, and always the same.
fn lot(robot: &RobotId) -> f64 {
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(robot.as_str()).into();
    f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX)
}

/// Which certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one that counts.
    Present,
    /// The one that may take its place.
    Next,
}

/// What happened outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// There is another present certificate, got just now.
    Term(Term),
    /// Somebody wants it renewed now.
    Wanted,
    /// The next certificate is on the disk.
    Got,
    /// There is none.
    Failed,
    /// A broker accepted this one.
    Accepted(Which),
    /// A connection with this one did not come to be, for whatever reason.
    Refused(Which),
    /// [`Renewal::poll_timeout`] passed.
    Timeout,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Ask for the next certificate; answer [`Input::Got`] or [`Input::Failed`].
    Ask,
    /// Connect anew when the robot can be without a connection for a moment.
    Move,
    /// Let the next certificate take the present one's place; answer [`Input::Term`].
    Promote,
    /// Forget the next certificate.
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Resting,
    Asking,
    /// Whether the last connection that did not come to be was one with the next certificate.
    Proving {
        has_failed: bool,
    },
    Proved,
}

/// One robot's renewal.
#[derive(Debug)]
pub struct Renewal {
    robot: RobotId,
    term: Option<Term>,
    stage: Stage,
    failures: u32,
    /// When nothing is asked for before.
    earliest: Instant,
    /// When it is looked at again.
    wake: Instant,
    outputs: VecDeque<Output>,
}

impl Renewal {
    /// Of `robot`, with what its disk has: the present certificate, and whether there is a next one.
    #[must_use]
    pub fn new(robot: RobotId, now: Instant, term: Option<Term>, has_next: bool) -> Self {
        Self {
            robot,
            term,
            stage: match has_next {
                true => Stage::Proving { has_failed: false },
                false => Stage::Resting,
            },
            failures: 0,
            earliest: now,
            wake: now,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input, `time` being what is known of the time of day. `random` is asked for the jitter, any `u64`.
    pub fn handle(
        &mut self,
        now: Instant,
        time: Timestamp,
        input: Input,
        random: &mut dyn FnMut() -> u64,
    ) {
        match (input, self.stage) {
            (Input::Term(term), _) => {
                self.term = Some(term);
                self.stage = Stage::Resting;
                self.failures = 0;
                self.outputs.clear();
                // Also with a clock by which it has ended already.
                let lifetime = term.not_after.since(term.since);
                self.earliest = now + (lifetime / ANEW).max(MIN_WAIT);
                self.rest(now, time);
            }
            (Input::Wanted, Stage::Resting) if self.term.is_some() => self.ask(),
            (Input::Got, Stage::Asking) => {
                self.stage = Stage::Proving { has_failed: false };
                self.move_over(now);
            }
            (Input::Failed, Stage::Asking) => self.back_off(now, time, random),
            (Input::Accepted(Which::Next), Stage::Resting | Stage::Proving { .. }) => {
                self.stage = Stage::Proved;
                self.promote(now);
            }
            // It came while this connection was being made.
            (Input::Accepted(Which::Present), Stage::Proving { has_failed: false }) => {
                self.move_over(now);
            }
            (Input::Accepted(Which::Present), Stage::Proving { has_failed: true }) => {
                self.outputs.push_back(Output::Drop);
                self.back_off(now, time, random);
            }
            (Input::Refused(which), Stage::Proving { .. }) => {
                self.stage = Stage::Proving {
                    has_failed: which == Which::Next,
                };
            }
            (Input::Timeout, _) if self.wake <= now => match self.stage {
                Stage::Resting => self.rest(now, time),
                Stage::Proving { has_failed: false } => self.move_over(now),
                Stage::Proved => self.promote(now),
                Stage::Asking | Stage::Proving { has_failed: true } => {}
            },
            // Late answers, and what is under way already.
            (
                Input::Wanted
                | Input::Got
                | Input::Failed
                | Input::Accepted(_)
                | Input::Refused(_)
                | Input::Timeout,
                _,
            ) => {}
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is wanted.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Resting if self.term.is_none() => None,
            Stage::Asking | Stage::Proving { has_failed: true } => None,
            Stage::Resting | Stage::Proving { .. } | Stage::Proved => Some(self.wake),
        }
    }

    /// The one to connect with.
    #[must_use]
    pub fn certificate(&self) -> Which {
        match self.stage {
            Stage::Proving { has_failed: false } | Stage::Proved => Which::Next,
            Stage::Resting | Stage::Asking | Stage::Proving { has_failed: true } => Which::Present,
        }
    }

    /// When the next one is asked for, without failures.
    #[must_use]
    pub fn renews_at(&self) -> Option<Timestamp> {
        self.term.map(|term| term.renews_at(&self.robot))
    }

    fn rest(&mut self, now: Instant, time: Timestamp) {
        let Some(due) = self.renews_at() else {
            return;
        };
        let wait = due.since(time);
        if wait.is_zero() && self.earliest <= now {
            return self.ask();
        }
        self.wake = (now + wait.min(LOOK)).max(self.earliest.min(now + LOOK));
    }

    fn ask(&mut self) {
        self.stage = Stage::Asking;
        self.outputs.push_back(Output::Ask);
    }

    fn move_over(&mut self, now: Instant) {
        self.wake = now + AGAIN;
        self.outputs.push_back(Output::Move);
    }

    fn promote(&mut self, now: Instant) {
        self.wake = now + AGAIN;
        self.outputs.push_back(Output::Promote);
    }

    /// Longer after each failure, and shorter towards the end; there is no hurry behind it.
    fn back_off(&mut self, now: Instant, time: Timestamp, random: &mut dyn FnMut() -> u64) {
        let doubled = FIRST_WAIT.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let left = self
            .term
            .map_or(Duration::ZERO, |term| term.not_after.since(time));
        let most = match left {
            Duration::ZERO => MAX_WAIT,
            left => MAX_WAIT.min((left / HURRY).max(MIN_WAIT * 2)),
        };
        let half = doubled.min(most) / 2;
        let half_ms = u64::try_from(half.as_millis()).unwrap_or(u64::MAX);
        let wait = half + Duration::from_millis(random() % (half_ms + 1));
        self.stage = Stage::Resting;
        self.earliest = now + wait;
        self.wake = self.earliest;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const GOT: Timestamp = Timestamp::from_ms(1_800_000_000_000);

    fn robot() -> RobotId {
        "kiwi-01".parse().unwrap()
    }

    fn term() -> Term {
        Term {
            since: GOT,
            not_after: GOT.plus(90 * DAY),
        }
    }

    /// A robot on a bench: both clocks go together, unless one is set.
    struct Bench {
        renewal: Renewal,
        now: Instant,
        time: Timestamp,
    }

    impl Bench {
        fn new(has_next: bool) -> Self {
            let now = Instant::now();
            Self {
                renewal: Renewal::new(robot(), now, Some(term()), has_next),
                now,
                time: GOT,
            }
        }

        fn give(&mut self, input: Input) -> Vec<Output> {
            self.renewal.handle(self.now, self.time, input, &mut || 0);
            std::iter::from_fn(|| self.renewal.poll_output()).collect()
        }

        /// Until something is to be done, or `most` has passed.
        fn wait(&mut self, most: Duration) -> (Vec<Output>, Duration) {
            let began = self.now;
            while let Some(at) = self.renewal.poll_timeout()
                && at <= began + most
            {
                let passed = at.saturating_duration_since(self.now);
                self.now += passed;
                self.time = self.time.plus(passed);
                let outputs = self.give(Input::Timeout);
                if !outputs.is_empty() {
                    return (outputs, self.now - began);
                }
            }
            (Vec::new(), most)
        }
    }

    #[test]
    fn a_fleet_that_was_enrolled_at_once_asks_over_twelve_days() {
        let days: Vec<f64> = (0..1000)
            .map(|number| {
                let robot = format!("kiwi-{number:03}").parse().unwrap();
                term().renews_at(&robot).since(GOT).as_secs_f64() / DAY.as_secs_f64()
            })
            .collect();
        assert!(
            days.iter().all(|day| (54.0..=66.0).contains(day)),
            "{days:?}"
        );
        for day in 54..66 {
            let that_day = days
                .iter()
                .filter(|at| (f64::from(day)..f64::from(day + 1)).contains(*at));
            assert!((50..=120).contains(&that_day.count()), "day {day}");
        }
    }

    #[test]
    fn the_next_one_is_asked_for_with_a_third_left_and_promoted_when_it_was_accepted() {
        let mut bench = Bench::new(false);
        let due = term().renews_at(&robot()).since(GOT);
        assert_eq!(bench.wait(90 * DAY), (vec![Output::Ask], due));
        assert_eq!(bench.give(Input::Wanted), [], "it is being asked for");
        assert_eq!(bench.renewal.certificate(), Which::Present);
        assert_eq!(bench.give(Input::Got), [Output::Move]);
        assert_eq!(bench.renewal.certificate(), Which::Next);
        // Somebody drives: later.
        assert_eq!(bench.wait(DAY), (vec![Output::Move], AGAIN));
        assert_eq!(bench.give(Input::Accepted(Which::Next)), [Output::Promote]);
        // The disk was full.
        assert_eq!(bench.wait(DAY), (vec![Output::Promote], AGAIN));
        assert_eq!(bench.renewal.certificate(), Which::Next);
        let next = Term {
            since: bench.time,
            not_after: bench.time.plus(90 * DAY),
        };
        assert_eq!(bench.give(Input::Term(next)), []);
        assert_eq!(bench.renewal.certificate(), Which::Present);
        let (outputs, waited) = bench.wait(90 * DAY);
        assert_eq!(outputs, [Output::Ask]);
        assert_eq!(waited, due);
    }

    #[test]
    fn one_that_nobody_takes_is_tried_by_turns_and_dropped_when_the_present_one_works() {
        let mut bench = Bench::new(true);
        for _ in 0..3 {
            assert_eq!(bench.renewal.certificate(), Which::Next);
            assert_eq!(bench.give(Input::Refused(Which::Next)), []);
            assert_eq!(bench.renewal.certificate(), Which::Present);
            assert_eq!(bench.give(Input::Refused(Which::Present)), []);
        }
        bench.give(Input::Refused(Which::Next));
        assert_eq!(bench.wait(DAY), (vec![], DAY));
        assert_eq!(bench.give(Input::Accepted(Which::Present)), [Output::Drop]);
        assert_eq!(bench.renewal.certificate(), Which::Present);
    }

    #[test]
    fn one_that_came_while_the_present_one_connected_is_moved_to() {
        let mut bench = Bench::new(true);
        assert_eq!(bench.give(Input::Accepted(Which::Present)), [Output::Move]);
        assert_eq!(bench.give(Input::Accepted(Which::Next)), [Output::Promote]);
    }

    #[test]
    fn failures_are_waited_out_faster_towards_the_end() {
        let mut bench = Bench::new(false);
        bench.wait(90 * DAY);
        let mut waits = Vec::new();
        while bench.time < term().not_after {
            assert_eq!(bench.give(Input::Failed), []);
            let (outputs, waited) = bench.wait(90 * DAY);
            assert_eq!(outputs, [Output::Ask]);
            waits.push(waited);
        }
        // No jitter here: half of what it is at most.
        assert_eq!(waits[..2], [FIRST_WAIT / 2, FIRST_WAIT]);
        assert!(waits.iter().any(|wait| *wait == MAX_WAIT / 2));
        assert_eq!(waits.iter().min(), Some(&MIN_WAIT));
        bench.give(Input::Failed);
        assert_eq!(bench.wait(90 * DAY).1, MAX_WAIT / 2, "after the end");
    }

    #[test]
    fn whoever_wants_it_gets_it_at_once() {
        let mut bench = Bench::new(false);
        assert_eq!(bench.give(Input::Wanted), [Output::Ask]);
        bench.give(Input::Failed);
        assert_eq!(bench.give(Input::Wanted), [Output::Ask]);
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_and_never_a_hot_loop() {
        let mut bench = Bench::new(false);
        assert_eq!(bench.give(Input::Timeout), []);
        bench.time = GOT.plus(3650 * DAY);
        let (outputs, waited) = bench.wait(DAY);
        assert_eq!(outputs, [Output::Ask]);
        assert!(waited <= LOOK);
        // What it got has ended by that clock as well.
        bench.give(Input::Got);
        bench.give(Input::Accepted(Which::Next));
        bench.give(Input::Term(term()));
        assert_eq!(bench.wait(90 * DAY), (vec![Output::Ask], 3 * DAY));
    }

    proptest! {
        /// Whatever happens in whichever order, with whichever clock.
        #[test]
        fn any_order_is_survived(
            inputs in proptest::collection::vec((0_u8..8, 0_u64..100_000, any::<u64>()), 0..200), has_next: bool,
        ) {
            let mut bench = Bench::new(has_next);
            let (mut asked_at, mut is_accepted, mut is_wanted) = (None::<Instant>, false, false);
            for (input, wait_ms, time_ms) in inputs {
                bench.now += Duration::from_millis(wait_ms);
                bench.time = Timestamp::from_ms(time_ms % 4_000_000_000_000);
                let input = match input {
                    0 => Input::Term(term()),
                    1 => Input::Wanted,
                    2 => Input::Got,
                    3 => Input::Failed,
                    4 => Input::Accepted(Which::Present),
                    5 => Input::Accepted(Which::Next),
                    6 => Input::Refused(bench.renewal.certificate()),
                    _ => Input::Timeout,
                };
                is_accepted |= input == Input::Accepted(Which::Next);
                is_wanted |= input == Input::Wanted;
                for output in bench.give(input) {
                    match output {
                        Output::Ask => {
                            let waited = asked_at.map(|at| bench.now - at);
                            prop_assert!(is_wanted || waited.is_none_or(|waited| waited >= MIN_WAIT));
                            (asked_at, is_accepted, is_wanted) = (Some(bench.now), false, false);
                        }
                        Output::Promote => prop_assert!(is_accepted),
                        Output::Drop => prop_assert_eq!(input, Input::Accepted(Which::Present)),
                        Output::Move => prop_assert_eq!(bench.renewal.certificate(), Which::Next),
                    }
                }
            }
        }
    }
}
