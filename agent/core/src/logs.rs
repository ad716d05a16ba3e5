//! Which words ask for a part of the journal, and at which pace it is uploaded. Pure.
//!
//! What does not fit is the oldest: a first run tells how many lines fit, and the next asks for fewer of the
//! newest, so that the file is in the order in which people read and was never larger than allowed.

use std::time::Duration;

use lekiwi_protocol::message::{LogSlice, Moment};

/// Largest piece of an upload: what a relay takes in one request.
pub const MAX_PIECE_BYTES: u64 = 64 * 1024;
/// Smallest one: within a request's time also on the slowest network.
const MIN_PIECE_BYTES: u64 = 4 * 1024;
/// A piece that is there sooner may be followed by a larger one.
const QUICK: Duration = Duration::from_secs(2);
/// Longest pause between two pieces.
const MOST_REST: Duration = Duration::from_secs(2);
/// Longest pause after a failure.
const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// The command line that prints `slice`: of the journals below `root`, at most the `newest` entries. Each word
/// stays one, whatever stands in it.
#[must_use]
pub fn journalctl(slice: &LogSlice, root: &str, newest: Option<u64>) -> Vec<String> {
    let mut words: Vec<String> = [
        "journalctl",
        "--quiet",
        "--no-pager",
        "--utc",
        "--output=short-iso-precise",
    ]
    .map(str::to_owned)
    .into();
    if root != "/" {
        words.push(format!("--root={root}"));
    }
    words.extend(slice.units.iter().map(|unit| format!("--unit={unit}")));
    let bounds = [("since", slice.since), ("until", slice.until)];
    for (name, moment) in bounds {
        match moment {
            Some(Moment::At(at)) => {
                let (seconds, ms) = (at.as_ms() / 1000, at.as_ms() % 1000);
                words.push(format!("--{name}=@{seconds}.{ms:03}"));
            }
            Some(Moment::Ago(ago)) => words.push(format!("--{name}=-{}s", ago.as_secs())),
            None => {}
        }
    }
    words.extend(newest.map(|newest| format!("--lines={newest}")));
    words
}

/// How many of the newest entries to ask for, where of `asked` ones (all, when none is said) only `lines` lines
/// fitted: an entry has a line or more. `None` when not even one fits.
#[must_use]
pub fn fewer(asked: Option<u64>, lines: u64) -> Option<u64> {
    let fitting = asked.map_or(lines, |asked| asked.min(lines));
    let next = fitting - fitting / 4;
    // Always fewer than before, so that it comes to an end.
    let next = asked.map_or(next, |asked| next.min(asked.saturating_sub(1)));
    (next > 0).then_some(next)
}

/// How large the next piece is, and how long to wait for it: at most half of the network's time, so that
/// heartbeats have the other half.
#[derive(Debug)]
pub struct Pace {
    piece: u64,
    failures: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            piece: MAX_PIECE_BYTES,
            failures: 0,
        }
    }
}

impl Pace {
    /// The size of the next piece.
    #[must_use]
    pub fn piece(&self) -> u64 {
        self.piece
    }

    /// A piece is there, after this time; how long to rest.
    pub fn sent(&mut self, took: Duration) -> Duration {
        self.failures = 0;
        if took < QUICK {
            self.piece = (self.piece * 2).min(MAX_PIECE_BYTES);
        }
        took.min(MOST_REST)
    }

    /// The connection or the relay failed; how long to wait.
    pub fn failed(&mut self) -> Duration {
        self.piece = (self.piece / 2).max(MIN_PIECE_BYTES);
        let wait = Duration::from_secs(1 << self.failures.min(5));
        self.failures += 1;
        wait.min(MOST_PATIENCE)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lekiwi_protocol::limits::LOG_BYTES;

    use super::*;

    const FIRST: &str = "journalctl --quiet --no-pager --utc --output=short-iso-precise";

    #[test]
    fn words_say_what_is_asked_for() {
        let all = LogSlice {
            units: Vec::new(),
            since: None,
            until: None,
            max_bytes: LOG_BYTES,
        };
        let some = LogSlice {
            units: vec!["a.service".to_owned(), "b@1".to_owned()],
            since: Some(Moment::Ago(Duration::from_secs(7200))),
            until: Some(Moment::At("2026-11-21T03:52:00.050Z".parse().unwrap())),
            ..all.clone()
        };
        for (slice, root, newest, expected) in [
            (&all, "/", None, ""),
            (&all, "/robot", None, " --root=/robot"),
            (&all, "/", Some(5), " --lines=5"),
            (
                &some,
                "/",
                None,
                " --unit=a.service --unit=b@1 --since=-7200s --until=@1795233120.050",
            ),
        ] {
            let words = journalctl(slice, root, newest).join(" ");
            assert_eq!(words, format!("{FIRST}{expected}"));
        }
    }

    #[test]
    fn fewer_are_asked_for_until_they_fit() {
        for (asked, lines, expected) in [
            (None, 1000, Some(750)),
            (Some(750), 4000, Some(563)),
            (Some(750), 100, Some(75)),
            (Some(2), 2, Some(1)),
            (Some(1), 1, None),
            (None, 0, None),
        ] {
            assert_eq!(fewer(asked, lines), expected, "{asked:?} {lines}");
        }
        let (mut asked, mut rounds) = (fewer(None, u64::MAX), 0);
        while let Some(n) = asked {
            asked = fewer(Some(n), n);
            rounds += 1;
        }
        assert!(rounds < 200, "{rounds} rounds");
    }

    #[test]
    fn the_pace_is_the_networks() {
        let mut pace = Pace::default();
        assert_eq!(pace.piece(), MAX_PIECE_BYTES);
        assert_eq!(pace.sent(Duration::from_secs(8)), MOST_REST);
        let waits: Vec<u64> = (0..7).map(|_| pace.failed().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pace.piece(), MIN_PIECE_BYTES);
        assert_eq!(
            pace.sent(Duration::from_millis(50)),
            Duration::from_millis(50)
        );
        assert_eq!(pace.piece(), 2 * MIN_PIECE_BYTES);
        assert_eq!(pace.failed(), Duration::from_secs(1));
    }
}
