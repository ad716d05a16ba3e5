//! The configuration: `/etc/lekiwi/agent.yml`, then `LEKIWI_*` overrides, then checked into types that
//! cannot be wrong. Reads one file; the environment is handed in.
//!
//! Overrides are flat: `LEKIWI_` and the key's path in capitals joined by `_`, such as
//! `LEKIWI_ROBOT_ID` or `LEKIWI_RELAY_HTTPS`; see [`override_names`]. Per-metric rules have none.

mod checked;
mod environment;
mod raw;

use std::path::{Path, PathBuf};

pub use checked::{Address, Config, MetricRules, Relay};
pub use environment::{Environment, override_names};

/// Where the file is when nothing says otherwise.
pub const DEFAULT_PATH: &str = "/etc/lekiwi/agent.yml";

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
    /// A key that does not exist.
    #[error("unknown key {key:?} at {place}, expected one of {expected}")]
    UnknownKey {
        /// As written.
        key: String,
        /// `file:line:column`.
        place: String,
        /// The keys that exist there.
        expected: String,
        /// The nearest of them.
        near: Option<&'static str>,
    },
    /// No YAML, or a value of another type.
    #[error("wrong value at {place}: {reason}")]
    Wrong {
        /// `file:line:column`.
        place: String,
        /// What the parser expected and found.
        reason: String,
    },
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
            Self::Unreadable { .. } => Some(
                "say where it is with `--config FILE`, or begin with agent.example.yml".to_owned(),
            ),
            Self::UnknownKey { near, .. } => near.map(|near| format!("did you mean {near:?}?")),
            Self::Wrong { .. } | Self::Value { .. } => None,
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

/// Reads, overrides and checks.
///
/// # Errors
/// When the file cannot be read, or something in it or in the environment is wrong.
pub fn load(path: &Path, environment: &Environment, hostname: &str) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, &path.display().to_string(), environment, hostname)
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
    let mut raw: raw::Config =
        serde_saphyr::from_str(text).map_err(|error| syntax(origin, error.without_snippet()))?;
    let warnings = environment.apply(&mut raw)?;
    let config = checked::check(raw, origin, environment, hostname)?;
    Ok(Loaded { config, warnings })
}

fn syntax(origin: &str, error: &serde_saphyr::Error) -> ConfigError {
    let place = match error.location() {
        Some(location) => format!("{origin}:{}:{}", location.line(), location.column()),
        None => origin.to_owned(),
    };
    match error {
        serde_saphyr::Error::SerdeUnknownField {
            field, expected, ..
        } => ConfigError::UnknownKey {
            key: field.clone(),
            place,
            expected: expected.join(", "),
            near: nearest(field, expected.iter().copied()),
        },
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => ConfigError::Wrong {
            place,
            reason: format!(
                "expected each key once, got {:?} again",
                key.as_deref().unwrap_or("one")
            ),
        },
        other => {
            let text = other.to_string();
            // The parser says the place as well; it is already in front.
            let reason = text.split(" at line ").next().unwrap_or_default();
            let reason = match reason.lines().next().unwrap_or_default() {
                "invalid u64" | "invalid u32" => "expected a whole number",
                "invalid f64" => "expected a number",
                "invalid bool" => "expected true or false",
                other => other,
            };
            ConfigError::Wrong {
                place,
                reason: reason.to_owned(),
            }
        }
    }
}

/// The most similar of `known`, if one is similar at all.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let score = |candidate: &&str| strsim::jaro_winkler(name, candidate);
    known
        .map(|candidate| (score(&candidate), candidate))
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests;
