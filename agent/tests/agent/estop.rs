//! Emergency stops: what begins, who is told, who confirms, and what is answered.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use uuid::Uuid;

use crate::broker::{Process, Site, status};
use crate::commands::{Robot, command, failed, script};
use crate::support::eventually;

const PATIENCE: Duration = Duration::from_secs(20);

/// A local program that is told of emergency stops.
struct Listener(BufReader<UnixStream>);

impl Listener {
    async fn new(site: &Site) -> Self {
        let stream = UnixStream::connect(site.folder.path().join("agent.sock"));
        let mut listener = Self(BufReader::new(stream.await.unwrap()));
        let subscribed = listener.say(&json!({ "subscribe": ["control"] })).await;
        assert_eq!(subscribed, json!({ "subscribed": ["control"] }));
        listener
    }

    async fn say(&mut self, line: &Value) -> Value {
        let line = format!("{line}\n");
        self.0.get_mut().write_all(line.as_bytes()).await.unwrap();
        self.hear().await
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_line(&mut line));
        read.await.expect("a line in time").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Hears of the stop `id`, and confirms it.
    async fn stop(&mut self, id: Uuid) {
        assert_eq!(self.hear().await["control"]["estop"]["id"], json!(id));
        assert_eq!(
            self.say(&json!({ "stopped": id })).await,
            json!({ "ok": true })
        );
    }
}

impl Robot {
    fn stop(&self) -> Uuid {
        let id = Uuid::new_v4();
        let message = command(id, "estop", &json!({}));
        self.ears.publish("estop", message);
        id
    }

    /// What is known of emergency stops beforehand.
    fn knows(&self) -> Value {
        status(&self.site).map_or(Value::Null, |status| status["stop"].clone())
    }
}

fn stopped(listeners: u32, confirmed: u32) -> Value {
    json!({ "state": "successful", "result": { "listeners": listeners, "confirmed": confirmed } })
}

const HINT: &str = "(hint: give the profile a `stop`, or have the program that drives it confirm stops: docs/commands.md)";

#[tokio::test]
async fn an_emergency_stop_begins_the_stop_action_and_tells_local_programs() {
    let robot = Robot::new().await;
    let _agent = robot.agent(None).await;
    let mut first = Listener::new(&robot.site).await;
    let id = Uuid::new_v4();
    let message = command(id, "estop", &json!({}));
    for _ in 0..3 {
        robot.ears.publish("estop", message.clone());
    }
    let told = json!({ "control": { "estop": { "id": id, "by": "admin" } } });
    assert_eq!(first.hear().await, told);
    assert_eq!(
        first.say(&json!({ "stopped": id })).await,
        json!({ "ok": true })
    );
    assert_eq!(robot.end(id).await, stopped(1, 1));
    assert_eq!(robot.lines("stopped"), ["stopped"], "once");
    robot.ears.forget();
    robot.ears.publish("estop", message);
    assert_eq!(robot.end(id).await, stopped(1, 1), "it came again");
    let late = format!(
        "expected the id of an emergency stop that waits to be confirmed, got {id}: too late, or another's"
    );
    assert_eq!(
        first.say(&json!({ "stopped": id })).await,
        json!({ "error": late })
    );

    // What cannot be read stops the robot too, and a second program hears of it as well.
    let mut second = Listener::new(&robot.site).await;
    robot.ears.publish("estop", "{");
    let told = json!({ "control": { "estop": { "id": Uuid::nil(), "by": "" } } });
    assert_eq!(first.hear().await, told);
    assert_eq!(second.hear().await, told);
    eventually("the robot stopped again", || {
        robot.lines("stopped").len() == 2
    })
    .await;

    // Nobody confirms it, and the robot was stopped all the same: both are said.
    let id = robot.stop();
    assert_eq!(robot.end(id).await, stopped(2, 0));
    let told = |kind: &'static str, count: usize| {
        let robot = &robot;
        move || {
            let events = robot.ears.all("events");
            let mut seqs: Vec<u64> = events
                .iter()
                .flat_map(|heard| heard.body["payload"]["events"].as_array().unwrap().clone())
                .filter(|event| event["type"] == kind)
                .map(|event| event["seq"].as_u64().unwrap())
                .collect();
            seqs.sort_unstable();
            seqs.dedup();
            seqs.len() == count
        }
    };
    eventually("all are events", told("estop.received", 3)).await;
    eventually("and so are their ends", told("estop.done", 3)).await;
}

#[tokio::test]
async fn only_who_confirms_counts_where_there_is_no_stop_action() {
    let robot = Robot::new().await;
    fs::remove_file(robot.file("state/registered.json")).unwrap();
    let _agent = robot.agent(None).await;
    let nothing = format!(
        "nothing on this robot stops it: its profile has no stop action, and no local program has subscribed to \
         control {HINT}"
    );
    assert_eq!(robot.end(robot.stop()).await, failed(&nothing));

    // Whoever follows what the robot does is told of no stops.
    let mut follow = Process(
        robot
            .site
            .command(&["follow"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = [0; 9];
    follow
        .0
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut line)
        .unwrap();
    assert_eq!(&line, b"{\"state\":");
    assert_eq!(robot.end(robot.stop()).await, failed(&nothing));

    // Nor is somebody who stops nothing a reason to believe that the robot stands.
    let mut silent = Listener::new(&robot.site).await;
    let nobody = |listeners: u32| {
        failed(&format!(
            "nobody confirmed that the robot stopped: its profile has no stop action, and none of {listeners} local \
             programs that were told answered {{\"stopped\":ID}} within 1 s {HINT}"
        ))
    };
    assert_eq!(robot.end(robot.stop()).await, nobody(1));
    assert_eq!(
        robot.knows(),
        json!({ "action": false, "listeners": 1, "confirmed": 0 })
    );
    silent.hear().await;

    let mut driver = Listener::new(&robot.site).await;
    let id = robot.stop();
    driver.stop(id).await;
    assert_eq!(robot.end(id).await, stopped(2, 1));
    assert_eq!(
        robot.knows(),
        json!({ "action": false, "listeners": 2, "confirmed": 1 })
    );
    // Once is enough, twice is no more, and another connection's word is not its.
    let id = robot.stop();
    driver.stop(id).await;
    assert_eq!(
        driver.say(&json!({ "stopped": id })).await,
        json!({ "ok": true })
    );
    let mut stranger = UnixStream::connect(robot.file("agent.sock")).await.unwrap();
    let line = format!("{}\n", json!({ "stopped": id }));
    stranger.write_all(line.as_bytes()).await.unwrap();
    let mut answer = String::new();
    BufReader::new(stranger)
        .read_line(&mut answer)
        .await
        .unwrap();
    assert_eq!(
        answer.trim(),
        "{\"error\":\"expected a caller that has subscribed to control to confirm a stop, got one that has not\"}"
    );
    assert_eq!(robot.end(id).await, stopped(2, 1));

    drop(driver);
    let forgotten = json!({ "action": false, "listeners": 1, "confirmed": 0 });
    eventually("who is gone is forgotten", || robot.knows() == forgotten).await;
    assert_eq!(robot.end(robot.stop()).await, nobody(1));
}

#[tokio::test]
async fn the_example_runs_a_program_at_each_stop_and_confirms_what_it_did() {
    let robot = Robot::new().await;
    fs::remove_file(robot.file("state/registered.json")).unwrap();
    let _agent = robot.agent(None).await;
    let halt = robot.file("bin/halt");
    let at = robot.file("halted");
    script(
        &halt,
        &format!("echo >> {0}; test ! -e {0}.broken", at.display()),
    );
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/report.py");
    let _example = Process(
        Command::new("/usr/bin/python3")
            .arg("-I")
            .arg(example)
            .arg("--on-stop")
            .arg(&halt)
            .env("LEKIWI_SOCKET", robot.file("agent.sock"))
            .spawn()
            .unwrap(),
    );
    eventually("the example listens", || robot.knows()["listeners"] == 1).await;
    for _ in 0..2 {
        assert_eq!(robot.end(robot.stop()).await, stopped(1, 1));
    }
    fs::write(robot.file("halted.broken"), "").unwrap();
    let end = robot.end(robot.stop()).await;
    assert_eq!(
        end["state"], "failed",
        "what it did not do it does not confirm: {end}"
    );
    assert_eq!(robot.lines("halted").len(), 3);
}

#[tokio::test]
async fn a_reload_learns_what_stops_the_robot() {
    let robot = Robot::new().await;
    let _agent = robot.agent(None).await;
    let profile = robot.file("root/usr/share/lekiwi/profiles/lekiwi.yml");
    let text = fs::read_to_string(&profile).unwrap();
    fs::write(&profile, text.replace("bin/stop]", "bin/wave, anew]")).unwrap();
    assert!(robot.site.run(&["reload"]).status.success());
    robot.ears.publish("estop", "{");
    eventually("that is begun", || robot.lines("waved") == ["anew"]).await;
}
