//! Telemetry that nobody heard, kept for the relay's history. Numbered in a stream of its own, which ends
//! with the process: after a power cut numbers may come again, the stream never does.
//!
//! What is new lies in a small buffer and is written every few minutes, in one transaction: a card stands
//! only so many writes, and a power cut may take the last minutes of telemetry. An outage that is over
//! before that never touches the disk. While the disk takes nothing, the buffer itself is thinned out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use lekiwi_agent_core::backlog::{
    MAX_SAMPLE_AGE, Place, SAMPLE_OVERHEAD_BYTES, Shelf, Thinner, account,
};
use lekiwi_agent_core::outbox::{Bounds, MAX_EVENT_AGE, covers, union};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::limits::MAX_SAMPLES_PER_MESSAGE;
use lekiwi_protocol::message::{Ack, Backlog, LateSample, Metrics, SeqRange, Thinned, kind};
use serde_json::json;
use uuid::Uuid;

use super::disk::{Disk, DiskError};
use super::samples::merge;
use super::{Outbox, RETRY_DISK, chain};

/// Longest time that a sample is in memory only, while the disk takes some.
pub const WRITE_EVERY: Duration = Duration::from_secs(5 * 60);
/// A buffer of so many bytes is written before that.
const BUFFER_BYTES: u64 = 8 * 1024;
/// Most samples that are acknowledged and not deleted yet.
const MAX_UNDELETED: u64 = 500;
/// What was thinned out is told at most this often.
const TELL_EVERY: Duration = Duration::from_secs(3600);

/// One sample as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) seq: u64,
    pub(super) outage: u32,
    pub(super) timestamp: Timestamp,
    /// JSON: a fraction of the memory that a map takes.
    pub(super) metrics: String,
}

/// What a sample with these metrics adds to a message.
pub(super) fn bytes_of(metrics: &str) -> u64 {
    metrics.len() as u64 + SAMPLE_OVERHEAD_BYTES
}

impl Sample {
    pub(super) fn bytes(&self) -> u64 {
        bytes_of(&self.metrics)
    }

    /// The account of giving up this one.
    pub(super) fn alone(&self) -> Thinned {
        Thinned {
            from: self.timestamp,
            to: self.timestamp,
            samples: 1,
        }
    }

    fn place(&self) -> Place {
        Place {
            seq: self.seq,
            outage: self.outage,
            timestamp: self.timestamp,
            bytes: self.bytes(),
        }
    }
}

/// The newest samples, which are not on the disk.
#[derive(Debug, Default)]
struct Buffer {
    samples: VecDeque<Sample>,
    bytes: u64,
}

impl Buffer {
    /// Where the samples behind a number begin.
    fn behind(&self, seq: u64) -> usize {
        self.samples.partition_point(|sample| sample.seq <= seq)
    }
}

impl Shelf for Buffer {
    type Error = Infallible;

    fn count(&self) -> u64 {
        self.samples.len() as u64
    }

    fn after(&self, seq: u64) -> Result<[Option<Place>; 2], Infallible> {
        let index = self.behind(seq);
        let place = |index| self.samples.get(index).map(Sample::place);
        Ok([place(index), place(index + 1)])
    }

    fn merge(&mut self, removed: Place, into: Place) -> Result<u64, Infallible> {
        let before = self.bytes;
        let index = self.behind(removed.seq - 1);
        if let Some(older) = self.samples.remove(index)
            && let Some(newer) = self.samples.get_mut(index)
        {
            self.bytes -= older.bytes();
            newer.metrics = merge(&older.metrics, &newer.metrics);
            self.bytes = self.bytes - into.bytes + newer.bytes();
        }
        Ok(before - self.bytes)
    }

    fn remove(&mut self, place: Place) -> Result<(), Infallible> {
        let index = self.behind(place.seq - 1);
        self.samples.remove(index);
        self.bytes -= place.bytes;
        Ok(())
    }
}

/// What the outbox knows of samples beside those on the disk.
pub(super) struct Late {
    stream: Uuid,
    /// Which stream; 0 until it is needed.
    ordinal: u32,
    last_seq: u64,
    outage: u32,
    buffer: Buffer,
    /// Since when something is in the buffer.
    waiting_since: Option<Instant>,
    /// When the disk last did not take it.
    failed_at: Option<Instant>,
    thinner: Thinner,
    /// On the disk, and safe with the relay.
    acknowledged: Vec<SeqRange>,
    undeleted: u64,
    thinned: Option<Thinned>,
    told_at: Option<Instant>,
}

impl Late {
    pub(super) fn new() -> Self {
        Self {
            stream: Uuid::new_v4(),
            ordinal: 0,
            last_seq: 0,
            outage: 1,
            buffer: Buffer::default(),
            waiting_since: None,
            failed_at: None,
            thinner: Thinner::default(),
            acknowledged: Vec::new(),
            undeleted: 0,
            thinned: None,
            told_at: None,
        }
    }

    /// A database was opened: numbers go on behind its own.
    pub(super) fn found(&mut self, disk: &Disk) {
        let (seq, outage) = disk.newest_sample;
        self.outage = self.outage.max(outage + 1);
        let has_same_numbers = |first: &Sample| first.seq <= seq;
        if self.buffer.samples.front().is_some_and(has_same_numbers) {
            // It could not be read before: what was measured since comes behind it, under other numbers.
            self.stream = Uuid::new_v4();
            self.ordinal = 0;
            self.last_seq += seq;
            for sample in &mut self.buffer.samples {
                sample.seq += seq;
                sample.outage = self.outage;
            }
            self.thinner = Thinner::default();
        }
        self.last_seq = self.last_seq.max(seq);
        if disk.samples == 0 {
            self.deleted();
        }
    }

    fn deleted(&mut self) {
        self.acknowledged.clear();
        self.undeleted = 0;
    }

    /// Bounds what waits in memory while the disk takes nothing.
    fn thin_out(&mut self) {
        let over = self
            .buffer
            .bytes
            .saturating_sub(Bounds::MEMORY.max_sample_bytes);
        let Ok((_, thinned)) = self.thinner.make_room(&mut self.buffer, over);
        if let Some(thinned) = thinned {
            account(&mut self.thinned, thinned);
        }
    }
}

impl Outbox {
    /// Keeps what telemetry would have said at `timestamp`. `now` is monotonic.
    pub fn keep(&mut self, now: Instant, timestamp: Timestamp, metrics: &Metrics) {
        let late = &mut self.late;
        late.last_seq += 1;
        let sample = Sample {
            seq: late.last_seq,
            outage: late.outage,
            timestamp,
            // Names and numbers always become JSON.
            metrics: serde_json::to_string(metrics).unwrap_or_default(),
        };
        late.buffer.bytes += sample.bytes();
        late.buffer.samples.push_back(sample);
        late.waiting_since.get_or_insert(now);
        self.look_after_samples(now, timestamp);
    }

    /// Writes the buffer when it is time to, and tells what was thinned out. Cheap when it is not.
    pub fn look_after_samples(&mut self, now: Instant, timestamp: Timestamp) {
        self.look_after_disk(timestamp);
        let is_due = |since: Instant, after| now.saturating_duration_since(since) >= after;
        let late = &self.late;
        let has_waited = |since| is_due(since, WRITE_EVERY);
        if (late.waiting_since.is_some_and(has_waited) || late.buffer.bytes >= BUFFER_BYTES)
            && late.failed_at.is_none_or(|at| is_due(at, RETRY_DISK))
        {
            let written = self.write_samples(timestamp);
            self.late.failed_at = (!written).then_some(now);
        }
        self.late.thin_out();
        self.collect_account();
        let late = &self.late;
        if late.thinned.is_some() && late.told_at.is_none_or(|at| is_due(at, TELL_EVERY)) {
            // The first hour of an outage is told when it is over.
            if late.told_at.is_some() {
                self.tell_thinned(timestamp);
            }
            self.late.told_at = Some(now);
        }
    }

    /// The link is up again: what comes next is of another outage, and what became of this one is told.
    pub fn outage_over(&mut self, timestamp: Timestamp) {
        self.late.outage += 1;
        self.collect_account();
        self.tell_thinned(timestamp);
        self.late.told_at = None;
    }

    /// Writes down what is only in memory, before the process ends.
    pub fn close(&mut self, timestamp: Timestamp) {
        if !self.late.buffer.samples.is_empty() || self.late.undeleted > 0 {
            self.write_samples(timestamp);
        }
        self.collect_account();
        self.tell_thinned(timestamp);
        self.forget_empty_memory();
    }

    /// The kept samples after a number: at most `most`, and about `most_bytes` of them. With how many bytes
    /// they have.
    pub fn late_after(&mut self, seq: u64, most: usize, most_bytes: u64) -> Option<(Backlog, u64)> {
        let most = most.min(MAX_SAMPLES_PER_MESSAGE);
        let (mut samples, is_all) = match &self.disk {
            Some(disk) => disk
                .samples_after(seq, &self.late.acknowledged, most, most_bytes)
                .inspect_err(|error| log::warn!("cannot read late samples: {}", chain(error)))
                .unwrap_or_default(),
            None => (Vec::new(), true),
        };
        let mut bytes: u64 = samples.iter().map(Sample::bytes).sum();
        if is_all {
            let buffer = &self.late.buffer;
            let newest = samples.last().map_or(seq, |sample| sample.seq);
            for sample in buffer.samples.range(buffer.behind(newest)..) {
                bytes += sample.bytes();
                if samples.len() == most || (bytes > most_bytes && !samples.is_empty()) {
                    bytes -= sample.bytes();
                    break;
                }
                samples.push(sample.clone());
            }
        }
        if samples.is_empty() {
            return None;
        }
        let late = |sample: Sample| LateSample {
            seq: sample.seq,
            timestamp: sample.timestamp,
            metrics: serde_json::from_str(&sample.metrics).unwrap_or_default(),
        };
        let backlog = Backlog {
            stream: self.late.stream,
            ordinal: self.sample_ordinal(),
            samples: samples.into_iter().map(late).collect(),
        };
        Some((backlog, bytes))
    }

    /// Forgets samples that the relay has. Returns how many kept ones that were.
    pub fn acknowledge_late(&mut self, ack: &Ack) -> usize {
        let Some(ranges) = ack.acks.get(&self.late.stream) else {
            return 0;
        };
        let late = &mut self.late;
        let before = late.buffer.samples.len();
        let bytes = &mut late.buffer.bytes;
        late.buffer.samples.retain(|sample| {
            let stays = !covers(ranges, sample.seq);
            if !stays {
                *bytes -= sample.bytes();
            }
            stays
        });
        let mut count = (before - late.buffer.samples.len()) as u64;
        if late.buffer.samples.is_empty() {
            late.waiting_since = None;
        }
        if let Some(disk) = self.disk.as_mut().filter(|disk| disk.samples > 0) {
            let mut all = std::mem::take(&mut late.acknowledged);
            // Whatever is said, it is not said of samples to come.
            let newest = late.last_seq;
            all.extend(ranges.iter().map(|[from, to]| [*from, (*to).min(newest)]));
            late.acknowledged = union(all);
            let undeleted = disk.samples_in(&late.acknowledged);
            count += undeleted.saturating_sub(late.undeleted);
            late.undeleted = undeleted;
            if undeleted >= MAX_UNDELETED || undeleted == disk.samples {
                match disk.forget(&late.acknowledged) {
                    Ok(()) => late.deleted(),
                    Err(error) => log::debug!(
                        "acknowledged samples stay on the disk until the next attempt: {error}"
                    ),
                }
            }
        }
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// How many samples wait for the relay.
    #[must_use]
    pub fn late(&self) -> u64 {
        let written = self.disk.as_ref().map_or(0, |disk| disk.samples);
        written.saturating_sub(self.late.undeleted) + self.late.buffer.samples.len() as u64
    }

    /// Gives up what is too old. Called where the clock can be believed; times from before `floor`, when
    /// this program was built, come from a clock that could not.
    pub fn expire(&mut self, now: Timestamp, floor: Timestamp) {
        let before = |age: Duration| {
            let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            Timestamp::from_ms(now.as_ms().saturating_sub(age))
        };
        let expired = match &mut self.disk {
            Some(disk) if self.durable => disk
                .expire(now, floor, before(MAX_EVENT_AGE))
                .and_then(|()| disk.expire_samples(floor, before(MAX_SAMPLE_AGE))),
            _ => Ok(()),
        };
        if let Err(error) = expired {
            self.failed(now, &error);
        }
    }

    /// Whether the disk took the buffer.
    fn write_samples(&mut self, timestamp: Timestamp) -> bool {
        let late = &mut self.late;
        let written = match &mut self.disk {
            Some(disk) if self.durable => disk.keep(
                late.buffer.samples.make_contiguous(),
                &late.acknowledged,
                self.bounds,
            ),
            _ => return false,
        };
        match written {
            Ok(()) => {
                late.buffer = Buffer::default();
                late.thinner = Thinner::default();
                late.waiting_since = None;
                late.deleted();
                true
            }
            Err(error) => {
                self.failed(timestamp, &error);
                false
            }
        }
    }

    /// A full disk keeps samples in memory, and events find out for themselves; damage concerns all.
    fn failed(&mut self, now: Timestamp, error: &DiskError) {
        if error.is_damage() {
            self.disk_failed(now, error);
        } else {
            log::debug!("late samples wait in memory: {}", chain(error));
        }
    }

    fn collect_account(&mut self) {
        if let Some(thinned) = self.disk.as_mut().and_then(|disk| disk.thinned.take()) {
            account(&mut self.late.thinned, thinned);
        }
    }

    fn tell_thinned(&mut self, timestamp: Timestamp) {
        if let Some(thinned) = self.late.thinned.take() {
            self.append(kind::THINNED, timestamp, json!(thinned));
        }
    }

    fn sample_ordinal(&mut self) -> u32 {
        if self.late.ordinal == 0 {
            let mut newest = self.newest.clone();
            newest.late += 1;
            self.late.ordinal = newest.late;
            self.remember(newest);
        }
        self.late.ordinal
    }
}
