//! Rules about `user-data` and `meta-data`.

use serde_json::Value;

use super::{Report, Texts, line, yaml};

const USER: &str = "user-data";
const META: &str = "meta-data";
/// Top-level keys of cloud-config, Raspberry Pi OS's among them.
const KEYS: &[&str] = &[
    "allow_public_ssh_keys",
    "ansible",
    "apk_repos",
    "apt",
    "apt_get_command",
    "apt_pipelining",
    "apt_reboot_if_required",
    "apt_update",
    "apt_upgrade",
    "authkey_hash",
    "autoinstall",
    "bootcmd",
    "byobu_by_default",
    "ca-certs",
    "ca_certs",
    "chef",
    "chpasswd",
    "cloud_config_modules",
    "cloud_final_modules",
    "cloud_init_modules",
    "create_hostname_file",
    "datasource",
    "datasource_list",
    "debug",
    "device_aliases",
    "disable_ec2_metadata",
    "disable_root",
    "disable_root_opts",
    "disk_setup",
    "drivers",
    "enable_ssh",
    "fan",
    "final_message",
    "fqdn",
    "fs_setup",
    "groups",
    "growpart",
    "grub-dpkg",
    "grub_dpkg",
    "hostname",
    "keyboard",
    "landscape",
    "launch-index",
    "locale",
    "locale_configfile",
    "lxd",
    "manage_etc_hosts",
    "manage_resolv_conf",
    "mcollective",
    "merge_how",
    "merge_type",
    "migrate",
    "mount_default_fields",
    "mounts",
    "network",
    "no_ssh_fingerprints",
    "ntp",
    "output",
    "package_reboot_if_required",
    "package_update",
    "package_upgrade",
    "packages",
    "password",
    "phone_home",
    "power_state",
    "prefer_fqdn_over_hostname",
    "preserve_hostname",
    "puppet",
    "random_seed",
    "reporting",
    "resize_rootfs",
    "resolv_conf",
    "rh_subscription",
    "rpi",
    "rsyslog",
    "runcmd",
    "salt_minion",
    "snap",
    "spacewalk",
    "ssh",
    "ssh_authorized_keys",
    "ssh_deletekeys",
    "ssh_fp_console_blacklist",
    "ssh_genkeytypes",
    "ssh_import_id",
    "ssh_key_console_blacklist",
    "ssh_keys",
    "ssh_publish_hostkeys",
    "ssh_pwauth",
    "ssh_quiet_keygen",
    "swap",
    "system_info",
    "timezone",
    "ubuntu_advantage",
    "ubuntu_pro",
    "updates",
    "user",
    "users",
    "vendor_data",
    "version",
    "wireguard",
    "write_files",
    "yum_repo_dir",
    "yum_repos",
    "zypper",
];
/// Owners that are there before any user is made.
const SYSTEM: &[&str] = &["root", "daemon", "www-data", "nobody", "backup", "mail"];
/// What asks the network, early in the boot.
const FETCHES: &[&str] = &[
    "apt", "apt-get", "curl", "wget", "pip", "pip3", "git", "snap",
];

pub(super) fn check(texts: &Texts, report: &mut Report) {
    meta_data(texts, report);
    let text = texts.text(USER).unwrap_or_default();
    // Scripts and archives are another matter; a wrong first line was found already.
    if text.starts_with("#!") || !text.contains("#cloud-config\n") {
        return;
    }
    yaml::check(texts, USER, report);
    let Some(config) = texts.yaml(USER) else {
        return;
    };
    keys(text, &config, report);
    for key in ["hostname", "fqdn"] {
        host_name(USER, text, key, config.get(key), report);
    }
    users(text, &config, report);
    passwords(text, &config, report);
    owners(text, &config, report);
    early(text, &config, report);
}

fn meta_data(texts: &Texts, report: &mut Report) {
    yaml::check(texts, META, report);
    let (Some(text), Some(meta)) = (texts.text(META), texts.yaml(META)) else {
        return;
    };
    host_name(
        META,
        text,
        "local-hostname",
        meta.get("local-hostname"),
        report,
    );
    let said = texts.cmdline().iter().any(|word| {
        word.starts_with("ds=") && (word.contains(";i=") || word.contains(";instance-id="))
    });
    if let Some(id) = meta.get("instance-id") {
        if id.as_str() == Some("") || id.is_null() {
            report.error(
                "instance-id",
                (META, line(text, "instance-id")),
                "instance-id is empty: cloud-init takes every card for the same machine",
            );
        }
        return;
    }
    // The kernel's command line may say it, and counts more.
    if said {
        return;
    }
    if meta.get("instance_id").is_some() {
        report.error(
            "instance-id",
            (META, line(text, "instance_id")),
            "instance_id with an underscore is no key: cloud-init takes every card for the same machine, and a second seed does nothing",
        );
        report.hint("write instance-id with a hyphen");
    } else {
        report.error(
            "instance-id",
            (META, Some(1)),
            "there is no instance-id: cloud-init takes every card for the same machine, and a second seed does nothing",
        );
        report.hint("add instance-id: and something that no other card has");
    }
}

fn keys(text: &str, config: &Value, report: &mut Report) {
    let own = |key: &str| KEYS.contains(&key) || key.starts_with("x-") || key.starts_with('.');
    for key in config.as_object().into_iter().flatten().map(|(key, _)| key) {
        if own(key) {
            continue;
        }
        report.warning(
            "unknown-key",
            (USER, line(text, &format!("{key}:"))),
            format!("{key} is no key of cloud-config: what stands under it is ignored"),
        );
        let near = KEYS
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, key), known))
            .min()
            .filter(|(distance, _)| *distance <= 2);
        if let Some((_, near)) = near {
            report.hint(format!("did you mean {near}?"));
        }
    }
}

/// What a host may be called: labels of letters, digits and hyphens.
fn host_name(file: &str, text: &str, key: &str, value: Option<&Value>, report: &mut Report) {
    let Some(name) = value.and_then(Value::as_str) else {
        return;
    };
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(fits) {
        report.error(
            "host-name",
            (file, line(text, &format!("{key}:"))),
            format!("expected a host name of letters, digits and hyphens, got {name:?}: the network does not know the machine by it"),
        );
    }
}

fn users(text: &str, config: &Value, report: &mut Report) {
    let at = |key: &str| (USER, line(text, key));
    let Some(users) = config.get("users").and_then(Value::as_array) else {
        return;
    };
    let keeps = users.iter().any(|user| user.as_str() == Some("default"));
    if !keeps && config.get("user").is_some() {
        report.error(
            "users",
            at("users:"),
            "user: counts only where users: has the entry default, which is missing: that user is never made",
        );
        report.hint("add - default as the first entry of users");
    } else if !keeps && !users.is_empty() {
        report.warning(
            "users",
            at("users:"),
            "users: has no entry default: the image's own user is not set up, and what relies on it breaks",
        );
        report.hint("add - default as the first entry");
    }
    for user in users {
        let Some(name) = user.get("name").and_then(Value::as_str) else {
            continue;
        };
        let enters = [
            "passwd",
            "hashed_passwd",
            "plain_text_passwd",
            "ssh_authorized_keys",
            "ssh_import_id",
            "ssh_redirect_user",
        ];
        let system = user.get("system").and_then(Value::as_bool) == Some(true);
        if !system
            && !enters.iter().any(|key| user.get(key).is_some())
            && config.get("chpasswd").is_none()
        {
            report.warning(
                "users",
                at(&format!("name: {name}")),
                format!("{name} has neither a key nor a password, and cannot log in"),
            );
            report.hint("add ssh_authorized_keys");
        }
    }
}

fn passwords(text: &str, config: &Value, report: &mut Report) {
    let clear = |report: &mut Report, key: &str| {
        report.warning(
            "clear-password",
            (USER, line(text, key)),
            "a password stands here in clear, for whoever holds the card",
        );
        report.hint("write its hash (`mkpasswd`), or log in with a key");
    };
    let hashed = |value: &str| value.starts_with('$') || value.starts_with(['!', '*']);
    let password = config.get("password").and_then(Value::as_str);
    if password.is_some_and(|value| !hashed(value)) {
        clear(report, "password:");
    }
    let single = config.get("user").filter(|user| user.is_object());
    let users = config.get("users").and_then(Value::as_array);
    for user in users.into_iter().flatten().chain(single) {
        if user.get("plain_text_passwd").is_some() {
            clear(report, "plain_text_passwd:");
        }
        for key in ["passwd", "hashed_passwd"] {
            let value = user.get(key).and_then(Value::as_str);
            if value.is_some_and(|value| !hashed(value)) {
                report.error(
                    "password-hash",
                    (USER, line(text, &format!("{key}:"))),
                    format!("{key} takes a hash, and this is none: nobody can log in with it"),
                );
                report.hint("`mkpasswd --method=sha512crypt` makes one");
            }
        }
    }
    let Some(change) = config.get("chpasswd") else {
        return;
    };
    let entries = change.get("users").and_then(Value::as_array);
    let typed = entries.into_iter().flatten().any(|entry| {
        entry.get("type").and_then(Value::as_str) == Some("text")
            || entry
                .get("password")
                .and_then(Value::as_str)
                .is_some_and(|value| !hashed(value))
    });
    let list = match change.get("list") {
        Some(Value::String(lines)) => lines.lines().map(str::to_owned).collect(),
        Some(Value::Array(lines)) => lines
            .iter()
            .filter_map(|line| line.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    };
    let listed = list.iter().any(|entry| {
        entry.split_once(':').is_some_and(|(_, value)| {
            !hashed(value.trim()) && !matches!(value.trim(), "R" | "RANDOM")
        })
    });
    if typed || listed {
        clear(report, "chpasswd:");
    }
}

fn owners(text: &str, config: &Value, report: &mut Report) {
    let files = config.get("write_files").and_then(Value::as_array);
    for file in files.into_iter().flatten() {
        let deferred = file.get("defer").and_then(Value::as_bool) == Some(true);
        let Some(owner) = file.get("owner").and_then(Value::as_str) else {
            continue;
        };
        let user = owner.split(':').next().unwrap_or_default();
        if !deferred && !SYSTEM.contains(&user) {
            report.error(
                "file-owner",
                (
                    USER,
                    line(text, &format!("owner: {owner}")).or_else(|| line(text, owner)),
                ),
                format!(
                    "the file is written before the user {user} is made, and cloud-init stops at it"
                ),
            );
            report.hint("add defer: true to the file");
        }
    }
}

fn early(text: &str, config: &Value, report: &mut Report) {
    let commands = config.get("bootcmd").and_then(Value::as_array);
    for command in commands.into_iter().flatten() {
        let words: Vec<&str> = match command {
            Value::String(script) => script
                .lines()
                .filter_map(|line| line.split_whitespace().next())
                .collect(),
            Value::Array(words) => words.iter().take(1).filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if let Some(word) = words.iter().find(|word| FETCHES.contains(word)) {
            report.warning(
                "early-network",
                (USER, line(text, word)),
                format!("bootcmd runs {word} before the network is up, and at every boot"),
            );
            report.hint("move it to runcmd");
        }
    }
}
