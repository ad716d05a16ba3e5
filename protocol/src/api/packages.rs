//! Which packages a robot has.

use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// `GET /api/v1/robots/{id}/packages`: the newest list that the robot uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PackagesView {
    /// `sha256:` and 64 hex digits, over a line `NAME ARCHITECTURE VERSION` a package.
    pub digest: String,
    /// Whether that is the digest that the robot's state has; absent while the robot has not said what it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_current: Option<bool>,
    /// When the list came.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub uploaded_at: Timestamp,
    /// In dpkg's order.
    pub packages: Vec<PackageView>,
}

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PackageView {
    /// Its name.
    pub name: String,
    /// For which architecture it is.
    pub architecture: String,
    /// Its version.
    pub version: String,
}

impl PackageView {
    /// Reads a line `NAME ARCHITECTURE VERSION`; what a line lacks stays empty.
    #[must_use]
    pub fn read(line: &str) -> Self {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let mut next = || words.next().unwrap_or_default();
        Self {
            name: next(),
            architecture: next(),
            version: next(),
        }
    }
}
