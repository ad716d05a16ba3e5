//! The second factor of a login, with codes that `oathtool` makes; and invitations, as invited people use them.

use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Answer, Relay, command, wait_for};
use crate::secrets;

const JSON: &str = "content-type: application/json";
const PASSWORD: &str = "correct horse battery staple";
const OTHER: &str = "größer als äpfel im märz";

fn send(relay: &Relay, session: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    relay.curl_as(session, path, &["-X", method, "-H", JSON, "-d", &body])
}

fn add(relay: &Relay, admin: &str, name: &str, roles: &Value) -> String {
    let person = json!({ "name": name, "password": PASSWORD, "roles": roles });
    let answer = send(relay, admin, "POST", "/api/v1/people", &person);
    assert_eq!(answer.status, 201, "{}", answer.body);
    token(&log_in(relay, name, PASSWORD, None))
}

fn log_in(relay: &Relay, user: &str, password: &str, totp: Option<&str>) -> Answer {
    let mut login = json!({ "user": user, "password": password });
    if let Some(totp) = totp {
        login["totp"] = totp.into();
    }
    relay.curl("/api/v1/session", &["-H", JSON, "-d", &login.to_string()])
}

fn token(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["token"].as_str().expect("a token").to_owned()
}

fn slug(answer: &Answer) -> String {
    answer.problem().1
}

/// What an authenticator shows at `when`, as `date` understands it.
fn oathtool(secret: &str, when: &str) -> String {
    let output = Command::new("oathtool")
        .args(["--totp", "--base32", "--now", when, secret])
        .output()
        .expect("oathtool is installed (apt-get install oathtool)");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let code = String::from_utf8(output.stdout).expect("text");
    code.trim().to_owned()
}

/// Waits for a time after which the half minute does not change for a while.
fn settle() {
    wait_for("the next half minute", || {
        let output = Command::new("date").arg("+%s").output().ok()?;
        let now: u64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
        (now % 30 < 15).then_some(())
    });
}

/// Sets up an authenticator with the code of the half minute before: the secret, that code, and recovery codes.
fn set_up(relay: &Relay, session: &str) -> (String, String, Vec<String>) {
    let request = json!({ "password": PASSWORD });
    let begun = send(relay, session, "POST", "/api/v1/me/totp", &request);
    assert_eq!(begun.status, 200, "{}", begun.body);
    let secret = begun.json()["secret"].as_str().expect("text").to_owned();
    settle();
    let code = oathtool(&secret, "30 seconds ago");
    let shown = json!({ "code": code });
    let confirmed = send(relay, session, "POST", "/api/v1/me/totp/confirm", &shown);
    assert_eq!(confirmed.status, 200, "{}", confirmed.body);
    let codes = confirmed.json()["recovery_codes"].clone();
    let codes: Vec<String> = serde_json::from_value(codes).expect("texts");
    assert_eq!(codes.len(), 10);
    (secret, code, codes)
}

#[test]
fn a_login_takes_codes_of_an_authenticator_once_each() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let ada = add(&relay, &admin, "ada", &json!([]));
    let begin = |password: &str| {
        let request = json!({ "password": password });
        send(&relay, &ada, "POST", "/api/v1/me/totp", &request)
    };
    assert_eq!(slug(&begin(OTHER)), "login-failed");
    let begun = begin(PASSWORD).json();
    let uri = begun["uri"].as_str().expect("text");
    assert!(
        uri.starts_with("otpauth://totp/Lekiwi%20default:ada?secret="),
        "{uri}"
    );
    let wrong = json!({ "code": "hunter2" });
    let refused = send(&relay, &ada, "POST", "/api/v1/me/totp/confirm", &wrong);
    assert_eq!(slug(&refused), "second-factor-required");
    // Nothing has changed so far.
    let other = token(&log_in(&relay, "ada", PASSWORD, None));
    let (secret, first, codes) = set_up(&relay, &ada);
    assert_eq!(slug(&begin(PASSWORD)), "second-factor-exists");
    assert_eq!(
        slug(&relay.curl_as(&other, "/api/v1/me", &[])),
        "login-required"
    );
    let me = relay.curl_as(&ada, "/api/v1/me", &[]).json();
    assert_eq!(
        (&me["has_second_factor"], &me["recovery_codes"]),
        (&json!(true), &json!(10))
    );
    let person = relay.curl_as(&admin, "/api/v1/people/ada", &[]).json();
    assert_eq!(person["has_second_factor"], true);

    // Only who knows the password learns that there is a second factor.
    let now = oathtool(&secret, "now");
    let login = |totp| log_in(&relay, "ada", PASSWORD, totp);
    for totp in [None, Some(now.as_str())] {
        let known = log_in(&relay, "ada", "wrong", totp);
        assert_eq!(slug(&known), "login-failed");
        assert_eq!(known.body, log_in(&relay, "nobody", "wrong", totp).body);
    }
    let refused = login(None);
    assert_eq!(
        refused.problem(),
        (
            401,
            "second-factor-required".to_owned(),
            "expected a code of the authenticator, or a recovery code".to_owned()
        )
    );
    assert_eq!(refused.header("set-cookie"), None);
    assert_eq!(
        slug(&login(Some(&first))),
        "second-factor-required",
        "again"
    );
    let session = login(Some(&now));
    assert_eq!(session.status, 200, "{}", session.body);
    assert_eq!(slug(&login(Some(&now))), "second-factor-required", "again");
    let old = oathtool(&secret, "90 seconds ago");
    assert_eq!(slug(&login(Some(&old))), "second-factor-required");

    // Recovery codes, as people type them; each once.
    let typed = codes[0].to_uppercase().replace('-', " ");
    assert_eq!(login(Some(&typed)).status, 200);
    assert_eq!(
        slug(&login(Some(&codes[0]))),
        "second-factor-required",
        "again"
    );
    assert_eq!(login(Some(&codes[1])).status, 200);
    let me = relay.curl_as(&ada, "/api/v1/me", &[]).json();
    assert_eq!(me["recovery_codes"], 8);

    // It ends by what it began with.
    let end = |shown: Value| send(&relay, &ada, "DELETE", "/api/v1/me/totp", &shown);
    assert_eq!(slug(&end(json!({}))), "second-factor-required");
    assert_eq!(slug(&end(json!({ "code": now }))), "second-factor-required");
    assert_eq!(slug(&end(json!({ "password": OTHER }))), "login-failed");
    assert_eq!(end(json!({ "code": codes[2] })).status, 204);
    assert_eq!(
        slug(&end(json!({ "password": PASSWORD }))),
        "second-factor-unknown"
    );
    assert_eq!(login(None).status, 200);
    // A code that nobody asks for is none.
    assert_eq!(login(Some("000000")).status, 200);
}

#[test]
fn who_lost_everything_is_let_in_by_an_administrator() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let ada = add(&relay, &admin, "ada", &json!([]));
    let (secret, _, codes) = set_up(&relay, &ada);
    let path = "/api/v1/people/ada/totp";
    assert_eq!(relay.curl_as(&admin, path, &["-X", "DELETE"]).status, 204);
    assert_eq!(
        slug(&relay.curl_as(&admin, path, &["-X", "DELETE"])),
        "second-factor-unknown"
    );
    assert_eq!(
        slug(&relay.curl_as(&ada, "/api/v1/me", &[])),
        "login-required"
    );
    let ada = token(&log_in(&relay, "ada", PASSWORD, None));

    // A code that is wrong slows down as a password does.
    set_up(&relay, &ada);
    let mut tries = (0..12).map(|_| slug(&log_in(&relay, "ada", PASSWORD, Some(&codes[0]))));
    assert_eq!(tries.next().as_deref(), Some("second-factor-required"));
    assert!(tries.any(|slug| slug == "login-throttled"));
    let log = relay.log();
    assert!(log.contains("second factor reset"), "{log}");
    for told in codes.iter().chain([&secret]) {
        assert!(!log.contains(told.as_str()), "{told}");
    }
}

#[test]
fn who_should_have_a_second_factor_can_do_nothing_but_set_it_up() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let config = data.path().join("relay.yml");
    std::fs::write(&config, "people: { second_factor: admins }\n").expect("a file");
    let path = config.to_str().expect("text").to_owned();
    let relay = Relay::start_with(data, &["--config", &path]);
    let admin = relay.log_in();
    let robots = |session: &str| relay.curl_as(session, "/api/v1/robots", &[]);
    assert_eq!(
        robots(&admin).problem(),
        (
            403,
            "second-factor-missing".to_owned(),
            "expected admin to have a second factor, found none".to_owned()
        )
    );
    assert_eq!(relay.curl_as(&admin, "/api/v1/me", &[]).status, 200);
    let page = relay.curl_as(&admin, "/", &[]);
    assert_eq!(
        (page.status, page.header("location")),
        (303, Some("/second-factor"))
    );

    // As a browser does it, without scripts.
    let cookie = format!("cookie: __Host-lekiwi={admin}");
    let origin = format!("origin: https://{}", relay.https);
    let form = |fields: &[&str]| {
        let mut options = vec!["-H", &cookie, "-H", &origin];
        for field in fields {
            options.extend(["--data-urlencode", field]);
        }
        relay.curl("/second-factor", &options)
    };
    let first = form(&["step=begin", "password=wrong"]);
    assert_eq!(first.status, 401);
    let password = format!("password={}", relay.password());
    let begun = form(&["step=begin", &password]);
    assert_eq!(begun.status, 200, "{}", begun.body);
    assert!(begun.body.contains("<svg class=\"qr\""), "{}", begun.body);
    let secret = begun.body.split_once("<code>").expect("a secret").1;
    let secret = secret.split_once("</code>").expect("a secret").0;
    secrets::keep("the secret of an authenticator", secret);
    let wrong = form(&["step=confirm", "code=hunter2"]);
    assert_eq!(wrong.status, 401);
    assert!(!wrong.body.contains(secret), "it is told once");
    let evil = [
        "-H",
        &cookie,
        "-H",
        "origin: https://evil.example",
        "-d",
        "step=begin",
    ];
    assert_eq!(slug(&relay.curl("/second-factor", &evil)), "cross-origin");
    let code = format!("code={}", oathtool(secret, "now"));
    let done = form(&["step=confirm", &code]);
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!(done.body.matches("<li>").count(), 10);
    assert_eq!(robots(&admin).status, 200);

    // It is not asked of others.
    let operator = json!([{ "role": "operator", "on": "fleet" }]);
    let ada = add(&relay, &admin, "ada", &operator);
    assert_eq!(robots(&ada).status, 200);
    // Who becomes an administrator, or has it no more, is asked at once.
    let roles = json!({ "roles": [{ "role": "admin", "on": "group:yard" }] });
    let changed = send(&relay, &admin, "PATCH", "/api/v1/people/ada", &roles);
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(slug(&robots(&ada)), "second-factor-missing");
    assert_eq!(form(&["step=end", &password]).status, 200);
    assert_eq!(slug(&robots(&admin)), "second-factor-missing");
}

#[test]
fn every_login_begins_a_session_of_its_own() {
    let relay = Relay::start();
    let admin = relay.log_in();
    add(&relay, &admin, "ada", &json!([]));
    // What somebody else put into the browser counts for nothing: neither a session of theirs nor one made up.
    let made_up = format!("lks_{}", "A".repeat(43));
    for planted in [&admin, &made_up] {
        let cookie = format!("cookie: __Host-lekiwi={planted}");
        let fields = format!("user=ada&password={}", PASSWORD.replace(' ', "+"));
        let origin = format!("origin: https://{}", relay.https);
        let answer = relay.curl("/login", &["-H", &cookie, "-H", &origin, "-d", &fields]);
        assert_eq!(answer.status, 303, "{}", answer.body);
        let set = answer.header("set-cookie").expect("a cookie");
        let new = set.strip_prefix("__Host-lekiwi=").expect("a session");
        let new = new.split(';').next().expect("a session");
        assert_ne!(new, planted);
        let me = relay.curl_as(new, "/api/v1/me", &[]).json();
        assert_eq!(me["name"], "ada");
    }
    assert_eq!(
        slug(&relay.curl_as(&made_up, "/api/v1/me", &[])),
        "login-required"
    );
    let me = relay.curl_as(&admin, "/api/v1/me", &[]).json();
    assert_eq!(me["name"], "admin");
}

#[test]
fn invited_people_choose_their_password_themselves() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let invite = |name: &str, lifetime_s: u64| {
        let roles = json!([{ "role": "operator", "on": "fleet" }]);
        let request = json!({ "name": name, "roles": roles, "lifetime_s": lifetime_s });
        send(&relay, &admin, "POST", "/api/v1/invitations", &request)
    };
    assert_eq!(
        invite("ada", 59).problem().2,
        "expected lifetime_s to be 60 to 604800, got 59"
    );
    assert_eq!(slug(&invite("admin", 60)), "person-exists");
    let created = invite("ada", 60);
    assert_eq!(created.status, 201, "{}", created.body);
    let created = created.json();
    let secret = created["token"].as_str().expect("a token");
    let path = created["path"].as_str().expect("a path");
    assert_eq!(path, format!("/join?token={secret}"));

    // The page, and its form.
    let page = relay.curl(path, &[]);
    assert_eq!(page.status, 200);
    assert!(page.body.contains("<b>ada</b>"), "{}", page.body);
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    let origin = format!("origin: https://{}", relay.https);
    let join = |origin: &str, password: &str, again: &str| {
        let fields = [("token", secret), ("password", password), ("again", again)];
        let fields = fields.map(|(name, value)| format!("{name}={value}"));
        let mut options = vec!["-H", origin];
        for field in &fields {
            options.extend(["--data-urlencode", field]);
        }
        relay.curl("/join", &options)
    };
    assert_eq!(
        join("origin: https://evil.example", PASSWORD, PASSWORD).status,
        403
    );
    assert_eq!(join(&origin, PASSWORD, OTHER).status, 422);
    let weak = join(&origin, "adaadaadaadaadaada", "adaadaadaadaadaada");
    assert!(
        weak.body
            .contains("expected a password that is hard to guess"),
        "{}",
        weak.body
    );
    let joined = join(&origin, PASSWORD, PASSWORD);
    assert_eq!((joined.status, joined.header("location")), (303, Some("/")));
    let cookie = joined.header("set-cookie").expect("a cookie");
    let session = cookie.strip_prefix("__Host-lekiwi=").expect("a session");
    let session = session.split(';').next().expect("a session");
    let me = relay.curl_as(session, "/api/v1/me", &[]).json();
    assert_eq!(
        (&me["name"], &me["rights"][0]["by"]),
        (&json!("ada"), &json!("operator"))
    );
    token(&log_in(&relay, "ada", PASSWORD, None));

    // Once.
    let over = relay.curl(path, &[]);
    assert_eq!(over.status, 410);
    assert!(over.body.contains("it was used"), "{}", over.body);
    let api = |token: &str, password: &str| {
        let body = json!({ "token": token, "password": password }).to_string();
        relay.curl("/api/v1/join", &["-H", JSON, "-d", &body])
    };
    assert_eq!(
        api(secret, OTHER).problem(),
        (
            410,
            "invitation-over".to_owned(),
            "expected an invitation that is open, got that of ada: it was used".to_owned()
        )
    );
    assert_eq!(slug(&api("lki_unknown", OTHER)), "invitation-unknown");
    assert_eq!(relay.curl("/join?token=lki_unknown", &[]).status, 404);

    // One that is taken back, one by a program, one whose name is taken meanwhile, and one of somebody who may no more.
    let invited = |name: &str| {
        let created = invite(name, 604_800).json();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        (text(&created["token"]), text(&created["invitation"]["id"]))
    };
    let (token, id) = invited("bob");
    let revoke = format!("/api/v1/invitations/{id}");
    assert_eq!(
        relay.curl_as(&admin, &revoke, &["-X", "DELETE"]).status,
        204
    );
    assert_eq!(
        slug(&relay.curl_as(&admin, &revoke, &["-X", "DELETE"])),
        "invitation-unknown"
    );
    assert!(
        api(&token, PASSWORD)
            .problem()
            .2
            .ends_with("got that of bob: it was taken back")
    );
    let (first, second) = (invited("bob").0, invited("bob").0);
    let joined = api(&first, PASSWORD);
    assert_eq!(
        (joined.status, &joined.json()["name"]),
        (201, &json!("bob"))
    );
    let session = joined.json()["session"]["token"].clone();
    let session = session.as_str().expect("a token");
    assert_eq!(relay.curl_as(session, "/api/v1/robots", &[]).status, 200);
    assert_eq!(slug(&api(&second, PASSWORD)), "person-exists");

    let boss = json!([{ "role": "admin", "on": "fleet" }]);
    let eve = add(&relay, &admin, "eve", &boss);
    let request = json!({ "name": "mallory", "roles": boss });
    let created = send(&relay, &eve, "POST", "/api/v1/invitations", &request).json();
    let none = json!({ "roles": [] });
    assert_eq!(
        send(&relay, &admin, "PATCH", "/api/v1/people/eve", &none).status,
        200
    );
    let token = created["token"].as_str().expect("a token");
    assert_eq!(slug(&api(token, PASSWORD)), "invitation-over");
    let listed = relay.curl_as(&admin, "/api/v1/invitations", &[]).json();
    let listed = listed["invitations"].as_array().expect("a list");
    let mut states: Vec<(&str, &str)> = listed
        .iter()
        .map(|one| {
            (
                one["name"].as_str().expect("text"),
                one["state"].as_str().expect("text"),
            )
        })
        .collect();
    states.sort_unstable();
    assert_eq!(
        states,
        [
            ("ada", "used"),
            ("bob", "open"),
            ("bob", "revoked"),
            ("bob", "used"),
            ("mallory", "revoked")
        ]
    );
    let log = relay.log();
    assert!(!log.contains("lki_") && !log.contains(PASSWORD), "{log}");
}

#[test]
fn whoever_has_the_machine_lets_a_lost_administrator_in() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let reset = |folder: &std::path::Path, name: &str| {
        let mut reset = command();
        reset
            .args(["admin", "reset", "--name", name, "--data"])
            .arg(folder);
        reset.output().expect("the program runs")
    };
    let running = reset(&relay.data_folder(), "admin");
    assert_eq!(running.status.code(), Some(69), "the relay runs");
    // Locked out by a second factor that is lost, and by another administrator.
    let request = json!({ "password": relay.password() });
    let begun = send(&relay, &admin, "POST", "/api/v1/me/totp", &request).json();
    let secret = begun["secret"].as_str().expect("text");
    let shown = json!({ "code": oathtool(secret, "now") });
    let confirmed = send(&relay, &admin, "POST", "/api/v1/me/totp/confirm", &shown);
    assert_eq!(confirmed.status, 200, "{}", confirmed.body);
    let boss = json!([{ "role": "admin", "on": "fleet" }]);
    let eve = add(&relay, &admin, "eve", &boss);
    let change = json!({ "roles": [], "disabled": true });
    assert_eq!(
        send(&relay, &eve, "PATCH", "/api/v1/people/admin", &change).status,
        200
    );
    let old = relay.password();
    let (_, data) = relay.stop();

    let unknown = reset(&data.path().join("nowhere"), "admin");
    assert_eq!(unknown.status.code(), Some(1));
    let done = reset(&data.path().join("data"), "admin");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(said.contains("is an administrator again"), "{said}");
    let new = String::from_utf8(done.stdout).expect("text");
    let new = new.trim();
    let relay = Relay::start_in(data);
    assert_eq!(slug(&log_in(&relay, "admin", &old, None)), "login-failed");
    let admin = token(&log_in(&relay, "admin", new, None));
    let people = relay.curl_as(&admin, "/api/v1/people", &[]);
    assert_eq!(people.status, 200, "{}", people.body);
    assert!(!relay.log().contains(new) && !said.contains(new));
}
