//! This machine as a robot: its name, its configuration and its state, kept over restarts.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{Ready, private_folder};
use crate::workspace;

/// The longest name that is a robot's id (a label of a host name).
const ID_LENGTH: usize = 63;

/// The robot that this machine is.
pub(super) struct Robot {
    /// Made of the host name once, then kept.
    pub(super) id: String,
    /// The agent's configuration file.
    pub(super) config: PathBuf,
    token_file: PathBuf,
    state: PathBuf,
}

impl Robot {
    /// Whether it has a certificate already.
    pub(super) fn is_enrolled(&self) -> bool {
        self.state.join("cert.pem").is_file()
    }

    /// Keeps the token where the agent looks for it.
    pub(super) fn store_token(&self, token: &str) -> Result<()> {
        write_private(&self.token_file, token)
    }

    fn configuration(&self, folder: &Path, ready: &Ready) -> String {
        format!(
            "# Written by `cargo xtask up` at each start.\n\
             version: 1\n\
             robot_id: {id}\n\
             org: default\n\
             profile: generic\n\
             profiles_dir: {profiles}\n\
             relay:\n  https: https://{https}\n  mqtt: mqtts://{mqtt}\n  ca_fingerprint: {fingerprint}\n\
             enrolment:\n  token_file: {token}\n\
             state_dir: {state}\n\
             socket: {socket}\n",
            id = quoted(&self.id),
            profiles = quoted(&workspace::root().join("image/profiles").to_string_lossy()),
            https = ready.https,
            mqtt = ready.mqtt,
            fingerprint = ready.ca_fingerprint,
            token = quoted(&self.token_file.to_string_lossy()),
            state = quoted(&self.state.to_string_lossy()),
            socket = quoted(&folder.join("agent.sock").to_string_lossy()),
        )
    }
}

/// Names the robot and writes its configuration for the relay that now serves.
pub(super) fn prepare(data: &Path, ready: &Ready) -> Result<Robot> {
    let folder = data.join("agent");
    private_folder(&folder)?;
    let robot = Robot {
        id: kept_id(&folder)?,
        config: folder.join("agent.yml"),
        token_file: folder.join("token"),
        state: folder.join("state"),
    };
    let authority = folder.join("authority");
    let known = std::fs::read_to_string(&authority).unwrap_or_default();
    ensure!(
        known == ready.ca_fingerprint || !robot.is_enrolled(),
        "expected the relay with authority `{known}`, got {}\n  (hint: to enrol this machine anew, remove {})",
        ready.ca_fingerprint,
        robot.state.display()
    );
    write_private(&authority, &ready.ca_fingerprint)?;
    write_private(&robot.config, &robot.configuration(&folder, ready))?;
    Ok(robot)
}

/// A YAML string (JSON's strings are YAML's too), so that a robot called `on` or `7` stays a name.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The name kept from the last time, or the host's.
fn kept_id(folder: &Path) -> Result<String> {
    let kept = folder.join("robot-id");
    if let Ok(id) = std::fs::read_to_string(&kept) {
        return Ok(id.trim().to_owned());
    }
    let host = nix::unistd::gethostname().context("could not read the host name")?;
    let id = robot_id(&host.to_string_lossy());
    write_private(&kept, &format!("{id}\n"))?;
    Ok(id)
}

/// The nearest valid robot id.
fn robot_id(host: &str) -> String {
    let first_label = host.split('.').next().unwrap_or_default();
    let mut id: String = first_label
        .chars()
        .map(|letter| match letter.to_ascii_lowercase() {
            letter @ ('a'..='z' | '0'..='9') => letter,
            _ => '-',
        })
        .skip_while(|letter| *letter == '-')
        .take(ID_LENGTH)
        .collect();
    id.truncate(id.trim_end_matches('-').len());
    if id.is_empty() {
        "robot".to_owned()
    } else {
        id
    }
}

/// Writes a file that only its owner reads.
fn write_private(path: &Path, text: &str) -> Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("could not write {}", path.display()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn ready(authority: &str) -> Ready {
        Ready {
            https: "127.0.0.1:8443".parse().unwrap(),
            mqtt: "127.0.0.1:8883".parse().unwrap(),
            ca_fingerprint: authority.to_owned(),
        }
    }

    #[test]
    fn host_names_become_robot_ids() {
        let long = "a".repeat(80);
        for (host, id) in [
            ("kiwi-01", "kiwi-01"),
            ("Kiwi_01.local", "kiwi-01"),
            ("--kiwi--", "kiwi"),
            ("møbel", "m-bel"),
            ("", "robot"),
            ("...", "robot"),
            (long.as_str(), &long[..63]),
        ] {
            assert_eq!(robot_id(host), id, "{host}");
        }
    }

    #[test]
    fn a_robot_keeps_its_name_and_its_configuration_names_this_relay() {
        let data = tempfile::tempdir().unwrap();
        prepare(data.path(), &ready("sha256:aa")).unwrap();
        std::fs::write(data.path().join("agent/robot-id"), "renamed\n").unwrap();
        let robot = prepare(data.path(), &ready("sha256:aa")).unwrap();
        assert_eq!(robot.id, "renamed");
        let written = std::fs::read_to_string(&robot.config).unwrap();
        let folder = data.path().join("agent");
        let folder = folder.display();
        let profiles = workspace::root().join("image/profiles");
        let profiles = profiles.display();
        assert_eq!(
            written,
            format!(
                "# Written by `cargo xtask up` at each start.\nversion: 1\nrobot_id: \"renamed\"\norg: default\nprofile: generic\nprofiles_dir: \"{profiles}\"\nrelay:\n  https: https://127.0.0.1:8443\n  mqtt: mqtts://127.0.0.1:8883\n  ca_fingerprint: sha256:aa\nenrolment:\n  token_file: \"{folder}/token\"\nstate_dir: \"{folder}/state\"\nsocket: \"{folder}/agent.sock\"\n"
            )
        );
    }

    #[test]
    fn another_relay_is_noticed_once_the_robot_has_a_certificate() {
        let data = tempfile::tempdir().unwrap();
        prepare(data.path(), &ready("sha256:aa")).unwrap();
        prepare(data.path(), &ready("sha256:bb")).unwrap();
        let state = data.path().join("agent/state");
        std::fs::create_dir(&state).unwrap();
        std::fs::write(state.join("cert.pem"), "").unwrap();
        let error = prepare(data.path(), &ready("sha256:cc"))
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            format!(
                "expected the relay with authority `sha256:bb`, got sha256:cc\n  (hint: to enrol this machine anew, remove {})",
                state.display()
            )
        );
    }
}
