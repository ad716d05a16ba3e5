//! What the agent needs of the relay: names, ports, certificates, and a broker that takes it.

use std::io;
use std::time::Duration;

use lekiwi_protocol::Timestamp;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};

use super::{Finding, Verdict};
use crate::config::{Address, Config};
use crate::dial::{DialError, Dialer};
use crate::driver::chain;
use crate::identity::{self, BrokerTls, Identity};
use crate::ipc::Status;

/// What the check of a broker is called.
const BROKER: &str = "broker";
/// Longest wait for each step.
const PATIENCE: Duration = Duration::from_secs(5);
/// What helps where the proxy is in the way.
const LET_THROUGH: &str =
    "it must allow CONNECT to this address and port; without one, take relay.proxy away";

pub(super) async fn examine(
    config: &Config,
    identity: Option<Identity>,
    now: Timestamp,
    status: Option<&Status>,
    findings: &mut Vec<Finding>,
) {
    let relay = &config.relay;
    // The last resort is the enrolment's port, which is looked at below.
    let brokers = relay.endpoints.iter().filter(|way| !way.rank.last_resort);
    let brokers: Vec<&Address> = brokers.map(|way| &way.mqtt).collect();
    let mut hosts: Vec<&Address> = Vec::new();
    match &relay.proxy {
        // It resolves the other names.
        Some(proxy) => hosts.push(proxy),
        None => hosts.extend([&relay.https].into_iter().chain(brokers.iter().copied())),
    }
    // Usually all are one host.
    for (index, address) in hosts.iter().enumerate() {
        if hosts[..index]
            .iter()
            .all(|before| before.host != address.host)
        {
            findings.push(resolve(address).await);
        }
    }
    let proxy = relay.proxy.as_ref();
    if let Some(proxy) = proxy {
        let found = through(proxy, &relay.https).await;
        let is_shut = found.verdict == Verdict::Failed;
        findings.push(found);
        if is_shut {
            // Whatever is behind it, nobody can tell.
            return;
        }
    }
    findings.push(
        match identity::probe(
            &relay.https,
            proxy,
            relay.ca_fingerprint,
            identity.as_ref(),
            now,
        )
        .await
        {
            Ok(()) => Finding::ok(
                "enrolment",
                format!("{} answers, with a trusted authority", relay.https),
            ),
            Err(error) => Finding::failed(
                "enrolment",
                chain(&error),
                &error.hint().unwrap_or_default(),
            ),
        },
    );
    if let Some(status) = status {
        // It says itself how it stands: a second client of its name would throw it out.
        if status.online_since.is_some() {
            let text = format!("{} has the agent's session", status.relay);
            findings.push(Finding::ok(BROKER, text));
        }
        return;
    }
    for address in brokers {
        findings.push(broker(config, address, identity.as_ref(), now).await);
    }
}

async fn resolve(address: &Address) -> Finding {
    const CHECK: &str = "name";
    let host = &address.host;
    let found = async {
        let mut found = lookup_host((host.as_str(), address.port)).await?;
        found.next().ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    match within(found).await {
        Ok(found) => Finding::ok(CHECK, format!("{host} is {}", found.ip())),
        Err(error) => Finding::failed(
            CHECK,
            format!("expected an address of {host}: {error}"),
            "is there a network, and a name server? `resolvectl status`",
        ),
    }
}

/// Whether the proxy lets this robot through to the relay.
async fn through(proxy: &Address, relay: &Address) -> Finding {
    const CHECK: &str = "proxy";
    if let Err(error) = Dialer::default().dial(proxy).await {
        return Finding::failed(
            CHECK,
            format!("expected a proxy at {proxy}: {}", chain(&error)),
            "is it running, and relay.proxy right?",
        );
    }
    match Dialer::new(Some(proxy.clone())).dial(relay).await {
        Ok(_) => Finding::ok(CHECK, format!("{proxy} connects to {relay}")),
        Err(error @ DialError::Proxy { .. }) => Finding::failed(
            CHECK,
            format!("no way to {relay}: {}", chain(&error)),
            LET_THROUGH,
        ),
        Err(error) => Finding::failed(
            CHECK,
            format!(
                "expected the proxy at {proxy} to connect to {relay}: {}",
                chain(&error)
            ),
            LET_THROUGH,
        ),
    }
}

/// Whether the broker at `address` takes this robot.
async fn broker(
    config: &Config,
    address: &Address,
    identity: Option<&Identity>,
    now: Timestamp,
) -> Finding {
    let at = address.to_string();
    let dialer = Dialer::new(config.relay.proxy.clone());
    let tcp = match dialer.dial(address).await {
        Ok(tcp) => tcp,
        Err(error) => {
            let hint = match error {
                DialError::Proxy { .. } => LET_THROUGH,
                _ => "is the relay running, relay.mqtt right, and the port let through?",
            };
            let text = format!("expected a connection to {at}: {}", chain(&error));
            return Finding::failed(BROKER, text, hint);
        }
    };
    let Some(identity) = identity else {
        let text = format!("{at} is there; without an identity nobody gets further");
        return Finding::unknown(BROKER, text, "");
    };
    let shown = async {
        let mut tls = BrokerTls::default();
        let tls = tls.config(identity, now).map_err(io::Error::other)?;
        let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
        let mut stream = tls.connect(name, tcp).await?;
        ask(&mut stream, config.robot_id.as_str()).await
    };
    match within(shown).await {
        Ok(0) => Finding::ok(BROKER, format!("{at} takes this robot")),
        Ok(code) => {
            let (reason, hint) = refusal(code);
            let text = format!("{at} refuses this robot: {reason} (code {code:#04x})");
            Finding::failed(BROKER, text, hint)
        }
        Err(error) => Finding::failed(
            BROKER,
            format!("expected a session with {at}: {error}"),
            "its certificate and this robot's must be of the same authority, and valid now",
        ),
    }
}

/// MQTT 5: CONNECT without a will, the reason code of CONNACK, DISCONNECT.
async fn ask(
    stream: &mut tokio_rustls::client::TlsStream<TcpStream>,
    client_id: &str,
) -> io::Result<u8> {
    // Protocol name and version, clean start, 10 s of keep-alive, no properties.
    const HEADER: [u8; 11] = *b"\x00\x04MQTT\x05\x02\x00\x0a\x00";
    // A robot's id has 63 bytes at most: one byte says each length.
    let length = client_id.len() as u8;
    let mut packet = vec![0x10, HEADER.len() as u8 + 2 + length];
    packet.extend_from_slice(&HEADER);
    packet.extend_from_slice(&[0, length]);
    packet.extend_from_slice(client_id.as_bytes());
    stream.write_all(&packet).await?;
    stream.flush().await?;
    // Type, length, flags, reason.
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    if answer[0] != 0x20 {
        let other = format!("expected CONNACK, got {:#04x}", answer[0]);
        return Err(io::Error::new(io::ErrorKind::InvalidData, other));
    }
    // It says itself that it refuses, and need not be told goodbye.
    let _ = stream.write_all(b"\xe0\x00").await;
    let _ = stream.shutdown().await;
    Ok(answer[3])
}

fn refusal(code: u8) -> (&'static str, &'static str) {
    match code {
        0x84 => ("it does not speak MQTT 5", "the relay does: is it one?"),
        0x85 => ("not this client id", "relay.mqtt must be a Lekiwi relay"),
        0x86 | 0x87 | 0x8a => (
            "not allowed",
            "the robot may be rejected, or its certificate replaced: `lekiwi robots`",
        ),
        0x88 | 0x89 => ("busy or not available", "try again in a minute"),
        0x97 | 0x9f => ("too many at a time", "try again in a minute"),
        _ => ("for another reason", "look at the relay's log"),
    }
}

async fn within<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| {
        let late = format!("no answer within {} s", PATIENCE.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, late))
    };
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why() {
        let reason = |code| refusal(code).0;
        assert_eq!(
            [0x84, 0x85, 0x87, 0x89, 0x9f, 0x80].map(reason),
            [
                "it does not speak MQTT 5",
                "not this client id",
                "not allowed",
                "busy or not available",
                "too many at a time",
                "for another reason",
            ]
        );
    }
}
