//! Looks at the services and checks of the robot's profile, for [`lekiwi_agent_core::health`]. Used by the
//! driver. Units are looked at in systemd's files, which takes microseconds; checks run as tasks of their
//! own, so that nothing waits for them.

mod probe;
mod unit;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lekiwi_agent_core::health::{Health, Target, Verdict};
use lekiwi_agent_core::setup::plan;
use lekiwi_protocol::ProfileName;
use lekiwi_protocol::message::{RobotHealth, SetupStatus};
use lekiwi_protocol::profile::Profile;
use tokio::sync::mpsc;

use crate::profiles;
use crate::setup::{self, Record};
use probe::Probe;
use unit::Unit;

/// Time between two looks at a unit.
const UNITS_EVERY: Duration = Duration::from_secs(5);
/// Time between two looks of a check.
const CHECKS_EVERY: Duration = Duration::from_secs(10);
/// Most services and checks that are looked at.
const MOST: usize = 64;
/// Longest reason, in characters.
const MAX_REASON: usize = 200;

enum Look {
    Unit(Unit),
    Probe(Probe),
}

/// The result of a look.
pub type Found = (usize, Result<(), String>);

/// What watches one profile.
pub struct Monitor {
    health: Health,
    looks: Vec<Look>,
    root: PathBuf,
    profile: ProfileName,
    needs_setup: bool,
    /// Whether the profile could be read; without it nothing is known of its services and checks.
    is_loaded: bool,
    sender: mpsc::Sender<Found>,
    found: mpsc::Receiver<Found>,
}

impl Monitor {
    /// Watches `profile`, with the system's files below `root`. `None` when there is no such profile and
    /// root's setup has said nothing of it either.
    #[must_use]
    pub fn open(packaged: &Path, root: &Path, name: &ProfileName, now: Instant) -> Option<Self> {
        let profile = match profiles::load(packaged, root, name) {
            Ok(profile) => Some(profile),
            Err(error) => {
                log::warn!(
                    "services and checks are not watched: {}",
                    crate::driver::chain(&error)
                );
                None
            }
        };
        if profile.is_none() {
            record(root, name)?;
        }
        let (targets, looks) = profile.as_ref().map(looks).unwrap_or_default();
        let (sender, found) = mpsc::channel(MOST);
        let mut monitor = Self {
            health: Health::new(now, targets),
            looks,
            root: root.to_owned(),
            profile: name.clone(),
            is_loaded: profile.is_some(),
            needs_setup: profile.is_none_or(|profile| !plan(&profile).is_empty()),
            sender,
            found,
        };
        monitor.look_at_setup(now);
        Some(monitor)
    }

    /// Whether this profile is watched.
    #[must_use]
    pub fn watches(&self, name: &ProfileName) -> bool {
        self.is_loaded && self.profile == *name
    }

    /// Whether the profile was not there, or wrong, when this began.
    #[must_use]
    pub fn lacks_profile(&self) -> bool {
        !self.is_loaded
    }

    /// Whether root's setup is done.
    #[must_use]
    pub fn is_set_up(&self) -> bool {
        self.health.report().setup == SetupStatus::Done
    }

    /// Reads how far root's setup is.
    pub fn look_at_setup(&mut self, now: Instant) {
        let status = match self.needs_setup {
            true => match record(&self.root, &self.profile).map(|record| record.status) {
                // Done, by a profile that was not looked at: nothing can be said to pass.
                Some(SetupStatus::Done) if !self.is_loaded => SetupStatus::Running,
                status => status.unwrap_or_default(),
            },
            false => SetupStatus::Done,
        };
        self.health.setup(now, status);
    }

    /// Begins the looks that are due.
    pub fn look(&mut self, now: Instant) {
        while let Some(index) = self.health.poll_look(now) {
            match &mut self.looks[index] {
                Look::Unit(unit) => {
                    let result = unit.look(&self.root);
                    self.health.observe(now, index, result);
                }
                Look::Probe(probe) => {
                    let (probe, sender) = (probe.clone(), self.sender.clone());
                    // One task a check at most, each with a deadline; the channel has room for all.
                    tokio::spawn(async move {
                        let _ = sender.send((index, probe.run().await)).await;
                    });
                }
            }
        }
    }

    /// The next result. Cancel-safe.
    pub async fn next(&mut self) -> Found {
        match self.found.recv().await {
            Some(found) => found,
            // The monitor has a sender itself.
            None => std::future::pending().await,
        }
    }

    /// Takes a result.
    pub fn found(&mut self, now: Instant, (index, result): Found) {
        let cut = |reason: String| reason.chars().take(MAX_REASON).collect();
        self.health.observe(now, index, result.map_err(cut));
    }

    /// When [`Self::look`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.health.poll_timeout()
    }

    /// A new verdict.
    pub fn poll_verdict(&mut self) -> Option<Verdict> {
        self.health.poll_verdict()
    }

    /// Whether the report changed.
    pub fn poll_change(&mut self) -> bool {
        self.health.poll_change()
    }

    /// As the state says it.
    #[must_use]
    pub fn report(&self) -> RobotHealth {
        self.health.report()
    }
}

/// One look at each service and check of `profile`, for people who ask.
pub async fn look_once(profile: &Profile, root: &Path) -> Vec<(String, Result<(), String>)> {
    let (targets, looks) = looks(profile);
    let mut results = Vec::with_capacity(targets.len());
    for (target, look) in targets.into_iter().zip(looks) {
        let result = match look {
            Look::Unit(mut unit) => unit.look(root),
            Look::Probe(probe) => probe.run().await,
        };
        results.push((target.name, result));
    }
    results
}

/// What root's setup has written about this profile.
fn record(root: &Path, name: &ProfileName) -> Option<Record> {
    let folder = root.join(setup::FOLDER.trim_start_matches('/'));
    Record::load(&folder).filter(|record| record.profile == name.as_str())
}

fn looks(profile: &Profile) -> (Vec<Target>, Vec<Look>) {
    let units = profile.services.iter().map(|name| {
        let target = Target {
            name: name.clone(),
            every: UNITS_EVERY,
        };
        (target, Look::Unit(Unit::new(name)))
    });
    let checks = profile.checks.iter().filter_map(|check| {
        let target = Target {
            name: check.name.clone(),
            every: CHECKS_EVERY,
        };
        Some((target, Look::Probe(Probe::new(check.probe()?))))
    });
    units.chain(checks).take(MOST).unzip()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use lekiwi_protocol::profile::FOLDER;

    use crate::clock;

    use super::*;

    fn monitor(root: &Path, profile: &str) -> Option<Monitor> {
        let folder = root.join("usr/share/lekiwi/profiles");
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!("version: 1\nname: lekiwi\ntitle: A robot\n{profile}");
        std::fs::write(folder.join("lekiwi.yml"), text).unwrap();
        let name = ProfileName::new("lekiwi").unwrap();
        Monitor::open(Path::new(FOLDER), root, &name, clock::now())
    }

    #[tokio::test]
    async fn a_port_that_comes_and_goes_is_said_to_be_failing_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut listener = Some(TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let address: SocketAddr = listener.as_ref().unwrap().local_addr().unwrap();
        let profile = format!("checks: [{{name: control port, tcp: \"{address}\"}}]\n");
        let mut monitor = monitor(folder.path(), &profile).unwrap();
        let mut now = clock::now();
        let mut verdicts = Vec::new();
        for _ in 0..24 {
            monitor.look(now);
            let found = monitor.next().await;
            monitor.found(now, found);
            verdicts.extend(monitor.poll_verdict());
            // Gone if it was there, there if it was gone.
            listener = match listener.take() {
                Some(_) => None,
                None => Some(TcpListener::bind(address).unwrap()),
            };
            assert_eq!(monitor.poll_timeout(), Some(now + CHECKS_EVERY));
            now += CHECKS_EVERY;
        }
        let reason =
            format!("expected a connection to {address}: Connection refused (os error 111)");
        let failing = lekiwi_protocol::message::Failing {
            name: "control port".to_owned(),
            reason,
        };
        assert_eq!(
            verdicts,
            [Verdict::Healthy, Verdict::Unhealthy(vec![failing])]
        );
    }

    #[tokio::test]
    async fn the_setup_is_awaited_where_there_is_something_to_set_up() {
        let folder = tempfile::tempdir().unwrap();
        let status = |monitor: &Monitor| monitor.report().setup;
        let nothing = monitor(folder.path(), "").unwrap();
        assert_eq!(status(&nothing), SetupStatus::Done);
        assert!(nothing.report().healthy);
        let software = "software: {files: [{path: /etc/a, content: a}]}\n";
        let mut waiting = monitor(folder.path(), software).unwrap();
        assert_eq!(status(&waiting), SetupStatus::Pending);
        let mut record = Record::new("lekiwi");
        record.status = SetupStatus::Failed;
        let state = folder.path().join("var/lib/lekiwi-setup");
        std::fs::create_dir_all(&state).unwrap();
        record.keep(&state).unwrap();
        waiting.look_at_setup(clock::now());
        assert_eq!(status(&waiting), SetupStatus::Failed);
        // A profile that cannot be read: root's setup says why, and the robot is not healthy.
        assert!(
            monitor(folder.path(), "nonsense: 1").is_some_and(|monitor| !monitor.report().healthy)
        );
        record.profile = "xle".to_owned();
        record.keep(&state).unwrap();
        waiting.look_at_setup(clock::now());
        assert_eq!(
            status(&waiting),
            SetupStatus::Pending,
            "that was another profile"
        );
        assert!(monitor(folder.path(), "nonsense: 1").is_none());
    }
}
