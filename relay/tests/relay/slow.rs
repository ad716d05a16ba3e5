//! Clients that say a byte a second, wherever they can begin: the relay ends each of them in its time, serves others
//! meanwhile, and gives one address no more of its places than its own.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::iter::repeat;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use lekiwi_relay::clock;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::common::{Relay, certificate, request, wait_for};
use crate::limits::{connect, health, start};

/// What busy machines may add to a deadline.
const SLACK_S: u64 = 6;
/// The address that they come from.
const SLOW: &str = "127.0.0.2";
/// A body that is announced and never comes whole.
const BODY: &str = "Host: a\r\nContent-Length: 60000\r\n";

/// How long the relay had patience with somebody, and what it said in the end.
struct Ended {
    after: Duration,
    heard: String,
}

/// Says a byte a second, and nothing once there are no more, until the relay hangs up.
fn trickle(mut stream: impl Read + Write, mut bytes: impl Iterator<Item = u8>) -> Ended {
    let begun = clock::monotonic();
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        // Whether that still arrives is seen by reading.
        let _ = bytes.next().map(|byte| stream.write_all(&[byte]));
        let _ = stream.flush();
        let after = clock::monotonic().duration_since(begun);
        match stream.read(&mut buffer) {
            Ok(read @ 1..) => heard.extend_from_slice(&buffer[..read]),
            // Nothing came within the second that the socket waits.
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {}
            Ok(0) | Err(_) => {
                let heard = String::from_utf8_lossy(&heard).into_owned();
                return Ended { after, heard };
            }
        }
        assert!(after < Duration::from_secs(60), "nobody ended it");
    }
}

fn slow_socket(to: &str) -> TcpStream {
    let stream = connect(SLOW, to);
    let second = Some(Duration::from_secs(1));
    stream.set_read_timeout(second).expect("a timeout");
    stream
}

/// A client's side of TLS, with a robot's certificate where it has one.
fn tls(relay: &Relay, identity: Option<(&str, &str)>) -> ClientConnection {
    let pem = fs::read(relay.ca()).expect("the authority");
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(&pem) {
        roots.add(authority.expect("PEM")).expect("an authority");
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes());
            let chain = chain.collect::<Result<_, _>>().expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            let config = builder.with_client_auth_cert(chain, key);
            config.expect("a certificate and its key")
        }
    };
    let name = "localhost".try_into().expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client")
}

/// Somebody who says `at_once`, and then a byte a second: who, after how many seconds they are let go at most, and what ended.
type Case = (&'static str, u64, JoinHandle<Ended>);

/// Over HTTPS.
fn asks(
    relay: &Relay,
    who: &'static str,
    at_most_s: u64,
    identity: Option<(&str, &str)>,
    at_once: String,
) -> Case {
    let mut stream = StreamOwned::new(tls(relay, identity), slow_socket(&relay.https));
    let task = std::thread::spawn(move || {
        stream.write_all(at_once.as_bytes()).expect("a connection");
        stream.flush().expect("a connection");
        trickle(stream, repeat(b' '))
    });
    (who, at_most_s, task)
}

#[test]
fn whoever_says_a_byte_a_second_is_let_go_in_time_and_holds_up_nobody() {
    let relay = start("{ connections_per_address: 10, ban_s: 0, trusted: [127.0.0.1] }");
    let session = relay.log_in();
    let (key, csr) = request(relay.data.path(), "kiwi-01", "/CN=kiwi-01/OU=lekiwi");
    let enrolled = relay.enrol("kiwi-01", &relay.token(&[]), &csr);
    assert_eq!(enrolled.status, 200, "{}", enrolled.body);
    let own = certificate(&enrolled.body);
    let key = fs::read_to_string(key).expect("a key");
    let robot = Some((own.as_str(), key.as_str()));

    let json = format!("{BODY}Content-Type: application/json\r\n");
    let head = "GET /health HTTP/1.1\r\nHost: a\r\n";
    let upload = "/api/v1/robots/kiwi-01/logs/00000000-0000-4000-8000-000000000000";
    let chunked =
        "Host: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nea60\r\n";
    let is_known = format!("Authorization: Bearer {session}\r\n");
    let mut cases = vec![
        asks(&relay, "head", 10, None, format!("{head}X-A: ")),
        asks(
            &relay,
            "second head",
            10,
            None,
            format!("{head}\r\n{head}X-A: "),
        ),
        asks(
            &relay,
            "WebSocket",
            10,
            None,
            format!(
                "GET /api/v1/ws HTTP/1.1\r\nHost: a\r\n{is_known}Connection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
            ),
        ),
        asks(
            &relay,
            "login",
            15,
            None,
            format!("POST /api/v1/session HTTP/1.1\r\n{json}\r\n"),
        ),
        asks(
            &relay,
            "login in chunks",
            15,
            None,
            format!("POST /api/v1/session HTTP/1.1\r\n{chunked}"),
        ),
        asks(
            &relay,
            "form",
            15,
            None,
            format!(
                "POST /login HTTP/1.1\r\n{BODY}Content-Type: application/x-www-form-urlencoded\r\n\r\n"
            ),
        ),
        asks(
            &relay,
            "enrolment",
            15,
            None,
            format!(
                "POST /.well-known/est/simpleenroll HTTP/1.1\r\n{BODY}Content-Type: application/pkcs10\r\n\
                 Authorization: Basic a2l3aS0wMjpsa3RfQUFBQQ==\r\n\r\n"
            ),
        ),
        asks(
            &relay,
            "upload",
            15,
            robot,
            format!(
                "PATCH {upload} HTTP/1.1\r\n{BODY}Content-Type: application/offset+octet-stream\r\n\r\n"
            ),
        ),
    ];
    // A first message of TLS that never becomes whole, and an answer to the relay's that does not.
    let mut https = slow_socket(&relay.https);
    cases.push((
        "TLS",
        10,
        std::thread::spawn(move || {
            let begin = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];
            https.write_all(&begin).expect("a connection");
            trickle(https, repeat(0))
        }),
    ));
    let (mut https, mut client) = (slow_socket(&relay.https), tls(&relay, None));
    client.write_tls(&mut https).expect("a connection");
    cases.push((
        "TLS, half way",
        10,
        std::thread::spawn(move || {
            https.write_all(&[0x17, 3, 3, 1, 0]).expect("a connection");
            trickle(https, repeat(0))
        }),
    ));

    wait_for("its places to be taken", || {
        (health(&relay, SLOW) == 0).then_some(())
    });
    assert_eq!(health(&relay, "127.0.0.3"), 200);
    assert_eq!(
        relay.curl_as(&relay.log_in(), "/api/v1/me", &[]).status,
        200
    );
    assert!(cases.iter().all(|(_, _, task)| !task.is_finished()));
    for (who, at_most_s, task) in cases {
        let Ended { after, heard } = task.join().unwrap_or_else(|_| panic!("{who}: let go"));
        let expected = at_most_s - 2..=at_most_s + SLACK_S;
        assert!(expected.contains(&after.as_secs()), "{who}: {after:?}");
        // Who sent a whole head is told what was wrong.
        let status = heard.lines().next().unwrap_or_default().to_owned();
        match at_most_s {
            15 => assert!(status.starts_with("HTTP/1.1 408"), "{who}: {heard}"),
            _ => assert!(!heard.contains("HTTP/1.1 101"), "{who}: {heard}"),
        }
    }
    wait_for("its places to be free", || {
        (health(&relay, SLOW) == 200).then_some(())
    });
}
