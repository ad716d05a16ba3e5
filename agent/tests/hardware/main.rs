//! The probes and what they lead to: simulated servo buses on pseudo-terminals, recorded trees of
//! `/proc` and `/sys`, and the program itself.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod bus;
mod stop;
mod trees;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bus::{Behaviour, Bus};
use lekiwi_agent::config::{self, Config, Environment};
use lekiwi_agent::hardware::servo::{Timing, ask};
use lekiwi_agent::hardware::{detect, facts, identify, remember, remembered};
use lekiwi_agent_core::hardware::{BusState, Servo};
use lekiwi_protocol::message::Identified;

const LEKIWI: &str = include_str!("trees/lekiwi.tree");
const XLE: &str = include_str!("trees/xle.tree");
const WHEELED: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8, 9];

/// A busy test machine answers late.
const PATIENT: Timing = Timing {
    listen: Duration::from_millis(100),
    answer: Duration::from_millis(200),
};

fn servos(ids: &[u8]) -> BusState {
    let servo = |id: &u8| Servo {
        id: *id,
        model: Some(777),
    };
    BusState::Answered {
        servos: ids.iter().map(servo).collect(),
        garbled: Vec::new(),
    }
}

#[test]
fn servos_are_found_with_their_models_and_nothing_else_is_said() {
    let bus = Bus::of(WHEELED);
    assert_eq!(ask(bus.path(), PATIENT), servos(WHEELED));
    let said = bus.instructions.lock().unwrap();
    assert!(
        said.iter().all(|instruction| [1, 2].contains(instruction)),
        "{said:?}"
    );
}

/// What real buses do to what servos 1, 4 and 12 say.
fn faults() -> Vec<(&'static str, Behaviour)> {
    let right = Behaviour {
        ids: vec![1, 4, 12],
        ..Behaviour::default()
    };
    vec![
        (
            "echo",
            Behaviour {
                echo: true,
                ..right.clone()
            },
        ),
        (
            "noise",
            Behaviour {
                noise: vec![0x00, 0xFF, 0x7E],
                ..right.clone()
            },
        ),
        (
            "a third FF",
            Behaviour {
                noise: vec![0xFF],
                ..right.clone()
            },
        ),
        (
            "delay",
            Behaviour {
                delay: Duration::from_millis(20),
                ..right.clone()
            },
        ),
        (
            "wrong checksums",
            Behaviour {
                first_is_wrong: true,
                ..right.clone()
            },
        ),
        (
            "low voltage",
            Behaviour {
                error: 1,
                ..right.clone()
            },
        ),
        (
            "low voltage and echo",
            Behaviour {
                error: 1,
                echo: true,
                ..right.clone()
            },
        ),
        (
            "echo and noise",
            Behaviour {
                echo: true,
                noise: vec![0xFF, 0xFF, 0x00],
                ..right.clone()
            },
        ),
    ]
}

#[test]
fn faults_of_a_bus_hide_no_servo() {
    for (fault, behaviour) in faults() {
        let bus = Bus::start(behaviour);
        assert_eq!(ask(bus.path(), PATIENT), servos(&[1, 4, 12]), "{fault}");
    }
}

#[test]
fn another_model_is_said() {
    let bus = Bus::start(Behaviour {
        ids: vec![2],
        model: 1284,
        ..Behaviour::default()
    });
    let BusState::Answered { servos, .. } = ask(bus.path(), PATIENT) else {
        panic!("nobody answered");
    };
    assert_eq!((servos[0].id, servos[0].model), (2, Some(1284)));
}

#[test]
fn servos_with_one_id_and_cut_frames_are_garbled() {
    let shared = Bus::start(Behaviour {
        shared: vec![1],
        ..Behaviour::default()
    });
    let garbled = BusState::Answered {
        servos: Vec::new(),
        garbled: vec![1],
    };
    assert_eq!(ask(shared.path(), PATIENT), garbled);
    let cut = Bus::start(Behaviour {
        ids: vec![1],
        cut: Some(4),
        ..Behaviour::default()
    });
    assert_eq!(ask(cut.path(), PATIENT), garbled);
}

#[test]
fn an_id_beyond_the_usual_answers_the_broadcast() {
    let bus = Bus::of(&[42]);
    assert_eq!(ask(bus.path(), PATIENT), servos(&[42]));
}

#[test]
fn a_bus_without_power_is_silent_soon() {
    let bus = Bus::of(&[]);
    let started = Instant::now();
    assert_eq!(ask(bus.path(), Timing::default()), BusState::Silent);
    let took = started.elapsed();
    assert!(took < Duration::from_millis(1500), "{took:?}");
    let echo = Bus::start(Behaviour {
        echo: true,
        ..Behaviour::default()
    });
    assert_eq!(ask(echo.path(), PATIENT), BusState::Silent);
}

#[test]
fn a_port_in_use_is_left_alone() {
    let chatter = Bus::start(Behaviour {
        chatter: true,
        ..Behaviour::default()
    });
    assert_eq!(ask(chatter.path(), PATIENT), BusState::Busy);

    let locked = Bus::of(WHEELED);
    let file = File::options()
        .read(true)
        .write(true)
        .open(locked.path())
        .unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(ask(locked.path(), PATIENT), BusState::Busy);
    assert!(locked.instructions.lock().unwrap().is_empty());

    // Without a lock, as LeRobot does.
    let open = Bus::of(WHEELED);
    let mut child = Command::new("sh")
        .args(["-c", "exec 3<>\"$0\"; echo; exec cat"])
        .arg(open.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let state = ask(open.path(), PATIENT);
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(state, BusState::Busy);
    assert_eq!(ask(open.path(), PATIENT), servos(WHEELED));
}

#[test]
fn what_is_no_serial_port_is_said() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let failed = |reason: &str| BusState::Failed {
        reason: reason.to_owned(),
    };
    assert_eq!(ask(file.path(), PATIENT), failed("expected a serial port"));
    assert_eq!(
        ask(Path::new("/dev/nonexistent"), PATIENT),
        failed("No such file or directory (os error 2)")
    );
}

/// A configuration in `state` for the machine below `root`.
fn configuration(
    root: &Path,
    state: &Path,
    ports: Option<&[&Bus]>,
    profile: &str,
) -> (Config, String) {
    let ports = ports.map(|ports| {
        let ports: Vec<String> = ports
            .iter()
            .map(|bus| bus.path().display().to_string())
            .collect();
        format!("  servo_ports: [{}]\n", ports.join(", "))
    });
    let text = format!(
        "version: 1\nrobot_id: kiwi\nprofile: {profile}\nprofiles_dir: {}/../image/profiles\nhardware:\n  root: {}\n{}\
         relay:\n  https: https://relay.example\n  ca_fingerprint: sha256:{}\nstate_dir: {}\n",
        env!("CARGO_MANIFEST_DIR"),
        root.display(),
        ports.unwrap_or_default(),
        "0".repeat(64),
        state.display(),
    );
    let loaded = config::parse(&text, "agent.yml", &Environment::default(), "kiwi").unwrap();
    (loaded.config, text)
}

#[test]
fn recorded_trees_are_read() {
    let state = tempfile::tempdir().unwrap();
    let root = trees::lay(LEKIWI);
    let (config, _) = configuration(root.path(), state.path(), None, "auto");
    let found = facts(&config);
    assert_eq!(
        (
            found.board.kind.as_str(),
            found.board.memory_gb,
            found.board.serial.as_str()
        ),
        ("pi5", 4, "d83add0011223344")
    );
    let ports = |devices: &[lekiwi_agent_core::hardware::UsbDevice]| {
        devices
            .iter()
            .map(|device| device.port.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ports(&found.usb), ["1-1.1", "1-1.2", "1-1.4"]);
    assert_eq!(ports(&found.cameras), ["1-1.1", "1-1.2"]);
    assert_eq!(found.cameras[1].name, "Sonix USB 2.0 Camera");
    let adapters: Vec<&str> = found.buses.iter().map(|bus| bus.port.as_str()).collect();
    assert_eq!(
        adapters,
        [root.path().join("dev/ttyACM0").to_str().unwrap()]
    );

    let root = trees::lay(XLE);
    let (config, _) = configuration(root.path(), state.path(), None, "auto");
    let found = facts(&config);
    assert_eq!(
        (found.board.kind.as_str(), found.board.memory_gb),
        ("pi5", 8)
    );
    assert_eq!(ports(&found.cameras), ["1-2.1", "1-2.2", "2-1"]);
    // The GPS receiver is a serial port as well, and never asked.
    let adapters: Vec<_> = found.buses.iter().map(|bus| bus.port.clone()).collect();
    let dev = |name: &str| root.path().join("dev").join(name).display().to_string();
    assert_eq!(adapters, [dev("ttyACM0"), dev("ttyUSB0")]);
}

#[test]
fn robots_are_told_apart_whichever_port_is_first() {
    let state = tempfile::tempdir().unwrap();
    let (left, right) = (Bus::of(&WHEELED[..8]), Bus::of(WHEELED));
    let xle = trees::lay(XLE);
    for ports in [[&left, &right], [&right, &left]] {
        let (config, _) = configuration(xle.path(), state.path(), Some(&ports), "auto");
        let detection = detect(&config);
        assert_eq!(detection.identification.profile, "xle");
        remember(&config, &detection);
        let buses = fs::read_to_string(state.path().join("servo-buses.env")).unwrap();
        let (left, right) = (left.path().display(), right.path().display());
        assert_eq!(buses, format!("SERVO_BUS_1={left}\nSERVO_BUS_2={right}\n"));
    }
    let lekiwi = trees::lay(LEKIWI);
    let (config, _) = configuration(lekiwi.path(), state.path(), Some(&[&right]), "auto");
    assert_eq!(detect(&config).identification.profile, "lekiwi");
    // The same servos beside a RealSense.
    let (config, _) = configuration(xle.path(), state.path(), Some(&[&right]), "auto");
    assert_eq!(detect(&config).identification.profile, "unknown");
}

#[test]
fn what_was_detected_is_remembered_on_this_board_only() {
    let state = tempfile::tempdir().unwrap();
    let root = trees::lay(LEKIWI);
    let bus = Bus::of(WHEELED);
    let (config, _) = configuration(root.path(), state.path(), Some(&[&bus]), "auto");
    let first = identify(&config);
    assert_eq!(
        (first.profile.as_str(), first.how),
        ("lekiwi", Identified::Detected)
    );

    let unpowered = Bus::of(&[]);
    let (config, _) = configuration(root.path(), state.path(), Some(&[&unpowered]), "auto");
    let second = identify(&config);
    assert_eq!(
        (second.profile.as_str(), second.how),
        ("lekiwi", Identified::Remembered)
    );
    assert_eq!(second.matched, first.matched);
    assert!(unpowered.instructions.lock().unwrap().is_empty());
    // A look that finds nothing does not forget.
    let nothing = detect(&config);
    assert_eq!(nothing.identification.profile, "unknown");
    remember(&config, &nothing);
    assert!(remembered(&config).is_some());

    let other = trees::lay(&LEKIWI.replace("d83add0011223344", "d83add00aabbccdd"));
    let (config, _) = configuration(other.path(), state.path(), Some(&[&unpowered]), "auto");
    let moved = identify(&config);
    assert_eq!(
        (moved.profile.as_str(), moved.how),
        ("unknown", Identified::Detected)
    );
    assert_eq!(
        moved.differing,
        [format!(
            "{}: nobody answers: is the servos' power on?",
            unpowered.path().display()
        )]
    );
}

#[test]
fn a_configured_profile_asks_no_hardware() {
    let state = tempfile::tempdir().unwrap();
    let root = trees::lay(LEKIWI);
    let bus = Bus::of(WHEELED);
    let (config, _) = configuration(root.path(), state.path(), Some(&[&bus]), "xle");
    let found = identify(&config);
    assert_eq!(
        (found.profile.as_str(), found.how),
        ("xle", Identified::Configured)
    );
    assert!(bus.instructions.lock().unwrap().is_empty());
}

#[test]
fn the_program_explains_and_remembers() {
    let state = tempfile::tempdir().unwrap();
    let root = trees::lay(LEKIWI);
    let bus = Bus::of(WHEELED);
    let (_, text) = configuration(root.path(), state.path(), Some(&[&bus]), "auto");
    let file = state.path().join("agent.yml");
    fs::write(&file, text).unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_lekiwi-agent"))
            .arg("--config")
            .arg(&file)
            .arg("hardware")
            .args(arguments)
            .env_clear()
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let port = bus.path().display().to_string();
    let models: Vec<String> = WHEELED
        .iter()
        .map(|id| format!("{id} (model 777)"))
        .collect();
    let expected = format!(
        "board       pi5, 4 GB\nmodel       Raspberry Pi 5 Model B Rev 1.0\nserial      d83add0011223344\nHAT         -\n\
         USB         1bcf:2c99 at 1-1.1 USB2.0 Camera USB2.0 Camera\nUSB         0c45:636b at 1-1.2 Sonix USB 2.0 Camera\n\
         USB         1a86:55d3 at 1-1.4 USB Single Serial\ncamera      1bcf:2c99 at 1-1.1 USB2.0 Camera USB2.0 Camera\n\
         camera      0c45:636b at 1-1.2 Sonix USB 2.0 Camera\nservos      {port}: {}\n\nprofile     lekiwi\n\
         fits        servos 1-9 on {port}\nfits        board pi5\nfits        memory: 4 GB\nfits        cameras: 2\n\
         runner-up   so101, but servos 7-9 on {port} are not expected; cameras: expected 0, got 2\n\
         in use      lekiwi, as detected\n",
        models.join(", ")
    );
    assert_eq!(run(&[]), expected);
    assert!(!state.path().join("identification.json").exists());
    let json: serde_json::Value = serde_json::from_str(&run(&["--json", "--detect"])).unwrap();
    assert_eq!(json["identification"]["profile"], "lekiwi");
    assert_eq!(json["facts"]["buses"][0]["state"]["state"], "answered");
    assert!(run(&[]).ends_with("in use      lekiwi, as remembered\n"));
}

#[test]
fn a_broken_profile_is_named_and_left_out() {
    let state = tempfile::tempdir().unwrap();
    let root = trees::lay(LEKIWI);
    let bus = Bus::of(WHEELED);
    let (mut config, _) = configuration(root.path(), state.path(), Some(&[&bus]), "auto");
    config.profiles_dir = state.path().join("profiles");
    fs::create_dir(&config.profiles_dir).unwrap();
    fs::write(
        config.profiles_dir.join("kiwi.yml"),
        "version: 1\nname: kiwi\ntitel: A\n",
    )
    .unwrap();
    fs::write(
        config.profiles_dir.join("a.yml"),
        "version: 1\nname: b\ntitle: B\n",
    )
    .unwrap();
    let folder = config.profiles_dir.display().to_string();
    assert_eq!(
        detect(&config).identification.differing,
        [
            "there is no profile that could be recognised".to_owned(),
            format!("{folder}/a.yml: expected the name b.yml for the profile b"),
            format!(
                "unknown key \"titel\" at {folder}/kiwi.yml:3:1, expected one of version, name, title, recognise, labels, \
                 groups, device_rules, software, services, processes, checks, ros, teleop, actions, stop, agent (did you mean \"title\"?)"
            ),
        ]
    );
}
