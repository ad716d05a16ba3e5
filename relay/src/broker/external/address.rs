//! Where an external broker is, as a person writes it.

use std::fmt;
use std::str::FromStr;

use crate::identity::server::ServerName;

/// How such an address begins: MQTT over TLS.
const SCHEME: &str = "mqtts://";
/// MQTT over TLS, by IANA's list.
const PORT: u16 = 8883;

/// `mqtts://HOST` or `mqtts://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A host name or an IP address, for which the broker's certificate is.
    pub host: String,
    /// The port; 8883 where none is said.
    pub port: u16,
}

/// Why a text is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected the broker as mqtts://host or mqtts://host:port, got {0:?}")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let read = || {
            let rest = text.strip_prefix(SCHEME)?;
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                // An IPv6 address has colons of its own.
                Some((host, "")) => (host, PORT),
                Some((host, port)) => (host, port.strip_prefix(':')?.parse().ok()?),
                None => match rest.split_once(':') {
                    Some((host, port)) => (host, port.parse().ok()?),
                    None => (rest, PORT),
                },
            };
            ServerName::parse(host).ok()?;
            (port != 0).then(|| Self {
                host: host.to_owned(),
                port,
            })
        };
        read().ok_or_else(|| AddressError(text.chars().take(120).collect()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_or_what_was_expected_is_said() {
        for (text, shown) in [
            ("mqtts://broker.example.org", "broker.example.org:8883"),
            ("mqtts://broker.example.org:1/", "broker.example.org:1"),
            ("mqtts://10.0.0.7:2", "10.0.0.7:2"),
            ("mqtts://[fd00::7]", "[fd00::7]:8883"),
            ("mqtts://[fd00::7]:3", "[fd00::7]:3"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "broker",
            "mqtt://broker",
            "mqtts://",
            "mqtts://broker:0",
            "mqtts://broker:port",
            "mqtts://user@broker",
            "mqtts://fd00::7",
            "mqtts://[fd00::7",
        ] {
            let expected =
                format!("expected the broker as mqtts://host or mqtts://host:port, got {text:?}");
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
