//! The options that make an order, for each command that writes a seed.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use lekiwi_protocol::profile::Profile;
use lekiwi_protocol::signed::{Root, Signed};
use lekiwi_protocol::{Org, RobotId, Timestamp};
use lekiwi_provisioner::order::{Addressing, CardFile, Name, Order, Os, TRUST, User, Wifi};
use serde::Deserialize;
use webpki::ring::ED25519;

use crate::failure::Failure;

/// What is asked for.
#[derive(Args)]
pub(crate) struct Ordering {
    /// The system on the card: raspios-trixie, raspios-bookworm, ubuntu-24.04 or debian
    #[arg(long, value_name = "SYSTEM")]
    os: Os,
    /// The robot: host name, certificate and topic; without it the board's serial number makes the name
    #[arg(long, value_name = "NAME")]
    robot_id: Option<RobotId>,
    /// What comes before the last 8 digits of the serial number
    #[arg(long, default_value = "robot", conflicts_with = "robot_id")]
    prefix: RobotId,
    /// Hardware profile; auto: the agent recognises the robot
    #[arg(long, default_value = "auto", value_name = "NAME")]
    profile: String,
    /// Organisation
    #[arg(long, default_value = "default", value_name = "NAME")]
    org: Org,
    /// The relay's HTTPS address, `https://host:port`
    #[arg(long, value_name = "URL")]
    relay_https: String,
    /// The relay's broker, `mqtts://host:port`
    #[arg(long, value_name = "URL")]
    relay_mqtt: String,
    /// The relay's authority, `sha256:…`; `lekiwi-relay ca show` prints it
    #[arg(long, value_name = "SHA256")]
    ca_fingerprint: String,
    /// File with the enrolment token, or with the JSON of `lekiwi token create --json`; `-` reads standard input,
    /// which keeps it out of the process list
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// An agent package that is put on the card, and installed without a network
    #[arg(long, value_name = "FILE")]
    agent_deb: Option<PathBuf>,
    /// Folder whose profiles/, packages/, wheels/ and overlays/ are put on the card: profiles of your own, and software
    /// for robots without internet
    #[arg(long, value_name = "FOLDER")]
    card_files: Option<PathBuf>,
    /// A trust file of `lekiwi trust add-root`: the robot takes only configurations that its keys have signed
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Login name of the user that --ssh-key and --password-hash-file make
    #[arg(long, default_value = "lekiwi", value_name = "NAME")]
    user: String,
    /// File with a public key that may log in over SSH; repeatable
    #[arg(long = "ssh-key", value_name = "FILE")]
    ssh_keys: Vec<PathBuf>,
    /// File with the hash of a password for the console (`mkpasswd`); there is none otherwise
    #[arg(long, value_name = "FILE")]
    password_hash_file: Option<PathBuf>,
    /// Name of the wireless network
    #[arg(long, value_name = "SSID", requires = "wifi_country")]
    wifi: Option<String>,
    /// File with its passphrase; without it the network is open
    #[arg(long, value_name = "FILE", requires = "wifi")]
    wifi_password_file: Option<PathBuf>,
    /// The country whose radio rules hold, such as DE
    #[arg(long, value_name = "CC", requires = "wifi")]
    wifi_country: Option<String>,
    /// A fixed address, such as 192.168.1.20/24; of the wireless interface with --wifi, else of the wired one
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// The way out of a fixed address's network
    #[arg(long, value_name = "ADDRESS", requires = "address")]
    gateway: Option<String>,
    /// A name server for a fixed address; repeatable
    #[arg(long, value_name = "ADDRESS", requires = "address")]
    dns: Vec<String>,
    /// Such as Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Such as de_DE.UTF-8
    #[arg(long)]
    locale: Option<String>,
    /// Layout of a keyboard, such as de
    #[arg(long, value_name = "LAYOUT")]
    keyboard: Option<String>,
}

impl Ordering {
    /// Reads the files, and checks the whole.
    pub(crate) fn order(self) -> Result<Order, Failure> {
        if self.token_file.is_none() {
            return Err(Failure::new("expected an enrolment token, by --token-file")
                .hint(Some("make one with `lekiwi token create`")));
        }
        self.shared()?.check().map_err(|error| {
            let hint = error.hint();
            Failure::new(error).hint(hint)
        })
    }

    /// A card that will not become a robot by itself.
    pub(crate) fn lacks_agent(&self) -> bool {
        self.agent_deb.is_none() && self.os != Os::Debian
    }

    /// Reads the files. What is not said stays empty: a job says it for each card, and checks the whole.
    pub(crate) fn shared(self) -> Result<Order, Failure> {
        let name = match self.robot_id {
            Some(id) => Name::Given(id),
            None => Name::Serial {
                prefix: self.prefix,
            },
        };
        let (token, token_expires) = match &self.token_file {
            Some(path) => token(path)?,
            None => (String::new(), None),
        };
        let ssh_keys: Vec<String> = self
            .ssh_keys
            .iter()
            .map(|path| read(path))
            .collect::<Result<_, _>>()?;
        let password_hash = self.password_hash_file.as_deref().map(read).transpose()?;
        let user = (!ssh_keys.is_empty() || password_hash.is_some()).then_some(User {
            name: self.user,
            ssh_keys,
            password_hash,
        });
        let password = self.wifi_password_file.as_deref().map(line).transpose()?;
        let wifi = self.wifi.map(|ssid| Wifi {
            ssid,
            password,
            country: self.wifi_country.unwrap_or_default(),
        });
        let addressing = match self.address {
            None => Addressing::Dhcp,
            Some(address) => Addressing::Static {
                address,
                gateway: self.gateway,
                dns: self.dns,
            },
        };
        let mut card_files = match &self.card_files {
            Some(folder) => card_files(folder)?,
            None => Vec::new(),
        };
        card_files.extend(self.trust.map(trust).transpose()?);
        Ok(Order {
            os: self.os,
            name,
            org: self.org,
            profile: self.profile,
            https: self.relay_https,
            mqtt: self.relay_mqtt,
            ca_fingerprint: self.ca_fingerprint,
            token,
            token_expires,
            user,
            wifi,
            addressing,
            time_zone: self.time_zone,
            locale: self.locale,
            keyboard: self.keyboard,
            agent_deb: self.agent_deb,
            card_files,
        })
    }
}

/// The root of trust. A robot with one that it cannot read would take no configuration at all.
fn trust(source: PathBuf) -> Result<CardFile, Failure> {
    let name = TRUST.to_owned();
    let wrong = |error: &dyn std::fmt::Display| {
        let path = source.display();
        Failure::new(format!("expected a trust file in {path}: {error}"))
            .hint(Some("make one with `lekiwi trust add-root`"))
    };
    let roots: Vec<Signed> =
        serde_json::from_str(&read(&source)?).map_err(|error| wrong(&error))?;
    Root::pinned(&roots, ED25519).map_err(|error| wrong(&error))?;
    Ok(CardFile { name, source })
}

/// The files below `folder`, by name. A profile that no agent would take is refused here.
fn card_files(folder: &Path) -> Result<Vec<CardFile>, Failure> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        let place = folder.join(&below);
        let unreadable = |error| Failure::file("read", &place, error);
        for entry in std::fs::read_dir(&place).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = below.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.to_string_lossy().into_owned();
            if name.starts_with("profiles/") {
                let text = read(&entry.path())?;
                Profile::parse(&text, &entry.path().display().to_string()).map_err(|error| {
                    let hint = error.hint();
                    Failure::new(error).hint(hint)
                })?;
            }
            files.push(CardFile {
                name,
                source: entry.path(),
            });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Says that nothing on the card registers the robot.
pub(crate) fn warn_of_no_agent() {
    // Nobody is left to tell when this fails.
    let _ = writeln!(
        io::stderr(),
        "warning: expected the agent's package, by --agent-deb: the system has no agent of its own\n  (hint: `cargo xtask dist --only agent` makes one)"
    );
}

/// What of the relay's answer matters here.
#[derive(Deserialize)]
struct Created {
    token: String,
    info: Info,
}

#[derive(Deserialize)]
struct Info {
    expires_at: Timestamp,
}

/// The token, and its end where the file says so.
pub(crate) fn token(path: &Path) -> Result<(String, Option<Timestamp>), Failure> {
    let text = read(path)?;
    if !text.starts_with('{') {
        return Ok((text, None));
    }
    match serde_json::from_str::<Created>(&text) {
        Ok(created) => Ok((created.token, Some(created.info.expires_at))),
        // The parser's own words may quote the secret.
        Err(_) => Err(Failure::new(format!(
            "expected a token or the JSON of `lekiwi token create --json` in {}, got other JSON",
            path.display()
        ))),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    Ok(line(path)?.trim().to_owned())
}

/// Without the line's end only: spaces belong to a passphrase.
fn line(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(path).map(|content| text = content)
    };
    read.map_err(|source| Failure::file("read", path, source))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
