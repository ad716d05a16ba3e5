//! Looks a seed over for what breaks real first boots, whoever wrote it. Pure: files in, findings out. Called by
//! `lekiwi-provisioner lint`.

mod cloud;
mod files;
mod kernel;
mod network;
mod robot;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;

use lekiwi_protocol::Timestamp;
use serde::Serialize;

/// The files that rules look at, in the boot partition's root.
pub const FILES: [&str; 6] = [
    "user-data",
    "meta-data",
    "network-config",
    "cmdline.txt",
    "firstrun.sh",
    "lekiwi.json",
];

/// What a boot partition holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seed {
    /// Those of [`FILES`] that are there.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The partition's label, where it is known.
    pub label: Option<String>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The first boot does not do what the seed says.
    Error,
    /// It works, with a drawback or a risk.
    Warning,
}

/// One thing that a rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's name.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// In which file.
    pub file: String,
    /// In which line, counted from 1.
    pub line: Option<usize>,
    /// What breaks, and why.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, ": {word}: {} [{}]", self.message, self.rule)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  (hint: {hint})")?;
        }
        Ok(())
    }
}

/// All findings, in the order of files and lines. `now` tells whether a token has expired.
#[must_use]
pub fn lint(seed: &Seed, now: Timestamp) -> Vec<Finding> {
    let mut report = Report::default();
    files::check(seed, &mut report);
    let texts = Texts::of(seed);
    cloud::check(&texts, &mut report);
    network::check(&texts, &mut report);
    kernel::check(seed, &texts, &mut report);
    robot::check(&texts, now, &mut report);
    let place = |file: &str| FILES.iter().position(|name| *name == file);
    report
        .findings
        .sort_by_key(|finding| (place(&finding.file), finding.line));
    report.findings
}

/// What rules write into.
#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn error(&mut self, rule: &'static str, at: (&str, Option<usize>), message: impl Into<String>) {
        self.add(Severity::Error, rule, at, message.into());
    }

    fn warning(
        &mut self,
        rule: &'static str,
        at: (&str, Option<usize>),
        message: impl Into<String>,
    ) {
        self.add(Severity::Warning, rule, at, message.into());
    }

    fn add(
        &mut self,
        severity: Severity,
        rule: &'static str,
        (file, line): (&str, Option<usize>),
        message: String,
    ) {
        self.findings.push(Finding {
            rule,
            severity,
            file: file.to_owned(),
            line,
            message,
            hint: None,
        });
    }

    /// What to do about the last finding.
    fn hint(&mut self, hint: impl Into<String>) {
        if let Some(finding) = self.findings.last_mut() {
            finding.hint = Some(hint.into());
        }
    }
}

/// The files as text; what is no UTF-8 was found already.
struct Texts {
    texts: BTreeMap<String, String>,
}

impl Texts {
    fn of(seed: &Seed) -> Self {
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.trim_start_matches('\u{feff}').replace("\r\n", "\n")
        };
        let texts = seed
            .files
            .iter()
            .map(|(name, bytes)| (name.clone(), text(bytes)))
            .collect();
        Self { texts }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// The file as YAML; `None` when there is none, or it is broken.
    fn yaml(&self, name: &str) -> Option<serde_json::Value> {
        yaml::lenient(self.text(name)?)
    }

    /// What the provisioner left about its seed.
    fn sidecar(&self, key: &str) -> Option<String> {
        let value: serde_json::Value = serde_json::from_str(self.text("lekiwi.json")?).ok()?;
        value.get(key)?.as_str().map(str::to_owned)
    }

    /// The words of the kernel's command line.
    fn cmdline(&self) -> Vec<&str> {
        let text = self.text("cmdline.txt").unwrap_or_default();
        text.split_whitespace().collect()
    }

    /// Raspberry Pi OS, as far as the boot partition shows it.
    fn is_raspios(&self) -> bool {
        match self.sidecar("os") {
            Some(os) => os.starts_with("raspios"),
            None => self
                .cmdline()
                .iter()
                .any(|word| word.starts_with("root=PARTUUID=")),
        }
    }
}

/// The first line in which `needle` stands, outside of comments; counted from 1.
fn line(text: &str, needle: &str) -> Option<usize> {
    text.lines()
        .position(|line| !line.trim_start().starts_with('#') && line.contains(needle))
        .map(|index| index + 1)
}
