//! Gamepads and keyboards at the robot: how often something moves, never what. Where the user may read the
//! devices (group `input`); elsewhere only whether some program uses them. Nothing here blocks.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::O_NONBLOCK;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use serde::Serialize;

use super::below;

const FOLDER: &str = "/dev/input";
/// Most devices that are read.
const MOST: usize = 16;
/// Most reads of one device at a look: what comes faster is more than enough.
const MOST_READS: usize = 16;
/// Most changes of the folder that are taken at a look.
const MOST_CHANGES: usize = 256;
/// `struct input_event`: a time of two words, then type, code and value.
const TIME: usize = 2 * size_of::<usize>();
const EVENT: usize = TIME + 8;
const EV_KEY: u16 = 1;
const EV_ABS: u16 = 3;
/// A device that only says how it is held, as gamepads have one: it never rests.
const INPUT_PROP_ACCELEROMETER: u64 = 1 << 6;

/// What is known of the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InputState {
    /// How many there are.
    pub devices: usize,
    /// How many of them may be read.
    pub readable: usize,
    /// Some program has opened one since the agent looks.
    pub in_use: bool,
}

#[derive(Debug)]
pub(super) struct Input {
    root: PathBuf,
    watch: Option<std::os::fd::OwnedFd>,
    devices: usize,
    readable: Vec<(PathBuf, File)>,
    /// Opened less closed by others, as far as it was seen.
    opened: i64,
    /// Devices came or went while it was looked for them.
    is_stale: bool,
}

impl Input {
    /// Devices below `root`; there may be none yet.
    pub(super) fn new(root: &Path) -> Self {
        let mut input = Self {
            root: root.to_owned(),
            watch: None,
            devices: 0,
            readable: Vec::new(),
            opened: 0,
            is_stale: false,
        };
        input.begin();
        input
    }

    pub(super) fn state(&self) -> InputState {
        InputState {
            devices: self.devices,
            readable: self.readable.len(),
            in_use: self.opened > 0,
        }
    }

    /// Keys and sticks that moved since the last call.
    pub(super) fn moves(&mut self) -> u32 {
        if self.watch.is_none() {
            self.begin();
        } else if self.changes() | std::mem::take(&mut self.is_stale) {
            self.find();
        }
        let mut moves: u32 = 0;
        self.readable.retain_mut(|(_, device)| match read(device) {
            Some(moved) => {
                moves = moves.saturating_add(moved);
                true
            }
            None => false,
        });
        moves
    }

    fn begin(&mut self) {
        let folder = below(&self.root, FOLDER);
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::OPEN
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::CLOSE_NOWRITE;
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .and_then(|watch| inotify::add_watch(&watch, &folder, flags).map(|_| watch));
        // Without the folder there is no device; it comes with the first one.
        if let Ok(watch) = watch {
            self.watch = Some(watch);
            self.find();
        }
    }

    fn find(&mut self) {
        self.open();
        self.settle();
    }

    /// Opens what is new. A device that is open stays so: its events would be lost in between.
    fn open(&mut self) {
        let folder = below(&self.root, FOLDER);
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("event")).collect();
        names.sort();
        names.truncate(MOST);
        self.readable
            .retain(|(path, _)| names.iter().any(|name| folder.join(name) == *path));
        self.devices = 0;
        for name in &names {
            if is_accelerometer(&self.root, name) {
                continue;
            }
            self.devices += 1;
            let path = folder.join(name);
            if self.readable.iter().all(|(open, _)| *open != path) {
                let mut options = OpenOptions::new();
                let device = options.read(true).custom_flags(O_NONBLOCK).open(&path);
                self.readable.extend(device.ok().map(|file| (path, file)));
            }
        }
    }

    /// Takes what the folder tells about the opening of devices: that it was us is not to be counted. What came or
    /// went meanwhile is for the next look.
    fn settle(&mut self) {
        let opened = self.opened;
        self.is_stale = self.changes();
        self.opened = opened;
    }

    /// Whether devices came, went, or may be read by others than before.
    fn changes(&mut self) -> bool {
        let Some(watch) = &self.watch else {
            return false;
        };
        let mut space = [const { std::mem::MaybeUninit::uninit() }; 1024];
        let mut events = inotify::Reader::new(watch, &mut space);
        let (mut changed, mut opened) = (false, 0);
        let (mut is_lost, mut is_gone) = (false, false);
        for _ in 0..MOST_CHANGES {
            match events.next() {
                Ok(event) => {
                    let what = event.events();
                    let device = event.file_name().map(|name| name.to_bytes().to_vec());
                    if !device.is_some_and(|name| name.starts_with(b"event")) {
                        // What is said of the queue, or of the folder itself, has no name.
                        is_lost |= what.contains(ReadFlags::QUEUE_OVERFLOW);
                        is_gone |= what.contains(ReadFlags::IGNORED);
                        continue;
                    }
                    changed |=
                        what.intersects(ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::ATTRIB);
                    opened += i64::from(what.contains(ReadFlags::OPEN));
                    let closed = ReadFlags::CLOSE_WRITE | ReadFlags::CLOSE_NOWRITE;
                    opened -= i64::from(what.intersects(closed));
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        // One that was open before is not known to be.
        self.opened = (self.opened + opened).max(0);
        if is_lost {
            // Who closed what is not known any more either.
            self.opened = 0;
        }
        if is_gone {
            self.watch = None;
        }
        changed || is_lost || is_gone
    }
}

/// What moved; `None` when the device is gone.
fn read(device: &mut File) -> Option<u32> {
    let mut buffer = [0; 64 * EVENT];
    let mut moves: u32 = 0;
    for _ in 0..MOST_READS {
        match device.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => moves = moves.saturating_add(count(&buffer[..length])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(moves)
}

/// Events of keys, buttons and axes.
fn count(events: &[u8]) -> u32 {
    let kinds = events.chunks_exact(EVENT).map(|event| {
        let kind = [event[TIME], event[TIME + 1]];
        u16::from_ne_bytes(kind)
    });
    let moves = kinds.filter(|kind| matches!(*kind, EV_KEY | EV_ABS));
    u32::try_from(moves.count()).unwrap_or(u32::MAX)
}

fn is_accelerometer(root: &Path, name: &str) -> bool {
    let path = below(root, &format!("/sys/class/input/{name}/device/properties"));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // Words of hex digits, the lowest last.
    let lowest = text.split_whitespace().next_back();
    let bits = lowest.and_then(|word| u64::from_str_radix(word, 16).ok());
    bits.unwrap_or_default() & INPUT_PROP_ACCELEROMETER != 0
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write;

    use nix::sys::stat::Mode;

    use super::*;

    fn event(kind: u16) -> Vec<u8> {
        let mut event = vec![0; EVENT];
        event[TIME..TIME + 2].copy_from_slice(&kind.to_ne_bytes());
        event
    }

    /// A device, as a pipe with a name.
    fn device(root: &Path, name: &str) -> PathBuf {
        let folder = root.join("dev/input");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        path
    }

    #[test]
    fn moves_of_devices_that_come_and_go_are_counted() {
        let root = tempfile::tempdir().unwrap();
        let mut input = Input::new(root.path());
        assert_eq!(input.moves(), 0);
        let gamepad = device(root.path(), "event3");
        device(root.path(), "mouse0");
        assert_eq!(input.moves(), 0);
        let state = |devices, readable, in_use| InputState {
            devices,
            readable,
            in_use,
        };
        assert_eq!(input.state(), state(1, 1, false));

        let mut program = OpenOptions::new().write(true).open(&gamepad).unwrap();
        // A stick, a button, the end of a report, and a light that somebody switched.
        for kind in [EV_ABS, EV_KEY, 0, 17] {
            program.write_all(&event(kind)).unwrap();
        }
        assert_eq!(input.moves(), 2);
        assert_eq!(input.moves(), 0);
        assert_eq!(input.state(), state(1, 1, true));
        drop(program);
        assert_eq!(input.moves(), 0);
        assert_eq!(input.state(), state(1, 1, false));

        let keyboard = device(root.path(), "event4");
        assert_eq!(input.moves(), 0);
        assert_eq!(input.state(), state(2, 2, false));
        std::fs::remove_file(keyboard).unwrap();
        assert_eq!(input.moves(), 0);
        assert_eq!(input.state(), state(1, 1, false));
    }

    #[test]
    fn a_device_that_comes_while_others_are_opened_is_found_at_the_next_look() {
        let root = tempfile::tempdir().unwrap();
        device(root.path(), "event3");
        let mut input = Input::new(root.path());
        input.moves();
        input.open();
        // Behind what was listed, and in front of what is read of the folder's changes.
        device(root.path(), "event4");
        input.settle();
        assert_eq!(input.state().devices, 1);
        input.moves();
        assert_eq!(input.state().devices, 2);
        assert!(!input.is_stale, "that is all of it");
    }

    #[test]
    fn a_watch_that_lost_changes_looks_again_and_believes_nothing_of_before() {
        let root = tempfile::tempdir().unwrap();
        let gamepad = device(root.path(), "event3");
        let mut input = Input::new(root.path());
        let program = OpenOptions::new().write(true).open(&gamepad).unwrap();
        input.moves();
        assert!(input.state().in_use);
        let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events");
        let most: usize = most.unwrap().trim().parse().unwrap();
        for _ in 0..=most / 2 {
            OpenOptions::new().write(true).open(&gamepad).unwrap();
        }
        // Nobody tells of these.
        drop(program);
        device(root.path(), "event4");
        for _ in 0..=most / MOST_CHANGES {
            input.moves();
        }
        assert_eq!(input.state().devices, 2);
        assert!(!input.state().in_use);
    }

    #[test]
    fn what_only_says_how_a_gamepad_is_held_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        device(root.path(), "event0");
        let properties = root.path().join("sys/class/input/event0/device");
        std::fs::create_dir_all(&properties).unwrap();
        std::fs::write(properties.join("properties"), "40\n").unwrap();
        assert_eq!(Input::new(root.path()).state().devices, 0);
        std::fs::write(properties.join("properties"), "0\n").unwrap();
        assert_eq!(Input::new(root.path()).state().devices, 1);
    }

    #[test]
    fn half_an_event_is_none() {
        assert_eq!(count(&event(EV_KEY)[..EVENT - 1]), 0);
        assert_eq!(count(&[event(EV_KEY), event(EV_ABS)].concat()), 2);
    }
}
