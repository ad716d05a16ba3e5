//! Renewal and revocation of certificates, as a person would do it: `openssl` makes requests and reads answers, `curl`
//! sends them, and MQTT clients connect with what comes of it.

use std::fs;
use std::path::{Path, PathBuf};

use lekiwi_protocol::Timestamp;
use serde_json::Value;

use crate::common::{Answer, Relay, certificate, openssl, request, wait_for};
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
    let client = new.connect(&relay).await.unwrap();
    let revoked = format!("certificate {} of \"kiwi-01\" was revoked", old.serial());
    until("the old one is over", async || old.state(&relay) == revoked).await;
    assert_eq!(new.state(&relay), "active");
    assert!(old.connect(&relay).await.is_err());
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
