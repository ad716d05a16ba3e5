//! Who asks: finds the session in a cookie or bearer token, or the API key, and lets a request through if the policy
//! allows what its route needs. Runs before every route, unknown ones included.
//!
//! A robot's routes ask for its certificate instead, and for nothing else; `/metrics` takes a consumer's as well; on
//! all others a certificate counts for nothing.
//!
//! Invariant: what is not marked public answers nothing without a session, a key or a robot's certificate. A cookie alone never changes
//! anything on behalf of another site.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts as _, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use lekiwi_protocol::access::Principal;
use lekiwi_protocol::api::API_KEY;
use lekiwi_protocol::{Permission, RobotId, Timestamp, UserName};
use lekiwi_relay_core::gateway::Within;
use lekiwi_relay_core::policy::{
    self, Action, Circumstances, Denial, Groups, Right, Source, What, Who,
};
use lekiwi_relay_core::protect::Refusal;

use super::App;
use super::audited::Note;
use super::extract::{MAX_BODY_BYTES, Peer};
use super::problem::{Failure, Kind};
use super::routes::{self, Needs, On};
use super::setup;
use crate::broker::{Authority, ClientCert, StoreAuthority};
use crate::clock;
use crate::people::keys;
use crate::store::records::{Account, Key, People, Session};

/// The session's cookie. The prefix binds it to this host, HTTPS and path `/`.
pub const COOKIE: &str = "__Host-lekiwi";

/// How long the rest of a request that is refused is waited for.
const REST: Duration = Duration::from_secs(2);

/// `Set-Cookie` that begins a session.
#[must_use]
pub fn cookie(token: &str, max_age_s: u64) -> HeaderValue {
    let text =
        format!("{COOKIE}={token}; Path=/; Max-Age={max_age_s}; Secure; HttpOnly; SameSite=Strict");
    // Tokens are base64url.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// The layer around all routes.
pub(super) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let needs = path
        .and_then(|path| routes::find(request.method(), path.as_str()))
        .map(|route| route.needs);
    let (mut parts, body) = request.into_parts();
    let refusal = match admit(&app, needs, &mut parts).await {
        Ok(()) => return next.run(Request::from_parts(parts, body)).await,
        Err(failure) => {
            let kind = failure.kind();
            let mut response = match (needs, kind) {
                (Some(Needs::Page | Needs::SetupPage), Kind::LoginRequired) => {
                    Redirect::to("/login").into_response()
                }
                (Some(Needs::Page), Kind::SecondFactorMissing) => {
                    Redirect::to(setup::PAGE).into_response()
                }
                _ => failure.into_response(),
            };
            response.extensions_mut().insert(kind);
            response
        }
    };
    // Clients that still send their body may take the end of its stream for a broken connection.
    let rest = axum::body::to_bytes(body, MAX_BODY_BYTES);
    let _ = tokio::time::timeout(REST, rest).await;
    refusal
}

/// Lets a request through or not, and notes who asks.
async fn admit(app: &App, needs: Option<Needs>, parts: &mut Parts) -> Result<(), Failure> {
    let address = parts.extensions.get::<Peer>().map(|peer| peer.0);
    if let Some(address) = address {
        app.protect.request(address).map_err(too_many)?;
    }
    let within_limits = |who: Who<'_>| match address {
        Some(address) => {
            let outcome = app.protect.request_of(&who.to_string(), address);
            outcome.map_err(too_many)
        }
        None => Ok(()),
    };
    match needs {
        Some(Needs::Robot) => {
            let certified = certified(app, parts)?;
            if let Some(note) = parts.extensions.get::<Note>() {
                match &certified {
                    Principal::Robot(id) => note.by("robot", id),
                    // Others' names say what they are.
                    other => note.by("certificate", other.common_name()),
                }
            }
            within_limits(Who::Certified(&certified))?;
            let robot = robot_of(parts).await;
            let what = robot.as_ref().map_or(What::Some, What::Robot);
            decide(
                Who::Certified(&certified),
                Action::Report,
                what,
                &Groups::new(),
            )?;
            if let Principal::Robot(id) = certified {
                parts.extensions.insert(Caller(id));
            }
            return Ok(());
        }
        Some(Needs::Scrape) if let Ok(certified) = certified(app, parts) => {
            let who = Who::Certified(&certified);
            within_limits(who)?;
            if decide(who, Action::Scrape, What::Fleet, &Groups::new()).is_ok() {
                return Ok(());
            }
        }
        _ => {}
    }
    let asker = asker(app, parts)?;
    if let Some((asker, note)) = asker.as_ref().zip(parts.extensions.get::<Note>()) {
        match asker.key() {
            None => note.by("person", asker.name()),
            Some((key, _)) => {
                note.by("key", &key.id);
                note.says("owner", asker.name());
            }
        }
    }
    let Some(asker) = asker else {
        return match needs {
            Some(Needs::Open) => Ok(()),
            _ => Err(login_required(&parts.headers)),
        };
    };
    within_limits(asker.who())?;
    if asker.lacks_factor(app)
        && !matches!(
            needs,
            Some(Needs::Open | Needs::Whoami | Needs::Setup | Needs::SetupPage)
        )
    {
        let detail = format!(
            "expected {} to have a second factor, found none",
            asker.name()
        );
        return Err(Failure::new(Kind::SecondFactorMissing, detail).hint(
            "set one up with `lekiwi me totp`, at /second-factor, or by POST /api/v1/me/totp",
        ));
    }
    let robot = match needs {
        Some(Needs::May(_, On::Robot)) => robot_of(parts).await,
        _ => None,
    };
    match needs {
        Some(Needs::May(permission, on)) => {
            let what = match (on, &robot) {
                (On::Fleet, _) => What::Fleet,
                (On::Robot, Some(robot)) => What::Robot(robot),
                // What is no robot's id is no robot: the handler says so.
                (On::Some, _) | (On::Robot, None) => What::Some,
            };
            asker.may(Action::Do(permission), what)?;
        }
        Some(Needs::Scrape) => asker.may(Action::Scrape, What::Fleet)?,
        Some(Needs::Session | Needs::Setup | Needs::SetupPage) => {
            asker.may(Action::LogIn, What::Fleet)?
        }
        // What is not there is nobody's.
        Some(Needs::Open | Needs::Own | Needs::Whoami | Needs::Page | Needs::Robot) | None => {}
    }
    parts.extensions.insert(asker);
    Ok(())
}

fn too_many(refusal: Refusal) -> Failure {
    // So much has come in by then, whatever the rate.
    Failure::new(Kind::TooManyRequests, refusal.to_string())
        .header(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

/// Who shows a session or a key, if anybody does.
fn asker(app: &App, parts: &Parts) -> Result<Option<Asker>, Failure> {
    let Some(credential) = credential(&parts.headers) else {
        return Ok(None);
    };
    let now = Timestamp::from_ms(clock::now_ms());
    let shown = match credential.key() {
        Some(key) => keys::find(&app.store, key, now).map(|(key, hash)| Shown::Key(key, hash)),
        None => app.sessions.find(credential.token()).map(Shown::Session),
    };
    let Some(asker) = shown.and_then(|shown| welcome(app, shown)) else {
        return Ok(None);
    };
    if let Shown::Key(key, _) = &asker.shown {
        app.store.note_use(key, now.as_ms());
    }
    if matches!(credential, Credential::Cookie(_)) {
        let authority = parts.uri.authority().map(|authority| authority.as_str());
        same_origin(&parts.method, authority, &parts.headers)?;
    }
    Ok(Some(asker))
}

/// Whether who has shown a session or key with this digest may see the same robots now as when their live stream began.
#[must_use]
pub fn hears(app: &App, shown: &[u8; 32], within: &Within) -> bool {
    let now_ms = clock::now_ms();
    let session = app.store.session(shown, now_ms).map(Shown::Session);
    let key = || Some(Shown::Key(app.store.key(shown, now_ms)?, *shown));
    let asker = session.or_else(key).and_then(|shown| welcome(app, shown));
    asker
        .is_some_and(|asker| !asker.lacks_factor(app) && asker.seen().as_ref() == within.as_deref())
}

/// Whose a session or key is, where they are let in.
fn welcome(app: &App, shown: Shown) -> Option<Asker> {
    let people = app.store.people();
    let account = people.accounts.get(match &shown {
        Shown::Session(session) => session.user.as_str(),
        Shown::Key(key, _) => key.owner.as_str(),
    })?;
    let is_welcome = account.disabled_ms.is_none();
    is_welcome.then(|| Asker {
        shown,
        account: Arc::clone(account),
        people: Arc::clone(&people),
    })
}

/// The robot that the path names.
async fn robot_of(parts: &mut Parts) -> Option<RobotId> {
    let params = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    let (_, id) = params.iter().find(|(name, _)| *name == "id")?;
    RobotId::new(id).ok()
}

fn decide(
    who: Who<'_>,
    action: Action<'_>,
    what: What<'_>,
    groups: &Groups,
) -> Result<(), Failure> {
    let now = Timestamp::from_ms(clock::now_ms());
    match policy::allow(who, action, what, Circumstances { now, groups }) {
        Ok(_) => Ok(()),
        Err(denial) => Err(refused(&denial)),
    }
}

fn refused(denial: &Denial) -> Failure {
    let kind = match denial {
        Denial::Login => Kind::LoginRequired,
        Denial::Person(_) => Kind::SessionRequired,
        Denial::Unseen(..) => Kind::RobotUnknown,
        Denial::Permission { .. } => Kind::PermissionMissing,
        Denial::Certificate(_) | Denial::OtherRobot { .. } | Denial::Topic(_) => {
            Kind::CertificateRefused
        }
    };
    Failure::new(kind, denial.to_string())
}

/// Whose certificate the connection has shown.
fn certified(app: &App, parts: &Parts) -> Result<Principal, Failure> {
    let shown = parts.extensions.get::<Arc<ClientCert>>();
    let shown = shown.ok_or_else(|| {
        Failure::new(
            Kind::CertificateRequired,
            "expected a robot's certificate in the TLS handshake, got none",
        )
    })?;
    let authority = StoreAuthority::new(
        app.store.clone(),
        app.root.org().clone(),
        app.source.clone(),
    );
    let principal = authority
        .admit(shown)
        .map_err(|denied| Failure::new(Kind::CertificateRefused, denied.to_string()))?;
    // Whom robots connect to is seen only where that is in this process.
    if app.broker.elsewhere().is_some() {
        authority.entered(shown);
    }
    Ok(principal)
}

/// The robot that [`guard`] let through by its certificate.
#[derive(Debug, Clone)]
pub struct Caller(pub RobotId);

impl<S: Sync> axum::extract::FromRequestParts<S> for Caller {
    type Rejection = Failure;
    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _: &S,
    ) -> Result<Self, Failure> {
        let caller = parts.extensions.get().cloned();
        caller.ok_or_else(|| Failure::new(Kind::CertificateRequired, "expected a robot"))
    }
}

/// What proves who asks.
#[derive(Debug, Clone)]
enum Shown {
    Session(Session),
    /// With the digest of the secret, of which a key can have two.
    Key(Arc<Key>, [u8; 32]),
}

/// Who asks, and what they may: whom [`guard`] let through.
#[derive(Debug, Clone)]
pub struct Asker {
    shown: Shown,
    account: Arc<Account>,
    people: Arc<People>,
}

impl Asker {
    /// As whom they logged in; of a program, who answers for it.
    #[must_use]
    pub fn name(&self) -> &UserName {
        &self.account.name
    }

    /// Their account.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Who asks, as it is kept with what came of it.
    #[must_use]
    pub fn by(&self) -> String {
        match &self.shown {
            Shown::Session(_) => self.account.name.to_string(),
            Shown::Key(key, _) => format!("{} by key {}", self.account.name, key.id),
        }
    }

    /// The session that was shown.
    ///
    /// # Errors
    /// When a program asks, which has none.
    pub fn session(&self) -> Result<&Session, Failure> {
        match &self.shown {
            Shown::Session(session) => Ok(session),
            Shown::Key(..) => Err(refused(&Denial::Person(self.who().to_string()))),
        }
    }

    /// The key that was shown, and the digest of the secret, where a program asks.
    #[must_use]
    pub fn key(&self) -> Option<(&Key, [u8; 32])> {
        match &self.shown {
            Shown::Session(_) => None,
            Shown::Key(key, hash) => Some((key, *hash)),
        }
    }

    /// The digest of what was shown: with it their live streams end.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        match &self.shown {
            Shown::Session(session) => session.hash,
            Shown::Key(_, hash) => *hash,
        }
    }

    /// Whether they may do nothing but set up the second factor that they should have.
    fn lacks_factor(&self, app: &App) -> bool {
        app.sessions.lacks_factor(&self.account)
    }

    fn who(&self) -> Who<'_> {
        let (name, rights) = (&self.account.name, &self.account.rights[..]);
        match &self.shown {
            Shown::Session(_) => Who::Person { name, rights },
            Shown::Key(key, _) => Who::Program {
                key: &key.name,
                right: &key.right,
                owner: name,
                rights,
            },
        }
    }

    /// Whether they may do more than what brought them through [`guard`].
    ///
    /// # Errors
    /// When they may not, with what is missing.
    pub fn may(&self, action: Action<'_>, what: What<'_>) -> Result<(), Failure> {
        decide(self.who(), action, what, &self.people.groups)
    }

    /// Whether they may do it by a role of their own, not by what was lent to them.
    ///
    /// # Errors
    /// When they may not, with what is missing.
    pub fn may_by_role(&self, action: Action<'_>, what: What<'_>) -> Result<(), Failure> {
        // Who has it by a role is a person.
        self.may(Action::LogIn, What::Fleet)?;
        let roles = self.account.rights.iter();
        let roles = roles.filter(|right| matches!(right.source, Source::Role(_)));
        let rights: Vec<Right> = roles.cloned().collect();
        let who = Who::Person {
            name: &self.account.name,
            rights: &rights,
        };
        decide(who, action, what, &self.people.groups)
    }

    /// Whether they may see this robot.
    #[must_use]
    pub fn sees(&self, robot: &RobotId) -> bool {
        self.may(Action::Do(Permission::Read), What::Robot(robot))
            .is_ok()
    }

    /// The robots that they may see, known or not; all when there is no list.
    #[must_use]
    pub fn seen(&self) -> Option<BTreeSet<RobotId>> {
        let now = Timestamp::from_ms(clock::now_ms());
        policy::seen(
            self.who(),
            Circumstances {
                now,
                groups: &self.people.groups,
            },
        )
    }
}

impl<S: Sync> axum::extract::FromRequestParts<S> for Asker {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let asker = parts.extensions.get().cloned();
        asker.ok_or_else(|| login_required(&parts.headers))
    }
}

fn login_required(headers: &HeaderMap) -> Failure {
    let key = credential(headers).and_then(|credential| credential.key());
    let detail = match (key, credential(headers)) {
        (Some(key), _) if keys::is_whole(key) => {
            "expected an API key that works, got one that ended, was revoked, or never was"
        }
        (Some(_), _) => "expected an API key as it was told, got one that is cut or mistyped",
        (None, Some(_)) => "expected a session that lasts, got one that ended or never was",
        (None, None) => "expected a session cookie, `Authorization: Bearer …` or an `X-API-Key`",
    };
    let hint = match key {
        Some(_) => "`lekiwi keys` lists yours, and makes others",
        None => "POST user and password to /api/v1/session, or run `lekiwi login`",
    };
    Failure::new(Kind::LoginRequired, detail).hint(hint).header(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"lekiwi\""),
    )
}

/// What the program that asks calls itself.
#[must_use]
pub fn agent(headers: &HeaderMap) -> &str {
    let agent = headers.get(header::USER_AGENT);
    agent
        .and_then(|agent| agent.to_str().ok())
        .unwrap_or_default()
}

/// What a request shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// `Authorization: Bearer …`: a session, or a key.
    Bearer(&'a str),
    /// `X-API-Key: …`.
    Key(&'a str),
    /// The cookie.
    Cookie(&'a str),
}

impl<'a> Credential<'a> {
    /// The secret in it.
    #[must_use]
    pub fn token(&self) -> &'a str {
        match self {
            Self::Bearer(token) | Self::Key(token) | Self::Cookie(token) => token,
        }
    }

    /// The API key in it, good or not. A cookie has none: those are sent by browsers, whoever asks them to.
    #[must_use]
    pub fn key(&self) -> Option<&'a str> {
        match self {
            Self::Key(key) => Some(key),
            Self::Bearer(token) if keys::is_one(token) => Some(token),
            Self::Bearer(_) | Self::Cookie(_) => None,
        }
    }
}

/// What a request shows, if anything; a bearer token counts before a key of its own, and that before a cookie.
#[must_use]
pub fn credential(headers: &HeaderMap) -> Option<Credential<'_>> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| Credential::Bearer(token.trim()));
    let key = || {
        let value = headers.get(API_KEY)?;
        Some(Credential::Key(value.to_str().ok()?.trim()))
    };
    let cookie = || cookie_of(headers, COOKIE).map(Credential::Cookie);
    bearer.or_else(key).or_else(cookie)
}

/// The cookie of this name.
#[must_use]
pub fn cookie_of<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == wanted)
        .map(|(_, value)| value)
}

/// Refuses what another site's page made a browser send. Requests that change something must prove
/// where they come from; others (the WebSocket is one) only must not come from elsewhere.
///
/// # Errors
/// When the request comes from another site, or does not say where from.
pub fn same_origin(
    method: &Method,
    authority: Option<&str>,
    headers: &HeaderMap,
) -> Result<(), Failure> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let host = authority.or_else(|| text(header::HOST));
    let reading = matches!(*method, Method::GET | Method::HEAD);
    let origin = text(header::ORIGIN);
    let from_here = match (
        origin,
        text(header::HeaderName::from_static("sec-fetch-site")),
    ) {
        (Some(origin), _) => Some(origin.split_once("://").is_some_and(|(scheme, rest)| {
            scheme == "https" && host.is_some_and(|host| host.eq_ignore_ascii_case(rest))
        })),
        (None, Some(site)) => Some(reading || matches!(site, "same-origin" | "none")),
        (None, None) => None,
    };
    match from_here {
        Some(true) => Ok(()),
        None if reading => Ok(()),
        _ => Err(Failure::new(
            Kind::CrossOrigin,
            format!(
                "expected a request of the relay's own pages, got one of {}",
                origin.unwrap_or("an unknown origin")
            ),
        )
        .hint("programs send `Authorization: Bearer …` instead of the cookie")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn cookies_count_only_for_the_own_origin() {
        let check = |method: Method, headers: &[(&str, &str)]| {
            let headers: HeaderMap = headers
                .iter()
                .map(|(n, v)| {
                    (
                        n.parse::<header::HeaderName>().unwrap(),
                        v.parse::<HeaderValue>().unwrap(),
                    )
                })
                .collect();
            same_origin(&method, None, &headers).map_err(|failure| failure.detail().to_owned())
        };
        let host = ("host", "relay:8443");
        assert_eq!(
            check(Method::POST, &[host, ("origin", "https://relay:8443")]),
            Ok(())
        );
        assert_eq!(
            check(Method::POST, &[host, ("sec-fetch-site", "same-origin")]),
            Ok(())
        );
        assert_eq!(check(Method::GET, &[host]), Ok(()));
        assert_eq!(
            check(Method::POST, &[host]),
            Err("expected a request of the relay's own pages, got one of an unknown origin".into())
        );
        for method in [Method::POST, Method::GET] {
            assert_eq!(
                check(
                    method,
                    &[
                        host,
                        ("origin", "https://evil.example"),
                        ("sec-fetch-site", "cross-site")
                    ]
                ),
                Err(
                    "expected a request of the relay's own pages, got one of https://evil.example"
                        .into()
                )
            );
        }
        assert!(check(Method::POST, &[host, ("origin", "http://relay:8443")]).is_err());
        assert!(check(Method::POST, &[host, ("sec-fetch-site", "same-site")]).is_err());
        assert!(check(Method::POST, &[host, ("origin", "null")]).is_err());
    }

    #[test]
    fn finds_bearer_and_cookie() {
        let find = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            credential(&headers).map(|found| found.token().to_owned())
        };
        assert_eq!(
            find("authorization", "bearer lks_a").as_deref(),
            Some("lks_a")
        );
        assert_eq!(find("authorization", "Basic lks_a"), None);
        assert_eq!(
            find("cookie", "a=b; __Host-lekiwi=lks_b; c=d").as_deref(),
            Some("lks_b")
        );
        assert_eq!(find("cookie", "lekiwi=lks_b"), None);
    }
}
