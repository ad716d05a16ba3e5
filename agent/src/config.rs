//! The configuration: `/etc/lekiwi/agent.yml`, then `LEKIWI_*` overrides, then checked into types that
//! cannot be wrong. Reads one file; the environment is handed in.
//!
//! Overrides are flat: `LEKIWI_` and the key's path in capitals joined by `_`, such as
//! `LEKIWI_ROBOT_ID` or `LEKIWI_RELAY_HTTPS`; see [`override_names`]. Per-metric rules have none.
//!
//! `reload` says what may change while the agent runs.

mod check;
mod checked;
mod desired;
mod environment;
mod raw;
mod reload;

use std::path::{Path, PathBuf};

use lekiwi_agent_core::twin::Layer;
use lekiwi_protocol::RobotId;
use lekiwi_protocol::yaml::{self, YamlError};

pub use checked::{
    Address, Config, Endpoint, HardwareConfig, MigrationConfig, ProfileChoice, Relay,
};
pub use environment::{Environment, override_names};

/// Where the file is when nothing says otherwise.
pub const DEFAULT_PATH: &str = "/etc/lekiwi/agent.yml";
/// Where the root of trust is pinned when nothing says otherwise.
pub const DEFAULT_TRUST: &str = "/etc/lekiwi/trust.json";
/// Where the agent keeps what it needs when nothing says otherwise; what `lekiwi-privileged.path` looks at.
pub const DEFAULT_STATE_DIR: &str = "/opt/lekiwi-agent/state";
/// Where the socket is when nothing says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/lekiwi/agent.sock";

/// What helps a user who may not see what root and the agent's group may.
pub const DENIED: &str = "run it with `sudo`, or add yourself to the group lekiwi-agent: \
                          `sudo usermod -aG lekiwi-agent $USER`, then log in again";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("expected a readable configuration file at {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not of the shape of a configuration.
    #[error(transparent)]
    Syntax(#[from] YamlError),
    /// A value that cannot be.
    #[error("{key} in {origin}: {reason}")]
    Value {
        /// The key's path, or the variable.
        key: String,
        /// The file, or "the environment".
        origin: String,
        /// What was expected and what came.
        reason: String,
    },
}

impl ConfigError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Some(DENIED.to_owned())
            }
            Self::Unreadable { .. } => Some(
                "say where it is with `--config FILE`, or begin with agent.example.yml".to_owned(),
            ),
            Self::Syntax(error) => error.hint(),
            Self::Value { .. } => None,
        }
    }
}

/// A configuration and what a person should know about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Unknown `LEKIWI_*` variables, with the nearest known one.
    pub warnings: Vec<String>,
}

/// Reads, overrides and checks. What operators desire stands over the file and under the environment.
///
/// # Errors
/// When the file cannot be read, or something in it, in the environment or in what is desired is wrong.
pub fn load(
    path: &Path,
    environment: &Environment,
    hostname: &str,
    desired: Option<&Layer>,
) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let origin = path.display().to_string();
    // By itself first: what is wrong with it is not the operators' fault.
    let loaded = parse(&text, &origin, environment, hostname)?;
    match desired {
        None => Ok(loaded),
        Some(desired) => {
            let config = desired::over(&text, &origin, desired, environment, hostname)?;
            Ok(Loaded { config, ..loaded })
        }
    }
}

/// The same from text; `origin` is how errors call it.
///
/// # Errors
/// When something in the text or in the environment is wrong.
pub fn parse(
    text: &str,
    origin: &str,
    environment: &Environment,
    hostname: &str,
) -> Result<Loaded, ConfigError> {
    let mut raw: raw::Config = yaml::parse(text, origin)?;
    let warnings = environment.apply(&mut raw)?;
    let config = checked::check(raw, origin, environment, hostname)?;
    Ok(Loaded { config, warnings })
}

/// The host name as a robot id: lower case, anything else a '-', cut to length.
fn from_hostname(hostname: &str) -> Option<RobotId> {
    let name = hostname.split('.').next().unwrap_or_default();
    let id: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    RobotId::new(id.trim_matches('-')).ok()
}

#[cfg(test)]
mod tests;
