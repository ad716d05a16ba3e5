//! Who a client certificate speaks for. TLS has proved that our authority signed it; whether it is
//! still welcome is asked here, of the store's index in memory.

use std::sync::Arc;

use lekiwi_protocol::access::{Principal, Reads};
use lekiwi_protocol::{ConsumerName, Org, RobotId, Timestamp};
use x509_parser::x509::AttributeTypeAndValue;

use crate::clock;
use crate::identity::renewal;
use crate::store::Store;
use crate::store::records::CertificateKind;

/// What was read from a client's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientCert {
    /// CN.
    pub common_name: String,
    /// O.
    pub organization: String,
    /// OU, where the subject has one.
    pub unit: Option<String>,
    /// Serial, lower-case hex without leading zeros.
    pub serial: String,
}

impl ClientCert {
    /// What a certificate in DER says; nothing where it is not one of ours.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let text = |value: Option<&AttributeTypeAndValue<'_>>| {
            value.and_then(|value| value.as_str().ok().map(str::to_owned))
        };
        let serial: String = certificate
            .raw_serial()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Some(Self {
            common_name: text(subject.iter_common_name().next())?,
            organization: text(subject.iter_organization().next()).unwrap_or_default(),
            unit: text(subject.iter_organizational_unit().next()),
            serial: serial.trim_start_matches('0').to_owned(),
        })
    }
}

/// Why a certificate is not welcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Signed by our authority, but not in its list.
    #[error("expected a certificate that this relay issued, got unknown serial {serial}")]
    Unknown {
        /// The serial.
        serial: String,
    },
    /// Taken back.
    #[error("certificate {serial} of {common_name:?} was revoked")]
    Revoked {
        /// The serial.
        serial: String,
        /// The subject's CN.
        common_name: String,
    },
    /// Over.
    #[error("certificate {serial} of {common_name:?} has expired")]
    Expired {
        /// The serial.
        serial: String,
        /// The subject's CN.
        common_name: String,
    },
    /// Of another organisation.
    #[error("expected a certificate with O={expected}, got O={actual:?}")]
    Organization {
        /// The relay's organisation.
        expected: String,
        /// The subject's O.
        actual: String,
    },
    /// The subject is not the one that the serial was issued for.
    #[error("expected certificate {serial} to name {expected:?}, got {actual:?}")]
    Subject {
        /// The serial.
        serial: String,
        /// The CN and OU on record.
        expected: String,
        /// The CN and OU presented.
        actual: String,
    },
}

/// Decides about client certificates; called once for each connection, must not block.
pub trait Authority: Send + Sync + 'static {
    /// Who `certificate` speaks for.
    ///
    /// # Errors
    /// When it is not welcome.
    fn admit(&self, certificate: &ClientCert) -> Result<Principal, Denied>;

    /// Its client was let in; called on the runtime, must not block.
    fn entered(&self, certificate: &ClientCert);

    /// What this consumer may read.
    fn reads(&self, consumer: &ConsumerName) -> Reads;
}

/// The relay's own authority: what the store has on record.
#[derive(Debug, Clone)]
pub struct StoreAuthority {
    store: Store,
    org: Org,
    source: Arc<str>,
}

impl StoreAuthority {
    /// Admits certificates of `org` that `store` knows. `source` is the relay's own name in the log.
    #[must_use]
    pub fn new(store: Store, org: Org, source: Arc<str>) -> Self {
        Self { store, org, source }
    }
}

impl Authority for StoreAuthority {
    fn entered(&self, certificate: &ClientCert) {
        let status = self.store.certificate_status(&certificate.serial);
        if status.is_some_and(|status| status.is_unused) {
            let (this, serial) = (self.clone(), certificate.serial.clone());
            tokio::spawn(async move {
                let now = Timestamp::from_ms(clock::now_ms());
                renewal::connected(&this.store, &this.source, &serial, now).await;
            });
        }
    }

    fn admit(&self, certificate: &ClientCert) -> Result<Principal, Denied> {
        let ClientCert {
            common_name,
            organization,
            unit,
            serial,
        } = certificate;
        let (serial, common_name) = (serial.clone(), common_name.clone());
        if organization != self.org.as_str() {
            return Err(Denied::Organization {
                expected: self.org.to_string(),
                actual: organization.clone(),
            });
        }
        let Some(status) = self.store.certificate_status(&serial) else {
            return Err(Denied::Unknown { serial });
        };
        let subject = |name: &str, unit: &str| format!("CN={name}, OU={unit}");
        let denied = || Denied::Subject {
            serial: serial.clone(),
            expected: subject(&status.common_name, status.kind.as_str()),
            actual: subject(&common_name, unit.as_deref().unwrap_or_default()),
        };
        if *status.common_name != *common_name || unit.as_deref() != Some(status.kind.as_str()) {
            return Err(denied());
        }
        if status.revoked {
            return Err(Denied::Revoked {
                serial,
                common_name,
            });
        }
        if status.not_after_ms <= clock::now_ms() {
            return Err(Denied::Expired {
                serial,
                common_name,
            });
        }
        match status.kind {
            CertificateKind::Robot => RobotId::new(&common_name)
                .map(Principal::Robot)
                .map_err(|_| denied()),
            CertificateKind::Consumer => common_name
                .strip_prefix("consumer:")
                .and_then(|name| ConsumerName::new(name).ok())
                .map(|name| {
                    let reads = self.store.reads(&name);
                    Principal::Consumer(name, reads)
                })
                .ok_or_else(denied),
        }
    }

    fn reads(&self, consumer: &ConsumerName) -> Reads {
        self.store.reads(consumer)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::store::records::Certificate;

    #[tokio::test]
    async fn a_certificate_is_what_is_on_record() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _commits) =
            Store::open(&dir.path().join("relay.db"), Arc::new(Metrics::default())).unwrap();
        for (serial, common_name, kind, not_after_ms) in [
            (
                "a1",
                "kiwi-01",
                CertificateKind::Robot,
                u64::from(u32::MAX) * 1_000,
            ),
            ("a2", "kiwi-01", CertificateKind::Robot, 1),
            (
                "a3",
                "consumer:ops",
                CertificateKind::Consumer,
                u64::from(u32::MAX) * 1_000,
            ),
        ] {
            let certificate = Certificate {
                serial: serial.into(),
                common_name: common_name.into(),
                kind,
                key: [0; 32],
                not_before_ms: 0,
                not_after_ms,
                revoked_ms: None,
                der: Vec::new(),
            };
            store.insert_certificate(certificate).await.unwrap();
        }
        let authority = StoreAuthority::new(store, Org::default(), "relay:r1".into());
        for (serial, common_name, unit, expected) in [
            ("a1", "kiwi-01", "robot", "Robot(kiwi-01)"),
            ("a3", "consumer:ops", "consumer", "Consumer(ops, Reads([]))"),
            (
                "a2",
                "kiwi-01",
                "robot",
                "certificate a2 of \"kiwi-01\" has expired",
            ),
            (
                "a4",
                "kiwi-01",
                "robot",
                "expected a certificate that this relay issued, got unknown serial a4",
            ),
            (
                "a1",
                "kiwi-02",
                "robot",
                "expected certificate a1 to name \"CN=kiwi-01, OU=robot\", got \"CN=kiwi-02, OU=robot\"",
            ),
            (
                "a3",
                "consumer:ops",
                "robot",
                "expected certificate a3 to name \"CN=consumer:ops, OU=consumer\", got \"CN=consumer:ops, OU=robot\"",
            ),
        ] {
            let certificate = ClientCert {
                common_name: common_name.into(),
                organization: "default".into(),
                unit: Some(unit.into()),
                serial: serial.into(),
            };
            let answer = match authority.admit(&certificate) {
                Ok(principal) => format!("{principal:?}"),
                Err(denied) => denied.to_string(),
            };
            assert_eq!(answer, expected);
        }
    }
}
