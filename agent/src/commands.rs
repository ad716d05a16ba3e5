//! Does what the relay tells the robot to do, as [`lekiwi_agent_core::command`] decides. Used by the driver.
//!
//! Records are kept in `commands.json` in the state folder, each time as a whole: a power cut leaves the
//! old or the new ones. What needs root is asked of a helper of root's ([`privileged`]); everything else
//! runs as tasks beside the driver, with the agent's own rights. Never a shell.

mod action;
mod journal;
mod logs;
pub mod privileged;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lekiwi_agent_core::command::{Commands as Core, Output, Step};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::message::command::UNIT;
use lekiwi_protocol::message::{Arguments, Command, CommandStatus, Op};
use lekiwi_protocol::profile::Profile;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::clock;
use crate::driver::chain;
use crate::profiles;
use crate::setup;
use journal::Journal;
pub use logs::Way;
use privileged::{Act, Helper};

/// How many ends may wait for the driver; more operations than that never run at a time.
const ENDS: usize = 8;

/// Where commands find what they need.
#[derive(Debug, Clone)]
pub struct Place {
    /// The agent's state folder.
    pub state_dir: PathBuf,
    /// The package's profiles.
    pub profiles_dir: PathBuf,
    /// What the system's files are below, `/` outside of tests.
    pub root: PathBuf,
    /// The kernel's id of this boot.
    pub boot_id: Uuid,
}

impl Place {
    /// The profile that the relay has registered the robot under.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn profile(&self) -> Result<Profile, String> {
        let name = setup::registered_profile(&self.state_dir)
            .ok_or("expected a robot that is registered under a profile")?;
        profiles::load(&self.profiles_dir, &self.root, &name).map_err(|error| chain(&error))
    }
}

/// What came of an execution.
pub type Ended = (Uuid, Result<Arguments, String>);

/// What the driver is asked for; the rest is done here.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Answer, or say everything again; then call [`Commands::ended`].
    Execute(Uuid, Op),
    /// Call [`Commands::upload`], with the way to the relay.
    Upload(Uuid, Op, Arguments),
    /// Call [`Commands::renew`], with what will say how that ended.
    Renew(Uuid),
    /// Tell the relay how far a command is.
    Say(Uuid, CommandStatus),
}

/// The robot's commands.
pub struct Commands {
    core: Core,
    journal: Journal,
    place: Place,
    executing: HashMap<Uuid, JoinHandle<()>>,
    sender: mpsc::Sender<Ended>,
    ends: mpsc::Receiver<Ended>,
}

impl Commands {
    /// Goes on with what the disk has. `kill_at` ends this process at a place of the journal, for tests.
    #[must_use]
    pub fn open(place: Place, kill_at: Option<u32>) -> Self {
        let journal = Journal::new(&place.state_dir, kill_at);
        let core = Core::restore(clock::now(), place.boot_id, journal.read());
        let going_on: Vec<Uuid> = core
            .records()
            .filter(|record| !matches!(record.step, Step::Ended(_)))
            .map(|record| record.id)
            .collect();
        logs::forget_others(&place.state_dir, &going_on);
        let (sender, ends) = mpsc::channel(ENDS);
        Self {
            core,
            journal,
            place,
            executing: HashMap::new(),
            sender,
            ends,
        }
    }

    /// Where commands find what they need.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The package's profiles are somewhere else from now on.
    pub fn set_profiles_dir(&mut self, folder: PathBuf) {
        self.place.profiles_dir = folder;
    }

    /// The relay sent something at `sent_at`, by its clock.
    pub fn heard(&mut self, sent_at: Timestamp) {
        self.core.heard(clock::now(), sent_at);
    }

    /// The session with the relay is over.
    pub fn link_down(&mut self) {
        self.core.link_down();
    }

    /// A command came.
    pub fn command(&mut self, command: Command, sent_at: Timestamp) {
        self.core.command(clock::now(), command, sent_at);
    }

    /// The next end of an execution. Cancel-safe.
    pub async fn next(&mut self) -> Ended {
        match self.ends.recv().await {
            Some(ended) => ended,
            // Never: a sender is kept here.
            None => std::future::pending().await,
        }
    }

    /// An execution has come to an end.
    pub fn ended(&mut self, (id, outcome): Ended) {
        self.executing.remove(&id);
        self.core.ended(id, outcome);
    }

    /// An emergency stop: actions are over.
    pub fn stop(&mut self) {
        self.core.stop();
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.core.poll_timeout()
    }

    /// Ends what took too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.core.handle_timeout(now);
        }
    }

    /// The next thing that the driver has to do.
    pub fn poll_task(&mut self) -> Option<Task> {
        loop {
            match self.core.poll_output()? {
                Output::Keep => match self.journal.write(self.core.records()) {
                    Ok(()) => self.core.kept(),
                    Err(error) => {
                        log::warn!("commands cannot be kept: {error}");
                        self.core.not_kept(clock::now(), &error.to_string());
                        self.make_room();
                    }
                },
                Output::Execute { id, op, arguments } => match op {
                    Op::Ping | Op::FullState => return Some(Task::Execute(id, op)),
                    Op::CollectLogs | Op::ListPackages => {
                        return Some(Task::Upload(id, op, arguments));
                    }
                    Op::RenewIdentity => return Some(Task::Renew(id)),
                    _ => self.execute(id, op, arguments),
                },
                Output::Abandon(id) => {
                    if let Some(task) = self.executing.remove(&id) {
                        task.abort();
                    }
                }
                Output::Say { id, status } => {
                    if status.state().is_end() {
                        logs::forget(&self.place.state_dir, id);
                    }
                    return Some(Task::Say(id, status));
                }
            }
        }
    }

    /// What commands have left that have ended may be what fills the disk.
    fn make_room(&self) {
        for record in self.core.records() {
            if matches!(record.step, Step::Ended(_)) {
                logs::forget(&self.place.state_dir, record.id);
            }
        }
    }

    /// Collects what is asked for, and uploads it by `way`.
    pub fn upload(&mut self, id: Uuid, op: Op, arguments: Arguments, way: Way) {
        let place = self.place.clone();
        self.spawn(id, op, async move {
            logs::run(&place, &way, id, op, &arguments).await
        });
    }

    /// Waits for the end of a renewal.
    pub fn renew(&mut self, id: Uuid, end: oneshot::Receiver<Result<Arguments, String>>) {
        self.spawn(id, Op::RenewIdentity, async move {
            end.await
                .unwrap_or_else(|_| Err("the renewal was given up".to_owned()))
        });
    }

    fn execute(&mut self, id: Uuid, op: Op, arguments: Arguments) {
        let place = self.place.clone();
        self.spawn(id, op, async move {
            carry_out(&place, id, op, &arguments).await
        });
    }

    fn spawn(
        &mut self,
        id: Uuid,
        op: Op,
        execution: impl Future<Output = Result<Arguments, String>> + Send + 'static,
    ) {
        log::info!("command {id}: {op}");
        let sender = self.sender.clone();
        let task = async move {
            let outcome = execution.await;
            if let Err(reason) = &outcome {
                log::warn!("command {id}: {op} failed: {reason}");
            }
            let _ = sender.send((id, outcome)).await;
        };
        self.executing.insert(id, tokio::spawn(task));
    }
}

async fn carry_out(
    place: &Place,
    id: Uuid,
    op: Op,
    arguments: &Arguments,
) -> Result<Arguments, String> {
    match op {
        Op::RunAction => action::run(&place.profile()?, arguments).await,
        Op::RestartService => {
            let unit = arguments.get(UNIT).and_then(Value::as_str);
            let unit = unit.unwrap_or_default().to_owned();
            privileged::check_unit(&place.profile()?, &unit)?;
            ask(place, id, Act::Restart { unit }).await
        }
        Op::Shutdown => ask(place, id, Act::PowerOff).await,
        Op::Reboot => {
            ask(place, id, Act::Reboot).await?;
            // The next start of the agent knows how it ended.
            std::future::pending().await
        }
        // Not done here.
        Op::Ping
        | Op::FullState
        | Op::CollectLogs
        | Op::ListPackages
        | Op::RenewIdentity
        | Op::Estop => Ok(Arguments::new()),
    }
}

async fn ask(place: &Place, id: Uuid, act: Act) -> Result<Arguments, String> {
    let helper = Helper::new(&place.state_dir, &place.root);
    helper.ask(id, place.boot_id, act).await?;
    Ok(Arguments::new())
}

/// A program of the profile, with the agent's rights and a clean environment.
pub(crate) fn program(words: &[String]) -> std::process::Command {
    const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let (program, arguments) = words
        .split_first()
        .map_or(("", words), |(first, rest)| (first.as_str(), rest));
    let mut command = std::process::Command::new(Path::new(program));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .current_dir("/");
    command
}
