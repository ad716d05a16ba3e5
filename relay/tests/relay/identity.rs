//! Renewal and revocation of certificates, as a person would do it: `openssl` makes requests and reads answers, `curl`
//! sends them, and MQTT clients connect with what comes of it.

use std::fs;
use std::path::{Path, PathBuf};

use lekiwi_protocol::Timestamp;
use serde_json::Value;

use crate::common::{
    Answer, Relay, certificate, command, curl_command, openssl, request, wait_for,
};
use crate::support::{self, Client, Identity, until};

const REENROLL: &str = "/.well-known/est/simplereenroll";
const OWN: &str = "/api/v1/robots/kiwi-01/identity";

/// A certificate and its key, as files.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn keep(folder: &Path, name: &str, pem: &str, key: PathBuf) -> Self {
        let certificate = folder.join(format!("{name}.pem"));
        fs::write(&certificate, pem).unwrap();
        Self { certificate, key }
    }

    fn enrol(relay: &Relay, name: &str) -> Self {
        let folder = relay.data.path();
        let (key, csr) = request(folder, name, "/CN=kiwi-01/OU=lekiwi");
        let answer = relay.enrol("kiwi-01", &relay.token(&["--robot", "kiwi-01"]), &csr);
        assert_eq!(answer.status, 200, "{}", answer.body);
        Self::keep(folder, name, &certificate(&answer.body), key)
    }

    /// Asks for `path` with it.
    fn curl(&self, relay: &Relay, path: &str, options: &[&str]) -> Answer {
        let mut all = vec![
            "--cert",
            self.certificate.to_str().unwrap(),
            "--key",
            self.key.to_str().unwrap(),
        ];
        all.extend(options);
        relay.curl(path, &all)
    }

    fn renew(&self, relay: &Relay, csr: &Path) -> Answer {
        let body = format!("@{}", csr.display());
        let pkcs10 = "content-type: application/pkcs10";
        self.curl(relay, REENROLL, &["-H", pkcs10, "--data-binary", &body])
    }

    /// The same, once the relay has the robot in its picture.
    fn renewed(&self, relay: &Relay, csr: &Path) -> Answer {
        wait_for("the robot in the picture", || {
            let answer = self.renew(relay, csr);
            (answer.status != 409).then_some(answer)
        })
    }

    fn identity(&self) -> Identity {
        Identity {
            cert_pem: fs::read_to_string(&self.certificate).unwrap(),
            key_pem: fs::read_to_string(&self.key).unwrap(),
            der: Vec::new(),
            serial: String::new(),
        }
    }

    async fn connect(&self, relay: &Relay) -> Result<Client, String> {
        let ca = fs::read_to_string(relay.ca()).unwrap();
        let port = relay.mqtt.rsplit(':').next().unwrap().parse().unwrap();
        let options = support::options(&ca, port, &self.identity(), "kiwi-01");
        Client::connect(options)
            .await
            .map_err(|error| format!("{error:?}"))
    }

    fn serial(&self) -> String {
        let pem = fs::read_to_string(&self.certificate).unwrap();
        let printed = openssl(&["x509", "-noout", "-serial"], &pem);
        let serial = printed.trim().trim_start_matches("serial=");
        serial.trim_start_matches('0').to_ascii_lowercase()
    }

    /// What the relay says it is worth, or why it is refused.
    fn state(&self, relay: &Relay) -> String {
        let answer = self.curl(relay, OWN, &[]);
        if answer.status == 200 {
            let view = answer.json();
            assert_eq!(view["serial"], self.serial().as_str());
            return view["state"].as_str().unwrap().to_owned();
        }
        let (status, slug, detail) = answer.problem();
        assert_eq!((status, slug.as_str()), (403, "certificate-refused"));
        detail
    }
}

fn events(relay: &Relay, session: &str, kind: &str) -> Vec<Value> {
    let path = "/api/v1/robots/kiwi-01/events?after=0&limit=1000";
    let page = relay.curl_as(session, path, &[]).json();
    let all = page["events"].as_array().unwrap().iter();
    let of_kind = all.filter(|event| event["type"] == kind);
    of_kind.map(|event| event["data"].clone()).collect()
}

/// A relay whose robots' certificates are good for two hours.
fn relay() -> Relay {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("data")).unwrap();
    let config = "version: 1\nidentity: { robot_lifetime: 2h }\n";
    fs::write(data.path().join("data/relay.yml"), config).unwrap();
    Relay::start_in(data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_counts_beside_the_old_one_until_it_is_used() {
    let relay = relay();
    let folder = relay.data.path().to_owned();
    let session = relay.log_in();
    let old = Files::enrol(&relay, "old");
    assert_eq!(old.state(&relay), "active");
    let view = old.curl(&relay, OWN, &[]).json();
    let time = |name: &str| serde_json::from_value::<Timestamp>(view[name].clone()).unwrap();
    let lifetime = time("not_after").since(time("not_before"));
    assert_eq!(lifetime.as_secs(), 2 * 3_600 + 720, "a tenth before now");

    // With the whole subject of the certificate, as RFC 7030 wants it.
    let (key, csr) = request(&folder, "new", "/CN=kiwi-01/O=default/OU=robot");
    let answer = old.renewed(&relay, &csr);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        answer.header("content-type"),
        Some("application/pkcs7-mime; smime-type=certs-only")
    );
    let new = Files::keep(&folder, "new", &certificate(&answer.body), key);
    let pem = fs::read_to_string(&new.certificate).unwrap();
    let subject = openssl(&["x509", "-noout", "-subject", "-nameopt", "RFC2253"], &pem);
    assert_eq!(subject.trim(), "subject=OU=robot,O=default,CN=kiwi-01");
    assert_eq!(
        openssl(&["x509", "-noout", "-pubkey"], &pem),
        openssl(&["pkey", "-in", new.key.to_str().unwrap(), "-pubout"], "")
    );
    assert_eq!(
        old.renew(&relay, &csr).body,
        answer.body,
        "the answer was lost"
    );

    // Both count, whatever HTTPS is used for; also after kill -9.
    assert_eq!(
        (old.state(&relay), new.state(&relay)),
        ("active".into(), "unused".into())
    );
    let connected = old.connect(&relay).await.unwrap();
    let relay = Relay::start_in(relay.kill());
    connected.ended().await;
    assert_eq!(
        (old.state(&relay), new.state(&relay)),
        ("active".into(), "unused".into())
    );
    drop(old.connect(&relay).await.unwrap());
    assert_eq!(old.state(&relay), "active", "it was not the new one");

    // The robot has connected with the new one: the old one is over.
    let shown = || {
        let robot = relay
            .curl_as(&session, "/api/v1/robots/kiwi-01", &[])
            .json();
        let list = relay.curl_as(&session, "/api/v1/robots", &[]).json();
        assert_eq!(list["robots"][0]["certificate"], robot["certificate"]);
        robot["certificate"]["serial"].as_str().unwrap().to_owned()
    };
    assert_eq!(shown(), old.serial());
    let client = new.connect(&relay).await.unwrap();
    let revoked = format!("certificate {} of \"kiwi-01\" was revoked", old.serial());
    until("the old one is over", async || old.state(&relay) == revoked).await;
    assert_eq!(new.state(&relay), "active");
    assert!(old.connect(&relay).await.is_err());
    assert_eq!(shown(), new.serial());
    let metrics = relay.curl_as(&session, "/metrics", &[]).body;
    let number = |name: &str| -> i64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    let left = |of: &str| number(&format!("lekiwi_certificate_left_seconds{{of=\"{of}\"}}"));
    assert!((7_000..=7_200).contains(&left("robots")), "{metrics}");
    let days = |of: &str| left(of) / 86_400;
    assert_eq!((days("server"), days("authority") > 7_000), (396, true));
    assert_eq!(number("lekiwi_robots_certificate_ending"), 0);
    drop(client);
    drop(new.connect(&relay).await.unwrap());
    let told = events(&relay, &session, "robot.renewed");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["old_serial"], old.serial().as_str());
    assert_eq!(told[0]["certificate_serial"], new.serial().as_str());

    // What was asked for and never used makes room for what is asked for later.
    let (key, csr) = request(&folder, "lost", "/CN=kiwi-01");
    let lost = Files::keep(
        &folder,
        "lost",
        &certificate(&new.renew(&relay, &csr).body),
        key,
    );
    assert_eq!(lost.state(&relay), "unused");
    let (key, csr) = request(&folder, "next", "/CN=kiwi-01");
    let next = Files::keep(
        &folder,
        "next",
        &certificate(&new.renew(&relay, &csr).body),
        key,
    );
    assert_eq!(
        lost.state(&relay),
        format!("certificate {} of \"kiwi-01\" was revoked", lost.serial())
    );
    assert_eq!(
        (new.state(&relay), next.state(&relay)),
        ("active".into(), "unused".into())
    );
}

#[test]
fn a_renewal_is_for_whom_the_certificate_is_for() {
    let relay = Relay::start();
    let folder = relay.data.path();
    let kiwi = Files::enrol(&relay, "kiwi-01");
    let refusal = |answer: Answer| {
        let (status, slug, detail) = answer.problem();
        format!("{status} {slug}: {detail}")
    };
    let (_, csr) = request(folder, "other", "/CN=kiwi-02");
    assert_eq!(
        refusal(kiwi.renewed(&relay, &csr)),
        "403 csr-wrong-subject: expected a request with the subject of the certificate, \
         CN=kiwi-01, O=default, OU=robot, got \"CN=kiwi-02, O=-, OU=-\""
    );
    for subject in ["/CN=kiwi-01/O=evil", "/CN=kiwi-01/OU=consumer"] {
        let (_, csr) = request(folder, "other", subject);
        assert_eq!(kiwi.renew(&relay, &csr).problem().1, "csr-wrong-subject");
    }
    let body = format!("@{}", csr.display());
    let pkcs10 = ["-H", "content-type: application/pkcs10", "--data-binary"];
    let none = relay.curl(REENROLL, &[&pkcs10[..], &[&body]].concat());
    assert_eq!(none.problem().1, "certificate-required");
    let garbage = kiwi.curl(&relay, REENROLL, &[&pkcs10[..], &["AAAA"]].concat());
    assert_eq!(garbage.problem().1, "csr-invalid");

    // Whom nobody lets in gets no other certificate either.
    let session = relay.log_in();
    let (_, csr) = request(folder, "late", "/CN=kiwi-01");
    assert_eq!(kiwi.renew(&relay, &csr).status, 200);
    let rejected = relay.curl_as(&session, "/api/v1/robots/kiwi-01/reject", &["-X", "POST"]);
    assert_eq!(rejected.status, 200, "{}", rejected.body);
    assert_eq!(
        refusal(kiwi.renew(&relay, &csr)),
        format!(
            "403 certificate-refused: certificate {} of \"kiwi-01\" was revoked",
            kiwi.serial()
        )
    );
}

/// The list of revoked certificates, as openssl reads it once it has checked who signed it.
fn list(relay: &Relay) -> String {
    let path = relay.data.path().join("crl.der");
    let out = path.to_str().unwrap();
    let fetched = std::process::Command::new("curl")
        .args(["-sSf", "--cacert", relay.ca().to_str().unwrap(), "-o", out])
        .arg(format!("https://{}/crl", relay.https))
        .status()
        .unwrap();
    assert!(fetched.success());
    let ca = relay.ca();
    let ca = ca.to_str().unwrap();
    openssl(
        &[
            "crl", "-inform", "DER", "-in", out, "-CAfile", ca, "-verify", "-noout", "-text",
        ],
        "",
    )
}

fn number(list: &str) -> u128 {
    let mut lines = list.lines().map(str::trim);
    lines.find(|line| line.ends_with("CRL Number:")).unwrap();
    let number = lines.next().unwrap().trim_start_matches("0x");
    u128::from_str_radix(number, 16).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_is_out_at_once_and_in_the_list() {
    let relay = Relay::start();
    let folder = relay.data.path().to_owned();
    let session = relay.log_in();
    let kiwi = Files::enrol(&relay, "kiwi-01");
    let (key, csr) = request(&folder, "thief", "/CN=kiwi-01");
    let candidate = certificate(&kiwi.renewed(&relay, &csr).body);
    let thief = Files::keep(&folder, "thief", &candidate, key);
    assert_eq!(thief.state(&relay), "unused");
    let client = kiwi.connect(&relay).await.unwrap();
    let before = list(&relay);
    assert!(before.contains("No Revoked Certificates"), "{before}");
    let listed = relay.curl_as(&session, "/api/v1/identities?name=kiwi-01", &[]);
    let listed = listed.json();
    let listed: Vec<_> = listed["identities"].as_array().unwrap().iter().collect();
    assert_eq!(listed.len(), 2);

    let path = format!("/api/v1/identities/{}/revoke", kiwi.serial());
    let answer = relay.curl_as(&session, &path, &["-X", "POST"]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let mut revoked: Vec<String> =
        serde_json::from_value(answer.json()["serials"].clone()).unwrap();
    revoked.sort_unstable();
    let mut both = vec![kiwi.serial(), thief.serial()];
    both.sort_unstable();
    assert_eq!(revoked, both, "what was asked for with it goes with it");
    client.ended().await;
    for files in [&kiwi, &thief] {
        let refused = format!("certificate {} of \"kiwi-01\" was revoked", files.serial());
        assert_eq!(files.state(&relay), refused);
        assert!(files.connect(&relay).await.is_err());
    }
    let after = list(&relay);
    for serial in &both {
        let shown = format!("Serial Number: {}", serial.to_ascii_uppercase());
        assert!(after.contains(&shown), "{after}");
    }
    assert!(number(&after) > number(&before), "{before}\n{after}");
    assert_eq!(number(&list(&relay)), number(&after), "nothing has changed");
    let told = events(&relay, &session, "robot.revoked");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["by"], "admin");

    // Once more, and what there is not.
    let again = relay.curl_as(&session, &path, &["-X", "POST"]).json();
    assert_eq!(again["serials"], serde_json::json!([]));
    let unknown = relay.curl_as(&session, "/api/v1/identities/ff/revoke", &["-X", "POST"]);
    assert_eq!(unknown.problem().1, "identity-unknown");
    let list = |query: &str| {
        let path = format!("/api/v1/identities?name=kiwi-01{query}");
        let list = relay.curl_as(&session, &path, &[]).json();
        list["identities"].as_array().unwrap().len()
    };
    assert_eq!((list(""), list("&all=true")), (0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_refuses_whom_the_file_lists() {
    let port = crate::port::free();
    let (relay, file) = crate::external::listing(port);
    let session = relay.log_in();
    let pid = relay.data.path().join("mosquitto.pid");
    let line = format!("crlfile {}\npid_file {}", file.display(), pid.display());
    let _mosquitto = crate::external::mosquitto_with(&relay, port, &line);
    crate::external::ready(&relay);
    let kiwi = Files::enrol(&relay, "kiwi-01");
    let ca = fs::read_to_string(relay.ca()).unwrap();
    let connect = async || {
        let options = support::options(&ca, port, &kiwi.identity(), "kiwi-01");
        Client::connect(options).await
    };
    drop(connect().await.unwrap());

    let before = fs::read_to_string(&file).unwrap();
    let path = format!("/api/v1/identities/{}/revoke", kiwi.serial());
    assert_eq!(relay.curl_as(&session, &path, &["-X", "POST"]).status, 200);
    wait_for("another list", || {
        (fs::read_to_string(&file).unwrap() != before).then_some(())
    });
    let pid = fs::read_to_string(pid).unwrap();
    let reload = std::process::Command::new("kill")
        .args(["-HUP", pid.trim()])
        .status();
    assert!(reload.unwrap().success());
    until("the broker refuses it", async || connect().await.is_err()).await;
}

#[test]
fn an_authority_that_is_gone_is_not_replaced_unasked() {
    let relay = Relay::start();
    let fingerprint = relay.fingerprint.clone();
    Files::enrol(&relay, "kiwi-01");
    let data = relay.kill();
    let (authority, away) = (data.path().join("data/ca"), data.path().join("away"));
    fs::rename(&authority, &away).unwrap();
    let run = |arguments: &[&str]| {
        command()
            .args(arguments)
            .arg("--data")
            .arg(data.path().join("data"))
            .output()
            .unwrap()
    };
    let listen = ["run", "--https", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"];
    let refused = run(&listen);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let place = authority.display();
    assert!(
        said.contains(&format!(
            "expected the certificate authority of the store's robots in {place}, found none"
        )),
        "{said}"
    );
    assert!(!authority.exists());

    // Asked, it makes another one; and does not replace one.
    let made = run(&["ca", "new"]);
    assert!(made.status.success());
    let other = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    assert_ne!(other, fingerprint);
    assert!(!run(&["ca", "new"]).status.success());
    let relay = Relay::start_in(data);
    assert_eq!(relay.fingerprint, other);

    // What came back from a backup is the one before.
    let data = relay.kill();
    fs::remove_dir_all(&authority).unwrap();
    fs::rename(&away, &authority).unwrap();
    assert_eq!(Relay::start_in(data).fingerprint, fingerprint);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_whose_time_is_over_ends_in_the_handshake() {
    let relay = relay();
    let enrolled = Files::enrol(&relay, "enrolled");
    let authority = relay.data.path().join("data/ca");
    let read = |name: &str| fs::read_to_string(authority.join(name)).unwrap();
    let issuer = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), issuer).unwrap();
    // The authority's own signature, the robot's own key, the serial that is on record; only its time differs.
    let key = rcgen::KeyPair::from_pem(&fs::read_to_string(&enrolled.key).unwrap()).unwrap();
    let signed = |name: &str, year: i32| {
        let mut params = rcgen::CertificateParams::default();
        for (what, text) in [
            (rcgen::DnType::CommonName, "kiwi-01"),
            (rcgen::DnType::OrganizationName, "default"),
            (rcgen::DnType::OrganizationalUnitName, "robot"),
        ] {
            params.distinguished_name.push(what, text);
        }
        let mut serial = enrolled.serial();
        if serial.len() % 2 == 1 {
            serial.insert(0, '0');
        }
        params.serial_number = Some(hex::decode(serial).unwrap().into());
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let pem = params.signed_by(&key, &issuer).unwrap().pem();
        Files::keep(relay.data.path(), name, &pem, enrolled.key.clone())
    };
    let (valid, over) = (signed("valid", 2100), signed("over", 2021));
    assert_eq!(valid.state(&relay), "active");
    drop(valid.connect(&relay).await.unwrap());
    let refused = over.connect(&relay).await.err().unwrap();
    assert!(refused.contains("CertificateExpired"), "{refused}");
    // The connection may be over before curl has read why.
    wait_for("the reason", || {
        let output = curl_command(
            &relay.ca(),
            &format!("https://{}{OWN}", relay.https),
            &[
                "--cert",
                over.certificate.to_str().unwrap(),
                "--key",
                over.key.to_str().unwrap(),
            ],
        )
        .output()
        .unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.contains("certificate expired").then_some(())
    });
}
