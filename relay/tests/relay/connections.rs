//! Connections to the real program: TLS, slow clients, live streams.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Heard, Relay, certificate, request, wait_for};
use serde_json::Value;

#[test]
fn live_messages_arrive_by_sse_and_stop_with_the_session() {
    let relay = Relay::start();
    let session = relay.log_in();
    let bearer = format!("authorization: Bearer {session}");
    let mut listener = crate::common::curl_command(
        &relay.ca(),
        &format!(
            "https://{}/api/v1/stream?type=robot.registered",
            relay.https
        ),
        &["-N", "-H", &bearer, "--max-time", "60"],
    )
    .stdout(Stdio::piped())
    .spawn()
    .expect("curl runs");
    let heard = Heard::new(listener.stdout.take().expect("a pipe"));
    let text = || heard.text();
    wait_for("the stream", || {
        text().contains(": listening").then_some(())
    });
    assert!(text().contains("content-type: text/event-stream"));

    let (_, csr) = request(relay.data.path(), "kiwi-01", "/CN=kiwi-01/OU=lekiwi");
    let enrolled = relay.enrol("kiwi-01", &relay.token(&[]), &csr);
    assert_eq!(enrolled.status, 200, "{}", enrolled.body);
    certificate(&enrolled.body);
    wait_for("the event", || {
        text()
            .contains("\n\n")
            .then(|| text().contains("event: robot.registered"))
            .filter(|s| *s)
    });
    let data = text()
        .lines()
        .rev()
        .find_map(|l| l.strip_prefix("data: ").map(str::to_owned))
        .expect("data");
    let live: Value = serde_json::from_str(&data).expect("JSON");
    assert_eq!(
        (&live["type"], &live["robot_id"]),
        (&"robot.registered".into(), &"kiwi-01".into())
    );
    assert_eq!(live["payload"]["data"]["profile"], "lekiwi");
    assert!(text().contains(&format!("id: {}\n", live["sequence"])));

    let events = relay
        .curl_as(&session, "/api/v1/robots/kiwi-01/events?after=0", &[])
        .json();
    assert_eq!(events["events"][0]["type"], "robot.registered");
    let robot = relay
        .curl_as(&session, "/api/v1/robots/kiwi-01", &[])
        .json();
    assert_eq!(
        (&robot["type"], &robot["status"]["online"]),
        (&"lekiwi".into(), &false.into())
    );

    assert_eq!(
        relay
            .curl_as(&session, "/api/v1/session", &["-X", "DELETE"])
            .status,
        204
    );
    wait_for("the stream's end", || listener.try_wait().expect("a child"));
}

#[test]
fn a_websocket_speaks_to_openssl() {
    let relay = Relay::start();
    let session = relay.log_in();
    let mut client = Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-alpn",
            "http/1.1",
            "-connect",
            &relay.https,
            "-CAfile",
        ])
        .arg(relay.ca())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");
    let mut send = client.stdin.take().expect("a pipe");
    let heard = Heard::new(client.stdout.take().expect("a pipe"));
    write!(
        send,
        "GET /api/v1/ws?robot=kiwi-01 HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {session}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        relay.https
    )
    .expect("openssl reads");
    let text = || heard.text();
    wait_for("the upgrade", || text().contains("\r\n\r\n").then_some(()));
    assert!(
        text().starts_with("HTTP/1.1 101 Switching Protocols"),
        "{}",
        text()
    );
    for robot in ["kiwi-02", "kiwi-01"] {
        let (_, csr) = request(relay.data.path(), robot, &format!("/CN={robot}"));
        assert_eq!(relay.enrol(robot, &relay.token(&[]), &csr).status, 200);
    }
    wait_for("the message", || {
        text().contains("\"robot_id\":\"kiwi-01\"").then_some(())
    });
    assert!(!text().contains("kiwi-02"), "only what was asked for");
    let _ = client.kill();
    let _ = client.wait();
}

#[test]
fn only_tls13_and_both_http_versions() {
    let relay = Relay::start();
    assert_eq!(relay.curl("/health", &["--http1.1"]).status, 200);
    assert_eq!(relay.curl("/health", &["--http2"]).status, 200);
    let old = crate::common::curl_command(
        &relay.ca(),
        &format!("https://{}/health", relay.https),
        &["--tls-max", "1.2"],
    )
    .output()
    .expect("curl runs");
    assert!(!old.status.success());
    let health = relay.curl("/health", &[]).json();
    assert_eq!(
        (&health["status"], &health["problems"]),
        (&"ok".into(), &serde_json::json!([]))
    );
}

#[test]
fn silent_and_slow_clients_hold_up_nobody() {
    let relay = Relay::start();
    // Silent ones, one that stops in the middle of a handshake, and one that talks no TLS at all.
    let mut silent: Vec<_> = (0..64)
        .map(|_| TcpStream::connect(&relay.https).expect("a connection"))
        .collect();
    silent[0]
        .write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01])
        .expect("a write");
    silent[1]
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect("a write");
    assert_eq!(relay.curl("/health", &["--max-time", "5"]).status, 200);
    silent[1]
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    let mut rest = Vec::new();
    silent[1]
        .read_to_end(&mut rest)
        .expect("the relay hangs up");
}

#[test]
fn a_client_that_shakes_hands_and_asks_nothing_is_let_go() {
    let relay = Relay::start();
    let clients = [("h2", "PRI * HTTP"), ("http/1.1", "GET /hea"), ("h2", "")];
    let clients = clients.map(|(protocol, said)| {
        let mut client = Command::new("openssl")
            .args([
                "s_client",
                "-quiet",
                "-alpn",
                protocol,
                "-connect",
                &relay.https,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed (apt-get install openssl)");
        let mut input = client.stdin.take().expect("a pipe");
        input.write_all(said.as_bytes()).expect("openssl reads");
        (client, input)
    });
    for (mut client, _input) in clients {
        wait_for("the relay to hang up", || {
            client.try_wait().expect("a child")
        });
    }
}

/// The broker asks for a client certificate, HTTPS does not.
#[test]
fn who_wants_mqtt_on_the_port_of_https_gets_the_broker() {
    let relay = Relay::start();
    for (protocol, expected) in [
        // The broker chooses none, and HTTPS would refuse before it asks for a certificate.
        ("mqtt", "No ALPN negotiated"),
        ("http/1.1", "ALPN protocol: http/1.1"),
        ("h2", "ALPN protocol: h2"),
    ] {
        let output = Command::new("openssl")
            .args(["s_client", "-alpn", protocol, "-connect", &relay.https])
            .stdin(Stdio::null())
            .output()
            .expect("openssl is installed (apt-get install openssl)");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(expected), "{protocol}: {said}");
        // Both ask for one of the relay's own authority, and HTTPS does not insist.
        let asks = "Acceptable client certificate CA names";
        assert!(said.contains(asks), "{protocol}: {said}");
    }
    assert_eq!(relay.curl("/health", &[]).status, 200);
}

#[test]
fn a_relay_that_stops_tells_browsers_when_to_come_back() {
    let relay = Relay::start();
    let bearer = format!("authorization: Bearer {}", relay.log_in());
    let url = format!("https://{}/api/v1/stream", relay.https);
    let mut listeners: Vec<_> = (0..4)
        .map(|_| {
            let options = ["-N", "-H", &bearer, "--max-time", "60"];
            let mut listener = crate::common::curl_command(&relay.ca(), &url, &options)
                .stdout(Stdio::piped())
                .spawn()
                .expect("curl runs");
            let heard = Heard::new(listener.stdout.take().expect("a pipe"));
            (listener, heard)
        })
        .collect();
    for (_, heard) in &listeners {
        wait_for("the stream", || {
            heard.text().contains(": listening").then_some(())
        });
    }
    let (status, _data) = relay.stop();
    assert!(status.success());
    let mut waits = std::collections::BTreeSet::new();
    for (listener, heard) in &mut listeners {
        wait_for("the stream's end", || listener.try_wait().expect("a child"));
        let wait_ms = wait_for("the word", || {
            let text = heard.text();
            let retry = text.lines().find_map(|line| line.strip_prefix("retry: "))?;
            retry.parse::<u64>().ok()
        });
        assert!((1_000..=10_000).contains(&wait_ms), "{wait_ms}");
        waits.insert(wait_ms);
    }
    assert!(waits.len() > 1, "not all at once: {waits:?}");
}
