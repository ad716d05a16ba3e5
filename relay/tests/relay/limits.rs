//! Limits of the real program: strangers at another address of this machine, which it does not trust here.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::common::{Relay, wait_for};

pub(crate) fn start(limits: &str) -> Relay {
    let data = tempfile::tempdir().expect("a temporary folder");
    let folder = data.path().join("data");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("relay.yml"), format!("limits: {limits}\n")).expect("a file");
    Relay::start_in(data)
}

/// A connection from another address of this machine.
pub(crate) fn connect(from: &str, to: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from: SocketAddr = format!("{from}:0").parse().expect("an address");
    socket
        .bind(&from.into())
        .expect("an address of this machine");
    let to: SocketAddr = to.parse().expect("an address");
    socket.connect(&to.into()).expect("a connection");
    socket.into()
}

/// Whether the relay has hung up.
fn is_over(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    match stream.read(&mut [0; 256]) {
        Ok(0) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
        Ok(_) => false,
    }
}

/// Connects more often than there are `places` for one address, until all of them are taken: some may belong to
/// earlier connections for a moment still.
fn storm(from: &str, to: &str, places: usize) -> Vec<TcpStream> {
    let mut storm: Vec<TcpStream> = Vec::new();
    wait_for("all but as many as have places to be cut off", || {
        // The relay looks at them in turn. When the last one is over, those before it are inside or over as well.
        let is_settled = storm.last_mut().is_some_and(is_over);
        storm.retain_mut(|stream| !is_over(stream));
        if is_settled && storm.len() == places {
            return Some(());
        }
        if storm.len() <= places {
            storm.resize_with(60, || connect(from, to));
        }
        None
    });
    storm
}

pub(crate) fn health(relay: &Relay, from: &str) -> u16 {
    let output = crate::common::curl_command(
        &relay.ca(),
        &format!("https://{}/health", relay.https),
        &["--interface", from, "-o", "/dev/null", "-w", "%{http_code}"],
    )
    .output()
    .expect("curl is installed (apt-get install curl)");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.trim().parse().unwrap_or_default()
}

#[test]
fn a_storm_from_one_address_is_cut_off_and_others_get_in() {
    let relay =
        start("{ tier: development, connections_per_address: 8, ban_s: 0, trusted: [127.0.0.1] }");
    for _ in 0..2 {
        let storm = storm("127.0.0.2", &relay.https, 8);
        assert_eq!(health(&relay, "127.0.0.2"), 0, "its places are taken");
        assert_eq!(health(&relay, "127.0.0.3"), 200);
        assert_eq!(health(&relay, "127.0.0.1"), 200);
        drop(storm);
        wait_for("its places to be free", || {
            (health(&relay, "127.0.0.2") == 200).then_some(())
        });
    }
}

/// How forty requests of one connection are answered.
fn forty(relay: &Relay, session: &str, from: &str) -> Vec<u16> {
    let credential = format!("authorization: Bearer {session}");
    let output = crate::common::curl_command(
        &relay.ca(),
        &format!("https://{}/api/v1/me#[1-40]", relay.https),
        &[
            "--interface",
            from,
            "-H",
            &credential,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}\n",
        ],
    )
    .output()
    .expect("curl is installed (apt-get install curl)");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let statuses = said.lines().filter_map(|line| line.parse().ok());
    statuses.collect()
}

#[test]
fn who_asks_too_often_is_told_to_wait_and_others_are_answered() {
    let relay =
        start("{ requests_per_s: 1, requests_per_s_per_address: 1000, trusted: [127.0.0.1] }");
    let session = relay.log_in();
    let first = forty(&relay, &session, "127.0.0.2");
    assert_eq!(first.len(), 40);
    assert_eq!(first[..10], [200; 10], "ten seconds' worth at once");
    assert!(first.contains(&429), "{first:?}");
    let elsewhere = forty(&relay, &session, "127.0.0.3");
    assert!(elsewhere.contains(&429), "the same person: {elsewhere:?}");
    assert_eq!(health(&relay, "127.0.0.2"), 200);
    assert_eq!(forty(&relay, &session, "127.0.0.1"), [200; 40]);

    let refused = wait_for("one request too many", || {
        forty(&relay, &session, "127.0.0.2");
        let answer = relay.curl_as(&session, "/api/v1/me", &["--interface", "127.0.0.2"]);
        (answer.status == 429).then_some(answer)
    });
    assert_eq!(refused.header("retry-after"), Some("1"));
    let metrics = relay.curl_as(&session, "/metrics", &[]).body;
    assert!(
        metrics.contains("lekiwi_refused_total{reason=\"requests\"}"),
        "{metrics}"
    );
}

#[test]
fn a_stranger_that_speaks_no_tls_is_banned_until_it_is_forgiven() {
    let relay = start("{ trusted: [127.0.0.1] }");
    let session = relay.log_in();
    let bans = || {
        let list = relay.curl_as(&session, "/api/v1/bans", &[]).json();
        list["bans"].as_array().expect("a list").clone()
    };
    assert_eq!(bans(), Vec::<Value>::new());
    let ban = wait_for("the ban", || {
        for _ in 0..20 {
            let mut stream = connect("127.0.0.2", &relay.https);
            // It may be gone already.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
        }
        bans().pop()
    });
    assert_eq!(
        (&ban["who"], &ban["reason"], &ban["count"]),
        (&"127.0.0.2".into(), &"handshake".into(), &1.into())
    );
    assert_eq!(health(&relay, "127.0.0.2"), 0);
    assert_eq!(health(&relay, "127.0.0.3"), 200);

    let lift =
        |who: &str| relay.curl_as(&session, &format!("/api/v1/bans/{who}"), &["-X", "DELETE"]);
    let unknown = lift("127.0.0.3");
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["type"], "urn:lekiwi:problem:ban-unknown");
    assert_eq!(lift("127.0.0.2").status, 204);
    wait_for("it to be let in", || {
        (health(&relay, "127.0.0.2") == 200).then_some(())
    });
}

/// Who is behind a connection that was handed on is not this machine.
#[test]
fn who_comes_to_the_broker_by_the_port_of_https_has_its_own_places_and_no_more() {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut tls = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"mqtt".to_vec()];
    let tls = Arc::new(tls);
    let relay = start("{ connections_per_address: 4, ban_s: 0, trusted: [127.0.0.1] }");
    // A first message, and then nothing: the broker waits longer than this test.
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = connect("127.0.0.2", &relay.https);
            let name = "localhost".try_into().expect("a name");
            let mut client = ClientConnection::new(tls.clone(), name).expect("a client");
            client.write_tls(&mut stream).expect("a connection");
            stream
        })
        .collect();
    wait_for("its places to be taken", || {
        (health(&relay, "127.0.0.2") == 0).then_some(())
    });
    assert_eq!(health(&relay, "127.0.0.3"), 200);
    drop(clients);
    wait_for("its places to be free", || {
        (health(&relay, "127.0.0.2") == 200).then_some(())
    });
}

#[test]
fn only_pages_of_named_origins_may_ask_from_elsewhere_and_cookies_are_never_theirs() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let folder = data.path().join("data");
    fs::create_dir(&folder).expect("a folder");
    fs::write(
        folder.join("relay.yml"),
        "cors: [\"https://ops.example.org\"]\n",
    )
    .expect("a file");
    let relay = Relay::start_in(data);
    let session = relay.log_in();
    let preflight = |origin: &str| {
        let origin = format!("origin: {origin}");
        relay.curl(
            "/api/v1/robots",
            &[
                "-X",
                "OPTIONS",
                "-H",
                &origin,
                "-H",
                "access-control-request-method: GET",
                "-H",
                "access-control-request-headers: authorization",
            ],
        )
    };
    let allowed = preflight("https://ops.example.org");
    assert_eq!(allowed.status, 200);
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        Some("https://ops.example.org")
    );
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
    let refused = preflight("https://evil.example");
    assert_eq!(refused.header("access-control-allow-origin"), None);

    let ask = |credential: &str| {
        let options = ["-H", "origin: https://ops.example.org", "-H", credential];
        relay.curl("/api/v1/robots", &options)
    };
    let answer = ask(&format!("authorization: Bearer {session}"));
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://ops.example.org")
    );
    let (status, slug, _) = ask(&format!("cookie: __Host-lekiwi={session}")).problem();
    assert_eq!((status, slug.as_str()), (403, "cross-origin"));
    // Without the key nothing is allowed from elsewhere.
    let closed = Relay::start();
    let answer = closed.curl("/health", &["-H", "origin: https://ops.example.org"]);
    assert_eq!(answer.header("access-control-allow-origin"), None);
}
