//! What a base image is made of: `image/base.yml`, checked. Pure.

use serde::Deserialize;

/// The recipe of a base image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Of this format; 1.
    version: u32,
    /// Start of the image's file name.
    pub name: String,
    /// Debian's suite.
    pub suite: String,
    /// Parts of its archive.
    pub components: Vec<String>,
    /// Packages, beside those that every Debian system has.
    pub packages: Vec<String>,
    /// Packages that come, with what they need, from the suite's backports.
    #[serde(default)]
    pub backports: Vec<String>,
    /// Patterns of paths that are never unpacked.
    #[serde(default)]
    pub without: Vec<String>,
    /// Patterns of exceptions to them.
    #[serde(default)]
    pub keep: Vec<String>,
    /// Every time stamp of the image, in seconds since 1970.
    pub source_date_epoch: u64,
    /// The FAT partition that the firmware reads.
    pub boot: Boot,
    /// The ext4 partition.
    pub root: Root,
    /// Signature of the partition table, 8 hex digits.
    pub disk_id: String,
}

/// The FAT partition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Its label, by which the seed is found.
    pub label: String,
    /// Its size in MiB.
    pub size_mib: u64,
    /// Its serial number, 8 hex digits.
    pub volume_id: String,
}

/// The ext4 partition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Its label, by which the kernel finds it.
    pub label: String,
    /// Its UUID; also the seed of its directory hashes.
    pub uuid: String,
    /// Free space in MiB beside the files.
    pub slack_mib: u64,
}

/// What is wrong with a recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// Not a recipe.
    #[error("expected a recipe of a base image")]
    Parse(#[from] Box<serde_saphyr::Error>),
    /// A value of the wrong form.
    #[error("expected {field} to be {expected}, got {actual:?}")]
    Value {
        /// Where.
        field: &'static str,
        /// What belongs there.
        expected: &'static str,
        /// What came.
        actual: String,
    },
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// When it is no YAML, has unknown keys, or a value has the wrong form.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        let recipe: Self = serde_saphyr::from_str(text).map_err(Box::new)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Every package of the system, as apt is asked for it.
    #[must_use]
    pub fn wanted(&self) -> Vec<String> {
        let backports = self.backports.iter();
        let backports = backports.map(|name| format!("{name}/{}-backports", self.suite));
        self.packages.iter().cloned().chain(backports).collect()
    }

    /// Lines of apt's sources, of this mirror or of Debian's own.
    #[must_use]
    pub fn sources(&self, mirror: Option<&str>) -> Vec<String> {
        const DEBIAN: &str = "http://deb.debian.org/debian";
        let line = |mirror: &str, ending: &str| {
            let components = self.components.join(" ");
            format!("deb {mirror} {}{ending} {components}", self.suite)
        };
        let from = mirror.unwrap_or(DEBIAN);
        let mut lines = vec![line(from, "")];
        if mirror.is_none() {
            lines.push(line(from, "-updates"));
            lines.push(line("http://deb.debian.org/debian-security", "-security"));
        }
        if !self.backports.is_empty() {
            lines.push(line(from, "-backports"));
        }
        lines
    }

    fn check(&self) -> Result<(), RecipeError> {
        let is_word = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+.:-_".contains(&b))
        };
        let is_path = |text: &str| text.starts_with('/') && !text.contains(['\'', '\n', ' ', '"']);
        let is_id = |text: &str| text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let value = |field, expected, fits: bool, actual: &str| {
            if fits {
                Ok(())
            } else {
                Err(RecipeError::Value {
                    field,
                    expected,
                    actual: actual.chars().take(80).collect(),
                })
            }
        };
        value("version", "1", self.version == 1, &self.version.to_string())?;
        let words = "a word of letters, digits and + . : - _";
        value("name", words, is_word(&self.name), &self.name)?;
        value("suite", words, is_word(&self.suite), &self.suite)?;
        for component in &self.components {
            value("components", words, is_word(component), component)?;
        }
        for (field, packages) in [("packages", &self.packages), ("backports", &self.backports)] {
            for package in packages {
                value(field, words, is_word(package), package)?;
            }
        }
        let pattern = "a pattern of absolute paths";
        for path in &self.without {
            value("without", pattern, is_path(path), path)?;
        }
        for path in &self.keep {
            value("keep", pattern, is_path(path), path)?;
        }
        let label = "1 to 11 letters, digits, - and _";
        for (field, text) in [
            ("boot.label", &self.boot.label),
            ("root.label", &self.root.label),
        ] {
            value(field, label, is_word(text) && text.len() <= 11, text)?;
        }
        let id = "8 hex digits";
        value(
            "boot.volume_id",
            id,
            is_id(&self.boot.volume_id),
            &self.boot.volume_id,
        )?;
        value("disk_id", id, is_id(&self.disk_id), &self.disk_id)?;
        let is_uuid = self.root.uuid.len() == 36
            && self.root.uuid.bytes().enumerate().all(|(at, b)| match at {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_hexdigit(),
            });
        value("root.uuid", "a UUID", is_uuid, &self.root.uuid)?;
        let size = "64 to 4096 (the firmware reads FAT32 up to there well)";
        let fits = (64..=4096).contains(&self.boot.size_mib);
        value("boot.size_mib", size, fits, &self.boot.size_mib.to_string())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../image/base.yml");

    fn error(from: &str, to: &str) -> String {
        assert!(SHIPPED.contains(from), "{from}");
        Recipe::parse(&SHIPPED.replace(from, to))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_shipped_recipe_is_one() {
        let recipe = Recipe::parse(SHIPPED).unwrap();
        assert_eq!(recipe.suite, "trixie");
        assert!(recipe.packages.iter().any(|name| name == "raspi-firmware"));
    }

    #[test]
    fn wrong_values_say_what_was_expected() {
        assert_eq!(
            error("version: 1", "version: 2"),
            "expected version to be 1, got \"2\""
        );
        assert_eq!(
            error("- udev", "- 'udev; reboot'"),
            "expected packages to be a word of letters, digits and + . : - _, got \"udev; reboot\""
        );
        assert_eq!(
            error("/usr/share/info/*", "share/info"),
            "expected without to be a pattern of absolute paths, got \"share/info\""
        );
        assert_eq!(
            error("disk_id: 4c4b4853", "disk_id: lkhs"),
            "expected disk_id to be 8 hex digits, got \"lkhs\""
        );
        assert_eq!(
            error("size_mib: 384", "size_mib: 8"),
            "expected boot.size_mib to be 64 to 4096 (the firmware reads FAT32 up to there well), got \"8\""
        );
        assert_eq!(
            error("label: rootfs", "label: a-label-too-long"),
            "expected root.label to be 1 to 11 letters, digits, - and _, got \"a-label-too-long\""
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = Recipe::parse(&SHIPPED.replace("suite:", "siute:")).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("siute"), "{cause}");
        assert!(cause.contains("line 5"), "{cause}");
    }
}
