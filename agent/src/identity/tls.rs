//! TLS as this robot. Towards the broker it is kept over reconnects so that sessions are resumed: less to send, and no
//! signature to compute. No IO.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lekiwi_protocol::Timestamp;
use rustls::client::Resumption;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::{Identity, provider};
use crate::clock::unix_time;

/// What TLS calls MQTT (ALPN). By it a relay tells MQTT from HTTPS where both come by one port.
const PROTOCOL: &[u8] = b"mqtt";
/// Servers whose sessions are kept.
const SERVERS: usize = 8;

/// The time that certificates are judged by, as it was last told: a handshake takes seconds.
#[derive(Debug, Default)]
pub(super) struct KnownTime(AtomicU64);

impl KnownTime {
    pub(super) fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(now.as_ms())))
    }
}

impl TimeProvider for KnownTime {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Timestamp::from_ms(self.0.load(Ordering::Relaxed));
        Some(unix_time(now))
    }
}

pub(super) fn builder(
    time: Arc<KnownTime>,
) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_details(provider(), time).with_safe_default_protocol_versions()
}

/// The certificate shown, its authorities trusted.
fn shown(identity: &Identity, time: Arc<KnownTime>) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in &identity.authorities {
        roots.add(authority.clone())?;
    }
    let key = PrivateKeyDer::Pkcs8(identity.key.clone_key());
    builder(time)?
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.chain.clone(), key)
}

/// TLS towards the relay's HTTPS port, as this robot, with `now` as the time.
///
/// # Errors
/// When the TLS library does not take key or certificates.
pub fn https(identity: &Identity, now: Timestamp) -> Result<ClientConfig, rustls::Error> {
    shown(identity, KnownTime::at(now))
}

/// The configuration for an identity, for as long as that stays the same.
#[derive(Debug, Default)]
pub struct BrokerTls {
    time: Arc<KnownTime>,
    made: Option<Made>,
}

#[derive(Debug)]
struct Made {
    chain: Vec<CertificateDer<'static>>,
    authorities: Vec<CertificateDer<'static>>,
    config: Arc<ClientConfig>,
}

impl BrokerTls {
    /// This certificate shown, those authorities trusted, `now` as the time.
    ///
    /// # Errors
    /// When the TLS library does not take key or certificates.
    pub fn config(
        &mut self,
        identity: &Identity,
        now: Timestamp,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        self.time.0.store(now.as_ms(), Ordering::Relaxed);
        let Identity {
            chain, authorities, ..
        } = identity;
        if let Some(made) = &self.made
            && made.chain == *chain
            && made.authorities == *authorities
        {
            return Ok(made.config.clone());
        }
        let mut config = shown(identity, self.time.clone())?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SERVERS);
        let config = Arc::new(config);
        self.made = Some(Made {
            chain: chain.clone(),
            authorities: authorities.clone(),
            config: config.clone(),
        });
        Ok(config)
    }
}
