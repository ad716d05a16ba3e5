//! Puts on record what people, programs and robots do through the interface: one layer around all routes, which knows from
//! the table below what each route does, from the guard who asks, and from handlers what else is worth knowing.
//!
//! Invariant: what changed something is answered only when its entry is on disk. Refusals are recorded as well, but not
//! each: [`Refusals`] says which.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lekiwi_protocol::trace::{TRACEPARENT, TraceParent};
use lekiwi_relay_core::refusals::Refusals;

use super::App;
use super::extract::Peer;
use super::problem::{Failure, Kind};
use super::routes::{self, Route};
use crate::audit::{Action, DONE, plain};
use crate::clock;
use crate::store::NewEntry;

/// Who shows nothing.
const NOBODY: &str = "nobody";
/// Different refusals in an hour, of those who proved who they are.
const REFUSALS: usize = 1_000;
/// The same of those who did not.
const STRANGERS: usize = 200;

/// What each route does that is put on record. All others only look.
#[rustfmt::skip]
const ACTIONS: &[(Method, &str, Action)] = &[
    (Method::POST,   "/.well-known/est/simpleenroll",              Action::RobotEnrol),
    (Method::POST,   "/.well-known/est/simplereenroll",            Action::RobotRenew),
    (Method::POST,   "/login",                                     Action::Login),
    (Method::GET,    "/login/oidc/{id}/callback",                  Action::Login),
    (Method::POST,   "/logout",                                    Action::Logout),
    (Method::POST,   "/api/v1/session",                            Action::Login),
    (Method::DELETE, "/api/v1/session",                            Action::Logout),
    (Method::POST,   "/api/v1/robots/{id}/approve",                Action::RobotApprove),
    (Method::POST,   "/api/v1/robots/{id}/reject",                 Action::RobotReject),
    (Method::POST,   "/api/v1/robots/{id}/commands",               Action::RobotCommand),
    (Method::POST,   "/api/v1/robots/{id}/estop",                  Action::RobotStop),
    (Method::GET,    "/api/v1/robots/{id}/logs/{cmd}",             Action::LogsRead),
    (Method::PUT,    "/api/v1/robots/{id}/configuration",          Action::ConfigurationSet),
    (Method::POST,   "/api/v1/robots/{id}/configuration/rollback", Action::ConfigurationRollback),
    (Method::POST,   "/api/v1/alerts/{id}/acknowledge",            Action::AlertAcknowledge),
    (Method::PUT,    "/api/v1/alert-rules/{id}",                   Action::AlertRuleSet),
    (Method::DELETE, "/api/v1/alert-rules/{id}",                   Action::AlertRuleRemove),
    (Method::POST,   "/api/v1/alert-silences",                     Action::AlertSilence),
    (Method::DELETE, "/api/v1/alert-silences/{id}",                Action::AlertUnsilence),
    (Method::POST,   "/api/v1/tokens",                             Action::TokenCreate),
    (Method::DELETE, "/api/v1/tokens/{id}",                        Action::TokenRemove),
    (Method::POST,   "/api/v1/consumers",                          Action::ConsumerCertify),
    (Method::POST,   "/api/v1/identities/{id}/revoke",             Action::CertificateRevoke),
    (Method::POST,   "/api/v1/keys",                               Action::KeyCreate),
    (Method::POST,   "/api/v1/keys/{id}/rotate",                   Action::KeyRotate),
    (Method::DELETE, "/api/v1/keys/{id}",                          Action::KeyRevoke),
    (Method::DELETE, "/api/v1/bans/{id}",                          Action::BanLift),
    (Method::GET,    "/api/v1/audit/checkpoint",                   Action::AuditExport),
    (Method::PUT,    "/api/v1/me/password",                        Action::PasswordChange),
    (Method::DELETE, "/api/v1/me/sessions/{id}",                   Action::SessionEnd),
    (Method::POST,   "/second-factor",                             Action::FactorChange),
    (Method::POST,   "/api/v1/me/totp",                            Action::FactorChange),
    (Method::POST,   "/api/v1/me/totp/confirm",                    Action::FactorChange),
    (Method::DELETE, "/api/v1/me/totp",                            Action::FactorChange),
    (Method::DELETE, "/api/v1/people/{id}/totp",                   Action::FactorReset),
    (Method::POST,   "/api/v1/invitations",                        Action::PersonInvite),
    (Method::DELETE, "/api/v1/invitations/{id}",                   Action::InvitationRevoke),
    (Method::POST,   "/join",                                      Action::PersonJoin),
    (Method::POST,   "/api/v1/join",                               Action::PersonJoin),
    (Method::POST,   "/api/v1/people",                             Action::PersonAdd),
    (Method::PATCH,  "/api/v1/people/{id}",                        Action::PersonChange),
    (Method::DELETE, "/api/v1/people/{id}",                        Action::PersonRemove),
    (Method::PUT,    "/api/v1/people/{id}/password",               Action::PasswordSet),
    (Method::DELETE, "/api/v1/people/{id}/sessions",               Action::SessionsEnd),
    (Method::PUT,    "/api/v1/groups/{id}",                        Action::GroupSet),
    (Method::DELETE, "/api/v1/groups/{id}",                        Action::GroupRemove),
    (Method::POST,   "/api/v1/robots/{id}/loans",                  Action::RobotLend),
    (Method::DELETE, "/api/v1/robots/{id}/loans/{person}",         Action::LoanEnd),
];

/// The action of a route, if it is put on record.
fn action_of(route: &Route) -> Option<Action> {
    let mut actions = ACTIONS.iter();
    let found = actions.find(|(method, path, _)| *method == route.method && *path == route.path);
    found.map(|(_, _, action)| *action)
}

/// What the guard and handlers say of a request, beside its answer. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Note(Arc<Mutex<Noted>>);

#[derive(Debug, Clone, Default)]
struct Noted {
    who: Option<String>,
    detail: BTreeMap<String, String>,
}

impl Note {
    /// Who it is that asks, such as `person:ada`.
    pub fn by(&self, kind: &str, name: impl Display) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.who = Some(plain(&format!("{kind}:{name}")));
    }

    /// Something that is worth knowing, and no secret.
    pub fn says(&self, name: &'static str, value: impl Display) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted
            .detail
            .insert(name.to_owned(), plain(&value.to_string()));
    }
}

impl<S: Sync> FromRequestParts<S> for Note {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// What tells refusals apart: who, from where, by which route, and why.
type Refusal = (String, String, &'static str, &'static str);

/// Refusals of those who proved who they are, and of others, who cannot take the place of those.
#[derive(Debug)]
pub struct Refused {
    known: Mutex<Refusals<Refusal>>,
    strangers: Mutex<Refusals<Refusal>>,
}

impl Default for Refused {
    fn default() -> Self {
        Self {
            known: Mutex::new(Refusals::new(REFUSALS)),
            strangers: Mutex::new(Refusals::new(STRANGERS)),
        }
    }
}

impl Refused {
    /// How often it was so, where that is worth an entry.
    fn count(&self, entry: &NewEntry, route: Option<&'static Route>) -> Option<u64> {
        let refusals = if entry.who == NOBODY {
            &self.strangers
        } else {
            &self.known
        };
        let mut refusals = refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (
            entry.who.clone(),
            entry.address.clone(),
            route.map_or("", |route| route.path),
            entry.outcome,
        );
        refusals.count(clock::monotonic(), key)
    }
}

/// The layer.
pub(super) async fn record(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let route = path.and_then(|path| routes::find(request.method(), path.as_str()));
    let action = route.and_then(action_of);
    let peer = request.extensions().get::<Peer>();
    let address = peer.map_or_else(String::new, |Peer(address)| address.to_string());
    let on = request.uri().path();
    let on = plain(on.trim_start_matches("/api/v1").trim_start_matches('/'));
    let method = request.method().clone();
    let trace = trace(request.headers());
    let note = Note::default();
    request.extensions_mut().insert(note.clone());

    let response = next.run(request).await;
    let kind = response.extensions().get::<Kind>().copied();
    let outcome = match kind {
        Some(kind) => kind.slug(),
        None if response.status().is_client_error() || response.status().is_server_error() => {
            "failed"
        }
        None => DONE,
    };
    let Some(action) = action.or_else(|| of_policy(kind).then_some(Action::Request)) else {
        return response;
    };
    if matches!(kind, Some(Kind::LoginRequired | Kind::CertificateRequired)) {
        // Whoever shows nothing, and whose session has ended, was refused nothing that is theirs.
        return response;
    }
    let noted = note
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let mut entry = NewEntry {
        at_ms: clock::now_ms(),
        who: noted.who.unwrap_or_else(|| NOBODY.to_owned()),
        address,
        action: action.slug(),
        on,
        outcome,
        trace,
        detail: noted.detail,
    };
    if action == Action::Request {
        entry
            .detail
            .insert("method".to_owned(), plain(method.as_str()));
    }
    if outcome == DONE {
        return match app.store.record(entry).await {
            Ok(_) => response,
            Err(error) => {
                tracing::error!(%error, action = action.slug(), "something was done and could not be put on record");
                Failure::from(error).into_response()
            }
        };
    }
    if let Some(times) = app.refused.count(&entry, route) {
        if times > 1 {
            entry.detail.insert("times".to_owned(), times.to_string());
        }
        if let Err(error) = app.store.record(entry).await {
            tracing::warn!(%error, action = action.slug(), "a refusal could not be put on record");
        }
    }
    response
}

/// Whether it is the policy that refused, and not a handler.
fn of_policy(kind: Option<Kind>) -> bool {
    matches!(
        kind,
        Some(
            Kind::PermissionMissing
                | Kind::RobotUnknown
                | Kind::CertificateRefused
                | Kind::CrossOrigin
        )
    )
}

/// The id of the trace that a request says it belongs to.
fn trace(headers: &HeaderMap) -> String {
    let said = headers.get(header::HeaderName::from_static(TRACEPARENT));
    let said = said.and_then(|value| value.to_str().ok());
    let parent = said
        .and_then(TraceParent::parse)
        .map(|parent| parent.to_string());
    let mut parts = parent.as_deref().unwrap_or_default().split('-');
    parts.nth(1).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::routes::ROUTES;

    /// What robots send piece by piece changes nothing that anybody decided.
    const UNRECORDED: &[(Method, &str)] = &[(Method::PATCH, "/api/v1/robots/{id}/logs/{cmd}")];

    #[test]
    fn every_route_that_changes_something_is_put_on_record() {
        for route in ROUTES {
            let is_unrecorded = UNRECORDED.contains(&(route.method.clone(), route.path));
            let is_due = route.method != Method::GET && !is_unrecorded;
            assert!(
                !is_due || action_of(route).is_some(),
                "expected an action for {} {}",
                route.method,
                route.path
            );
        }
        for (method, path, _) in ACTIONS {
            assert!(
                routes::find(method, path).is_some_and(|route| route.method == *method),
                "there is no {method} {path}"
            );
        }
    }
}
