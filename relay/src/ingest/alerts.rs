//! Alerts on their way: what robots say goes to the rules, what the rules ask for into the log, and what the
//! log has to the rules again, and to MQTT.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use lekiwi_protocol::alert::{Alert, Rule};
use lekiwi_protocol::message::{ConnectionState, kind};
use lekiwi_protocol::topic::Name;
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::alerts::{ALERT, ALERT_RULE, ALERT_SILENCE, Alerts, Output as Wanted};
use lekiwi_relay_core::{Fleet, LivePayload};
use tokio::sync::{mpsc, oneshot};

use super::decision::{DecideError, Done, PATIENCE};
use super::{Handle, Ingest};
use crate::broker::Broker;
use crate::clock;
use crate::store::records::{OWN_SOURCE, StoredEvent};
use crate::store::{EventQuery, Store, StoreError};

/// Events that may wait to be taken in.
const QUEUE: usize = 64;
/// The types of events that make alerts what they are.
const KINDS: [&str; 7] = [
    kind::ALERT_FIRING,
    kind::ALERT_RESOLVED,
    kind::ALERT_ACKNOWLEDGED,
    kind::ALERT_SILENCED,
    kind::ALERT_UNSILENCED,
    kind::ALERT_RULE_SET,
    kind::ALERT_RULE_REMOVED,
];
/// Events that are read from the log at once.
const PAGE: usize = 50_000;

/// What ingest is told about alerts.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The rules that are always there.
    pub defaults: Vec<Rule>,
    /// Those of the configuration.
    pub rules: Vec<Rule>,
}

/// An event that somebody wants in the log.
#[derive(Debug)]
pub(super) struct Request {
    event: Wanted,
    /// Who waits until it holds.
    done: Option<Done>,
}

/// Ingest's end.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) alerts: Arc<RwLock<Alerts>>,
}

impl Desk {
    /// Alerts as the log has them.
    pub(super) async fn restore(
        settings: &Settings,
        store: &Store,
        fleet: &Fleet,
    ) -> Result<(mpsc::Sender<Request>, Self), StoreError> {
        let mut alerts = Alerts::new(settings.defaults.clone(), settings.rules.clone());
        let now = Timestamp::from_ms(clock::steady_ms());
        let wall = Timestamp::from_ms(clock::now_ms());
        alerts.set_clock(now, wall);
        let mut position = 0;
        loop {
            let query = EventQuery {
                kinds: KINDS.map(str::to_owned).into(),
                after: position,
                ..EventQuery::default()
            };
            let page = store.find_events(query, PAGE).await?;
            let Some(last) = page.last() else {
                break;
            };
            position = last.position;
            for stored in &page {
                take(&mut alerts, now, stored);
            }
        }
        // A robot that enrolled and never spoke is missed by nobody. After a crash the picture may not have
        // that a robot spoke; an alert shows it.
        let spoke: BTreeSet<RobotId> = alerts
            .firing(wall)
            .map(|(alert, _)| alert.robot_id)
            .collect();
        for view in fleet.views() {
            let has_spoken = view.status.last_seen.is_some() || spoke.contains(&view.id);
            if has_spoken && fleet.is_admitted(&view.id) {
                alerts.robot(now, &view.id, &view.robot_type);
            }
        }
        let (sender, requests) = mpsc::channel(QUEUE);
        let desk = Self {
            requests,
            alerts: Arc::new(RwLock::new(alerts)),
        };
        Ok((sender, desk))
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Alerts> {
        self.alerts.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is an event of the relay's own about alerts; robots may call theirs what they like.
fn is_own(stored: &StoredEvent) -> bool {
    let event = &stored.event;
    [ALERT, ALERT_RULE, ALERT_SILENCE].contains(&event.aggregate_type)
        && event.source.starts_with(OWN_SOURCE)
}

fn take(alerts: &mut Alerts, now: Timestamp, stored: &StoredEvent) {
    if is_own(stored) {
        alerts.logged(now, stored.logged());
    }
}

/// Tells the rules what a robot said, by the time of rules. Only robots that take part are watched.
pub(super) fn heed(
    alerts: &mut Alerts,
    fleet: &Fleet,
    now: Timestamp,
    robot: &RobotId,
    payload: &LivePayload,
) {
    let is_profile_new = matches!(payload, LivePayload::Factsheet(_));
    if is_profile_new || !alerts.knows(robot) {
        if !fleet.is_admitted(robot) {
            return;
        }
        let profile = fleet.profile(robot).unwrap_or_default();
        alerts.robot(now, robot, &profile);
        if fleet.is_connected(robot) {
            alerts.connection(now, robot, true);
        }
    }
    match payload {
        LivePayload::Connection(connection) => {
            let is_online = connection.state == ConnectionState::Online;
            alerts.connection(now, robot, is_online);
        }
        LivePayload::Telemetry(metrics) => {
            alerts.heard(now, robot);
            alerts.telemetry(now, robot, metrics);
        }
        LivePayload::State(state) => {
            alerts.heard(now, robot);
            alerts.state(now, robot, state);
        }
        LivePayload::Heartbeat(_) | LivePayload::Factsheet(_) => alerts.heard(now, robot),
    }
}

impl Handle {
    /// The alerts.
    #[must_use]
    pub fn alerts(&self) -> Arc<RwLock<Alerts>> {
        self.alerts.clone()
    }

    /// Puts an event on its way into the log, and waits until it holds.
    ///
    /// # Errors
    /// When it is not known to hold in time.
    pub async fn decree(&self, event: Wanted) -> Result<(), DecideError> {
        let (done, answer) = oneshot::channel();
        let done = Some(done);
        let sent = self.alert_requests.send(Request { event, done }).await;
        sent.map_err(|_| DecideError::Stopping)?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(DecideError::Stopping),
            Err(_) => Err(DecideError::Slow),
        }
    }

    /// Puts an event on its way into the log.
    pub(crate) async fn record(&self, event: Wanted) {
        // The relay stops: what is not in the log is done again by the next run.
        let _ = self
            .alert_requests
            .send(Request { event, done: None })
            .await;
    }
}

impl Ingest {
    /// Somebody wants an event in the log.
    pub(super) fn decree(&mut self, Request { event, done }: Request) {
        let now = Timestamp::from_ms(clock::now_ms());
        let seq = self.wanted(now, &event);
        if let Some(done) = done {
            self.wait(seq, done);
        }
    }

    fn wanted(&mut self, now: Timestamp, event: &Wanted) -> u64 {
        let Wanted {
            aggregate_type,
            aggregate_id,
            kind,
            data,
        } = event;
        self.record(
            now,
            aggregate_type,
            aggregate_id.as_str().into(),
            kind,
            data,
        )
    }

    /// This relay begins or ceases to lead.
    pub(super) async fn lead_alerts(&mut self, broker: &Broker, leads: bool) {
        let now = Timestamp::from_ms(clock::steady_ms());
        let firing: Vec<Alert> = {
            let mut alerts = self.alert_desk.write();
            alerts.lead(now, leads);
            alerts
                .firing(alerts.wall(now))
                .map(|(alert, _)| alert)
                .collect()
        };
        if leads {
            for alert in &firing {
                self.publish_alert(broker, alert).await;
            }
        }
    }

    /// Writes what the rules ask for.
    pub(super) fn look_after_alerts(&mut self, now: Timestamp) {
        let mut wanted = Vec::new();
        {
            let mut alerts = self.alert_desk.write();
            let steady = Timestamp::from_ms(clock::steady_ms());
            alerts.set_clock(steady, now);
            alerts.handle_timeout(steady);
            while let Some(event) = alerts.poll_output() {
                wanted.push(event);
            }
            self.metrics.alerts_firing.set(alerts.count() as i64);
        }
        for event in wanted {
            self.wanted(now, &event);
        }
    }

    /// Tells the rules whose certificate ends soon.
    pub(super) fn look_at_certificates(&self, now_ms: u64) {
        let in_use = self.store.certificates_in_use();
        let steady = Timestamp::from_ms(clock::steady_ms());
        self.alert_desk.write().certificates(steady, |robot| {
            let certificate = in_use.get(robot.as_str());
            certificate.is_some_and(|certificate| certificate.is_ending(now_ms))
        });
    }

    /// Events are in the log: the rules look at those of robots, and follow those of alerts.
    pub(super) async fn committed_alerts(&mut self, broker: &Broker, events: &[StoredEvent]) {
        let now = Timestamp::from_ms(clock::steady_ms());
        let mut changed = Vec::new();
        let mut is_rule = false;
        {
            let mut alerts = self.alert_desk.write();
            for stored in events {
                let event = &stored.event;
                if event.aggregate_type == "robot" {
                    if let Ok(robot) = RobotId::new(&event.aggregate_id) {
                        alerts.event(now, &robot, &event.kind);
                    }
                } else if is_own(stored) {
                    take(&mut alerts, now, stored);
                    is_rule |= event.aggregate_type == ALERT_RULE;
                    if event.aggregate_type == ALERT {
                        changed.extend(alerts.one(alerts.wall(now), &event.aggregate_id));
                    }
                }
            }
            if is_rule {
                // What robots said before counts for a rule that is new.
                let fleet = self.fleet.read().unwrap_or_else(PoisonError::into_inner);
                for view in fleet.views().filter(|view| view.status.online) {
                    alerts.see(now, &view);
                }
            }
        }
        if self.leads {
            for alert in &changed {
                self.publish_alert(broker, alert).await;
            }
        }
    }

    /// Retained while it fires; its end is said once, and nothing is kept.
    async fn publish_alert(&self, broker: &Broker, alert: &Alert) {
        let name = match Name::new(&alert.id) {
            Ok(name) => name,
            Err(error) => return tracing::error!(%error, "an alert has no topic"),
        };
        let topic = self.settings.root.alert(name);
        // Texts, numbers and times always become JSON.
        let json = serde_json::to_vec(alert).unwrap_or_default();
        let is_over = alert.resolved_at.is_some();
        broker.publish(&topic, json, !is_over).await;
        if is_over {
            broker.publish(&topic, Vec::new(), true).await;
        }
    }
}
