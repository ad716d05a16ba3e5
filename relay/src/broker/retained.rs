//! The retained messages of the contract: one for each robot's connection, factsheet, state and
//! reported configuration, and one for each relay. Other topics keep nothing, whatever the publisher
//! asks. A message goes only when it is replaced, cleared, or past an expiry that its sender set.

use std::str::FromStr;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use lekiwi_protocol::Topic;
use rmqtt::retain::{RetainStorage, RetainTree};
use rmqtt::types::{Retain, TopicFilter, TopicName};

use crate::clock;

#[derive(Debug, Clone)]
struct Kept {
    retain: Retain,
    /// When it ends, if its sender said so.
    until_ms: Option<u64>,
}

/// In memory; robots say everything again after each connect.
#[derive(Default)]
pub(super) struct Retained {
    tree: RwLock<RetainTree<Kept>>,
    count: std::sync::atomic::AtomicIsize,
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
        if !Topic::parse(topic).is_ok_and(|topic| topic.is_retained()) {
            return Ok(());
        }
        let place = rmqtt::topic::Topic::from_str(topic)?;
        let expiry_s = retain
            .publish
            .properties
            .as_ref()
            .and_then(|p| p.message_expiry_interval);
        let until_ms = expiry_s.map(|s| clock::now_ms() + u64::from(s.get()) * 1_000);
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let had = tree.remove(&place).is_some();
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

    async fn count(&self) -> isize {
        self.count.load(std::sync::atomic::Ordering::Relaxed)
    }

    async fn max(&self) -> isize {
        -1
    }
}
