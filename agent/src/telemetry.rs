//! Samples CPU, memory, disk, temperature, network and uptime from `/proc`, `/sys` and statvfs. Called
//! by the driver every `sample_s`; what is worth a message is the debouncer's decision.
//!
//! A missing or garbled source leaves its metric out; nothing here fails. `root` is `/` on a robot;
//! tests read captured files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lekiwi_protocol::MetricName;
use lekiwi_protocol::message::{Metrics, metric};

/// Remembers the counters of the last sample, so that the next one is a rate.
#[derive(Debug)]
pub struct Sampler {
    root: PathBuf,
    cpu: Option<CpuTimes>,
    network: Option<(Instant, NetworkBytes)>,
}

/// Jiffies since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTimes {
    busy: u64,
    total: u64,
}

/// Bytes since boot on all interfaces but loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct NetworkBytes {
    received: u64,
    sent: u64,
}

impl Sampler {
    /// A sampler of the machine below `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            cpu: None,
            network: None,
        }
    }

    /// The newest values. Rates need two samples, so the first has none.
    pub fn sample(&mut self, now: Instant) -> Metrics {
        let cpu = self.read("proc/stat").and_then(|stat| cpu_times(&stat));
        let cpu_percent = self
            .cpu
            .zip(cpu)
            .and_then(|(before, after)| busy_percent(before, after));
        self.cpu = cpu;
        let network = self
            .read("proc/net/dev")
            .map(|dev| (now, network_bytes(&dev)));
        let rates = self
            .network
            .zip(network)
            .and_then(|((then, before), (now, after))| {
                let seconds = now.saturating_duration_since(then).as_secs_f64();
                // A counter that went back belongs to an interface that went away.
                let rate = |before: u64, after: u64| {
                    after
                        .checked_sub(before)
                        .map(|bytes| ratio(bytes, 1_u64) / seconds)
                };
                (seconds > 0.0).then(|| {
                    (
                        rate(before.received, after.received),
                        rate(before.sent, after.sent),
                    )
                })
            });
        self.network = network;
        let (received, sent) = rates.unwrap_or((None, None));
        [
            (metric::CPU_PERCENT, cpu_percent),
            (
                metric::MEMORY_PERCENT,
                self.read("proc/meminfo")
                    .and_then(|meminfo| memory_percent(&meminfo)),
            ),
            (metric::DISK_PERCENT, disk_percent(&self.root)),
            (metric::TEMPERATURE_C, self.temperature_c()),
            (metric::NET_RX_BYTES_PER_S, received),
            (metric::NET_TX_BYTES_PER_S, sent),
            (
                metric::UPTIME_S,
                self.read("proc/uptime")
                    .and_then(|uptime| uptime.split(' ').next()?.parse().ok()),
            ),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((MetricName::new(name).ok()?, rounded(value?))))
        .collect()
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    /// The hottest zone: on a Pi there is one, on a PC several.
    fn temperature_c(&self) -> Option<f64> {
        let zones = fs::read_dir(self.root.join("sys/class/thermal")).ok()?;
        zones
            .filter_map(|zone| {
                let path = zone.ok()?.path();
                let is_zone = path.file_name()?.to_str()?.starts_with("thermal_zone");
                let millis: i32 = is_zone
                    .then(|| fs::read_to_string(path.join("temp")).ok())??
                    .trim()
                    .parse()
                    .ok()?;
                // A zone without its sensor reads as absolute zero or worse.
                (-40_000..200_000)
                    .contains(&millis)
                    .then(|| f64::from(millis) / 1_000.0)
            })
            .max_by(f64::total_cmp)
    }
}

/// One decimal: what is below it is noise, and costs bytes on every message.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counters stay far below 2^53, and a ratio forgives the rest"
)]
fn ratio(part: impl Into<u64>, whole: impl Into<u64>) -> f64 {
    part.into() as f64 / whole.into() as f64
}

/// The first line of `/proc/stat`: user nice system idle iowait irq softirq steal guest guest_nice.
/// Guest time is in user time already.
fn cpu_times(stat: &str) -> Option<CpuTimes> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line
        .split_ascii_whitespace()
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    let idle = fields
        .get(3)?
        .checked_add(fields.get(4).copied().unwrap_or(0))?;
    let total = fields
        .iter()
        .try_fold(0_u64, |sum, field| sum.checked_add(*field))?;
    Some(CpuTimes {
        busy: total.checked_sub(idle)?,
        total,
    })
}

fn busy_percent(before: CpuTimes, after: CpuTimes) -> Option<f64> {
    let total = after
        .total
        .checked_sub(before.total)
        .filter(|total| *total > 0)?;
    // Idle time may step back by a jiffy between reads (proc(5)).
    let busy = after.busy.saturating_sub(before.busy).min(total);
    Some(ratio(busy, total) * 100.0)
}

/// Memory that is not available without swapping.
fn memory_percent(meminfo: &str) -> Option<f64> {
    let field = |name: &str| -> Option<u64> {
        meminfo
            .lines()
            .find_map(|line| line.strip_prefix(name))?
            .split_ascii_whitespace()
            .next()?
            .parse()
            .ok()
    };
    let total = field("MemTotal:").filter(|total| *total > 0)?;
    Some(ratio(total.saturating_sub(field("MemAvailable:")?), total) * 100.0)
}

/// Used share of what an ordinary user could use, as `df` says it.
fn disk_percent(root: &Path) -> Option<f64> {
    let file_system = nix::sys::statvfs::statvfs(root).ok()?;
    // Block counts are narrower on 32-bit targets, hence no type here.
    let used = file_system
        .blocks()
        .saturating_sub(file_system.blocks_free());
    let usable = used.saturating_add(file_system.blocks_available());
    (usable > 0).then(|| ratio(used, usable) * 100.0)
}

fn network_bytes(dev: &str) -> NetworkBytes {
    let mut sum = NetworkBytes::default();
    for line in dev.lines() {
        let Some((interface, counters)) = line.split_once(':') else {
            continue;
        };
        let mut counters = counters
            .split_ascii_whitespace()
            .map(|counter| counter.parse().unwrap_or(0));
        if interface.trim() == "lo" {
            continue;
        }
        sum.received = sum.received.wrapping_add(counters.next().unwrap_or(0));
        sum.sent = sum.sent.wrapping_add(counters.nth(7).unwrap_or(0));
    }
    sum
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;

    const STAT: &str = "cpu  1000 10 500 8000 400 0 90 0 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 1\n";
    const MEMINFO: &str =
        "MemTotal:        4000000 kB\nMemFree:          100000 kB\nMemAvailable:    3000000 kB\n";
    const DEV: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
        lo:  999999     100    0    0    0     0          0         0   999999     100    0    0    0     0       0          0\n  \
        eth0: 1000000    1000    0    0    0     0          0         0   500000     800    0    0    0     0       0          0\n\
        wlan0:2000 10 0 0 0 0 0 0 3000 20 0 0 0 0 0 0\n";

    #[test]
    fn captured_files_are_read() {
        assert_eq!(
            cpu_times(STAT),
            Some(CpuTimes {
                busy: 1_600,
                total: 10_000
            })
        );
        assert_eq!(memory_percent(MEMINFO), Some(25.0));
        assert_eq!(
            network_bytes(DEV),
            NetworkBytes {
                received: 1_002_000,
                sent: 503_000
            }
        );
    }

    #[test]
    fn garbled_files_leave_the_metric_out() {
        for bad in [
            "",
            "cpu",
            "cpu  x y z",
            "cpu  1 2 3",
            "intr 5",
            "cpu  18446744073709551615 1 1 1 1 1 1 1",
        ] {
            assert_eq!(cpu_times(bad), None, "{bad:?}");
        }
        for bad in [
            "",
            "MemTotal: 0 kB\nMemAvailable: 0 kB",
            "MemTotal: 5 kB",
            "MemTotal: many",
        ] {
            assert_eq!(memory_percent(bad), None, "{bad:?}");
        }
        assert_eq!(network_bytes("nothing here"), NetworkBytes::default());
    }

    #[test]
    fn counters_that_step_back_do_not_underflow() {
        let times = |busy, total| CpuTimes { busy, total };
        assert_eq!(busy_percent(times(100, 1_000), times(99, 1_100)), Some(0.0));
        assert_eq!(busy_percent(times(100, 1_000), times(100, 1_000)), None);
        assert_eq!(busy_percent(times(100, 1_000), times(100, 900)), None);
    }

    #[test]
    fn rates_come_with_the_second_sample() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        write("proc/stat", STAT);
        write("proc/meminfo", MEMINFO);
        write("proc/net/dev", DEV);
        write("proc/uptime", "12.34 20.0\n");
        write("sys/class/thermal/thermal_zone0/temp", "48312\n");
        write("sys/class/thermal/thermal_zone1/temp", "-274000\n");
        write("sys/class/thermal/cooling_device0/temp", "99000\n");
        let mut sampler = Sampler::new(root.path());
        let start = Instant::now();
        let first = sampler.sample(start);
        assert_eq!(first.get("temperature_c"), Some(&48.3));
        assert_eq!(first.get("memory_percent"), Some(&25.0));
        assert_eq!(first.get("uptime_s"), Some(&12.3));
        assert!(first.contains_key("disk_percent"));
        assert!(!first.contains_key("cpu_percent") && !first.contains_key("net_rx_bytes_per_s"));
        write("proc/stat", "cpu  1060 10 500 8040 400 0 90 0 0 0\n");
        write(
            "proc/net/dev",
            &DEV.replace("eth0: 1000000", "eth0: 1005000"),
        );
        let second = sampler.sample(start + Duration::from_secs(2));
        assert_eq!(second.get("cpu_percent"), Some(&60.0));
        assert_eq!(second.get("net_rx_bytes_per_s"), Some(&2_500.0));
        assert_eq!(second.get("net_tx_bytes_per_s"), Some(&0.0));
    }

    #[test]
    fn a_machine_without_sensors_gives_what_there_is() {
        let metrics = Sampler::new(Path::new("/nonexistent")).sample(Instant::now());
        assert!(metrics.is_empty(), "{metrics:?}");
    }
}
