//! How identities are given, as the configuration says it.

use std::path::PathBuf;
use std::time::Duration;

use lekiwi_protocol::limits::ROBOT_CERTIFICATE_LIFETIME;
use serde::Deserialize;

use super::ConfigError;

const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(825 * 24 * 3600);

/// `identity` as a person wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIdentity {
    /// How long robots' certificates are good for, such as `90d`.
    pub robot_lifetime: Option<String>,
    /// Where the list of revoked certificates is kept, for an external broker.
    pub crl_file: Option<PathBuf>,
}

/// How identities are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityConfig {
    /// How long robots' certificates are good for.
    pub robot_lifetime: Duration,
    /// Where the list of revoked certificates is kept, if anywhere.
    pub crl_file: Option<PathBuf>,
}

impl RawIdentity {
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            robot_lifetime: self.robot_lifetime.or(below.robot_lifetime),
            crl_file: self.crl_file.or(below.crl_file),
        }
    }

    pub(super) fn check(self) -> Result<IdentityConfig, ConfigError> {
        let robot_lifetime = match self.robot_lifetime {
            None => ROBOT_CERTIFICATE_LIFETIME,
            Some(text) => humantime::parse_duration(&text)
                .ok()
                .filter(|lifetime| (SHORTEST..=LONGEST).contains(lifetime))
                .ok_or(ConfigError::Value {
                    key: "identity.robot_lifetime",
                    expected: "a duration from 1m to 825d",
                    actual: text,
                })?,
        };
        Ok(IdentityConfig {
            robot_lifetime,
            crl_file: self.crl_file,
        })
    }
}
