//! What goes on and on beside the rest.

use std::time::Duration;

use lekiwi_protocol::Timestamp;
use tokio::sync::watch;

use crate::audit::NotaryError;
use crate::people::keys;
use crate::store::EventRetention;
use crate::{clock, http};

const DAY_MS: u64 = 86_400_000;
const HOUSEKEEPING: Duration = Duration::from_secs(3600);

/// How long a live stream may outlive its session.
const SESSION_CHECK: Duration = Duration::from_secs(3);

/// Ends the live streams of those who logged out, or may see other robots by now.
pub(super) async fn end_streams(app: http::App) {
    let mut ticks = tokio::time::interval(SESSION_CHECK);
    loop {
        ticks.tick().await;
        let hears = |session: &_, within: &_| http::auth::hears(&app, session, within);
        app.fleet.live().end_sessions(hears);
    }
}

/// How long what is kept.
pub(super) struct Kept {
    /// Events, by type.
    pub(super) event_days: Vec<(String, u32)>,
    /// Who did what.
    pub(super) audit_days: u32,
}

/// Once an hour: what is old is forgotten, and how far the audit goes is signed.
pub(super) async fn keep_house(app: http::App, leads: watch::Receiver<bool>, kept: Kept) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    let mut gait = clock::Gait::default();
    loop {
        ticks.tick().await;
        for uploads in [&app.logs, &app.packages] {
            let now = Timestamp::from_ms(clock::now_ms());
            if let Err(error) = uploads.forget_abandoned(now).await {
                tracing::warn!(%error, "cannot forget abandoned uploads");
            }
        }
        if !*leads.borrow() {
            continue;
        }
        // What cannot be done now is tried again in the next hour; old sessions count no more in any case.
        if let Err(error) = app.sessions.forget_old(clock::now_ms()).await {
            tracing::warn!(%error, "cannot forget old sessions and invitations");
        }
        if let Err(error) = keys::expire(&app.store).await {
            tracing::warn!(%error, "cannot forget old API keys");
        }
        let now = Timestamp::from_ms(clock::now_ms());
        if gait.is_steady(clock::monotonic(), now.as_ms()) {
            let rules = kept.event_days.iter().map(|(kind, days)| EventRetention {
                kind: kind.clone(),
                before_ms: now.as_ms().saturating_sub(u64::from(*days) * DAY_MS),
            });
            app.store.forget_events(rules.collect());
            let before = now
                .as_ms()
                .saturating_sub(u64::from(kept.audit_days) * DAY_MS);
            let who = app.source.to_string();
            if let Err(error) = app.store.prune_audit(before, now.as_ms(), who).await {
                tracing::warn!(%error, "cannot forget what was done long ago");
            }
        }
        match app.notary.checkpoint(&app.store, now).await {
            Ok(_) => {}
            Err(NotaryError::Broken(broken)) => {
                tracing::error!(%broken, "the audit does not go on from what was signed; see docs/audit.md");
            }
            Err(error) => tracing::warn!(%error, "cannot sign how far the audit goes"),
        }
    }
}
