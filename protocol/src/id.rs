//! Names that are more than strings: checked once, when they enter the program.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {actual:?}")]
pub struct NameError {
    expected: &'static str,
    /// The offending text, cut to a length that is safe to log.
    actual: String,
}

impl NameError {
    fn new(expected: &'static str, actual: &str) -> Self {
        Self {
            expected,
            actual: actual.chars().take(80).collect(),
        }
    }
}

fn is_label(text: &str, max: usize) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    matches!(bytes, [first, rest @ ..]
        if bytes.len() <= max && alphanumeric(*first) && rest.iter().all(|b| alphanumeric(*b) || *b == b'-'))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $pattern:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The pattern in words, as errors print it.
            pub const EXPECTED: &'static str = $expected;

            /// Checks `text`.
            ///
            /// # Errors
            /// When `text` does not fit [`Self::EXPECTED`].
            pub fn new(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(NameError::new(Self::EXPECTED, text)) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::new(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

name! {
    /// A robot: host name, certificate CN, MQTT client id and topic level at once.
    RobotId,
    "a robot id: 1 to 63 of a-z, 0-9 and '-', not starting with '-'",
    "^[a-z0-9][a-z0-9-]{0,62}$",
    |t| is_label(t, limits::MAX_ROBOT_ID_BYTES)
}
name! {
    /// An organisation: the O of its certificates and the topic level below the version.
    Org,
    "an organisation: 1 to 63 of a-z, 0-9 and '-', not starting with '-'",
    "^[a-z0-9][a-z0-9-]{0,62}$",
    |t| is_label(t, 63)
}
name! {
    /// A hardware profile: a robot type. `unknown` is what a robot of none is called, `auto` asks for
    /// detection; neither is a profile.
    ProfileName,
    "a profile: 1 to 63 of a-z, 0-9 and '-', not starting with '-', neither auto nor unknown",
    "^[a-z0-9][a-z0-9-]{0,62}$",
    |t| is_label(t, 63) && !matches!(t, "auto" | "unknown")
}
name! {
    /// A relay, as it announces itself below `relays/`.
    RelayId,
    "a relay id: 1 to 63 of a-z, 0-9 and '-', not starting with '-'",
    "^[a-z0-9][a-z0-9-]{0,62}$",
    |t| is_label(t, 63)
}
name! {
    /// A broker consumer: a program with a read-only certificate. Its CN is `consumer:<name>`, which
    /// no [`RobotId`] can be.
    ConsumerName,
    "a consumer name: 1 to 40 of a-z, 0-9 and '-', not starting with '-'",
    "^[a-z0-9][a-z0-9-]{0,39}$",
    |t| is_label(t, 40)
}
name! {
    /// A rule of alerts.
    RuleName,
    "a rule's name: 1 to 40 of a-z, 0-9 and '-', not starting with '-'",
    "^[a-z0-9][a-z0-9-]{0,39}$",
    |t| is_label(t, 40)
}
name! {
    /// Who is told of alerts.
    ReceiverName,
    "a receiver's name: 1 to 40 of a-z, 0-9 and '-', not starting with '-'",
    "^[a-z0-9][a-z0-9-]{0,39}$",
    |t| is_label(t, 40)
}
name! {
    /// A person, as they log in.
    UserName,
    "a user name: 1 to 64 of a-z, 0-9, '.', '_', '@', '+' and '-', starting with a letter or digit",
    "^[a-z0-9][a-z0-9._@+-]{0,63}$",
    |t| t.len() <= 64
        && t.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._@+-".contains(&b))
}
name! {
    /// Robots that people and programs are given rights on together.
    GroupName,
    "a group's name: 1 to 40 of a-z, 0-9 and '-', not starting with '-'",
    "^[a-z0-9][a-z0-9-]{0,39}$",
    |t| is_label(t, 40)
}
name! {
    /// A metric, its unit in the name: `cpu_percent`, `net_rx_bytes_per_s`; a member of a family after a
    /// dot: `temperature_c.cpu-thermal`.
    MetricName,
    "a metric name: 1 to 64 of a-z, 0-9, '_', '.' and '-', starting with a letter",
    "^[a-z][a-z0-9_.-]{0,63}$",
    |t| t.len() <= limits::MAX_METRIC_NAME_BYTES
        && t.starts_with(|c: char| c.is_ascii_lowercase())
        && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-'))
}

impl Default for Org {
    fn default() -> Self {
        Self("default".into())
    }
}

impl ConsumerName {
    /// The common name of this consumer's certificate, and the start of its MQTT client ids.
    #[must_use]
    pub fn common_name(&self) -> String {
        format!("consumer:{}", self.0)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn robot_ids_are_host_labels() {
        for good in ["a", "kiwi-01", "0", &"x".repeat(63)] {
            assert_eq!(RobotId::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "Kiwi",
            "a_b",
            "a/b",
            "a+",
            "#",
            "ä",
            &"x".repeat(64),
        ] {
            let error = RobotId::new(bad).unwrap_err().to_string();
            assert!(
                error.starts_with(
                    "expected a robot id: 1 to 63 of a-z, 0-9 and '-', not starting with '-', got "
                ),
                "{error}"
            );
        }
    }

    #[test]
    fn a_consumer_can_never_be_taken_for_a_robot() {
        let common_name = ConsumerName::new("analytics").unwrap().common_name();
        assert_eq!(common_name, "consumer:analytics");
        assert!(RobotId::new(&common_name).is_err());
    }

    #[test]
    fn a_hostile_name_is_cut_in_the_error() {
        assert!(
            RobotId::new(&"Z".repeat(100_000))
                .unwrap_err()
                .to_string()
                .len()
                < 200
        );
    }
}
