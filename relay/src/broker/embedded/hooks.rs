//! What rmqtt asks before it does anything: who may connect, publish and subscribe; and the tap
//! through which ingest gets every accepted message.
//!
//! Order of rmqtt that these hooks rely on: `ClientAuthenticate` before a session exists (so after it
//! a client id is the certificate's); `MessagePublish` before the check and without a veto (so only
//! wills, which were checked at authentication, are taken there); `MessagePublishCheckAcl` last.

use std::sync::Arc;

use async_trait::async_trait;
use lekiwi_protocol::access::{Principal, Refusal};
use lekiwi_protocol::limits::MAX_PAYLOAD_BYTES;
use lekiwi_protocol::message::Factsheet;
use lekiwi_protocol::topic::Path;
use lekiwi_protocol::{ConsumerName, Envelope, FromRobot, MessageType, RobotId, Root, Timestamp};
use lekiwi_relay_core::Link;
use lekiwi_relay_core::protect::Refusal as Limited;
use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType};
use rmqtt::types::{
    AuthResult, ConnectInfo, FromType, Id, LastWill, Publish, PublishAclResult, SubscribeAclResult,
};

use super::Clients;
use super::gate::Gate;
use crate::broker::tap::Tap;
use crate::broker::{Authority, ClientCert, Input};
use crate::clock;
use crate::metrics::Metrics;
use crate::protect::Protect;
use crate::store::records::Refused;
use crate::traces::Arrived;

/// Bytes of a refused payload that are kept for inspection.
const KEPT_PAYLOAD: usize = 512;

/// How a consumer's client id begins.
const CONSUMER: &str = "consumer:";

/// Whether a client is a consumer.
pub(super) fn is_consumer(client_id: &str) -> bool {
    client_id.starts_with(CONSUMER)
}

/// One handler for all hook types.
#[derive(Clone)]
pub(super) struct Hooks {
    pub(super) root: Root,
    pub(super) authority: Arc<dyn Authority>,
    pub(super) gate: Arc<Gate>,
    pub(super) tap: Tap,
    pub(super) clients: Arc<Clients>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) protect: Arc<Protect>,
}

fn certificate(info: &ConnectInfo) -> Option<ClientCert> {
    let cert = match info {
        ConnectInfo::V3(_, connect) => connect.cert.as_ref(),
        ConnectInfo::V5(_, connect) => connect.cert.as_ref(),
    }?;
    // The subject's text form escapes nothing, but an OU that was smuggled into another attribute
    // gains nothing either: the authority compares it with what it has on record for the serial.
    let unit = cert
        .subject
        .split(',')
        .find_map(|part| part.trim().strip_prefix("OU="));
    Some(ClientCert {
        common_name: cert.common_name.clone()?,
        organization: cert.organization.clone().unwrap_or_default(),
        unit: unit.map(str::to_owned),
        serial: cert
            .serial
            .as_deref()?
            .trim_start_matches('0')
            .to_ascii_lowercase(),
    })
}

pub(super) fn link(id: &Id) -> Link {
    Link {
        since_ms: u64::try_from(id.create_time).unwrap_or(0),
        port: id.remote_addr.map_or(0, |address| address.port()),
    }
}

impl Hooks {
    /// Who a session is. The client id was proved to be the certificate's before the session began.
    fn principal(&self, client_id: &str) -> Option<Principal> {
        if let Some(rest) = client_id.strip_prefix(CONSUMER) {
            let name = rest.split_once(':').map_or(rest, |(name, _)| name);
            let name = ConsumerName::new(name).ok()?;
            let reads = self.authority.reads(&name);
            return Some(Principal::Consumer(name, reads));
        }
        RobotId::new(client_id).ok().map(Principal::Robot)
    }

    fn refuse(
        &self,
        client: &str,
        topic: &str,
        kind: &'static str,
        reason: String,
        payload: &[u8],
    ) {
        self.metrics.refuse(kind);
        self.tap.refused(Refused {
            at_ms: clock::now_ms(),
            client: client.into(),
            topic: topic.chars().take(256).collect::<String>().into(),
            kind,
            reason,
            payload: payload[..payload.len().min(KEPT_PAYLOAD)].to_vec(),
            payload_bytes: payload.len() as u64,
        });
    }

    /// What to answer to a message that is one too many. Each of a flood is counted, and only the one that ends it is said.
    fn surplus(&self, id: &Id, is_retained: bool) -> Option<PublishAclResult> {
        let limited = self.protect.message(&id.client_id, id.remote_addr?).err()?;
        // Births, states and factsheets are said once: nobody would repeat what was refused.
        if is_retained && matches!(limited, Limited::Rate) {
            return None;
        }
        let is_over = matches!(limited, Limited::Banned { .. });
        if is_over {
            tracing::warn!(client = %id.client_id, "banned: it sends too many messages");
        }
        let reason = limited.to_string();
        Some(PublishAclResult::rejected(is_over, Some(reason.into())))
    }

    fn authenticate(&self, info: &ConnectInfo) -> Result<(), (&'static str, String)> {
        let cert = certificate(info).ok_or((
            "certificate",
            "expected a client certificate with CN and serial".to_owned(),
        ))?;
        let principal = self
            .authority
            .admit(&cert)
            .map_err(|denied| ("certificate", denied.to_string()))?;
        principal
            .may_connect_as(info.client_id())
            .map_err(|refusal| ("client-id", refusal.to_string()))?;
        if let Some(will) = info.last_will() {
            let (topic, bytes) = match &will {
                LastWill::V3(will) => (&will.topic, will.message.len()),
                LastWill::V5(will) => (&will.topic, will.message.len()),
            };
            principal
                .may_will(&self.root, topic)
                .map_err(|refusal| ("will", refusal.to_string()))?;
            if bytes > MAX_PAYLOAD_BYTES {
                return Err(("oversized", oversized(bytes)));
            }
        }
        self.authority.entered(&cert);
        Ok(())
    }

    /// Takes an accepted message. The topic was checked, so it names the robot itself.
    async fn publish(
        &self,
        client_id: &str,
        publish: &Publish,
    ) -> Result<(), (&'static str, String)> {
        let payload = &publish.payload;
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(("oversized", oversized(payload.len())));
        }
        let principal = self.principal(client_id).ok_or((
            "client-id",
            "expected a robot's or consumer's client id".to_owned(),
        ))?;
        let topic = principal
            .may_publish(&self.root, &publish.topic)
            .map_err(|refusal| (slug(&refusal), refusal.to_string()))?;
        // Only robots and consumers have certificates for this broker.
        let Path::From(robot, from) = topic.path else {
            return Ok(());
        };
        if from == FromRobot::Factsheet
            && let Ok(envelope) =
                Envelope::<Factsheet>::parse(MessageType::Factsheet, &robot, payload)
        {
            self.gate.said(&robot, (&envelope.payload).into());
        }
        let properties = publish.properties.iter();
        let said = properties.flat_map(|properties| &properties.user_properties);
        let trace = Arrived::read(said.map(|(name, value)| (&**name, &**value)));
        self.tap
            .message(Input::Message {
                robot,
                from,
                payload: payload.clone(),
                received_ms: clock::now_ms(),
                trace,
            })
            .await;
        Ok(())
    }
}

fn oversized(bytes: usize) -> String {
    format!("expected at most {MAX_PAYLOAD_BYTES} bytes, got {bytes}")
}

fn slug(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Topic(lekiwi_protocol::topic::TopicError::Version(_)) => "version",
        Refusal::Topic(_) => "topic",
        Refusal::Root { .. }
        | Refusal::Publish { .. }
        | Refusal::Relay { .. }
        | Refusal::ReadOnly(_) => "publish",
        Refusal::Will { .. } => "will",
        Refusal::Subscribe { .. } => "subscribe",
        Refusal::ClientId { .. } => "client-id",
    }
}

#[async_trait]
impl Handler for Hooks {
    async fn hook(&self, parameter: &Parameter, acc: Option<HookResult>) -> ReturnType {
        match parameter {
            Parameter::MessagePublishCheckAcl(session, publish) => {
                self.clients.heard(&session.id);
                let client = &*session.id.client_id;
                if let Some(refused) = self.surplus(&session.id, publish.retain) {
                    return (false, Some(HookResult::PublishAclResult(refused)));
                }
                let result = match self.publish(client, publish).await {
                    Ok(()) => PublishAclResult::allow(),
                    Err((kind, reason)) => {
                        self.refuse(
                            client,
                            &publish.topic,
                            kind,
                            reason.clone(),
                            &publish.payload,
                        );
                        PublishAclResult::rejected(false, Some(reason.into()))
                    }
                };
                (false, Some(HookResult::PublishAclResult(result)))
            }
            Parameter::MessagePublish(_, from, publish) => {
                if matches!(from.typ(), FromType::LastWill) {
                    let client = &*from.id.client_id;
                    if let Err((kind, reason)) = self.publish(client, publish).await {
                        self.refuse(client, &publish.topic, kind, reason, &publish.payload);
                    }
                }
                (true, acc)
            }
            Parameter::ClientAuthenticate(info) => {
                let result = match self.authenticate(info) {
                    Ok(()) => AuthResult::Allow(false, None),
                    Err((kind, reason)) => {
                        tracing::warn!(client = %info.client_id(), %reason, "connection refused");
                        self.refuse(info.client_id(), "", kind, reason, b"");
                        AuthResult::NotAuthorized
                    }
                };
                (false, Some(HookResult::AuthResult(result)))
            }
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => {
                let client = &*session.id.client_id;
                let filter = &*subscribe.topic_filter;
                let allowed = match self.principal(client) {
                    Some(principal) => principal
                        .may_subscribe(&self.root, filter)
                        .map_err(|refusal| refusal.to_string()),
                    None => Err("expected a robot's or consumer's client id".to_owned()),
                };
                let result = match allowed {
                    Ok(()) => SubscribeAclResult::new_success(subscribe.opts.qos(), None),
                    Err(reason) => {
                        self.refuse(client, filter, "subscribe", reason, b"");
                        SubscribeAclResult::new_failure(SubscribeAckReason::NotAuthorized)
                    }
                };
                (false, Some(HookResult::SubscribeAclResult(result)))
            }
            Parameter::ClientConnected(session) => {
                let received_ms = clock::now_ms();
                self.clients
                    .joined(&session.id, Timestamp::from_ms(received_ms));
                self.metrics.connected.inc();
                self.metrics.connections.set(self.clients.len());
                if let Some(Principal::Robot(robot)) = self.principal(&session.id.client_id) {
                    self.tap
                        .message(Input::Connected {
                            robot,
                            link: link(&session.id),
                            received_ms,
                        })
                        .await;
                }
                (true, acc)
            }
            Parameter::ClientDisconnected(session, _) => {
                self.clients.left(&session.id);
                self.metrics.connections.set(self.clients.len());
                if let Some(Principal::Robot(robot)) = self.principal(&session.id.client_id) {
                    let received_ms = clock::now_ms();
                    self.tap
                        .message(Input::Disconnected {
                            robot,
                            link: link(&session.id),
                            received_ms,
                        })
                        .await;
                }
                (true, acc)
            }
            Parameter::MessageDelivered(session, ..) => {
                self.clients.told(&session.id);
                self.metrics.delivered.inc();
                (true, acc)
            }
            Parameter::MessageDropped(Some(_), ..) => {
                self.metrics.broker_dropped.inc();
                (true, acc)
            }
            _ => (true, acc),
        }
    }
}
