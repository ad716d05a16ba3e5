//! A relay with enrolled robots, and what is read of it from outside.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use lekiwi_tests::fleet::{
    self, Admin, Endpoint, Identity, Kept, Pace, Plan, Pulses, Scenario, Simulation,
};
use lekiwi_tests::harness::{Relay, RelayOptions};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Longest time for all robots to be online.
const PATIENCE: Duration = Duration::from_secs(180);
/// As long as the measurement takes.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

/// What a client may say is limited to what a robot has to say; here a few stand for many robots.
const CONFIG: &str = "version: 1\nlimits: { messages_per_s: 1000000 }\n";

/// The relay and its robots.
pub(crate) struct Site {
    pub(crate) relay: Relay,
    pub(crate) identities: Vec<Arc<Identity>>,
    pub(crate) endpoint: Endpoint,
    _folder: tempfile::TempDir,
}

impl Site {
    pub(crate) async fn start(robots: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("relay.yml");
        std::fs::write(&config, CONFIG)?;
        let relay = Relay::start_with(RelayOptions {
            arguments: vec!["--config".to_owned(), config.display().to_string()],
            ..RelayOptions::default()
        })?;
        let endpoint = relay.mqtt().parse()?;
        let admin = login(&relay).await?;
        crate::say(&format!("enrolling {robots} robots"));
        let identities = fleet::enrol_all(&admin, folder.path(), "sim", robots).await?;
        Ok(Self {
            relay,
            identities,
            endpoint,
            _folder: folder,
        })
    }

    pub(crate) async fn admin(&self) -> Result<Admin> {
        login(&self.relay).await
    }

    /// Robots that are all online, each with this pace, until stopped.
    pub(crate) async fn online(&self, pace: Pace, pulses: Option<Pulses>) -> Result<Simulation> {
        let simulation = self.simulation(pace, pulses, FOR_EVER)?;
        simulation.online(self.identities.len(), PATIENCE).await?;
        Ok(simulation)
    }

    /// Robots that say something for so long.
    pub(crate) fn simulation(
        &self,
        pace: Pace,
        pulses: Option<Pulses>,
        length: Duration,
    ) -> Result<Simulation> {
        let plan = Plan {
            scenario: Scenario::Steady,
            pace,
            length,
            seed: 1,
        };
        Simulation::start(plan, &self.identities, &self.endpoint, pulses, |_| {
            Ok(Kept::in_memory())
        })
    }

    /// The relay's resident memory.
    pub(crate) fn resident_kb(&mut self) -> Result<f64> {
        let id = self.process_id()?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let size = line.context("expected VmRSS in the status of the relay")?;
        Ok(size.trim().trim_end_matches(" kB").parse()?)
    }

    /// The relay's processor time until now, of all its threads.
    pub(crate) fn processor(&mut self) -> Result<Duration> {
        let id = Pid::from_raw(i32::try_from(self.process_id()?)?);
        let time = ClockId::pid_cpu_clock_id(id).and_then(clock_gettime)?;
        Ok(time.into())
    }

    fn process_id(&mut self) -> Result<u32> {
        let id = self.relay.process().id();
        id.context("expected a running relay")
    }
}

async fn login(relay: &Relay) -> Result<Admin> {
    Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await
}

/// The relay's counters by name and labels.
pub(crate) struct Counts(HashMap<String, f64>);

impl Counts {
    pub(crate) async fn read(admin: &Admin) -> Result<Self> {
        let answer = admin.get("/metrics").send().await?.error_for_status()?;
        let text = answer.text().await?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Ok(Self(
            lines
                .filter_map(|line| line.rsplit_once(' '))
                .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
                .collect(),
        ))
    }

    /// By how much all that start with `name` grew since `before`.
    pub(crate) fn since(&self, before: &Self, name: &str) -> f64 {
        let sum = |counts: &Self| -> f64 {
            let fits = counts.0.iter().filter(|(key, _)| key.starts_with(name));
            fits.map(|(_, value)| value).sum()
        };
        sum(self) - sum(before)
    }
}
