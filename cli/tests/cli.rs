//! The program as a person runs it, against a small relay of the test's own: real TLS, canned answers.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use support::{Canned, JSON, Relay, SESSION, check, lekiwi, login};

fn fleet(line: &str) -> Canned {
    match line {
        "POST /api/v1/session" => SESSION,
        "DELETE /api/v1/session" => (204, JSON, ""),
        "GET /api/v1/robots" => (
            200,
            JSON,
            r#"{"position":1,"now":"2026-11-21T04:00:10.000Z","robots":[{"id":"kiwi-01","type":"lekiwi","resources":{"cpu_percent":12.34},"status":{"online":true,"stale":false,"connection":"ONLINE","last_seen":"2026-11-21T04:00:07.000Z"}}]}"#,
        ),
        "GET /api/v1/robots?at=2026-11-21T03:00:10.000Z" => (
            200,
            JSON,
            r#"{"position":1,"now":"2026-11-21T04:00:10.000Z","robots":[{"id":"kiwi-01","type":"lekiwi","resources":{"cpu_percent":1},"status":{"online":false,"stale":false,"connection":"OFFLINE","last_seen":"2026-11-21T03:00:00.000Z"},"as_of":{"position":1}}]}"#,
        ),
        "POST /api/v1/robots/kiwi-01/approve" => (
            200,
            JSON,
            r#"{"id":"kiwi-01","type":"lekiwi","resources":{},"status":{"online":true,"stale":false,"connection":"ONLINE"},"registration":{"status":"registered","since":"2026-11-21T04:00:00.000Z","approved_by":"admin"}}"#,
        ),
        "POST /api/v1/robots/kiwi-01/reject" => (
            200,
            JSON,
            r#"{"id":"kiwi-01","type":"lekiwi","resources":{},"status":{"online":false,"stale":false,"connection":"OFFLINE"},"registration":{"status":"rejected","since":"2026-11-21T04:00:00.000Z","reason":"rejected by admin"}}"#,
        ),
        "GET /api/v1/robots/kiwi-01/events?limit=100" => (
            200,
            JSON,
            r#"{"events":[{"position":1,"aggregate_type":"robot","aggregate_id":"kiwi-01","source":"relay","stream":"67e55044-10b1-426f-9247-bb680e5fe0c8","seq":1,"type":"robot.connected","timestamp":"2026-11-21T04:00:00.000Z","data":{},"metadata":{}}]}"#,
        ),
        "GET /api/v1/robots/kiwi-01/telemetry?from=1795233120000&points=1000&metric=battery_v,load_1m&to=1795236720000&aggregate=min" => {
            (
                200,
                JSON,
                r#"{"resolution":"raw","step_ms":4000,"series":[{"metric":"battery_v","points":[[1795233120000,11.8],[1795233124000,11.75]]},{"metric":"load_1m","points":[]}]}"#,
            )
        }
        "GET /api/v1/robots/kiwi-01/telemetry?from=1795233120000&points=256&metric=battery_v" => (
            200,
            JSON,
            r#"{"resolution":"raw","series":[{"metric":"battery_v","points":[]}]}"#,
        ),
        "POST /api/v1/robots/kiwi-01/commands" => (
            202,
            JSON,
            r#"{"id":"67e55044-10b1-426f-9247-bb680e5fe0c8","robot_id":"kiwi-01","op":"restart_service","arguments":{"unit":"a.service"},"by":"admin","issued_at":"2026-11-21T04:00:00.000Z","expires_at":"2026-11-21T04:00:30.000Z","state":"pending","updated_at":"2026-11-21T04:00:00.000Z"}"#,
        ),
        "GET /api/v1/robots/kiwi-01/commands/67e55044-10b1-426f-9247-bb680e5fe0c8" => (
            200,
            JSON,
            r#"{"id":"67e55044-10b1-426f-9247-bb680e5fe0c8","robot_id":"kiwi-01","op":"restart_service","arguments":{"unit":"a.service"},"by":"admin","issued_at":"2026-11-21T04:00:00.000Z","expires_at":"2026-11-21T04:00:30.000Z","state":"failed","reason":"it broke","updated_at":"2026-11-21T04:00:02.000Z"}"#,
        ),
        "GET /api/v1/robots/kiwi-01/commands?limit=50" => (
            200,
            JSON,
            r#"{"commands":[{"id":"67e55044-10b1-426f-9247-bb680e5fe0c8","robot_id":"kiwi-01","op":"ping","by":"admin","issued_at":"2026-11-21T04:00:00.000Z","expires_at":"2026-11-21T04:00:30.000Z","state":"successful","result":{"version":"1.2.3","uptime_s":7},"updated_at":"2026-11-21T04:00:02.000Z"}]}"#,
        ),
        "POST /api/v1/robots/kiwi-01/estop" => (
            202,
            JSON,
            r#"{"id":"67e55044-10b1-426f-9247-bb680e5fe0c9","robot_id":"kiwi-01","op":"estop","by":"admin","issued_at":"2026-11-21T04:00:00.000Z","expires_at":"2026-11-21T04:01:00.000Z","state":"successful","result":{"listeners":1},"updated_at":"2026-11-21T04:00:02.000Z"}"#,
        ),
        "POST /api/v1/tokens" => (
            200,
            JSON,
            r#"{"token":"lkt_secret","info":{"id":"67e55044-10b1-426f-9247-bb680e5fe0c8","created_at":"2026-11-21T04:00:00.000Z","expires_at":"2026-11-21T06:00:00.000Z"}}"#,
        ),
        "POST /api/v1/consumers" => (
            200,
            JSON,
            r#"{"certificate_pem":"CERT\n","ca_pem":"CA\n","serial":"1f","expires_at":"2027-02-19T04:00:00.000Z","mqtt":"127.0.0.1:8883","filter":"fleet/v1/default/robots/+/from/#"}"#,
        ),
        "GET /api/v1/stream?robot=kiwi-01" => (
            200,
            "text/event-stream",
            ": listening\n\nevent: heartbeat\ndata: {\"type\":\"heartbeat\",\"robot_id\":\"kiwi-01\",\"timestamp\":\"2026-11-21T04:00:07.000Z\",\"sequence\":3,\"payload\":{\"uptime_s\":65}}\n\nevent: lagged\ndata: {\"dropped\":4}\n\nevent: heartbeat\ndata: no json\n\n",
        ),
        _ => (
            404,
            "application/problem+json",
            r#"{"type":"urn:lekiwi:problem:robot-unknown","title":"Unknown robot","status":404,"detail":"there is no robot kiwi-09","hint":"`lekiwi robots` lists them"}"#,
        ),
    }
}

#[test]
fn a_day_of_an_operator() {
    let relay = Relay::start(fleet);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    login(home, &relay);
    let stored = std::fs::metadata(home.join("lekiwi/credentials.json")).unwrap();
    assert_eq!(stored.permissions().mode() & 0o777, 0o600);
    assert!(
        relay.requests()[0].ends_with(r#"{"user":"admin","password":"hunter2"}"#),
        "{:?}",
        relay.requests()
    );

    let table = "ROBOT    STATUS  HEALTH  TYPE    CPU     MEMORY  TEMP  LAST SEEN\nkiwi-01  online  –       lekiwi  12.3 %  –       –     3 s ago\n";
    check(&lekiwi(home, &["robots"], ""), 0, table, "");
    assert!(
        relay.requests()[1]
            .to_ascii_lowercase()
            .contains("authorization: bearer session-1\r\n")
    );
    let then = "ROBOT    STATUS   HEALTH  TYPE    CPU    MEMORY  TEMP  LAST SEEN\nkiwi-01  offline  –       lekiwi  1.0 %  –       –     10 s ago\n";
    let at = ["robots", "--at", "2026-11-21T03:00:10Z"];
    check(&lekiwi(home, &at, ""), 0, then, "");
    let json = lekiwi(home, &["robots", "--json"], "");
    let list: lekiwi_protocol::api::RobotList = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(list.robots[0].id.as_str(), "kiwi-01");
    check(
        &lekiwi(home, &["events", "kiwi-01"], ""),
        0,
        "2026-11-21T04:00:00.000Z  kiwi-01  robot.connected\n",
        "",
    );
    let from = ["--from", "2026-11-21T03:52:00.000Z"];
    let csv = [
        &["telemetry", "kiwi-01", "battery_v", "load_1m"][..],
        &from,
        &[
            "--to",
            "2026-11-21T04:52:00.000Z",
            "--aggregate",
            "min",
            "--csv",
        ],
    ];
    check(
        &lekiwi(home, &csv.concat(), ""),
        0,
        "time,metric,value,lowest,highest\n2026-11-21T03:52:00.000Z,battery_v,11.8,,\n2026-11-21T03:52:04.000Z,battery_v,11.75,,\n",
        "",
    );
    let chart = lekiwi(
        home,
        &[&["telemetry", "kiwi-01", "battery_v"][..], &from].concat(),
        "",
    );
    let text = String::from_utf8_lossy(&chart.stdout);
    assert!(
        text.starts_with("battery_v  –  no values between 2026-11-21T03:52:00.000Z and "),
        "{text}"
    );
    check(
        &lekiwi(home, &["robot", "kiwi-09"], ""),
        4,
        "",
        "error: there is no robot kiwi-09\n  (hint: `lekiwi robots` lists them)\n",
    );
    check(
        &lekiwi(
            home,
            &["token", "create", "--robot", "kiwi-02", "--lifetime", "2h"],
            "",
        ),
        0,
        "lkt_secret\n",
        "good for one robot until 2026-11-21T06:00:00.000Z; shown only now (revoke it with `lekiwi token revoke 67e55044-10b1-426f-9247-bb680e5fe0c8`)\n",
    );
    assert!(
        relay
            .requests()
            .last()
            .unwrap()
            .ends_with(r#"{"robot_id":"kiwi-02","lifetime_s":7200}"#)
    );
    check(
        &lekiwi(home, &["approve", "kiwi-01", "--profile", "lekiwi"], ""),
        0,
        "kiwi-01 is registered as lekiwi, approved by admin\n",
        "",
    );
    let last = relay.requests().pop().unwrap();
    assert!(last.ends_with(r#"{"profile":"lekiwi"}"#), "{last}");
    check(
        &lekiwi(home, &["reject", "kiwi-01"], ""),
        0,
        "kiwi-01 is rejected: rejected by admin\n",
        "",
    );
    let command = [
        "command",
        "kiwi-01",
        "restart_service",
        "unit=a.service",
        "--expires",
        "30s",
    ];
    check(
        &lekiwi(home, &command, ""),
        0,
        "67e55044-10b1-426f-9247-bb680e5fe0c8  kiwi-01 restart_service  pending\n",
        "",
    );
    let last = relay.requests().pop().unwrap();
    assert!(
        last.ends_with(
            r#"{"op":"restart_service","arguments":{"unit":"a.service"},"expires_in_s":30}"#
        ),
        "{last}"
    );
    check(
        &lekiwi(home, &[&command[..], &["--wait"]].concat(), ""),
        1,
        "67e55044-10b1-426f-9247-bb680e5fe0c8  kiwi-01 restart_service  failed  it broke\n",
        "restart_service is sent to kiwi-01\nerror: restart_service of kiwi-01 failed: it broke\n",
    );
    check(
        &lekiwi(home, &["commands", "kiwi-01"], ""),
        0,
        "ID                                    ISSUED                    BY     COMMAND  STATE       OUTCOME\n67e55044-10b1-426f-9247-bb680e5fe0c8  2026-11-21T04:00:00.000Z  admin  ping     successful  uptime_s=7 version=1.2.3\n",
        "",
    );
    check(
        &lekiwi(home, &["estop", "--all"], ""),
        1,
        "",
        "error: expected somebody who can be asked, or --yes\n  (hint: add `--yes` to go on without a question)\n",
    );
    check(
        &lekiwi(home, &["estop", "--all", "--yes"], ""),
        0,
        "67e55044-10b1-426f-9247-bb680e5fe0c9  kiwi-01 estop  successful  listeners=1\n",
        "",
    );
    check(
        &lekiwi(home, &["watch", "kiwi-01"], ""),
        1,
        "04:00:07  kiwi-01  heartbeat     up for 1 min\n",
        "4 messages were left out: this terminal is too slow\nerror: expected live messages from the relay: expected ident at line 1 column 2\n  (hint: the relay may be of another version than this program)\n",
    );
    check(
        &lekiwi(home, &["logout"], ""),
        0,
        &format!("logged out of {}/\n", relay.url),
        "",
    );
    check(
        &lekiwi(home, &["robots"], ""),
        3,
        "",
        "error: not logged in\n  (hint: log in with `lekiwi login URL`)\n",
    );
}

#[test]
fn a_consumer_certificate_and_its_key() {
    let relay = Relay::start(fleet);
    let folder = tempfile::tempdir().unwrap();
    login(folder.path(), &relay);
    let out = folder.path().join("analytics");
    let shown = out.display().to_string();
    let arguments = ["consumer", "create", "analytics", "--out", &shown];
    check(
        &lekiwi(folder.path(), &arguments, ""),
        0,
        &format!(
            "mosquitto_sub -V 5 -h 127.0.0.1 -p 8883 --cafile {shown}/ca.pem --cert {shown}/cert.pem --key {shown}/key.pem -i consumer:analytics -t 'fleet/v1/default/robots/+/from/#' -v\n"
        ),
        &format!(
            "wrote key.pem, cert.pem and ca.pem to {shown}, good until 2027-02-19T04:00:00.000Z; follow the fleet with\n"
        ),
    );
    assert_eq!(
        std::fs::metadata(out.join("key.pem"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    assert_eq!(
        std::fs::read_to_string(out.join("cert.pem")).unwrap(),
        "CERT\n"
    );
    assert!(!relay.requests()[1].contains("PRIVATE KEY"));
    check(
        &lekiwi(folder.path(), &arguments, ""),
        1,
        "",
        &format!(
            "error: expected a folder without {shown}/key.pem, but it exists\n  (hint: name another folder with `--out`; keys are never overwritten)\n"
        ),
    );
}

#[test]
fn an_unknown_relay_is_not_believed() {
    let relay = Relay::start(fleet);
    let folder = tempfile::tempdir().unwrap();
    let (url, fingerprint) = (&relay.url, &relay.fingerprint);
    check(
        &lekiwi(
            folder.path(),
            &["login", url, "--password-file", "-"],
            "hunter2\n",
        ),
        5,
        "",
        &format!(
            "error: the relay's authority is not trusted yet; its fingerprint is {fingerprint}\n  (hint: compare it with what the relay prints when it starts, then add `--ca-fingerprint {fingerprint}`)\n"
        ),
    );
    let other = format!("sha256:{}", "00".repeat(32));
    check(
        &lekiwi(
            folder.path(),
            &[
                "login",
                url,
                "--password-file",
                "-",
                "--ca-fingerprint",
                &other,
            ],
            "hunter2\n",
        ),
        5,
        "",
        &format!(
            "error: expected a relay whose authority has fingerprint {other}, got {fingerprint}\n  (hint: if the relay got a new authority on purpose, log in again with its new fingerprint)\n"
        ),
    );
    assert_eq!(
        relay.requests(),
        Vec::<String>::new(),
        "nothing may be sent to a relay that is not believed"
    );
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let relay = Relay::start(fleet);
    let folder = tempfile::tempdir().unwrap();
    let url = relay.url.replace("127.0.0.1", "localhost");
    let output = lekiwi(
        folder.path(),
        &[
            "login",
            &url,
            "--password-file",
            "-",
            "--ca-fingerprint",
            &relay.fingerprint,
        ],
        "x\n",
    );
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{told}");
    assert!(told.contains("not valid for name \"localhost\""), "{told}");
    assert_eq!(relay.requests(), Vec::<String>::new());
}

#[test]
fn an_ended_session_and_a_wrong_password() {
    let relay = Relay::start(|line| match line {
        "GET /api/v1/robots" => (
            401,
            "application/problem+json",
            r#"{"type":"urn:lekiwi:problem:login-required","title":"Log in first","status":401}"#,
        ),
        "POST /api/v1/session" => (
            401,
            "application/problem+json",
            r#"{"type":"urn:lekiwi:problem:login-failed","title":"Login failed","status":401,"detail":"wrong user or password"}"#,
        ),
        _ => (502, "text/html", "<h1>\u{1b}[31mbad gateway</h1>"),
    });
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_lekiwi"))
            .args(arguments)
            .env_clear()
            .env("LEKIWI_URL", &relay.url)
            .env("LEKIWI_TOKEN", "t")
            .env("LEKIWI_CA_FINGERPRINT", &relay.fingerprint)
            .output()
            .unwrap()
    };
    check(
        &run(&["robots"]),
        3,
        "",
        "error: Log in first\n  (hint: log in with `lekiwi login URL`)\n",
    );
    check(
        &run(&["token", "list"]),
        1,
        "",
        "error: expected an answer of a Lekiwi relay, got HTTP 502 with \"<h1>\\u{1b}[31mbad gateway</h1>\"\n  (hint: is this the address of a Lekiwi relay?)\n",
    );
    let arguments = [
        "login",
        &relay.url,
        "--password-file",
        "-",
        "--ca-fingerprint",
        &relay.fingerprint,
    ];
    check(
        &lekiwi(folder.path(), &arguments, "wrong\n"),
        1,
        "",
        "error: wrong user or password\n",
    );
    check(
        &lekiwi(folder.path(), &arguments, "\n"),
        1,
        "",
        "error: expected a password, got an empty line\n",
    );
}

#[test]
fn nobody_listens_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let folder = tempfile::tempdir().unwrap();
    let output = lekiwi(
        folder.path(),
        &["login", &url, "--password-file", "-"],
        "x\n",
    );
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69));
    assert!(
        told.starts_with(&format!(
            "error: the relay at {url}/ could not be reached: "
        )),
        "{told}"
    );
    assert!(
        told.contains("Connection refused")
            && told.ends_with("(hint: is the relay running, and is the address right?)\n"),
        "{told}"
    );
}

#[test]
fn a_closed_pipe_is_quiet() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_lekiwi"))
        .args(["completions", "bash"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    check(&output, 0, "", "");
}
