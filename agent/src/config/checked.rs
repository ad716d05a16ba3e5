//! The configuration that the rest of the agent sees: defaults filled in, every value possible.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lekiwi_agent_core::debounce::{Rule, Threshold};
use lekiwi_agent_core::endpoints::Rank;
use lekiwi_protocol::message::metric;
use lekiwi_protocol::pinned::Fingerprint;
use lekiwi_protocol::profile::{FOLDER, MetricRule, Profile};
use lekiwi_protocol::{MetricName, Org, ProfileName, RobotId};

use super::{ConfigError, Environment, raw};

/// The one version of the file that there is.
const VERSION: u32 = 1;
/// Most ways to the relay that are tried one after the other.
const MAX_ENDPOINTS: usize = 8;

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
    /// Where key, certificates and outbox are.
    pub state_dir: PathBuf,
    /// The Unix socket for local programs.
    pub socket: PathBuf,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Time between two looks at the sensors.
    pub sample: Duration,
    /// When each metric is sent.
    pub metrics: MetricRules,
    /// Whether others on the local network may find this robot.
    pub mdns: bool,
    /// What of the metrics the file says.
    given: [MetricRule; DEFAULTS.len()],
}

impl Config {
    /// Takes a profile's defaults where the file says nothing.
    ///
    /// # Errors
    /// When a rule makes no sense together with the file's. Nothing is taken then.
    pub fn adopt(&mut self, profile: &Profile) -> Result<(), ConfigError> {
        let mut given = self.given;
        for (given, default) in given.iter_mut().zip(&DEFAULTS) {
            if let Some(rule) = profile.agent.metrics.get(default.name) {
                given.deadband = given.deadband.or(rule.deadband);
                given.min_interval_s = given.min_interval_s.or(rule.min_interval_s);
                given.keep_alive_s = given.keep_alive_s.or(rule.keep_alive_s);
                // A file's threshold goes with the file's end of the alert.
                if given.alert_above.is_none() {
                    given.alert_clear = given.alert_clear.or(rule.alert_clear);
                }
                given.alert_above = given.alert_above.or(rule.alert_above);
            }
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

/// Rules by metric.
pub type MetricRules = Vec<(MetricName, Rule)>;

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

    fn parse(text: &str, scheme: &str, default_port: u16) -> Option<Self> {
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

/// What a metric does when the file says nothing: chosen so that an idle robot sends few messages.
struct Default {
    name: &'static str,
    deadband: f64,
    min_interval_s: u64,
    keep_alive_s: u64,
    alert_above: Option<f64>,
}

const fn rule(
    name: &'static str,
    deadband: f64,
    min_interval_s: u64,
    keep_alive_s: u64,
    alert_above: Option<f64>,
) -> Default {
    Default {
        name,
        deadband,
        min_interval_s,
        keep_alive_s,
        alert_above,
    }
}

const DEFAULTS: [Default; 7] = [
    rule(metric::CPU_PERCENT, 5.0, 10, 300, Some(95.0)),
    rule(metric::MEMORY_PERCENT, 2.0, 30, 300, Some(90.0)),
    rule(metric::DISK_PERCENT, 1.0, 60, 300, Some(90.0)),
    rule(metric::TEMPERATURE_C, 2.0, 30, 300, Some(80.0)),
    rule(metric::NET_RX_BYTES_PER_S, 10_000.0, 30, 300, None),
    rule(metric::NET_TX_BYTES_PER_S, 10_000.0, 30, 300, None),
    // Heartbeats carry it.
    rule(metric::UPTIME_S, f64::MAX, 300, 3600, None),
];

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
    let given = given(&raw.telemetry.metrics);
    let state_dir = check.path("state_dir", raw.state_dir, "/opt/lekiwi-agent/state")?;
    let socket = check.path("socket", raw.socket, "/run/lekiwi/agent.sock")?;
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
        state_dir,
        socket,
        heartbeat: check.seconds("heartbeat_s", raw.heartbeat_s, 30, 1, 3600)?,
        sample: check.seconds("telemetry.sample_s", raw.telemetry.sample_s, 2, 1, 600)?,
        metrics: metrics(&check, &given)?,
        given,
        mdns: raw.discovery.mdns.unwrap_or(true),
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
        fail_back: check.seconds("relay.fail_back_s", raw.fail_back_s, 300, 5, 86_400)?,
        proxy: proxy.transpose()?,
        ca_fingerprint,
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

/// The file's rules, in the order of [`DEFAULTS`].
fn given(raw: &raw::Metrics) -> [MetricRule; DEFAULTS.len()] {
    [
        raw.cpu_percent,
        raw.memory_percent,
        raw.disk_percent,
        raw.temperature_c,
        raw.net_rx_bytes_per_s,
        raw.net_tx_bytes_per_s,
        raw.uptime_s,
    ]
    .map(Option::unwrap_or_default)
}

fn metrics(check: &Check<'_>, given: &[MetricRule]) -> Result<MetricRules, ConfigError> {
    let mut rules = Vec::with_capacity(DEFAULTS.len());
    for (default, given) in DEFAULTS.iter().zip(given) {
        let key = |field: &str| format!("telemetry.metrics.{}.{field}", default.name);
        let level = |field, value: f64| {
            if value.is_finite() && value >= 0.0 {
                Ok(value)
            } else {
                Err(check.wrong(
                    &key(field),
                    &format!("expected a number from 0, got {value}"),
                ))
            }
        };
        let deadband = level("deadband", given.deadband.unwrap_or(default.deadband))?;
        let alert = match given.alert_above.or(default.alert_above) {
            None => None,
            Some(above) => {
                let above = level("alert_above", above)?;
                // Five per cent below, unless the file says otherwise.
                let clear = level("alert_clear", given.alert_clear.unwrap_or(above * 0.95))?;
                if clear > above {
                    let reason =
                        format!("expected at most alert_above, which is {above}, got {clear}");
                    return Err(check.wrong(&key("alert_clear"), &reason));
                }
                Some(Threshold { above, clear })
            }
        };
        let seconds = |field, value, default| check.seconds(&key(field), value, default, 1, 86_400);
        rules.push((
            check.name("telemetry.metrics", default.name, MetricName::new)?,
            Rule {
                deadband,
                min_interval: seconds(
                    "min_interval_s",
                    given.min_interval_s,
                    default.min_interval_s,
                )?,
                keep_alive: seconds("keep_alive_s", given.keep_alive_s, default.keep_alive_s)?,
                alert,
            },
        ));
    }
    Ok(rules)
}

struct Check<'a> {
    origin: &'a str,
    environment: &'a Environment,
}

impl Check<'_> {
    fn wrong(&self, key: &str, reason: &str) -> ConfigError {
        let variable = format!("LEKIWI_{}", key.replace('.', "_").to_uppercase());
        let (key, origin) = match self.environment.value(&variable) {
            Some(_) => (variable, "the environment".to_owned()),
            None => (key.to_owned(), self.origin.to_owned()),
        };
        ConfigError::Value {
            key,
            origin,
            reason: reason.to_owned(),
        }
    }

    fn name<T, E: fmt::Display>(
        &self,
        key: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        parse(text).map_err(|error| self.wrong(key, &error.to_string()))
    }

    fn address(
        &self,
        key: &str,
        text: &str,
        scheme: &str,
        port: u16,
    ) -> Result<Address, ConfigError> {
        Address::parse(text, scheme, port).ok_or_else(|| {
            let reason =
                format!("expected {scheme}://HOST:PORT with a name or IPv4 address, got {text:?}");
            self.wrong(key, &reason)
        })
    }

    fn path(&self, key: &str, text: Option<String>, default: &str) -> Result<PathBuf, ConfigError> {
        let path = PathBuf::from(text.as_deref().unwrap_or(default));
        if path.is_absolute() {
            Ok(path)
        } else {
            let reason = format!(
                "expected an absolute path, got {:?}",
                path.display().to_string()
            );
            Err(self.wrong(key, &reason))
        }
    }

    fn seconds(
        &self,
        key: &str,
        value: Option<u64>,
        default: u64,
        least: u64,
        most: u64,
    ) -> Result<Duration, ConfigError> {
        let seconds = value.unwrap_or(default);
        if (least..=most).contains(&seconds) {
            Ok(Duration::from_secs(seconds))
        } else {
            let reason = format!("expected {least} to {most} seconds, got {seconds}");
            Err(self.wrong(key, &reason))
        }
    }
}

/// The host name as a robot id: lower case, anything else a '-', cut to length.
fn from_hostname(hostname: &str) -> Option<RobotId> {
    let name = hostname.split('.').next().unwrap_or_default();
    let id: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    RobotId::new(id.trim_matches('-')).ok()
}
