//! Logins by a real provider of OpenID Connect, through all of what a browser goes through.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Certificate, Client, StatusCode, Url};
use serde_json::{Value, json};

use crate::common::{Relay, wait_for};
use crate::port;
use crate::secrets;

const SECRET: &str = "a secret: with 100% & more";
const ROLES: &str = "[{claim: groups, value: robotics, role: engineer}, \
     {claim: groups, value: chiefs, role: admin}]";

/// The provider's program, which ends with it.
struct Provider {
    child: Child,
    /// It goes on talking, and ends when nobody listens.
    _said: BufReader<ChildStdout>,
    issuer: String,
}

impl Drop for Provider {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts it for this relay; `more` is put over its settings.
fn provide(port: u16, relay: &Relay, more: &Value) -> Provider {
    let packages = std::env::var_os("LEKIWI_OIDC_PROVIDER").expect(
        "LEKIWI_OIDC_PROVIDER (hint: cargo xtask test installs the provider's packages, and sets it)",
    );
    let issuer = format!("http://127.0.0.1:{port}");
    let mut settings = json!({
        "port": port, "issuer": issuer, "client_id": "lekiwi", "client_secret": SECRET,
        "redirect_uris": [format!("https://{}/login/oidc/company/callback", relay.https)],
    });
    for (key, value) in more.as_object().expect("settings") {
        settings[key] = value.clone();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/relay/oidc/provider.mjs");
    let mut child = Command::new("node")
        .arg(script)
        .arg(packages)
        .arg(settings.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("node is installed");
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
    said.read_line(&mut line).expect("the provider speaks");
    assert_eq!(line, "ready\n");
    Provider {
        child,
        _said: said,
        issuer,
    }
}

/// A relay that takes this provider's word.
fn relay(port: u16, more: &str) -> Relay {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).expect("a file");
    secrets::keep("the secret of an OIDC client", SECRET);
    let configuration = format!(
        "people: {{oidc: [{{name: company, issuer: 'http://127.0.0.1:{port}', client_id: lekiwi, \
         scopes: [profile, groups], roles: {ROLES}, {more}}}]}}\n",
        more = more.replace("SECRET", &secret.display().to_string()),
    );
    std::fs::write(data.join("relay.yml"), configuration).expect("a file");
    Relay::start_in(folder)
}

const WITH_SECRET: &str = "client_secret: {file: 'SECRET'}, session_hours: 2";

/// What a browser does, but for scripts.
struct Browser {
    client: Client,
    cookies: BTreeMap<(u16, String), String>,
}

struct Page {
    status: StatusCode,
    location: Option<Url>,
    set: Vec<String>,
    text: String,
}

impl Browser {
    fn new(relay: &Relay) -> Self {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pem = std::fs::read(relay.ca()).expect("the authority");
        let authority = Certificate::from_pem(&pem).expect("a certificate");
        let client = Client::builder()
            .tls_certs_only([authority])
            .redirect(reqwest::redirect::Policy::none());
        Self {
            client: client.build().expect("a client"),
            cookies: BTreeMap::new(),
        }
    }

    async fn get(&mut self, url: &Url) -> Page {
        let port = url.port().expect("a port");
        let own = self.cookies.iter().filter(|((of, _), _)| *of == port);
        let cookies: Vec<String> = own
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        let request = self.client.get(url.clone());
        let request = request.header(COOKIE, cookies.join("; "));
        let answer = request.send().await.expect("an answer");
        let text = |value: &reqwest::header::HeaderValue| value.to_str().expect("text").to_owned();
        let set: Vec<String> = answer
            .headers()
            .get_all(SET_COOKIE)
            .iter()
            .map(text)
            .collect();
        for cookie in &set {
            let pair = cookie.split(';').next().unwrap_or_default();
            let (name, value) = pair.split_once('=').expect("a cookie");
            let key = (port, name.to_owned());
            if value.is_empty() {
                self.cookies.remove(&key);
            } else {
                self.cookies.insert(key, value.to_owned());
            }
        }
        let location = answer.headers().get(LOCATION).map(text);
        Page {
            status: answer.status(),
            location: location.map(|to| url.join(&to).expect("an address")),
            set,
            text: answer.text().await.expect("a body"),
        }
    }

    /// Goes to the provider, and back as far as the relay's door.
    async fn come_back(&mut self, relay: &Relay) -> Url {
        let mut url = at(relay, "/login/oidc/company");
        for _ in 0..10 {
            let page = self.get(&url).await;
            let Some(to) = page.location else {
                panic!("{url}: {} {}", page.status, page.text);
            };
            if to.path().ends_with("/callback") {
                return to;
            }
            url = to;
        }
        panic!("expected to come back, got {url}");
    }

    async fn log_in(&mut self, relay: &Relay) -> Page {
        let back = self.come_back(relay).await;
        self.get(&back).await
    }

    async fn json(&mut self, relay: &Relay, path: &str) -> Value {
        let page = self.get(&at(relay, path)).await;
        serde_json::from_str(&page.text).unwrap_or_else(|error| panic!("{error}: {}", page.text))
    }

    fn session(&self) -> Option<&String> {
        let mut own = self.cookies.iter();
        own.find_map(|((_, name), value)| (name == "__Host-lekiwi").then_some(value))
    }
}

fn at(relay: &Relay, path: &str) -> Url {
    format!("https://{}{path}", relay.https)
        .parse()
        .expect("an address")
}

/// What the next one who logs in is, or how their token is spoilt.
async fn next(provider: &Provider, what: &str) {
    let url = format!("{}/test/next?{what}", provider.issuer);
    let answer = reqwest::get(url).await.expect("an answer");
    assert_eq!(answer.status(), 200);
}

fn alert(page: &Page) -> &str {
    let text = page.text.split("role=\"alert\">").nth(1);
    text.and_then(|text| text.split('<').next())
        .unwrap_or_else(|| panic!("expected an error on the page: {}", page.text))
}

/// Logs in, expects that it is refused with this on the login page, and that no session has begun.
async fn refused(relay: &Relay, expected: (u16, &str)) {
    let mut browser = Browser::new(relay);
    let page = browser.log_in(relay).await;
    assert_eq!((page.status.as_u16(), alert(&page)), expected);
    assert!(
        page.text
            .contains("<form method=\"post\" action=\"/login\">")
    );
    assert_eq!(
        browser
            .cookies
            .keys()
            .filter(|(_, name)| name.starts_with("__Host-"))
            .count(),
        0
    );
}

const UNCONFIRMED: (u16, &str) = (403, "company did not confirm who you are. Try again.");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_logs_in_and_is_what_the_provider_says() {
    let port = port::free();
    let relay = relay(port, WITH_SECRET);
    let mut browser = Browser::new(&relay);
    let page = browser.get(&at(&relay, "/login")).await;
    assert!(
        page.text
            .contains("<a class=\"other\" href=\"/login/oidc/company\">Log in by company</a>")
    );
    // Whether it answers or not is nobody's business who does not log in by it.
    let page = browser.get(&at(&relay, "/login/oidc/company")).await;
    assert_eq!(
        (page.status.as_u16(), alert(&page)),
        (
            502,
            "company does not answer. Try again later, or log in by a password."
        )
    );
    let admin = relay.log_in();

    let provider = provide(port, &relay, &json!({}));
    let page = browser.log_in(&relay).await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert!(
        page.text
            .contains("<meta http-equiv=\"refresh\" content=\"0;url=/\">")
    );
    let session = page
        .set
        .iter()
        .find(|cookie| cookie.starts_with("__Host-lekiwi="));
    let session = session.expect("a session's cookie");
    assert!(
        session.ends_with("; Path=/; Max-Age=7200; Secure; HttpOnly; SameSite=Strict"),
        "{session}"
    );
    let me = browser.json(&relay, "/api/v1/me").await;
    assert_eq!(
        (&me["name"], &me["rights"][0]["by"]),
        (&json!("ada"), &json!("engineer"))
    );
    let sessions = browser.json(&relay, "/api/v1/me/sessions").await;
    let ends = &sessions["sessions"][0]["expires_at"];
    let person = relay.curl_as(&admin, "/api/v1/people/ada", &[]).json();
    assert_eq!(person["issuer"], provider.issuer);
    assert_eq!(person["has_password"], false);
    let until = person["roles"][0]["until"].as_str().expect("an end");
    // The session begins when they are known.
    assert_eq!(until[..18], ends.as_str().expect("an end")[..18]);

    // What they are is the provider's to say: at once where they log in again, and here not at all.
    for (method, path, body) in [
        ("PATCH", "/api/v1/people/ada", json!({ "roles": [] })),
        (
            "PUT",
            "/api/v1/people/ada/password",
            json!({ "password": "correct horse battery staple" }),
        ),
    ] {
        let (body, header) = (body.to_string(), "content-type: application/json");
        let answer = relay.curl_as(&admin, path, &["-X", method, "-H", header, "-d", &body]);
        assert_eq!(answer.problem().1, "person-provided");
    }
    next(&provider, "who=ada&groups=chiefs").await;
    let mut second = Browser::new(&relay);
    assert_eq!(second.log_in(&relay).await.status, 200);
    for browser in [&mut browser, &mut second] {
        let me = browser.json(&relay, "/api/v1/me").await;
        assert_eq!(
            (&me["name"], &me["rights"][0]["by"]),
            (&json!("ada"), &json!("admin"))
        );
        assert_eq!(me["rights"].as_array().map(Vec::len), Some(1));
    }
    // An admin who may be none tomorrow is no last admin.
    let last = second.session().expect("a session").clone();
    let answer = relay.curl_as(&last, "/api/v1/people/admin", &["-X", "DELETE"]);
    assert_eq!(answer.problem().1, "last-admin");
    next(&provider, "who=ada&groups=canteen").await;
    refused(
        &relay,
        (
            403,
            "company knows you, but you may do nothing here. Ask an administrator.",
        ),
    )
    .await;
    let me = browser.json(&relay, "/api/v1/me").await;
    assert_eq!(me["rights"], json!([]));

    // Logging out ends the session; whoever is disabled does not come back.
    next(&provider, "who=ada&groups=robotics").await;
    assert_eq!(second.log_in(&relay).await.status, 200);
    let session = second.session().expect("a session").clone();
    assert_eq!(
        relay.curl_as(&session, "/logout", &["-X", "POST"]).status,
        303
    );
    assert_eq!(
        relay.curl_as(&session, "/api/v1/me", &[]).problem().1,
        "login-required"
    );
    let (body, header) = (r#"{"disabled":true}"#, "content-type: application/json");
    let disabled = relay.curl_as(
        &admin,
        "/api/v1/people/ada",
        &["-X", "PATCH", "-H", header, "-d", body],
    );
    assert_eq!(disabled.json()["sessions"], 0);
    refused(&relay, (403, "ada is not let in any more.")).await;
    assert!(!relay.log().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_taken_over_and_nobody_slips_in() {
    let port = port::free();
    let relay = relay(port, WITH_SECRET);
    let provider = provide(port, &relay, &json!({}));
    for (who, text) in [
        (
            "mallory",
            "Somebody else is called admin here. Ask an administrator for another name at company.",
        ),
        ("nameless", "company does not say what to call you here."),
        (
            "bob",
            "company knows you, but you may do nothing here. Ask an administrator.",
        ),
        ("nobody", "company did not let you in. access_denied"),
    ] {
        next(&provider, &format!("who={who}")).await;
        refused(&relay, (403, text)).await;
    }
    let people = relay.curl_as(&relay.log_in(), "/api/v1/people", &[]).json();
    assert_eq!(
        people["people"].as_array().map(Vec::len),
        Some(1),
        "{people}"
    );

    // A token that is not for this login, or not of the provider.
    for twist in [
        "nonce",
        "audience",
        "issuer",
        "expired",
        "none",
        "symmetric",
        "forged",
    ] {
        next(&provider, &format!("who=ada&twist={twist}")).await;
        refused(&relay, UNCONFIRMED).await;
    }
    let log = relay.log();
    for reason in [
        "expected nonce of the token to be that of this login, got \\\"another\\\"",
        "expected aud of the token to be lekiwi, got \\\"another\\\"",
        "got \\\"https://another.example\\\"",
        "expected exp of the token to be a time to come",
        "expected a token signed by RS256, ES256 or the like, got \\\"none\\\"",
        "expected a token signed by RS256, ES256 or the like, got \\\"HS256\\\"",
        "expected a token that the provider signed, got one that was changed or is somebody else's",
    ] {
        let plain = reason.replace('\\', "");
        assert!(
            log.contains(reason) || log.contains(&plain),
            "{reason} in {log}"
        );
    }
    // Spoilt by nothing, it is taken as it would have been at first.
    next(&provider, "twist=unspoilt").await;
    assert_eq!(Browser::new(&relay).log_in(&relay).await.status, 200);
    assert!(!relay.log().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_ends_in_the_browser_that_began_it_and_once() {
    let port = port::free();
    let relay = relay(port, WITH_SECRET);
    let provider = provide(port, &relay, &json!({}));
    let elsewhere = (
        400,
        "This login was begun in another browser, or too long ago. Try again.",
    );
    let told = |page: &Page| (page.status.as_u16(), alert(page).to_owned());
    let said = |expected: (u16, &str)| (expected.0, expected.1.to_owned());

    // Another browser, which has begun a login of its own or none.
    let (mut victim, mut attacker) = (Browser::new(&relay), Browser::new(&relay));
    let back = attacker.come_back(&relay).await;
    assert_eq!(told(&victim.get(&back).await), said(elsewhere));
    let own = victim.come_back(&relay).await;
    assert_eq!(told(&victim.get(&back).await), said(elsewhere));
    assert_eq!(victim.session(), None);
    // That used up what the browser had begun.
    assert_eq!(told(&victim.get(&own).await), said(elsewhere));

    // The code of one login in another one of the same browser: the verifier is another.
    let first = victim.come_back(&relay).await;
    let second = victim.come_back(&relay).await;
    let code = |url: &Url| {
        let found = url.query_pairs().find(|(name, _)| name == "code");
        found.expect("a code").1.into_owned()
    };
    let mixed = second.as_str().replace(&code(&second), &code(&first));
    let cookies = victim.cookies.clone();
    assert_eq!(
        told(&victim.get(&mixed.parse().expect("an address")).await),
        said(UNCONFIRMED)
    );
    victim.cookies = cookies.clone();
    // What another provider sends back is not this one's.
    let (place, other) = (
        provider.issuer.replace("://", "%3A%2F%2F"),
        "https%3A%2F%2Fanother.example",
    );
    let foreign = second
        .as_str()
        .replace(&place.replacen("127.0.0.1:", "127.0.0.1%3A", 1), other);
    assert_ne!(foreign, second.as_str());
    let page = victim.get(&foreign.parse().expect("an address")).await;
    assert_eq!(told(&page), said((403, "company did not let you in. ")));

    // Once; a browser that has kept everything is told so by the provider.
    victim.cookies = cookies.clone();
    assert_eq!(victim.get(&second).await.status, 200);
    let session = victim.session().cloned();
    assert!(session.is_some());
    victim.cookies = cookies;
    assert_eq!(told(&victim.get(&second).await), said(UNCONFIRMED));
    assert_eq!(victim.session(), None);
    assert_eq!(relay.curl("/login/oidc/another", &[]).status, 404);
    assert_eq!(
        told(
            &victim
                .get(&at(&relay, "/login/oidc/company/callback"))
                .await
        ),
        said(elsewhere)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_may_have_other_keys_and_the_relay_no_secret() {
    let port = port::free();
    let relay = relay(port, "name_claim: preferred_username");
    let public = json!({ "client_secret": null, "claims_in_token": true });
    let provider = provide(port, &relay, &public);
    let mut browser = Browser::new(&relay);
    assert_eq!(browser.log_in(&relay).await.status, 200);
    drop(provider);
    // Those of before are kept, but it is not there to send anybody back.
    let provider = provide(port, &relay, &public);
    let mut browser = Browser::new(&relay);
    assert_eq!(browser.log_in(&relay).await.status, 200);
    let me = browser.json(&relay, "/api/v1/me").await;
    assert_eq!(me["name"], "ada");
    let back = browser.come_back(&relay).await;
    drop(provider);
    let page = browser.get(&back).await;
    let gone = "company does not answer. Try again later, or log in by a password.";
    assert_eq!((page.status.as_u16(), alert(&page)), (502, gone));
}

/// A browser with one page, gone when dropped.
struct Chromium(Child);

impl Chromium {
    fn open(profile: &Path, page: &str) -> Self {
        let browser = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--ignore-certificate-errors", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(page)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(browser.expect("chromium is installed (apt-get install chromium)"))
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What curl takes, browsers may not: the session's cookie is strict, and the way here began elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_browser_ends_at_the_dashboard() {
    let port = port::free();
    let relay = relay(port, WITH_SECRET);
    let _provider = provide(port, &relay, &json!({}));
    let profile = tempfile::tempdir().expect("a temporary folder");
    let _browser = Chromium::open(profile.path(), at(&relay, "/login/oidc/company").as_str());
    let session = relay.log_in();
    // The dashboard asks it, with the session that the login began.
    let asked = "route=\"/api/v1/me\",status=\"2xx\"";
    wait_for("the dashboard", || {
        let metrics = relay.curl_as(&session, "/metrics", &[]).body;
        metrics.contains(asked).then_some(())
    });
    assert!(
        relay.log().contains("logged in user=ada"),
        "{}",
        relay.log()
    );
}
