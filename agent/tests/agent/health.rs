//! From registration to healthy: what root's setup reports arrives in order, services and checks are
//! watched, and only root and the agent's own user may report.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::broker::{Ears, Site, register, status};
use crate::support::eventually;

/// The types of all events so far, in order, without repetitions that a resend brings.
fn kinds(ears: &Ears) -> Vec<String> {
    let mut events: Vec<(u64, String)> = ears
        .all("events")
        .iter()
        .flat_map(|heard| heard.body["payload"]["events"].as_array().unwrap().clone())
        .map(|event| {
            let kind = event["type"].as_str().unwrap().to_owned();
            (event["seq"].as_u64().unwrap(), kind)
        })
        .collect();
    events.sort();
    events.dedup();
    events.into_iter().map(|(_, kind)| kind).collect()
}

fn health(ears: &Ears) -> Value {
    let states = ears.all("state");
    states.last().unwrap().body["payload"]["health"].clone()
}

#[tokio::test]
async fn a_registered_robot_is_set_up_and_becomes_healthy() {
    let site = Site::start().await;
    let root = site.folder.path().join("root");
    let on_robot = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let profile = format!(
        "version: 1\nname: lekiwi\ntitle: A robot\nservices: [host.service]\nchecks: [{{name: control port, tcp: \
         \"{}\"}}]\nsoftware: {{files: [{{path: /etc/robot.conf, content: x}}]}}\n",
        port.local_addr().unwrap()
    );
    on_robot("usr/share/lekiwi/profiles/lekiwi.yml", &profile);
    let units = root.join("run/systemd/units");
    fs::create_dir_all(&units).unwrap();
    let run = units.join("invocation:host.service");
    symlink("01", &run).unwrap();
    let events = "sys/fs/cgroup/system.slice/host.service/cgroup.events";
    on_robot(events, "populated 1\nfrozen 0\n");

    let ears = site.listen();
    let at = root.display().to_string();
    let _agent = site.agent_with(&["--root", &at, "run"]);
    ears.connection(&site, "ONLINE").await;
    ears.wait(&site, "state", "a state", |_| true).await;
    assert_eq!(health(&ears), Value::Null, "not registered, no promise");

    register(
        &ears,
        json!({ "status": "registered", "profile": "lekiwi" }),
    );
    let pending = json!({ "healthy": false, "setup": "pending" });
    eventually("the setup is awaited", || health(&ears) == pending).await;

    // What lekiwi-setup.path does.
    let file = site.folder.path().join("state/registered.json");
    eventually("the registration is on disk", || file.exists()).await;
    let mut setup = site.agent_with_log("setup.log", &["--root", &at, "setup"]);
    assert!(setup.ended().await.success());
    assert_eq!(
        fs::read_to_string(root.join("etc/robot.conf")).unwrap(),
        "x"
    );
    let healthy = json!({ "healthy": true, "setup": "done" });
    eventually("the robot is healthy", || health(&ears) == healthy).await;
    let expected = [
        "agent.started",
        "setup.started",
        "setup.progress",
        "setup.completed",
        "health.healthy",
    ];
    eventually("all events arrived", || {
        kinds(&ears).len() >= expected.len()
    })
    .await;
    assert_eq!(kinds(&ears), expected);

    fs::remove_file(run).unwrap();
    eventually("the stopped service is noticed", || {
        kinds(&ears).len() > expected.len()
    })
    .await;
    assert_eq!(kinds(&ears).last().unwrap(), "health.unhealthy");
    let failing = json!([{
        "name": "host.service",
        "reason": "expected host.service to be active, but it is not running"
    }]);
    let unhealthy = json!({ "healthy": false, "setup": "done", "failing": failing });
    eventually("the state says so", || health(&ears) == unhealthy).await;
}

/// Speaks to the agent's socket as a user; returns its answer.
fn ask_as(user: u32, socket: &std::path::Path, line: &str) -> String {
    const SCRIPT: &str = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                          s.sendall(sys.argv[2].encode() + b'\\n'); print(s.makefile().read().strip())";
    let output = Command::new("/usr/bin/python3")
        .args(["-I", "-c", SCRIPT])
        .arg(socket)
        .arg(line)
        .uid(user)
        .current_dir("/")
        .output()
        .expect("/usr/bin/python3 and root are needed: apt-get install python3");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn only_root_and_the_agent_report_events() {
    const NOBODY: u32 = 65_534;
    let site = Site::start().await;
    let ears = site.listen();
    let _agent = site.agent();
    ears.connection(&site, "ONLINE").await;
    let socket = site.folder.path().join("agent.sock");
    // Whoever gets at the socket may ask.
    fs::set_permissions(site.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let event = json!({ "event": { "type": "setup.progress", "data": { "step": "packages" } } });
    let asked = ask_as(NOBODY, &socket, r#"{"query":"status"}"#);
    assert_eq!(
        serde_json::from_str::<Value>(&asked).unwrap()["robot_id"],
        "kiwi-01"
    );
    assert_eq!(
        ask_as(NOBODY, &socket, &event.to_string()),
        r#"{"error":"expected root or the agent's own user to report events, got the user with id 65534"}"#
    );
    let seq = status(&site).unwrap()["outbox"]["last_seq"]
        .as_u64()
        .unwrap();
    let own = nix::unistd::geteuid().as_raw();
    assert_eq!(
        ask_as(own, &socket, &event.to_string()),
        format!(r#"{{"seq":{}}}"#, seq + 1)
    );
    let progress = |payload: &Value| {
        let events = payload["events"].as_array().unwrap();
        events
            .iter()
            .any(|event| event["type"] == "setup.progress" && event["data"]["step"] == "packages")
    };
    ears.wait(&site, "events", "the reported event", progress)
        .await;
    for (line, answer) in [
        (
            r#"{"event":{"type":"robot.registered"}}"#,
            r#"{"error":"expected an event such as setup.progress, got \"robot.registered\""}"#,
        ),
        (
            r#"{"event":{"type":"setup.done","when":1}}"#,
            r#"{"error":"expected {\"query\":\"status\"}, {\"event\":{\"type\":…,\"data\":…}} or {\"subscribe\":[\"control\"]} in at most 8192 bytes"}"#,
        ),
        (
            r#"{"query":"stop"}"#,
            r#"{"error":"expected {\"query\":\"status\"}, {\"event\":{\"type\":…,\"data\":…}} or {\"subscribe\":[\"control\"]} in at most 8192 bytes"}"#,
        ),
    ] {
        assert_eq!(ask_as(own, &socket, line), answer);
    }
    let long = json!({ "event": { "type": "setup.progress", "data": "x".repeat(9000) } });
    assert!(ask_as(own, &socket, &long.to_string()).contains("at most 8192 bytes"));
}
