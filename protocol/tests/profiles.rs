//! The shipped profiles are right, and wrong ones say what is wrong where.
#![cfg(feature = "profile")]

use std::path::Path;

use lekiwi_protocol::message::Arguments;
use lekiwi_protocol::profile::{Action, PortRole, Probe, Profile, ProfileError, is_node};
use serde_json::{Value, json};

fn shipped() -> Vec<(String, Profile)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/profiles");
    let entries = std::fs::read_dir(&folder).expect("the profiles are there");
    let mut profiles: Vec<(String, Profile)> = entries
        .map(|entry| {
            let path = entry.expect("the folder can be read").path();
            let text = std::fs::read_to_string(&path).expect("a profile can be read");
            let profile = Profile::parse(&text, &path.display().to_string());
            let stem = path.file_stem().expect("a profile has a name");
            let profile = profile.unwrap_or_else(|error| panic!("{error} {:?}", error.hint()));
            (stem.to_string_lossy().into_owned(), profile)
        })
        .collect();
    profiles.sort_by(|a, b| a.0.cmp(&b.0));
    profiles
}

#[test]
fn every_shipped_profile_is_right_and_named_as_its_file() {
    let names: Vec<String> = shipped()
        .iter()
        .map(|(stem, profile)| {
            assert_eq!(stem, profile.name.as_str());
            stem.clone()
        })
        .collect();
    assert_eq!(names, ["generic", "lekiwi", "so101", "xle", "xle-2wheel"]);
}

#[test]
fn shipped_profiles_watch_what_they_install() {
    for (name, profile) in shipped() {
        for service in &profile.services {
            let unit = profile
                .software
                .units
                .iter()
                .find(|unit| unit.name == *service);
            let unit = unit.unwrap_or_else(|| panic!("{name} installs {service}"));
            for line in [
                "Restart=always",
                "TimeoutStartSec=infinity",
                "StartLimitIntervalSec=0",
                // At SIGTERM the host would leave the wheels as they turn.
                "KillSignal=SIGINT",
            ] {
                assert!(unit.content.lines().any(|l| l == line), "{name}: {line}");
            }
        }
        let stop = profile.stop.as_ref().and_then(|stop| stop.run.first());
        let brought = stop.is_some_and(|program| {
            let mut files = profile.software.files.iter();
            files.any(|file| file.path == *program && file.mode == "0755")
        });
        assert_eq!(
            brought,
            !profile.services.is_empty(),
            "{name} brings its stop action"
        );
        for check in &profile.checks {
            assert!(
                matches!(check.probe(), Some(Probe::Tcp(_))),
                "{name}: {}",
                check.name
            );
        }
        let controlled = profile
            .teleop
            .ports
            .iter()
            .any(|port| port.role == PortRole::Control);
        assert_eq!(controlled, !profile.services.is_empty(), "{name}");
    }
}

/// A profile with everything that the bad ones break.
const RIGHT: &str = r#"version: 1
name: robot
title: A robot
recognise:
  servo_buses: [[1, 2], [3]]
  boards: [pi5]
  usb: [{vendor: "8086", product: "0b3a", what: RealSense}]
groups: [dialout]
software:
  apt: [python3-venv]
  python:
    venv: /opt/venv
    version: "3.11"
    requirements: ["pyzmq==27.1.0"]
    overlays:
      - {repository: "https://example.org/r", commit: "0123456789012345678901234567890123456789", folder: a/b, into: c}
  files: [{path: /etc/a, mode: "0640", content: a}]
  units:
    - {name: host.service, content: "[Service]\nRestart=always\n[Install]\n"}
services: [host.service]
processes: [{name: host, pattern: "*host*"}]
checks:
  - {name: port, tcp: "127.0.0.1:5555"}
  - {name: page, http: "http://127.0.0.1:80/a", every_s: 60, timeout_s: 5}
  - {name: socket, unix: /run/a}
teleop:
  ports: [{port: 5555, role: control, what: commands}]
  ros_topics: [/cmd_vel]
  autonomous_nodes: [planner]
ros: {domain_id: 7, nodes: [/arm/driver, slam]}
actions:
  - name: wave
    what: waves
    run: [/usr/bin/wave, "--times={times}", "{side}", "{to}", "{speed}", "{}"]
    arguments:
      times: {type: integer, min: 1, max: 5}
      side: {type: enum, one_of: [left, right]}
      to: {type: string, max_length: 8}
      speed: {type: number, min: 0}
    timeout_s: 60
stop: {run: [/usr/bin/stop, now]}
agent:
  metrics: {cpu_percent: {deadband: 5}}
"#;

fn refused(text: &str) -> String {
    let error: ProfileError = Profile::parse(text, "robot.yml").expect_err("a wrong profile");
    let hint = error
        .hint()
        .map_or(String::new(), |hint| format!(" (hint: {hint})"));
    format!("{error}{hint}")
}

#[test]
fn every_wrong_profile_says_where_and_what_was_expected() {
    Profile::parse(RIGHT, "robot.yml").expect("the unbroken one is right");
    let cases = [
        (
            "  boards: [pi5]",
            "  bords: [pi5]",
            "unknown key \"bords\" at robot.yml:6:3, expected one of servo_buses, servo_model, boards, memory_gb, \
             hat, cameras, usb (hint: did you mean \"boards\"?)",
        ),
        (
            "groups: [dialout]",
            "zzz: []",
            "unknown key \"zzz\" at robot.yml:8:1, expected one of version, name, title, recognise, labels, groups, \
             device_rules, software, services, processes, checks, ros, teleop, actions, stop, agent",
        ),
        (
            "version: 1",
            "version: 2",
            "version in robot.yml: expected 1, got 2",
        ),
        (
            "title: A robot",
            "title: ' '",
            "title in robot.yml: expected a line for people, got none",
        ),
        (
            "[[1, 2], [3]]",
            "[[1, 2], [3, 3]]",
            "recognise.servo_buses[1] in robot.yml: expected servo ids from 1 to 253, each once, got [3, 3]",
        ),
        (
            "[[1, 2], [3]]",
            "[]",
            "recognise.servo_buses in robot.yml: expected at least one bus, got none",
        ),
        (
            "[pi5]",
            "[Raspberry Pi]",
            "recognise.boards[0] in robot.yml: expected a board such as pi5 or cm4, got \"Raspberry Pi\"",
        ),
        (
            "vendor: \"8086\"",
            "vendor: \"0x8086\"",
            "recognise.usb[0].vendor in robot.yml: expected four hex digits in quotes, such as \"1a86\", got \"0x8086\"",
        ),
        (
            "groups: [dialout]",
            "groups: [dialout, 'a b']",
            "groups[1] in robot.yml: expected a Unix group such as dialout, got \"a b\"",
        ),
        (
            "[python3-venv]",
            "[python3-venv, 'a; rm']",
            "software.apt[1] in robot.yml: expected a Debian package's name, got \"a; rm\"",
        ),
        (
            "venv: /opt/venv",
            "venv: opt/venv",
            "software.python.venv in robot.yml: expected an absolute path without .., got \"opt/venv\"",
        ),
        (
            "version: \"3.11\"",
            "version: three",
            "software.python.version in robot.yml: expected a version such as \"3.11\", got \"three\"",
        ),
        (
            "pyzmq==27.1.0",
            "pyzmq>=27",
            "software.python.requirements[0] in robot.yml: expected a pinned requirement such as pyzmq==27.1.0, got \
             \"pyzmq>=27\"",
        ),
        (
            "\"0123456789012345678901234567890123456789\"",
            "main",
            "software.python.overlays[0].commit in robot.yml: expected 40 hex digits of a commit, got \"main\"",
        ),
        (
            "folder: a/b",
            "folder: ../b",
            "software.python.overlays[0].folder in robot.yml: expected a relative path without .., got \"../b\"",
        ),
        (
            "path: /etc/a",
            "path: /etc/../a",
            "software.files[0].path in robot.yml: expected an absolute path without .., got \"/etc/../a\"",
        ),
        (
            "mode: \"0640\"",
            "mode: rw",
            "software.files[0].mode in robot.yml: expected four octal digits in quotes, such as \"0644\", got \"rw\"",
        ),
        (
            "name: host.service",
            "name: host",
            "software.units[0].name in robot.yml: expected a unit such as lekiwi-host.service, got \"host\"",
        ),
        (
            "Restart=always",
            "Restart=no",
            "software.units[0].content in robot.yml: expected Restart=always in a service, got none",
        ),
        (
            "\\n[Install]\\n",
            "\\n",
            "software.units[0].content in robot.yml: expected a unit that can be enabled, got one without [Install]",
        ),
        (
            "services: [host.service]",
            "services: [host.exe]",
            "services[0] in robot.yml: expected a unit such as lekiwi-host.service, got \"host.exe\"",
        ),
        (
            "tcp: \"127.0.0.1:5555\"",
            "tcp: \"5555\"",
            "checks[0].tcp in robot.yml: expected HOST:PORT such as 127.0.0.1:5555, got \"5555\"",
        ),
        (
            "http: \"http://127.0.0.1:80/a\"",
            "http: /a",
            "checks[1].http in robot.yml: expected http://HOST:PORT/PATH, got \"/a\"",
        ),
        (
            "unix: /run/a",
            "unix: /run/a, tcp: \"a:1\"",
            "checks[2] in robot.yml: expected one of tcp, http and unix, got tcp and unix",
        ),
        (
            ", unix: /run/a",
            "",
            "checks[2] in robot.yml: expected one of tcp, http and unix, got none",
        ),
        (
            "cpu_percent: {deadband: 5}",
            "cpu: {deadband: 5}",
            "unknown key \"cpu\" at robot.yml:43:13, expected one of cpu_percent, cpu_percent.*, load_1m, load_5m, \
             load_15m, memory_percent, swap_percent, disk_percent, disk_free_bytes, disk_inodes_percent, \
             disk_wear_percent, disk_pre_eol_level, temperature_c, temperature_c.*, throttling.*, \
             net_rx_bytes_per_s, net_rx_bytes_per_s.*, net_tx_bytes_per_s, net_tx_bytes_per_s.*, \
             net_errors_per_s.*, wifi_signal_dbm.*, battery_percent, battery_v, battery_charging, service_memory_bytes.*, \
             service_cpu_percent.*, custom.*, legacy.*, uptime_s (hint: did you mean \"cpu_percent\"?)",
        ),
        (
            "deadband: 5",
            "deadband: -5",
            "agent.metrics.cpu_percent.deadband in robot.yml: expected a number from 0, got -5",
        ),
        (
            "deadband: 5",
            "alert_above: .inf",
            "agent.metrics.cpu_percent.alert_above in robot.yml: expected a number, got inf",
        ),
        (
            "deadband: 5",
            "alert_above: 90, alert_below: 10",
            "agent.metrics.cpu_percent in robot.yml: expected alert_above or alert_below, got both",
        ),
        (
            "pattern: \"*host*\"",
            "pattern: \"* *\"",
            "processes[0].pattern in robot.yml: expected a command line such as \"*python* -m lekiwi_host*\", got \
             \"* *\"",
        ),
        (
            "{name: host, pattern",
            "{name: ' ', pattern",
            "processes[0].name in robot.yml: expected what it is, for people, got none",
        ),
        (
            "{name: host, pattern",
            "{name: host.service, pattern",
            "processes in robot.yml: expected each name once, got \"host.service\" again",
        ),
        (
            "every_s: 60",
            "every_s: 0",
            "checks[1].every_s in robot.yml: expected 1 to 3600 seconds, got 0",
        ),
        (
            "timeout_s: 5",
            "timeout_s: 61",
            "checks[1].timeout_s in robot.yml: expected 1 to 60 seconds, got 61",
        ),
        (
            "every_s: 60",
            "every_s: 4",
            "checks[1].timeout_s in robot.yml: expected 1 to 4 seconds, got 5",
        ),
        (
            "name: wave",
            "name: Wave",
            "actions[0].name in robot.yml: expected a name of a-z, 0-9 and '_', got \"Wave\"",
        ),
        (
            "what: waves",
            "what: ''",
            "actions[0].what in robot.yml: expected what it does, for people, got none",
        ),
        (
            "run: [/usr/bin/wave",
            "run: [wave",
            "actions[0].run[0] in robot.yml: expected an absolute path without .., got \"wave\"",
        ),
        (
            "{side}",
            "{sides}",
            "actions[0].run[2] in robot.yml: expected the name of an argument in braces, got {sides}",
        ),
        (
            "times: {type: integer, min: 1, max: 5}",
            "times: {type: integer, min: 6, max: 5}",
            "actions[0].arguments.times.max in robot.yml: expected at least 6, got 5",
        ),
        (
            "one_of: [left, right]",
            "one_of: []",
            "actions[0].arguments.side.one_of in robot.yml: expected the texts that it may be, got none",
        ),
        (
            "max_length: 8",
            "min: 8",
            "actions[0].arguments.to.min in robot.yml: expected none with this type, got one",
        ),
        (
            "      times:",
            "      action: {type: number}\n      times:",
            "actions[0].arguments.action in robot.yml: expected a name of a-z, 0-9 and '_' other than action, \
             got \"action\"",
        ),
        (
            "timeout_s: 60",
            "timeout_s: 3601",
            "actions[0].timeout_s in robot.yml: expected 1 to 3600, got 3601",
        ),
        (
            "stop: {run",
            "  - {name: wave, what: again, run: [/bin/true]}\nstop: {run",
            "actions[1].name in robot.yml: expected each name once, got \"wave\" again",
        ),
        (
            "[/usr/bin/stop, now]",
            "[]",
            "stop.run in robot.yml: expected a program and its arguments, got none",
        ),
        (
            "port: 5555, role",
            "port: 0, role",
            "teleop.ports[0].port in robot.yml: expected each port once, from 1, got 0",
        ),
        (
            "[/cmd_vel]",
            "[cmd_vel]",
            "teleop.ros_topics[0] in robot.yml: expected a topic such as /cmd_vel, got \"cmd_vel\"",
        ),
        (
            "[/cmd_vel]",
            "[/a, /b, /c, /d, /e, /f, /g, /h, /i]",
            "teleop.ros_topics in robot.yml: expected at most 8 topics, got 9",
        ),
        (
            "[planner]",
            "[2nd]",
            "teleop.autonomous_nodes[0] in robot.yml: expected a node such as /arm/driver or driver, got \"2nd\"",
        ),
        (
            "[planner]",
            "[planner]\n  bridge_nodes: [a-b]",
            "teleop.bridge_nodes[0] in robot.yml: expected a node such as /arm/driver or driver, got \"a-b\"",
        ),
        (
            "domain_id: 7",
            "domain_id: 233",
            "ros.domain_id in robot.yml: expected 0 to 232, got 233",
        ),
        (
            "[/arm/driver, slam]",
            "[/arm/driver, arm//driver]",
            "ros.nodes[1] in robot.yml: expected a node such as /arm/driver or driver, got \"arm//driver\"",
        ),
        (
            "[/arm/driver, slam]",
            "[slam, slam]",
            "ros.nodes in robot.yml: expected each name once, got \"slam\" again",
        ),
    ];
    for (right, wrong, expected) in cases {
        assert!(RIGHT.contains(right), "{right}");
        assert_eq!(
            refused(&RIGHT.replacen(right, wrong, 1)),
            expected,
            "{wrong}"
        );
    }
}

#[test]
fn nodes_are_named_with_their_namespace_or_without() {
    for (full, wanted, expected) in [
        ("/driver", "driver", true),
        ("/arm/driver", "driver", true),
        ("/arm/driver", "/arm/driver", true),
        ("/arm/driver", "/driver", false),
        ("/driver_2", "driver", false),
        ("/driver", "arm/driver", false),
    ] {
        assert_eq!(is_node(full, wanted), expected, "{full} for {wanted}");
    }
    let profile = Profile::parse(
        "version: 1\nname: a\ntitle: A\nteleop: {ros_topics: [/cmd_vel]}",
        "a",
    );
    let teleop = profile.expect("a right profile").teleop;
    assert!(
        teleop
            .autonomous_nodes
            .contains(&"controller_server".to_owned())
    );
    assert!(
        teleop
            .bridge_nodes
            .contains(&"rosbridge_websocket".to_owned())
    );
}

#[test]
fn more_ports_than_the_kernels_filter_has_room_for_are_refused() {
    let ports = (1..=17).map(|port| format!("{{port: {port}, role: video, what: a}}"));
    let ports = ports.collect::<Vec<_>>().join(", ");
    let text = RIGHT.replacen("{port: 5555, role: control, what: commands}", &ports, 1);
    assert_eq!(
        refused(&text),
        "teleop.ports in robot.yml: expected at most 16 ports, got 17"
    );
}

#[test]
fn values_of_another_type_have_a_line() {
    for (right, wrong, place) in [
        ("name: robot", "name: Le Robot", "robot.yml:2:7"),
        ("name: robot", "name: unknown", "robot.yml:2:7"),
        ("[[1, 2], [3]]", "[[1, 300]]", "robot.yml:5:21"),
        ("groups: [dialout]", "groups: dialout", "robot.yml:8:9"),
        ("role: control", "role: driver", "robot.yml:27:30"),
        ("title: A robot", "title: 'A", "robot.yml"),
    ] {
        let message = refused(&RIGHT.replacen(right, wrong, 1));
        assert!(message.contains(place), "{wrong}: {message}");
    }
}

fn chosen(arguments: Value) -> Result<Vec<String>, String> {
    let profile = Profile::parse(RIGHT, "robot.yml").expect("a right profile");
    let arguments: Arguments = serde_json::from_value(arguments).expect("arguments");
    Action::choose(&profile.actions, &arguments)
        .map(|(_, line)| line)
        .map_err(|error| error.to_string())
}

#[test]
fn an_action_is_run_with_words_of_its_own_shape() {
    assert_eq!(
        chosen(
            json!({ "action": "wave", "times": 3, "side": "left", "to": "{speed}", "speed": 0.5 })
        ),
        Ok(
            ["/usr/bin/wave", "--times=3", "left", "{speed}", "0.5", "{}"]
                .map(str::to_owned)
                .to_vec()
        ),
        "a value is not looked at again"
    );
    let right = json!({ "action": "wave", "times": 3, "side": "left", "to": "a b", "speed": 2 });
    let with = |name: &str, value: Value| {
        let mut arguments = right.clone();
        arguments[name] = value;
        chosen(arguments)
    };
    let text = "expected to to be a text of 1 to 8 characters that does not begin with '-', got";
    for (name, value, expected) in [
        (
            "action",
            json!("fly"),
            "expected one of this robot's actions (wave), got \"fly\"".to_owned(),
        ),
        (
            "times",
            json!(6),
            "expected times to be a whole number from 1 to 5, got 6".to_owned(),
        ),
        (
            "times",
            json!(1.5),
            "expected times to be a whole number from 1 to 5, got 1.5".to_owned(),
        ),
        (
            "times",
            json!("3"),
            "expected times to be a whole number from 1 to 5, got \"3\"".to_owned(),
        ),
        (
            "speed",
            json!(-1),
            "expected speed to be a number from 0, got -1".to_owned(),
        ),
        (
            "side",
            json!("up"),
            "expected side to be one of left, right, got \"up\"".to_owned(),
        ),
        ("to", json!("-rf"), format!("{text} \"-rf\"")),
        ("to", json!("a\nb"), format!("{text} \"a\\nb\"")),
        ("to", json!("123456789"), format!("{text} \"123456789\"")),
        ("to", json!(""), format!("{text} \"\"")),
        (
            "force",
            json!(true),
            "expected no argument \"force\" of the action wave".to_owned(),
        ),
    ] {
        assert_eq!(with(name, value), Err(expected));
    }
    assert_eq!(
        chosen(json!({ "action": "wave", "times": 3, "to": "x", "speed": 1 })),
        Err("expected side to be one of left, right, got none".to_owned())
    );
    assert_eq!(
        Action::choose(&[], &Arguments::new()).map_err(|error| error.to_string()),
        Err("expected one of this robot's actions (it has none), got \"\"".to_owned())
    );
}
