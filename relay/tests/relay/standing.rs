//! Quarantine, approval, rejection and re-flash of the real program, with nothing but curl, openssl and
//! Mosquitto's clients.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::common::{Heard, Relay, certificate, openssl, request, wait_for};
use serde_json::{Value, json};

const JSON: &str = "content-type: application/json";

/// A child that ends with the test, and what it prints.
pub(crate) struct Follower(Child, Heard);

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Follower {
    pub(crate) fn said(&self) -> String {
        self.1.text()
    }

    pub(crate) fn wait(&self, what: &str) {
        wait_for(what, || self.said().contains(what).then_some(()));
    }

    fn ended(&mut self) {
        let said = self.said();
        wait_for(&format!("the end of the session, {said}"), || {
            self.0.try_wait().expect("a child")
        });
    }
}

/// One of Mosquitto's programs, with the key and the certificate that are kept as `files`.
pub(crate) fn client(relay: &Relay, program: &str, id: &str, files: &str) -> Command {
    let (host, port) = relay.mqtt.rsplit_once(':').expect("an address");
    let at = |suffix: &str| relay.data.path().join(format!("{files}.{suffix}"));
    // Line by line: what a client says into a pipe would otherwise come at its end.
    let mut command = Command::new("stdbuf");
    command
        .args(["--output=L", program])
        .args(["-V", "5", "-i", id, "-h", host, "-p", port, "--cafile"])
        .arg(relay.ca())
        .arg("--cert")
        .arg(at("pem"))
        .arg("--key")
        .arg(at("key"));
    command
}

/// Connected and subscribed when this returns.
pub(crate) fn follow(relay: &Relay, id: &str, files: &str, filter: &str) -> Follower {
    let mut child = client(relay, "mosquitto_sub", id, files)
        .args(["-d", "-t", filter, "-F", "heard %t %r %p"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mosquitto_sub is installed (apt-get install mosquitto-clients)");
    let said = Heard::new(child.stdout.take().expect("a pipe"));
    let follower = Follower(child, said);
    follower.wait("received SUBACK");
    follower
}

fn publish(relay: &Relay, robot: &str, files: &str, level: &str, kind: &str, payload: Value) {
    let message = json!({
        "type": kind, "robot_id": robot, "timestamp": "2026-11-21T03:52:00.000Z", "sequence": 0, "payload": payload,
    });
    let topic = format!("fleet/v1/default/robots/{robot}/from/{level}");
    let sent = client(relay, "mosquitto_pub", robot, files)
        .args(["-q", "1", "-r", "-t", &topic, "-m", &message.to_string()])
        .output()
        .expect("mosquitto_pub is installed (apt-get install mosquitto-clients)");
    assert!(
        sent.status.success(),
        "{}",
        String::from_utf8_lossy(&sent.stderr)
    );
}

/// Enrols and keeps key and certificate as `files`.
pub(crate) fn enrol(relay: &Relay, robot: &str, files: &str, token: &str, subject: &str) {
    let folder = relay.data.path();
    let (_, csr) = request(folder, files, &format!("/CN={robot}{subject}"));
    let answer = relay.enrol(robot, token, &csr);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let pem = certificate(&answer.body);
    fs::write(folder.join(format!("{files}.pem")), pem).expect("a file");
}

/// Keeps key and certificate of a consumer as `watcher`.
pub(crate) fn consumer(relay: &Relay, session: &str) {
    let folder = relay.data.path();
    let (key, _) = request(folder, "watcher", "/CN=watcher");
    let key = key.to_str().expect("text");
    let csr = openssl(&["req", "-new", "-key", key, "-subj", "/CN=watcher"], "");
    let body = json!({ "name": "watcher", "csr_pem": csr }).to_string();
    let made = relay.curl_as(session, "/api/v1/consumers", &["-H", JSON, "-d", &body]);
    assert_eq!(made.status, 201, "{}", made.body);
    let pem = made.json()["certificate_pem"].clone();
    fs::write(folder.join("watcher.pem"), pem.as_str().expect("PEM")).expect("a file");
}

fn registration(relay: &Relay, session: &str, robot: &str) -> Value {
    let view = relay.curl_as(session, &format!("/api/v1/robots/{robot}"), &[]);
    view.json()["registration"].clone()
}

fn factsheet(profile: &str, serial: &str) -> Value {
    let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    json!({
        "uuid": uuid, "profile": profile, "agent_version": "1", "agent_target": "t", "boot_id": uuid,
        "hardware": { "serial": serial, "model": "", "revision": "" },
    })
}

#[test]
fn an_unknown_robot_is_seen_by_the_operator_only_until_approved_and_ends_with_its_rejection() {
    let relay = Relay::start();
    let session = relay.log_in();
    consumer(&relay, &session);
    // One seed for two robots; neither says what the token was made for.
    let seed = relay.token(&["--profile", "lekiwi", "--max-uses", "2"]);
    enrol(
        &relay,
        "kiwi-01",
        "kiwi-01",
        &seed,
        "/serialNumber=1000abcd/OU=unknown",
    );
    enrol(
        &relay,
        "kiwi-02",
        "kiwi-02",
        &seed,
        "/serialNumber=1000abce/OU=lekiwi",
    );
    let (_, third) = request(relay.data.path(), "kiwi-03", "/CN=kiwi-03");
    let (status, slug, detail) = relay.enrol("kiwi-03", &seed, &third).problem();
    assert_eq!((status, slug.as_str()), (409, "token-used"));
    assert!(
        detail.starts_with("the token was used by 2 other keys, the last at 20")
            && detail.ends_with("; it was made for 2"),
        "{detail}"
    );

    let watcher = follow(
        &relay,
        "consumer:watcher",
        "watcher",
        "fleet/v1/default/robots/+/from/#",
    );
    publish(
        &relay,
        "kiwi-01",
        "kiwi-01",
        "factsheet",
        "factsheet",
        factsheet("unknown", "1000abcd"),
    );
    publish(
        &relay,
        "kiwi-02",
        "kiwi-02",
        "factsheet",
        "factsheet",
        factsheet("lekiwi", "1000abce"),
    );
    watcher.wait("heard fleet/v1/default/robots/kiwi-02/from/factsheet 0");
    let known = wait_for("the quarantine", || {
        let known = registration(&relay, &session, "kiwi-01");
        (known["status"] == "quarantined").then_some(known)
    });
    assert_eq!(known["reason"], "its hardware matches no profile");
    assert!(!watcher.said().contains("kiwi-01"), "{}", watcher.said());

    let path = "/api/v1/robots/kiwi-01/approve";
    let approve = ["-H", JSON, "-d", r#"{"profile":"lekiwi"}"#];
    // A browser's cookie alone does nothing for another site.
    let cookie = format!("cookie: __Host-lekiwi={session}");
    // The refusal comes before the body is read, which curl takes for a broken HTTP/2 stream now and then.
    let mut foreign = vec!["--http1.1", "-H", &cookie];
    foreign.extend(approve);
    assert_eq!(relay.curl(path, &foreign).problem().1, "cross-origin");
    let (status, slug, detail) = relay
        .curl_as(
            &session,
            path,
            &["-H", JSON, "-d", r#"{"profile":"le kiwi"}"#],
        )
        .problem();
    assert_eq!(
        (status, slug.as_str(), detail.as_str()),
        (
            422,
            "invalid-body",
            "expected profile to be 1 to 64 printable characters without spaces, got \"le kiwi\""
        )
    );
    assert_eq!(
        relay
            .curl_as(&session, "/api/v1/robots/kiwi-09/approve", &approve)
            .problem()
            .1,
        "robot-unknown"
    );

    let mut robot = follow(
        &relay,
        "kiwi-01",
        "kiwi-01",
        "fleet/v1/default/robots/kiwi-01/to/#",
    );
    let approved = relay.curl_as(&session, path, &approve);
    assert_eq!(approved.status, 200, "{}", approved.body);
    let approved = approved.json();
    assert_eq!(
        (
            &approved["registration"]["status"],
            &approved["registration"]["approved_by"],
            &approved["type"]
        ),
        (&json!("registered"), &json!("admin"), &json!("lekiwi"))
    );
    robot.wait(r#""payload":{"status":"registered","profile":"lekiwi"}"#);
    watcher.wait("heard fleet/v1/default/robots/kiwi-01/from/factsheet 0");
    let late = follow(
        &relay,
        "consumer:watcher:late",
        "watcher",
        "fleet/v1/default/robots/kiwi-01/from/factsheet",
    );
    late.wait("heard fleet/v1/default/robots/kiwi-01/from/factsheet 1");

    // Turned away: the session ends, and the certificate opens nothing.
    let rejected = relay.curl_as(&session, "/api/v1/robots/kiwi-01/reject", &["-X", "POST"]);
    assert_eq!(rejected.status, 200, "{}", rejected.body);
    let rejected = rejected.json();
    assert_eq!(
        (
            &rejected["registration"]["status"],
            &rejected["registration"]["reason"]
        ),
        (&json!("rejected"), &json!("rejected by admin"))
    );
    robot.ended();
    assert_eq!(
        relay.curl_as(&session, path, &approve).problem(),
        (
            409,
            "robot-rejected".to_owned(),
            "kiwi-01 was rejected and its certificate revoked".to_owned()
        )
    );
    let log = relay.curl_as(&session, "/api/v1/robots/kiwi-01/events?after=0", &[]);
    let log = log.json();
    let kinds: Vec<_> = log["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter_map(|event| event["type"].as_str())
        .collect();
    assert_eq!(
        kinds,
        [
            "robot.registered",
            "robot.quarantined",
            "robot.approved",
            "robot.rejected"
        ]
    );
    // And after kill -9 all of it still holds.
    let relay = Relay::start_in(relay.kill());
    let session = relay.log_in();
    assert_eq!(
        registration(&relay, &session, "kiwi-01")["status"],
        "rejected"
    );
    assert_eq!(
        registration(&relay, &session, "kiwi-02")["status"],
        "registered"
    );
}

#[test]
fn a_reflashed_robot_keeps_its_record_and_its_old_key_is_out_at_once() {
    let relay = Relay::start();
    let session = relay.log_in();
    let first = relay.token(&[]);
    enrol(&relay, "kiwi-01", "old", &first, "/serialNumber=1000abcd");
    publish(
        &relay,
        "kiwi-01",
        "old",
        "factsheet",
        "factsheet",
        factsheet("lekiwi", "1000abcd"),
    );
    let view = || {
        relay
            .curl_as(&session, "/api/v1/robots/kiwi-01", &[])
            .json()
    };
    let before = wait_for("the factsheet", || {
        Some(view()).filter(|view| view["factsheet"].is_object())
    });
    let mut old = follow(
        &relay,
        "kiwi-01",
        "old",
        "fleet/v1/default/robots/kiwi-01/to/#",
    );

    let token = relay.token(&["--robot", "kiwi-01"]);
    enrol(&relay, "kiwi-01", "new", &token, "/serialNumber=2000abcd");
    old.ended();
    let events = wait_for("the log", || {
        let page = relay.curl_as(&session, "/api/v1/robots/kiwi-01/events?after=0", &[]);
        let events = page.json()["events"].as_array().expect("events").clone();
        (events.len() == 3).then_some(events)
    });
    let serials: Vec<_> = events[..2]
        .iter()
        .map(|event| event["data"]["certificate_serial"].clone())
        .collect();
    assert_eq!(
        (&events[2]["type"], &events[2]["data"]),
        (
            &json!("robot.reflashed"),
            &json!({ "old_serial": serials[0], "new_serial": serials[1] })
        )
    );
    assert_eq!(
        view()["status"]["registered_at"],
        before["status"]["registered_at"]
    );

    // The new key speaks, from another board.
    publish(
        &relay,
        "kiwi-01",
        "new",
        "factsheet",
        "factsheet",
        factsheet("lekiwi", "2000abcd"),
    );
    let changed = wait_for("the board in the log", || {
        let page = relay.curl_as(&session, "/api/v1/robots/kiwi-01/events?after=0", &[]);
        let events = page.json()["events"].as_array().expect("events").clone();
        events
            .into_iter()
            .find(|event| event["type"] == "robot.hardware_changed")
    });
    assert_eq!(
        changed["data"],
        json!({ "old_serial": "1000abcd", "new_serial": "2000abcd" })
    );
    assert_eq!(view()["registration"]["status"], "registered");
    // What the old key still says is refused.
    let out = client(&relay, "mosquitto_pub", "kiwi-01", "old")
        .args([
            "-t",
            "fleet/v1/default/robots/kiwi-01/from/state",
            "-m",
            "{}",
        ])
        .output()
        .expect("mosquitto_pub runs");
    assert!(!out.status.success());
    wait_for("the refusal", || {
        let refused = relay.curl_as(&session, "/api/v1/refused", &[]).json();
        let refused = refused["refused"].as_array().expect("a list").clone();
        refused
            .iter()
            .any(|r| {
                r["reason"]
                    == format!(
                        "certificate {} of \"kiwi-01\" was revoked",
                        serials[0].as_str().expect("a serial")
                    )
            })
            .then_some(())
    });
}

#[test]
fn a_command_that_the_robots_agent_does_not_know_is_refused_with_the_reason() {
    let relay = Relay::start();
    let session = relay.log_in();
    let token = relay.token(&["--robot", "kiwi-01"]);
    enrol(&relay, "kiwi-01", "kiwi-01", &token, "/OU=lekiwi");
    let path = "/api/v1/robots/kiwi-01/commands";
    let send = |op: &str| {
        let body = json!({ "op": op }).to_string();
        relay.curl_as(&session, path, &["-H", JSON, "-d", &body])
    };
    let say = |capabilities: &[&str]| {
        let mut sheet = factsheet("lekiwi", "");
        sheet["capabilities"] = json!(capabilities);
        publish(
            &relay,
            "kiwi-01",
            "kiwi-01",
            "factsheet",
            "factsheet",
            sheet,
        );
        wait_for("the factsheet", || {
            let view = relay.curl_as(&session, "/api/v1/robots/kiwi-01", &[]);
            (view.json()["factsheet"]["capabilities"] == json!(capabilities)).then_some(())
        });
    };
    say(&["events"]);
    let refused = |op: &str, slug: &str, what: &str| {
        let detail = format!("expected an agent that {what}, but kiwi-01 has version 1");
        assert_eq!(send(op).problem(), (409, slug.to_owned(), detail));
    };
    refused("ping", "commands-unsupported", "takes commands");
    refused("collect_logs", "commands-unsupported", "takes commands");
    say(&["commands"]);
    for op in ["collect_logs", "list_packages", "renew_identity"] {
        refused(op, "command-unsupported", &format!("knows {op}"));
    }
    assert_eq!(send("ping").status, 202);
    say(&["collect_logs", "commands", "list_packages"]);
    assert_eq!(send("collect_logs").status, 202);
    assert_eq!(send("list_packages").status, 202);
}
