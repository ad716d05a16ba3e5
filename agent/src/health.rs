//! Looks at the services, processes, checks and nodes of the robot's profile, for [`lekiwi_agent_core::health`]
//! and [`lekiwi_agent_core::services`]. Used by the driver. Units are looked at in systemd's files, which
//! takes microseconds; checks run as tasks of their own, so that nothing waits for them.

mod node;
mod probe;
mod process;
mod unit;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lekiwi_agent_core::health::{Health, Target, Verdict};
use lekiwi_agent_core::patience::Patience;
use lekiwi_agent_core::services::{Saying, Services, Sight};
use lekiwi_agent_core::setup::plan;
use lekiwi_protocol::ProfileName;
use lekiwi_protocol::message::{
    RobotHealth, Service, ServiceKind, ServiceState, SetupStatus, metric,
};
use lekiwi_protocol::profile::Profile;
use tokio::sync::mpsc;

use crate::clock;
use crate::profiles;
use crate::ros;
use crate::setup::{self, Record};
use crate::telemetry::{Files, Sink};
use node::Node;
use probe::Probe;
use process::Process;
use unit::Unit;

/// Time between two looks at a unit.
const UNITS_EVERY: Duration = Duration::from_secs(5);
/// Time between two looks for a process.
const PROCESSES_EVERY: Duration = Duration::from_secs(10);
/// Time between two looks at a node, whose coming and going is told at once.
const NODES_EVERY: Duration = Duration::from_secs(5);
/// Time between two measurements of all services' memory and processor time.
const MEASURED_EVERY: Duration = Duration::from_secs(30);
/// Most services, processes and checks that are looked at.
const MOST: usize = 64;
/// Longest reason, in characters.
const MAX_REASON: usize = 200;

/// What one look saw, and what was expected instead.
type Look = (Sight, Result<(), String>);

enum Watched {
    Unit(Unit),
    Process(Process),
    Check(Probe),
    Node(Node),
}

/// What a service uses.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    memory_bytes: Option<u64>,
    /// Processor time so far in microseconds, and when that was.
    cpu: Option<(Instant, u64)>,
}

/// The result of a look.
pub type Found = (usize, Result<(), String>);

/// What watches one profile.
pub struct Monitor {
    health: Health,
    services: Services,
    watched: Vec<Watched>,
    usages: Vec<Usage>,
    measuring: Patience,
    files: Files,
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
    pub fn open(
        packaged: &Path,
        root: &Path,
        name: &ProfileName,
        ros: &mut ros::Slot,
        now: Instant,
    ) -> Option<Self> {
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
        let nodes = profile.as_ref().map(|profile| node::all(profile, ros));
        let watched: Vec<(Target, ServiceKind, Watched)> = profile
            .as_ref()
            .map(|profile| watched(now, profile, nodes.unwrap_or_default()))
            .unwrap_or_default();
        let names = watched
            .iter()
            .map(|(target, kind, _)| (target.name.clone(), *kind));
        let services = Services::new(now, names);
        let (targets, watched): (Vec<_>, Vec<_>) = watched
            .into_iter()
            .map(|(target, _, watched)| (target, watched))
            .unzip();
        let (sender, found) = mpsc::channel(MOST);
        node::follow(&watched, &sender);
        let mut monitor = Self {
            health: Health::new(now, targets),
            services,
            usages: vec![Usage::default(); watched.len()],
            watched,
            measuring: Patience::new(now, MEASURED_EVERY),
            files: Files::new(root),
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

    /// Begins the looks that are due. While the machine has more than its share of load, expensive ones
    /// wait.
    pub fn look(&mut self, now: Instant, load_per_core: Option<f64>) {
        self.services.handle_timeout(now);
        while let Some(index) = self.health.poll_look(now) {
            let look = match &mut self.watched[index] {
                Watched::Unit(unit) => Some(unit.look(&mut self.files)),
                Watched::Process(process) => process.look(&mut self.files, now, load_per_core),
                Watched::Node(node) => node.look(now),
                Watched::Check(probe) => {
                    let (probe, sender) = (probe.clone(), self.sender.clone());
                    // One task a check at most, each with a deadline; the channel has room for all.
                    tokio::spawn(async move {
                        let _ = sender.send((index, probe.run().await)).await;
                    });
                    continue;
                }
            };
            match look {
                Some((sight, result)) => {
                    self.services.observe(now, index, sight);
                    self.health.observe(now, index, result);
                }
                None => self.health.put_off(index),
            }
        }
    }

    /// Measures what the services use, when it is time to. Says whether [`Self::services`] know the memory
    /// of one that they did not know before, or the other way round.
    pub fn measure(&mut self, now: Instant, load_per_core: Option<f64>, sink: Sink<'_>) -> bool {
        if !self.is_set_up() || !self.measuring.is_due(now, load_per_core) {
            return false;
        }
        let mut is_news = false;
        let files = &mut self.files;
        let named = self.services.report().map(|service| service.name);
        let each = self.watched.iter().zip(&mut self.usages).zip(named);
        for ((watched, usage), name) in each {
            let (memory_bytes, cpu_us) = match watched {
                Watched::Unit(unit) => (unit.memory_bytes(files), unit.cpu_us(files)),
                Watched::Process(process) => (process.memory_bytes(files), None),
                Watched::Check(_) | Watched::Node(_) => continue,
            };
            let cpu = cpu_us.map(|cpu_us| (now, cpu_us));
            let before = std::mem::replace(usage, Usage { memory_bytes, cpu });
            is_news |= before.memory_bytes.is_some() != memory_bytes.is_some();
            if let Some(memory) = memory_bytes {
                sink(metric::SERVICE_MEMORY_BYTES, &name, memory as f64);
            }
            if let (Some((now, after)), Some((then, before))) = (cpu, before.cpu)
                && let Some(used) = after.checked_sub(before)
            {
                let passed = now.saturating_duration_since(then).as_micros() as f64;
                if passed > 0.0 {
                    let percent = (1000.0 * used as f64 / passed).round() / 10.0;
                    sink(metric::SERVICE_CPU_PERCENT, &name, percent);
                }
            }
        }
        is_news
    }

    /// The next result. Cancel-safe.
    pub async fn next(&mut self) -> Found {
        match self.found.recv().await {
            Some(found) => found,
            // The monitor has a sender itself.
            None => std::future::pending().await,
        }
    }

    /// Takes a result. Nodes come and go before the setup is done too, which is nobody's business then.
    pub fn found(&mut self, now: Instant, (index, result): Found) {
        if !self.is_set_up() {
            return self.health.put_off(index);
        }
        let cut = |reason: String| reason.chars().take(MAX_REASON).collect();
        let state = match result {
            Ok(()) => ServiceState::Active,
            Err(_) => ServiceState::Inactive,
        };
        let restarted = false;
        self.services
            .observe(now, index, Sight { state, restarted });
        self.health.observe(now, index, result.map_err(cut));
    }

    /// When [`Self::look`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = [self.health.poll_timeout(), self.services.poll_timeout()];
        timeouts.into_iter().flatten().min()
    }

    /// The next thing to tell about a service.
    pub fn poll_saying(&mut self) -> Option<Saying> {
        self.services.poll_saying()
    }

    /// A new verdict.
    pub fn poll_verdict(&mut self) -> Option<Verdict> {
        self.health.poll_verdict()
    }

    /// Whether [`Self::report`] or [`Self::services`] changed.
    pub fn poll_change(&mut self) -> bool {
        self.health.poll_change() | self.services.poll_news()
    }

    /// What the services do and use, as the state says it.
    pub fn services(&self) -> impl Iterator<Item = Service> {
        let with = |(service, usage): (Service, &Usage)| Service {
            memory_bytes: usage.memory_bytes,
            ..service
        };
        self.services.report().zip(&self.usages).map(with)
    }

    /// As the state says it.
    #[must_use]
    pub fn report(&self) -> RobotHealth {
        self.health.report()
    }
}

/// One look at each service, process and check of `profile`, for people who ask. Nodes take a while to be found.
pub async fn look_once(profile: &Profile, root: &Path) -> Vec<(String, Result<(), String>)> {
    let (now, mut files) = (clock::now(), Files::new(root));
    let mut results = Vec::new();
    for (target, _, watched) in watched(now, profile, Vec::new()) {
        let result = match watched {
            Watched::Unit(mut unit) => unit.look(&mut files).1,
            // Without a load to wait for it always looks.
            Watched::Process(mut process) => match process.look(&mut files, now, None) {
                Some((_, result)) => result,
                None => continue,
            },
            Watched::Check(probe) => probe.run().await,
            Watched::Node(_) => continue,
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

fn watched(
    now: Instant,
    profile: &Profile,
    nodes: Vec<Node>,
) -> Vec<(Target, ServiceKind, Watched)> {
    let target = |name: &String, every| Target {
        name: name.clone(),
        every,
    };
    let units = profile.services.iter().map(|name| {
        let unit = Watched::Unit(Unit::new(name));
        (target(name, UNITS_EVERY), ServiceKind::Unit, unit)
    });
    let processes = profile.processes.iter().map(|process| {
        let target = target(&process.name, PROCESSES_EVERY);
        let process = Process::new(now, &process.pattern);
        (target, ServiceKind::Process, Watched::Process(process))
    });
    let checks = profile.checks.iter().filter_map(|check| {
        let target = target(&check.name, Duration::from_secs(check.every_s));
        let probe = Probe::new(check.probe()?, Duration::from_secs(check.timeout_s));
        Some((target, ServiceKind::Check, Watched::Check(probe)))
    });
    let nodes = nodes.into_iter().map(|node| {
        let target = target(&node.name, NODES_EVERY);
        (target, ServiceKind::RosNode, Watched::Node(node))
    });
    let all = units.chain(processes).chain(checks).chain(nodes);
    all.take(MOST).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use lekiwi_protocol::profile::FOLDER;

    use super::*;

    fn monitor(root: &Path, profile: &str) -> Option<Monitor> {
        let folder = root.join("usr/share/lekiwi/profiles");
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!("version: 1\nname: lekiwi\ntitle: A robot\n{profile}");
        std::fs::write(folder.join("lekiwi.yml"), text).unwrap();
        let name = ProfileName::new("lekiwi").unwrap();
        let ros = &mut ros::Slot::default();
        Monitor::open(Path::new(FOLDER), root, &name, ros, clock::now())
    }

    #[tokio::test]
    async fn a_port_that_comes_and_goes_is_said_to_be_failing_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut listener = Some(TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let address: SocketAddr = listener.as_ref().unwrap().local_addr().unwrap();
        let profile = format!(
            "checks: [{{name: control port, tcp: \"{address}\", every_s: 7, timeout_s: 2}}]\n"
        );
        let every = Duration::from_secs(7);
        let mut monitor = monitor(folder.path(), &profile).unwrap();
        let mut now = clock::now();
        let (mut verdicts, mut sayings) = (Vec::new(), Vec::new());
        for _ in 0..24 {
            monitor.look(now, None);
            let found = monitor.next().await;
            monitor.found(now, found);
            verdicts.extend(monitor.poll_verdict());
            sayings.extend(monitor.poll_saying());
            // Gone if it was there, there if it was gone.
            listener = match listener.take() {
                Some(_) => None,
                None => Some(TcpListener::bind(address).unwrap()),
            };
            assert_eq!(monitor.poll_timeout(), Some(now + every));
            now += every;
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
        assert_eq!(
            sayings.len(),
            5,
            "four changes, and that it flaps: {sayings:?}"
        );
        assert!(
            matches!(&sayings[4], Saying::Flapping(flapping) if flapping.name == "control port")
        );
        assert!(monitor.services().next().unwrap().flapping);
    }

    #[tokio::test]
    async fn units_and_processes_are_told_with_what_they_use() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let group = "sys/fs/cgroup/system.slice/host.service";
        write(&format!("{group}/cgroup.events"), "populated 1\n");
        write(&format!("{group}/memory.current"), "1000000\n");
        write(&format!("{group}/cpu.stat"), "usage_usec 1000000\n");
        write("proc/7/cmdline", "camera\0--front\0");
        write("proc/7/status", "VmRSS:  10 kB\n");
        let units = folder.path().join("run/systemd/units");
        std::fs::create_dir_all(&units).unwrap();
        std::os::unix::fs::symlink("01", units.join("invocation:host.service")).unwrap();
        let profile =
            "services: [host.service]\nprocesses: [{name: camera, pattern: \"camera *\"}]\n";
        let mut monitor = monitor(folder.path(), profile).unwrap();
        let start = clock::now();
        let mut measured = Vec::new();
        let mut sink = |name: &'static str, member: &str, value: f64| {
            measured.push((name, member.to_owned(), value));
        };
        monitor.look(start, None);
        assert!(!monitor.measure(start, Some(9.0), &mut sink), "busy");
        assert!(monitor.measure(start, None, &mut sink));
        write(&format!("{group}/cpu.stat"), "usage_usec 4000000\n");
        for second in [29, 30] {
            let now = start + Duration::from_secs(second);
            assert!(!monitor.measure(now, None, &mut sink), "no news");
        }
        let memory = [
            ("service_memory_bytes", "host.service".to_owned(), 1e6),
            ("service_memory_bytes", "camera".to_owned(), 10_240.0),
        ];
        let cpu = ("service_cpu_percent", "host.service".to_owned(), 10.0);
        let [host, camera] = memory;
        assert_eq!(measured, [host.clone(), camera.clone(), host, cpu, camera]);
        let told: Vec<_> = monitor
            .services()
            .map(|service| (service.kind, service.state, service.memory_bytes))
            .collect();
        assert_eq!(
            told,
            [
                (ServiceKind::Unit, ServiceState::Active, Some(1_000_000)),
                (ServiceKind::Process, ServiceState::Active, Some(10_240)),
            ]
        );
        assert!(monitor.poll_change() && monitor.report().healthy);
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
