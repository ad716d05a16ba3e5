//! What the indicators say of one operator, and how sure that is together.

use std::time::{Duration, Instant};

use lekiwi_protocol::message::{
    ControlEvidence, Evidence, LatencyEvidence, LocalInputEvidence, VideoEvidence,
};

use super::source::{FRESH, RECENT, STREAM, Source};

const CONTROL: f64 = 0.8;
const LOCAL_INPUT: f64 = 0.6;
const VIDEO: f64 = 0.3;
const PRESENCE: f64 = 0.2;
/// At or above it, somebody drives.
const SURE: f64 = 0.65;

/// How much comes in from one operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Grade {
    /// Nothing that is more than a connection needs to stay open.
    #[default]
    None,
    /// Steady, from 0.8/s.
    Sparse,
    /// At least 5/s, up to now.
    Stream,
}

impl Grade {
    fn score(self) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Sparse => 0.5,
            Self::Stream => 1.0,
        }
    }
}

/// Commands of several sources, summed up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Control {
    pub(super) commands: u32,
    pub(super) last: Option<Instant>,
    pub(super) steady_since: Option<Instant>,
    /// The port with the most of them, as an index, or the topic, counted after the ports; `None` where a program
    /// reports.
    pub(super) port: Option<usize>,
    most: u32,
}

impl Control {
    pub(super) fn add(&mut self, now: Instant, source: &Source, port: Option<usize>) {
        let recent = source.recent(now);
        self.commands = self.commands.saturating_add(recent);
        if recent >= self.most && !source.is_quiet() {
            (self.most, self.port) = (recent, port);
        }
        if !source.is_quiet() {
            self.last = self.last.max(source.last());
        }
        self.steady_since = match (self.steady_since, source.steady_since()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.last?))
    }

    pub(super) fn grade(&self, now: Instant) -> Grade {
        let fresh = self.silence(now).is_some_and(|silence| silence < FRESH);
        if self.commands >= STREAM && fresh {
            Grade::Stream
        } else if self.steady_since.is_some() {
            Grade::Sparse
        } else {
            Grade::None
        }
    }
}

/// One operator's indicators at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scores {
    /// Commands through everything.
    pub(super) control: Control,
    /// Commands through what is old enough to start something.
    pub(super) settled: Control,
    pub(super) grade: Grade,
    pub(super) settled_grade: Grade,
    pub(super) moves: u32,
    pub(super) moved: Option<Instant>,
    pub(super) moves_since: Option<Instant>,
    /// Ports, then readers of the media server, one bit each.
    pub(super) streams: u32,
    pub(super) present: Option<Duration>,
    pub(super) is_settled: bool,
    pub(super) latency: Option<(Duration, Duration)>,
}

impl Scores {
    /// How sure it is that this operator drives.
    pub(super) fn confidence(&self) -> f64 {
        self.together(self.grade)
    }

    fn together(&self, grade: Grade) -> f64 {
        let one = |weight: f64, score: f64| 1.0 - weight * score;
        let yes = |is: bool| f64::from(u8::from(is));
        let doubt = one(CONTROL, grade.score())
            * one(LOCAL_INPUT, yes(self.moves > 0))
            * one(VIDEO, yes(self.streams != 0))
            * one(PRESENCE, yes(self.is_settled));
        1.0 - doubt
    }

    fn sure(&self, grade: Grade) -> bool {
        // What is 0.65 by the weights may be a hair less in floating point.
        let commands = grade > Grade::None || self.moves > 0;
        commands && self.together(grade) >= SURE - 1e-9
    }

    /// Sure by everything there is.
    pub(super) fn is_sure(&self) -> bool {
        self.sure(self.grade)
    }

    /// Sure by what may start a session.
    pub(super) fn is_sure_and_settled(&self) -> bool {
        self.sure(self.settled_grade)
    }

    /// Since when commands or moves are steady, by what may start a session.
    pub(super) fn steady_since(&self) -> Option<Instant> {
        let commands = self.settled.steady_since;
        match (commands, self.moves_since) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether this operator commands, by anything.
    pub(super) fn commands(&self) -> bool {
        self.grade > Grade::None || self.moves > 0
    }

    /// Whether this operator commands, by what may start a session.
    pub(super) fn commands_settled(&self) -> bool {
        self.settled_grade > Grade::None || self.moves > 0
    }

    /// When the last command or move came.
    pub(super) fn last(&self) -> Option<Instant> {
        let control = self.control.last.filter(|_| self.grade > Grade::None);
        control.max(self.moved)
    }

    /// For events; `port` and `stream` have the names.
    pub(super) fn evidence(
        &self,
        now: Instant,
        port: impl Fn(usize) -> String,
        stream: impl Fn(usize) -> Option<String>,
    ) -> Evidence {
        let control = self.control;
        let seen = control.commands > 0 || self.grade > Grade::None;
        let streams: Vec<String> = bits(self.streams).filter_map(stream).collect();
        Evidence {
            control: seen.then(|| ControlEvidence {
                score: self.grade.score(),
                commands_per_s: per_second(control.commands),
                silent_ms: ms(control.silence(now).unwrap_or_default()),
                what: control.port.map_or_else(|| "reported".to_owned(), port),
            }),
            local_input: (self.moves > 0).then_some(LocalInputEvidence { moves: self.moves }),
            video: (self.streams != 0).then_some(VideoEvidence { streams }),
            present_ms: self.present.map(ms),
            latency: self.latency.map(|(min_rtt, rtt)| LatencyEvidence {
                min_rtt_ms: rounded(min_rtt.as_secs_f64() * 1000.0, 100.0),
                rtt_ms: rounded(rtt.as_secs_f64() * 1000.0, 100.0),
            }),
        }
    }
}

/// The numbers of the bits that are set.
pub(super) fn bits(set: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |bit| set & (1 << bit) != 0)
}

/// Commands in [`RECENT`] as a rate.
pub(super) fn per_second(recent: u32) -> f64 {
    rounded(f64::from(recent) / RECENT.as_secs_f64(), 10.0)
}

/// `value` to so many parts of one.
pub(super) fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// Whole milliseconds.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
