//! Renders an order into the files of a boot partition. Pure: the same order gives the same plan. Whoever carries it out
//! (`apply` on a mounted card, `media` in an image) reads what is to be copied or edited.

mod network;
mod render;

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use self::render::{indented, render, shell, yaml};
use crate::cmdline::{self, Cmdline};
use crate::order::{Name, Order, Os, User};

const USER_DATA: &str = include_str!("../../cloud-init/user-data.yml");
const META_DATA: &str = include_str!("../../cloud-init/meta-data.yml");
const AGENT_YML: &str = include_str!("../../cloud-init/agent.yml");
const PUT: &str = include_str!("../../cloud-init/put.sh");
const FIRST_BOOT: &str = include_str!("../../cloud-init/first-boot.sh");
const FIRSTRUN: &str = include_str!("../../cloud-init/firstrun.sh");
const USER: &str = include_str!("../../cloud-init/user.sh");

/// The agent's package on the boot partition.
pub const AGENT_DEB: &str = "lekiwi-agent.deb";
/// The folder of the boot partition for [`crate::order::CardFile`]s.
pub const CARD_FOLDER: &str = "lekiwi";
/// What the seed is, without a secret; read by the linter and by people.
pub const SIDECAR: &str = "lekiwi.json";

/// One file of the boot partition, as it shall be.
#[derive(Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Its path in the partition, such as `user-data`.
    pub name: String,
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
    /// The bytes of a file of this machine.
    Copy(PathBuf),
    /// What [`Cmdline::edit`] makes of the file that is there.
    Edit(Cmdline),
}

/// The files of a seed. With cloud-init all three of its files are always there: a missing `user-data` fails the data
/// source. What boots the seed (the edit of the command line) comes last.
#[must_use]
pub fn seed(order: &Order) -> Vec<PlannedFile> {
    let mut files = Vec::new();
    let mut text = |name: &str, content, secret| {
        files.push(PlannedFile {
            name: name.to_owned(),
            content: Content::Text(content),
            secret,
        });
    };
    if order.os == Os::RaspiosBookworm {
        text("firstrun.sh", firstrun(order), true);
    } else {
        text("user-data", user_data(order), true);
        text("meta-data", meta_data(order), false);
        let secret = order
            .wifi
            .as_ref()
            .is_some_and(|wifi| wifi.password.is_some());
        text("network-config", network::config(order), secret);
    }
    text(SIDECAR, sidecar(order), false);
    if let Some(package) = &order.agent_deb {
        files.push(PlannedFile {
            name: AGENT_DEB.to_owned(),
            content: Content::Copy(package.clone()),
            secret: false,
        });
    }
    for file in &order.card_files {
        files.push(PlannedFile {
            name: format!("{CARD_FOLDER}/{}", file.name),
            content: Content::Copy(file.source.clone()),
            secret: false,
        });
    }
    let words = words(order);
    if !words.is_empty() {
        files.push(PlannedFile {
            name: cmdline::NAME.to_owned(),
            content: Content::Edit(Cmdline::new(words)),
            secret: false,
        });
    }
    files
}

/// How cloud-init tells installations apart. Another token means another one: a card that is seeded anew runs anew.
#[must_use]
pub fn instance_id(order: &Order) -> String {
    let name = match &order.name {
        Name::Given(id) => id,
        Name::Serial { prefix } => prefix,
    };
    format!("{name}-{:08x}", digest(&order.token))
}

fn user_data(order: &Order) -> String {
    let mut settings = String::new();
    let mut set = |key: &str, value: Value| {
        let _ = writeln!(settings, "{key}: {}", yaml(&value));
    };
    match &order.name {
        Name::Given(id) => {
            set("hostname", json!(id));
            set("preserve_hostname", json!(false));
        }
        // The name comes from bootcmd, and cloud-init knows no better one.
        Name::Serial { .. } => set("preserve_hostname", json!(true)),
    }
    set("manage_etc_hosts", json!(true));
    set("ssh_pwauth", json!(false));
    if let Some(zone) = &order.time_zone {
        set("timezone", json!(zone));
    }
    if let Some(locale) = &order.locale {
        set("locale", json!(locale));
    }
    if let Some(layout) = &order.keyboard {
        set("keyboard", json!({ "layout": layout }));
    }
    // An empty list is against cloud-init's schema.
    let runcmd = if order.user.is_some() {
        let enable = json!([["systemctl", "enable", "--now", "ssh"]]);
        format!("runcmd: {}\n", yaml(&enable))
    } else {
        String::new()
    };
    render(
        USER_DATA,
        &[
            ("os", order.os.as_str().to_owned()),
            ("settings", settings.trim_end().to_owned()),
            ("users", yaml(&users(order))),
            ("first_boot", indented(&first_boot(order), 6)),
            ("runcmd", runcmd),
        ],
    )
}

/// The image's own user stays, without a password; what the order says is one more.
fn users(order: &Order) -> Value {
    let Some(user) = &order.user else {
        return json!(["default"]);
    };
    let mut entry = json!({
        "name": user.name,
        "groups": ["sudo", "dialout", "video"],
        "shell": "/bin/bash",
        "lock_passwd": user.password_hash.is_none(),
    });
    if !user.ssh_keys.is_empty() {
        entry["ssh_authorized_keys"] = json!(user.ssh_keys);
    }
    match &user.password_hash {
        Some(hash) => entry["passwd"] = json!(hash),
        None => entry["sudo"] = json!("ALL=(ALL) NOPASSWD:ALL"),
    }
    json!(["default", entry])
}

fn meta_data(order: &Order) -> String {
    let mut text = render(META_DATA, &[("instance_id", yaml(&instance_id(order)))]);
    if let Name::Given(id) = &order.name {
        let _ = writeln!(text, "local-hostname: {}", yaml(id));
    }
    text
}

/// The part of the first boot that all systems run.
fn first_boot(order: &Order) -> String {
    let (name, prefix) = match &order.name {
        Name::Given(id) => (id.as_str(), ""),
        Name::Serial { prefix } => ("", prefix.as_str()),
    };
    render(
        FIRST_BOOT,
        &[
            ("instance_id", shell(&instance_id(order))),
            ("token", shell(&order.token)),
            ("name", shell(name)),
            ("prefix", shell(prefix)),
            ("put", PUT.trim_end().to_owned()),
            ("agent_yml", shell(agent_yml(order).trim_end())),
        ],
    )
}

fn agent_yml(order: &Order) -> String {
    let robot_id = match &order.name {
        Name::Given(id) => format!("robot_id: {}\n", yaml(id)),
        Name::Serial { .. } => String::new(),
    };
    render(
        AGENT_YML,
        &[
            ("robot_id", robot_id),
            ("org", yaml(&order.org)),
            ("profile", yaml(&order.profile)),
            ("https", yaml(&order.https)),
            ("mqtt", yaml(&order.mqtt)),
            ("ca_fingerprint", yaml(&order.ca_fingerprint)),
        ],
    )
}

fn firstrun(order: &Order) -> String {
    let mut steps = String::new();
    let mut step = |text: &str| {
        let _ = write!(steps, "(\nset -eu\n{}\n)\n", text.trim_end());
    };
    if let Some(user) = &order.user {
        step(&user_step(user));
    }
    for (name, profile) in network::profiles(order) {
        step(&format!(
            "put \"$root/etc/NetworkManager/system-connections/{name}\" 600 {}",
            shell(profile.trim_end())
        ));
    }
    if let Some(wifi) = &order.wifi {
        // The radio is blocked until a country is set.
        step(&format!(
            "raspi-config nonint do_wifi_country {}\nrfkill unblock wifi",
            shell(&wifi.country)
        ));
    }
    if let Some(zone) = &order.time_zone {
        step(&format!(
            "raspi-config nonint do_change_timezone {}",
            shell(zone)
        ));
    }
    if let Some(locale) = &order.locale {
        step(&format!(
            "raspi-config nonint do_change_locale {}",
            shell(locale)
        ));
    }
    if let Some(layout) = &order.keyboard {
        step(&format!(
            "raspi-config nonint do_configure_keyboard {}",
            shell(layout)
        ));
    }
    render(
        FIRSTRUN,
        &[
            ("put", PUT.trim_end().to_owned()),
            ("first_boot", first_boot(order).trim_end().to_owned()),
            ("steps", steps.trim_end().to_owned()),
        ],
    )
}

fn user_step(user: &User) -> String {
    let sudoers = match &user.password_hash {
        Some(_) => format!("{} ALL=(ALL) ALL", user.name),
        None => format!("{} ALL=(ALL) NOPASSWD:ALL", user.name),
    };
    // A hash that no password has.
    let hash = user.password_hash.as_deref().unwrap_or("*");
    render(
        USER,
        &[
            ("user", shell(&user.name)),
            ("hash", shell(hash)),
            ("ssh_keys", shell(&user.ssh_keys.join("\n"))),
            ("sudoers", shell(&sudoers)),
        ],
    )
}

fn words(order: &Order) -> Vec<String> {
    let mut words = Vec::new();
    let is_raspios = matches!(order.os, Os::RaspiosTrixie | Os::RaspiosBookworm);
    if let Some(wifi) = &order.wifi
        && is_raspios
    {
        words.push(format!("cfg80211.ieee80211_regdom={}", wifi.country));
    }
    match order.os {
        Os::RaspiosTrixie => words.push(format!("ds=nocloud;i={}", instance_id(order))),
        Os::RaspiosBookworm => words.extend(
            [
                "systemd.run=/boot/firmware/firstrun.sh",
                "systemd.run_success_action=reboot",
                "systemd.unit=kernel-command-line.target",
            ]
            .map(str::to_owned),
        ),
        Os::Ubuntu2404 | Os::Debian => {}
    }
    words
}

fn sidecar(order: &Order) -> String {
    let (robot_id, prefix) = match &order.name {
        Name::Given(id) => (Some(id), None),
        Name::Serial { prefix } => (None, Some(prefix)),
    };
    let value = json!({
        "version": 1,
        "provisioner": env!("CARGO_PKG_VERSION"),
        "os": order.os.as_str(),
        "instance_id": instance_id(order),
        "robot_id": robot_id,
        "prefix": prefix,
        "org": order.org,
        "profile": order.profile,
        "token_expires": order.token_expires,
    });
    format!("{value:#}\n")
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
    use crate::order::check::tests::{order, wifi};

    fn text<'a>(files: &'a [PlannedFile], name: &str) -> &'a str {
        let file = files.iter().find(|file| file.name == name).unwrap();
        match &file.content {
            Content::Text(text) => text,
            Content::Copy(_) | Content::Edit(_) => panic!("{name} is no text"),
        }
    }

    #[test]
    fn each_system_gets_its_files() {
        let names = |os, agent_deb: Option<PathBuf>| {
            let mut order = order();
            order.os = os;
            order.agent_deb = agent_deb;
            order.wifi = Some(wifi());
            let files = seed(&order);
            for file in &files {
                if let Content::Text(text) = &file.content {
                    assert!(!text.contains("{{"), "{text}");
                }
            }
            files
                .iter()
                .map(|file| file.name.as_str())
                .collect::<Vec<_>>()
                .join(" ")
        };
        let deb = || Some(PathBuf::from("a.deb"));
        assert_eq!(
            names(Os::RaspiosTrixie, deb()),
            "user-data meta-data network-config lekiwi.json lekiwi-agent.deb cmdline.txt"
        );
        assert_eq!(
            names(Os::Ubuntu2404, None),
            "user-data meta-data network-config lekiwi.json"
        );
        assert_eq!(
            names(Os::Debian, deb()),
            "user-data meta-data network-config lekiwi.json lekiwi-agent.deb"
        );
        assert_eq!(
            names(Os::RaspiosBookworm, deb()),
            "firstrun.sh lekiwi.json lekiwi-agent.deb cmdline.txt"
        );
    }

    #[test]
    fn a_secret_is_in_no_file_that_is_not_marked() {
        for os in Os::ALL {
            let mut order = order();
            order.os = os;
            order.wifi = Some(wifi());
            for file in seed(&order) {
                let Content::Text(text) = &file.content else {
                    continue;
                };
                let holds = [order.token.as_str(), "battery"]
                    .iter()
                    .any(|secret| text.contains(secret));
                assert_eq!(holds, file.secret, "{} of {}", file.name, os.as_str());
            }
        }
    }

    #[test]
    fn a_hostile_key_comment_stays_a_string() {
        let mut order = order();
        let key = "ssh-ed25519 AAAA \"]}: {{token}} # x";
        order.user.as_mut().unwrap().ssh_keys = vec![key.into()];
        let files = seed(&order);
        let user_data: Value = serde_saphyr::from_str(text(&files, "user-data")).unwrap();
        assert_eq!(user_data["users"][1]["ssh_authorized_keys"][0], key);
    }

    #[test]
    fn another_token_is_another_instance() {
        let id = |token: &str| {
            let mut order = order();
            order.token = token.into();
            instance_id(&order)
        };
        assert_ne!(
            id("lkt_aaaaaaaaaaaaaaaaaaaaaaaaa"),
            id("lkt_aaaaaaaaaaaaaaaaaaaaaaaab")
        );
        assert_eq!(
            id("lkt_aaaaaaaaaaaaaaaaaaaaaaaaa"),
            id("lkt_aaaaaaaaaaaaaaaaaaaaaaaaa")
        );
    }
}
