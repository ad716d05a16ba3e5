//! Ethernet addresses of machines that this one talked to, as the kernel remembers them.

use core::net::Ipv4Addr;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use lekiwi_protocol::discovery::PORT;
use lekiwi_protocol::discovery::packet::Packet;
use tokio::net::UdpSocket;

/// How long the kernel is given to ask who has an address.
const PATIENCE: Duration = Duration::from_millis(300);

/// All of them; empty where the kernel does not say.
#[must_use]
pub fn list() -> BTreeMap<Ipv4Addr, String> {
    parse(&std::fs::read_to_string("/proc/net/arp").unwrap_or_default())
}

/// Sends each of them a question about nothing, so that the kernel learns their Ethernet addresses.
///
/// # Errors
/// When there is no socket.
pub async fn meet(addresses: impl IntoIterator<Item = Ipv4Addr>) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let question = Packet::default().to_bytes();
    for address in addresses {
        // Who cannot be reached stays unknown.
        let _ = socket.send_to(&question, (address, PORT)).await;
    }
    tokio::time::sleep(PATIENCE).await;
    Ok(())
}

fn parse(text: &str) -> BTreeMap<Ipv4Addr, String> {
    let known = |line: &str| {
        let mut fields = line.split_whitespace();
        let address = fields.next()?.parse().ok()?;
        let (flags, mac) = (fields.nth(1)?, fields.next()?);
        // 0x0: asked for and not answered.
        (flags != "0x0").then(|| (address, mac.to_ascii_lowercase()))
    };
    text.lines().skip(1).filter_map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_answered() {
        let text = "\
IP address       HW type     Flags       HW address            Mask     Device
192.168.1.1      0x1         0x2         DC:A6:32:01:02:03     *        eth0
192.168.1.9      0x1         0x0         00:00:00:00:00:00     *        eth0
";
        let expected = (
            Ipv4Addr::new(192, 168, 1, 1),
            "dc:a6:32:01:02:03".to_owned(),
        );
        assert_eq!(parse(text), BTreeMap::from([expected]));
        assert_eq!(parse(""), BTreeMap::new());
    }
}
