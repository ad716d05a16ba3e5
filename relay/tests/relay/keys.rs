//! API keys of programs, as the real program has them; the outside client is curl.

use serde_json::{Value, json};

use crate::common::{Answer, Relay, request, wait_for};
use crate::gateway::{connect, listen};

const JSON: &str = "content-type: application/json";
const PASSWORD: &str = "correct horse battery staple";

/// Sends `body` as whom `token` is of.
fn send(relay: &Relay, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    relay.curl_as(token, path, &["-X", method, "-H", JSON, "-d", &body])
}

fn create(relay: &Relay, session: &str, key: &Value) -> (String, String) {
    let answer = send(relay, session, "POST", "/api/v1/keys", key);
    assert_eq!(answer.status, 201, "{}", answer.body);
    let created = answer.json();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&created["key"]), text(&created["info"]["id"]))
}

fn add(relay: &Relay, admin: &str, name: &str, roles: Value) -> String {
    let person = json!({ "name": name, "password": PASSWORD, "roles": roles });
    let answer = send(relay, admin, "POST", "/api/v1/people", &person);
    assert_eq!(answer.status, 201, "{}", answer.body);
    let login = json!({ "user": name, "password": PASSWORD }).to_string();
    let session = relay.curl("/api/v1/session", &["-H", JSON, "-d", &login]);
    let session = session.json();
    session["token"].as_str().expect("a token").to_owned()
}

fn enrol(relay: &Relay, session: &str, robots: &[&str]) {
    for robot in robots {
        let (_, csr) = request(relay.data.path(), robot, &format!("/CN={robot}"));
        let enrolled = relay.enrol(robot, &relay.token(&[]), &csr);
        assert_eq!(enrolled.status, 200, "{}", enrolled.body);
    }
    wait_for("the robots", || {
        (seen(relay, session).len() == robots.len()).then_some(())
    });
}

fn seen(relay: &Relay, token: &str) -> Vec<String> {
    let list = relay.curl_as(token, "/api/v1/robots", &[]).json();
    let robots = list["robots"].as_array().into_iter().flatten();
    let id = |robot: &Value| robot["id"].as_str().expect("an id").to_owned();
    robots.map(id).collect()
}

#[test]
fn a_program_shows_its_key_in_either_header_and_may_no_more_than_its_owner() {
    let relay = Relay::start();
    let admin = relay.log_in();
    enrol(&relay, &admin, &["kiwi-01", "kiwi-02"]);
    let roles = json!([{ "role": "operator", "on": "fleet" }]);
    let ada = add(&relay, &admin, "ada", roles);

    // Nobody gives what they have not; and no key lets others in.
    let wish = |permissions: Value, on: &str| json!({ "name": "ci", "permissions": permissions, "on": on });
    let refuse = |session: &str, key: &Value| {
        let (status, slug, detail) = send(&relay, session, "POST", "/api/v1/keys", key).problem();
        (status, format!("{slug}: {detail}"))
    };
    assert_eq!(
        refuse(&ada, &wish(json!(["read", "command"]), "robot:kiwi-01")),
        (
            403,
            "permission-missing: expected permissions that ada has on robot:kiwi-01, got `command`"
                .to_owned()
        )
    );
    assert_eq!(
        refuse(&ada, &wish(json!(["read"]), "group:nowhere")),
        (
            403,
            "permission-missing: expected permissions that ada has on group:nowhere, got `read`"
                .to_owned()
        )
    );
    assert_eq!(
        refuse(&admin, &wish(json!(["manage"]), "fleet")),
        (
            422,
            "invalid-body: expected permissions of programs, got `manage`".to_owned()
        )
    );

    let (key, id) = create(
        &relay,
        &ada,
        &wish(json!(["read", "stop"]), "robot:kiwi-01"),
    );
    assert!(key.starts_with("lka_"), "{key}");
    let by_header = |path: &str, options: &[&str]| {
        let header = format!("X-API-Key: {key}");
        let mut all = vec!["-H", &header];
        all.extend(options);
        relay.curl(path, &all)
    };
    for answer in [
        by_header("/api/v1/me", &[]),
        relay.curl_as(&key, "/api/v1/me", &[]),
    ] {
        let me = answer.json();
        assert_eq!((&me["name"], &me["key"]["id"]), (&json!("ada"), &json!(id)));
        assert_eq!(me["rights"][0]["permissions"], json!(["read", "stop"]));
        assert_eq!(me["rights"][0]["on"], "robot:kiwi-01");
    }
    assert_eq!(seen(&relay, &key), ["kiwi-01"]);
    let stop = |robot: &str| {
        let path = format!("/api/v1/robots/{robot}/estop");
        by_header(&path, &["-X", "POST"])
    };
    let stopped = stop("kiwi-01");
    assert_eq!(stopped.status, 202, "{}", stopped.body);
    assert_eq!(stopped.json()["by"], format!("ada by key {id}"));
    assert_eq!(stop("kiwi-02").problem().1, "robot-unknown");
    let ping = json!({ "op": "ping" });
    let path = "/api/v1/robots/kiwi-01/commands";
    assert_eq!(
        send(&relay, &key, "POST", path, &ping).problem().2,
        "expected the permission `diagnose` on robot kiwi-01, API key \"ci\" of ada has read, stop on robot:kiwi-01 until "
            .to_owned()
            + listed(&relay, &ada)["keys"][0]["expires_at"].as_str().expect("a time")
    );

    // What only people may, and other keys.
    let password = json!({ "current": PASSWORD, "new": "another long enough one" });
    for (method, path, body) in [
        ("GET", "/api/v1/keys", json!({})),
        ("POST", "/api/v1/keys", wish(json!(["read"]), "fleet")),
        ("PUT", "/api/v1/me/password", password),
        ("GET", "/api/v1/me/sessions", json!({})),
        ("DELETE", "/api/v1/session", json!({})),
        ("GET", "/api/v1/people", json!({})),
        ("DELETE", "/api/v1/robots/kiwi-01/loans/bob", json!({})),
    ] {
        let (status, slug, detail) = send(&relay, &key, method, path, &body).problem();
        assert_eq!(
            (status, &*slug),
            (403, "session-required"),
            "{method} {path}"
        );
        assert_eq!(
            detail,
            "expected the session of a person, got API key \"ci\" of ada"
        );
    }
    let (_, other) = create(&relay, &ada, &wish(json!(["read"]), "fleet"));
    let other = format!("/api/v1/keys/{other}");
    assert_eq!(
        relay.curl_as(&key, &other, &["-X", "DELETE"]).problem().1,
        "key-unknown"
    );

    // Not what is cut, not in a cookie, not what is no key at all.
    for (shown, expected) in [
        (
            &key[..50],
            "expected an API key as it was told, got one that is cut or mistyped",
        ),
        (
            &*ada,
            "expected an API key as it was told, got one that is cut or mistyped",
        ),
        (
            "lka_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwdLsG-O",
            "expected an API key that works, got one that ended, was revoked, or never was",
        ),
    ] {
        let header = format!("X-API-Key: {shown}");
        let (status, slug, detail) = relay.curl("/api/v1/me", &["-H", &header]).problem();
        assert_eq!(
            (status, &*slug, &*detail),
            (401, "login-required", expected)
        );
    }
    let cookie = format!("Cookie: __Host-lekiwi={key}");
    assert_eq!(relay.curl("/api/v1/me", &["-H", &cookie]).status, 401);

    // Its owner loses what it has, and then everything: at once.
    let none = json!({ "roles": [] });
    let answer = send(&relay, &admin, "PATCH", "/api/v1/people/ada", &none);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(stop("kiwi-01").problem().1, "robot-unknown");
    let disabled = json!({ "disabled": true });
    send(&relay, &admin, "PATCH", "/api/v1/people/ada", &disabled);
    assert_eq!(by_header("/api/v1/me", &[]).status, 401);
    assert!(!relay.log().contains(&key), "the key is in the log");
}

fn listed(relay: &Relay, session: &str) -> Value {
    relay.curl_as(session, "/api/v1/keys", &[]).json()
}

#[test]
fn keys_are_rotated_revoked_and_listed() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let ada = add(
        &relay,
        &admin,
        "ada",
        json!([{ "role": "operator", "on": "fleet" }]),
    );
    let wish = json!({ "name": "ci", "note": "nightly", "permissions": ["read"], "on": "fleet", "lifetime_s": 3600 });
    let (first, id) = create(&relay, &ada, &wish);
    let rotate = format!("/api/v1/keys/{id}/rotate");
    let turn = |who: &str, body: Value| send(&relay, who, "POST", &rotate, &body);
    let works = |key: &str| relay.curl_as(key, "/api/v1/me", &[]).status == 200;

    // The program does it by itself; both work until the older one is over.
    let turned = turn(&first, json!({})).json();
    let second = turned["key"].as_str().expect("a key").to_owned();
    assert!(turned["info"]["old_until"].is_string(), "{turned}");
    assert!(works(&first) && works(&second));
    // Its owner ends the older one at once.
    let turned = turn(&ada, json!({ "overlap_s": 0 })).json();
    let third = turned["key"].as_str().expect("a key").to_owned();
    assert!(!works(&first) && !works(&second) && works(&third));
    assert_eq!(
        turn(&ada, json!({ "overlap_s": 604_801 })).problem().1,
        "invalid-body"
    );
    // Who manages sees and ends it, and never gets one.
    assert_eq!(turn(&admin, json!({})).problem().1, "key-unknown");

    let keys = listed(&relay, &ada)["keys"].clone();
    assert_eq!(keys.as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&keys[0]["name"], &keys[0]["note"]),
        (&json!("ci"), &json!("nightly"))
    );
    assert!(keys[0]["used_at"].is_string(), "{keys}");
    assert_eq!(listed(&relay, &admin)["keys"], json!([]));
    let of_ada = relay.curl_as(&admin, "/api/v1/people/ada/keys", &[]).json();
    assert_eq!(of_ada["keys"], keys);
    // After a restart it is as it was, the use included.
    let (_, data) = relay.stop();
    let relay = Relay::start_in(data);
    let works = |key: &str| relay.curl_as(key, "/api/v1/me", &[]).status == 200;
    assert_eq!(listed(&relay, &ada)["keys"], keys);
    assert!(works(&third) && !works(&second));
    let path = format!("/api/v1/keys/{id}");
    assert_eq!(relay.curl_as(&admin, &path, &["-X", "DELETE"]).status, 204);
    assert!(!works(&third));
    assert_eq!(
        relay.curl_as(&ada, &path, &["-X", "DELETE"]).problem().2,
        format!("there is no key {id:?} that is yours")
    );
    // Whoever finds a key can end it.
    let (found, id) = create(&relay, &ada, &wish);
    let path = format!("/api/v1/keys/{id}");
    assert_eq!(relay.curl_as(&found, &path, &["-X", "DELETE"]).status, 204);
    assert!(!works(&found));
    // The database has none of them.
    let (_, data) = relay.stop();
    for file in std::fs::read_dir(data.path().join("data")).expect("a folder") {
        let file = file.expect("a file").path();
        let Ok(bytes) = std::fs::read(&file) else {
            continue;
        };
        for key in [&first, &second, &third, &found] {
            let is_in = bytes.windows(key.len()).any(|part| part == key.as_bytes());
            assert!(!is_in, "a key is in {}", file.display());
        }
    }
}

#[test]
fn live_streams_end_with_their_key() {
    let relay = Relay::start();
    let admin = relay.log_in();
    enrol(&relay, &admin, &["kiwi-01"]);
    let wish = json!({ "name": "wall", "permissions": ["read"], "on": "fleet" });
    let (key, id) = create(&relay, &admin, &wish);
    let stream = listen(&relay, &key, "?topic=robot.*", "x: y");
    wait_for("the stream", || {
        stream.text().contains(": listening").then_some(())
    });
    let mut socket = connect(&relay, &key, "lekiwi.v1.json", "");
    assert!(!stream.has_ended());
    let path = format!("/api/v1/keys/{id}");
    assert_eq!(relay.curl_as(&admin, &path, &["-X", "DELETE"]).status, 204);
    let end = loop {
        match socket.read() {
            Ok(tungstenite::Message::Close(Some(frame))) => break frame.reason.to_string(),
            Ok(_) => {}
            Err(error) => panic!("expected a farewell, got {error}"),
        }
    };
    assert_eq!(end, "the session or the relay ended");
    wait_for("the stream's end", || stream.has_ended().then_some(()));
}
