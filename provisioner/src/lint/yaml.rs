//! YAML as cloud-init's parser takes it. Pure.

use serde_json::Value;

use super::{Report, Texts};

/// Reads what a parser reads that takes the last of two equal keys.
pub(super) fn lenient(text: &str) -> Option<Value> {
    if is_empty(text) {
        return Some(Value::Null);
    }
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
    };
    serde_saphyr::from_str_with_options(text, options).ok()
}

fn is_empty(text: &str) -> bool {
    text.lines()
        .map(str::trim_start)
        .all(|line| line.is_empty() || line.starts_with('#'))
}

/// Says why a file is no YAML, and which keys stand twice.
pub(super) fn check(texts: &Texts, name: &str, report: &mut Report) {
    let Some(text) = texts.text(name).filter(|text| !is_empty(text)) else {
        return;
    };
    let tab = text.lines().position(|line| {
        let indentation = line.len() - line.trim_start().len();
        line[..indentation].contains('\t') && !line.trim().is_empty()
    });
    let Err(error) = serde_saphyr::from_str::<Value>(text) else {
        return;
    };
    let line = error
        .location()
        .and_then(|location| usize::try_from(location.line()).ok());
    if let serde_saphyr::Error::DuplicateMappingKey { key, .. } = error.without_snippet() {
        let key = key.as_deref().unwrap_or("a key");
        report.error(
            "duplicate-key",
            (name, line),
            format!("{key} stands twice in one mapping, and only the last one counts"),
        );
        report.hint("join them");
        return;
    }
    if let Some(index) = tab {
        report.error(
            "tab",
            (name, Some(index + 1)),
            "a tab in the indentation: YAML takes spaces only, and cloud-init ignores the whole file",
        );
        report.hint("indent with spaces");
        return;
    }
    report.error(
        "invalid-yaml",
        (name, line),
        "this is no YAML, and cloud-init ignores the whole file",
    );
    let reason = error.without_snippet().to_string();
    report.hint(reason.lines().next().unwrap_or_default().to_owned());
}
