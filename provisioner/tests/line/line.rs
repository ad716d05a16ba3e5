//! A running `lekiwi-provisioner serve`, with files of its own.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::net::{INTERFACE, LINE};
use crate::pi::{Pi, http};

/// The line and its folder.
pub(crate) struct Line {
    pub(crate) folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Line {
    /// Files for `boards` boards; nothing runs yet.
    pub(crate) fn new(boards: u8) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["boot/abcdef00", "boot/overlays", "images"] {
            std::fs::create_dir_all(at(name)).expect("made");
        }
        let write = |name: &str, bytes: &[u8]| std::fs::write(at(name), bytes).expect("written");
        write("boot/start4.elf", &sample(2_300_001, 1));
        write("boot/kernel8.img", &sample(1024 * 700, 2));
        write("boot/config.txt", b"arm_64bit=1\n");
        write("boot/cmdline.txt", b"console=tty1\n");
        write("boot/abcdef00/cmdline.txt", b"console=tty1 own=1\n");
        write("boot/overlays/empty.dtbo", b"");
        write("images/base.img", &sample(3_000_000, 3));
        write("secret", b"not for boards");
        write("password", b"unused\n");
        std::os::unix::fs::symlink(at("secret"), at("boot/leak")).expect("linked");
        let mut text = format!(
            "version: 1\nname: line a\nnetwork: {{address: {LINE}, interface: {INTERFACE}}}\nrelay:\n  https: https://127.0.0.1:1\n  mqtt: mqtts://127.0.0.1:2\n  ca_fingerprint: sha256:{}\n  password_file: password\ndatabase: line.sqlite\nboot_files: boot\nimages: images\ndefaults: {{profile: lekiwi, image: base.img, prefix: kiwi}}\nunits:\n",
            "0f".repeat(32)
        );
        for number in 0..boards {
            let serial = Pi { number, model: 4 }.serial();
            text += &format!("  - {{serial: '{serial}', robot_id: kiwi-{number:02}}}\n");
        }
        write("line.yml", text.as_bytes());
        Self {
            folder,
            child: None,
        }
    }

    /// A file of it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn start(&mut self) {
        let begun = std::fs::read_to_string(self.path("steps")).map_or(0, |text| ready(&text));
        let log = |name: &str| {
            let path = self.path(name);
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(path)
                .expect("a log")
        };
        // The kernel ends it when this test is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(env!("CARGO_BIN_EXE_lekiwi-provisioner"))
            .args(["serve", "--json", "--line"])
            .arg(self.path("line.yml"))
            .stdin(Stdio::null())
            .stdout(log("steps"))
            .stderr(log("log"))
            .spawn()
            .expect("setpriv starts it (hint: apt-get install -y util-linux)");
        self.child = Some(child);
        self.wait("the line", |line| {
            let text = std::fs::read_to_string(line.path("steps")).ok()?;
            (ready(&text) > begun).then_some(())
        });
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("gone");
        }
    }

    /// SIGINT; whether it ended well.
    pub(crate) fn interrupt(&mut self) -> bool {
        let mut child = self.child.take().expect("it runs");
        let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("an id"));
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).expect("told");
        child.wait().expect("it ends").success()
    }

    /// Polls until `wanted` gives something.
    pub(crate) fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(got) = wanted(self) {
                return got;
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok()?);
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "expected {what}; {ended:?}\n{}\n{}",
                std::fs::read_to_string(self.path("log")).unwrap_or_default(),
                std::fs::read_to_string(self.path("steps")).unwrap_or_default(),
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything as the operators' side tells it.
    pub(crate) fn state(&self) -> Value {
        let (status, body) = self.operator("GET", "/api/line");
        assert_eq!(status, 200);
        serde_json::from_slice(&body).expect("JSON")
    }

    /// A request to the operators' side.
    pub(crate) fn operator(&self, method: &str, path: &str) -> (u16, Vec<u8>) {
        let to = ([127, 0, 0, 1], 8090).into();
        http(Ipv4Addr::LOCALHOST, to, method, path, "")
    }

    /// One unit of it.
    pub(crate) fn unit(&self, pi: Pi) -> Value {
        let state = self.state();
        let units = state["units"].as_array().expect("units");
        let own = units.iter().find(|unit| unit["unit"] == pi.key().as_str());
        own.unwrap_or_else(|| panic!("expected {pi:?} in {state}"))
            .clone()
    }

    /// A `line` command.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lekiwi-provisioner"))
            .arg("line")
            .args(arguments)
            .arg("--line")
            .arg(self.path("line.yml"))
            .output()
            .expect("it starts")
    }

    /// What it told people that is no unit's step.
    pub(crate) fn troubles(&self) -> String {
        let text = std::fs::read_to_string(self.path("steps")).expect("output");
        let lines = text.lines().filter(|line| line.contains("\"trouble\""));
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.kill();
    }
}

fn ready(text: &str) -> usize {
    text.matches("\"ready\":true").count()
}

/// Bytes that repeat nowhere nearby.
pub(crate) fn sample(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A program of the system.
pub(crate) fn program(name: &str, package: &str) -> Command {
    let found = std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path: &PathBuf| path.is_file());
    Command::new(
        found.unwrap_or_else(|| panic!("{name} is missing (hint: apt-get install -y {package})")),
    )
}

/// Runs it and gives what it printed.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
