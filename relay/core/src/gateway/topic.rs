//! What messages are called, and the patterns by which clients ask for them.
//!
//! A message has a type (`heartbeat`, `teleoperation.started`) and a robot. A pattern names a type, with `*` for
//! one level, or for all that follow at its end; or it is `robot.ROBOT.TYPE`, where ROBOT may be `*`. In the
//! latter, `connected` means `robot.connected`: no type but those of pictures has one level only.

use lekiwi_protocol::RobotId;

/// Longest pattern.
const MAX_BYTES: usize = 160;
const MAX_LEVELS: usize = 8;

/// The types that are no event's.
pub const PLAIN: [&str; 8] = [
    "connection",
    "factsheet",
    "state",
    "heartbeat",
    "telemetry",
    "command",
    "response",
    "presence",
];

/// Who watches a robot. Told only to those who ask for it by this name.
pub const PRESENCE: &str = "presence";

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got:?}")]
pub struct PatternError {
    expected: &'static str,
    got: String,
}

impl PatternError {
    fn new(expected: &'static str, got: &str) -> Self {
        Self {
            expected,
            got: got.chars().take(80).collect(),
        }
    }
}

/// Types, as `heartbeat`, `teleoperation.*` or `*` name them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kinds(Box<str>);

/// What of a type an index can look up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KindKey {
    /// This type.
    Exact(Box<str>),
    /// Types with this first level.
    Family(Box<str>),
    /// All types.
    Any,
}

impl Kinds {
    /// Reads `text`.
    ///
    /// # Errors
    /// When it is no pattern of types.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let level = |level: &str| {
            level == "*"
                || !level.is_empty()
                    && level
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        let levels = text.split('.').count();
        if text.len() <= MAX_BYTES && levels <= MAX_LEVELS && text.split('.').all(level) {
            Ok(Self(text.into()))
        } else {
            Err(PatternError::new(
                "a type such as heartbeat, teleoperation.started or teleoperation.*",
                text,
            ))
        }
    }

    /// Whether a message of type `kind` is meant.
    #[must_use]
    pub fn matches(&self, kind: &str) -> bool {
        if kind == PRESENCE {
            return &*self.0 == PRESENCE;
        }
        let (mut wanted, mut levels) = (self.0.split('.').peekable(), kind.split('.'));
        loop {
            match (wanted.next(), levels.next()) {
                (None, None) => return true,
                (Some("*"), Some(_)) if wanted.peek().is_none() => return true,
                (Some(pattern), Some(level)) if pattern == "*" || pattern == level => {}
                _ => return false,
            }
        }
    }

    /// Where an index finds it: every type that it matches is under this key.
    #[must_use]
    pub fn key(&self) -> KindKey {
        let first = self.0.split('.').next().unwrap_or_default();
        if !self.0.contains('*') {
            KindKey::Exact(self.0.clone())
        } else if first == "*" {
            KindKey::Any
        } else {
            KindKey::Family(first.into())
        }
    }
}

/// Messages, as a client asks for them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    /// Of this robot; of all when absent.
    pub robot: Option<RobotId>,
    /// Of these types.
    pub kinds: Kinds,
}

impl Pattern {
    /// Reads `text`.
    ///
    /// # Errors
    /// When it is no pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let refused = || {
            PatternError::new(
                "a topic such as heartbeat, teleoperation.*, robot.kiwi-01.* or robot.*.heartbeat",
                text,
            )
        };
        if text.len() > MAX_BYTES {
            return Err(refused());
        }
        let of_robot = text
            .strip_prefix("robot.")
            .and_then(|rest| rest.split_once('.'));
        let Some((robot, kinds)) = of_robot else {
            let kinds = Kinds::parse(text).map_err(|_| refused())?;
            return Ok(Self { robot: None, kinds });
        };
        let robot = match robot {
            "*" => None,
            id => Some(RobotId::new(id).map_err(|_| refused())?),
        };
        let short = !kinds.contains(['.', '*']) && !PLAIN.contains(&kinds);
        let kinds = if short {
            Kinds::parse(&format!("robot.{kinds}"))
        } else {
            Kinds::parse(kinds)
        };
        let kinds = kinds.map_err(|_| refused())?;
        Ok(Self { robot, kinds })
    }

    /// Whether a message of `robot` and type `kind` is meant.
    #[must_use]
    pub fn matches(&self, robot: &RobotId, kind: &str) -> bool {
        self.robot.as_ref().is_none_or(|wanted| wanted == robot) && self.kinds.matches(kind)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_name() {
        let cases = [
            ("*", "kiwi-01", "heartbeat", true),
            ("*", "kiwi-01", "teleoperation.started", true),
            ("heartbeat", "kiwi-01", "heartbeat", true),
            ("heartbeat", "kiwi-01", "telemetry", false),
            ("teleoperation.started", "a", "teleoperation.started", true),
            ("teleoperation.started", "a", "teleoperation.stopped", false),
            ("teleoperation.*", "a", "teleoperation.stopped", true),
            ("teleoperation.*", "a", "teleoperation.a.b", true),
            ("teleoperation.*", "a", "teleoperation", false),
            ("*.failed", "a", "setup.failed", true),
            ("*.failed", "a", "setup.step.failed", false),
            ("robot.*", "a", "robot.connected", true),
            ("robot.*", "a", "heartbeat", false),
            ("robot.connected", "a", "robot.connected", true),
            ("robot.*.heartbeat", "a", "heartbeat", true),
            ("robot.*.heartbeat", "a", "state", false),
            ("robot.kiwi-01.*", "kiwi-01", "telemetry", true),
            ("robot.kiwi-01.*", "kiwi-01", "setup.step.failed", true),
            ("robot.kiwi-01.*", "kiwi-02", "telemetry", false),
            (
                "robot.kiwi-01.connected",
                "kiwi-01",
                "robot.connected",
                true,
            ),
            ("robot.kiwi-01.robot.*", "kiwi-01", "robot.connected", true),
            ("robot.kiwi-01.setup.*", "kiwi-01", "setup.failed", true),
            ("robot.*.presence", "a", "presence", true),
            ("presence", "a", "presence", true),
            ("robot.a.*", "a", "presence", false),
            ("*", "a", "presence", false),
        ];
        for (pattern, robot, kind, expected) in cases {
            let pattern = Pattern::parse(pattern).unwrap();
            let robot = RobotId::new(robot).unwrap();
            assert_eq!(
                pattern.matches(&robot, kind),
                expected,
                "{pattern:?} {kind}"
            );
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in [
            "",
            ".",
            "Heartbeat",
            "heart beat",
            "teleoperation.",
            "teleoperation.*x",
            "robot.Kiwi.*",
            "robot.kiwi-01",
            "robot..heartbeat",
            "robot.kiwi-01.",
            "#",
            "a.b.c.d.e.f.g.h.i",
        ] {
            assert_eq!(
                Pattern::parse(bad).unwrap_err().to_string(),
                format!(
                    "expected a topic such as heartbeat, teleoperation.*, robot.kiwi-01.* or robot.*.heartbeat, got {bad:?}"
                )
            );
        }
        let long = Pattern::parse(&"x".repeat(100_000))
            .unwrap_err()
            .to_string();
        assert!(long.len() < 200, "{long}");
        assert_eq!(
            Kinds::parse("a-b").unwrap_err().to_string(),
            "expected a type such as heartbeat, teleoperation.started or teleoperation.*, got \"a-b\""
        );
    }
}
