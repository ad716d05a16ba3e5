//! The relay's HTTPS side: EST, the REST interface, live streams, the dashboard and its login page.
//!
//! * [`routes`] lists every route with its permission; [`auth`] enforces it, and [`audited`] puts on record what was done.
//! * [`server`] accepts connections: TLS, timeouts, graceful end.
//! * [`problem`] is what every error looks like; [`extract`] what handlers take.
//!
//! The rest is a module of handlers per subject. Handlers never wait for the store's writer to read.

mod alerts;
mod audit;
pub mod audited;
pub mod auth;
mod bans;
mod commands;
mod configuration;
mod connections;
mod consumers;
pub mod credential;
mod dashboard;
mod discovered;
pub mod est;
mod events;
pub mod extract;
mod factor;
mod groups;
mod headers;
mod health;
mod host;
mod identities;
mod invitations;
mod join;
mod keys;
pub mod live;
mod loans;
mod login;
pub mod logs;
mod me;
mod measured;
mod oidc;
pub mod openapi;
mod packages;
mod page;
mod passage;
mod people;
pub mod problem;
mod refused;
mod robots;
pub mod routes;
pub mod server;
mod session;
mod setup;
pub mod starting;
mod telemetry;
mod tokens;
pub mod websocket;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderValue, Method, Uri};
use lekiwi_protocol::topic::Root;
use lekiwi_relay_core::history::Retention;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::audit::Notary;
use crate::broker::Broker;
use crate::discovery::Discovery;
use crate::identity::authority::Authority;
use crate::identity::crl::Revocations;
use crate::ingest::Handle;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::people::oidc::Providers;
use crate::people::sessions::Sessions;
use crate::protect::Protect;
use crate::store::Store;
use crate::traces::Traces;
use problem::{Failure, Kind};

/// What handlers work with; cheap to clone.
pub type App = Arc<Parts>;

/// The parts of the relay that the interface shows.
#[derive(Debug)]
pub struct Parts {
    /// The store.
    pub store: Store,
    /// The picture of the fleet, and what changes in it.
    pub fleet: Handle,
    /// The broker, to end sessions.
    pub broker: Arc<Broker>,
    /// The certificate authority.
    pub authority: Arc<Authority>,
    /// Who is on the local network.
    pub discovery: Arc<Discovery>,
    /// Logs that robots uploaded.
    pub logs: Logs,
    /// Lists of packages that robots uploaded.
    pub packages: Logs,
    /// How long telemetry is kept.
    pub retention: Retention,
    /// Logins.
    pub sessions: Sessions,
    /// Who else may say who somebody is.
    pub oidc: Providers,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What is told of requests whose trace is kept.
    pub traces: Traces,
    /// Who is let in.
    pub protect: Arc<Protect>,
    /// Origins of pages elsewhere that may ask.
    pub cors: Vec<HeaderValue>,
    /// Signs how far the audit goes.
    pub notary: Notary,
    /// How often whom was refused what.
    pub refused: audited::Refused,
    /// The topics' start.
    pub root: Root,
    /// The relay's own name in the log.
    pub source: Arc<str>,
    /// The broker's `host:port`, as consumers reach it.
    pub mqtt: String,
    /// End of the server certificate, milliseconds since the epoch.
    pub certificate_ends_ms: u64,
    /// Which certificates count no more.
    pub revocations: Arc<Revocations>,
    /// How long robots' certificates are good for.
    pub robot_lifetime: Duration,
    /// When the relay started.
    pub started: Instant,
    /// Places for live streams; [`MAX_STREAMS`] at first.
    pub streams: Arc<Semaphore>,
    /// Cancelled when it is known that the relay will stop; that may be before it begins to.
    pub leaving: CancellationToken,
    /// Cancelled when the relay goes down: streams end.
    pub stopping: CancellationToken,
}

/// Live streams at once.
pub const MAX_STREAMS: usize = 15_000;

/// The whole interface.
pub fn router(app: App) -> Router {
    let mut router = Router::new();
    for route in routes::ROUTES {
        router = router.route(route.path, (route.handler)());
    }
    router
        .fallback(async |uri: Uri| {
            Failure::new(
                Kind::NotFound,
                format!(
                    "there is no {:?}",
                    uri.path().chars().take(120).collect::<String>()
                ),
            )
            .hint("every route is in /api/v1/openapi.json")
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            Failure::new(
                Kind::MethodNotAllowed,
                format!("{} does not take {method}", uri.path()),
            )
        })
        .layer(axum::middleware::from_fn_with_state(
            app.clone(),
            headers::stale,
        ))
        .layer(axum::middleware::from_fn_with_state(
            app.clone(),
            auth::guard,
        ))
        .layer(headers::elsewhere(&app.cors))
        .layer(axum::middleware::from_fn_with_state(
            app.clone(),
            audited::record,
        ))
        .layer(axum::middleware::from_fn(host::one))
        .layer(axum::middleware::from_fn(headers::secure))
        .layer(axum::middleware::from_fn_with_state(
            app.clone(),
            measured::measure,
        ))
        .with_state(app)
}
