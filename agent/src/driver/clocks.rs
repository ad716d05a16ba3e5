//! The driver's part in clocks that jump: what was stamped before a jump means another time, so the relay is
//! told of it in the same ledger.

use lekiwi_agent_core::time::Jump;
use lekiwi_protocol::message::kind;
use serde_json::json;

use super::Driver;
use crate::clock;

impl Driver {
    /// Compares the clocks with the last look's.
    pub(super) fn look_at_clocks(&mut self) {
        let Some(uptime_s) = self.sampler.uptime() else {
            return;
        };
        self.clocks.observe(clock::reading(uptime_s));
        while let Some(jump) = self.clocks.poll_jump() {
            match jump {
                Jump::Stepped { by_s } => {
                    log::info!("the clock was set by {by_s} s");
                    let data = json!({ "by_s": by_s, "clock": clock::state() });
                    self.event(kind::CLOCK_STEPPED, data);
                    self.floor.persist();
                }
                Jump::Slept { for_s } => {
                    log::info!("the machine slept for {for_s} s");
                    self.event(kind::RESUMED, json!({ "for_s": for_s }));
                }
            }
        }
    }
}
