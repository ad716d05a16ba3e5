//! The robot's own programs and the agent: what they report reaches the relay, what they are told comes at
//! once, and none of them holds up another.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lekiwi_agent::clock;
use serde_json::{Value, json};

use crate::broker::{Process, Site, status};
use crate::health::ask_as;
use crate::support::eventually;

const NOBODY: u32 = 65_534;

/// A caller that stays.
struct Caller {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Caller {
    fn new(site: &Site) -> Self {
        let stream = UnixStream::connect(socket(site)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        Self { stream, lines }
    }

    fn send(&mut self, lines: &str) {
        self.stream.write_all(lines.as_bytes()).unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    /// The next line that is such a one: other things may change as well.
    fn until(&mut self, is: impl Fn(&Value) -> bool) {
        loop {
            let told = self.hear();
            if is(&told) {
                return;
            }
            assert!(!told.is_null(), "the agent says no more");
        }
    }

    fn say(&mut self, line: &str) -> Value {
        self.send(&format!("{line}\n"));
        self.hear()
    }
}

fn socket(site: &Site) -> PathBuf {
    site.folder.path().join("agent.sock")
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name)
}

fn python(site: &Site) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command
        .args(["-I"])
        .arg(example("report.py"))
        .env("LEKIWI_SOCKET", socket(site));
    command
}

#[tokio::test]
async fn what_programs_report_reaches_the_relay() {
    let site = Site::start().await;
    let ears = site.listen();
    let _agent = site.agent();
    ears.connection(&site, "ONLINE").await;

    let shell = Command::new("/bin/sh")
        .arg(example("report.sh"))
        .env("LEKIWI_AGENT", env!("CARGO_BIN_EXE_lekiwi-agent"))
        .env("LEKIWI_CONFIG", site.folder.path().join("agent.yml"))
        .output()
        .unwrap();
    assert!(shell.status.success(), "{shell:?}");
    let seq: u64 = String::from_utf8(shell.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    ears.wait(&site, "events", "the event", |payload| {
        payload["events"].as_array().unwrap().iter().any(|event| {
            (&event["seq"], &event["type"], &event["data"])
                == (&json!(seq), &json!("custom.bumped"), &json!({ "x": 1 }))
        })
    })
    .await;
    for (name, value) in [
        ("battery_percent", 80.0),
        ("battery_v", 11.8),
        ("battery_charging", 0.0),
        ("custom.gripper_n", -3.5),
    ] {
        ears.wait(&site, "telemetry", name, |payload| {
            payload["metrics"][name] == value
        })
        .await;
    }

    let mut caller = Caller::new(&site);
    assert_eq!(caller.say(r#"{"mode":"MANUAL"}"#), json!({ "ok": true }));
    assert_eq!(
        caller.say(r#"{"operator":{"id":"alice"}}"#),
        json!({ "ok": true })
    );
    let driven = |payload: &Value| {
        payload["operating_mode"] == "MANUAL"
            && payload["activity"] == "teleoperated"
            && payload["teleoperation"]["active"] == true
            && payload["teleoperation"]["operator_id"] == "alice"
            && payload["teleoperation"]["session_start"].is_string()
            && payload["resources"]["battery_percent"] == 80.0
    };
    ears.wait(&site, "state", "alice drives", driven).await;
    assert_eq!(status(&site).unwrap()["phase"], "Teleoperated");
    ears.forget();
    assert_eq!(caller.say(r#"{"operator":null}"#), json!({ "ok": true }));
    ears.wait(&site, "state", "nobody drives", |payload| {
        payload["activity"] == "idle" && payload["teleoperation"] == json!({ "active": false })
    })
    .await;

    let said = python(&site)
        .args([
            r#"{"event": {"type": "custom.bumped"}}"#,
            r#"{"battery": {"percent": 15}}"#,
            r#"{"battery": {"percent": 101}}"#,
        ])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(said.stdout).unwrap(),
        format!("{{\"seq\": {}}}\n{{\"ok\": true}}\n", seq + 1)
    );
    assert_eq!(
        String::from_utf8(said.stderr).unwrap(),
        "error: expected percent from 0 to 100, got 101\n"
    );
    ears.wait(&site, "telemetry", "the newer charge", |payload| {
        payload["metrics"]["battery_percent"] == 15.0
    })
    .await;
    ears.wait(&site, "events", "the low battery", |payload| {
        let mut events = payload["events"].as_array().unwrap().iter();
        events.any(|event| {
            event["type"] == "health.resource_alert" && event["data"]["metric"] == "battery_percent"
        })
    })
    .await;
}

#[tokio::test]
async fn every_line_is_answered_in_order_and_wrong_ones_end_nothing() {
    let site = Site::start().await;
    let _agent = site.agent();
    eventually("the agent runs", || status(&site).is_some()).await;
    let mut caller = Caller::new(&site);
    caller.send(
        "{\"metric\":{\"name\":\"custom.a\",\"value\":1}}\n{\"query\":\"stop\"}\n{\"event\":{\"type\":\"custom.b\"}}\n",
    );
    assert_eq!(caller.hear(), json!({ "ok": true }));
    let refusal = "expected a line such as {\"battery\":{\"percent\":80}}: unknown variant `stop`, expected `status` at line 1 column 15";
    assert_eq!(caller.hear(), json!({ "error": refusal }));
    assert!(caller.hear()["seq"].is_u64());
    assert_eq!(caller.say(r#"{"query":"status"}"#)["robot_id"], "kiwi-01");
    for index in 1..32 {
        let line = json!({ "metric": { "name": format!("custom.m{index}"), "value": 1 } });
        assert_eq!(caller.say(&line.to_string()), json!({ "ok": true }));
    }
    assert_eq!(
        caller.say(r#"{"metric":{"name":"custom.more","value":1}}"#),
        json!({ "error": "expected at most 32 metrics of local programs, and custom.more would be one more" })
    );
    // The last line needs no end.
    let mut short = Caller::new(&site);
    short.send(r#"{"mode":"SERVICE"}"#);
    short.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(short.hear(), json!({ "ok": true }));

    caller.send(&format!("{{\"operator\":\"{}\"}}\n", "x".repeat(9000)));
    let refusal = "expected a line of at most 8192 bytes";
    assert_eq!(caller.hear(), json!({ "error": refusal }));
    assert_eq!(caller.lines.read(&mut [0]).unwrap(), 0, "closed");
}

#[tokio::test]
async fn subscribers_are_told_at_once() {
    let site = Site::start().await;
    let _agent = site.agent();
    eventually("the agent is connected", || {
        status(&site).is_some_and(|status| status["phase"] == "Connected")
    })
    .await;
    let mut caller = Caller::new(&site);
    assert_eq!(
        caller.say(r#"{"subscribe":["state","control"]}"#),
        json!({ "subscribed": ["state", "control"] })
    );
    let now = caller.hear();
    let of = |told: &Value, key: &str| told["state"][key].clone();
    assert_eq!(
        (
            of(&now, "phase"),
            of(&now, "link"),
            of(&now, "operating_mode")
        ),
        (json!("Connected"), json!("online"), json!("AUTOMATIC"))
    );
    // Goes on being a caller.
    assert_eq!(
        caller.say(r#"{"mode":"INTERVENED"}"#),
        json!({ "ok": true })
    );
    caller.until(|told| of(told, "operating_mode") == "INTERVENED");

    let mut follow = python(&site);
    let mut follow = Process(
        follow
            .args(["--follow", "state"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(follow.0.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(of(&next(), "operating_mode"), "INTERVENED");
    caller.send("{\"operator\":{\"id\":\"bob\"}}\n");
    while next()["state"]["teleoperation"]["operator_id"] != "bob" {}
}

#[tokio::test]
async fn silent_loud_and_deaf_callers_hold_up_nobody() {
    let site = Site::start().await;
    let ears = site.listen();
    let _agent = site.agent();
    ears.connection(&site, "ONLINE").await;
    open_to_all(&site);

    // Twenty of another user's, which stay: twelve get in, and the agent's own user does all the same.
    const SCRIPT: &str = "import socket, sys, time\nheld, said = [], []\nfor _ in range(20):\n s = socket.socket(socket.AF_UNIX)\n \
                          s.connect(sys.argv[1])\n held.append(s)\n try: s.sendall(b'{\"query\":\"status\"}\\n')\n \
                          except BrokenPipeError: pass # who is refused may be so already\n \
                          said.append(s.makefile().readline())\nfull = '{\"error\":\"expected at most 16 callers at a time, \
                          try again later\"}\\n'\nprint(sum(line.startswith('{\"robot_id\"') for line in said), \
                          said.count(full), flush=True)\ntime.sleep(60)";
    let mut others = Process(
        Command::new("/usr/bin/python3")
            .args(["-I", "-c", SCRIPT])
            .arg(socket(&site))
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir("/")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut said = String::new();
    BufReader::new(others.0.stdout.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert_eq!(said, "12 8\n");
    assert!(status(&site).is_some(), "the agent's own user gets in");
    drop(others);

    // Silent ones are not waited for.
    let silent: Vec<Caller> = (0..16).map(|_| Caller::new(&site)).collect();
    eventually("the silent ones are gone", || status(&site).is_some()).await;
    drop(silent);

    // One that does not read is dropped: its writes fail in the end.
    let mut deaf = UnixStream::connect(socket(&site)).unwrap();
    deaf.set_nonblocking(true).unwrap();
    eventually("the deaf one is dropped", || {
        loop {
            match deaf.write_all(b"{\"query\":\"status\"}\n") {
                Ok(()) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::BrokenPipe,
            }
        }
    })
    .await;

    // One that says too much is heard later, and its events are refused.
    let mut loud = Caller::new(&site);
    let (start, count) = (clock::now(), 200);
    loud.send(&"{\"event\":{\"type\":\"custom.x\"}}\n".repeat(count));
    let answers: Vec<Value> = (0..count).map(|_| loud.hear()).collect();
    assert!(
        start.elapsed() > Duration::from_millis(1900),
        "50 lines a second"
    );
    let refused = json!({ "error": "expected at most one event in 1 s on average, got more: try again later" });
    let refused = answers.iter().filter(|answer| **answer == refused).count();
    assert!((150..=170).contains(&refused), "{refused} of {count}");
    ears.forget();
    ears.wait(&site, "heartbeat", "the heart beats", |_| true)
        .await;
}

/// Lets other users at the socket.
fn open_to_all(site: &Site) {
    fs::set_permissions(site.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(socket(site), fs::Permissions::from_mode(0o666)).unwrap();
}

#[tokio::test]
async fn a_strangers_word_does_not_count() {
    let site = Site::start().await;
    let _agent = site.agent();
    eventually("the agent runs", || status(&site).is_some()).await;
    open_to_all(&site);
    let own = nix::unistd::getegid().as_raw();
    let socket = socket(&site);
    let ask = |group, line: &str| {
        let answer = ask_as(NOBODY, group, &socket, line);
        serde_json::from_str::<Value>(&answer).unwrap()
    };
    let event = r#"{"event":{"type":"custom.bumped"}}"#;
    let refusal = "expected root, the agent's own user or a member of its group to report, got the user with id 65534";
    for line in [
        event,
        r#"{"battery":{"percent":1}}"#,
        r#"{"operator":{"id":"eve"}}"#,
    ] {
        assert_eq!(ask(NOBODY, line), json!({ "error": refusal }));
    }
    // A member of the agent's group.
    assert!(ask(own, event)["seq"].is_u64());
    let refusal = "expected root or the agent's own user, got the user with id 65534";
    assert_eq!(
        ask(own, r#"{"reload":"configuration"}"#),
        json!({ "error": refusal })
    );
}
