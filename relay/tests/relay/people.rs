//! People, what they are given and what is taken from them, as the real program has it.

use serde_json::{Value, json};

use crate::common::{Answer, Relay, request, wait_for};

const JSON: &str = "content-type: application/json";
const PASSWORD: &str = "correct horse battery staple";
const OTHER: &str = "größer als äpfel im märz";

/// Sends `body` as `session`.
fn send(relay: &Relay, session: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    relay.curl_as(session, path, &["-X", method, "-H", JSON, "-d", &body])
}

fn add(relay: &Relay, admin: &str, name: &str, roles: &Value) -> String {
    let person = json!({ "name": name, "password": PASSWORD, "roles": roles });
    let answer = send(relay, admin, "POST", "/api/v1/people", &person);
    assert_eq!(answer.status, 201, "{}", answer.body);
    log_in(relay, name, PASSWORD).json()["token"]
        .as_str()
        .expect("a token")
        .to_owned()
}

fn log_in(relay: &Relay, user: &str, password: &str) -> Answer {
    let login = json!({ "user": user, "password": password }).to_string();
    relay.curl("/api/v1/session", &["-H", JSON, "-d", &login])
}

fn enrol(relay: &Relay, robot: &str) {
    let (_, csr) = request(relay.data.path(), robot, &format!("/CN={robot}"));
    let enrolled = relay.enrol(robot, &relay.token(&[]), &csr);
    assert_eq!(enrolled.status, 200, "{}", enrolled.body);
}

fn robots(relay: &Relay, session: &str) -> Vec<String> {
    let list = relay.curl_as(session, "/api/v1/robots", &[]).json();
    let robots = list["robots"].as_array().expect("a list");
    let id = |robot: &Value| robot["id"].as_str().expect("an id").to_owned();
    robots.iter().map(id).collect()
}

#[test]
fn what_people_may_changes_at_once() {
    let relay = Relay::start();
    let admin = relay.log_in();
    enrol(&relay, "kiwi-01");
    enrol(&relay, "kiwi-02");
    wait_for("both robots", || {
        (robots(&relay, &admin).len() == 2).then_some(())
    });
    let ada = add(&relay, &admin, "ada", &json!([]));
    assert_eq!(
        relay.curl_as(&ada, "/api/v1/robots", &[]).problem().1,
        "permission-missing"
    );

    // A group, and a role on it.
    let group = json!({ "robots": ["kiwi-01"] });
    let answer = send(&relay, &admin, "PUT", "/api/v1/groups/warehouse", &group);
    assert_eq!(
        answer.json(),
        json!({ "name": "warehouse", "robots": ["kiwi-01"] })
    );
    let roles = json!({ "roles": [{ "role": "operator", "on": "group:warehouse" }] });
    let answer = send(&relay, &admin, "PATCH", "/api/v1/people/ada", &roles);
    assert_eq!(answer.json()["roles"], roles["roles"]);
    assert_eq!(robots(&relay, &ada), ["kiwi-01"]);
    let stop = |robot: &str| {
        let path = format!("/api/v1/robots/{robot}/estop");
        relay.curl_as(&ada, &path, &["-X", "POST"]).status
    };
    assert_eq!((stop("kiwi-01"), stop("kiwi-02")), (202, 404));
    let reboot = json!({ "op": "reboot" });
    let refused = send(
        &relay,
        &ada,
        "POST",
        "/api/v1/robots/kiwi-01/commands",
        &reboot,
    );
    assert_eq!(
        refused.problem().2,
        "expected the permission `command` on robot kiwi-01, user ada has operator on group:warehouse"
    );
    let me = relay.curl_as(&ada, "/api/v1/me", &[]).json();
    assert_eq!(me["name"], "ada");
    assert_eq!(
        me["rights"],
        json!([{
            "permissions": ["read", "stop", "teleoperate", "acknowledge"],
            "on": "group:warehouse", "by": "operator",
        }])
    );

    // Without the group there is nothing left, and who is not let in has no session.
    let gone = relay.curl_as(&admin, "/api/v1/groups/warehouse", &["-X", "DELETE"]);
    assert_eq!(gone.status, 204);
    assert_eq!(
        relay.curl_as(&ada, "/api/v1/robots", &[]).problem().1,
        "permission-missing"
    );
    let disabled = json!({ "disabled": true });
    let answer = send(&relay, &admin, "PATCH", "/api/v1/people/ada", &disabled);
    assert_eq!(answer.json()["sessions"], 0);
    assert_eq!(
        relay.curl_as(&ada, "/api/v1/me", &[]).problem().1,
        "login-required"
    );
    assert_eq!(log_in(&relay, "ada", PASSWORD).problem().1, "login-failed");
    let enabled = json!({ "disabled": false });
    assert_eq!(
        send(&relay, &admin, "PATCH", "/api/v1/people/ada", &enabled).status,
        200
    );
    assert_eq!(log_in(&relay, "ada", PASSWORD).status, 200);
    assert_eq!(
        relay
            .curl_as(&admin, "/api/v1/people/ada", &["-X", "DELETE"])
            .status,
        204
    );
    assert_eq!(
        relay.curl_as(&admin, "/api/v1/people/ada", &[]).problem().1,
        "person-unknown"
    );
}

#[test]
fn the_last_admin_stays() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let refusals = |session: &str| {
        [
            send(
                &relay,
                session,
                "PATCH",
                "/api/v1/people/admin",
                &json!({ "disabled": true }),
            ),
            send(
                &relay,
                session,
                "PATCH",
                "/api/v1/people/admin",
                &json!({ "roles": [] }),
            ),
            relay.curl_as(session, "/api/v1/people/admin", &["-X", "DELETE"]),
        ]
    };
    for refused in refusals(&admin) {
        assert_eq!(
            refused.problem(),
            (
                409,
                "last-admin".to_owned(),
                "expected another admin of the fleet to be left, admin is the only one".to_owned()
            )
        );
    }
    // One whose time is limited does not count.
    let for_a_while = json!([{ "role": "admin", "on": "fleet", "until": "2099-01-01T00:00:00Z" }]);
    let bob = add(&relay, &admin, "bob", &for_a_while);
    for refused in refusals(&bob) {
        assert_eq!(refused.problem().1, "last-admin");
    }
    let for_good = json!({ "roles": [{ "role": "admin", "on": "fleet" }] });
    assert_eq!(
        send(&relay, &bob, "PATCH", "/api/v1/people/bob", &for_good).status,
        200
    );
    assert_eq!(
        relay
            .curl_as(&bob, "/api/v1/people/admin", &["-X", "DELETE"])
            .status,
        204
    );
    assert_eq!(
        relay.curl_as(&admin, "/api/v1/me", &[]).problem().1,
        "login-required"
    );
    // After a restart nobody is made anew.
    let (_, data) = relay.stop();
    let relay = Relay::start_in(data);
    let people = relay.curl_as(&bob, "/api/v1/people", &[]).json();
    assert_eq!(people["people"].as_array().expect("a list").len(), 1);
}

#[test]
fn passwords_are_changed_by_their_owners_and_their_other_sessions_end() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let ada = add(&relay, &admin, "ada", &json!([]));
    let second = log_in(&relay, "ada", PASSWORD).json();
    let second = second["token"].as_str().expect("a token");
    let listed = relay.curl_as(&ada, "/api/v1/me/sessions", &[]).json();
    let listed = listed["sessions"].as_array().expect("a list");
    assert_eq!(listed.len(), 2);
    assert!(
        listed
            .iter()
            .all(|session| session["address"] == "127.0.0.1")
    );
    assert!(
        listed[0]["agent"]
            .as_str()
            .expect("a text")
            .starts_with("curl/")
    );
    let change = |current: &str, new: &str| {
        let change = json!({ "current": current, "new": new });
        send(&relay, &ada, "PUT", "/api/v1/me/password", &change)
    };
    assert_eq!(change("wrong", OTHER).problem().1, "login-failed");
    for (weak, expected) in [
        ("too short", "expected at least 15 characters, got 9"),
        (
            "passwordpassword",
            "expected a password that is hard to guess: ",
        ),
        (
            "adaadaadaadaadaada",
            "expected a password that is hard to guess: ",
        ),
    ] {
        let (status, slug, detail) = change(PASSWORD, weak).problem();
        assert_eq!((status, &*slug), (422, "password-refused"), "{weak}");
        assert!(detail.starts_with(expected), "{detail}");
    }
    assert_eq!(change(PASSWORD, OTHER).status, 204);
    assert_eq!(
        relay.curl_as(second, "/api/v1/me", &[]).problem().1,
        "login-required"
    );
    assert_eq!(relay.curl_as(&ada, "/api/v1/me", &[]).status, 200);
    assert_eq!(log_in(&relay, "ada", PASSWORD).problem().1, "login-failed");

    // One that its owner ends, and all of them by who manages.
    let third = log_in(&relay, "ada", OTHER).json();
    let third = third["token"].as_str().expect("a token");
    let listed = relay.curl_as(&ada, "/api/v1/me/sessions", &[]).json();
    let other = listed["sessions"].as_array().expect("a list");
    let other = other.iter().find(|session| session["is_this"] == false);
    let id = other.expect("another")["id"].as_str().expect("an id");
    let path = format!("/api/v1/me/sessions/{id}");
    assert_eq!(relay.curl_as(&ada, &path, &["-X", "DELETE"]).status, 204);
    assert_eq!(
        relay.curl_as(third, "/api/v1/me", &[]).problem().1,
        "login-required"
    );
    let all = "/api/v1/people/ada/sessions";
    assert_eq!(relay.curl_as(&admin, all, &["-X", "DELETE"]).status, 204);
    assert_eq!(
        relay.curl_as(&ada, "/api/v1/me", &[]).problem().1,
        "login-required"
    );
    assert!(!relay.log().contains(PASSWORD) && !relay.log().contains(OTHER));
}

#[test]
fn a_robot_is_lent_for_a_while_and_only_by_whom_it_was_given() {
    let relay = Relay::start();
    let admin = relay.log_in();
    enrol(&relay, "kiwi-01");
    wait_for("the robot", || {
        (robots(&relay, &admin).len() == 1).then_some(())
    });
    let ada = add(
        &relay,
        &admin,
        "ada",
        &json!([{ "role": "operator", "on": "robot:kiwi-01" }]),
    );
    let eve = add(
        &relay,
        &admin,
        "eve",
        &json!([{ "role": "engineer", "on": "fleet" }]),
    );
    let guest = add(&relay, &admin, "guest", &json!([]));
    let lend = |session: &str, to: &str, lifetime_s: u64| {
        let loan = json!({ "to": to, "lifetime_s": lifetime_s });
        send(
            &relay,
            session,
            "POST",
            "/api/v1/robots/kiwi-01/loans",
            &loan,
        )
    };
    // Who may not drive it cannot have others drive it.
    assert_eq!(lend(&eve, "guest", 60).problem().1, "permission-missing");
    assert_eq!(lend(&ada, "nobody", 60).problem().1, "person-unknown");
    assert_eq!(
        lend(&ada, "guest", 59).problem().2,
        "expected lifetime_s to be 60 to 604800, got 59"
    );
    assert_eq!(lend(&ada, "guest", 3_600).status, 201);
    assert_eq!(robots(&relay, &guest), ["kiwi-01"]);
    // What was lent is not lent on.
    assert_eq!(lend(&guest, "eve", 60).problem().1, "robot-unknown");
    let loans = relay
        .curl_as(&ada, "/api/v1/robots/kiwi-01/loans", &[])
        .json();
    assert_eq!(loans["loans"][0]["to"], "guest");
    assert_eq!(loans["loans"][0]["by"], "ada");

    // Taken back by the lender, by nobody else.
    let path = "/api/v1/robots/kiwi-01/loans/guest";
    assert_eq!(
        relay.curl_as(&eve, path, &["-X", "DELETE"]).problem().1,
        "loan-unknown"
    );
    assert_eq!(relay.curl_as(&ada, path, &["-X", "DELETE"]).status, 204);
    assert_eq!(
        relay.curl_as(&guest, "/api/v1/robots", &[]).problem().1,
        "permission-missing"
    );
    // It ends with the lender's own right.
    assert_eq!(lend(&ada, "guest", 3_600).status, 201);
    let none = json!({ "roles": [] });
    assert_eq!(
        send(&relay, &admin, "PATCH", "/api/v1/people/ada", &none).status,
        200
    );
    assert_eq!(
        relay.curl_as(&guest, "/api/v1/robots", &[]).problem().1,
        "permission-missing"
    );

    // And with the group by which the lender had it, once the robot is not in it any more.
    let group = |robots: Value| {
        let answer = send(
            &relay,
            &admin,
            "PUT",
            "/api/v1/groups/yard",
            &json!({ "robots": robots }),
        );
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    group(json!(["kiwi-01"]));
    let yard = json!({ "roles": [{ "role": "operator", "on": "group:yard" }] });
    assert_eq!(
        send(&relay, &admin, "PATCH", "/api/v1/people/ada", &yard).status,
        200
    );
    assert_eq!(lend(&ada, "guest", 3_600).status, 201);
    assert_eq!(robots(&relay, &guest), ["kiwi-01"]);
    group(json!([]));
    assert_eq!(
        relay.curl_as(&guest, "/api/v1/robots", &[]).problem().1,
        "permission-missing"
    );
}
