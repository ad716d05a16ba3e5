//! The agent as a child process against Mosquitto over mutual TLS: birth, heartbeat, events, death,
//! reconnect, goodbye, local status.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use serde_json::{Value, json};

use crate::support::{Authority, eventually, write_config};

/// A child that ends with the test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub(crate) fn try_ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().unwrap()
    }

    pub(crate) async fn ended(&mut self) -> std::process::ExitStatus {
        let mut status = None;
        let child = &mut self.0;
        eventually("the process ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Mosquitto with client certificates required, and a robot that is enrolled with its authority.
pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) authority: Arc<Authority>,
    pub(crate) port: u16,
    pub(crate) broker: Option<Process>,
}

impl Site {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::new("fleet"));
        let (certificate, key, _) = authority.server();
        let file = |name: &str| folder.path().join(name);
        fs::write(file("ca.crt"), authority.pem()).unwrap();
        fs::write(file("server.crt"), certificate).unwrap();
        fs::write(file("server.key"), key.serialize_pem()).unwrap();
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let at = folder.path().display();
        let configuration = format!(
            "listener {port} 127.0.0.1\nuser root\nallow_anonymous false\nrequire_certificate true\n\
             use_identity_as_username true\ncafile {at}/ca.crt\ncertfile {at}/server.crt\nkeyfile {at}/server.key\n"
        );
        fs::write(file("mosquitto.conf"), configuration).unwrap();
        write_config(folder.path(), "kiwi-01", 1, port, &authority.fingerprint());
        let state = file("state");
        fs::create_dir(&state).unwrap();
        let (certificate, key) = authority.client("kiwi-01");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).mode(0o600);
        std::io::Write::write_all(
            &mut options.open(state.join("key.pem")).unwrap(),
            key.serialize_pem().as_bytes(),
        )
        .unwrap();
        fs::write(state.join("cert.pem"), certificate).unwrap();
        fs::write(state.join("ca.pem"), authority.pem()).unwrap();
        let mut site = Self {
            folder,
            authority,
            port,
            broker: None,
        };
        site.start_broker().await;
        site
    }

    pub(crate) async fn start_broker(&mut self) {
        let child = Command::new("/usr/sbin/mosquitto")
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is needed: apt-get install mosquitto");
        self.broker = Some(Process(child));
        let port = self.port;
        eventually("mosquitto listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .await;
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lekiwi-agent"));
        command
            .arg("--config")
            .arg(self.folder.path().join("agent.yml"))
            .args(arguments);
        command
            .env_remove("JOURNAL_STREAM")
            .env("LEKIWI_LOG", "debug");
        command
    }

    pub(crate) fn agent(&self) -> Process {
        self.agent_with(&["run"])
    }

    pub(crate) fn agent_with(&self, arguments: &[&str]) -> Process {
        self.agent_with_log("agent.log", arguments)
    }

    pub(crate) fn agent_with_log(&self, log: &str, arguments: &[&str]) -> Process {
        let log = fs::File::create(self.folder.path().join(log)).unwrap();
        Process(self.command(arguments).stderr(log).spawn().unwrap())
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .env_remove("LEKIWI_LOG")
            // Found also while the configuration is broken.
            .env("LEKIWI_SOCKET", self.folder.path().join("agent.sock"))
            .output()
            .unwrap()
    }

    /// Everything that robots say, as the relay would hear it.
    pub(crate) fn listen(&self) -> Ears {
        let (certificate, key) = self.authority.client("consumer:test");
        let mut options = MqttOptions::new("consumer:test", "127.0.0.1", self.port);
        options
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(
                Arc::new({
                    use rustls_pki_types::pem::PemObject;
                    let mut roots = rustls::RootCertStore::empty();
                    roots.add(self.authority.der()).unwrap();
                    let provider = Arc::new(rustls::crypto::ring::default_provider());
                    let chain =
                        rustls_pki_types::CertificateDer::from_pem_slice(certificate.as_bytes())
                            .unwrap();
                    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
                    rustls::ClientConfig::builder_with_provider(provider)
                        .with_safe_default_protocol_versions()
                        .unwrap()
                        .with_root_certificates(roots)
                        .with_client_auth_cert(vec![chain], key)
                        .unwrap()
                }),
            )))
            .set_max_packet_size(Some(100_000));
        let (client, mut event_loop) = AsyncClient::new(options, 32);
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let (log, ears) = (heard.clone(), client.clone());
        let task = tokio::spawn(async move {
            loop {
                match event_loop.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        ears.try_subscribe("fleet/v1/default/robots/+/from/#", QoS::AtLeastOnce)
                            .unwrap();
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        log.lock().unwrap().push(Heard {
                            topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
                            retained: publish.retain,
                            properties: publish
                                .properties
                                .map_or_else(Vec::new, |properties| properties.user_properties),
                            body: serde_json::from_slice(&publish.payload).unwrap(),
                        })
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        Ears {
            client,
            heard,
            task,
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("agent.log")).unwrap_or_default()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Heard {
    topic: String,
    retained: bool,
    pub(crate) properties: Vec<(String, String)>,
    pub(crate) body: Value,
}

pub(crate) struct Ears {
    client: AsyncClient,
    heard: Arc<Mutex<Vec<Heard>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ears {
    pub(crate) fn all(&self, last_level: &str) -> Vec<Heard> {
        let suffix = format!("/robots/kiwi-01/from/{last_level}");
        let heard = self.heard.lock().unwrap();
        heard
            .iter()
            .filter(|message| message.topic.ends_with(&suffix))
            .cloned()
            .collect()
    }

    pub(crate) async fn wait(
        &self,
        site: &Site,
        last_level: &str,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Heard {
        let mut found = None;
        let said = format!("{what}; the agent says\n{}", site.log());
        eventually(&said, || {
            found = self
                .all(last_level)
                .into_iter()
                .find(|heard| fits(&heard.body["payload"]));
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub(crate) async fn connection(&self, site: &Site, state: &str) -> Heard {
        self.wait(site, "connection", state, |payload| {
            payload["state"] == state
        })
        .await
    }

    /// Says something to the robot, as the relay would.
    pub(crate) fn publish(&self, to: &str, payload: impl Into<Vec<u8>>) {
        let topic = format!("fleet/v1/default/robots/kiwi-01/to/{to}");
        self.client
            .try_publish(topic, QoS::AtMostOnce, false, payload.into())
            .unwrap();
    }

    pub(crate) fn forget(&self) {
        self.heard.lock().unwrap().clear();
    }

    /// What a relay does after its commit.
    fn acknowledge(&self, batch: &Value, from: u64, to: u64) {
        let stream = batch["stream"].as_str().unwrap();
        let ack = json!({
            "type": "ack", "robot_id": "kiwi-01", "timestamp": "2026-11-21T03:52:00.000Z", "sequence": 0,
            "payload": { "acks": { stream: [[from, to]] } }
        });
        let topic = "fleet/v1/default/robots/kiwi-01/to/ack";
        self.client
            .try_publish(topic, QoS::AtMostOnce, false, ack.to_string())
            .unwrap();
    }
}

/// What a relay says about the robot's registration.
pub(crate) fn register(ears: &Ears, payload: Value) {
    let message = json!({
        "type": "registration", "robot_id": "kiwi-01", "timestamp": "2026-11-21T03:52:00.000Z", "sequence": 0,
        "payload": payload
    });
    let topic = "fleet/v1/default/robots/kiwi-01/to/registration";
    ears.client
        .try_publish(topic, QoS::AtMostOnce, false, message.to_string())
        .unwrap();
}

#[tokio::test]
async fn a_registered_robot_has_it_in_writing_and_a_quarantined_one_says_why() {
    let site = Site::start().await;
    let ears = site.listen();
    let _agent = site.agent();
    ears.connection(&site, "ONLINE").await;
    let file = site.folder.path().join("state/registered.json");

    register(
        &ears,
        json!({ "status": "quarantined", "reason": "its profile is unknown" }),
    );
    let complaint = "the relay has quarantined this robot: its profile is unknown (hint: look at it in the dashboard, then `lekiwi approve kiwi-01 --profile NAME`)";
    eventually("the status says why", || {
        status(&site).is_some_and(|status| status["last_error"] == complaint)
    })
    .await;
    assert!(!file.exists());

    register(
        &ears,
        json!({ "status": "registered", "profile": "lekiwi" }),
    );
    eventually("the file is there", || file.exists()).await;
    let kept = fs::read_to_string(&file).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&kept).unwrap(),
        json!({ "status": "registered", "profile": "lekiwi" })
    );
    eventually("the complaint is over", || {
        status(&site).is_some_and(|status| status["last_error"].is_null())
    })
    .await;

    register(&ears, json!({ "status": "quarantined", "reason": "again" }));
    eventually("the status says why", || {
        status(&site).is_some_and(|status| {
            status["last_error"]
                .as_str()
                .is_some_and(|error| error.contains("again"))
        })
    })
    .await;
    assert_eq!(fs::read_to_string(&file).unwrap(), kept);
}

pub(crate) fn status(site: &Site) -> Option<Value> {
    let output = site.run(&["status", "--json"]);
    serde_json::from_slice(&output.stdout).ok()
}

#[tokio::test]
async fn a_robot_is_born_lives_and_says_goodbye() {
    let site = Site::start().await;
    let ears = site.listen();
    let mut agent = site.agent();
    let birth = ears.connection(&site, "ONLINE").await;
    let session = birth.body["payload"]["session"].clone();
    assert_eq!(birth.body["type"], "connection");

    let sheet = ears.wait(&site, "factsheet", "factsheet", |_| true).await;
    assert_eq!(sheet.body["payload"]["profile"], "lekiwi");
    let state = ears.wait(&site, "state", "state", |_| true).await;
    assert_eq!(state.body["payload"]["session"], session);
    assert_eq!(state.body["payload"]["activity"], "idle");
    ears.wait(&site, "telemetry", "CPU", |payload| {
        payload["metrics"]["cpu_percent"].is_number()
    })
    .await;
    for _ in 0..2 {
        let pulse = ears.wait(&site, "heartbeat", "heartbeat", |_| true).await;
        assert_eq!(pulse.body["payload"]["session"], session);
        ears.forget();
    }

    let events = |status: &Value| status["outbox"]["pending"].as_u64();
    let waiting = status(&site).unwrap();
    assert_eq!(
        (waiting["phase"].as_str(), events(&waiting)),
        (Some("Connected"), Some(1))
    );
    assert_eq!(waiting["session"], session);
    let text = String::from_utf8(site.run(&["status"]).stdout).unwrap();
    assert!(
        text.contains("phase        Connected (link online)"),
        "{text}"
    );

    agent.signal(Signal::SIGTERM);
    let goodbye = ears.connection(&site, "OFFLINE").await;
    assert_eq!(goodbye.body["payload"]["session"], session);
    assert!(agent.ended().await.success());
    assert!(!site.folder.path().join("agent.sock").exists());
    let stopped = ears.wait(&site, "events", "agent.stopped", |payload| {
        payload["events"]
            .as_array()
            .unwrap()
            .iter()
            .any(|event| event["type"] == "agent.stopped")
    });
    stopped.await;
    let late = site.listen();
    let kept = late
        .wait(&site, "connection", "the retained goodbye", |_| true)
        .await;
    assert_eq!(
        (kept.retained, &kept.body["payload"]["state"]),
        (true, &json!("OFFLINE"))
    );
}

#[tokio::test]
async fn a_killed_robot_is_declared_broken_and_its_events_come_again_until_acknowledged() {
    let site = Site::start().await;
    let ears = site.listen();
    let mut agent = site.agent();
    let session = ears.connection(&site, "ONLINE").await.body["payload"]["session"].clone();
    let started = |payload: &Value| payload["events"][0]["type"] == "agent.started";
    let first = ears
        .wait(&site, "events", "agent.started", started)
        .await
        .body["payload"]
        .clone();
    assert_eq!(first["events"][0]["seq"], 1);
    agent.signal(Signal::SIGKILL);
    agent.ended().await;
    let death = ears.connection(&site, "CONNECTION_BROKEN").await;
    assert_eq!(
        death.body["payload"]["session"], session,
        "the will is of the same session"
    );

    ears.forget();
    let _agent = site.agent();
    let reborn = ears.connection(&site, "ONLINE").await;
    assert_ne!(reborn.body["payload"]["session"], session);
    let both = |payload: &Value| {
        payload["events"]
            .as_array()
            .is_some_and(|events| events.len() == 2)
    };
    let second = ears.wait(&site, "events", "both events", both).await.body["payload"].clone();
    assert_eq!(
        (&second["stream"], &second["events"][1]["seq"]),
        (&first["stream"], &json!(2))
    );
    ears.acknowledge(&second, 1, 1);
    eventually("one event left", || {
        status(&site).is_some_and(|s| s["outbox"]["pending"] == 1)
    })
    .await;
    // The other one goes out again by itself.
    ears.forget();
    let again = |payload: &Value| payload["events"][0]["seq"] == 2;
    ears.wait(&site, "events", "the unacknowledged event", again)
        .await;
    ears.acknowledge(&second, 2, 2);
    eventually("nothing left", || {
        status(&site).is_some_and(|s| s["outbox"]["pending"] == 0)
    })
    .await;
}

#[tokio::test]
async fn the_link_comes_back_when_the_broker_does() {
    let mut site = Site::start().await;
    let ears = site.listen();
    let _agent = site.agent();
    ears.connection(&site, "ONLINE").await;
    site.broker = None;
    eventually("the loss is noticed", || {
        status(&site).is_some_and(|s| s["phase"] == "Reconnecting")
    })
    .await;
    let lost = status(&site).unwrap();
    let why = lost["last_error"].as_str().unwrap();
    let expected = format!(
        "expected a lasting connection to the broker at 127.0.0.1:{}: ",
        site.port
    );
    assert!(why.starts_with(&expected), "{why}");
    ears.forget();
    site.start_broker().await;
    ears.connection(&site, "ONLINE").await;
}

#[tokio::test]
async fn the_service_manager_is_told_and_the_watchdog_is_fed() {
    let site = Site::start().await;
    let path = site.folder.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut command = site.command(&["run"]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "400000")
        .stderr(Stdio::null());
    let mut agent = Process(command.spawn().unwrap());
    let mut told = Vec::new();
    let hear = |told: &mut Vec<String>| {
        let mut buffer = [0; 512];
        while let Ok(count) = socket.recv(&mut buffer) {
            told.extend(
                String::from_utf8_lossy(&buffer[..count])
                    .lines()
                    .map(str::to_owned),
            );
        }
    };
    eventually("connected, and the watchdog fed three times", || {
        hear(&mut told);
        let feedings = told.iter().filter(|line| *line == "WATCHDOG=1").count();
        feedings >= 3 && told.iter().any(|line| line == "STATUS=Connected")
    })
    .await;
    assert_eq!(
        told.iter().find(|line| *line != "WATCHDOG=1").unwrap(),
        "READY=1"
    );
    agent.signal(Signal::SIGINT);
    assert!(agent.ended().await.success());
    hear(&mut told);
    assert!(told.iter().any(|line| line == "STOPPING=1"), "{told:?}");
}

#[tokio::test]
async fn a_reboot_is_told_once_also_when_the_agent_is_killed_before_it_is_noted() {
    let mut site = Site::start().await;
    // Nothing is sent before the second start.
    site.broker = None;
    let noted = site.folder.path().join("state/boot_id");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let is_noted = || fs::read_to_string(&noted).unwrap().trim() == boot_id.trim();
    for _ in 0..2 {
        fs::write(&noted, format!("{}\n", uuid::Uuid::nil())).unwrap();
        let mut agent = site.agent();
        eventually("it has started", || site.log().contains(" starts, relay ")).await;
        assert!(is_noted());
        agent.signal(Signal::SIGKILL);
        agent.ended().await;
    }
    site.start_broker().await;
    let ears = site.listen();
    let _agent = site.agent();
    let told = |kind: &str| {
        let batches = ears.all("events").into_iter();
        let mut seqs: Vec<Value> = batches
            .flat_map(|heard| heard.body["payload"]["events"].as_array().unwrap().clone())
            .filter(|event| event["type"] == kind)
            .map(|event| event["seq"].clone())
            .collect();
        seqs.sort_by_key(Value::as_u64);
        seqs.dedup();
        seqs.len()
    };
    // The starts come behind it.
    eventually("three starts are told", || told("agent.started") == 3).await;
    assert_eq!(told("robot.rebooted"), 1);
}
