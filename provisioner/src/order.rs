//! What a person asks for, checked. Pure.

pub(crate) mod check;

use std::path::PathBuf;
use std::str::FromStr;

use lekiwi_protocol::{Org, RobotId, Timestamp};

/// A seed for one robot, or for many that take their names from their boards.
#[derive(Clone, PartialEq, Eq)]
pub struct Order {
    /// What is on the card.
    pub os: Os,
    /// How the robot is called.
    pub name: Name,
    /// Organisation.
    pub org: Org,
    /// Hardware profile; `auto` lets the agent recognise it.
    pub profile: String,
    /// `https://host:port` of the relay.
    pub https: String,
    /// `mqtts://host:port` of the relay.
    pub mqtt: String,
    /// SHA-256 of the relay's authority.
    pub ca_fingerprint: String,
    /// Enrolment token.
    pub token: String,
    /// When the token expires, where that is known.
    pub token_expires: Option<Timestamp>,
    /// Who may log in; nobody new if absent.
    pub user: Option<User>,
    /// The wireless network.
    pub wifi: Option<Wifi>,
    /// The address, of the wireless interface where there is a wireless network, else of the wired one.
    pub addressing: Addressing,
    /// Such as `Europe/Berlin`.
    pub time_zone: Option<String>,
    /// Such as `de_DE.UTF-8`.
    pub locale: Option<String>,
    /// The layout's name, such as `de`.
    pub keyboard: Option<String>,
    /// An agent package, put on the boot partition; absent when the image has the agent already.
    pub agent_deb: Option<PathBuf>,
    /// What else the robot finds on the boot partition.
    pub card_files: Vec<CardFile>,
}

/// The root of trust, as a [`CardFile`] is called.
pub const TRUST: &str = "trust.json";

/// A file that the agent or its setup looks for in the folder `lekiwi` of the boot partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardFile {
    /// Below that folder, such as `profiles/lekiwi.yml`.
    pub name: String,
    /// The file of this machine.
    pub source: PathBuf,
}

/// An operating system that seeds are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Os {
    /// Raspberry Pi OS of 2025, with cloud-init.
    RaspiosTrixie,
    /// Raspberry Pi OS of 2023, with `firstrun.sh`.
    RaspiosBookworm,
    /// Ubuntu Server for the Raspberry Pi.
    Ubuntu2404,
    /// Debian with cloud-init and netplan, such as the image of `cargo xtask image`.
    Debian,
}

impl Os {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::RaspiosTrixie,
        Self::RaspiosBookworm,
        Self::Ubuntu2404,
        Self::Debian,
    ];

    /// How options, job files and seeds call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RaspiosTrixie => "raspios-trixie",
            Self::RaspiosBookworm => "raspios-bookworm",
            Self::Ubuntu2404 => "ubuntu-24.04",
            Self::Debian => "debian",
        }
    }
}

impl FromStr for Os {
    type Err = OrderError;
    fn from_str(text: &str) -> Result<Self, OrderError> {
        Self::ALL
            .into_iter()
            .find(|os| os.as_str() == text)
            .ok_or_else(|| OrderError::Os(check::cut(text)))
    }
}

/// How a robot gets its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// It is given: host name, certificate and topic.
    Given(RobotId),
    /// `<prefix>-<last 8 digits of the board's serial number>`, found out on the board.
    Serial {
        /// What comes before the digits.
        prefix: RobotId,
    },
}

/// Who may log in. A password is never set in clear, and never by default.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Public keys for SSH.
    pub ssh_keys: Vec<String>,
    /// A `crypt(3)` hash for the console; without it there is no password.
    pub password_hash: Option<String>,
}

/// A wireless network.
#[derive(Clone, PartialEq, Eq)]
pub struct Wifi {
    /// Its name.
    pub ssid: String,
    /// Its WPA passphrase, or the key as 64 hex digits; an open network has none.
    pub password: Option<String>,
    /// Where it is: two capital letters, for the radio's rules.
    pub country: String,
}

/// How the robot gets its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressing {
    /// From the network.
    Dhcp,
    /// It is given.
    Static {
        /// With its prefix length, such as `192.168.1.20/24`.
        address: String,
        /// The way out.
        gateway: Option<String>,
        /// Name servers.
        dns: Vec<String>,
    },
}

/// What was wrong with the order.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Not a known system.
    #[error("expected raspios-trixie, raspios-bookworm, ubuntu-24.04 or debian, got {0:?}")]
    Os(String),
    /// The digits do not fit behind it.
    #[error("expected a prefix of at most 54 characters, got {0:?}")]
    Prefix(String),
    /// Not an address of the right kind.
    #[error("expected {name} such as {example}, got {actual:?}")]
    Address {
        /// Which one.
        name: &'static str,
        /// What it looks like.
        example: &'static str,
        /// What came.
        actual: String,
    },
    /// Not a fingerprint.
    #[error("expected a fingerprint such as sha256: and 64 hex digits, got {0:?}")]
    Fingerprint(String),
    /// Not a token. The text is not shown: it may be a secret with a typing error.
    #[error(
        "expected an enrolment token that starts with lkt_ and has letters, digits, '-' and '_' only"
    )]
    Token,
    /// Not a profile name.
    #[error("expected a profile name of a-z, 0-9 and '-', got {0:?}")]
    Profile(String),
    /// Not a login name.
    #[error("expected a user name of a-z, 0-9, '-' and '_' that is not root, got {0:?}")]
    UserName(String),
    /// Not a public key.
    #[error("expected an SSH public key such as \"ssh-ed25519 AAAA… name\" on one line, got {0:?}")]
    SshKey(String),
    /// A private key where a public one belongs. Not shown.
    #[error("expected an SSH public key, got a private one")]
    PrivateKey,
    /// Not a hash. Not shown: it may be the password.
    #[error("expected a password hash such as $6$… or $y$…, got something else")]
    PasswordHash,
    /// Not a network name.
    #[error("expected a network name of 1 to 32 bytes without control characters, got {0:?}")]
    Ssid(String),
    /// Not a passphrase. Not shown.
    #[error("expected a passphrase of 8 to 63 printable ASCII characters or 64 hex digits")]
    Passphrase,
    /// Not a country.
    #[error("expected a country of two capital letters such as DE, got {0:?}")]
    Country(String),
    /// Not an IP address, with or without a prefix length.
    #[error("expected {name} such as {example}, got {actual:?}")]
    Ip {
        /// Which one.
        name: &'static str,
        /// What it looks like.
        example: &'static str,
        /// What came.
        actual: String,
    },
    /// Not a name of the time zone database.
    #[error("expected a time zone such as Europe/Berlin, got {0:?}")]
    TimeZone(String),
    /// Not a locale.
    #[error("expected a locale such as de_DE.UTF-8, got {0:?}")]
    Locale(String),
    /// Not a keyboard layout.
    #[error("expected a keyboard layout such as de, got {0:?}")]
    Keyboard(String),
    /// Not a Debian package.
    #[error("expected the path of a .deb package, got {0:?}")]
    Package(String),
    /// Nothing that a robot would look for.
    #[error(
        "expected trust.json, profiles/NAME.yml, packages/NAME.deb, wheels/NAME.whl or a file below overlays/COMMIT/, got {0:?}"
    )]
    CardFile(String),
}

impl OrderError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Fingerprint(_) => Some("`lekiwi-relay ca show` prints it"),
            Self::Token => Some("make one with `lekiwi token create`"),
            Self::PrivateKey => Some("the public key's file name ends with .pub"),
            Self::PasswordHash => {
                Some("`mkpasswd --method=sha512crypt` or `openssl passwd -6` makes one")
            }
            Self::Prefix(_) => {
                Some("a hyphen and 8 digits follow, and a name has at most 63 characters")
            }
            _ => None,
        }
    }
}
