//! `lekiwi bans …` as a person runs it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use support::{Canned, JSON, Relay, SESSION, check, lekiwi, login};

fn relay(line: &str) -> Canned {
    match line {
        "POST /api/v1/session" => SESSION,
        "GET /api/v1/bans" => (
            200,
            JSON,
            r#"{"bans":[{"who":"192.0.2.7","reason":"handshake","count":2,"until":"2026-11-21T12:02:00.000Z"}]}"#,
        ),
        "DELETE /api/v1/bans/192.0.2.7" => (204, JSON, ""),
        _ => (
            404,
            "application/problem+json",
            r#"{"type":"urn:lekiwi:problem:ban-unknown","title":"Unknown ban","status":404,"detail":"\"kiwi-01\" is not banned"}"#,
        ),
    }
}

#[test]
fn an_operator_lifts_a_ban() {
    let relay = Relay::start(relay);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    login(home, &relay);
    let run = |line: &str| lekiwi(home, &line.split(' ').collect::<Vec<_>>(), "");

    let list = run("bans");
    let said = String::from_utf8_lossy(&list.stdout).into_owned();
    let row = said.lines().last().unwrap();
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(
        cells,
        ["192.0.2.7", "handshake", "2", "2026-11-21T12:02:00.000Z"],
        "{said}"
    );
    check(
        &run("bans lift 192.0.2.7"),
        0,
        "192.0.2.7 may come again\n",
        "",
    );
    let asked = relay.requests().pop().unwrap();
    assert!(
        asked.starts_with("DELETE /api/v1/bans/192.0.2.7"),
        "{asked}"
    );
    let unknown = "error: \"kiwi-01\" is not banned\n";
    let refused = run("bans lift kiwi-01");
    assert_eq!(refused.status.code(), Some(4));
    assert!(
        String::from_utf8_lossy(&refused.stderr).starts_with(unknown),
        "{refused:?}"
    );
    let wrong = run("bans lift ../robots");
    assert_eq!(wrong.status.code(), Some(2));
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(
        said.contains("expected a client's id or an address such as 192.0.2.7"),
        "{said}"
    );
    // The relay was never asked.
    assert!(!relay.requests().iter().any(|it| it.contains("robots")));
}
