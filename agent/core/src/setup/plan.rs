//! What a profile asks for, as an ordered list of actions. Pure.
//!
//! Packages come first, since they bring groups and programs; then what devices and software need; units
//! last, since they start it all.

use lekiwi_protocol::profile::{File, Profile, Python, Unit};

/// Something to be done on the robot. Each stands being done twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Install Debian packages.
    Packages(Vec<String>),
    /// Make groups, and let the agent and people into them.
    Groups(Vec<String>),
    /// Write udev's rules.
    DeviceRules(String),
    /// Write a file.
    File(File),
    /// Make a Python environment.
    Python(Python),
    /// Write, enable and start a systemd unit.
    Unit(Unit),
}

/// A step of the setup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What it is called in events; unique.
    pub name: String,
    /// Its usual share of the time.
    pub weight: u32,
    /// What it does.
    pub action: Action,
}

/// The steps of `profile`, in order.
#[must_use]
pub fn plan(profile: &Profile) -> Vec<Planned> {
    let software = &profile.software;
    let mut steps = Vec::new();
    let mut step = |name: String, weight, action| {
        steps.push(Planned {
            name,
            weight,
            action,
        });
    };
    if !software.apt.is_empty() {
        step(
            "packages".to_owned(),
            30,
            Action::Packages(software.apt.clone()),
        );
    }
    if !profile.groups.is_empty() {
        step(
            "groups".to_owned(),
            1,
            Action::Groups(profile.groups.clone()),
        );
    }
    if !profile.device_rules.is_empty() {
        let rules = profile.device_rules.clone();
        step("device rules".to_owned(), 1, Action::DeviceRules(rules));
    }
    for file in &software.files {
        step(format!("file {}", file.path), 1, Action::File(file.clone()));
    }
    if let Some(python) = &software.python {
        step("python".to_owned(), 60, Action::Python(python.clone()));
    }
    for unit in &software.units {
        step(format!("unit {}", unit.name), 2, Action::Unit(unit.clone()));
    }
    steps
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let text = format!("version: 1\nname: lekiwi\ntitle: A robot\n{text}");
        let profile = Profile::parse(&text, "lekiwi.yml").unwrap();
        plan(&profile).into_iter().map(|step| step.name).collect()
    }

    #[test]
    fn packages_come_first_and_units_last() {
        let text = r#"
software:
  units:
    - {name: a.service, content: "[Service]\nRestart=always\n[Install]"}
    - {name: b.timer, content: "[Install]"}
  python: {venv: /opt/lerobot, version: "3.12", requirements: [pyzmq==27.1.0]}
  files: [{path: /etc/a, content: a}, {path: /etc/b, content: b}]
  apt: [python3-venv]
device_rules: KERNEL=="x"
groups: [dialout]
"#;
        assert_eq!(
            names(text),
            [
                "packages",
                "groups",
                "device rules",
                "file /etc/a",
                "file /etc/b",
                "python",
                "unit a.service",
                "unit b.timer"
            ]
        );
    }

    #[test]
    fn a_profile_without_software_has_no_steps() {
        assert_eq!(names("services: [ssh.service]"), Vec::<String>::new());
    }
}
