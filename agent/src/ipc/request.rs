//! What local programs may say: one line of JSON each. Pure.

use std::net::IpAddr;

use lekiwi_protocol::MetricName;
use lekiwi_protocol::limits::MAX_DATA_DEPTH;
use lekiwi_protocol::message::{OperatingMode, SourceKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::bus::Topic;
use crate::migration::Robot;

/// Longest type of an event, in bytes.
const MAX_KIND_BYTES: usize = 64;
/// Longest id of an operator, in characters.
const MAX_OPERATOR: usize = 64;
/// What the names of metrics, and the types of events, of the robot's own programs begin with.
pub const CUSTOM: &str = "custom.";
/// What the types of events of root's setup begin with.
const SETUP: &str = "setup.";

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Asks for something.
    Query(Query),
    /// Wants to be told from now on.
    Subscribe(Vec<Topic>),
    /// What this caller drives stands still, as the emergency stop with this id told it.
    Stopped(Uuid),
    /// Something happened.
    Event(Report),
    /// How the battery is.
    Battery(Battery),
    /// Who is in charge of the robot.
    Mode(OperatingMode),
    /// Who drives it; `null` when nobody does.
    Operator(Option<Operator>),
    /// A number of the program's own.
    Metric(Metric),
    /// Read the configuration again.
    Reload(Reload),
    /// Ask the relay for the next one now.
    Renew(Renew),
    /// What an older system's agent says of this robot; never comes through the socket.
    #[serde(skip)]
    Legacy(Robot),
}

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// How are you?
    Status,
}

/// What is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reload {
    /// The configuration file.
    Configuration,
}

/// What is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Renew {
    /// The robot's certificate.
    Certificate,
}

/// An event as a local program reports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// What happened, dotted.
    #[serde(rename = "type")]
    pub kind: String,
    /// Details, by type.
    #[serde(default)]
    pub data: Value,
}

/// A battery.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Battery {
    /// Its charge, 0 to 100.
    pub percent: f64,
    /// Its voltage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volts: Option<f64>,
    /// Whether it is being charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charging: Option<bool>,
}

/// A person, or a program that drives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// Who.
    pub id: String,
    /// Where commands of this operator come from, where they come through a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Commands that were carried out since the last report, where they come through none.
    #[serde(default)]
    pub commands: u32,
    /// Whether it is a person.
    #[serde(default)]
    pub source_kind: SourceKind,
}

/// A number of the program's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Its name, `custom.` and what the program calls it, the unit at the end.
    pub name: String,
    /// Its value.
    pub value: f64,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The user's id.
    pub uid: u32,
    /// What follows from it.
    pub standing: Standing,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Root and the agent's own user: everything.
    Owner,
    /// Members of the agent's group: report what the robot's programs know.
    Member,
    /// Others, where an administrator has opened the socket to them: ask and listen.
    Guest,
}

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// When it is something else: what was expected, for people.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| {
            format!(r#"expected a line such as {{"battery":{{"percent":80}}}}: {error}"#)
        })
    }

    /// Whether `caller` may say this, and whether it makes sense.
    ///
    /// # Errors
    /// What was expected and what came, for people.
    pub fn check(&self, caller: Caller) -> Result<(), String> {
        let Caller { uid, standing } = caller;
        match self {
            Self::Query(_) | Self::Subscribe(_) => return Ok(()),
            Self::Event(Report { kind, .. })
                if kind.starts_with(SETUP) && standing != Standing::Owner =>
            {
                return Err(format!(
                    "expected root or the agent's own user to report events of the setup, got the user with id {uid}"
                ));
            }
            Self::Reload(_) | Self::Renew(_) if standing != Standing::Owner => {
                return Err(format!(
                    "expected root or the agent's own user, got the user with id {uid}"
                ));
            }
            _ if standing == Standing::Guest => {
                return Err(format!(
                    "expected root, the agent's own user or a member of its group to report, got the user with id {uid}"
                ));
            }
            _ => {}
        }
        match self {
            Self::Event(report) => {
                check_kind(&report.kind)?;
                check_depth(&report.data)
            }
            Self::Battery(battery) => battery.check(),
            Self::Operator(Some(operator)) => operator.check(),
            Self::Metric(metric) => metric.check().map(|_| ()),
            _ => Ok(()),
        }
    }
}

fn check_kind(kind: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.';
    let known = [SETUP, CUSTOM].iter().any(|family| {
        kind.strip_prefix(family)
            .is_some_and(|rest| !rest.is_empty())
    });
    if known && kind.len() <= MAX_KIND_BYTES && kind.bytes().all(fits) {
        return Ok(());
    }
    let cut: String = kind.chars().take(MAX_KIND_BYTES).collect();
    Err(format!(
        "expected an event's type such as custom.bumped: custom. and a-z, 0-9, '_' and '.', at most {MAX_KIND_BYTES} in all, got {cut:?}"
    ))
}

/// Around data there are the batch and its envelope: what nests so deeply that a parser gives up would be
/// refused with all of its batch.
fn check_depth(data: &Value) -> Result<(), String> {
    match depth(data) {
        0..=MAX_DATA_DEPTH => Ok(()),
        deep => Err(format!(
            "expected data of at most {MAX_DATA_DEPTH} levels, got {deep}"
        )),
    }
}

/// Lists and objects around the innermost value; a line's parser lets through 127 at most.
fn depth(data: &Value) -> usize {
    let inner = match data {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        _ => return 0,
    };
    inner.unwrap_or(0) + 1
}

impl Battery {
    fn check(&self) -> Result<(), String> {
        let Self { percent, volts, .. } = *self;
        if !(0.0..=100.0).contains(&percent) {
            return Err(format!("expected percent from 0 to 100, got {percent}"));
        }
        match volts {
            Some(volts) if !(0.0..=1000.0).contains(&volts) => {
                Err(format!("expected volts from 0 to 1000, got {volts}"))
            }
            _ => Ok(()),
        }
    }
}

impl Operator {
    fn check(&self) -> Result<(), String> {
        let length = self.id.chars().count();
        if (1..=MAX_OPERATOR).contains(&length) && !self.id.contains(char::is_control) {
            return Ok(());
        }
        let cut: String = self.id.chars().take(MAX_OPERATOR).collect();
        Err(format!(
            "expected an operator's id of 1 to {MAX_OPERATOR} characters that can be printed, got {cut:?}"
        ))
    }
}

impl Metric {
    /// The checked name.
    pub(crate) fn check(&self) -> Result<MetricName, String> {
        let is_own = |name: &str| {
            name.strip_prefix(CUSTOM)
                .is_some_and(|rest| !rest.is_empty())
        };
        MetricName::new(&self.name)
            .ok()
            .filter(|name| is_own(name.as_str()))
            .ok_or_else(|| {
                let cut: String = self.name.chars().take(80).collect();
                format!(
                    "expected a metric's name such as custom.gripper_n: custom. and a-z, 0-9, '_' and '.', at most 64 in all, got {cut:?}"
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Caller = Caller {
        uid: 990,
        standing: Standing::Owner,
    };
    const MEMBER: Caller = Caller {
        uid: 1000,
        standing: Standing::Member,
    };
    const GUEST: Caller = Caller {
        uid: 65_534,
        standing: Standing::Guest,
    };

    fn said(caller: Caller, line: &str) -> Result<(), String> {
        Request::parse(line.as_bytes())?.check(caller)
    }

    #[test]
    fn what_makes_sense_is_taken() {
        for line in [
            r#"{"query":"status"}"#,
            r#"{"subscribe":["state","control"]}"#,
            r#"{"battery":{"percent":80}}"#,
            r#"{"battery":{"percent":0.5,"volts":11.1,"charging":false}}"#,
            r#"{"mode":"TEACH_IN"}"#,
            r#"{"stopped":"00000000-0000-0000-0000-000000000001"}"#,
            r#"{"operator":{"id":"alice"}}"#,
            r#"{"operator":{"id":"alice","address":"10.0.0.2","commands":15,"source_kind":"human"}}"#,
            r#"{"operator":null}"#,
            r#"{"metric":{"name":"custom.gripper_n","value":-3}}"#,
            r#"{"event":{"type":"custom.bumped"}}"#,
            r#"{"event":{"type":"custom.bumped2","data":{"x":1}}}"#,
        ] {
            assert_eq!(said(OWNER, line), Ok(()), "{line}");
            assert_eq!(said(MEMBER, line), Ok(()), "{line}");
            let is_open = line.contains("query") || line.contains("subscribe");
            let refusal = "expected root, the agent's own user or a member of its group to report, got the user with id 65534";
            let expected = if is_open {
                Ok(())
            } else {
                Err(refusal.to_owned())
            };
            assert_eq!(said(GUEST, line), expected, "{line}");
        }
    }

    #[test]
    fn the_setup_is_roots_and_the_agents() {
        let line = r#"{"event":{"type":"setup.progress","data":{"step":"packages"}}}"#;
        assert_eq!(said(OWNER, line), Ok(()));
        for caller in [MEMBER, GUEST] {
            let refusal = format!(
                "expected root or the agent's own user to report events of the setup, got the user with id {}",
                caller.uid
            );
            assert_eq!(said(caller, line), Err(refusal));
        }
        assert_eq!(
            said(MEMBER, r#"{"reload":"configuration"}"#),
            Err("expected root or the agent's own user, got the user with id 1000".to_owned())
        );
    }

    #[test]
    fn what_makes_no_sense_says_what_was_expected() {
        let such_as = r#"expected a line such as {"battery":{"percent":80}}: "#;
        let kind = "expected an event's type such as custom.bumped: custom. and a-z, 0-9, '_' and '.', at most 64 in all, got ";
        let name = "expected a metric's name such as custom.gripper_n: custom. and a-z, 0-9, '_' and '.', at most 64 in all, got ";
        for (line, expected) in [
            (
                "",
                format!("{such_as}EOF while parsing a value at line 1 column 0"),
            ),
            (
                r#"{"query":"stop"}"#,
                format!("{such_as}unknown variant `stop`, expected `status` at line 1 column 15"),
            ),
            (
                r#"{"batery":{"percent":80}}"#,
                format!(
                    "{such_as}unknown variant `batery`, expected one of `query`, `subscribe`, `stopped`, `event`, `battery`, `mode`, `operator`, `metric`, `reload`, `renew` at line 1 column 9"
                ),
            ),
            (
                r#"{"battery":{"percent":80,"amps":1}}"#,
                format!(
                    "{such_as}unknown field `amps`, expected one of `percent`, `volts`, `charging` at line 1 column 31"
                ),
            ),
            (
                r#"{"battery":{"percent":101}}"#,
                "expected percent from 0 to 100, got 101".to_owned(),
            ),
            (
                r#"{"battery":{"percent":50,"volts":-1}}"#,
                "expected volts from 0 to 1000, got -1".to_owned(),
            ),
            (
                r#"{"operator":{"id":""}}"#,
                "expected an operator's id of 1 to 64 characters that can be printed, got \"\""
                    .to_owned(),
            ),
            (
                r#"{"operator":{"id":"a\nb"}}"#,
                "expected an operator's id of 1 to 64 characters that can be printed, got \"a\\nb\""
                    .to_owned(),
            ),
            (
                r#"{"metric":{"name":"cpu_percent","value":1}}"#,
                format!("{name}\"cpu_percent\""),
            ),
            (
                r#"{"metric":{"name":"custom.","value":1}}"#,
                format!("{name}\"custom.\""),
            ),
            (
                r#"{"metric":{"name":"custom.Door","value":1}}"#,
                format!("{name}\"custom.Door\""),
            ),
            (
                r#"{"event":{"type":"robot.registered"}}"#,
                format!("{kind}\"robot.registered\""),
            ),
            (r#"{"event":{"type":"setup."}}"#, format!("{kind}\"setup.\"")),
            (
                r#"{"event":{"type":"custom.a b"}}"#,
                format!("{kind}\"custom.a b\""),
            ),
        ] {
            assert_eq!(said(OWNER, line), Err(expected), "{line}");
        }
        let long = format!(r#"{{"event":{{"type":"custom.{}"}}}}"#, "x".repeat(5000));
        assert!(said(OWNER, &long).is_err_and(|error| error.len() < 250));
    }
}
