//! What needs root: restarting a service, the machine, or switching it off. The agent has no rights for
//! that; it writes a request, `lekiwi-privileged.path` sees it and starts [`run`] as root, which looks at
//! the profile itself, does it once, and answers in a file of its own (`docs/decisions/0011-commands.md`).
//!
//! Invariant: a request is carried out at most once, whoever is killed when. The helper writes that it
//! begins before it takes the request away, and does nothing that it has begun before; the agent writes no
//! request that is written or answered already. A request of an earlier boot is dropped. Whatever goes wrong, the
//! helper takes the request away: one that stays starts it again at once, until systemd starts it no more.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lekiwi_protocol::profile::Profile;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Place;
use crate::clock;
use crate::driver::chain;
use crate::machine::Machine;
use crate::program::{Limits, Stop};
use crate::storage::write_atomically;

/// The request, in the agent's state folder.
const REQUEST: &str = "privileged.json";
/// Where root's helper answers; below the root folder.
const FOLDER: &str = "/var/lib/lekiwi-privileged";
const ANSWER: &str = "answer.json";
/// Largest request that is read.
const MAX_BYTES: u64 = 4096;
/// Time between two looks for an answer, while one is awaited.
const LOOK: Duration = Duration::from_millis(200);
/// How long the helper has to begin.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it has to end; below what the command has.
const LIMITS: Limits = Limits {
    total: Duration::from_secs(100),
    silence: Duration::from_secs(100),
};

/// What root is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Restart a service that the profile watches.
    Restart {
        /// Its unit.
        unit: String,
    },
    /// Restart the machine.
    Reboot,
    /// Switch the machine off.
    PowerOff,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Request {
    id: Uuid,
    boot_id: Uuid,
    act: Act,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    id: Uuid,
    progress: Progress,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Progress {
    Begun,
    Done,
    Failed(String),
}

/// Whether the profile lets people restart `unit`.
///
/// # Errors
/// When it does not.
pub fn check_unit(profile: &Profile, unit: &str) -> Result<(), String> {
    if profile.services.iter().any(|known| known == unit) {
        return Ok(());
    }
    let known = match profile.services.as_slice() {
        [] => "it has none".to_owned(),
        known => known.join(", "),
    };
    let unit: String = unit.chars().take(80).collect();
    Err(format!(
        "expected one of this robot's services ({known}), got {unit:?}"
    ))
}

/// Both ends' view of the files.
#[derive(Debug)]
pub(super) struct Helper {
    request: PathBuf,
    answer: PathBuf,
}

impl Helper {
    pub(super) fn new(state_dir: &Path, root: &Path) -> Self {
        let folder = root.join(FOLDER.trim_start_matches('/'));
        Self {
            request: state_dir.join(REQUEST),
            answer: folder.join(ANSWER),
        }
    }

    /// Has root do it, once for each `id`, and waits for the answer.
    pub(super) async fn ask(&self, id: Uuid, boot_id: Uuid, act: Act) -> Result<(), String> {
        let mut written_at = None;
        loop {
            match self.answer_to(id) {
                Some(Progress::Done) => return Ok(()),
                Some(Progress::Failed(reason)) => return Err(reason),
                Some(Progress::Begun) => {}
                None => match written_at {
                    None => {
                        if !self.is_requested(id) {
                            self.write_request(&Request {
                                id,
                                boot_id,
                                act: act.clone(),
                            })
                            .map_err(|error| {
                                format!("cannot write {}: {error}", self.request.display())
                            })?;
                        }
                        written_at = Some(clock::now());
                    }
                    Some(at) if clock::now().saturating_duration_since(at) >= PATIENCE => {
                        // Taken back; if it was taken meanwhile after all, that is answered.
                        if fs::remove_file(&self.request).is_ok() {
                            return Err(format!(
                                "expected root's helper to begin within {} s (hint: `systemctl status \
                                 lekiwi-privileged.path`)",
                                PATIENCE.as_secs()
                            ));
                        }
                        written_at = Some(clock::now());
                    }
                    Some(_) => {}
                },
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn answer_to(&self, id: Uuid) -> Option<Progress> {
        let answer: Answer = serde_json::from_slice(&fs::read(&self.answer).ok()?).ok()?;
        (answer.id == id).then_some(answer.progress)
    }

    fn is_requested(&self, id: Uuid) -> bool {
        self.read_request().is_ok_and(|request| request.id == id)
    }

    fn write_request(&self, request: &Request) -> io::Result<()> {
        let json = serde_json::to_vec(request).map_err(io::Error::other)?;
        write_atomically(&self.request, &json, 0o600)
    }

    /// What somebody wrote who is not trusted.
    fn read_request(&self) -> io::Result<Request> {
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(&self.request)?;
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text)?;
        serde_json::from_slice(&text).map_err(io::Error::other)
    }

    /// Says that `id` is being done, before it is.
    fn begin(&self, id: Uuid) -> io::Result<()> {
        let folder = self.answer.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        self.write_answer(id, Progress::Begun)
    }

    fn write_answer(&self, id: Uuid, progress: Progress) -> io::Result<()> {
        let answer = Answer { id, progress };
        let json = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        write_atomically(&self.answer, &json, 0o644)
    }
}

/// Why root's helper did nothing.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegedError {
    /// There is no request, or it is none.
    #[error("expected a request at {}", path.display())]
    Request {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The answer cannot be written; then nothing is done.
    #[error("expected a writable folder for {}", path.display())]
    Answer {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Signals cannot be caught.
    #[error("cannot wait for programs")]
    Signals(#[source] io::Error),
}

/// Root's part: carries the request out, and answers. Where there is a reason for `refusal` that is the answer,
/// and nothing is done.
///
/// # Errors
/// When there is no request that could be answered.
pub async fn run(place: &Place, refusal: Option<String>) -> Result<(), PrivilegedError> {
    let helper = Helper::new(&place.state_dir, &place.root);
    let request = helper.read_request();
    let answer_error = |source| PrivilegedError::Answer {
        path: helper.answer.clone(),
        source,
    };
    let request = match request {
        Ok(request) => request,
        Err(source) => {
            // What is no request must not start us again, a folder of that name included.
            let _ =
                fs::remove_file(&helper.request).or_else(|_| fs::remove_dir_all(&helper.request));
            return Err(PrivilegedError::Request {
                path: helper.request,
                source,
            });
        }
    };
    let Request { id, boot_id, act } = request;
    let is_of_now = Machine::default().boot_id() == Some(boot_id);
    let begun = helper.answer_to(id);
    if is_of_now
        && begun.is_none()
        && let Err(source) = helper.begin(id)
    {
        // Whoever waits hears nothing, and gives up.
        let _ = fs::remove_file(&helper.request);
        return Err(answer_error(source));
    }
    let is_withdrawn = fs::remove_file(&helper.request)
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let progress = match begun {
        _ if !is_of_now => {
            log::info!("request {id} is of an earlier boot, and dropped");
            return Ok(());
        }
        None if is_withdrawn => {
            log::info!("request {id} was taken back, since it waited for too long");
            Progress::Failed("it waited for too long, and was taken back".to_owned())
        }
        Some(Progress::Begun) => {
            Progress::Failed("root's helper was stopped while it did this".to_owned())
        }
        Some(_) => return Ok(()),
        None => {
            let outcome = match refusal {
                Some(reason) => Err(reason),
                None => carry_out(place, &act).await,
            };
            outcome.map_or_else(Progress::Failed, |()| Progress::Done)
        }
    };
    helper.write_answer(id, progress).map_err(answer_error)
}

async fn carry_out(place: &Place, act: &Act) -> Result<(), String> {
    let mut command = Command::new("systemctl");
    command.arg("--no-ask-password");
    match act {
        Act::Restart { unit } => {
            // The agent may have said anything: root looks for itself.
            check_unit(&place.profile()?, unit)?;
            command.args(["restart", unit])
        }
        Act::Reboot => command.arg("reboot"),
        Act::PowerOff => command.arg("poweroff"),
    };
    let mut stop = Stop::never();
    crate::program::run(command, LIMITS, &mut stop)
        .await
        .map_err(|error| chain(&error))
}
