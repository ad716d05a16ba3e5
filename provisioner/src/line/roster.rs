//! Which unit is meant: boards show a serial number, half of it, or only their Ethernet address. Pure.
//!
//! Invariant: what happens to one unit changes no other.

use std::collections::BTreeMap;

use lekiwi_protocol::{RobotId, Timestamp};

use super::board::{Mac, Serial};
use super::unit::{Event, Key, Limits, Refused, State, Unit};

/// Most units that the line's file does not name; what comes after them is not recorded.
const MAX_UNEXPECTED: usize = 500;

/// What was seen of a board at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sighting {
    /// Its serial number, or half of it.
    pub serial: Option<Serial>,
    /// The serial number, if its bytes came in the other order.
    pub other_serial: Option<Serial>,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// What it is.
    pub board: Option<String>,
    /// Its memory in MiB.
    pub memory_mib: Option<u32>,
}

/// A unit as the line's file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its board's serial number.
    pub serial: Option<Serial>,
    /// Its Ethernet address; one of the two is there.
    pub mac: Option<Mac>,
    /// Who it becomes.
    pub robot_id: Option<RobotId>,
    /// Its hardware profile.
    pub profile: String,
    /// Its image's file name.
    pub image: Option<String>,
}

/// What units get that the file does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Host names start with it, where the file gives none.
    pub prefix: String,
    /// Hardware profile.
    pub profile: String,
    /// Image.
    pub image: Option<String>,
}

/// A board that was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its unit.
    pub key: Key,
    /// Whether it was taken up just now.
    pub new: bool,
    /// Whether something was learned of it.
    pub changed: bool,
}

/// How many units stand where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counts {
    /// All units that count: those of the file, and others that the line takes.
    pub total: usize,
    /// Nothing heard.
    pub waiting: usize,
    /// Signs of life.
    pub booting: usize,
    /// Image or seed fetched.
    pub installing: usize,
    /// Known to the relay.
    pub enrolled: usize,
    /// Done.
    pub healthy: usize,
    /// Needs a person.
    pub failed: usize,
}

/// Why nothing was recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// Nothing to recognise it by.
    #[error("expected a serial number or an Ethernet address, got neither")]
    Nobody,
    /// Somebody makes up boards, or the file is the wrong one.
    #[error("expected the boards of the line's file, got more than {MAX_UNEXPECTED} others")]
    TooMany,
    /// There is no such unit.
    #[error("there is no unit {0:?}")]
    Unknown(String),
    /// The unit is not where a retry helps.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// All units of a line.
#[derive(Debug, Clone)]
pub struct Roster {
    units: BTreeMap<Key, Unit>,
    /// Units that turned out to be others, until [`Roster::take_gone`].
    gone: Vec<Key>,
    limits: Limits,
    defaults: Defaults,
}

impl Roster {
    /// The units that were `stored`, and those that the file has now.
    #[must_use]
    pub fn new(
        limits: Limits,
        defaults: Defaults,
        stored: Vec<Unit>,
        planned: &[Planned],
        now: Timestamp,
    ) -> Self {
        let mut roster = Self {
            units: stored
                .into_iter()
                .map(|unit| (unit.key.clone(), unit))
                .collect(),
            gone: Vec::new(),
            limits,
            defaults,
        };
        for unit in roster.units.values_mut() {
            unit.expected = false;
        }
        for planned in planned {
            roster.plan(planned, now);
        }
        roster
    }

    /// All units, by key.
    pub fn units(&self) -> impl Iterator<Item = &Unit> {
        self.units.values()
    }

    /// One unit.
    #[must_use]
    pub fn unit(&self, key: &Key) -> Option<&Unit> {
        self.units.get(key)
    }

    /// The unit that a person means by its key, serial number, address or robot.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(&self, text: &str) -> Result<&Unit, RosterError> {
        let serial: Option<Serial> = text.parse().ok();
        let mac: Option<Mac> = text.parse().ok();
        let meant = |unit: &&Unit| {
            unit.key.0 == text
                || unit.robot_id.as_ref().is_some_and(|id| id.as_str() == text)
                || (mac.is_some() && unit.mac == mac)
                || matches!((&unit.serial, &serial), (Some(a), Some(b)) if a.fits(b))
        };
        self.units
            .values()
            .find(meant)
            .ok_or_else(|| RosterError::Unknown(text.chars().take(80).collect()))
    }

    /// How many stand where; `all` counts boards that the file does not name as well.
    #[must_use]
    pub fn counts(&self, all: bool) -> Counts {
        let mut counts = Counts::default();
        for unit in self.units.values().filter(|unit| all || unit.expected) {
            counts.total += 1;
            *match unit.state {
                State::Waiting => &mut counts.waiting,
                State::Booting => &mut counts.booting,
                State::Installing => &mut counts.installing,
                State::Enrolled => &mut counts.enrolled,
                State::Healthy => &mut counts.healthy,
                State::Failed { .. } => &mut counts.failed,
            } += 1;
        }
        counts
    }

    /// Recognises a board, or takes it up as one that the file does not name.
    ///
    /// # Errors
    /// When there is nothing to recognise it by, or there are too many strangers.
    pub fn sight(&mut self, now: Timestamp, sighting: &Sighting) -> Result<Seen, RosterError> {
        let of = |serial: &Option<Serial>| serial.as_ref().and_then(|s| self.by_serial(s));
        let (serial, by_serial) = match (of(&sighting.serial), of(&sighting.other_serial)) {
            (None, Some(key)) => (sighting.other_serial.clone(), Some(key)),
            (key, _) => (sighting.serial.clone(), key),
        };
        let by_mac = sighting.mac.and_then(|mac| self.by_mac(mac));
        let known = self.units.len();
        let key = match (by_serial, by_mac) {
            (Some(key), Some(other)) if key != other => {
                // What was known by its address only turns out to be this board.
                if self.units.get(&other).is_some_and(|unit| !unit.expected) {
                    self.units.remove(&other);
                    self.gone.push(other);
                }
                key
            }
            (Some(key), _) | (None, Some(key)) => key,
            (None, None) => self.stranger(now, serial.as_ref(), sighting.mac)?,
        };
        let new = self.units.len() > known;
        let mut changed = new;
        if let Some(unit) = self.units.get_mut(&key) {
            let before = (
                unit.serial.clone(),
                unit.mac,
                unit.memory_mib,
                unit.board.clone(),
            );
            learn(unit, serial, sighting);
            name(unit, &self.defaults.prefix);
            changed |= before
                != (
                    unit.serial.clone(),
                    unit.mac,
                    unit.memory_mib,
                    unit.board.clone(),
                );
        }
        Ok(Seen { key, new, changed })
    }

    /// Units that turned out to be others since the last call.
    pub fn take_gone(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.gone)
    }

    /// Something happened to a unit; says whether that changed anything.
    ///
    /// # Errors
    /// When there is no such unit, or a retry makes no sense.
    pub fn handle(&mut self, key: &Key, now: Timestamp, event: Event) -> Result<bool, RosterError> {
        let unit = self
            .units
            .get_mut(key)
            .ok_or_else(|| RosterError::Unknown(key.0.clone()))?;
        Ok(unit.handle(now, &self.limits, event)?)
    }

    /// Units whose time is over.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Vec<Key> {
        let due = |unit: &&Unit| unit.deadline(&self.limits).is_some_and(|at| at <= now);
        let due = self.units.values().filter(due);
        due.map(|unit| unit.key.clone()).collect()
    }

    fn plan(&mut self, planned: &Planned, now: Timestamp) {
        let known = planned
            .serial
            .as_ref()
            .and_then(|serial| self.by_serial(serial))
            .or_else(|| planned.mac.and_then(|mac| self.by_mac(mac)));
        let key = known.or_else(|| {
            let key = key_of(planned.serial.as_ref(), planned.mac)?;
            let unit = Unit::new(key.clone(), planned.profile.clone(), now);
            self.units.insert(key.clone(), unit);
            Some(key)
        });
        let Some(unit) = key.and_then(|key| self.units.get_mut(&key)) else {
            return;
        };
        unit.expected = true;
        unit.profile.clone_from(&planned.profile);
        unit.image.clone_from(&planned.image);
        unit.mac = planned.mac.or(unit.mac);
        if let Some(serial) = &planned.serial {
            unit.serial = Some(serial.clone());
        }
        // A robot that the relay knows keeps its name.
        if !matches!(unit.state, State::Enrolled | State::Healthy) {
            unit.robot_id.clone_from(&planned.robot_id);
        }
        name(unit, &self.defaults.prefix);
    }

    fn stranger(
        &mut self,
        now: Timestamp,
        serial: Option<&Serial>,
        mac: Option<Mac>,
    ) -> Result<Key, RosterError> {
        let key = key_of(serial, mac).ok_or(RosterError::Nobody)?;
        // Those that got somewhere are units like any other.
        let is_stray =
            |unit: &&Unit| !unit.expected && matches!(unit.state, State::Waiting | State::Booting);
        if self.units.values().filter(is_stray).count() >= MAX_UNEXPECTED {
            return Err(RosterError::TooMany);
        }
        let mut unit = Unit::new(key.clone(), self.defaults.profile.clone(), now);
        unit.expected = false;
        unit.image.clone_from(&self.defaults.image);
        self.units.insert(key.clone(), unit);
        Ok(key)
    }

    fn by_serial(&self, serial: &Serial) -> Option<Key> {
        let fits = |unit: &&Unit| unit.serial.as_ref().is_some_and(|own| own.fits(serial));
        self.units.values().find(fits).map(|unit| unit.key.clone())
    }

    /// By its address, or by the part of the serial number that the address was made from.
    fn by_mac(&self, mac: Mac) -> Option<Key> {
        let own = self.units.values().find(|unit| unit.mac == Some(mac));
        let made_from = |unit: &&Unit| {
            let tail = unit.serial.as_ref().map(|own| own.low() & 0x00ff_ffff);
            unit.mac.is_none() && tail.is_some() && tail == mac.serial_tail()
        };
        own.or_else(|| self.units.values().find(made_from))
            .map(|unit| unit.key.clone())
    }
}

fn key_of(serial: Option<&Serial>, mac: Option<Mac>) -> Option<Key> {
    serial
        .map(|serial| format!("{:08x}", serial.low()))
        .or_else(|| mac.map(|mac| mac.to_string()))
        .map(Key)
}

/// Keeps what is new, and nothing that is less than what was known.
fn learn(unit: &mut Unit, serial: Option<Serial>, sighting: &Sighting) {
    if let Some(serial) = serial
        && (unit.serial.is_none() || serial.is_whole())
    {
        unit.serial = Some(serial);
    }
    unit.mac = sighting.mac.or(unit.mac);
    unit.memory_mib = sighting.memory_mib.or(unit.memory_mib);
    if let Some(board) = &sighting.board {
        unit.board = Some(board.chars().filter(|c| !c.is_control()).take(80).collect());
    }
}

/// A robot without a name is called by its serial number, as it calls itself.
fn name(unit: &mut Unit, prefix: &str) {
    if unit.robot_id.is_none()
        && let Some(serial) = &unit.serial
    {
        unit.robot_id = RobotId::new(&format!("{prefix}-{:08x}", serial.low())).ok();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
#[path = "roster/tests.rs"]
mod tests;
