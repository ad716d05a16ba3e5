//! Who logs in how, as the configuration says it.

use serde::Deserialize;

use super::ConfigError;
use super::oidc::{self, ProviderConfig, RawProvider};
use crate::people::factor::Demand;

/// `people` as a person wrote it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPeople {
    /// Who else may say who somebody is. In the file only.
    pub oidc: Option<Vec<RawProvider>>,
    /// Of whom a second factor is demanded: `optional`, `admins` or `all`.
    pub second_factor: Option<String>,
}

impl RawPeople {
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            oidc: self.oidc.or(below.oidc),
            second_factor: self.second_factor.or(below.second_factor),
        }
    }

    pub(super) fn check(self) -> Result<(Demand, Vec<ProviderConfig>), ConfigError> {
        let demand = match self.second_factor.as_deref() {
            None | Some("optional") => Demand::Optional,
            Some("admins") => Demand::Admins,
            Some("all") => Demand::All,
            Some(other) => {
                return Err(ConfigError::Value {
                    key: "people.second_factor",
                    expected: "optional, admins or all",
                    actual: other.to_owned(),
                });
            }
        };
        let providers = oidc::check(self.oidc.unwrap_or_default()).map_err(ConfigError::Oidc)?;
        Ok((demand, providers))
    }
}
