//! A relay on a Mosquitto with the files of `deploy/`: everything that robots, people and programs do goes on as with the
//! embedded broker, and the broker's restart loses nothing.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::{Relay, certificate, command, request, wait_for};
use crate::mosquitto::Mosquitto;
use crate::port;
use crate::support::{self, Client, Identity, connection, envelope, events, from, until, will};

const JSON: &str = "content-type: application/json";
const INBOX: &str = "fleet/v1/default/robots/kiwi-01/to/#";

pub(crate) fn broker(port: u16) -> String {
    format!("mqtts://localhost:{port}")
}

/// A relay on a broker there, and the file in which it lists the certificates that are revoked.
pub(crate) fn listing(port: u16) -> (Relay, PathBuf) {
    let data = tempfile::tempdir().expect("a folder");
    let file = data.path().join("crl.pem");
    fs::create_dir(data.path().join("data")).expect("a folder");
    let config = format!("version: 1\nidentity: {{ crl_file: {} }}\n", file.display());
    fs::write(data.path().join("data/relay.yml"), config).expect("a file");
    let relay = Relay::start_with(data, &["--broker", &broker(port)]);
    wait_for("the file", || file.exists().then_some(()));
    (relay, file)
}

/// Mosquitto with a certificate that the relay's authority makes for it.
pub(crate) fn mosquitto(relay: &Relay, port: u16) -> Mosquitto {
    mosquitto_with(relay, port, "")
}

/// The same with one more line in its configuration.
pub(crate) fn mosquitto_with(relay: &Relay, port: u16, line: &str) -> Mosquitto {
    let folder = tempfile::tempdir().unwrap();
    let made = command()
        .args(["ca", "broker", "--name", "localhost", "--data"])
        .arg(relay.data_folder())
        .arg("--out")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    // The relay of the tests has another name.
    Mosquitto::start(folder, port, line, |rules| rules.replace("relay-1", "r1"))
}

fn robot(relay: &Relay) -> Identity {
    let token = relay.token(&["--robot", "kiwi-01"]);
    let (key, csr) = request(relay.data.path(), "kiwi-01", "/CN=kiwi-01/OU=lekiwi");
    let answer = relay.enrol("kiwi-01", &token, &csr);
    assert_eq!(answer.status, 200, "{}", answer.body);
    identity(
        &certificate(&answer.body),
        &fs::read_to_string(key).unwrap(),
    )
}

fn consumer(relay: &Relay, session: &str) -> Identity {
    let (key, csr) = request(relay.data.path(), "analytics", "/CN=analytics");
    let csr = fs::read_to_string(csr).unwrap();
    let csr =
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{csr}-----END CERTIFICATE REQUEST-----\n");
    let body = json!({ "name": "analytics", "csr_pem": csr }).to_string();
    let answer = relay.curl_as(session, "/api/v1/consumers", &["-H", JSON, "-d", &body]);
    let created = answer.json();
    assert_eq!(created["mqtt"], relay.mqtt.as_str());
    identity(
        created["certificate_pem"].as_str().unwrap(),
        &fs::read_to_string(key).unwrap(),
    )
}

fn identity(cert_pem: &str, key_pem: &str) -> Identity {
    Identity {
        cert_pem: cert_pem.to_owned(),
        key_pem: key_pem.to_owned(),
        der: Vec::new(),
        serial: String::new(),
    }
}

async fn connect(relay: &Relay, port: u16, identity: &Identity, name: &str) -> Client {
    let ca = fs::read_to_string(relay.ca()).unwrap();
    Client::connect(support::options(&ca, port, identity, name))
        .await
        .unwrap()
}

/// A robot's connection: birth, inbox, and a will.
async fn online(relay: &Relay, port: u16, identity: &Identity, session: u128) -> Client {
    let ca = fs::read_to_string(relay.ca()).unwrap();
    let topic = from("kiwi-01", "connection");
    let mut options = support::options(&ca, port, identity, "kiwi-01");
    let death = connection("kiwi-01", session, "CONNECTION_BROKEN");
    options.set_last_will(will(&topic, death));
    let mut client = Client::connect(options).await.unwrap();
    client.subscribe(INBOX).await;
    let birth = connection("kiwi-01", session, "ONLINE");
    client.publish(&topic, birth, true).await;
    client
}

async fn say(robot: &mut Client, level: &str, kind: &str, payload: &Value, retain: bool) {
    let message = envelope("kiwi-01", kind, payload);
    robot
        .publish(&from("kiwi-01", level), message, retain)
        .await;
}

/// The payload of the next message whose topic begins so.
async fn told(client: &mut Client, topic: &str) -> Value {
    loop {
        let message = client.message().await;
        if message.topic.starts_with(topic.as_bytes()) {
            return serde_json::from_slice(&message.payload).unwrap();
        }
    }
}

/// What the log has of the robot's own stream.
fn logged(relay: &Relay, session: &str) -> Vec<u64> {
    let page = relay.curl_as(
        session,
        "/api/v1/robots/kiwi-01/events?after=0&limit=1000",
        &[],
    );
    let page = page.json();
    let own = page["events"].as_array().unwrap().iter();
    own.filter(|event| event["type"] == "agent.started")
        .map(|event| event["seq"].as_u64().unwrap())
        .collect()
}

fn missing(relay: &Relay) -> Vec<String> {
    let answer = relay.curl("/ready", &[]);
    let missing: Vec<String> =
        serde_json::from_value(answer.json()["missing"].clone()).unwrap_or_default();
    assert_eq!(answer.status == 200, missing.is_empty());
    missing
}

pub(crate) fn ready(relay: &Relay) {
    wait_for("the broker", || missing(relay).is_empty().then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_lives_on_an_external_broker_and_its_restart_loses_nothing() {
    let port = port::free();
    let options = ["--broker", &broker(port)];
    let relay = Relay::start_with(tempfile::tempdir().unwrap(), &options);
    assert_eq!(relay.mqtt, format!("localhost:{port}"));
    let session = relay.log_in();

    // It answers what it knows, and says what it lacks.
    let away = format!("the broker at localhost:{port} is away: ");
    wait_for("the reason", || {
        missing(&relay)
            .iter()
            .any(|missing| missing.starts_with(&away) && missing.contains("refused"))
            .then_some(())
    });
    assert_eq!(relay.curl_as(&session, "/api/v1/robots", &[]).status, 200);
    let mut mosquitto = mosquitto(&relay, port);
    ready(&relay);

    let (kiwi, analytics) = (robot(&relay), consumer(&relay, &session));
    let mut listener = connect(&relay, port, &analytics, "consumer:analytics").await;
    listener.subscribe("fleet/v1/default/relays/+").await;
    assert_eq!(
        told(&mut listener, "fleet/v1/default/relays/r1").await["online"],
        true
    );
    listener.subscribe("fleet/v1/default/robots/+/from/#").await;

    let mut robot = online(&relay, port, &kiwi, 1).await;
    let view = || {
        relay
            .curl_as(&session, "/api/v1/robots/kiwi-01", &[])
            .json()
    };
    until("it is online", async || view()["status"]["online"] == true).await;
    let sheet = json!({
        "uuid": uuid::Uuid::nil(), "profile": "lekiwi", "agent_version": "1", "agent_target": "x", "boot_id": uuid::Uuid::nil(),
        "hardware": { "serial": "", "model": "", "revision": "" }, "capabilities": ["commands"],
    });
    say(&mut robot, "factsheet", "factsheet", &sheet, true).await;
    let heartbeat = json!({ "session": uuid::Uuid::nil(), "uptime_s": 77 });
    say(&mut robot, "heartbeat", "heartbeat", &heartbeat, false).await;
    until("the heartbeat", async || view()["status"]["uptime_s"] == 77).await;
    let heard = told(
        &mut listener,
        "fleet/v1/default/robots/kiwi-01/from/heartbeat",
    )
    .await;
    assert_eq!(heard["payload"]["uptime_s"], 77);

    // Acknowledged when they are in the log.
    let ack = "fleet/v1/default/robots/kiwi-01/to/ack";
    let batch = |seqs| events("kiwi-01", 7, seqs);
    robot
        .publish(&from("kiwi-01", "events"), batch(1..=3), false)
        .await;
    let acked = told(&mut robot, ack).await;
    let stream = uuid::Uuid::from_u128(7).to_string();
    assert_eq!(acked["payload"]["acks"][&stream], json!([[1, 3]]));
    assert_eq!(logged(&relay, &session), [1, 2, 3]);

    // A command, to its end.
    let commands = "/api/v1/robots/kiwi-01/commands";
    let body = json!({ "op": "ping" }).to_string();
    let sent = relay.curl_as(&session, commands, &["-H", JSON, "-d", &body]);
    assert_eq!(sent.status, 202, "{}", sent.body);
    let asked = told(&mut robot, "fleet/v1/default/robots/kiwi-01/to/cmd/ping/").await;
    let id = asked["payload"]["id"].as_str().unwrap().to_owned();
    for state in ["accepted", "running", "successful"] {
        let status = json!({ "state": state });
        say(&mut robot, &format!("cmd/{id}"), "response", &status, false).await;
    }
    until("the command's end", async || {
        let command = relay.curl_as(&session, &format!("{commands}/{id}"), &[]);
        command.json()["state"] == "successful"
    })
    .await;

    // Who is connected there, only the broker knows.
    let listed = relay.curl_as(&session, "/connections", &[]).json();
    assert_eq!(
        (&listed["elsewhere"], &listed["connections"]),
        (&json!(format!("localhost:{port}")), &json!([]))
    );

    // The broker forgets everything at once, events that it took included.
    robot
        .publish(&from("kiwi-01", "events"), batch(4..=5), false)
        .await;
    mosquitto.kill();
    wait_for("the loss", || (!missing(&relay).is_empty()).then_some(()));
    assert_eq!(view()["status"]["uptime_s"], 77, "what it knows, it knows");
    mosquitto.start_again();
    ready(&relay);
    let mut listener = connect(&relay, port, &analytics, "consumer:analytics").await;
    listener.subscribe("fleet/v1/default/relays/+").await;
    assert_eq!(
        told(&mut listener, "fleet/v1/default/relays/r1").await["online"],
        true
    );
    let mut robot = online(&relay, port, &kiwi, 2).await;
    say(&mut robot, "factsheet", "factsheet", &sheet, true).await;
    robot
        .publish(&from("kiwi-01", "events"), batch(1..=6), false)
        .await;
    loop {
        let acked = told(&mut robot, ack).await;
        let ranges = acked["payload"]["acks"][&stream].as_array().unwrap();
        if ranges.iter().any(|range| range[1] == 6) {
            break;
        }
    }
    assert_eq!(logged(&relay, &session), [1, 2, 3, 4, 5, 6], "each once");
    until("it is online again", async || {
        view()["status"]["online"] == true
    })
    .await;

    // A relay that is killed is missed, and the next one finds the fleet as it is: by what the broker kept.
    let data = relay.kill();
    let died = loop {
        let said = told(&mut listener, "fleet/v1/default/relays/r1").await;
        if said["online"] == false {
            break said;
        }
    };
    assert_eq!(died["relay_id"], "r1");
    let relay = Relay::start_with(data, &options);
    ready(&relay);
    let session = relay.log_in();
    let view = || {
        relay
            .curl_as(&session, "/api/v1/robots/kiwi-01", &[])
            .json()
    };
    until("the birth that the broker kept", async || {
        view()["status"]["online"] == true
    })
    .await;
    until("the factsheet that it kept", async || {
        view()["factsheet"]["profile"] == "lekiwi"
    })
    .await;

    // Who vanishes is gone by its will; a relay that stops says so.
    robot.vanish();
    until("its will", async || {
        view()["status"]["connection"] == "CONNECTION_BROKEN"
    })
    .await;
    let (status, _data) = relay.stop();
    assert_eq!(status.code(), Some(0));
    loop {
        if told(&mut listener, "fleet/v1/default/relays/r1").await["online"] == false {
            break;
        }
    }
}
