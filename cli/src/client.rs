//! The relay over HTTPS: one method a route. Failures are told in full, problems as the relay put them.

mod alerts;
mod audit;
mod bans;
mod identities;
mod keys;
mod people;

use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::api::{
    Approval, CommandList, CommandRequest, CommandView, ConfigurationRequest, ConfigurationView,
    ConsumerCreated, ConsumerRequest, EventPage, Login, PackagesView, Problem, RobotList,
    RobotView, RollbackRequest, Session, TelemetryHistory, TokenCreated, TokenList, TokenRequest,
};
use lekiwi_protocol::pinned::Verifier;
use lekiwi_protocol::{RobotId, Timestamp};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::credentials;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::trust::{self, Fingerprint};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Silence after which a live stream counts as dead; the relay sends a comment more often than that.
const STREAM_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of an answer that is not understood is shown.
const SHOWN_CHARS: usize = 200;

/// A relay, and who asks it.
#[derive(Debug)]
pub(crate) struct Relay {
    url: Url,
    http: reqwest::Client,
    pin: Option<Fingerprint>,
    verifier: Arc<Verifier>,
    /// A session's token, or an API key.
    token: Option<String>,
}

/// Checks an address: HTTPS, a host, and no more than `/` behind it.
pub(crate) fn address(text: &str) -> Result<Url, Failure> {
    let wrong = || Failure::Address(text.chars().take(120).collect());
    let url = Url::parse(text).map_err(|_| wrong())?;
    let plain = url.scheme() == "https"
        && url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if plain { Ok(url) } else { Err(wrong()) }
}

impl Relay {
    /// The same relay, with what proves who asks.
    pub(crate) fn shown(self, token: String) -> Self {
        Self {
            token: Some(token),
            ..self
        }
    }

    /// A relay that nobody has logged in to. Without `pin` it is not believed, whoever it is.
    pub(crate) fn stranger(url: Url, pin: Option<Fingerprint>) -> Result<Self, Failure> {
        let (tls, verifier) = trust::tls(pin).map_err(Failure::Tls)?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(STREAM_TIMEOUT)
            .user_agent(concat!("lekiwi/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Failure::Http)?;
        Ok(Self {
            url,
            http,
            pin,
            verifier,
            token: None,
        })
    }

    /// The relay of the environment, or the one logged in to.
    pub(crate) fn of(environment: &Environment) -> Result<Self, Failure> {
        let shown = match &environment.key {
            Some(text) => Some(credentials::key(text)?),
            None => environment.token.clone(),
        };
        if shown.is_some() && environment.url.is_none() {
            return Err(Failure::TokenWithoutRelay);
        }
        Self::showing(environment, shown)
    }

    /// The same relay, which is shown this API key.
    pub(crate) fn with_key(environment: &Environment, key: String) -> Result<Self, Failure> {
        Self::showing(environment, Some(key))
    }

    fn showing(environment: &Environment, shown: Option<String>) -> Result<Self, Failure> {
        let stored = match (&environment.url, &shown, &environment.ca_fingerprint) {
            (Some(_), Some(_), Some(_)) => None,
            _ => match environment.config_dir {
                Some(_) => credentials::load(&credentials::path(environment)?)?,
                None => None,
            },
        };
        let url = match (&environment.url, &stored) {
            (Some(url), _) => address(url)?,
            (None, Some(stored)) => address(&stored.url)?,
            (None, None) => return Err(Failure::NotLoggedIn),
        };
        // A stored session is sent to no other relay than the one that gave it.
        let stored = stored.filter(|stored| stored.url == url.as_str());
        let token = match (shown, &stored) {
            (Some(shown), _) => shown,
            (None, Some(stored)) => stored.token.clone(),
            (None, None) => return Err(Failure::NotLoggedIn),
        };
        let pin = match (&environment.ca_fingerprint, &stored) {
            (Some(text), _) => text.parse().map_err(Failure::FingerprintVariable)?,
            (None, Some(stored)) => stored.ca_fingerprint,
            (None, None) => return Err(Failure::NoFingerprint { url: url.into() }),
        };
        Ok(Self::stranger(url, Some(pin))?.shown(token))
    }

    /// The relay's address.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Which authority the relay shows, without believing it.
    pub(crate) async fn authority(&self) -> Result<Fingerprint, Failure> {
        match self.send(Method::GET, "/health", None::<&()>).await {
            Err(Failure::Untrusted(fingerprint)) => Ok(fingerprint),
            Err(failure) => Err(failure),
            // Only a pinned relay is ever believed.
            Ok(_) => self.pin.ok_or(Failure::NoFingerprint {
                url: self.url.to_string(),
            }),
        }
    }

    pub(crate) async fn login(&self, login: &Login) -> Result<Session, Failure> {
        self.json(Method::POST, "/api/v1/session", Some(login), "a session")
            .await
    }

    pub(crate) async fn logout(&self) -> Result<(), Failure> {
        self.send(Method::DELETE, "/api/v1/session", None::<&()>)
            .await
            .map(|_| ())
    }

    /// As they are, or as they were.
    pub(crate) async fn robots(&self, at: Option<Timestamp>) -> Result<RobotList, Failure> {
        let query = at.map_or_else(String::new, |at| format!("?at={at}"));
        let path = format!("/api/v1/robots{query}");
        self.json(Method::GET, &path, None::<&()>, "a list of robots")
            .await
    }

    pub(crate) async fn robot(&self, id: &RobotId) -> Result<RobotView, Failure> {
        self.json(
            Method::GET,
            &format!("/api/v1/robots/{id}"),
            None::<&()>,
            "a robot",
        )
        .await
    }

    pub(crate) async fn approve(
        &self,
        id: &RobotId,
        profile: Option<String>,
    ) -> Result<RobotView, Failure> {
        let path = format!("/api/v1/robots/{id}/approve");
        let approval = Approval { profile };
        self.json(Method::POST, &path, Some(&approval), "a robot")
            .await
    }

    pub(crate) async fn reject(&self, id: &RobotId) -> Result<RobotView, Failure> {
        let path = format!("/api/v1/robots/{id}/reject");
        self.json(Method::POST, &path, None::<&()>, "a robot").await
    }

    pub(crate) async fn command(
        &self,
        id: &RobotId,
        request: &CommandRequest,
    ) -> Result<CommandView, Failure> {
        let path = format!("/api/v1/robots/{id}/commands");
        self.json(Method::POST, &path, Some(request), "a command")
            .await
    }

    pub(crate) async fn command_of(
        &self,
        id: &RobotId,
        command: Uuid,
    ) -> Result<CommandView, Failure> {
        let path = format!("/api/v1/robots/{id}/commands/{command}");
        self.json(Method::GET, &path, None::<&()>, "a command")
            .await
    }

    pub(crate) async fn commands(&self, id: &RobotId, limit: u16) -> Result<CommandList, Failure> {
        let path = format!("/api/v1/robots/{id}/commands?limit={limit}");
        self.json(Method::GET, &path, None::<&()>, "a list of commands")
            .await
    }

    /// What a command has collected, from its first byte.
    pub(crate) async fn logs(&self, id: &RobotId, command: Uuid) -> Result<Response, Failure> {
        let path = format!("/api/v1/robots/{id}/logs/{command}");
        let request = self.request(Method::GET, &path)?;
        self.checked(request.send().await).await
    }

    pub(crate) async fn packages(&self, id: &RobotId) -> Result<PackagesView, Failure> {
        let path = format!("/api/v1/robots/{id}/packages");
        self.json(Method::GET, &path, None::<&()>, "a list of packages")
            .await
    }

    pub(crate) async fn configuration(&self, id: &RobotId) -> Result<ConfigurationView, Failure> {
        let path = format!("/api/v1/robots/{id}/configuration");
        self.json(Method::GET, &path, None::<&()>, "a configuration")
            .await
    }

    pub(crate) async fn configure(
        &self,
        id: &RobotId,
        request: &ConfigurationRequest,
    ) -> Result<ConfigurationView, Failure> {
        let path = format!("/api/v1/robots/{id}/configuration");
        self.json(Method::PUT, &path, Some(request), "a configuration")
            .await
    }

    pub(crate) async fn roll_back(
        &self,
        id: &RobotId,
        request: &RollbackRequest,
    ) -> Result<ConfigurationView, Failure> {
        let path = format!("/api/v1/robots/{id}/configuration/rollback");
        self.json(Method::POST, &path, Some(request), "a configuration")
            .await
    }

    pub(crate) async fn estop(&self, id: &RobotId) -> Result<CommandView, Failure> {
        let path = format!("/api/v1/robots/{id}/estop");
        self.json(Method::POST, &path, None::<&()>, "a command")
            .await
    }

    pub(crate) async fn events(&self, id: &RobotId, limit: u16) -> Result<EventPage, Failure> {
        let path = format!("/api/v1/robots/{id}/events?limit={limit}");
        self.json(Method::GET, &path, None::<&()>, "a page of events")
            .await
    }

    pub(crate) async fn telemetry(
        &self,
        id: &RobotId,
        query: &str,
    ) -> Result<TelemetryHistory, Failure> {
        let path = format!("/api/v1/robots/{id}/telemetry?{query}");
        self.json(Method::GET, &path, None::<&()>, "telemetry")
            .await
    }

    pub(crate) async fn tokens(&self) -> Result<TokenList, Failure> {
        self.json(
            Method::GET,
            "/api/v1/tokens",
            None::<&()>,
            "a list of tokens",
        )
        .await
    }

    pub(crate) async fn create_token(
        &self,
        request: &TokenRequest,
    ) -> Result<TokenCreated, Failure> {
        self.json(Method::POST, "/api/v1/tokens", Some(request), "a token")
            .await
    }

    pub(crate) async fn revoke_token(&self, id: Uuid) -> Result<(), Failure> {
        self.send(Method::DELETE, &format!("/api/v1/tokens/{id}"), None::<&()>)
            .await
            .map(|_| ())
    }

    pub(crate) async fn create_consumer(
        &self,
        request: &ConsumerRequest,
    ) -> Result<ConsumerCreated, Failure> {
        self.json(
            Method::POST,
            "/api/v1/consumers",
            Some(request),
            "a consumer certificate",
        )
        .await
    }

    /// The live stream, of one robot or of all, from its first byte; first the events that came since `last`.
    pub(crate) async fn stream(
        &self,
        robot: Option<&RobotId>,
        last: Option<&str>,
    ) -> Result<Response, Failure> {
        let path = robot.map_or_else(
            || "/api/v1/stream".into(),
            |id| format!("/api/v1/stream?robot={id}"),
        );
        let mut request = self
            .request(Method::GET, &path)?
            .header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = self.checked(request.send().await).await?;
        let kind = response
            .headers()
            .get("content-type")
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default();
        if kind.starts_with("text/event-stream") {
            return Ok(response);
        }
        let body = format!("content type {kind}");
        Err(Failure::Answer {
            expected: "an event stream",
            status: response.status().as_u16(),
            body,
        })
    }

    /// What a broken transfer means.
    pub(crate) fn unreachable(&self, source: reqwest::Error) -> Failure {
        match (self.verifier.take_shown(), self.pin) {
            (Some(actual), Some(expected)) => Failure::WrongAuthority { expected, actual },
            (Some(actual), None) => Failure::Untrusted(actual),
            // The address is told already; the library would tell it again.
            (None, _) => Failure::Unreachable {
                url: self.url.to_string(),
                source: source.without_url(),
            },
        }
    }

    fn request(&self, method: Method, path: &str) -> Result<reqwest::RequestBuilder, Failure> {
        let url = self
            .url
            .join(path)
            .map_err(|_| Failure::Address(self.url.to_string()))?;
        let request = self.http.request(method, url);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Response, Failure> {
        let mut request = self.request(method, path)?.timeout(ANSWER_TIMEOUT);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.checked(request.send().await).await
    }

    async fn checked(&self, answer: reqwest::Result<Response>) -> Result<Response, Failure> {
        let response = answer.map_err(|source| self.unreachable(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response
            .bytes()
            .await
            .map_err(|source| self.unreachable(source))?;
        Err(refusal(status, &body))
    }

    async fn json<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        expected: &'static str,
    ) -> Result<T, Failure> {
        let response = self.send(method, path, body).await?;
        let bytes = response
            .bytes()
            .await
            .map_err(|source| self.unreachable(source))?;
        serde_json::from_slice(&bytes).map_err(|source| Failure::Body { expected, source })
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => Failure::Refused(problem),
        Err(_) => Failure::Answer {
            expected: "an answer of a Lekiwi relay",
            status: status.as_u16(),
            body: String::from_utf8_lossy(body)
                .chars()
                .take(SHOWN_CHARS)
                .collect(),
        },
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(
            address("https://relay.example:8443").unwrap().as_str(),
            "https://relay.example:8443/"
        );
        for bad in [
            "",
            "relay:8443",
            "http://relay",
            "https://relay/x",
            "https://a:b@relay",
            "https://relay?x",
            "https://",
        ] {
            assert_eq!(
                address(bad).unwrap_err().to_string(),
                format!(
                    "expected the relay's address such as https://relay.example:8443, got {bad:?}"
                )
            );
        }
    }

    fn refused(environment: &Environment) -> String {
        Relay::of(environment).unwrap_err().to_string()
    }

    #[test]
    fn the_environment_must_be_whole() {
        let folder = tempfile::tempdir().unwrap();
        let nobody = Environment {
            config_dir: Some(folder.path().into()),
            ..Environment::default()
        };
        assert_eq!(refused(&nobody), "not logged in");
        let token = Environment {
            token: Some("t".into()),
            ..nobody.clone()
        };
        assert_eq!(
            refused(&token),
            "LEKIWI_TOKEN or LEKIWI_KEY is set, but not which relay it is for"
        );
        let url = Environment {
            url: Some("https://r:1".into()),
            ..token
        };
        assert_eq!(refused(&url), "no authority is known for https://r:1/");
        let wrong = Environment {
            ca_fingerprint: Some("sha256:1".into()),
            ..url.clone()
        };
        assert_eq!(refused(&wrong), "LEKIWI_CA_FINGERPRINT is wrong");
        let whole = Environment {
            ca_fingerprint: Some(format!("sha256:{}", "00".repeat(32))),
            ..url
        };
        assert_eq!(Relay::of(&whole).unwrap().url().as_str(), "https://r:1/");
    }

    #[test]
    fn a_stored_session_goes_to_its_own_relay_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut environment = Environment {
            config_dir: Some(folder.path().join("lekiwi")),
            ..Environment::default()
        };
        let path = credentials::path(&environment).unwrap();
        let stored = credentials::Credentials {
            url: "https://r:1/".into(),
            ca_fingerprint: format!("sha256:{}", "00".repeat(32)).parse().unwrap(),
            user: "admin".into(),
            token: "secret".into(),
            expires_at: lekiwi_protocol::Timestamp::from_ms(5),
        };
        credentials::save(&path, &stored).unwrap();
        credentials::save(&path, &stored).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&path).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            Relay::of(&environment).unwrap().token.as_deref(),
            Some("secret")
        );
        environment.url = Some("https://other:1".into());
        assert_eq!(refused(&environment), "not logged in");
        std::fs::write(&path, "{").unwrap();
        assert_eq!(
            refused(&environment),
            format!("expected credentials in {}", path.display())
        );
    }

    #[test]
    fn answers_that_are_no_problem_are_shown() {
        assert_eq!(
            refusal(StatusCode::BAD_GATEWAY, b"<h1>nginx</h1>").to_string(),
            "expected an answer of a Lekiwi relay, got HTTP 502 with \"<h1>nginx</h1>\""
        );
    }
}
