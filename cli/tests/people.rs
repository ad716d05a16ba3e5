//! Invitations and second factors on the command line, against a small relay of the tests' own.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use support::{Canned, JSON, Relay, SESSION, check, lekiwi, login};

const PROBLEM: &str = "application/problem+json";

fn answer(line: &str) -> Canned {
    match line {
        "POST /api/v1/session" => SESSION,
        "GET /api/v1/me" => (
            200,
            JSON,
            r#"{"name":"ada","rights":[],"has_second_factor":true,"recovery_codes":9}"#,
        ),
        "POST /api/v1/me/totp" => (
            200,
            JSON,
            r#"{"secret":"GEZDGNBV","uri":"otpauth://totp/Lekiwi%20default:ada?secret=GEZDGNBV"}"#,
        ),
        "POST /api/v1/me/totp/confirm" => (
            200,
            JSON,
            r#"{"recovery_codes":["aaaa-bbbb-cccc-dddd","eeee-ffff-gggg-hhhh"]}"#,
        ),
        "DELETE /api/v1/me/totp" | "DELETE /api/v1/people/ada/totp" => (204, JSON, ""),
        "POST /api/v1/invitations" => (
            201,
            JSON,
            r#"{"token":"lki_1","path":"/join?token=lki_1","invitation":{"id":"i1","name":"ada","roles":[],"by":"admin",
               "created_at":"2026-11-21T03:52:00.000Z","expires_at":"2026-11-23T03:52:00.000Z","state":"open"}}"#,
        ),
        "GET /api/v1/invitations" => (
            200,
            JSON,
            r#"{"invitations":[{"id":"i1","name":"ada","roles":[{"role":"operator","on":"fleet"}],"by":"admin",
               "created_at":"2026-11-21T03:52:00.000Z","expires_at":"2026-11-23T03:52:00.000Z","state":"revoked"}]}"#,
        ),
        "POST /api/v1/join" => (
            201,
            JSON,
            r#"{"name":"ada","session":{"token":"session-2","expires_at":"2126-11-21T16:00:00.000Z"}}"#,
        ),
        _ => (404, JSON, "{}"),
    }
}

#[test]
fn an_authenticator_is_set_up_and_ended() {
    let relay = Relay::start(answer);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    login(home, &relay);
    let told = format!(
        "Tell your authenticator this secret, or the address below (as a QR code at {}/second-factor):\n\n  GEZDGNBV\n  \
         otpauth://totp/Lekiwi%20default:ada?secret=GEZDGNBV\n\nThen say what it shows: lekiwi me totp --confirm CODE\n",
        relay.url
    );
    let begin = ["me", "totp", "--password-file", "-"];
    check(&lekiwi(home, &begin, "hunter2\n"), 0, &told, "");
    let confirm = lekiwi(home, &["me", "totp", "--confirm", "123456"], "");
    let codes = "It is set up. Each of these recovery codes lets you in once, when your authenticator is lost:\n\n  \
         aaaa-bbbb-cccc-dddd\n  eeee-ffff-gggg-hhhh\n\nKeep them where it is not; they are shown this once.\n";
    check(&confirm, 0, codes, "");
    let off = ["me", "totp", "--off", "--password-file", "-"];
    let ended = "your password alone logs you in from now on\n";
    check(&lekiwi(home, &off, "hunter2\n"), 0, ended, "");
    let reset = lekiwi(home, &["people", "reset-factor", "ada"], "");
    let ended = "ada logs in by their password alone; their sessions ended\n";
    check(&reset, 0, ended, "");
    let me = lekiwi(home, &["me"], "");
    let me = String::from_utf8(me.stdout).unwrap();
    let factor = "you are ada, and log in with a second factor (9 recovery codes are left)\n";
    assert!(me.starts_with(factor), "{me}");
    let requests = relay.requests();
    let sent = |body: &str| requests.iter().any(|request| request.ends_with(body));
    assert!(sent(r#"{"code":"123456"}"#), "{requests:?}");
    assert!(sent(r#"{"password":"hunter2"}"#), "{requests:?}");
}

#[test]
fn a_login_says_the_code_that_it_is_given() {
    let relay = Relay::start(|line| match line {
        "POST /api/v1/session" => (
            401,
            PROBLEM,
            r#"{"type":"urn:lekiwi:problem:second-factor-required","title":"Second factor required","status":401}"#,
        ),
        _ => (404, JSON, "{}"),
    });
    let folder = tempfile::tempdir().unwrap();
    let pin = ["--ca-fingerprint", &relay.fingerprint];
    let arguments = ["login", &relay.url, "--user", "ada", "--password-file", "-"];
    let with_code = [&arguments[..], &pin, &["--code", "123456"]].concat();
    // Nobody can be asked for one here.
    for arguments in [[&arguments[..], &pin].concat(), with_code] {
        let output = lekiwi(folder.path(), &arguments, "hunter2\n");
        check(&output, 1, "", "error: Second factor required\n");
    }
    let bodies: Vec<String> = relay.requests();
    let body = |n: usize| bodies[n].split_once("\r\n\r\n").unwrap().1;
    assert_eq!(body(0), r#"{"user":"ada","password":"hunter2"}"#);
    assert_eq!(
        body(1),
        r#"{"user":"ada","password":"hunter2","totp":"123456"}"#
    );
}

#[test]
fn somebody_is_invited_and_joins() {
    let relay = Relay::start(answer);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    login(home, &relay);
    let invite = ["invite", "ada", "--role", "operator", "--for", "2d"];
    let link = format!("{}/join?token=lki_1", relay.url);
    check(
        &lekiwi(home, &invite, ""),
        0,
        &format!("{link}\n"),
        "ada can join by this link until 2026-11-23T03:52:00.000Z\n",
    );
    let sent = relay.requests().pop().unwrap();
    let body = r#"{"name":"ada","roles":[{"role":"operator","on":"fleet"}],"lifetime_s":172800}"#;
    assert!(sent.ends_with(body), "{sent}");
    let list = lekiwi(home, &["invite"], "");
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(
        list.contains("operator on fleet") && list.contains("revoked"),
        "{list}"
    );

    let other = tempfile::tempdir().unwrap();
    let join = |link: &str| {
        let pin = ["--ca-fingerprint", &relay.fingerprint];
        let arguments = [&["join", link, "--password-file", "-"][..], &pin].concat();
        lekiwi(other.path(), &arguments, "a new one\n")
    };
    let joined = format!(
        "logged in to {}/ as ada until 2126-11-21T16:00:00.000Z\n",
        relay.url
    );
    check(&join(&link), 0, &joined, "");
    let sent = relay.requests().pop().unwrap();
    assert!(
        sent.ends_with(r#"{"token":"lki_1","password":"a new one"}"#),
        "{sent}"
    );
    let stored = other.path().join("lekiwi/credentials.json");
    let stored = std::fs::read_to_string(stored).unwrap();
    assert!(stored.contains("session-2"), "{stored}");
    let refused = "error: expected a link such as https://relay.example:8443/join?token=lki_…, got \"https://relay.example\"\n";
    check(&join("https://relay.example"), 1, "", refused);
}
