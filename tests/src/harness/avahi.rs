//! The system's own responder of multicast DNS, with a message bus of its own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::namespace::Host;
use super::process::{Process, program};

/// Everybody may say everything: the bus is this test's alone.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=PATH</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>
"#;

/// `avahi-daemon` on a host.
pub struct Avahi {
    host: Host,
    bus: OsString,
    files: TempDir,
    // In this order: the daemon ends before its bus.
    daemon: Process,
    _bus: Process,
}

impl Avahi {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(host: &Host) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let (socket, config) = (files.path().join("bus"), files.path().join("bus.conf"));
        std::fs::write(&config, BUS.replace("PATH", &socket.to_string_lossy()))?;
        let mut bus = Process::start(
            "dbus-daemon",
            &program("dbus-daemon", "dbus")?,
            [
                OsString::from("--nofork"),
                "--nopidfile".into(),
                "--config-file".into(),
                config.into(),
            ],
            &[],
            &files.path().join("bus.log"),
        )?;
        bus.wait_for("the bus", || socket.exists().then_some(()))?;
        let mut address = OsString::from("unix:path=");
        address.push(&socket);
        // Its own folder for its own process id: there may be others on this machine.
        let daemon = program("avahi-daemon", "avahi-daemon")?;
        let settings = files.path().join("avahi.conf");
        // Machines of one network have names of their own, unlike namespaces.
        let [.., last] = host.address().octets();
        std::fs::write(
            &settings,
            format!(
                "[server]\nhost-name=machine-{last}\nuse-ipv6=no\n[wide-area]\nenable-wide-area=no\n[publish]\npublish-workstation=no\n"
            ),
        )?;
        let script =
            "mkdir -p /run/avahi-daemon && mount -t tmpfs tmpfs /run/avahi-daemon && exec \"$@\"";
        let mut daemon = host.start(
            "avahi-daemon",
            &program("unshare", "util-linux")?,
            [
                OsString::from("--mount"),
                "sh".into(),
                "-c".into(),
                script.into(),
                "sh".into(),
                daemon.into(),
                "--no-drop-root".into(),
                "--no-chroot".into(),
                "--no-rlimits".into(),
                "--file".into(),
                settings.into(),
            ],
            &[("DBUS_SYSTEM_BUS_ADDRESS", address.clone())],
            &files.path().join("avahi.log"),
        )?;
        let log = files.path().join("avahi.log");
        daemon.wait_for("avahi-daemon's host name", || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            said.contains("Server startup complete").then_some(())
        })?;
        Ok(Self {
            host: host.clone(),
            bus: address,
            files,
            daemon,
            _bus: bus,
        })
    }

    /// One of its tools, on its host.
    ///
    /// # Errors
    /// When it is missing.
    pub fn tool(&self, name: &str) -> Result<Command> {
        let mut command = self.host.command(&program(name, "avahi-utils")?)?;
        command.env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus);
        Ok(command)
    }

    /// Publishes a service for as long as the child lives.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn publish(&self, arguments: &[&str]) -> Result<Process> {
        let log: PathBuf = self.files.path().join("publish.log");
        let environment = [("DBUS_SYSTEM_BUS_ADDRESS", self.bus.clone())];
        let tool = program("avahi-publish", "avahi-utils")?;
        let mut process = self
            .host
            .start("avahi-publish", &tool, arguments, &environment, &log)?;
        process.wait_for("the service to be published", || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            said.contains("Established under name").then_some(())
        })?;
        Ok(process)
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}
