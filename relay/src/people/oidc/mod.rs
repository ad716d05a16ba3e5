//! Logins by OpenID Connect: somebody else says who somebody is. Authorization code with PKCE, found by discovery. Called
//! by the HTTP interface.
//!
//! * [`attempt`] is one login, from the browser's leaving to its coming back; [`token`] judges what the provider says.
//! * [`claims`] is who that is here.
//!
//! A provider is first asked when somebody logs in by it, so that one that is down keeps nothing else from working.

pub mod attempt;
mod claims;
pub mod token;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};

use self::attempt::Attempt;
use self::token::{Claims, Expected, Keys, TokenError};
use crate::alerts::secret::{Secret, SecretError};
use crate::clock;
use crate::config::oidc::{ProviderConfig, is_local};
use crate::store::records::Outsider;
use crate::tls;

/// Longest wait for an answer of a provider.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long what a provider says about itself is taken for true.
const FRESH: Duration = Duration::from_secs(3600);
/// Longest answer of a provider, bytes.
const LONGEST: usize = 512 * 1024;
/// Logins by one provider that may be fetched at once.
const FETCHES: usize = 16;

/// Why a provider of the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the provider {name}")]
pub struct ProviderError {
    name: String,
    #[source]
    source: Unusable,
}

#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("cannot use the authority of ca_file")]
    Authority(#[source] tls::Failure),
    #[error("cannot begin TLS")]
    Tls(#[from] rustls::Error),
    #[error("cannot make a client")]
    Client(#[from] reqwest::Error),
}

/// Why a login by a provider failed.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// It does not answer.
    #[error("the provider cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// It answered something else a moment ago, or nothing.
    #[error("the provider failed others a moment ago")]
    Failing,
    /// It answers what it should not.
    #[error("expected {expected} of the provider, got {actual}")]
    Answer {
        /// What.
        expected: &'static str,
        /// Instead of that.
        actual: String,
    },
    /// What it says is not of this login.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Too many log in by it at once.
    #[error("too many logins by the provider at once")]
    Busy,
}

/// What a provider says about itself (OpenID Connect Discovery 1.0).
#[derive(Debug, Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

/// What is known of a provider.
#[derive(Debug)]
struct Known {
    since: Instant,
    authorization: Url,
    token: Url,
    userinfo: Option<Url>,
    /// The secret is shown in the body: another way is not taken.
    posts_secret: bool,
    keys: Keys,
}

/// All providers of the configuration.
#[derive(Debug)]
pub struct Providers(Vec<Provider>);

/// One of them.
#[derive(Debug)]
pub struct Provider {
    config: ProviderConfig,
    secret: Option<Secret>,
    http: reqwest::Client,
    known: Mutex<Latest>,
    fetches: Semaphore,
}

#[derive(Debug, Default)]
struct Latest {
    known: Option<Arc<Known>>,
    failed: Option<Instant>,
}

impl Providers {
    /// Reads their secrets; asks nobody.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub fn new(configs: Vec<ProviderConfig>) -> Result<Self, ProviderError> {
        let providers = configs.into_iter().map(|config| {
            let name = config.name.clone();
            Provider::new(config).map_err(|source| ProviderError { name, source })
        });
        Ok(Self(providers.collect::<Result<_, _>>()?))
    }

    /// The one of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Provider> {
        self.0.iter().find(|provider| provider.name() == name)
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Provider::name)
    }
}

fn client(ca_file: Option<&Path>, may_be_plain: bool) -> Result<reqwest::Client, Unusable> {
    let roots = tls::roots(ca_file).map_err(Unusable::Authority)?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::client(roots)?)
        .redirect(reqwest::redirect::Policy::none())
        .https_only(!may_be_plain)
        .timeout(TIMEOUT)
        .user_agent(concat!("lekiwi-relay/", env!("CARGO_PKG_VERSION")));
    Ok(client.build()?)
}

impl Provider {
    fn new(config: ProviderConfig) -> Result<Self, Unusable> {
        let secret = config.client_secret.as_ref();
        Ok(Self {
            secret: secret.map(Secret::load).transpose()?,
            http: client(config.ca_file.as_deref(), config.is_local())?,
            known: Mutex::default(),
            fetches: Semaphore::new(FETCHES),
            config,
        })
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// As whom it signs.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// How long a session lasts that it vouches for.
    #[must_use]
    pub fn session(&self) -> Duration {
        self.config.session
    }

    /// Where a browser goes to log in, and comes back from to `back`.
    ///
    /// # Errors
    /// When the provider does not say where it is.
    pub async fn address(&self, attempt: &Attempt, back: &str) -> Result<Url, OidcError> {
        let mut url = self.known(None).await?.authorization.clone();
        let scopes = std::iter::once("openid").chain(self.config.scopes.iter().map(String::as_str));
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.config.client_id)
            .append_pair("redirect_uri", back)
            .append_pair("scope", &scopes.collect::<Vec<_>>().join(" "))
            .append_pair("state", attempt.state())
            .append_pair("nonce", &attempt.nonce())
            .append_pair("code_challenge", &attempt.challenge())
            .append_pair("code_challenge_method", "S256");
        Ok(url)
    }

    /// Who has logged in, for the code that their browser came back with.
    ///
    /// # Errors
    /// When the provider does not say it.
    pub async fn outsider(
        &self,
        attempt: &Attempt,
        code: &str,
        back: &str,
    ) -> Result<Outsider, OidcError> {
        let _place = self.fetches.try_acquire().map_err(|_| OidcError::Busy)?;
        let known = self.known(None).await?;
        let tokens = self.tokens(&known, attempt, code, back).await?;
        let nonce = attempt.nonce();
        let verify = |keys| {
            let expected = Expected {
                issuer: &self.config.issuer,
                client_id: &self.config.client_id,
                nonce: &nonce,
                now_s: clock::now_ms() / 1_000,
            };
            token::verify(&tokens.id_token, keys, expected)
        };
        let mut claims = match verify(&known.keys) {
            // It may have other keys by now: it is asked once in a login.
            Err(TokenError::Key(_) | TokenError::Signature) => {
                verify(&self.known(Some(&known)).await?.keys)?
            }
            verified => verified?,
        };
        if let Some(userinfo) = &known.userinfo
            && !claims::are_complete(&self.config, &claims)
        {
            self.add_userinfo(userinfo.clone(), &tokens.access_token, &mut claims)
                .await?;
        }
        Ok(claims::outsider(&self.config, &claims))
    }

    /// What it says about itself; asked again when that is old, or `stale`.
    async fn known(&self, stale: Option<&Arc<Known>>) -> Result<Arc<Known>, OidcError> {
        let began = clock::monotonic();
        let mut latest = self.known.lock().await;
        if let Some(known) = &latest.known
            && began.saturating_duration_since(known.since) < FRESH
            && stale.is_none_or(|stale| !Arc::ptr_eq(stale, known))
        {
            return Ok(known.clone());
        }
        // Who waited for it to fail need not fail by waiting again.
        if latest.failed.is_some_and(|failed| failed >= began) {
            return Err(OidcError::Failing);
        }
        let known = self.discovered().await;
        match &known {
            Ok(known) => latest.known = Some(known.clone()),
            Err(_) => latest.failed = Some(clock::monotonic()),
        }
        known
    }

    async fn discovered(&self) -> Result<Arc<Known>, OidcError> {
        let issuer = &self.config.issuer;
        let place = issuer.trim_end_matches('/');
        let place = self.endpoint(&format!("{place}/.well-known/openid-configuration"))?;
        let metadata: Metadata = read(self.http.get(place), "its configuration").await?;
        if metadata.issuer != *issuer {
            return Err(OidcError::Answer {
                expected: "the configured issuer",
                actual: cut(&metadata.issuer),
            });
        }
        let keys = body(
            self.http.get(self.endpoint(&metadata.jwks_uri)?),
            "its keys",
        )
        .await?;
        let keys = Keys::parse(&keys).map_err(|error| OidcError::Answer {
            expected: "its keys",
            actual: error.to_string(),
        })?;
        let ways = &metadata.token_endpoint_auth_methods_supported;
        let has = |way: &str| ways.iter().any(|other| other == way);
        let userinfo = metadata.userinfo_endpoint.as_deref();
        Ok(Arc::new(Known {
            since: clock::monotonic(),
            authorization: self.endpoint(&metadata.authorization_endpoint)?,
            token: self.endpoint(&metadata.token_endpoint)?,
            userinfo: userinfo.map(|place| self.endpoint(place)).transpose()?,
            posts_secret: has("client_secret_post") && !has("client_secret_basic"),
            keys,
        }))
    }

    /// An address that the provider names; in the clear only where the provider is on this machine.
    fn endpoint(&self, text: &str) -> Result<Url, OidcError> {
        let url = Url::parse(text).ok();
        let is_fit = |url: &Url| url.scheme() == "https" || self.config.is_local() && is_local(url);
        url.filter(is_fit).ok_or_else(|| OidcError::Answer {
            expected: "https addresses",
            actual: cut(text),
        })
    }

    /// Trades the code in.
    async fn tokens(
        &self,
        known: &Known,
        attempt: &Attempt,
        code: &str,
        back: &str,
    ) -> Result<Tokens, OidcError> {
        let verifier = attempt.verifier();
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", back),
            ("code_verifier", &verifier),
        ];
        let mut request = self.http.post(known.token.clone());
        let id = self.config.client_id.as_str();
        match &self.secret {
            Some(secret) if !known.posts_secret => {
                request = request.basic_auth(encoded(id), Some(encoded(secret.reveal())));
            }
            Some(secret) => form.extend([("client_id", id), ("client_secret", secret.reveal())]),
            None => form.push(("client_id", id)),
        }
        read(request.form(&form), "a token").await
    }

    /// Adds what the token leaves out, where it is said of the same person.
    async fn add_userinfo(
        &self,
        userinfo: Url,
        access_token: &str,
        claims: &mut Claims,
    ) -> Result<(), OidcError> {
        let request = self.http.get(userinfo).bearer_auth(access_token);
        let more: Claims = read(request, "who somebody is").await?;
        if more.get("sub") != claims.get("sub") {
            return Err(OidcError::Answer {
                expected: "the same subject as in the token",
                actual: cut(&more.get("sub").unwrap_or(&Value::Null).to_string()),
            });
        }
        for (claim, value) in more {
            claims.entry(claim).or_insert(value);
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    access_token: String,
}

/// As in a form: what the basic scheme wants of ids and secrets (RFC 6749, section 2.3.1).
fn encoded(text: &str) -> String {
    let mut url = Url::parse("data:").ok();
    if let Some(url) = &mut url {
        url.query_pairs_mut().append_key_only(text);
    }
    url.and_then(|url| url.query().map(str::to_owned))
        .unwrap_or_default()
}

async fn read<T: DeserializeOwned>(
    request: RequestBuilder,
    expected: &'static str,
) -> Result<T, OidcError> {
    let body = body(request, expected).await?;
    serde_json::from_slice(&body).map_err(|error| OidcError::Answer {
        expected,
        // It has no values, which may be secret, only names of fields and places.
        actual: error.to_string(),
    })
}

/// The answer, when it is a good one and not too long.
async fn body(request: RequestBuilder, expected: &'static str) -> Result<Vec<u8>, OidcError> {
    // A code may be in the address.
    let unreachable = |error: reqwest::Error| OidcError::Unreachable(error.without_url());
    let mut answer = request.send().await.map_err(unreachable)?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
        if body.len() + piece.len() > LONGEST {
            let actual = format!("more than {LONGEST} bytes");
            return Err(OidcError::Answer { expected, actual });
        }
        body.extend_from_slice(&piece);
    }
    if status.is_success() {
        return Ok(body);
    }
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    let said = said["error"].as_str().map(cut).unwrap_or_default();
    Err(OidcError::Answer {
        expected,
        actual: format!("HTTP {} {said}", status.as_u16())
            .trim_end()
            .to_owned(),
    })
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_shown_as_a_form_has_them() {
        assert_eq!(encoded("a b:c+d%é&="), "a+b%3Ac%2Bd%25%C3%A9%26%3D");
        assert_eq!(encoded("lekiwi-1_2.3"), "lekiwi-1_2.3");
    }
}
