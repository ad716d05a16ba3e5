//! What the candidates mean: sessions that start, change hands and stop, and people who only look on.

use std::time::{Duration, Instant};

use lekiwi_protocol::message::{Ended, Evidence, Operator, StopReason, TeleoperationEvent, kind};
use lekiwi_protocol::profile::PortRole;
use uuid::Uuid;

use super::super::Event;
use super::super::scores::{Grade, ms, rounded};
use super::{Candidate, Detector, Who};

/// How long somebody must be sure to drive, to look on, to have taken over, or to get in another's way.
const HOLD: Duration = Duration::from_secs(2);
/// How long steady commands or moves must last to start a session by themselves.
const LASTING: Duration = Duration::from_secs(5);
/// Silence that ends a stream of commands.
const SILENCE: Duration = Duration::from_secs(10);
/// Silence that ends sparse commands, or moves of a stick that may be held still.
const LONG_SILENCE: Duration = Duration::from_secs(30);
/// How long closed connections must stay closed.
const CLOSED: Duration = Duration::from_secs(3);
/// Commands that have been sparse for so long are no stream any more.
const SLOWED: Duration = Duration::from_secs(5);
/// Share of all commands that makes an operator.
const TAKE_OVER: f64 = 0.7;
/// Two who both commanded within this are in each other's way.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// Somebody drives.
#[derive(Debug)]
pub(super) struct Session {
    id: Uuid,
    pub(super) who: Who,
    /// The name at the last command.
    pub(super) operator: Operator,
    /// The operator used keys or sticks at the robot.
    pub(super) by_hand: bool,
    pub(super) since: Instant,
    last_command: Instant,
    /// The last command, moved by the time in which nobody looked: silence counts from here.
    heard: Instant,
    last_stream: Option<Instant>,
    /// The last command came through a connection.
    by_connection: bool,
    closed_since: Option<Instant>,
    silence: Duration,
    longest_gap: Duration,
    contended: bool,
    challenger: Option<(Who, Instant)>,
    confidence: f64,
    evidence: Evidence,
}

impl Session {
    /// When it ends if nothing comes.
    pub(super) fn deadline(&self) -> Instant {
        let silence = self.heard + self.patience();
        match self.closed_since {
            Some(since) => silence.min(since + CLOSED),
            None => silence,
        }
    }

    fn patience(&self) -> Duration {
        let streamed = self
            .last_stream
            .is_some_and(|at| self.heard.saturating_duration_since(at) <= SLOWED);
        if streamed && !self.by_hand {
            SILENCE
        } else {
            LONG_SILENCE
        }
    }

    /// Nobody looked for `gap`, which was no silence.
    pub(super) fn skip(&mut self, gap: Duration) {
        self.heard += gap;
        for at in [&mut self.last_stream, &mut self.closed_since] {
            *at = at.map(|at| at + gap);
        }
        self.challenger = None;
    }

    /// Takes what somebody commanded; says whether that is new.
    fn take(&mut self, now: Instant, candidate: &Candidate) -> bool {
        let Some(last) = candidate.scores.last() else {
            return false;
        };
        let is_new = last > self.heard;
        if is_new {
            self.heard = last.min(now);
            self.last_command = self.heard;
            self.longest_gap = self.longest_gap.max(self.silence);
            self.by_hand = candidate.scores.moves > 0;
            self.by_connection = !self.by_hand && candidate.scores.control.port.is_some();
        }
        if candidate.scores.grade == Grade::Stream {
            self.last_stream = Some(self.heard);
        }
        is_new
    }
}

/// Somebody looks on.
#[derive(Debug, Default)]
pub(super) struct Observation {
    since: Option<Instant>,
    said: bool,
}

impl Observation {
    pub(super) fn is_said(&self) -> bool {
        self.said
    }

    pub(super) fn skip(&mut self) {
        if !self.said {
            self.since = None;
        }
    }
}

fn lasts(now: Instant, since: Option<Instant>, span: Duration) -> bool {
    since.is_some_and(|since| now.saturating_duration_since(since) >= span)
}

impl Candidate {
    fn starts(&self, now: Instant) -> bool {
        let scores = &self.scores;
        scores.commands_settled()
            && ((scores.is_sure_and_settled() && lasts(now, self.sure_since, HOLD))
                || lasts(now, scores.steady_since(), LASTING))
    }

    /// Reads, and has sent nothing that could be a command.
    fn looks_on(&self) -> bool {
        let scores = &self.scores;
        let silent = scores.control.commands == 0 && !scores.commands();
        self.who != Who::Local && scores.streams != 0 && silent
    }
}

impl Detector {
    pub(super) fn is_contended(&self) -> bool {
        self.looked
            .is_some_and(|now| lasts(now, self.contended_since, HOLD))
    }

    pub(super) fn decide(
        &mut self,
        now: Instant,
        random: &mut dyn FnMut() -> Uuid,
    ) -> Option<Event> {
        let at_once = self.candidates.iter().filter(|candidate| {
            let last = candidate.scores.last();
            let recent = last.is_some_and(|at| now.saturating_duration_since(at) < AT_ONCE);
            candidate.scores.commands_settled() && recent
        });
        self.contended_since = match at_once.count() {
            0 | 1 => None,
            _ => Some(self.contended_since.unwrap_or(now)),
        };
        match self.session.take() {
            Some(session) => self.go_on(now, session),
            None => self.begin(now, random),
        }
    }

    fn begin(&mut self, now: Instant, random: &mut dyn FnMut() -> Uuid) -> Option<Event> {
        let ready = self.candidates.iter().filter(|c| c.starts(now));
        let starter = ready.max_by(|a, b| {
            let by_confidence = a.scores.confidence().total_cmp(&b.scores.confidence());
            by_confidence.then(a.scores.control.commands.cmp(&b.scores.control.commands))
        });
        let Some(starter) = starter.copied() else {
            return self.look_on(now, random);
        };
        let scores = &starter.scores;
        let since = starter.sure_since.into_iter().chain(scores.steady_since());
        let last = scores.last().unwrap_or(now);
        let mut session = Session {
            id: random(),
            who: starter.who,
            operator: self.operator(starter.who),
            by_hand: scores.moves > 0,
            since: since.min().unwrap_or(now).min(last),
            last_command: last,
            heard: last,
            last_stream: None,
            by_connection: scores.moves == 0 && scores.control.port.is_some(),
            closed_since: None,
            silence: Duration::ZERO,
            longest_gap: Duration::ZERO,
            contended: self.is_contended(),
            challenger: None,
            confidence: rounded(scores.confidence(), 100.0),
            evidence: self.evidence(now, scores),
        };
        session.take(now, &starter);
        self.observation = Observation::default();
        let event = self.event(kind::TELEOPERATION_STARTED, &session);
        self.session = Some(Box::new(session));
        Some(event)
    }

    fn look_on(&mut self, now: Instant, random: &mut dyn FnMut() -> Uuid) -> Option<Event> {
        let mut present = self.candidates.iter().filter(|c| c.looks_on());
        let Some(observer) = present.find(|c| c.scores.is_settled).copied() else {
            if self.candidates.iter().all(|c| c.scores.streams == 0) {
                self.observation = Observation::default();
            }
            return None;
        };
        let since = *self.observation.since.get_or_insert(now);
        if self.observation.said || !lasts(now, Some(since), HOLD) {
            return None;
        }
        self.observation.said = true;
        let data = TeleoperationEvent {
            session: random(),
            operator: self.operator(observer.who),
            previous: None,
            profile: self.profile.clone(),
            confidence: rounded(observer.scores.confidence(), 100.0),
            contention: false,
            evidence: self.evidence(now, &observer.scores),
            ended: None,
        };
        Some(Event {
            kind: kind::OBSERVING,
            data,
        })
    }

    fn go_on(&mut self, now: Instant, mut session: Box<Session>) -> Option<Event> {
        let session_who = session.who;
        let commanding = |c: &&Candidate| {
            c.scores.commands_settled() || (c.who == session_who && c.scores.commands())
        };
        for candidate in self.candidates.iter().filter(commanding) {
            if session.take(now, candidate) && candidate.who == session_who {
                session.operator = self.operator(session_who);
                session.confidence = rounded(candidate.scores.confidence(), 100.0);
                session.evidence = self.evidence(now, &candidate.scores);
            }
        }
        session.silence = now.saturating_duration_since(session.heard);
        session.contended |= self.is_contended();

        let anybody = self.candidates.iter().any(|c| commanding(&c));
        let is_open = self.tracks.iter().any(|track| {
            self.ports[track.port].role == PortRole::Control && self.who(now, track) == session_who
        });
        let mut writers = self.writers.iter();
        let is_open = is_open || writers.any(|w| self.who_writes(now, w) == session_who);
        session.closed_since = match session.by_connection && !is_open && !anybody {
            true => Some(session.closed_since.unwrap_or(now)),
            false => None,
        };
        let reason = if session.silence >= session.patience() {
            Some(StopReason::Silence)
        } else if lasts(now, session.closed_since, CLOSED) {
            Some(StopReason::Closed)
        } else {
            None
        };
        if let Some(reason) = reason {
            return Some(self.stopped(&session, reason));
        }
        let event = self.hand_over(now, &mut session);
        self.session = Some(session);
        event
    }

    /// Whether somebody else has taken over.
    fn hand_over(&self, now: Instant, session: &mut Session) -> Option<Event> {
        let weight = |c: &Candidate| c.scores.control.commands.saturating_add(c.scores.moves);
        let all: u64 = self.candidates.iter().map(|c| u64::from(weight(c))).sum();
        let challenger = self.candidates.iter().find(|c| {
            let share = f64::from(weight(c)) >= TAKE_OVER * all as f64;
            c.who != session.who && c.scores.commands_settled() && weight(c) > 0 && share
        });
        let Some(challenger) = challenger else {
            session.challenger = None;
            return None;
        };
        let since = match session.challenger {
            Some((who, since)) if who == challenger.who => since,
            _ => now,
        };
        session.challenger = Some((challenger.who, since));
        if !lasts(now, Some(since), HOLD) {
            return None;
        }
        session.challenger = None;
        session.who = challenger.who;
        let previous = std::mem::replace(&mut session.operator, self.operator(challenger.who));
        session.confidence = rounded(challenger.scores.confidence(), 100.0);
        session.evidence = self.evidence(now, &challenger.scores);
        let mut event = self.event(kind::OPERATOR_CHANGED, session);
        event.data.previous = Some(previous);
        Some(event)
    }

    pub(super) fn stop_watching(&mut self, now: Instant) -> Option<Event> {
        let session = self.session.take()?;
        self.looked = Some(now);
        Some(self.stopped(&session, StopReason::NotWatched))
    }

    fn stopped(&mut self, session: &Session, reason: StopReason) -> Event {
        let mut event = self.event(kind::TELEOPERATION_STOPPED, session);
        let duration = session
            .last_command
            .saturating_duration_since(session.since);
        event.data.contention = session.contended;
        event.data.ended = Some(Ended {
            reason,
            duration_ms: ms(duration),
            longest_gap_ms: ms(session.longest_gap),
        });
        // What led to this session leads to no other.
        for candidate in &mut self.candidates {
            candidate.sure_since = None;
        }
        event
    }

    fn event(&self, kind: &'static str, session: &Session) -> Event {
        Event {
            kind,
            data: TeleoperationEvent {
                session: session.id,
                operator: session.operator.clone(),
                previous: None,
                profile: self.profile.clone(),
                confidence: session.confidence,
                contention: self.is_contended(),
                evidence: session.evidence.clone(),
                ended: None,
            },
        }
    }
}
