//! Telemetry history over HTTP: what was asked for, made of what.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `GET /api/v1/robots/{id}/telemetry?metric=&from=&to=&points=&aggregate=`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TelemetryHistory {
    /// What the points were made of: samples, or roll-ups of so much time.
    pub resolution: Resolution,
    /// How many milliseconds from its time on a point stands for; absent where points are samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_ms: Option<u64>,
    /// One for each metric that was asked for, in that order.
    pub series: Vec<TelemetrySeries>,
}

/// One metric over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TelemetrySeries {
    /// The metric.
    pub metric: String,
    /// `[milliseconds since the epoch, value]`, ascending. Where a point stands for several samples: their mean, or the
    /// aggregate that was asked for.
    pub points: Vec<(u64, f64)>,
    /// `[lowest, highest]` of what each point stands for; empty where points are samples, or one aggregate was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<(f64, f64)>,
}

/// How fine history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Resolution {
    /// Samples as they came.
    #[serde(rename = "raw")]
    Raw,
    /// Roll-ups of a minute.
    #[serde(rename = "1m")]
    Minute,
    /// Roll-ups of a quarter of an hour.
    #[serde(rename = "15m")]
    Quarter,
    /// Roll-ups of an hour.
    #[serde(rename = "1h")]
    Hour,
}

/// What to say of several samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// Their mean.
    Mean,
    /// The lowest.
    Min,
    /// The highest.
    Max,
    /// All together.
    Sum,
    /// How many.
    Count,
    /// The latest.
    Last,
}

impl Aggregate {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Mean,
        Self::Min,
        Self::Max,
        Self::Sum,
        Self::Count,
        Self::Last,
    ];
    /// Their names, for people.
    pub const EXPECTED: &'static str = "mean, min, max, sum, count or last";

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
            Self::Sum => "sum",
            Self::Count => "count",
            Self::Last => "last",
        }
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no [`Aggregate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {0:?}", expected = Aggregate::EXPECTED)]
pub struct AggregateError(String);

impl FromStr for Aggregate {
    type Err = AggregateError;
    fn from_str(text: &str) -> Result<Self, AggregateError> {
        Self::ALL
            .into_iter()
            .find(|aggregate| aggregate.as_str() == text)
            .ok_or_else(|| AggregateError(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_wire() {
        for aggregate in Aggregate::ALL {
            let json = serde_json::to_value(aggregate).expect("a text");
            assert_eq!(json, aggregate.as_str());
            assert_eq!(aggregate.as_str().parse(), Ok(aggregate));
        }
        let refused = "median".parse::<Aggregate>().expect_err("no aggregate");
        assert_eq!(
            refused.to_string(),
            "expected mean, min, max, sum, count or last, got \"median\""
        );
    }
}
