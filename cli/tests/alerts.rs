//! `lekiwi alerts …` as a person runs it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use support::{Canned, JSON, Relay, SESSION, check, lekiwi, login};

fn relay(line: &str) -> Canned {
    match line {
        "POST /api/v1/session" => SESSION,
        "GET /api/v1/alerts?state=firing&limit=100&robot=kiwi-01&severity=warning" => (
            200,
            JSON,
            r#"{"alerts":[],"firing":3,"now":"2026-11-21T12:00:00.000Z"}"#,
        ),
        "POST /api/v1/alerts/hot:kiwi-01:7/acknowledge" => (
            200,
            JSON,
            r#"{"id":"hot:kiwi-01:7","rule":"hot","robot_id":"kiwi-01","severity":"critical","summary":"Too hot","reason":"temperature_c is 90, above 80","state":"firing","since":"2026-11-21T12:00:00.000Z"}"#,
        ),
        "POST /api/v1/alert-silences" => (
            201,
            JSON,
            r#"{"id":"67e55044-10b1-426f-9247-bb680e5fe0c8","matchers":{"robots":["lab-*"]},"since":"2026-11-21T12:00:00.000Z","until":"2026-11-21T14:00:00.000Z","by":"admin","comment":""}"#,
        ),
        "PUT /api/v1/alert-rules/hot" => (
            200,
            JSON,
            r#"{"origin":"interface","rule":{"id":"hot","summary":"Too hot","when":{"state":{"is":"offline"}}}}"#,
        ),
        _ => (
            404,
            "application/problem+json",
            r#"{"type":"urn:lekiwi:problem:alert-rule-unknown","title":"Unknown alert rule","status":404,"detail":"there is no rule \"cold\""}"#,
        ),
    }
}

#[test]
fn an_operator_looks_after_alerts() {
    let relay = Relay::start(relay);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    login(home, &relay);
    let run = |line: &str| lekiwi(home, &line.split(' ').collect::<Vec<_>>(), "");
    let last = || relay.requests().pop().unwrap();

    let list = run("alerts list --robot kiwi-01 --severity warning");
    check(&list, 0, "nothing fires\n", "");
    let said = "acknowledged hot:kiwi-01:7  temperature_c is 90, above 80\n";
    check(&run("alerts ack hot:kiwi-01:7 --comment mine"), 0, said, "");
    assert!(last().ends_with(r#"{"comment":"mine"}"#), "{}", last());
    let wrong = "error: expected an alert such as hot:kiwi-01:1795233120007, got \"../robots\"\n  (hint: `lekiwi alerts list` names them)\n";
    check(&run("alerts ack ../robots"), 1, "", wrong);
    let said = "67e55044-10b1-426f-9247-bb680e5fe0c8  robots lab-* until 2026-11-21T14:00:00.000Z, by admin\n";
    check(&run("alerts silence --robot lab-* --for 2h"), 0, said, "");
    let sent = r#"{"matchers":{"robots":["lab-*"]},"duration_s":7200}"#;
    assert!(last().ends_with(sent), "{}", last());
    let gone = "error: there is no rule \"cold\"\n";
    check(&run("alerts remove-rule cold"), 4, "", gone);
}

#[test]
fn a_rule_is_read_from_a_file() {
    let relay = Relay::start(relay);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    login(home, &relay);
    let path = home.join("hot.yml");
    let shown = path.to_str().unwrap();
    std::fs::write(
        &path,
        "id: hot\nsummary: Too hot\nwhen: {state: {is: offline}}\n",
    )
    .unwrap();
    let set = || lekiwi(home, &["alerts", "set-rule", shown], "");
    check(&set(), 0, "rule hot is in force\n", "");
    let sent = r#"{"id":"hot","summary":"Too hot","severity":"warning","when":{"state":{"is":"offline"}},"for_s":0,"enabled":true}"#;
    let last = relay.requests().pop().unwrap();
    assert!(last.ends_with(sent), "{last}");
    std::fs::write(&path, "id: hot\nsumary: Too hot\n").unwrap();
    let wrong = format!(
        "error: unknown key \"sumary\" at {shown}:2:1, expected one of id, summary, severity, when, for_s, robots, profiles, enabled\n  (hint: did you mean \"summary\"?)\n"
    );
    check(&set(), 1, "", &wrong);
}
