//! The live stream: what ingest has just learnt, for everybody who watches. `ingest` collects; a task of its own
//! finds who wants what (`lekiwi_relay_core::gateway` has the rules) and puts it before them, so that ingest waits
//! for nobody; SSE and WebSocket handlers take what is theirs. Everything in between is bounded.

mod content;
mod watchers;

use std::sync::Arc;

use lekiwi_protocol::api::Lagged;
use lekiwi_protocol::message::{Command, CommandStatus};
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::LivePayload;
use lekiwi_relay_core::gateway::{count, earliest};
use tokio::sync::mpsc;

pub use self::content::{Content, Form, Message, Payload, form, frame, said, sse_id};
pub use self::watchers::{Live, Todo, Watcher};
use crate::metrics::Metrics;
use crate::store::records::StoredEvent;
use crate::traces::Traces;

/// Batches that may wait to be handed out.
const WAITING: usize = 1_024;

/// Messages that were learnt together.
#[derive(Debug)]
struct Batch {
    messages: Vec<Message>,
    /// What was lost before these, because too much waited.
    lost: Option<Lagged>,
    /// Since when they wait, for traces.
    since: Option<u64>,
}

/// Collects what one turn of ingest learnt, then sends it. Costs nothing while nobody listens.
#[derive(Debug)]
pub(crate) struct Collector {
    live: Live,
    batches: mpsc::Sender<Batch>,
    messages: Vec<Message>,
    lost: Option<Lagged>,
    metrics: Arc<Metrics>,
    traces: Traces,
}

/// The stream, without listeners, and its sending end. With the latter the stream ends.
pub(crate) fn channel(metrics: &Arc<Metrics>, traces: &Traces) -> (Live, Collector) {
    let (batches, waiting) = mpsc::channel(WAITING);
    let live = Live::new(metrics);
    tokio::spawn(live.clone().hand_out(waiting, traces.clone()));
    let collector = Collector {
        live: live.clone(),
        batches,
        messages: Vec::new(),
        lost: None,
        metrics: metrics.clone(),
        traces: traces.clone(),
    };
    (live, collector)
}

impl Collector {
    pub(crate) fn message(
        &mut self,
        now: Timestamp,
        robot: RobotId,
        sequence: u64,
        payload: LivePayload,
    ) {
        if self.live.is_watched() {
            let message = content::picture(now, robot, sequence, payload);
            self.messages.push(message);
        }
    }

    pub(crate) fn event(&mut self, robot: RobotId, event: &StoredEvent) {
        if self.live.is_watched() {
            self.messages.push(content::event(robot, event.clone()));
        }
    }

    pub(crate) fn command(&mut self, now: Timestamp, robot: RobotId, command: &Command) {
        if self.live.is_watched() {
            let message = content::command(now, robot, command.clone());
            self.messages.push(message);
        }
    }

    pub(crate) fn response(
        &mut self,
        now: Timestamp,
        robot: RobotId,
        sequence: u64,
        status: &CommandStatus,
    ) {
        if self.live.is_watched() {
            let message = content::response(now, robot, sequence, status.clone());
            self.messages.push(message);
        }
    }

    /// Sends what was collected. What finds no room is counted, and told with the next that does.
    pub(crate) fn flush(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let batch = Batch {
            messages: std::mem::take(&mut self.messages),
            lost: self.lost.take(),
            since: self.traces.begun(),
        };
        let Err(error) = self.batches.try_send(batch) else {
            return;
        };
        let (mpsc::error::TrySendError::Full(batch) | mpsc::error::TrySendError::Closed(batch)) =
            error;
        let mut lost = batch.lost.unwrap_or_default();
        self.metrics.shed("live", batch.messages.len() as u64);
        for message in batch.messages {
            lost.dropped += 1;
            count(&mut lost.kinds, &message.kind, 1);
            let before = message.position.map(|position| position.saturating_sub(1));
            lost.after = earliest(lost.after, before);
        }
        self.lost = Some(lost);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lekiwi_protocol::api::{RelayMessage, Subscribe};
    use lekiwi_protocol::message::Heartbeat;
    use uuid::Uuid;

    use super::*;
    use crate::metrics::ConsumerLabels;
    use crate::store::records::NewEvent;

    fn stored(position: u64) -> StoredEvent {
        StoredEvent {
            position,
            event: NewEvent {
                aggregate_type: "robot",
                aggregate_id: "kiwi-01".into(),
                source: "relay:r1".into(),
                stream: Uuid::nil(),
                seq: position,
                // A name that would forge an event of the stream.
                kind: "a\nevent: b".into(),
                ts_ms: 0,
                received_ms: 0,
                data: "{}".into(),
                metadata: "{}".into(),
            },
        }
    }

    /// On one thread nothing is handed out before the test waits.
    #[tokio::test]
    async fn what_finds_no_room_on_the_way_is_told_with_what_follows() {
        let metrics = Arc::new(Metrics::default());
        let (live, mut collector) = channel(&metrics, &Traces::default());
        let robot = RobotId::new("kiwi-01").unwrap();
        let say = |collector: &mut Collector, uptime_s| {
            let heartbeat = LivePayload::Heartbeat(Heartbeat {
                session: Uuid::nil(),
                uptime_s,
            });
            collector.message(Timestamp::default(), robot.clone(), 0, heartbeat);
            collector.flush();
        };
        // Nobody listens: nothing is kept.
        say(&mut collector, 0);
        assert!(collector.messages.is_empty());
        let watcher = live.watch("ana", [0; 32], None);
        let request = Subscribe {
            id: "a".to_owned(),
            ..Subscribe::default()
        };
        watcher.subscribe(&request, || 0).unwrap();
        for n in 0..WAITING + 2 {
            say(&mut collector, n as u64);
        }
        for position in [8, 9] {
            collector.event(RobotId::new("kiwi-01").unwrap(), &stored(position));
        }
        collector.flush();
        let mut told = Vec::new();
        while told.len() < WAITING + 1 {
            told.extend(watcher.next(usize::MAX).await.unwrap());
        }
        say(&mut collector, 7);
        let lagged = loop {
            let told = watcher.next(usize::MAX).await.unwrap();
            if let Some(lagged) = told.into_iter().find_map(|todo| match todo {
                Todo::Say(RelayMessage::Lagged(lagged)) => Some(lagged),
                _ => None,
            }) {
                break lagged;
            }
        };
        let expected = Lagged {
            dropped: 4,
            kinds: [("a\nevent: b".to_owned(), 2), ("heartbeat".to_owned(), 2)].into(),
            after: Some(7),
        };
        assert_eq!(lagged, expected);
        let by = ConsumerLabels { by: "live" };
        assert!(metrics.slow_consumers.get_or_create(&by).get() > 0);
    }

    #[tokio::test]
    async fn listeners_are_listed_a_page_at_a_time() {
        let (live, _collector) = channel(&Arc::default(), &Traces::default());
        let watch = |_| live.watch("ana", [0; 32], None);
        let mut watchers: Vec<Watcher> = (0..300).map(watch).collect();
        // The first one has gone, and somebody else has its place.
        drop(watchers.swap_remove(0));
        watchers.push(live.watch("ben", [0; 32], None));
        let (mut ids, mut after) = (Vec::new(), String::new());
        loop {
            let page = live.connected(&after, 70);
            ids.extend(page.iter().map(|view| view.id.clone()));
            match page.last() {
                Some(last) if page.len() == 70 => after.clone_from(&last.id),
                _ => break,
            }
        }
        let mut expected: Vec<String> = (2..=301).map(|n| format!("live:{n}")).collect();
        expected.sort_unstable();
        assert_eq!(ids, expected);
    }

    #[test]
    fn a_robots_word_forges_no_event() {
        let robot = RobotId::new("kiwi-01").unwrap();
        let message = Arc::new(content::event(robot, stored(8)));
        let text = form(&message, Form::Sse);
        let text = std::str::from_utf8(&text).unwrap();
        assert!(
            text.starts_with("data: {\"type\":\"a\\nevent: b\","),
            "{text}"
        );
        assert_eq!(text.matches('\n').count(), 2);
    }
}
