//! Every route of the relay with what it takes to use it. Handlers live elsewhere; nothing is served that is not
//! on this page. `http::auth` asks the policy, a test walks all of them as everybody.

use std::fmt;

use axum::http::Method;
use axum::routing::{MethodRouter, delete, get, patch, post, put};

use lekiwi_protocol::Permission;

use super::App;
use super::{
    alerts, audit, bans, commands, configuration, connections, consumers, dashboard, discovered,
    est, events, factor, groups, health, identities, invitations, join, keys, live, loans, login,
    logs, me, oidc, openapi, packages, people, refused, robots, session, setup, telemetry, tokens,
};

/// What it takes to use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Open,
    /// A login; a browser is sent to the login page without one.
    Page,
    /// A login: it concerns nobody but who asks.
    Own,
    /// A person's session: it concerns nobody but who asks, and keys must not.
    Session,
    /// A login or a key, also of somebody who is to set up their second factor first: who they are.
    Whoami,
    /// A person's session, also of somebody who is to set up their second factor first.
    Setup,
    /// The same; a browser is sent to the login page without one.
    SetupPage,
    /// A permission.
    May(Permission, On),
    /// The certificate of the robot that the path names.
    Robot,
    /// To read everything, or a consumer's certificate: what watches the relay has no session.
    Scrape,
}

/// Where a permission is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// On the fleet as a whole.
    Fleet,
    /// On any robot: the handler leaves out, or refuses, what concerns others.
    Some,
    /// On the robot that the path names.
    Robot,
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("nothing"),
            Self::Page | Self::Own => f.write_str("a login"),
            Self::Session => f.write_str("a session"),
            Self::Whoami => {
                f.write_str("a login, be it without the second factor that it should have")
            }
            Self::Setup | Self::SetupPage => {
                f.write_str("a session, be it without the second factor that it should have")
            }
            Self::May(permission, On::Fleet) => write!(f, "{permission} on the fleet"),
            Self::May(permission, On::Some) => write!(f, "{permission} on any robot"),
            Self::May(permission, On::Robot) => write!(f, "{permission} on the robot"),
            Self::Robot => f.write_str("the robot's certificate"),
            Self::Scrape => f.write_str("read on the fleet, or a consumer's certificate"),
        }
    }
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// Its method. `GET` answers `HEAD` too.
    pub method: Method,
    /// Its path, as axum and OpenAPI write it.
    pub path: &'static str,
    /// What it takes.
    pub needs: Needs,
    /// What answers.
    pub(super) handler: fn() -> MethodRouter<App>,
}

const fn route(
    method: Method,
    path: &'static str,
    needs: Needs,
    handler: fn() -> MethodRouter<App>,
) -> Route {
    Route {
        method,
        path,
        needs,
        handler,
    }
}

const fn may(permission: Permission, on: On) -> Needs {
    Needs::May(permission, on)
}

use Needs::{Open, Own, Page, Scrape, Session, Setup, SetupPage, Whoami};
use On::{Fleet, Robot, Some};
use Permission::{Acknowledge, Audit, Configure, Diagnose, Enrol, Manage, Read, Stop, Teleoperate};

/// The page.
#[rustfmt::skip]
pub const ROUTES: &[Route] = &[
    route(Method::GET,     "/health",                                         Open,                      || get(health::health)),
    route(Method::GET,     "/ready",                                          Open,                      || get(health::ready)),
    route(Method::GET,     "/metrics",                                        Scrape,                    || get(health::metrics)),
    route(Method::GET,     "/connections",                                    may(Diagnose, Fleet),      || get(connections::list)),

    route(Method::GET,     "/.well-known/est/cacerts",                        Open,                      || get(est::cacerts)),
    route(Method::POST,    "/.well-known/est/simpleenroll",                   Open,                      || post(est::simpleenroll)),
    route(Method::POST,    "/.well-known/est/simplereenroll",                 Needs::Robot,              || post(est::simplereenroll)),

    route(Method::GET,     "/crl",                                            Open,                      || get(est::crl)),

    route(Method::GET,     "/login",                                          Open,                      || get(login::page)),
    route(Method::POST,    "/login",                                          Open,                      || post(login::submit)),
    route(Method::GET,     "/login/oidc/{id}",                                Open,                      || get(oidc::begin)),
    route(Method::GET,     "/login/oidc/{id}/callback",                       Open,                      || get(oidc::callback)),
    route(Method::GET,     "/join",                                           Open,                      || get(join::page)),
    route(Method::POST,    "/join",                                           Open,                      || post(join::submit)),
    route(Method::POST,    "/api/v1/join",                                    Open,                      || post(invitations::join)),
    route(Method::GET,     "/second-factor",                                  SetupPage,                 || get(setup::page)),
    route(Method::POST,    "/second-factor",                                  SetupPage,                 || post(setup::submit)),
    route(Method::POST,    "/logout",                                         SetupPage,                 || post(login::logout)),
    route(Method::POST,    "/api/v1/session",                                 Open,                      || post(session::create)),
    route(Method::DELETE,  "/api/v1/session",                                 Setup,                     || delete(session::end)),

    route(Method::GET,     "/api/v1/robots",                                  may(Read, Some),           || get(robots::list)),
    route(Method::GET,     "/api/v1/robots/{id}",                             may(Read, Robot),          || get(robots::one)),
    route(Method::GET,     "/api/v1/robots/{id}/events",                      may(Read, Robot),          || get(events::of_robot)),
    route(Method::GET,     "/api/v1/robots/{id}/telemetry",                   may(Read, Robot),          || get(telemetry::of_robot)),
    route(Method::POST,    "/api/v1/robots/{id}/approve",                     may(Enrol, Robot),         || post(robots::approve)),
    route(Method::POST,    "/api/v1/robots/{id}/reject",                      may(Enrol, Robot),         || post(robots::reject)),
    route(Method::GET,     "/api/v1/robots/{id}/commands",                    may(Read, Robot),          || get(commands::list)),
    route(Method::POST,    "/api/v1/robots/{id}/commands",                    may(Read, Robot),          || post(commands::create)),
    route(Method::GET,     "/api/v1/robots/{id}/commands/{cmd}",              may(Read, Robot),          || get(commands::one)),
    route(Method::GET,     "/api/v1/robots/{id}/logs",                        may(Diagnose, Robot),      || get(logs::list)),
    route(Method::GET,     "/api/v1/robots/{id}/logs/{cmd}",                  may(Diagnose, Robot),      || get(logs::one)),
    route(Method::PATCH,   "/api/v1/robots/{id}/logs/{cmd}",                  Needs::Robot,              || patch(logs::piece)),
    route(Method::GET,     "/api/v1/robots/{id}/packages",                    may(Read, Robot),          || get(packages::list)),
    route(Method::POST,    "/api/v1/robots/{id}/estop",                       may(Stop, Robot),          || post(commands::estop)),
    route(Method::GET,     "/api/v1/robots/{id}/configuration",               may(Read, Robot),          || get(configuration::one)),
    route(Method::PUT,     "/api/v1/robots/{id}/configuration",               may(Configure, Robot),     || put(configuration::replace)),
    route(Method::POST,    "/api/v1/robots/{id}/configuration/rollback",      may(Configure, Robot),     || post(configuration::rollback)),
    route(Method::GET,     "/api/v1/robots/{id}/watchers",                    may(Read, Robot),          || get(live::watchers)),
    route(Method::GET,     "/api/v1/stream",                                  may(Read, Some),           || get(live::stream)),
    route(Method::GET,     "/api/v1/ws",                                      may(Read, Some),           || get(live::websocket)),

    route(Method::GET,     "/api/v1/alerts",                                  may(Read, Some),           || get(alerts::list)),
    route(Method::GET,     "/api/v1/alerts/history",                          may(Read, Some),           || get(alerts::history)),
    route(Method::GET,     "/api/v1/alerts/{id}",                             may(Read, Some),           || get(alerts::one)),
    route(Method::POST,    "/api/v1/alerts/{id}/acknowledge",                 may(Acknowledge, Some),    || post(alerts::acknowledge)),
    route(Method::GET,     "/api/v1/alert-rules",                             may(Read, Some),           || get(alerts::rules)),
    route(Method::GET,     "/api/v1/alert-rules/{id}",                        may(Read, Some),           || get(alerts::one_rule)),
    route(Method::PUT,     "/api/v1/alert-rules/{id}",                        may(Configure, Fleet),     || put(alerts::set_rule)),
    route(Method::DELETE,  "/api/v1/alert-rules/{id}",                        may(Configure, Fleet),     || delete(alerts::remove_rule)),
    route(Method::GET,     "/api/v1/alert-silences",                          may(Read, Some),           || get(alerts::silences)),
    route(Method::POST,    "/api/v1/alert-silences",                          may(Configure, Some),      || post(alerts::silence)),
    route(Method::DELETE,  "/api/v1/alert-silences/{id}",                     may(Configure, Some),      || delete(alerts::unsilence)),

    route(Method::GET,     "/api/v1/tokens",                                  may(Enrol, Fleet),         || get(tokens::list)),
    route(Method::POST,    "/api/v1/tokens",                                  may(Enrol, Fleet),         || post(tokens::create)),
    route(Method::DELETE,  "/api/v1/tokens/{id}",                             may(Enrol, Fleet),         || delete(tokens::remove)),
    route(Method::POST,    "/api/v1/consumers",                               may(Manage, Fleet),        || post(consumers::create)),
    route(Method::GET,     "/api/v1/identities",                              may(Enrol, Fleet),         || get(identities::list)),
    route(Method::POST,    "/api/v1/identities/{id}/revoke",                  may(Enrol, Fleet),         || post(identities::revoke)),
    route(Method::GET,     "/api/v1/robots/{id}/identity",                    Needs::Robot,              || get(identities::own)),
    route(Method::GET,     "/api/v1/refused",                                 may(Diagnose, Fleet),      || get(refused::list)),
    route(Method::GET,     "/api/v1/bans",                                    may(Diagnose, Fleet),      || get(bans::list)),
    route(Method::DELETE,  "/api/v1/bans/{id}",                               may(Manage, Fleet),        || delete(bans::lift)),
    route(Method::GET,     "/api/v1/audit",                                   may(Audit, Fleet),         || get(audit::list)),
    route(Method::GET,     "/api/v1/audit/checkpoint",                        may(Audit, Fleet),         || get(audit::checkpoint)),
    route(Method::GET,     "/api/v1/discovered",                              may(Enrol, Fleet),         || get(discovered::list)),
    route(Method::GET,     "/api/v1/openapi.json",                            Own,                       || get(openapi::document)),

    route(Method::GET,     "/api/v1/me",                                      Whoami,                    || get(me::one)),
    route(Method::PUT,     "/api/v1/me/password",                             Session,                   || put(me::password)),
    route(Method::POST,    "/api/v1/me/totp",                                 Setup,                     || post(factor::begin)),
    route(Method::POST,    "/api/v1/me/totp/confirm",                         Setup,                     || post(factor::confirm)),
    route(Method::DELETE,  "/api/v1/me/totp",                                 Session,                   || delete(factor::end)),
    route(Method::GET,     "/api/v1/me/sessions",                             Session,                   || get(me::sessions)),
    route(Method::DELETE,  "/api/v1/me/sessions/{id}",                        Session,                   || delete(me::end_session)),
    route(Method::GET,     "/api/v1/keys",                                    Session,                   || get(keys::list)),
    route(Method::POST,    "/api/v1/keys",                                    Session,                   || post(keys::create)),
    route(Method::POST,    "/api/v1/keys/{id}/rotate",                        Own,                       || post(keys::rotate)),
    route(Method::DELETE,  "/api/v1/keys/{id}",                               Own,                       || delete(keys::revoke)),
    route(Method::GET,     "/api/v1/people",                                  may(Manage, Fleet),        || get(people::list)),
    route(Method::POST,    "/api/v1/people",                                  may(Manage, Fleet),        || post(people::create)),
    route(Method::GET,     "/api/v1/people/{id}",                             may(Manage, Fleet),        || get(people::one)),
    route(Method::PATCH,   "/api/v1/people/{id}",                             may(Manage, Fleet),        || patch(people::change)),
    route(Method::DELETE,  "/api/v1/people/{id}",                             may(Manage, Fleet),        || delete(people::remove)),
    route(Method::PUT,     "/api/v1/people/{id}/password",                    may(Manage, Fleet),        || put(people::password)),
    route(Method::GET,     "/api/v1/people/{id}/sessions",                    may(Manage, Fleet),        || get(people::sessions)),
    route(Method::DELETE,  "/api/v1/people/{id}/sessions",                    may(Manage, Fleet),        || delete(people::end_sessions)),
    route(Method::GET,     "/api/v1/people/{id}/keys",                        may(Manage, Fleet),        || get(keys::of_person)),
    route(Method::DELETE,  "/api/v1/people/{id}/totp",                        may(Manage, Fleet),        || delete(factor::reset)),
    route(Method::GET,     "/api/v1/invitations",                             may(Manage, Fleet),        || get(invitations::list)),
    route(Method::POST,    "/api/v1/invitations",                             may(Manage, Fleet),        || post(invitations::create)),
    route(Method::DELETE,  "/api/v1/invitations/{id}",                        may(Manage, Fleet),        || delete(invitations::revoke)),
    route(Method::GET,     "/api/v1/groups",                                  may(Manage, Fleet),        || get(groups::list)),
    route(Method::PUT,     "/api/v1/groups/{id}",                             may(Manage, Fleet),        || put(groups::replace)),
    route(Method::DELETE,  "/api/v1/groups/{id}",                             may(Manage, Fleet),        || delete(groups::remove)),
    route(Method::GET,     "/api/v1/robots/{id}/loans",                       may(Read, Robot),          || get(loans::list)),
    route(Method::POST,    "/api/v1/robots/{id}/loans",                       may(Teleoperate, Robot),   || post(loans::create)),
    route(Method::DELETE,  "/api/v1/robots/{id}/loans/{person}",              may(Read, Robot),          || delete(loans::end)),

    route(Method::GET,     "/",                                               Page,                      || get(dashboard::index)),
    route(Method::GET,     "/assets/{*path}",                                 Page,                      || get(dashboard::asset)),
];

/// The route that `method` finds where `path` matched.
#[must_use]
pub fn find(method: &Method, path: &str) -> Option<&'static Route> {
    let method = if *method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    ROUTES
        .iter()
        .find(|route| route.method == *method && route.path == path)
}
