//! Who logs in how, as the configuration says it.

use serde::Deserialize;

use super::ConfigError;
use crate::people::factor::Demand;

/// `people` as a person wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPeople {
    /// Of whom a second factor is demanded: `optional`, `admins` or `all`.
    pub second_factor: Option<String>,
}

impl RawPeople {
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            second_factor: self.second_factor.or(below.second_factor),
        }
    }

    pub(super) fn check(self) -> Result<Demand, ConfigError> {
        match self.second_factor.as_deref() {
            None | Some("optional") => Ok(Demand::Optional),
            Some("admins") => Ok(Demand::Admins),
            Some("all") => Ok(Demand::All),
            Some(other) => Err(ConfigError::Value {
                key: "people.second_factor",
                expected: "optional, admins or all",
                actual: other.to_owned(),
            }),
        }
    }
}
