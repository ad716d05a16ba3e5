//! Who may do what, as one pure function: [`allow`]. The HTTP interface and the gateway ask it of every request. Of a
//! topic it asks [`Principal`], as the embedded broker does itself for each message, whose topic it needs in its parts.
//!
//! A person or program has rights: permissions on the fleet, on a group of robots or on one robot, some of them for a
//! while. Robots, consumers and relays have none: what they may follows from their certificate alone.
//!
//! Invariant: nothing is allowed but by a right, a certificate, or an [`Action::Open`]; and each refusal says what was
//! missing, without telling what the asker may not see.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lekiwi_protocol::access::{Principal, Refusal};
use lekiwi_protocol::message::Op;
use lekiwi_protocol::{
    GroupName, Permission, Permissions, RobotId, Role, Root, Scope, Timestamp, UserName,
};

/// Which robots are in which group.
pub type Groups = BTreeMap<GroupName, BTreeSet<RobotId>>;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub enum Who<'a> {
    /// Somebody unknown.
    Nobody,
    /// Who is logged in.
    Person {
        /// As whom.
        name: &'a UserName,
        /// What they may.
        rights: &'a [Right],
    },
    /// Who has shown an API key.
    Program {
        /// The key's name.
        key: &'a str,
        /// What it may at most.
        right: &'a Right,
        /// Whose it is.
        owner: &'a UserName,
        /// What its owner may: a key never may more.
        rights: &'a [Right],
    },
    /// Who has shown a certificate.
    Certified(&'a Principal),
}

impl<'a> Who<'a> {
    fn rights(self) -> &'a [Right] {
        match self {
            Self::Person { rights, .. } => rights,
            Self::Program { right, .. } => std::slice::from_ref(right),
            Self::Nobody | Self::Certified(_) => &[],
        }
    }

    /// Who answers for a program.
    fn owner(self) -> Option<Self> {
        match self {
            Self::Program { owner, rights, .. } => Some(Self::Person {
                name: owner,
                rights,
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Person { name, .. } => write!(f, "user {name}"),
            Self::Program { key, owner, .. } => write!(f, "API key {key:?} of {owner}"),
            Self::Certified(Principal::Robot(id)) => write!(f, "robot {id}"),
            Self::Certified(Principal::Consumer(name, _)) => write!(f, "consumer {name}"),
            Self::Certified(Principal::Relay(id)) => write!(f, "relay {id}"),
        }
    }
}

/// Permissions that somebody has somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// What is allowed.
    pub permissions: Permissions,
    /// On which robots.
    pub on: Scope,
    /// When it ends, if ever.
    pub until: Option<Timestamp>,
    /// Where it comes from.
    pub source: Source,
}

/// Where a right comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A role that was given.
    Role(Role),
    /// A robot that somebody lent.
    Lent(UserName),
    /// An API key's own.
    Key,
}

impl Right {
    /// Whether it has not ended.
    #[must_use]
    pub fn holds(&self, when: Timestamp) -> bool {
        self.until.is_none_or(|until| when < until)
    }

    /// Whether it is about this.
    #[must_use]
    pub fn covers(&self, what: What<'_>, groups: &Groups) -> bool {
        match (&self.on, what) {
            // Whoever has a right somewhere has it on some robot.
            (Scope::Fleet, _) | (_, What::Some) => true,
            (Scope::Group(group), What::Robot(id)) => {
                groups.get(group).is_some_and(|robots| robots.contains(id))
            }
            (Scope::Robot(own), What::Robot(id)) => own == id,
            (_, What::Fleet) => false,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(role) => role.fmt(f),
            Self::Lent(by) => write!(f, "a loan by {by}"),
            Self::Key => f.write_str("a key"),
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Source::Key => {
                let names: Vec<&str> = self.permissions.iter().map(Permission::as_str).collect();
                f.write_str(&names.join(", "))?;
            }
            _ => self.source.fmt(f)?,
        }
        write!(f, " on {}", self.on)?;
        match self.until {
            Some(until) => write!(f, " until {until}"),
            None => Ok(()),
        }
    }
}

/// What they want to do.
#[derive(Debug, Clone, Copy)]
pub enum Action<'a> {
    /// What everybody may: log in, enrol with a token, ask whether the relay is up.
    Open,
    /// What concerns nobody but who asks: who they are.
    Own,
    /// What makes, changes and ends ways to log in: their password, sessions and keys.
    LogIn,
    /// What takes a permission.
    Do(Permission),
    /// Have a robot do something.
    Command(Op),
    /// Say something as the robot itself, over HTTPS.
    Report,
    /// Read the relay's metrics.
    Scrape,
    /// Say something to the broker, on this topic.
    Publish(&'a Root, &'a str),
    /// Leave something to be said by the broker, on this topic.
    Will(&'a Root, &'a str),
    /// Hear what the broker takes on these topics.
    Subscribe(&'a Root, &'a str),
}

/// To what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'a> {
    /// What is no single robot's: the relay, people, the whole fleet.
    Fleet,
    /// Robots that they may see: what others have is left out of the answer.
    Some,
    /// One robot.
    Robot(&'a RobotId),
}

/// What a decision is based on besides who asks and for what.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// When.
    pub now: Timestamp,
    /// Which robots are in which group.
    pub groups: &'a Groups,
}

/// Why something is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis<'a> {
    /// Everybody may.
    Open,
    /// It is their own.
    Own,
    /// By a right.
    Right(&'a Right),
    /// By a certificate.
    Certificate,
}

/// Why something is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Nobody is logged in.
    #[error("expected a session, an API key or `Authorization: Bearer …`")]
    Login,
    /// The route is a robot's.
    #[error("expected a robot's certificate in the TLS handshake, got {0}")]
    Certificate(String),
    /// A robot asks for another's.
    #[error("robot {robot} may speak for itself, not for {other}")]
    OtherRobot {
        /// Who asks.
        robot: RobotId,
        /// For whom.
        other: RobotId,
    },
    /// The robot is none of theirs: it is not said whether there is one.
    #[error("there is no robot {0} that {1} may see")]
    Unseen(RobotId, String),
    /// A program asks for what only a person may.
    #[error("expected the session of a person, got {0}")]
    Person(String),
    /// A permission is missing.
    #[error("expected the permission `{permission}` on {on}, {who} has {has}")]
    Permission {
        /// Which one.
        permission: Permission,
        /// Where.
        on: String,
        /// Who asks.
        who: String,
        /// What they have instead.
        has: String,
    },
    /// The contract's access rules say no.
    #[error(transparent)]
    Topic(#[from] Refusal),
}

/// Whether `who` may do this to that, and why.
///
/// # Errors
/// When they may not.
pub fn allow<'a>(
    who: Who<'a>,
    action: Action<'_>,
    what: What<'_>,
    at: Circumstances<'_>,
) -> Result<Basis<'a>, Denial> {
    match (who, action) {
        (_, Action::Open) => Ok(Basis::Open),
        (Who::Certified(client), Action::Publish(root, topic)) => {
            client.may_publish(root, topic)?;
            Ok(Basis::Certificate)
        }
        (Who::Certified(client), Action::Will(root, topic)) => {
            client.may_will(root, topic)?;
            Ok(Basis::Certificate)
        }
        (Who::Certified(client), Action::Subscribe(root, filter)) => {
            client.may_subscribe(root, filter)?;
            Ok(Basis::Certificate)
        }
        (Who::Certified(Principal::Robot(robot)), Action::Report) => match what {
            What::Robot(other) if robot != other => Err(Denial::OtherRobot {
                robot: robot.clone(),
                other: other.clone(),
            }),
            _ => Ok(Basis::Certificate),
        },
        (_, Action::Report | Action::Publish(..) | Action::Will(..) | Action::Subscribe(..)) => {
            Err(Denial::Certificate(shown(who)))
        }
        (Who::Certified(Principal::Consumer(..)), Action::Scrape) => Ok(Basis::Certificate),
        (Who::Nobody | Who::Certified(_), _) => Err(Denial::Login),
        (Who::Person { .. } | Who::Program { .. }, Action::Own)
        | (Who::Person { .. }, Action::LogIn) => Ok(Basis::Own),
        // A program that could log in, or let others in, would outlive its key.
        (Who::Program { .. }, Action::LogIn | Action::Do(Permission::Manage)) => {
            Err(Denial::Person(who.to_string()))
        }
        (_, Action::Do(permission)) => by_right(who, permission, what, at),
        (_, Action::Command(op)) => by_right(who, Permission::to(op), what, at),
        (_, Action::Scrape) => by_right(who, Permission::Read, What::Fleet, at),
    }
}

/// The robots that `who` may see, known or not; all when there is no list.
#[must_use]
pub fn seen(who: Who<'_>, at: Circumstances<'_>) -> Option<BTreeSet<RobotId>> {
    let own = seen_by(who.rights(), at);
    let Some(owner) = who.owner() else {
        return own;
    };
    match (own, seen_by(owner.rights(), at)) {
        (Some(own), Some(owners)) => Some(own.intersection(&owners).cloned().collect()),
        (robots, None) | (None, robots) => robots,
    }
}

fn seen_by(rights: &[Right], at: Circumstances<'_>) -> Option<BTreeSet<RobotId>> {
    let mut robots = BTreeSet::new();
    for right in rights {
        if !right.holds(at.now) || !right.permissions.has(Permission::Read) {
            continue;
        }
        match &right.on {
            Scope::Fleet => return None,
            Scope::Group(group) => {
                robots.extend(at.groups.get(group).into_iter().flatten().cloned())
            }
            Scope::Robot(id) => {
                robots.insert(id.clone());
            }
        }
    }
    Some(robots)
}

fn by_right<'a>(
    who: Who<'a>,
    permission: Permission,
    what: What<'_>,
    at: Circumstances<'_>,
) -> Result<Basis<'a>, Denial> {
    let standing = || who.rights().iter().filter(|right| right.holds(at.now));
    let mut here = standing().filter(|right| right.covers(what, at.groups));
    if let Some(right) = here.find(|right| right.permissions.has(permission)) {
        let Some(owner) = who.owner() else {
            return Ok(Basis::Right(right));
        };
        return match by_right(owner, permission, what, at) {
            Err(Denial::Permission { permission, on, .. }) => Err(Denial::Permission {
                permission,
                on,
                who: format!("the owner of {who}"),
                has: "it not".to_owned(),
            }),
            Err(Denial::Unseen(id, _)) => Err(Denial::Unseen(id, who.to_string())),
            Err(other) => Err(other),
            Ok(_) => Ok(Basis::Right(right)),
        };
    }
    let reads = |who: Who<'_>| {
        let mut rights = who.rights().iter();
        rights.any(|it| {
            it.permissions.has(Permission::Read) && it.holds(at.now) && it.covers(what, at.groups)
        })
    };
    if let What::Robot(id) = what
        && !(reads(who) && who.owner().is_none_or(reads))
    {
        return Err(Denial::Unseen(id.clone(), who.to_string()));
    }
    let rights: Vec<String> = standing().map(ToString::to_string).collect();
    Err(Denial::Permission {
        permission,
        on: match what {
            What::Fleet => "the fleet".to_owned(),
            What::Some => "any robot".to_owned(),
            What::Robot(id) => format!("robot {id}"),
        },
        who: who.to_string(),
        has: if rights.is_empty() {
            "none".to_owned()
        } else {
            rights.join("; ")
        },
    })
}

fn shown(who: Who<'_>) -> String {
    match who {
        Who::Certified(_) => format!("that of {who}"),
        _ => "none".to_owned(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
