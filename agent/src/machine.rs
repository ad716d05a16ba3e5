//! The machine that the robot is made of: hardware, network, operating system, this boot. Reads
//! `/proc`, `/sys` and `/etc`; what a machine does not say is empty.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use lekiwi_protocol::limits::MAX_INTERFACES;
use lekiwi_protocol::message::{Deployment, Hardware, Interface, Network};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use uuid::Uuid;

/// Reads below a root, which is `/` outside of tests.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new(PathBuf::from("/"))
    }
}

impl Machine {
    /// `root` is `/`, or a folder in tests.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// A Pi says it in its device tree and `/proc/cpuinfo`, a PC in its DMI tables.
    #[must_use]
    pub fn hardware(&self) -> Hardware {
        let tree = |name: &str| self.read(&format!("proc/device-tree/{name}"));
        let dmi = |name: &str| self.read(&format!("sys/class/dmi/id/{name}"));
        let cpuinfo = self.read("proc/cpuinfo").unwrap_or_default();
        let cpu = |key: &str| value_of(&cpuinfo, key);
        let memory = self.read("proc/meminfo").unwrap_or_default();
        let first = |candidates: [Option<String>; 3]| {
            candidates
                .into_iter()
                .flatten()
                .find(|text| !text.is_empty())
        };
        Hardware {
            serial: first([tree("serial-number"), cpu("Serial"), dmi("product_serial")])
                .unwrap_or_default(),
            model: first([tree("model"), cpu("Model"), dmi("product_name")]).unwrap_or_default(),
            revision: first([cpu("Revision"), self.revision(), dmi("product_version")])
                .unwrap_or_default(),
            architecture: nix::sys::utsname::uname()
                .map(|uname| uname.machine().to_string_lossy().into_owned())
                .unwrap_or_default(),
            // Those of the machine, not what this process may use of them.
            cores: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .fold(0, |count, _| count + 1),
            memory_bytes: crate::telemetry::memory_bytes(&memory).unwrap_or(0),
        }
    }

    /// A Pi's revision where the kernel shows none among its processors, as Debian's.
    fn revision(&self) -> Option<String> {
        let path = self.root.join("proc/device-tree/system/linux,revision");
        let code: [u8; 4] = fs::read(path).ok()?.try_into().ok()?;
        Some(format!("{:06x}", u32::from_be_bytes(code)))
    }

    /// Host name, the address of the interface with the default route, all global addresses.
    #[must_use]
    pub fn network(&self) -> Network {
        let route = self.read("proc/net/route").unwrap_or_default();
        let mac = default_interface(&route)
            .and_then(|name| self.read(&format!("sys/class/net/{name}/address")));
        Network {
            hostname: hostname(),
            mac_address: mac.map(|mac| mac.to_lowercase()),
            ip_addresses: addresses(),
            interfaces: self.interfaces(),
        }
    }

    /// Those with a device behind them, by name.
    fn interfaces(&self) -> Vec<Interface> {
        let folder = self.root.join("sys/class/net");
        let entries = fs::read_dir(&folder).into_iter().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| folder.join(name).join("device").exists())
            .collect();
        names.sort();
        names.truncate(MAX_INTERFACES);
        let interface = |name: String| {
            let mac_address = self.read(&format!("sys/class/net/{name}/address"))?;
            let mac_address = mac_address.to_lowercase();
            Some(Interface { name, mac_address })
        };
        names.into_iter().filter_map(interface).collect()
    }

    /// A number that changes when addresses, links or IPv4 routes do.
    #[must_use]
    pub fn network_fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for interface in getifaddrs().into_iter().flatten() {
            let ip = interface.address.and_then(ip_of);
            let is_running = interface.flags.contains(InterfaceFlags::IFF_RUNNING);
            (interface.interface_name, is_running, ip).hash(&mut hasher);
        }
        self.read("proc/net/route").hash(&mut hasher);
        hasher.finish()
    }

    /// What runs here.
    #[must_use]
    pub fn deployment(&self) -> Deployment {
        let release = self.read("etc/os-release").unwrap_or_default();
        Deployment {
            os_version: os_version(&release),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            installed_packages: None,
        }
    }

    /// The kernel's id of this boot.
    #[must_use]
    pub fn boot_id(&self) -> Option<Uuid> {
        self.read("proc/sys/kernel/random/boot_id")?.parse().ok()
    }

    fn read(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.root.join(path)).ok()?;
        // Device tree texts end with a zero byte.
        let text = String::from_utf8_lossy(&bytes);
        Some(
            text.trim_matches(|c: char| c == '\0' || c.is_whitespace())
                .to_owned(),
        )
    }
}

/// This machine's host name.
#[must_use]
pub fn hostname() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Whether any interface but loopback has an address that reaches beyond this machine.
#[must_use]
pub fn has_network() -> bool {
    all_addresses().iter().any(is_global)
}

/// Whether `address` is one of this machine's.
#[must_use]
pub fn has_address(address: IpAddr) -> bool {
    all_addresses().contains(&address)
}

fn addresses() -> Vec<String> {
    let all = all_addresses();
    let mut addresses: Vec<String> = all
        .iter()
        .filter(|ip| is_global(ip))
        .map(ToString::to_string)
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Of all interfaces that are up.
fn all_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    interfaces
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| ip_of(interface.address?))
        .collect()
}

fn ip_of(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

fn is_global(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}

/// The interface of the default route in `/proc/net/route`.
fn default_interface(text: &str) -> Option<&str> {
    let mut fields = text.lines().skip(1).map(|line| line.split_whitespace());
    fields.find_map(|mut line| {
        let (name, destination) = (line.next()?, line.next()?);
        (destination == "00000000").then_some(name)
    })
}

/// `Key\t: value` as in `/proc/cpuinfo`.
fn value_of(text: &str, key: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().to_owned())
        .next()
}

fn os_version(release: &str) -> String {
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or_default()
        .trim_matches(['"', '\''])
        .to_owned()
}

/// A uuid kept in a file: read, or made and written once.
#[must_use]
pub fn lasting_uuid(path: &Path) -> Uuid {
    if let Some(uuid) = fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
    {
        return uuid;
    }
    let uuid = Uuid::new_v4();
    let text = format!("{uuid}\n");
    if let Err(error) = crate::storage::write_atomically(path, text.as_bytes(), 0o644) {
        log::warn!(
            "the robot's uuid cannot be kept in {}: {error}",
            path.display()
        );
    }
    uuid
}

/// Calls `tell` when the boot that the file at `path` has noted is another one than `boot_id`, and notes this one
/// afterwards: whoever is killed in between is told again. The first boot is only noted.
pub fn tell_reboot(path: &Path, boot_id: Uuid, tell: impl FnOnce()) {
    let noted = fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse::<Uuid>().ok());
    if noted == Some(boot_id) {
        return;
    }
    if noted.is_some() {
        tell();
    }
    let text = format!("{boot_id}\n");
    if let Err(error) = crate::storage::write_atomically(path, text.as_bytes(), 0o644) {
        log::warn!(
            "this boot's id cannot be kept in {}: {error}",
            path.display()
        );
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let machine = Machine::new(folder.path().to_owned());
        (folder, machine)
    }

    #[test]
    fn a_pi_is_read_from_its_device_tree() {
        let (_folder, machine) = machine(&[
            ("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0"),
            ("proc/device-tree/serial-number", "10000000deadbeef\0"),
            (
                "proc/cpuinfo",
                "processor\t: 0\n\nprocessor\t: 1\n\nRevision\t: d04170\nSerial\t\t: 10000000deadbeef\n",
            ),
            ("proc/meminfo", "MemTotal:        8245456 kB\n"),
            (
                "etc/os-release",
                "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
            ),
        ]);
        let hardware = machine.hardware();
        assert_eq!(hardware.model, "Raspberry Pi 5 Model B Rev 1.0");
        assert_eq!(hardware.serial, "10000000deadbeef");
        assert_eq!(hardware.revision, "d04170");
        assert_eq!(hardware.memory_bytes, 8_245_456 * 1024);
        assert_eq!(hardware.cores, 2);
        let (_folder, debian) =
            self::machine(&[("proc/device-tree/system/linux,revision", "\0\u{1}Ap")]);
        assert_eq!(debian.hardware().revision, "014170");
        assert_eq!(
            machine.deployment().os_version,
            "Debian GNU/Linux 12 (bookworm)"
        );
    }

    #[test]
    fn a_pc_is_read_from_its_dmi_tables_and_a_mute_machine_is_empty() {
        let (_folder, pc) = machine(&[
            ("sys/class/dmi/id/product_name", "NUC7i5\n"),
            ("sys/class/dmi/id/product_serial", "G6BN\n"),
        ]);
        assert_eq!(
            (pc.hardware().model.as_str(), pc.hardware().serial.as_str()),
            ("NUC7i5", "G6BN")
        );
        let (_folder, mute) = machine(&[]);
        assert_eq!(mute.hardware().serial, "");
        assert_eq!(
            (mute.deployment().os_version, mute.boot_id()),
            (String::new(), None)
        );
    }

    #[test]
    fn the_mac_is_that_of_the_default_route() {
        let route = "Iface\tDestination\tGateway\nwlan0\t0000A8C0\t0\nwlan0\t00000000\t0101A8C0\n";
        let (_folder, machine) = machine(&[
            ("proc/net/route", route),
            ("sys/class/net/wlan0/address", "DC:A6:32:01:02:03\n"),
        ]);
        assert_eq!(
            machine.network().mac_address.as_deref(),
            Some("dc:a6:32:01:02:03")
        );
    }

    #[test]
    fn interfaces_are_those_with_a_device_behind_them() {
        let (folder, machine) = machine(&[
            ("sys/class/net/wlan0/address", "DC:A6:32:01:02:03\n"),
            ("sys/class/net/wlan0/device/uevent", ""),
            ("sys/class/net/eth0/address", "dc:a6:32:01:02:04\n"),
            ("sys/class/net/eth0/device/uevent", ""),
            ("sys/class/net/docker0/address", "02:42:00:00:00:01\n"),
            ("sys/class/net/lo/address", "00:00:00:00:00:00\n"),
        ]);
        let found = |machine: &Machine| -> Vec<(String, String)> {
            let interfaces = machine.network().interfaces.into_iter();
            interfaces.map(|i| (i.name, i.mac_address)).collect()
        };
        let pair = |name: &str, mac: &str| (name.to_owned(), mac.to_owned());
        assert_eq!(
            found(&machine),
            [
                pair("eth0", "dc:a6:32:01:02:04"),
                pair("wlan0", "dc:a6:32:01:02:03")
            ]
        );
        for number in 0..40 {
            let device = folder
                .path()
                .join(format!("sys/class/net/a{number}/device"));
            fs::create_dir_all(&device).unwrap();
            fs::write(device.with_file_name("address"), "0\n").unwrap();
        }
        assert_eq!(found(&machine).len(), MAX_INTERFACES);
    }

    #[test]
    fn a_reboot_is_noticed_once_and_the_uuid_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("boot_id");
        let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut told = Vec::new();
        for boot in [first, first, second, second] {
            tell_reboot(&path, boot, || {
                let noted = fs::read_to_string(&path).unwrap();
                told.push((noted.trim().to_owned(), boot));
            });
        }
        // Before it is noted: a crash in between must not lose it.
        assert_eq!(told, [(first.to_string(), second)]);
        let uuid = folder.path().join("uuid");
        assert_eq!(lasting_uuid(&uuid), lasting_uuid(&uuid));
    }
}
