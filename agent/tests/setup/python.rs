//! A real Python environment, from a wheel and a repository's folder on the card.

use std::fs;
use std::process::Command;

use crate::robot::Robot;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Writes a wheel with the one module `tiny` into a folder.
const WHEEL: &str = r#"
import base64, hashlib, sys, zipfile
name = "tiny-" + sys.argv[2]
info = name + ".dist-info/"
files = {
    "tiny/__init__.py": "VERSION = '%s'\n" % sys.argv[2],
    info + "METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: %s\n" % sys.argv[2],
    info + "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
record = ""
with zipfile.ZipFile(sys.argv[1] + "/" + name + "-py3-none-any.whl", "w") as wheel:
    for path, text in files.items():
        wheel.writestr(path, text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += "%s,sha256=%s,%d\n" % (path, digest, len(text))
    wheel.writestr(info + "RECORD", record + info + "RECORD,,\n")
"#;

fn profile(version: &str) -> String {
    format!(
        "software:\n  python:\n    venv: /opt/robot\n    version: \"3.9\"\n    requirements: [tiny=={version}]\n    \
         overlays:\n      - {{repository: \"https://robots.example/host\", commit: {COMMIT}, folder: src/host, into: \
         host/inner}}\n"
    )
}

fn wheel(robot: &Robot, version: &str) {
    let wheels = robot.on_robot("/boot/firmware/lekiwi/wheels");
    fs::create_dir_all(&wheels).unwrap();
    let status = Command::new("python3")
        .args(["-c", WHEEL])
        .arg(&wheels)
        .arg(version)
        .status()
        .expect("python3 is needed: apt-get install python3 python3-venv");
    assert!(status.success());
}

/// What Python in the environment says.
fn python(robot: &Robot, script: &str) -> String {
    let output = Command::new(robot.on_robot("/opt/robot/bin/python"))
        .args(["-c", script])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

const ASK: &str = "import tiny, host.inner.part; print(tiny.VERSION, host.inner.part.ANSWER)";

#[test]
fn an_environment_is_made_from_the_card_and_mended() {
    let robot = Robot::new(&profile("1.0"));
    wheel(&robot, "1.0");
    let overlay = format!("/boot/firmware/lekiwi/overlays/{COMMIT}/src/host/part.py");
    robot.write(&overlay, "ANSWER = 42\n");
    robot.set_up();
    assert_eq!(python(&robot, ASK), "1.0 42");
    assert!(!robot.on_robot("/opt/robot.unfinished").exists());
    assert!(!robot.on_robot("/var/lib/lekiwi-setup/tmp").exists());

    // A power cut in the middle of pip: a module is empty, the mark is there, the step is not kept.
    let site = python(&robot, "import tiny; print(tiny.__file__)");
    fs::write(site, "").unwrap();
    fs::write(robot.on_robot("/opt/robot.unfinished"), "").unwrap();
    fs::remove_file(robot.on_robot("/var/lib/lekiwi-setup/setup.json")).unwrap();
    robot.set_up();
    assert_eq!(python(&robot, ASK), "1.0 42");

    // A newer requirement goes into the environment that is there.
    wheel(&robot, "1.1");
    fs::write(robot.on_robot("/opt/robot/kept"), "").unwrap();
    robot.profile(&profile("1.1"));
    robot.set_up();
    assert_eq!(python(&robot, ASK), "1.1 42");
    assert!(robot.on_robot("/opt/robot/kept").exists());
    assert_eq!(
        robot
            .told()
            .iter()
            .filter(|told| *told == "setup.completed")
            .count(),
        3
    );
}

#[test]
fn what_the_wheelhouse_lacks_is_said() {
    let robot = Robot::new(&profile("2.0"));
    wheel(&robot, "1.0");
    let mut child = robot.spawn();
    let failed = robot.wait("setup.failed");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(failed["step"], "python");
    let reason = failed["reason"].as_str().unwrap();
    assert!(
        reason.starts_with(&format!(
            "expected `{}/root/opt/robot/bin/python -m pip install ",
            robot.path().display()
        )) && reason.contains("No matching distribution found for tiny==2.0"),
        "{reason}"
    );
}

#[test]
fn a_python_that_is_too_old_is_said() {
    let robot = Robot::new(&profile("1.0").replace("3.9", "3.99"));
    let mut child = robot.spawn();
    let failed = robot.wait("setup.failed");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(
        failed["reason"],
        "expected a python3 of at least 3.99 with venv"
    );
}
