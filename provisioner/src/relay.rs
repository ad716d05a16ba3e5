//! The relay's HTTP interface, as far as the factory line needs it: tokens for units, and how they are getting
//! on. Shows an API key, or logs in by itself, and again when its session ends. Called by the line's driver.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lekiwi_protocol::api::{
    Login, Problem, Registration, Session, Status, TokenCreated, TokenRequest,
};
use lekiwi_protocol::message::{Factsheet, RobotHealth};
use lekiwi_protocol::pinned::{Fingerprint, Verifier};
use lekiwi_protocol::{RobotId, Timestamp};
use reqwest::{Method, Response, StatusCode};
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Why the relay did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The password or the key cannot be read.
    #[error("cannot read the relay's password or API key in {0}")]
    Credential(PathBuf, #[source] std::io::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Http(#[source] reqwest::Error),
    /// Somebody else answers.
    #[error("expected a relay whose authority has fingerprint {expected}, got {actual}")]
    WrongAuthority {
        /// The one in the line's file.
        expected: Fingerprint,
        /// The one that was shown.
        actual: Fingerprint,
    },
    /// Nobody answers.
    #[error("the relay at {url} cannot be reached")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The relay says no.
    #[error("the relay refused: {}", .0.detail.as_deref().unwrap_or(&.0.title))]
    Refused(Problem),
    /// Something that a relay does not say.
    #[error("expected {expected} from the relay, got HTTP {status}")]
    Answer {
        /// What should come.
        expected: &'static str,
        /// What came.
        status: u16,
    },
}

impl RelayError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::WrongAuthority { .. } => {
                Some("`lekiwi-relay ca show` prints the fingerprint for relay.ca_fingerprint")
            }
            Self::Unreachable { .. } => Some("is the relay running, and relay.https right?"),
            Self::Refused(problem) => problem.hint.as_deref(),
            _ => None,
        }
    }
}

/// A robot as the relay shows it. Less than all of it, so that relays of other versions are understood.
#[derive(Debug, Clone, Deserialize)]
pub struct Robot {
    /// Who it is.
    pub id: RobotId,
    /// Whether it was heard.
    pub status: Status,
    /// What it is; absent until it said so.
    #[serde(default)]
    pub factsheet: Option<Factsheet>,
    /// Whether it takes part.
    #[serde(default)]
    pub registration: Registration,
    /// Whether its services and checks pass; absent until it said so.
    #[serde(default)]
    pub health: Option<RobotHealth>,
}

/// All robots, and when that was.
#[derive(Debug, Clone, Deserialize)]
pub struct Robots {
    /// By id.
    pub robots: Vec<Robot>,
    /// The relay's time.
    pub now: Timestamp,
}

/// Where a relay is and who asks it.
#[derive(Debug, Clone)]
pub struct Access {
    /// `https://host:port`.
    pub url: String,
    /// Its authority.
    pub ca_fingerprint: Fingerprint,
    /// Who asks.
    pub credential: Credential,
}

/// How it is proved who asks.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A file with an API key, read again when the relay no longer takes it.
    Key(PathBuf),
    /// Somebody without a second factor logs in.
    Password {
        /// Who.
        user: String,
        /// The file with their password.
        file: PathBuf,
    },
}

/// A relay that is asked things.
#[derive(Debug)]
pub struct Relay {
    access: Access,
    http: reqwest::Client,
    verifier: Arc<Verifier>,
    session: Mutex<Option<String>>,
}

impl Relay {
    /// Nothing is sent before the first question.
    ///
    /// # Errors
    /// When TLS or HTTP cannot be set up.
    pub fn new(access: Access) -> Result<Self, RelayError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(Verifier::new(
            Some(access.ca_fingerprint),
            Arc::clone(&provider),
        ));
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(RelayError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .user_agent(concat!("lekiwi-provisioner/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(RelayError::Http)?;
        Ok(Self {
            access,
            http,
            verifier,
            session: Mutex::new(None),
        })
    }

    /// All robots.
    ///
    /// # Errors
    /// When the relay does not answer with them.
    pub async fn robots(&self) -> Result<Robots, RelayError> {
        let answer = self.ask(Method::GET, "/api/v1/robots", None::<&()>).await?;
        self.body(answer, "a list of robots").await
    }

    /// An enrolment token.
    ///
    /// # Errors
    /// When the relay does not make one.
    pub async fn create_token(&self, request: &TokenRequest) -> Result<TokenCreated, RelayError> {
        let answer = self
            .ask(Method::POST, "/api/v1/tokens", Some(request))
            .await?;
        self.body(answer, "a token").await
    }

    /// Makes a token of no use. One that the relay does not know is as good.
    ///
    /// # Errors
    /// When the relay does not answer.
    pub async fn revoke_token(&self, id: Uuid) -> Result<(), RelayError> {
        let path = format!("/api/v1/tokens/{id}");
        match self.ask(Method::DELETE, &path, None::<&()>).await {
            Ok(_) => Ok(()),
            Err(RelayError::Refused(problem)) if problem.status == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn ask<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Response, RelayError> {
        let known = self.session().clone();
        if let Some(session) = known {
            let answer = self.send(method.clone(), path, body, Some(&session)).await;
            // A session that ended, or a key that was rotated, is no answer: one more login, one more try.
            match answer {
                Err(RelayError::Refused(problem)) if problem.status == 401 => {}
                other => return other,
            }
        }
        let session = self.credential().await?;
        let answer = self.send(method, path, body, Some(&session)).await;
        *self.session() = Some(session);
        answer
    }

    /// A session or an API key, which are shown alike.
    async fn credential(&self) -> Result<String, RelayError> {
        let (user, file) = match &self.access.credential {
            Credential::Key(file) => (None, file),
            Credential::Password { user, file } => (Some(user), file),
        };
        let text = tokio::fs::read_to_string(file)
            .await
            .map_err(|source| RelayError::Credential(file.clone(), source))?;
        let text = text.trim_end_matches(['\r', '\n']).to_owned();
        let Some(user) = user else {
            return Ok(text);
        };
        let login = Login {
            user: user.clone(),
            password: text,
            totp: None,
        };
        let answer = self
            .send(Method::POST, "/api/v1/session", Some(&login), None)
            .await?;
        let session: Session = self.body(answer, "a session").await?;
        Ok(session.token)
    }

    async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        session: Option<&str>,
    ) -> Result<Response, RelayError> {
        let url = format!("{}{path}", self.access.url.trim_end_matches('/'));
        let mut request = self.http.request(method, url);
        if let Some(session) = session {
            request = request.bearer_auth(session);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| self.failed(error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        match answer.json().await {
            Ok(problem) => Err(RelayError::Refused(problem)),
            Err(_) => Err(unlike("an answer", status)),
        }
    }

    async fn body<T: DeserializeOwned>(
        &self,
        answer: Response,
        expected: &'static str,
    ) -> Result<T, RelayError> {
        let status = answer.status();
        answer.json().await.map_err(|error| {
            if error.is_decode() {
                unlike(expected, status)
            } else {
                self.failed(error)
            }
        })
    }

    fn failed(&self, source: reqwest::Error) -> RelayError {
        match self.verifier.take_shown() {
            Some(actual) => RelayError::WrongAuthority {
                expected: self.access.ca_fingerprint,
                actual,
            },
            None => RelayError::Unreachable {
                url: self.access.url.clone(),
                source: source.without_url(),
            },
        }
    }

    fn session(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unlike(expected: &'static str, status: StatusCode) -> RelayError {
    RelayError::Answer {
        expected,
        status: status.as_u16(),
    }
}
