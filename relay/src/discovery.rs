//! Who is on the relay's local network: robots that say so, registered or not, and machines that ask for
//! an address. What is heard is shown and never believed: nothing here registers anybody.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use lekiwi_discovery::dhcp;
use lekiwi_discovery::presence::{News, Presence, Purpose};
use lekiwi_discovery::robots::{self, Context};
use lekiwi_discovery::{Found, neighbours};
use lekiwi_protocol::api;
use lekiwi_protocol::discovery::ad::{ROBOTS, RelayAd};
use lekiwi_protocol::discovery::dhcp::{Asked, Seen};
use lekiwi_protocol::{RobotId, Timestamp};
use tokio::sync::RwLock;
use tokio::task::JoinHandle;

use crate::clock;
use crate::config::Config;

/// The tasks that listen.
#[derive(Debug)]
pub struct Discovery {
    /// `None` when it is off, and after [`Self::leave`].
    presence: RwLock<Option<Presence>>,
    mdns: api::Watch,
    dhcp: Arc<Dhcp>,
    watcher: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Dhcp {
    seen: Mutex<Seen>,
    state: Mutex<api::Watch>,
}

fn on() -> api::Watch {
    api::Watch {
        on: true,
        reason: None,
    }
}

fn off(reason: impl Into<String>) -> api::Watch {
    api::Watch {
        on: false,
        reason: Some(reason.into()),
    }
}

impl Discovery {
    /// Begins with what the configuration wants. Nothing of it keeps the relay from running. Without an `ad` the relay
    /// finds robots, and is not found.
    #[must_use]
    pub fn start(config: &Config, ad: Option<RelayAd>) -> Self {
        let mdns = if !config.mdns {
            off("the configuration says `mdns: false`")
        } else if config.https.ip().is_loopback() && config.mqtt.ip().is_loopback() {
            off("the relay listens on this machine only")
        } else {
            on()
        };
        let presence = mdns.on.then(|| {
            Presence::start(Purpose {
                service: ad.map(|ad| ad.service()),
                hear: &[ROBOTS],
                tell: Box::new(|news| match news {
                    News::On { .. } | News::Off { .. } => tracing::info!("{news}"),
                    News::Conflict { .. } | News::Trouble { .. } => tracing::warn!("{news}"),
                }),
            })
        });
        let (watch, state) = watch(config.watch_dhcp);
        let dhcp = Arc::new(Dhcp {
            seen: Mutex::default(),
            state: Mutex::new(state),
        });
        Self {
            presence: RwLock::new(presence),
            mdns,
            watcher: watch.map(|watch| tokio::spawn(take_note(watch, dhcp.clone()))),
            dhcp,
        }
    }

    /// Everybody; `registered` knows the fleet.
    pub async fn list(&self, registered: impl Fn(&RobotId) -> bool) -> api::Discovered {
        let found: Vec<Found> = match self.presence.read().await.as_ref() {
            Some(presence) => presence.found(ROBOTS).await,
            None => Vec::new(),
        };
        let now = (clock::monotonic(), Timestamp::from_ms(clock::now_ms()));
        let context = Context {
            neighbours: &neighbours::list(),
            registered: &|id| Some(registered(id)),
            now,
        };
        let mut seen = self
            .dhcp
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let seen_by_dhcp = seen
            .all(now.0)
            .map(|(at, asked)| seen_by_dhcp(*at, asked, now))
            .collect();
        let state = self
            .dhcp
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        api::Discovered {
            robots: robots::list(&found, &context),
            mdns: self.mdns.clone(),
            seen_by_dhcp,
            dhcp: state.clone(),
        }
    }

    /// Takes back what was said, and stops listening.
    pub async fn leave(&self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
        if let Some(presence) = self.presence.write().await.take() {
            presence.leave().await;
        }
    }
}

fn watch(wanted: bool) -> (Option<dhcp::Watch>, api::Watch) {
    if !wanted {
        return (None, off("the configuration says `watch_dhcp: false`"));
    }
    match dhcp::Watch::open() {
        Ok(watch) => (Some(watch), on()),
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            tracing::warn!(hint, "not watching DHCP: {error}");
            (None, off(error.to_string()))
        }
    }
}

async fn take_note(watch: dhcp::Watch, dhcp: Arc<Dhcp>) {
    loop {
        match watch.next().await {
            Ok(asked) => {
                let mut seen = dhcp.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let shown = (asked.mac, asked.host_name.clone());
                if seen.note(clock::monotonic(), asked) && shown.0.is_raspberry_pi() {
                    tracing::info!(mac = %shown.0, host_name = %shown.1, "a Raspberry Pi asks for an address");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "not watching DHCP any more");
                let mut state = dhcp.state.lock().unwrap_or_else(PoisonError::into_inner);
                *state = off(error.to_string());
                return;
            }
        }
    }
}

fn seen_by_dhcp(at: Instant, asked: &Asked, now: (Instant, Timestamp)) -> api::SeenByDhcp {
    let ago = now.0.saturating_duration_since(at).as_millis();
    let ago = u64::try_from(ago).unwrap_or(u64::MAX);
    api::SeenByDhcp {
        mac_address: asked.mac.to_string(),
        host_name: asked.host_name.clone(),
        wants: asked.wants.map(|address| address.to_string()),
        raspberry_pi: asked.mac.is_raspberry_pi(),
        seen: Timestamp::from_ms(now.1.as_ms().saturating_sub(ago)),
    }
}
