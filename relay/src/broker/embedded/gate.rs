//! Whose words reach consumers: registered robots', and nobody else's. Ingest says who they are; the
//! hooks notice when a robot says that it is something else than what was judged; routing and the
//! retained messages ask here.
//!
//! Invariant: what is not admitted has no subscribers and no retained message, and a factsheet that says
//! something new closes the gate until ingest has looked at it. What the robot says meanwhile waits for the
//! verdict, which takes milliseconds, and delays nobody but itself; when that opens the gate, a retained message
//! among it may come twice.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use lekiwi_protocol::api::Claim;
use lekiwi_protocol::topic::Path;
use lekiwi_protocol::{RobotId, Topic};
use rmqtt::router::{DefaultRouter, Router};
use rmqtt::types::{
    AllRelationsMap, HashMap as RmqttMap, Id, NodeId, Route, SubRelationsMap, SubsSearchParams,
    SubsSearchResult, SubscriptionOptions, TopicName,
};
use rmqtt::utils::Counter;
use tokio::sync::Notify;

/// How long a message waits for a verdict. Without one it reaches nobody.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known about one robot.
#[derive(Debug, Default)]
struct Entry {
    admitted: bool,
    /// What the robot said it is, when it was judged last.
    judged: Option<Claim>,
    /// What it said since the relay started.
    said: Option<Claim>,
}

impl Entry {
    fn is_open(&self) -> bool {
        self.admitted && (self.said.is_none() || self.said == self.judged)
    }
}

/// What the relay calls itself as a client of its own broker; no certificate says this.
pub(super) const OWN_CLIENT: &str = "relay:";

/// Who is heard. A robot that nobody admitted is not.
#[derive(Debug, Default)]
pub(super) struct Gate {
    entries: RwLock<HashMap<RobotId, Entry>>,
    /// Told at each verdict.
    verdicts: Notify,
}

/// What a verdict changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Consumers hear it from now on.
    Opened,
    /// It was admitted, and is not any more.
    Expelled,
    None,
}

impl Gate {
    fn with<T>(&self, robot: &RobotId, work: impl FnOnce(&mut Entry) -> T) -> T {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        work(entries.entry(robot.clone()).or_default())
    }

    pub(super) fn is_open(&self, robot: &RobotId) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(robot).is_some_and(Entry::is_open)
    }

    /// Whether consumers may have messages of this topic.
    pub(super) fn passes(&self, topic: &str) -> bool {
        match Topic::parse(topic).map(|topic| topic.path) {
            Ok(Path::From(robot, _)) => self.is_open(&robot),
            _ => true,
        }
    }

    /// The same, once it is decided.
    async fn passes_when_judged(&self, topic: &str) -> bool {
        let Ok(Path::From(robot, _)) = Topic::parse(topic).map(|topic| topic.path) else {
            return true;
        };
        let judged = async {
            loop {
                let verdict = self.verdicts.notified();
                if !self.is_undecided(&robot) {
                    break;
                }
                verdict.await;
            }
        };
        // Too late is no verdict.
        let _ = tokio::time::timeout(PATIENCE, judged).await;
        self.is_open(&robot)
    }

    /// Enrolled a moment ago, or with news of itself.
    fn is_undecided(&self, robot: &RobotId) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(robot)
            .is_none_or(|entry| entry.admitted && !entry.is_open())
    }

    /// The robot says what it is.
    pub(super) fn said(&self, robot: &RobotId, said: Claim) {
        self.with(robot, |entry| entry.said = Some(said));
    }

    /// Ingest has judged.
    pub(super) fn judge(&self, robot: &RobotId, admitted: bool, judged: Option<Claim>) -> Change {
        let change = self.with(robot, |entry| {
            let was_open = entry.is_open();
            let was_admitted = std::mem::replace(&mut entry.admitted, admitted);
            entry.judged = judged;
            if entry.is_open() && !was_open {
                Change::Opened
            } else if was_admitted && !admitted {
                Change::Expelled
            } else {
                Change::None
            }
        });
        self.verdicts.notify_waiters();
        change
    }
}

/// rmqtt's routing, with nobody at the other end of what the gate holds back.
pub(super) struct GatedRouter {
    pub(super) inner: DefaultRouter,
    pub(super) gate: Arc<Gate>,
}

#[async_trait]
impl Router for GatedRouter {
    async fn add(
        &self,
        topic_filter: &str,
        id: Id,
        opts: SubscriptionOptions,
    ) -> rmqtt::Result<()> {
        self.inner.add(topic_filter, id, opts).await
    }

    async fn remove(&self, topic_filter: &str, id: Id) -> rmqtt::Result<bool> {
        self.inner.remove(topic_filter, id).await
    }

    async fn matches(&self, id: Id, topic: &TopicName) -> rmqtt::Result<SubRelationsMap> {
        // Who judges cannot wait for the verdict.
        let passes = if id.client_id == OWN_CLIENT {
            self.gate.passes(topic)
        } else {
            self.gate.passes_when_judged(topic).await
        };
        if passes {
            self.inner.matches(id, topic).await
        } else {
            Ok(SubRelationsMap::default())
        }
    }

    async fn is_online(&self, node_id: NodeId, client_id: &str) -> bool {
        self.inner.is_online(node_id, client_id).await
    }

    async fn gets(&self, limit: usize) -> Vec<Route> {
        self.inner.gets(limit).await
    }

    async fn get(&self, topic: &str) -> rmqtt::Result<Vec<Route>> {
        self.inner.get(topic).await
    }

    async fn query_subscriptions(&self, q: &SubsSearchParams) -> Vec<SubsSearchResult> {
        self.inner.query_subscriptions(q).await
    }

    async fn topics_tree(&self) -> usize {
        self.inner.topics_tree().await
    }

    fn topics(&self) -> Counter {
        self.inner.topics()
    }

    fn routes(&self) -> Counter {
        self.inner.routes()
    }

    fn merge_topics(&self, topics_map: &RmqttMap<NodeId, Counter>) -> Counter {
        self.inner.merge_topics(topics_map)
    }

    fn merge_routes(&self, routes_map: &RmqttMap<NodeId, Counter>) -> Counter {
        self.inner.merge_routes(routes_map)
    }

    async fn list_topics(&self, top: usize) -> Vec<String> {
        self.inner.list_topics(top).await
    }

    async fn list_relations(&self, top: usize) -> Vec<serde_json::Value> {
        self.inner.list_relations(top).await
    }

    fn relations(&self) -> &AllRelationsMap {
        self.inner.relations()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_gate_opens_by_a_verdict_on_the_last_word() {
        let gate = Gate::default();
        let robot: RobotId = "kiwi-01".parse().unwrap();
        let is = |profile: &str| Claim {
            profile: profile.to_owned(),
            serial: String::new(),
        };
        let topic = "fleet/v1/default/robots/kiwi-01/from/state";
        assert!(!gate.passes(topic), "a stranger");
        assert!(gate.passes("fleet/v1/default/relays/r1"));
        assert!(gate.passes("fleet/v1/default/robots/kiwi-01/to/ack"));

        assert_eq!(gate.judge(&robot, true, None), Change::Opened);
        assert!(gate.passes(topic));
        gate.said(&robot, is("lekiwi"));
        assert!(!gate.passes(topic), "not judged yet");
        gate.said(&robot, is("xle"));
        assert_eq!(
            gate.judge(&robot, true, Some(is("lekiwi"))),
            Change::None,
            "it said something else since"
        );
        assert_eq!(gate.judge(&robot, true, Some(is("xle"))), Change::Opened);
        gate.said(&robot, is("xle"));
        assert!(gate.passes(topic), "no news");
        assert_eq!(gate.judge(&robot, false, Some(is("xle"))), Change::Expelled);
        assert_eq!(gate.judge(&robot, false, None), Change::None);
        assert!(!gate.passes(topic));
    }
}
