//! `lekiwi-agent setup`: installs the robot's own software, as its profile says, once the relay has
//! registered it. Run as root by `lekiwi-setup.service`, beside the agent, which passes on what it says.
//! Decisions are in [`lekiwi_agent_core::setup`]; files and programs here.
//!
//! Invariants: begins only by `registered.json`, which the agent writes; goes on after a power cut at the
//! step where it was; a step that fails is tried again until it works, and each attempt's reason is told.

pub(crate) mod accounts;
mod python;
mod record;
mod steps;
mod telling;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lekiwi_agent_core::setup::{Action, Output, Pause, Planned, Saying, Setup, Step, plan};
use lekiwi_protocol::ProfileName;
use lekiwi_protocol::message::{Registration, RegistrationStatus, SetupStatus};
use lekiwi_protocol::profile::Profile;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::clock;
use crate::config::Config;
use crate::driver::chain;
use crate::profiles::{self, LoadError};
use crate::program::{ProgramError, Stop};
pub use record::Record;
use steps::{StepError, Workshop};
use telling::Telling;

/// Where root's setup remembers what it did; below the root folder.
pub const FOLDER: &str = "/var/lib/lekiwi-setup";
/// How long the end of the setup is offered to an agent that does not answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the setup is done.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files are written and read below this, `/` on a robot. Programs are this machine's all the same.
    pub root: PathBuf,
}

/// Why the setup ended without being done.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The relay has not registered the robot.
    #[error("expected a robot that the relay has registered, found no registration in {}", .0.display())]
    NotRegistered(PathBuf),
    /// There is no such profile, or it is wrong.
    #[error("expected the profile {name}")]
    Profile {
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: LoadError,
    },
    /// Its folder cannot be used.
    #[error("expected a writable folder at {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another one runs.
    #[error("another setup runs with the folder {}", .0.display())]
    AlreadyRunning(PathBuf),
    /// Signals cannot be caught.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// A signal came.
    #[error("stopped by a signal; the next start goes on from there")]
    Stopped,
    /// All is done, but no agent took the news.
    #[error("the setup is done, but the agent at {} could not be told", .0.display())]
    Unheard(PathBuf),
}

/// The profile that the relay has registered the robot under; `None` while it has not.
#[must_use]
pub fn registered_profile(state_dir: &Path) -> Option<ProfileName> {
    profile_of(&registration(state_dir)?)
}

/// Whether this user may not see as what the relay has registered the robot.
#[must_use]
pub fn is_registration_hidden(state_dir: &Path) -> bool {
    fs::File::open(state_dir.join("registered.json"))
        .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn registration(state_dir: &Path) -> Option<Registration> {
    let text = fs::read(state_dir.join("registered.json")).ok()?;
    let registration: Registration = serde_json::from_slice(&text).ok()?;
    (registration.status == RegistrationStatus::Registered).then_some(registration)
}

/// It becomes a file's name: the type refuses anything but a label.
fn profile_of(registration: &Registration) -> Option<ProfileName> {
    ProfileName::new(registration.profile.as_ref()?).ok()
}

/// What would be done, a line a step.
///
/// # Errors
/// When there is no registration or no profile.
pub fn describe(config: &Config, options: &Options) -> Result<Vec<String>, SetupError> {
    let Some(name) = registered(config)? else {
        return Ok(Vec::new());
    };
    let profile = profiles::load(&config.profiles_dir, &options.root, &name).map_err(|source| {
        SetupError::Profile {
            name: name.to_string(),
            source,
        }
    })?;
    let job = Job::new(&profile, Record::load(&below(&options.root, FOLDER)));
    let lines = job.planned.iter().zip(&job.prints).map(|(step, print)| {
        let verb = match job.record.done.get(&step.name) {
            Some(done) if done == print => "is done",
            _ => "would be done",
        };
        format!("{} {verb}: {}", step.name, summary(&step.action))
    });
    Ok(lines.collect())
}

fn summary(action: &Action) -> String {
    match action {
        Action::Packages(names) => format!("install {}", names.join(" ")),
        Action::Groups(names) => {
            format!(
                "make {}, with the agent and people in them",
                names.join(", ")
            )
        }
        Action::DeviceRules(_) => "write udev's rules and apply them".to_owned(),
        Action::File(file) => format!("write {} as {}", file.path, file.mode),
        Action::Python(python) => format!(
            "make {} with {} requirements and {} overlays",
            python.venv,
            python.requirements.len(),
            python.overlays.len()
        ),
        Action::Unit(unit) => format!("write, enable and start {}", unit.name),
    }
}

/// Runs until all is done, or a signal comes.
///
/// # Errors
/// See [`SetupError`]; steps that fail are no errors, they are tried again.
pub async fn run(config: &Config, options: &Options) -> Result<(), SetupError> {
    let stop = Stop::new().map_err(SetupError::Signals)?;
    let folder = below(&options.root, FOLDER);
    let _lock = lock(&folder)?;
    let mut workshop = Workshop::new(&options.root, folder.clone(), stop);
    let Some(mut name) = registered(config)? else {
        log::info!("the relay has registered this robot without a profile: nothing to set up");
        return Ok(());
    };
    loop {
        let mut telling = Telling::new(&config.socket, name.as_str());
        match install(config, options, &name, &mut workshop, &mut telling).await {
            Err(SetupError::Stopped) => {
                log::info!("{}", SetupError::Stopped);
                return Ok(());
            }
            result => result?,
        }
        // Approved under another name meanwhile?
        match registered(config)? {
            Some(newest) if newest != name => name = newest,
            _ => return Ok(()),
        }
    }
}

/// Sets one profile up; returns when it is done, or when the relay has registered another one.
async fn install(
    config: &Config,
    options: &Options,
    name: &ProfileName,
    workshop: &mut Workshop,
    telling: &mut Telling,
) -> Result<(), SetupError> {
    let folder = workshop.scratch.clone();
    let mut pause = Pause::default();
    let profile = loop {
        let error = match profiles::load(&config.profiles_dir, &options.root, name) {
            Ok(profile) => break profile,
            Err(error) => error,
        };
        let retry_in = pause.next(random());
        let mut record = Record::load(&folder)
            .filter(|record| record.profile == name.as_str())
            .unwrap_or_else(|| Record::new(name.as_str()));
        record.status = SetupStatus::Failed;
        record.trouble = Some(chain(&error));
        keep_if_possible(&record, &folder);
        log::error!("{}", chain(&error));
        let (step, reason) = ("profile".to_owned(), chain(&error));
        let saying = Saying::Failed {
            step,
            reason,
            retry_in,
        };
        telling.say(&saying).await;
        if wait(retry_in, workshop, telling).await {
            return Err(SetupError::Stopped);
        }
        if registered(config)?.as_ref() != Some(name) {
            return Ok(());
        }
    };
    let mut job = Job::new(&profile, Record::load(&folder));
    dismiss_others(&mut job, workshop).await?;
    keep_if_possible(&job.record, &folder);
    let mut setup = job.setup();
    loop {
        while let Some(output) = setup.poll_output() {
            match output {
                Output::Keep => {
                    job.stands(&setup);
                    keep_if_possible(&job.record, &folder);
                }
                Output::Say(saying) => telling.say(&saying).await,
                Output::Run(index) => {
                    let step = &job.planned[index];
                    log::info!("{}: {}", step.name, summary(&step.action));
                    match workshop.carry_out(&step.action).await {
                        Ok(()) => setup.succeeded(),
                        Err(StepError::Program(ProgramError::Stopped)) => {
                            return Err(SetupError::Stopped);
                        }
                        Err(error) => {
                            let reason = chain(&error);
                            log::error!("{}: {reason}", step.name);
                            job.record.trouble = Some(format!("{}: {reason}", step.name));
                            setup.failed(clock::now(), reason, random());
                        }
                    }
                }
                Output::Conclude => {
                    if !telling.flush(PATIENCE, &mut workshop.stop).await {
                        return Err(SetupError::Unheard(config.socket.clone()));
                    }
                    job.record.status = SetupStatus::Done;
                    job.record.concluded = Some(job.print.clone());
                    keep(&job.record, &folder)?;
                }
                Output::Exit => return Ok(()),
            }
        }
        let now = clock::now();
        let at = setup.poll_timeout().unwrap_or(now);
        if wait(at.saturating_duration_since(now), workshop, telling).await {
            return Err(SetupError::Stopped);
        }
        if registered(config)?.as_ref() != Some(name) {
            return Ok(());
        }
        setup.handle_timeout(at);
    }
}

/// Units of an earlier profile, or of an earlier edition of this one, hold its ports and drive its arms.
async fn dismiss_others(job: &mut Job, workshop: &mut Workshop) -> Result<(), SetupError> {
    let wanted = job.units();
    for unit in std::mem::take(&mut job.record.units) {
        if wanted.contains(&unit) {
            continue;
        }
        log::info!("{unit}: no part of this profile, is disabled and removed");
        match workshop.dismiss(&unit).await {
            Ok(()) => {}
            Err(StepError::Program(ProgramError::Stopped)) => return Err(SetupError::Stopped),
            Err(error) => {
                log::error!("{unit}: {}", chain(&error));
                job.record.units.push(unit);
            }
        }
    }
    job.record.units.extend(wanted);
    Ok(())
}

/// Waits, and tells the agent meanwhile what it was not told. Says whether a signal came.
async fn wait(pause: Duration, workshop: &mut Workshop, telling: &mut Telling) -> bool {
    let end = clock::now() + pause;
    telling.flush(pause, &mut workshop.stop).await;
    let left = end.saturating_duration_since(clock::now());
    workshop.stop.during(left).await
}

/// A profile's steps beside what is known to be done.
struct Job {
    planned: Vec<Planned>,
    /// What each step does, in short.
    prints: Vec<String>,
    /// What all of them do.
    print: String,
    record: Record,
}

impl Job {
    fn new(profile: &Profile, kept: Option<Record>) -> Self {
        let planned = plan(profile);
        let print = fingerprint(&format!("{planned:?}"));
        let prints = planned.iter().map(|step| match &step.action {
            // A unit starts what the other steps bring: whatever changes, it is started again.
            Action::Unit(_) => fingerprint(&format!("{print} {}", step.name)),
            action => fingerprint(&format!("{action:?}")),
        });
        let prints = prints.collect();
        let name = profile.name.as_str();
        let record = match kept {
            Some(record) if record.profile == name => record,
            kept => Record::after(kept, name),
        };
        Self {
            planned,
            prints,
            print,
            record,
        }
    }

    /// Names of the units that its steps write.
    fn units(&self) -> Vec<String> {
        let units = self.planned.iter().filter_map(|step| match &step.action {
            Action::Unit(unit) => Some(unit.name.clone()),
            _ => None,
        });
        units.collect()
    }

    fn setup(&self) -> Setup {
        let step = |(planned, print): (&Planned, &String)| Step {
            name: planned.name.clone(),
            weight: planned.weight,
            done: self.record.done.get(&planned.name) == Some(print),
        };
        let steps = self.planned.iter().zip(&self.prints).map(step).collect();
        let concluded = self.record.concluded.as_ref() == Some(&self.print);
        Setup::new(steps, concluded)
    }

    /// Takes over where the machine stands.
    fn stands(&mut self, setup: &Setup) {
        let steps = self.planned.iter().zip(&self.prints).enumerate();
        let done = steps.filter(|(index, _)| setup.is_done(*index));
        let done: BTreeMap<String, String> = done
            .map(|(_, (step, print))| (step.name.clone(), print.clone()))
            .collect();
        self.record.done = done;
        self.record.status = setup.status();
        self.record.percent = setup.percent();
        if setup.status() != SetupStatus::Failed {
            self.record.trouble = None;
        }
    }
}

/// The profile that the relay has registered the robot under; `None` where it named none.
fn registered(config: &Config) -> Result<Option<ProfileName>, SetupError> {
    let missing = || SetupError::NotRegistered(config.state_dir.clone());
    let registration = registration(&config.state_dir).ok_or_else(missing)?;
    match &registration.profile {
        None => Ok(None),
        Some(_) => profile_of(&registration).map(Some).ok_or_else(missing),
    }
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn keep(record: &Record, folder: &Path) -> Result<(), SetupError> {
    record.keep(folder).map_err(|source| SetupError::Folder {
        path: folder.to_owned(),
        source,
    })
}

/// A full disk does not end the setup: what is not written down is done again, which it stands.
fn keep_if_possible(record: &Record, folder: &Path) {
    if let Err(error) = keep(record, folder) {
        log::error!("{}", chain(&error));
    }
}

fn lock(folder: &Path) -> Result<Flock<fs::File>, SetupError> {
    let unusable = |source| SetupError::Folder {
        path: folder.to_owned(),
        source,
    };
    fs::create_dir_all(folder).map_err(unusable)?;
    let file = fs::File::create(folder.join("lock")).map_err(unusable)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => Err(SetupError::AlreadyRunning(folder.to_owned())),
        Err((_, errno)) => Err(unusable(errno.into())),
    }
}

fn fingerprint(text: &str) -> String {
    hex::encode(&Sha256::digest(text)[..16])
}

fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}
