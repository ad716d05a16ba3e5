//! What the robot measures about itself, from `/proc`, `/sys` and the root file system. Reads files;
//! parsing is pure ([`parse`]). A sensor that is missing means an absent metric, never an error.

mod parse;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use lekiwi_protocol::message::metric;
use nix::sys::statvfs::statvfs;

pub use parse::uptime_s;

/// All memory in bytes, from the text of `/proc/meminfo`.
pub(crate) fn memory_bytes(meminfo: &str) -> Option<u64> {
    parse::kilobytes(meminfo, "MemTotal:")?.checked_mul(1024)
}

/// Reads the sensors. Rates need two readings.
#[derive(Debug)]
pub struct Sampler {
    root: PathBuf,
    cpu: Option<parse::Cpu>,
    network: Option<(Instant, parse::Traffic)>,
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new(PathBuf::from("/"))
    }
}

impl Sampler {
    /// `root` is `/`, or a folder with `proc` and `sys` in tests.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            cpu: None,
            network: None,
        }
    }

    /// All metrics that can be read at `now`, rounded to what is worth sending.
    pub fn sample(&mut self, now: Instant) -> Vec<(&'static str, f64)> {
        let mut metrics = Vec::with_capacity(7);
        let mut push = |name, value: Option<f64>| {
            metrics.extend(value.map(|value| (name, (value * 10.0).round() / 10.0)));
        };
        push(metric::CPU_PERCENT, self.cpu());
        let memory = self
            .read("proc/meminfo")
            .and_then(|text| parse::memory_percent(&text));
        push(metric::MEMORY_PERCENT, memory);
        push(metric::DISK_PERCENT, self.disk());
        push(metric::TEMPERATURE_C, self.temperature());
        let (received, sent) = self.traffic(now).unzip();
        push(metric::NET_RX_BYTES_PER_S, received.map(f64::round));
        push(metric::NET_TX_BYTES_PER_S, sent.map(f64::round));
        push(
            metric::UPTIME_S,
            self.uptime().map(|seconds| seconds as f64),
        );
        metrics
    }

    /// Seconds since boot.
    #[must_use]
    pub fn uptime(&self) -> Option<u64> {
        self.read("proc/uptime").and_then(|text| uptime_s(&text))
    }

    fn cpu(&mut self) -> Option<f64> {
        let cpu = self.read("proc/stat").and_then(|text| parse::cpu(&text))?;
        let before = self.cpu.replace(cpu)?;
        cpu.busy_percent_since(before)
    }

    fn disk(&self) -> Option<f64> {
        let disk = statvfs(&self.root).ok()?;
        let (all, free) = (disk.blocks() as f64, disk.blocks_free() as f64);
        let available = disk.blocks_available() as f64;
        let used = all - free;
        // As df computes it: what root keeps for itself is not there for others.
        (used + available > 0.0).then(|| 100.0 * used / (used + available))
    }

    fn temperature(&self) -> Option<f64> {
        let zones = fs::read_dir(self.root.join("sys/class/thermal")).ok()?;
        zones
            .filter_map(Result::ok)
            .filter(|entry| {
                entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with("thermal_zone")
            })
            .filter_map(|entry| fs::read_to_string(entry.path().join("temp")).ok())
            .filter_map(|text| parse::temperature_c(&text))
            .max_by(f64::total_cmp)
    }

    fn traffic(&mut self, now: Instant) -> Option<(f64, f64)> {
        let traffic = parse::traffic(&self.read("proc/net/dev")?);
        let (at, before) = self.network.replace((now, traffic))?;
        let seconds = now.saturating_duration_since(at).as_secs_f64();
        // A counter that fell belongs to an interface that went.
        let rate = |new: u64, old: u64| Some(new.checked_sub(old)? as f64 / seconds);
        let rates = (
            rate(traffic.received, before.received)?,
            rate(traffic.sent, before.sent)?,
        );
        (seconds > 0.0).then_some(rates)
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn write(root: &std::path::Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_robot_without_sensors_reports_what_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut sampler = Sampler::new(folder.path().to_owned());
        let names: Vec<_> = sampler
            .sample(Instant::now())
            .into_iter()
            .map(|(n, _)| n)
            .collect();
        assert_eq!(names, ["disk_percent"]);
    }

    #[test]
    fn rates_and_shares_come_from_two_readings() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let device = |rx: u64, tx: u64| {
            format!(
                "head\nhead\n    lo: 9 0 0 0 0 0 0 0 9 0\n  eth0:{rx} 0 0 0 0 0 0 0 {tx} 0 0 0 0 0 0 0\n"
            )
        };
        write(
            root,
            "proc/stat",
            "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3 4\n",
        );
        write(root, "proc/net/dev", &device(1_000, 50));
        write(root, "proc/uptime", "5025.37 19000.11\n");
        write(root, "sys/class/thermal/thermal_zone0/temp", "48312\n");
        write(root, "sys/class/thermal/thermal_zone1/temp", "51780\n");
        write(root, "sys/class/thermal/cooling_device0/temp", "99000\n");
        let start = Instant::now();
        let mut sampler = Sampler::new(root.to_owned());
        let first = sampler.sample(start);
        assert!(!first.iter().any(|(name, _)| *name == "cpu_percent"));
        write(root, "proc/stat", "cpu  120 0 110 850 120 0 0 0 0 0\n");
        write(root, "proc/net/dev", &device(3_000, 150));
        let second: Vec<_> = sampler
            .sample(start + Duration::from_secs(2))
            .into_iter()
            .filter(|(name, _)| *name != "disk_percent")
            .collect();
        assert_eq!(
            second,
            [
                ("cpu_percent", 15.0),
                ("temperature_c", 51.8),
                ("net_rx_bytes_per_s", 1000.0),
                ("net_tx_bytes_per_s", 50.0),
                ("uptime_s", 5025.0),
            ]
        );
        write(root, "proc/net/dev", &device(5, 5));
        let third = sampler.sample(start + Duration::from_secs(4));
        assert!(
            !third.iter().any(|(name, _)| name.starts_with("net_")),
            "the counter fell"
        );
    }
}
