//! What robot this is: probes its hardware, holds it against the profiles, and remembers the answer.
//! Called before the enrolment, and by `lekiwi-agent hardware`. Reads `/proc`, `/sys` and serial ports;
//! blocks for about a second a servo bus.
//!
//! An answer is remembered in the state folder together with the board's serial number. While it holds,
//! servo buses are not asked again: they belong to the program that drives the robot, and their power may
//! be off. On another board (a card that moved) it does not count.

mod board;
pub mod servo;
mod usb;

use std::fs;
use std::path::{Path, PathBuf};

use lekiwi_agent_core::hardware::{self as matcher, Bus, Facts, Outcome};
use lekiwi_protocol::ProfileName;
use lekiwi_protocol::message::{Identification, Identified, UNKNOWN_PROFILE};
use lekiwi_protocol::profile::Profile;
use serde::{Deserialize, Serialize};

use crate::config::{Config, ProfileChoice};
use crate::driver::chain;
use crate::profiles;
use crate::storage::write_atomically;

/// In the state folder: what was found.
const REMEMBERED: &str = "identification.json";
/// In the state folder: the ports of the servo buses, in the profile's order, for units of the profile.
const SERVO_BUSES: &str = "servo-buses.env";

/// What was found, and where.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    /// The board's serial number.
    board: String,
    identification: Identification,
}

/// What a look at the hardware says.
#[derive(Debug, Serialize)]
pub struct Detection {
    /// What was found.
    pub facts: Facts,
    /// What it means.
    pub identification: Identification,
    /// The ports of the servo buses in the profile's order; empty when unknown.
    #[serde(skip)]
    ports: Vec<String>,
}

/// What this robot is: as configured, as remembered, or as its hardware says now.
#[must_use]
pub fn identify(config: &Config) -> Identification {
    if let ProfileChoice::Named(name) = &config.profile {
        return Identification {
            profile: name.to_string(),
            how: Identified::Configured,
            matched: Vec::new(),
            differing: Vec::new(),
            runner_up: None,
        };
    }
    if let Some(identification) = remembered(config) {
        return identification;
    }
    let detection = detect(config);
    remember(config, &detection);
    detection.identification
}

/// Looks at the hardware, whatever is configured or remembered.
#[must_use]
pub fn detect(config: &Config) -> Detection {
    let facts = facts(config);
    let (profiles, complaints) = profiles::all(&config.profiles_dir, Path::new("/"));
    for complaint in &complaints {
        log::warn!("{complaint}");
    }
    let (identification, ports) = match matcher::identify(&facts, &profiles) {
        Outcome::Matched(matched) => {
            let identification = Identification {
                profile: matched.profile.to_string(),
                how: Identified::Detected,
                matched: matched.matched,
                differing: matched.differing,
                runner_up: matched.runner_up,
            };
            (identification, matched.ports)
        }
        Outcome::Unknown {
            matched,
            reasons,
            runner_up,
        } => {
            let identification = Identification {
                profile: UNKNOWN_PROFILE.to_owned(),
                how: Identified::Detected,
                matched,
                differing: reasons.into_iter().chain(complaints).collect(),
                runner_up,
            };
            (identification, Vec::new())
        }
    };
    Detection {
        facts,
        identification,
        ports,
    }
}

/// Keeps what was detected, unless nothing was.
pub fn remember(config: &Config, detection: &Detection) {
    if detection.identification.profile == UNKNOWN_PROFILE {
        return;
    }
    let remembered = Remembered {
        board: detection.facts.board.serial.clone(),
        identification: detection.identification.clone(),
    };
    let mut json = serde_json::to_vec_pretty(&remembered).unwrap_or_default();
    json.push(b'\n');
    let root = &config.hardware.root;
    let lines = detection.ports.iter().enumerate().map(|(index, port)| {
        let port = lasting_name(root, Path::new(port));
        format!("SERVO_BUS_{}={}\n", index + 1, port.display())
    });
    let environment: String = lines.collect();
    for (name, content) in [
        (SERVO_BUSES, environment.as_bytes()),
        (REMEMBERED, json.as_slice()),
    ] {
        let path = config.state_dir.join(name);
        if let Err(error) = write_atomically(&path, content, 0o644) {
            log::warn!(
                "what the hardware is cannot be kept in {}: {error}",
                path.display()
            );
        }
    }
}

/// What was detected earlier on this board, if anything and if its profile still exists.
#[must_use]
pub fn remembered(config: &Config) -> Option<Identification> {
    let path = config.state_dir.join(REMEMBERED);
    let text = fs::read_to_string(&path).ok()?;
    let remembered: Remembered = serde_json::from_str(&text)
        .inspect_err(|error| log::warn!("{} is of no use: {error}", path.display()))
        .ok()?;
    let board = board::read(&config.hardware.root).serial;
    let profile = &remembered.identification.profile;
    if remembered.board != board {
        log::info!(
            "{profile} was found on the board {:?}, this one is {board:?}: looking again",
            remembered.board
        );
        return None;
    }
    if !profiles::exists(&config.profiles_dir, Path::new("/"), profile) {
        log::warn!("the profile {profile} is gone: looking again");
        return None;
    }
    Some(Identification {
        how: Identified::Remembered,
        ..remembered.identification
    })
}

/// What the hardware is, without a judgement.
#[must_use]
pub fn facts(config: &Config) -> Facts {
    let root = &config.hardware.root;
    let configured = config.hardware.servo_ports.clone();
    let ports = configured.unwrap_or_else(|| usb::servo_ports(root));
    let bus = |port: &PathBuf| Bus {
        port: port.display().to_string(),
        state: servo::ask(port, servo::Timing::default()),
    };
    Facts {
        board: board::read(root),
        usb: usb::devices(root),
        cameras: usb::cameras(root),
        buses: ports.iter().map(bus).collect(),
    }
}

/// The profile that the robot was found to have, if there is such a file and it is right.
#[must_use]
pub fn profile(config: &Config, identification: &Identification) -> Option<Profile> {
    let name = ProfileName::new(&identification.profile).ok()?;
    if !profiles::exists(&config.profiles_dir, Path::new("/"), name.as_str()) {
        return None;
    }
    profiles::load(&config.profiles_dir, Path::new("/"), &name)
        .inspect_err(|error| log::warn!("a profile is of no use: {}", chain(error)))
        .ok()
}

/// The name that udev gives to the device of `port`, which stays when ports are numbered otherwise: by
/// serial number, or else by socket. `port` itself where there is none.
fn lasting_name(root: &Path, port: &Path) -> PathBuf {
    let device = fs::canonicalize(port).ok();
    let link = ["by-id", "by-path"].iter().find_map(|folder| {
        let links = fs::read_dir(root.join("dev/serial").join(folder)).ok()?;
        let mut links: Vec<PathBuf> = links.flatten().map(|entry| entry.path()).collect();
        links.sort();
        links
            .into_iter()
            .find(|link| fs::canonicalize(link).ok() == device)
    });
    link.filter(|_| device.is_some())
        .unwrap_or_else(|| port.to_owned())
}
