//! Goals, what was measured, and the table of both.

use std::fmt;

use serde::Serialize;

use crate::curves::Curve;

/// What a figure is to be.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wish {
    /// So much or more.
    AtLeast(f64),
    /// So much or less.
    AtMost(f64),
    /// Nothing: it stands beside another.
    None,
}

#[derive(Debug, Serialize)]
struct Row {
    what: String,
    unit: &'static str,
    goal: Wish,
    median: f64,
    rounds: Vec<f64>,
    is_met: Option<bool>,
}

/// All rows.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Table {
    goals: Vec<Row>,
    /// Drawn, and not printed.
    pub(crate) curves: Vec<Curve>,
}

impl Table {
    /// Adds a figure, measured once or more.
    pub(crate) fn add(&mut self, what: String, unit: &'static str, goal: Wish, rounds: Vec<f64>) {
        let median = median(&rounds);
        let is_met = match goal {
            Wish::AtLeast(least) => Some(median >= least),
            Wish::AtMost(most) => Some(median <= most),
            Wish::None => None,
        };
        let row = Row {
            what,
            unit,
            goal,
            median,
            rounds,
            is_met,
        };
        crate::say(&row.to_string());
        self.goals.push(row);
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let goal = match self.goal {
            Wish::AtLeast(least) => format!(">= {least}"),
            Wish::AtMost(most) => format!("<= {most}"),
            Wish::None => "-".to_owned(),
        };
        let verdict = match self.is_met {
            Some(true) => "ok",
            Some(false) => "MISSED",
            None => "",
        };
        let (what, unit) = (&self.what, self.unit);
        write!(
            f,
            "{what:<64} {goal:>10} {:>12.3} {unit:<8} {verdict}",
            self.median
        )
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<64} {:>10} {:>12}", "what", "goal", "median")?;
        for row in &self.goals {
            writeln!(f, "{row}")?;
        }
        Ok(())
    }
}

/// The middle one; the upper of two. Not a number, where there are none.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that a `share` of all is not above.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let index = (sorted.len() as f64 * share) as usize;
    let last = sorted.len().saturating_sub(1);
    sorted.get(index.min(last)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles_are_values_of_the_list() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(quantile(&hundred, 0.99), 100.0);
        assert_eq!(quantile(&hundred, 0.5), 51.0);
        assert!(median(&[]).is_nan());
    }
}
