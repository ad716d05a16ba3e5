//! What a robot and a relay say of themselves to everybody on their network, as services of DNS-SD.

use super::name::{Name, cut};
use crate::id::{RelayId, RobotId};

/// The service type of robots; a robot listens on no port, so that its service has port 0.
pub const ROBOTS: &str = "_lekiwi";
/// The service type of relays.
pub const RELAYS: &str = "_lekiwi-relay";

/// The version of the texts below.
const TXTVERS: &str = "1";
/// Most bytes of a text's value that is believed and sent; more is cut.
const MAX_VALUE: usize = 100;
/// Most texts of a service that are looked at.
const MAX_TEXTS: usize = 32;

/// The name of a service type.
#[must_use]
pub fn service_type(kind: &str) -> Name {
    Name::of(&[kind, "_tcp", "local"])
}

/// A service as a responder offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// [`ROBOTS`] or [`RELAYS`].
    pub kind: &'static str,
    /// What it wants to be called.
    pub id: String,
    /// Where it listens; 0 for nowhere.
    pub port: u16,
    /// Its texts, as in the record.
    pub txt: Vec<u8>,
}

/// A robot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RobotAd {
    /// Its id.
    pub id: RobotId,
    /// Its hardware profile.
    pub robot_type: String,
    /// Its board's serial number; empty when the board has none.
    pub serial: String,
    /// The version of its agent.
    pub agent_version: String,
    /// Whether it holds a certificate of its relay.
    pub registered: bool,
}

impl RobotAd {
    /// As a service.
    #[must_use]
    pub fn service(&self) -> Service {
        let registered = if self.registered { "yes" } else { "no" };
        Service {
            kind: ROBOTS,
            id: self.id.to_string(),
            port: 0,
            txt: texts(&[
                ("txtvers", TXTVERS),
                ("id", self.id.as_str()),
                ("type", &self.robot_type),
                ("serial", &self.serial),
                ("agent", &self.agent_version),
                ("registered", registered),
            ]),
        }
    }

    /// Reads the texts; `None` when they are of no robot that this version knows how to read.
    #[must_use]
    pub fn read(txt: &[u8]) -> Option<Self> {
        Some(Self {
            id: RobotId::new(&text(txt, "id")?).ok()?,
            robot_type: text(txt, "type").unwrap_or_default(),
            serial: text(txt, "serial").unwrap_or_default(),
            agent_version: text(txt, "agent").unwrap_or_default(),
            registered: text(txt, "registered").as_deref() == Some("yes"),
        })
    }
}

/// A relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayAd {
    /// Its id.
    pub id: RelayId,
    /// The port of HTTPS.
    pub https: u16,
    /// The port of MQTT.
    pub mqtt: u16,
    /// Its authority's fingerprint, to be compared with what the relay printed and not to be believed:
    /// anybody can say anything here.
    pub ca_fingerprint: String,
}

impl RelayAd {
    /// As a service.
    #[must_use]
    pub fn service(&self) -> Service {
        Service {
            kind: RELAYS,
            id: self.id.to_string(),
            port: self.https,
            txt: texts(&[
                ("txtvers", TXTVERS),
                ("id", self.id.as_str()),
                ("https", &self.https.to_string()),
                ("mqtt", &self.mqtt.to_string()),
                ("ca", &self.ca_fingerprint),
            ]),
        }
    }

    /// Reads the texts; `None` when they are of no relay that this version knows how to read.
    #[must_use]
    pub fn read(txt: &[u8]) -> Option<Self> {
        Some(Self {
            id: RelayId::new(&text(txt, "id")?).ok()?,
            https: text(txt, "https")?.parse().ok()?,
            mqtt: text(txt, "mqtt")?.parse().ok()?,
            ca_fingerprint: text(txt, "ca").unwrap_or_default(),
        })
    }
}

fn texts(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in pairs {
        let text = format!("{key}={}", cut(value, MAX_VALUE));
        if let Ok(length) = u8::try_from(text.len()) {
            bytes.push(length);
            bytes.extend(text.into_bytes());
        }
    }
    bytes
}

/// The value of the first text with this key; keys are compared without regard to case.
fn text(txt: &[u8], key: &str) -> Option<String> {
    let mut rest = txt;
    for _ in 0..MAX_TEXTS {
        let (length, behind) = rest.split_first()?;
        let (text, more) = behind.split_at_checked(usize::from(*length))?;
        rest = more;
        let mut parts = text.splitn(2, |byte| *byte == b'=');
        let found = parts.next().unwrap_or_default();
        if found.eq_ignore_ascii_case(key.as_bytes()) {
            let value = String::from_utf8_lossy(parts.next().unwrap_or_default());
            return Some(cut(&value, MAX_VALUE).to_owned());
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn robot() -> RobotAd {
        RobotAd {
            id: RobotId::new("kiwi-01").unwrap(),
            robot_type: "lekiwi".into(),
            serial: "10000000deadbeef".into(),
            agent_version: "0.1.0".into(),
            registered: false,
        }
    }

    #[test]
    fn what_is_said_is_read() {
        assert_eq!(RobotAd::read(&robot().service().txt), Some(robot()));
        let relay = RelayAd {
            id: RelayId::new("base").unwrap(),
            https: 8443,
            mqtt: 8883,
            ca_fingerprint: format!("sha256:{}", "0".repeat(64)),
        };
        assert_eq!(RelayAd::read(&relay.service().txt), Some(relay.clone()));
        assert_eq!(relay.service().port, 8443);
    }

    #[test]
    fn others_and_bombs_are_no_robots() {
        for txt in [
            &b""[..],
            b"\x05id=",
            b"\x0did=Not A Robot",
            b"\x02id",
            &[b"\x01x".repeat(40), b"\x0aid=kiwi-01".to_vec()].concat(),
            &[255; 9000],
        ] {
            assert_eq!(RobotAd::read(txt), None, "{txt:?}");
        }
        let bomb = [b"\x0aID=kiwi-01\xffserial=".to_vec(), vec![b'9'; 8800]].concat();
        let read = RobotAd::read(&bomb).unwrap();
        assert_eq!(
            (read.id.as_str(), read.serial.len()),
            ("kiwi-01", MAX_VALUE)
        );
        assert!(!read.registered);
    }

    #[test]
    fn an_endless_serial_is_cut() {
        let mut robot = robot();
        robot.serial = "ß".repeat(1000);
        assert!(robot.service().txt.len() < 300);
        assert_eq!(
            RobotAd::read(&robot.service().txt).unwrap().serial.len(),
            MAX_VALUE
        );
    }
}
