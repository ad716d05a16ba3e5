//! A robot, the machine that it tells things to, and one that drives it, on a network where nobody else speaks.

use anyhow::{Context, Result};
use lekiwi_tests::harness::{Host, Lan};

/// The three machines. Namespaces are removed with it, so what runs there ends before.
pub(crate) struct Site {
    pub(crate) robot: Host,
    pub(crate) server: Host,
    pub(crate) operator: Host,
    _lan: Lan,
}

impl Site {
    pub(crate) fn new() -> Result<Self> {
        let mut lan = Lan::new()?;
        let (robot, server, operator) = (lan.host(1)?, lan.host(2)?, lan.host(3)?);
        lan.without_ipv6()?;
        for host in [&robot, &server] {
            // A real wire has a frame for each segment; here the kernel would count one for several.
            host.ip(&["link", "set", "eth0", "gso_max_segs", "1"])?;
        }
        Ok(Self {
            robot,
            server,
            operator,
            _lan: lan,
        })
    }

    /// Bytes of frames between robot and server so far, in both directions. Counted at the server: who drives
    /// the robot is not seen there.
    pub(crate) fn wire_bytes(&self) -> Result<u64> {
        // `/proc/net` would be of the process, `inside` is a thread.
        let path = "/proc/thread-self/net/dev";
        let text = self.server.inside(|| std::fs::read_to_string(path))??;
        both_directions(&text, "eth0")
    }
}

/// Received and sent bytes of `interface`.
fn both_directions(devices: &str, interface: &str) -> Result<u64> {
    let counters: Option<Vec<u64>> = devices
        .lines()
        .find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().map(|n| n.parse().ok()).collect());
    match counters.as_deref() {
        Some([received, _, _, _, _, _, _, _, sent, ..]) => Some(received + sent),
        _ => None,
    }
    .with_context(|| format!("expected counters of {interface} in /proc/net/dev"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_two_directions() {
        let devices = "Inter-|   Receive\n face |bytes\n    lo: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n  \
                       eth0: 100 2 0 0 0 0 0 0 300 4 0 0 0 0 0 0\n";
        assert_eq!(both_directions(devices, "eth0").unwrap(), 400);
        assert_eq!(
            both_directions(devices, "eth1").unwrap_err().to_string(),
            "expected counters of eth1 in /proc/net/dev"
        );
    }
}
