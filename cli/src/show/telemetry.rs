//! Metrics over time: a chart for a terminal, comma-separated values for a program.

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::{TelemetryHistory, TelemetrySeries};

use super::{NONE, figure};
use crate::ui::plain;

/// Columns of a chart, without its axis.
pub(crate) const CHART_WIDTH: usize = 64;
/// Rows of a chart.
const HEIGHT: usize = 6;
/// Parts of a row, from none to all of it.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// A robot says what changed, and every metric once an hour: for so long does a value hold.
const HOLDS_MS: u64 = 3_600_000;

/// One metric from `from` to `to`: its newest value, its extremes, and how it went.
pub(crate) fn chart(series: &TelemetrySeries, from: Timestamp, to: Timestamp) -> String {
    let name = plain(&series.metric);
    let say = |value: f64| figure(&series.metric, value);
    let (Some(newest), Some((low, high))) = (series.points.last(), extremes(series)) else {
        return format!("{name}  {NONE}  no values between {from} and {to}\n");
    };
    let mut text = format!(
        "{name}  {}  (lowest {}, highest {})\n",
        say(newest.1),
        say(low),
        say(high)
    );
    let columns = columns(&series.points, from.as_ms(), to.as_ms());
    let labels = [say(high), say(low)];
    let margin = labels.iter().map(|l| l.chars().count()).max().unwrap_or(0);
    for row in 0..HEIGHT {
        let label = match row {
            0 => &labels[0],
            _ if row + 1 == HEIGHT => &labels[1],
            _ => "",
        };
        let bars: String = columns
            .iter()
            .map(|value| BLOCKS[value.map_or(0, |value| filled(value, low, high, row))])
            .collect();
        text.push_str(&format!("{label:>margin$} ┤{bars}"));
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    let (from, to) = (minute(from), minute(to));
    let gap = CHART_WIDTH - from.len();
    text.push_str(&format!("{:margin$}  {from}{to:>gap$}\n", ""));
    text
}

/// The lowest and the highest of what the points stand for.
fn extremes(series: &TelemetrySeries) -> Option<(f64, f64)> {
    let values = series.points.iter().map(|point| (point.1, point.1));
    values
        .chain(series.ranges.iter().copied())
        .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

/// The mean of each column's points. A column without any has the value before it, as long as that holds.
fn columns(points: &[(u64, f64)], from: u64, to: u64) -> Vec<Option<f64>> {
    let span = to.saturating_sub(from).max(1);
    let width = CHART_WIDTH as u64;
    let mut points = points.iter().peekable();
    let mut held: Option<(u64, f64)> = None;
    let column = |column: u64| {
        let end = from + (u128::from(span) * u128::from(column + 1) / u128::from(width)) as u64;
        let (mut sum, mut count) = (0.0, 0.0);
        while let Some((at, value)) = points.next_if(|point| point.0 < end || column + 1 == width) {
            (sum, count, held) = (sum + value, count + 1.0, Some((*at, *value)));
        }
        if count > 0.0 {
            return Some(sum / count);
        }
        held.filter(|(at, _)| end.saturating_sub(*at) <= HOLDS_MS.max(2 * span / width))
            .map(|(_, value)| value)
    };
    (0..width).map(column).collect()
}

/// How many eighths of a row, counted from the top, a value fills. The lowest value still shows.
fn filled(value: f64, low: f64, high: f64, row: usize) -> usize {
    let all = HEIGHT * 8;
    let share = if high > low {
        ((value - low) / (high - low)).clamp(0.0, 1.0)
    } else {
        0.5
    };
    let eighths = 1 + (share * (all - 1) as f64).round() as usize;
    eighths
        .saturating_sub((HEIGHT - 1 - row) * 8)
        .min(BLOCKS.len() - 1)
}

/// `2026-11-21 03:52 UTC`.
fn minute(at: Timestamp) -> String {
    let text = at.to_string();
    let minute = text.get(..16).unwrap_or(&text);
    format!("{} UTC", minute.replacen('T', " ", 1))
}

/// A line a point, in the order of the metrics.
pub(crate) fn csv(history: &TelemetryHistory) -> String {
    let mut lines = vec!["time,metric,value,lowest,highest".to_owned()];
    for series in &history.series {
        let metric = plain(&series.metric);
        for (index, (at, value)) in series.points.iter().enumerate() {
            let range = series
                .ranges
                .get(index)
                .map_or(",".to_owned(), |(low, high)| format!("{low},{high}"));
            let at = Timestamp::from_ms(*at);
            lines.push(format!("{at},{metric},{value},{range}"));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use lekiwi_protocol::api::Resolution;

    use super::*;

    const START: u64 = 1_795_233_120_000;
    const HOUR: u64 = 3_600_000;

    fn series(points: Vec<(u64, f64)>, ranges: Vec<(f64, f64)>) -> TelemetrySeries {
        TelemetrySeries {
            metric: "cpu_percent".into(),
            points,
            ranges,
        }
    }

    fn drawn(series: &TelemetrySeries, hours: u64) -> String {
        let (from, to) = (START, START + hours * HOUR);
        chart(series, Timestamp::from_ms(from), Timestamp::from_ms(to))
    }

    #[test]
    fn a_wave_is_seen_with_its_extremes() {
        let wave = |n: u64| 50.0 - 40.0 * (n as f64 / 20.0).cos();
        let points: Vec<_> = (0..240).map(|n| (START + n * 60_000, wave(n))).collect();
        let ranges = points.iter().map(|p| (p.1 - 2.0, p.1 + 2.0)).collect();
        expect![[r#"
            cpu_percent  17.4 %  (lowest 8.0 %, highest 92.0 %)
            92.0 % ┤             ▃▅▆▇▇▆▄▂                         ▂▄▅▇▇▆▅▃
                   ┤          ▁▅█████████▇▃                     ▃▆█████████▅▂
                   ┤        ▁▅█████████████▇▄                 ▃▇█████████████▅▁
                   ┤      ▁▅█████████████████▇▃             ▂▇█████████████████▅▁
                   ┤    ▁▅█████████████████████▇▄         ▃▇█████████████████████▅▂
             8.0 % ┤▂▃▅▇██████████████████████████▆▄▃▂▃▄▅██████████████████████████▇
                    2026-11-21 03:52 UTC                        2026-11-21 07:52 UTC
        "#]]
        .assert_eq(&drawn(&series(points, ranges), 4));
    }

    #[test]
    fn a_value_holds_for_an_hour_and_nothing_is_said_of_nothing() {
        let lone = series(vec![(START + HOUR, 40.0)], Vec::new());
        let text = drawn(&lone, 4);
        let bars = text.lines().nth(HEIGHT).unwrap_or_default();
        let count = bars.chars().filter(|c| *c == '█').count();
        assert_eq!(count, 16, "a quarter of the width: {text}");
        assert_eq!(
            drawn(&series(Vec::new(), Vec::new()), 1),
            "cpu_percent  –  no values between 2026-11-21T03:52:00.000Z and 2026-11-21T04:52:00.000Z\n"
        );
    }

    #[test]
    fn values_are_separated_by_commas() {
        let history = TelemetryHistory {
            resolution: Resolution::Minute,
            step_ms: Some(60_000),
            series: vec![
                series(vec![(START, 1.5)], vec![(1.0, 2.0)]),
                series(vec![(START, 0.1)], Vec::new()),
            ],
        };
        expect![[r#"
            time,metric,value,lowest,highest
            2026-11-21T03:52:00.000Z,cpu_percent,1.5,1,2
            2026-11-21T03:52:00.000Z,cpu_percent,0.1,,"#]]
        .assert_eq(&csv(&history));
    }
}
