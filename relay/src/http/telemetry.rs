//! Telemetry history, by robot and metric.

use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use lekiwi_protocol::api::{self, Aggregate, Resolution, TelemetryHistory, TelemetrySeries};
use lekiwi_protocol::{MetricName, RobotId, Timestamp};
use lekiwi_relay_core::history::query::{Plan, Range};

use super::App;
use super::extract::{Query, Robot};
use super::problem::{Failure, Kind};
use crate::clock;

/// Most points of one metric.
const MOST: u64 = 10_000;
/// Fewer than that are no chart.
const FEWEST: u64 = 10;
const USUAL: u64 = 1_000;
const USUAL_SPAN: Duration = Duration::from_secs(3600);
/// Most metrics of one answer.
const MOST_METRICS: usize = 16;
/// Most points of all metrics together: what one answer may weigh.
const MOST_TOGETHER: u64 = 20_000;

/// History of metrics of one robot, ascending. With `points`, what is too much becomes fewer points of the same shape: of
/// samples some, the extremes included; of longer ranges one for each step of time, with the lowest and highest value. With
/// `limit`: the newest samples as they came.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}/telemetry", tag = "fleet",
    params(
        ("id" = String, Path, description = "The robot"),
        ("metric" = String, Query, description = "Which metric, such as `cpu_percent`, or up to 16 with commas between them"),
        ("from" = Option<String>, Query, description = "Start, ISO 8601 or milliseconds since 1970; one hour before `to` when absent"),
        ("to" = Option<String>, Query, description = "End, exclusive; now when absent"),
        ("points" = Option<u64>, Query, minimum = 10, maximum = 10000, description = "At most so many points of each metric, 10 to 10000 and 20000 of all together; 1000 when absent"),
        ("aggregate" = Option<Aggregate>, Query, description = "One value for each step of time, and which"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 10000, description = "The newest so many samples of each metric as they came, 1 to 10000 and 20000 of all together, instead of `points`"),
    ),
    responses(
        (status = 200, body = TelemetryHistory),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn of_robot(
    State(app): State<App>,
    Robot(robot): Robot,
    mut query: Query,
) -> Result<Answer<TelemetryHistory>, Failure> {
    let metrics = query.text("metric", MetricName::EXPECTED, names)?;
    let from = query.time("from")?;
    let now_ms = clock::now_ms();
    let to = query.time("to")?.unwrap_or(Timestamp::from_ms(now_ms + 1));
    let points = query.number("points", FEWEST..=MOST)?;
    let aggregate = query.text("aggregate", Aggregate::EXPECTED, |text| text.parse().ok())?;
    let limit = query.number("limit", 1..=MOST)?;
    query.finish()?;
    let count = metrics.as_ref().map_or(1, Vec::len);
    if count > MOST_METRICS {
        return Err(refused(format!(
            "expected at most {MOST_METRICS} metrics, got {count}"
        )));
    }
    let fair = MOST_TOGETHER / count as u64;
    if let Some(asked) = points.or(limit).filter(|asked| *asked > fair) {
        return Err(refused(format!(
            "expected at most {MOST_TOGETHER} points of all metrics together, got {asked} of each of {count}"
        )));
    }
    let from = from.unwrap_or_else(|| {
        Timestamp::from_ms(to.as_ms().saturating_sub(USUAL_SPAN.as_millis() as u64))
    });
    if from > to {
        return Err(refused(format!(
            "expected from to be before to, got {from} and {to}"
        )));
    }
    if limit.is_some() && (points.is_some() || aggregate.is_some()) {
        return Err(refused(
            "expected limit without points and aggregate, got both".to_owned(),
        ));
    }
    super::robots::known(&app, &robot)?;
    let Some(metrics) = metrics else {
        return Err(nameless(&app, &robot).await?);
    };
    let (from_ms, to_ms) = (from.as_ms(), to.as_ms());
    if let Some(limit) = limit {
        return newest(&app, &robot, metrics, from_ms..to_ms, limit).await;
    }
    let range = Range {
        from_ms,
        to_ms,
        points: usize::try_from(points.unwrap_or(USUAL)).unwrap_or(usize::MAX),
        aggregate,
    };
    let plan = Plan::new(range, &app.retention, now_ms);
    let series = app.store.history(robot.as_str(), metrics, plan).await?;
    Ok(Answer(TelemetryHistory {
        resolution: plan.level,
        step_ms: plan.step_ms,
        series,
    }))
}

/// The newest samples as they came.
async fn newest(
    app: &App,
    robot: &RobotId,
    metrics: Vec<String>,
    range: std::ops::Range<u64>,
    limit: u64,
) -> Result<Answer<TelemetryHistory>, Failure> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut series = Vec::with_capacity(metrics.len());
    for metric in metrics {
        let samples = app
            .store
            .telemetry(robot.as_str(), &metric, range.start, range.end, limit)
            .await?;
        let point = |sample: lekiwi_relay_core::history::Sample| (sample.ts_ms, sample.value);
        series.push(TelemetrySeries {
            metric,
            points: samples.into_iter().map(point).collect(),
            ranges: Vec::new(),
        });
    }
    Ok(Answer(TelemetryHistory {
        resolution: Resolution::Raw,
        step_ms: None,
        series,
    }))
}

/// Names with commas between them, each once.
fn names(text: &str) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',') {
        let name = MetricName::new(name).ok()?.to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Some(names)
}

fn refused(detail: String) -> Failure {
    Failure::new(Kind::InvalidQuery, detail)
}

/// What to say to somebody who names no metric.
async fn nameless(app: &App, robot: &RobotId) -> Result<Failure, Failure> {
    let known = app.store.metrics_of_robot(robot.as_str()).await?;
    let failure = refused("expected a metric in the query, got none".to_owned());
    Ok(if known.is_empty() {
        failure
    } else {
        failure.hint(format!("{robot} has {}", known.join(", ")))
    })
}
