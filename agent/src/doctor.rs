//! `lekiwi-agent doctor`: looks at everything that can be wrong with a robot's agent, and says what helps.
//! Works beside a running agent and without one; changes nothing.

mod logs;
mod machine;
mod migration;
mod own;
mod relay;
mod ros;
mod signer;
mod stop;

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::clock::Floor;
use crate::config::{Config, ConfigError, Loaded};
use crate::driver::chain;
use crate::identity::Store;
use crate::ipc;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, and yet.
    Warning,
    /// Does not work.
    Failed,
    /// Cannot be told here.
    Unknown,
}

/// One check and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// In words.
    pub text: String,
    /// What helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, text: impl Into<String>, hint: &str) -> Self {
        Self {
            check,
            verdict,
            text: text.into(),
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
        }
    }

    fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, text, "")
    }

    fn warning(check: &'static str, text: impl Into<String>, hint: &str) -> Self {
        Self::new(check, Verdict::Warning, text, hint)
    }

    fn failed(check: &'static str, text: impl Into<String>, hint: &str) -> Self {
        Self::new(check, Verdict::Failed, text, hint)
    }

    fn unknown(check: &'static str, text: impl Into<String>, hint: &str) -> Self {
        Self::new(check, Verdict::Unknown, text, hint)
    }
}

/// All findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing failed.
    pub healthy: bool,
    /// In the order of the checks.
    pub checks: Vec<Finding>,
}

impl Report {
    fn new(checks: Vec<Finding>) -> Self {
        Self {
            healthy: checks.iter().all(|found| found.verdict != Verdict::Failed),
            checks,
        }
    }

    /// How many checks found this.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        let found = self.checks.iter().filter(|found| found.verdict == verdict);
        found.count()
    }

    /// For people: a line a check, its hint below, and a sum. Signs and colours are for terminals.
    #[must_use]
    pub fn text(&self, signs: bool, colours: bool) -> String {
        let mut text = String::new();
        for found in &self.checks {
            let (sign, word, colour) = match found.verdict {
                Verdict::Ok => ("✓", "ok     ", 32),
                Verdict::Warning => ("!", "warning", 33),
                Verdict::Failed => ("✗", "failed ", 31),
                Verdict::Unknown => ("-", "unknown", 90),
            };
            let mark = if signs { sign } else { word };
            let (on, off) = match colours {
                true => (format!("\u{1b}[{colour}m"), "\u{1b}[0m"),
                false => (String::new(), ""),
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{on}{mark}{off} {:<13} {}", found.check, found.text);
            if let Some(hint) = &found.hint {
                let indent = mark.chars().count();
                let _ = writeln!(text, "{:indent$} {:<13} (hint: {hint})", "", "");
            }
        }
        let [ok, warnings, failed, unknown] = [
            Verdict::Ok,
            Verdict::Warning,
            Verdict::Failed,
            Verdict::Unknown,
        ]
        .map(|verdict| self.count(verdict));
        let _ = write!(
            text,
            "{ok} ok, {warnings} warnings, {failed} failed, {unknown} unknown"
        );
        text
    }
}

/// Looks at everything. The machine is below `root`, which is `/` outside of tests.
pub async fn examine(root: &Path, loaded: Result<Loaded, ConfigError>) -> Report {
    let mut checks = Vec::new();
    match loaded {
        Ok(Loaded { config, warnings }) => {
            checks.push(match warnings.first() {
                None => Finding::ok("configuration", format!("right, for {}", config.robot_id)),
                Some(warning) => Finding::warning("configuration", warning, ""),
            });
            configured(root, &config, &mut checks).await;
        }
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            checks.push(Finding::failed("configuration", chain(&error), &hint));
        }
    }
    machine::examine(root, &mut checks);
    checks.extend(logs::examine(root));
    Report::new(checks)
}

async fn configured(root: &Path, config: &Config, checks: &mut Vec<Finding>) {
    checks.extend(own::state_folder(&config.state_dir));
    checks.push(own::clock(root));
    let now = Floor::load(config.state_dir.join("clock")).certificate_time();
    let identity = Store::new(&config.state_dir, config.signer.clone()).load(
        &config.robot_id,
        config.relay.ca_fingerprint,
        now,
    );
    checks.push(own::identity(config, &identity, now));
    if let Some(signer) = &config.signer {
        checks.push(signer::examine(signer, identity.as_ref().ok()).await);
    }
    checks.push(own::token(config, identity.is_ok()));
    let status = ipc::ask_status(&config.socket).await;
    checks.extend(own::agent(&status));
    checks.push(own::outbox(&config.state_dir, status.as_ref().ok()));
    checks.extend(own::unit(root));
    relay::examine(config, identity.ok(), now, status.as_ref().ok(), checks).await;
    if let Some(beside) = &config.migration {
        migration::examine(beside, &status, checks).await;
    }
    own::profile(root, config, status.as_ref().ok(), checks).await;
}
