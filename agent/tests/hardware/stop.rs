//! Letting go of the motors, and the stop actions of the shipped profiles, which end with that.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lekiwi_agent::hardware::servo::let_go;
use lekiwi_protocol::profile::Profile;

use crate::bus::{Behaviour, Bus};
use crate::{PATIENT, WHEELED, faults};

const AGENT: &str = env!("CARGO_BIN_EXE_lekiwi-agent");

fn with_torque(bus: &Bus) -> Vec<u8> {
    bus.torque.lock().unwrap().iter().copied().collect()
}

#[test]
fn motors_are_let_go_of_whatever_their_bus_does() {
    for (fault, behaviour) in faults() {
        let ids = behaviour.ids.clone();
        let bus = Bus::start(behaviour);
        assert_eq!(with_torque(&bus), ids);
        assert_eq!(let_go(bus.path(), PATIENT), Ok(ids), "{fault}");
        assert!(with_torque(&bus).is_empty(), "{fault}");
    }
    let deaf = Bus::start(Behaviour {
        ids: WHEELED.to_vec(),
        deaf: vec![8],
        ..Behaviour::default()
    });
    assert_eq!(let_go(deaf.path(), PATIENT), Ok(WHEELED.to_vec()));
    assert!(with_torque(&deaf).is_empty());
}

#[test]
fn a_motor_that_may_have_torque_is_named() {
    let stuck = Bus::start(Behaviour {
        ids: WHEELED.to_vec(),
        stuck: vec![7, 9],
        ..Behaviour::default()
    });
    let at = stuck.path().display();
    assert_eq!(
        let_go(stuck.path(), PATIENT).unwrap_err(),
        format!(
            "expected every motor at {at} to have no torque, but it is not known of servos 7, 9"
        )
    );
    let silent = Bus::of(&[]);
    let at = silent.path().display();
    assert_eq!(
        let_go(silent.path(), PATIENT).unwrap_err(),
        format!("expected servos at {at}, none answered: they have no power, or turn unheard")
    );
    let none = Path::new("/dev/tty-of-nobody");
    assert_eq!(
        let_go(none, PATIENT).unwrap_err(),
        "expected the servo bus at /dev/tty-of-nobody: No such file or directory (os error 2)"
    );
    // Other programs have it open, which is not what is wrong with it.
    let mut other = Command::new("sleep")
        .arg("60")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let reason = let_go(Path::new("/dev/null"), PATIENT).unwrap_err();
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(
        reason,
        "expected the servo bus at /dev/null: expected a serial port"
    );
}

#[test]
fn who_else_has_the_bus_is_named_and_the_motors_are_let_go_of_all_the_same() {
    let bus = Bus::of(WHEELED);
    let mut other = Command::new("sleep")
        .arg("60")
        .stdin(fs::File::open(bus.path()).unwrap())
        .spawn()
        .unwrap();
    let reason = let_go(bus.path(), PATIENT).unwrap_err();
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(
        reason,
        format!(
            "expected no other program at {}, got sleep (process {}): its motors may have torque again",
            bus.path().display(),
            other.id()
        )
    );
    assert!(with_torque(&bus).is_empty());
}

/// The files of a shipped profile's stop action, below a folder, with a `systemctl` that does what it is told to.
struct Shipped {
    folder: tempfile::TempDir,
}

impl Shipped {
    fn new(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../image/profiles/{name}.yml"));
        let profile = Profile::parse(&fs::read_to_string(path).unwrap(), name).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("stop.sock").display().to_string();
        let units = &profile.software.units;
        let unit = units.iter().find(|unit| unit.name == "lekiwi-stop.socket");
        let listens = "\nListenStream=/run/lekiwi-stop.sock\n";
        assert!(unit.unwrap().content.contains(listens), "{name}");
        let content = |path: &str| {
            let file = profile.software.files.iter().find(|file| file.path == path);
            let file = file.unwrap_or_else(|| panic!("{name} brings {path}"));
            file.content.clone()
        };
        let service = content("/etc/systemd/system/lekiwi-stop@.service");
        assert!(
            service.contains("\nExecStart=/opt/lekiwi/stop-host\n"),
            "{name}"
        );
        let host = units
            .iter()
            .find(|unit| unit.name.ends_with("-host.service"));
        let host = &host.unwrap().content;
        let of = |text: &str, start: &str| {
            let line = text.lines().find(|line| line.starts_with(start));
            line.map(str::to_owned)
                .unwrap_or_else(|| panic!("{name}: {start}"))
        };
        assert_eq!(
            of(host, "Environment=SERVO_BUS_1"),
            of(&service, "Environment=SERVO_BUS_1"),
            "{name}"
        );
        let crashed = of(host, "ExecStopPost=");
        assert!(
            crashed.starts_with(
                "ExecStopPost=/opt/lekiwi-agent/lekiwi-agent torque-off ${SERVO_BUS_1}"
            )
        );
        assert_eq!(profile.stop.unwrap().run, ["/opt/lekiwi/stop"]);
        for (program, text) in [
            (
                "stop",
                content("/opt/lekiwi/stop").replace("/run/lekiwi-stop.sock", &socket),
            ),
            (
                "stop-host",
                content("/opt/lekiwi/stop-host").replace("/opt/lekiwi-agent/lekiwi-agent", AGENT),
            ),
        ] {
            // `script` makes it executable, and begins with a line of its own.
            let path = folder.path().join(program);
            script(&path, "");
            fs::write(path, text).unwrap();
        }
        Self { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the stop action ends with and says, when systemd stops units with `code`, and these are the buses.
    fn run(&self, code: u8, buses: &[&Bus]) -> (i32, String) {
        let log = self.at("systemctl").display().to_string();
        script(
            &self.at("bin/systemctl"),
            &format!("echo \"$@\" >> {log}; exit {code}"),
        );
        let socket = self.at("stop.sock");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let path = format!("{}:/usr/bin:/bin", self.at("bin").display());
        let mut host = Command::new(self.at("stop-host"));
        host.env("PATH", path);
        for (number, bus) in (1..).zip(buses) {
            host.env(format!("SERVO_BUS_{number}"), bus.path());
        }
        // What systemd does with a connection.
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let said = host.output().unwrap();
            stream.write_all(&said.stdout).unwrap();
        });
        let output = Command::new(self.at("stop")).output().unwrap();
        served.join().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said.trim().to_owned())
    }
}

fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_shipped_stop_actions_end_well_only_when_no_motor_has_torque() {
    for (name, host, buses) in [
        ("lekiwi", "lekiwi-host", 1),
        ("xle", "xle-host", 2),
        ("xle-2wheel", "xle-host", 2),
    ] {
        let shipped = Shipped::new(name);
        let well: Vec<Bus> = (0..buses).map(|_| Bus::of(WHEELED)).collect();
        let all: Vec<&Bus> = well.iter().collect();
        assert_eq!(shipped.run(0, &all), (0, String::new()), "{name}");
        assert!(all.iter().all(|bus| with_torque(bus).is_empty()), "{name}");
        let asked = fs::read_to_string(shipped.at("systemctl")).unwrap();
        assert_eq!(
            asked,
            format!("--no-ask-password stop {host}.path {host}.service\n")
        );

        let stuck = Bus::start(Behaviour {
            ids: WHEELED.to_vec(),
            stuck: vec![9],
            ..Behaviour::default()
        });
        let mut with_stuck = all.clone();
        with_stuck[buses - 1] = &stuck;
        let (code, said) = shipped.run(0, &with_stuck);
        assert_eq!(code, 1, "{name}");
        assert!(said.contains("not known of servos 9"), "{name}: {said}");

        let reason =
            format!("expected systemd to stop {host}.service: journalctl -u 'lekiwi-stop@*'");
        assert_eq!(shipped.run(1, &all), (1, reason));
        // Nobody listens: the setup has not come so far.
        fs::remove_file(shipped.at("stop.sock")).unwrap();
        let output = Command::new(shipped.at("stop")).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
    }
}
