//! Renders an order into the exact files of a seed. Pure: the same order gives the same bytes.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cmdline::Cmdline;
use crate::order::Order;

const USER_DATA: &str = include_str!("../../cloud-init/user-data.yml");
const META_DATA: &str = include_str!("../../cloud-init/meta-data.yml");
const NETWORK_CONFIG: &str = include_str!("../../cloud-init/network-config.yml");
const AGENT_YML: &str = include_str!("../../cloud-init/agent.yml");
/// Where Raspberry Pi OS and Debian's Pi images mount the boot partition.
const BOOT: &str = "/boot/firmware";

/// One file of the boot partition, as it shall be.
#[derive(Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Its name in the partition's root.
    pub name: &'static str,
    /// What it holds.
    pub content: Content,
    /// Whether it holds a secret.
    pub secret: bool,
}

/// What a planned file holds.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes; a file of that name is replaced.
    Text(String),
    /// The bytes of a file of this machine, byte for byte.
    Copy(PathBuf),
    /// What [`Cmdline::edit`] makes of the file that is there.
    Edit(Cmdline),
}

/// The files of a NoCloud seed. All three are always there: a missing `user-data` fails the data source.
#[must_use]
pub fn seed(order: &Order) -> Vec<PlannedFile> {
    let common = [
        ("robot_id", json!(order.robot_id)),
        ("org", json!(order.org)),
        ("profile", json!(order.profile)),
        ("https", json!(order.https)),
        ("mqtt", json!(order.mqtt)),
        ("ca_fingerprint", json!(order.ca_fingerprint)),
        ("token", json!(order.token)),
        // Another token means another installation: cloud-init runs again on a card that is seeded anew.
        (
            "instance_id",
            json!(format!("{}-{:08x}", order.robot_id, digest(&order.token))),
        ),
        ("users", users(order)),
        ("runcmd", runcmd(order)),
    ];
    let agent_yml = render(AGENT_YML, &common);
    let user_data = render(
        &render(USER_DATA, &[("agent_yml", json!(agent_yml))]),
        &common,
    );
    vec![
        PlannedFile {
            name: "user-data",
            content: user_data,
            secret: true,
        },
        PlannedFile {
            name: "meta-data",
            content: render(META_DATA, &common),
            secret: false,
        },
        PlannedFile {
            name: "network-config",
            content: NETWORK_CONFIG.to_owned(),
            secret: false,
        },
    ]
}

/// The image's own user stays; with keys there is one more, who has no password.
fn users(order: &Order) -> Value {
    if order.ssh_keys.is_empty() {
        return json!(["default"]);
    }
    json!([
        "default",
        {
            "name": "lekiwi",
            "groups": ["sudo", "dialout", "video"],
            "shell": "/bin/bash",
            "lock_passwd": true,
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "ssh_authorized_keys": order.ssh_keys,
        },
    ])
}

fn runcmd(order: &Order) -> Value {
    let mut commands = Vec::new();
    if !order.ssh_keys.is_empty() {
        commands.push(json!(["systemctl", "enable", "--now", "ssh"]));
    }
    if let Some(package) = &order.agent_deb {
        commands.push(json!(["dpkg", "--install", format!("{BOOT}/{package}")]));
    }
    // The package made the user; before it, nobody could own these.
    commands.push(json!([
        "chown",
        "--recursive",
        "lekiwi-agent:lekiwi-agent",
        "/opt/lekiwi-agent/state"
    ]));
    commands.push(json!([
        "chown",
        "--recursive",
        "root:lekiwi-agent",
        "/etc/lekiwi"
    ]));
    commands.push(json!(["systemctl", "enable", "--now", "lekiwi-agent"]));
    Value::Array(commands)
}

/// Replaces each `{{name}}` by its value as JSON, which is YAML too.
fn render(template: &str, values: &[(&str, Value)]) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        let Some((name, after)) = after.split_once("}}") else {
            text.push_str("{{");
            rest = after;
            continue;
        };
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => text.push_str(&value.to_string()),
            None => text.push_str(&format!("{{{{{name}}}}}")),
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// FNV-1a: tells tokens apart without telling them.
fn digest(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::order::tests::order;

    #[test]
    fn nothing_is_left_open_and_the_agents_configuration_survives_the_nesting() {
        let files = seed(&order());
        assert_eq!(
            files.iter().map(|file| file.name).collect::<Vec<_>>(),
            ["user-data", "meta-data", "network-config"]
        );
        for file in &files {
            assert!(!file.content.contains("{{"), "{}", file.content);
        }
        let user_data: Value = serde_saphyr::from_str(&files[0].content).unwrap();
        let agent_yml = user_data["write_files"][0]["content"].as_str().unwrap();
        let agent: Value = serde_saphyr::from_str(agent_yml).unwrap();
        assert_eq!(agent["robot_id"], "kiwi-01");
        assert_eq!(agent["relay"]["mqtt"], "mqtts://relay.example:8883");
        assert!(
            files[1].content.contains("\ninstance-id: \"kiwi-01-"),
            "{}",
            files[1].content
        );
    }

    #[test]
    fn a_hostile_key_comment_stays_a_string() {
        let mut order = order();
        order.ssh_keys = vec!["ssh-ed25519 AAAA \"]}: {{token}} # x".into()];
        let user_data: Value = serde_saphyr::from_str(&seed(&order)[0].content).unwrap();
        assert_eq!(
            user_data["users"][1]["ssh_authorized_keys"][0],
            "ssh-ed25519 AAAA \"]}: {{token}} # x"
        );
    }

    #[test]
    fn another_token_is_another_instance() {
        let meta = |token: &str| {
            let mut order = order();
            order.token = token.into();
            seed(&order)[1].content.clone()
        };
        assert_ne!(
            meta("lkt_aaaaaaaaaaaaaaaaaaaaaaaaa"),
            meta("lkt_aaaaaaaaaaaaaaaaaaaaaaaab")
        );
        assert_eq!(
            meta("lkt_aaaaaaaaaaaaaaaaaaaaaaaaa"),
            meta("lkt_aaaaaaaaaaaaaaaaaaaaaaaaa")
        );
    }
}
