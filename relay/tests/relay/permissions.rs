//! Who may do what over HTTP, as the real program has it: every route as everybody, on a robot of theirs and on another.

use std::fmt::Write as _;

use expect_test::expect_file;
use lekiwi_protocol::Permission;
use lekiwi_relay::http::routes::ROUTES;
use reqwest::{Certificate, Client, Identity, Method};
use serde_json::{Value, json};

use crate::common::{Relay, certificate, request};

const PASSWORD: &str = "correct horse battery staple";
const OWN: &str = "kiwi-01";
const OTHER: &str = "kiwi-02";

/// Who asks.
struct Caller {
    name: &'static str,
    client: Client,
    token: Option<String>,
}

/// What came of it: let through, or why not.
async fn ask(relay: &Relay, caller: &Caller, method: &Method, path: &str) -> &'static str {
    let url = format!("https://{}{path}", relay.https);
    let mut request = caller.client.request(method.clone(), url);
    if let Some(token) = &caller.token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    if status == 303 {
        return "login";
    }
    if status < 400 {
        return "x";
    }
    let text = answer.text().await.expect("a body");
    // The login page refuses in words.
    let problem: Value = serde_json::from_str(&text).unwrap_or_default();
    let slug = problem["type"].as_str().unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or_default();
    match slug.trim_start_matches("urn:lekiwi:problem:") {
        "login-required" | "certificate-required" => "401",
        "permission-missing" | "certificate-refused" | "session-required" => "403",
        // Not told apart from a robot that is not there.
        "robot-unknown" if detail.ends_with("may see") => "404",
        // The handler has something to say against an empty body, or an id that it does not know.
        _ => "x",
    }
}

fn client(relay: &Relay, identity: Option<Identity>) -> Client {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let pem = std::fs::read(relay.ca()).expect("the authority");
    let authority = Certificate::from_pem(&pem).expect("a certificate");
    let mut builder = Client::builder()
        .tls_certs_only([authority])
        .redirect(reqwest::redirect::Policy::none());
    if let Some(identity) = identity {
        builder = builder.identity(identity);
    }
    builder.build().expect("a client")
}

async fn post(relay: &Relay, admin: &Caller, method: Method, path: &str, body: Value) -> Value {
    let url = format!("https://{}{path}", relay.https);
    let token = admin.token.as_ref().expect("a session");
    let request = admin.client.request(method, url).bearer_auth(token);
    let request = request.header("content-type", "application/json");
    let answer = request
        .body(body.to_string())
        .send()
        .await
        .expect("an answer");
    let status = answer.status();
    let text = answer.text().await.expect("a body");
    assert!(status.is_success(), "{path}: {status} {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

async fn log_in(relay: &Relay, user: &str, password: &str) -> String {
    let url = format!("https://{}/api/v1/session", relay.https);
    let login = json!({ "user": user, "password": password });
    let request = client(relay, None)
        .post(url)
        .header("content-type", "application/json");
    let answer = request
        .body(login.to_string())
        .send()
        .await
        .expect("an answer");
    let text = answer.text().await.expect("a body");
    let session: Value = serde_json::from_str(&text).expect("JSON");
    session["token"].as_str().expect("a token").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_as_everybody() {
    let relay = Relay::start();
    let mut identities = Vec::new();
    for robot in [OWN, OTHER] {
        let (key, csr) = request(relay.data.path(), robot, &format!("/CN={robot}"));
        let enrolled = relay.enrol(robot, &relay.token(&[]), &csr);
        assert_eq!(enrolled.status, 200, "{}", enrolled.body);
        let key = std::fs::read_to_string(key).expect("a key");
        let pem = format!("{}{key}", certificate(&enrolled.body));
        identities.push(Identity::from_pem(pem.as_bytes()).expect("an identity"));
    }
    let password = relay.password();
    let by_session = |name, token| Caller {
        name,
        client: client(&relay, None),
        token: Some(token),
    };
    let admin = by_session("admin", log_in(&relay, "admin", &password).await);
    let robots = json!({ "robots": [OWN] });
    post(
        &relay,
        &admin,
        Method::PUT,
        "/api/v1/groups/warehouse",
        robots,
    )
    .await;
    let mut callers = vec![Caller {
        name: "nobody",
        client: client(&relay, None),
        token: None,
    }];
    for (name, user, roles) in [
        ("no role", "none", json!([])),
        (
            "operator",
            "op",
            json!([{ "role": "operator", "on": "fleet" }]),
        ),
        (
            "engineer",
            "eng",
            json!([{ "role": "engineer", "on": "fleet" }]),
        ),
        (
            "operator of group",
            "gop",
            json!([{ "role": "operator", "on": "group:warehouse" }]),
        ),
        (
            "engineer of group",
            "geng",
            json!([{ "role": "engineer", "on": "group:warehouse" }]),
        ),
        (
            "admin of group",
            "gadmin",
            json!([{ "role": "admin", "on": "group:warehouse" }]),
        ),
        (
            "engineer of robot",
            "reng",
            json!([{ "role": "engineer", "on": format!("robot:{OWN}") }]),
        ),
        ("lent", "guest", json!([])),
    ] {
        let person = json!({ "name": user, "password": PASSWORD, "roles": roles });
        post(&relay, &admin, Method::POST, "/api/v1/people", person).await;
        callers.push(by_session(name, log_in(&relay, user, PASSWORD).await));
    }
    let loan = json!({ "to": "guest", "lifetime_s": 3_600 });
    let path = format!("/api/v1/robots/{OWN}/loans");
    post(&relay, &admin, Method::POST, &path, loan).await;
    // Programs: of who may everything, and of who may some of it on one robot only.
    let all = Permission::ALL.into_iter();
    let all: Vec<_> = all.filter(|it| *it != Permission::Manage).collect();
    let engineer = callers.iter().position(|it| it.name == "engineer of robot");
    for (name, owner, permissions) in [
        ("key of admin", &admin, json!(all)),
        (
            "key of engineer of robot",
            &callers[engineer.expect("one")],
            json!(["read", "stop"]),
        ),
    ]
    .map(|(name, owner, permissions)| (name, owner.token.clone(), permissions))
    {
        let owner = by_session("owner", owner.expect("a session"));
        let key = json!({ "name": name, "permissions": permissions, "on": "fleet" });
        let made = post(&relay, &owner, Method::POST, "/api/v1/keys", key).await;
        let key = made["key"].as_str().expect("a key").to_owned();
        callers.push(by_session(name, key));
    }
    callers.push(admin);
    for (name, identity) in ["robot itself", "another robot"]
        .into_iter()
        .zip(identities)
    {
        callers.push(Caller {
            name,
            client: client(&relay, Some(identity)),
            token: None,
        });
    }

    let mut table = String::new();
    let names: Vec<&str> = callers.iter().map(|caller| caller.name).collect();
    writeln!(
        table,
        "On {OWN} / {OTHER}, where a robot is named: {}.\n",
        names.join(", ")
    )
    .expect("text");
    let mut routes: Vec<_> = ROUTES.iter().collect();
    // A robot that is rejected has no certificate any more.
    routes.sort_by_key(|route| route.path.ends_with("/reject"));
    for route in routes {
        // They would end what the next ones need; that they can is tested elsewhere.
        if matches!(
            (route.method.as_str(), route.path),
            (_, "/logout") | ("DELETE", "/api/v1/session")
        ) {
            continue;
        }
        writeln!(table, "{} {} ({})", route.method, route.path, route.needs).expect("text");
        let names_robot = route.path.starts_with("/api/v1/robots/{id}");
        let robots = if names_robot {
            &[OWN, OTHER][..]
        } else {
            &[OWN][..]
        };
        for robot in robots {
            let path = route
                .path
                .replace("{id}", robot)
                .replace("{cmd}", "00000000-0000-0000-0000-000000000000")
                .replace("{person}", "nobody")
                .replace("{*path}", "index.js");
            let mut cells = Vec::new();
            for caller in &callers {
                cells.push(format!(
                    "{:<5}",
                    ask(&relay, caller, &route.method, &path).await
                ));
            }
            writeln!(table, "   {}", cells.join(" ").trim_end()).expect("text");
        }
    }
    expect_file!["permissions.txt"].assert_eq(&table);
}
