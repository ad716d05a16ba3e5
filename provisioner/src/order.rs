//! What a person asks for, checked. Pure.

use lekiwi_protocol::{Org, RobotId};

/// A seed for one robot.
#[derive(Clone, PartialEq, Eq)]
pub struct Order {
    /// Host name, certificate and topic of the robot.
    pub robot_id: RobotId,
    /// Organisation.
    pub org: Org,
    /// Hardware profile.
    pub profile: String,
    /// `https://host:port` of the relay.
    pub https: String,
    /// `mqtts://host:port` of the relay.
    pub mqtt: String,
    /// SHA-256 of the relay's authority.
    pub ca_fingerprint: String,
    /// One-time enrolment token.
    pub token: String,
    /// Public keys that may log in over SSH.
    pub ssh_keys: Vec<String>,
    /// Name of an agent package on the boot partition; absent when the image has the agent already.
    pub agent_deb: Option<String>,
}

/// What was wrong with the order.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Not an address of the right kind.
    #[error("expected {name} such as {example}, got {actual:?}")]
    Address {
        /// Which one.
        name: &'static str,
        /// What it looks like.
        example: &'static str,
        /// What came.
        actual: String,
    },
    /// Not a fingerprint.
    #[error("expected a fingerprint such as sha256: and 64 hex digits, got {0:?}")]
    Fingerprint(String),
    /// Not a token. The text is not shown: it may be a secret with a typing error.
    #[error(
        "expected an enrolment token that starts with lkt_ and has letters, digits, '-' and '_' only"
    )]
    Token,
    /// Not a profile name.
    #[error("expected a profile name of a-z, 0-9 and '-', got {0:?}")]
    Profile(String),
    /// Not a public key.
    #[error("expected an SSH public key such as \"ssh-ed25519 AAAA… name\" on one line, got {0:?}")]
    SshKey(String),
    /// A private key where a public one belongs. Not shown.
    #[error("expected an SSH public key, got a private one")]
    PrivateKey,
}

impl OrderError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Fingerprint(_) => Some("`lekiwi-relay ca show` prints it"),
            Self::Token => Some("make one with `lekiwi token create`"),
            Self::PrivateKey => Some("the public key's file name ends with .pub"),
            Self::Address { .. } | Self::Profile(_) | Self::SshKey(_) => None,
        }
    }
}

impl Order {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(self) -> Result<Self, OrderError> {
        address("a relay address", "https://relay.example:8443", &self.https)?;
        address("a broker address", "mqtts://relay.example:8883", &self.mqtt)?;
        let digits = self
            .ca_fingerprint
            .strip_prefix("sha256:")
            .unwrap_or_default();
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(OrderError::Fingerprint(cut(&self.ca_fingerprint)));
        }
        let secret = self.token.strip_prefix("lkt_").unwrap_or_default();
        if secret.len() < 20
            || !secret
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return Err(OrderError::Token);
        }
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.profile.is_empty() || self.profile.len() > 63 || !self.profile.bytes().all(letters)
        {
            return Err(OrderError::Profile(cut(&self.profile)));
        }
        for key in &self.ssh_keys {
            if key.contains("PRIVATE KEY") {
                return Err(OrderError::PrivateKey);
            }
            let kind = key.split(' ').next().unwrap_or_default();
            let known = ["ssh-", "ecdsa-", "sk-"]
                .iter()
                .any(|start| kind.starts_with(start));
            if !known || key.lines().count() != 1 || key.split(' ').count() < 2 {
                return Err(OrderError::SshKey(cut(key)));
            }
        }
        Ok(self)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// `scheme://host:port` and nothing more.
fn address(name: &'static str, example: &'static str, text: &str) -> Result<(), OrderError> {
    let (scheme, _) = example.split_once("://").unwrap_or_default();
    let fits = text
        .strip_prefix(scheme)
        .and_then(|rest| rest.strip_prefix("://"))
        .and_then(|rest| rest.rsplit_once(':'))
        .is_some_and(|(host, port)| {
            let host_fits = host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
            !host.is_empty() && host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
    if fits {
        Ok(())
    } else {
        Err(OrderError::Address {
            name,
            example,
            actual: cut(text),
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn order() -> Order {
        Order {
            robot_id: "kiwi-01".parse().unwrap(),
            org: Org::default(),
            profile: "lekiwi".into(),
            https: "https://relay.example:8443".into(),
            mqtt: "mqtts://relay.example:8883".into(),
            ca_fingerprint: format!("sha256:{}", "0f".repeat(32)),
            token: "lkt_abcdefghijklmnopqrstuvwxyz0123456789-_ABCDE".into(),
            ssh_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample operator".into()],
            agent_deb: Some("lekiwi-agent.deb".into()),
        }
    }

    #[test]
    fn bad_orders_say_what_was_expected() {
        let error = |change: &dyn Fn(&mut Order)| {
            let mut order = order();
            change(&mut order);
            order.check().err().unwrap().to_string()
        };
        assert!(order().check().is_ok());
        assert_eq!(
            error(&|o| o.https = "relay.example".into()),
            "expected a relay address such as https://relay.example:8443, got \"relay.example\""
        );
        assert_eq!(
            error(&|o| o.mqtt = "mqtt://relay.example:1883".into()),
            "expected a broker address such as mqtts://relay.example:8883, got \"mqtt://relay.example:1883\""
        );
        assert_eq!(
            error(&|o| o.mqtt = "mqtts://relay.example:0".into()),
            "expected a broker address such as mqtts://relay.example:8883, got \"mqtts://relay.example:0\""
        );
        assert_eq!(
            error(&|o| o.ca_fingerprint = "sha256:12".into()),
            "expected a fingerprint such as sha256: and 64 hex digits, got \"sha256:12\""
        );
        let secret = error(&|o| o.token = "lkt_topsecret with a space in it".into());
        assert_eq!(
            secret,
            "expected an enrolment token that starts with lkt_ and has letters, digits, '-' and '_' only"
        );
        assert_eq!(
            error(&|o| o.profile = "XLE two".into()),
            "expected a profile name of a-z, 0-9 and '-', got \"XLE two\""
        );
        assert_eq!(
            error(&|o| o.ssh_keys = vec!["ssh-ed25519 AAAA\nssh-rsa AAAA".into()]),
            "expected an SSH public key such as \"ssh-ed25519 AAAA… name\" on one line, got \"ssh-ed25519 AAAA\\nssh-rsa AAAA\""
        );
        assert_eq!(
            error(&|o| o.ssh_keys = vec!["-----BEGIN OPENSSH PRIVATE KEY-----".into()]),
            "expected an SSH public key, got a private one"
        );
    }
}
