//! What sources may contain: no IO in pure packages, no giants, nothing generated or vendored, nothing
//! unfinished.

use anyhow::Result;

use super::files as committed;
use crate::workspace;

/// Sources of the pure packages.
const PURE_FOLDERS: &[&str] = &["protocol/src/", "agent/core/src/", "relay/core/src/"];

/// What pure sources must not name, and why not.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "the driver owns the runtime"),
    (
        "std::net",
        "the driver owns sockets; core::net has the address types",
    ),
    ("std::fs", "the driver owns files"),
    ("std::io", "the driver owns files"),
    ("std::env", "configuration is an argument"),
    ("std::process", "the driver owns processes"),
    ("std::thread", "the driver owns threads"),
    ("Instant::now", "time is an argument"),
    ("SystemTime::now", "time is an argument"),
];

/// Lines of a source file; above it, a module wants to be two.
const MOST_LINES: usize = 600;
/// Bytes of any file but lock files and the interface's document; above it, it was generated or belongs elsewhere.
const MOST_BYTES: u64 = 300_000;

/// No IO in pure packages. Their tests, in place or in a `tests.rs`, may read golden files.
pub(super) fn pure(problems: &mut Vec<String>) -> Result<()> {
    for file in committed()? {
        if !has_ending(&file, &["rs"])
            || !PURE_FOLDERS.iter().any(|folder| file.starts_with(folder))
            || file.ends_with("/tests.rs")
        {
            continue;
        }
        let text = std::fs::read_to_string(workspace::root().join(&file))?;
        problems.extend(
            impure_lines(&text)
                .map(|(line, what, why)| format!("{file}:{line} names `{what}`, but {why}")),
        );
    }
    Ok(())
}

fn impure_lines(text: &str) -> impl Iterator<Item = (usize, &'static str, &'static str)> {
    text.lines()
        .take_while(|line| line.trim() != "#[cfg(test)]") // tests come last in a file
        .enumerate()
        .flat_map(|(index, line)| {
            let code = line.split("//").next().unwrap_or_default();
            IMPURE
                .iter()
                .filter(move |(what, _)| code.contains(what))
                .map(move |(what, why)| (index + 1, *what, *why))
        })
}

/// Sizes and places of files.
pub(super) fn files(problems: &mut Vec<String>) -> Result<()> {
    for file in committed()? {
        let path = workspace::root().join(&file);
        let foreign = ["vendor", "third_party", "node_modules", "dist", "target"];
        if file
            .split('/')
            .rev()
            .skip(1)
            .any(|folder| foreign.contains(&folder))
            && file != "xtask/src/dist"
            && !file.starts_with("xtask/src/dist/")
        {
            problems.push(format!(
                "{file} is generated or somebody else's: do not commit it"
            ));
        }
        let bytes = path.metadata()?.len();
        let generated = ["Cargo.lock", "package-lock.json", "relay/openapi.json"]
            .iter()
            .any(|name| file.ends_with(name));
        if bytes > MOST_BYTES && !generated {
            problems.push(format!(
                "{file} has {bytes} bytes, at most {MOST_BYTES} are expected"
            ));
        }
        if has_ending(&file, &["rs", "ts", "css", "sh"]) {
            let lines = std::fs::read_to_string(&path)?.lines().count();
            if lines > MOST_LINES {
                problems.push(format!(
                    "{file} has {lines} lines, at most {MOST_LINES} are expected"
                ));
            }
        }
    }
    Ok(())
}

/// Nothing unfinished, nothing switched off.
pub(super) fn words(problems: &mut Vec<String>) -> Result<()> {
    for file in committed()? {
        let config = [
            "rs", "ts", "css", "html", "sh", "toml", "yml", "yaml", "service", "md",
        ];
        if !has_ending(&file, &config) {
            continue;
        }
        let text = std::fs::read_to_string(workspace::root().join(&file))?;
        problems
            .extend(unfinished(&text).map(|(line, word)| format!("{file}:{line} says `{word}`")));
    }
    Ok(())
}

/// Spelt in two halves, so that this file does not name itself.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("HA", "CK"),
    concat!("X", "XX"),
    concat!("#[ign", "ore"),
    concat!("unimplem", "ented!"),
    concat!("for n", "ow"),
];

fn unfinished(text: &str) -> impl Iterator<Item = (usize, &'static str)> {
    text.lines().enumerate().flat_map(|(index, line)| {
        UNFINISHED
            .iter()
            .filter(move |word| names(line, word))
            .map(move |word| (index + 1, *word))
    })
}

/// Whether `line` has `word`, not as a part of a longer one.
fn names(line: &str, word: &str) -> bool {
    let part = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

fn has_ending(file: &str, endings: &[&str]) -> bool {
    file.rsplit_once('.')
        .is_some_and(|(_, ending)| endings.contains(&ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_is_seen_outside_comments_and_tests() {
        let text = "//! tokio is elsewhere\nuse std::fs::File;\nlet t = Instant::now();\n#[cfg(test)]\nmod tests { use std::fs; }\n";
        let seen: Vec<_> = impure_lines(text)
            .map(|(line, what, _)| (line, what))
            .collect();
        assert_eq!(seen, [(2, "std::fs"), (3, "Instant::now")]);
    }

    #[test]
    fn words_count_only_whole() {
        let word = UNFINISHED[0];
        let seen: Vec<_> = unfinished(&format!("a\n// {word}: b\n{word}S\nMY_{word}\n")).collect();
        assert_eq!(seen, [(2, word)]);
        let phrase = UNFINISHED[6];
        assert_eq!(unfinished(&format!("good {phrase}.")).count(), 1);
        assert_eq!(unfinished("look for nowhere").count(), 0);
    }
}
