//! What the relay tells the robot to do: once, to an end, wherever the agent is killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::broker::{Ears, Process, Site};
use crate::support::eventually;

/// A robot that is registered, with a profile of its own and root's helper beside it.
pub(crate) struct Robot {
    pub(crate) site: Site,
    pub(crate) ears: Ears,
    helper: Option<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>,
}

impl Drop for Robot {
    fn drop(&mut self) {
        self.end_helper();
    }
}

pub(crate) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Root's helper, with a `systemctl` that only writes down how it was called.
pub(crate) fn helper(folder: &Path) -> Output {
    let path = std::env::var("PATH").unwrap();
    Command::new(env!("CARGO_BIN_EXE_lekiwi-agent"))
        .arg("--config")
        .arg(folder.join("agent.yml"))
        .arg("--root")
        .arg(folder.join("root"))
        .arg("privileged")
        .env("PATH", format!("{}/root-bin:{path}", folder.display()))
        // Where systemd looks, whatever is configured.
        .env("LEKIWI_STATE_DIR", folder.join("state"))
        .env_remove("JOURNAL_STREAM")
        .output()
        .unwrap()
}

pub(crate) fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Robot {
    pub(crate) async fn new() -> Self {
        let site = Site::start().await;
        let folder = site.folder.path();
        let at = folder.display();
        script(
            &folder.join("bin/wave"),
            &format!("echo \"$@\" >> {at}/waved; echo waved \"$1\" times"),
        );
        script(&folder.join("bin/fail"), "echo the arm is stuck; exit 3");
        script(&folder.join("bin/hang"), "sleep 1000");
        script(
            &folder.join("bin/stop"),
            &format!("echo stopped >> {at}/stopped"),
        );
        script(
            &folder.join("root-bin/systemctl"),
            &format!("echo \"$@\" >> {at}/systemctl"),
        );
        let profile = format!(
            "version: 1\nname: lekiwi\ntitle: A robot\nservices: [host.service]\nactions:\n  \
             - {{name: wave, what: waves, run: [{at}/bin/wave, \"{{times}}\", \"{{side}}\"], arguments: {{times: \
             {{type: integer, min: 1, max: 5}}, side: {{type: enum, one_of: [left, right]}}}}}}\n  \
             - {{name: fail, what: fails, run: [{at}/bin/fail]}}\n  \
             - {{name: hang, what: hangs, run: [{at}/bin/hang], timeout_s: 1}}\n\
             stop: {{run: [{at}/bin/stop]}}\n"
        );
        let profiles = folder.join("root/usr/share/lekiwi/profiles");
        fs::create_dir_all(&profiles).unwrap();
        fs::write(profiles.join("lekiwi.yml"), profile).unwrap();
        let registered = json!({ "status": "registered", "profile": "lekiwi" });
        fs::write(folder.join("state/registered.json"), registered.to_string()).unwrap();
        let ears = site.listen();
        let mut robot = Self {
            site,
            ears,
            helper: None,
        };
        robot.start_helper();
        robot
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.site.folder.path().join(name)
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.file(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What `lekiwi-privileged.path` does.
    fn start_helper(&mut self) {
        let ends = Arc::new(AtomicBool::new(false));
        let (flag, folder) = (ends.clone(), self.site.folder.path().to_owned());
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                if folder.join("state/privileged.json").exists() {
                    assert!(helper(&folder).status.success());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        self.helper = Some((ends, thread));
    }

    pub(crate) fn end_helper(&mut self) {
        if let Some((ends, thread)) = self.helper.take() {
            ends.store(true, Ordering::Relaxed);
            let _ = thread.join();
        }
    }

    pub(crate) fn answer(&self) -> Value {
        let answer = self.file("root/var/lib/lekiwi-privileged/answer.json");
        let text = fs::read(answer).unwrap_or_else(|_| b"null".to_vec());
        serde_json::from_slice(&text).unwrap()
    }

    /// Starts the agent, and waits until the relay would know.
    pub(crate) async fn agent(&self, kill_at: Option<u32>) -> Process {
        let root = self.file("root").display().to_string();
        let kill_at = kill_at.map(|place| place.to_string());
        let mut arguments = vec!["--root", &root, "run"];
        arguments.extend(kill_at.iter().flat_map(|place| ["--kill-at", place]));
        self.ears.forget();
        let agent = self.site.agent_with(&arguments);
        self.ears.connection(&self.site, "ONLINE").await;
        agent
    }

    fn send(&self, id: Uuid, op: &str, arguments: &Value) {
        self.ears
            .publish(&format!("cmd/{op}/{id}"), command(id, op, arguments));
    }

    /// What the robot said last of a command.
    fn said(&self, id: Uuid) -> Option<Value> {
        let said = self.ears.all(&format!("cmd/{id}"));
        said.last().map(|heard| heard.body["payload"].clone())
    }

    fn is_over(&self, id: Uuid) -> bool {
        self.said(id)
            .is_some_and(|said| said["state"] == "successful" || said["state"] == "failed")
    }

    pub(crate) async fn end(&self, id: Uuid) -> Value {
        let what = format!("the end of {id}; the agent says\n{}", self.site.log());
        eventually(&what, || self.is_over(id)).await;
        self.said(id).unwrap()
    }

    /// Sends a command, and waits for its end.
    async fn tell(&self, op: &str, arguments: Value) -> Value {
        let id = Uuid::new_v4();
        self.send(id, op, &arguments);
        self.end(id).await
    }

    /// The machine restarts, as far as a test can make it so: the boot that commands began in is another one.
    fn other_boot(&self) {
        let path = self.file("state/commands.json");
        let mut kept: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for record in kept["commands"].as_array_mut().unwrap() {
            if let Some(begun) = record["step"].get_mut("begun") {
                begun["boot_id"] = json!(Uuid::nil());
            }
        }
        fs::write(&path, kept.to_string()).unwrap();
    }
}

/// A message with a command, issued at noon by a relay whose clock shows that.
pub(crate) fn command(id: Uuid, op: &str, arguments: &Value) -> String {
    at(id, op, arguments, "12:00:00")
}

fn at(id: Uuid, op: &str, arguments: &Value, clock: &str) -> String {
    json!({
        "type": "command", "robot_id": "kiwi-01", "timestamp": format!("2001-01-01T{clock}.000Z"), "sequence": 0,
        "payload": {
            "id": id, "op": op, "arguments": arguments, "by": "admin",
            "issued_at": "2001-01-01T12:00:00.000Z", "expires_at": "2001-01-01T12:01:00.000Z",
        }
    })
    .to_string()
}

pub(crate) fn failed(reason: &str) -> Value {
    json!({ "state": "failed", "reason": reason })
}

#[tokio::test]
async fn commands_are_done_and_say_how_they_ended() {
    let robot = Robot::new().await;
    let mut agent = robot.agent(None).await;
    let wave = json!({ "action": "wave", "times": 2, "side": "left" });

    let pong = robot.tell("ping", json!({})).await;
    assert_eq!(pong["state"], "successful");
    assert_eq!(pong["result"]["version"], env!("CARGO_PKG_VERSION"));
    robot.ears.forget();
    let full = robot.tell("full_state", json!({})).await;
    assert_eq!(full, json!({ "state": "successful" }));
    assert!(!robot.ears.all("factsheet").is_empty() && !robot.ears.all("state").is_empty());

    let id = Uuid::new_v4();
    robot.send(id, "run_action", &wave);
    assert_eq!(
        robot.end(id).await,
        json!({ "state": "successful", "result": { "output": "waved 2 times" } })
    );
    let steps: Vec<Value> = robot
        .ears
        .all(&format!("cmd/{id}"))
        .iter()
        .map(|heard| heard.body["payload"]["state"].clone())
        .collect();
    assert_eq!(steps, ["accepted", "running", "successful"]);
    // It comes again, also after a restart: the answer does, the action does not.
    for _ in 0..2 {
        robot.ears.forget();
        robot.send(id, "run_action", &wave);
        assert_eq!(robot.end(id).await["state"], "successful");
        agent.signal(Signal::SIGKILL);
        agent.ended().await;
        agent = robot.agent(None).await;
    }
    assert_eq!(robot.lines("waved"), ["2 left"]);

    assert_eq!(
        robot
            .tell("restart_service", json!({ "unit": "host.service" }))
            .await,
        json!({ "state": "successful" })
    );
    assert_eq!(
        robot.lines("systemctl"),
        ["--no-ask-password restart host.service"]
    );
    let at = robot.site.folder.path().display();
    for (op, arguments, reason) in [
        (
            "restart_service",
            json!({ "unit": "ssh.service" }),
            "expected one of this robot's services (host.service), got \"ssh.service\"".to_owned(),
        ),
        (
            "run_action",
            json!({ "action": "wave", "times": 9, "side": "left" }),
            "expected times to be a whole number from 1 to 5, got 9".to_owned(),
        ),
        (
            "run_action",
            json!({ "action": "fly" }),
            "expected one of this robot's actions (wave, fail, hang), got \"fly\"".to_owned(),
        ),
        (
            "run_action",
            json!({ "action": "fail" }),
            format!("expected `{at}/bin/fail` to succeed, got exit status: 3: the arm is stuck"),
        ),
        (
            "run_action",
            json!({ "action": "hang" }),
            format!("expected `{at}/bin/hang` to end within 1 s"),
        ),
        (
            "reboot",
            json!({ "now": true }),
            "expected no argument \"now\" of reboot".to_owned(),
        ),
        (
            "estop",
            json!({}),
            "expected an emergency stop on its own topic".to_owned(),
        ),
    ] {
        assert_eq!(robot.tell(op, arguments).await, failed(&reason), "{op}");
    }
    let unknown = robot.tell("fly", json!({})).await;
    let reason = unknown["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("this agent does not know the command: expected a command envelope as JSON: unknown variant `fly`"),
        "{reason}"
    );
    assert_eq!(robot.lines("waved"), ["2 left"]);
    assert_eq!(robot.lines("systemctl").len(), 1);
}

#[tokio::test]
async fn a_command_expires_by_the_relays_clock_whatever_the_robots_shows() {
    let robot = Robot::new().await;
    let _agent = robot.agent(None).await;
    let say = |clock: &str| {
        let id = Uuid::new_v4();
        let message = at(id, "ping", &json!({}), clock);
        robot.ears.publish(&format!("cmd/ping/{id}"), message);
        id
    };
    // Decades before the robot's own clock, and good all the same.
    assert_eq!(robot.end(say("12:00:59")).await["state"], "successful");
    let late = |end: Value| {
        let reason = end["reason"].as_str().unwrap_or_default().to_owned();
        let expected =
            "expired: it was good until 2001-01-01T12:01:00.000Z, and came at 2001-01-01T12:0";
        assert!(reason.starts_with(expected), "{end}");
    };
    late(robot.end(say("12:01:00")).await);
    // An old one that lay somewhere, while the relay's clock was seen to be further.
    late(robot.end(say("12:00:01")).await);
}

/// How a command must have ended that was killed at this place, what it was asked to do having been done `done`
/// times before.
fn check(robot: &Robot, op: &str, place: u32, end: &Value, done: usize) {
    let when = format!("{op} killed at place {place}");
    let (done_now, ends) = match (op, place) {
        // Begun, and nobody knows whether it was done: it was not at the first of these places, and was at the other.
        ("run_action", 2) => (0, false),
        ("run_action", 3) => (1, false),
        _ => (1, true),
    };
    let expected = match (op, ends) {
        (_, false) => failed("the agent restarted while it ran; how far it came is not known"),
        ("run_action", true) => {
            json!({ "state": "successful", "result": { "output": "waved 1 times" } })
        }
        (_, true) => json!({ "state": "successful" }),
    };
    assert_eq!(*end, expected, "{when}");
    assert_eq!(times_done(robot, op), done + done_now, "{when}");
}

fn times_done(robot: &Robot, op: &str) -> usize {
    let file = match op {
        "run_action" => "waved",
        _ => "systemctl",
    };
    robot.lines(file).len()
}

#[tokio::test]
async fn killed_at_any_step_a_command_is_done_once_and_ends() {
    let robot = Robot::new().await;
    for (op, arguments) in [
        ("restart_service", json!({ "unit": "host.service" })),
        ("shutdown", json!({})),
        (
            "run_action",
            json!({ "action": "wave", "times": 1, "side": "right" }),
        ),
    ] {
        // Each step has a place before it is written, and one after.
        for place in 1.. {
            let when = format!("{op} killed at place {place}");
            let done = times_done(&robot, op);
            let id = Uuid::new_v4();
            let mut agent = robot.agent(Some(place)).await;
            robot.send(id, op, &arguments);
            let mut status = None;
            eventually(
                &format!("{when}: the end of the agent or of the command"),
                || {
                    status = agent.try_ended();
                    status.is_some() || (place > 4 && robot.is_over(id))
                },
            )
            .await;
            let Some(status) = status else {
                assert_eq!(place, 5, "two steps have four places");
                agent.signal(Signal::SIGKILL);
                agent.ended().await;
                check(&robot, op, place, &robot.end(id).await, done);
                break;
            };
            assert_eq!(status.signal(), Some(9), "{when}");
            let mut agent = robot.agent(None).await;
            robot.send(id, op, &arguments);
            check(&robot, op, place, &robot.end(id).await, done);
            agent.signal(Signal::SIGKILL);
            agent.ended().await;
        }
    }
}

#[tokio::test]
async fn a_reboot_is_done_once_the_machine_runs_again_wherever_it_was_killed() {
    let robot = Robot::new().await;
    // Killed before the machine goes, and when it is back.
    let places = [(1, 0), (2, 0), (0, 1), (0, 2)];
    for (before, after) in places {
        let when = format!("killed at place {before} before, {after} after");
        let done = robot.lines("systemctl").len();
        let id = Uuid::new_v4();
        if before > 0 {
            let mut agent = robot.agent(Some(before)).await;
            robot.send(id, "reboot", &json!({}));
            assert_eq!(agent.ended().await.signal(), Some(9), "{when}");
        }
        let mut agent = robot.agent(None).await;
        robot.send(id, "reboot", &json!({}));
        eventually(&format!("{when}: root was asked"), || {
            robot.lines("systemctl").len() > done
        })
        .await;
        assert_eq!(robot.lines("systemctl")[done], "--no-ask-password reboot");
        let running = json!({ "state": "running" });
        eventually(&format!("{when}: it runs"), || {
            robot.said(id).is_some_and(|said| said == running)
        })
        .await;
        agent.signal(Signal::SIGKILL);
        agent.ended().await;
        robot.other_boot();
        if after > 0 {
            let root = robot.file("root").display().to_string();
            let place = after.to_string();
            let arguments = ["--root", &root, "run", "--kill-at", &place];
            let mut agent = robot.site.agent_with(&arguments);
            assert_eq!(agent.ended().await.signal(), Some(9), "{when}");
        }
        let mut agent = robot.agent(None).await;
        robot.send(id, "reboot", &json!({}));
        let end = robot.end(id).await;
        assert_eq!(end, json!({ "state": "successful" }), "{when}");
        assert_eq!(robot.lines("systemctl").len(), done + 1, "{when}");
        agent.signal(Signal::SIGKILL);
        agent.ended().await;
    }
}

#[tokio::test]
async fn root_does_nothing_of_another_boot_or_another_profile() {
    let mut robot = Robot::new().await;
    let request = robot.file("state/privileged.json");
    // From here on the test starts root's helper itself.
    robot.end_helper();
    let (id, boot_id) = (Uuid::new_v4(), fs::read_to_string(BOOT_ID).unwrap());
    let boot_id = boot_id.trim();
    for (text, answer) in [
        (
            json!({ "id": id, "boot_id": Uuid::nil(), "act": "reboot" }),
            Value::Null,
        ),
        (
            json!({ "id": id, "boot_id": boot_id, "act": { "restart": { "unit": "ssh.service" } } }),
            json!({ "id": id, "progress": { "failed":
                "expected one of this robot's services (host.service), got \"ssh.service\"" } }),
        ),
    ] {
        fs::write(&request, text.to_string()).unwrap();
        assert!(helper(robot.site.folder.path()).status.success());
        assert!(!request.exists(), "it is taken away");
        assert_eq!(robot.answer(), answer);
    }
    fs::write(&request, "{").unwrap();
    let refused = helper(robot.site.folder.path());
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    let expected = format!(
        "error: expected a request at {}: EOF while parsing",
        request.display()
    );
    assert!(said.contains(&expected), "{said}");
    assert!(!request.exists(), "it is taken away");
    assert_eq!(robot.lines("systemctl"), Vec::<String>::new());

    // Stopped after it began: it is not begun again.
    fs::write(
        robot.file("root/var/lib/lekiwi-privileged/answer.json"),
        json!({ "id": id, "progress": "begun" }).to_string(),
    )
    .unwrap();
    let text = json!({ "id": id, "boot_id": boot_id, "act": "reboot" });
    fs::write(&request, text.to_string()).unwrap();
    assert!(helper(robot.site.folder.path()).status.success());
    let failed = "root's helper was stopped while it did this";
    assert_eq!(
        robot.answer(),
        json!({ "id": id, "progress": { "failed": failed } })
    );
    assert_eq!(robot.lines("systemctl"), Vec::<String>::new());
}
