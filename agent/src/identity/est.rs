//! EST (RFC 7030) over TLS: `cacerts`, `simpleenroll` and `simplereenroll`, one connection each, bounded in time and size.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cms::cert::CertificateChoices;
use cms::content_info::ContentInfo;
use cms::signed_data::SignedData;
use der::{Decode, Encode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::Problem;
use lekiwi_protocol::pinned::{Fingerprint, Verifier};
use rustls_pki_types::{CertificateDer, ServerName};

use super::tls::Tls;
use super::{CertificateError, Identity, IdentityError, SignerError, provider, tls};
use crate::config::Address;
use crate::dial::Dialer;

/// Longest time for one request, connection included.
const PATIENCE: Duration = Duration::from_secs(15);
const CACERTS: &str = "/.well-known/est/cacerts";
/// Largest answer; a certificate is about 600 bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Why the robot was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No token to enrol with.
    #[error("expected a one-time enrolment token in {}", path.display())]
    NoToken {
        /// Where it should lie.
        path: std::path::PathBuf,
        /// Why it was not read.
        #[source]
        source: io::Error,
    },
    /// Nobody answers.
    #[error("expected a relay at {address}")]
    Unreachable {
        /// Where.
        address: Address,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("expected an answer of the relay at {0} within {seconds} s", seconds = PATIENCE.as_secs())]
    Slow(Address),
    /// The relay answered with another authority than the image was made for.
    #[error("expected a relay whose authority has fingerprint {expected}, got {actual}")]
    WrongAuthority {
        /// The configured one.
        expected: Fingerprint,
        /// The one that was shown.
        actual: Fingerprint,
    },
    /// The connection or its certificate is wrong in another way.
    #[error("expected a trustworthy relay at {address}")]
    Untrusted {
        /// Where.
        address: Address,
        /// What TLS found.
        #[source]
        source: io::Error,
    },
    /// The relay said no.
    #[error("the relay refused the enrolment: {reason}")]
    Refused {
        /// The stable name of the reason.
        slug: String,
        /// In the relay's words.
        reason: String,
        /// What the relay says to do.
        hint: Option<String>,
    },
    /// The relay has a problem of its own.
    #[error("the relay could not answer: {0}")]
    Relay(String),
    /// An answer that EST does not have.
    #[error("expected {expected} as the answer to {path}, got {actual}")]
    BadAnswer {
        /// The request.
        path: &'static str,
        /// What should come.
        expected: &'static str,
        /// What came.
        actual: String,
    },
    /// The new certificate is not the one that was asked for.
    #[error("the relay issued a certificate that is of no use")]
    BadCertificate(#[source] CertificateError),
    /// The program that has the robot's key does not sign.
    #[error("the robot's key is of no use")]
    Signer(#[from] SignerError),
    /// Key or certificates cannot be kept.
    #[error("the robot's key and certificate cannot be kept")]
    Store(#[source] IdentityError),
}

impl EnrolError {
    /// Whether the same request may work later without anybody doing anything.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Slow(_) | Self::Relay(_)
        )
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let make = "make a new one with `lekiwi token create`";
        Some(match self {
            Self::NoToken { path, .. } => {
                format!("{make} and write it into {}", path.display())
            }
            Self::Unreachable { .. } | Self::Slow(_) => {
                "is the relay running, and relay.https right?".to_owned()
            }
            Self::WrongAuthority { .. } => {
                "if the relay was set up anew, put its new fingerprint into \
                 relay.ca_fingerprint; otherwise somebody else answers at its address"
                    .to_owned()
            }
            Self::Untrusted { .. } => {
                "the relay's certificate must name the host in relay.https, and be valid now"
                    .to_owned()
            }
            Self::Signer(_) => {
                "identity.signer is the program that signs; `lekiwi-agent doctor` tries it"
                    .to_owned()
            }
            Self::Refused { slug, hint, .. } => match (slug.as_str(), hint) {
                (_, Some(hint)) => hint.clone(),
                ("token-expired", None) => format!("tokens live 24 h; {make}"),
                ("token-used", None) => format!("each token is good for one robot; {make}"),
                ("token-unknown", None) => format!("the token is not of this relay; {make}"),
                ("token-wrong-serial" | "token-wrong-robot", None) => {
                    format!("the token was made for another robot; {make}")
                }
                _ => return None,
            },
            _ => return None,
        })
    }
}

/// One relay's EST endpoints.
pub(super) struct Client {
    address: Address,
    dialer: Dialer,
    expected: Fingerprint,
    /// Where only the pinned authority is known.
    verifier: Option<Arc<Verifier>>,
    tls: Tls,
}

/// What a relay answered, and the certificates that it showed, its own first.
struct Answer {
    status: StatusCode,
    body: Bytes,
    shown: Vec<CertificateDer<'static>>,
}

impl Client {
    pub(super) fn new(
        address: Address,
        proxy: Option<Address>,
        expected: Fingerprint,
        now: Timestamp,
    ) -> Result<Self, EnrolError> {
        let verifier = Arc::new(Verifier::new(Some(expected), provider()));
        let tls = tls::builder(tls::KnownTime::at(now))
            .map_err(|error| EnrolError::Untrusted {
                address: address.clone(),
                source: io::Error::other(error),
            })?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        Ok(Self {
            address,
            dialer: Dialer::new(proxy),
            expected,
            verifier: Some(verifier),
            tls: Tls::local(tls),
        })
    }

    /// One that shows a certificate, and trusts whom it trusts, by `tls`.
    pub(super) fn known(
        address: Address,
        proxy: Option<Address>,
        expected: Fingerprint,
        tls: Tls,
    ) -> Self {
        Self {
            address,
            dialer: Dialer::new(proxy),
            expected,
            verifier: None,
            tls,
        }
    }

    /// All authorities that the relay knows of, and the certificates that it showed, its own first.
    pub(super) async fn authorities(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>), EnrolError> {
        self.certificates(CACERTS, Method::GET, None, String::new())
            .await
    }

    /// The one of `certificates` with the pinned fingerprint.
    pub(super) fn pinned(
        &self,
        certificates: &[CertificateDer<'static>],
    ) -> Result<CertificateDer<'static>, EnrolError> {
        let pinned = |c: &CertificateDer<'_>| Fingerprint::of(c) == self.expected;
        match certificates.iter().position(pinned) {
            Some(index) => Ok(certificates[index].clone()),
            None => Err(EnrolError::WrongAuthority {
                expected: self.expected,
                actual: certificates
                    .first()
                    .map_or(Fingerprint([0; 32]), Fingerprint::of),
            }),
        }
    }

    /// The certificates for a request in DER.
    pub(super) async fn enrol(
        &self,
        robot: &str,
        token: &str,
        request: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, EnrolError> {
        let credentials = format!("Basic {}", STANDARD.encode(format!("{robot}:{token}")));
        let path = "/.well-known/est/simpleenroll";
        let body = STANDARD.encode(request);
        let issued = self.certificates(path, Method::POST, Some(credentials), body);
        Ok(issued.await?.0)
    }

    /// The same, by the certificate that is shown.
    pub(super) async fn reenrol(
        &self,
        request: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, EnrolError> {
        let path = "/.well-known/est/simplereenroll";
        let issued = self.certificates(path, Method::POST, None, STANDARD.encode(request));
        Ok(issued.await?.0)
    }

    /// Those of the answer, and those that were shown.
    async fn certificates(
        &self,
        path: &'static str,
        method: Method,
        credentials: Option<String>,
        body: String,
    ) -> Result<(Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>), EnrolError> {
        let exchange = self.exchange(path, method, credentials, body);
        let Answer {
            status,
            body,
            shown,
        } = tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| EnrolError::Slow(self.address.clone()))??;
        if status != StatusCode::OK {
            return Err(refusal(path, status, &body));
        }
        let certificates = certs_only(&body).ok_or_else(|| EnrolError::BadAnswer {
            path,
            expected: "base64 of a certs-only PKCS#7",
            actual: format!("{} other bytes", body.len()),
        })?;
        Ok((certificates, shown))
    }

    async fn exchange(
        &self,
        path: &'static str,
        method: Method,
        credentials: Option<String>,
        body: String,
    ) -> Result<Answer, EnrolError> {
        let unreachable = |source| EnrolError::Unreachable {
            address: self.address.clone(),
            source,
        };
        let tcp = self.dialer.dial(&self.address).await;
        let tcp = tcp.map_err(|error| unreachable(error.into()))?;
        let name = ServerName::try_from(self.address.host.clone())
            .map_err(|error| unreachable(io::Error::other(error)))?;
        let stream = self.tls.connect(name, tcp).await.map_err(|source| {
            if let Some(error) = SignerError::of(&source) {
                return error.into();
            }
            let shown = self.verifier.as_ref().and_then(|known| known.take_shown());
            match (shown, source.kind()) {
                (Some(actual), _) => EnrolError::WrongAuthority {
                    expected: self.expected,
                    actual,
                },
                (None, io::ErrorKind::InvalidData) => EnrolError::Untrusted {
                    address: self.address.clone(),
                    source,
                },
                (None, _) => unreachable(source),
            }
        })?;
        let shown = stream.get_ref().1.peer_certificates();
        let shown = shown.map_or_else(Vec::new, |chain| {
            chain
                .iter()
                .map(|certificate| certificate.clone().into_owned())
                .collect()
        });
        let broken = |error: hyper::Error| unreachable(io::Error::other(error));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(
                USER_AGENT,
                concat!("lekiwi-agent/", env!("CARGO_PKG_VERSION")),
            );
        if !body.is_empty() {
            request = request
                .header(CONTENT_TYPE, "application/pkcs10")
                .header("Content-Transfer-Encoding", "base64");
        }
        if let Some(credentials) = credentials {
            request = request.header(AUTHORIZATION, credentials);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unreachable(io::Error::other(error)))?;
        // Joined, not spawned: when this future is dropped, the connection is.
        let answer = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
                .collect()
                .await
                .map_err(|error| unreachable(io::Error::other(error)))?;
            Ok(Answer {
                status,
                body: body.to_bytes(),
                shown,
            })
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            ended = connection => {
                ended.map_err(broken)?;
                answer.await
            }
        }
    }
}

/// Whether the relay at `address` answers, by `proxy` where there is one, and shows the `expected` authority, or where it
/// shows another, one that `identity` trusts as well. Asks for nothing else.
///
/// # Errors
/// What [`enrol`](super::enrol) would meet as well.
pub async fn probe(
    address: &Address,
    proxy: Option<&Address>,
    expected: Fingerprint,
    identity: Option<&Identity>,
    now: Timestamp,
) -> Result<(), EnrolError> {
    let client = Client::new(address.clone(), proxy.cloned(), expected, now)?;
    let named = client.authorities().await;
    match (named, identity.map(|identity| tls::https(identity, now))) {
        (Ok((named, _)), _) => client.pinned(&named).map(|_| ()),
        // The fleet has moved to another root, and this robot with it.
        (Err(wrong @ EnrolError::WrongAuthority { .. }), Some(Ok(tls))) => {
            let known = Client::known(address.clone(), proxy.cloned(), expected, tls);
            known.authorities().await.map(|_| ()).map_err(|_| wrong)
        }
        (Err(error), _) => Err(error),
    }
}

fn refusal(path: &'static str, status: StatusCode, body: &[u8]) -> EnrolError {
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        return EnrolError::BadAnswer {
            path,
            expected: "200 or a problem document",
            actual: status.to_string(),
        };
    };
    let reason = problem.detail.unwrap_or(problem.title);
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return EnrolError::Relay(reason);
    }
    EnrolError::Refused {
        slug: problem
            .problem_type
            .rsplit(':')
            .next()
            .unwrap_or_default()
            .to_owned(),
        reason,
        hint: problem.hint,
    }
}

/// The certificates in a base64 PKCS#7 without signers; `None` when it is something else.
#[must_use]
pub fn certs_only(body: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let text: Vec<u8> = body
        .iter()
        .copied()
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    let content = ContentInfo::from_der(&STANDARD.decode(text).ok()?).ok()?;
    let signed: SignedData = content.content.decode_as().ok()?;
    let certificates = signed.certificates?.0.into_vec();
    let der = |choice: CertificateChoices| match choice {
        CertificateChoices::Certificate(certificate) => {
            certificate.to_der().ok().map(CertificateDer::from)
        }
        CertificateChoices::Other(_) => None,
    };
    let certificates: Vec<_> = certificates.into_iter().map(der).collect::<Option<_>>()?;
    (!certificates.is_empty()).then_some(certificates)
}
