//! Single values: what they must be, and where a wrong one stands.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::{Address, ConfigError, Environment};
use crate::identity::Signer;

/// Who says what is wrong with a value.
pub(super) struct Check<'a> {
    pub(super) origin: &'a str,
    pub(super) environment: &'a Environment,
}

impl Check<'_> {
    pub(super) fn wrong(&self, key: &str, reason: &str) -> ConfigError {
        let variable = format!("LEKIWI_{}", key.replace('.', "_").to_uppercase());
        let (key, origin) = match self.environment.value(&variable) {
            Some(_) => (variable, "the environment".to_owned()),
            None => (key.to_owned(), self.origin.to_owned()),
        };
        ConfigError::Value {
            key,
            origin,
            reason: reason.to_owned(),
        }
    }

    pub(super) fn name<T, E: fmt::Display>(
        &self,
        key: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        parse(text).map_err(|error| self.wrong(key, &error.to_string()))
    }

    pub(super) fn address(
        &self,
        key: &str,
        text: &str,
        scheme: &str,
        port: u16,
    ) -> Result<Address, ConfigError> {
        Address::parse(text, scheme, port).ok_or_else(|| {
            let reason =
                format!("expected {scheme}://HOST:PORT with a name or IPv4 address, got {text:?}");
            self.wrong(key, &reason)
        })
    }

    pub(super) fn path(
        &self,
        key: &str,
        text: Option<String>,
        default: &str,
    ) -> Result<PathBuf, ConfigError> {
        let path = PathBuf::from(text.as_deref().unwrap_or(default));
        if path.is_absolute() {
            Ok(path)
        } else {
            let reason = format!(
                "expected an absolute path, got {:?}",
                path.display().to_string()
            );
            Err(self.wrong(key, &reason))
        }
    }

    pub(super) fn signer(&self, command: Vec<String>) -> Result<Signer, ConfigError> {
        Signer::new(command).map_err(|reason| self.wrong("identity.signer", &reason))
    }

    /// `LEKIWI_LOG` comes before the file, and is complained of elsewhere.
    pub(super) fn level(&self, text: Option<String>) -> Result<LevelFilter, ConfigError> {
        let text = text.unwrap_or_else(|| "info".to_owned());
        let level = text.parse().map_err(|_| {
            let reason = format!("expected error, warn, info, debug or trace, got {text:?}");
            self.wrong("log", &reason)
        })?;
        let variable = self.environment.value("LEKIWI_LOG");
        Ok(variable
            .and_then(|level| level.parse().ok())
            .unwrap_or(level))
    }

    pub(super) fn seconds(
        &self,
        key: &str,
        value: Option<u64>,
        default: u64,
        range: &RangeInclusive<u64>,
    ) -> Result<Duration, ConfigError> {
        let seconds = value.unwrap_or(default);
        if range.contains(&seconds) {
            Ok(Duration::from_secs(seconds))
        } else {
            let (least, most) = (range.start(), range.end());
            let reason = format!("expected {least} to {most} seconds, got {seconds}");
            Err(self.wrong(key, &reason))
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::{Config, parse};
    use super::*;

    fn read(more: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let fingerprint = "00".repeat(32);
        let text = format!(
            "version: 1\nrelay: {{https: 'https://relay.example', ca_fingerprint: 'sha256:{fingerprint}'}}\n{more}"
        );
        let environment = variables.iter().copied().collect();
        Ok(parse(&text, "FILE", &environment, "kiwi-01")?.config)
    }

    #[test]
    fn a_signer_is_a_program_by_its_whole_path_and_stays_until_the_next_start() {
        let mut config = read("", &[]).unwrap();
        assert_eq!(config.signer, None);
        let other = read("identity: {signer: [/bin/signer, '0x81000010']}\n", &[]).unwrap();
        let shown = other.signer.as_ref().map(ToString::to_string);
        assert_eq!(shown.as_deref(), Some("/bin/signer 0x81000010"));
        let variable = ("LEKIWI_IDENTITY_SIGNER", "/bin/signer, 0x81000010");
        assert_eq!(read("", &[variable]).unwrap().signer, other.signer);
        assert_eq!(config.take(other), ["identity.signer"]);

        let expected = "expected the absolute path of a program and its arguments";
        for (signer, shown) in [("[]", ""), ("[signer, '0x81000010']", "signer")] {
            let error = read(&format!("identity: {{signer: {signer}}}\n"), &[]).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("identity.signer in FILE: {expected}, got {shown:?}")
            );
        }
    }
}
