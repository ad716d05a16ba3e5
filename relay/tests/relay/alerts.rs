//! Alerts of the real program: a robot speaks with `mosquitto_pub`, receivers are a real HTTP server and a real
//! mail server, and the relay is killed in between.

mod receivers;

use std::fs;

use self::receivers::{Hook, Mail};
use crate::common::{Relay, openssl, wait_for};
use crate::gateway::{self, events};
use crate::secrets;
use crate::standing::{self, Follower, client, follow};
use serde_json::{Value, json};

const JSON: &str = "content-type: application/json";
const KEY: &str = "a key of the webhook that nobody sees";

/// A relay that has this below `alerts` in its configuration.
fn relay(alerts: &str) -> Relay {
    let data = tempfile::tempdir().expect("a temporary folder");
    secrets::keep("the key of a webhook", KEY);
    secrets::keep("the password of a mail server", "a mail password");
    fs::write(data.path().join("hook.key"), format!("{KEY}\n")).expect("a file");
    fs::write(data.path().join("smtp.password"), "a mail password\n").expect("a file");
    let folder = data.path().join("data");
    fs::create_dir(&folder).expect("a folder");
    let alerts = alerts.replace("FOLDER", data.path().to_str().expect("text"));
    fs::write(
        folder.join("relay.yml"),
        format!("version: 1\nalerts:\n{alerts}"),
    )
    .expect("a file");
    Relay::start_in(data)
}

fn enrol(relay: &Relay, robot: &str) {
    let token = relay.token(&["--profile", "lekiwi"]);
    standing::enrol(relay, robot, robot, &token, "");
}

fn temperature(relay: &Relay, robot: &str, value: f64) {
    let message = json!({
        "type": "telemetry", "robot_id": robot, "timestamp": "2026-11-21T03:52:00.000Z", "sequence": 0,
        "payload": { "metrics": { "temperature_c": value, "cpu_percent": 1.0 } },
    });
    let topic = format!("fleet/v1/default/robots/{robot}/from/telemetry");
    let sent = client(relay, "mosquitto_pub", robot, robot)
        .args(["-q", "1", "-t", &topic, "-m", &message.to_string()])
        .output()
        .expect("mosquitto_pub is installed (apt-get install mosquitto-clients)");
    assert!(
        sent.status.success(),
        "{}",
        String::from_utf8_lossy(&sent.stderr)
    );
}

/// A consumer that listens to alerts.
fn listen(relay: &Relay, session: &str) -> Follower {
    if !relay.data.path().join("watcher.pem").exists() {
        standing::consumer(relay, session);
    }
    follow(
        relay,
        "consumer:watcher",
        "watcher",
        "fleet/v1/default/alerts/#",
    )
}

/// How many events of this type the log has.
fn logged(relay: &Relay, kind: &str) -> u64 {
    let path = relay.data_folder().join("relay.db");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let store = rusqlite::Connection::open_with_flags(path, flags).expect("the store");
    let count = "SELECT count(*) FROM events WHERE type = ?1";
    let count = store.query_row(count, [kind], |row| row.get::<_, i64>(0));
    count.expect("a number").unsigned_abs()
}

fn alerts(relay: &Relay, session: &str, query: &str) -> Vec<Value> {
    let answer = relay.curl_as(session, &format!("/api/v1/alerts{query}"), &[]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["alerts"].as_array().expect("a list").clone()
}

fn history(relay: &Relay, session: &str, query: &str) -> Vec<Value> {
    let answer = relay.curl_as(session, &format!("/api/v1/alerts/history{query}"), &[]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["entries"].as_array().expect("a list").clone()
}

const HOT: &str = "  defaults: false
  rules: [{id: hot, summary: Too hot, severity: critical, when: {threshold: {metric: temperature_c, above: 80, until: 75}}}]
";

#[test]
fn an_alert_is_told_until_somebody_has_it_and_outlives_the_relay() {
    let hook = Hook::start(&[500, 204]);
    let relay = relay(&format!(
        "{HOT}  receivers: [{{name: ops, webhook: {{url: '{}', local: true, key: {{file: FOLDER/hook.key}}}}, group_wait_s: 0}}]\n",
        hook.url
    ));
    let session = relay.log_in();
    let listener = listen(&relay, &session);
    enrol(&relay, "kiwi-01");
    temperature(&relay, "kiwi-01", 90.5);

    // Told by HTTP; the first attempt failed, and the second is the same message.
    let second = {
        hook.wait("the first attempt", |_| true);
        wait_for("the second attempt", || (hook.count() == 2).then_some(()));
        hook.wait("the second attempt", |_| true)
    };
    let first = hook.came.lock().expect("no panic")[0].clone();
    assert_eq!(
        first.header("lekiwi-delivery"),
        second.header("lekiwi-delivery")
    );
    let told = second.json();
    assert_eq!(told["id"], second.header("lekiwi-delivery"));
    assert_eq!(
        (&told["receiver"], &told["rule"], &told["relay"]),
        (&json!("ops"), &json!("hot"), &json!("r1"))
    );
    assert_eq!(
        told["firing"][0]["reason"],
        "temperature_c is 90.5, above 80"
    );
    for came in [&first, &second] {
        let signed = format!("{}.{}", came.header("lekiwi-timestamp"), came.body);
        let digest = openssl(&["dgst", "-sha256", "-hmac", KEY], &signed);
        let digest = digest.trim().rsplit(' ').next().expect("a digest");
        assert_eq!(came.header("lekiwi-signature"), format!("v1={digest}"));
    }

    // And by MQTT, retained.
    let firing = alerts(&relay, &session, "");
    let id = firing[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!((firing.len(), &firing[0]["state"]), (1, &json!("firing")));
    listener.wait(&format!("heard fleet/v1/default/alerts/{id} 0 {{"));
    let later = listen(&relay, &session);
    later.wait(&format!("heard fleet/v1/default/alerts/{id} 1 {{"));

    let path = format!("/api/v1/alerts/{id}/acknowledge");
    let body = r#"{"comment":"on my way"}"#;
    let answer = relay.curl_as(&session, &path, &["-H", JSON, "-d", body]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["acknowledged"]["by"], "admin");
    wait_for("the log to have that it was told", || {
        (logged(&relay, "alert.notified") == 1).then_some(())
    });

    // Killed and started again, everything is as it was, and nobody is told anew.
    let password = relay.password();
    let relay = Relay::start_in(relay.kill());
    let session = relay.log_in();
    let again = alerts(&relay, &session, "");
    assert_eq!(again[0]["id"], id.as_str());
    assert_eq!(again[0]["acknowledged"]["comment"], "on my way");
    let listener = listen(&relay, &session);
    listener.wait(&format!("heard fleet/v1/default/alerts/{id} 1 {{"));
    temperature(&relay, "kiwi-01", 76.0);
    temperature(&relay, "kiwi-01", 75.0);
    let over = hook.wait("the end", |came| came.json()["resolved"][0].is_object());
    assert_eq!(over.json()["resolved"][0]["id"], id.as_str());
    assert_eq!(hook.count(), 3, "{:?}", hook.came);
    listener.wait(&format!("heard fleet/v1/default/alerts/{id} 0 {{"));
    assert_eq!(alerts(&relay, &session, ""), [] as [Value; 0]);
    assert_eq!(
        alerts(&relay, &session, "?state=resolved&robot=kiwi-01")[0]["id"],
        id.as_str()
    );
    // The log has all of it, for who asks later and for who follows it from the start.
    let past = wait_for("the past", || {
        let all = history(&relay, &session, &format!("?alert={id}"));
        (all.len() == 5).then_some(all)
    });
    let mut kinds: Vec<&str> = past
        .iter()
        .filter_map(|entry| entry["type"].as_str())
        .collect();
    assert_eq!(
        (kinds[0], kinds[1], kinds[4]),
        ("alert.notified", "alert.resolved", "alert.firing")
    );
    kinds.sort_unstable();
    assert_eq!(
        kinds[..3],
        ["alert.acknowledged", "alert.firing", "alert.notified"]
    );
    let of = |kind: &str, name: &str| {
        let entry = past.iter().find(|entry| entry["type"] == kind);
        entry.map_or(Value::Null, |entry| entry[name].clone())
    };
    assert_eq!(of("alert.acknowledged", "by"), "admin");
    assert_eq!(of("alert.acknowledged", "comment"), "on my way");
    assert_eq!(
        of("alert.firing", "reason"),
        "temperature_c is 90.5, above 80"
    );
    assert_eq!(
        (&past[0]["receiver"], &past[0]["resolved"]),
        (&json!("ops"), &json!([id]))
    );
    for query in ["?robot=kiwi-01", "?rule=hot", ""] {
        assert_eq!(history(&relay, &session, query), past, "{query}");
    }
    assert_eq!(
        history(&relay, &session, "?robot=kiwi-02"),
        [] as [Value; 0]
    );
    let first = history(
        &relay,
        &session,
        &format!("?before={}", past[3]["position"]),
    );
    assert_eq!(first, past[4..]);
    for query in ["?robot=kiwi-01&from=0", "?topic=alert.*&from=0"] {
        let stream = gateway::listen(&relay, &session, query, "x: y");
        wait_for("alerts of the past, live", || {
            let told = events(&stream.text());
            let kinds = ["alert.firing", "alert.acknowledged", "alert.resolved"];
            let places = kinds.map(|kind| told.iter().position(|event| event.ends_with(kind)));
            (places.is_sorted() && places[0].is_some()).then_some(())
        });
    }
    let none = listen(&relay, &session);
    drop(listener);
    assert!(!none.said().contains("heard"), "nothing is kept");
    let error = relay
        .curl_as(&session, &path, &["-H", JSON, "-d", "{}"])
        .problem();
    assert_eq!((error.0, error.1.as_str()), (409, "alert-resolved"));
    for secret in [KEY, password.as_str()] {
        assert!(!relay.log().contains(secret), "no secret in the log");
    }
}

#[test]
fn mail_goes_out_by_a_server_that_is_believed_and_asks_for_a_password() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mail = Mail::start(folder.path());
    let pem = folder.path().join("smtp.pem");
    let relay = relay(&format!(
        "{HOT}  receivers:
    - name: mail
      email: {{server: 127.0.0.1, port: {}, user: relay, password: {{file: FOLDER/smtp.password}}, ca_file: '{}',
              from: 'Relay <relay@example.org>', to: [ops@example.org, night@example.org]}}
      group_wait_s: 1
",
        mail.port,
        pem.display()
    ));
    for robot in ["kiwi-01", "kiwi-02"] {
        enrol(&relay, robot);
    }
    for robot in ["kiwi-01", "kiwi-02"] {
        temperature(&relay, robot, 90.0);
    }
    let first = wait_for("a mail", || {
        fs::read_to_string(folder.path().join("mails/1.eml")).ok()
    });
    let line = |start: &str| {
        first
            .lines()
            .find_map(|line| line.strip_prefix(start))
            .map(str::trim)
    };
    assert_eq!(line("X-To: "), Some("ops@example.org,night@example.org"));
    assert_eq!(
        line("Subject: "),
        Some("[critical] 2 robots: Too hot (firing)"),
        "{first}"
    );
    assert!(
        first.contains("kiwi-02: temperature_c is 90, above 80"),
        "{first}"
    );
    temperature(&relay, "kiwi-01", 20.0);
    let second = wait_for("the end", || {
        fs::read_to_string(folder.path().join("mails/2.eml")).ok()
    });
    assert!(
        second.contains("Subject: [critical] kiwi-01: Too hot (resolved)"),
        "{second}"
    );
    assert!(!relay.log().contains("a mail password"));
}

#[test]
fn a_receiver_that_refuses_is_said_and_not_asked_again() {
    let hook = Hook::start(&[410]);
    let relay = relay(&format!(
        "{HOT}  receivers: [{{name: gone, webhook: {{url: '{}', local: true, key: {{file: FOLDER/hook.key}}}}, group_wait_s: 0}}]\n",
        hook.url
    ));
    enrol(&relay, "kiwi-01");
    temperature(&relay, "kiwi-01", 90.0);
    wait_for("the log to have it", || {
        (logged(&relay, "alert.undelivered") == 1).then_some(())
    });
    assert!(
        relay.log().contains("expected HTTP 2xx, got 410"),
        "it is said"
    );
    let session = relay.log_in();
    let metrics = relay.curl_as(&session, "/metrics", &[]).body;
    assert!(
        metrics.contains("lekiwi_alert_deliveries_total{result=\"refused\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("lekiwi_alerts_firing 1"), "{metrics}");
    assert_eq!(hook.count(), 1);
}

#[test]
fn a_configuration_without_its_secret_is_refused() {
    let data = tempfile::tempdir().expect("a temporary folder");
    fs::write(
        data.path().join("relay.yml"),
        "alerts: {receivers: [{name: ops, webhook: {url: 'https://example.org', key: {environment: NO_SUCH_KEY}}}]}\n",
    )
    .expect("a file");
    let output = crate::common::command()
        .args([
            "run",
            "--https",
            "127.0.0.1:0",
            "--mqtt",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(data.path())
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(78));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("expected a secret in the variable NO_SUCH_KEY, found none"),
        "{error}"
    );
}

#[test]
fn rules_and_silences_are_made_over_http_and_outlive_the_relay() {
    let relay = relay(HOT);
    let session = relay.log_in();
    enrol(&relay, "kiwi-01");
    let put = |relay: &Relay, session: &str, path: &str, body: &Value| {
        relay.curl_as(
            session,
            path,
            &["-X", "PUT", "-H", JSON, "-d", &body.to_string()],
        )
    };
    let rule = |id: &str, when: Value| json!({ "id": id, "summary": "x", "when": when });
    let state = |is: &str| json!({ "state": { "is": is } });
    for (method, path, body, expected) in [
        (
            "PUT",
            "/api/v1/alert-rules/a",
            rule("b", state("offline")),
            (
                422,
                "invalid-body",
                "expected id to be that of the path, got b",
            ),
        ),
        (
            "PUT",
            "/api/v1/alert-rules/a",
            rule("a", json!({ "threshold": { "metric": "m" } })),
            (
                422,
                "invalid-body",
                "expected exactly one of above and below",
            ),
        ),
        (
            "DELETE",
            "/api/v1/alert-rules/hot",
            json!(null),
            (
                409,
                "alert-rule-fixed",
                "expected a rule that was made over the interface, but hot is of origin configuration",
            ),
        ),
        (
            "DELETE",
            "/api/v1/alert-rules/none",
            json!(null),
            (404, "alert-rule-unknown", "there is no rule \"none\""),
        ),
        (
            "GET",
            "/api/v1/alerts/none",
            json!(null),
            (404, "alert-unknown", "there is no alert \"none\""),
        ),
        (
            "GET",
            "/api/v1/alerts/history?alert=hot",
            json!(null),
            (
                400,
                "invalid-query",
                "expected alert to be an alert's id: the rule, the robot and a time in ms, with colons between them, got \"hot\"",
            ),
        ),
        (
            "GET",
            "/api/v1/alerts?state=broken",
            json!(null),
            (
                400,
                "invalid-query",
                "expected state to be firing, resolved or pending, got \"broken\"",
            ),
        ),
        (
            "POST",
            "/api/v1/alert-silences",
            json!({ "matchers": {}, "duration_s": 5 }),
            (
                422,
                "invalid-body",
                "expected at least one of rules, robots and severity, got none",
            ),
        ),
        (
            "POST",
            "/api/v1/alert-silences",
            json!({ "matchers": { "robots": ["*"] }, "duration_s": 0 }),
            (
                422,
                "invalid-body",
                "expected duration_s to be 1 to 604800, got 0",
            ),
        ),
        (
            "DELETE",
            "/api/v1/alert-silences/none",
            json!(null),
            (
                404,
                "silence-unknown",
                "there is no silence \"none\" that has not ended",
            ),
        ),
    ] {
        let text = body.to_string();
        let mut options = vec!["-X", method];
        if !body.is_null() {
            options.extend(["-H", JSON, "-d", &text]);
        }
        let (status, slug, detail) = relay.curl_as(&session, path, &options).problem();
        assert_eq!(
            (status, slug.as_str(), detail.as_str()),
            expected,
            "{method} {path}"
        );
    }
    // What a robot said before the rule was there counts.
    temperature(&relay, "kiwi-01", 60.0);
    let warm = json!({ "threshold": { "metric": "temperature_c", "above": 50 } });
    let made = put(
        &relay,
        &session,
        "/api/v1/alert-rules/warm",
        &rule("warm", warm),
    );
    assert_eq!(
        (made.status, &made.json()["origin"]),
        (200, &json!("interface")),
        "{}",
        made.body
    );
    temperature(&relay, "kiwi-01", 61.0);
    wait_for("an alert", || alerts(&relay, &session, "?rule=warm").pop());
    let silence =
        json!({ "matchers": { "rules": ["w*"] }, "duration_s": 600, "comment": "summer" })
            .to_string();
    let made = relay.curl_as(
        &session,
        "/api/v1/alert-silences",
        &["-H", JSON, "-d", &silence],
    );
    assert_eq!(made.status, 201, "{}", made.body);
    let silence = made.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(
        alerts(&relay, &session, "")[0]["silenced_by"],
        silence.as_str()
    );

    let relay = Relay::start_in(relay.kill());
    let session = relay.log_in();
    assert_eq!(
        alerts(&relay, &session, "")[0]["silenced_by"],
        silence.as_str()
    );
    let ended = relay.curl_as(
        &session,
        &format!("/api/v1/alert-silences/{silence}"),
        &["-X", "DELETE"],
    );
    assert_eq!(ended.status, 204, "{}", ended.body);
    assert_eq!(alerts(&relay, &session, "")[0]["silenced_by"], Value::Null);
    // Its rule goes, and so does the alert.
    let removed = relay.curl_as(&session, "/api/v1/alert-rules/warm", &["-X", "DELETE"]);
    assert_eq!(removed.status, 204, "{}", removed.body);
    let over = wait_for("the end", || {
        alerts(&relay, &session, "?state=resolved").pop()
    });
    assert_eq!(over["resolution"], "the rule is gone, or switched off");
    let events = relay.curl_as(&session, "/api/v1/robots/kiwi-01", &[]);
    assert_eq!(events.status, 200, "an alert is no robot");
    assert_eq!(
        relay.curl_as(&session, "/api/v1/robots", &[]).json()["robots"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}
