//! The HTTP interface of the real program: who is let in, what errors look like, limits.

use std::collections::BTreeSet;

use crate::common::{Relay, openssl, request};
use lekiwi_relay::http::routes::{Needs, ROUTES};

#[test]
fn nothing_answers_without_a_credential_but_health_est_and_login() {
    let relay = Relay::start();
    let open: BTreeSet<_> = ROUTES
        .iter()
        .filter(|r| r.needs == Needs::Open)
        .map(|r| (r.method.as_str(), r.path))
        .collect();
    assert_eq!(
        open.into_iter().collect::<Vec<_>>(),
        [
            ("GET", "/.well-known/est/cacerts"),
            ("GET", "/crl"),
            ("GET", "/health"),
            ("GET", "/join"),
            ("GET", "/login"),
            ("GET", "/login/oidc/{id}"),
            ("GET", "/login/oidc/{id}/callback"),
            ("GET", "/ready"),
            ("POST", "/.well-known/est/simpleenroll"),
            ("POST", "/api/v1/join"),
            ("POST", "/api/v1/session"),
            ("POST", "/join"),
            ("POST", "/login"),
        ]
    );
    let dead = "authorization: Bearer lks_AAAA";
    let cookie = "cookie: __Host-lekiwi=lks_AAAA";
    for route in ROUTES.iter().filter(|r| r.needs != Needs::Open) {
        let path = route
            .path
            .replace("{id}", "kiwi-01")
            .replace("{cmd}", "00000000-0000-0000-0000-000000000000")
            .replace("{person}", "bob")
            .replace("{*path}", "index.js");
        for credential in [None, Some(dead), Some(cookie)] {
            let mut options = vec!["-X", route.method.as_str()];
            options.extend(credential.iter().flat_map(|c| ["-H", c]));
            let answer = relay.curl(&path, &options);
            if matches!(route.needs, Needs::Page | Needs::SetupPage) {
                assert_eq!(
                    (answer.status, answer.header("location")),
                    (303, Some("/login")),
                    "{path}"
                );
            } else if route.needs == Needs::Robot {
                let (status, slug, _) = answer.problem();
                assert_eq!((status, &*slug), (401, "certificate-required"), "{path}");
            } else {
                let (status, slug, detail) = answer.problem();
                assert_eq!(
                    (status, slug.as_str()),
                    (401, "login-required"),
                    "{} {path}",
                    route.method
                );
                let expected = match credential {
                    None => {
                        "expected a session cookie, `Authorization: Bearer …` or an `X-API-Key`"
                    }
                    Some(_) => "expected a session that lasts, got one that ended or never was",
                };
                assert_eq!(detail, expected);
                assert_eq!(
                    answer.header("www-authenticate"),
                    Some("Bearer realm=\"lekiwi\"")
                );
            }
        }
    }
    // What does not exist is not told apart from what does.
    for (method, path) in [
        ("GET", "/nothing"),
        ("GET", "/api/v1/robots/a/b/c"),
        ("PUT", "/api/v1/robots"),
        ("GET", "/login/"),
    ] {
        assert_eq!(
            relay.curl(path, &["-X", method]).problem().1,
            "login-required",
            "{method} {path}"
        );
    }
}

#[test]
fn errors_are_problems_with_a_detail() {
    let relay = Relay::start();
    let session = relay.log_in();
    let json = "content-type: application/json";
    let large = format!("@{}", {
        let path = relay.data.path().join("large");
        std::fs::write(&path, format!("{{\"profile\":\"{}\"}}", "x".repeat(70_000)))
            .expect("a file");
        path.display().to_string()
    });
    let cases: &[(&str, &[&str], u16, &str, &str)] = &[
        (
            "/nothing",
            &[],
            404,
            "not-found",
            "there is no \"/nothing\"",
        ),
        (
            "/api/v1/robots",
            &["-X", "PUT"],
            405,
            "method-not-allowed",
            "/api/v1/robots does not take PUT",
        ),
        (
            "/api/v1/robots/kiwi-09",
            &[],
            404,
            "robot-unknown",
            "there is no robot kiwi-09",
        ),
        (
            "/api/v1/robots/Kiwi",
            &[],
            404,
            "robot-unknown",
            "expected a robot id: 1 to 63 of a-z, 0-9 and '-', not starting with '-', got \"Kiwi\"",
        ),
        (
            "/api/v1/robots/kiwi-09/events",
            &[],
            404,
            "robot-unknown",
            "there is no robot kiwi-09",
        ),
        (
            "/api/v1/robots/kiwi-09/telemetry?metric=cpu_percent",
            &[],
            404,
            "robot-unknown",
            "there is no robot kiwi-09",
        ),
        (
            "/api/v1/robots/kiwi-09/commands",
            &["-H", json, "-d", r#"{"op":"ping"}"#],
            404,
            "robot-unknown",
            "there is no robot kiwi-09",
        ),
        (
            "/api/v1/robots/kiwi-09/commands",
            &["-H", json, "-d", r#"{"op":"estop"}"#],
            422,
            "invalid-body",
            "expected an operation that may wait, got estop",
        ),
        (
            "/api/v1/robots/kiwi-09/commands",
            &["-H", json, "-d", r#"{"op":"ping","expires_in_s":0}"#],
            422,
            "invalid-body",
            "expected expires_in_s to be 1 to 604800, got 0",
        ),
        (
            "/api/v1/robots/kiwi-09/commands",
            &[
                "-H",
                json,
                "-d",
                r#"{"op":"reboot","arguments":{"now":true}}"#,
            ],
            422,
            "invalid-body",
            "expected no argument \"now\" of reboot",
        ),
        (
            "/api/v1/robots/kiwi-09/commands/1",
            &[],
            404,
            "command-unknown",
            "expected a command's id, a uuid, got \"1\"",
        ),
        (
            "/api/v1/robots/kiwi-09/estop",
            &["-X", "POST"],
            404,
            "robot-unknown",
            "there is no robot kiwi-09",
        ),
        (
            "/api/v1/robots?x=1",
            &[],
            400,
            "invalid-query",
            "expected only at, position in the query, got \"x\"",
        ),
        (
            "/api/v1/robots/kiwi-09/events?limit=0",
            &[],
            400,
            "invalid-query",
            "expected limit to be a whole number of 1 to 1000, got \"0\"",
        ),
        (
            "/api/v1/robots/kiwi-09/events?after=-1",
            &[],
            400,
            "invalid-query",
            "expected after to be a whole number, got \"-1\"",
        ),
        (
            "/api/v1/robots/kiwi-09/events?newer=1",
            &[],
            400,
            "invalid-query",
            "expected only after, before, limit in the query, got \"newer\"",
        ),
        (
            "/api/v1/refused?limit=2&limit=3",
            &[],
            400,
            "invalid-query",
            "expected \"limit\" once",
        ),
        (
            "/api/v1/robots/kiwi-09/telemetry?metric=CPU",
            &[],
            400,
            "invalid-query",
            "expected metric to be a metric name: 1 to 64 of a-z, 0-9, '_', '.' and '-', starting with a letter, got \"CPU\"",
        ),
        (
            "/api/v1/robots/kiwi-09/telemetry?from=yesterday",
            &[],
            400,
            "invalid-query",
            "expected from to be a UTC time such as 2026-11-21T03:52:00.000Z, or milliseconds since 1970, got \"yesterday\"",
        ),
        (
            "/api/v1/robots/kiwi-09/telemetry?metric=a,B",
            &[],
            400,
            "invalid-query",
            "expected metric to be a metric name: 1 to 64 of a-z, 0-9, '_', '.' and '-', starting with a letter, got \"a,B\"",
        ),
        (
            "/api/v1/robots/kiwi-09/telemetry?metric=a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q",
            &[],
            400,
            "invalid-query",
            "expected at most 16 metrics, got 17",
        ),
        (
            "/api/v1/robots/kiwi-09/telemetry?metric=a,b,c&points=9000",
            &[],
            400,
            "invalid-query",
            "expected at most 20000 points of all metrics together, got 9000 of each of 3",
        ),
        (
            "/api/v1/robots/kiwi-09/telemetry?metric=a&points=9",
            &[],
            400,
            "invalid-query",
            "expected points to be a whole number of 10 to 10000, got \"9\"",
        ),
        (
            "/api/v1/robots/kiwi-09/telemetry?metric=a&aggregate=median",
            &[],
            400,
            "invalid-query",
            "expected aggregate to be mean, min, max, sum, count or last, got \"median\"",
        ),
        (
            "/api/v1/robots/kiwi-09/telemetry?metric=a&limit=5&aggregate=max",
            &[],
            400,
            "invalid-query",
            "expected limit without points and aggregate, got both",
        ),
        (
            "/api/v1/robots/kiwi-09/telemetry?metric=a&from=2000&to=1000",
            &[],
            400,
            "invalid-query",
            "expected from to be before to, got 1970-01-01T00:00:02.000Z and 1970-01-01T00:00:01.000Z",
        ),
        (
            "/api/v1/stream?robot=A",
            &[],
            400,
            "invalid-query",
            "expected robot to be robot ids, separated by commas, got \"A\"",
        ),
        (
            "/api/v1/stream?type=%20",
            &[],
            400,
            "invalid-query",
            "expected type to be message types such as telemetry or robot.connected, separated by commas, got \" \"",
        ),
        (
            "/api/v1/ws",
            &[],
            426,
            "upgrade-required",
            "expected a WebSocket upgrade: Connection header did not include 'upgrade'",
        ),
        (
            "/api/v1/tokens",
            &["-d", "{}"],
            415,
            "unsupported-media-type",
            "expected content type application/json, got application/x-www-form-urlencoded",
        ),
        (
            "/api/v1/tokens",
            &["-H", json, "-d", "{\"profile\":"],
            400,
            "malformed-body",
            "expected JSON: EOF while parsing a value at line 1 column 11",
        ),
        (
            "/api/v1/tokens",
            &["-H", json, "-d", "{\"colour\":1}"],
            422,
            "invalid-body",
            "unknown field `colour`, expected one of `profile`, `serial`, `robot_id`, `lifetime_s`, `max_uses` at line 1 column 9",
        ),
        (
            "/api/v1/tokens",
            &["-H", json, "-d", "{\"lifetime_s\":0}"],
            422,
            "invalid-body",
            "expected a lifetime of 1 to 31622400 seconds, got 0",
        ),
        (
            "/api/v1/tokens",
            &["-H", json, "-d", &large],
            413,
            "too-large",
            "expected at most 65536 bytes",
        ),
        (
            "/api/v1/tokens/nothing",
            &["-X", "DELETE"],
            404,
            "token-not-found",
            "there is no token \"nothing\"",
        ),
        (
            "/api/v1/consumers",
            &["-H", json, "-d", "{\"name\":\"a\",\"csr_pem\":\"x\"}"],
            400,
            "csr-invalid",
            "expected a PKCS#10 request as PEM (-----BEGIN CERTIFICATE REQUEST-----)",
        ),
    ];
    for (path, options, status, slug, detail) in cases {
        // HTTP/1.1: WebSocket's own check comes first there.
        let mut all = vec!["--http1.1"];
        all.extend(*options);
        let problem = relay.curl_as(&session, path, &all).problem();
        assert_eq!(
            problem,
            (*status, (*slug).to_owned(), (*detail).to_owned()),
            "{path}"
        );
    }
}

#[test]
fn sessions_begin_and_end() {
    let relay = Relay::start();
    let json = ["-H", "content-type: application/json", "-d"];
    let wrong = |n: usize| {
        let body = format!("{{\"user\":\"admin\",\"password\":\"guess {n}\"}}");
        relay
            .curl("/api/v1/session", &[json[0], json[1], json[2], &body])
            .problem()
    };
    assert_eq!(
        wrong(0),
        (
            401,
            "login-failed".into(),
            "expected a known user and the right password".into()
        )
    );
    let unknown = relay.curl(
        "/api/v1/session",
        &[
            json[0],
            json[1],
            json[2],
            "{\"user\":\"root\",\"password\":\"x\"}",
        ],
    );
    assert_eq!(
        unknown.problem().1,
        "login-failed",
        "an unknown user looks the same"
    );

    let session = relay.log_in();
    let robots = relay.curl_as(&session, "/api/v1/robots", &[]);
    assert_eq!(
        (robots.status, &robots.json()["robots"]),
        (200, &serde_json::json!([]))
    );
    assert_eq!(
        relay
            .curl_as(&session, "/api/v1/session", &["-X", "DELETE"])
            .status,
        204
    );
    assert_eq!(relay.curl_as(&session, "/api/v1/robots", &[]).status, 401);

    // A right password forgives, so the count starts anew.
    for n in 1..=5 {
        assert_eq!(wrong(n).0, 401);
    }
    // The next one has to wait, longer each time: a second may pass on a machine that has much to do.
    assert!((6..=12).any(|n| wrong(n).1 == "login-throttled"));
    assert!(!relay.log().contains(&session), "no secret in the log");
    assert!(
        !relay.log().contains(&relay.password()),
        "no password in the log"
    );
}

#[test]
fn a_browser_logs_in_without_scripts() {
    let relay = Relay::start();
    let page = relay.curl("/login", &[]);
    assert_eq!(page.status, 200);
    assert!(
        page.body
            .contains("<form method=\"post\" action=\"/login\">")
    );
    assert!(!page.body.contains("<script"));
    assert!(
        page.header("content-security-policy")
            .expect("a policy")
            .contains("style-src 'sha256-")
    );

    let wrong = relay.curl(
        "/login",
        &[
            "--data-urlencode",
            "user=<b>",
            "--data-urlencode",
            "password=x",
        ],
    );
    assert_eq!(wrong.status, 401);
    assert!(
        wrong.body.contains("User or password is wrong.")
            && wrong.body.contains("value=\"&lt;b&gt;\"")
    );

    let password = format!("password={}", relay.password());
    let form = [
        "--data-urlencode",
        "user=admin",
        "--data-urlencode",
        &password,
    ];
    let foreign = relay.curl(
        "/login",
        &[&form[..], &["-H", "origin: https://evil.example"]].concat(),
    );
    assert_eq!(foreign.status, 403);
    let entered = relay.curl(
        "/login",
        &[
            &form[..],
            &["-H", &format!("origin: https://{}", relay.https)],
        ]
        .concat(),
    );
    assert_eq!(
        (entered.status, entered.header("location")),
        (303, Some("/"))
    );
    let set = entered.header("set-cookie").expect("a cookie");
    assert!(
        set.ends_with("; Path=/; Max-Age=43200; Secure; HttpOnly; SameSite=Strict"),
        "{set}"
    );
    let cookie = format!("cookie: {}", set.split(';').next().expect("a pair"));

    let dashboard = relay.curl("/", &["-H", &cookie]);
    assert_eq!(dashboard.status, 200);
    assert!(
        dashboard
            .header("content-security-policy")
            .expect("a policy")
            .contains("script-src 'self'")
    );
    assert_eq!(relay.curl("/api/v1/tokens", &["-H", &cookie]).status, 200);

    // The same for a dashboard that logs in by the interface, in both versions of HTTP.
    let body = serde_json::json!({ "user": "admin", "password": relay.password() }).to_string();
    for (version, origin, status) in [
        ("--http2", format!("https://{}", relay.https), 200),
        ("--http1.1", format!("https://{}", relay.https), 200),
        ("--http2", "https://evil.example".to_owned(), 403),
    ] {
        let origin = format!("origin: {origin}");
        let json = "content-type: application/json";
        let options = [version, "-H", json, "-H", &origin, "-d", &body];
        assert_eq!(
            relay.curl("/api/v1/session", &options).status,
            status,
            "{version} {origin}"
        );
    }

    // A cookie changes nothing for another site.
    let logout = |origin: &str| {
        relay.curl(
            "/logout",
            &[
                "-X",
                "POST",
                "-H",
                &cookie,
                "-H",
                &format!("origin: {origin}"),
            ],
        )
    };
    assert_eq!(logout("https://evil.example").problem().1, "cross-origin");
    assert_eq!(
        relay
            .curl("/logout", &["-X", "POST", "-H", &cookie])
            .problem()
            .1,
        "cross-origin"
    );
    assert_eq!(logout(&format!("https://{}", relay.https)).status, 303);
    assert_eq!(relay.curl("/", &["-H", &cookie]).status, 303);
}

#[test]
fn a_consumer_certificate_is_issued_by_name() {
    let relay = Relay::start();
    let session = relay.log_in();
    let (_, csr) = request(relay.data.path(), "consumer", "/CN=kiwi-01/O=evil");
    let csr = std::fs::read_to_string(csr).expect("a request");
    let csr =
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{csr}-----END CERTIFICATE REQUEST-----\n");
    let body =
        serde_json::json!({ "name": "analytics", "csr_pem": csr, "lifetime_days": 7 }).to_string();
    let answer = relay.curl_as(
        &session,
        "/api/v1/consumers",
        &["-H", "content-type: application/json", "-d", &body],
    );
    assert_eq!(answer.status, 201, "{}", answer.body);
    let created = answer.json();
    let pem = created["certificate_pem"].as_str().expect("PEM");
    let subject = openssl(&["x509", "-noout", "-subject", "-nameopt", "RFC2253"], pem);
    assert_eq!(
        subject.trim(),
        "subject=OU=consumer,O=default,CN=consumer:analytics"
    );
    assert_eq!(created["mqtt"], relay.mqtt.as_str());
    assert_eq!(created["filter"], "fleet/v1/default/robots/+/from/#");
}
