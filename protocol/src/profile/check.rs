//! What the types of a profile cannot say.

use std::collections::BTreeSet;

use crate::limits::MAX_TELEOP_PORTS;

use super::{
    Action, Check, File, MetricRule, Overlay, Process, Profile, ProfileError, Python, Recognise,
    Unit, VERSION,
};

/// The least and greatest id that a Feetech servo can have; 254 addresses all.
const SERVO_IDS: std::ops::RangeInclusive<u8> = 1..=253;

/// What is wrong with a value: the rest of its key's path, and the reason.
pub(super) type Complaint = (String, String);

pub(super) fn complain<T>(
    key: impl Into<String>,
    reason: impl Into<String>,
) -> Result<T, Complaint> {
    Err((key.into(), reason.into()))
}

impl Profile {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first value that cannot be, by its path.
    pub fn check(&self, origin: &str) -> Result<(), ProfileError> {
        self.rules().map_err(|(key, reason)| ProfileError::Value {
            key,
            origin: origin.to_owned(),
            reason,
        })
    }

    fn rules(&self) -> Result<(), Complaint> {
        if self.version != VERSION {
            return complain(
                "version",
                format!("expected {VERSION}, got {}", self.version),
            );
        }
        if self.title.trim().is_empty() {
            return complain("title", "expected a line for people, got none");
        }
        if let Some(recognise) = &self.recognise {
            recognise.rules().map_err(below("recognise"))?;
        }
        for (index, group) in self.groups.iter().enumerate() {
            if !is_unix_name(group) {
                return complain(
                    format!("groups[{index}]"),
                    format!("expected a Unix group such as dialout, got {group:?}"),
                );
            }
        }
        each("software.apt", &self.software.apt, |name| package(name))?;
        if let Some(python) = &self.software.python {
            python.rules().map_err(below("software.python"))?;
        }
        each("software.files", &self.software.files, File::rules)?;
        each("software.units", &self.software.units, Unit::rules)?;
        each("services", &self.services, |name| unit_name(name, ""))?;
        each("processes", &self.processes, Process::rules)?;
        each("checks", &self.checks, Check::rules)?;
        self.distinct_names()?;
        for (key, rule) in &self.agent.metrics {
            rule.rules()
                .map_err(below(&format!("agent.metrics.{}", key.as_str())))?;
        }
        let ports = self.teleop.ports.len();
        if ports > MAX_TELEOP_PORTS {
            return complain(
                "teleop.ports",
                format!("expected at most {MAX_TELEOP_PORTS} ports, got {ports}"),
            );
        }
        self.teleop.ros_rules().map_err(below("teleop"))?;
        self.ros.rules().map_err(below("ros"))?;
        each("actions", &self.actions, Action::rules)?;
        let mut names = BTreeSet::new();
        for (index, action) in self.actions.iter().enumerate() {
            if !names.insert(&action.name) {
                return complain(
                    format!("actions[{index}].name"),
                    format!("expected each name once, got {:?} again", action.name),
                );
            }
        }
        if let Some(stop) = &self.stop {
            stop.rules().map_err(below("stop"))?;
        }
        let mut ports = BTreeSet::new();
        for (index, port) in self.teleop.ports.iter().enumerate() {
            if port.port == 0 || !ports.insert(port.port) {
                return complain(
                    format!("teleop.ports[{index}].port"),
                    format!("expected each port once, from 1, got {}", port.port),
                );
            }
        }
        Ok(())
    }
}

impl Profile {
    /// What is watched is told apart by name.
    fn distinct_names(&self) -> Result<(), Complaint> {
        let services = self.services.iter().map(|name| ("services", name));
        let processes = self.processes.iter().map(|p| ("processes", &p.name));
        let checks = self.checks.iter().map(|check| ("checks", &check.name));
        let nodes = self.ros.nodes.iter().map(|name| ("ros.nodes", name));
        let mut names = BTreeSet::new();
        for (key, name) in services.chain(processes).chain(checks).chain(nodes) {
            if !names.insert(name.as_str()) {
                return complain(key, format!("expected each name once, got {name:?} again"));
            }
        }
        Ok(())
    }
}

impl Recognise {
    fn rules(&self) -> Result<(), Complaint> {
        if self.servo_buses.is_empty() {
            return complain("servo_buses", "expected at least one bus, got none");
        }
        for (index, bus) in self.servo_buses.iter().enumerate() {
            let ids: BTreeSet<u8> = bus.iter().copied().collect();
            let right = ids.len() == bus.len() && ids.iter().all(|id| SERVO_IDS.contains(id));
            if bus.is_empty() || !right {
                return complain(
                    format!("servo_buses[{index}]"),
                    format!(
                        "expected servo ids from {} to {}, each once, got {bus:?}",
                        SERVO_IDS.start(),
                        SERVO_IDS.end()
                    ),
                );
            }
        }
        for (index, board) in self.boards.iter().enumerate() {
            let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            if board.is_empty() || !board.bytes().all(letters) {
                return complain(
                    format!("boards[{index}]"),
                    format!("expected a board such as pi5 or cm4, got {board:?}"),
                );
            }
        }
        each("usb", &self.usb, |usb| {
            for (key, id) in [
                ("vendor", Some(&usb.vendor)),
                ("product", usb.product.as_ref()),
            ] {
                let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if id.is_some_and(|id| id.len() != 4 || !id.bytes().all(hex)) {
                    return complain(
                        key,
                        format!(
                            "expected four hex digits in quotes, such as \"1a86\", got {:?}",
                            id.map_or("", String::as_str)
                        ),
                    );
                }
            }
            Ok(())
        })
    }
}

impl Python {
    fn rules(&self) -> Result<(), Complaint> {
        absolute("venv", &self.venv)?;
        let number = |part: Option<&str>| part.is_some_and(|part| part.parse::<u16>().is_ok());
        let mut parts = self.version.split('.');
        if parts.next() != Some("3") || !number(parts.next()) || parts.next().is_some() {
            return complain(
                "version",
                format!(
                    "expected a version such as \"3.11\", got {:?}",
                    self.version
                ),
            );
        }
        each("requirements", &self.requirements, |requirement| {
            let pinned = requirement.split_once("==").is_some_and(|(name, version)| {
                let version = version.split(';').next().unwrap_or_default().trim();
                !name.trim().is_empty() && !version.is_empty() && !version.contains('*')
            });
            if pinned {
                Ok(())
            } else {
                complain(
                    "",
                    format!(
                        "expected a pinned requirement such as pyzmq==27.1.0, got {requirement:?}"
                    ),
                )
            }
        })?;
        each("overlays", &self.overlays, Overlay::rules)
    }
}

impl Overlay {
    fn rules(&self) -> Result<(), Complaint> {
        if !self.repository.starts_with("https://") {
            return complain(
                "repository",
                format!("expected an https address, got {:?}", self.repository),
            );
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if self.commit.len() != 40 || !self.commit.bytes().all(hex) {
            return complain(
                "commit",
                format!("expected 40 hex digits of a commit, got {:?}", self.commit),
            );
        }
        for (key, path) in [("folder", &self.folder), ("into", &self.into)] {
            let plain = |part: &str| !matches!(part, "" | "." | "..");
            if !path.split('/').all(plain) {
                return complain(
                    key,
                    format!("expected a relative path without .., got {path:?}"),
                );
            }
        }
        Ok(())
    }
}

impl File {
    fn rules(&self) -> Result<(), Complaint> {
        absolute("path", &self.path)?;
        let octal = |b: u8| (b'0'..=b'7').contains(&b);
        if self.mode.len() == 4 && self.mode.bytes().all(octal) {
            Ok(())
        } else {
            complain(
                "mode",
                format!(
                    "expected four octal digits in quotes, such as \"0644\", got {:?}",
                    self.mode
                ),
            )
        }
    }
}

impl Unit {
    fn rules(&self) -> Result<(), Complaint> {
        unit_name(&self.name, "name")?;
        let lines = || self.content.lines().map(str::trim);
        if !lines().any(|line| line == "[Install]") {
            return complain(
                "content",
                "expected a unit that can be enabled, got one without [Install]",
            );
        }
        // What runs a robot comes back by itself.
        if self.name.ends_with(".service") && !lines().any(|line| line == "Restart=always") {
            return complain("content", "expected Restart=always in a service, got none");
        }
        Ok(())
    }
}

impl Process {
    fn rules(&self) -> Result<(), Complaint> {
        if self.name.trim().is_empty() {
            return complain("name", "expected what it is, for people, got none");
        }
        if self.pattern.bytes().all(|b| b == b'*' || b == b' ') {
            return complain(
                "pattern",
                format!(
                    "expected a command line such as \"*python* -m lekiwi_host*\", got {:?}",
                    self.pattern
                ),
            );
        }
        Ok(())
    }
}

impl Check {
    fn rules(&self) -> Result<(), Complaint> {
        if self.name.trim().is_empty() {
            return complain("name", "expected what is checked, for people, got none");
        }
        for (key, value, most) in [
            ("every_s", self.every_s, 3600),
            ("timeout_s", self.timeout_s, self.every_s.min(60)),
        ] {
            if !(1..=most).contains(&value) {
                return complain(key, format!("expected 1 to {most} seconds, got {value}"));
            }
        }
        let given = [
            ("tcp", &self.tcp),
            ("http", &self.http),
            ("unix", &self.unix),
        ];
        let given: Vec<_> = given
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.as_deref()?)))
            .collect();
        let [(key, value)] = given[..] else {
            let names: Vec<_> = given.iter().map(|(key, _)| *key).collect();
            let got = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(" and ")
            };
            return complain("", format!("expected one of tcp, http and unix, got {got}"));
        };
        match key {
            "tcp" if !is_address(value) => complain(
                key,
                format!("expected HOST:PORT such as 127.0.0.1:5555, got {value:?}"),
            ),
            "http" => {
                let rest = value.strip_prefix("http://").unwrap_or_default();
                let address = rest.split('/').next().unwrap_or_default();
                if is_address(address) {
                    Ok(())
                } else {
                    complain(
                        key,
                        format!("expected http://HOST:PORT/PATH, got {value:?}"),
                    )
                }
            }
            "unix" => absolute(key, value),
            _ => Ok(()),
        }
    }
}

impl MetricRule {
    fn rules(&self) -> Result<(), Complaint> {
        if let Some(level) = self.deadband.filter(|l| !l.is_finite() || *l < 0.0) {
            return complain("deadband", format!("expected a number from 0, got {level}"));
        }
        for (key, level) in [
            ("alert_above", self.alert_above),
            ("alert_below", self.alert_below),
            ("alert_clear", self.alert_clear),
        ] {
            if let Some(level) = level.filter(|level| !level.is_finite()) {
                return complain(key, format!("expected a number, got {level}"));
            }
        }
        if self.alert_above.is_some() && self.alert_below.is_some() {
            return complain("", "expected alert_above or alert_below, got both");
        }
        Ok(())
    }
}

fn each<T>(
    key: &str,
    values: &[T],
    rules: impl Fn(&T) -> Result<(), Complaint>,
) -> Result<(), Complaint> {
    for (index, value) in values.iter().enumerate() {
        rules(value).map_err(below(&format!("{key}[{index}]")))?;
    }
    Ok(())
}

/// Puts `key` before the path of a complaint.
pub(super) fn below(key: &str) -> impl Fn(Complaint) -> Complaint {
    move |(rest, reason)| match rest.as_str() {
        "" => (key.to_owned(), reason),
        rest => (format!("{key}.{rest}"), reason),
    }
}

pub(super) fn absolute(key: &str, path: &str) -> Result<(), Complaint> {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let rest = path.strip_prefix('/');
    if rest.is_some_and(|rest| rest.split('/').all(plain)) {
        Ok(())
    } else {
        complain(
            key,
            format!("expected an absolute path without .., got {path:?}"),
        )
    }
}

fn is_unix_name(name: &str) -> bool {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    (1..=32).contains(&name.len())
        && name.bytes().all(letters)
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
}

/// Debian's rules for names of packages.
fn package(name: &str) -> Result<(), Complaint> {
    let letters =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.');
    let right = name.len() >= 2
        && name.bytes().all(letters)
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if right {
        Ok(())
    } else {
        complain(
            "",
            format!("expected a Debian package's name, got {name:?}"),
        )
    }
}

fn unit_name(name: &str, key: &str) -> Result<(), Complaint> {
    let letters =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@' | b':');
    let endings = [
        ".service", ".socket", ".timer", ".path", ".target", ".mount",
    ];
    let ending = endings.iter().any(|ending| {
        name.strip_suffix(ending)
            .is_some_and(|stem| !stem.is_empty())
    });
    if ending && name.bytes().all(letters) {
        Ok(())
    } else {
        complain(
            key,
            format!("expected a unit such as lekiwi-host.service, got {name:?}"),
        )
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}
