//! Before the agent runs: its state folder, taken for itself alone, and what an enrolment needs.

use std::fs::File;
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};

use crate::config::Config;
use crate::identity::{Enrolment, Store};
use crate::machine::Machine;

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state folder cannot be used.
    #[error("expected a writable state folder at {}", path.display())]
    State {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another agent uses the same state.
    #[error("another lekiwi-agent runs with the state folder {}", .0.display())]
    AlreadyRunning(PathBuf),
    /// Signals cannot be caught.
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
}

/// Keeps other agents out of a state folder while it lives.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Takes the state folder of `config`, which is made when it is missing.
///
/// # Errors
/// When another agent has it, or it cannot be made.
pub fn lock(config: &Config) -> Result<Lock, StartError> {
    let folder = &config.state_dir;
    let state = |source| StartError::State {
        path: folder.clone(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(state)?;
    let path = folder.join("agent.lock");
    // A robot whose disk has become read-only, or is full, is still one: a lock needs no writing.
    let file = File::create(&path)
        .or_else(|error| File::open(&path).map_err(|_| error))
        .map_err(state)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(Lock { _file: file }),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(StartError::AlreadyRunning(folder.clone())),
        Err((_, errno)) => Err(state(errno.into())),
    }
}

/// What an enrolment of this robot, found to be of this `profile`, needs.
#[must_use]
pub fn enrolment(config: &Config, machine: &Machine, profile: &str) -> Enrolment {
    Enrolment {
        store: Store::new(&config.state_dir, config.signer.clone()),
        relay: config.relay.https.clone(),
        proxy: config.relay.proxy.clone(),
        ca_fingerprint: config.relay.ca_fingerprint,
        robot_id: config.robot_id.clone(),
        profile: profile.to_owned(),
        serial: machine.hardware().serial,
        token_file: config.token_file.clone(),
        remove_token: config.remove_token,
    }
}
