//! What people do is on record when they have the answer, and what somebody makes of the record is found.

use std::collections::BTreeSet;
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::common::{Answer, Relay, command, request, wait_for};

const JSON: &str = "content-type: application/json";
const PASSWORD: &str = "correct horse battery staple";

fn send(relay: &Relay, session: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    relay.curl_as(session, path, &["-X", method, "-H", JSON, "-d", &body])
}

fn entries(relay: &Relay, session: &str, query: &str) -> Vec<Value> {
    let page = relay.curl_as(session, &format!("/api/v1/audit?{query}"), &[]);
    let page = page.json();
    page["entries"].as_array().expect("a list").clone()
}

/// What each entry says, without what differs from run to run.
fn told(entries: &[Value]) -> Vec<String> {
    let text = |entry: &Value, key: &str| entry[key].as_str().expect("a text").to_owned();
    let line = |entry: &Value| {
        let keys = ["who", "action", "on", "outcome"];
        keys.map(|key| text(entry, key)).join(" ")
    };
    entries.iter().map(line).collect()
}

fn log_in(relay: &Relay, user: &str, password: &str) -> Answer {
    let login = json!({ "user": user, "password": password }).to_string();
    relay.curl("/api/v1/session", &["-H", JSON, "-d", &login])
}

/// `lekiwi-relay verify`, and what it said.
fn verify(relay: &Relay) -> (bool, String) {
    let mut verify = command();
    verify.args(["verify", "--data"]).arg(relay.data_folder());
    let output = verify.output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

#[test]
fn who_did_what_is_on_record() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let (_, csr) = request(relay.data.path(), "kiwi-01", "/CN=kiwi-01");
    let token = relay.token(&[]);
    assert_eq!(relay.enrol("kiwi-01", &token, &csr).status, 200);
    let roles = json!([{ "role": "operator", "on": "fleet" }]);
    let person = json!({ "name": "ada", "password": PASSWORD, "roles": roles });
    let added = send(&relay, &admin, "POST", "/api/v1/people", &person);
    assert_eq!(added.status, 201, "{}", added.body);
    assert_eq!(log_in(&relay, "ada\u{1b}[2J", "wrong").status, 401);
    let ada = log_in(&relay, "ada", PASSWORD).json();
    let ada = ada["token"].as_str().expect("a token").to_owned();
    wait_for("the robot", || {
        let stop = relay.curl_as(&ada, "/api/v1/robots/kiwi-01/estop", &["-X", "POST"]);
        (stop.status == 202).then_some(())
    });
    let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    for _ in 0..12 {
        let refused = relay.curl_as(&ada, "/api/v1/people", &["-H", trace]);
        assert_eq!(refused.status, 403);
    }
    assert_eq!(relay.curl_as(&ada, "/api/v1/audit", &[]).status, 403);
    assert_eq!(relay.curl("/api/v1/people", &[]).status, 401);
    let ended = relay.curl_as(&ada, "/api/v1/session", &["-X", "DELETE"]);
    assert_eq!(ended.status, 204);

    let all = entries(&relay, &admin, "after=0");
    let mut told = told(&all);
    // Before the robot was known to the relay's picture, stops were refused.
    told.retain(|line| !line.ends_with("estop robot-unknown"));
    assert_eq!(
        told,
        [
            "system:uid-0 admin-create admin done",
            "relay:r1 relay-start  done",
            "person:admin login session done",
            "system:uid-0 token-create tokens done",
            "robot:kiwi-01 robot-enrol .well-known/est/simpleenroll done",
            "person:admin person-add people done",
            "nobody login session login-failed",
            "person:ada login session done",
            "person:ada robot-stop robots/kiwi-01/estop done",
            "person:ada request people permission-missing",
            "person:ada request people permission-missing",
            "person:ada request audit permission-missing",
            "person:ada logout session done",
        ]
    );
    let of = |action: &str| {
        let found = entries(&relay, &admin, &format!("action={action}"));
        found.last().expect("an entry").clone()
    };
    let denied = entries(&relay, &admin, "action=request&limit=2");
    assert_eq!(
        denied[0]["detail"],
        json!({ "method": "GET", "times": "10" })
    );
    assert_eq!(denied[0]["trace"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(denied[0]["address"], "127.0.0.1");
    let added = json!({ "person": "ada", "roles": "operator on fleet" });
    assert_eq!(of("person-add")["detail"], added);
    // What the event log has is only referred to.
    let stop = of("robot-stop")["detail"]["command"].clone();
    let path = format!(
        "/api/v1/robots/kiwi-01/commands/{}",
        stop.as_str().expect("an id")
    );
    assert_eq!(relay.curl_as(&admin, &path, &[]).json()["by"], "ada");
    // Nothing of a stranger reaches a terminal.
    let failed = entries(&relay, &admin, "who=nobody&action=login");
    assert_eq!(failed[0]["detail"]["user"], "ada\u{fffd}[2J");
    assert_eq!(
        entries(&relay, &admin, "robot=kiwi-01&action=robot-stop").len(),
        1
    );
    let wrong = relay.curl_as(&admin, "/api/v1/audit?limit=0", &[]);
    assert_eq!(wrong.problem().1, "invalid-query");
    // No secret of any of it.
    let text = serde_json::to_string(&all).expect("JSON");
    for secret in [PASSWORD, &relay.password(), &token, &admin, &ada] {
        assert!(!text.contains(secret), "a secret is in the audit");
    }
    assert_eq!(verify(&relay), (true, String::new()));
}

/// Whatever moment the relay is killed at: what it has answered is on record, and the chain is whole.
#[test]
fn what_was_answered_is_on_record_after_a_kill() {
    let mut data = None;
    for round in 0..4 {
        let relay = match data.take() {
            Some(data) => Relay::start_in(data),
            None => Relay::start(),
        };
        let admin = relay.log_in();
        let (answered, answers) = mpsc::channel();
        let bearer = format!("authorization: Bearer {admin}");
        let (ca, https) = (relay.ca(), relay.https.clone());
        let sending = std::thread::spawn(move || {
            for number in 0.. {
                let name = format!("g{round}-{number}");
                let url = format!("https://{https}/api/v1/groups/{name}");
                let body = json!({ "robots": [] }).to_string();
                let options = ["-X", "PUT", "-H", &bearer, "-H", JSON, "-d", &body];
                let output = crate::common::curl_command(&ca, &url, &options).output();
                let output = output.expect("curl runs");
                if !output.status.success() {
                    return;
                }
                assert_eq!(Answer::read(output).status, 200);
                if answered.send(name).is_err() {
                    return;
                }
            }
        });
        let first: Vec<String> = answers.iter().take(5).collect();
        let folder = relay.kill();
        let done: Vec<String> = first.into_iter().chain(answers).collect();
        sending.join().expect("no panic");

        let relay = Relay::start_in(folder);
        let admin = relay.log_in();
        let on_record: BTreeSet<String> = entries(&relay, &admin, "action=group-set&limit=1000")
            .iter()
            .map(|entry| entry["on"].as_str().expect("a text").to_owned())
            .collect();
        for name in done {
            let on = format!("groups/{name}");
            assert!(
                on_record.contains(&on),
                "{on} was answered and is not on record"
            );
        }
        assert_eq!(verify(&relay), (true, String::new()));
        data = Some(relay.kill());
    }
}

#[test]
fn a_record_that_was_cut_off_is_not_signed_again() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let group = json!({ "robots": [] });
    for name in ["a", "b", "c"] {
        let path = format!("/api/v1/groups/{name}");
        assert_eq!(send(&relay, &admin, "PUT", &path, &group).status, 200);
    }
    let signed = relay.curl_as(&admin, "/api/v1/audit/checkpoint", &[]);
    assert_eq!(signed.status, 200, "{}", signed.body);
    let document = signed.json()["document"]
        .as_str()
        .expect("a text")
        .to_owned();
    let mark: Value = serde_json::from_str(&document).expect("JSON");
    let last = mark["number"].as_u64().expect("a number");
    // minisign itself, where there is one, checks it as well.
    let folder = relay.data.path();
    std::fs::write(folder.join("mark"), &document).expect("a file");
    let signature = signed.json()["signature"]
        .as_str()
        .expect("a text")
        .to_owned();
    std::fs::write(folder.join("mark.minisig"), signature).expect("a file");
    let key = signed.json()["key"].as_str().expect("a text").to_owned();
    let minisign = std::process::Command::new("minisign")
        .args(["-V", "-P", &key, "-m"])
        .arg(folder.join("mark"))
        .output()
        .expect("minisign is installed (apt-get install minisign)");
    assert!(minisign.status.success(), "{minisign:?}");

    let (_, data) = relay.stop();
    let file = rusqlite::Connection::open(data.path().join("data/relay.db")).expect("the store");
    let cut = "DELETE FROM audit WHERE number > (SELECT max(number) - 3 FROM audit)";
    file.execute_batch(cut).expect("a statement");
    drop(file);
    let relay = Relay::start_in(data);
    wait_for("the relay says so", || {
        let said = "the audit does not go on from what was signed";
        relay.log().contains(said).then_some(())
    });
    let (is_whole, said) = verify(&relay);
    assert!(
        !is_whole && said.contains("which a checkpoint speaks of"),
        "{said}"
    );
    let admin = relay.log_in();
    let refused = relay
        .curl_as(&admin, "/api/v1/audit/checkpoint", &[])
        .problem();
    assert_eq!(refused.1, "audit-broken");
    // Until it is as long again: then it is another one.
    for name in ["d", "e", "f"] {
        let path = format!("/api/v1/groups/{name}");
        assert_eq!(send(&relay, &admin, "PUT", &path, &group).status, 200);
    }
    let refused = relay
        .curl_as(&admin, "/api/v1/audit/checkpoint", &[])
        .problem();
    let expected = format!(
        "expected entry {last} of the audit as it was when a checkpoint was signed, got another one"
    );
    assert_eq!(refused.2, expected);
}
