//! The lifecycle of the agent: the link to the relay and the robot's activity, two machines side by
//! side, so that losing the link while teleoperated or deploying is defined. Pure; called by the driver.
//!
//! ```text
//! link:  Initializing ─network→ Registering ─enrolled→ Connecting ─connack→ Online
//!             Registering ⇄ Retrying (backoff)    Connecting ⇄ Retrying    Online ─lost→ Retrying
//!        Online ─move, while idle→ Moving (goodbye) → Connecting
//!        any ─shutdown→ Leaving (goodbye, when online) → Gone
//! ```
//! Invariants: at most one enrolment or connection attempt is under way; the backoff has full jitter
//! below a cap that doubles up to [`MAX_BACKOFF`] and falls back only after [`STABLE`] online (two
//! clients with one id must not throw each other out in a tight loop); after a shutdown nothing but
//! the goodbye is asked for.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use lekiwi_protocol::limits::MAX_BACKOFF;
use lekiwi_protocol::message::Activity;

/// The first cap of the backoff.
pub const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The shortest wait, so that a jitter near zero is no busy loop.
pub const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Time online after which the backoff begins anew.
pub const STABLE: Duration = Duration::from_secs(30);
/// Longest wait for the goodbye to leave.
pub const GOODBYE: Duration = Duration::from_secs(3);

/// What happened outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Whether a network is there. Told whenever it is looked at; coming up ends a wait early.
    Network(bool),
    /// The network is another one: what did not work may work now, so a wait ends early.
    NetworkChanged,
    /// A better endpoint answers. Not heard while the robot is teleoperated or deploying.
    Move,
    /// A certificate is there.
    Enrolled,
    /// The enrolment did not work out; it is tried again.
    EnrolmentFailed,
    /// The broker accepted the connection.
    Connected,
    /// There is no usable certificate after all: it is got again.
    NotEnrolled,
    /// The attempt failed or was refused.
    Refused,
    /// The connection broke.
    Lost,
    /// What the robot does changed.
    Activity(Activity),
    /// [`Lifecycle::poll_timeout`] passed.
    Timeout,
    /// The agent was asked to stop.
    Shutdown,
    /// The goodbye left, or could not.
    GoodbyeSaid,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Get a certificate; answer [`Input::Enrolled`] or [`Input::EnrolmentFailed`].
    Enrol,
    /// Connect; answer [`Input::Connected`] or [`Input::Refused`], later [`Input::Lost`].
    Connect,
    /// Publish birth, factsheet and state.
    Announce,
    /// Publish the state again.
    PublishState,
    /// Publish OFFLINE and disconnect; answer [`Input::GoodbyeSaid`].
    SayGoodbye,
    /// End.
    Exit,
}

/// The link to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// No network yet.
    Initializing,
    /// Getting a certificate.
    Registering,
    /// An attempt is under way.
    Connecting,
    /// Connected.
    Online,
    /// Waiting for the next attempt.
    Retrying,
    /// Saying goodbye to connect elsewhere.
    Moving,
    /// Saying goodbye.
    Leaving,
    /// Ended.
    Gone,
}

impl Link {
    /// As printed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Registering => "registering",
            Self::Connecting => "connecting",
            Self::Online => "online",
            Self::Retrying => "retrying",
            Self::Moving => "moving",
            Self::Leaving => "leaving",
            Self::Gone => "gone",
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Both machines.
#[derive(Debug)]
pub struct Lifecycle {
    link: Link,
    activity: Activity,
    enrolled: bool,
    network: bool,
    was_online: bool,
    failures: u32,
    online_since: Option<Instant>,
    deadline: Option<Instant>,
    outputs: VecDeque<Output>,
}

impl Lifecycle {
    /// Just started; `enrolled` says whether a certificate is there.
    #[must_use]
    pub fn new(enrolled: bool) -> Self {
        Self {
            link: Link::Initializing,
            activity: Activity::Idle,
            enrolled,
            network: false,
            was_online: false,
            failures: 0,
            online_since: None,
            deadline: None,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input. `random` is asked for the jitter, any `u64`.
    pub fn handle(&mut self, now: Instant, input: Input, random: &mut dyn FnMut() -> u64) {
        match (input, self.link) {
            (_, Link::Gone) => {}
            (Input::GoodbyeSaid | Input::Timeout | Input::Lost, Link::Leaving) => self.end(),
            (_, Link::Leaving) => {}
            (Input::Shutdown, Link::Online) => {
                self.link = Link::Leaving;
                self.deadline = Some(now + GOODBYE);
                self.outputs.clear();
                self.outputs.push_back(Output::SayGoodbye);
            }
            // The goodbye is being said already.
            (Input::Shutdown, Link::Moving) => self.link = Link::Leaving,
            (Input::Shutdown, _) => self.end(),
            (Input::Move, Link::Online) if self.activity == Activity::Idle => {
                self.link = Link::Moving;
                self.deadline = Some(now + GOODBYE);
                self.outputs.clear();
                self.outputs.push_back(Output::SayGoodbye);
            }
            (Input::GoodbyeSaid | Input::Lost, Link::Moving) => self.attempt_anew(now),
            (Input::Timeout, Link::Moving) if self.deadline.is_some_and(|at| at <= now) => {
                self.attempt_anew(now);
            }
            (Input::NetworkChanged, Link::Retrying) if self.network => self.attempt(),
            (Input::Network(up), link) => {
                let came_up = up && !self.network;
                self.network = up;
                if came_up && matches!(link, Link::Initializing | Link::Retrying) {
                    self.attempt();
                }
            }
            (Input::Enrolled, Link::Registering) => {
                self.enrolled = true;
                self.failures = 0;
                self.attempt();
            }
            (Input::Connected, Link::Connecting) => {
                self.link = Link::Online;
                self.was_online = true;
                self.online_since = Some(now);
                self.outputs.push_back(Output::Announce);
            }
            (Input::NotEnrolled, Link::Connecting) => {
                self.enrolled = false;
                self.wait(now, random);
            }
            (Input::EnrolmentFailed, Link::Registering)
            | (Input::Refused | Input::Lost, Link::Connecting | Link::Online) => {
                self.wait(now, random);
            }
            (Input::Timeout, Link::Retrying) if self.deadline.is_some_and(|at| at <= now) => {
                self.attempt();
            }
            (Input::Activity(activity), link) => {
                let changed = self.activity != activity;
                self.activity = activity;
                if changed && link == Link::Online {
                    self.outputs.push_back(Output::PublishState);
                }
            }
            // Late answers of an attempt that is over, or a timer that was overtaken.
            (
                Input::Enrolled
                | Input::EnrolmentFailed
                | Input::NotEnrolled
                | Input::NetworkChanged
                | Input::Move
                | Input::Connected
                | Input::Refused
                | Input::Lost
                | Input::Timeout
                | Input::GoodbyeSaid,
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
        self.deadline
    }

    /// The state of the link.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    /// What the robot does.
    #[must_use]
    pub fn activity(&self) -> Activity {
        self.activity
    }

    /// The pair in the words of the requirements' single machine.
    #[must_use]
    pub fn phase(&self) -> &'static str {
        match (self.link, self.activity) {
            (Link::Initializing, _) => "Initializing",
            (Link::Registering, _) => "Registering",
            (Link::Connecting, _) if !self.was_online && self.failures == 0 => "Registering",
            (Link::Online, Activity::Idle) => "Connected",
            (Link::Online, Activity::Teleoperated) => "Teleoperated",
            (Link::Online, Activity::Deploying) => "Deploying",
            (Link::Moving, _) => "Reconnecting",
            (Link::Connecting | Link::Retrying, _) if self.was_online => "Reconnecting",
            (Link::Connecting | Link::Retrying, _) => "Retrying",
            (Link::Leaving | Link::Gone, _) => "Disconnected",
        }
    }

    fn attempt(&mut self) {
        self.deadline = None;
        let (link, output) = if self.enrolled {
            (Link::Connecting, Output::Connect)
        } else {
            (Link::Registering, Output::Enrol)
        };
        self.link = link;
        self.outputs.push_back(output);
    }

    fn attempt_anew(&mut self, now: Instant) {
        self.forgive(now);
        self.outputs.clear();
        self.attempt();
    }

    /// A connection that lasted makes good for the failures before it.
    fn forgive(&mut self, now: Instant) {
        if let Some(since) = self.online_since.take()
            && now.saturating_duration_since(since) >= STABLE
        {
            self.failures = 0;
        }
    }

    fn wait(&mut self, now: Instant, random: &mut dyn FnMut() -> u64) {
        self.forgive(now);
        let cap = FIRST_BACKOFF
            .saturating_mul(1 << self.failures.min(8))
            .min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        let cap_ms = u64::try_from(cap.as_millis()).unwrap_or(u64::MAX);
        let jitter = Duration::from_millis(random() % (cap_ms + 1)).max(MIN_BACKOFF);
        self.link = Link::Retrying;
        self.deadline = Some(now + jitter);
        // Announcements for the lost connection are void.
        self.outputs.clear();
    }

    fn end(&mut self) {
        self.link = Link::Gone;
        self.deadline = None;
        self.outputs.clear();
        self.outputs.push_back(Output::Exit);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    const NETWORK: Input = Input::Network(true);

    /// Feeds inputs `(ms, input)`; every random number is the largest, so waits equal their caps.
    fn check(enrolled: bool, inputs: &[(u64, Input)], expected: &Expect) {
        let start = Instant::now();
        let mut machine = Lifecycle::new(enrolled);
        let mut story = String::new();
        for (ms, input) in inputs {
            let now = start + Duration::from_millis(*ms);
            let mut cap = || 1_001 * 2_001 * 4_001 * 8_001 * 15_001 - 1;
            machine.handle(now, *input, &mut cap);
            let mut outputs = Vec::new();
            while let Some(output) = machine.poll_output() {
                outputs.push(format!("{output:?}"));
            }
            let wait = machine.poll_timeout().map_or(String::new(), |at| {
                format!(" until {} ms", (at - start).as_millis())
            });
            let outputs = outputs.join(", ");
            writeln!(
                story,
                "{ms} {input:?}: {}{wait} [{outputs}]",
                machine.phase()
            )
            .unwrap();
        }
        expected.assert_eq(&story);
    }

    #[test]
    fn a_new_robot_enrols_connects_and_leaves() {
        check(
            false,
            &[
                (0, Input::Network(false)),
                (10, NETWORK),
                (20, Input::EnrolmentFailed),
                (20_000, Input::Timeout),
                (20_010, Input::Enrolled),
                (20_020, Input::Connected),
                (20_030, Input::Activity(Activity::Teleoperated)),
                (20_040, Input::Activity(Activity::Teleoperated)),
                (30_000, Input::Shutdown),
                (30_010, Input::GoodbyeSaid),
                (30_020, Input::Timeout),
            ],
            &expect![[r#"
                0 Network(false): Initializing []
                10 Network(true): Registering [Enrol]
                20 EnrolmentFailed: Retrying until 1020 ms []
                20000 Timeout: Registering [Enrol]
                20010 Enrolled: Registering [Connect]
                20020 Connected: Connected [Announce]
                20030 Activity(Teleoperated): Teleoperated [PublishState]
                20040 Activity(Teleoperated): Teleoperated []
                30000 Shutdown: Disconnected until 33000 ms [SayGoodbye]
                30010 GoodbyeSaid: Disconnected [Exit]
                30020 Timeout: Disconnected []
            "#]],
        );
    }

    #[test]
    fn losing_the_link_keeps_the_activity_and_the_network_ends_the_wait() {
        check(
            true,
            &[
                (0, NETWORK),
                (10, Input::Connected),
                (20, Input::Activity(Activity::Deploying)),
                (50_000, Input::Lost),
                (50_010, Input::Activity(Activity::Idle)),
                (50_020, Input::Network(false)),
                (50_030, NETWORK),
                (50_040, Input::Connected),
            ],
            &expect![[r#"
                0 Network(true): Registering [Connect]
                10 Connected: Connected [Announce]
                20 Activity(Deploying): Deploying [PublishState]
                50000 Lost: Reconnecting until 51000 ms []
                50010 Activity(Idle): Reconnecting until 51000 ms []
                50020 Network(false): Reconnecting until 51000 ms []
                50030 Network(true): Reconnecting [Connect]
                50040 Connected: Connected [Announce]
            "#]],
        );
    }

    #[test]
    fn the_backoff_falls_back_only_after_a_stable_period() {
        check(
            true,
            &[
                (0, NETWORK),
                (10, Input::Refused),
                (20_000, Input::Timeout),
                (20_010, Input::Connected),
                (20_020, Input::Lost),
                (40_000, Input::Timeout),
                (40_010, Input::Connected),
                (70_010, Input::Lost),
            ],
            &expect![[r#"
                0 Network(true): Registering [Connect]
                10 Refused: Retrying until 1010 ms []
                20000 Timeout: Retrying [Connect]
                20010 Connected: Connected [Announce]
                20020 Lost: Reconnecting until 22020 ms []
                40000 Timeout: Reconnecting [Connect]
                40010 Connected: Connected [Announce]
                70010 Lost: Reconnecting until 71010 ms []
            "#]],
        );
    }

    #[test]
    fn a_goodbye_that_hangs_ends_at_its_deadline_and_an_offline_agent_just_ends() {
        check(
            true,
            &[
                (0, NETWORK),
                (5, Input::Connected),
                (10, Input::Shutdown),
                (3_010, Input::Timeout),
            ],
            &expect![[r#"
                0 Network(true): Registering [Connect]
                5 Connected: Connected [Announce]
                10 Shutdown: Disconnected until 3010 ms [SayGoodbye]
                3010 Timeout: Disconnected [Exit]
            "#]],
        );
        check(
            true,
            &[(0, NETWORK), (10, Input::Shutdown)],
            &expect![[r#"
                0 Network(true): Registering [Connect]
                10 Shutdown: Disconnected [Exit]
            "#]],
        );
    }

    #[test]
    fn a_move_says_goodbye_first_and_is_for_idle_robots_only() {
        let online = [(0, NETWORK), (10, Input::Connected)];
        let moves = [
            (20, Input::Activity(Activity::Teleoperated)),
            (30, Input::Move),
            (40, Input::Activity(Activity::Idle)),
            (50_000, Input::Move),
            (50_010, Input::GoodbyeSaid),
            (50_020, Input::Connected),
            (60_000, Input::Move),
            (62_000, Input::Timeout),
            (63_000, Input::Timeout),
            (63_010, Input::Connected),
            (70_000, Input::Move),
            (70_010, Input::Shutdown),
            (70_020, Input::GoodbyeSaid),
        ];
        check(
            true,
            &[&online[..], &moves[..]].concat(),
            &expect![[r#"
                0 Network(true): Registering [Connect]
                10 Connected: Connected [Announce]
                20 Activity(Teleoperated): Teleoperated [PublishState]
                30 Move: Teleoperated []
                40 Activity(Idle): Connected [PublishState]
                50000 Move: Reconnecting until 53000 ms [SayGoodbye]
                50010 GoodbyeSaid: Reconnecting [Connect]
                50020 Connected: Connected [Announce]
                60000 Move: Reconnecting until 63000 ms [SayGoodbye]
                62000 Timeout: Reconnecting until 63000 ms []
                63000 Timeout: Reconnecting [Connect]
                63010 Connected: Connected [Announce]
                70000 Move: Reconnecting until 73000 ms [SayGoodbye]
                70010 Shutdown: Disconnected until 73000 ms []
                70020 GoodbyeSaid: Disconnected [Exit]
            "#]],
        );
    }

    #[test]
    fn another_network_ends_a_wait_when_there_is_one() {
        check(
            true,
            &[
                (0, NETWORK),
                (10, Input::NetworkChanged),
                (20, Input::Refused),
                (30, Input::NetworkChanged),
                (40, Input::Network(false)),
                (50, Input::Refused),
                (60, Input::NetworkChanged),
            ],
            &expect![[r#"
                0 Network(true): Registering [Connect]
                10 NetworkChanged: Registering []
                20 Refused: Retrying until 1020 ms []
                30 NetworkChanged: Retrying [Connect]
                40 Network(false): Retrying []
                50 Refused: Retrying until 2050 ms []
                60 NetworkChanged: Retrying until 2050 ms []
            "#]],
        );
    }

    fn any_input() -> impl Strategy<Value = Input> {
        prop_oneof![
            any::<bool>().prop_map(Input::Network),
            Just(Input::NetworkChanged),
            Just(Input::Move),
            Just(Input::Enrolled),
            Just(Input::EnrolmentFailed),
            Just(Input::NotEnrolled),
            Just(Input::Connected),
            Just(Input::Refused),
            Just(Input::Lost),
            Just(Input::Timeout),
            Just(Input::Activity(Activity::Idle)),
            Just(Input::Activity(Activity::Teleoperated)),
            Just(Input::GoodbyeSaid),
        ]
    }

    proptest! {
        /// No order of inputs starts two attempts at once, waits beyond the cap, or waits without a timer.
        #[test]
        fn any_order_is_survived(
            inputs in proptest::collection::vec((0_u64..20_000, any_input(), any::<u64>()), 0..200),
            enrolled: bool,
        ) {
            let mut now = Instant::now();
            let mut machine = Lifecycle::new(enrolled);
            let mut under_way = false;
            for (pause, input, random) in inputs {
                now += Duration::from_millis(pause);
                let before = machine.link();
                machine.handle(now, input, &mut || random);
                if !matches!(machine.link(), Link::Registering | Link::Connecting) || machine.link() != before {
                    under_way = false;
                }
                while let Some(output) = machine.poll_output() {
                    if matches!(output, Output::Enrol | Output::Connect) {
                        prop_assert!(!under_way, "two attempts at once");
                        under_way = true;
                    }
                }
                match machine.link() {
                    Link::Retrying => {
                        let at = machine.poll_timeout().unwrap();
                        prop_assert!(at <= now + MAX_BACKOFF);
                    }
                    Link::Moving => {
                        let at = machine.poll_timeout().unwrap();
                        prop_assert!(at <= now + GOODBYE);
                    }
                    _ => prop_assert_eq!(machine.poll_timeout(), None),
                }
            }
            machine.handle(now, Input::Shutdown, &mut || 0);
            machine.handle(now + GOODBYE, Input::Timeout, &mut || 0);
            prop_assert_eq!(machine.link(), Link::Gone);
        }
    }
}
