//! Templates and quoting: the only way a value gets into a file. Pure.

use std::fmt::Write as _;

use serde::Serialize;

/// A value as YAML on one line, in printable ASCII: JSON, with what parsers of YAML 1.1 take for line breaks or refuse
/// written as escapes.
pub(super) fn yaml(value: &(impl Serialize + ?Sized)) -> String {
    let json = serde_json::json!(value).to_string();
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        let code = u32::from(character);
        match code {
            0x20..0x7f => text.push(character),
            // JSON's own pair of escapes would be two broken characters in YAML.
            0x1_0000.. => {
                let _ = write!(text, "\\U{code:08x}");
            }
            _ => {
                let _ = write!(text, "\\u{code:04x}");
            }
        }
    }
    text
}

/// A value as one word of a shell.
pub(super) fn shell(value: &str) -> String {
    format!("'{}'", value.replace('\'', "'\\''"))
}

/// Replaces each `{{name}}` by its value, which is quoted already. What a value holds is not looked at again.
pub(super) fn render(template: &str, values: &[(&str, String)]) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        let found = after.split_once("}}").and_then(|(name, after)| {
            let (_, value) = values.iter().find(|(known, _)| *known == name)?;
            Some((value, after))
        });
        match found {
            Some((value, after)) => {
                text.push_str(value);
                rest = after;
            }
            None => {
                text.push_str("{{");
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

/// Each line that is not empty, `width` spaces further right.
pub(super) fn indented(text: &str, width: usize) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            if line.is_empty() {
                String::new()
            } else {
                format!("{:width$}{line}", "")
            }
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// What is hard to quote in some language.
    const HOSTILE: &[&str] = &[
        "plain",
        "'",
        "'; touch /tmp/x; '",
        "$(touch /tmp/x) `x` $HOME",
        "\\' \\\" \\n \"]}: {{token}} # x",
        "- a: b",
        "yes",
        "0123",
        "Größe 🤖 \u{85} \u{2028} \u{feff} \u{7f}",
        " leading and trailing ",
    ];

    #[test]
    fn yaml_reads_back_what_was_written() {
        for value in HOSTILE {
            let text = format!("a: {}\nb: 1\n", yaml(*value));
            assert!(
                text.bytes()
                    .all(|b| b == b'\n' || (0x20..0x7f).contains(&b))
            );
            let back: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(back["a"], *value);
        }
    }

    #[test]
    fn the_shell_reads_back_what_was_written() {
        for value in HOSTILE {
            let script = format!("printf %s {}", shell(value));
            let output = std::process::Command::new("sh")
                .args(["-c", &script])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), *value);
            assert!(output.stderr.is_empty());
        }
    }

    #[test]
    fn a_value_is_not_a_template() {
        let values = [("a", "{{b}}".to_owned()), ("b", "secret".to_owned())];
        assert_eq!(render("{{a}} {{c}} {{", &values), "{{b}} {{c}} {{");
    }
}
