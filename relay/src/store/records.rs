//! What the store keeps and hands out: plain rows, no behaviour. Times are milliseconds since the
//! epoch (`_ms`), ids are texts that were checked where they entered the program.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lekiwi_protocol::access::Reads;
use lekiwi_protocol::api::{EventRecord, Grant};
use lekiwi_protocol::message::SeqRange;
use lekiwi_protocol::{ConsumerName, Role, Timestamp, UserName};
use lekiwi_relay_core::policy::{Groups, Right, Source};
use uuid::Uuid;

/// What events of a relay about itself are about.
pub const RELAY: &str = "relay";
/// Start of the source of events that a relay makes. No robot's id has a colon.
pub const OWN_SOURCE: &str = "relay:";

/// An event on its way into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// What kind of thing the event is about: `robot`, later `task`, `rollout`, …
    pub aggregate_type: &'static str,
    /// Which one.
    pub aggregate_id: Arc<str>,
    /// Who numbered the event: the robot's id, or `relay` for events that the relay makes.
    pub source: Arc<str>,
    /// The numbering that `seq` belongs to.
    pub stream: Uuid,
    /// The event's number in `stream`; (source, stream, seq) is unique in the log.
    pub seq: u64,
    /// The event's type on the wire, such as `robot.connected`.
    pub kind: Arc<str>,
    /// When it happened, by its maker's clock.
    pub ts_ms: u64,
    /// When the relay took it.
    pub received_ms: u64,
    /// The payload, JSON.
    pub data: Arc<str>,
    /// Who caused it, JSON; `{}` when nothing is known.
    pub metadata: Arc<str>,
}

/// An event of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place in the log, ascending from 1; gaps are possible.
    pub position: u64,
    /// The event.
    pub event: NewEvent,
}

impl StoredEvent {
    /// The event as the HTTP interface and the live stream show it.
    #[must_use]
    pub fn record(&self) -> EventRecord {
        // Both texts were JSON when they were stored; what is not any more is shown as null.
        let json = |text: &str| serde_json::from_str(text).unwrap_or(serde_json::Value::Null);
        let mut metadata: serde_json::Value = json(&self.event.metadata);
        if let Some(fields) = metadata.as_object_mut() {
            let received_at = Timestamp::from_ms(self.event.received_ms).to_string();
            fields.insert("received_at".to_owned(), received_at.into());
        }
        EventRecord {
            position: self.position,
            aggregate_type: self.event.aggregate_type.to_owned(),
            aggregate_id: self.event.aggregate_id.to_string(),
            source: self.event.source.to_string(),
            stream: self.event.stream,
            seq: self.event.seq,
            kind: self.event.kind.to_string(),
            timestamp: Timestamp::from_ms(self.event.ts_ms),
            data: json(&self.event.data),
            metadata,
        }
    }
}

/// Numbers of one stream that are safe on disk, whether new or seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The robot to be told.
    pub source: Arc<str>,
    /// The stream.
    pub stream: Uuid,
    /// Sorted, disjoint, not adjacent.
    pub ranges: Vec<SeqRange>,
}

/// What one commit made durable. Sent once the transaction is on disk, never before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// Events that were new, in log order. Duplicates are missing here.
    pub events: Vec<StoredEvent>,
    /// What to acknowledge, duplicates included.
    pub acks: Vec<Ack>,
    /// When the transaction began and when it was on disk, nanoseconds since the epoch, where that is known.
    pub times: Option<(u64, u64)>,
}

/// One value of one metric on its way into history. A later one with the same time replaces it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSample {
    /// The robot.
    pub robot: Arc<str>,
    /// The metric, its unit in the name.
    pub metric: Arc<str>,
    /// When it was measured.
    pub ts_ms: u64,
    /// The value.
    pub value: f64,
}

/// Late samples of one robot, as one message brought them: into history, and acknowledged after the commit.
#[derive(Debug, Clone, PartialEq)]
pub struct NewBacklog {
    /// The robot.
    pub source: Arc<str>,
    /// The numbering that `seqs` belong to.
    pub stream: Uuid,
    /// The samples' numbers.
    pub seqs: Vec<u64>,
    /// What they say.
    pub samples: Vec<NewSample>,
}

/// A robot's last picture, for a fast start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The robot.
    pub robot: Arc<str>,
    /// The log position up to which events are folded into `picture`.
    pub position: u64,
    /// When it was taken.
    pub taken_ms: u64,
    /// The picture, JSON.
    pub picture: String,
}

/// A message or client that was turned away, kept for inspection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// When.
    pub at_ms: u64,
    /// The client id, or the address when there is none.
    pub client: Arc<str>,
    /// The topic or filter, empty for a refused connection.
    pub topic: Arc<str>,
    /// The stable slug that metrics count by, such as `malformed`.
    pub kind: &'static str,
    /// The full reason.
    pub reason: String,
    /// The start of the payload, cut.
    pub payload: Vec<u8>,
    /// The payload's whole length.
    pub payload_bytes: u64,
}

/// A [`Refused`] that was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// Ascending number.
    pub id: u64,
    /// When.
    pub at_ms: u64,
    /// The client id, or the address when there is none.
    pub client: String,
    /// The topic or filter, empty for a refused connection.
    pub topic: String,
    /// The stable slug that metrics count by.
    pub kind: String,
    /// The full reason.
    pub reason: String,
    /// The start of the payload, cut.
    pub payload: Vec<u8>,
    /// The payload's whole length.
    pub payload_bytes: u64,
}

/// An enrolment token. The secret itself is never stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Public name of the token.
    pub id: String,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// The profile it is bound to.
    pub profile: Option<String>,
    /// The hardware serial it is bound to.
    pub serial: Option<String>,
    /// The robot it is bound to.
    pub robot: Option<String>,
    /// When it was made.
    pub created_ms: u64,
    /// When it ends.
    pub expires_ms: u64,
    /// How many keys may use it.
    pub max_uses: u32,
    /// How many keys have used it.
    pub uses: u32,
    /// When it was first used.
    pub used_ms: Option<u64>,
    /// The robot that it let in first.
    pub used_by: Option<String>,
}

/// What became of [`Store::redeem`](super::Store::redeem).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redemption {
    /// The token had a use left: it is now bound to the key too, and the certificate is stored.
    Issued,
    /// The same key used it before: this is the certificate it got then.
    Again(Certificate),
    /// Other keys have used it up.
    UsedUp {
        /// How many there may be.
        max_uses: u32,
        /// When the last one came.
        last_ms: u64,
    },
    /// The robot has a certificate for another key, which this token may not replace.
    Taken,
    /// No such token (any more).
    Unknown,
}

/// Who a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateKind {
    /// A robot.
    Robot,
    /// A read-only broker client.
    Consumer,
}

impl CertificateKind {
    /// The stored form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Robot => "robot",
            Self::Consumer => "consumer",
        }
    }
}

/// A certificate that this relay's authority issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Serial, lower-case hex without leading zeros.
    pub serial: String,
    /// Subject CN.
    pub common_name: String,
    /// Who it is for.
    pub kind: CertificateKind,
    /// SHA-256 of its public key (SPKI).
    pub key: [u8; 32],
    /// Start of validity.
    pub not_before_ms: u64,
    /// End of validity.
    pub not_after_ms: u64,
    /// When it was revoked.
    pub revoked_ms: Option<u64>,
    /// The certificate, DER.
    pub der: Vec<u8>,
}

/// What the broker needs to know about a certificate; answered from memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateStatus {
    /// Subject CN.
    pub common_name: Arc<str>,
    /// Who it is for.
    pub kind: CertificateKind,
    /// SHA-256 of its public key (SPKI).
    pub key: [u8; 32],
    /// Begin of validity.
    pub not_before_ms: u64,
    /// End of validity.
    pub not_after_ms: u64,
    /// Whether it was revoked.
    pub revoked: bool,
    /// Whether it renews one that goes on counting until this one is used.
    pub is_unused: bool,
}

/// The certificate that a robot has in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// Its serial (lower-case hex, no leading zeros).
    pub serial: Box<str>,
    /// Begin of validity.
    pub not_before_ms: u64,
    /// End of validity; it may be over.
    pub not_after_ms: u64,
}

impl InUse {
    /// Whether less than a sixth of its life is left: a robot asks for the next one with a third left, and again and again.
    #[must_use]
    pub fn is_ending(&self, now_ms: u64) -> bool {
        let life_ms = self.not_after_ms.saturating_sub(self.not_before_ms);
        now_ms >= self.not_after_ms.saturating_sub(life_ms / 6)
    }
}

/// A certificate and its place among those of its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The certificate.
    pub certificate: Certificate,
    /// The serial of the one that it renews.
    pub renews: Option<String>,
    /// Whether it renews one and was not used yet.
    pub is_unused: bool,
    /// Whether it was revoked because another took its place.
    pub is_replaced: bool,
}

/// What came of a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// The certificate is stored.
    Issued,
    /// The same key asked before: this is the certificate it got then.
    Again(Certificate),
    /// What it was asked with counts no more.
    Ended,
    /// Too many were asked for.
    TooMany,
}

/// A person's session. The secret itself is never stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// SHA-256 of the session token.
    pub hash: [u8; 32],
    /// Who.
    pub user: String,
    /// When it was made.
    pub created_ms: u64,
    /// When it ends.
    pub expires_ms: u64,
    /// Where they logged in from; empty when an earlier relay made it.
    pub address: String,
    /// With which program, as it calls itself, cut.
    pub agent: String,
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// As whom they log in.
    pub name: UserName,
    /// When they were added; 0 when an earlier relay did.
    pub created_ms: u64,
    /// Since when they are not let in any more.
    pub disabled_ms: Option<u64>,
    /// Whether they can log in by a password.
    pub has_password: bool,
    /// Whether that takes a code of their authenticator.
    pub has_factor: bool,
    /// How many of their recovery codes are left.
    pub recovery_codes: u64,
    /// Who vouches for them, when it is not this relay.
    pub issuer: Option<String>,
    /// What they may: roles, and what was lent to them, be it over or not.
    pub rights: Vec<Right>,
}

impl Account {
    /// Whether they are an administrator of anything.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        let mut sources = self.rights.iter().map(|right| &right.source);
        sources.any(|source| matches!(source, Source::Role(Role::Admin)))
    }
}

/// Somebody for whom a provider of OpenID Connect vouches, as they log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outsider {
    /// Who vouches.
    pub issuer: String,
    /// Who it is there, for good.
    pub subject: String,
    /// As whom they log in here for the first time, when the provider calls them something that can be a name.
    pub name: Option<UserName>,
    /// What they are.
    pub roles: Vec<Grant>,
}

/// What became of an [`Outsider`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Welcome {
    /// They are let in, as whom.
    In(UserName),
    /// They are nothing here.
    NoRole,
    /// They are not let in any more.
    Disabled(UserName),
    /// They are new, and have no name that can be one.
    Nameless,
    /// They are new, and somebody else has their name.
    Taken(UserName),
}

/// All people, and groups of robots.
#[derive(Debug, Clone, Default)]
pub struct People {
    /// By name.
    pub accounts: BTreeMap<UserName, Arc<Account>>,
    /// Groups.
    pub groups: Groups,
    /// API keys, by the SHA-256 of each secret that works.
    pub keys: HashMap<[u8; 32], Arc<Key>>,
    /// What consumers may read, where it is not everything.
    pub reads: BTreeMap<ConsumerName, Reads>,
}

/// An API key. The secret itself is never stored.
#[derive(Debug)]
pub struct Key {
    /// Public name of the key.
    pub id: Uuid,
    /// Who made it.
    pub owner: UserName,
    /// What its program is called.
    pub name: String,
    /// What else its owner said of it.
    pub note: String,
    /// What it may where, and until when.
    pub right: Right,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// SHA-256 of the secret before, and until when that works.
    pub old: Option<([u8; 32], u64)>,
    /// When it was made.
    pub created_ms: u64,
    /// When it ends.
    pub expires_ms: u64,
    /// When it was shown last, give or take a minute; 0 for never.
    pub used_ms: AtomicU64,
}

/// A person's authenticator.
#[derive(Clone, PartialEq, Eq)]
pub struct Factor {
    /// The secret that it has in common with the relay.
    pub secret: Vec<u8>,
    /// Since when logins take it: when a code of it was shown.
    pub confirmed_ms: Option<u64>,
    /// The last step whose code was taken: none up to it is taken again.
    pub last_step: u64,
    /// Wrong codes since then.
    pub misses: u64,
}

/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Which one.
    pub id: String,
    /// SHA-256 of its secret.
    pub hash: [u8; 32],
    /// As whom they will log in.
    pub person: UserName,
    /// What they will be.
    pub roles: Vec<Grant>,
    /// Who invited them.
    pub inviter: UserName,
    /// Since when, milliseconds since the epoch.
    pub created_ms: u64,
    /// Until when.
    pub expires_ms: u64,
    /// When it was used.
    pub used_ms: Option<u64>,
    /// When it was taken back.
    pub revoked_ms: Option<u64>,
}

/// A person's password, as a salted slow hash in text form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Who.
    pub user: String,
    /// The hash with its salt and parameters.
    pub hash: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sixth_of_a_certificates_life_is_its_end() {
        let certificate = InUse {
            serial: "aa".into(),
            not_before_ms: 1_000,
            not_after_ms: 7_000,
        };
        for (now_ms, is_ending) in [(0, false), (5_999, false), (6_000, true), (9_000, true)] {
            assert_eq!(certificate.is_ending(now_ms), is_ending, "{now_ms}");
        }
    }
}
