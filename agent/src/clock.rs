//! The only place that reads a clock. A Pi has none that survives a power cut, so certificates are
//! judged by [`Floor::certificate_time`], which never lies before what is certain to have passed.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place of this program that reads a clock"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use lekiwi_agent_core::time::{Known, Reading};
use lekiwi_protocol::{Clock, Timestamp};
use rustls_pki_types::UnixTime;

/// Where systemd-timesyncd says that the clock was set from the network since boot.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// Monotonic time, for the pure cores.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// The system's idea of the time.
#[must_use]
pub fn wall() -> Timestamp {
    SystemTime::now().into()
}

/// All clocks at once; `uptime_s` is what the kernel says, sleep included.
#[must_use]
pub fn reading(uptime_s: u64) -> Reading {
    Reading {
        monotonic: now(),
        uptime: Duration::from_secs(uptime_s),
        wall: wall(),
    }
}

/// Whether the system's clock was set from the network. Only timesyncd is asked: elsewhere the answer
/// is the cautious one.
#[must_use]
pub fn state() -> Clock {
    if Path::new(SYNCHRONISED).exists() {
        Clock::Synced
    } else {
        Clock::Unsynced
    }
}

/// When this program was built.
#[must_use]
pub fn build_time() -> Timestamp {
    let seconds = env!("AGENT_BUILD_TIME_S").parse().unwrap_or(0_u64);
    Timestamp::from_ms(seconds.saturating_mul(1000))
}

/// What is known to have passed, kept in a file over restarts; see [`lekiwi_agent_core::time`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Floor {
    path: PathBuf,
    known: Known,
    /// How many attempts in a row failed by now.
    attempt: u32,
}

impl Floor {
    /// Reads the file; without one, the build time is all that is known.
    #[must_use]
    pub fn load(path: PathBuf) -> Self {
        let kept = std::fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.trim().parse::<Timestamp>().ok());
        Self {
            path,
            known: Known::new(build_time(), kept.unwrap_or_default()),
            attempt: 0,
        }
    }

    /// `time` has passed: it stands in something that was signed.
    pub fn passed(&mut self, time: Timestamp) {
        self.known.passed(time);
    }

    /// Writes what is known, with the system's time if that is believed now.
    pub fn persist(&mut self) {
        if state() == Clock::Synced {
            self.known.synchronised(wall());
        }
        let text = self.known.kept().to_string();
        if let Err(error) = crate::storage::write_atomically(&self.path, text.as_bytes(), 0o644) {
            log::debug!("the known time is not on disk: {error}");
        }
    }

    /// An attempt to enrol or to connect failed; the time may have been the reason.
    pub fn failed(&mut self) {
        self.attempt = self.attempt.wrapping_add(1);
    }

    /// One worked.
    pub fn worked(&mut self) {
        self.attempt = 0;
    }

    /// The latest time that is known, by which what is signed ends.
    #[must_use]
    pub fn latest(&self) -> Timestamp {
        self.known.latest(wall(), state())
    }

    /// The time that certificates are judged by.
    #[must_use]
    pub fn certificate_time(&self) -> Timestamp {
        self.known.certificate_time(wall(), state(), self.attempt)
    }
}

/// A [`Timestamp`] for the certificate library.
#[must_use]
pub fn unix_time(time: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(time.as_ms()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_never_judged_by_a_time_before_what_is_known() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("clock");
        let mut floor = Floor::load(path.clone());
        assert!(floor.certificate_time() >= build_time());
        let future = wall().plus(Duration::from_secs(1_000_000));
        floor.passed(future);
        floor.persist();
        floor.passed(Timestamp::from_ms(1));
        assert_eq!(floor.certificate_time(), future);
        assert_eq!(Floor::load(path.clone()).known.kept(), future);
        std::fs::write(&path, "garbage").expect("writable");
        assert!(Floor::load(path).certificate_time() < future);
    }
}
