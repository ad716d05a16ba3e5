//! Who may use the interface, and what they may.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::keys::KeyInfo;
use crate::id::{GroupName, RobotId, UserName};
use crate::rights::{Permissions, Role, Scope};
use crate::timestamp::Timestamp;

/// A role of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Which one.
    pub role: Role,
    /// Where it holds: `fleet`, `group:NAME` or `robot:ID`.
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^(fleet|group:[a-z0-9][a-z0-9-]{0,39}|robot:[a-z0-9][a-z0-9-]{0,62})$"))]
    pub on: Scope,
    /// When it ends; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub until: Option<Timestamp>,
}

impl Grant {
    /// Whether its owner may everything, for good.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.role == Role::Admin && self.on == Scope::Fleet && self.until.is_none()
    }
}

/// A robot that somebody lent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Loan {
    /// Which one.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub robot_id: RobotId,
    /// To whom.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub to: UserName,
    /// By whom.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub by: UserName,
    /// When it ends.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub until: Timestamp,
}

/// `POST /api/v1/robots/{id}/loans`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LoanRequest {
    /// To whom.
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[a-z0-9][a-z0-9._@+-]{0,63}$"))]
    pub to: UserName,
    /// For how long.
    #[cfg_attr(feature = "openapi", schema(minimum = 60, maximum = 604800))]
    pub lifetime_s: u64,
}

/// Loans of a robot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoanList {
    /// Those that have not ended.
    pub loans: Vec<Loan>,
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Person {
    /// As whom they log in.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: UserName,
    /// What they are.
    pub roles: Vec<Grant>,
    /// What others lent them.
    pub loans: Vec<Loan>,
    /// Since when.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Since when they are not let in any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub disabled_at: Option<Timestamp>,
    /// Whether they can log in by a password.
    pub has_password: bool,
    /// Whether that takes a second factor.
    pub has_second_factor: bool,
    /// Who vouches for them when they log in, when it is not the relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Their sessions.
    pub sessions: u64,
}

/// `GET /api/v1/people`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PersonList {
    /// All, by name.
    pub people: Vec<Person>,
}

/// `POST /api/v1/people`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PersonRequest {
    /// As whom they log in.
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[a-z0-9][a-z0-9._@+-]{0,63}$"))]
    pub name: UserName,
    /// Their first password.
    pub password: String,
    /// What they are.
    pub roles: Vec<Grant>,
}

/// `PATCH /api/v1/people/{id}`: what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PersonChange {
    /// What they are from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<Grant>>,
    /// Whether they are let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
}

/// `PUT /api/v1/people/{id}/password`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// The one that is to count.
    pub password: String,
}

/// `PUT /api/v1/me/password`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PasswordChange {
    /// The one that counts.
    pub current: String,
    /// The one that is to count.
    pub new: String,
}

/// `GET /api/v1/me`: who asks, and what they may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Me {
    /// As whom they logged in; of a program, whose key it has shown.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: UserName,
    /// What they may where, as of now.
    pub rights: Vec<RightView>,
    /// The key that was shown, of a program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyInfo>,
    /// Whether their password takes a second factor.
    pub has_second_factor: bool,
    /// How many recovery codes they have left.
    pub recovery_codes: u64,
}

/// What somebody may somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RightView {
    /// What.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::rights::Permission>))]
    pub permissions: Permissions,
    /// Where.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub on: Scope,
    /// Until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub until: Option<Timestamp>,
    /// Why: a role, a loan, or a key.
    pub by: String,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionView {
    /// Which one; no secret.
    pub id: String,
    /// When it began.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// When it ends by itself.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
    /// Where they logged in from.
    pub address: String,
    /// With which program.
    pub agent: String,
    /// Whether it is the one that asks.
    pub is_this: bool,
}

/// Sessions of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionList {
    /// Those that count, the newest first.
    pub sessions: Vec<SessionView>,
}

/// `PUT /api/v1/groups/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GroupRequest {
    /// Its robots, known or not yet.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub robots: BTreeSet<RobotId>,
}

/// A group of robots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Group {
    /// Its name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: GroupName,
    /// Its robots.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub robots: BTreeSet<RobotId>,
}

/// `GET /api/v1/groups`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupList {
    /// All, by name.
    pub groups: Vec<Group>,
}
