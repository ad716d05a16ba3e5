//! Tells receivers of alerts: by webhook and by e-mail, as `lekiwi_relay_core::alerts::notify` decides. (To MQTT
//! `ingest` publishes what fires by itself.) What became of each message is an event of the log, so that a
//! restart goes on where the last run ended.
//!
//! Only the relay that leads tells anybody: it reads what was told from the log when it begins to.

mod email;
mod reach;
pub(crate) mod secret;
mod webhook;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use lekiwi_protocol::api::AlertNotification;
use lekiwi_protocol::message::kind;
use lekiwi_protocol::{ReceiverName, RelayId, Timestamp};
use lekiwi_relay_core::alerts::ALERT_RECEIVER;
use lekiwi_relay_core::alerts::notify::{Notification, Notifier, Outcome, Output, Receiver};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::reach::Reach;
pub use self::secret::SecretError;
use crate::clock;
use crate::config::alerts::Channel;
use crate::ingest::Handle;
use crate::metrics::{DeliveryLabels, Metrics};
use crate::store::records::OWN_SOURCE;
use crate::store::{EventQuery, Store, StoreError};

/// Time between two looks at what is due.
const TICK: Duration = Duration::from_millis(250);
/// Messages that are sent at the same time.
const AT_ONCE: usize = 8;
/// Longest attempt to send.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Events that are read from the log at once.
const PAGE: usize = 10_000;

/// Why a receiver cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// Its secret cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Its authority's file cannot be used.
    #[error("cannot use the authority {path}")]
    Authority {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS for {receiver}")]
    Tls {
        /// The receiver.
        receiver: ReceiverName,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// How a receiver is reached.
#[derive(Debug)]
enum Sender {
    Webhook(Box<webhook::Webhook>),
    Email(Box<email::Email>),
}

impl Sender {
    async fn send(&self, relay: &RelayId, notification: &Notification) -> Outcome {
        let message = AlertNotification {
            id: notification.id.clone(),
            receiver: notification.receiver.to_string(),
            relay: relay.to_string(),
            sent_at: Timestamp::from_ms(clock::now_ms()),
            rule: notification.rule.to_string(),
            repeats: notification.repeats,
            firing: notification.firing.clone(),
            resolved: notification.resolved.clone(),
            omitted: notification.omitted,
        };
        let sending = async {
            match self {
                Self::Webhook(webhook) => webhook.send(&message).await,
                Self::Email(email) => email.send(&message).await,
            }
        };
        match tokio::time::timeout(TIMEOUT, sending).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed(format!("no answer within {} s", TIMEOUT.as_secs())),
        }
    }
}

/// The task, before it runs.
#[derive(Debug)]
pub struct Dispatcher {
    relay: RelayId,
    store: Store,
    handle: Handle,
    metrics: Arc<Metrics>,
    leads: watch::Receiver<bool>,
    receivers: Vec<Receiver>,
    senders: BTreeMap<ReceiverName, Arc<Sender>>,
}

impl Dispatcher {
    /// Reads secrets and authorities; connects to nobody yet.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn new(
        relay: RelayId,
        store: Store,
        handle: Handle,
        metrics: Arc<Metrics>,
        leads: watch::Receiver<bool>,
        configured: Vec<(Receiver, Channel)>,
    ) -> Result<Self, ReceiverError> {
        let mut receivers = Vec::new();
        let mut senders = BTreeMap::new();
        for (receiver, channel) in configured {
            let sender = match channel {
                Channel::Webhook(config) => {
                    Sender::Webhook(Box::new(webhook::Webhook::new(&receiver.name, &config)?))
                }
                Channel::Email(config) => {
                    Sender::Email(Box::new(email::Email::new(&receiver.name, config)?))
                }
            };
            senders.insert(receiver.name.clone(), Arc::new(sender));
            receivers.push(receiver);
        }
        Ok(Self {
            relay,
            store,
            handle,
            metrics,
            leads,
            receivers,
            senders,
        })
    }

    /// Runs until `stop` is cancelled. What is on its way then is sent again by the next run, under the same id.
    pub async fn run(mut self, stop: CancellationToken) {
        if self.receivers.is_empty() {
            return;
        }
        let (results, mut ended) = mpsc::channel::<(String, Outcome)>(AT_ONCE);
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut notifier: Option<Notifier> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some((id, outcome)) = ended.recv() => {
                    if let Some(notifier) = &mut notifier {
                        self.sent(notifier, &id, outcome);
                    }
                }
                _ = ticks.tick() => {}
            }
            if !*self.leads.borrow_and_update() {
                notifier = None;
                continue;
            }
            if notifier.is_none() {
                match self.restore().await {
                    Ok(restored) => notifier = Some(restored),
                    // The next tick tries again.
                    Err(error) => tracing::warn!(%error, "cannot read who was told of alerts"),
                }
            }
            let Some(notifier) = &mut notifier else {
                continue;
            };
            let now = Timestamp::from_ms(clock::steady_ms());
            {
                let alerts = self.handle.alerts();
                let alerts = alerts.read().unwrap_or_else(PoisonError::into_inner);
                notifier.review(now, &alerts);
            }
            while let Some(output) = notifier.poll_output() {
                match output {
                    Output::Event(event) => self.handle.record(event).await,
                    Output::Send(notification) => {
                        let Some(sender) = self.senders.get(&notification.receiver).cloned() else {
                            continue;
                        };
                        let (results, places) = (results.clone(), places.clone());
                        let relay = self.relay.clone();
                        tokio::spawn(async move {
                            let _place = places.acquire_owned().await;
                            let outcome = sender.send(&relay, &notification).await;
                            // The relay stops: the next run sends it again.
                            let _ = results.send((notification.id, outcome)).await;
                        });
                    }
                }
            }
        }
    }

    /// What receivers were told, by the log.
    async fn restore(&self) -> Result<Notifier, StoreError> {
        let mut notifier = Notifier::new(self.receivers.clone());
        let (steady_ms, now_ms) = (clock::steady_ms(), clock::now_ms());
        let mut position = 0;
        loop {
            let kinds = [kind::ALERT_NOTIFIED, kind::ALERT_UNDELIVERED];
            let query = EventQuery {
                kinds: kinds.map(str::to_owned).into(),
                after: position,
                ..EventQuery::default()
            };
            let page = self.store.find_events(query, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(notifier);
            };
            position = last.position;
            for stored in page {
                let event = stored.event;
                if event.aggregate_type == ALERT_RECEIVER && event.source.starts_with(OWN_SOURCE) {
                    // So long ago; what happened has the wall clock's time.
                    let ago_ms = now_ms.saturating_sub(event.ts_ms);
                    let at = Timestamp::from_ms(steady_ms.saturating_sub(ago_ms));
                    notifier.logged(at, &event.aggregate_id, &event.data);
                }
            }
        }
    }

    fn sent(&self, notifier: &mut Notifier, id: &str, outcome: Outcome) {
        let result = match &outcome {
            Outcome::Delivered => "delivered",
            Outcome::Failed(reason) => {
                tracing::warn!(
                    notification = id,
                    reason,
                    "a receiver of alerts was not reached"
                );
                "failed"
            }
            Outcome::Refused(reason) => {
                tracing::error!(notification = id, reason, "a receiver refuses alerts");
                "refused"
            }
        };
        let labels = DeliveryLabels { result };
        self.metrics.alert_deliveries.get_or_create(&labels).inc();
        notifier.sent(Timestamp::from_ms(clock::steady_ms()), id, outcome);
    }
}

/// An error and all its causes, in a line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.chars().take(300).collect()
}
