//! The relay's HTTP interface as an administrator uses it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::{
    EventPage, EventRecord, Login, RobotList, Session, TokenCreated, TokenRequest,
};
use reqwest::{Certificate, Method, RequestBuilder, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::secrets;

/// A logged-in administrator.
#[derive(Clone)]
pub struct Admin {
    http: reqwest::Client,
    base: String,
    token: String,
    ca_pem: String,
}

impl Admin {
    /// Logs in at `https` (`host:port`) as the administrator whose password is in `password_file`.
    ///
    /// # Errors
    /// When the relay does not answer, or refuses.
    pub async fn login(https: &str, ca_pem: &str, password_file: &Path) -> Result<Self> {
        let password = std::fs::read_to_string(password_file).with_context(|| {
            format!(
                "expected the administrator's password in {}",
                password_file.display()
            )
        })?;
        let http = client(ca_pem)?;
        let base = format!("https://{https}");
        let login = Login {
            user: "admin".to_owned(),
            password: password.trim().to_owned(),
            totp: None,
        };
        secrets::keep("the administrator's password", &login.password);
        let path = "/api/v1/session";
        let request = http.post(format!("{base}{path}")).json(&login);
        let session: Session = answer(&Method::POST, path, request).await?;
        Ok(Self {
            http,
            base,
            token: session.token,
            ca_pem: ca_pem.to_owned(),
        })
    }

    /// The relay's authority.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The client without the session, for what needs none.
    #[must_use]
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// `https://host:port`.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request with the session.
    pub fn get(&self, path: &str) -> RequestBuilder {
        self.http
            .get(format!("{}{path}", self.base))
            .bearer_auth(&self.token)
    }

    /// A POST with a JSON body, as the administrator.
    ///
    /// # Errors
    /// When the relay refuses, with its words.
    pub async fn post<B: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<A> {
        self.send(Method::POST, path, body).await
    }

    /// A PUT with a JSON body, as the administrator.
    ///
    /// # Errors
    /// When the relay refuses, with its words.
    pub async fn put<B: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<A> {
        self.send(Method::PUT, path, body).await
    }

    /// What a GET answers.
    ///
    /// # Errors
    /// When the relay refuses, with its words.
    pub async fn read<A: DeserializeOwned>(&self, path: &str) -> Result<A> {
        answer(&Method::GET, path, self.get(path)).await
    }

    async fn send<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<A> {
        secrets::keep_fields(&serde_json::to_value(body)?);
        let request = self
            .http
            .request(method.clone(), format!("{}{path}", self.base))
            .bearer_auth(&self.token);
        answer(&method, path, request.json(body)).await
    }

    /// All robots.
    ///
    /// # Errors
    /// When the relay does not answer with a list.
    pub async fn robots(&self) -> Result<RobotList> {
        self.read("/api/v1/robots").await
    }

    /// An enrolment token.
    ///
    /// # Errors
    /// When the relay refuses.
    pub async fn token(&self, request: &TokenRequest) -> Result<TokenCreated> {
        self.post("/api/v1/tokens", request).await
    }

    /// Every event of a robot, in log order.
    ///
    /// # Errors
    /// When the relay does not answer with pages.
    pub async fn events(&self, robot: &RobotId) -> Result<Vec<EventRecord>> {
        let (mut events, mut after) = (Vec::new(), 0);
        loop {
            let path = format!("/api/v1/robots/{robot}/events?after={after}&limit=1000");
            let page: EventPage = self.read(&path).await?;
            events.extend(page.events);
            match page.next_after {
                Some(next) => after = next,
                None => return Ok(events),
            }
        }
    }
}

/// What the relay answers to a request, or its words where it refuses.
async fn answer<A: DeserializeOwned>(
    method: &Method,
    path: &str,
    request: RequestBuilder,
) -> Result<A> {
    let again = request.try_clone();
    let mut answer = request.send().await?;
    // It reads more at once than a person does: it waits for as long as it is told to.
    if answer.status() == StatusCode::TOO_MANY_REQUESTS
        && let Some(again) = again
    {
        tokio::time::sleep(Duration::from_secs(1)).await;
        answer = again.send().await?;
    }
    ensure!(
        answer.status().is_success(),
        "{method} {path}: {}: {}",
        answer.status(),
        answer.text().await?
    );
    Ok(answer.json().await?)
}

/// An HTTPS client that trusts one authority and nothing else.
fn client(ca_pem: &str) -> Result<reqwest::Client> {
    // A second installation is refused, which is as good: the provider is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = Certificate::from_pem(ca_pem.as_bytes())
        .context("expected the relay's authority as PEM")?;
    Ok(reqwest::Client::builder()
        .tls_certs_only([authority])
        .build()?)
}
