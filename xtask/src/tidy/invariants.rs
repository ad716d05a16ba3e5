//! The documents that must not drift: each invariant of ARCHITECTURE.md names what checks it, and that
//! exists; decisions are numbered without gaps.

use std::path::Path;

use anyhow::{Context, Result};

use super::CHECKS;
use crate::suite;
use crate::workspace;

/// Reads ARCHITECTURE.md.
pub(super) fn check(problems: &mut Vec<String>) -> Result<()> {
    let path = workspace::root().join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("could not read {}", path.display()))?;
    problems.extend(judge(&text, &workspace::root()));
    let path = workspace::root().join("docs/threats.md");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("could not read {}", path.display()))?;
    problems.extend(threats(&text, &workspace::root()));
    Ok(())
}

/// Each row of the table of threats names what shows that it is met.
fn threats(text: &str, root: &Path) -> Vec<String> {
    let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
    let mut problems = Vec::new();
    for row in rows {
        let start: String = row.chars().take(50).collect();
        let named = references(row);
        if named.is_empty() {
            problems.push(format!(
                "docs/threats.md: `{start}…` names no test (hint: `[test: FILE::NAME]`)"
            ));
        }
        for reference in named {
            if let Err(reason) = resolve(reference, root) {
                problems.push(format!(
                    "docs/threats.md: `{start}…` names [{reference}], but {reason}"
                ));
            }
        }
    }
    problems
}

fn judge(text: &str, root: &Path) -> Vec<String> {
    let invariants = invariants(text);
    if invariants.is_empty() {
        return vec!["ARCHITECTURE.md lists nothing under `## Invariants`".to_owned()];
    }
    let mut problems = Vec::new();
    for invariant in invariants {
        let start: String = invariant.chars().take(50).collect();
        let named = references(&invariant);
        if named.is_empty() {
            problems.push(format!(
                "`{start}…` names nothing that checks it (hint: `[test: FILE::NAME]`, `[check: tidy NAME]` or `[check: test STEP]`)"
            ));
        }
        for reference in named {
            if let Err(reason) = resolve(reference, root) {
                problems.push(format!("`{start}…` names [{reference}], but {reason}"));
            }
        }
    }
    problems
}

/// The list's entries, each on one line.
fn invariants(text: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    let section = text
        .lines()
        .skip_while(|line| line.trim() != "## Invariants")
        .skip(1)
        .take_while(|line| !line.starts_with("## "));
    for line in section {
        if let Some(entry) = line.strip_prefix("- ").or_else(|| line.strip_prefix("* ")) {
            entries.push(entry.to_owned());
        } else if let (Some(last), true) = (entries.last_mut(), line.starts_with(' ')) {
            last.push(' ');
            last.push_str(line.trim());
        }
    }
    entries
}

/// What stands in square brackets as `check:` or `test:`.
fn references(invariant: &str) -> Vec<&str> {
    invariant
        .split('[')
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(']')?.0))
        .filter(|inner| inner.starts_with("check:") || inner.starts_with("test:"))
        .collect()
}

fn resolve(reference: &str, root: &Path) -> Result<(), String> {
    let (kind, name) = reference.split_once(':').unwrap_or_default();
    let name = name.trim();
    if kind == "check" {
        let exists = match name.split_once(' ') {
            Some(("tidy", check)) => CHECKS.iter().any(|known| known.name == check),
            Some(("test", step)) => suite::has_step(step),
            _ => false,
        };
        return if exists {
            Ok(())
        } else {
            Err("there is no such check".to_owned())
        };
    }
    let (file, test) = name
        .rsplit_once("::")
        .ok_or_else(|| "`FILE::NAME` is expected".to_owned())?;
    let text = std::fs::read_to_string(root.join(file))
        .map_err(|error| format!("{file} cannot be read: {error}"))?;
    if has_test(&text, test) {
        Ok(())
    } else {
        Err(format!("{file} has no test `{test}`"))
    }
}

/// Whether `fn NAME` follows a test attribute, or stands in a `proptest!`.
fn has_test(text: &str, name: &str) -> bool {
    let mut attributed = false;
    for line in text.lines().map(str::trim) {
        let word = |start: &str| {
            line.strip_prefix(start)
                .and_then(|rest| rest.strip_prefix(name))
                .is_some_and(|rest| rest.starts_with('('))
        };
        if word("fn ") || word("async fn ") || word("pub fn ") {
            return attributed;
        }
        if line.starts_with("#[") {
            attributed |= line.contains("test");
        } else if line.contains("fn ") || line.is_empty() {
            attributed = false;
        }
    }
    false
}

/// `docs/decisions/NNNN-title.md`, numbered from 1 without gaps, each with a title.
pub(super) fn decisions(problems: &mut Vec<String>) -> Result<()> {
    let folder = workspace::root().join("docs/decisions");
    let mut names = Vec::new();
    for entry in folder
        .read_dir()
        .with_context(|| format!("could not read {}", folder.display()))?
    {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for (index, name) in names.iter().enumerate() {
        let expected = format!("{:04}-", index + 1);
        if !name.starts_with(&expected) || !name.ends_with(".md") {
            problems.push(format!(
                "docs/decisions/{name}: expected {expected}TITLE.md"
            ));
        }
        if !std::fs::read_to_string(folder.join(name))?.starts_with("# ") {
            problems.push(format!("docs/decisions/{name} must start with its title"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn each_invariant_must_name_a_check_that_exists() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(
            root.path().join("suite.rs"),
            "#[tokio::test]\nasync fn good() {}\n\nfn helper() {}\n",
        )
        .unwrap();
        let text = "# A\n## Invariants\n\nEach one.\n\n- Fine. [test: suite.rs::good]\n- Fine over\n  two lines. [check: tidy arrows] [check: test size]\n- Bare. [see](there)\n- Gone. [test: suite.rs::helper]\n- Lost. [test: none.rs::x]\n- Odd. [check: tidy nothing]\n## Next\n- Not one.\n";
        assert_eq!(
            judge(text, root.path()),
            [
                "`Bare. [see](there)…` names nothing that checks it (hint: `[test: FILE::NAME]`, `[check: tidy NAME]` or `[check: test STEP]`)",
                "`Gone. [test: suite.rs::helper]…` names [test: suite.rs::helper], but suite.rs has no test `helper`",
                "`Lost. [test: none.rs::x]…` names [test: none.rs::x], but none.rs cannot be read: No such file or directory (os error 2)",
                "`Odd. [check: tidy nothing]…` names [check: tidy nothing], but there is no such check",
            ]
        );
    }

    #[test]
    fn each_threat_must_name_a_test_that_exists() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("suite.rs"), "#[test]\nfn good() {}\n").unwrap();
        let text = "# T\n\n| who | shown by |\n|---|---|\n| a | [test: suite.rs::good] |\n| b | none |\n| c | [test: suite.rs::bad] |\n";
        assert_eq!(
            threats(text, root.path()),
            [
                "docs/threats.md: `| b | none |…` names no test (hint: `[test: FILE::NAME]`)",
                "docs/threats.md: `| c | [test: suite.rs::bad] |…` names [test: suite.rs::bad], but suite.rs has no test `bad`",
            ]
        );
    }

    #[test]
    fn an_empty_list_is_a_problem() {
        assert_eq!(
            judge("## Invariants\n", Path::new("/")),
            ["ARCHITECTURE.md lists nothing under `## Invariants`"]
        );
    }
}
