//! What each step does, in which order, and that it survives being cut anywhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::robot::Robot;

const PROFILE: &str = r#"
groups: [dialout, plugdev]
device_rules: |
  SUBSYSTEM=="tty", ATTRS{idVendor}=="1a86", GROUP="dialout"
software:
  apt: [python3-venv, ffmpeg]
  files:
    - {path: /etc/robot/a.conf, mode: "0640", content: "a: 1\n"}
    - {path: /etc/robot/b.conf, content: "b: 1\n"}
  units:
    - name: host.service
      content: |
        [Service]
        ExecStart=/usr/bin/host
        Restart=always
        [Install]
        WantedBy=multi-user.target
"#;

const APT: &str = "-q --no-install-recommends -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 \
                   -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold";

fn robot() -> Robot {
    let robot = Robot::new(PROFILE);
    robot.write(
        "/etc/passwd",
        "root:x:0:0::/root:/bin/sh\npi:x:1000:1000::/home/pi:/bin/sh\nlekiwi-agent:x:990:990::/:/bin/false\n",
    );
    robot.write("/etc/group", "dialout:x:20:pi\n");
    robot
}

fn all_calls() -> Vec<String> {
    let install = format!("apt-get install -y {APT} python3-venv ffmpeg");
    [
        "apt-get update -q -o Acquire::Retries=3",
        &install,
        "usermod --append --groups dialout lekiwi-agent",
        "groupadd --system --force plugdev",
        "usermod --append --groups plugdev pi",
        "usermod --append --groups plugdev lekiwi-agent",
        "udevadm control --reload",
        "udevadm trigger --subsystem-match=tty --subsystem-match=usb --subsystem-match=video4linux \
         --subsystem-match=input --subsystem-match=hidraw",
        "systemctl daemon-reload",
        "systemctl enable host.service",
        "systemctl restart host.service",
    ]
    .map(str::to_owned)
    .to_vec()
}

const ALL_TOLD: [&str; 8] = [
    "setup.started 0 %",
    "setup.progress 0 % packages",
    "setup.progress 83 % groups",
    "setup.progress 86 % device rules",
    "setup.progress 88 % file /etc/robot/a.conf",
    "setup.progress 91 % file /etc/robot/b.conf",
    "setup.progress 94 % unit host.service",
    "setup.completed",
];

/// Everything is as the profile says.
fn assert_set_up(robot: &Robot, when: &str) {
    assert_eq!(robot.read("/etc/robot/a.conf"), "a: 1\n", "{when}");
    let mode = fs::metadata(robot.on_robot("/etc/robot/a.conf"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o640, "{when}");
    assert_eq!(robot.read("/etc/robot/b.conf"), "b: 1\n", "{when}");
    assert_eq!(
        robot.read("/etc/udev/rules.d/70-lekiwi.rules"),
        "SUBSYSTEM==\"tty\", ATTRS{idVendor}==\"1a86\", GROUP=\"dialout\"\n",
        "{when}"
    );
    assert!(
        robot
            .read("/etc/systemd/system/host.service")
            .contains("ExecStart=/usr/bin/host"),
        "{when}"
    );
    for package in ["python3-venv", "ffmpeg"] {
        let installed = format!("Package: {package}\nStatus: install ok installed\n");
        assert!(
            robot.read("/var/lib/dpkg/status").contains(&installed),
            "{when}"
        );
    }
    let record = robot.record();
    assert_eq!(
        (&record["status"], &record["percent"]),
        (&json!("done"), &json!(100)),
        "{when}"
    );
    for call in all_calls() {
        assert!(
            robot.calls().contains(&call),
            "{when}: {call} was not called"
        );
    }
    assert_eq!(robot.told().last().unwrap(), "setup.completed", "{when}");
}

#[test]
fn everything_is_installed_in_order_and_then_left_alone() {
    let robot = robot();
    robot.set_up();
    assert_eq!(robot.told(), ALL_TOLD);
    assert_eq!(robot.calls(), all_calls());
    assert_set_up(&robot, "the first time");
    let events = robot.events();
    assert_eq!(
        events[0]["data"],
        json!({"profile": "lekiwi", "steps": 6, "percent": 0})
    );
    assert_eq!(events[7]["data"], json!({"profile": "lekiwi"}));

    robot.set_up();
    assert_eq!(robot.told(), ALL_TOLD, "nothing more to say");
    assert_eq!(robot.calls(), all_calls(), "nor to do");

    // A newer profile: what changed is done again, and the unit is started anew.
    robot.profile(&PROFILE.replace("b: 1", "b: 2"));
    robot.set_up();
    assert_eq!(
        robot.told()[8..],
        [
            "setup.started 91 %",
            "setup.progress 91 % file /etc/robot/b.conf",
            "setup.progress 94 % unit host.service",
            "setup.completed",
        ]
    );
    assert_eq!(robot.calls()[11..], all_calls()[8..]);
    assert_eq!(robot.read("/etc/robot/b.conf"), "b: 2\n");
}

#[test]
fn killed_at_any_program_it_goes_on_and_ends_the_same() {
    for number in 1..=all_calls().len() {
        let robot = robot();
        let output = robot
            .command(&[])
            .env("KILL_AT", number.to_string())
            .output()
            .unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        assert_eq!(signal, Some(9), "at call {number}");
        robot.set_up();
        assert_set_up(&robot, &format!("killed at call {number}"));
    }
}

#[test]
fn killed_before_any_step_it_goes_on_and_ends_the_same() {
    for number in 1..=ALL_TOLD.len() {
        let robot = robot();
        robot.killed_at_event(number);
        robot.set_up();
        assert_set_up(&robot, &format!("killed at event {number}"));
        // The event that was on its way comes again; the others do not, but for the new start.
        let told = robot.told();
        let twice = told
            .iter()
            .filter(|told| *told == ALL_TOLD[number - 1])
            .count();
        let starts = told
            .iter()
            .filter(|told| told.starts_with("setup.started"))
            .count();
        assert_eq!(twice, 2, "killed at event {number}: {told:?}");
        assert_eq!(
            starts,
            if number == ALL_TOLD.len() { 1 } else { 2 },
            "{told:?}"
        );
        assert_eq!(
            told.iter()
                .filter(|told| *told == "setup.progress 0 % packages")
                .count(),
            if number == 2 { 2 } else { 1 },
            "a step that is done is not done again: {told:?}"
        );
    }
}

#[test]
fn a_step_that_fails_is_told_and_tried_again() {
    let robot = robot();
    fs::write(robot.file("fail-systemctl"), "").unwrap();
    let mut child = robot.spawn();
    let failed = robot.wait("setup.failed");
    assert_eq!(failed["step"], "unit host.service");
    assert_eq!(
        failed["reason"],
        "expected `systemctl daemon-reload` to succeed, got exit status: 100: E: systemctl is out of order"
    );
    let retry_in = failed["retry_in_s"].as_u64().unwrap();
    assert!((5..=10).contains(&retry_in), "{retry_in}");
    let record = robot.record();
    assert_eq!(
        (&record["status"], &record["percent"]),
        (&json!("failed"), &json!(94))
    );

    let second = robot.setup();
    assert_eq!(second.status.code(), Some(69));
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(
        text.contains("error: another setup runs with the folder "),
        "{text}"
    );

    fs::remove_file(robot.file("fail-systemctl")).unwrap();
    assert!(child.wait().unwrap().success());
    assert_set_up(&robot, "after a failure");
}

#[test]
fn a_signal_ends_the_wait_and_the_next_start_goes_on() {
    let robot = robot();
    fs::write(robot.file("fail-apt-get"), "").unwrap();
    let mut child = robot.spawn();
    let failed = robot.wait("setup.failed");
    assert_eq!(failed["step"], "packages");
    let begun = Instant::now();
    kill(
        Pid::from_raw(i32::try_from(child.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(4), "it waited");
    fs::remove_file(robot.file("fail-apt-get")).unwrap();
    robot.set_up();
    assert_set_up(&robot, "after a signal");
}

#[test]
fn a_wrong_profile_is_told_and_read_again() {
    let robot = Robot::new("softwares: {}\n");
    let mut child = robot.spawn();
    let failed = robot.wait("setup.failed");
    let path = robot.on_robot("/usr/share/lekiwi/profiles/lekiwi.yml");
    assert_eq!(failed["step"], "profile");
    let reason = failed["reason"].as_str().unwrap();
    let expected = format!(
        "unknown key \"softwares\" at {}:4:1, expected one of ",
        path.display()
    );
    assert!(reason.starts_with(&expected), "{reason}");
    assert_eq!(robot.record()["status"], "failed");
    robot.profile("software: {files: [{path: /etc/a, content: a}]}\n");
    assert!(child.wait().unwrap().success());
    assert_eq!(robot.read("/etc/a"), "a");
    assert_eq!(robot.told().last().unwrap(), "setup.completed");
}

#[test]
fn approved_as_something_else_it_begins_anew() {
    let robot = robot();
    robot.register("xle");
    let mut child = robot.spawn();
    let failed = robot.wait("setup.failed");
    let path = robot.on_robot("/usr/share/lekiwi/profiles/xle.yml");
    assert_eq!(
        failed["reason"],
        format!(
            "expected a readable file at {}: No such file or directory (os error 2)",
            path.display()
        )
    );
    robot.register("lekiwi");
    assert!(child.wait().unwrap().success());
    assert_set_up(&robot, "under its right name");
}

#[test]
fn packages_on_the_card_need_no_network() {
    let robot = Robot::new("software: {apt: [ffmpeg, git]}\n");
    robot.write("/boot/firmware/lekiwi/packages/git_2_arm64.deb", "");
    robot.write("/boot/firmware/lekiwi/packages/ffmpeg_7_arm64.deb", "");
    robot.write("/var/lib/dpkg/updates/0001", "");
    robot.set_up();
    let card = robot.on_robot("/boot/firmware/lekiwi/packages");
    let card = card.display();
    assert_eq!(
        robot.calls(),
        [
            "dpkg --force-confdef --force-confold --configure -a".to_owned(),
            format!("apt-get install -y {APT} {card}/ffmpeg_7_arm64.deb {card}/git_2_arm64.deb"),
        ]
    );
}

#[test]
fn a_dry_run_says_what_would_be_done() {
    let robot = robot();
    let output = robot.command(&["--dry-run"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "packages would be done: install python3-venv ffmpeg\n\
         groups would be done: make dialout, plugdev, with the agent and people in them\n\
         device rules would be done: write udev's rules and apply them\n\
         file /etc/robot/a.conf would be done: write /etc/robot/a.conf as 0640\n\
         file /etc/robot/b.conf would be done: write /etc/robot/b.conf as 0644\n\
         unit host.service would be done: write, enable and start host.service\n"
    );
    assert_eq!(robot.calls(), Vec::<String>::new());
    assert!(!robot.on_robot("/etc/robot").exists());
    robot.set_up();
    let output = robot.command(&["--dry-run"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text.lines()
            .filter(|line| line.contains(" is done: "))
            .count(),
        6,
        "{text}"
    );
}

#[test]
fn without_a_registration_nothing_is_done() {
    let robot = robot();
    let state = robot.file("state");
    for (text, why) in [
        (None, "no file"),
        (
            Some(r#"{"status":"quarantined","profile":"lekiwi"}"#),
            "quarantined",
        ),
        (
            Some(r#"{"status":"registered","profile":"../../etc/x"}"#),
            "no name",
        ),
    ] {
        fs::remove_file(state.join("registered.json")).unwrap_or_default();
        if let Some(text) = text {
            fs::write(state.join("registered.json"), text).unwrap();
        }
        let output = robot.setup();
        assert_eq!(output.status.code(), Some(75), "{why}");
        let expected = format!(
            "error: expected a robot that the relay has registered, found no registration in {}\n",
            state.display()
        );
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(&expected), "{why}: {text}");
    }
    // Registered as nothing in particular, it has nothing to set up.
    fs::write(state.join("registered.json"), r#"{"status":"registered"}"#).unwrap();
    assert_eq!(robot.setup().status.code(), Some(0));
    assert_eq!((robot.calls().len(), robot.events().len()), (0, 0));
}
