//! Every metric that the agent measures, with where it comes from and when it is sent unless somebody says
//! otherwise. Pure data; read by the configuration and by the test that keeps `docs/telemetry.md` true.
//!
//! The rules are chosen so that an idle robot sends little: what exists once a core, interface or zone has
//! wide deadbands and is repeated once an hour, since the state after each connect has everything.

use std::time::Duration;

use lekiwi_protocol::message::metric;

use crate::debounce::{Rule, Threshold};

/// A metric, or a family of metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// One of [`metric::KEYS`].
    pub key: &'static str,
    /// When it is sent.
    pub rule: Rule,
    /// What it says, for people.
    pub what: &'static str,
    /// Where it is read.
    pub source: &'static str,
}

/// Deadband, shortest and longest time between two messages in seconds.
type Pace = (f64, u64, u64);

const fn quiet(
    key: &'static str,
    (deadband, min_interval_s, keep_alive_s): Pace,
    what: &'static str,
    source: &'static str,
) -> Metric {
    Metric {
        key,
        rule: Rule {
            deadband,
            min_interval: Duration::from_secs(min_interval_s),
            keep_alive: Duration::from_secs(keep_alive_s),
            alert: None,
        },
        what,
        source,
    }
}

const fn alerting(metric: Metric, alert: Threshold) -> Metric {
    let rule = Rule {
        alert: Some(alert),
        ..metric.rule
    };
    Metric { rule, ..metric }
}

const fn above(level: f64, clear: f64) -> Threshold {
    Threshold::Above { level, clear }
}

const STAT: &str = "/proc/stat";
const LOAD: &str = "/proc/loadavg";
const MEMORY: &str = "/proc/meminfo";
const DISK: &str = "statvfs of /";
const EMMC: &str = "/sys/block/mmcblk*/device/{life_time,pre_eol_info}";
const THERMAL: &str = "/sys/class/thermal/thermal_zone*/{type,temp}";
const FIRMWARE: &str =
    "get_throttled of the Pi's firmware in /sys, or rpi_volt in /sys/class/hwmon";
const NETWORK: &str = "/proc/net/dev";
const SUPPLY: &str = "/sys/class/power_supply/*";
const PROGRAMS: &str = "reported at the agent's socket";
const CGROUP: &str = "memory.current and cpu.stat of the unit's cgroup, or /proc/PID/status";

/// All of them, in the order of [`metric::KEYS`].
pub const CATALOGUE: [Metric; metric::KEYS.len()] = [
    alerting(
        quiet(
            metric::CPU_PERCENT,
            (5.0, 10, 300),
            "busy share of all cores",
            STAT,
        ),
        above(95.0, 90.25),
    ),
    quiet(
        "cpu_percent.*",
        (25.0, 60, 3600),
        "busy share of each core",
        STAT,
    ),
    quiet(
        metric::LOAD_1M,
        (1.0, 60, 3600),
        "running and waiting processes, mean of a minute",
        LOAD,
    ),
    quiet(
        metric::LOAD_5M,
        (1.0, 300, 3600),
        "the same, of five minutes",
        LOAD,
    ),
    quiet(
        metric::LOAD_15M,
        (1.0, 300, 3600),
        "the same, of fifteen minutes",
        LOAD,
    ),
    alerting(
        quiet(
            metric::MEMORY_PERCENT,
            (2.0, 30, 300),
            "memory that is neither free nor reclaimable",
            MEMORY,
        ),
        above(90.0, 85.5),
    ),
    quiet(
        metric::SWAP_PERCENT,
        (5.0, 60, 3600),
        "used swap, where there is any",
        MEMORY,
    ),
    alerting(
        quiet(
            metric::DISK_PERCENT,
            (1.0, 60, 300),
            "used space of the root file system",
            DISK,
        ),
        above(90.0, 85.5),
    ),
    quiet(
        metric::DISK_FREE_BYTES,
        (250e6, 300, 3600),
        "space left for programs",
        DISK,
    ),
    alerting(
        quiet(
            metric::DISK_INODES_PERCENT,
            (2.0, 300, 3600),
            "used inodes",
            DISK,
        ),
        above(90.0, 85.5),
    ),
    alerting(
        quiet(
            metric::DISK_WEAR_PERCENT,
            (1.0, 3600, 86_400),
            "used life of an eMMC, in tens; above 100 it is over",
            EMMC,
        ),
        above(80.0, 79.0),
    ),
    alerting(
        quiet(
            metric::DISK_PRE_EOL_LEVEL,
            (0.5, 3600, 86_400),
            "reserved blocks of an eMMC: 1 normal, 2 warning, 3 urgent",
            EMMC,
        ),
        above(1.0, 1.0),
    ),
    alerting(
        quiet(
            metric::TEMPERATURE_C,
            (2.0, 30, 300),
            "the hottest zone",
            THERMAL,
        ),
        above(80.0, 76.0),
    ),
    quiet(
        "temperature_c.*",
        (5.0, 60, 3600),
        "each zone, by its type",
        THERMAL,
    ),
    alerting(
        quiet(
            "throttling.*",
            (0.5, 60, 3600),
            "under_voltage, frequency_capped, throttled, soft_temperature_limit: 1 within the last minute, else 0",
            FIRMWARE,
        ),
        above(0.0, 0.0),
    ),
    quiet(
        metric::NET_RX_BYTES_PER_S,
        (10_000.0, 30, 300),
        "received on all interfaces but loopback",
        NETWORK,
    ),
    quiet(
        "net_rx_bytes_per_s.*",
        (50_000.0, 60, 3600),
        "received, by interface",
        NETWORK,
    ),
    quiet(
        metric::NET_TX_BYTES_PER_S,
        (10_000.0, 30, 300),
        "sent on all interfaces but loopback",
        NETWORK,
    ),
    quiet(
        "net_tx_bytes_per_s.*",
        (50_000.0, 60, 3600),
        "sent, by interface",
        NETWORK,
    ),
    quiet(
        "net_errors_per_s.*",
        (1.0, 60, 3600),
        "packets broken or dropped, both ways, by interface",
        NETWORK,
    ),
    quiet(
        "wifi_signal_dbm.*",
        (6.0, 60, 3600),
        "signal of the access point, by interface",
        "/proc/net/wireless",
    ),
    alerting(
        quiet(
            metric::BATTERY_PERCENT,
            (1.0, 30, 300),
            "charge; of the emptiest battery",
            SUPPLY,
        ),
        Threshold::Below {
            level: 20.0,
            clear: 25.0,
        },
    ),
    quiet(
        metric::BATTERY_V,
        (0.2, 60, 3600),
        "voltage of the same battery",
        SUPPLY,
    ),
    quiet(
        metric::BATTERY_CHARGING,
        (0.0, 10, 300),
        "whether it is being charged: 1 or 0",
        PROGRAMS,
    ),
    quiet(
        "service_memory_bytes.*",
        (16e6, 300, 3600),
        "memory of each unit and process of the profile",
        CGROUP,
    ),
    quiet(
        "service_cpu_percent.*",
        (20.0, 60, 3600),
        "processor time of each unit of the profile, of one core",
        CGROUP,
    ),
    quiet(
        "custom.*",
        (0.0, 10, 300),
        "what the robot's own programs report, by the name that they give it",
        PROGRAMS,
    ),
    quiet(
        "legacy.*",
        (0.0, 10, 300),
        "where an older system's agent says that the robot is",
        "the older system's agent, see migration in agent.yml",
    ),
    // Heartbeats carry it.
    quiet(
        metric::UPTIME_S,
        (f64::MAX, 300, 3600),
        "since boot",
        "/proc/uptime",
    ),
];

/// The metric or family that `key`, one of [`metric::KEYS`], means.
#[must_use]
pub fn of(key: &str) -> Option<&'static Metric> {
    static ALL: &[Metric] = &CATALOGUE;
    ALL.iter().find(|metric| metric.key == key)
}

#[cfg(test)]
mod tests {
    use lekiwi_protocol::limits::MAX_METRICS;

    use super::*;

    #[test]
    fn every_name_of_the_contract_is_there_in_its_order() {
        assert_eq!(CATALOGUE.map(|metric| metric.key), metric::KEYS);
        assert!(
            CATALOGUE
                .iter()
                .all(|metric| of(metric.key) == Some(metric))
        );
    }

    #[test]
    fn all_that_can_be_measured_fits_into_one_message() {
        let most = metric::KEYS.iter();
        let most = most.map(|key| key.strip_suffix(".*").map_or(1, metric::most));
        let most: usize = most.sum();
        assert!(most <= MAX_METRICS, "{most}");
    }
}
