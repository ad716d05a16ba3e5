//! Which robot this is: facts that the probes found, held against the profiles. Pure; says why.
//!
//! A profile fits when its servo buses are there, all of them and no other, told apart by the ids on
//! them and never by their ports, and when the board is one of its boards. What else it expects (memory,
//! cameras, USB devices) is compared and said.
//!
//! A damaged robot can look like a smaller one: a LeKiwi whose wheels do not answer has the servos of an
//! SO-101. So a profile that is contained in a greater one is only chosen when nothing that is there
//! speaks for the greater: the greater's board, and of its cameras, USB devices and HAT something that
//! the smaller does not have. Cameras are many people's addition, so they speak only for a robot with as
//! many servo buses (some of its servos are silent), not for one that lost a whole adapter as well. Otherwise, and whenever several fit or a bus cannot be read, the robot is
//! unknown; a guess is never made.
//!
//! Invariant: neither the order of ports nor that of profiles changes the outcome.

use std::collections::BTreeSet;

use lekiwi_protocol::message::RunnerUp;
use lekiwi_protocol::profile::{Profile, ProfileName, Recognise, UsbDevices};
use serde::Serialize;

/// What the probes found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Facts {
    /// The computer.
    pub board: Board,
    /// Every USB device.
    pub usb: Vec<UsbDevice>,
    /// USB cameras that capture.
    pub cameras: Vec<UsbDevice>,
    /// Servo adapters, in any order.
    pub buses: Vec<Bus>,
}

/// The computer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Board {
    /// `pi5`, `cm4`, …, `virt`, `pc`; empty when nothing says it.
    pub kind: String,
    /// In words, as the machine puts it.
    pub model: String,
    /// Serial number; empty when there is none.
    pub serial: String,
    /// Memory in GiB, as sold. 0 when it is less than one, or nothing says it.
    pub memory_gb: u32,
    /// The HAT's product text.
    pub hat: Option<String>,
}

/// A USB device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct UsbDevice {
    /// Vendor id, four hex digits.
    pub vendor: String,
    /// Product id, four hex digits.
    pub product: String,
    /// Where it is plugged in, as the kernel names it: `1-1.2`.
    pub port: String,
    /// What it calls itself.
    pub name: String,
}

/// A servo adapter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Bus {
    /// The device file.
    pub port: String,
    /// What came of asking.
    pub state: BusState,
}

/// What came of asking a bus.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum BusState {
    /// Servos answered.
    Answered {
        /// Those that were understood, by id.
        servos: Vec<Servo>,
        /// Ids whose answers were not: several servos speak at once, or the line is bad.
        garbled: Vec<u8>,
    },
    /// Nobody answers.
    Silent,
    /// Something answers that is no servo's.
    Noise,
    /// Another program uses it.
    Busy,
    /// It cannot be opened or read.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A servo that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Servo {
    /// Its id.
    pub id: u8,
    /// Its model number, when it said it.
    pub model: Option<u16>,
}

/// What the robot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// One profile fits, and no other could.
    Matched(Matched),
    /// None does, or more than one could.
    Unknown {
        /// What did fit the nearest.
        matched: Vec<String>,
        /// Why none was chosen; never empty.
        reasons: Vec<String>,
        /// The nearest, and what of it is otherwise.
        runner_up: Option<RunnerUp>,
    },
}

/// The profile that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// Which.
    pub profile: ProfileName,
    /// What of it was found.
    pub matched: Vec<String>,
    /// What was expected otherwise; decides nothing.
    pub differing: Vec<String>,
    /// The next nearest, and what of it is otherwise.
    pub runner_up: Option<RunnerUp>,
    /// The ports of its servo buses, in the profile's order.
    pub ports: Vec<String>,
}

/// One profile held against the facts.
struct Verdict<'a> {
    profile: &'a Profile,
    recognise: &'a Recognise,
    matched: Vec<String>,
    /// What it requires and does not find.
    missing: Vec<String>,
    differing: Vec<String>,
    /// Servos in common less servos that differ: how near it is.
    nearness: i64,
    ports: Vec<String>,
}

/// Holds `facts` against every profile that can be recognised.
#[must_use]
pub fn identify(facts: &Facts, profiles: &[Profile]) -> Outcome {
    let mut buses: Vec<&Bus> = facts.buses.iter().collect();
    buses.sort_by(|a, b| (ids(a), &a.port).cmp(&(ids(b), &b.port)));
    let mut verdicts: Vec<Verdict<'_>> = profiles
        .iter()
        .filter_map(|profile| Some(judge(profile, profile.recognise.as_ref()?, facts, &buses)))
        .collect();
    verdicts.sort_by(|a, b| {
        let key = |v: &Verdict<'_>| (v.missing.len().min(1), -v.nearness, v.missing.len());
        (key(a), &a.profile.name).cmp(&(key(b), &b.profile.name))
    });
    let runner_up = |index: usize| {
        let next = verdicts.get(index).filter(|v| !v.ports.is_empty());
        next.map(|verdict| RunnerUp {
            profile: verdict.profile.name.to_string(),
            differing: verdict
                .missing
                .iter()
                .chain(&verdict.differing)
                .cloned()
                .collect(),
        })
    };
    let fitting: Vec<&Verdict<'_>> = verdicts.iter().filter(|v| v.missing.is_empty()).collect();
    let mut reasons = complaints(&buses);
    if let ([only], true) = (&fitting[..], reasons.is_empty()) {
        reasons = doubts(only, &verdicts, facts);
        if reasons.is_empty() {
            return Outcome::Matched(Matched {
                profile: only.profile.name.clone(),
                matched: only.matched.clone(),
                differing: only.differing.clone(),
                runner_up: runner_up(1),
                ports: only.ports.clone(),
            });
        }
    }
    if fitting.len() > 1 {
        let names: Vec<&str> = fitting.iter().map(|v| v.profile.name.as_str()).collect();
        reasons.push(format!("{} fit alike", names.join(" and ")));
    }
    if reasons.is_empty() {
        let reason = if verdicts.is_empty() {
            "there is no profile that could be recognised"
        } else {
            "no profile fits"
        };
        reasons.push(reason.to_owned());
    }
    let nearest = verdicts.first().filter(|v| !v.ports.is_empty());
    Outcome::Unknown {
        matched: nearest.map_or_else(Vec::new, |v| v.matched.clone()),
        reasons,
        runner_up: runner_up(0),
    }
}

/// What about the buses keeps any profile from being chosen.
fn complaints(buses: &[&Bus]) -> Vec<String> {
    if buses.is_empty() {
        return vec!["no servo adapter is plugged in".to_owned()];
    }
    let complaint = |bus: &&Bus| {
        let what = match &bus.state {
            BusState::Answered { servos, garbled } => match (&servos[..], &garbled[..]) {
                ([Servo { id: 1, .. }], []) | ([], [1]) => {
                    "only servo 1 answers, as all do that have not got their ids yet".to_owned()
                }
                (_, []) => return None,
                (_, ids) => format!(
                    "the answers of {} are garbled, as when several servos have one id",
                    list(ids.iter().copied())
                ),
            },
            BusState::Silent => "nobody answers: is the servos' power on?".to_owned(),
            BusState::Noise => "something answers that is no servo".to_owned(),
            BusState::Busy => "another program uses it".to_owned(),
            BusState::Failed { reason } => format!("it cannot be asked: {reason}"),
        };
        Some(format!("{}: {what}", bus.port))
    };
    buses.iter().filter_map(complaint).collect()
}

/// What speaks for a greater robot of which `fitting` may be what is left.
fn doubts(fitting: &Verdict<'_>, all: &[Verdict<'_>], facts: &Facts) -> Vec<String> {
    let mut doubts = Vec::new();
    let own = fitting.recognise;
    for greater in all {
        let other = greater.recognise;
        let board = other.boards.is_empty() || other.boards.contains(&facts.board.kind);
        if !board || !contains(&other.servo_buses, &own.servo_buses) {
            continue;
        }
        let mut signs = Vec::new();
        let cameras = |r: &Recognise| u32::try_from(r.uvc_of(facts)).unwrap_or(u32::MAX);
        if let (Some(expected), Some(theirs)) = (own.cameras.uvc, other.cameras.uvc) {
            let seen = cameras(own);
            let buses = other.servo_buses.len() == own.servo_buses.len();
            if buses && seen > expected && cameras(other) <= theirs {
                signs.push(count(cameras(other), "camera"));
            }
        }
        for theirs in &other.usb {
            let seen = found(theirs, facts);
            let expected = own
                .usb
                .iter()
                .filter(|own| same(own, theirs))
                .map(|own| own.count)
                .sum::<u32>();
            if seen > expected && seen <= theirs.count {
                signs.push(count(seen, &theirs.what));
            }
        }
        if other.hat.is_some() && other.hat != own.hat && other.hat == facts.board.hat {
            signs.push(format!(
                "the HAT {}",
                facts.board.hat.as_deref().unwrap_or_default()
            ));
        }
        if !signs.is_empty() {
            doubts.push(format!(
                "the servos are those of {}, but {} may as well belong to {}: {}",
                fitting.profile.name,
                signs.join(" and "),
                greater.profile.name,
                greater.missing.join("; ")
            ));
        }
    }
    doubts
}

/// Whether the buses `small` are what is left of the buses `great`, and not all of them.
fn contains(great: &[Vec<u8>], small: &[Vec<u8>]) -> bool {
    let servos = |buses: &[Vec<u8>]| buses.iter().map(Vec::len).sum::<usize>();
    let Some((first, rest)) = small.split_first() else {
        return true;
    };
    servos(great) > servos(small)
        && (0..great.len()).any(|index| {
            let mut others = great.to_vec();
            let bus = others.remove(index);
            let holds = first.iter().all(|id| bus.contains(id));
            // The rest needs no surplus of its own.
            holds && (rest.is_empty() || contains_all(&others, rest))
        })
}

fn contains_all(great: &[Vec<u8>], small: &[Vec<u8>]) -> bool {
    let Some((first, rest)) = small.split_first() else {
        return true;
    };
    (0..great.len()).any(|index| {
        let mut others = great.to_vec();
        let bus = others.remove(index);
        first.iter().all(|id| bus.contains(id)) && contains_all(&others, rest)
    })
}

fn judge<'a>(
    profile: &'a Profile,
    recognise: &'a Recognise,
    facts: &Facts,
    buses: &[&Bus],
) -> Verdict<'a> {
    let mut verdict = Verdict {
        profile,
        recognise,
        matched: Vec::new(),
        missing: Vec::new(),
        differing: Vec::new(),
        nearness: 0,
        ports: Vec::new(),
    };
    verdict.buses(buses);
    verdict.board(&facts.board);
    verdict.expectations(facts);
    verdict
}

impl Verdict<'_> {
    /// Gives each of the profile's buses the port that it has most in common with, the best pair first.
    fn buses(&mut self, buses: &[&Bus]) {
        let wanted = &self.recognise.servo_buses;
        let mut ports: Vec<Option<&Bus>> = vec![None; wanted.len()];
        let mut left: Vec<&Bus> = buses.to_vec();
        loop {
            let pairs = ports.iter().enumerate().filter(|(_, port)| port.is_none());
            let pairs = pairs.flat_map(|(want, _)| (0..left.len()).map(move |have| (want, have)));
            let best = pairs
                .map(|(want, have)| (common(&wanted[want], left[have]), want, have))
                .filter(|((shared, _), _, _)| *shared > 0)
                // Of equals the first, so that the order is a given one.
                .max_by_key(|(fit, want, have)| (*fit, std::cmp::Reverse((*want, *have))));
            let Some(((shared, differing), want, have)) = best else {
                break;
            };
            ports[want] = Some(left.remove(have));
            self.nearness += shared + differing;
        }
        for (ids, port) in wanted.iter().zip(&ports) {
            match port {
                Some(bus) => self.bus(ids, bus),
                None => {
                    self.nearness -= i64::try_from(ids.len()).unwrap_or(i64::MAX);
                    let ids = list(ids.iter().copied());
                    self.missing
                        .push(format!("a bus with servos {ids} is missing"));
                }
            }
        }
        for bus in left {
            self.nearness -= i64::try_from(ids(bus).len()).unwrap_or(i64::MAX);
            self.missing
                .push(format!("the bus on {} is not expected", bus.port));
        }
        let ports = ports.iter().flatten();
        self.ports = ports.map(|bus| bus.port.clone()).collect();
    }

    fn bus(&mut self, wanted: &[u8], bus: &Bus) {
        let BusState::Answered { servos, .. } = &bus.state else {
            return;
        };
        let there = ids(bus);
        let wanted: BTreeSet<u8> = wanted.iter().copied().collect();
        let absent = list(wanted.difference(&there).copied());
        let surplus = list(there.difference(&wanted).copied());
        let before = self.missing.len();
        if !absent.is_empty() {
            self.missing
                .push(format!("servos {absent} on {} do not answer", bus.port));
        }
        if !surplus.is_empty() {
            self.missing
                .push(format!("servos {surplus} on {} are not expected", bus.port));
        }
        let model = self.recognise.servo_model;
        let others: Vec<&Servo> = servos
            .iter()
            .filter(|servo| wanted.contains(&servo.id) && servo.model != Some(model))
            .collect();
        for servo in others {
            let got = servo
                .model
                .map_or("none".to_owned(), |model| model.to_string());
            let (id, port) = (servo.id, &bus.port);
            self.missing.push(format!(
                "servo {id} on {port}: expected model {model}, got {got}"
            ));
        }
        if self.missing.len() == before {
            let ids = list(wanted.iter().copied());
            self.matched.push(format!("servos {ids} on {}", bus.port));
        }
    }

    fn board(&mut self, board: &Board) {
        let wanted = &self.recognise.boards;
        if wanted.contains(&board.kind) {
            self.matched.push(format!("board {}", board.kind));
        } else if !wanted.is_empty() {
            self.missing.push(format!(
                "board: expected {}, got {}",
                wanted.join(" or "),
                or_none(&board.kind)
            ));
        }
    }

    fn expectations(&mut self, facts: &Facts) {
        let recognise = self.recognise;
        let mut compare = |what: &str, expected: String, got: String| {
            if expected == got {
                self.matched.push(format!("{what}: {got}"));
            } else {
                self.differing
                    .push(format!("{what}: expected {expected}, got {got}"));
            }
        };
        if let Some(memory) = recognise.memory_gb {
            compare(
                "memory",
                format!("{memory} GB"),
                format!("{} GB", facts.board.memory_gb),
            );
        }
        if let Some(hat) = &recognise.hat {
            let got = or_none(facts.board.hat.as_deref().unwrap_or_default());
            compare("HAT", hat.clone(), got.to_owned());
        }
        if let Some(cameras) = recognise.cameras.uvc {
            compare(
                "cameras",
                cameras.to_string(),
                recognise.uvc_of(facts).to_string(),
            );
        }
        for usb in &recognise.usb {
            compare(
                &usb.what,
                usb.count.to_string(),
                found(usb, facts).to_string(),
            );
        }
    }
}

/// Counting that needs a profile's own view of the USB devices.
trait Counts {
    /// Cameras that are none of the profile's other USB devices.
    fn uvc_of(&self, facts: &Facts) -> usize;
}

impl Counts for Recognise {
    fn uvc_of(&self, facts: &Facts) -> usize {
        let other = |camera: &&UsbDevice| !self.usb.iter().any(|usb| is(usb, camera));
        facts.cameras.iter().filter(other).count()
    }
}

fn is(expected: &UsbDevices, device: &UsbDevice) -> bool {
    expected.vendor == device.vendor
        && expected
            .product
            .as_ref()
            .is_none_or(|product| *product == device.product)
}

fn same(a: &UsbDevices, b: &UsbDevices) -> bool {
    a.vendor == b.vendor && a.product == b.product
}

fn found(expected: &UsbDevices, facts: &Facts) -> u32 {
    let count = facts
        .usb
        .iter()
        .filter(|device| is(expected, device))
        .count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn ids(bus: &Bus) -> BTreeSet<u8> {
    match &bus.state {
        BusState::Answered { servos, .. } => servos.iter().map(|servo| servo.id).collect(),
        _ => BTreeSet::new(),
    }
}

/// How many servos a bus shares with `wanted`, and less how many it differs.
fn common(wanted: &[u8], bus: &Bus) -> (i64, i64) {
    let (wanted, there): (BTreeSet<u8>, _) = (wanted.iter().copied().collect(), ids(bus));
    let size = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    (
        size(wanted.intersection(&there).count()),
        -size(wanted.symmetric_difference(&there).count()),
    )
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn count(number: u32, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// `1-6, 9, 10`: runs of three and more as ranges.
fn list(ids: impl Iterator<Item = u8>) -> String {
    let ids: Vec<u8> = ids.collect::<BTreeSet<u8>>().into_iter().collect();
    let runs = ids.chunk_by(|a, b| a.wrapping_add(1) == *b);
    let texts = runs.flat_map(|run| match run {
        [first, _, .., last] => vec![format!("{first}-{last}")],
        run => run.iter().map(u8::to_string).collect(),
    });
    texts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
