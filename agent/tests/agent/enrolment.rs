//! The enrolment against a small EST server over real TLS: every refusal with its message, and every
//! interruption with what remains.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::support::{Answer, Authority, Est, certs_only};
use der::{Decode, Encode};
use lekiwi_agent::clock;
use lekiwi_agent::config::Address;
use lekiwi_agent::driver::chain;
use lekiwi_agent::identity::{EnrolError, Enrolment, Store, enrol};
use lekiwi_protocol::pinned::Fingerprint;
use x509_cert::request::CertReq;

struct Robot {
    folder: tempfile::TempDir,
    enrolment: Enrolment,
}

fn robot(port: u16, authority: &Authority) -> Robot {
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    fs::write(&token_file, "lkt_secret\n").unwrap();
    let enrolment = Enrolment {
        store: Store::new(folder.path(), None),
        relay: Address {
            host: "127.0.0.1".to_owned(),
            port,
        },
        proxy: None,
        ca_fingerprint: authority.fingerprint().parse().unwrap(),
        robot_id: "kiwi-01".parse().unwrap(),
        profile: "lekiwi".to_owned(),
        serial: "10000000deadbeef".to_owned(),
        token_file,
        remove_token: true,
    };
    Robot { folder, enrolment }
}

impl Robot {
    async fn enrol(&self) -> Result<(), EnrolError> {
        enrol(&self.enrolment, clock::wall()).await.map(|_| ())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn load(&self) -> Result<(), String> {
        let Enrolment {
            store,
            robot_id,
            ca_fingerprint,
            ..
        } = &self.enrolment;
        store
            .load(robot_id, *ca_fingerprint, clock::wall())
            .map(|_| ())
            .map_err(|error| {
                chain(&error).replace(&self.folder.path().display().to_string(), "STATE")
            })
    }
}

fn problem(status: u16, slug: &str, detail: &str) -> Answer {
    let text = format!(
        r#"{{"type":"urn:lekiwi:problem:{slug}","title":"No","status":{status},"detail":"{detail}"}}"#
    );
    Answer::Say(status, text)
}

#[tokio::test]
async fn a_robot_gets_a_certificate_for_a_key_that_never_leaves() {
    let authority = Arc::new(Authority::new("fleet"));
    let answers = [Answer::Sign("kiwi-01".to_owned())];
    let est = Est::start(&authority, authority.clone(), answers).await;
    let robot = robot(est.port, &authority);
    assert_eq!(
        robot.load(),
        Err("expected STATE/key.pem of an enrolled robot".to_owned())
    );
    robot.enrol().await.unwrap();
    robot.load().unwrap();
    let mode = fs::metadata(robot.file("key.pem"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!robot.file("token").exists(), "the used token stays");

    let seen = est.seen.lock().unwrap().clone();
    let head = &seen[1].head.to_lowercase();
    // base64 of kiwi-01:lkt_secret
    assert!(
        seen[1].head.contains("Basic a2l3aS0wMTpsa3Rfc2VjcmV0"),
        "{head}"
    );
    assert!(head.contains("content-type: application/pkcs10"), "{head}");
    let request = CertReq::from_der(&seen[1].body).unwrap();
    let subject = request.info.subject.to_string();
    for part in ["CN=kiwi-01", "OU=lekiwi"] {
        assert!(subject.contains(part), "{subject}");
    }
    let subject = request.info.subject.to_der().unwrap();
    assert!(
        subject.windows(16).any(|w| w == b"10000000deadbeef"),
        "the serial number is missing"
    );
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let authority = Arc::new(Authority::new("fleet"));
    let answers = [Answer::Die, Answer::Sign("kiwi-01".to_owned())];
    let est = Est::start(&authority, authority.clone(), answers).await;
    let robot = robot(est.port, &authority);
    let error = robot.enrol().await.unwrap_err();
    assert!(error.is_temporary(), "{}", chain(&error));
    assert!(robot.file("token").exists());
    let key = fs::read(robot.file("key.pem")).unwrap();
    robot.enrol().await.unwrap();
    assert_eq!(fs::read(robot.file("key.pem")).unwrap(), key);
    let seen = est.seen.lock().unwrap();
    let key_of = |body: &[u8]| {
        CertReq::from_der(body)
            .unwrap()
            .info
            .public_key
            .to_der()
            .unwrap()
    };
    assert_eq!(key_of(&seen[1].body), key_of(&seen[3].body));
}

#[tokio::test]
async fn a_damaged_key_gives_way_to_a_new_one_where_there_is_a_token() {
    let authority = Arc::new(Authority::new("fleet"));
    let answers = [Answer::Sign("kiwi-01".to_owned())];
    let est = Est::start(&authority, authority.clone(), answers).await;
    let robot = robot(est.port, &authority);
    fs::write(robot.file("key.pem"), "half a k").unwrap();
    fs::rename(robot.file("token"), robot.file("elsewhere")).unwrap();
    let error = robot.enrol().await.unwrap_err();
    assert!(matches!(error, EnrolError::NoToken { .. }), "{error}");
    assert_eq!(fs::read(robot.file("key.pem")).unwrap(), b"half a k");
    fs::rename(robot.file("elsewhere"), robot.file("token")).unwrap();
    robot.enrol().await.unwrap();
    robot.load().unwrap();
    let aside = fs::read(robot.file("key.pem.damaged")).unwrap();
    assert_eq!(aside, b"half a k");
}

#[tokio::test]
async fn every_refusal_says_why_and_what_to_do() {
    let make = "make a new one with `lekiwi token create`";
    let cases = [
        (
            "token-expired",
            403,
            "expired 3 h ago",
            format!("tokens live 24 h; {make}"),
        ),
        (
            "token-used",
            409,
            "used by another key",
            format!("each token is good for one robot; {make}"),
        ),
        (
            "token-unknown",
            401,
            "unknown token",
            format!("the token is not of this relay; {make}"),
        ),
        (
            "token-wrong-robot",
            403,
            "made for kiwi-02",
            format!("the token was made for another robot; {make}"),
        ),
    ];
    let authority = Arc::new(Authority::new("fleet"));
    let answers = cases
        .iter()
        .map(|(slug, status, detail, _)| problem(*status, slug, detail));
    let est = Est::start(&authority, authority.clone(), answers).await;
    let robot = robot(est.port, &authority);
    for (_, _, detail, hint) in &cases {
        let error = robot.enrol().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the relay refused the enrolment: {detail}")
        );
        assert_eq!(error.hint().as_deref(), Some(hint.as_str()));
        assert!(!error.is_temporary());
        assert!(robot.file("token").exists() && !robot.file("cert.pem").exists());
    }
}

#[tokio::test]
async fn a_relay_in_trouble_is_asked_again_and_nonsense_is_named() {
    let authority = Arc::new(Authority::new("fleet"));
    let answers = [
        problem(503, "store-unavailable", "the disk is full"),
        Answer::Say(502, "<html>".to_owned()),
        Answer::Say(200, "AAAA".to_owned()),
    ];
    let est = Est::start(&authority, authority.clone(), answers).await;
    let robot = robot(est.port, &authority);
    let error = robot.enrol().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the relay could not answer: the disk is full"
    );
    assert!(error.is_temporary());
    for expected in [
        "expected 200 or a problem document as the answer to /.well-known/est/simpleenroll, got 502 Bad Gateway",
        "expected base64 of a certs-only PKCS#7 as the answer to /.well-known/est/simpleenroll, got 4 other bytes",
    ] {
        assert_eq!(robot.enrol().await.unwrap_err().to_string(), expected);
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_ours_is_not_kept() {
    let authority = Arc::new(Authority::new("fleet"));
    let other_key = authority.client("kiwi-01");
    let other_key = {
        use rustls_pki_types::pem::PemObject;
        rustls_pki_types::CertificateDer::from_pem_slice(other_key.0.as_bytes()).unwrap()
    };
    let answers = [
        Answer::Sign("kiwi-02".to_owned()),
        Answer::Say(200, certs_only(&[other_key])),
    ];
    let est = Est::start(&authority, authority.clone(), answers).await;
    let robot = robot(est.port, &authority);
    for reason in [
        "expected a certificate for kiwi-01, got one for \"kiwi-02\"",
        "expected a certificate for this robot's key, got one for another key",
    ] {
        let error = robot.enrol().await.unwrap_err();
        assert_eq!(
            chain(&error),
            format!("the relay issued a certificate that is of no use: {reason}")
        );
        assert!(!robot.file("cert.pem").exists());
    }
}

#[tokio::test]
async fn another_authority_is_refused_before_the_token_is_sent() {
    let (ours, theirs) = (
        Authority::new("fleet"),
        Arc::new(Authority::new("stranger")),
    );
    let est = Est::start(&theirs, theirs.clone(), []).await;
    let robot = robot(est.port, &ours);
    let error = robot.enrol().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "expected a relay whose authority has fingerprint {}, got {}",
            ours.fingerprint(),
            theirs.fingerprint()
        )
    );
    assert!(error.hint().unwrap().contains("relay.ca_fingerprint"));
    assert!(est.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_chain_that_only_contains_the_authority_does_not_count() {
    // A stranger's leaf beside our authority's public certificate.
    let (ours, theirs) = (Authority::new("fleet"), Authority::new("stranger"));
    let (_, key, leaf) = theirs.server();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf, ours.der()], key)
        .unwrap();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let server = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        acceptor
            .accept(tcp)
            .await
            .map(|_| ())
            .unwrap_err()
            .to_string()
    });
    let error = robot(port, &ours).enrol().await.unwrap_err();
    assert_eq!(
        chain(&error),
        format!(
            "expected a trustworthy relay at 127.0.0.1:{port}: invalid peer certificate: UnknownIssuer"
        )
    );
    assert!(server.await.unwrap().contains("UnknownCA"));
}

#[tokio::test]
async fn nobody_there_and_no_token_are_told_apart() {
    let authority = Authority::new("fleet");
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let robot = robot(port, &authority);
    let error = robot.enrol().await.unwrap_err();
    assert_eq!(
        chain(&error),
        format!("expected a relay at 127.0.0.1:{port}: Connection refused (os error 111)")
    );
    assert!(error.is_temporary());
    fs::write(robot.file("token"), "two words\n").unwrap();
    let token = robot.file("token");
    let expected = format!("expected a one-time enrolment token in {}", token.display());
    let error = robot.enrol().await.unwrap_err();
    assert_eq!(
        chain(&error),
        format!("{expected}: expected one line that begins with lkt_")
    );
    assert!(
        !chain(&error).contains("two words"),
        "the token is in the message"
    );
    fs::remove_file(&token).unwrap();
    let error = robot.enrol().await.unwrap_err();
    assert_eq!(
        chain(&error),
        format!("{expected}: No such file or directory (os error 2)")
    );
}

#[tokio::test]
async fn stored_files_are_checked_against_each_other() {
    let authority = Arc::new(Authority::new("fleet"));
    let answers = [Answer::Sign("kiwi-01".to_owned())];
    let est = Est::start(&authority, authority.clone(), answers).await;
    let mut robot = robot(est.port, &authority);
    robot.enrol().await.unwrap();
    let good = fs::read(robot.file("cert.pem")).unwrap();

    fs::write(robot.file("cert.pem"), "rubbish").unwrap();
    assert_eq!(
        robot.load(),
        Err(
            "the certificate in STATE/cert.pem is of no use: expected an X.509 certificate"
                .to_owned()
        )
    );
    fs::write(robot.file("cert.pem"), authority.client("kiwi-01").0).unwrap();
    assert_eq!(
        robot.load(),
        Err("the certificate in STATE/cert.pem is of no use: expected a certificate for this robot's key, got one for \
             another key"
            .to_owned())
    );
    fs::write(robot.file("cert.pem"), &good).unwrap();
    robot.load().unwrap();
    // The year 5000, when a wrong clock or a long rest has outlived every certificate.
    let later = "5000-01-01T00:00:00.000Z".parse().unwrap();
    let late = {
        let Enrolment {
            store,
            robot_id,
            ca_fingerprint,
            ..
        } = &robot.enrolment;
        chain(&store.load(robot_id, *ca_fingerprint, later).unwrap_err())
    };
    assert!(
        late.ends_with(
            "is of no use: expected a certificate that is valid at 5000-01-01T00:00:00.000Z, got one that ended at \
             4096-01-01T00:00:00.000Z"
        ),
        "{late}"
    );
    fs::write(robot.file("key.pem"), "rubbish").unwrap();
    assert_eq!(
        robot.load(),
        Err("expected a P-256 key as PEM in STATE/key.pem".to_owned())
    );
    fs::remove_file(robot.file("key.pem")).unwrap();
    robot.enrolment.ca_fingerprint = Fingerprint([7; 32]);
    assert_eq!(
        robot.load(),
        Err("expected STATE/key.pem of an enrolled robot".to_owned())
    );
}
