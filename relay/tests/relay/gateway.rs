//! Live messages of the real program, to real clients: curl, Python, Node.js, and a WebSocket library. The examples
//! of `docs/gateway.md` are run as they stand there.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{Heard, Relay, request, wait_for};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

fn register(relay: &Relay, robot: &str) {
    let (_, csr) = request(relay.data.path(), robot, &format!("/CN={robot}"));
    assert_eq!(relay.enrol(robot, &relay.token(&[]), &csr).status, 200);
}

/// A child that ends with the test, and what it printed.
pub(crate) struct Running {
    child: Child,
    printed: Heard,
    complained: Heard,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn new(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let printed = Heard::new(child.stdout.take().expect("a pipe"));
        let complained = Heard::new(child.stderr.take().expect("a pipe"));
        Self {
            child,
            printed,
            complained,
        }
    }

    pub(crate) fn text(&self) -> String {
        self.printed.text()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.printed.is_whole()
    }

    /// Waits until it has printed `line`.
    fn prints(&self, line: &str) {
        for _ in 0..1_000 {
            if self.text().lines().any(|printed| printed == line) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!(
            "expected {line:?}, got {:?} and {}",
            self.text(),
            self.complained.text()
        );
    }
}

pub(crate) fn listen(relay: &Relay, session: &str, query: &str, header: &str) -> Running {
    let bearer = format!("authorization: Bearer {session}");
    let url = format!("https://{}/api/v1/stream{query}", relay.https);
    let options = ["-N", "-H", &bearer, "-H", header, "--max-time", "60"];
    Running::new(crate::common::curl_command(&relay.ca(), &url, &options))
}

/// The ids and names of a stream's events so far.
pub(crate) fn events(text: &str) -> Vec<String> {
    let mut events = Vec::new();
    for event in text.replace('\r', "").split("\n\n") {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        if field("data: ").is_some() {
            let (id, name) = (field("id: ").unwrap_or("-"), field("event: "));
            events.push(format!("{id} {}", name.unwrap_or("-")));
        }
    }
    events
}

#[test]
fn a_stream_goes_on_where_it_was_cut_off() {
    let relay = Relay::start();
    let session = relay.log_in();
    let first = listen(&relay, &session, "?topic=robot.*", "x: y");
    wait_for("the stream", || {
        first.text().contains("id: 0\n\n").then_some(())
    });
    for robot in ["kiwi-01", "kiwi-02", "kiwi-03"] {
        register(&relay, robot);
    }
    let three = ["1", "2", "3"].map(|id| format!("{id} robot.registered"));
    wait_for("three events", || {
        (events(&first.text()) == three).then_some(())
    });

    // As a browser does it; and by hand.
    for (query, header) in [
        ("?topic=robot.*", "last-event-id: 1"),
        ("?type=robot.registered&from=1", "x: y"),
        ("?robot=kiwi-02,kiwi-03&from=0", "last-event-id: 1"),
    ] {
        let again = listen(&relay, &session, query, header);
        let expected = ["2 robot.registered", "3 robot.registered", "- replayed"];
        wait_for("what was missed", || {
            (events(&again.text()) == expected).then_some(())
        });
        assert!(again.text().contains(": listening\nid: 1\n\n"), "{query}");
    }
    let declined = listen(
        &relay,
        &session,
        "?topic=robot.*&from=now",
        "last-event-id: 1",
    );
    wait_for("the stream", || {
        declined.text().contains("id: 3\n\n").then_some(())
    });
    register(&relay, "kiwi-04");
    wait_for("the event", || {
        (events(&declined.text()) == ["4 robot.registered"]).then_some(())
    });

    for (query, header, detail) in [
        (
            "?from=99",
            "x: y",
            "expected from to be a position of the event log, which ends at 4, got 99",
        ),
        (
            "",
            "last-event-id: x",
            "expected Last-Event-ID to be a position of the event log, got \"x\"",
        ),
        (
            "?topic=robot.K.*",
            "x: y",
            "expected topic to be topics such as robot.*.heartbeat or teleoperation.*, separated by commas, got \"robot.K.*\"",
        ),
        (
            "?rate=1000",
            "x: y",
            "expected rate to be messages a second, 0.01 to 100, got \"1000\"",
        ),
        (
            "?rate=1&throttle=some",
            "x: y",
            "expected throttle to be sample, aggregate or latest, got \"some\"",
        ),
        (
            "?throttle=sample",
            "x: y",
            "expected a rate with throttle, such as rate=1",
        ),
    ] {
        let path = format!("/api/v1/stream{query}");
        let answer = relay.curl_as(&session, &path, &["-H", header]);
        let problem = (400, "invalid-query".to_owned(), detail.to_owned());
        assert_eq!(answer.problem(), problem, "{query}");
    }
}

pub(crate) type Socket = WebSocket<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>;

pub(crate) fn connect(relay: &Relay, session: &str, protocol: &str, query: &str) -> Socket {
    let tcp = TcpStream::connect(&relay.https).expect("a connection");
    connect_over(tcp, relay, session, protocol, query)
}

fn connect_over(
    tcp: TcpStream,
    relay: &Relay,
    session: &str,
    protocol: &str,
    query: &str,
) -> Socket {
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(relay.ca()).expect("the authority");
    roots.add(ca).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tcp.set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    let name = "127.0.0.1".try_into().expect("a name");
    let tls = rustls::ClientConnection::new(Arc::new(config), name).expect("TLS");
    let url = format!("wss://{}/api/v1/ws{query}", relay.https);
    let mut asks = url.into_client_request().expect("a request");
    let mut set = |name: &'static str, value: &str| {
        asks.headers_mut()
            .insert(name, value.parse().expect("a value"));
    };
    set("authorization", &format!("Bearer {session}"));
    set("sec-websocket-protocol", protocol);
    let stream = rustls::StreamOwned::new(tls, tcp);
    let (socket, answer) = tungstenite::client(asks, stream).expect("a WebSocket");
    let agreed = answer.headers().get("sec-websocket-protocol");
    assert_eq!(agreed.and_then(|value| value.to_str().ok()), Some(protocol));
    socket
}

fn hear(socket: &mut Socket) -> Value {
    loop {
        match socket.read().expect("a message") {
            Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
            Message::Binary(bytes) => return ciborium::from_reader(&bytes[..]).expect("CBOR"),
            _ => {}
        }
    }
}

fn say(socket: &mut Socket, protocol: &str, message: &Value) {
    let message = if protocol.ends_with("cbor") {
        let mut bytes = Vec::new();
        ciborium::into_writer(message, &mut bytes).expect("CBOR");
        Message::Binary(bytes.into())
    } else {
        Message::text(message.to_string())
    };
    socket.send(message).expect("it is taken");
}

#[test]
fn both_protocols_say_the_same() {
    let relay = Relay::start();
    let session = relay.log_in();
    register(&relay, "kiwi-01");
    // Its certificate may be there before the picture has it.
    wait_for("the picture", || {
        let robots = relay.curl_as(&session, "/api/v1/robots", &[]);
        (robots.json()["position"] == 1).then_some(())
    });
    let mut heard = Vec::new();
    for protocol in ["lekiwi.v1.json", "lekiwi.v1.cbor"] {
        let mut socket = connect(&relay, &session, protocol, "");
        let mut conversation = Vec::new();
        for request in [
            json!({ "type": "ping", "nonce": 7 }),
            json!({ "type": "subscribe", "id": "a", "topics": ["robot.kiwi-01.registered"], "from": 0 }),
        ] {
            say(&mut socket, protocol, &request);
            conversation.push(hear(&mut socket));
        }
        // The event, where it would go on after it, and the seam behind both.
        for _ in 0..3 {
            conversation.push(hear(&mut socket));
        }
        for request in [
            json!({ "type": "unsubscribe", "id": "a" }),
            json!({ "type": "unsubscribe", "id": "a" }),
            json!({ "type": "subscribe", "id": "b", "topics": ["#"] }),
        ] {
            say(&mut socket, protocol, &request);
            conversation.push(hear(&mut socket));
        }
        socket.close(None).expect("it closes");
        while socket.read().is_ok() {}
        heard.push(conversation);
    }
    let conversation = heard.pop().expect("two");
    assert_eq!(Some(&conversation), heard.first());
    assert_eq!(conversation[0], json!({ "type": "pong", "nonce": 7 }));
    assert_eq!(
        conversation[1],
        json!({ "type": "subscribed", "id": "a", "position": 1 })
    );
    assert_eq!(conversation[2]["type"], "robot.registered");
    assert_eq!(conversation[2]["payload"]["position"], 1);
    assert_eq!(
        conversation[3..],
        [
            json!({ "type": "bookmark", "position": 1 }),
            json!({ "type": "replayed", "id": "a", "position": 1 }),
            json!({ "type": "unsubscribed", "id": "a" }),
            json!({ "type": "error", "id": "a", "detail": "expected the id of a subscription, got \"a\"" }),
            json!({
                "type": "error", "id": "b",
                "detail": "expected a topic such as heartbeat, teleoperation.*, robot.kiwi-01.* or robot.*.heartbeat, got \"#\""
            }),
        ]
    );
}

#[test]
fn watchers_are_counted_and_rude_clients_let_go() {
    let relay = Relay::start();
    let session = relay.log_in();
    register(&relay, "kiwi-01");
    let count = || {
        let answer = relay.curl_as(&session, "/api/v1/robots/kiwi-01/watchers", &[]);
        answer.json()["count"].as_u64()
    };
    assert_eq!(count(), Some(0));
    let mut socket = connect(
        &relay,
        &session,
        "lekiwi.v1.json",
        "?robot=kiwi-01&type=heartbeat",
    );
    assert_eq!(hear(&mut socket)["type"], "subscribed");
    assert_eq!(count(), Some(1));
    // What nobody may send, so that the library does not: a frame that is not masked.
    let stream = socket.get_mut();
    stream
        .write_all(&[0x81, 0x02, b'h', b'i'])
        .expect("it is taken");
    let Message::Close(Some(frame)) = socket.read().expect("a message") else {
        panic!("expected to be told why");
    };
    assert_eq!(
        (u16::from(frame.code), frame.reason.as_str()),
        (1002, "expected a masked frame")
    );
    wait_for("nobody watches", || (count() == Some(0)).then_some(()));
    let unknown = relay.curl_as(&session, "/api/v1/robots/kiwi-02/watchers", &[]);
    assert_eq!(unknown.problem().1, "robot-unknown");
}

/// One client looks away while others come and go, thousands of whom it wants to know.
#[test]
fn who_does_not_read_gets_the_newest_once_it_does() {
    const EACH: usize = 256;
    const SUBSCRIPTIONS: usize = 8;
    let relay = Relay::start();
    let session = relay.log_in();
    // Little fits into the network, as on a slow one.
    let address: std::net::SocketAddr = relay.https.parse().expect("an address");
    let narrow = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let narrow = narrow.expect("a socket");
    narrow.set_recv_buffer_size(4 * 1024).expect("an option");
    narrow.connect(&address.into()).expect("a connection");
    let mut slow = connect_over(
        narrow.into(),
        &relay,
        &session,
        "lekiwi.v1.json",
        "?topic=presence",
    );
    assert_eq!(hear(&mut slow)["type"], "subscribed");
    let mut busy = connect(&relay, &session, "lekiwi.v1.json", "");
    let mut rounds = 0;
    let begun = Instant::now();
    // Longer than a picture may wait.
    while begun.elapsed() < Duration::from_secs(8) {
        for subscribes in [true, false] {
            for n in 0..SUBSCRIPTIONS {
                let robots: Vec<String> = (0..EACH).map(|r| format!("r-{n}-{r}")).collect();
                let request = if subscribes {
                    json!({ "type": "subscribe", "id": n.to_string(), "filter": { "robot_ids": robots } })
                } else {
                    json!({ "type": "unsubscribe", "id": n.to_string() })
                };
                say(&mut busy, "lekiwi.v1.json", &request);
                hear(&mut busy);
            }
            // Long enough for it to be told.
            std::thread::sleep(Duration::from_millis(1_100));
            rounds += 1;
        }
    }
    let request = json!({ "type": "subscribe", "id": "last", "topics": ["robot.r-0-0.*"] });
    say(&mut busy, "lekiwi.v1.json", &request);
    hear(&mut busy);
    let (mut slowed, mut told) = (false, 0);
    // The robot has a watcher again: nothing changes after that.
    loop {
        let message = hear(&mut slow);
        assert_ne!(message["type"], "lagged", "nothing needed to be dropped");
        slowed |= message["type"] == "slowed";
        told += usize::from(message["type"] == "presence");
        if slowed && message["robot_id"] == "r-0-0" && message["payload"]["count"] == 1 {
            break;
        }
    }
    let all = rounds * EACH * SUBSCRIPTIONS;
    assert!(told < all, "expected a part of {all} messages, got {told}");
}

/// Python with `websockets`.
fn python() -> Command {
    let python = std::env::var_os("LEKIWI_TELEOP_PYTHON").expect(
        "LEKIWI_TELEOP_PYTHON (hint: cargo xtask test makes a Python with websockets, and sets it)",
    );
    Command::new(python)
}

fn with_environment(mut command: Command, relay: &Relay, session: &str) -> Command {
    command
        .env("LEKIWI_RELAY", &relay.https)
        .env("LEKIWI_TOKEN", session)
        .env("LEKIWI_CA", relay.ca())
        .env("NODE_EXTRA_CA_CERTS", relay.ca());
    command
}

/// The blocks of `docs/gateway.md` in `language`.
fn examples(language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/gateway.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let begin = format!("```{language}\n");
    let blocks = text.split(&begin).skip(1);
    blocks
        .filter_map(|rest| rest.split_once("\n```").map(|(block, _)| block.to_owned()))
        .collect()
}

#[test]
fn documented_examples_run() {
    let relay = Relay::start();
    let session = relay.log_in();
    register(&relay, "kiwi-01");
    let [stream, socket] = examples("python")
        .try_into()
        .expect("two examples in Python");
    let [script] = examples("javascript")
        .try_into()
        .expect("one example in JavaScript");
    let running = |command: Command| Running::new(with_environment(command, &relay, &session));
    let with = |mut command: Command, option: &str, code: &str| {
        command.args([option, code]);
        command
    };
    let mut node = Command::new("node");
    node.arg("--experimental-websocket");
    let stream = running(with(python(), "-c", &stream));
    let socket = running(with(python(), "-c", &socket));
    let script = running(with(node, "-e", &script));
    // What was, and what comes.
    stream.prints("1 kiwi-01 robot.registered");
    for program in [&socket, &script] {
        program.prints("kiwi-01 robot.registered");
        program.prints("relay replayed");
    }
    register(&relay, "kiwi-02");
    stream.prints("2 kiwi-02 robot.registered");
    script.prints("kiwi-02 robot.registered");
    assert!(
        !socket.text().contains("kiwi-02"),
        "only what was asked for"
    );
}

#[test]
fn compressed_messages_are_understood_on_both_sides() {
    const SCRIPT: &str = r#"
import asyncio, json, os, ssl
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import PerMessageDeflate

async def main():
    async with connect(
        f"wss://{os.environ['LEKIWI_RELAY']}/api/v1/ws", ssl=ssl.create_default_context(cafile=os.environ["LEKIWI_CA"]),
        subprotocols=["lekiwi.v1.json"], additional_headers={"Authorization": f"Bearer {os.environ['LEKIWI_TOKEN']}"},
    ) as socket:
        [extension] = socket.protocol.extensions
        assert isinstance(extension, PerMessageDeflate) and extension.remote_no_context_takeover
        # Compressed it is small, and two frames share nothing.
        for id in ["a", "b"]:
            topics = [f"robot.kiwi-{n:02}.registered" for n in range(100)]
            await socket.send(json.dumps({"type": "subscribe", "id": id, "topics": topics, "from": 0}))
        compressed = 0
        read = extension.decode
        def decode(frame, **options):
            nonlocal compressed
            compressed += frame.rsv1
            return read(frame, **options)
        extension.decode = decode
        seen = []
        while seen.count("replayed") < 2:
            kind = json.loads(await socket.recv())["type"]
            if kind != "bookmark":
                seen.append(kind)
        print(sorted(seen), compressed, flush=True)

asyncio.run(main())
"#;
    let relay = Relay::start();
    let session = relay.log_in();
    register(&relay, "kiwi-01");
    let mut command = with_environment(python(), &relay, &session);
    command.args(["-c", SCRIPT]);
    let running = Running::new(command);
    running.prints(
        "['replayed', 'replayed', 'robot.registered', 'robot.registered', 'subscribed', 'subscribed'] 2",
    );
}
