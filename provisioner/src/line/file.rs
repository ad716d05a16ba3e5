//! The file that describes a line: `lekiwi-provisioner serve --line FILE.yml`. Read, checked, then used as it is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lekiwi_protocol::pinned::Fingerprint;
use lekiwi_protocol::{Org, RobotId};
use serde::Deserialize;

use super::board::{Mac, Serial};
use super::roster::{Defaults, Planned};
use super::unit::Limits;
use crate::order::Os;
use crate::relay::Credential;

const MAX_UNITS: usize = 10_000;

/// A line, as its file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    version: u32,
    /// What people call it.
    pub name: String,
    /// Where boards find it.
    pub network: Network,
    /// The operators' page; this machine only, unless said otherwise.
    #[serde(default = "operator")]
    pub operator: SocketAddr,
    /// Where units register.
    pub relay: Relay,
    /// Where everything is recorded.
    pub database: PathBuf,
    /// The folder of the boards' boot files; without it nothing is served by TFTP and DHCP.
    #[serde(default)]
    pub boot_files: Option<PathBuf>,
    /// The folder of images.
    #[serde(default)]
    pub images: Option<PathBuf>,
    /// What units get that do not say otherwise.
    #[serde(default)]
    pub defaults: DefaultsFile,
    /// What happens to boards that the list does not name.
    #[serde(default)]
    pub unexpected: Unexpected,
    /// How long each part may take.
    #[serde(default)]
    pub minutes: Minutes,
    /// The units.
    #[serde(default)]
    pub units: Vec<UnitFile>,
}

/// The boards' side.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// This machine's address on the boards' network.
    pub address: Ipv4Addr,
    /// The interface that proxy-DHCP answers on; without it nobody is told where to boot from.
    #[serde(default)]
    pub interface: Option<String>,
    /// TCP port of seeds, images and reports.
    #[serde(default = "port")]
    pub http_port: u16,
    /// UDP port of TFTP. Firmware knows no other than 69.
    #[serde(default = "tftp_port")]
    pub tftp_port: u16,
}

/// The relay, and who asks it for tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// `https://host:port`.
    pub https: String,
    /// `mqtts://host:port`.
    pub mqtt: String,
    /// Its authority.
    pub ca_fingerprint: Fingerprint,
    /// The file with an API key that may enrol and read.
    pub api_key_file: Option<PathBuf>,
    /// Who logs in there, without one.
    #[serde(default = "admin")]
    pub user: String,
    /// The file with their password.
    pub password_file: Option<PathBuf>,
}

impl Relay {
    /// Who asks.
    ///
    /// # Errors
    /// When it is not clear by what.
    pub fn credential(&self) -> Result<Credential, FileError> {
        match (&self.api_key_file, &self.password_file) {
            (Some(file), None) => Ok(Credential::Key(file.clone())),
            (None, Some(file)) => Ok(Credential::Password {
                user: self.user.clone(),
                file: file.clone(),
            }),
            (Some(_), Some(_)) => Err(FileError::Credential("both")),
            (None, None) => Err(FileError::Credential("neither")),
        }
    }
}

/// What every unit gets.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DefaultsFile {
    /// Hardware profile.
    pub profile: String,
    /// Image file.
    pub image: Option<String>,
    /// Robots are called by it and the last 8 digits of their serial number.
    pub prefix: String,
    /// Organisation.
    pub org: Org,
    /// Files with public keys that may log in over SSH.
    pub ssh_keys: Vec<PathBuf>,
    /// The system on the images: one whose seeds need no edit of the kernel's command line.
    pub os: String,
    /// Package of the agent, for images without it; goes onto the boot partition.
    pub agent_deb: Option<PathBuf>,
}

impl Default for DefaultsFile {
    fn default() -> Self {
        Self {
            profile: "generic".into(),
            image: None,
            prefix: "robot".into(),
            org: Org::default(),
            ssh_keys: Vec::new(),
            os: Os::Debian.as_str().into(),
            agent_deb: None,
        }
    }
}

/// What happens to boards that the list does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unexpected {
    /// They are shown, and get nothing.
    #[default]
    Refuse,
    /// They get what the defaults say.
    Allow,
}

/// Limits in minutes.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Minutes {
    /// From the first sign of life to image or seed.
    pub booting: u32,
    /// From there to the relay.
    pub installing: u32,
    /// From there to healthy.
    pub enrolled: u32,
}

impl Default for Minutes {
    fn default() -> Self {
        Self {
            booting: 10,
            installing: 45,
            enrolled: 60,
        }
    }
}

/// One unit: a serial number, an address, or both.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitFile {
    /// Its board's serial number.
    #[serde(default)]
    pub serial: Option<Serial>,
    /// Its board's Ethernet address.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Who it becomes.
    #[serde(default)]
    pub robot_id: Option<RobotId>,
    /// Hardware profile.
    #[serde(default)]
    pub profile: Option<String>,
    /// Image file.
    #[serde(default)]
    pub image: Option<String>,
}

fn operator() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8090))
}

fn port() -> u16 {
    8080
}

fn tftp_port() -> u16 {
    69
}

fn admin() -> String {
    "admin".into()
}

/// Why a file describes no line.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// It is not what it should be.
    #[error("{0} describes no line: {1}")]
    Malformed(PathBuf, String),
    /// Another version.
    #[error("expected version 1 of a line's file, got {0}")]
    Version(u32),
    /// A value that makes no sense.
    #[error("expected {field} to be {expected}, got {actual:?}")]
    Value {
        /// Which.
        field: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        actual: String,
    },
    /// A unit without anything to know it by.
    #[error("expected a serial number or an address (mac) for unit {0} of the list")]
    Nameless(usize),
    /// The same thing twice.
    #[error("expected each {what} once, got {value} twice")]
    Twice {
        /// Of what.
        what: &'static str,
        /// Which.
        value: String,
    },
    /// It is not clear who asks the relay.
    #[error("expected relay to have either api_key_file or password_file, got {0}")]
    Credential(&'static str),
    /// Too many units.
    #[error("expected at most {MAX_UNITS} units, got {0}")]
    Many(usize),
}

impl FileError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Twice {
                what: "serial number",
                ..
            } => Some("boards show only the last 8 digits when they boot"),
            Self::Malformed(..) => Some("docs/line.md has an example"),
            _ => None,
        }
    }
}

impl Line {
    /// Reads and checks a file. Paths in it are relative to it.
    ///
    /// # Errors
    /// When it describes no line.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text =
            fs::read_to_string(path).map_err(|error| FileError::Read(path.to_owned(), error))?;
        let mut line = Self::parse(&text).map_err(|error| match error {
            FileError::Malformed(_, what) => FileError::Malformed(path.to_owned(), what),
            other => other,
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for path in [&mut line.database]
            .into_iter()
            .chain(&mut line.relay.api_key_file)
            .chain(&mut line.relay.password_file)
            .chain(&mut line.boot_files)
            .chain(&mut line.images)
            .chain(&mut line.defaults.ssh_keys)
            .chain(&mut line.defaults.agent_deb)
        {
            *path = folder.join(&*path);
        }
        Ok(line)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let line: Self = serde_saphyr::from_str(text)
            .map_err(|error| FileError::Malformed(PathBuf::from("the text"), error.to_string()))?;
        if line.version != 1 {
            return Err(FileError::Version(line.version));
        }
        line.check()?;
        line.relay.credential()?;
        Ok(line)
    }

    /// The system on the images, where it is one of those that are known.
    #[must_use]
    pub fn os(&self) -> Option<Os> {
        self.defaults.os.parse().ok()
    }

    fn check(&self) -> Result<(), FileError> {
        let value = |field: String, expected, actual: &str| {
            Err(FileError::Value {
                field,
                expected,
                actual: actual.chars().take(80).collect(),
            })
        };
        if self.units.len() > MAX_UNITS {
            return Err(FileError::Many(self.units.len()));
        }
        let label = |text: &str| {
            let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            text.bytes().all(letter)
        };
        // A robot's id takes the prefix, a hyphen and 8 digits.
        let prefix = &self.defaults.prefix;
        if prefix.len() > 40 || RobotId::new(&format!("{prefix}-00000000")).is_err() {
            let expected = "a start of host names with a-z, 0-9 and '-'";
            return value("defaults.prefix".into(), expected, prefix);
        }
        if !matches!(self.os(), Some(Os::Debian | Os::Ubuntu2404)) {
            let expected = "debian or ubuntu-24.04, whose seeds leave the command line alone";
            return value("defaults.os".into(), expected, &self.defaults.os);
        }
        if let Some(interface) = &self.network.interface
            && (interface.is_empty() || interface.len() > 15 || interface.contains(['/', ' ']))
        {
            return value("network.interface".into(), "an interface's name", interface);
        }
        let (mut lows, mut macs, mut robots) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let twice = |what, value: String| Err(FileError::Twice { what, value });
        for (index, unit) in self.units.iter().enumerate() {
            if unit.serial.is_none() && unit.mac.is_none() {
                return Err(FileError::Nameless(index + 1));
            }
            if let Some(serial) = &unit.serial
                && !lows.insert(serial.low())
            {
                return twice("serial number", format!("…{:08x}", serial.low()));
            }
            if let Some(mac) = unit.mac
                && !macs.insert(mac)
            {
                return twice("address", mac.to_string());
            }
            if let Some(robot) = &unit.robot_id
                && !robots.insert(robot)
            {
                return twice("robot", robot.to_string());
            }
        }
        let profiles = self.units.iter().filter_map(|unit| unit.profile.as_ref());
        for profile in profiles.chain([&self.defaults.profile]) {
            if profile.is_empty() || !label(profile) {
                return value("profile".into(), "a name of a-z, 0-9 and '-'", profile);
            }
        }
        let images = self.units.iter().filter_map(|unit| unit.image.as_ref());
        for image in images.chain(&self.defaults.image) {
            if image.is_empty() || image.starts_with('.') || image.contains('/') {
                let expected = "the name of a file in the folder of images";
                return value("image".into(), expected, image);
            }
            if self.images.is_none() {
                return value("images".into(), "a folder, as units have images", "nothing");
            }
        }
        Ok(())
    }

    /// What units get that the list does not name.
    #[must_use]
    pub fn roster_defaults(&self) -> Defaults {
        Defaults {
            prefix: self.defaults.prefix.clone(),
            profile: self.defaults.profile.clone(),
            image: self.defaults.image.clone(),
        }
    }

    /// The list.
    #[must_use]
    pub fn planned(&self) -> Vec<Planned> {
        let planned = |unit: &UnitFile| Planned {
            serial: unit.serial.clone(),
            mac: unit.mac,
            robot_id: unit.robot_id.clone(),
            profile: unit
                .profile
                .clone()
                .unwrap_or_else(|| self.defaults.profile.clone()),
            image: unit.image.clone().or_else(|| self.defaults.image.clone()),
        };
        self.units.iter().map(planned).collect()
    }

    /// How long each part may take.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let minutes = |minutes: u32| Duration::from_secs(u64::from(minutes) * 60);
        Limits {
            booting: minutes(self.minutes.booting),
            installing: minutes(self.minutes.installing),
            enrolled: minutes(self.minutes.enrolled),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn text(more: &str) -> String {
        format!(
            "version: 1\nname: line a\nnetwork: {{address: 10.77.0.1, interface: eth1}}\nrelay:\n  https: https://relay.example:8443\n  mqtt: mqtts://relay.example:8883\n  ca_fingerprint: sha256:{}\n  password_file: password\ndatabase: line.sqlite\n{more}",
            "0f".repeat(32)
        )
    }

    #[test]
    fn a_whole_file() {
        let line = Line::parse(&text(
            "images: images\ndefaults: {profile: lekiwi, image: base.img.xz, prefix: kiwi}\nunits:\n  - {serial: 10000000abcdef01, robot_id: kiwi-01}\n  - {mac: 'dc:a6:32:01:36:c2', profile: xle, image: xle.img}\n",
        ))
        .unwrap();
        let planned = line.planned();
        assert_eq!(planned[0].profile, "lekiwi");
        assert_eq!(planned[0].image.as_deref(), Some("base.img.xz"));
        assert_eq!(planned[1].profile, "xle");
        assert_eq!(line.limits().booting, Duration::from_secs(600));
        assert_eq!(line.operator.to_string(), "127.0.0.1:8090");
        assert_eq!(line.unexpected, Unexpected::Refuse);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |more: &str| Line::parse(&text(more)).unwrap_err().to_string();
        for (more, message) in [
            (
                "units: [{robot_id: kiwi-01}]",
                "expected a serial number or an address (mac) for unit 1 of the list",
            ),
            (
                "units: [{serial: 10000000abcdef01}, {serial: 20000000abcdef01}]",
                "expected each serial number once, got …abcdef01 twice",
            ),
            (
                "units: [{serial: 0000000a, robot_id: a}, {serial: 0000000b, robot_id: a}]",
                "expected each robot once, got a twice",
            ),
            (
                "units: [{mac: 'dc:a6:32:01:36:c2'}, {mac: 'dc-a6-32-01-36-c2'}]",
                "expected each address once, got dc:a6:32:01:36:c2 twice",
            ),
            (
                "defaults: {os: raspios-bookworm}",
                "expected defaults.os to be debian or ubuntu-24.04, whose seeds leave the command line alone, got \"raspios-bookworm\"",
            ),
            (
                "defaults: {prefix: Kiwi_}",
                "expected defaults.prefix to be a start of host names with a-z, 0-9 and '-', got \"Kiwi_\"",
            ),
            (
                "images: x\ndefaults: {image: ../secret}",
                "expected image to be the name of a file in the folder of images, got \"../secret\"",
            ),
            (
                "defaults: {image: a.img}",
                "expected images to be a folder, as units have images, got \"nothing\"",
            ),
            (
                "units: [{serial: 0000000a, profile: 'x y'}]",
                "expected profile to be a name of a-z, 0-9 and '-', got \"x y\"",
            ),
        ] {
            assert_eq!(wrong(more), message);
        }
        assert!(wrong("colour: red").contains("unknown field `colour`"));
        assert!(
            wrong("units: [{serial: 12}]").contains("expected a serial number of 16 hex digits")
        );
        let other = text("").replace("version: 1", "version: 2");
        assert_eq!(
            Line::parse(&other).unwrap_err().to_string(),
            "expected version 1 of a line's file, got 2"
        );
    }

    #[test]
    fn a_line_asks_by_a_key_or_by_a_password() {
        let with = |credential: &str| {
            let text = text("").replace("  password_file: password\n", credential);
            Line::parse(&text).and_then(|line| line.relay.credential())
        };
        assert!(
            matches!(with("  api_key_file: key\n"), Ok(Credential::Key(file)) if file == Path::new("key"))
        );
        for (credential, got) in [
            ("  api_key_file: a\n  password_file: b\n", "both"),
            ("", "neither"),
        ] {
            assert_eq!(
                with(credential).err().unwrap().to_string(),
                format!("expected relay to have either api_key_file or password_file, got {got}")
            );
        }
    }
}
