//! What `lekiwi telemetry` takes.

use std::time::Duration;

use clap::Args;
use lekiwi_protocol::api::Aggregate;
use lekiwi_protocol::{MetricName, RobotId, Timestamp};

pub(super) const EXAMPLES: &str = "Examples:
  lekiwi telemetry kiwi-01                                    which metrics it has
  lekiwi telemetry kiwi-01 cpu_percent temperature_c --last 24h
  lekiwi telemetry kiwi-01 battery_v --last 30d --aggregate min
  lekiwi telemetry kiwi-01 cpu_percent --from 2026-11-20T00:00:00Z --to 2026-11-21T00:00:00Z --points 10000 --csv

Of a long time a point is the mean of its part of it, with the lowest and the highest value beside it in --csv and --json.";

#[derive(Debug, Args)]
pub(crate) struct Telemetry {
    /// The robot
    pub(crate) id: RobotId,
    /// Which metrics, 16 at most
    #[arg(value_name = "METRIC")]
    pub(crate) metrics: Vec<MetricName>,
    /// So much time up to now, such as 90s, 24h or 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = super::parse::lifetime)]
    pub(crate) last: Duration,
    /// From this UTC time on, instead of --last
    #[arg(long, value_name = "TIME", conflicts_with = "last")]
    pub(crate) from: Option<Timestamp>,
    /// Up to this UTC time; now when absent
    #[arg(long, value_name = "TIME", requires = "from")]
    pub(crate) to: Option<Timestamp>,
    /// At most so many points of each metric; a chart has as many as it needs, everything else 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(10..=10_000))]
    pub(crate) points: Option<u16>,
    /// One value for each part of the time: mean, min, max, sum, count or last
    #[arg(long, value_name = "WHICH")]
    pub(crate) aggregate: Option<Aggregate>,
    /// Print comma-separated values: time, metric, value, lowest, highest
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
    /// Print JSON, as the relay's interface has it
    #[arg(long)]
    pub(crate) json: bool,
}
