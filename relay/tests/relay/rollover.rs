//! Another root, as those see it who are not ours: a real Mosquitto with a list of revoked certificates, and openssl.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Relay, certificate, command, openssl, request, wait_for};
use crate::mosquitto::Mosquitto;
use crate::support::{self, Client, Identity, until};

const CA: &str = "-----BEGIN CERTIFICATE-----";

/// `lekiwi-relay` on the relay's data.
fn run(relay: &Relay, arguments: &[&str]) {
    let mut command = command();
    command
        .args(arguments)
        .arg("--data")
        .arg(relay.data_folder());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The robot's certificate and those after it, which EST sends as a set.
fn enrol(relay: &Relay, name: &str) -> Identity {
    let folder = relay.data.path();
    let (key, csr) = request(folder, name, &format!("/CN={name}/OU=lekiwi"));
    let answer = relay.enrol(name, &relay.token(&["--robot", name]), &csr);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let all = certificate(&answer.body);
    let subject = format!("subject=CN = {name}");
    let is_own = |part: &&str| openssl(&["x509", "-noout", "-subject"], part).starts_with(&subject);
    let mut parts: Vec<String> = Vec::new();
    for part in all.split(CA).skip(1) {
        let part = format!("{CA}{part}");
        match is_own(&part.as_str()) {
            true => parts.insert(0, part),
            false => parts.push(part),
        }
    }
    let printed = openssl(&["x509", "-noout", "-serial"], &parts[0]);
    let serial = printed.trim().trim_start_matches("serial=");
    Identity {
        serial: serial.trim_start_matches('0').to_lowercase(),
        cert_pem: parts.concat(),
        key_pem: fs::read_to_string(key).unwrap(),
        der: Vec::new(),
    }
}

/// A relay, and its Mosquitto, which reads the relay's list of revoked certificates.
fn begin(port: u16) -> (Relay, Mosquitto, PathBuf) {
    let (relay, file) = crate::external::listing(port);
    let line = format!("crlfile {}", file.display());
    let mosquitto = crate::external::mosquitto_with(&relay, port, &line);
    (relay, mosquitto, file)
}

/// Starts the relay again, and the broker as soon as there are so many lists for it.
fn start_again(relay: Relay, mosquitto: &mut Mosquitto, file: &Path, lists: usize) -> Relay {
    let (status, data) = relay.stop();
    assert!(status.success());
    let broker = crate::external::broker(mosquitto.port);
    let relay = Relay::start_with(data, &["--broker", &broker]);
    wait_for("the lists", || has_lists(file, lists));
    mosquitto.kill();
    mosquitto.start_again();
    crate::external::ready(&relay);
    relay
}

fn has_lists(file: &Path, wanted: usize) -> Option<String> {
    let text = fs::read_to_string(file).unwrap();
    (text.matches("BEGIN X509 CRL").count() == wanted).then_some(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_takes_what_the_root_has_signed_itself_while_the_roots_key_is_there() {
    let port = crate::port::free();
    let (relay, mut mosquitto, file) = begin(port);
    let root = fs::read_to_string(relay.ca()).unwrap();
    let direct = enrol(&relay, "kiwi-01");
    let connect = async |identity: &Identity, name: &str| {
        Client::connect(support::options(&root, port, identity, name)).await
    };
    drop(connect(&direct, "kiwi-01").await.unwrap());

    run(&relay, &["ca", "issuing"]);
    let relay = start_again(relay, &mut mosquitto, &file, 2);
    drop(connect(&direct, "kiwi-01").await.unwrap());
    let below = enrol(&relay, "kiwi-02");
    drop(connect(&below, "kiwi-02").await.unwrap());

    fs::remove_file(relay.data_folder().join("ca/ca.key")).unwrap();
    let relay = start_again(relay, &mut mosquitto, &file, 1);
    assert!(connect(&direct, "kiwi-01").await.is_err());
    drop(connect(&below, "kiwi-02").await.unwrap());
    drop(relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_takes_both_roots_and_refuses_what_either_lists() {
    let port = crate::port::free();
    let (relay, mut mosquitto, file) = begin(port);
    let before = fs::read_to_string(relay.ca()).unwrap();
    let old = enrol(&relay, "kiwi-01");

    for step in ["next", "switch"] {
        run(&relay, &["ca", step]);
    }
    let out = mosquitto.folder.path().to_str().unwrap().to_owned();
    run(
        &relay,
        &["ca", "broker", "--name", "localhost", "--out", &out],
    );
    let relay = start_again(relay, &mut mosquitto, &file, 2);
    let unrevoked = fs::read_to_string(&file).unwrap();
    let after = fs::read_to_string(relay.ca()).unwrap();
    assert_ne!(before, after);
    let new = enrol(&relay, "kiwi-02");
    let connect = async |identity: &Identity, name: &str, root: &str| {
        let options = support::options(root, port, identity, name);
        Client::connect(options).await
    };
    // Each with the root that it knows, and with the other.
    for root in [&before, &after] {
        drop(connect(&old, "kiwi-01", root).await.unwrap());
        drop(connect(&new, "kiwi-02", root).await.unwrap());
    }

    let session = relay.log_in();
    for identity in [&old, &new] {
        let path = format!("/api/v1/identities/{}/revoke", identity.serial);
        assert_eq!(relay.curl_as(&session, &path, &["-X", "POST"]).status, 200);
    }
    wait_for("other lists", || {
        let text = has_lists(&file, 2)?;
        let first = text.split_inclusive("-----END X509 CRL-----").next()?;
        let printed = openssl(&["crl", "-noout", "-text"], first);
        let has = |it: &Identity| printed.to_lowercase().contains(&it.serial);
        (text != unrevoked && has(&old) && has(&new)).then_some(())
    });
    mosquitto.kill();
    mosquitto.start_again();
    until("it refuses the old one", async || {
        connect(&old, "kiwi-01", &after).await.is_err()
    })
    .await;
    until("it refuses the new one", async || {
        connect(&new, "kiwi-02", &after).await.is_err()
    })
    .await;
    // Somebody else is let in all the while.
    let other = enrol(&relay, "kiwi-03");
    drop(connect(&other, "kiwi-03", &after).await.unwrap());

    // By then both have ended; and who did what is on record.
    run(&relay, &["ca", "retire", "--force"]);
    let audit = relay.curl_as(&session, "/api/v1/audit?action=authority-change", &[]);
    let steps: Vec<String> = audit.json()["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["detail"]["step"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(steps, ["next", "switch", "retire"], "{}", audit.body);
}
