//! Whether the relay lets a robot take part, as the robot is told.

use serde::{Deserialize, Serialize};

/// `to/registration`, QoS 0: sent after each factsheet and on each change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Registration {
    /// Where the robot stands.
    pub status: RegistrationStatus,
    /// Why, for people; absent while there is nothing to explain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The hardware profile that the relay has the robot under: what an approval named, else what the
    /// robot or its token said. Absent while nobody said one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// Where a robot stands with the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RegistrationStatus {
    /// It takes part.
    #[default]
    Registered,
    /// It may say who it is, and nobody but the relay hears it until a person approves it.
    Quarantined,
    /// A person turned it away; its certificate is revoked.
    Rejected,
}

impl RegistrationStatus {
    /// The status as the wire spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Quarantined => "quarantined",
            Self::Rejected => "rejected",
        }
    }
}

impl std::fmt::Display for RegistrationStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
