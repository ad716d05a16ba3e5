//! What a message must be before it is taken: the envelope of its topic, and what the types cannot say.
//! Pure.

use bytes::Bytes;
use lekiwi_protocol::envelope::EnvelopeError;
use lekiwi_protocol::limits::MAX_EVENTS_PER_MESSAGE;
use lekiwi_protocol::message::EventBatch;
use lekiwi_protocol::{Envelope, MessageType, RobotId};
use serde::de::DeserializeOwned;

/// Longest event type.
const MAX_KIND_BYTES: usize = 64;

/// The kind that metrics count, and what was expected and what came.
pub(super) type Refusal = (&'static str, String);

/// The message inside the envelope that its topic asks for.
pub(super) fn envelope<P: DeserializeOwned>(
    expected: MessageType,
    robot: &RobotId,
    payload: &Bytes,
) -> Result<Envelope<P>, Refusal> {
    Envelope::parse(expected, robot, payload).map_err(|error| {
        let kind = match &error {
            EnvelopeError::Oversized(_) => "oversized",
            EnvelopeError::Malformed { .. } => "malformed",
            EnvelopeError::Type { .. } => "wrong-type",
            EnvelopeError::Robot { .. } => "wrong-robot",
        };
        let reason = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        (kind, reason)
    })
}

/// What the types of an event batch cannot say.
pub(super) fn check_events(batch: &EventBatch) -> Result<(), Refusal> {
    let refuse = |reason: String| Err(("events", reason));
    if batch.events.len() > MAX_EVENTS_PER_MESSAGE {
        return refuse(format!(
            "expected at most {MAX_EVENTS_PER_MESSAGE} events, got {}",
            batch.events.len()
        ));
    }
    let mut last = 0;
    for event in &batch.events {
        if event.seq <= last || event.seq > i64::MAX as u64 {
            return refuse(format!(
                "expected ascending event numbers from 1, got {} after {last}",
                event.seq
            ));
        }
        if event.kind.is_empty() || event.kind.len() > MAX_KIND_BYTES {
            return refuse(format!(
                "expected an event type of 1 to {MAX_KIND_BYTES} bytes, got {}",
                event.kind.len()
            ));
        }
        // Nobody could read it; and not every database can keep it.
        if event.kind.contains(char::is_control) {
            return refuse(format!(
                "expected an event type without control characters, got {:?}",
                event.kind
            ));
        }
        last = event.seq;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn types_of_events_are_short_and_can_be_read() {
        let refusal = |kind: &str| {
            let batch = serde_json::json!({
                "stream": uuid::Uuid::from_u128(1),
                "ordinal": 1,
                "events": [{ "seq": 1, "type": kind, "timestamp": "2026-01-01T00:00:00.000Z", "data": {} }],
            });
            check_events(&serde_json::from_value(batch).unwrap()).map_err(|(_, reason)| reason)
        };
        assert_eq!(refusal("custom.späße"), Ok(()));
        assert_eq!(
            refusal("custom.\0"),
            Err("expected an event type without control characters, got \"custom.\\0\"".to_owned())
        );
        assert_eq!(
            refusal(""),
            Err("expected an event type of 1 to 64 bytes, got 0".to_owned())
        );
    }
}
