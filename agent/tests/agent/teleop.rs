//! From commands on a port of the profile to what a relay hears of it.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::broker::{Ears, Site, register};
use crate::support::eventually;

/// All teleoperation events so far, in order, without repetitions that a resend brings.
fn events(ears: &Ears) -> Vec<(u64, Value)> {
    let batches = ears.all("events").into_iter();
    let mut events: Vec<(u64, Value)> = batches
        .flat_map(|heard| heard.body["payload"]["events"].as_array().unwrap().clone())
        .filter(|event| {
            event["type"]
                .as_str()
                .unwrap()
                .starts_with("teleoperation.")
        })
        .map(|event| (event["seq"].as_u64().unwrap(), event))
        .collect();
    events.sort_by_key(|(seq, _)| *seq);
    events.dedup_by_key(|(seq, _)| *seq);
    events
}

fn profile(site: &Site, name: &str, teleop: &str) {
    let folder = site.folder.path().join("root/usr/share/lekiwi/profiles");
    fs::create_dir_all(&folder).unwrap();
    let text = format!("version: 1\nname: {name}\ntitle: A robot\n{teleop}");
    fs::write(folder.join(format!("{name}.yml")), text).unwrap();
}

fn state(ears: &Ears) -> Value {
    let states = ears.all("state");
    let newest = states.last().map(|heard| heard.body["payload"].clone());
    newest.unwrap_or_default()
}

#[tokio::test]
async fn commands_make_a_robot_teleoperated_and_their_end_makes_it_idle() {
    let site = Site::start().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let ports = format!(
        "teleop: {{ports: [{{port: {}, role: control, what: commands}}]}}\n",
        address.port()
    );
    // What the hardware is has no signatures; what it is registered as has.
    profile(&site, "lekiwi", "");
    profile(&site, "xle", &ports);
    let ears = site.listen();
    let at = site.folder.path().join("root").display().to_string();
    let mut agent = site.agent_with(&["--root", &at, "run"]);
    ears.connection(&site, "ONLINE").await;
    ears.wait(&site, "state", "an idle robot", |payload| {
        payload["activity"] == "idle" && payload["operating_mode"] == "AUTOMATIC"
    })
    .await;
    ears.wait(&site, "factsheet", "no capability yet", |payload| {
        payload["capabilities"]
            == json!([
                "backlog",
                "collect_logs",
                "commands",
                "configuration",
                "events",
                "list_packages",
                "renew_identity",
                "services",
                "telemetry"
            ])
    })
    .await;
    register(&ears, json!({ "status": "registered", "profile": "xle" }));
    ears.wait(&site, "factsheet", "the capability", |payload| {
        payload["capabilities"]
            == json!([
                "backlog",
                "collect_logs",
                "commands",
                "configuration",
                "events",
                "list_packages",
                "renew_identity",
                "services",
                "telemetry",
                "teleoperation"
            ])
    })
    .await;

    let mut commands = TcpStream::connect(address).unwrap();
    let (mut taken, _) = listener.accept().unwrap();
    let taker = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while taken.read(&mut buffer).is_ok_and(|length| length > 0) {}
    });
    commands.set_nodelay(true).unwrap();
    eventually("the robot is driven", || {
        commands.write_all(b"{\"x.vel\": 0.1}").unwrap();
        std::thread::sleep(Duration::from_millis(10));
        state(&ears)["activity"] == "teleoperated"
    })
    .await;
    let driven = state(&ears);
    assert_eq!(driven["operating_mode"], "MANUAL");
    assert_eq!(driven["teleoperation"]["active"], true);
    assert_eq!(driven["teleoperation"]["operator_id"], "local");
    assert!(driven["teleoperation"]["session_start"].is_string());
    eventually("the start is told", || events(&ears).len() == 1).await;
    let start = events(&ears)[0].1.clone();
    assert_eq!(start["type"], "teleoperation.started");
    assert_eq!(start["data"]["profile"], "xle");
    let operator = json!({ "id": "local", "kind": "local", "source_kind": "unknown" });
    assert_eq!(start["data"]["operator"], operator);
    assert_eq!(start["data"]["evidence"]["control"]["what"], "commands");

    drop(commands);
    taker.join().unwrap();
    eventually("the robot is idle again", || {
        let state = state(&ears);
        state["activity"] == "idle" && state["teleoperation"] == json!({ "active": false })
    })
    .await;
    eventually("the end is told", || events(&ears).len() == 2).await;
    let end = events(&ears)[1].1.clone();
    assert_eq!(end["type"], "teleoperation.stopped");
    assert_eq!(end["data"]["session"], start["data"]["session"]);
    assert_eq!(end["data"]["ended"]["reason"], "closed");

    // An agent that stops leaves no session behind.
    let mut commands = TcpStream::connect(address).unwrap();
    let (mut taken, _) = listener.accept().unwrap();
    let taker = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while taken.read(&mut buffer).is_ok_and(|length| length > 0) {}
    });
    eventually("it is driven again", || {
        commands.write_all(b"{\"x.vel\": 0.1}").unwrap();
        std::thread::sleep(Duration::from_millis(10));
        events(&ears).len() == 3
    })
    .await;
    agent.terminate();
    assert!(agent.ended().await.success());
    eventually("the end is told", || events(&ears).len() == 4).await;
    assert_eq!(events(&ears)[3].1["data"]["ended"]["reason"], "not_watched");
    eventually("nobody drives", || {
        state(&ears)["teleoperation"] == json!({ "active": false })
    })
    .await;
    drop(commands);
    taker.join().unwrap();
}

/// `lekiwi-agent teleop`: exit code, output and complaint.
fn look(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lekiwi-agent"))
        .arg("teleop")
        .args(arguments)
        .env("LEKIWI_CONFIG", "/nonexistent/agent.yml")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn one_look_needs_no_configuration_and_what_cannot_be_looked_for_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let profile = |name: &str, teleop: &str| {
        let path = folder.path().join(name);
        let text = format!("version: 1\nname: robot\ntitle: A robot\n{teleop}");
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let right = profile(
        "right.yml",
        "teleop: {ports: [{port: 1, role: control, what: commands}]}\n",
    );
    let (code, out, complaint) = look(&["--json", "--profile", &right]);
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    let look_at: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(look_at.len(), 1, "{out}");
    assert_eq!(look_at[0]["type"], "look");
    assert_eq!(look_at[0]["data"]["phase"], "idle");
    let (code, out, _) = look(&["--profile", &right]);
    assert_eq!((code, out.trim_end()), (Some(0), "robot        idle"));

    let none = profile("none.yml", "");
    let missing = folder.path().join("missing.yml").display().to_string();
    for (profile, code, complaint) in [
        (
            none.as_str(),
            1,
            "error: expected signatures of teleoperation in the profile robot, found none\n  \
             (hint: they are below `teleop` in its file)\n"
                .to_owned(),
        ),
        (
            &missing,
            1,
            format!(
                "error: expected a readable profile at {missing}: No such file or directory (os error 2)\n"
            ),
        ),
    ] {
        let said = look(&["--profile", profile]);
        assert_eq!(said, (Some(code), String::new(), complaint));
    }
    let (code, _, complaint) = look(&["--profile", "No Name"]);
    assert_eq!(code, Some(2), "{complaint}");
    assert!(
        complaint.ends_with(
            "\n  (hint: a profile's file is named with its path, such as ./lekiwi.yml)\n"
        ),
        "{complaint}"
    );
    // Without a name it is the configuration's.
    let (code, _, complaint) = look(&[]);
    assert_eq!(code, Some(78), "{complaint}");
}
