//! Programs of a robot type that people may start from afar, with arguments of a given shape. Never a
//! shell: each word of `run` is one argument of the program, whatever is put into it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::check::{Complaint, absolute, below, complain};
use crate::limits::MAX_ACTION_TIME;
use crate::message::Arguments;
use crate::message::command::ACTION;

/// Longest text that an argument may be, when its maker says none.
const MAX_TEXT_CHARS: usize = 128;

/// Something that a robot of a type can be told to do.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// What it is called.
    pub name: String,
    /// What it does, for people.
    pub what: String,
    /// The program and its arguments; `{name}` in one of them stands for the value of an argument.
    pub run: Vec<String>,
    /// What must be said with it, by name.
    #[serde(default)]
    pub arguments: BTreeMap<String, Argument>,
    /// How long it may take, s.
    #[serde(default = "half_a_minute")]
    pub timeout_s: u64,
}

const fn half_a_minute() -> u64 {
    30
}

/// What a value of an argument may be.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argument {
    /// Of which type it is.
    #[serde(rename = "type")]
    pub kind: ArgumentKind,
    /// The least number.
    pub min: Option<f64>,
    /// The greatest number.
    pub max: Option<f64>,
    /// The longest text, in characters.
    pub max_length: Option<usize>,
    /// The texts of an `enum`.
    #[serde(default)]
    pub one_of: Vec<String>,
}

/// Of which type a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArgumentKind {
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A text that is no option (it begins with no hyphen) and has no control characters.
    String,
    /// One of some texts.
    Enum,
}

/// What an emergency stop begins.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopAction {
    /// The program and its arguments.
    pub run: Vec<String>,
    /// How long it may take, s.
    #[serde(default = "ten_seconds")]
    pub timeout_s: u64,
}

const fn ten_seconds() -> u64 {
    10
}

/// Why an action is not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// The profile has no such action.
    #[error("expected one of this robot's actions ({known}), got {name:?}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// An argument is missing.
    #[error("expected {name} to be {expected}, got none")]
    Missing {
        /// Which.
        name: String,
        /// What it may be.
        expected: String,
    },
    /// An argument that the action does not have.
    #[error("expected no argument {name:?} of the action {action}")]
    Surplus {
        /// Which.
        name: String,
        /// Of what.
        action: String,
    },
    /// A value that it may not have.
    #[error("expected {name} to be {expected}, got {value}")]
    Value {
        /// Of which argument.
        name: String,
        /// What it may be.
        expected: String,
        /// What it is.
        value: String,
    },
}

impl Action {
    /// How long it may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }

    /// Finds the action that `arguments` name among `actions`, and the program with its arguments that
    /// they make it.
    ///
    /// # Errors
    /// When there is no such action, or a value is not what it may be.
    pub fn choose<'a>(
        actions: &'a [Self],
        arguments: &Arguments,
    ) -> Result<(&'a Self, Vec<String>), ActionError> {
        let name = arguments.get(ACTION).and_then(Value::as_str);
        let name = name.unwrap_or_default();
        let Some(action) = actions.iter().find(|action| action.name == name) else {
            let known: Vec<&str> = actions.iter().map(|action| action.name.as_str()).collect();
            return Err(ActionError::Unknown {
                name: cut(name),
                known: match known.as_slice() {
                    [] => "it has none".to_owned(),
                    known => known.join(", "),
                },
            });
        };
        Ok((action, action.command_line(arguments)?))
    }

    fn command_line(&self, arguments: &Arguments) -> Result<Vec<String>, ActionError> {
        let surplus = |name: &&String| *name != ACTION && !self.arguments.contains_key(*name);
        if let Some(name) = arguments.keys().find(surplus) {
            return Err(ActionError::Surplus {
                name: cut(name),
                action: self.name.clone(),
            });
        }
        let mut values = BTreeMap::new();
        for (name, argument) in &self.arguments {
            let Some(value) = arguments.get(name) else {
                return Err(ActionError::Missing {
                    name: name.clone(),
                    expected: argument.expected(),
                });
            };
            let Some(text) = argument.text(value) else {
                return Err(ActionError::Value {
                    name: name.clone(),
                    expected: argument.expected(),
                    value: cut(&value.to_string()),
                });
            };
            values.insert(name.as_str(), text);
        }
        Ok(self.run.iter().map(|word| filled(word, &values)).collect())
    }

    pub(super) fn rules(&self) -> Result<(), Complaint> {
        if !is_identifier(&self.name) {
            return complain(
                "name",
                format!("expected a name of a-z, 0-9 and '_', got {:?}", self.name),
            );
        }
        if self.what.trim().is_empty() {
            return complain("what", "expected what it does, for people, got none");
        }
        program(&self.run, self.timeout_s)?;
        for (name, argument) in &self.arguments {
            let path = format!("arguments.{name}");
            if !is_identifier(name) || name == ACTION {
                return complain(
                    path,
                    format!(
                        "expected a name of a-z, 0-9 and '_' other than {ACTION}, got {name:?}"
                    ),
                );
            }
            argument.rules().map_err(below(&path))?;
        }
        for (index, word) in self.run.iter().enumerate() {
            let unknown = |name: &&str| !self.arguments.contains_key(*name);
            if let Some(name) = placeholders(word).find(unknown) {
                return complain(
                    format!("run[{index}]"),
                    format!("expected the name of an argument in braces, got {{{name}}}"),
                );
            }
        }
        Ok(())
    }
}

impl StopAction {
    pub(super) fn rules(&self) -> Result<(), Complaint> {
        program(&self.run, self.timeout_s)
    }
}

impl Argument {
    /// What it may be, for people.
    fn expected(&self) -> String {
        let range = match (self.min, self.max) {
            (Some(min), Some(max)) => format!(" from {min} to {max}"),
            (Some(min), None) => format!(" from {min}"),
            (None, Some(max)) => format!(" up to {max}"),
            (None, None) => String::new(),
        };
        match self.kind {
            ArgumentKind::Integer => format!("a whole number{range}"),
            ArgumentKind::Number => format!("a number{range}"),
            ArgumentKind::String => format!(
                "a text of 1 to {} characters that does not begin with '-'",
                self.longest()
            ),
            ArgumentKind::Enum => format!("one of {}", self.one_of.join(", ")),
        }
    }

    fn longest(&self) -> usize {
        self.max_length.unwrap_or(MAX_TEXT_CHARS)
    }

    /// The value as a word of a command line; `None` where it may not be.
    fn text(&self, value: &Value) -> Option<String> {
        let in_range = |number: f64| {
            self.min.is_none_or(|min| number >= min) && self.max.is_none_or(|max| number <= max)
        };
        match (self.kind, value) {
            (ArgumentKind::Integer, Value::Number(number)) => {
                let whole = number.is_i64() || number.is_u64();
                (whole && in_range(number.as_f64()?)).then(|| number.to_string())
            }
            (ArgumentKind::Number, Value::Number(number)) => {
                in_range(number.as_f64()?).then(|| number.to_string())
            }
            (ArgumentKind::String, Value::String(text)) => {
                let right = !text.is_empty()
                    && text.chars().count() <= self.longest()
                    && !text.starts_with('-')
                    && !text.chars().any(char::is_control);
                right.then(|| text.clone())
            }
            (ArgumentKind::Enum, Value::String(text)) => {
                self.one_of.contains(text).then(|| text.clone())
            }
            _ => None,
        }
    }

    fn rules(&self) -> Result<(), Complaint> {
        let is_number = matches!(self.kind, ArgumentKind::Integer | ArgumentKind::Number);
        for (key, given, fits) in [
            ("min", self.min.is_some(), is_number),
            ("max", self.max.is_some(), is_number),
            (
                "max_length",
                self.max_length.is_some(),
                self.kind == ArgumentKind::String,
            ),
            (
                "one_of",
                !self.one_of.is_empty(),
                self.kind == ArgumentKind::Enum,
            ),
        ] {
            if given && !fits {
                return complain(key, "expected none with this type, got one");
            }
        }
        if self.kind == ArgumentKind::Enum && self.one_of.is_empty() {
            return complain("one_of", "expected the texts that it may be, got none");
        }
        if let (Some(min), Some(max)) = (self.min, self.max)
            && (min > max || min.is_nan() || max.is_nan())
        {
            return complain("max", format!("expected at least {min}, got {max}"));
        }
        Ok(())
    }
}

fn program(run: &[String], timeout_s: u64) -> Result<(), Complaint> {
    let Some(program) = run.first() else {
        return complain("run", "expected a program and its arguments, got none");
    };
    absolute("run[0]", program)?;
    let most = MAX_ACTION_TIME.as_secs();
    if (1..=most).contains(&timeout_s) {
        Ok(())
    } else {
        complain(
            "timeout_s",
            format!("expected 1 to {most}, got {timeout_s}"),
        )
    }
}

fn is_identifier(name: &str) -> bool {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(letters)
}

/// The names in braces; braces around anything else are braces.
fn placeholders(word: &str) -> impl Iterator<Item = &str> {
    word.split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| name)
        .filter(|name| is_identifier(name))
}

/// The word with values in the place of names. What a value brings is not looked at again.
fn filled(word: &str, values: &BTreeMap<&str, String>) -> String {
    let mut text = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        match after.split_once('}') {
            Some((name, behind)) if values.contains_key(name) => {
                text.push_str(&values[name]);
                rest = behind;
            }
            _ => {
                text.push('{');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
