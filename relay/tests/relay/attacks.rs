//! What strangers try with the interface, one test for each; docs/threats.md says what stops them. Requests that no proper
//! client would send go through openssl, byte by byte.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::common::{Heard, Relay, curl_command, wait_for};

const JSON: &str = "content-type: application/json";

/// Sends these bytes over TLS, and gives back what was answered until the relay hung up, or had said `until`.
fn raw(relay: &Relay, bytes: &[u8], until: &str) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-alpn", "http/1.1", "-connect"])
        .arg(&relay.https)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed (apt-get install openssl)");
    let mut input = client.stdin.take().expect("a pipe");
    let heard = Heard::new(client.stdout.take().expect("a pipe"));
    // The relay may hang up before it has read all.
    let _ = input.write_all(bytes);
    wait_for("an answer, or the end", || {
        (heard.is_whole() || heard.text().contains(until)).then_some(())
    });
    let _ = client.kill();
    let _ = client.wait();
    heard.text()
}

fn log_in(relay: &Relay, user: &str, password: &str, options: &[&str]) -> crate::common::Answer {
    let login = json!({ "user": user, "password": password }).to_string();
    let mut all = vec!["-H", JSON, "-d", &login];
    all.extend(options);
    relay.curl("/api/v1/session", &all)
}

/// Somebody has planted a session's cookie in a browser before its owner logs in.
#[test]
fn a_session_that_was_there_before_the_login_is_none_after_it() {
    let relay = Relay::start();
    let planted = "lks_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let cookie = format!("cookie: __Host-lekiwi={planted}");
    let entered = log_in(&relay, "admin", &relay.password(), &["-H", &cookie]);
    assert_eq!(entered.status, 200);
    let token = entered.json()["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    assert_ne!(token, planted);
    let set = entered.header("set-cookie").expect("a cookie");
    for part in [
        "__Host-lekiwi=lks_",
        "Secure",
        "HttpOnly",
        "SameSite=Strict",
        "Path=/",
    ] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains("Domain"), "{set}");
    for shown in [cookie, format!("authorization: Bearer {planted}")] {
        assert_eq!(relay.curl("/api/v1/me", &["-H", &shown]).status, 401);
    }
    // Another login is another session, and an address carries none.
    assert_ne!(relay.log_in(), token);
    let by_address = relay.curl(&format!("/api/v1/me?token={token}"), &[]);
    assert_eq!(by_address.status, 401);
}

#[test]
fn another_sites_page_changes_nothing_with_a_cookie() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let cookie = format!("cookie: __Host-lekiwi={admin}");
    let evil = "origin: https://evil.example";
    for (method, path) in [
        ("POST", "/api/v1/tokens"),
        ("PUT", "/api/v1/groups/theirs"),
        ("DELETE", "/api/v1/people/admin"),
        ("POST", "/logout"),
    ] {
        for header in [
            evil,
            "origin: null",
            "sec-fetch-site: cross-site",
            "accept: */*",
        ] {
            // What a page can send without being asked first.
            let options = ["-X", method, "-H", &cookie, "-H", header, "-d", "{}"];
            let refused = relay.curl(path, &options).problem();
            assert_eq!(refused.1, "cross-origin", "{method} {path} {header}");
        }
    }
    // Nor does it log anybody in as somebody else.
    let refused = log_in(&relay, "admin", &relay.password(), &["-H", evil]);
    assert_eq!(refused.problem().1, "cross-origin");
    assert_eq!(relay.curl_as(&admin, "/api/v1/me", &[]).status, 200);
    // No page of another site reads an answer.
    let answer = relay.curl_as(&admin, "/api/v1/me", &["-H", evil]);
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[test]
fn who_guesses_is_slowed_down_whatever_they_guess() {
    let relay = Relay::start();
    let mut statuses = Vec::new();
    for number in 0..12 {
        let tried = log_in(&relay, "admin", &format!("guess {number}"), &[]);
        statuses.push(tried.status);
        if tried.status == 429 {
            assert_eq!(tried.problem().1, "login-throttled");
            let wait = tried.header("retry-after").expect("a time");
            assert!(wait.parse::<u64>().expect("seconds") >= 1);
        }
    }
    assert_eq!(statuses[0], 401);
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
    // The right one is not told from a wrong one as long as that lasts.
    assert_eq!(log_in(&relay, "admin", &relay.password(), &[]).status, 429);
}

#[test]
fn a_path_leads_to_a_route_and_to_no_file() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let bearer = format!("authorization: Bearer {admin}");
    for path in [
        "/../../../etc/passwd",
        "/assets/../../../../etc/passwd",
        "/assets/..%2f..%2f..%2fetc%2fpasswd",
        "/assets/%2e%2e/%2e%2e/ca/ca.key",
        "/assets/..%5c..%5crelay.db",
        "/assets/%252e%252e%252frelay.db",
        "/assets//etc/passwd",
        "/assets/index.js%00.png",
        "//etc/passwd",
        "/api/v1/robots/..%2f..%2fca%2fca.key",
        "/api/v1/robots/kiwi-01/logs/..%2f..%2f..%2fca%2fca.key",
        "/api/v1/robots/%2e%2e/logs",
        "/api/v1/alert-rules/..%2f..%2frelay.yml",
    ] {
        let options = ["--path-as-is", "-H", &bearer];
        let answer = relay.curl(path, &options);
        assert!(
            (400..500).contains(&answer.status),
            "{path}: {}",
            answer.status
        );
        assert!(!answer.body.contains("root:"), "{path}");
        assert!(!answer.body.contains("PRIVATE KEY"), "{path}");
    }
}

#[test]
fn too_much_is_refused_before_it_is_kept() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let large = relay.data.path().join("large");
    std::fs::write(&large, vec![b' '; 70_000]).expect("a file");
    let file = format!("@{}", large.display());
    // Announced, and in pieces of which nobody knows how many there are.
    for header in ["accept: */*", "transfer-encoding: chunked"] {
        let options = [
            "--http1.1",
            "-H",
            JSON,
            "-H",
            header,
            "--data-binary",
            &file,
        ];
        let refused = relay.curl_as(&admin, "/api/v1/tokens", &options);
        assert_eq!(refused.problem().1, "too-large", "{header}");
    }
    let header = format!("x-large: {}\n", "a".repeat(600_000));
    std::fs::write(&large, header).expect("a file");
    let url = format!("https://{}/health", relay.https);
    for version in ["--http1.1", "--http2"] {
        let output = curl_command(&relay.ca(), &url, &[version, "-H", &file]).output();
        let output = output.expect("curl runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let is_refused = !output.status.success() || said.contains(" 431");
        assert!(is_refused, "{version}: {said}");
    }
    let many: Vec<String> = (0..5_000).map(|n| format!("x-{n}: a\r\n")).collect();
    let request = format!("GET /health HTTP/1.1\r\nHost: a\r\n{}\r\n", many.concat());
    let answer = raw(&relay, request.as_bytes(), "\r\n\r\n");
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(relay.curl("/health", &[]).status, 200);
}

/// Where a request ends must be the same to everybody on its way: what could be read in two ways is refused, or read in one
/// and the connection closed, so that no second request hides in it.
#[test]
fn a_request_has_one_meaning() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let hidden = "PUT /api/v1/groups/smuggled HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\
        Authorization: Bearer SESSION\r\n\r\n{\"robots\":[]}";
    let hidden = hidden.replace("SESSION", &admin);
    let length = hidden.len();
    let cases = [
        (
            "two lengths",
            format!("Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        ),
        (
            "a list of lengths",
            format!("Content-Length: 0, {length}\r\n\r\n{hidden}"),
        ),
        (
            "a signed length",
            format!("Content-Length: +0\r\n\r\n{hidden}"),
        ),
        (
            "a folded header",
            format!("X-A: b\r\n Content-Length: {length}\r\n\r\n{hidden}"),
        ),
        (
            "a space before the colon",
            format!("Content-Length : {length}\r\n\r\n{hidden}"),
        ),
        (
            "an unknown coding",
            format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        (
            "a bare line end",
            format!("X-A: b\rContent-Length: {length}\r\n\r\n{hidden}"),
        ),
        (
            "a chunk without a size",
            format!("Transfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        (
            "a negative chunk",
            format!("Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n{hidden}"),
        ),
        (
            "a chunk's line that ends in half",
            format!("Transfer-Encoding: chunked\r\n\r\n0\n\r\n{hidden}"),
        ),
        (
            "a length, and chunks",
            format!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        (
            "chunks, and a length",
            format!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        (
            "two codings",
            format!(
                "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        (
            "two hosts",
            format!("Host: b\r\nContent-Length: 0\r\n\r\n{hidden}"),
        ),
    ];
    let with_host = cases.map(|(what, rest)| {
        (
            what,
            format!("/api/v1/session HTTP/1.1\r\nHost: a\r\n{rest}"),
        )
    });
    let of_hosts = [
        (
            "no host",
            format!("/api/v1/session HTTP/1.1\r\nContent-Length: 0\r\n\r\n{hidden}"),
        ),
        (
            "another host in the URL",
            format!(
                "https://b/api/v1/session HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n{hidden}"
            ),
        ),
    ];
    for (what, rest) in with_host.into_iter().chain(of_hosts) {
        // Until the relay hangs up.
        let answer = raw(&relay, format!("POST {rest}").as_bytes(), "\0");
        assert!(answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
        assert!(!answer.contains("smuggled"), "{what}: {answer}");
    }
    // A line may end in a bare LF (RFC 9112, 2.2), which is one reading: what is hidden is the first one's body.
    let bare = format!(
        "POST /api/v1/session HTTP/1.1\nHost: a\nContent-Length: {length}\n\n{hidden}\
         GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    );
    let answer = raw(&relay, bare.as_bytes(), "\0");
    let statuses = answer.matches("HTTP/1.1 415").count() + answer.matches("HTTP/1.1 200").count();
    assert_eq!(
        (statuses, answer.matches("HTTP/1.1 ").count()),
        (2, 2),
        "{answer}"
    );
    // The same host twice is one; the older version needs none.
    for rest in [
        "https://a/health HTTP/1.1\r\nHost: A",
        "/health HTTP/1.0\r\nX-A: b",
    ] {
        let answer = raw(
            &relay,
            format!("GET {rest}\r\nConnection: close\r\n\r\n").as_bytes(),
            "\0",
        );
        assert!(answer.contains(" 200 OK\r\n"), "{answer}");
    }
    let groups = relay.curl_as(&admin, "/api/v1/groups", &[]).json();
    assert_eq!(
        groups["groups"],
        json!([]),
        "a hidden request was carried out"
    );
}

#[test]
fn deep_json_and_packed_bodies_are_refused_as_they_are() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let file = relay.data.path().join("bomb");
    let send = |bytes: &[u8], header: &str| {
        std::fs::write(&file, bytes).expect("a file");
        let body = format!("@{}", file.display());
        let options = ["-H", JSON, "-H", header, "--data-binary", &body];
        relay
            .curl_as(&admin, "/api/v1/tokens", &options)
            .problem()
            .1
    };
    let deep = |open: &str| format!("{{\"profile\":{}", open.repeat(60_000 / open.len()));
    for open in ["[", "{\"a\":"] {
        let kind = send(deep(open).as_bytes(), "accept: */*");
        assert!(
            ["malformed-body", "invalid-body"].contains(&kind.as_str()),
            "{kind}"
        );
    }
    // 60 MiB in 60 KiB: nothing is unpacked, so it is no JSON.
    let mut packed = Command::new("sh")
        .args(["-c", "head -c 60000000 /dev/zero | gzip -9"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip runs");
    let mut bytes = Vec::new();
    let mut output = packed.stdout.take().expect("a pipe");
    std::io::Read::read_to_end(&mut output, &mut bytes).expect("gzip writes");
    assert!(packed.wait().expect("a child").success() && bytes.len() < 65_536);
    assert_eq!(send(&bytes, "content-encoding: gzip"), "malformed-body");
    assert_eq!(relay.curl("/health", &[]).status, 200);
}

#[test]
fn nobody_else_writes_into_the_log() {
    let relay = Relay::start();
    let admin = relay.log_in();
    let evil = "kiwi\n2026-11-21T00:00:00Z ERROR forged=yes\u{1b}[2J\u{1b}]0;title\u{7}\r\u{2028}";
    assert_eq!(log_in(&relay, evil, "a", &[]).status, 401);
    let agent = b"GET /api/v1/me HTTP/1.1\r\nHost: a\r\nUser-Agent: \x1b[31mred\r\n\r\n";
    assert!(raw(&relay, agent, "\r\n\r\n").starts_with("HTTP/1.1 4"));
    let user = format!("{evil}:lkt_AAAA");
    let est = [
        "-u",
        &user,
        "-H",
        "content-type: application/pkcs10",
        "-d",
        "AAAA",
    ];
    assert!(relay.curl("/.well-known/est/simpleenroll", &est).status >= 400);
    let path = "/api/v1/robots/kiwi%0a%1b%5b2JERROR%20forged=yes/commands";
    let command = json!({ "op": "ping" }).to_string();
    let options = ["-X", "POST", "-H", JSON, "-d", &command];
    assert!(relay.curl_as(&admin, path, &options).status >= 400);
    let person = json!({ "name": evil, "password": "correct horse battery staple", "roles": [] });
    let person = person.to_string();
    let options = ["-H", JSON, "-d", &person];
    assert!(relay.curl_as(&admin, "/api/v1/people", &options).status >= 400);
    let log = relay.log();
    assert!(log.contains("login refused"), "{log}");
    for (number, line) in log.lines().enumerate() {
        assert!(
            !line.starts_with("2026-11-21T00:00:00Z ERROR"),
            "line {number} is forged"
        );
    }
    assert!(!log.contains(['\u{1b}', '\u{7}', '\r']), "{log:?}");
}

/// What `openssl s_client` said of a handshake.
fn handshake(address: &str, options: &[&str]) -> Output {
    Command::new("openssl")
        .args(["s_client", "-connect", address])
        .args(options)
        .stdin(Stdio::null())
        .output()
        .expect("openssl is installed (apt-get install openssl)")
}

#[test]
fn older_tls_and_weak_ciphers_are_refused() {
    let agreed = |output: &Output| {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        !said.contains("Cipher is (NONE)") && said.contains("Cipher is")
    };
    let relay = Relay::start();
    assert!(agreed(&handshake(&relay.https, &["-tls1_3"])));
    for old in ["-tls1_2", "-tls1_1", "-tls1"] {
        let options = [old, "-cipher", "ALL:@SECLEVEL=0"];
        assert!(!agreed(&handshake(&relay.https, &options)), "{old}");
        // The broker's library takes 1.2 as well (docs/broker.md), and nothing older.
        if old != "-tls1_2" {
            assert!(!agreed(&handshake(&relay.mqtt, &options)), "{old} of MQTT");
        }
    }
    drop(relay);
    // Where 1.2 is asked for, it is without what made it weak.
    let data = tempfile::tempdir().expect("a folder");
    let config = data.path().join("relay.yml");
    std::fs::write(&config, "https_tls: \"1.2\"\n").expect("a file");
    let config = config.to_str().expect("text").to_owned();
    let relay = Relay::start_with(data, &["--config", &config]);
    let with = |cipher: &str| {
        let cipher = format!("{cipher}:@SECLEVEL=0");
        handshake(&relay.https, &["-tls1_2", "-cipher", &cipher])
    };
    assert!(agreed(&with("ECDHE-ECDSA-AES128-GCM-SHA256")));
    for weak in [
        "AES128-SHA",
        "AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-SHA",
        "NULL",
        "aNULL",
    ] {
        assert!(!agreed(&with(weak)), "{weak}");
    }
    assert!(!agreed(&handshake(
        &relay.https,
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]
    )));
    for address in [&relay.https, &relay.mqtt] {
        let asked = handshake(address, &["-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0"]);
        assert!(!agreed(&asked), "without forward secrecy at {address}");
    }
}
