//! The names of the metrics that the agent measures, and of their families: one metric a core, an
//! interface, a zone, a service.
//!
//! A member of a family is the family's name, a dot and the member: `cpu_percent.0`,
//! `net_rx_bytes_per_s.wlan0`. Configuration and profiles mean all members by `cpu_percent.*`.

use crate::id::MetricName;
use crate::limits::{MAX_CUSTOM_METRICS, MAX_FAMILY, MAX_METRIC_NAME_BYTES};

/// Busy share of all cores, 0 to 100. As a family: by core.
pub const CPU_PERCENT: &str = "cpu_percent";
/// Processes that run or wait for a disk, mean of a minute.
pub const LOAD_1M: &str = "load_1m";
/// The same, mean of five minutes.
pub const LOAD_5M: &str = "load_5m";
/// The same, mean of fifteen minutes.
pub const LOAD_15M: &str = "load_15m";
/// Used share of memory, 0 to 100.
pub const MEMORY_PERCENT: &str = "memory_percent";
/// Used share of swap, 0 to 100.
pub const SWAP_PERCENT: &str = "swap_percent";
/// Used share of the root file system, 0 to 100.
pub const DISK_PERCENT: &str = "disk_percent";
/// What is left of it for programs, bytes.
pub const DISK_FREE_BYTES: &str = "disk_free_bytes";
/// Used share of its inodes, 0 to 100.
pub const DISK_INODES_PERCENT: &str = "disk_inodes_percent";
/// Used share of an eMMC's life, in steps of 10; above 100 it is over.
pub const DISK_WEAR_PERCENT: &str = "disk_wear_percent";
/// How far an eMMC's reserved blocks are used up: 1 normal, 2 warning, 3 urgent.
pub const DISK_PRE_EOL_LEVEL: &str = "disk_pre_eol_level";
/// Hottest thermal zone, °C. As a family: by zone.
pub const TEMPERATURE_C: &str = "temperature_c";
/// Family: what a Pi's firmware holds back or complains of, 1 within the last minute, else 0.
pub const THROTTLING: &str = "throttling";
/// Received on all interfaces but loopback, bytes/s. As a family: by interface.
pub const NET_RX_BYTES_PER_S: &str = "net_rx_bytes_per_s";
/// Sent on all interfaces but loopback, bytes/s. As a family: by interface.
pub const NET_TX_BYTES_PER_S: &str = "net_tx_bytes_per_s";
/// Family: packets that an interface got or sent broken, or dropped, per second.
pub const NET_ERRORS_PER_S: &str = "net_errors_per_s";
/// Family: how strong a Wi-Fi interface hears its access point, dBm.
pub const WIFI_SIGNAL_DBM: &str = "wifi_signal_dbm";
/// Charge of the battery, 0 to 100; of the emptiest where there are more.
pub const BATTERY_PERCENT: &str = "battery_percent";
/// Its voltage.
pub const BATTERY_V: &str = "battery_v";
/// Whether it is being charged, 1 or 0, as a local program reports.
pub const BATTERY_CHARGING: &str = "battery_charging";
/// Family: memory of a service.
pub const SERVICE_MEMORY_BYTES: &str = "service_memory_bytes";
/// Family: processor time of a service, in per cent of one core.
pub const SERVICE_CPU_PERCENT: &str = "service_cpu_percent";
/// Family: what local programs report by themselves.
pub const CUSTOM: &str = "custom";
/// Family: what an older system's agent on the robot says.
pub const LEGACY: &str = "legacy";
/// Seconds since boot.
pub const UPTIME_S: &str = "uptime_s";

/// What rules can be for: every metric, and `FAMILY.*` for every family.
pub const KEYS: [&str; 29] = [
    CPU_PERCENT,
    "cpu_percent.*",
    LOAD_1M,
    LOAD_5M,
    LOAD_15M,
    MEMORY_PERCENT,
    SWAP_PERCENT,
    DISK_PERCENT,
    DISK_FREE_BYTES,
    DISK_INODES_PERCENT,
    DISK_WEAR_PERCENT,
    DISK_PRE_EOL_LEVEL,
    TEMPERATURE_C,
    "temperature_c.*",
    "throttling.*",
    NET_RX_BYTES_PER_S,
    "net_rx_bytes_per_s.*",
    NET_TX_BYTES_PER_S,
    "net_tx_bytes_per_s.*",
    "net_errors_per_s.*",
    "wifi_signal_dbm.*",
    BATTERY_PERCENT,
    BATTERY_V,
    BATTERY_CHARGING,
    "service_memory_bytes.*",
    "service_cpu_percent.*",
    "custom.*",
    "legacy.*",
    UPTIME_S,
];

/// The one of [`KEYS`] that rules `name`: itself, or its family's. `None` for a metric that the agent
/// does not have.
#[must_use]
pub fn key_of(name: &str) -> Option<&'static str> {
    let family = |key: &&str| {
        let family = key.strip_suffix('*')?;
        let member = name.strip_prefix(family)?;
        (!member.is_empty()).then_some(())
    };
    KEYS.into_iter()
        .find(|key| *key == name || family(key).is_some())
}

/// Most members of a family.
#[must_use]
pub fn most(family: &str) -> usize {
    if family == CUSTOM {
        MAX_CUSTOM_METRICS
    } else {
        MAX_FAMILY
    }
}

/// The name of a metric, or of a family's member when `member` is not empty. What a name cannot have
/// becomes `_`, capitals become small, and a long member is cut.
#[must_use]
pub fn name(metric: &str, member: &str) -> Option<MetricName> {
    if member.is_empty() {
        return MetricName::new(metric).ok();
    }
    let mut name = String::with_capacity(MAX_METRIC_NAME_BYTES);
    name.push_str(metric);
    name.push('.');
    for letter in member.chars() {
        if name.len() == MAX_METRIC_NAME_BYTES {
            break;
        }
        let letter = letter.to_ascii_lowercase();
        let fits = letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-');
        name.push(if fits { letter } else { '_' });
    }
    MetricName::new(&name).ok()
}

/// What the name says of the unit; empty for a bare number.
#[must_use]
pub fn unit(name: &str) -> &'static str {
    let metric = name.split('.').next().unwrap_or_default();
    let ending = |(end, _): &&(&str, &str)| metric.ends_with(end);
    [
        ("_percent", "%"),
        ("_bytes_per_s", "B/s"),
        ("_bytes", "B"),
        ("_per_s", "1/s"),
        ("_dbm", "dBm"),
        ("_c", "°C"),
        ("_v", "V"),
        ("_s", "s"),
    ]
    .iter()
    .find(ending)
    .map_or("", |(_, unit)| unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_names_that_can_be_sent() {
        let cases = [
            ("cpu_percent", "", "cpu_percent"),
            ("cpu_percent", "0", "cpu_percent.0"),
            ("temperature_c", "cpu-thermal", "temperature_c.cpu-thermal"),
            (
                "net_rx_bytes_per_s",
                "eth0.100",
                "net_rx_bytes_per_s.eth0.100",
            ),
            (
                "service_memory_bytes",
                "Robot-Arm@left.service",
                "service_memory_bytes.robot-arm_left.service",
            ),
            ("temperature_c", "Zone ä", "temperature_c.zone__"),
        ];
        for (metric, member, expected) in cases {
            let name = name(metric, member);
            assert_eq!(name.as_ref().map(MetricName::as_str), Some(expected));
        }
        let long = name("net_rx_bytes_per_s", &"x".repeat(100));
        assert_eq!(long.map(|name| name.as_str().len()), Some(64));
        assert_eq!(name("", "x"), None);
    }

    #[test]
    fn every_name_has_its_key_and_strange_ones_have_none() {
        for (name, key) in [
            ("cpu_percent", Some("cpu_percent")),
            ("cpu_percent.3", Some("cpu_percent.*")),
            ("cpu_percent.*", Some("cpu_percent.*")),
            ("throttling.under_voltage", Some("throttling.*")),
            ("cpu_percent.", None),
            ("throttling", None),
            ("cpu", None),
            ("cpu_percents", None),
            ("load_1m.x", None),
        ] {
            assert_eq!(key_of(name), key, "{name}");
        }
    }

    #[test]
    fn the_name_says_the_unit() {
        for (name, expected) in [
            ("cpu_percent.0", "%"),
            ("net_rx_bytes_per_s", "B/s"),
            ("net_errors_per_s.eth0", "1/s"),
            ("disk_free_bytes", "B"),
            ("temperature_c.cpu-thermal", "°C"),
            ("battery_v", "V"),
            ("wifi_signal_dbm.wlan0", "dBm"),
            ("uptime_s", "s"),
            ("load_1m", ""),
            ("throttling.throttled", ""),
        ] {
            assert_eq!(unit(name), expected, "{name}");
        }
    }
}
