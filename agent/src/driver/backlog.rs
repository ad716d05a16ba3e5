//! The driver's part in telemetry that comes late: kept while nobody listens, told after the reconnect,
//! behind everything else.

use std::time::Instant;

use lekiwi_agent_core::backlog::Drain;
use lekiwi_protocol::Clock;
use lekiwi_protocol::message::{Ack, Telemetry};

use super::Driver;
use crate::clock;

impl Driver {
    /// Keeps what telemetry would have said by now.
    pub(super) fn keep_telemetry(&mut self, now: Instant) {
        if let Some(telemetry) = self.debouncer.poll_output(now) {
            self.keep_sample(now, &telemetry);
        }
    }

    /// Keeps what telemetry could not say.
    pub(super) fn keep_sample(&mut self, now: Instant, telemetry: &Telemetry) {
        self.outbox.keep(now, clock::wall(), &telemetry.metrics);
    }

    /// Sends late samples as far as the pace allows: never before an event, and never while the relay
    /// takes none of this robot.
    pub(super) fn send_backlog(&mut self, now: Instant) {
        if self.drain.handle_timeout(now) {
            log::debug!("late samples were not acknowledged in time and are sent again");
        }
        if self.is_quarantined || self.outbox.late() == 0 || !self.send_events() {
            return;
        }
        while let Some((after, room)) = self.drain.poll_output(now) {
            let Some((backlog, bytes)) = self.outbox.late_after(after, room, Drain::MESSAGE_BYTES)
            else {
                return;
            };
            let count = backlog.samples.len();
            let Some(last) = backlog.samples.last().map(|sample| sample.seq) else {
                return;
            };
            if !self.speech.backlog(self.link.as_ref(), &backlog) {
                // The queue is full; the next timer or acknowledgement goes on.
                return;
            }
            self.drain.sent(now, last, count, bytes);
        }
    }

    pub(super) fn backlog_acknowledged(&mut self, ack: &Ack) {
        let count = self.outbox.acknowledge_late(ack);
        if count > 0 {
            let now = clock::now();
            self.drain.acknowledged(now, count);
            self.send_backlog(now);
        }
    }

    /// Called every hour.
    pub(super) fn forget_what_is_too_old(&mut self) {
        if clock::state() == Clock::Synced {
            self.outbox.expire(clock::wall(), clock::build_time());
        }
    }
}
