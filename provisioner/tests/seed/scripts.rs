//! The seeds' scripts, run as the first boot runs them: in a folder instead of the root, with stand-ins for the commands
//! that change a system, which write down how they were called.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lekiwi_protocol::Org;
use lekiwi_provisioner::order::{Addressing, Name, Order, Os, User, Wifi};
use lekiwi_provisioner::plan::{self, Content};

use crate::support::TOKEN;

const HOSTILE_KEY: &str = "ssh-ed25519 AAAA '; touch \"$PWNED\"; ' $(touch $PWNED) `touch $PWNED`";

/// A system that never booted.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new(serial: &str) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let machine = Self { root };
        for folder in [
            "bin",
            "boot/firmware",
            "etc/NetworkManager/system-connections",
            "etc/ssh/sshd_config.d",
            "etc/sudoers.d",
            "proc/device-tree",
            "proc/sys/kernel",
            "run",
        ] {
            fs::create_dir_all(machine.path(folder)).expect("writable");
        }
        for name in [
            "chown",
            "chpasswd",
            "dpkg",
            "raspi-config",
            "rfkill",
            "sync",
            "systemctl",
            "systemd-run",
            "useradd",
            "usermod",
        ] {
            machine.stand_in(name, "");
        }
        machine.stand_in("id", "exit 1");
        machine.stand_in(
            "getent",
            "echo operator:x:1001:1001::/home/operator:/bin/bash",
        );
        machine.write("etc/hostname", "raspberrypi\n");
        machine.write(
            "etc/hosts",
            "127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n",
        );
        machine.write("etc/machine-id", "00112233445566778899aabbccddeeff\n");
        if !serial.is_empty() {
            machine.write("proc/device-tree/serial-number", &format!("{serial}\0"));
        }
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("writable");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn mode(&self, name: &str) -> u32 {
        let metadata = self.path(name).metadata().expect("there");
        metadata.permissions().mode() & 0o777
    }

    fn stand_in(&self, name: &str, then: &str) {
        let path = self.path("bin").join(name);
        let script = format!("#!/bin/sh\necho \"{name} $*\" >>\"$LEKIWI_ROOT/calls\"\n{then}\n");
        fs::write(&path, script).expect("writable");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("writable");
    }

    /// What was called since the last time.
    fn calls(&self) -> String {
        let calls = self.read("calls");
        self.write("calls", "");
        calls.replace(self.root.path().to_str().expect("UTF-8"), "")
    }

    fn run(&self, shell: &str, script: &Path) -> Output {
        let path = std::env::var("PATH").expect("a path");
        let output = Command::new(shell)
            .arg(script)
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("LEKIWI_ROOT", self.root.path())
            .env("PWNED", self.path("pwned"))
            .output()
            .expect("a shell");
        assert!(!self.path("pwned").exists(), "a value became a command");
        output
    }

    /// What cloud-init does at every boot.
    fn boot(&self, order: &Order) {
        let user_data: serde_json::Value =
            serde_saphyr::from_str(&text(order, "user-data")).expect("YAML");
        let script = user_data["bootcmd"][0][2].as_str().expect("a script");
        self.write("bootcmd", script);
        let output = self.run("sh", &self.path("bootcmd"));
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn order(os: Os, name: Name) -> Order {
    Order {
        os,
        name,
        org: Org::default(),
        profile: "auto".into(),
        https: "https://relay.example:8443".into(),
        mqtt: "mqtts://relay.example:8883".into(),
        ca_fingerprint: format!("sha256:{}", "0f".repeat(32)),
        token: TOKEN.into(),
        token_expires: None,
        user: None,
        wifi: None,
        addressing: Addressing::Dhcp,
        time_zone: None,
        locale: None,
        keyboard: None,
        agent_deb: None,
        card_files: Vec::new(),
    }
}

fn serial(os: Os) -> Order {
    let prefix = "robot".parse().expect("a name");
    order(os, Name::Serial { prefix })
}

fn given(os: Os) -> Order {
    order(os, Name::Given("kiwi-01".parse().expect("a name")))
}

fn text(order: &Order, name: &str) -> String {
    let files = plan::seed(order);
    let file = files.into_iter().find(|file| file.name == name);
    match file.expect("planned").content {
        Content::Text(text) => text,
        Content::Copy(_) | Content::Edit(_) => panic!("{name} is no text"),
    }
}

const LATE: &str = "chown root:lekiwi-agent /etc/lekiwi /etc/lekiwi/agent.yml
chown -R lekiwi-agent:lekiwi-agent /opt/lekiwi-agent/state
systemctl enable lekiwi-agent.service
systemctl restart --no-block lekiwi-agent.service
sync 
sync 
";

#[test]
fn the_first_boot_makes_the_robot_and_later_ones_change_nothing() {
    let machine = Machine::new("10000000deadbeef");
    let order = serial(Os::Debian);
    machine.write("boot/firmware/lekiwi-agent.deb", "");
    machine.boot(&order);
    assert_eq!(machine.read("etc/hostname"), "robot-deadbeef\n");
    assert_eq!(machine.read("proc/sys/kernel/hostname"), "robot-deadbeef");
    assert_eq!(
        machine.read("opt/lekiwi-agent/state/token"),
        format!("{TOKEN}\n")
    );
    assert_eq!(machine.mode("opt/lekiwi-agent/state/token"), 0o600);
    assert_eq!(machine.mode("etc/lekiwi/agent.yml"), 0o640);
    let agent: serde_json::Value =
        serde_saphyr::from_str(&machine.read("etc/lekiwi/agent.yml")).expect("YAML");
    assert_eq!(agent["relay"]["mqtt"], "mqtts://relay.example:8883");
    assert_eq!(agent["profile"], "auto");
    assert!(agent.get("robot_id").is_none());
    let started = "systemd-run --no-block --collect --unit=lekiwi-first-boot --property=Restart=on-failure --property=RestartSec=5 /bin/sh /run/lekiwi-first-boot\n";
    assert_eq!(machine.calls(), started);
    assert!(!machine.read("run/lekiwi-first-boot").contains(TOKEN));

    // The power goes before the second part ran: all is done again.
    machine.boot(&order);
    assert_eq!(machine.calls(), started);

    let late = machine.run("sh", &machine.path("run/lekiwi-first-boot"));
    assert!(late.status.success());
    assert_eq!(
        machine.calls(),
        format!("dpkg --install /boot/firmware/lekiwi-agent.deb\n{LATE}")
    );
    assert_eq!(
        machine.read("etc/lekiwi/seed").trim_end(),
        plan::instance_id(&order)
    );

    assert!(!machine.path("etc/lekiwi/trust.json").exists());

    // From now on the system is its owner's.
    machine.write("etc/lekiwi/agent.yml", "mine");
    fs::remove_file(machine.path("opt/lekiwi-agent/state/token")).expect("there");
    machine.boot(&order);
    assert_eq!(machine.calls(), "");
    assert_eq!(machine.read("etc/lekiwi/agent.yml"), "mine");
    assert!(!machine.path("opt/lekiwi-agent/state/token").exists());

    // Another seed is another first boot.
    let mut other = given(Os::Debian);
    other.token = format!("{TOKEN}2");
    machine.boot(&other);
    assert_eq!(machine.read("etc/hostname"), "kiwi-01\n");
    assert_eq!(machine.calls(), started);
}

#[test]
fn the_root_of_trust_is_there_before_the_agent_is() {
    let machine = Machine::new("10000000deadbeef");
    fs::create_dir(machine.path("boot/firmware/lekiwi")).expect("writable");
    machine.write("boot/firmware/lekiwi/trust.json", "[]");
    machine.boot(&given(Os::Debian));
    // The agent comes last but for what is written down.
    let pinned = machine.path("etc/lekiwi/trust.json");
    machine.stand_in("systemctl", &format!("test -s {}", pinned.display()));
    let late = machine.run("sh", &machine.path("run/lekiwi-first-boot"));
    assert!(late.status.success());
    assert_eq!(machine.read("etc/lekiwi/trust.json"), "[]");
    assert_eq!(machine.mode("etc/lekiwi/trust.json"), 0o644);
}

#[test]
fn what_fails_is_done_again_by_systemd() {
    let machine = Machine::new("10000000deadbeef");
    machine.write("boot/firmware/lekiwi-agent.deb", "");
    machine.stand_in("dpkg", "exit 2");
    machine.boot(&serial(Os::RaspiosTrixie));
    let late = machine.run("sh", &machine.path("run/lekiwi-first-boot"));
    assert_eq!(late.status.code(), Some(2));
    assert!(!machine.path("etc/lekiwi/seed").exists());
}

#[test]
fn a_machine_without_a_serial_number_is_named_by_its_machine_id() {
    let machine = Machine::new("");
    machine.boot(&serial(Os::Ubuntu2404));
    assert_eq!(machine.read("etc/hostname"), "robot-ccddeeff\n");
    let machine = Machine::new("10000000DEADBEEF");
    machine.boot(&serial(Os::Ubuntu2404));
    assert_eq!(machine.read("etc/hostname"), "robot-deadbeef\n");
}

#[test]
fn a_scrubbed_token_is_not_written_over_a_good_one() {
    let machine = Machine::new("10000000deadbeef");
    let mut order = given(Os::RaspiosTrixie);
    order.token = format!("lkt_{}", "0".repeat(43));
    machine.boot(&order);
    assert!(!machine.path("opt/lekiwi-agent/state/token").exists());
    assert_eq!(machine.read("etc/hostname"), "kiwi-01\n");
}

#[test]
fn bookworm_sets_all_up_before_its_first_login() {
    let machine = Machine::new("10000000deadbeef");
    let mut order = serial(Os::RaspiosBookworm);
    order.user = Some(User {
        name: "operator".into(),
        ssh_keys: vec![HOSTILE_KEY.into()],
        password_hash: None,
    });
    order.wifi = Some(Wifi {
        ssid: "'; touch $PWNED; '".into(),
        password: Some("'; touch $PWNED; '$(touch $PWNED)".into()),
        country: "DE".into(),
    });
    order.time_zone = Some("Europe/Berlin".into());
    order.locale = Some("de_DE.UTF-8".into());
    order.keyboard = Some("de".into());
    machine.write("boot/firmware/lekiwi-agent.deb", "");
    let stock = "console=tty1 root=PARTUUID=0e1c1c3a-02 rootwait";
    machine.write(
        "boot/firmware/cmdline.txt",
        &format!("{stock} systemd.run=/boot/firmware/firstrun.sh systemd.run_success_action=reboot systemd.unit=kernel-command-line.target\n"),
    );
    machine.write("boot/firmware/firstrun.sh", &text(&order, "firstrun.sh"));
    let script = machine.path("boot/firmware/firstrun.sh");

    // Twice: the power may go before the command line is written.
    for _ in 0..2 {
        assert!(machine.run("bash", &script).status.success());
        let log = machine.read("boot/firmware/lekiwi-firstrun.log");
        assert_eq!(log, "");
        assert_eq!(
            machine.read("boot/firmware/cmdline.txt"),
            format!("{stock}\n")
        );
        assert_eq!(machine.read("etc/hostname"), "robot-deadbeef\n");
        assert_eq!(
            machine.read("etc/hosts"),
            "127.0.0.1\tlocalhost\n127.0.1.1\trobot-deadbeef\n"
        );
        assert_eq!(
            machine.read("home/operator/.ssh/authorized_keys"),
            format!("{HOSTILE_KEY}\n")
        );
        let profile = "etc/NetworkManager/system-connections/lekiwi-wifi.nmconnection";
        assert_eq!(machine.mode(profile), 0o600);
        assert!(
            machine
                .read(profile)
                .contains("\npsk=';\\stouch\\s$PWNED;\\s'$(touch\\s$PWNED)\n"),
            "{}",
            machine.read(profile)
        );
        assert_eq!(
            machine.read("etc/sudoers.d/010_lekiwi"),
            "operator ALL=(ALL) NOPASSWD:ALL\n"
        );
    }
    let calls = machine.calls();
    let first = format!("dpkg --install /boot/firmware/lekiwi-agent.deb\n{LATE}");
    let steps = "id operator
useradd --create-home --shell /bin/bash operator
chpasswd --encrypted
usermod --append --groups sudo,dialout,video operator
getent passwd operator
chown -R operator: /home/operator/.ssh
systemctl enable ssh.service
raspi-config nonint do_wifi_country DE
rfkill unblock wifi
raspi-config nonint do_change_timezone Europe/Berlin
raspi-config nonint do_change_locale de_DE.UTF-8
raspi-config nonint do_configure_keyboard de
sync 
sync 
";
    assert_eq!(calls, format!("{first}{steps}{steps}"));
}

#[test]
fn one_part_that_fails_keeps_no_other_from_being_done() {
    let machine = Machine::new("10000000deadbeef");
    let mut order = given(Os::RaspiosBookworm);
    order.user = Some(User {
        name: "operator".into(),
        ssh_keys: vec![HOSTILE_KEY.into()],
        password_hash: None,
    });
    machine.stand_in("dpkg", "echo no >&2; exit 2");
    machine.write("boot/firmware/lekiwi-agent.deb", "");
    machine.write("boot/firmware/cmdline.txt", "root=x systemd.run=/a\n");
    machine.write("boot/firmware/firstrun.sh", &text(&order, "firstrun.sh"));
    let script = machine.path("boot/firmware/firstrun.sh");
    assert!(machine.run("bash", &script).status.success());
    assert_eq!(machine.read("boot/firmware/lekiwi-firstrun.log"), "no\n");
    assert_eq!(machine.read("boot/firmware/cmdline.txt"), "root=x\n");
    assert!(machine.path("home/operator/.ssh/authorized_keys").exists());
}
