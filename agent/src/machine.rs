//! What the machine is and where it stands: reads `/proc`, `/sys` and the device tree. Called by the
//! driver after each connect. Nothing here fails: what the machine does not say is left empty.
//!
//! `root` is `/` on a robot; tests read captured trees.

use std::fs;
use std::path::Path;

use lekiwi_protocol::message::{Hardware, Network};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use uuid::Uuid;

/// The board: the device tree on a Pi, DMI on a PC.
#[must_use]
pub fn hardware(root: &Path) -> Hardware {
    let first = |paths: &[&str]| {
        paths
            .iter()
            .find_map(|path| text(root, path))
            .unwrap_or_default()
    };
    Hardware {
        serial: first(&[
            "proc/device-tree/serial-number",
            "sys/class/dmi/id/product_serial",
        ]),
        model: first(&["proc/device-tree/model", "sys/class/dmi/id/product_name"]),
        revision: text(root, "proc/cpuinfo")
            .and_then(|cpuinfo| revision(&cpuinfo))
            .unwrap_or_default(),
        architecture: std::env::consts::ARCH.to_owned(),
        cores: std::thread::available_parallelism()
            .map_or(0, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)),
        memory_bytes: text(root, "proc/meminfo")
            .and_then(|meminfo| memory_total(&meminfo))
            .unwrap_or(0),
    }
}

/// The kernel's id of this boot; nil where it has none.
#[must_use]
pub fn boot_id(root: &Path) -> Uuid {
    text(root, "proc/sys/kernel/random/boot_id")
        .and_then(|id| id.parse().ok())
        .unwrap_or_default()
}

/// `PRETTY_NAME` of os-release.
#[must_use]
pub fn os_version(root: &Path) -> String {
    ["etc/os-release", "usr/lib/os-release"]
        .iter()
        .find_map(|path| pretty_name(&text(root, path)?))
        .unwrap_or_default()
}

/// Seconds since boot.
#[must_use]
pub fn uptime_s(root: &Path) -> u64 {
    let uptime = text(root, "proc/uptime").unwrap_or_default();
    uptime
        .split(['.', ' '])
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(0)
}

/// Whether the kernel's clock is disciplined by a time service.
#[must_use]
pub fn clock_is_synced(root: &Path) -> bool {
    // systemd-timesyncd and chrony's Debian unit both leave this mark; it is gone after a reboot.
    root.join("run/systemd/timesync/synchronized").exists()
        || root.join("run/chrony/drift-set").exists()
}

/// Host name, addresses, and the hardware address of the interface that leads out.
#[must_use]
pub fn network(root: &Path) -> Network {
    let hostname = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default();
    let route = text(root, "proc/net/route").unwrap_or_default();
    let mac_address = default_interface(&route)
        .and_then(|interface| text(root, &format!("sys/class/net/{interface}/address")))
        .filter(|address| address != "00:00:00:00:00:00");
    let mut ip_addresses: Vec<String> = getifaddrs()
        .into_iter()
        .flatten()
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|interface| {
            let address = interface.address?;
            if let Some(v4) = address.as_sockaddr_in() {
                return Some(v4.ip().to_string());
            }
            let v6 = address.as_sockaddr_in6()?.ip();
            // Link-local addresses say nothing beyond their link.
            (v6.segments()[0] & 0xffc0 != 0xfe80).then(|| v6.to_string())
        })
        .collect();
    ip_addresses.sort();
    ip_addresses.dedup();
    Network {
        hostname,
        mac_address,
        ip_addresses,
    }
}

/// A small file as text, without the NUL and white space that device trees and procfs end with.
fn text(root: &Path, path: &str) -> Option<String> {
    let bytes = fs::read(root.join(path)).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(['\0', ' ', '\n']);
    (!text.is_empty()).then(|| text.to_owned())
}

fn revision(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("Revision"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// The interface whose destination and mask are both zero, with the lowest metric.
fn default_interface(route: &str) -> Option<&str> {
    route
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (interface, destination, metric, mask) = (
                fields.first()?,
                fields.get(1)?,
                fields.get(6)?,
                fields.get(7)?,
            );
            (*destination == "00000000" && *mask == "00000000")
                .then_some((metric.parse::<u32>().ok()?, *interface))
        })
        .min()
        .map(|(_, interface)| interface)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_pi_is_read_from_its_device_tree() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        write("proc/device-tree/serial-number", "10000000abcdef01\0");
        write("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0");
        write(
            "proc/cpuinfo",
            "processor\t: 0\nRevision\t: c04170\nSerial\t\t: 10000000abcdef01\n",
        );
        write(
            "proc/meminfo",
            "MemTotal:        4147248 kB\nMemFree: 1 kB\n",
        );
        write(
            "proc/sys/kernel/random/boot_id",
            "67e55044-10b1-426f-9247-bb680e5fe0c8\n",
        );
        write(
            "usr/lib/os-release",
            "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n",
        );
        write("proc/uptime", "5.93 20.11\n");
        let hardware = hardware(root.path());
        assert_eq!(
            (
                hardware.serial.as_str(),
                hardware.model.as_str(),
                hardware.revision.as_str(),
                hardware.memory_bytes
            ),
            (
                "10000000abcdef01",
                "Raspberry Pi 5 Model B Rev 1.0",
                "c04170",
                4_246_781_952
            )
        );
        assert_eq!(
            boot_id(root.path()).to_string(),
            "67e55044-10b1-426f-9247-bb680e5fe0c8"
        );
        assert_eq!(os_version(root.path()), "Debian GNU/Linux 13 (trixie)");
        assert_eq!(uptime_s(root.path()), 5);
        assert!(!clock_is_synced(root.path()));
    }

    #[test]
    fn a_machine_that_says_nothing_is_empty_not_fatal() {
        let root = Path::new("/nonexistent");
        assert_eq!(hardware(root).serial, "");
        assert_eq!(os_version(root), "");
        assert_eq!(boot_id(root), Uuid::nil());
        assert_eq!(uptime_s(root), 0);
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_leads_out() {
        let route = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_interface(route), Some("eth0"));
        assert_eq!(default_interface(""), None);
    }
}
