//! The least that says a robot lives, to compare the agent with: one connection with mutual TLS, one heartbeat in
//! 30 s, and nothing else. No outbox, no telemetry, no enrolment, no second way; it ends when the connection does.
//!
//! `skeleton HOST:PORT ROBOT FOLDER`, with `key.pem`, `cert.pem` and `ca.pem` in the folder. Measured by
//! `cargo xtask bench agent`.

#![expect(
    clippy::disallowed_methods,
    reason = "a program by itself, with the machine's clock"
)]

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lekiwi_protocol::message::Heartbeat;
use lekiwi_protocol::{Clock, Envelope, FromRobot, MessageType, RobotId, Root, Timestamp, limits};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use uuid::Uuid;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, robot, folder] = arguments.as_slice() else {
        return Err("expected HOST:PORT ROBOT FOLDER".into());
    };
    let (host, port) = address.rsplit_once(':').ok_or("expected HOST:PORT")?;
    let robot: RobotId = robot.parse()?;
    let folder = PathBuf::from(folder);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(folder.join("cert.pem"))?],
            PrivateKeyDer::from_pem_file(folder.join("key.pem"))?,
        )?;
    let mut options = MqttOptions::new(robot.as_str(), host, port.parse()?);
    let tls = TlsConfiguration::Rustls(Arc::new(tls));
    options.set_transport(Transport::tls_with_config(tls));
    options.set_keep_alive(limits::KEEP_ALIVE);
    // The library has room for as many from the start: 65,535 would be megabytes.
    options.set_outgoing_inflight_upper_limit(1);
    let (client, mut connection) = AsyncClient::new(options, 4);
    let topic = Root::default()
        .from_robot(&robot, FromRobot::Heartbeat)
        .to_string();
    tokio::spawn(beat(client, robot, topic));
    loop {
        if let Event::Incoming(Packet::ConnAck(_)) = connection.poll().await? {
            say("connected");
        }
    }
}

/// A heartbeat at each interval, for as long as somebody takes it.
async fn beat(client: AsyncClient, robot: RobotId, topic: String) {
    let (session, start) = (Uuid::new_v4(), Instant::now());
    let mut ticker = tokio::time::interval(limits::HEARTBEAT);
    for sequence in 0.. {
        ticker.tick().await;
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let ms = unix.unwrap_or(Duration::ZERO).as_millis();
        let heartbeat = Envelope {
            message_type: MessageType::Heartbeat,
            robot_id: robot.clone(),
            timestamp: Timestamp::from_ms(u64::try_from(ms).unwrap_or_default()),
            sequence,
            clock: Clock::Synced,
            payload: &Heartbeat {
                session,
                uptime_s: start.elapsed().as_secs(),
            },
        };
        let sent = client.publish(&topic, QoS::AtMostOnce, false, heartbeat.to_json());
        if sent.await.is_err() {
            return;
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "a program's word to whoever started it"
)]
fn say(text: &str) {
    println!("{text}");
}
