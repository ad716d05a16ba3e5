//! The owner of a fleet, offline: keys and signatures of the real minisign, and those made here checked by it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::{Canned, JSON, Relay, SESSION, check, lekiwi, login};

struct Owner(tempfile::TempDir);

impl Owner {
    /// Keys of people and machines, without passwords.
    fn new(names: &[&str]) -> Self {
        let owner = Self(tempfile::tempdir().unwrap());
        for name in names {
            let [public, secret] = ["pub", "key"].map(|ending| format!("{name}.{ending}"));
            let made = owner.minisign(&["-G", "-W", "-p", &public, "-s", &secret]);
            assert!(made.status.success(), "{made:?}");
        }
        owner
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn minisign(&self, arguments: &[&str]) -> Output {
        Command::new("minisign")
            .args(arguments)
            .current_dir(self.0.path())
            .output()
            .expect("minisign is needed: apt-get install minisign")
    }

    fn signs(&self, name: &str, file: &str, signature: &str) {
        let key = format!("{name}.key");
        let signed = self.minisign(&["-S", "-s", &key, "-m", file, "-x", signature]);
        assert!(signed.status.success(), "{signed:?}");
    }

    /// Files are named as they lie in the folder.
    fn lekiwi(&self, arguments: &[&str]) -> Output {
        let at = |argument: &&str| {
            let is_file = argument.contains('.') && !argument.contains('=');
            if is_file {
                self.path(argument).display().to_string()
            } else {
                (*argument).to_owned()
            }
        };
        let arguments: Vec<String> = arguments.iter().map(at).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        lekiwi(self.0.path(), &arguments, "")
    }

    fn fine(&self, arguments: &[&str]) -> String {
        let output = self.lekiwi(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.lekiwi(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let folder = format!("{}/", self.0.path().display());
        String::from_utf8(output.stderr)
            .unwrap()
            .replace(&folder, "")
    }

    /// A trust file with a first root of Anna and Bert, for whom operators sign configurations and a machine artefacts.
    fn with_root() -> Self {
        let owner = Self::new(&["anna", "bert", "carla", "ops", "ci"]);
        #[rustfmt::skip]
        owner.fine(&[
            "trust", "root", "root-1.json", "--expires", "730d", "--root", "anna.pub", "--root", "bert.pub",
            "--root-threshold", "2", "--configuration", "ops.pub", "--artefacts", "ci.pub",
        ]);
        owner.signs("anna", "root-1.json", "1.anna.minisig");
        owner.signs("bert", "root-1.json", "1.bert.minisig");
        #[rustfmt::skip]
        owner.fine(&[
            "trust", "add-root", "trust.json", "root-1.json", "--signature", "1.anna.minisig", "--signature", "1.bert.minisig",
        ]);
        owner
    }

    fn number(&self, name: &str) -> String {
        let text = self.read(&format!("{name}.pub"));
        let line = text.lines().next().unwrap();
        // One in sixteen begins with a zero, which minisign leaves out.
        format!("{:0>16}", line.rsplit(' ').next().unwrap())
    }
}

#[test]
fn what_minisign_signs_is_believed_here() {
    let owner = Owner::with_root();
    let shown = owner.fine(&["trust", "show", "trust.json"]);
    let expected = format!(
        "artefacts: 1 of {}\nconfiguration: 1 of {}\nroot: 2 of {} {}\n",
        owner.number("ci"),
        owner.number("ops"),
        owner.number("anna"),
        owner.number("bert")
    );
    assert!(shown.starts_with("root 1, until 20"), "{shown}");
    assert!(shown.ends_with(&expected), "{shown}");

    #[rustfmt::skip]
    owner.fine(&[
        "trust", "configuration", "kiwi.json", "--robot", "kiwi-01", "--version", "7", "--expires", "30d", "heartbeat_s=5",
    ]);
    let verify = ["trust", "verify", "kiwi.json", "--trust", "trust.json"];
    owner.signs("ops", "kiwi.json", "kiwi.json.minisig");
    let said = owner.fine(&verify);
    assert!(
        said.starts_with("configuration 7 for kiwi-01, until 20"),
        "{said}"
    );
    owner.signs("ci", "kiwi.json", "kiwi.json.minisig");
    assert_eq!(
        owner.refused(&verify),
        "error: kiwi.json: expected signatures of 1 keys of root 1 for configuration, got 0\n"
    );
    let legacy = ["-S", "-l", "-s", "ops.key", "-m", "kiwi.json"];
    assert!(owner.minisign(&legacy).status.success());
    assert_eq!(
        owner.refused(&verify),
        "error: kiwi.json: expected a prehashed signature (ED) of minisign, got a legacy one (Ed)\n"
    );
}

#[test]
fn what_is_signed_here_is_believed_by_minisign() {
    let owner = Owner::with_root();
    #[rustfmt::skip]
    owner.fine(&[
        "trust", "configuration", "all.json", "--all", "--version", "1", "--expires", "30d", "log=debug",
    ]);
    let sign = [
        "trust",
        "sign",
        "all.json",
        "--key",
        "ops.key",
        "--comment",
        "night shift",
    ];
    owner.fine(&sign);
    let verified = owner.minisign(&["-V", "-H", "-p", "ops.pub", "-m", "all.json"]);
    let said = String::from_utf8(verified.stdout).unwrap();
    assert!(verified.status.success(), "{said}");
    assert!(said.contains("Trusted comment: night shift"), "{said}");
    fs::write(owner.path("all.json"), "{}").unwrap();
    let verified = owner.minisign(&["-V", "-p", "ops.pub", "-m", "all.json"]);
    assert!(!verified.status.success());

    // One with a password is the real program's affair: it asks for it.
    let mut secret = owner.read("ops.key");
    secret = secret.replace("RWQAAEIy", "RWRTY0Iy");
    fs::write(owner.path("locked.key"), secret).unwrap();
    let refused = owner.refused(&["trust", "sign", "all.json", "--key", "locked.key"]);
    assert!(
        refused.starts_with("error: locked.key: expected a key without a password"),
        "{refused}"
    );
}

#[test]
fn roots_follow_one_another() {
    let owner = Owner::with_root();
    #[rustfmt::skip]
    owner.fine(&[
        "trust", "root", "root-2.json", "--after", "trust.json", "--expires", "730d",
        "--root", "bert.pub", "--root", "carla.pub", "--root-threshold", "2",
    ]);
    let next: Value = serde_json::from_str(&owner.read("root-2.json")).unwrap();
    let first: Value = serde_json::from_str(&owner.read("root-1.json")).unwrap();
    assert_eq!(next["version"], 2);
    assert_eq!(
        next["roles"]["configuration"], first["roles"]["configuration"],
        "what is not named stays"
    );
    for name in ["anna", "bert", "carla"] {
        owner.signs(name, "root-2.json", &format!("2.{name}.minisig"));
    }
    #[rustfmt::skip]
    let all = [
        "trust", "add-root", "trust.json", "root-2.json", "--signature", "2.bert.minisig",
        "--signature", "2.carla.minisig", "--signature", "2.anna.minisig",
    ];
    let before = owner.read("trust.json");
    assert_eq!(
        owner.refused(&all[..8]),
        "error: root-2.json: expected signatures of 2 keys of root 1 for root, got 1\n"
    );
    assert_eq!(owner.read("trust.json"), before);
    let shown = owner.fine(&all);
    assert!(shown.starts_with("root 2, until 20"), "{shown}");
    assert_eq!(
        owner.refused(&all),
        "error: root-2.json: expected root 3, got 2\n"
    );
    let again = [
        "trust",
        "root",
        "root-2.json",
        "--expires",
        "1d",
        "--root",
        "anna.pub",
    ];
    let refused = owner.refused(&again);
    assert!(
        refused.starts_with("error: root-2.json could not be written"),
        "{refused}"
    );
}

#[test]
fn artefacts_are_those_that_were_signed() {
    let owner = Owner::with_root();
    fs::write(owner.path("agent.deb"), "a package").unwrap();
    fs::write(owner.path("policy.onnx"), "a model").unwrap();
    #[rustfmt::skip]
    owner.fine(&[
        "trust", "artefacts", "list.json", "--version", "3", "--expires", "90d", "agent.deb", "policy.onnx",
    ]);
    owner.fine(&["trust", "sign", "list.json", "--key", "ci.key"]);
    let verify = [
        "trust",
        "verify",
        "list.json",
        "--trust",
        "trust.json",
        "agent.deb",
        "policy.onnx",
    ];
    let said = owner.fine(&verify);
    assert!(
        said.starts_with("artefacts 3: 2 of them, 2 looked at, until 20"),
        "{said}"
    );
    for (content, expected) in [
        (
            "a mödel",
            "error: policy.onnx: expected 7 bytes, got more\n",
        ),
        ("a mod", "error: policy.onnx: expected 7 bytes, got 5\n"),
        (
            "a modem",
            "error: policy.onnx: expected the bytes that were signed, got others of the same length\n",
        ),
    ] {
        fs::write(owner.path("policy.onnx"), content).unwrap();
        assert_eq!(owner.refused(&verify), expected);
    }
    fs::write(owner.path("other.onnx"), "a model").unwrap();
    assert_eq!(
        owner.refused(&[&verify[..5], &["other.onnx"]].concat()),
        "error: other.onnx: expected an artefact, got no \"other.onnx\"\n"
    );
}

fn fleet(line: &str) -> Canned {
    match line {
        "POST /api/v1/session" => SESSION,
        "PUT /api/v1/robots/kiwi-01/configuration" => (202, JSON, r#"{"drift":true}"#),
        _ => (404, JSON, "{}"),
    }
}

#[test]
fn a_signed_configuration_goes_to_the_relay_with_its_proof() {
    let owner = Owner::with_root();
    let relay = Relay::start(fleet);
    login(owner.0.path(), &relay);
    #[rustfmt::skip]
    owner.fine(&[
        "trust", "configuration", "kiwi.json", "--robot", "kiwi-01", "--version", "7", "--expires", "30d", "heartbeat_s=5",
    ]);
    owner.signs("ops", "kiwi.json", "kiwi.json.minisig");
    let set = |robot| {
        [
            "config",
            "set",
            robot,
            "--signed",
            "kiwi.json",
            "--trust",
            "trust.json",
        ]
    };
    owner.fine(&set("kiwi-01"));
    let request = relay.requests().pop().unwrap();
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["settings"], serde_json::json!({ "heartbeat_s": 5 }));
    let statement = &body["proof"]["statement"];
    assert_eq!(statement["document"], owner.read("kiwi.json"));
    assert_eq!(
        statement["signatures"],
        serde_json::json!([owner.read("kiwi.json.minisig")])
    );
    let roots: Value = serde_json::from_str(&owner.read("trust.json")).unwrap();
    assert_eq!(body["proof"]["roots"], roots);

    let asked = relay.requests().len();
    assert_eq!(
        owner.refused(&set("kiwi-02")),
        "error: kiwi.json: expected a configuration for kiwi-02, got one for kiwi-01\n"
    );
    assert_eq!(relay.requests().len(), asked);
}

#[test]
fn wrong_usage_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let home: &Path = folder.path();
    for (arguments, expected) in [
        (
            &[
                "trust",
                "configuration",
                "a",
                "--version",
                "1",
                "--expires",
                "1d",
            ][..],
            "--robot <ID>",
        ),
        (
            &["config", "set", "kiwi-01", "--signed", "a"],
            "--trust <FILE>",
        ),
    ] {
        let output = lekiwi(home, arguments, "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    check(
        &lekiwi(home, &["trust", "show", "no.json"], ""),
        1,
        "",
        "error: no.json could not be read: No such file or directory (os error 2)\n",
    );
}
