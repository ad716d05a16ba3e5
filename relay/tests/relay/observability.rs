//! How the relay is, as those who watch it see it: `/ready`, `/connections`, `/metrics`.

use std::process::{Child, Stdio};
use std::time::Duration;

use crate::common::{Answer, Relay, command, curl_command, wait_for};
use crate::port;
use crate::standing::{consumer, enrol};
use serde_json::{Value, json};

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_relay_that_starts_says_what_is_missing() {
    let relay = Relay::start();
    let ready = relay.curl("/ready", &[]);
    assert_eq!(ready.json(), json!({ "ready": true, "missing": [] }));
    let (ca, data) = (relay.ca(), relay.data_folder());
    let (_, folder) = relay.stop();

    // Whoever has the file alone keeps the relay from opening it.
    let other = rusqlite::Connection::open(data.join("relay.db")).expect("the store");
    let hold = "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE";
    other.execute_batch(hold).expect("nobody else has it");
    let https = format!("127.0.0.1:{}", port::free());
    let child = command()
        .args([
            "run",
            "--https",
            &https,
            "--mqtt",
            "127.0.0.1:0",
            "--relay-id",
            "r1",
            "--data",
        ])
        .arg(&data)
        .stderr(Stdio::null())
        .spawn()
        .expect("the relay starts");
    let _ended = Ended(child);
    let ask = |path: &str| {
        let answer = curl_command(&ca, &format!("https://{https}{path}"), &[]);
        let output = { answer }
            .output()
            .expect("curl is installed (apt-get install curl)");
        output.status.success().then(|| Answer::read(output))
    };
    let missing = [
        "the store is not open yet",
        "the picture of the fleet is not read yet",
        "the broker does not listen yet",
    ];
    let early = wait_for("an answer", || ask("/ready"));
    assert_eq!(early.status, 503);
    assert_eq!(early.json(), json!({ "ready": false, "missing": missing }));
    let health = ask("/health").expect("it answers");
    assert_eq!(
        (health.status, &health.json()["status"]),
        (503, &json!("degraded"))
    );
    assert_eq!(health.json()["problems"], json!(missing));
    let login = ask("/login").expect("it answers");
    assert_eq!(login.header("retry-after"), Some("1"));
    assert_eq!(
        login.problem(),
        (
            503,
            "starting".to_owned(),
            "the relay is starting".to_owned()
        )
    );

    drop(other);
    wait_for("the relay", || {
        ask("/ready").filter(|ready| ready.status == 200)
    });
    assert_eq!(ask("/login").expect("it answers").status, 200);
    drop(folder);
}

#[test]
fn a_slow_store_is_said_without_what_it_was_told() {
    let relay = Relay::start();
    let session = relay.log_in();
    let file = relay.data_folder().join("relay.db");
    let other = rusqlite::Connection::open(file).expect("the store");
    other.execute_batch("BEGIN IMMEDIATE").expect("a turn");
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            let body = r#"{"robot_id":"kiwi-77"}"#;
            let json = "content-type: application/json";
            relay.curl_as(&session, "/api/v1/tokens", &["-H", json, "-d", body])
        });
        // So long it has to wait.
        std::thread::sleep(Duration::from_millis(1_500));
        other.execute_batch("COMMIT").expect("nothing was written");
        assert_eq!(made.join().expect("an answer").status, 201);
    });
    let metrics = relay.curl_as(&session, "/metrics", &[]).body;
    assert!(
        metrics.contains("\nlekiwi_store_slow_total{work=\"write\"} 1\n"),
        "{metrics}"
    );
    let log = relay.log();
    let line = log
        .lines()
        .find(|line| line.contains("the store was slow to write"));
    let line = line.unwrap_or_else(|| panic!("expected a line of it in {log}"));
    assert!(line.contains("jobs=1 took_ms="), "{line}");
    assert!(!log.contains("kiwi-77"), "{log}");
}

#[test]
fn connections_come_a_page_at_a_time() {
    let relay = Relay::start();
    let session = relay.log_in();
    let list = |query: &str| relay.curl_as(&session, &format!("/connections{query}"), &[]);
    assert_eq!(list("").json(), json!({ "connections": [], "total": 0 }));

    let bearer = format!("authorization: Bearer {session}");
    let url = format!("https://{}/api/v1/stream", relay.https);
    let listen = || {
        let options = ["-N", "-H", &bearer, "--max-time", "60"];
        let mut curl = curl_command(&relay.ca(), &url, &options);
        Ended(curl.stdout(Stdio::null()).spawn().expect("curl"))
    };
    let streams = [listen(), listen(), listen()];
    wait_for("three streams", || {
        (list("").json()["total"] == 3).then_some(())
    });
    let ids = |page: &Value| {
        let views = page["connections"].as_array().expect("connections").clone();
        views
            .iter()
            .map(|view| view["id"].clone())
            .collect::<Vec<_>>()
    };
    let first = list("?limit=2").json();
    assert_eq!(ids(&first), ["live:1", "live:2"]);
    assert_eq!(
        (&first["total"], &first["next"]),
        (&json!(3), &json!("live:2"))
    );
    let view = &first["connections"][0];
    assert_eq!(
        (&view["kind"], &view["user"], &view["received"]),
        (&json!("live"), &json!("admin"), &json!(0))
    );
    let last = list("?limit=2&after=live:2").json();
    assert_eq!(
        (ids(&last), last.get("next")),
        (vec![json!("live:3")], None)
    );

    // What a stream is told is counted.
    enrol(&relay, "kiwi-01", "kiwi-01", &relay.token(&[]), "");
    wait_for("the event on a stream", || {
        let sent = list("").json()["connections"][0]["sent"].clone();
        (sent.as_u64()? > 0).then_some(())
    });
    drop(streams);
    wait_for("no streams", || {
        (list("").json()["total"] == 0).then_some(())
    });

    let refused = |query: &str| list(query).problem();
    let (status, slug, detail) = refused("?limit=0");
    assert_eq!((status, &*slug), (400, "invalid-query"));
    assert_eq!(
        detail,
        "expected limit to be a whole number of 1 to 1000, got \"0\""
    );
}

#[test]
fn metrics_are_for_people_and_consumers_in_the_format_that_they_ask_for() {
    let relay = Relay::start();
    let session = relay.log_in();
    consumer(&relay, &session);
    enrol(&relay, "kiwi-01", "robot", &relay.token(&[]), "");
    let with = |name: &str, path: &str| {
        let at = |ending: &str| {
            let file = relay.data.path().join(format!("{name}.{ending}"));
            file.to_str().expect("text").to_owned()
        };
        relay.curl(path, &["--cert", &at("pem"), "--key", &at("key")])
    };
    // An enrolment is counted once it is in the log, a moment after its answer.
    let plain = wait_for("the robot to be counted", || {
        let plain = with("watcher", "/metrics");
        let counted = "lekiwi_robots_registered_total 1\n";
        plain.body.contains(counted).then_some(plain)
    });
    assert_eq!(plain.status, 200, "{}", plain.body);
    assert_eq!(
        plain.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    for line in [
        "# TYPE lekiwi_messages_total counter",
        "lekiwi_messages_total{kind=\"heartbeat\"} 0",
        "lekiwi_robots_known 1",
        "lekiwi_robots_registered_total 1",
    ] {
        assert!(
            plain.body.lines().any(|l| l == line),
            "{line}: {}",
            plain.body
        );
    }
    let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let open = relay.curl_as(&session, "/metrics", &["-H", accept]);
    let kind = open.header("content-type").expect("a type");
    assert!(
        kind.starts_with("application/openmetrics-text; version=1.0.0"),
        "{kind}"
    );
    assert!(
        open.body.contains("# TYPE lekiwi_messages counter\n"),
        "{}",
        open.body
    );
    assert!(open.body.trim_end().ends_with("# EOF"), "{}", open.body);

    // The certificate is good for nothing else, and no robot's is good for this.
    for refused in [with("watcher", "/connections"), with("robot", "/metrics")] {
        let (status, slug, _) = refused.problem();
        assert_eq!((status, &*slug), (401, "login-required"));
    }
}

#[test]
fn requests_are_measured_by_route_and_never_by_what_they_ask_for() {
    let relay = Relay::start();
    let session = relay.log_in();
    for path in [
        "/api/v1/robots/kiwi-98",
        "/api/v1/robots/kiwi-99",
        "/secret/kiwi-97",
    ] {
        assert_eq!(relay.curl_as(&session, path, &[]).status, 404);
    }
    assert_eq!(
        relay
            .curl_as(&session, "/api/v1/robots", &["-X", "DELETE"])
            .status,
        405
    );
    let metrics = relay.curl_as(&session, "/metrics", &[]).body;
    for (labels, count) in [
        (
            "method=\"GET\",route=\"/api/v1/robots/{id}\",status=\"4xx\"",
            2,
        ),
        ("method=\"other\",route=\"other\",status=\"4xx\"", 2),
        (
            "method=\"POST\",route=\"/api/v1/session\",status=\"2xx\"",
            1,
        ),
    ] {
        let line = format!("lekiwi_http_request_duration_seconds_count{{{labels}}} {count}");
        assert!(metrics.lines().any(|l| l == line), "{line}: {metrics}");
    }
    assert!(!metrics.contains("kiwi-9"), "{metrics}");
}
