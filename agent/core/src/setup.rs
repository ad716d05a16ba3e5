//! The installation of the robot's own software as a row of steps: which is next, what is kept on disk,
//! what is said, when a failed one is tried again. Pure; called by `lekiwi-agent setup`, which carries
//! the steps out.
//!
//! Invariants: steps go strictly in order; a step that is done is kept as done before anything else
//! happens, and is not run again; what was said to be complete stays said; a failed step is tried again
//! for ever, after a pause that doubles up to [`MAX_PAUSE`]. Steps must stand being run twice: a power cut
//! may fall between a step's end and its being kept.

mod plan;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lekiwi_protocol::message::SetupStatus;

pub use plan::{Action, Planned, plan};

/// The cap of the first pause.
pub const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The cap of the longest pause.
pub const MAX_PAUSE: Duration = Duration::from_secs(15 * 60);

/// Pauses between attempts: each between half its cap and the cap, so that robots that were switched on
/// together part; the cap doubles.
#[derive(Debug, Default, Clone, Copy)]
pub struct Pause {
    failures: u32,
}

impl Pause {
    /// The pause after one more failure. `random` is any `u64`.
    pub fn next(&mut self, random: u64) -> Duration {
        let cap = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let half = cap.min(MAX_PAUSE) / 2;
        half + half.mul_f64(random as f64 / u64::MAX as f64)
    }

    /// It went well: the next pause is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A step as the machine sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is called, such as `python`; unique.
    pub name: String,
    /// Its share of the time, in no particular unit.
    pub weight: u32,
    /// Whether it was done before, as it is now.
    pub done: bool,
}

/// What to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saying {
    /// It begins, or goes on after a restart.
    Started {
        /// How many steps are left.
        steps: usize,
        /// How much is done.
        percent: u8,
    },
    /// A step begins.
    Progress {
        /// Which.
        step: String,
        /// How much is done.
        percent: u8,
    },
    /// All is done.
    Completed,
    /// A step failed.
    Failed {
        /// Which.
        step: String,
        /// Why, for people.
        reason: String,
        /// When it is tried again.
        retry_in: Duration,
    },
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Write down where it stands: see [`Setup::status`] and [`Setup::is_done`].
    Keep,
    /// Tell the relay.
    Say(Saying),
    /// Run this step; answer with [`Setup::succeeded`] or [`Setup::failed`].
    Run(usize),
    /// See that all that was said is with the agent, then write down that all is done and was said.
    Conclude,
    /// End.
    Exit,
}

/// The row of steps.
#[derive(Debug)]
pub struct Setup {
    steps: Vec<Step>,
    status: SetupStatus,
    current: usize,
    pause: Pause,
    deadline: Option<Instant>,
    outputs: VecDeque<Output>,
}

impl Setup {
    /// Begins, or goes on. `concluded` says whether the end of exactly these steps was said before.
    #[must_use]
    pub fn new(steps: Vec<Step>, concluded: bool) -> Self {
        let mut setup = Self {
            steps,
            status: SetupStatus::Running,
            current: 0,
            pause: Pause::default(),
            deadline: None,
            outputs: VecDeque::new(),
        };
        let left = setup.steps.iter().filter(|step| !step.done).count();
        if left > 0 {
            let percent = setup.percent();
            setup.say(Saying::Started {
                steps: left,
                percent,
            });
            setup.advance();
        } else {
            setup.finish(concluded);
        }
        setup
    }

    /// The running step did what it should.
    pub fn succeeded(&mut self) {
        if let Some(step) = self.steps.get_mut(self.current) {
            step.done = true;
        }
        self.pause.reset();
        self.advance();
    }

    /// The running step did not. `random` is any `u64`, for the pause.
    pub fn failed(&mut self, now: Instant, reason: String, random: u64) {
        let retry_in = self.pause.next(random);
        self.status = SetupStatus::Failed;
        self.deadline = Some(now + retry_in);
        self.outputs.push_back(Output::Keep);
        let step = self.steps.get(self.current);
        self.say(Saying::Failed {
            step: step.map_or(String::new(), |step| step.name.clone()),
            reason,
            retry_in,
        });
    }

    /// Tries the failed step again once [`Self::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            self.advance();
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> SetupStatus {
        self.status
    }

    /// Whether step `index` is done.
    #[must_use]
    pub fn is_done(&self, index: usize) -> bool {
        self.steps.get(index).is_some_and(|step| step.done)
    }

    /// How much is done, 0 to 100; 100 only when all is.
    #[must_use]
    pub fn percent(&self) -> u8 {
        let sum = |steps: &mut dyn Iterator<Item = &Step>| {
            steps.map(|step| u64::from(step.weight)).sum::<u64>()
        };
        let all = sum(&mut self.steps.iter());
        let done = sum(&mut self.steps.iter().filter(|step| step.done));
        match (done * 100).checked_div(all) {
            _ if self.steps.iter().all(|step| step.done) => 100,
            Some(percent) => u8::try_from(percent).unwrap_or(100).min(99),
            None => 0,
        }
    }

    fn say(&mut self, saying: Saying) {
        self.outputs.push_back(Output::Say(saying));
    }

    fn advance(&mut self) {
        let Some(index) = self.steps.iter().position(|step| !step.done) else {
            return self.finish(false);
        };
        self.current = index;
        self.status = SetupStatus::Running;
        self.outputs.push_back(Output::Keep);
        self.say(Saying::Progress {
            step: self.steps[index].name.clone(),
            percent: self.percent(),
        });
        self.outputs.push_back(Output::Run(index));
    }

    /// Done is what was also said: until then it is under way, so that nobody is healthy before.
    fn finish(&mut self, concluded: bool) {
        self.status = match concluded {
            true => SetupStatus::Done,
            false => SetupStatus::Running,
        };
        self.outputs.push_back(Output::Keep);
        if !concluded {
            self.say(Saying::Completed);
            self.outputs.push_back(Output::Conclude);
        }
        self.outputs.push_back(Output::Exit);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn steps(done: &[(&str, u32, bool)]) -> Vec<Step> {
        let step = |(name, weight, done): &(&str, u32, bool)| Step {
            name: (*name).to_owned(),
            weight: *weight,
            done: *done,
        };
        done.iter().map(step).collect()
    }

    /// Drains the outputs into `story`; says which step is to be run.
    fn drain(setup: &mut Setup, story: &mut String) -> Option<usize> {
        let mut run = None;
        while let Some(output) = setup.poll_output() {
            match output {
                Output::Say(saying) => writeln!(story, "say {saying:?}").unwrap(),
                Output::Keep => {
                    writeln!(story, "keep {} {} %", setup.status(), setup.percent()).unwrap()
                }
                Output::Run(index) => {
                    writeln!(story, "run {index}").unwrap();
                    run = Some(index);
                }
                other => writeln!(story, "{other:?}").unwrap(),
            }
        }
        run
    }

    fn check(steps: Vec<Step>, concluded: bool, results: &[Result<(), &str>], expected: &Expect) {
        let start = Instant::now();
        let mut now = start;
        let mut setup = Setup::new(steps, concluded);
        let mut story = String::new();
        drain(&mut setup, &mut story);
        for result in results {
            match result {
                Ok(()) => setup.succeeded(),
                Err(reason) => {
                    setup.failed(now, (*reason).to_owned(), u64::MAX);
                    drain(&mut setup, &mut story);
                    let at = setup.poll_timeout().unwrap();
                    setup.handle_timeout(at - Duration::from_millis(1));
                    assert_eq!(setup.poll_output(), None, "too early");
                    setup.handle_timeout(at);
                    now = at;
                    writeln!(story, "at {} s:", (now - start).as_secs()).unwrap();
                }
            }
            drain(&mut setup, &mut story);
        }
        expected.assert_eq(&story);
    }

    #[test]
    fn steps_go_in_order_and_a_failed_one_is_tried_again_later_each_time() {
        check(
            steps(&[
                ("apt", 30, false),
                ("python", 60, false),
                ("host", 10, false),
            ]),
            false,
            &[
                Ok(()),
                Err("no network"),
                Err("no network"),
                Ok(()),
                Err("odd"),
                Ok(()),
            ],
            &expect![[r#"
                say Started { steps: 3, percent: 0 }
                keep running 0 %
                say Progress { step: "apt", percent: 0 }
                run 0
                keep running 30 %
                say Progress { step: "python", percent: 30 }
                run 1
                keep failed 30 %
                say Failed { step: "python", reason: "no network", retry_in: 10s }
                at 10 s:
                keep running 30 %
                say Progress { step: "python", percent: 30 }
                run 1
                keep failed 30 %
                say Failed { step: "python", reason: "no network", retry_in: 20s }
                at 30 s:
                keep running 30 %
                say Progress { step: "python", percent: 30 }
                run 1
                keep running 90 %
                say Progress { step: "host", percent: 90 }
                run 2
                keep failed 90 %
                say Failed { step: "host", reason: "odd", retry_in: 10s }
                at 40 s:
                keep running 90 %
                say Progress { step: "host", percent: 90 }
                run 2
                keep running 100 %
                say Completed
                Conclude
                Exit
            "#]],
        );
    }

    #[test]
    fn what_is_done_is_not_run_again_and_the_end_is_said_once() {
        check(
            steps(&[("apt", 30, true), ("python", 70, false)]),
            false,
            &[Ok(())],
            &expect![[r#"
                say Started { steps: 1, percent: 30 }
                keep running 30 %
                say Progress { step: "python", percent: 30 }
                run 1
                keep running 100 %
                say Completed
                Conclude
                Exit
            "#]],
        );
        let done = || steps(&[("apt", 30, true)]);
        check(
            done(),
            false,
            &[],
            &expect![[r#"
                keep running 100 %
                say Completed
                Conclude
                Exit
            "#]],
        );
        check(
            done(),
            true,
            &[],
            &expect![[r#"
                keep done 100 %
                Exit
            "#]],
        );
    }

    #[test]
    fn pauses_double_up_to_their_cap_and_are_never_shorter_than_half() {
        let mut pause = Pause::default();
        let caps: Vec<u64> = (0..9).map(|_| pause.next(u64::MAX).as_secs()).collect();
        assert_eq!(caps, [10, 20, 40, 80, 160, 320, 640, 900, 900]);
        pause.reset();
        assert_eq!(pause.next(0), FIRST_PAUSE / 2);
        let mut pause = Pause {
            failures: u32::MAX - 1,
        };
        assert_eq!(pause.next(0), MAX_PAUSE / 2);
    }

    proptest! {
        /// Killed after any number of carried out outputs and begun again with what was kept: every step
        /// is run in the end, none after it was kept, and the end is said.
        #[test]
        fn a_cut_anywhere_is_survived(
            kills in proptest::collection::vec(0_usize..14, 0..6),
            weights in proptest::collection::vec(1_u32..50, 1..5),
        ) {
            let names: Vec<String> = (0..weights.len()).map(|n| n.to_string()).collect();
            let (mut kept, mut concluded) = (vec![false; names.len()], false);
            let (mut ran, mut completed) = (vec![0; names.len()], 0);
            for life in kills.into_iter().chain([usize::MAX]) {
                let step = |index: usize| Step { name: names[index].clone(), weight: weights[index], done: kept[index] };
                let mut setup = Setup::new((0..names.len()).map(step).collect(), concluded);
                for _ in 0..life {
                    match setup.poll_output() {
                        Some(Output::Keep) => {
                            for (index, kept) in kept.iter_mut().enumerate() {
                                *kept = setup.is_done(index);
                            }
                        }
                        Some(Output::Run(index)) => {
                            prop_assert!(!kept[index], "run although it was kept");
                            prop_assert!(kept[..index].iter().all(|kept| *kept), "out of order");
                            ran[index] += 1;
                            setup.succeeded();
                        }
                        Some(Output::Say(Saying::Completed)) => completed += 1,
                        Some(Output::Conclude) => concluded = true,
                        Some(Output::Say(_)) => {}
                        Some(Output::Exit) => break,
                        None => prop_assert!(false, "stuck"),
                    }
                }
            }
            prop_assert!(ran.iter().all(|ran| *ran >= 1) && concluded && completed >= 1);
        }
    }
}
