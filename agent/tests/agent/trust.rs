//! A robot with a root of trust: what operators desire must be signed, here by the real minisign.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::broker::{Ears, Site};
use crate::support::eventually;

/// Keys without passwords, and what is signed with them.
struct Owner<'a>(&'a Path);

impl Owner<'_> {
    fn minisign(&self, arguments: &[&str]) {
        let done = Command::new("minisign")
            .args(arguments)
            .current_dir(self.0)
            .output()
            .expect("minisign is needed: apt-get install minisign");
        assert!(done.status.success(), "{done:?}");
    }

    /// Its public key.
    fn key(&self, name: &str) -> String {
        let [public, secret] = ["pub", "key"].map(|ending| format!("{name}.{ending}"));
        if !self.0.join(&public).exists() {
            self.minisign(&["-G", "-W", "-p", &public, "-s", &secret]);
        }
        let text = fs::read_to_string(self.0.join(public)).unwrap();
        text.lines().nth(1).unwrap().to_owned()
    }

    fn sign(&self, document: &Value, names: &[&str]) -> Value {
        let document = document.to_string();
        fs::write(self.0.join("document"), &document).unwrap();
        let sign = |name: &&str| {
            let secret = format!("{name}.key");
            self.minisign(&["-S", "-s", &secret, "-m", "document", "-x", "signature"]);
            fs::read_to_string(self.0.join("signature")).unwrap()
        };
        let signatures: Vec<String> = names.iter().map(sign).collect();
        json!({ "document": document, "signatures": signatures })
    }

    fn root(&self, version: u64, configuration: &str, signers: &[&str]) -> Value {
        let keys = |name| json!({ "keys": [self.key(name)], "threshold": 1 });
        let root = json!({
            "role": "root", "version": version, "expires": "2100-01-01T00:00:00.000Z",
            "roles": { "root": keys("anna"), "configuration": keys(configuration) },
        });
        self.sign(&root, signers)
    }

    fn statement(&self, version: u64, settings: &Value, signer: &str) -> Value {
        let statement = json!({
            "role": "configuration", "version": version, "expires": "2099-01-01T00:00:00.000Z", "robots": "kiwi-01",
            "settings": settings,
        });
        self.sign(&statement, &[signer])
    }
}

fn desire(ears: &Ears, version: u64, settings: &Value, proof: &Value, confirmed: bool) {
    let message = json!({
        "type": "desired", "robot_id": "kiwi-01", "timestamp": "2026-11-21T12:00:00.000Z", "sequence": 0,
        "payload": {
            "version": version, "settings": settings, "confirm_within_s": 60, "confirmed": confirmed, "proof": proof,
            "issued_at": "2026-11-21T12:00:00.000Z", "by": "admin",
        }
    });
    ears.publish("desired", message.to_string());
}

async fn reported(site: &Site, ears: &Ears, version: u64, state: &str) -> Value {
    ears.wait(site, "reported", &format!("{version} is {state}"), |said| {
        said["version"] == version && said["state"] == state
    })
    .await
    .body["payload"]
        .clone()
}

#[tokio::test]
async fn a_robot_with_a_root_of_trust_follows_what_was_signed_alone() {
    let site = Site::start().await;
    let ears = site.listen();
    let folder = site.folder.path();
    let owner = Owner(folder);
    let first = owner.root(1, "ops", &["anna"]);
    fs::write(folder.join("trust.json"), json!([first]).to_string()).unwrap();
    let file = folder.join("agent.yml");
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str(&format!("\ntrust_file: {}/trust.json\n", folder.display()));
    fs::write(&file, text).unwrap();
    let mut agent = site.agent();
    ears.connection(&site, "ONLINE").await;

    let settings = json!({ "heartbeat_s": 3600 });
    desire(&ears, 1, &settings, &Value::Null, false);
    let refused = reported(&site, &ears, 1, "rejected").await;
    assert_eq!(
        refused["reason"],
        "expected a signed configuration, as this robot has a root of trust"
    );
    assert_eq!(refused["in_force"], 0);

    let proof = json!({ "statement": owner.statement(7, &settings, "ops") });
    desire(&ears, 2, &settings, &proof, false);
    assert_eq!(reported(&site, &ears, 2, "trying").await["in_force"], 2);
    desire(&ears, 2, &settings, &proof, true);
    reported(&site, &ears, 2, "applied").await;

    // The operators' key is replaced: with the next root their successors' statements come.
    let later = json!({ "heartbeat_s": 1800 });
    let second = owner.root(2, "successors", &["anna"]);
    let statement = owner.statement(8, &later, "successors");
    let unknown = json!({ "statement": statement });
    desire(&ears, 3, &later, &unknown, false);
    assert_eq!(
        reported(&site, &ears, 3, "rejected").await["reason"],
        "expected signatures of 1 keys of root 1 for configuration, got 0"
    );
    let known = json!({ "roots": [second], "statement": statement });
    desire(&ears, 4, &later, &known, false);
    reported(&site, &ears, 4, "trying").await;
    desire(&ears, 4, &later, &known, true);
    reported(&site, &ears, 4, "applied").await;

    // It knows so after the power was gone.
    agent.signal(Signal::SIGKILL);
    agent.ended().await;
    ears.forget();
    let _agent = site.agent();
    ears.connection(&site, "ONLINE").await;
    reported(&site, &ears, 4, "applied").await;
    let old = json!({ "statement": owner.statement(7, &settings, "successors") });
    desire(&ears, 5, &settings, &old, false);
    let refused = reported(&site, &ears, 5, "rejected").await;
    assert_eq!(
        refused["reason"],
        "expected version 8 for configuration or a later one, got 7"
    );
    assert_eq!(refused["in_force"], 4);
    desire(&ears, 6, &settings, &proof, false);
    assert_eq!(
        reported(&site, &ears, 6, "rejected").await["reason"],
        "expected signatures of 1 keys of root 2 for configuration, got 0"
    );
    eventually("the log says why", || {
        let log = fs::read_to_string(folder.join("agent.log")).unwrap();
        log.contains("the desired configuration 5 is rejected: expected version 8")
    })
    .await;
}
