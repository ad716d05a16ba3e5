//! Accepts HTTPS connections. A client that is slow or silent costs one bounded connection and never
//! holds up another: the handshake runs in the connection's own task, with a time limit, and so do
//! headers and bodies.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use lekiwi_relay_core::protect::Port;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::extract::Peer;
use super::passage::{Greeted, Rewound};
use crate::broker::ClientCert;
use crate::identity::server::ServerIdentity;
use crate::protect::Protect;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to the first request, and for the headers of each.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEADER_BYTES: u32 = 16 * 1024;
const MAX_STREAMS: u32 = 64;
/// What the kernel keeps beyond what is on its way. More would wait there and grow old, where nothing overtakes it and
/// nobody sees that the client is slow.
const MAX_NOT_SENT: u32 = 16 * 1024;
/// Pause after an accept that failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The server's side of TLS: TLS 1.3, and 1.2 only where asked for. Who has a certificate of the relay's own
/// authority may show it, and who shows another is sent away.
///
/// # Errors
/// When key and certificate do not fit.
pub fn tls(identity: &ServerIdentity, allow_tls12: bool) -> Result<ServerConfig, rustls::Error> {
    let versions: &[&rustls::SupportedProtocolVersion] = if allow_tls12 {
        &[&TLS13, &TLS12]
    } else {
        &[&TLS13]
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut authorities = RootCertStore::empty();
    for authority in &identity.of_clients {
        authorities.add(authority.clone())?;
    }
    let robots =
        WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(robots)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Listens on `address`, for [`serve`] on the runtime `serving`.
///
/// # Errors
/// When the address is taken, or none of this machine.
pub fn listen(address: SocketAddr, serving: &Handle) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let _entered = serving.enter();
    TcpListener::from_std(listener)
}

/// Serves `router` on `listener` until `stopping`; then takes no more, lets running requests end for at
/// most `drain`, and returns. Clients that want MQTT are handed to the broker at `mqtt`, once that is known.
pub async fn serve(
    listener: TcpListener,
    tls: ServerConfig,
    router: Router,
    mqtt: Arc<OnceLock<SocketAddr>>,
    protect: Arc<Protect>,
    stopping: CancellationToken,
    drain: Duration,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                // Whoever is refused here has cost nothing yet, and sees that the connection ends.
                let Ok(place) = protect.enter(Port::Https, address.ip()) else {
                    continue;
                };
                let visit = Visit {
                    address,
                    protect: protect.clone(),
                    stopping: stopping.clone(),
                };
                let (acceptor, router, mqtt) = (acceptor.clone(), router.clone(), mqtt.clone());
                tasks.spawn(async move {
                    let greeted = tokio::select! {
                        () = visit.stopping.cancelled() => return,
                        greeted = visit.greet(stream) => greeted,
                    };
                    match greeted {
                        None => {}
                        Some(greeted) if greeted.is_mqtt => {
                            drop(place);
                            if let Some(&mqtt) = mqtt.get() {
                                visit.hand_on(greeted, mqtt).await;
                            }
                        }
                        Some(greeted) => {
                            let stream = greeted.rewound();
                            visit.connection(stream, &acceptor, router).await;
                        }
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
        tracing::warn!(
            connections = tasks.len(),
            "cut connections that did not end in time"
        );
    }
}

/// One connection.
struct Visit {
    address: SocketAddr,
    protect: Arc<Protect>,
    stopping: CancellationToken,
}

impl Visit {
    fn offence(&self, reason: &'static str) {
        self.protect.offence(self.address.ip(), reason);
    }

    /// What the client says first, if it does so in time.
    async fn greet(&self, stream: TcpStream) -> Option<Greeted> {
        let address = self.address;
        // Only a matter of latency; a socket that refuses it still works.
        let _ = stream.set_nodelay(true);
        let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(MAX_NOT_SENT);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, Greeted::read(stream)).await {
            Ok(Ok(greeted)) => Some(greeted),
            Ok(Err(error)) => {
                // Agents and browsers try several addresses at once, and hang up on all but the first.
                let gone = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
                if !gone.contains(&error.kind()) {
                    self.offence("handshake");
                }
                tracing::debug!(%address, %error, "no TLS began");
                None
            }
            Err(_) => {
                self.offence("silence");
                tracing::debug!(%address, "TLS began too late");
                None
            }
        }
    }

    async fn hand_on(&self, greeted: Greeted, mqtt: SocketAddr) {
        let address = self.address;
        let Ok(_place) = self.protect.enter(Port::Passage, address.ip()) else {
            return tracing::warn!(%address, "too many clients want MQTT by the port of HTTPS");
        };
        let behind = |local| self.protect.passage(local, address.ip());
        let outcome = tokio::select! {
            () = self.stopping.cancelled() => return,
            outcome = greeted.hand_to(mqtt, behind) => outcome,
        };
        if let Err(error) = outcome {
            tracing::debug!(%address, %error, "the connection to the broker ended");
        }
    }

    async fn connection(&self, stream: Rewound, acceptor: &TlsAcceptor, router: Router) {
        let (address, stopping) = (self.address, &self.stopping);
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
        let stream = tokio::select! {
            () = stopping.cancelled() => return,
            outcome = handshake => match outcome {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    self.offence("handshake");
                    return tracing::debug!(%address, %error, "TLS handshake failed");
                }
                Err(_) => {
                    self.offence("silence");
                    return tracing::debug!(%address, "TLS handshake took too long");
                }
            }
        };
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEADER_BYTES as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_concurrent_streams(MAX_STREAMS);
        // Neither version of HTTP limits the time to the first request by itself.
        let begun = CancellationToken::new();
        let begins = begun.clone();
        let (protect, ip) = (self.protect.clone(), address.ip());
        let begin = axum::middleware::from_fn(move |request: Request, next: Next| {
            begins.cancel();
            let protect = protect.clone();
            async move {
                // A dashboard whose session ended asks on; whoever tries a credential posts it.
                let tries = request.method() == Method::POST;
                let response = next.run(request).await;
                let denied = [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS];
                if tries && denied.contains(&response.status()) {
                    protect.offence(ip, "login");
                }
                response
            }
        });
        let peer = Peer(ip.to_canonical());
        let mut router = router.layer(Extension(peer));
        if let Some(shown) = shown(&stream) {
            router = router.layer(Extension(Arc::new(shown)));
        }
        let service = TowerToHyperService::new(router.layer(begin));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let silent = async {
            let waited = tokio::time::timeout(HEADER_TIMEOUT, begun.cancelled()).await;
            if waited.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = silent => {
                self.offence("silence");
                return tracing::debug!(%address, "no request came");
            }
            () = stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%address, %error, "connection ended");
        }
    }
}

/// The certificate that the client has shown, and TLS has proved to be its own and of our authority.
fn shown(stream: &TlsStream<Rewound>) -> Option<ClientCert> {
    let (_, session) = stream.get_ref();
    ClientCert::read(session.peer_certificates()?.first()?)
}
