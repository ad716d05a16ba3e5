//! Says that the relay has more to do than it can, and that it has not any more.

use std::sync::PoisonError;

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::message::kind;
use lekiwi_relay_core::protect::Said;
use serde_json::json;

use super::Ingest;
use crate::clock;
use crate::store::records::RELAY;

impl Ingest {
    pub(super) fn look_after_overload(&mut self) {
        let said = {
            let mut overload = self.overload.lock().unwrap_or_else(PoisonError::into_inner);
            overload.observe(clock::monotonic(), self.metrics.overloaded())
        };
        let (kind, data) = match said {
            None => return,
            Some(Said::Begun) => {
                tracing::warn!("more to do than can be done: the least urgent is given up");
                (kind::OVERLOADED, json!({}))
            }
            Some(Said::Over { shed, lasted_s }) => {
                tracing::info!(shed, lasted_s, "nothing is given up any more");
                (
                    kind::RELIEVED,
                    json!({ "shed": shed, "lasted_s": lasted_s }),
                )
            }
        };
        let now = Timestamp::from_ms(clock::now_ms());
        let relay = self.settings.relay_id.as_str().into();
        self.record(now, RELAY, relay, kind, &data);
    }
}
