//! Asks a servo bus who is on it. Opens the serial port for itself alone, pings ids 1 to 12, reads the
//! model number of each that answers, and closes it. Blocking, and over within a second or so; no motor
//! moves.
//!
//! Whoever drives the robot comes first: a port that another program has open or locked, or on which
//! there is traffic, is left alone. Letting go of the motors comes before everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use lekiwi_agent_core::feetech::{self, Decoder, Frame};
use lekiwi_agent_core::hardware::{BusState, Servo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{ControlModes, OptionalActions, QueueSelector, SpecialCodeIndex};

use crate::clock;

const BAUD: u32 = 1_000_000;
/// Ids that robots use; the broadcast finds others.
const IDS: std::ops::RangeInclusive<u8> = 1..=12;
/// How often something is asked whose answer is not understood.
const ATTEMPTS: usize = 3;
/// Ids that a servo can have.
const SERVO_IDS: std::ops::RangeInclusive<u8> = 1..=253;

/// Between one saying of what everybody should do and the next.
const PAUSE: Duration = Duration::from_millis(2);

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// For traffic of others, before anything is said.
    pub listen: Duration,
    /// For an answer. A servo needs less than 1 ms, its USB adapter a few.
    pub answer: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            listen: Duration::from_millis(60),
            answer: Duration::from_millis(25),
        }
    }
}

/// Who is on the bus at `port`.
#[must_use]
pub fn ask(port: &Path, timing: Timing) -> BusState {
    if holder(port).is_some() {
        return BusState::Busy;
    }
    match Line::alone(port, timing).and_then(|mut line| line.survey()) {
        Ok(state) => state,
        Err(Errno::BUSY | Errno::WOULDBLOCK) => BusState::Busy,
        Err(error) => BusState::Failed {
            reason: reason(error),
        },
    }
}

/// Switches the torque of all motors on the bus at `port` off, and asks each of them whether it is. Returns
/// their ids.
///
/// # Errors
/// When a motor may have torque all the same: nobody answers, one says so, or another program has the port.
/// That program is talked into, since the motors come first; it may switch them on again.
pub fn let_go(port: &Path, timing: Timing) -> Result<Vec<u8>, String> {
    let at = port.display();
    let holder = holder(port);
    let released = open(port).and_then(|port| Line::new(port, timing)?.let_go());
    if let Some(holder) = holder.filter(|_| released != Err(Errno::NOTTY)) {
        return Err(format!(
            "expected no other program at {at}, got {holder}: its motors may have torque again"
        ));
    }
    let torque =
        released.map_err(|error| format!("expected the servo bus at {at}: {}", reason(error)))?;
    if torque.is_empty() {
        return Err(format!(
            "expected servos at {at}, none answered: they have no power, or turn unheard"
        ));
    }
    let with: Vec<String> = torque
        .iter()
        .filter(|(_, is_off)| !**is_off)
        .map(|(id, _)| id.to_string())
        .collect();
    if with.is_empty() {
        Ok(torque.into_keys().collect())
    } else {
        let with = with.join(", ");
        Err(format!(
            "expected every motor at {at} to have no torque, but it is not known of servos {with}"
        ))
    }
}

/// Why a bus could not be used.
fn reason(error: Errno) -> String {
    match error {
        Errno::NOTTY => "expected a serial port".to_owned(),
        error => std::io::Error::from(error).to_string(),
    }
}

/// The other process that has the port open, as far as this one may see.
fn holder(port: &Path) -> Option<String> {
    let port = fs::canonicalize(port).ok()?;
    let own = std::process::id().to_string();
    let mut processes = fs::read_dir("/proc").ok()?.flatten().filter(|process| {
        let name = process.file_name();
        let name = name.to_string_lossy();
        name.bytes().all(|b| b.is_ascii_digit()) && name != own
    });
    let has_it = |process: &fs::DirEntry| {
        let files = fs::read_dir(process.path().join("fd"));
        let mut files = files.into_iter().flatten().flatten();
        files.any(|file| fs::read_link(file.path()).is_ok_and(|target| target == port))
    };
    let process = processes.find(has_it)?;
    let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
    let id = process.file_name();
    Some(format!(
        "{} (process {})",
        name.trim(),
        id.to_string_lossy()
    ))
}

fn open(port: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(port, flags, Mode::empty())
}

/// What an exchange brought.
#[derive(Default)]
struct Heard {
    frames: Vec<Frame>,
    garbage: usize,
}

/// An open port.
struct Line {
    port: OwnedFd,
    timing: Timing,
    /// Whether what is said comes back: adapters with one wire do that.
    echoes: bool,
    found: BTreeMap<u8, Option<u16>>,
    garbled: BTreeSet<u8>,
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = rustix::termios::ioctl_tiocnxcl(&self.port);
    }
}

impl Line {
    /// A port that nobody has locked.
    fn alone(port: &Path, timing: Timing) -> Result<Self, Errno> {
        let port = open(port)?;
        rustix::fs::flock(&port, FlockOperation::NonBlockingLockExclusive)?;
        Self::new(port, timing)
    }

    fn new(port: OwnedFd, timing: Timing) -> Result<Self, Errno> {
        let mut settings = rustix::termios::tcgetattr(&port)?;
        rustix::termios::ioctl_tiocexcl(&port)?;
        settings.make_raw();
        settings.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
        settings.control_modes -= ControlModes::CRTSCTS | ControlModes::CSTOPB;
        settings.special_codes[SpecialCodeIndex::VMIN] = 0;
        settings.special_codes[SpecialCodeIndex::VTIME] = 0;
        settings.set_speed(BAUD)?;
        rustix::termios::tcsetattr(&port, OptionalActions::Now, &settings)?;
        rustix::termios::tcflush(&port, QueueSelector::IOFlush)?;
        Ok(Self {
            port,
            timing,
            echoes: false,
            found: BTreeMap::new(),
            garbled: BTreeSet::new(),
        })
    }

    fn survey(&mut self) -> Result<BusState, Errno> {
        let overheard = self.hear(self.timing.listen)?;
        if !overheard.frames.is_empty() {
            return Ok(BusState::Busy);
        }
        for id in IDS {
            self.look_for(id)?;
        }
        let mut noise = self.garbled.len() == IDS.count();
        if self.found.is_empty() && self.garbled.is_empty() {
            // Ids above 12, or something at another speed.
            let all = feetech::ping(feetech::BROADCAST);
            noise = self.exchange(&all, |_, _| false)?.garbage > 0;
        } else {
            // The last answer may be late.
            let late = self.hear(self.timing.answer)?;
            self.note(&late.frames, None);
        }
        for id in self.found.keys().copied().collect::<Vec<_>>() {
            self.read_model(id)?;
        }
        Ok(if self.found.is_empty() && noise {
            BusState::Noise
        } else if self.found.is_empty() && self.garbled.is_empty() {
            BusState::Silent
        } else {
            let found = std::mem::take(&mut self.found).into_iter();
            BusState::Answered {
                garbled: self.garbled.iter().copied().collect(),
                servos: found.map(|(id, model)| Servo { id, model }).collect(),
            }
        })
    }

    /// Of each servo whether it said that its torque is off.
    fn let_go(&mut self) -> Result<BTreeMap<u8, bool>, Errno> {
        // More than once: whatever was under way on the bus may have garbled the first.
        for _ in 0..ATTEMPTS {
            self.say(&feetech::torque_off(feetech::BROADCAST))?;
            self.hear(PAUSE)?;
        }
        for id in IDS {
            self.look_for(id)?;
        }
        let ids: BTreeSet<u8> = self.found.keys().chain(&self.garbled).copied().collect();
        let mut torque = BTreeMap::new();
        for id in ids {
            torque.insert(id, self.has_let_go(id)?);
        }
        Ok(torque)
    }

    /// Whether a servo says that its torque is off; while it does not, it is told again.
    fn has_let_go(&mut self, id: u8) -> Result<bool, Errno> {
        let of = |frame: &&Frame| frame.id == id && !feetech::is_request(frame);
        for _ in 0..ATTEMPTS {
            let question = feetech::read_torque(id);
            let said = |frames: &[Frame]| frames.iter().filter(of).find_map(Frame::torque);
            let heard = self.exchange(&question, |_, frames| said(frames).is_some())?;
            if said(&heard.frames) == Some(false) {
                return Ok(true);
            }
            let order = feetech::torque_off(id);
            self.exchange(&order, |_, frames| frames.iter().any(|frame| of(&frame)))?;
        }
        Ok(false)
    }

    fn look_for(&mut self, id: u8) -> Result<(), Errno> {
        let mut garbled = 0;
        for _ in 0..ATTEMPTS {
            let ping = feetech::ping(id);
            let heard = self.exchange(&ping, |line, frames| line.settles(id, frames))?;
            if self.found.contains_key(&id) {
                return Ok(());
            }
            let of = |frame: &Frame| frame.id == id;
            if !self.echoes && heard.frames.iter().any(of) {
                return self.tell_echo(id);
            }
            garbled += usize::from(heard.garbage > 0);
            if heard.garbage == 0 {
                break;
            }
        }
        if garbled == ATTEMPTS {
            self.garbled.insert(id);
        }
        Ok(())
    }

    /// A ping came back as it was: an echo, or a servo that reports a low voltage with the very same
    /// bytes. Another question tells.
    fn tell_echo(&mut self, id: u8) -> Result<(), Errno> {
        let question = feetech::read_model(id);
        let heard = self.exchange(&question, |line, _| line.found.contains_key(&id))?;
        if !self.found.contains_key(&id) {
            self.echoes = !heard.frames.is_empty();
            if !self.echoes {
                self.found.insert(id, None);
            }
        }
        Ok(())
    }

    fn read_model(&mut self, id: u8) -> Result<(), Errno> {
        for _ in 0..ATTEMPTS {
            if self.found.get(&id).is_some_and(Option::is_some) {
                break;
            }
            let question = feetech::read_model(id);
            self.exchange(&question, |line, _| {
                line.found.get(&id).is_some_and(Option::is_some)
            })?;
        }
        Ok(())
    }

    /// Whether `frames` settle a ping of `id`: a servo was found, or what came back may be one.
    fn settles(&self, id: u8, frames: &[Frame]) -> bool {
        self.found.contains_key(&id) || (!self.echoes && frames.iter().any(|frame| frame.id == id))
    }

    /// Says `request`, then hears until `enough` or the time is over. Servos that are heard are noted,
    /// also those that answer an earlier question late.
    fn exchange(
        &mut self,
        request: &[u8],
        enough: impl Fn(&Self, &[Frame]) -> bool,
    ) -> Result<Heard, Errno> {
        self.say(request)?;
        let mut asked = Decoder::default();
        asked.feed(request);
        let request = asked.next_frame();
        let deadline = clock::now() + self.timing.answer;
        let (mut decoder, mut heard) = (Decoder::default(), Heard::default());
        loop {
            while let Some(frame) = decoder.next_frame() {
                heard.frames.push(frame);
            }
            self.note(&heard.frames, request.as_ref());
            if enough(self, &heard.frames) || !self.receive(deadline, &mut decoder)? {
                heard.garbage = decoder.take_garbage();
                return Ok(heard);
            }
        }
    }

    /// Hears without having said anything.
    fn hear(&self, time: Duration) -> Result<Heard, Errno> {
        let deadline = clock::now() + time;
        let (mut decoder, mut heard) = (Decoder::default(), Heard::default());
        while self.receive(deadline, &mut decoder)? {
            while let Some(frame) = decoder.next_frame() {
                heard.frames.push(frame);
            }
        }
        Ok(heard)
    }

    /// Notes who speaks in `frames`. What may be an echo counts only as the answer that follows the echo
    /// of `request` on a line that is known to echo.
    fn note(&mut self, frames: &[Frame], request: Option<&Frame>) {
        let mut echoed = false;
        for frame in frames {
            let mut servo = SERVO_IDS.contains(&frame.id);
            if feetech::is_request(frame) {
                servo &= self.echoes && echoed && request == Some(frame);
                echoed |= request == Some(frame);
            }
            if servo {
                let model = self.found.entry(frame.id).or_default();
                *model = model.or(frame.model());
            }
        }
    }

    fn say(&self, mut bytes: &[u8]) -> Result<(), Errno> {
        let deadline = clock::now() + self.timing.answer;
        while !bytes.is_empty() {
            match rustix::io::write(&self.port, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => {
                    if !self.wait(PollFlags::OUT, deadline)? {
                        return Err(Errno::TIMEDOUT);
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Bytes into `decoder`; `false` when `deadline` passed without any.
    fn receive(&self, deadline: Instant, decoder: &mut Decoder) -> Result<bool, Errno> {
        let mut bytes = [0; 256];
        loop {
            match rustix::io::read(&self.port, &mut bytes) {
                // With nothing to read, a terminal may say nothing was read.
                Ok(0) | Err(Errno::AGAIN) => {
                    if !self.wait(PollFlags::IN, deadline)? {
                        return Ok(false);
                    }
                }
                Ok(count) => {
                    decoder.feed(&bytes[..count]);
                    return Ok(true);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            if clock::now() >= deadline {
                return Ok(false);
            }
        }
    }

    fn wait(&self, what: PollFlags, deadline: Instant) -> Result<bool, Errno> {
        let left = deadline.saturating_duration_since(clock::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        });
        let mut ports = [PollFd::new(&self.port, what)];
        match poll(&mut ports, Some(&left)) {
            Ok(0) => Ok(false),
            Err(Errno::INTR) => Ok(true),
            Ok(_) if ports[0].revents().contains(what) => Ok(true),
            // Unplugged.
            Ok(_) => Err(Errno::IO),
            Err(error) => Err(error),
        }
    }
}
