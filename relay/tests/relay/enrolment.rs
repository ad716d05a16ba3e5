//! Enrolment as a person would do it: `openssl` makes the request, `curl` sends it, and the certificate
//! works with `mosquitto_pub`. Every refusal has its own type and text.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;

use crate::common::{Answer, Relay, certificate, openssl, request, wait_for};

/// Writes `text` beside the other files and names it.
fn file(relay: &Relay, name: &str, text: &str) -> PathBuf {
    let path = relay.data.path().join(name);
    fs::write(&path, text).expect("a file");
    path
}

fn refusal(answer: &Answer) -> (u16, String, String) {
    answer.problem()
}

fn expected(status: u16, slug: &str, detail: &str) -> (u16, String, String) {
    (status, slug.to_owned(), detail.to_owned())
}

#[test]
fn curl_and_openssl_alone_enrol_a_robot() {
    let relay = Relay::start();
    let folder = relay.data.path();

    // Whoever has only the fingerprint can fetch and check the authority.
    let fetched = Answer::read(
        Command::new("curl")
            .args([
                "-sS",
                "-i",
                "-k",
                &format!("https://{}/.well-known/est/cacerts", relay.https),
            ])
            .output()
            .expect("curl is installed (apt-get install curl)"),
    );
    assert_eq!(
        (fetched.status, fetched.header("content-type")),
        (200, Some("application/pkcs7-mime"))
    );
    assert_eq!(fetched.header("content-transfer-encoding"), Some("base64"));
    let ca = certificate(&fetched.body);
    assert_eq!(
        ca.trim(),
        fs::read_to_string(relay.ca())
            .expect("the authority")
            .trim()
    );
    let digest = openssl(&["x509", "-noout", "-fingerprint", "-sha256"], &ca);
    let digest = digest
        .trim()
        .rsplit('=')
        .next()
        .expect("a digest")
        .replace(':', "")
        .to_lowercase();
    assert_eq!(format!("sha256:{digest}"), relay.fingerprint);

    let token = relay.token(&["--profile", "lekiwi", "--serial", "1000abcd"]);
    let (key, csr) = request(
        folder,
        "kiwi-01",
        "/CN=kiwi-01/serialNumber=1000abcd/OU=lekiwi/O=evil",
    );
    let answer = relay.enrol("kiwi-01", &token, &csr);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        answer.header("content-type"),
        Some("application/pkcs7-mime; smime-type=certs-only")
    );
    let pem = certificate(&answer.body);
    let path = file(&relay, "kiwi-01.pem", &pem);
    let shown = path.to_str().expect("text");

    let text = openssl(
        &[
            "x509",
            "-noout",
            "-subject",
            "-nameopt",
            "RFC2253",
            "-ext",
            "extendedKeyUsage,basicConstraints",
        ],
        &pem,
    );
    assert!(
        text.contains("subject=OU=robot,O=default,CN=kiwi-01\n"),
        "{text}"
    );
    assert!(
        text.contains("TLS Web Client Authentication") && text.contains("CA:FALSE"),
        "{text}"
    );
    let ca_path = relay.ca();
    openssl(
        &[
            "verify",
            "-purpose",
            "sslclient",
            "-CAfile",
            ca_path.to_str().expect("text"),
            shown,
        ],
        "",
    );
    assert_eq!(
        openssl(&["x509", "-noout", "-pubkey"], &pem),
        openssl(&["pkey", "-in", key.to_str().expect("text"), "-pubout"], "")
    );
    assert_eq!(
        openssl(
            &["x509", "-noout", "-checkend", &(89 * 86400).to_string()],
            &pem
        )
        .trim(),
        "Certificate will not expire"
    );

    // The answer was lost: the same key gets the same certificate, base64 in one line as well.
    let again = relay.enrol("kiwi-01", &token, &csr);
    assert_eq!(again.body, answer.body);
    let line = fs::read_to_string(&csr)
        .expect("the request")
        .replace('\n', "");
    assert_eq!(
        relay
            .enrol("kiwi-01", &token, &file(&relay, "line.b64", &line))
            .body,
        answer.body
    );

    // And after kill -9.
    let relay = Relay::start_in(relay.kill());
    let csr = relay.data.path().join("kiwi-01.b64");
    assert_eq!(relay.enrol("kiwi-01", &token, &csr).body, answer.body);
}

#[test]
fn each_bad_token_is_refused_in_its_own_words() {
    let relay = Relay::start();
    let folder = relay.data.path();
    let (_, csr) = request(
        folder,
        "kiwi-01",
        "/CN=kiwi-01/serialNumber=1000abcd/OU=xle",
    );
    let (_, other) = request(folder, "other", "/CN=kiwi-01/serialNumber=1000abcd/OU=xle");
    let est = "/.well-known/est/simpleenroll";
    let pkcs10 = [
        "-H",
        "content-type: application/pkcs10",
        "--data-binary",
        "x",
    ];

    let none = relay.curl(est, &pkcs10);
    assert_eq!(
        refusal(&none),
        expected(
            401,
            "token-required",
            "expected HTTP Basic authentication: the robot's id and an enrolment token"
        )
    );
    assert_eq!(
        none.header("www-authenticate"),
        Some("Basic realm=\"lekiwi enrolment\", charset=\"UTF-8\"")
    );
    assert_eq!(
        refusal(&relay.enrol("kiwi-01", "lkt_guess", &csr)),
        expected(
            401,
            "token-unknown",
            "expected an enrolment token of this relay, got an unknown one"
        )
    );
    assert_eq!(
        refusal(&relay.enrol("kiwi-01", &relay.token(&["--serial", "1000ffff"]), &csr)),
        expected(
            403,
            "token-wrong-serial",
            "the token is for the machine with serial 1000ffff, the request for 1000abcd"
        )
    );
    assert_eq!(
        refusal(&relay.enrol("kiwi-01", &relay.token(&["--robot", "kiwi-02"]), &csr)),
        expected(
            403,
            "token-wrong-robot",
            "the token is for robot kiwi-02, the request for kiwi-01"
        )
    );
    let short = relay.token(&["--lifetime", "1s"]);
    let (status, slug, detail) = wait_for("the token's end", || {
        // Bound to nothing yet: a request that fails its own check does not spend it.
        let refused = relay.enrol("kiwi-02", &short, &csr).problem();
        (refused.1 == "csr-wrong-subject").then_some(refused)
    });
    assert_eq!(
        (status, slug, detail),
        expected(
            403,
            "csr-wrong-subject",
            "expected a request for kiwi-02, got one for \"kiwi-01\""
        )
    );
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let (status, slug, detail) = refusal(&relay.enrol("kiwi-01", &short, &csr));
    assert_eq!((status, slug.as_str()), (403, "token-expired"));
    assert!(
        detail.starts_with("the token expired at 20") && detail.ends_with(" ago"),
        "{detail}"
    );

    let token = relay.token(&[]);
    assert_eq!(relay.enrol("kiwi-01", &token, &csr).status, 200);
    let (status, slug, detail) = refusal(&relay.enrol("kiwi-01", &token, &other));
    assert_eq!((status, slug.as_str()), (409, "token-used"));
    assert!(
        detail.starts_with("the token was used at 20") && detail.ends_with(" by another key"),
        "{detail}"
    );
    assert_eq!(
        refusal(&relay.enrol("kiwi-01", &relay.token(&[]), &other)),
        expected(
            409,
            "robot-exists",
            "robot kiwi-01 has a certificate for another key, and the token is not bound to it"
        )
    );
    assert_eq!(
        relay
            .enrol("kiwi-01", &relay.token(&["--robot", "kiwi-01"]), &other)
            .status,
        200
    );
    assert!(!relay.log().contains("lkt_"), "no token in the log");

    // What became of them is listed, without secrets.
    let session = relay.log_in();
    let listed = relay.curl_as(&session, "/api/v1/tokens", &[]);
    assert!(!listed.body.contains("lkt_"));
    let tokens = listed.json();
    let tokens = tokens["tokens"].as_array().expect("a list");
    assert_eq!(
        tokens.iter().filter(|t| t["used_by"] == "kiwi-01").count(),
        2
    );
    let fresh = tokens
        .iter()
        .find(|t| t["serial"] == "1000ffff")
        .expect("the token");
    let path = format!("/api/v1/tokens/{}", fresh["id"].as_str().expect("an id"));
    assert_eq!(
        relay.curl_as(&session, &path, &["-X", "DELETE"]).status,
        204
    );
    assert_eq!(
        relay
            .curl_as(&session, &path, &["-X", "DELETE"])
            .problem()
            .1,
        "token-not-found"
    );
}

#[test]
fn each_bad_request_is_refused_in_its_own_words() {
    let relay = Relay::start();
    let folder = relay.data.path();
    let token = relay.token(&[]);
    let enrol = |robot: &str, path: &Path| refusal(&relay.enrol(robot, &token, path));
    let invalid = |detail: &str| expected(400, "csr-invalid", detail);

    assert_eq!(
        enrol("kiwi-01", &file(&relay, "text", "no request!")),
        invalid("expected a PKCS#10 request as base64 of DER, got 11 bytes that are no base64")
    );
    assert_eq!(
        enrol("kiwi-01", &file(&relay, "short", "AAAA")),
        invalid("expected a PKCS#10 request, got 3 bytes that are none")
    );
    let (key, csr) = request(folder, "kiwi-01", "/CN=kiwi-01");
    let pem = openssl(
        &[
            "req",
            "-new",
            "-key",
            key.to_str().expect("text"),
            "-subj",
            "/CN=kiwi-01",
        ],
        "",
    );
    assert_eq!(
        enrol("kiwi-01", &file(&relay, "pem", &pem)),
        invalid("expected a PKCS#10 request as base64 of DER, got PEM")
    );
    assert_eq!(
        enrol("kiwi-01", &file(&relay, "large", &"A".repeat(70_000))),
        expected(413, "too-large", "expected at most 65536 bytes")
    );

    let rsa = folder.join("rsa.der");
    openssl(
        &[
            "req",
            "-new",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "/dev/null",
            "-subj",
            "/CN=kiwi-01",
            "-outform",
            "DER",
            "-out",
            rsa.to_str().expect("text"),
        ],
        "",
    );
    let rsa = openssl(&["base64", "-in", rsa.to_str().expect("text")], "");
    assert_eq!(
        enrol("kiwi-01", &file(&relay, "rsa.b64", &rsa)),
        invalid("expected a P-256 key, got rsaEncryption")
    );

    let good = fs::read_to_string(&csr).expect("the request");
    let mut forged = openssl_bytes(&["base64", "-d"], &good);
    let at = forged
        .windows(7)
        .position(|w| w == b"kiwi-01")
        .expect("the name");
    forged[at + 6] = b'2';
    let der = folder.join("forged.der");
    fs::write(&der, forged).expect("a file");
    let forged = openssl(&["base64", "-in", der.to_str().expect("text")], "");
    assert_eq!(
        enrol("kiwi-02", &file(&relay, "forged.b64", &forged)),
        invalid("expected a request signed by the key it carries, got another signature")
    );
    let (_, nameless) = request(folder, "nameless", "/OU=lekiwi");
    assert_eq!(
        enrol("kiwi-01", &nameless),
        invalid("expected one CN in the request's subject, got 0")
    );
    let (_, double) = request(folder, "double", "/CN=kiwi-01/CN=kiwi-02");
    assert_eq!(
        enrol("kiwi-01", &double),
        invalid("expected one CN in the request's subject, got 2")
    );

    assert_eq!(
        enrol("kiwi-02", &csr),
        expected(
            403,
            "csr-wrong-subject",
            "expected a request for kiwi-02, got one for \"kiwi-01\""
        )
    );
    assert_eq!(
        enrol("Kiwi_1", &csr),
        expected(
            400,
            "robot-id-invalid",
            "expected a robot id: 1 to 63 of a-z, 0-9 and '-', not starting with '-', got \"Kiwi_1\""
        )
    );
    let typed = relay.curl(
        "/.well-known/est/simpleenroll",
        &["-u", &format!("kiwi-01:{token}"), "-d", "x"],
    );
    assert_eq!(
        refusal(&typed),
        expected(
            415,
            "unsupported-media-type",
            "expected content type application/pkcs10, got application/x-www-form-urlencoded"
        )
    );
    // None of it spent the token.
    assert_eq!(relay.enrol("kiwi-01", &token, &csr).status, 200);
}

fn openssl_bytes(arguments: &[&str], input: &str) -> Vec<u8> {
    let path = tempfile::NamedTempFile::new().expect("a file");
    fs::write(path.path(), input).expect("a file");
    let output = Command::new("openssl")
        .args(arguments)
        .arg("-in")
        .arg(path.path())
        .output()
        .expect("openssl runs");
    assert!(output.status.success());
    output.stdout
}

/// `mosquitto_pub` with a robot's certificate.
fn publish(relay: &Relay, robot: &str, options: &[&str]) -> Output {
    let (host, port) = relay.mqtt.rsplit_once(':').expect("an address");
    let at = |suffix: &str| relay.data.path().join(format!("{robot}.{suffix}"));
    Command::new("mosquitto_pub")
        .args([
            "-V", "5", "-q", "1", "-i", robot, "-h", host, "-p", port, "--cafile",
        ])
        .arg(relay.ca())
        .arg("--cert")
        .arg(at("pem"))
        .arg("--key")
        .arg(at("key"))
        .args(options)
        .output()
        .expect("mosquitto_pub is installed (apt-get install mosquitto-clients)")
}

#[test]
fn the_certificate_works_with_mosquitto_and_only_for_its_own_topics() {
    let relay = Relay::start();
    let folder = relay.data.path();
    let session = relay.log_in();
    for robot in ["kiwi-01", "kiwi-02", "relay"] {
        let (_, csr) = request(folder, robot, &format!("/CN={robot}"));
        let answer = relay.enrol(robot, &relay.token(&[]), &csr);
        file(&relay, &format!("{robot}.pem"), &certificate(&answer.body));
    }
    let message = r#"{"type":"telemetry","robot_id":"kiwi-01","timestamp":"2026-11-21T03:52:00.000Z","sequence":7,"payload":{"metrics":{"cpu_percent":12.5}}}"#;
    let own = "fleet/v1/default/robots/kiwi-01/from/telemetry";
    let sent = publish(&relay, "kiwi-01", &["-t", own, "-m", message]);
    assert!(
        sent.status.success(),
        "{}",
        String::from_utf8_lossy(&sent.stderr)
    );
    wait_for("the value", || {
        let robot = relay
            .curl_as(&session, "/api/v1/robots/kiwi-01", &[])
            .json();
        (robot["resources"]["cpu_percent"] == 12.5).then_some(())
    });
    wait_for("the value in history", || {
        let path = "/api/v1/robots/kiwi-01/telemetry?metric=cpu_percent";
        let series = relay.curl_as(&session, path, &[]).json();
        (series["series"][0]["points"][0][1] == 12.5).then_some(())
    });
    let path = "/api/v1/robots/kiwi-01/telemetry?metric=uptime_s,cpu_percent,uptime_s&from=0&to=4102444800000&points=10";
    let all = relay.curl_as(&session, path, &[]).json();
    assert_eq!(
        (&all["resolution"], &all["step_ms"]),
        (&json!("1h"), &json!(455_828_400_000_u64))
    );
    let decade = all["series"][1]["points"][0][0].clone();
    let series = json!([
        { "metric": "uptime_s", "points": [] },
        { "metric": "cpu_percent", "points": [[decade, 12.5]], "ranges": [[12.5, 12.5]] },
    ]);
    assert_eq!(all["series"], series);
    let counts = relay.curl_as(&session, &format!("{path}&aggregate=count"), &[]);
    assert_eq!(
        counts.json()["series"][1],
        json!({ "metric": "cpu_percent", "points": [[decade, 1.0]] })
    );
    assert_eq!(
        relay
            .curl_as(&session, "/api/v1/robots/kiwi-01/telemetry", &[])
            .json()["hint"],
        "kiwi-01 has cpu_percent"
    );

    // A robot may be called so: the relay's own name is none that a robot can have.
    let (topic, message_of_relay) = (
        own.replace("kiwi-01", "relay"),
        message.replace("kiwi-01", "relay"),
    );
    assert!(
        publish(&relay, "relay", &["-t", &topic, "-m", &message_of_relay])
            .status
            .success()
    );
    wait_for("the robot called relay", || {
        let robot = relay.curl_as(&session, "/api/v1/robots/relay", &[]).json();
        (robot["resources"]["cpu_percent"] == 12.5).then_some(())
    });
    let events = relay
        .curl_as(&session, "/api/v1/robots/relay/events", &[])
        .json();
    assert_eq!(events["events"][0]["source"], "relay:r1");

    let foreign = "fleet/v1/default/robots/kiwi-02/from/telemetry";
    let refused = publish(&relay, "kiwi-01", &["-t", foreign, "-m", message]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("Not authorized"), "{told}");
    let will = publish(
        &relay,
        "kiwi-01",
        &[
            "-t",
            own,
            "-m",
            message,
            "--will-topic",
            "fleet/v1/default/robots/kiwi-02/from/connection",
            "--will-payload",
            "x",
        ],
    );
    assert!(!will.status.success());
    let other_id = publish(
        &relay,
        "kiwi-01",
        &["-i", "kiwi-02", "-t", own, "-m", message],
    );
    assert!(!other_id.status.success());
    let broken = publish(&relay, "kiwi-01", &["-t", own, "-m", "{\"type\":"]);
    assert!(broken.status.success());

    let reasons = wait_for("four refusals", || {
        let refused = relay
            .curl_as(&session, "/api/v1/refused?limit=10", &[])
            .json();
        let reasons: Vec<String> = refused["refused"]
            .as_array()?
            .iter()
            .map(|r| r["reason"].as_str().unwrap_or_default().to_owned())
            .collect();
        (reasons.len() == 4).then_some(reasons)
    });
    assert_eq!(
        reasons[3],
        "robot kiwi-01 may publish only below its own robots/kiwi-01/from/, not to \"fleet/v1/default/robots/kiwi-02/from/telemetry\""
    );
    assert!(
        reasons
            .iter()
            .any(|r| r == "expected client id kiwi-01, got \"kiwi-02\""),
        "{reasons:?}"
    );
}
