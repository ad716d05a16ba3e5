//! Everything that can go wrong, with the hint and the exit code of each. `main` prints it, once.

use std::io;
use std::path::PathBuf;

use lekiwi_discovery::scan::ScanError;
use lekiwi_protocol::api::Problem;
use lekiwi_protocol::message::{ConfigurationState, Op};
use lekiwi_protocol::yaml::YamlError;
use lekiwi_protocol::{GroupName, RobotId};

use crate::exit::Exit;
use crate::trust::{Fingerprint, FingerprintError};

/// End of the type of problems that ask for a second factor.
const SECOND_FACTOR: &str = ":second-factor-required";

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("expected a link such as https://relay.example:8443/join?token=lki_…, got {0:?}")]
    Link(String),
    #[error("expected the relay's address such as https://relay.example:8443, got {0:?}")]
    Address(String),
    #[error("not logged in")]
    NotLoggedIn,
    #[error("LEKIWI_TOKEN or LEKIWI_KEY is set, but not which relay it is for")]
    TokenWithoutRelay,
    #[error("no authority is known for {url}")]
    NoFingerprint { url: String },
    #[error("LEKIWI_CA_FINGERPRINT is wrong")]
    FingerprintVariable(#[source] FingerprintError),
    #[error("expected a relay whose authority has fingerprint {expected}, got {actual}")]
    WrongAuthority {
        expected: Fingerprint,
        actual: Fingerprint,
    },
    #[error("the relay's authority is not trusted yet; its fingerprint is {0}")]
    Untrusted(Fingerprint),
    #[error("the relay at {url} could not be reached")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{}", .0.detail.as_deref().unwrap_or(&.0.title))]
    Refused(Problem),
    #[error("expected {expected}, got HTTP {status} with {body:?}")]
    Answer {
        expected: &'static str,
        status: u16,
        body: String,
    },
    #[error("expected {expected} from the relay")]
    Body {
        expected: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("{op} of {robot} failed: {reason}")]
    Command {
        op: Op,
        robot: RobotId,
        reason: String,
    },
    #[error("expected logs with SHA-256 {expected}, got {actual}")]
    Damaged { expected: String, actual: String },
    #[error("version {version} of the configuration of {robot} is {state}: {reason}")]
    Configuration {
        robot: RobotId,
        version: u64,
        state: ConfigurationState,
        reason: String,
    },
    #[error("{robot} has version {version} of the configuration, which the relay does not know")]
    UnknownBase { robot: RobotId, version: u64 },
    #[error("expected an alert such as hot:kiwi-01:1795233120007, got {0:?}")]
    AlertId(String),
    #[error(transparent)]
    Settings(YamlError),
    #[error("expected every robot to stop, but {0} did not say that it has")]
    NotStopped(usize),
    #[error("expected every robot that was asked to get another certificate, but {0} did not")]
    NotRenewed(usize),
    #[error("there is no group {0}")]
    NoGroup(GroupName),
    #[error("expected somebody who can be asked, or --yes")]
    Unconfirmed,
    #[error("the password could not be read")]
    Password(#[source] io::Error),
    #[error("expected a password, got an empty line")]
    EmptyPassword,
    #[error("expected the same password twice, got two")]
    TwoPasswords,
    #[error("expected an API key, lka_…, got another text")]
    NoKey,
    #[error("neither XDG_CONFIG_HOME nor HOME is set")]
    NoConfigDir,
    #[error("{} could not be {did}", path.display())]
    File {
        path: PathBuf,
        did: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the audit is not whole: {0}")]
    Audit(String),
    #[error("{}: {reason}", path.display())]
    Unbelieved { path: PathBuf, reason: String },
    #[error("expected credentials in {}", path.display())]
    Credentials {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("expected a folder without {}, but it exists", .0.display())]
    Exists(PathBuf),
    #[error("the network could not be scanned")]
    Scan(#[source] ScanError),
    #[error("expected a network to look for robots on, got none{}", none(.0))]
    NoNetwork(Vec<String>),
    #[error("the key could not be made")]
    Key(#[source] rcgen::Error),
    #[error("TLS could not be set up")]
    Tls(#[source] rustls::Error),
    #[error("the HTTP client could not be set up")]
    Http(#[source] reqwest::Error),
    #[error("the runtime could not be started")]
    Runtime(#[source] io::Error),
    #[error("the output could not be written")]
    Output(#[source] io::Error),
}

fn none(reasons: &[String]) -> String {
    let reasons = reasons.iter().map(|reason| format!("; {reason}"));
    reasons.collect()
}

impl Failure {
    /// Whoever read our output has had enough.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Nobody is logged in any more, as opposed to a wrong password.
    pub(crate) fn is_session_over(&self) -> bool {
        let is_login = |problem: &Problem| {
            problem.problem_type.ends_with(":login-failed")
                || problem.problem_type.ends_with(SECOND_FACTOR)
        };
        matches!(self, Self::Refused(problem) if problem.status == 401 && !is_login(problem))
    }

    /// The password was right, and there is more to show.
    pub(crate) fn is_second_factor(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.problem_type.ends_with(SECOND_FACTOR))
    }

    /// Worth another try by itself: the relay is away, stopping or starting.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(problem) => problem.status == 503,
            Self::Answer { status, .. } => matches!(status, 502..=504),
            _ => false,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotLoggedIn => "log in with `lekiwi login URL`".into(),
            Self::TokenWithoutRelay => "set LEKIWI_URL as well".into(),
            Self::NoFingerprint { .. } => {
                "set LEKIWI_CA_FINGERPRINT, or log in with `lekiwi login URL`".into()
            }
            Self::FingerprintVariable(_) => {
                "the relay prints its fingerprint when it starts".into()
            }
            Self::WrongAuthority { .. } => {
                "if the relay got a new authority on purpose, log in again with its new fingerprint"
                    .into()
            }
            Self::Untrusted(fingerprint) => format!(
                "compare it with what the relay prints when it starts, then add `--ca-fingerprint {fingerprint}`"
            ),
            Self::Unreachable { .. } => "is the relay running, and is the address right?".into(),
            Self::Refused(problem) => match &problem.hint {
                Some(hint) => hint.clone(),
                None if self.is_session_over() => "log in with `lekiwi login URL`".into(),
                None => return None,
            },
            Self::Answer { .. } => "is this the address of a Lekiwi relay?".into(),
            Self::Body { .. } => "the relay may be of another version than this program".into(),
            Self::NotStopped(_) => {
                "the relay goes on trying for a minute: `lekiwi commands ID` shows it".into()
            }
            Self::NoGroup(_) => "`lekiwi groups` lists them".into(),
            Self::Damaged { .. } => "fetch them again".into(),
            Self::Unconfirmed => "add `--yes` to go on without a question".into(),
            Self::Password(_) => {
                "name a file with `--password-file`, or `-` for standard input".into()
            }
            Self::NoKey => "`lekiwi keys create` makes one".into(),
            Self::Credentials { .. } => "log in again with `lekiwi login URL`".into(),
            Self::Scan(ScanError::Large(_)) => {
                "name a smaller one, or add `--force` and some minutes".into()
            }
            Self::UnknownBase { .. } => {
                "say all settings: `lekiwi config set ID --file settings.yml`".into()
            }
            Self::Audit(_) => {
                "see docs/audit.md: keep what there is, and find out who was at the database".into()
            }
            Self::Settings(error) => return error.hint(),
            Self::AlertId(_) => "`lekiwi alerts list` names them".into(),
            Self::Exists(_) => {
                "name another folder with `--out`; keys are never overwritten".into()
            }
            _ => return None,
        })
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::NotLoggedIn | Self::Credentials { .. } => Exit::NotLoggedIn,
            Self::Refused(_) if self.is_session_over() => Exit::NotLoggedIn,
            Self::Refused(problem) if problem.status == 404 => Exit::NotFound,
            Self::NoGroup(_) => Exit::NotFound,
            Self::WrongAuthority { .. } | Self::Untrusted(_) | Self::NoFingerprint { .. } => {
                Exit::Untrusted
            }
            Self::Unreachable { .. } => Exit::Unavailable,
            _ => Exit::Failure,
        }
    }
}
