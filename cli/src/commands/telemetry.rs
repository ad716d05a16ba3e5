//! `lekiwi telemetry`: metrics of a robot over time, as a chart, as CSV or as JSON.

use lekiwi_protocol::Timestamp;

use crate::args::Telemetry;
use crate::client::Relay;
use crate::failure::Failure;
use crate::ui::Ui;
use crate::{clock, show};

/// Several for each column of a chart, so that its extremes are among them.
const CHART_POINTS: u16 = 4 * show::CHART_WIDTH as u16;
const POINTS: u16 = 1_000;

pub(super) async fn run(relay: &Relay, arguments: &Telemetry, ui: &mut Ui) -> Result<(), Failure> {
    let now = clock::now();
    let span = u64::try_from(arguments.last.as_millis()).unwrap_or(u64::MAX);
    let before = Timestamp::from_ms(now.as_ms().saturating_sub(span));
    let from = arguments.from.unwrap_or(before);
    let is_chart = !arguments.json && !arguments.csv;
    let points = arguments
        .points
        .unwrap_or(if is_chart { CHART_POINTS } else { POINTS });
    let history = relay
        .telemetry(&arguments.id, &query(arguments, from, points))
        .await?;
    if arguments.json {
        return super::json(ui, &history);
    }
    if arguments.csv {
        return ui.line(show::csv(&history));
    }
    let to = arguments.to.unwrap_or(now);
    for series in &history.series {
        ui.line(show::chart(series, from, to))?;
    }
    Ok(())
}

/// The query; names, numbers and times need no escaping.
fn query(arguments: &Telemetry, from: Timestamp, points: u16) -> String {
    let mut query = format!("from={}&points={points}", from.as_ms());
    if !arguments.metrics.is_empty() {
        let names: Vec<&str> = arguments.metrics.iter().map(|m| m.as_str()).collect();
        query.push_str(&format!("&metric={}", names.join(",")));
    }
    if let Some(to) = arguments.to {
        query.push_str(&format!("&to={}", to.as_ms()));
    }
    if let Some(aggregate) = arguments.aggregate {
        query.push_str(&format!("&aggregate={aggregate}"));
    }
    query
}
