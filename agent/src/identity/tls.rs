//! TLS as this robot. Towards the broker it is kept over reconnects so that sessions are resumed: less to send, and no
//! signature to compute.
//!
//! Invariant: nobody but a thread of its own waits for a program that signs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use lekiwi_protocol::Timestamp;
use rustls::client::Resumption;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Identity, SignerError, provider};
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

/// What connections begin with.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// Whether a program signs, which takes its time.
    is_slow: bool,
}

impl Tls {
    /// Without a key, or with one that is here.
    pub(super) fn local(config: ClientConfig) -> Self {
        Self {
            config: Arc::new(config),
            is_slow: false,
        }
    }

    /// Makes `tcp` a connection with `host`.
    ///
    /// # Errors
    /// What TLS or, where it has one, the signer says.
    pub(crate) async fn connect(
        &self,
        host: ServerName<'static>,
        tcp: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let connecting = TlsConnector::from(self.config.clone()).connect(host, tcp);
        let connected = match self.is_slow {
            true => apart(connecting).await?,
            false => connecting.await,
        };
        // In its own words, without those of the TLS library around them.
        connected.map_err(|error| match SignerError::of(&error) {
            Some(signers) => io::Error::other(signers),
            None => error,
        })
    }
}

/// Does what blocks its thread in one of its own: the agent has only one to look after everything else. It is given up when
/// nobody waits for it any more.
pub(super) async fn apart<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> io::Result<T> {
    let (mut done, result) = oneshot::channel();
    let runtime = Handle::current();
    // None of the runtime's, which are few, and which it waits for at its end.
    thread::Builder::new()
        .name("signer".to_owned())
        .spawn(move || {
            let outcome = runtime.block_on(async {
                tokio::select! {
                    outcome = work => Some(outcome),
                    () = done.closed() => None,
                }
            });
            if let Some(outcome) = outcome {
                // Nobody may wait any more.
                let _ = done.send(outcome);
            }
        })?;
    result.await.map_err(io::Error::other)
}

/// The certificate shown, its authorities trusted.
fn shown(identity: &Identity, time: Arc<KnownTime>) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in &identity.authorities {
        roots.add(authority.clone())?;
    }
    let own = CertifiedKey::new(identity.chain.clone(), identity.key.for_tls()?);
    Ok(builder(time)?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))))
}

/// TLS towards the relay's HTTPS port, as this robot, with `now` as the time.
///
/// # Errors
/// When the TLS library does not take key or certificates.
pub fn https(identity: &Identity, now: Timestamp) -> Result<Tls, rustls::Error> {
    Ok(Tls {
        config: Arc::new(shown(identity, KnownTime::at(now))?),
        is_slow: identity.key.is_remote(),
    })
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
    tls: Tls,
}

impl BrokerTls {
    /// This certificate shown, those authorities trusted, `now` as the time.
    ///
    /// # Errors
    /// When the TLS library does not take key or certificates.
    pub fn config(&mut self, identity: &Identity, now: Timestamp) -> Result<Tls, rustls::Error> {
        self.time.0.store(now.as_ms(), Ordering::Relaxed);
        let Identity {
            chain, authorities, ..
        } = identity;
        if let Some(made) = &self.made
            && made.chain == *chain
            && made.authorities == *authorities
        {
            return Ok(made.tls.clone());
        }
        let mut config = shown(identity, self.time.clone())?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SERVERS);
        let tls = Tls {
            config: Arc::new(config),
            is_slow: identity.key.is_remote(),
        };
        self.made = Some(Made {
            chain: chain.clone(),
            authorities: authorities.clone(),
            tls: tls.clone(),
        });
        Ok(tls)
    }
}
