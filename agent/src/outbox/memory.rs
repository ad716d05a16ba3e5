//! Events while the disk takes none: a bounded queue. Lost with the process, hence a stream of its own.

use std::collections::VecDeque;

use lekiwi_agent_core::outbox::{Bounds, Cursor, covers, tombstones};
use lekiwi_protocol::message::{Event, EventBatch, SeqRange};
use uuid::Uuid;

use super::{Draft, Limit, remains, within};

struct Held {
    ordinal: u32,
    stream: Uuid,
    bytes: u64,
    event: Event,
}

/// The queue. Several streams when the disk failed, came back and failed again.
pub(super) struct Memory {
    ordinal: u32,
    stream: Uuid,
    last_seq: u64,
    bytes: u64,
    events: VecDeque<Held>,
}

impl Memory {
    pub(super) fn new(ordinal: u32, stream: Uuid) -> Self {
        Self {
            ordinal,
            stream,
            last_seq: 0,
            bytes: 0,
            events: VecDeque::new(),
        }
    }

    /// Numbers what follows in a new stream.
    pub(super) fn begin(&mut self, ordinal: u32, stream: Uuid) {
        self.ordinal = ordinal;
        self.stream = stream;
        self.last_seq = 0;
    }

    pub(super) fn append(&mut self, draft: &Draft<'_>) -> u64 {
        let mut free = Bounds::MEMORY.excess(self.bytes, draft.bytes);
        let mut dropped = Vec::new();
        while free > 0
            && let Some(held) = self.events.pop_front()
        {
            free = free.saturating_sub(held.bytes);
            self.bytes -= held.bytes;
            let Event {
                seq, kind, data, ..
            } = &held.event;
            dropped.extend(remains(held.stream, *seq, kind, data));
        }
        for range in tombstones(dropped) {
            self.push(&Draft::tombstone(draft.timestamp, &range));
        }
        self.push(draft)
    }

    fn push(&mut self, draft: &Draft<'_>) -> u64 {
        self.last_seq += 1;
        self.bytes += draft.bytes;
        self.events.push_back(Held {
            ordinal: self.ordinal,
            stream: self.stream,
            bytes: draft.bytes,
            event: Event {
                seq: self.last_seq,
                kind: draft.kind.to_owned(),
                timestamp: draft.timestamp,
                data: draft.data.clone(),
            },
        });
        self.last_seq
    }

    pub(super) fn pending_after(&self, cursor: Cursor, limit: Limit) -> Option<EventBatch> {
        let after = |held: &&Held| {
            let (ordinal, seq) = (held.ordinal, held.event.seq);
            Cursor { ordinal, seq } > cursor
        };
        let first = self.events.iter().find(after)?;
        let same = self
            .events
            .iter()
            .filter(after)
            .take_while(|held| held.ordinal == first.ordinal);
        Some(EventBatch {
            stream: first.stream,
            ordinal: first.ordinal,
            events: within(limit, same.map(|held| (held.event.clone(), held.bytes))),
        })
    }

    pub(super) fn acknowledge(&mut self, stream: Uuid, ranges: &[SeqRange]) -> usize {
        let before = self.events.len();
        let bytes = &mut self.bytes;
        self.events.retain(|held| {
            let acknowledged = held.stream == stream && covers(ranges, held.event.seq);
            if acknowledged {
                *bytes -= held.bytes;
            }
            !acknowledged
        });
        before - self.events.len()
    }

    pub(super) fn stream(&self) -> Uuid {
        self.stream
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub(super) fn len(&self) -> u64 {
        self.events.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}
