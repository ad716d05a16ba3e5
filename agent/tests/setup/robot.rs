//! A folder that is a robot's file system, programs that write down how they were called, and the agent's
//! end of the socket.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Writes its call down; ends its parent with SIGKILL at call number `KILL_AT`; fails while the file
/// `fail-NAME` is there; installs packages by saying so in dpkg's list.
const STAND_IN: &str = r#"#!/bin/sh
name=${0##*/}
echo "$name $*" >> "$ROBOT/calls"
if [ "$(wc -l < "$ROBOT/calls")" = "${KILL_AT:-0}" ]; then kill -9 $PPID; exit 0; fi
if [ -e "$ROBOT/fail-$name" ]; then echo "E: $name is out of order" >&2; exit 100; fi
if [ "$name $1" = "apt-get install" ]; then
  for word; do
    case $word in
      *.deb) word=${word##*/}; word=${word%%_*};;
      -* | *=* | install) continue;;
    esac
    printf 'Package: %s\nStatus: install ok installed\n\n' "$word" >> "$ROBOT/root/var/lib/dpkg/status"
  done
fi
"#;

pub(crate) struct Robot {
    folder: tempfile::TempDir,
    events: Arc<Mutex<Vec<Value>>>,
    /// The event at which the process with this id is killed.
    fatal: Arc<Mutex<Option<(usize, i32)>>>,
}

impl Robot {
    /// Registered as `lekiwi`, whose profile has these lines behind its title.
    pub(crate) fn new(profile: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let robot = Self {
            folder,
            events: Arc::default(),
            fatal: Arc::default(),
        };
        for folder in ["bin", "state", "root/var/lib/dpkg", "root/etc"] {
            fs::create_dir_all(robot.file(folder)).unwrap();
        }
        for name in [
            "apt-get",
            "dpkg",
            "groupadd",
            "usermod",
            "udevadm",
            "systemctl",
        ] {
            let path = robot.file("bin").join(name);
            fs::write(&path, STAND_IN).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        robot.profile(profile);
        robot.register("lekiwi");
        let at = robot.folder.path().display();
        let config = format!(
            "version: 1\nrobot_id: kiwi-01\nrelay:\n  https: https://127.0.0.1:1\n  ca_fingerprint: sha256:{}\n\
             state_dir: {at}/state\nsocket: {at}/agent.sock\n",
            "0".repeat(64)
        );
        fs::write(robot.file("agent.yml"), config).unwrap();
        robot.listen();
        robot
    }

    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// A path of the robot's own file system.
    pub(crate) fn on_robot(&self, path: &str) -> PathBuf {
        self.file("root").join(path.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.on_robot(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.on_robot(path)).unwrap()
    }

    pub(crate) fn profile(&self, lines: &str) {
        let text = format!("version: 1\nname: lekiwi\ntitle: A robot\n{lines}");
        self.write("/usr/share/lekiwi/profiles/lekiwi.yml", &text);
    }

    pub(crate) fn register(&self, profile: &str) {
        let text = json!({ "status": "registered", "profile": profile }).to_string();
        fs::write(self.file("state/registered.json"), text).unwrap();
    }

    /// Takes events as the agent does.
    fn listen(&self) {
        let listener = UnixListener::bind(self.file("agent.sock")).unwrap();
        let (events, fatal) = (self.events.clone(), self.fatal.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                let Ok(request) = serde_json::from_str::<Value>(&line) else {
                    continue;
                };
                // Held while a process is about to be named that may be killed by this event.
                let fatal = fatal.lock().unwrap();
                let mut events = events.lock().unwrap();
                events.push(request["event"].clone());
                if let Some((number, pid)) = *fatal
                    && number == events.len()
                {
                    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
                    continue;
                }
                let answer = json!({ "seq": events.len() });
                let _ = writeln!(stream, "{answer}");
            }
        });
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lekiwi-agent"));
        let path = std::env::var("PATH").unwrap();
        command
            .arg("--config")
            .arg(self.file("agent.yml"))
            .arg("--root")
            .arg(self.file("root"))
            .arg("setup")
            .args(arguments)
            .env("PATH", format!("{}:{path}", self.file("bin").display()))
            .env("ROBOT", self.folder.path())
            .env_remove("JOURNAL_STREAM")
            .env_remove("KILL_AT");
        command
    }

    /// Runs the setup to its end.
    pub(crate) fn setup(&self) -> Output {
        self.command(&[]).output().unwrap()
    }

    /// The same; it must succeed.
    pub(crate) fn set_up(&self) {
        let output = self.setup();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    pub(crate) fn spawn(&self) -> Child {
        self.command(&[]).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs the setup until it says event `number` of all, where it is killed.
    pub(crate) fn killed_at_event(&self, number: usize) {
        let mut child = {
            let mut fatal = self.fatal.lock().unwrap();
            let child = self.spawn();
            *fatal = Some((number, i32::try_from(child.id()).unwrap()));
            child
        };
        let status = child.wait().unwrap();
        *self.fatal.lock().unwrap() = None;
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9),
            "at event {number}"
        );
    }

    /// How programs were called so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap().clone()
    }

    /// The events so far, a short line each.
    pub(crate) fn told(&self) -> Vec<String> {
        let short = |event: &Value| {
            let kind = event["type"].as_str().unwrap();
            let step = event["data"]["step"].as_str().unwrap_or_default();
            let percent = event["data"]["percent"].as_u64();
            let percent = percent.map_or(String::new(), |percent| format!("{percent} %"));
            format!("{kind} {percent} {step}").trim_end().to_owned()
        };
        self.events().iter().map(short).collect()
    }

    /// Waits for an event; fails after two minutes.
    pub(crate) fn wait(&self, kind: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(event) = self
                .events()
                .into_iter()
                .find(|event| event["type"] == kind)
            {
                return event["data"].clone();
            }
            assert!(
                Instant::now() < deadline,
                "{kind} never came: {:?}",
                self.told()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn record(&self) -> Value {
        serde_json::from_str(&self.read("/var/lib/lekiwi-setup/setup.json")).unwrap()
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}
