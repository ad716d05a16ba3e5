//! `LEKIWI_*` variables: the one reader of them, filled by `main` from the process and by tests by hand.

use std::collections::BTreeMap;

use lekiwi_protocol::trace::Sample;
use lekiwi_protocol::yaml::nearest;

use super::{ConfigError, raw};

/// Variables of other parts of the program: the log level and the file itself.
const ELSEWHERE: [&str; 2] = ["LEKIWI_LOG", "LEKIWI_CONFIG"];

/// All variables whose name starts with `LEKIWI_`.
#[derive(Debug, Default, Clone)]
pub struct Environment(BTreeMap<String, String>);

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(k, v)| (k.into(), v.into()));
        Self(
            variables
                .filter(|(name, _): &(String, String)| name.starts_with("LEKIWI_"))
                .collect(),
        )
    }
}

type Target = fn(&mut raw::Config) -> Field<'_>;

enum Field<'a> {
    Text(&'a mut Option<String>),
    Number(&'a mut Option<u64>),
    Flag(&'a mut Option<bool>),
    Share(&'a mut Option<Sample>),
    /// Separated by commas.
    List(&'a mut Option<Vec<String>>),
}

const OVERRIDES: [(&str, Target); 22] = [
    ("LEKIWI_ROBOT_ID", |c| Field::Text(&mut c.robot_id)),
    ("LEKIWI_ORG", |c| Field::Text(&mut c.org)),
    ("LEKIWI_PROFILE", |c| Field::Text(&mut c.profile)),
    ("LEKIWI_PROFILES_DIR", |c| Field::Text(&mut c.profiles_dir)),
    ("LEKIWI_HARDWARE_ROOT", |c| {
        Field::Text(&mut c.hardware.root)
    }),
    ("LEKIWI_HARDWARE_SERVO_PORTS", |c| {
        Field::List(&mut c.hardware.servo_ports)
    }),
    ("LEKIWI_RELAY_HTTPS", |c| Field::Text(&mut c.relay.https)),
    ("LEKIWI_RELAY_MQTT", |c| Field::Text(&mut c.relay.mqtt)),
    ("LEKIWI_RELAY_LAST_RESORT", |c| {
        Field::Flag(&mut c.relay.last_resort)
    }),
    ("LEKIWI_RELAY_FAIL_BACK_S", |c| {
        Field::Number(&mut c.relay.fail_back_s)
    }),
    ("LEKIWI_RELAY_PROXY", |c| Field::Text(&mut c.relay.proxy)),
    ("LEKIWI_RELAY_CA_FINGERPRINT", |c| {
        Field::Text(&mut c.relay.ca_fingerprint)
    }),
    ("LEKIWI_ENROLMENT_TOKEN_FILE", |c| {
        Field::Text(&mut c.enrolment.token_file)
    }),
    ("LEKIWI_ENROLMENT_REMOVE_TOKEN", |c| {
        Field::Flag(&mut c.enrolment.remove_token)
    }),
    ("LEKIWI_IDENTITY_SIGNER", |c| {
        Field::List(&mut c.identity.signer)
    }),
    ("LEKIWI_TRUST_FILE", |c| Field::Text(&mut c.trust_file)),
    ("LEKIWI_STATE_DIR", |c| Field::Text(&mut c.state_dir)),
    ("LEKIWI_SOCKET", |c| Field::Text(&mut c.socket)),
    ("LEKIWI_HEARTBEAT_S", |c| Field::Number(&mut c.heartbeat_s)),
    ("LEKIWI_TELEMETRY_SAMPLE_S", |c| {
        Field::Number(&mut c.telemetry.sample_s)
    }),
    ("LEKIWI_TRACES_SAMPLE", |c| {
        Field::Share(&mut c.traces.sample)
    }),
    ("LEKIWI_DISCOVERY_MDNS", |c| {
        Field::Flag(&mut c.discovery.mdns)
    }),
];

/// The variables that override keys of the file.
pub fn override_names() -> impl Iterator<Item = &'static str> {
    OVERRIDES.iter().map(|(name, _)| *name)
}

impl Environment {
    /// One variable's value.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Overrides keys of `raw`; returns a warning for each unknown variable.
    pub(super) fn apply(&self, raw: &mut raw::Config) -> Result<Vec<String>, ConfigError> {
        let mut warnings = Vec::new();
        for (name, value) in &self.0 {
            let Some((_, target)) = OVERRIDES.iter().find(|(known, _)| known == name) else {
                if !ELSEWHERE.contains(&name.as_str()) {
                    let near = nearest(name, override_names().chain(ELSEWHERE));
                    let near = near.map_or(String::new(), |near| format!(", did you mean {near}?"));
                    warnings.push(format!("unknown variable {name} is ignored{near}"));
                }
                continue;
            };
            let wrong = |expected: &str| ConfigError::Value {
                key: name.clone(),
                origin: "the environment".to_owned(),
                reason: format!("expected {expected}, got {value:?}"),
            };
            match target(raw) {
                Field::Text(field) => *field = Some(value.clone()),
                Field::List(field) => {
                    let items = value
                        .split(',')
                        .map(str::trim)
                        .filter(|item| !item.is_empty());
                    *field = Some(items.map(str::to_owned).collect());
                }
                Field::Number(field) => {
                    *field = Some(value.parse().map_err(|_| wrong("a number of seconds"))?);
                }
                Field::Share(field) => {
                    let share = value.parse().ok().and_then(Sample::new);
                    *field = Some(share.ok_or_else(|| wrong("a share from 0 to 1"))?);
                }
                Field::Flag(field) => {
                    *field = Some(value.parse().map_err(|_| wrong("true or false"))?);
                }
            }
        }
        Ok(warnings)
    }
}
