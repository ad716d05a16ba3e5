//! What the relay and this machine are called, and by which names others reach it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lekiwi_protocol::RelayId;
use lekiwi_protocol::id::NameError;

use crate::config::Config;
use crate::identity::server::ServerName;

/// What this machine is called, where that is a name of DNS.
pub(super) fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    matches!(ServerName::parse(&name), Ok(ServerName::Dns(_))).then(|| name.to_ascii_lowercase())
}

/// The relay's id when none was given: the host's first label, as far as ids take it.
pub(super) fn relay_id(host: Option<&str>) -> Result<RelayId, NameError> {
    let label = host
        .and_then(|host| host.split('.').next())
        .unwrap_or_default();
    let label = label
        .trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
        .replace('_', "-");
    RelayId::new(if label.is_empty() { "relay" } else { &label })
}

/// Every name that the certificate should be good for: what the configuration says, where the relay
/// listens, and what this machine is called.
pub(super) fn server_names(config: &Config, host: Option<&str>) -> Vec<ServerName> {
    let mut names = config.server_names.clone();
    names.extend([
        ServerName::Dns("localhost".to_owned()),
        ServerName::Address(Ipv4Addr::LOCALHOST.into()),
        ServerName::Address(Ipv6Addr::LOCALHOST.into()),
    ]);
    if let Some(host) = host {
        names.push(ServerName::Dns(host.to_owned()));
        if !host.contains('.') {
            names.push(ServerName::Dns(format!("{host}.local")));
        }
    }
    for listen in [config.https, config.mqtt] {
        if listen.ip().is_unspecified() {
            names.extend(interface_addresses().into_iter().map(ServerName::Address));
        } else {
            names.push(ServerName::Address(listen.ip()));
        }
    }
    names
}

/// The broker's `host:port` as others reach it.
pub(super) fn advertised(config: &Config, host: Option<&str>, mqtt: SocketAddr) -> String {
    let port = mqtt.port();
    match (
        config.server_names.first(),
        mqtt.ip().is_unspecified(),
        host,
    ) {
        (Some(ServerName::Dns(name)), _, _) => format!("{name}:{port}"),
        (Some(ServerName::Address(address)), _, _) => SocketAddr::new(*address, port).to_string(),
        (None, false, _) => mqtt.to_string(),
        (None, true, Some(host)) => format!("{host}:{port}"),
        (None, true, None) => format!("localhost:{port}"),
    }
}

/// Addresses of this machine that others may reach it by.
fn interface_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
        })
        .filter(|address| match address {
            IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
            IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
        })
        .collect()
}
