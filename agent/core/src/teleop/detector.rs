//! The detector: takes samples, keeps a bounded picture of who is there, and asks [`session`] what it means.

mod ros;
mod session;

use core::net::IpAddr;
use std::time::{Duration, Instant};

use lekiwi_protocol::message::{Evidence, Operator, OperatorKind, SourceKind};
use lekiwi_protocol::profile::{PortRole, Teleop, TeleopPort};
use uuid::Uuid;

use self::ros::Writer;
use self::session::{Observation, Session};
use super::scores::{Scores, bits, ms, per_second, rounded};
use super::source::{Beats, Source};
use super::{
    CandidatePicture, Connection, ConnectionPicture, Driving, Event, GAP, MAX_CONNECTIONS,
    MAX_MEDIA, MAX_NAME_BYTES, MAX_REPORTS, MediaSession, Picture, REPORT_LIFE, Report, Sample,
};

/// A connection that is younger starts nothing.
const SETTLED: Duration = Duration::from_secs(3);
/// A reader takes something twice in so long…
const READING: Duration = Duration::from_secs(3);
/// The first bit of a reader of the media server in [`Scores::streams`]; ports come before.
const FIRST_MEDIA_BIT: usize = 16;

/// Tells commands from other traffic, and sessions from commands.
#[derive(Debug)]
pub struct Detector {
    profile: String,
    ports: Vec<TeleopPort>,
    topics: Vec<String>,
    autonomous_nodes: Vec<String>,
    bridge_nodes: Vec<String>,
    /// At most [`MAX_CONNECTIONS`].
    tracks: Vec<Track>,
    /// At most [`MAX_MEDIA`].
    readers: Vec<Reader>,
    /// At most [`MAX_REPORTS`].
    reports: Vec<Reported>,
    /// At most [`MAX_WRITERS`](super::MAX_WRITERS).
    writers: Vec<Writer>,
    serial: u32,
    input: Source,
    /// One for everybody who can be told apart in the lists, and the robot itself.
    candidates: Vec<Candidate>,
    contended_since: Option<Instant>,
    looked: Option<Instant>,
    observation: Observation,
    session: Option<Box<Session>>,
}

/// Somebody, as far as can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Address(IpAddr),
    /// By its [`Reported::serial`].
    Reported(u32),
    /// A node of ROS, by [`Writer::name_hash`].
    Node(u64),
    Local,
}

#[derive(Debug)]
struct Track {
    id: u64,
    /// Index of the port in the profile.
    port: usize,
    remote: IpAddr,
    is_loopback: bool,
    since: Instant,
    segs_in: u32,
    acked: u64,
    commands: Source,
    read: Beats,
    reads: bool,
    last_data: Instant,
    rtt: Duration,
    min_rtt: Duration,
}

#[derive(Debug)]
struct Reader {
    id: u64,
    remote: IpAddr,
    path: String,
    sent: u64,
    read: Beats,
    reads: bool,
}

#[derive(Debug)]
struct Reported {
    serial: u32,
    operator: Operator,
    address: Option<IpAddr>,
    commands: Source,
    at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    who: Who,
    scores: Scores,
    sure_since: Option<Instant>,
}

/// Something is read: twice within [`READING`], until it has not been for as long as beats are kept.
fn reads(before: bool, read: &Beats, now: Instant) -> bool {
    read.count(now, READING) >= 2 || (before && !read.is_empty())
}

/// `text` within [`MAX_NAME_BYTES`].
fn bounded(text: &str) -> String {
    let mut end = text.len().min(MAX_NAME_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

impl Detector {
    /// Looks for the signatures of the profile `profile`.
    #[must_use]
    pub fn new(profile: &str, signatures: &Teleop) -> Self {
        let ports = signatures.ports.iter().take(FIRST_MEDIA_BIT).cloned();
        Self {
            profile: profile.to_owned(),
            ports: ports.collect(),
            topics: signatures.ros_topics.clone(),
            autonomous_nodes: signatures.autonomous_nodes.clone(),
            bridge_nodes: signatures.bridge_nodes.clone(),
            tracks: Vec::new(),
            readers: Vec::new(),
            reports: Vec::new(),
            writers: Vec::new(),
            serial: 0,
            input: Source::default(),
            candidates: Vec::new(),
            contended_since: None,
            looked: None,
            observation: Observation::default(),
            session: None,
        }
    }

    /// Takes what was seen at `now`, and says what it means; `random` is asked for the id of a session.
    pub fn observe(
        &mut self,
        now: Instant,
        sample: Sample<'_>,
        random: &mut dyn FnMut() -> Uuid,
    ) -> Option<Event> {
        let gap = self
            .looked
            .map(|looked| now.saturating_duration_since(looked))
            .filter(|gap| *gap > GAP);
        self.looked = Some(now);
        self.take_connections(now, sample.connections, gap.is_some());
        if let Some(media) = sample.media {
            self.take_media(now, media, gap.is_some());
        }
        self.take_commanders(now, sample.commanders, gap.is_some());
        let moves = if gap.is_some() { 0 } else { sample.moves };
        self.input.take(now, moves, now);
        self.reports
            .retain(|report| now.saturating_duration_since(report.at) < REPORT_LIFE);
        for report in &mut self.reports {
            report.commands.take(now, 0, now);
        }
        if let Some(gap) = gap {
            self.skip(gap);
        }
        self.judge(now);
        self.decide(now, random)
    }

    /// A program on the robot says who drives. Counts with the next sample.
    pub fn report(&mut self, now: Instant, report: &Report) {
        let name = bounded(&report.operator.id);
        let address = report.address.map(|address| address.to_canonical());
        let known = |kept: &Reported| kept.operator.id == name && kept.address == address;
        if !self.reports.iter().any(known) {
            if self.reports.len() >= MAX_REPORTS {
                let oldest = (0..self.reports.len()).min_by_key(|index| self.reports[*index].at);
                self.reports.swap_remove(oldest.unwrap_or_default());
            }
            self.serial = self.serial.wrapping_add(1);
            self.reports.push(Reported {
                serial: self.serial,
                operator: Operator {
                    id: name.clone(),
                    ..report.operator.clone()
                },
                address,
                commands: Source::default(),
                at: now,
            });
        }
        let known = |kept: &&mut Reported| kept.operator.id == name && kept.address == address;
        if let Some(kept) = self.reports.iter_mut().find(known) {
            kept.at = now;
            kept.operator.kind = report.operator.kind;
            kept.operator.source_kind = report.operator.source_kind;
            kept.commands.take(now, report.commands, now);
        }
    }

    /// Nobody looks any more: ends the session, if there is one.
    pub fn end(&mut self, now: Instant) -> Option<Event> {
        self.stop_watching(now)
    }

    /// When the next sample is wanted at the latest, for a session to end in time.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.session.as_ref().map(|session| session.deadline())
    }

    /// The session that is under way.
    #[must_use]
    pub fn driving(&self) -> Option<Driving> {
        let session = self.session.as_ref()?;
        Some(Driving {
            operator: self.operator(session.who),
            since: session.since,
            contention: self.is_contended(),
        })
    }

    /// What somebody reads of pictures and observations.
    #[must_use]
    pub fn streams(&self) -> Vec<String> {
        let others = self.candidates.iter().filter(|c| c.who != Who::Local);
        let set = others.fold(0, |set, candidate| set | candidate.scores.streams);
        let mut streams: Vec<_> = bits(set).filter_map(|bit| self.stream_name(bit)).collect();
        streams.sort();
        streams.dedup();
        streams
    }

    /// Everything that is seen, for people.
    #[must_use]
    pub fn picture(&self, now: Instant) -> Picture {
        let candidates = self.candidates.iter().map(|candidate| CandidatePicture {
            operator: self.operator(candidate.who),
            confidence: rounded(candidate.scores.confidence(), 100.0),
            evidence: self.evidence(now, &candidate.scores),
        });
        let connections = self.tracks.iter().map(|track| ConnectionPicture {
            port: self.ports[track.port].port,
            what: self.ports[track.port].what.clone(),
            remote: track.remote,
            commands_per_s: per_second(track.commands.recent(now)),
            silent_ms: ms(now.saturating_duration_since(track.last_data)),
            reads: track.reads,
        });
        Picture {
            phase: match (&self.session, self.observation.is_said()) {
                (Some(_), _) => "teleoperated",
                (None, true) => "observing",
                (None, false) => "idle",
            },
            contention: self.is_contended(),
            candidates: candidates.collect(),
            connections: connections.collect(),
        }
    }

    fn take_connections(&mut self, now: Instant, connections: &[Connection], is_gap: bool) {
        let is_open = |track: &Track| connections.iter().any(|open| open.id == track.id);
        self.tracks.retain(is_open);
        for open in connections {
            let last_data = now.checked_sub(open.last_data_recv);
            if let Some(track) = self.tracks.iter_mut().find(|track| track.id == open.id) {
                let came = open.data_segs_in.wrapping_sub(track.segs_in);
                // A counter that went back is none.
                let came = if came > u32::MAX / 2 { 0 } else { came };
                let taken = u32::from(open.bytes_acked > track.acked);
                track.segs_in = open.data_segs_in;
                track.acked = open.bytes_acked;
                track.last_data = last_data.unwrap_or(track.since).min(now);
                (track.rtt, track.min_rtt) = (open.rtt, open.min_rtt);
                if is_gap {
                    track.commands.forget();
                    track.read.clear();
                } else {
                    track.commands.take(now, came, track.last_data);
                    track.read.push(now, taken);
                }
                track.reads = reads(track.reads, &track.read, now);
                continue;
            }
            let Some(port) = self.ports.iter().position(|port| port.port == open.port) else {
                continue;
            };
            // More are left out; the probe has put the liveliest first.
            if self.tracks.len() >= MAX_CONNECTIONS {
                continue;
            }
            self.tracks.push(Track {
                id: open.id,
                port,
                remote: open.remote.to_canonical(),
                is_loopback: open.is_loopback,
                since: now,
                segs_in: open.data_segs_in,
                acked: open.bytes_acked,
                commands: Source::default(),
                read: Beats::default(),
                reads: false,
                last_data: last_data.unwrap_or(now),
                rtt: open.rtt,
                min_rtt: open.min_rtt,
            });
        }
    }

    fn take_media(&mut self, now: Instant, media: &[MediaSession], is_gap: bool) {
        self.readers
            .retain(|reader| media.iter().any(|session| session.id == reader.id));
        for session in media {
            if let Some(reader) = self.readers.iter_mut().find(|r| r.id == session.id) {
                let taken = u32::from(session.bytes_sent > reader.sent && !is_gap);
                reader.sent = session.bytes_sent;
                reader.read.push(now, taken);
                reader.reads = reads(reader.reads, &reader.read, now);
                continue;
            }
            if self.readers.len() >= MAX_MEDIA {
                continue;
            }
            self.readers.push(Reader {
                id: session.id,
                remote: session.remote.to_canonical(),
                path: bounded(&session.path),
                sent: session.bytes_sent,
                read: Beats::default(),
                reads: false,
            });
        }
    }

    /// Nobody looked for `gap`.
    fn skip(&mut self, gap: Duration) {
        self.input.forget();
        for report in &mut self.reports {
            report.commands.forget();
        }
        for writer in &mut self.writers {
            writer.commands.forget();
        }
        for reader in &mut self.readers {
            reader.read.clear();
        }
        for candidate in &mut self.candidates {
            candidate.sure_since = None;
        }
        self.contended_since = None;
        self.observation.skip();
        if let Some(session) = &mut self.session {
            session.skip(gap);
        }
    }

    fn judge(&mut self, now: Instant) {
        let mut everybody: Vec<Who> = Vec::new();
        let whos = self.tracks.iter().map(|track| self.who(now, track));
        let whos = whos.chain(self.readers.iter().map(|r| Who::Address(r.remote)));
        let whos = whos.chain(self.reports.iter().map(Reported::who));
        let whos = whos.chain(self.writers.iter().map(|w| self.who_writes(now, w)));
        let local = (!self.input.is_quiet()).then_some(Who::Local);
        for who in whos.chain(local) {
            if !everybody.contains(&who) {
                everybody.push(who);
            }
        }
        let judged = everybody.iter().map(|who| {
            let scores = self.scores(now, *who);
            let before = self.candidates.iter().find(|c| c.who == *who);
            let since = before.and_then(|before| before.sure_since);
            Candidate {
                who: *who,
                scores,
                sure_since: scores.is_sure().then_some(since.unwrap_or(now)),
            }
        });
        let judged = judged.collect();
        self.candidates = judged;
    }

    fn scores(&self, now: Instant, who: Who) -> Scores {
        let mut scores = Scores::default();
        for track in self.tracks.iter().filter(|t| self.who(now, t) == who) {
            let age = now.saturating_duration_since(track.since);
            let is_settled = age >= SETTLED;
            if who != Who::Local {
                scores.present = scores.present.max(Some(age));
                scores.is_settled |= is_settled;
            }
            match self.ports[track.port].role {
                PortRole::Control => {
                    scores.control.add(now, &track.commands, Some(track.port));
                    if is_settled {
                        scores.settled.add(now, &track.commands, Some(track.port));
                    }
                }
                PortRole::Observation | PortRole::Video if track.reads => {
                    scores.streams |= 1 << track.port;
                    // Of a socket that sends: one that only receives knows no round trip.
                    scores.latency = Some((track.min_rtt, track.rtt));
                }
                PortRole::Observation | PortRole::Video | PortRole::Page => {}
            }
        }
        for (slot, reader) in self.readers.iter().enumerate() {
            if reader.reads && who == Who::Address(reader.remote) {
                scores.streams |= 1 << (FIRST_MEDIA_BIT + slot);
            }
        }
        for report in self.reports.iter().filter(|report| report.who() == who) {
            scores.control.add(now, &report.commands, None);
            scores.settled.add(now, &report.commands, None);
        }
        self.add_writers(now, who, &mut scores);
        if who == Who::Local {
            scores.moves = self.input.recent(now);
            scores.moved = self.input.last().filter(|_| scores.moves > 0);
            scores.moves_since = self.input.steady_since();
        }
        scores.grade = scores.control.grade(now);
        scores.settled_grade = scores.settled.grade(now);
        scores
    }

    /// Whose connection that is. One from the robot itself is a bridge's: of the operator that a program
    /// reports, else of the remote client that the bridge has on another port.
    fn who(&self, now: Instant, track: &Track) -> Who {
        match track.is_loopback {
            true => self.client(now, Some(track.port)).unwrap_or(Who::Local),
            false => Who::Address(track.remote),
        }
    }

    /// Whom a bridge on the robot speaks for, which is itself no client of `port`.
    fn client(&self, now: Instant, port: Option<usize>) -> Option<Who> {
        let mut reports = self.reports.iter().filter(|r| r.address.is_none());
        if let (Some(report), None) = (reports.next(), reports.next()) {
            return Some(report.who());
        }
        let remote = self
            .tracks
            .iter()
            .filter(|other| {
                let role = self.ports[other.port].role;
                !other.is_loopback
                    && Some(other.port) != port
                    && matches!(role, PortRole::Control | PortRole::Page)
                    && now.saturating_duration_since(other.since) >= SETTLED
            })
            .max_by_key(|other| {
                let commands = other.commands.last().filter(|_| !other.commands.is_quiet());
                (commands, std::cmp::Reverse((other.since, other.id)))
            });
        remote.map(|other| Who::Address(other.remote))
    }

    /// As events name it.
    fn operator(&self, who: Who) -> Operator {
        let named = self.reports.iter().find(|report| report.who() == who);
        if let Some(report) = named {
            return report.operator.clone();
        }
        let known = self.session.as_ref().filter(|session| session.who == who);
        match who {
            Who::Address(address) => Operator {
                id: address.to_string(),
                kind: OperatorKind::Ip,
                source_kind: SourceKind::Unknown,
            },
            Who::Local => {
                let candidate = self.candidates.iter().find(|c| c.who == who);
                let moves = candidate.is_some_and(|c| c.scores.moves > 0);
                let moved = known.is_some_and(|session| session.by_hand);
                Operator {
                    id: "local".to_owned(),
                    kind: OperatorKind::Local,
                    source_kind: if moves || moved {
                        SourceKind::Human
                    } else {
                        SourceKind::Unknown
                    },
                }
            }
            Who::Node(hash) if self.node(hash).is_some() => Operator {
                id: self.node(hash).unwrap_or_default().to_owned(),
                kind: OperatorKind::RosNode,
                source_kind: SourceKind::Unknown,
            },
            // It has not been heard for a while; a session keeps the name.
            Who::Reported(_) | Who::Node(_) => known.map_or_else(
                || Operator {
                    id: "unknown".to_owned(),
                    kind: OperatorKind::User,
                    source_kind: SourceKind::Unknown,
                },
                |session| session.operator.clone(),
            ),
        }
    }

    fn evidence(&self, now: Instant, scores: &Scores) -> Evidence {
        let port = |index: usize| self.what(index).to_owned();
        scores.evidence(now, port, |bit| self.stream_name(bit))
    }

    fn stream_name(&self, bit: usize) -> Option<String> {
        match bit.checked_sub(FIRST_MEDIA_BIT) {
            None => self.ports.get(bit).map(|port| port.what.clone()),
            Some(slot) => self.readers.get(slot).map(|reader| reader.path.clone()),
        }
    }
}

impl Reported {
    /// An address that was named stays one: its connections are counted under it.
    fn who(&self) -> Who {
        match self.address {
            Some(address) => Who::Address(address),
            None => Who::Reported(self.serial),
        }
    }
}
