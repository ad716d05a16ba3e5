//! Says one service on one interface: probes for its name, announces it, answers, defends it, takes it
//! back (RFC 6762, sections 6 to 10). After the announcements it says nothing that it was not asked.
//!
//! Of two that want the same name the later one takes another: `kiwi-01` and `kiwi-01 (2)`. Their texts
//! still say the same id, so that whoever looks sees both. Floods cost little: at most one answer a
//! second goes to the group, and twenty to single askers; and nobody outside of private networks is
//! answered.

mod answer;
mod records;

use core::net::{Ipv4Addr, SocketAddrV4};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::ad::Service;
use super::network::Network;
use super::packet::{ANY, Packet, Question, Record};
use answer::Answers;
use records::{Records, Set};

/// Probes before a name is taken, and the time between them.
const PROBES: u8 = 3;
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// Announcements of a name, and the time between them.
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// How long the loser of two simultaneous probes waits.
const DEFER: Duration = Duration::from_secs(1);
/// From so many conflicts on each attempt waits for [`CONFLICT_PAUSE`].
const MANY_CONFLICTS: u32 = 10;
const CONFLICT_PAUSE: Duration = Duration::from_secs(5);

/// What the driver does for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this to the group.
    Multicast(Vec<u8>),
    /// Send this to one.
    Unicast(SocketAddrV4, Vec<u8>),
    /// Say that another machine has this name already.
    Conflict {
        /// The machine.
        other: Ipv4Addr,
        /// What this one is called instead.
        instead: String,
    },
}

/// A packet that came in.
#[derive(Debug, Clone, Copy)]
pub struct Heard<'a> {
    /// From where.
    pub from: SocketAddrV4,
    /// Whether it came to this machine alone, not to the group.
    pub direct: bool,
    /// What.
    pub packet: &'a Packet,
}

/// An address of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// The address.
    pub address: Ipv4Addr,
    /// Its network.
    pub network: Network,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// So many probes were sent.
    Probing(u8),
    /// So many announcements were sent.
    Announcing(u8),
    /// The name is ours.
    Ready,
    /// It was taken back.
    Over,
}

/// One service on one interface.
#[derive(Debug)]
pub struct Responder {
    records: Records,
    home: Home,
    /// All addresses of this machine: what they say is no conflict.
    own: Vec<Ipv4Addr>,
    stage: Stage,
    next: Option<Instant>,
    answers: Answers,
    conflicts: u32,
    outputs: VecDeque<Output>,
}

type Random<'a> = &'a mut dyn FnMut() -> u64;

impl Responder {
    /// Begins to probe. `own` are all addresses of this machine.
    #[must_use]
    pub fn new(
        service: Service,
        home: Home,
        own: Vec<Ipv4Addr>,
        now: Instant,
        random: Random<'_>,
    ) -> Self {
        Self {
            records: Records::new(service, home.address),
            home,
            own,
            stage: Stage::Probing(0),
            // Machines that start together do not speak together.
            next: Some(now + below(PROBE_EVERY, random)),
            answers: Answers::default(),
            conflicts: 0,
            outputs: VecDeque::new(),
        }
    }

    /// What it is called now.
    #[must_use]
    pub fn called(&self) -> String {
        self.records.instance().first()
    }

    /// All addresses of this machine are these from now on.
    pub fn set_own(&mut self, own: Vec<Ipv4Addr>) {
        self.own = own;
    }

    /// The service has other texts from now on.
    pub fn update(&mut self, now: Instant, service: Service) {
        if self.records.replace(service)
            && matches!(self.stage, Stage::Announcing(_) | Stage::Ready)
        {
            self.stage = Stage::Announcing(0);
            self.next = Some(now);
        }
    }

    /// Takes it back, if it was said.
    pub fn goodbye(&mut self) {
        if matches!(self.stage, Stage::Announcing(1..) | Stage::Ready) {
            let mut records = self.records.list(Set::MINE);
            for record in &mut records {
                record.ttl = 0;
            }
            self.multicast(response(records, Vec::new()));
        }
        self.stage = Stage::Over;
        self.next = None;
        self.answers = Answers::default();
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.next, self.answers.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What to do now.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next.is_some_and(|next| next <= now) {
            self.step(now);
        }
        while let Some(due) = self.answers.poll_due(now) {
            let answers = self.records.list(due);
            let additionals = self.records.list(due.and_next());
            self.multicast(response(answers, additionals));
        }
    }

    fn step(&mut self, now: Instant) {
        let (stage, next) = match self.stage {
            Stage::Probing(PROBES..) => return self.announce(now, 0),
            Stage::Probing(sent) => {
                self.multicast(self.probe());
                (Stage::Probing(sent + 1), Some(now + PROBE_EVERY))
            }
            Stage::Announcing(sent) => return self.announce(now, sent),
            Stage::Ready | Stage::Over => (self.stage, None),
        };
        (self.stage, self.next) = (stage, next);
    }

    fn announce(&mut self, now: Instant, sent: u8) {
        let all = self.records.list(Set::ALL);
        self.multicast(response(all, Vec::new()));
        self.answers.said(now);
        (self.stage, self.next) = match sent + 1 {
            ANNOUNCEMENTS.. => (Stage::Ready, None),
            sent => (Stage::Announcing(sent), Some(now + ANNOUNCE_EVERY)),
        };
    }

    fn probe(&self) -> Packet {
        let question = |name| Question {
            name,
            kind: ANY,
            unicast: false,
        };
        let mut authorities = self.records.list(Set::UNIQUE);
        for record in &mut authorities {
            record.flush = false;
        }
        Packet {
            questions: vec![
                question(self.records.instance().clone()),
                question(self.records.host().clone()),
            ],
            authorities,
            ..Packet::default()
        }
    }

    fn multicast(&mut self, packet: Packet) {
        self.outputs.push_back(Output::Multicast(packet.to_bytes()));
    }

    /// A packet came in.
    pub fn handle_packet(&mut self, now: Instant, heard: Heard<'_>, random: Random<'_>) {
        if self.stage == Stage::Over {
            return;
        }
        let stranger = !self.own.contains(heard.from.ip());
        if !heard.packet.response {
            if stranger && matches!(self.stage, Stage::Probing(1..)) {
                self.compare_probes(now, heard.packet);
            }
            if !matches!(self.stage, Stage::Probing(_)) {
                self.answer(now, heard, random);
            }
        } else if stranger && !heard.direct && self.home.network.contains(*heard.from.ip()) {
            // Nobody beyond this link has a say in who is called what.
            let sections = [&heard.packet.answers, &heard.packet.additionals];
            if sections
                .into_iter()
                .flatten()
                .any(|r| self.records.contradicts(r))
            {
                self.conflict(now, *heard.from.ip(), random);
            }
        }
    }

    /// Two probe for the same name at the same time: the one whose records are less waits, and finds the
    /// name taken.
    fn compare_probes(&mut self, now: Instant, packet: &Packet) {
        let (instance, host) = (self.records.instance(), self.records.host());
        let contested = |records: &[Record]| {
            let mut bytes: Vec<_> = records
                .iter()
                .filter(|record| record.name == *instance || record.name == *host)
                .map(|record| (record.data.kind(), record.data.to_bytes()))
                .collect();
            bytes.sort();
            bytes
        };
        let theirs = contested(&packet.authorities);
        let ours = contested(&self.records.list(Set::UNIQUE));
        if !theirs.is_empty() && ours < theirs {
            (self.stage, self.next) = (Stage::Probing(0), Some(now + DEFER));
        }
    }

    fn conflict(&mut self, now: Instant, other: Ipv4Addr, random: Random<'_>) {
        self.conflicts = self.conflicts.saturating_add(1);
        if matches!(self.stage, Stage::Probing(_)) {
            self.records.rename();
            self.outputs.push_back(Output::Conflict {
                other,
                instead: self.called(),
            });
        }
        // A name that was ours is probed for again: the other may have meant no harm.
        let pause = if self.conflicts >= MANY_CONFLICTS {
            CONFLICT_PAUSE
        } else {
            Duration::ZERO
        };
        self.stage = Stage::Probing(0);
        self.next = Some(now + pause + below(PROBE_EVERY, random));
    }

    fn answer(&mut self, now: Instant, heard: Heard<'_>, random: Random<'_>) {
        let Heard { from, packet, .. } = heard;
        // More of what somebody knows already, who asked before.
        for set in self.answers.waiting(from) {
            *set = self.records.unknown(*set, &packet.answers);
        }
        let legacy = from.port() != super::PORT;
        let mut asked = Set::NONE;
        let mut alone = true;
        for question in &packet.questions {
            let set = self.records.asked(question);
            if !set.is_empty() {
                alone &= question.unicast;
                asked = asked.with(set);
            }
        }
        if !legacy {
            asked = self.records.unknown(asked, &packet.answers);
        }
        if asked.is_empty() {
            return;
        }
        if heard.direct || legacy || alone {
            let near = self.home.network.contains(*from.ip()) || is_private(*from.ip());
            if near && self.answers.may_answer_one(now) {
                let answer = self.direct_answer(asked, legacy, packet);
                self.outputs
                    .push_back(Output::Unicast(from, answer.to_bytes()));
            }
        } else if packet.truncated {
            let wait = Duration::from_millis(400) + below(Duration::from_millis(100), random);
            self.answers.wait_for_more(from, now + wait, asked);
        } else {
            let defended = !packet.authorities.is_empty();
            let wait = if asked.is_shared() {
                Duration::from_millis(20) + below(Duration::from_millis(100), random)
            } else {
                Duration::ZERO
            };
            self.answers.schedule(now, wait, asked, defended);
        }
    }

    fn direct_answer(&self, asked: Set, legacy: bool, query: &Packet) -> Packet {
        let mut answer = response(
            self.records.list(asked),
            self.records.list(asked.and_next()),
        );
        if legacy {
            // As an ordinary name server would: the question again, its id, nothing to keep for long.
            answer.id = query.id;
            answer.questions = query
                .questions
                .iter()
                .filter(|question| !self.records.asked(question).is_empty())
                .take(4)
                .cloned()
                .collect();
            for record in answer.answers.iter_mut().chain(&mut answer.additionals) {
                record.flush = false;
                record.ttl = record.ttl.min(10);
            }
        }
        answer
    }
}

fn response(answers: Vec<Record>, additionals: Vec<Record>) -> Packet {
    Packet {
        response: true,
        answers,
        additionals,
        ..Packet::default()
    }
}

fn below(limit: Duration, random: Random<'_>) -> Duration {
    let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(random() % micros.max(1))
}

/// Networks that are nobody's in particular: a scan may come from another one of the same house.
fn is_private(address: Ipv4Addr) -> bool {
    address.is_private() || address.is_link_local() || address.is_loopback()
}
