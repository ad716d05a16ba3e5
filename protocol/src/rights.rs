//! What people and programs may be allowed to do, on which robots, and the roles that bundle it.
//!
//! A robot's own rights are none of these: they follow from its certificate ([`crate::access`]).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{GroupName, RobotId};
use crate::message::Op;

/// One thing that somebody may be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// See robots: their state, events, telemetry, commands and alerts.
    Read,
    /// Stop a robot at once.
    Stop,
    /// Drive a robot, and lend it to others for a while.
    Teleoperate,
    /// Acknowledge alerts.
    Acknowledge,
    /// Read logs, lists of packages, what was refused and who is connected.
    Diagnose,
    /// Have services restarted, machines rebooted and actions run.
    Command,
    /// Change configurations, and the rules and silences of alerts.
    Configure,
    /// Bring software to robots.
    Deploy,
    /// Let robots into the fleet and out of it.
    Enrol,
    /// Manage people, programs, groups and bans.
    Manage,
    /// Read who did what.
    Audit,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Read,
        Self::Stop,
        Self::Teleoperate,
        Self::Acknowledge,
        Self::Diagnose,
        Self::Command,
        Self::Configure,
        Self::Deploy,
        Self::Enrol,
        Self::Manage,
        Self::Audit,
    ];

    /// As the interface spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Stop => "stop",
            Self::Teleoperate => "teleoperate",
            Self::Acknowledge => "acknowledge",
            Self::Diagnose => "diagnose",
            Self::Command => "command",
            Self::Configure => "configure",
            Self::Deploy => "deploy",
            Self::Enrol => "enrol",
            Self::Manage => "manage",
            Self::Audit => "audit",
        }
    }

    /// What it takes to have a robot do this.
    #[must_use]
    pub fn to(op: Op) -> Self {
        match op {
            Op::Estop => Self::Stop,
            Op::Ping | Op::FullState | Op::CollectLogs | Op::ListPackages => Self::Diagnose,
            Op::RestartService | Op::Reboot | Op::Shutdown | Op::RunAction => Self::Command,
            Op::RenewIdentity => Self::Enrol,
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Some of them: a list on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u16);

impl Permissions {
    /// None.
    pub const NONE: Self = Self(0);

    /// Whether `permission` is among them.
    #[must_use]
    pub const fn has(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u16) != 0
    }

    /// With `permission`.
    #[must_use]
    pub const fn and(self, permission: Permission) -> Self {
        Self(self.0 | (1 << permission as u16))
    }

    /// Whether all of `others` are among them.
    #[must_use]
    pub const fn cover(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// One by one.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL
            .into_iter()
            .filter(move |permission| self.has(*permission))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(iter: I) -> Self {
        iter.into_iter().fold(Self::NONE, Self::and)
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<Permission>::deserialize(deserializer).map(|list| list.into_iter().collect())
    }
}

/// What people are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Watches robots and drives them.
    Operator,
    /// Keeps them working: configures, commands, deploys.
    Engineer,
    /// May everything.
    Admin,
}

impl Role {
    /// All of them, the weakest first.
    pub const ALL: [Self; 3] = [Self::Operator, Self::Engineer, Self::Admin];

    /// As the interface spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Engineer => "engineer",
            Self::Admin => "admin",
        }
    }

    /// What it may. Everybody who sees a robot may stop it.
    #[must_use]
    pub fn permissions(self) -> Permissions {
        use Permission::{
            Acknowledge, Command, Configure, Deploy, Diagnose, Read, Stop, Teleoperate,
        };
        match self {
            Self::Operator => [Read, Stop, Acknowledge, Teleoperate].into_iter().collect(),
            Self::Engineer => [
                Read,
                Stop,
                Acknowledge,
                Diagnose,
                Command,
                Configure,
                Deploy,
            ]
            .into_iter()
            .collect(),
            Self::Admin => Permission::ALL.into_iter().collect(),
        }
    }
}

/// Why a role was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected operator, engineer or admin, got {0:?}")]
pub struct RoleError(String);

impl FromStr for Role {
    type Err = RoleError;
    fn from_str(text: &str) -> Result<Self, RoleError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| RoleError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a right holds; on the wire `fleet`, `group:NAME` or `robot:ID`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// On every robot, and on what is no robot's.
    Fleet,
    /// On the robots of a group.
    Group(GroupName),
    /// On one robot.
    Robot(RobotId),
}

/// Why a scope was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected fleet, group:NAME or robot:ID, got {0:?}")]
pub struct ScopeError(String);

impl FromStr for Scope {
    type Err = ScopeError;
    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let refusal = || ScopeError(text.chars().take(80).collect());
        match text.split_once(':') {
            None if text == "fleet" => Ok(Self::Fleet),
            Some(("group", name)) => name.parse().map(Self::Group).map_err(|_| refusal()),
            Some(("robot", id)) => id.parse().map(Self::Robot).map_err(|_| refusal()),
            _ => Err(refusal()),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("fleet"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Robot(id) => write!(f, "robot:{id}"),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_a_list_on_the_wire() {
        let some: Permissions = [Permission::Stop, Permission::Read].into_iter().collect();
        let json = serde_json::to_string(&some).unwrap();
        assert_eq!(json, r#"["read","stop"]"#);
        assert_eq!(serde_json::from_str::<Permissions>(&json).unwrap(), some);
        let error = serde_json::from_str::<Permissions>(r#"["root"]"#).unwrap_err();
        assert!(
            error.to_string().starts_with("unknown variant `root`"),
            "{error}"
        );
        for permission in Permission::ALL {
            assert_eq!(
                serde_json::to_string(&permission).unwrap(),
                format!("\"{permission}\"")
            );
            assert!(Role::Admin.permissions().has(permission));
        }
    }

    #[test]
    fn roles_may_what_the_requirements_say() {
        let may = |role: Role| {
            let all: Vec<_> = role.permissions().iter().map(Permission::as_str).collect();
            all.join(" ")
        };
        assert_eq!(may(Role::Operator), "read stop teleoperate acknowledge");
        assert_eq!(
            may(Role::Engineer),
            "read stop acknowledge diagnose command configure deploy"
        );
        assert_eq!(
            Role::Admin.permissions().iter().count(),
            Permission::ALL.len()
        );
    }

    #[test]
    fn scopes_are_words() {
        for text in ["fleet", "group:warehouse", "robot:kiwi-01"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for bad in ["", "all", "group:", "group:A", "robot:-a", "fleet:x"] {
            let error = bad.parse::<Scope>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("expected fleet, group:NAME or robot:ID, got {bad:?}")
            );
        }
    }
}
