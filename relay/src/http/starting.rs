//! The interface while the relay starts: who asks is told what is missing, instead of waiting for a connection. The
//! `driver` says how far it is, and puts the whole interface behind it in the end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json as Answer, Router};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use lekiwi_protocol::api::Readiness;

use super::health;
use super::problem::{Failure, Kind};

/// What the relay has to do before it is ready, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Open the store.
    Store,
    /// Read the fleet's picture from it.
    Picture,
    /// Listen for robots.
    Broker,
}

/// What is missing until each step is done.
const MISSING: [&str; 3] = [
    "the store is not open yet",
    "the picture of the fleet is not read yet",
    "the broker does not listen yet",
];

/// How far the relay is, and the interface once it is there.
#[derive(Debug)]
pub struct Starting {
    begun: Instant,
    done: AtomicUsize,
    whole: OnceLock<Router>,
}

impl Starting {
    /// Nothing is done yet; the relay started at `begun`.
    #[must_use]
    pub fn new(begun: Instant) -> Arc<Self> {
        Arc::new(Self {
            begun,
            done: AtomicUsize::new(0),
            whole: OnceLock::new(),
        })
    }

    /// This step, and those before it, are done.
    pub fn done(&self, step: Step) {
        self.done.store(step as usize + 1, Ordering::Relaxed);
    }

    /// What is missing, a sentence each.
    #[must_use]
    pub fn missing(&self) -> &'static [&'static str] {
        MISSING
            .get(self.done.load(Ordering::Relaxed)..)
            .unwrap_or_default()
    }

    /// From now on `router` answers.
    pub fn finish(&self, router: Router) {
        // There is one driver, which says it once.
        let _ = self.whole.set(router);
    }

    fn answer(&self, request: &Request) -> Response {
        let missing = || self.missing().iter().map(|&text| text.to_owned()).collect();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/health" if reads => health::said(missing(), true, self.begun).into_response(),
            "/ready" if reads => readiness(missing()).into_response(),
            _ => Failure::new(Kind::Starting, "the relay is starting")
                .hint("see /ready; try again in a moment")
                .header(header::RETRY_AFTER, HeaderValue::from_static("1"))
                .into_response(),
        }
    }
}

/// The answer of `/ready`.
pub(super) fn readiness(missing: Vec<String>) -> (StatusCode, Answer<Readiness>) {
    let ready = missing.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Answer(Readiness { ready, missing }))
}

/// What to serve from the first moment on.
pub fn router(starting: Arc<Starting>) -> Router {
    Router::new().fallback(move |request: Request| {
        let starting = starting.clone();
        async move {
            let Some(whole) = starting.whole.get() else {
                return starting.answer(&request);
            };
            let answered = TowerToHyperService::new(whole.clone()).call(request).await;
            match answered {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
    })
}
