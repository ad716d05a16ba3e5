//! Asks the relay how the robots are getting on, and lets time pass.

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use crate::clock;
use crate::relay::Relay;

/// How often the relay is asked. Enrolment takes minutes; the answer is from the relay's memory.
const ASK: Duration = Duration::from_secs(2);
/// How often units are looked at whose time may be over.
const TICK: Duration = Duration::from_secs(1);

/// Watches until `stopping`.
pub(super) async fn relay(desk: Arc<Desk>, relay: Arc<Relay>, stopping: CancellationToken) {
    let mut every = tokio::time::interval(ASK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = every.tick() => {}
        }
        let robots = tokio::select! {
            () = stopping.cancelled() => return,
            robots = relay.robots() => robots,
        };
        match robots {
            Ok(robots) => {
                if let Err(error) = desk.relay_shows(clock::now(), &robots) {
                    desk.trouble(chain(&error));
                }
            }
            Err(error) => desk.relay_fails(chain(&error)),
        }
    }
}

/// Lets time pass until `stopping`.
pub(super) async fn time(desk: Arc<Desk>, stopping: CancellationToken) {
    let mut every = tokio::time::interval(TICK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = every.tick() => {}
        }
        if let Err(error) = desk.tick(clock::now()) {
            desk.trouble(chain(&error));
        }
    }
}

/// An error with what caused it, on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
