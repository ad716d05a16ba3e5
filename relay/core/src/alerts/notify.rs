//! Who is told of which alerts, when, together with what, and how often. Pure; `relay/src/alerts` sends.
//!
//! Alerts of one rule are a group of each receiver. A group waits a little after its first news, so that what
//! comes together is told together; while something in it fires that nobody looks after, it is repeated. What
//! could not be sent is tried again with growing pauses, and is given up in the end, which is said.
//!
//! Nothing is queued: a group compares what its receiver was told with what is so. Invariants: at most one
//! message of a group is on its way; it keeps its id until it has arrived or is given up, and no other has that
//! id; nobody is told that something is over who cannot have been told that it began.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use lekiwi_protocol::alert::{Alert, Pattern, Severity};
use lekiwi_protocol::message::kind;
use lekiwi_protocol::{ReceiverName, RuleName, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{ALERT_RECEIVER, Alerts, Output as Event};

/// Alerts that a message lists; of more it says how many.
pub const MAX_LISTED: usize = 100;
/// Attempts to send one message.
pub const MAX_ATTEMPTS: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MOST_PAUSE: Duration = Duration::from_secs(300);

/// Who is told, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Its name.
    pub name: ReceiverName,
    /// Of these rules; of all when empty.
    pub rules: Vec<Pattern>,
    /// Of these robots; of all when empty.
    pub robots: Vec<Pattern>,
    /// Of this severity and above.
    pub severity: Severity,
    /// Whether it is told that something is over.
    pub resolved: bool,
    /// How long a group waits for more.
    pub group_wait: Duration,
    /// Time between two repetitions.
    pub repeat: Duration,
}

impl Receiver {
    fn takes(&self, alert: &Alert) -> bool {
        let any = |patterns: &[Pattern], text: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text))
        };
        alert.severity >= self.severity
            && any(&self.rules, alert.rule.as_str())
            && any(&self.robots, alert.robot_id.as_str())
    }
}

/// What a receiver is told at once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Notification {
    /// The same for every attempt: who has seen it has seen this message.
    pub id: String,
    /// Who is told.
    pub receiver: ReceiverName,
    /// The rule that all of it is about.
    pub rule: RuleName,
    /// How often it was told before; of several alerts, the one that was told most often.
    pub repeats: u32,
    /// What fires; at most [`MAX_LISTED`].
    pub firing: Vec<Alert>,
    /// What is over; at most [`MAX_LISTED`].
    pub resolved: Vec<Alert>,
    /// How many more fire or are over.
    pub omitted: usize,
}

/// How an attempt to send ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has it.
    Delivered,
    /// It may have it later.
    Failed(String),
    /// It never will.
    Refused(String),
}

/// What follows.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Try to send it, and say how that ended.
    Send(Notification),
    /// Write it into the log.
    Event(Event),
}

/// A message on its way.
#[derive(Debug)]
struct Flight {
    notification: Notification,
    firing: BTreeSet<String>,
    resolved: BTreeSet<String>,
    attempts: u32,
    /// When it is tried again; none while an attempt lasts.
    next: Option<Timestamp>,
}

/// What a receiver knows of an alert that fires.
#[derive(Debug, Clone, Copy)]
struct Told {
    /// When it was told that last.
    at: Timestamp,
    /// How often it was reminded.
    repeats: u32,
}

#[derive(Debug, Default)]
struct Group {
    /// Alerts that the receiver knows to fire.
    told: BTreeMap<String, Told>,
    /// Alerts that the run before may have told it of, without the log knowing that.
    maybe: BTreeSet<String>,
    wait_until: Option<Timestamp>,
    flight: Option<Flight>,
}

/// What the log has about a message.
#[derive(Deserialize)]
struct Data {
    rule: RuleName,
    firing: Vec<String>,
    resolved: Vec<String>,
    repeats: u32,
}

/// All receivers and what they were told.
#[derive(Debug)]
pub struct Notifier {
    receivers: Vec<Receiver>,
    groups: BTreeMap<(ReceiverName, RuleName), Group>,
    outputs: VecDeque<Output>,
    seen: Option<u64>,
    due: Option<Timestamp>,
    /// Nothing was reviewed yet.
    is_new: bool,
}

impl Notifier {
    /// Nobody was told anything.
    #[must_use]
    pub fn new(receivers: Vec<Receiver>) -> Self {
        Self {
            receivers,
            groups: BTreeMap::new(),
            outputs: VecDeque::new(),
            seen: None,
            due: None,
            is_new: true,
        }
    }

    /// The log has this of a receiver. Called before anything else.
    pub fn logged(&mut self, at: Timestamp, receiver: &str, data: &str) {
        let is_known = |known: &&Receiver| known.name.as_str() == receiver;
        let receiver = self.receivers.iter().find(is_known);
        if let (Some(receiver), Ok(data)) = (receiver, serde_json::from_str::<Data>(data)) {
            let key = (receiver.name.clone(), data.rule);
            let group = self.groups.entry(key).or_default();
            group.was_told(at, data.firing, &data.resolved, data.repeats);
        }
    }

    /// Compares what receivers were told with what is so at `now`, by the time of rules.
    pub fn review(&mut self, now: Timestamp, alerts: &Alerts) {
        let is_old = self.seen == Some(alerts.version()) && self.due.is_none_or(|due| due > now);
        if is_old {
            return;
        }
        self.seen = Some(alerts.version());
        let wall = alerts.wall(now);
        let until = |end: Timestamp| {
            now.plus(Duration::from_millis(
                end.as_ms().saturating_sub(wall.as_ms()),
            ))
        };
        self.due = alerts.next_silence_end(wall).map(until);
        let mut firing: BTreeMap<(ReceiverName, RuleName), Vec<(Alert, u64)>> = BTreeMap::new();
        for (alert, position) in alerts.firing(wall) {
            for receiver in self.receivers.iter().filter(|r| r.takes(&alert)) {
                let key = (receiver.name.clone(), alert.rule.clone());
                let group = self.groups.entry(key.clone()).or_default();
                if self.is_new && !group.told.contains_key(&alert.id) {
                    group.maybe.insert(alert.id.clone());
                }
                firing
                    .entry(key)
                    .or_default()
                    .push((alert.clone(), position));
            }
        }
        self.is_new = false;
        for receiver in &self.receivers {
            let groups = self.groups.iter_mut();
            let groups = groups.filter(|((name, _), _)| *name == receiver.name);
            for (key, group) in groups {
                let firing = firing.remove(key).unwrap_or_default();
                if let Some(sent) = group.review(now, receiver, &key.1, &firing, alerts) {
                    self.outputs.push_back(Output::Send(sent));
                }
                let due = group.due(receiver, &firing);
                self.due = match (self.due, due) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
        }
        self.groups.retain(|_, group| {
            !group.told.is_empty()
                || !group.maybe.is_empty()
                || group.flight.is_some()
                || group.wait_until.is_some()
        });
    }

    /// An attempt to send has ended.
    pub fn sent(&mut self, now: Timestamp, id: &str, outcome: Outcome) {
        let is_it = |flight: &Flight| flight.notification.id == id;
        let group = self
            .groups
            .values_mut()
            .find(|group| group.flight.as_ref().is_some_and(is_it));
        let Some(group) = group else {
            return;
        };
        // Whatever comes of it, there is something to look at.
        self.seen = None;
        let Some(mut flight) = group.flight.take() else {
            return;
        };
        flight.attempts += 1;
        let (kind, reason) = match outcome {
            Outcome::Delivered => (kind::ALERT_NOTIFIED, None),
            Outcome::Failed(_) if flight.attempts < MAX_ATTEMPTS => {
                let pause = FIRST_PAUSE * 2_u32.pow((flight.attempts - 1).min(16));
                flight.next = Some(now.plus(pause.min(MOST_PAUSE)));
                group.flight = Some(flight);
                return;
            }
            Outcome::Failed(reason) => (
                kind::ALERT_UNDELIVERED,
                Some(format!("{reason}, after {MAX_ATTEMPTS} attempts")),
            ),
            Outcome::Refused(reason) => (kind::ALERT_UNDELIVERED, Some(reason)),
        };
        let Notification {
            receiver,
            rule,
            repeats,
            ..
        } = flight.notification;
        let mut data = json!({
            "receiver": receiver, "rule": rule, "id": id, "repeats": repeats,
            "firing": flight.firing, "resolved": flight.resolved,
        });
        if let Some(reason) = reason {
            data["reason"] = reason.into();
        }
        let resolved: Vec<String> = flight.resolved.into_iter().collect();
        group.was_told(now, flight.firing, &resolved, repeats);
        self.outputs.push_back(Output::Event(Event {
            aggregate_type: ALERT_RECEIVER,
            aggregate_id: receiver.to_string(),
            kind,
            data,
        }));
    }

    /// The next thing that follows.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

impl Group {
    fn was_told(
        &mut self,
        at: Timestamp,
        firing: impl IntoIterator<Item = String>,
        resolved: &[String],
        repeats: u32,
    ) {
        let is_reminder = repeats > 0;
        for id in firing {
            self.maybe.remove(&id);
            let known = self.told.get(&id).filter(|_| is_reminder);
            let repeats = known.map_or(0, |known| known.repeats + 1);
            self.told.insert(id, Told { at, repeats });
        }
        for id in resolved {
            self.maybe.remove(id);
            self.told.remove(id);
        }
        self.wait_until = None;
    }

    /// What is to be sent at `now`, if anything.
    fn review(
        &mut self,
        now: Timestamp,
        receiver: &Receiver,
        rule: &RuleName,
        firing: &[(Alert, u64)],
        alerts: &Alerts,
    ) -> Option<Notification> {
        if let Some(flight) = &mut self.flight {
            let is_due = flight.next.is_some_and(|next| next <= now);
            return is_due.then(|| {
                flight.next = None;
                flight.notification.clone()
            });
        }
        let mut gone: BTreeSet<String> = self
            .told
            .keys()
            .chain(&self.maybe)
            .filter(|id| !alerts.is_firing(id))
            .cloned()
            .collect();
        if !receiver.resolved {
            self.told.retain(|id, _| !gone.contains(id));
            self.maybe.retain(|id| !gone.contains(id));
            gone.clear();
        }
        let is_loud = |alert: &Alert| alert.acknowledged.is_none() && alert.silenced_by.is_none();
        let is_news = |alert: &Alert| is_loud(alert) && !self.told.contains_key(&alert.id);
        let is_repeated = self
            .repeats_at(receiver, firing)
            .is_some_and(|at| at <= now);
        let has_news = !gone.is_empty() || firing.iter().any(|(alert, _)| is_news(alert));
        if has_news {
            self.wait_until.get_or_insert(now.plus(receiver.group_wait));
        } else {
            self.wait_until = None;
        }
        if !is_repeated && self.wait_until.is_none_or(|until| until > now) {
            return None;
        }
        let told: Vec<&(Alert, u64)> = firing
            .iter()
            .filter(|(alert, _)| {
                if is_repeated {
                    is_loud(alert)
                } else {
                    is_news(alert)
                }
            })
            .collect();
        let ended: Vec<(&Alert, u64)> = alerts.ended(&gone).collect();
        let position = told.iter().map(|(_, position)| *position);
        let position = position
            .chain(ended.iter().map(|(_, position)| *position))
            .max();
        // What is over and no more remembered has a time in its name.
        let begun = |id: &String| id.rsplit(':').next().and_then(|ms| ms.parse::<u64>().ok());
        let position = position.or_else(|| gone.iter().filter_map(begun).max());
        // Each alert has its own count, so that it is what the log says of those that fire, whatever ended before.
        let reminded = told
            .iter()
            .filter_map(|(alert, _)| self.told.get(&alert.id));
        let reminded = reminded.map(|told| told.repeats).max().unwrap_or_default();
        let repeats = if is_repeated { reminded + 1 } else { 0 };
        let firing: BTreeSet<String> = told.iter().map(|(alert, _)| alert.id.clone()).collect();
        let listed = told.len().min(MAX_LISTED) + ended.len().min(MAX_LISTED);
        // What it says makes it this message: the newest event alone may be in two.
        let mut content = DefaultHasher::new();
        (&firing, &gone, repeats).hash(&mut content);
        let notification = Notification {
            id: format!(
                "{}:{rule}:{}:{repeats}:{:016x}",
                receiver.name,
                position.unwrap_or_default(),
                content.finish()
            ),
            receiver: receiver.name.clone(),
            rule: rule.clone(),
            repeats,
            omitted: told.len() + gone.len() - listed,
            firing: told
                .into_iter()
                .take(MAX_LISTED)
                .map(|(alert, _)| alert.clone())
                .collect(),
            resolved: ended
                .into_iter()
                .take(MAX_LISTED)
                .map(|(alert, _)| alert.clone())
                .collect(),
        };
        self.flight = Some(Flight {
            notification: notification.clone(),
            firing,
            resolved: gone,
            attempts: 0,
            next: None,
        });
        Some(notification)
    }

    /// When the group is told again what it knows: counted from the alert that it was told of the longest ago,
    /// however much news came since.
    fn repeats_at(&self, receiver: &Receiver, firing: &[(Alert, u64)]) -> Option<Timestamp> {
        let is_open = |alert: &Alert| alert.acknowledged.is_none() && alert.silenced_by.is_none();
        let open = firing.iter().filter(|(alert, _)| is_open(alert));
        let told = open.filter_map(|(alert, _)| self.told.get(&alert.id));
        let first = told.map(|told| told.at).min();
        first.map(|first| first.plus(receiver.repeat))
    }

    /// When there is something to do, were nothing to happen.
    fn due(&self, receiver: &Receiver, firing: &[(Alert, u64)]) -> Option<Timestamp> {
        match &self.flight {
            Some(flight) => flight.next,
            None => {
                let repeats = self.repeats_at(receiver, firing);
                let both = [self.wait_until, repeats];
                both.into_iter().flatten().min()
            }
        }
    }
}
