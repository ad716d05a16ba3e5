//! The retained messages of the contract: one for each robot's connection, factsheet, state and
//! reported configuration, and one for each relay. Other topics keep nothing, whatever the publisher
//! asks. They are kept of every robot, and shown of those that the gate lets through. A message goes only when it is replaced, cleared, or past an expiry that its sender set.

use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use lekiwi_protocol::message::{Connection, ConnectionState};
use lekiwi_protocol::topic::Path;
use lekiwi_protocol::{Envelope, FromRobot, Topic};
use rmqtt::retain::{RetainStorage, RetainTree};
use rmqtt::types::{Retain, TopicFilter, TopicName};

use super::gate::Gate;
use crate::clock;

#[derive(Debug, Clone)]
struct Kept {
    retain: Retain,
    /// When it ends, if its sender said so.
    until_ms: Option<u64>,
}

/// In memory; robots say everything again after each connect.
#[derive(Clone)]
pub(super) struct Retained {
    gate: Arc<Gate>,
    tree: Arc<RwLock<RetainTree<Kept>>>,
    count: Arc<std::sync::atomic::AtomicIsize>,
}

impl Retained {
    /// Nothing kept yet; `gate` says whose messages are shown.
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        Self {
            gate,
            tree: Arc::default(),
            count: Arc::default(),
        }
    }

    /// What is kept below `filter`, whoever may see it.
    pub(super) fn kept(&self, filter: &str) -> rmqtt::Result<Vec<(TopicName, Retain)>> {
        let filter = rmqtt::topic::Topic::from_str(filter)?;
        let now = clock::now_ms();
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        Ok(tree
            .matches(&filter)
            .into_iter()
            .filter(|(_, kept)| kept.until_ms.is_none_or(|until| now < until))
            .map(|(topic, kept)| (TopicName::from(topic.to_string()), kept.retain))
            .collect())
    }
}

#[async_trait]
impl RetainStorage for Retained {
    fn enable(&self) -> bool {
        true
    }

    fn need_sync(&self) -> bool {
        false
    }

    async fn set(
        &self,
        topic: &TopicName,
        retain: Retain,
        _default_expiry: Option<Duration>,
    ) -> rmqtt::Result<()> {
        let Some(parsed) = Topic::parse(topic).ok().filter(Topic::is_retained) else {
            return Ok(());
        };
        let place = rmqtt::topic::Topic::from_str(topic)?;
        let expiry_s = retain
            .publish
            .properties
            .as_ref()
            .and_then(|p| p.message_expiry_interval);
        let until_ms = expiry_s.map(|s| clock::now_ms() + u64::from(s.get()) * 1_000);
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let old = tree.remove(&place);
        let had = old.is_some();
        if let Some(old) = old
            && matches!(parsed.path, Path::From(_, FromRobot::Connection))
            && outlives(&old.retain, &retain)
        {
            tree.insert(&place, old);
            return Ok(());
        }
        let has = !retain.publish.payload.is_empty();
        if has {
            tree.insert(&place, Kept { retain, until_ms });
        }
        self.count.fetch_add(
            isize::from(has) - isize::from(had),
            std::sync::atomic::Ordering::Relaxed,
        );
        Ok(())
    }

    async fn get(&self, filter: &TopicFilter) -> rmqtt::Result<Vec<(TopicName, Retain)>> {
        let mut kept = self.kept(filter)?;
        kept.retain(|(topic, _)| self.gate.passes(topic));
        Ok(kept)
    }

    async fn count(&self) -> isize {
        self.count.load(std::sync::atomic::Ordering::Relaxed)
    }

    async fn max(&self) -> isize {
        -1
    }
}

/// Whether `birth` is the birth of a later connection than the one whose death is `death`. rmqtt stores
/// a will some time after its hook told ingest, possibly after the next birth.
fn outlives(birth: &Retain, death: &Retain) -> bool {
    let connection = |retain: &Retain| {
        serde_json::from_slice::<Envelope<Connection>>(&retain.publish.payload)
            .map(|envelope| envelope.payload)
    };
    match (connection(birth), connection(death)) {
        (Ok(birth), Ok(death)) => {
            birth.state == ConnectionState::Online
                && death.state != ConnectionState::Online
                && birth.session != death.session
        }
        _ => false,
    }
}
