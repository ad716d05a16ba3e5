//! Reading YAML files that people write: an error says where, what was expected, and which key was
//! probably meant. Used for configuration and profiles; pure, the text is handed in.

use serde::de::DeserializeOwned;

/// Why a text is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// A key that does not exist.
    #[error("unknown key {key:?} at {place}, expected one of {expected}")]
    UnknownKey {
        /// As written.
        key: String,
        /// `file:line:column`.
        place: String,
        /// The keys that exist there.
        expected: String,
        /// The nearest of them.
        near: Option<&'static str>,
    },
    /// No YAML, or a value of another type.
    #[error("wrong value at {place}: {reason}")]
    Wrong {
        /// `file:line:column`.
        place: String,
        /// What the parser expected and found.
        reason: String,
    },
}

impl YamlError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { near, .. } => near.map(|near| format!("did you mean {near:?}?")),
            Self::Wrong { .. } => None,
        }
    }
}

/// Reads `text`; `origin` is how errors call it.
///
/// # Errors
/// When the text is no YAML, or not of this shape.
pub fn parse<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, YamlError> {
    serde_saphyr::from_str(text).map_err(|error| syntax(origin, error.without_snippet()))
}

fn syntax(origin: &str, error: &serde_saphyr::Error) -> YamlError {
    let place = match error.location() {
        Some(location) => format!("{origin}:{}:{}", location.line(), location.column()),
        None => origin.to_owned(),
    };
    match error {
        serde_saphyr::Error::SerdeUnknownField {
            field, expected, ..
        } => YamlError::UnknownKey {
            key: field.clone(),
            place,
            expected: expected.join(", "),
            near: nearest(field, expected.iter().copied()),
        },
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => YamlError::Wrong {
            place,
            reason: format!(
                "expected each key once, got {:?} again",
                key.as_deref().unwrap_or("one")
            ),
        },
        other => {
            let text = other.to_string();
            // The parser says the place as well; it is already in front.
            let reason = text.split(" at line ").next().unwrap_or_default();
            let reason = match reason.lines().next().unwrap_or_default() {
                "invalid u64" | "invalid u32" | "invalid u16" | "invalid u8" => {
                    "expected a whole number"
                }
                "invalid f64" => "expected a number",
                "invalid bool" | "invalid boolean" => "expected true or false",
                other => other,
            };
            YamlError::Wrong {
                place,
                reason: reason.to_owned(),
            }
        }
    }
}

/// The most similar of `known`, if one is similar at all.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let score = |candidate: &&str| strsim::jaro_winkler(name, candidate);
    known
        .map(|candidate| (score(&candidate), candidate))
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
