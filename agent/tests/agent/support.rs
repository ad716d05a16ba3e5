//! An authority, an EST server and small helpers for the agent's integration tests.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cms::cert::CertificateChoices;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{CertificateSet, EncapsulatedContentInfo, SignedData, SignerInfos};
use der::asn1::{ObjectIdentifier, SetOfVec};
use der::{Any, Decode, Encode};
use lekiwi_protocol::pinned::Fingerprint;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use x509_cert::request::CertReq;

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn fingerprint(&self) -> String {
        Fingerprint::of(self.0.der()).to_string()
    }

    /// A server certificate for this machine: PEM of certificate and key, and both as DER.
    pub(crate) fn server(&self) -> (String, KeyPair, CertificateDer<'static>) {
        let params =
            CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key, certificate.der().clone())
    }

    /// A client certificate for a new key.
    pub(crate) fn client(&self, common_name: &str) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let certificate = client_params(common_name).signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key)
    }

    /// The same for a certificate that ends so long from now.
    pub(crate) fn ending(&self, common_name: &str, left: Duration) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = client_params(common_name);
        let end = Duration::from_millis(lekiwi_agent::clock::wall().as_ms()) + left;
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + end;
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key)
    }

    /// Signs the key of a PKCS#10 request as `common_name`.
    pub(crate) fn sign(&self, request: &[u8], common_name: &str) -> CertificateDer<'static> {
        let request = CertReq::from_der(request).unwrap();
        let key = P256(
            request
                .info
                .public_key
                .subject_public_key
                .raw_bytes()
                .to_vec(),
        );
        let params = client_params(common_name);
        params.signed_by(&key, &self.0).unwrap().der().clone()
    }
}

/// A public key of a request.
struct P256(Vec<u8>);

impl PublicKeyData for P256 {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

fn client_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
        .distinguished_name
        .push(DnType::OrganizationName, "default");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// Base64 of a certs-only PKCS#7.
pub(crate) fn certs_only(certificates: &[CertificateDer<'_>]) -> String {
    let choice = |der: &CertificateDer<'_>| {
        CertificateChoices::Certificate(x509_cert::Certificate::from_der(der).unwrap())
    };
    let set = SetOfVec::try_from(certificates.iter().map(choice).collect::<Vec<_>>()).unwrap();
    let signed = SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::default(),
        encap_content_info: EncapsulatedContentInfo {
            econtent_type: ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1"),
            econtent: None,
        },
        certificates: Some(CertificateSet(set)),
        crls: None,
        signer_infos: SignerInfos(SetOfVec::default()),
    };
    let content = ContentInfo {
        content_type: ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2"),
        content: Any::encode_from(&signed).unwrap(),
    };
    STANDARD.encode(content.to_der().unwrap())
}

/// What the EST server does with a request.
pub(crate) enum Answer {
    /// Answers with this status and body.
    Say(u16, String),
    /// Signs the request as this robot.
    Sign(String),
    /// Closes the connection after it read the request, as a relay that dies does.
    Die,
}

/// One request as the server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// An EST server on a free port of 127.0.0.1. `cacerts` is always answered; `simpleenroll` by the next
/// of `answers`.
pub(crate) struct Est {
    pub(crate) port: u16,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
}

impl Est {
    pub(crate) async fn start(
        tls_of: &Authority,
        authority: Arc<Authority>,
        answers: impl IntoIterator<Item = Answer>,
    ) -> Self {
        let (_, key, leaf) = tls_of.server();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf, tls_of.der()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, mut answers) = (seen.clone(), answers.into_iter().collect::<VecDeque<_>>());
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(tcp).await else {
                    continue;
                };
                let mut bytes = Vec::new();
                let (head, body) = loop {
                    let mut chunk = [0; 4096];
                    let count = stream.read(&mut chunk).await.unwrap_or(0);
                    assert!(count > 0, "the request ended early");
                    bytes.extend_from_slice(&chunk[..count]);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else {
                        continue;
                    };
                    let length = head
                        .lines()
                        .find_map(|line| {
                            line.to_lowercase()
                                .strip_prefix("content-length: ")
                                .map(str::to_owned)
                        })
                        .map_or(0, |n| n.parse::<usize>().unwrap());
                    if body.len() >= length {
                        break (head.to_owned(), body.as_bytes().to_vec());
                    }
                };
                let body = STANDARD.decode(body).unwrap();
                log.lock().unwrap().push(Seen {
                    head: head.clone(),
                    body: body.clone(),
                });
                let (status, text) = if head.starts_with("GET /.well-known/est/cacerts ") {
                    (200, certs_only(&[authority.der()]))
                } else {
                    assert!(
                        head.starts_with("POST /.well-known/est/simpleenroll "),
                        "{head}"
                    );
                    match answers.pop_front().expect("no more enrolments expected") {
                        Answer::Say(status, text) => (status, text),
                        Answer::Sign(name) => (200, certs_only(&[authority.sign(&body, &name)])),
                        Answer::Die => continue,
                    }
                };
                let answer = format!(
                    "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                    text.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { port, seen }
    }
}

/// Waits until `condition` holds; fails with `what` after 20 s.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let patience = tokio::time::timeout(Duration::from_secs(20), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(patience.await.is_ok(), "never happened: {what}");
}

/// A configuration file in `folder`.
pub(crate) fn write_config(
    folder: &Path,
    robot: &str,
    https: u16,
    mqtt: u16,
    fingerprint: &str,
) -> std::path::PathBuf {
    let path = folder.join("agent.yml");
    let folder = folder.display();
    let text = format!(
        "version: 1\nrobot_id: {robot}\nprofile: lekiwi\nrelay:\n  https: https://127.0.0.1:{https}\n  \
         mqtt: mqtts://127.0.0.1:{mqtt}\n  last_resort: false\n  ca_fingerprint: {fingerprint}\nenrolment:\n  token_file: {folder}/token\n\
         state_dir: {folder}/state\nsocket: {folder}/agent.sock\nheartbeat_s: 1\ndiscovery: {{mdns: false}}\ntelemetry:\n  sample_s: 1\n  # A busy test machine is no alert.\n  \
         metrics: {{cpu_percent: {{alert_above: 1000}}, memory_percent: {{alert_above: 1000}}, \
         disk_percent: {{alert_above: 1000}}}}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}
