//! Telemetry history, by robot and metric.

use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use lekiwi_protocol::api::{self, TelemetrySeries};
use lekiwi_protocol::{MetricName, Timestamp};

use super::App;
use super::extract::{Query, Robot};
use super::problem::{Failure, Kind};
use crate::clock;

const MOST: u64 = 10_000;
const USUAL: u64 = 1_000;
const USUAL_SPAN: Duration = Duration::from_secs(3600);

/// History of one metric of one robot: the newest `limit` points of the range, ascending.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}/telemetry", tag = "fleet",
    params(
        ("id" = String, Path, description = "The robot"),
        ("metric" = String, Query, description = "Which metric, such as `cpu_percent`"),
        ("from" = Option<String>, Query, description = "Start, ISO 8601 or milliseconds since 1970; one hour before `to` when absent"),
        ("to" = Option<String>, Query, description = "End, exclusive; now when absent"),
        ("limit" = Option<u64>, Query, description = "1 to 10000; 1000 when absent"),
    ),
    responses(
        (status = 200, body = TelemetrySeries),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn of_robot(
    State(app): State<App>,
    Robot(robot): Robot,
    mut query: Query,
) -> Result<Answer<TelemetrySeries>, Failure> {
    let metric = query.text("metric", MetricName::EXPECTED, |text| {
        MetricName::new(text).ok()
    })?;
    let from = query.time("from")?;
    let to = query
        .time("to")?
        .unwrap_or(Timestamp::from_ms(clock::now_ms() + 1));
    let limit = query.number("limit", 1..=MOST)?.unwrap_or(USUAL);
    query.finish()?;
    super::robots::known(&app, &robot)?;
    let Some(metric) = metric else {
        let known = app.store.metrics_of_robot(robot.as_str()).await?;
        let failure = Failure::new(
            Kind::InvalidQuery,
            "expected a metric in the query, got none",
        );
        return Err(if known.is_empty() {
            failure
        } else {
            failure.hint(format!("{robot} has {}", known.join(", ")))
        });
    };
    let from = from.unwrap_or_else(|| {
        Timestamp::from_ms(to.as_ms().saturating_sub(USUAL_SPAN.as_millis() as u64))
    });
    if from > to {
        return Err(Failure::new(
            Kind::InvalidQuery,
            format!("expected from to be before to, got {from} and {to}"),
        ));
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let samples = app
        .store
        .telemetry(
            robot.as_str(),
            metric.as_str(),
            from.as_ms(),
            to.as_ms(),
            limit,
        )
        .await?;
    let points = samples
        .into_iter()
        .map(|sample| (sample.ts_ms, sample.value))
        .collect();
    Ok(Answer(TelemetrySeries {
        metric: metric.to_string(),
        points,
    }))
}
