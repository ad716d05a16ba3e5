//! A servo bus on a pseudo-terminal: answers pings and reads as the given servos would, with the faults
//! that real buses have. Knows the protocol by itself, so that it cannot share a mistake with the agent.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// How a bus behaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Behaviour {
    /// Ids that answer.
    pub(crate) ids: Vec<u8>,
    /// Ids that several servos have: their answers overlap.
    pub(crate) shared: Vec<u8>,
    /// Model number, 777 if 0.
    pub(crate) model: u16,
    /// What is said comes back first.
    pub(crate) echo: bool,
    /// Bytes before each answer.
    pub(crate) noise: Vec<u8>,
    /// Time before each answer.
    pub(crate) delay: Duration,
    /// Each first answer has a wrong checksum.
    pub(crate) first_is_wrong: bool,
    /// Answers end after so many bytes.
    pub(crate) cut: Option<usize>,
    /// Error bits in answers to pings.
    pub(crate) error: u8,
    /// Somebody else talks all the time.
    pub(crate) chatter: bool,
    /// Servos that do not hear what is said to all of them.
    pub(crate) deaf: Vec<u8>,
    /// Servos that keep their torque.
    pub(crate) stuck: Vec<u8>,
}

/// A running simulation; ends when dropped.
pub(crate) struct Bus {
    pub(crate) path: PathBuf,
    stop: Arc<AtomicBool>,
    /// Instructions that came; ping, read and write are 1, 2 and 3.
    pub(crate) instructions: Arc<Mutex<Vec<u8>>>,
    /// Servos whose motor has torque: at first all.
    pub(crate) torque: Arc<Mutex<BTreeSet<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Bus {
    pub(crate) fn of(ids: &[u8]) -> Self {
        Self::start(Behaviour {
            ids: ids.to_vec(),
            ..Behaviour::default()
        })
    }

    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = PathBuf::from(ptsname(&master, Vec::new()).unwrap().into_string().unwrap());
        let mut settings = tcgetattr(&master).unwrap();
        settings.make_raw();
        tcsetattr(&master, OptionalActions::Now, &settings).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let instructions = Arc::<Mutex<Vec<u8>>>::default();
        let torque = Arc::new(Mutex::new(behaviour.ids.iter().copied().collect()));
        let (stopped, log, motors) = (stop.clone(), instructions.clone(), torque.clone());
        let thread =
            std::thread::spawn(move || serve(&master, &behaviour, &stopped, &log, &motors));
        Self {
            path,
            stop,
            instructions,
            torque,
            thread: Some(thread),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    master: &OwnedFd,
    behaviour: &Behaviour,
    stop: &AtomicBool,
    log: &Mutex<Vec<u8>>,
    motors: &Mutex<BTreeSet<u8>>,
) {
    let mut bytes = Vec::new();
    let mut wronged = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let patience = Timespec {
            tv_sec: 0,
            tv_nsec: 5_000_000,
        };
        let mut files = [PollFd::new(master, PollFlags::IN)];
        let ready = poll(&mut files, Some(&patience)).unwrap_or(0) > 0;
        let closed = files[0].revents().contains(PollFlags::HUP);
        if behaviour.chatter && !closed {
            let _ = rustix::io::write(master, &answer(3, 0, &[9, 3]));
        }
        if !ready {
            continue;
        }
        let mut chunk = [0; 256];
        match rustix::io::read(master, &mut chunk) {
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(_) => {
                // Nobody has the port open.
                bytes.clear();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        while let Some((request, id, instruction)) = next_request(&mut bytes) {
            log.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(instruction);
            let mut out = Vec::new();
            if behaviour.echo {
                out.extend_from_slice(&request);
            }
            let parameters = &request[5..request.len() - 1];
            for servo in behaviour.ids.iter().chain(&behaviour.shared) {
                if id == *servo || (id == 0xFE && !behaviour.deaf.contains(servo)) {
                    let mut motors = motors.lock().unwrap_or_else(PoisonError::into_inner);
                    if instruction == 3 {
                        assert_eq!(parameters, [40, 0], "nothing else may be written");
                        if !behaviour.stuck.contains(servo) {
                            motors.remove(servo);
                        }
                        // What is for all nobody answers.
                        if id == 0xFE {
                            continue;
                        }
                    }
                    let mut frame = match (instruction, parameters) {
                        (2, [40, 1]) => {
                            let torque = u8::from(motors.contains(servo));
                            answer(*servo, behaviour.error, &[torque])
                        }
                        _ => reply(behaviour, *servo, instruction),
                    };
                    if behaviour.first_is_wrong && wronged.insert((*servo, instruction)) {
                        *frame.last_mut().unwrap() ^= 0x55;
                    }
                    if behaviour.shared.contains(servo) {
                        // Two that begin a moment apart.
                        frame = [&frame[..3], &frame[1..]].concat();
                    }
                    frame.truncate(behaviour.cut.unwrap_or(usize::MAX));
                    out.extend_from_slice(&behaviour.noise);
                    out.extend_from_slice(&frame);
                }
            }
            if !out.is_empty() {
                std::thread::sleep(behaviour.delay);
                let _ = rustix::io::write(master, &out);
            }
        }
    }
}

fn reply(behaviour: &Behaviour, id: u8, instruction: u8) -> Vec<u8> {
    let model = if behaviour.model == 0 {
        777
    } else {
        behaviour.model
    };
    match instruction {
        1 | 3 => answer(id, behaviour.error, &[]),
        _ => answer(id, behaviour.error, &model.to_le_bytes()),
    }
}

fn answer(id: u8, error: u8, parameters: &[u8]) -> Vec<u8> {
    let length = u8::try_from(parameters.len()).unwrap() + 2;
    let mut sum = u32::from(id) + u32::from(length) + u32::from(error);
    sum += parameters.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let mut frame = vec![0xFF, 0xFF, id, length, error];
    frame.extend_from_slice(parameters);
    frame.push(!u8::try_from(sum & 0xFF).unwrap());
    frame
}

/// The next whole request: its bytes, whom it is for, and the instruction.
fn next_request(bytes: &mut Vec<u8>) -> Option<(Vec<u8>, u8, u8)> {
    let start = bytes.windows(2).position(|pair| pair == [0xFF, 0xFF])?;
    bytes.drain(..start);
    let length = usize::from(*bytes.get(3)?) + 4;
    if bytes.len() < length {
        return None;
    }
    let request: Vec<u8> = bytes.drain(..length).collect();
    let (id, instruction) = (request[2], request[4]);
    assert_eq!(
        request,
        answer(id, instruction, &request[5..length - 1]),
        "the agent's checksum"
    );
    Some((request, id, instruction))
}
