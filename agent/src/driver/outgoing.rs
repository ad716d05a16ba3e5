//! What the driver says and in which order: telemetry as it comes, events until they are safe, and behind all
//! of them the telemetry that nobody heard.

use std::time::Instant;

use lekiwi_agent_core::backlog::Drain;
use lekiwi_agent_core::outbox::Cursor;
use lekiwi_protocol::Clock;
use lekiwi_protocol::limits::MAX_EVENTS_PER_MESSAGE;
use lekiwi_protocol::message::{Ack, EventBatch, Telemetry};
use serde_json::Value;

use super::Driver;
use crate::clock;
use crate::outbox::Limit;

impl Driver {
    pub(super) fn send_telemetry(&mut self, now: Instant) {
        if let Some(telemetry) = self.debouncer.poll_output(now) {
            if self.speech.telemetry(self.link.as_ref(), &telemetry) {
                self.last_telemetry = Some(clock::wall());
            } else {
                // A picture, not a ledger: the next one is newer. History gets it later.
                log::debug!("telemetry waits, the link is slow");
                self.keep_sample(now, &telemetry);
            }
        }
    }

    /// Keeps an event and sends it; returns its number.
    pub(super) fn event(&mut self, kind: &str, data: Value) -> u64 {
        let seq = self.outbox.append(kind, clock::wall(), data);
        self.send_events();
        seq
    }

    /// Whether all that is kept is on the way.
    pub(super) fn send_events(&mut self) -> bool {
        if self.outbox.poll_found() {
            self.window.begin_again();
        }
        while let Some((mut progress, room)) = self.window.poll_output() {
            let limit = Limit {
                events: room.min(MAX_EVENTS_PER_MESSAGE),
                ..Limit::default()
            };
            let Some((priority, batch)) = self.outbox.pending_after(&progress, limit) else {
                return true;
            };
            let EventBatch {
                ordinal, events, ..
            } = &batch;
            let (ordinal, count) = (*ordinal, events.len());
            let Some(seq) = events.last().map(|event| event.seq) else {
                return true;
            };
            if !self.speech.events(self.link.as_ref(), batch) {
                // The queue is full; the next timer or acknowledgement goes on.
                return false;
            }
            progress.advance(priority, Cursor { ordinal, seq });
            self.window.sent(clock::now(), progress, count);
        }
        false
    }

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
