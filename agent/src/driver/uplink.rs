//! The way to the relay: which endpoints are tried, what the network does, when a better endpoint is
//! looked at. The decisions are the core's; this has the sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lekiwi_agent_core::endpoints::{Circuit, Endpoints};
use lekiwi_agent_core::lifecycle::Input;
use lekiwi_agent_core::settle::Settle;
use lekiwi_discovery::changes::{Changes, Scope};
use lekiwi_protocol::message::Activity;
use tokio::task::JoinHandle;

use super::{Driver, SETTLED, chain};
use crate::clock;
use crate::config::{Address, Relay};
use crate::dial::Dialer;
use crate::identity::{BrokerTls, remove_token};
use crate::link::{Established, Link, LinkError, LinkEvent, Opening, Route, Trouble, Way, look};
use crate::machine;

/// What came from outside.
pub(super) enum Notice {
    /// The kernel changed something about a network.
    Network,
    /// How far away a better endpoint is; nothing when it does not answer.
    Looked(usize, Option<Duration>),
}

/// All that connections have in common.
pub(super) struct Uplink {
    endpoints: Endpoints,
    addresses: Vec<Address>,
    /// Every way begins on this machine: no network is needed.
    is_local: bool,
    dialer: Arc<Dialer>,
    tls: BrokerTls,
    /// The way of the last connection.
    way: Option<Way>,
    established: Option<Established>,
    /// What was said last about each endpoint.
    complaints: Vec<Option<String>>,
    changes: Option<Changes>,
    settle: Settle,
    /// The networks as they were seen last.
    fingerprint: u64,
    looking: Option<(usize, JoinHandle<Option<Duration>>)>,
}

impl Uplink {
    pub(super) fn new(relay: &Relay) -> Self {
        let ways = &relay.endpoints;
        let addresses: Vec<Address> = ways.iter().map(|way| way.mqtt.clone()).collect();
        let is_local = match &relay.proxy {
            Some(proxy) => proxy.is_loopback(),
            None => addresses.iter().any(Address::is_loopback),
        };
        let changes = Changes::open(Scope::Everything).inspect_err(|error| {
            log::warn!("changes of networks are looked for instead of told: {error}");
        });
        Self {
            endpoints: Endpoints::new(ways.iter().map(|way| way.rank), relay.fail_back),
            complaints: vec![None; addresses.len()],
            addresses,
            is_local,
            dialer: Arc::new(Dialer::new(relay.proxy.clone())),
            tls: BrokerTls::default(),
            way: None,
            established: None,
            changes: changes.ok(),
            settle: Settle::default(),
            fingerprint: 0,
            looking: None,
        }
    }

    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Notice {
        let changed = async {
            match &self.changes {
                Some(changes) => changes.changed().await,
                None => std::future::pending().await,
            }
        };
        let looked = async {
            match &mut self.looking {
                // A task that was given up found nothing.
                Some((index, task)) => (*index, task.await.ok().flatten()),
                None => std::future::pending().await,
            }
        };
        let notice = tokio::select! {
            () = changed => return Notice::Network,
            (index, latency) = looked => Notice::Looked(index, latency),
        };
        self.looking = None;
        notice
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let settled = self.settle.poll_timeout();
        let look = self.endpoints.poll_timeout();
        settled.into_iter().chain(look).min()
    }

    /// The endpoint in use, or used last, or the first.
    pub(super) fn address(&self) -> &Address {
        &self.addresses[self.endpoints.last().unwrap_or(0)]
    }

    fn route(&self, endpoint: usize) -> Route {
        Route {
            endpoint,
            address: self.addresses[endpoint].clone(),
        }
    }

    fn look(&mut self, endpoint: usize) {
        let (Some(way), None) = (self.way.clone(), &self.looking) else {
            return;
        };
        let route = self.route(endpoint);
        let task = async move {
            let looked = look(&way, &route).await;
            looked
                .inspect_err(|error| log::debug!("{}", chain(error)))
                .ok()
        };
        self.looking = Some((endpoint, tokio::spawn(task)));
    }

    fn up(&mut self, established: Established) {
        let Established {
            endpoint, latency, ..
        } = established;
        self.endpoints.connected(clock::now(), endpoint, latency);
        self.complaints[endpoint] = None;
        self.established = Some(established);
        log::info!(
            "connected to {} ({} ms)",
            self.addresses[endpoint],
            latency.as_millis()
        );
    }

    /// Whether there is a connection.
    pub(super) fn is_up(&self) -> bool {
        self.established.is_some()
    }

    /// The connection is over; whether there was one.
    fn down(&mut self) -> bool {
        let was_up = self.established.take().is_some();
        if was_up {
            self.endpoints.lost(clock::now());
        }
        was_up
    }
}

impl Driver {
    pub(super) fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Failed(error) => self.endpoint_failed(&error),
            LinkEvent::Up(established) => {
                // The certificate is a good one: no token is needed any more.
                remove_token(&self.enrolment, "this robot is enrolled already");
                self.online_since = Some(clock::wall());
                self.next_release = Some(clock::now() + SETTLED);
                self.last_error = None;
                self.uplink.up(established);
                self.input(Input::Connected);
                self.proved(true);
            }
            LinkEvent::Message { topic, payload } => self.message(&topic, &payload),
            LinkEvent::Left => {
                self.hang_up();
                self.input(Input::GoodbyeSaid);
            }
            LinkEvent::Down(error) => {
                let was_up = self.hang_up();
                if was_up {
                    self.say_trouble(&error);
                } else {
                    self.endpoint_failed(&error);
                }
                if !was_up {
                    self.proved(false);
                }
                // Rejected, and wanted back: somebody put a token there.
                self.is_revoked = error.is_refusal() && self.enrolment.token_file.exists();
                self.input(match was_up {
                    true => Input::Lost,
                    false if self.is_revoked => Input::NotEnrolled,
                    false => Input::Refused,
                });
            }
        }
    }

    /// There is no connection any more; whether there was one.
    fn hang_up(&mut self) -> bool {
        self.link = None;
        self.commands.link_down();
        self.window.link_down();
        self.drain.link_down();
        self.online_since = None;
        self.uplink.down()
    }

    fn endpoint_failed(&mut self, error: &LinkError) {
        let (now, endpoint) = (clock::now(), error.route.endpoint);
        let endpoints = &mut self.uplink.endpoints;
        endpoints.failed(now, endpoint);
        if endpoints.circuit(now, endpoint) == Some(Circuit::Open) {
            log::debug!(
                "{} failed too often: others come first",
                error.route.address
            );
        }
        self.say_trouble(error);
    }

    /// Says what is wrong with an endpoint, once until something else is.
    fn say_trouble(&mut self, error: &LinkError) {
        let said = &mut self.uplink.complaints[error.route.endpoint];
        let text = chain(error);
        if said.as_deref() == Some(text.as_str()) {
            log::debug!("{text}");
        } else {
            log::warn!("{text}");
            *said = Some(text.clone());
        }
        self.last_error = Some(text);
    }

    pub(super) fn connect(&mut self) {
        // A goodbye may have hung.
        self.hang_up();
        let now = self.floor.certificate_time();
        let identity = self.identity(now);
        let tls = match &identity {
            Ok(identity) => self.uplink.tls.config(identity, now),
            Err(error) => {
                self.complain(&chain(error));
                self.not_after = None;
                return self.input(Input::NotEnrolled);
            }
        };
        let tls = match tls {
            Ok(tls) => tls,
            Err(error) => {
                self.complain(&chain(&error));
                return self.input(Input::NotEnrolled);
            }
        };
        let uplink = &mut self.uplink;
        let way = Way {
            dialer: uplink.dialer.clone(),
            tls,
        };
        uplink.way = Some(way.clone());
        let order = uplink.endpoints.order(clock::now());
        let routes = order.into_iter().map(|index| uplink.route(index)).collect();
        self.link = Some(Link::open(Opening {
            client_id: self.config.robot_id.to_string(),
            routes,
            way,
            will: self.speech.begin_session(),
            inbox: self.speech.inbox(),
            estop: (self.estop.clone(), self.speech.estop_topic()),
        }));
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        let now = clock::now();
        match notice {
            Notice::Network => self.uplink.settle.changed(now),
            Notice::Looked(index, latency) => {
                if self.uplink.endpoints.looked(now, index, latency) {
                    log::info!("{} answers again", self.uplink.addresses[index]);
                    self.input(Input::Move);
                }
            }
        }
    }

    pub(super) fn look_after_uplink(&mut self, now: Instant) {
        if self.uplink.settle.take(now) {
            self.network_changed();
        }
        let idle = self.is_online() && self.lifecycle.activity() == Activity::Idle;
        if let Some(better) = self.uplink.endpoints.handle_timeout(now, idle) {
            self.uplink.look(better);
        }
    }

    pub(super) fn look_at_network(&mut self) {
        let up = self.uplink.is_local || machine::has_network();
        self.input(Input::Network(up));
    }

    /// Where nobody tells of changes, they are looked for.
    pub(super) fn look_for_network(&mut self) {
        if self.uplink.changes.is_none() && !self.is_online() {
            self.look_at_network();
        }
    }

    /// A connection whose address is gone is dead; any other one shows that it is not. What failed may
    /// work now.
    fn network_changed(&mut self) {
        let fingerprint = self.machine.network_fingerprint();
        // Routers renew what they announced every few seconds: news to nobody.
        if std::mem::replace(&mut self.uplink.fingerprint, fingerprint) == fingerprint {
            return;
        }
        self.look_at_network();
        let established = self.uplink.established;
        match established.filter(|link| !machine::has_address(link.local)) {
            Some(Established {
                endpoint, local, ..
            }) => self.link_event(LinkEvent::Down(LinkError {
                route: self.uplink.route(endpoint),
                source: Trouble::Vanished(local),
            })),
            None => {
                if let Some(link) = &self.link {
                    link.probe();
                }
            }
        }
        self.input(Input::NetworkChanged);
    }
}
