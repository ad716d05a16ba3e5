//! Beside an older system: its key, the listener for its agent, and its relay.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};

use super::Finding;
use super::own::SUDO;
use crate::config::{Address, MigrationConfig};
use crate::ipc::{IpcError, Status};
use crate::migration;

const CHECK: &str = "migration";

/// `is_running` says whether an agent runs, which then has the listener itself.
pub(super) async fn examine(
    config: &MigrationConfig,
    agent: &Result<Status, IpcError>,
    findings: &mut Vec<Finding>,
) {
    let key = match config.api_key_file.as_ref().map(std::fs::read_to_string) {
        None => None,
        Some(Ok(key)) if !key.trim().is_empty() => Some(key.trim().to_owned()),
        Some(other) => {
            let path = config.api_key_file.as_deref().unwrap_or("".as_ref());
            let why = other.map_or_else(|error| error.to_string(), |_| "it is empty".to_owned());
            let text = format!(
                "expected the older system's key in {}: {why}",
                path.display()
            );
            return findings.push(Finding::failed(
                CHECK,
                text,
                "without it nothing is forwarded; readable by the agent: \
                 `chown root:lekiwi-agent FILE; chmod 640 FILE`",
            ));
        }
    };
    if let Some(address) = config.listen {
        let is_running = match agent {
            Ok(_) => Some(true),
            Err(IpcError::NotRunning { source, .. }) => {
                (source.kind() != ErrorKind::PermissionDenied).then_some(false)
            }
            Err(_) => None,
        };
        findings.push(match is_running {
            Some(is_running) => listener(address, key.as_deref(), is_running).await,
            None => Finding::unknown(
                CHECK,
                format!("whether the agent listens at {address} is for itself to say"),
                SUDO,
            ),
        });
    }
    if let Some(address) = &config.mirror {
        findings.push(relay(address, key.as_deref()).await);
    }
}

async fn listener(address: SocketAddr, key: Option<&str>, is_running: bool) -> Finding {
    const HINT: &str =
        "`ss -ltnp` says who has the port: give the agent another (migration.listen)";
    if !is_running {
        return match TcpListener::bind(address) {
            Ok(_) => Finding::ok(
                CHECK,
                format!("{address} is free for the older agent's words"),
            ),
            Err(error) => Finding::failed(
                CHECK,
                format!("expected {address} to be free for the older agent's words: {error}"),
                HINT,
            ),
        };
    }
    let to = Address {
        host: address.ip().to_string(),
        port: address.port(),
    };
    match migration::answers_as_agent(&to, key).await {
        Ok(true) => Finding::ok(CHECK, format!("the agent hears the older one at {address}")),
        Ok(false) => Finding::failed(
            CHECK,
            format!("expected this agent at {address}, got somebody else"),
            HINT,
        ),
        Err(error) => Finding::failed(
            CHECK,
            format!("expected this agent at {address}: {error}"),
            "it says why it does not listen: `journalctl -u lekiwi-agent`; it begins to at its start",
        ),
    }
}

async fn relay(address: &Address, key: Option<&str>) -> Finding {
    match migration::health(address, key).await {
        Ok(200) => Finding::ok(
            CHECK,
            format!("the older relay answers at http://{address}"),
        ),
        Ok(401 | 403) => Finding::failed(
            CHECK,
            format!("expected the older relay at http://{address} to take the key, got a refusal"),
            "migration.api_key_file must have the key of that relay",
        ),
        Ok(status) => Finding::warning(
            CHECK,
            format!("expected 200 of http://{address}/health, got {status}"),
            "is it the older relay, and well?",
        ),
        Err(error) => Finding::failed(
            CHECK,
            format!(
                "expected the older relay at http://{address}: {}",
                said(&error)
            ),
            "is it running, and migration.mirror right?",
        ),
    }
}

fn said(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => error.to_string(),
    }
}
