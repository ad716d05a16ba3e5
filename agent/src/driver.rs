//! The running agent: one `select!` over link, timer, enrolment, local questions and signals; each arm
//! hands an input to a pure core, then the cores' outputs are carried out. Nothing is decided here.

mod clocks;
mod commands;
mod health;
mod local;
mod migration;
mod outgoing;
mod registration;
mod reload;
mod renewal;
mod report;
mod service;
mod speech;
mod start;
mod telemetry;
mod teleop;
mod twin;
mod uplink;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lekiwi_agent_core::backlog::Drain;
use lekiwi_agent_core::debounce::Debouncer;
use lekiwi_agent_core::lifecycle::{Input, Lifecycle, Link as LinkState, Output};
use lekiwi_agent_core::outbox::{EVENT_PATIENCE, MAX_EVENTS_ON_THE_WAY, Progress, Window};
use lekiwi_agent_core::time::Watch;
use lekiwi_agent_core::twin::Twin;
use lekiwi_protocol::message::{Ack, CommandStatus, Network, Registration, kind};
use lekiwi_protocol::topic::Path as TopicPath;
use lekiwi_protocol::{Envelope, MessageType, Timestamp, ToRobot, Topic};
use sd_notify::NotifyState;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::clock::{self, Floor};
use crate::commands::{Commands, Place};
use crate::config::Config;
use crate::discovery::Discovery;
use crate::estop::Estop;
use crate::hardware;
use crate::health::Monitor;
use crate::identity::{EnrolError, Enrolment, Identity, enrol};
use crate::ipc::{self, ConfigurationStatus};
use crate::link::{Link, LinkEvent};
use crate::machine::{self, Machine};
use crate::memory::Code;
use crate::outbox::Outbox;
use crate::program;
use crate::ros;
use crate::storage::{Kept, Places};
use crate::telemetry::Sampler;
use crate::telemetry::packages::Packages;
use crate::trust::Anchor;
use health::next_found;
use local::Local;
pub use reload::Reader;
use renewal::Renewing;
pub use report::chain;
use service::notify;
use speech::Speech;
pub use start::{Lock, StartError, enrolment, lock};
use teleop::Teleop;
use uplink::Uplink;

/// How often the known time is written down.
const PERSIST_CLOCK: Duration = Duration::from_secs(3600);

/// Time from a start or a connect until the code that only it needed is given back.
const SETTLED: Duration = Duration::from_secs(15);
/// Time between giving back what came to be used since.
const RELEASE: Duration = Duration::from_secs(3600);
/// Samples wait so long for a look at who drives.
const TOGETHER: Duration = Duration::from_millis(250);

struct Driver {
    config: Config,
    enrolment: Enrolment,
    machine: Machine,
    sampler: Sampler,
    packages: Packages,
    floor: Floor,
    lifecycle: Lifecycle,
    debouncer: Debouncer,
    window: Window<Progress>,
    drain: Drain,
    outbox: Outbox,
    speech: Speech,
    discovery: Option<Discovery>,
    uplink: Uplink,
    link: Option<Link>,
    /// The relay refuses the certificate, and there is a token for another one.
    is_revoked: bool,
    enrolling: Option<JoinHandle<Result<Identity, EnrolError>>>,
    renewing: Renewing,
    next_sample: Instant,
    next_heartbeat: Instant,
    next_watchdog: Option<Instant>,
    watchdog: Option<Duration>,
    next_persist: Instant,
    code: Code,
    /// When code that was used since, by a connect for instance, is given back.
    next_release: Option<Instant>,
    network: Network,
    phase: &'static str,
    not_after: Option<Timestamp>,
    online_since: Option<Timestamp>,
    last_telemetry: Option<Timestamp>,
    last_error: Option<String>,
    is_quarantined: bool,
    monitor: Option<Monitor>,
    ros: ros::Slot,
    teleop: Teleop,
    local: Local,
    reader: Reader,
    twin: Twin,
    twin_file: Kept,
    anchor: Anchor,
    configuration: ConfigurationStatus,
    clocks: Watch,
    commands: Commands,
    estop: Estop,
    /// How far the last emergency stops are.
    stops: VecDeque<(Uuid, CommandStatus)>,
    root: PathBuf,
    done: bool,
}

/// Runs until a signal asks to stop. Sensors, services and root's setup are looked for below `root`, which
/// is `/` outside of tests; `_lock` shows that the state folder is ours; `reader` reads the configuration again;
/// `kill_at` is for tests of what is kept before it is done.
///
/// # Errors
/// Only before it runs; afterwards everything is survived.
pub async fn run(
    config: Config,
    root: &Path,
    _lock: &Lock,
    reader: Reader,
    kill_at: Option<u32>,
) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(StartError::Signals)?;
    let (questions, mut asked) = mpsc::channel(8);
    let local = Local::new(&config, &questions);
    let (estop, mut stops) = Estop::new(config.robot_id.clone(), local.bus.clone());
    let socket = ipc::serve(&config.socket, questions, local.bus.clone())
        .inspect_err(|error| log::warn!("`lekiwi-agent status` will not work: {}", chain(error)))
        .ok();
    let socket_path = config.socket.clone();
    let mut driver = Driver::new(config, root, local, reader, estop, kill_at);
    driver.begin();
    while !driver.done {
        let wake = tokio::time::sleep_until(driver.next_wake().into());
        let mut is_time = false;
        tokio::select! {
            event = next_event(&mut driver.link) => driver.link_event(event),
            notice = driver.uplink.next() => driver.notice(notice),
            result = enrolment_result(&mut driver.enrolling) => driver.enrolled(result),
            result = driver.renewing.next() => driver.renewed(result),
            Some(question) = asked.recv() => driver.answer(question),
            found = next_found(&mut driver.monitor) => driver.looked(found),
            ended = driver.commands.next() => driver.command_ended(ended),
            Some(report) = stops.recv() => driver.stopped(report),
            _ = terminate.recv() => driver.stop("SIGTERM"),
            _ = interrupt.recv() => driver.stop("SIGINT"),
            // Its result is in the log and the status.
            _ = hangup.recv() => drop(driver.reload()),
            () = wake => {
                is_time = true;
                driver.timers();
            }
        }
        driver.carry_out();
        driver.say_registered();
        // The link reads on, however much waits here: an emergency stop may be behind it. A timer has nothing behind it,
        // and a robot at rest is woken by little else.
        if !is_time {
            tokio::task::yield_now().await;
        }
    }
    if let Some(discovery) = driver.discovery.take() {
        discovery.leave().await;
    }
    if let Some(socket) = socket {
        socket.abort();
        let _ = std::fs::remove_file(socket_path);
    }
    driver.outbox.close(clock::wall());
    driver.floor.persist();
    Ok(())
}

async fn next_event(link: &mut Option<Link>) -> LinkEvent {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

async fn enrolment_result(
    task: &mut Option<JoinHandle<Result<Identity, EnrolError>>>,
) -> Option<Result<Identity, EnrolError>> {
    match task {
        // A task that was given up has no result.
        Some(task) => task.await.ok(),
        None => std::future::pending().await,
    }
}

impl Driver {
    fn new(
        mut config: Config,
        root: &Path,
        local: Local,
        reader: Reader,
        estop: Estop,
        kill_at: Option<u32>,
    ) -> Self {
        let now = clock::now();
        let machine = Machine::default();
        let mut floor = Floor::load(config.state_dir.join("clock"));
        let identification = hardware::identify(&config);
        log::info!(
            "this robot is of the profile {} ({:?})",
            identification.profile,
            identification.how
        );
        for reason in &identification.differing {
            log::info!("hardware: {reason}");
        }
        if let Some(profile) = hardware::profile(&config, &identification)
            && let Err(error) = config.adopt(&profile)
        {
            log::warn!("the profile's rules are not taken: {}", chain(&error));
        }
        let enrolment = enrolment(&config, &machine, &identification.profile);
        let enrolment = Enrolment {
            store: enrolment.store.with_places(Places::new(kill_at)),
            ..enrolment
        };
        let boot_id = machine.boot_id().unwrap_or_default();
        if let Err(error) = enrolment.store.settle() {
            log::warn!("{}", chain(&error));
        }
        let identity = enrolment.store.load(
            &config.robot_id,
            config.relay.ca_fingerprint,
            floor.certificate_time(),
        );
        let not_after = match &identity {
            Ok(identity) => {
                floor.passed(identity.not_before);
                Some(identity.not_after)
            }
            Err(error) => {
                log::info!("not enrolled yet: {}", chain(error));
                None
            }
        };
        let (twin_file, twin) = twin::open(&config.state_dir, kill_at);
        let watchdog = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        Self {
            outbox: Outbox::open(&config.state_dir.join("agent.db"), clock::wall()),
            discovery: Discovery::start(
                &config,
                &identification.profile,
                &enrolment.serial,
                identity.is_ok(),
            ),
            speech: Speech::new(&config, &machine, identification, boot_id),
            lifecycle: Lifecycle::new(identity.is_ok()),
            debouncer: Debouncer::new(config.metrics.clone()),
            sampler: Sampler::new(root),
            packages: Packages::new(now, root),
            network: machine.network(),
            window: Window::new(MAX_EVENTS_ON_THE_WAY, EVENT_PATIENCE),
            drain: Drain::default(),
            uplink: Uplink::new(&config.relay),
            link: None,
            is_revoked: false,
            enrolling: None,
            renewing: Renewing::new(
                config.robot_id.clone(),
                identity.as_ref().ok(),
                enrolment.store.has_next(),
            ),
            next_sample: now,
            next_heartbeat: now,
            next_watchdog: watchdog.map(|_| now),
            watchdog,
            next_persist: now + PERSIST_CLOCK,
            code: Code::cut(),
            next_release: Some(now + SETTLED),
            phase: "",
            not_after,
            online_since: None,
            last_telemetry: None,
            last_error: None,
            is_quarantined: false,
            monitor: None,
            ros: ros::Slot::default(),
            teleop: Teleop::default(),
            local,
            reader,
            twin,
            twin_file,
            anchor: Anchor::open(&config.trust_file, &config.state_dir, kill_at),
            configuration: ConfigurationStatus {
                since: clock::wall(),
                ..ConfigurationStatus::default()
            },
            clocks: Watch::default(),
            commands: Commands::open(
                Place {
                    state_dir: config.state_dir.clone(),
                    profiles_dir: config.profiles_dir.clone(),
                    root: root.to_owned(),
                    boot_id,
                },
                kill_at,
            ),
            estop,
            stops: VecDeque::new(),
            root: root.to_owned(),
            done: false,
            config,
            enrolment,
            machine,
            floor,
        }
    }

    fn begin(&mut self) {
        let boot_id = self.speech.boot_id();
        let noted = self.config.state_dir.join("boot_id");
        machine::tell_reboot(&noted, boot_id, || {
            let data = json!({ "boot_id": boot_id });
            // There when the agent was killed before the boot was noted, and not sent yet: that is later.
            if !self.outbox.holds(kind::REBOOTED, &data) {
                self.event(kind::REBOOTED, data);
            }
        });
        let version = env!("CARGO_PKG_VERSION");
        self.event(kind::AGENT_STARTED, json!({ "version": version }));
        log::info!(
            "lekiwi-agent {version} of robot {} starts, relay {}",
            self.config.robot_id,
            self.uplink.address()
        );
        notify(&[NotifyState::Ready]);
        self.look_at_network();
        self.watch_profile();
        self.watch_teleoperation();
        self.carry_out_commands();
        self.carry_out_twin();
        self.carry_out();
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Refused | Input::NotEnrolled | Input::EnrolmentFailed => self.floor.failed(),
            Input::Connected => self.floor.worked(),
            _ => {}
        }
        let mut random = || getrandom::u64().unwrap_or(u64::MAX / 2);
        self.lifecycle.handle(clock::now(), input, &mut random);
    }

    fn enrolled(&mut self, result: Option<Result<Identity, EnrolError>>) {
        self.enrolling = None;
        self.is_revoked = false;
        match result {
            Some(Ok(enrolled)) => {
                self.has_identity(&enrolled);
                self.floor.persist();
                self.last_error = None;
                log::info!("enrolled; the certificate ends at {}", enrolled.not_after);
                self.input(Input::Enrolled);
            }
            Some(Err(error)) => {
                let hint = error
                    .hint()
                    .map_or(String::new(), |hint| format!(" (hint: {hint})"));
                self.complain(&format!("{}{hint}", chain(&error)));
                self.input(Input::EnrolmentFailed);
            }
            None => self.input(Input::EnrolmentFailed),
        }
    }

    /// Says what is wrong, once until something else is.
    fn complain(&mut self, what: &str) {
        if self.last_error.as_deref() == Some(what) {
            log::debug!("{what}");
        } else {
            log::warn!("{what}");
            self.last_error = Some(what.to_owned());
        }
    }

    fn message(&mut self, topic: &str, payload: &[u8]) {
        let path = match Topic::parse(topic) {
            Ok(topic) => topic.path,
            Err(error) => return log::warn!("message refused: {error}"),
        };
        let robot = &self.config.robot_id;
        match path {
            TopicPath::To(_, ToRobot::Ack) => {
                match Envelope::<Ack>::parse(MessageType::Ack, robot, payload) {
                    Ok(ack) => {
                        self.heard_relay(ack.timestamp);
                        let count = self.outbox.acknowledge(&ack.payload);
                        self.window.acknowledged(clock::now(), count);
                        self.backlog_acknowledged(&ack.payload);
                        self.send_events();
                    }
                    Err(error) => log::warn!("acknowledgement refused: {}", chain(&error)),
                }
            }
            TopicPath::To(_, ToRobot::Registration) => {
                match Envelope::<Registration>::parse(MessageType::Registration, robot, payload) {
                    Ok(registration) => {
                        self.heard_relay(registration.timestamp);
                        self.registration(&registration.payload);
                    }
                    Err(error) => log::warn!("registration refused: {}", chain(&error)),
                }
            }
            TopicPath::To(_, ToRobot::Desired) => self.desired(payload),
            TopicPath::To(_, ToRobot::Command(op, id)) => self.command(&op, &id, payload),
            _ => log::debug!("{topic} is of no use to this version"),
        }
    }

    fn timers(&mut self) {
        let now = clock::now();
        if let (Some(at), Some(interval)) = (self.next_watchdog, self.watchdog)
            && at <= now
        {
            notify(&[NotifyState::Watchdog]);
            self.next_watchdog = Some(now + interval);
        }
        if self.lifecycle.poll_timeout().is_some_and(|at| at <= now) {
            self.input(Input::Timeout);
        }
        if self.next_persist <= now {
            self.floor.persist();
            self.forget_what_is_too_old();
            self.next_persist = now + PERSIST_CLOCK;
        }
        if self.next_release.is_some_and(|at| at <= now) {
            self.next_release = Some(now + RELEASE);
            self.code.release();
        }
        if self.sample_at() <= now {
            self.sample(now);
            self.look_at_setup(now);
            program::reap();
        }
        self.look_after_health(now);
        self.look_at_teleoperation(now);
        self.look_after_commands(now);
        self.look_after_twin(now);
        self.look_after_uplink(now);
        self.look_after_renewal(now);
        if self.is_online() {
            if self.next_heartbeat <= now {
                self.next_heartbeat = now + self.config.heartbeat;
                let uptime_s = self.sampler.uptime().unwrap_or(0);
                self.speech.heartbeat(self.link.as_ref(), uptime_s);
                let network = self.machine.network();
                if network != self.network {
                    self.network = network;
                    self.local.states.want();
                }
            }
            self.send_telemetry(now);
            if self.window.handle_timeout(now) {
                log::debug!("events were not acknowledged in time and are sent again");
            }
            self.send_events();
            self.send_backlog(now);
        }
    }

    fn next_wake(&self) -> Instant {
        let online = self.is_online();
        [
            Some(self.sample_at()),
            Some(self.next_persist),
            self.next_release,
            self.next_watchdog,
            self.lifecycle.poll_timeout(),
            self.window.poll_timeout().filter(|_| online),
            self.drain.poll_timeout().filter(|_| online),
            self.commands.poll_timeout(),
            self.twin.poll_timeout(),
            self.uplink.poll_timeout(),
            self.renewing.poll_timeout(),
            self.monitor.as_ref().and_then(Monitor::poll_timeout),
            self.teleop.poll_timeout(),
            self.local.poll_timeout(self.next_sample),
            self.debouncer.poll_timeout().filter(|_| online),
            Some(self.next_heartbeat).filter(|_| online),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(self.next_sample)
    }

    /// When samples are taken: with a look at who drives that is due soon, so that the machine is woken once for both.
    fn sample_at(&self) -> Instant {
        let due = self.next_sample;
        let look = self.teleop.poll_timeout();
        look.filter(|look| *look >= due && *look < due + TOGETHER)
            .unwrap_or(due)
    }

    fn is_online(&self) -> bool {
        self.lifecycle.link() == LinkState::Online
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.lifecycle.poll_output() {
            match output {
                Output::Enrol => {
                    let (enrolment, now) = (self.enrolment.clone(), self.floor.certificate_time());
                    // It may only have been unreadable, or out of date by a clock that is right by now.
                    if !self.is_revoked && self.identity(now).is_ok() {
                        self.input(Input::Enrolled);
                        continue;
                    }
                    let task = async move { enrol(&enrolment, now).await };
                    self.enrolling = Some(tokio::spawn(task));
                }
                Output::Connect => self.connect(),
                Output::Announce => self.announce(),
                Output::PublishState => self.local.states.want(),
                Output::SayGoodbye => {
                    self.send_events();
                    if !self.speech.goodbye(self.link.as_ref()) {
                        self.input(Input::GoodbyeSaid);
                    }
                }
                Output::Exit => self.done = true,
            }
        }
        self.look_after_local(clock::now());
        let phase = self.lifecycle.phase();
        if phase != self.phase {
            log::info!("{phase}");
            notify(&[NotifyState::Status(phase)]);
            self.phase = phase;
            self.tell_local(&self.state());
        }
    }

    fn announce(&mut self) {
        let now = clock::now();
        let said = self.link.as_ref().is_some_and(|link| {
            // The subscription first: acknowledgements must find it.
            link.subscribe() && self.speech.birth(link)
        });
        if !said {
            log::warn!("the announcement did not fit into the link's queue");
        }
        self.network = self.machine.network();
        self.publish_state();
        self.report_configuration();
        self.next_heartbeat = now + self.config.heartbeat;
        self.window.link_up();
        self.drain.link_up();
        self.outbox.outage_over(clock::wall());
        self.send_events();
    }
}
