//! What was measured, for people, for programs, and against `agent/budget.toml`.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::robot::AGENT;
use crate::subject::Cost;

/// `agent/budget.toml`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Budget {
    binary_bytes: u64,
    pss_bytes: u64,
    cpu_percent_idle: f64,
    cpu_percent_busy: f64,
    wire_bytes_per_s_idle: f64,
}

impl Budget {
    pub(crate) fn read() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/budget.toml");
        toml::from_str(&std::fs::read_to_string(&path)?)
            .with_context(|| format!("{} is no budget", path.display()))
    }
}

/// A program that was not measured.
#[derive(Debug, Serialize)]
pub(crate) struct Missing {
    pub(crate) name: &'static str,
    pub(crate) why: String,
}

/// The programs on robots that do the same.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) robot: &'static str,
    pub(crate) costs: Vec<Cost>,
}

/// A figure of the agent against its budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Verdict {
    what: &'static str,
    measured: f64,
    budget: f64,
    fits: bool,
}

/// All of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) tables: Vec<Table>,
    pub(crate) missing: Vec<Missing>,
    /// With a day of backlog, where that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drained: Option<Drained>,
    pub(crate) verdicts: Vec<Verdict>,
}

/// What became of a day's backlog.
#[derive(Debug, Serialize)]
pub(crate) struct Drained {
    /// Samples before the relay came back.
    pub(crate) samples: u64,
    /// Those left at the end.
    pub(crate) samples_left: u64,
    /// Events before the relay came back.
    pub(crate) events: u64,
    /// Those left at the end.
    pub(crate) events_left: u64,
    /// The database's size before.
    pub(crate) database_bytes: u64,
}

/// Which figures decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judging {
    All,
    /// The rest is noise while others use the machine.
    Memory,
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
impl Outcome {
    /// Holds the agent's figures against the budget; `binary_bytes` is what is shipped.
    pub(crate) fn judge(&mut self, budget: &Budget, binary_bytes: u64, judging: Judging) {
        let mut verdicts = Vec::new();
        let mut hold = |what, measured: f64, budget: f64| {
            verdicts.push(Verdict {
                what,
                measured,
                budget,
                fits: measured <= budget,
            });
        };
        if judging == Judging::All {
            hold(
                "binary, bytes",
                binary_bytes as f64,
                budget.binary_bytes as f64,
            );
        }
        for table in &self.tables {
            let Some(cost) = table.costs.iter().find(|cost| cost.name == AGENT) else {
                continue;
            };
            let (memory, cpu) = match table.robot {
                IDLE => (
                    "PSS idle, bytes",
                    Some(("CPU idle, % of a core", budget.cpu_percent_idle)),
                ),
                BUSY => (
                    "PSS busy, bytes",
                    Some(("CPU busy, % of a core", budget.cpu_percent_busy)),
                ),
                _ => ("PSS with a day of backlog, bytes", None),
            };
            hold(memory, cost.pss_bytes as f64, budget.pss_bytes as f64);
            if judging == Judging::Memory {
                continue;
            }
            if let Some((what, most)) = cpu {
                hold(what, cost.cpu_percent, most);
            }
            if table.robot == IDLE {
                hold(
                    "wire idle, B/s",
                    cost.wire_bytes_per_s,
                    budget.wire_bytes_per_s_idle,
                );
            }
        }
        self.verdicts = verdicts;
    }

    /// Whether all that was judged fits; nothing judged is no success.
    pub(crate) fn fits(&self) -> bool {
        !self.verdicts.is_empty() && self.verdicts.iter().all(|verdict| verdict.fits)
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            let heads = [
                "files, bytes",
                "PSS, bytes",
                "CPU, %",
                "wire, B/s",
                "disk, B/day",
            ];
            let _ = write!(text, "{:<32}{:>5}", table.robot, "procs");
            for head in heads {
                let _ = write!(text, "{head:>14}");
            }
            text.push('\n');
            for cost in &table.costs {
                let _ = writeln!(
                    text,
                    "{:<32}{:>5}{:>14}{:>14}{:>14.3}{:>14.1}{:>14}",
                    cost.name,
                    cost.processes,
                    grouped(cost.program_bytes as f64),
                    grouped(cost.pss_bytes as f64),
                    cost.cpu_percent,
                    cost.wire_bytes_per_s,
                    grouped(cost.disk_bytes_per_day)
                );
            }
            text.push('\n');
        }
        for missing in &self.missing {
            let _ = writeln!(text, "not measured: {}: {}", missing.name, missing.why);
        }
        if let Some(drained) = &self.drained {
            let _ = writeln!(
                text,
                "backlog: {} samples and {} events in {} bytes; left at the end: {} and {}\n",
                grouped(drained.samples as f64),
                drained.events,
                grouped(drained.database_bytes as f64),
                grouped(drained.samples_left as f64),
                drained.events_left
            );
        }
        let _ = writeln!(text, "{:<37}{:>14}{:>14}", AGENT, "measured", "budget");
        for verdict in &self.verdicts {
            let short = |value: f64| match value < 1_000.0 {
                true => format!("{value:.3}"),
                false => grouped(value),
            };
            let _ = writeln!(
                text,
                "{:<37}{:>14}{:>14}  {}",
                verdict.what,
                short(verdict.measured),
                short(verdict.budget),
                if verdict.fits { "ok" } else { "OVER" }
            );
        }
        text
    }
}

/// A robot that nobody drives.
pub(crate) const IDLE: &str = "idle robot";
/// A robot at work.
pub(crate) const BUSY: &str = "busy robot";
/// A robot at work that has a day to tell.
pub(crate) const BACKLOG: &str = "busy robot, 24 h of backlog";

/// `1,234,567`
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(pss_bytes: u64, cpu_percent: f64, wire_bytes_per_s: f64) -> Cost {
        Cost {
            name: AGENT,
            processes: 1,
            program_bytes: 20,
            pss_bytes,
            cpu_percent,
            wire_bytes_per_s,
            disk_bytes_per_day: 1_234_567.0,
        }
    }

    fn outcome(idle: Cost, busy: Cost) -> Outcome {
        let table = |robot, cost: Cost| {
            let other = Cost {
                name: "other",
                pss_bytes: 1_000,
                cpu_percent: 50.0,
                ..cost.clone()
            };
            Table {
                robot,
                costs: vec![other, cost],
            }
        };
        Outcome {
            tables: vec![table(IDLE, idle), table(BUSY, busy)],
            missing: vec![Missing {
                name: "third",
                why: "it is not there".to_owned(),
            }],
            drained: None,
            verdicts: Vec::new(),
        }
    }

    const BUDGET: Budget = Budget {
        binary_bytes: 10,
        pss_bytes: 10,
        cpu_percent_idle: 0.1,
        cpu_percent_busy: 0.5,
        wire_bytes_per_s_idle: 60.0,
    };

    #[test]
    fn each_figure_is_held_against_its_budget() {
        let over = |idle, busy, binary_bytes, judging| {
            let mut outcome = outcome(idle, busy);
            outcome.judge(&BUDGET, binary_bytes, judging);
            let over = outcome.verdicts.iter().filter(|verdict| !verdict.fits);
            let over: Vec<_> = over.map(|verdict| verdict.what).collect();
            assert_eq!(outcome.fits(), over.is_empty());
            over
        };
        let (idle, busy) = (cost(10, 0.1, 60.0), cost(10, 0.5, 5_000.0));
        let none: [&str; 0] = [];
        for judging in [Judging::All, Judging::Memory] {
            assert_eq!(over(idle.clone(), busy.clone(), 10, judging), none);
        }
        let all = over(cost(11, 0.2, 60.1), cost(12, 0.6, 1.0), 11, Judging::All);
        assert_eq!(
            all,
            [
                "binary, bytes",
                "PSS idle, bytes",
                "CPU idle, % of a core",
                "wire idle, B/s",
                "PSS busy, bytes",
                "CPU busy, % of a core"
            ]
        );
        let memory = over(cost(10, 9.0, 99.0), cost(11, 9.0, 1.0), 11, Judging::Memory);
        assert_eq!(memory, ["PSS busy, bytes"]);
        let mut nothing = outcome(idle, busy);
        nothing.tables.clear();
        nothing.judge(&BUDGET, 10, Judging::Memory);
        assert!(!nothing.fits());
    }

    #[test]
    fn people_read_a_line_for_each_program_and_each_budget() {
        let mut outcome = outcome(cost(11, 0.1, 60.0), cost(10, 0.5, 1.0));
        outcome.judge(&BUDGET, 10, Judging::Memory);
        let text = outcome.text();
        let lines = [
            "idle robot                      procs  files, bytes    PSS, bytes        CPU, %     wire, B/s   disk, B/day",
            "other                               1            20         1,000        50.000          60.0     1,234,567",
            "not measured: third: it is not there",
            "PSS idle, bytes                              11.000        10.000  OVER",
            "PSS busy, bytes                              10.000        10.000  ok",
        ];
        for line in lines {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_budget_file_is_one() {
        assert!(Budget::read().is_ok_and(|budget| budget.cpu_percent_busy > 0.0));
    }
}
