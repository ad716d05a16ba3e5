//! A network of its own: hosts in network namespaces on one bridge, removed with the test. Needs root.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

use super::process::{Process, program};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A switch and its hosts.
pub struct Lan {
    name: String,
    hosts: Vec<Host>,
}

/// One machine of a [`Lan`]; its interface is `eth0`.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    address: Ipv4Addr,
}

impl Lan {
    /// An empty network, 10.77.0.0/24.
    ///
    /// # Errors
    /// When namespaces cannot be made.
    pub fn new() -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "expected to be root, for network namespaces"
        );
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let lan = Self {
            name: format!("lk{}-{number}", std::process::id()),
            hosts: Vec::new(),
        };
        ip(&["netns", "add", &lan.name])?;
        lan.switch(&["link", "add", "br0", "type", "bridge", "forward_delay", "0"])?;
        lan.switch(&["link", "set", "br0", "up"])?;
        Ok(lan)
    }

    /// A machine at 10.77.0.`last`, with an Ethernet address that ends in `last`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn host(&mut self, last: u8) -> Result<Host> {
        let host = Host {
            namespace: format!("{}-{last}", self.name),
            address: Ipv4Addr::new(10, 77, 0, last),
        };
        ip(&["netns", "add", &host.namespace])?;
        self.hosts.push(host.clone());
        let (port, mac) = (format!("port{last}"), format!("dc:a6:32:00:00:{last:02x}"));
        self.switch(&[
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &host.namespace,
        ])?;
        self.switch(&["link", "set", &port, "master", "br0", "up"])?;
        host.ip(&["link", "set", "lo", "up"])?;
        host.ip(&["link", "set", "eth0", "address", &mac, "up"])?;
        let address = format!("{}/24", host.address);
        host.ip(&["address", "add", &address, "dev", "eth0"])?;
        Ok(host)
    }

    /// Takes IPv6 away from all that is there: kernels look for neighbours and routers by themselves, and whoever
    /// counts bytes would count theirs.
    ///
    /// # Errors
    /// When a kernel that has IPv6 keeps it.
    pub fn without_ipv6(&self) -> Result<()> {
        let switch = Host {
            namespace: self.name.clone(),
            address: Ipv4Addr::UNSPECIFIED,
        };
        for host in self.hosts.iter().chain([&switch]) {
            let path = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
            match host.inside(|| std::fs::write(path, "1"))? {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// `ip` at the switch, where the cable of 10.77.0.`last` is `port` and `last`.
    ///
    /// # Errors
    /// When it refuses.
    pub fn switch(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", self.name.as_str()][..], arguments].concat())
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let hosts = self.hosts.iter().map(|host| &host.namespace);
        for namespace in hosts.chain([&self.name]) {
            // What is left of it goes with the machine.
            let _ = ip(&["netns", "delete", namespace]);
        }
    }
}

impl Host {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// `ip` on this machine.
    ///
    /// # Errors
    /// When it refuses.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", self.namespace.as_str()][..], arguments].concat())
    }

    /// Drops what comes from these machines and what goes to them, and nothing else any more; of none, nothing.
    ///
    /// # Errors
    /// When the kernel's filter cannot be set.
    pub fn cut_off(&self, others: &[&Self]) -> Result<()> {
        let mut rules = "flush ruleset\n".to_owned();
        if !others.is_empty() {
            let addresses: Vec<String> = others
                .iter()
                .map(|other| other.address.to_string())
                .collect();
            let addresses = addresses.join(", ");
            rules.push_str(&format!(
                "table ip cut {{
                    chain in {{ type filter hook input priority 0; ip saddr {{ {addresses} }} drop; }}
                    chain out {{ type filter hook output priority 0; ip daddr {{ {addresses} }} drop; }}
                }}"
            ));
        }
        self.filter(&rules)
    }

    /// Gives the kernel's packet filter rules of nftables.
    ///
    /// # Errors
    /// When it refuses them.
    pub fn filter(&self, rules: &str) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(rules.as_bytes())?;
        let mut nft = self.command(&program("nft", "nftables")?)?;
        let output = nft.arg("-f").arg(file.path()).output()?;
        ensure!(
            output.status.success(),
            "nft: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// The arguments of `ip` that run `program` on this machine.
    #[must_use]
    pub fn wrapped(&self, program: &Path) -> Vec<OsString> {
        let name = self.namespace.as_str();
        let mut arguments: Vec<OsString> = ["netns", "exec", name].map(Into::into).to_vec();
        arguments.push(program.into());
        arguments
    }

    /// A command on this machine, to be waited for.
    ///
    /// # Errors
    /// When `ip` is missing.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(ip_program()?);
        command.args(self.wrapped(program));
        Ok(command)
    }

    /// A child on this machine.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start<A: Into<OsString>>(
        &self,
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, OsString)],
        log: &Path,
    ) -> Result<Process> {
        let mut all = self.wrapped(program);
        all.extend(arguments.into_iter().map(Into::into));
        Process::start(name, &ip_program()?, all, environment, log)
    }

    /// Runs `work` in a thread that is on this machine; sockets that it opens stay there.
    ///
    /// # Errors
    /// When the thread cannot get there, or panics.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = Path::new("/run/netns").join(&self.namespace);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<T> {
                let namespace = File::open(&path)
                    .with_context(|| format!("expected a namespace at {}", path.display()))?;
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            thread.join().map_err(|_| anyhow!("the work panicked"))?
        })
    }
}

pub(super) fn ip_program() -> Result<PathBuf> {
    program("ip", "iproute2")
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new(ip_program()?).args(arguments).output()?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
