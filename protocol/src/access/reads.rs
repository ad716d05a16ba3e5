//! What a consumer may read, where it is not everything: filters, of which each subscription must lie within one. The rules
//! of external brokers have the same filters, line by line.

use std::fmt;
use std::sync::Arc;

use crate::id::RobotId;

/// Most filters of a consumer.
pub const MAX_FILTERS: usize = 32;
/// Longest filter, bytes.
const MAX_BYTES: usize = 200;

/// What a consumer may read below its root; everything that consumers may where there is no filter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reads(Arc<[String]>);

/// Why filters were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadsError {
    /// One is none that a consumer could have.
    #[error(
        "expected filters such as robots/kiwi-01/from/#, robots/+/from/telemetry or alerts/+, got {0:?}"
    )]
    Filter(String),
    /// There are too many.
    #[error("expected at most {MAX_FILTERS} filters, got {0}")]
    TooMany(usize),
}

impl Reads {
    /// Checks filters, which begin below the root: `robots/…/from/…`, `tasks/…` and `alerts/…`.
    ///
    /// # Errors
    /// When one of them is none, or reaches beyond what consumers may read, or there are too many.
    pub fn parse(filters: &[String]) -> Result<Self, ReadsError> {
        if filters.len() > MAX_FILTERS {
            return Err(ReadsError::TooMany(filters.len()));
        }
        match filters.iter().find(|filter| !is_filter(filter)) {
            Some(wrong) => Err(ReadsError::Filter(wrong.chars().take(80).collect())),
            None => Ok(Self(filters.into())),
        }
    }

    /// The filters; none where it is everything.
    #[must_use]
    pub fn filters(&self) -> &[String] {
        &self.0
    }

    /// Whether a subscription to `levels`, those below the root, lies within one of them.
    pub(super) fn allow(&self, levels: &[&str]) -> bool {
        self.0.is_empty() || self.0.iter().any(|filter| covers(filter, levels))
    }
}

impl fmt::Display for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.filters() {
            [] => f.write_str("everything"),
            filters => f.write_str(&filters.join(", ")),
        }
    }
}

fn is_filter(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    let last = levels.len() - 1;
    let is_word = |level: &str| {
        !level.is_empty()
            && level
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b))
    };
    let is_level = |(at, level): (usize, &&str)| match *level {
        "#" => at == last,
        "+" => true,
        word => is_word(word),
    };
    let is_known = match levels.as_slice() {
        ["robots", robot, "from", _, ..] => *robot == "+" || RobotId::new(robot).is_ok(),
        ["tasks" | "alerts", _] => true,
        _ => false,
    };
    filter.len() <= MAX_BYTES && is_known && levels.iter().enumerate().all(is_level)
}

/// Whether everything that `wanted` matches is matched by `filter`.
fn covers(filter: &str, wanted: &[&str]) -> bool {
    let mut wanted = wanted.iter();
    for level in filter.split('/') {
        match (level, wanted.next()) {
            ("#", _) => return true,
            (_, None | Some(&"#")) => return false,
            ("+", Some(_)) => {}
            (level, Some(wanted)) if level == *wanted => {}
            _ => return false,
        }
    }
    wanted.next().is_none()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn reads(filters: &[&str]) -> Result<Reads, ReadsError> {
        let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
        Reads::parse(&filters)
    }

    #[test]
    fn filters_are_those_of_consumers() {
        for good in [
            "robots/kiwi-01/from/#",
            "robots/+/from/telemetry",
            "robots/+/from/cmd/+",
            "tasks/#",
            "alerts/hot:kiwi-01:1",
        ] {
            assert_eq!(reads(&[good]).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "#",
            "robots/#",
            "robots/+/#",
            "robots/+/to/#",
            "robots/Kiwi/from/#",
            "robots/+/from",
            "robots/+/from/#/state",
            "robots/+/from/sta+e",
            "robots/+/from//state",
            "alerts",
            "alerts/+/+",
            "robots/+/from/a b",
            "fleet/v1/default/alerts/+",
        ] {
            assert_eq!(
                reads(&[bad]).unwrap_err().to_string(),
                format!(
                    "expected filters such as robots/kiwi-01/from/#, robots/+/from/telemetry or alerts/+, got {bad:?}"
                )
            );
        }
        assert_eq!(reads(&["alerts/+"; 33]), Err(ReadsError::TooMany(33)));
        assert_eq!(Reads::default().to_string(), "everything");
    }

    #[test]
    fn a_subscription_lies_within_one_filter() {
        let some = reads(&["robots/kiwi-01/from/#", "robots/+/from/state", "alerts/+"]).unwrap();
        for (wanted, expected) in [
            ("robots/kiwi-01/from/#", true),
            ("robots/kiwi-01/from/cmd/1", true),
            ("robots/kiwi-01/from/+", true),
            ("robots/kiwi-02/from/state", true),
            ("robots/+/from/state", true),
            ("robots/+/from/#", false),
            ("robots/+/from/+", false),
            ("robots/kiwi-02/from/#", false),
            ("robots/kiwi-02/from/state/#", false),
            ("robots/kiwi-02/from/telemetry", false),
            ("alerts/+", true),
            ("alerts/hot:kiwi-01:1", true),
            ("alerts/#", false),
            ("tasks/+", false),
        ] {
            let levels: Vec<&str> = wanted.split('/').collect();
            assert_eq!(some.allow(&levels), expected, "{wanted}");
            assert!(Reads::default().allow(&levels));
        }
    }
}
