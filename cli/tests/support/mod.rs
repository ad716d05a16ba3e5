//! A small relay of the tests' own: real TLS, canned answers; and the program as a person runs it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

/// The answer of a relay: status, content type and body.
pub(crate) type Canned = (u16, &'static str, &'static str);

pub(crate) const JSON: &str = "application/json";
/// What it answers who logs in.
pub(crate) const SESSION: Canned = (
    200,
    JSON,
    r#"{"token":"session-1","expires_at":"2126-11-21T16:00:00.000Z"}"#,
);

/// Serves what `answer` says to `METHOD /path`, and keeps the requests as they came.
pub(crate) struct Relay {
    pub(crate) url: String,
    pub(crate) fingerprint: String,
    requests: Arc<Mutex<Vec<String>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Relay {
    pub(crate) fn start(answer: fn(&str) -> Canned) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name
            .push(DnType::CommonName, "test authority");
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        let leaf = leaf
            .signed_by(&key, &Issuer::from_params(&ca, &ca_key))
            .unwrap();
        let fingerprint = format!(
            "sha256:{}",
            hex::encode(Sha256::digest(ca_certificate.der()))
        );
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone(), ca_certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (acceptor, log) = (TlsAcceptor::from(Arc::new(tls)), Arc::clone(&requests));
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, log) = (acceptor.clone(), Arc::clone(&log));
                tokio::spawn(async move {
                    // A client that does not believe us ends the handshake: nothing to serve.
                    let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                    let request = read(&mut tls).await;
                    let line = request.lines().next().unwrap_or_default().replace(" HTTP/1.1", "");
                    log.lock().unwrap().push(request);
                    let (status, kind, body) = answer(&line);
                    let head = format!("HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    let _ = tls.write_all(format!("{head}{body}").as_bytes()).await;
                    let _ = tls.shutdown().await;
                });
            }
        });
        Self {
            url,
            fingerprint,
            requests,
            _runtime: runtime,
        }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            });
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        match stream.read(&mut piece).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&piece[..n]),
            _ => return text,
        }
    }
}

pub(crate) fn lekiwi(home: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lekiwi"))
        .args(arguments)
        .env_clear()
        .env("XDG_CONFIG_HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that fails before it reads closes its end: that is no fault of the test.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

pub(crate) fn check(output: &Output, code: i32, out: &str, err: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr)
        ),
        (Some(code), out.into(), err.into())
    );
}

pub(crate) fn login(home: &Path, relay: &Relay) {
    let arguments = [
        "login",
        &relay.url,
        "--password-file",
        "-",
        "--ca-fingerprint",
        &relay.fingerprint,
    ];
    let out = format!(
        "logged in to {}/ as admin until 2126-11-21T16:00:00.000Z\n",
        relay.url
    );
    check(
        &lekiwi(home, &arguments, "hunter2\nnot this\n"),
        0,
        &out,
        "",
    );
}
