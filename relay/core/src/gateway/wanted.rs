//! What a client wants, checked. Pure; every refusal says what was expected and what came.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::{ClientMessage, Subscribe, Throttle, ThrottleMode};

use super::index::Key;
use super::topic::{KindKey, Kinds, Pattern, PatternError};

/// Largest message of a client.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// Most subscriptions of one client.
pub const MAX_SUBSCRIPTIONS: usize = 16;
/// Most topics, robots and types in one of them, each.
pub const MAX_NAMES: usize = 256;
/// Longest name of a subscription.
pub const MAX_ID_BYTES: usize = 64;
/// Most keys under which an index knows a subscription; with more, types are left to the client's own check.
const MAX_KEYS: usize = 1_024;

/// Why a message of a client is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// It cannot be read.
    #[error(
        "expected a message such as {{\"type\":\"subscribe\",\"id\":\"a\",\"topics\":[\"heartbeat\"]}}: {0}"
    )]
    Malformed(String),
    /// It is too long.
    #[error("expected at most {MAX_REQUEST_BYTES} bytes, got {0}")]
    TooLong(usize),
    /// The subscription's name is none.
    #[error("expected an id of 1 to {MAX_ID_BYTES} bytes, got {0}")]
    Id(usize),
    /// A pattern is none.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// No robot is called so.
    #[error("{0}")]
    Robot(String),
    /// Too many of them.
    #[error("expected at most {MAX_NAMES} {what}, got {got}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many came.
        got: usize,
    },
    /// The rate is out of bounds.
    #[error("expected a rate of 0.01 to 100 messages a second, got {0}")]
    Rate(f64),
    /// Too many subscriptions.
    #[error("expected at most {MAX_SUBSCRIPTIONS} subscriptions, got one more")]
    Subscriptions,
    /// There is no subscription of this name.
    #[error("expected the id of a subscription, got {0:?}")]
    Unknown(String),
    /// The log does not reach as far.
    #[error("expected from to be a position of the event log, which ends at {end}, got {got}")]
    From {
        /// The log's last position.
        end: u64,
        /// What came.
        got: u64,
    },
}

/// A client's message in JSON, not checked any further.
///
/// # Errors
/// When it is too long or cannot be read.
pub fn parse_json(text: &[u8]) -> Result<ClientMessage, RequestError> {
    if text.len() > MAX_REQUEST_BYTES {
        return Err(RequestError::TooLong(text.len()));
    }
    serde_json::from_slice(text).map_err(|error| RequestError::Malformed(error.to_string()))
}

/// The robots that a client may hear of; all when there is no list.
pub type Within = Option<Arc<BTreeSet<RobotId>>>;

/// Which messages a subscription is about, and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Any of these; everything when empty.
    topics: Vec<Pattern>,
    /// Of these robots; of all when empty.
    robots: BTreeSet<RobotId>,
    /// Of any of these types; of all when empty.
    kinds: Vec<Kinds>,
    /// Of these robots, whatever else is asked for; of all when there is no list.
    within: Within,
    /// The span of time that a picture of each robot and type is told once in, and what becomes of more.
    pub throttle: Option<(Duration, ThrottleMode)>,
}

impl Wanted {
    /// Checks what a client asks for, that may hear of the robots in `within`.
    ///
    /// # Errors
    /// When a part of it is none, or too much.
    pub fn check(request: &Subscribe, within: Within) -> Result<Self, RequestError> {
        if request.id.is_empty() || request.id.len() > MAX_ID_BYTES {
            return Err(RequestError::Id(request.id.len()));
        }
        for (what, names) in [
            ("topics", &request.topics),
            ("robot_ids", &request.filter.robot_ids),
            ("event_types", &request.filter.event_types),
        ] {
            if names.len() > MAX_NAMES {
                let got = names.len();
                return Err(RequestError::TooMany { what, got });
            }
        }
        let robot =
            |id: &String| RobotId::new(id).map_err(|error| RequestError::Robot(error.to_string()));
        let pattern = |text: &String| Pattern::parse(text);
        let kinds = |text: &String| Kinds::parse(text);
        Ok(Self {
            topics: request
                .topics
                .iter()
                .map(pattern)
                .collect::<Result<_, _>>()?,
            robots: request
                .filter
                .robot_ids
                .iter()
                .map(robot)
                .collect::<Result<_, _>>()?,
            kinds: request
                .filter
                .event_types
                .iter()
                .map(kinds)
                .collect::<Result<_, _>>()?,
            within,
            throttle: request.throttle.map(span).transpose()?,
        })
    }

    /// Whether a message of `robot` and type `kind` is wanted.
    #[must_use]
    pub fn matches(&self, robot: &RobotId, kind: &str) -> bool {
        let topics = match self.topics.as_slice() {
            // Who watches is told only to those who name it.
            [] => kind != super::topic::PRESENCE || !self.kinds.is_empty(),
            topics => topics.iter().any(|topic| topic.matches(robot, kind)),
        };
        topics
            && self.may_mean(robot)
            && (self.kinds.is_empty() || self.kinds.iter().any(|kinds| kinds.matches(kind)))
    }

    fn may_mean(&self, robot: &RobotId) -> bool {
        (self.robots.is_empty() || self.robots.contains(robot))
            && self
                .within
                .as_ref()
                .is_none_or(|within| within.contains(robot))
    }

    /// The robots that are named: only they can be meant. `None` when others can be.
    #[must_use]
    pub fn robots(&self) -> Option<BTreeSet<&RobotId>> {
        let named: Option<BTreeSet<&RobotId>> = if self.robots.is_empty() {
            let named = self.topics.iter().map(|topic| topic.robot.as_ref());
            let named: Option<BTreeSet<&RobotId>> = named.collect();
            named.filter(|robots| !robots.is_empty())
        } else {
            Some(self.robots.iter().collect())
        };
        named.map(|robots| {
            robots
                .into_iter()
                .filter(|robot| self.may_mean(robot))
                .collect()
        })
    }

    /// The robots that can be meant where a topic names none; all when there is no list.
    fn bounds(&self) -> Option<Vec<RobotId>> {
        match &self.within {
            None if self.robots.is_empty() => None,
            Some(within) if self.robots.is_empty() => Some(within.iter().cloned().collect()),
            _ => {
                let meant = self.robots.iter().filter(|robot| self.may_mean(robot));
                Some(meant.cloned().collect())
            }
        }
    }

    /// Where an index finds this: every message that is wanted is under one of the keys, some that are not are too.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<Key> {
        let all = || Kinds::parse("*").ok().into_iter();
        let topics: Vec<(Option<RobotId>, Kinds)> = if self.topics.is_empty() {
            all().map(|kinds| (None, kinds)).collect()
        } else {
            let both = |topic: &Pattern| (topic.robot.clone(), topic.kinds.clone());
            self.topics.iter().map(both).collect()
        };
        let mut keys = BTreeSet::new();
        for (robot, kinds) in topics {
            let robots: Vec<Option<RobotId>> = match robot {
                Some(robot) if self.may_mean(&robot) => vec![Some(robot)],
                Some(_) => continue,
                None => match self.bounds() {
                    None => vec![None],
                    Some(robots) => robots.into_iter().map(Some).collect(),
                },
            };
            let kinds: Vec<KindKey> = match kinds.key() {
                KindKey::Any if !self.kinds.is_empty() => {
                    self.kinds.iter().map(Kinds::key).collect()
                }
                key => vec![key],
            };
            for robot in robots {
                let key = |kind: &KindKey| Key::new(robot.clone(), kind.clone());
                keys.extend(kinds.iter().map(key));
                if keys.len() > MAX_KEYS {
                    return self.coarse();
                }
            }
        }
        keys
    }

    /// Keys by robot only.
    fn coarse(&self) -> BTreeSet<Key> {
        let any = |robot| Key::new(robot, KindKey::Any);
        let named = self
            .robots()
            .map(|robots| robots.into_iter().cloned().collect());
        match named.or_else(|| self.bounds()) {
            Some(robots) => robots.into_iter().map(Some).map(any).collect(),
            None => [any(None)].into(),
        }
    }
}

fn span(throttle: Throttle) -> Result<(Duration, ThrottleMode), RequestError> {
    // Not a number is in no range.
    if !(0.01..=100.0).contains(&throttle.rate) {
        return Err(RequestError::Rate(throttle.rate));
    }
    Ok((
        Duration::from_secs_f64(throttle.rate.recip()),
        throttle.mode,
    ))
}
