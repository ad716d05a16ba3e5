//! Names of the domain name system: labels, compared without regard to the case of ASCII letters.

use std::cmp::Ordering;
use std::fmt;

/// Most bytes of a label.
pub const MAX_LABEL: usize = 63;
/// Most bytes of a name on the wire, the root's zero included.
pub const MAX_NAME: usize = 255;

/// A name: its labels as they are on the wire, each with its length in front, without the root's zero.
#[derive(Clone, Default)]
pub struct Name(Vec<u8>);

impl Name {
    /// The name of these labels. What is longer than a label or a name can be is cut.
    #[must_use]
    pub fn of(labels: &[&str]) -> Self {
        let mut name = Self::default();
        for label in labels {
            // A label that does not fit is left out.
            let _ = name.push(cut(label, MAX_LABEL).as_bytes());
        }
        name
    }

    /// Adds a label at the end; gives `false` and changes nothing when it is empty, or too long for a
    /// label or for the name.
    pub fn push(&mut self, label: &[u8]) -> bool {
        let fits =
            (1..=MAX_LABEL).contains(&label.len()) && self.0.len() + 1 + label.len() < MAX_NAME;
        if let (true, Ok(length)) = (fits, u8::try_from(label.len())) {
            self.0.push(length);
            self.0.extend_from_slice(label);
            return true;
        }
        false
    }

    /// The labels, first to last.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        self.suffixes().map(|suffix| {
            let length = suffix.first().map_or(0, |length| usize::from(*length));
            suffix.get(1..=length).unwrap_or_default()
        })
    }

    /// Itself and every name above it, as on the wire; the root is none of them.
    pub(super) fn suffixes(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let current = rest;
            let length = usize::from(*current.first()?);
            rest = current.get(length + 1..)?;
            Some(current)
        })
    }

    /// The first label as text, with what is no UTF-8 replaced.
    #[must_use]
    pub fn first(&self) -> String {
        let first = self.labels().next().unwrap_or_default();
        String::from_utf8_lossy(first).into_owned()
    }

    /// The name without its first label.
    #[must_use]
    pub fn parent(&self) -> Self {
        Self(self.suffixes().nth(1).unwrap_or_default().to_vec())
    }
}

/// The start of `text` that has at most `most` bytes.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

// Lengths of labels are below the letters, so that bytes can be compared without knowing which is which.
impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        let lower = |name: &Self| name.0.to_ascii_lowercase();
        lower(self).cmp(&lower(other))
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Labels with a dot behind each; dots, backslashes and control characters within one are escaped.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in self.labels() {
            for c in String::from_utf8_lossy(label).chars() {
                match c {
                    '.' | '\\' => write!(f, "\\{c}")?,
                    c if c.is_control() => write!(f, "{}", c.escape_unicode())?,
                    c => write!(f, "{c}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_does_not_matter_and_labels_do() {
        let name = Name::of(&["Kiwi-01", "_lekiwi", "_tcp", "local"]);
        assert_eq!(name, Name::of(&["kiwi-01", "_LEKIWI", "_tcp", "LOCAL"]));
        assert_eq!(
            name.cmp(&Name::of(&["kiwi-01", "_lekiwi", "_tcp", "local"])),
            Ordering::Equal
        );
        assert_ne!(name, Name::of(&["kiwi-01._lekiwi", "_tcp", "local"]));
        assert_eq!(name.parent(), Name::of(&["_lekiwi", "_tcp", "local"]));
        assert_eq!(name.first(), "Kiwi-01");
        assert_eq!(
            Name::of(&["a.b\\", "c\n"]).to_string(),
            "a\\.b\\\\.c\\u{a}."
        );
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let name = Name::of(&[&"ä".repeat(40), "local"]);
        assert_eq!(name.first(), "ä".repeat(31));
        let mut long = Name::of(&["a".repeat(63).as_str(); 4]);
        assert_eq!(long.labels().count(), 3);
        assert!(!long.push(b""));
        assert!(!long.push(&[b'x'; 64]));
        assert!(long.push(&[b'x'; 61]));
        assert!(!long.push(b"x"));
    }
}
