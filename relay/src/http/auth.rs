//! Who asks: finds the session in a cookie or bearer token, or the API key, and lets a request through if the policy
//! allows what its route needs. Runs before every route, unknown ones included.
//!
//! A robot's routes ask for its certificate instead, and for nothing else; `/metrics` takes a consumer's as well; on
//! all others a certificate counts for nothing.
//!
//! Invariant: what is not marked public answers nothing without a session, a key or a robot's certificate. A cookie alone
//! never changes anything on behalf of another site.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts as _, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use lekiwi_protocol::access::Principal;
use lekiwi_protocol::{Permission, RobotId, Timestamp, UserName};
use lekiwi_relay_core::gateway::Within;
use lekiwi_relay_core::policy::{
    self, Action, Circumstances, Denial, Groups, Right, Source, What, Who,
};
use lekiwi_relay_core::protect::Refusal;

use super::App;
use super::audited::Note;
use super::credential::{Credential, credential, same_origin};
use super::extract::{MAX_BODY_BYTES, Peer};
use super::problem::{Failure, Kind};
use super::routes::{self, Needs, On};
use super::setup;
use crate::broker::{Authority, ClientCert, StoreAuthority};
use crate::clock;
use crate::people::keys;
use crate::store::records::{Account, Key, People, Session};

/// How long the rest of a request that is refused is waited for.
const REST: Duration = Duration::from_secs(2);

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
                note.by("key", key.id);
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
