//! How much the relay takes, as the configuration says it.

use std::time::Duration;

use lekiwi_relay_core::protect::{Limits, NetworkError, Tier};
use serde::Deserialize;

/// `limits` as a person wrote it: a tier, and what is to be different.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLimits {
    /// `development`, `production` or `high-performance`.
    pub tier: Option<String>,
    /// MQTT clients at once.
    pub mqtt_connections: Option<u32>,
    /// HTTPS connections at once.
    pub https_connections: Option<u32>,
    /// Connections at once of one address.
    pub connections_per_address: Option<u32>,
    /// Messages a second of one client.
    pub messages_per_s: Option<u32>,
    /// Messages a second of one address.
    pub messages_per_s_per_address: Option<u32>,
    /// Requests a second of one person, API key or robot.
    pub requests_per_s: Option<u32>,
    /// Requests a second of one address.
    pub requests_per_s_per_address: Option<u32>,
    /// Seconds that the first ban lasts; 0 for none.
    pub ban_s: Option<u32>,
    /// Addresses and networks that are only counted.
    pub trusted: Option<Vec<String>>,
}

/// Why `limits` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// No such tier.
    #[error("expected the tier development, production or high-performance, got {0:?}")]
    Tier(String),
    /// Nobody would be let in.
    #[error("expected {0} to be 1 to 1000000, got {1}")]
    Number(&'static str, u32),
    /// A ban for longer than bans are.
    #[error("expected ban_s to be 0 to 86400, got {0}")]
    Ban(u32),
    /// Not whom one can trust.
    #[error("cannot use trusted")]
    Trusted(#[source] NetworkError),
}

impl RawLimits {
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            tier: self.tier.or(below.tier),
            mqtt_connections: self.mqtt_connections.or(below.mqtt_connections),
            https_connections: self.https_connections.or(below.https_connections),
            connections_per_address: self
                .connections_per_address
                .or(below.connections_per_address),
            messages_per_s: self.messages_per_s.or(below.messages_per_s),
            messages_per_s_per_address: self
                .messages_per_s_per_address
                .or(below.messages_per_s_per_address),
            requests_per_s: self.requests_per_s.or(below.requests_per_s),
            requests_per_s_per_address: self
                .requests_per_s_per_address
                .or(below.requests_per_s_per_address),
            ban_s: self.ban_s.or(below.ban_s),
            trusted: self.trusted.or(below.trusted),
        }
    }

    pub(super) fn check(self) -> Result<Limits, LimitsError> {
        let tier = match self.tier.as_deref() {
            None => Tier::default(),
            Some("development") => Tier::Development,
            Some("production") => Tier::Production,
            Some("high-performance") => Tier::HighPerformance,
            Some(other) => return Err(LimitsError::Tier(other.to_owned())),
        };
        let mut limits = Limits::of(tier);
        let number = |key, value: Option<u32>| match value {
            Some(0 | 1_000_001..) => Err(LimitsError::Number(key, value.unwrap_or_default())),
            value => Ok(value),
        };
        for (key, value, limit) in [
            (
                "mqtt_connections",
                self.mqtt_connections,
                &mut limits.mqtt_connections,
            ),
            (
                "https_connections",
                self.https_connections,
                &mut limits.https_connections,
            ),
            (
                "connections_per_address",
                self.connections_per_address,
                &mut limits.connections_per_address,
            ),
        ] {
            if let Some(value) = number(key, value)? {
                *limit = value as usize;
            }
        }
        for (key, value, limit) in [
            (
                "messages_per_s",
                self.messages_per_s,
                &mut limits.messages_per_s,
            ),
            (
                "messages_per_s_per_address",
                self.messages_per_s_per_address,
                &mut limits.messages_per_s_per_address,
            ),
            (
                "requests_per_s",
                self.requests_per_s,
                &mut limits.requests_per_s,
            ),
            (
                "requests_per_s_per_address",
                self.requests_per_s_per_address,
                &mut limits.requests_per_s_per_address,
            ),
        ] {
            if let Some(value) = number(key, value)? {
                *limit = value;
            }
        }
        match self.ban_s {
            None => {}
            Some(seconds @ 0..=86_400) => limits.ban = Duration::from_secs(seconds.into()),
            Some(seconds) => return Err(LimitsError::Ban(seconds)),
        }
        if let Some(trusted) = self.trusted {
            let networks = trusted.iter().map(|text| text.parse());
            limits.trusted = networks
                .collect::<Result<_, _>>()
                .map_err(LimitsError::Trusted)?;
        }
        Ok(limits)
    }
}
