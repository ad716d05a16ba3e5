//! `lekiwi identity …` as a person runs it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use support::{Canned, JSON, Relay, SESSION, check, lekiwi, login};

fn relay(line: &str) -> Canned {
    match line {
        "POST /api/v1/session" => SESSION,
        "GET /api/v1/identities?all=true&name=kiwi-01" => (
            200,
            JSON,
            r#"{"identities":[{"serial":"5c1f","name":"kiwi-01","kind":"robot","state":"unused","not_before":"2026-11-21T12:00:00.000Z","not_after":"2027-02-19T12:00:00.000Z","renews":"4a2b"}]}"#,
        ),
        "POST /api/v1/identities/4a2b/revoke" => (200, JSON, r#"{"serials":["4a2b","5c1f"]}"#),
        _ => (
            404,
            "application/problem+json",
            r#"{"type":"urn:lekiwi:problem:identity-unknown","title":"Unknown certificate","status":404,"detail":"expected the serial of a certificate of this relay, got \"ff\""}"#,
        ),
    }
}

#[test]
fn an_administrator_takes_a_certificate_back() {
    let relay = Relay::start(relay);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    login(home, &relay);
    let run = |line: &str| lekiwi(home, &line.split(' ').collect::<Vec<_>>(), "");

    let list = run("identity list kiwi-01 --all");
    let said = String::from_utf8_lossy(&list.stdout).into_owned();
    let row = said.lines().last().unwrap();
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(
        cells,
        ["kiwi-01", "5c1f", "unused", "2027-02-19T12:00:00.000Z"],
        "{said}"
    );
    // As openssl prints it.
    check(
        &run("identity revoke 4A:2B"),
        0,
        "revoked: 4a2b, 5c1f\n",
        "",
    );
    assert_eq!(run("identity revoke ff").status.code(), Some(4));
    assert_eq!(run("identity revoke ../x").status.code(), Some(2));
    assert_eq!(run("identity list a&b").status.code(), Some(2));
    assert!(
        !relay
            .requests()
            .iter()
            .any(|it| it.contains("a&b") || it.contains("../x"))
    );
}
