//! What each robot of a simulation does, and when. Pure: the same seed gives the same schedule, whatever the
//! machine; the driver (`robot`) carries it out.

use std::collections::VecDeque;
use std::time::Duration;

/// What a simulated fleet goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// All connect and stay.
    Steady,
    /// Half-way, all connections break, and all robots come back at once.
    Storm,
    /// In the middle half, each robot's connection breaks, or ends with a goodbye, again and again.
    Flapping,
    /// Ten times as many telemetry messages and events.
    Chatter,
    /// Half of the robots are driven in sessions, with five times as much telemetry.
    TeleopHeavy,
    /// A third of the robots falls silent without a word for the middle third, and returns with what it kept.
    Partition,
    /// In the middle half, each robot renews its certificate twenty times, and connects anew with each.
    Renewal,
}

/// Renewals of a robot in [`Scenario::Renewal`].
const RENEWALS: u32 = 20;

impl Scenario {
    /// When the last robot may be back, in a scenario of length `of`: from then on nothing holds one off.
    #[must_use]
    pub fn calm_after(self, of: Duration, pace: &Pace) -> Duration {
        match self {
            Self::Steady | Self::Chatter | Self::TeleopHeavy => pace.ramp.min(of),
            Self::Storm => of / 2,
            Self::Flapping | Self::Renewal => of * 3 / 4,
            Self::Partition => of * 2 / 3,
        }
    }
}

/// How often one robot says something.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Time between telemetry messages; none when absent.
    pub telemetry: Option<Duration>,
    /// Time between numbered events; none when absent.
    pub events: Option<Duration>,
    /// The first connections are spread over this time.
    pub ramp: Duration,
}

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Connect, and come back whenever the connection is lost.
    Connect,
    /// Say goodbye and stay away.
    Leave,
    /// Close the connection without a goodbye, and stay away.
    Cut,
    /// Neither read nor write any more, and close nothing.
    Vanish,
    /// Send a heartbeat.
    Heartbeat,
    /// Send telemetry, or keep it for later when there is no connection.
    Telemetry,
    /// Number an event.
    Event,
    /// Somebody begins to drive it.
    Drive,
    /// Nobody does any more.
    Park,
    /// Ask for another certificate, and connect with that.
    Renew,
}

/// What one robot does, in order of time. Times count from the simulation's start.
#[derive(Debug)]
pub struct Schedule {
    turns: VecDeque<(Duration, Step)>,
    beats: [Option<Beat>; 3],
    end: Duration,
}

#[derive(Debug)]
struct Beat {
    step: Step,
    next: Duration,
    every: Duration,
}

impl Schedule {
    /// The schedule of robot number `robot` in a scenario of length `of`.
    #[must_use]
    pub fn new(scenario: Scenario, pace: &Pace, of: Duration, seed: u64, robot: u64) -> Self {
        let mut random = Random::new(seed, robot);
        let factor = match scenario {
            Scenario::Chatter => 10,
            Scenario::TeleopHeavy if robot.is_multiple_of(2) => 5,
            _ => 1,
        };
        let event_factor = if scenario == Scenario::Chatter { 10 } else { 1 };
        let first = random.within(pace.ramp.min(of));
        let mut turns = VecDeque::from([(first, Step::Connect)]);
        let (from, to) = match scenario {
            Scenario::Flapping | Scenario::Renewal => (of / 4, of * 3 / 4),
            _ => (of / 3, of * 2 / 3),
        };
        match scenario {
            Scenario::Storm => turns.extend([(of / 2, Step::Cut), (of / 2, Step::Connect)]),
            Scenario::Flapping => flap(&mut turns, from.max(first), to, &mut random),
            Scenario::TeleopHeavy if robot.is_multiple_of(2) => {
                drive(&mut turns, first, of, &mut random);
            }
            Scenario::Renewal => {
                let every = to.saturating_sub(from.max(first)) / RENEWALS;
                let begin = from.max(first) + random.within(every);
                turns.extend((0..RENEWALS).map(|number| (begin + every * number, Step::Renew)));
            }
            Scenario::Partition if robot.is_multiple_of(3) => {
                turns.extend([(from.max(first), Step::Vanish), (to, Step::Connect)]);
            }
            _ => {}
        }
        let mut beat = |step, every: Option<Duration>, factor: u32| {
            let every = (every? / factor).max(Duration::from_millis(1));
            Some(Beat {
                step,
                // Spread over the period, as a fleet's robots are.
                next: first + random.within(every),
                every,
            })
        };
        Self {
            beats: [
                beat(Step::Heartbeat, Some(pace.heartbeat), 1),
                beat(Step::Telemetry, pace.telemetry, factor),
                beat(Step::Event, pace.events, event_factor),
            ],
            turns,
            end: of,
        }
    }
}

/// Connections that last for up to an eighth of the time, and absences of up to a sixteenth.
fn flap(turns: &mut VecDeque<(Duration, Step)>, from: Duration, to: Duration, random: &mut Random) {
    let span = to.saturating_sub(from);
    let mut at = from + random.within(span / 8);
    while at < to {
        let how = if random.draw().is_multiple_of(2) {
            Step::Cut
        } else {
            Step::Leave
        };
        let back = (at + random.within(span / 16)).min(to);
        turns.extend([(at, how), (back, Step::Connect)]);
        at = back + random.within(span / 8).max(Duration::from_millis(100));
    }
}

/// Sessions of up to a fifth of the time, with pauses of up to a tenth.
fn drive(
    turns: &mut VecDeque<(Duration, Step)>,
    from: Duration,
    to: Duration,
    random: &mut Random,
) {
    let span = to.saturating_sub(from);
    let moment = Duration::from_millis(100);
    let mut at = from + random.within(span / 10);
    while at < to {
        let over = (at + random.within(span / 5).max(moment)).min(to);
        turns.extend([(at, Step::Drive), (over, Step::Park)]);
        at = over + random.within(span / 10).max(moment);
    }
}

impl Iterator for Schedule {
    type Item = (Duration, Step);

    fn next(&mut self) -> Option<Self::Item> {
        let beat = self.beats.iter_mut().flatten().min_by_key(|beat| beat.next);
        let turn = self.turns.front().map(|(at, _)| *at);
        match (turn, beat) {
            (turn, Some(beat))
                if beat.next < self.end && turn.is_none_or(|turn| beat.next < turn) =>
            {
                let due = (beat.next, beat.step);
                beat.next += beat.every;
                Some(due)
            }
            _ => self.turns.pop_front(),
        }
    }
}

/// Numbers that a seed determines (splitmix64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// Those of one robot.
    fn new(seed: u64, robot: u64) -> Self {
        let mut this = Self(seed.wrapping_add(robot.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        // Neighbours begin alike.
        this.draw();
        this
    }

    /// The next number.
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A time below `limit`, or none where that is none; whole milliseconds.
    fn within(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.draw() % limit.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const PACE: Pace = Pace {
        heartbeat: Duration::from_secs(5),
        telemetry: Some(Duration::from_secs(2)),
        events: Some(Duration::from_secs(3)),
        ramp: Duration::from_secs(4),
    };

    fn steps(scenario: Scenario, seed: u64, robot: u64) -> Vec<(Duration, Step)> {
        Schedule::new(scenario, &PACE, MINUTE, seed, robot).collect()
    }

    fn count(steps: &[(Duration, Step)], step: Step) -> usize {
        steps.iter().filter(|(_, other)| *other == step).count()
    }

    #[test]
    fn schedules_ascend_repeat_and_end_connected() {
        use clap::ValueEnum;
        for scenario in Scenario::value_variants() {
            for robot in 0..50 {
                let steps = steps(*scenario, 7, robot);
                assert_eq!(steps, self::steps(*scenario, 7, robot));
                assert!(
                    steps.is_sorted_by_key(|(at, _)| *at),
                    "{scenario:?} {robot}: {steps:?}"
                );
                let ways = [Step::Connect, Step::Leave, Step::Cut, Step::Vanish];
                let last = steps.iter().rfind(|(_, step)| ways.contains(step));
                let (at, step) = last.expect("it connects");
                assert_eq!(*step, Step::Connect, "{scenario:?} {robot}");
                assert!(
                    *at <= scenario.calm_after(MINUTE, &PACE),
                    "{scenario:?} {robot}: {at:?}"
                );
                assert_eq!(count(&steps, Step::Drive), count(&steps, Step::Park));
            }
            assert_ne!(steps(*scenario, 7, 1), steps(*scenario, 8, 1));
        }
    }

    #[test]
    fn in_a_storm_all_go_and_come_back_at_once() {
        for robot in 0..50 {
            let steps = steps(Scenario::Storm, 1, robot);
            assert!(steps.contains(&(MINUTE / 2, Step::Cut)));
            assert!(steps.contains(&(MINUTE / 2, Step::Connect)));
        }
    }

    #[test]
    fn chatter_is_ten_times_as_much_and_no_more_heartbeats() {
        let (steady, chatter) = (
            steps(Scenario::Steady, 3, 5),
            steps(Scenario::Chatter, 3, 5),
        );
        for (step, factor) in [
            (Step::Heartbeat, 1),
            (Step::Telemetry, 10),
            (Step::Event, 10),
        ] {
            let (few, many) = (count(&steady, step) * factor, count(&chatter, step));
            assert!(
                few.abs_diff(many) <= 2 * factor,
                "{step:?}: {few} and {many}"
            );
        }
    }

    #[test]
    fn flapping_comes_and_goes_and_a_partition_takes_a_third() {
        let away = |scenario, step| {
            let of = |robot| count(&steps(scenario, 1, robot), step);
            (0..30).filter(|robot| of(*robot) > 0).count()
        };
        assert!((0..30).all(|robot| {
            let steps = steps(Scenario::Flapping, 1, robot);
            count(&steps, Step::Cut) + count(&steps, Step::Leave) >= 4
        }));
        assert_eq!(away(Scenario::Partition, Step::Vanish), 10);
        assert_eq!(away(Scenario::TeleopHeavy, Step::Drive), 15);
        assert_eq!(away(Scenario::Steady, Step::Cut), 0);
        assert_eq!(count(&steps(Scenario::Renewal, 1, 0), Step::Renew), 20);
    }
}
