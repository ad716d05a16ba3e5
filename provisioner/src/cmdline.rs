//! The kernel's command line on a boot partition: one line of words, of which a seed replaces its own and keeps the
//! rest byte for byte. Pure; [`crate::plan`] makes the edits, whoever applies a plan carries them out.
//! Invariant: an edit done twice is an edit done once.

/// The file's name.
pub const NAME: &str = "cmdline.txt";

/// Words that a seed puts on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmdline {
    words: Vec<String>,
}

/// Why a command line was not edited.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// No such file.
    #[error("expected a cmdline.txt on the boot partition, found none")]
    Absent,
    /// Not text.
    #[error("expected a cmdline.txt in UTF-8, got other bytes")]
    Text,
    /// Nothing in it.
    #[error("expected kernel parameters in cmdline.txt, got an empty file")]
    Empty,
    /// The firmware reads the first line only.
    #[error("expected one line in cmdline.txt, got {0}")]
    Lines(usize),
}

impl CmdlineError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Absent => Some(
                "Raspberry Pi OS has one on its boot partition, labelled bootfs; --os says for which system the seed is",
            ),
            Self::Lines(_) => Some("the firmware reads the first line only: join the lines"),
            Self::Text | Self::Empty => Some("take the file from the image again"),
        }
    }
}

impl Cmdline {
    /// Each word is `name=value` or a bare name, without spaces.
    #[must_use]
    pub(crate) fn new(words: Vec<String>) -> Self {
        Self { words }
    }

    /// What is put on the line.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The file's new bytes. A word replaces those of the same name where the first of them stands, or goes to the end.
    ///
    /// # Errors
    /// When the file is absent, is no text, or has another number of lines than one.
    pub fn edit(&self, before: Option<&[u8]>) -> Result<Vec<u8>, CmdlineError> {
        let text = std::str::from_utf8(before.ok_or(CmdlineError::Absent)?)
            .map_err(|_| CmdlineError::Text)?;
        let line = text.trim();
        let lines = line.lines().filter(|line| !line.trim().is_empty()).count();
        match lines {
            0 => return Err(CmdlineError::Empty),
            1 => {}
            more => return Err(CmdlineError::Lines(more)),
        }
        let mut words: Vec<&str> = line.split(' ').collect();
        for ours in &self.words {
            let place = words.iter().position(|word| name(word) == name(ours));
            match place {
                Some(place) => {
                    words[place] = ours;
                    let mut index = 0;
                    words.retain(|word| {
                        index += 1;
                        index <= place + 1 || name(word) != name(ours)
                    });
                }
                None => words.push(ours),
            }
        }
        let mut edited = words.join(" ");
        if text.ends_with('\n') {
            edited.push('\n');
        }
        Ok(edited.into_bytes())
    }
}

fn name(word: &str) -> &str {
    word.split_once('=').map_or(word, |(name, _)| name)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const STOCK: &str = "console=serial0,115200 console=tty1 root=PARTUUID=0e1c1c3a-02 rootfstype=ext4 fsck.repair=yes rootwait resize";

    fn seed() -> Cmdline {
        Cmdline::new(vec![
            "cfg80211.ieee80211_regdom=DE".into(),
            "ds=nocloud;i=kiwi-01-0011aabb".into(),
        ])
    }

    fn edited(before: &str) -> String {
        String::from_utf8(seed().edit(Some(before.as_bytes())).unwrap()).unwrap()
    }

    #[test]
    fn words_go_to_the_end_once() {
        let expected =
            format!("{STOCK} cfg80211.ieee80211_regdom=DE ds=nocloud;i=kiwi-01-0011aabb");
        assert_eq!(edited(STOCK), expected);
        assert_eq!(edited(&edited(STOCK)), expected);
        assert_eq!(edited(&format!("{STOCK}\n")), format!("{expected}\n"));
        assert_eq!(edited(&format!("{STOCK}\r\n")), format!("{expected}\n"));
    }

    #[test]
    fn words_of_an_earlier_seed_are_replaced_and_all_others_stay() {
        assert_eq!(
            edited("ds=nocloud;i=old  quiet ds=nocloud;s=http://x/ module.option=\"a  b\" splash"),
            "ds=nocloud;i=kiwi-01-0011aabb  quiet module.option=\"a  b\" splash cfg80211.ieee80211_regdom=DE"
        );
    }

    #[test]
    fn what_is_no_command_line_is_refused() {
        let refused = |before: Option<&[u8]>| seed().edit(before).unwrap_err().to_string();
        assert_eq!(
            refused(None),
            "expected a cmdline.txt on the boot partition, found none"
        );
        assert_eq!(
            refused(Some(b"\n")),
            "expected kernel parameters in cmdline.txt, got an empty file"
        );
        assert_eq!(
            refused(Some(b"quiet\nsplash\n")),
            "expected one line in cmdline.txt, got 2"
        );
        assert_eq!(
            refused(Some(b"\xff\xfe")),
            "expected a cmdline.txt in UTF-8, got other bytes"
        );
    }
}
