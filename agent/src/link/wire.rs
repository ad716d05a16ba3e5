//! One MQTT 5 session as a state machine over two buffers: what came in, what goes out. Pure; `link` has
//! the socket. The codec is rumqttc's; its own event loop makes its sockets itself and cannot be handed
//! ours, so this is the small part of a client that a robot needs: QoS 0 and 1 out, QoS 0 in, one
//! subscription.
//!
//! Invariants: at most [`IN_FLIGHT`] QoS 1 messages are unanswered; something is said at least every
//! keep-alive, and something is heard, or a ping asks for it; a ping that nobody answers ends the session.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use lekiwi_protocol::limits::{KEEP_ALIVE, MAX_PAYLOAD_BYTES};
use lekiwi_protocol::trace::{TRACEPARENT, TraceParent};
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode, Filter,
    LastWill, Packet, PingReq, PubAck, PubAckReason, Publish, PublishProperties, Subscribe,
    SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{self, QoS};

use super::Delivery;

/// Unanswered QoS 1 messages: one bit each.
pub(super) const IN_FLIGHT: u16 = 16;
/// Room for topic and properties around the largest payload.
const MAX_PACKET_BYTES: u32 = MAX_PAYLOAD_BYTES as u32 + 4096;
/// Nothing more is taken from the driver while so much waits for the socket.
const MAX_WAITING_BYTES: usize = 128 * 1024;
/// The packet id of the one subscription; messages have 1 to [`IN_FLIGHT`].
const SUBSCRIPTION: u16 = IN_FLIGHT + 1;
/// Longest wait for the answer to a ping: two round trips of a link with two seconds of delay, and a lost
/// segment. A dead link is noticed within keep-alive and this.
const PING_PATIENCE: Duration = Duration::from_secs(10);
/// The same when there is a reason to believe that the link is dead.
const PROBE_PATIENCE: Duration = Duration::from_secs(6);
/// A deadline that is so far behind says that we were stopped, not that the broker is silent.
const ASLEEP: Duration = Duration::from_secs(3);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The broker does not take this robot.
    #[error("expected the broker to take this robot, got {0:?}")]
    Refused(ConnectReturnCode),
    /// The broker ended it.
    #[error("expected the broker to stay, but it left: {0:?}")]
    Dismissed(DisconnectReasonCode),
    /// Nothing is heard any more.
    #[error("expected an answer to a ping within {} s", .0.as_secs())]
    Silent(Duration),
    /// The broker speaks something else.
    #[error("expected MQTT 5 from the broker")]
    Malformed(#[source] mqttbytes::Error),
    /// A packet that has no place here.
    #[error("expected {0} from the broker, got another packet")]
    Unexpected(&'static str),
}

/// What the driver wants said.
#[derive(Debug)]
pub(super) enum Request {
    Publish {
        topic: String,
        payload: Vec<u8>,
        delivery: Delivery,
        trace: Option<TraceParent>,
    },
    Subscribe(String),
    /// Is anybody there?
    Probe,
    Disconnect,
}

/// What the broker said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Accepted,
    Message { topic: String, payload: Vec<u8> },
}

/// The session.
#[derive(Debug)]
pub(super) struct Wire {
    accepted: bool,
    /// A bit for each packet id that is unanswered.
    unanswered: u32,
    in_flight: u32,
    max_packet: Option<u32>,
    keep_alive: Duration,
    said: Instant,
    heard: Instant,
    /// Until when a ping must be answered, and how long that is.
    ping: Option<(Instant, Duration)>,
}

impl Wire {
    /// Begins: writes CONNECT.
    pub(super) fn open(
        now: Instant,
        client_id: String,
        will: LastWill,
        out: &mut BytesMut,
    ) -> Self {
        let mut wire = Self {
            accepted: false,
            unanswered: 0,
            in_flight: u32::from(IN_FLIGHT),
            max_packet: None,
            keep_alive: KEEP_ALIVE,
            said: now,
            heard: now,
            ping: None,
        };
        let connect = Connect {
            keep_alive: u16::try_from(KEEP_ALIVE.as_secs()).unwrap_or(u16::MAX),
            client_id,
            clean_start: true,
            properties: Some(ConnectProperties {
                max_packet_size: Some(MAX_PACKET_BYTES),
                ..ConnectProperties::new()
            }),
        };
        wire.put(now, &Packet::Connect(connect, Some(will), None), out);
        wire
    }

    /// Whether another request fits.
    pub(super) fn takes_requests(&self, out: &BytesMut) -> bool {
        self.unanswered.count_ones() < self.in_flight && out.len() < MAX_WAITING_BYTES
    }

    /// Writes a request.
    pub(super) fn handle_request(&mut self, now: Instant, request: Request, out: &mut BytesMut) {
        let packet = match request {
            Request::Publish {
                topic,
                payload,
                delivery,
                trace,
            } => {
                let (qos, retain) = match delivery {
                    Delivery::Once => (QoS::AtMostOnce, false),
                    Delivery::Acknowledged => (QoS::AtLeastOnce, false),
                    Delivery::Retained => (QoS::AtLeastOnce, true),
                };
                let mut publish = Publish::new(topic, qos, payload, None);
                publish.retain = retain;
                publish.properties = trace.map(|trace| PublishProperties {
                    user_properties: vec![(TRACEPARENT.to_owned(), trace.to_string())],
                    ..PublishProperties::default()
                });
                if qos == QoS::AtLeastOnce {
                    // The lowest free bit: `takes_requests` says that there is one.
                    let free = (!self.unanswered).trailing_zeros();
                    self.unanswered |= 1 << free;
                    publish.pkid = u16::try_from(free + 1).unwrap_or(IN_FLIGHT);
                }
                Packet::Publish(publish)
            }
            Request::Subscribe(filter) => {
                let mut subscribe = Subscribe::new(Filter::new(filter, QoS::AtMostOnce), None);
                subscribe.pkid = SUBSCRIPTION;
                Packet::Subscribe(subscribe)
            }
            Request::Probe => return self.ping(now, PROBE_PATIENCE, out),
            Request::Disconnect => {
                Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection))
            }
        };
        self.put(now, &packet, out);
    }

    /// Bytes came.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.ping = None;
    }

    /// A part of a backlog went out. Behind it, on a slow link, an answer takes its time; a dead link takes
    /// no more than its small buffer holds.
    pub(super) fn progressed(&mut self, now: Instant) {
        if let Some((until, patience)) = &mut self.ping {
            *until = now + *patience;
        }
    }

    /// Takes the next packet out of what came; `None` when there is no whole one.
    pub(super) fn next(
        &mut self,
        now: Instant,
        came: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<Heard>, SessionError> {
        loop {
            if let Some(goodbye) = short_goodbye(came) {
                return Err(goodbye);
            }
            let packet = match Packet::read(came, Some(MAX_PACKET_BYTES)) {
                Ok(packet) => packet,
                Err(mqttbytes::Error::InsufficientBytes(_)) => return Ok(None),
                Err(error) => return Err(SessionError::Malformed(error)),
            };
            if let Some(heard) = self.handle(now, packet, out)? {
                return Ok(Some(heard));
            }
        }
    }

    fn handle(
        &mut self,
        now: Instant,
        packet: Packet,
        out: &mut BytesMut,
    ) -> Result<Option<Heard>, SessionError> {
        match packet {
            Packet::ConnAck(ack) if !self.accepted => {
                if ack.code != ConnectReturnCode::Success {
                    return Err(SessionError::Refused(ack.code));
                }
                self.accepted = true;
                if let Some(limits) = ack.properties {
                    if let Some(most) = limits.receive_max {
                        self.in_flight = self.in_flight.min(u32::from(most.max(1)));
                    }
                    if let Some(seconds) = limits.server_keep_alive.filter(|s| *s > 0) {
                        let wanted = Duration::from_secs(u64::from(seconds));
                        self.keep_alive = self.keep_alive.min(wanted);
                    }
                    self.max_packet = limits.max_packet_size;
                }
                return Ok(Some(Heard::Accepted));
            }
            Packet::Disconnect(goodbye) => {
                return Err(SessionError::Dismissed(goodbye.reason_code));
            }
            _ if !self.accepted => return Err(SessionError::Unexpected("CONNACK")),
            Packet::Publish(publish) => {
                match publish.qos {
                    QoS::AtMostOnce => {}
                    QoS::AtLeastOnce => {
                        self.put(now, &Packet::PubAck(PubAck::new(publish.pkid, None)), out);
                    }
                    QoS::ExactlyOnce => return Err(SessionError::Unexpected("QoS 0")),
                }
                return Ok(Some(Heard::Message {
                    topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                    payload: publish.payload.to_vec(),
                }));
            }
            Packet::PubAck(ack) => {
                if !matches!(
                    ack.reason,
                    PubAckReason::Success | PubAckReason::NoMatchingSubscribers
                ) {
                    log::warn!("the broker refused a message: {:?}", ack.reason);
                }
                if let Some(bit) = ack.pkid.checked_sub(1).filter(|bit| *bit < IN_FLIGHT) {
                    self.unanswered &= !(1 << bit);
                }
            }
            Packet::SubAck(ack) => {
                let refused =
                    |code: &&SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Success(_));
                if let Some(code) = ack.return_codes.iter().find(refused) {
                    log::warn!("the broker refused the subscription: {code:?}");
                }
            }
            Packet::PingResp(_) => {}
            _ => return Err(SessionError::Unexpected("what answers a client")),
        }
        Ok(None)
    }

    /// When [`Self::handle_timeout`] is wanted.
    pub(super) fn poll_timeout(&self) -> Instant {
        match self.ping {
            Some((until, _)) => until,
            None => self.said.min(self.heard) + self.keep_alive,
        }
    }

    /// Pings, or gives up waiting for the answer.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        out: &mut BytesMut,
    ) -> Result<(), SessionError> {
        let at = self.poll_timeout();
        if now < at {
            return Ok(());
        }
        match self.ping {
            Some((_, patience)) if now.saturating_duration_since(at) < ASLEEP => {
                Err(SessionError::Silent(patience))
            }
            _ => {
                self.ping = None;
                self.ping(now, PING_PATIENCE, out);
                Ok(())
            }
        }
    }

    /// One ping at a time; an impatient one hurries another.
    fn ping(&mut self, now: Instant, patience: Duration, out: &mut BytesMut) {
        let until = now + patience;
        match self.ping {
            None => {
                self.ping = Some((until, patience));
                self.put(now, &Packet::PingReq(PingReq), out);
            }
            Some((sooner, _)) if sooner <= until => {}
            Some(_) => self.ping = Some((until, patience)),
        }
    }

    fn put(&mut self, now: Instant, packet: &Packet, out: &mut BytesMut) {
        self.said = now;
        if let Err(error) = packet.write(out, self.max_packet) {
            log::warn!("a message does not fit: {error}");
            if let Packet::Publish(publish) = packet
                && publish.pkid > 0
            {
                self.unanswered &= !(1 << (publish.pkid - 1));
            }
        }
    }
}

/// A DISCONNECT without properties, whose length need not be said: the codec knows the long form only.
fn short_goodbye(came: &[u8]) -> Option<SessionError> {
    let reason = match came {
        [0xE0, 0, ..] => Ok(DisconnectReasonCode::NormalDisconnection),
        [0xE0, 1, reason, ..] => DisconnectReasonCode::try_from(*reason),
        _ => return None,
    };
    Some(reason.map_or_else(SessionError::Malformed, SessionError::Dismissed))
}

#[cfg(test)]
mod tests;
