//! The configuration that the rest of the agent sees: defaults filled in, every value possible.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use lekiwi_agent_core::catalogue::{self, CATALOGUE};
use lekiwi_agent_core::debounce::{Rule, Rules, Threshold};
use lekiwi_agent_core::endpoints::Rank;
use lekiwi_protocol::limits::{HEARTBEAT_S, METRIC_S, SAMPLE_S};
use lekiwi_protocol::message::metric;
use lekiwi_protocol::pinned::Fingerprint;
use lekiwi_protocol::profile::{FOLDER, MetricKey, MetricRule, MetricRules, Profile};
use lekiwi_protocol::trace::Sample;
use lekiwi_protocol::{Org, ProfileName, RobotId};
use log::LevelFilter;

use super::check::Check;
use super::{
    ConfigError, DEFAULT_SOCKET, DEFAULT_STATE_DIR, DEFAULT_TRUST, Environment, from_hostname, raw,
};
use crate::identity::Signer;

/// The one version of the file that there is.
const VERSION: u32 = 1;
/// Most ways to the relay that are tried one after the other.
const MAX_ENDPOINTS: usize = 8;
/// Seconds on a worse endpoint before a better one is looked at.
const FAIL_BACK_S: RangeInclusive<u64> = 5..=86_400;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this robot is.
    pub robot_id: RobotId,
    /// Whose it is.
    pub org: Org,
    /// The hardware profile.
    pub profile: ProfileChoice,
    /// Where the profiles are.
    pub profiles_dir: PathBuf,
    /// Where the hardware is looked for.
    pub hardware: HardwareConfig,
    /// Where the relay is.
    pub relay: Relay,
    /// Where the one-time token lies until it was used.
    pub token_file: PathBuf,
    /// Whether it is removed then.
    pub remove_token: bool,
    /// The program that signs with this robot's key; a file has the key when absent.
    pub signer: Option<Signer>,
    /// Where the root of trust is pinned, if it is.
    pub trust_file: PathBuf,
    /// Where key, certificates and outbox are.
    pub state_dir: PathBuf,
    /// The Unix socket for local programs.
    pub socket: PathBuf,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Time between two looks at the sensors.
    pub sample: Duration,
    /// When each metric is sent.
    pub metrics: Rules,
    /// Which share of the messages with events begins a trace.
    pub traces: Sample,
    /// Whether others on the local network may find this robot.
    pub mdns: bool,
    /// How much the agent says in its log.
    pub log: LevelFilter,
    /// What runs beside an older system; nothing, usually.
    pub migration: Option<MigrationConfig>,
    /// What of the metrics the file says.
    pub(super) given: MetricRules,
}

impl Config {
    /// Takes a profile's defaults where the file says nothing.
    ///
    /// # Errors
    /// When a rule makes no sense together with the file's. Nothing is taken then.
    pub fn adopt(&mut self, profile: &Profile) -> Result<(), ConfigError> {
        let mut given = self.given.clone();
        for (key, rule) in &profile.agent.metrics {
            let file = given.get(key).copied().unwrap_or_default();
            given.insert(key.clone(), over(file, *rule));
        }
        let check = Check {
            origin: &format!("the profile {}", profile.name),
            environment: &Environment::default(),
        };
        self.metrics = metrics(&check, &given)?;
        Ok(())
    }
}

/// Who says what the robot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProfileChoice {
    /// Its hardware.
    Auto,
    /// The configuration.
    Named(ProfileName),
}

impl fmt::Display for ProfileChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Named(name) => name.fmt(f),
        }
    }
}

/// Where the hardware is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HardwareConfig {
    /// Where `/proc`, `/sys` and `/dev` are below.
    pub root: PathBuf,
    /// Serial ports of servo buses; every known adapter's when absent.
    pub servo_ports: Option<Vec<PathBuf>>,
}

/// What runs beside an older system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationConfig {
    /// Where its agent is listened to, on this machine.
    pub listen: Option<SocketAddr>,
    /// Its relay, which is told of this robot too.
    pub mirror: Option<Address>,
    /// The key that its agent shows and its relay wants; none at all, when absent.
    pub api_key_file: Option<PathBuf>,
}

/// Where the relay is, and which authority it must show.
#[derive(Debug, Clone)]
pub struct Relay {
    /// EST.
    pub https: Address,
    /// The broker, by every way that leads there; the first is the configuration's first.
    pub endpoints: Vec<Endpoint>,
    /// Time on a worse endpoint before a better one is looked at.
    pub fail_back: Duration,
    /// An HTTP proxy on the way to all of them, and to EST.
    pub proxy: Option<Address>,
    /// The authority's fingerprint.
    pub ca_fingerprint: Fingerprint,
}

/// A way to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub mqtt: Address,
    /// Where it stands among the others.
    pub rank: Rank,
}

/// Host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or an IPv4 address.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl Address {
    /// Whether it is this machine, reachable without a network.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<std::net::Ipv4Addr>()
                .is_ok_and(|ip| ip.is_loopback())
    }

    pub(super) fn parse(text: &str, scheme: &str, default_port: u16) -> Option<Self> {
        let rest = text.strip_prefix(scheme)?.strip_prefix("://")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
            None => (rest, default_port),
        };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        let fits = !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed);
        fits.then(|| Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

pub(super) fn check(
    raw: raw::Config,
    origin: &str,
    environment: &Environment,
    hostname: &str,
) -> Result<Config, ConfigError> {
    let check = Check {
        origin,
        environment,
    };
    match raw.version {
        Some(VERSION) => {}
        Some(other) => {
            return Err(check.wrong("version", &format!("expected {VERSION}, got {other}")));
        }
        None => return Err(check.wrong("version", "expected `version: 1`, got none")),
    }
    let robot_id = match raw.robot_id {
        Some(id) => check.name("robot_id", &id, RobotId::new)?,
        None => from_hostname(hostname).ok_or_else(|| {
            let reason =
                format!("expected a robot id, since the host name {hostname:?} gives none");
            check.wrong("robot_id", &reason)
        })?,
    };
    let org = match raw.org {
        Some(org) => check.name("org", &org, Org::new)?,
        None => Org::default(),
    };
    let profile = match raw.profile.as_deref() {
        None | Some("auto") => ProfileChoice::Auto,
        Some(name) => ProfileChoice::Named(check.name("profile", name, ProfileName::new)?),
    };
    let profiles_dir = check.path("profiles_dir", raw.profiles_dir, FOLDER)?;
    let ports = raw.hardware.servo_ports.map(|ports| {
        let port = |port| check.path("hardware.servo_ports", Some(port), "");
        ports.into_iter().map(port).collect::<Result<_, _>>()
    });
    let hardware = HardwareConfig {
        root: check.path("hardware.root", raw.hardware.root, "/")?,
        servo_ports: ports.transpose()?,
    };
    let relay = relay(&check, raw.relay)?;
    let given = raw.telemetry.metrics;
    let state_dir = check.path("state_dir", raw.state_dir, DEFAULT_STATE_DIR)?;
    let socket = check.path("socket", raw.socket, DEFAULT_SOCKET)?;
    let token_file = check.path(
        "enrolment.token_file",
        raw.enrolment.token_file,
        "/opt/lekiwi-agent/state/token",
    )?;
    Ok(Config {
        robot_id,
        org,
        profile,
        profiles_dir,
        hardware,
        relay,
        token_file,
        remove_token: raw.enrolment.remove_token.unwrap_or(true),
        signer: raw
            .identity
            .signer
            .map(|signer| check.signer(signer))
            .transpose()?,
        trust_file: check.path("trust_file", raw.trust_file, DEFAULT_TRUST)?,
        state_dir,
        socket,
        heartbeat: check.seconds("heartbeat_s", raw.heartbeat_s, 30, &HEARTBEAT_S)?,
        sample: check.seconds("telemetry.sample_s", raw.telemetry.sample_s, 2, &SAMPLE_S)?,
        metrics: metrics(&check, &given)?,
        given,
        traces: raw.traces.sample.unwrap_or_default(),
        mdns: raw.discovery.mdns.unwrap_or(true),
        log: check.level(raw.log)?,
        migration: raw
            .migration
            .map(|raw| migration(&check, raw))
            .transpose()?,
    })
}

fn relay(check: &Check<'_>, raw: raw::Relay) -> Result<Relay, ConfigError> {
    let https = raw
        .https
        .as_deref()
        .ok_or_else(|| check.wrong("relay.https", "expected https://HOST:PORT, got none"))?;
    let https = check.address("relay.https", https, "https", 8443)?;
    let endpoints = endpoints(check, &raw, &https)?;
    let proxy = raw.proxy.as_deref();
    let proxy = proxy.map(|proxy| check.address("relay.proxy", proxy, "http", 3128));
    let ca_fingerprint = raw.ca_fingerprint.ok_or_else(|| {
        check.wrong(
            "relay.ca_fingerprint",
            "expected the fingerprint that the relay shows at its first start, got none",
        )
    })?;
    let ca_fingerprint =
        check.name("relay.ca_fingerprint", &ca_fingerprint, |text| text.parse())?;
    Ok(Relay {
        https,
        endpoints,
        fail_back: check.seconds("relay.fail_back_s", raw.fail_back_s, 300, &FAIL_BACK_S)?,
        proxy: proxy.transpose()?,
        ca_fingerprint,
    })
}

fn migration(check: &Check<'_>, raw: raw::Migration) -> Result<MigrationConfig, ConfigError> {
    let loopback = |text: String| {
        let address = text.parse::<SocketAddr>().ok();
        let address = address.filter(|address| address.ip().is_loopback());
        address.ok_or_else(|| {
            let reason =
                format!("expected an address of this machine such as 127.0.0.1:8765, got {text:?}");
            check.wrong("migration.listen", &reason)
        })
    };
    let relay = |text: String| {
        Address::parse(&text, "http", 8765).ok_or_else(|| {
            let reason =
                format!("expected http://HOST:PORT with a name or IPv4 address, got {text:?}");
            check.wrong("migration.mirror", &reason)
        })
    };
    let api_key_file = match (raw.api_key_file, raw.auth.as_deref()) {
        (Some(path), None) => Some(check.path("migration.api_key_file", Some(path), "")?),
        (None, Some("none")) => None,
        (None, None) => {
            let reason =
                "expected the file with the older system's key, or `auth: none`, got neither";
            return Err(check.wrong("migration.api_key_file", reason));
        }
        (_, Some(other)) => {
            let reason = format!("expected `none` and no api_key_file, got {other:?}");
            return Err(check.wrong("migration.auth", &reason));
        }
    };
    Ok(MigrationConfig {
        listen: raw.listen.map(loopback).transpose()?,
        mirror: raw.mirror.map(relay).transpose()?,
        api_key_file,
    })
}

/// The listed ones, or the one, or the one beside HTTPS; behind them HTTPS's own port.
fn endpoints(
    check: &Check<'_>,
    raw: &raw::Relay,
    https: &Address,
) -> Result<Vec<Endpoint>, ConfigError> {
    let key = "relay.endpoints";
    let one = |mqtt, preference| Endpoint {
        mqtt,
        rank: Rank {
            last_resort: false,
            preference,
        },
    };
    let mut endpoints = match (&raw.endpoints, raw.mqtt.as_deref()) {
        (Some(_), Some(_)) => {
            return Err(check.wrong(
                key,
                "expected either relay.mqtt or relay.endpoints, got both",
            ));
        }
        (Some(listed), None) => {
            let way = |listed: &raw::Endpoint| -> Result<Endpoint, ConfigError> {
                let mqtt = listed.mqtt.as_deref().unwrap_or_default();
                let mqtt = check.address("relay.endpoints.mqtt", mqtt, "mqtts", 8883)?;
                Ok(one(mqtt, listed.preference.unwrap_or(0)))
            };
            listed.iter().map(way).collect::<Result<Vec<_>, _>>()?
        }
        (None, Some(mqtt)) => vec![one(check.address("relay.mqtt", mqtt, "mqtts", 8883)?, 0)],
        (None, None) => {
            let host = https.host.clone();
            vec![one(Address { host, port: 8883 }, 0)]
        }
    };
    if !(1..=MAX_ENDPOINTS).contains(&endpoints.len()) {
        let reason = format!("expected 1 to {MAX_ENDPOINTS}, got {}", endpoints.len());
        return Err(check.wrong(key, &reason));
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let mut before = endpoints.iter().take(index);
        if before.any(|other| other.mqtt == endpoint.mqtt) {
            let reason = format!("expected each address once, got {} again", endpoint.mqtt);
            return Err(check.wrong(key, &reason));
        }
    }
    let is_listed = endpoints.iter().any(|endpoint| endpoint.mqtt == *https);
    if raw.last_resort.unwrap_or(true) && !is_listed {
        endpoints.push(Endpoint {
            mqtt: https.clone(),
            rank: Rank {
                last_resort: true,
                preference: 0,
            },
        });
    }
    Ok(endpoints)
}

/// Every metric's and family's rule, and those of the members that have one of their own.
fn metrics(check: &Check<'_>, given: &MetricRules) -> Result<Rules, ConfigError> {
    let general = CATALOGUE.iter().map(|metric| metric.key);
    let members = given.keys().map(MetricKey::as_str);
    let members = members.filter(|key| catalogue::of(key).is_none());
    let mut rules = Vec::with_capacity(CATALOGUE.len());
    for key in general.chain(members) {
        let general = metric::key_of(key).unwrap_or_default();
        let Some(default) = catalogue::of(general) else {
            continue;
        };
        // A member's own rule comes before its family's.
        let own = given.get(key).copied().unwrap_or_default();
        let family = given.get(general).copied().unwrap_or_default();
        let rule = over(own, family);
        rules.push((
            key.to_owned(),
            metric_rule(check, key, &rule, &default.rule)?,
        ));
    }
    Ok(rules.into_iter().collect())
}

fn metric_rule(
    check: &Check<'_>,
    name: &str,
    given: &MetricRule,
    default: &Rule,
) -> Result<Rule, ConfigError> {
    let key = |field: &str| format!("telemetry.metrics.{name}.{field}");
    let deadband = given.deadband.unwrap_or(default.deadband);
    if !deadband.is_finite() || deadband < 0.0 {
        let reason = format!("expected a number from 0, got {deadband}");
        return Err(check.wrong(&key("deadband"), &reason));
    }
    let seconds = |field, value, default: Duration| {
        check.seconds(&key(field), value, default.as_secs(), &METRIC_S)
    };
    Ok(Rule {
        deadband,
        min_interval: seconds("min_interval_s", given.min_interval_s, default.min_interval)?,
        keep_alive: seconds("keep_alive_s", given.keep_alive_s, default.keep_alive)?,
        alert: threshold(check, name, given, default.alert)?,
    })
}

/// The alert of a metric: the level that is given or the default's, cleared where it is said, or five per
/// cent back.
fn threshold(
    check: &Check<'_>,
    name: &str,
    given: &MetricRule,
    default: Option<Threshold>,
) -> Result<Option<Threshold>, ConfigError> {
    let key = |field: &str| format!("telemetry.metrics.{name}.{field}");
    for (field, level) in [
        ("alert_above", given.alert_above),
        ("alert_below", given.alert_below),
        ("alert_clear", given.alert_clear),
    ] {
        if let Some(level) = level.filter(|level| !level.is_finite()) {
            return Err(check.wrong(&key(field), &format!("expected a number, got {level}")));
        }
    }
    let back = |level: f64| level.abs() * 0.05;
    let mut threshold = match (given.alert_above, given.alert_below, default) {
        (Some(_), Some(_), _) => {
            let key = format!("telemetry.metrics.{name}");
            return Err(check.wrong(&key, "expected alert_above or alert_below, got both"));
        }
        (Some(level), None, _) => Threshold::Above {
            level,
            clear: level - back(level),
        },
        (None, Some(level), _) => Threshold::Below {
            level,
            clear: level + back(level),
        },
        (None, None, Some(default)) => default,
        (None, None, None) => return Ok(None),
    };
    if let Some(given) = given.alert_clear {
        let (field, most, level, beyond) = match &mut threshold {
            Threshold::Above { level, clear } => {
                *clear = given;
                ("alert_above", "most", *level, given > *level)
            }
            Threshold::Below { level, clear } => {
                *clear = given;
                ("alert_below", "least", *level, given < *level)
            }
        };
        if beyond {
            let reason = format!("expected at {most} {field}, which is {level}, got {given}");
            return Err(check.wrong(&key("alert_clear"), &reason));
        }
    }
    Ok(Some(threshold))
}

/// One rule over another: what the first does not say the second does. An alert's level goes with the end
/// of the alert that the same rule says.
pub(super) fn over(upper: MetricRule, lower: MetricRule) -> MetricRule {
    let has_level = upper.alert_above.or(upper.alert_below).is_some();
    let alert = |upper: Option<f64>, lower| if has_level { upper } else { upper.or(lower) };
    MetricRule {
        deadband: upper.deadband.or(lower.deadband),
        min_interval_s: upper.min_interval_s.or(lower.min_interval_s),
        keep_alive_s: upper.keep_alive_s.or(lower.keep_alive_s),
        alert_above: alert(upper.alert_above, lower.alert_above),
        alert_below: alert(upper.alert_below, lower.alert_below),
        alert_clear: alert(upper.alert_clear, lower.alert_clear),
    }
}
