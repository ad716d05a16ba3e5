//! Every route of the relay with who may use it. Handlers live elsewhere; nothing is served that is not
//! on this page. `http::auth` enforces the permissions, a test walks all of them without a credential.

use axum::http::Method;
use axum::routing::{MethodRouter, delete, get, patch, post, put};

use super::App;
use super::{
    alerts, bans, commands, configuration, connections, consumers, dashboard, discovered, est,
    events, health, live, login, logs, openapi, packages, refused, robots, session, telemetry,
    tokens,
};

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Everybody.
    Public,
    /// Who is logged in; a browser is sent to the login page otherwise.
    Page,
    /// Who is logged in: looks at the fleet.
    Read,
    /// Who is logged in as an administrator: changes things, or sees what robots were refused.
    Admin,
    /// The robot that the path names, by its certificate.
    Robot,
    /// Who is logged in, and programs by a consumer's certificate: what watches the relay has no session.
    Scrape,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// Its method. `GET` answers `HEAD` too.
    pub method: Method,
    /// Its path, as axum and OpenAPI write it.
    pub path: &'static str,
    /// Who may use it.
    pub permission: Permission,
    /// What answers.
    pub(super) handler: fn() -> MethodRouter<App>,
}

const fn route(
    method: Method,
    path: &'static str,
    permission: Permission,
    handler: fn() -> MethodRouter<App>,
) -> Route {
    Route {
        method,
        path,
        permission,
        handler,
    }
}

use Permission::{Admin, Page, Public, Read, Robot, Scrape};

/// The page.
#[rustfmt::skip]
pub const ROUTES: &[Route] = &[
    route(Method::GET,    "/health",                           Public, || get(health::health)),
    route(Method::GET,    "/ready",                            Public, || get(health::ready)),
    route(Method::GET,    "/metrics",                          Scrape, || get(health::metrics)),
    route(Method::GET,    "/connections",                      Read,   || get(connections::list)),

    route(Method::GET,    "/.well-known/est/cacerts",          Public, || get(est::cacerts)),
    route(Method::POST,   "/.well-known/est/simpleenroll",     Public, || post(est::simpleenroll)),

    route(Method::GET,    "/login",                            Public, || get(login::page)),
    route(Method::POST,   "/login",                            Public, || post(login::submit)),
    route(Method::POST,   "/logout",                           Page,   || post(login::logout)),
    route(Method::POST,   "/api/v1/session",                   Public, || post(session::create)),
    route(Method::DELETE, "/api/v1/session",                   Read,   || delete(session::end)),

    route(Method::GET,    "/api/v1/robots",                    Read,   || get(robots::list)),
    route(Method::GET,    "/api/v1/robots/{id}",               Read,   || get(robots::one)),
    route(Method::GET,    "/api/v1/robots/{id}/events",        Read,   || get(events::of_robot)),
    route(Method::GET,    "/api/v1/robots/{id}/telemetry",     Read,   || get(telemetry::of_robot)),
    route(Method::POST,   "/api/v1/robots/{id}/approve",       Admin,  || post(robots::approve)),
    route(Method::POST,   "/api/v1/robots/{id}/reject",        Admin,  || post(robots::reject)),
    route(Method::GET,    "/api/v1/robots/{id}/commands",      Read,   || get(commands::list)),
    route(Method::POST,   "/api/v1/robots/{id}/commands",      Admin,  || post(commands::create)),
    route(Method::GET,    "/api/v1/robots/{id}/commands/{cmd}", Read,  || get(commands::one)),
    route(Method::GET,    "/api/v1/robots/{id}/logs",          Admin,  || get(logs::list)),
    route(Method::GET,    "/api/v1/robots/{id}/logs/{cmd}",    Admin,  || get(logs::one)),
    route(Method::PATCH,  "/api/v1/robots/{id}/logs/{cmd}",    Robot,  || patch(logs::piece)),
    route(Method::GET,    "/api/v1/robots/{id}/packages",      Read,   || get(packages::list)),
    route(Method::POST,   "/api/v1/robots/{id}/estop",         Admin,  || post(commands::estop)),
    route(Method::GET,    "/api/v1/robots/{id}/configuration", Read,  || get(configuration::one)),
    route(Method::PUT,    "/api/v1/robots/{id}/configuration", Admin, || put(configuration::replace)),
    route(Method::POST,   "/api/v1/robots/{id}/configuration/rollback", Admin, || post(configuration::rollback)),
    route(Method::GET,    "/api/v1/robots/{id}/watchers",      Read,   || get(live::watchers)),
    route(Method::GET,    "/api/v1/stream",                    Read,   || get(live::stream)),
    route(Method::GET,    "/api/v1/ws",                        Read,   || get(live::websocket)),

    route(Method::GET,    "/api/v1/alerts",                    Read,   || get(alerts::list)),
    route(Method::GET,    "/api/v1/alerts/history",            Read,   || get(alerts::history)),
    route(Method::GET,    "/api/v1/alerts/{id}",               Read,   || get(alerts::one)),
    route(Method::POST,   "/api/v1/alerts/{id}/acknowledge",   Admin,  || post(alerts::acknowledge)),
    route(Method::GET,    "/api/v1/alert-rules",               Read,   || get(alerts::rules)),
    route(Method::GET,    "/api/v1/alert-rules/{id}",          Read,   || get(alerts::one_rule)),
    route(Method::PUT,    "/api/v1/alert-rules/{id}",          Admin,  || put(alerts::set_rule)),
    route(Method::DELETE, "/api/v1/alert-rules/{id}",          Admin,  || delete(alerts::remove_rule)),
    route(Method::GET,    "/api/v1/alert-silences",            Read,   || get(alerts::silences)),
    route(Method::POST,   "/api/v1/alert-silences",            Admin,  || post(alerts::silence)),
    route(Method::DELETE, "/api/v1/alert-silences/{id}",       Admin,  || delete(alerts::unsilence)),

    route(Method::GET,    "/api/v1/tokens",                    Admin,  || get(tokens::list)),
    route(Method::POST,   "/api/v1/tokens",                    Admin,  || post(tokens::create)),
    route(Method::DELETE, "/api/v1/tokens/{id}",               Admin,  || delete(tokens::remove)),
    route(Method::POST,   "/api/v1/consumers",                 Admin,  || post(consumers::create)),
    route(Method::GET,    "/api/v1/refused",                   Admin,  || get(refused::list)),
    route(Method::GET,    "/api/v1/bans",                      Admin,  || get(bans::list)),
    route(Method::DELETE, "/api/v1/bans/{id}",                 Admin,  || delete(bans::lift)),
    route(Method::GET,    "/api/v1/discovered",                Admin,  || get(discovered::list)),
    route(Method::GET,    "/api/v1/openapi.json",              Read,   || get(openapi::document)),

    route(Method::GET,    "/",                                 Page,   || get(dashboard::index)),
    route(Method::GET,    "/assets/{*path}",                   Page,   || get(dashboard::asset)),
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
