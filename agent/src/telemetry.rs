//! What the robot measures about itself, from `/proc`, `/sys` and the root file system. Reads files;
//! parsing is pure ([`parse`]). A sensor that is missing means an absent metric, never an error.

mod board;
mod files;
pub mod packages;
pub mod parse;

use std::path::Path;
use std::time::{Duration, Instant};

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::limits::MAX_FAMILY;
use lekiwi_protocol::message::{BatteryStatus, Throttling, TimeSync, metric};
use nix::sys::statvfs::statvfs;

use board::Board;
pub(crate) use files::Files;
pub use parse::uptime_s;
pub(crate) use parse::{kilobytes, number_of};

/// Takes what is measured: the metric or family, the member of the family or nothing, and the value.
pub type Sink<'a> = &'a mut dyn FnMut(&'static str, &str, f64);

/// Time between two looks at what changes slowly or costs more: disk, supply, firmware, Wi-Fi, clock.
const SLOWLY: Duration = Duration::from_secs(10);
/// Where systemd-timesyncd says that, and by the file's time when, it set the clock.
const SYNCHRONISED: &str = "run/systemd/timesync/synchronized";

/// All memory in bytes, from the text of `/proc/meminfo`.
pub(crate) fn memory_bytes(meminfo: &str) -> Option<u64> {
    kilobytes(meminfo, "MemTotal:")?.checked_mul(1024)
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[derive(Debug)]
struct Core {
    /// Its number; empty for all of them.
    number: String,
    cpu: parse::Cpu,
}

#[derive(Debug)]
struct Interface {
    name: String,
    traffic: parse::Traffic,
    at: Instant,
}

/// Reads the sensors. Rates need two readings.
#[derive(Debug)]
pub struct Sampler {
    files: Files,
    cores: Vec<Core>,
    core_count: u32,
    load_per_core: Option<f64>,
    interfaces: Vec<Interface>,
    board: Board,
    clock: TimeSync,
    next_slow: Option<Instant>,
    /// What was said of supply, firmware and clock.
    told: (Option<BatteryStatus>, Option<Throttling>, bool),
}

impl Sampler {
    /// `root` is `/`, or a folder with `proc` and `sys` in tests.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            files: Files::new(root),
            cores: Vec::new(),
            core_count: 0,
            load_per_core: None,
            interfaces: Vec::new(),
            board: Board::default(),
            clock: TimeSync::default(),
            next_slow: None,
            told: (None, None, false),
        }
    }

    /// All that is to be read at `now`, rounded to what is worth sending.
    pub fn sample(&mut self, now: Instant, sink: Sink<'_>) {
        self.cpu(sink);
        self.load(sink);
        if let Some(text) = self.files.text("proc/meminfo") {
            let memory = parse::memory_percent(text);
            let swap = parse::swap_percent(text);
            for (name, value) in [
                (metric::MEMORY_PERCENT, memory),
                (metric::SWAP_PERCENT, swap),
            ] {
                if let Some(value) = value {
                    sink(name, "", tenths(value));
                }
            }
        }
        self.traffic(now, sink);
        self.board.temperatures(&mut self.files, now, sink);
        if self.next_slow.is_none_or(|at| at <= now) {
            self.next_slow = Some(now + SLOWLY);
            self.disk(sink);
            self.board.power(&mut self.files, now, sink);
            if let Some(text) = self.files.text("proc/net/wireless") {
                for (name, signal) in parse::signals(text) {
                    sink(metric::WIFI_SIGNAL_DBM, name, signal);
                }
            }
            self.clock = self.synchronisation();
            if let Some(uptime) = self.uptime() {
                sink(metric::UPTIME_S, "", uptime as f64);
            }
        }
    }

    /// Load of the last minute by core; `None` before it was read.
    #[must_use]
    pub fn load_per_core(&self) -> Option<f64> {
        self.load_per_core
    }

    /// What happens to the battery.
    #[must_use]
    pub fn battery(&self) -> Option<BatteryStatus> {
        self.board.battery()
    }

    /// What the firmware complains of.
    #[must_use]
    pub fn throttling(&self) -> Option<Throttling> {
        self.board.throttling()
    }

    /// Whether the clock is set from the network.
    #[must_use]
    pub fn clock(&self) -> TimeSync {
        self.clock
    }

    /// Whether supply, firmware or clock say something else than at the last call. Telemetry does not carry
    /// it: the state does.
    pub fn poll_news(&mut self) -> bool {
        let now = (self.battery(), self.throttling(), self.clock.synchronized);
        std::mem::replace(&mut self.told, now) != now
    }

    /// Seconds since boot.
    #[must_use]
    pub fn uptime(&self) -> Option<u64> {
        let path = self.files.root().join("proc/uptime");
        uptime_s(&std::fs::read_to_string(path).ok()?)
    }

    fn cpu(&mut self, sink: Sink<'_>) {
        let Some(text) = self.files.text("proc/stat") else {
            return;
        };
        let mut count = 0;
        for (number, cpu) in parse::cpus(text) {
            count += u32::from(!number.is_empty());
            if let Some(core) = self.cores.iter_mut().find(|core| core.number == number) {
                let before = std::mem::replace(&mut core.cpu, cpu);
                if let Some(percent) = cpu.busy_percent_since(before) {
                    sink(metric::CPU_PERCENT, number, tenths(percent));
                }
            } else if self.cores.len() <= MAX_FAMILY {
                self.cores.push(Core {
                    number: number.to_owned(),
                    cpu,
                });
            }
        }
        self.core_count = count;
    }

    fn load(&mut self, sink: Sink<'_>) {
        let load = self.files.text("proc/loadavg").and_then(parse::load);
        self.load_per_core = load.map(|[minute, ..]| minute / f64::from(self.core_count.max(1)));
        let names = [metric::LOAD_1M, metric::LOAD_5M, metric::LOAD_15M];
        for (name, value) in names.into_iter().zip(load.into_iter().flatten()) {
            sink(name, "", hundredths(value));
        }
    }

    fn disk(&self, sink: Sink<'_>) {
        let Ok(disk) = statvfs(self.files.root()) else {
            return;
        };
        // As df computes it: what root keeps for itself is not there for others.
        let used_percent = |all: u64, free: u64, available: u64| {
            let used = all.saturating_sub(free) as f64;
            let all = used + available as f64;
            (all > 0.0).then(|| tenths(100.0 * used / all))
        };
        let space = used_percent(disk.blocks(), disk.blocks_free(), disk.blocks_available());
        if let Some(space) = space {
            let free = disk.blocks_available() as f64 * disk.fragment_size() as f64;
            sink(metric::DISK_PERCENT, "", space);
            sink(metric::DISK_FREE_BYTES, "", free);
        }
        let inodes = used_percent(disk.files(), disk.files_free(), disk.files_available());
        if let Some(inodes) = inodes {
            sink(metric::DISK_INODES_PERCENT, "", inodes);
        }
    }

    fn traffic(&mut self, now: Instant, sink: Sink<'_>) {
        let Some(text) = self.files.text("proc/net/dev") else {
            return;
        };
        let (mut received, mut sent, mut measured) = (0.0, 0.0, false);
        for (name, traffic) in parse::interfaces(text) {
            let known = self.interfaces.iter_mut().find(|known| known.name == name);
            let Some(known) = known else {
                if self.interfaces.len() < MAX_FAMILY {
                    self.interfaces.push(Interface {
                        name: name.to_owned(),
                        traffic,
                        at: now,
                    });
                }
                continue;
            };
            let before = std::mem::replace(&mut known.traffic, traffic);
            let seconds = now
                .saturating_duration_since(std::mem::replace(&mut known.at, now))
                .as_secs_f64();
            // A counter that fell is of another interface of the same name.
            let rate = |new: u64, old: u64| {
                let grown = new.checked_sub(old)? as f64;
                (seconds > 0.0).then(|| grown / seconds)
            };
            let rates = (
                rate(traffic.received, before.received),
                rate(traffic.sent, before.sent),
                rate(traffic.errors, before.errors),
            );
            if let (Some(rx), Some(tx), Some(errors)) = rates {
                sink(metric::NET_RX_BYTES_PER_S, name, rx.round());
                sink(metric::NET_TX_BYTES_PER_S, name, tx.round());
                sink(metric::NET_ERRORS_PER_S, name, tenths(errors));
                received += rx;
                sent += tx;
                measured = true;
            }
        }
        // Those that were not in this reading are gone.
        self.interfaces.retain(|interface| interface.at == now);
        if measured {
            sink(metric::NET_RX_BYTES_PER_S, "", received.round());
            sink(metric::NET_TX_BYTES_PER_S, "", sent.round());
        }
    }

    fn synchronisation(&self) -> TimeSync {
        let metadata = std::fs::metadata(self.files.root().join(SYNCHRONISED));
        let at = metadata.as_ref().ok().and_then(|m| m.modified().ok());
        TimeSync {
            synchronized: metadata.is_ok(),
            synchronized_at: at.map(Timestamp::from),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use lekiwi_protocol::message::Flag;

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What is measured, by name, without what the test machine's disk has.
    fn sampled(sampler: &mut Sampler, now: Instant) -> BTreeMap<String, f64> {
        let mut metrics = BTreeMap::new();
        sampler.sample(now, &mut |family, member, value| {
            let name = metric::name(family, member).unwrap();
            let before = metrics.insert(name.to_string(), value);
            assert_eq!(before, None, "{name} is measured once");
        });
        metrics.retain(|name, _| {
            !name.starts_with("disk_") || name.contains("wear") || name.contains("eol")
        });
        metrics
    }

    fn pairs(metrics: &BTreeMap<String, f64>) -> Vec<(&str, f64)> {
        metrics
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect()
    }

    #[test]
    fn a_robot_without_sensors_reports_what_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut sampler = Sampler::new(folder.path());
        let mut names = Vec::new();
        sampler.sample(Instant::now(), &mut |name, _, _| names.push(name));
        names.retain(|name| *name != metric::DISK_INODES_PERCENT);
        assert_eq!(names, [metric::DISK_PERCENT, metric::DISK_FREE_BYTES]);
        assert_eq!((sampler.battery(), sampler.throttling()), (None, None));
        assert_eq!(
            (sampler.clock(), sampler.load_per_core()),
            (TimeSync::default(), None)
        );
        assert!(!sampler.poll_news());
    }

    #[test]
    fn rates_and_shares_come_from_two_readings() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let device = |rx: u64, tx: u64, lost: u64| {
            format!(
                "head\nhead\n    lo: 9 0 0 0 0 0 0 0 9 0 0 0\n  eth0:{rx} 0 {lost} 0 0 0 0 0 {tx} 0 0 0 0 0 0 0\n"
            )
        };
        write(
            root,
            "proc/stat",
            "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 10 0 10 80 0\ncpu1 10 0 10 80 0\nintr 1\n",
        );
        write(root, "proc/loadavg", "3.50 1.25 0.75 1/80 4242\n");
        write(root, "proc/net/dev", &device(1_000, 50, 0));
        write(root, "proc/uptime", "5025.37 19000.11\n");
        write(
            root,
            "sys/class/thermal/thermal_zone0/type",
            "cpu-thermal\n",
        );
        write(root, "sys/class/thermal/thermal_zone0/temp", "48312\n");
        write(
            root,
            "sys/class/thermal/thermal_zone1/type",
            "cpu-thermal\n",
        );
        write(root, "sys/class/thermal/thermal_zone1/temp", "51780\n");
        write(root, "sys/class/thermal/cooling_device0/temp", "99000\n");
        let start = Instant::now();
        let mut sampler = Sampler::new(root);
        let first = sampled(&mut sampler, start);
        assert!(!first.contains_key("cpu_percent") && first.contains_key("uptime_s"));
        assert_eq!(sampler.load_per_core(), Some(1.75));
        write(
            root,
            "proc/stat",
            "cpu  120 0 110 850 120 0 0 0 0 0\ncpu0 20 0 20 160 0\ncpu1 10 0 10 80 0\nintr 1\n",
        );
        write(root, "proc/net/dev", &device(3_000, 150, 3));
        let second = sampled(&mut sampler, start + Duration::from_secs(2));
        assert_eq!(
            pairs(&second),
            [
                ("cpu_percent", 15.0),
                ("cpu_percent.0", 20.0),
                ("load_15m", 0.75),
                ("load_1m", 3.5),
                ("load_5m", 1.25),
                ("net_errors_per_s.eth0", 1.5),
                ("net_rx_bytes_per_s", 1000.0),
                ("net_rx_bytes_per_s.eth0", 1000.0),
                ("net_tx_bytes_per_s", 50.0),
                ("net_tx_bytes_per_s.eth0", 50.0),
                ("temperature_c", 51.8),
                ("temperature_c.cpu-thermal", 48.3),
                ("temperature_c.cpu-thermal-2", 51.8),
            ],
            "what is slow is not read again yet"
        );
        write(root, "proc/net/dev", &device(5, 5, 0));
        let third = sampled(&mut sampler, start + Duration::from_secs(4));
        assert!(
            !third.keys().any(|name| name.starts_with("net_")),
            "the counter fell"
        );
    }

    #[test]
    fn interfaces_come_and_go_without_a_jump_and_there_are_never_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let mut sampler = Sampler::new(folder.path());
        let lines = |names: &[String], bytes: u64| {
            let line = |name: &String| format!("{name}: {bytes} 0 0 0 0 0 0 0 {bytes} 0 0 0\n");
            format!("head\nhead\n{}", names.iter().map(line).collect::<String>())
        };
        let wlan = ["wlan0".to_owned()];
        let both = [wlan[0].clone(), "eth0".to_owned()];
        let looks = [
            (lines(&wlan, 1000), None),
            (lines(&both, 2000), Some(100.0)),
            (lines(&wlan, 3000), Some(100.0)),
            (lines(&both, 9000), Some(600.0)),
            (lines(&both, 9010), Some(2.0)),
        ];
        for (number, (text, expected)) in looks.into_iter().enumerate() {
            write(folder.path(), "proc/net/dev", &text);
            let now = start + Duration::from_secs(10 * number as u64);
            let metrics = sampled(&mut sampler, now);
            assert_eq!(
                metrics.get("net_rx_bytes_per_s").copied(),
                expected,
                "{number}"
            );
        }
        for round in 0..3_u64 {
            let names: Vec<String> = (0..200)
                .map(|n| format!("veth{}", n + 200 * round))
                .collect();
            write(folder.path(), "proc/net/dev", &lines(&names, round));
            // Those that went make room for the next reading's.
            for second in [0, 1] {
                let at = Duration::from_secs(100 + 2 * round + second);
                sampled(&mut sampler, start + at);
                assert!(sampler.interfaces.len() <= MAX_FAMILY);
            }
            assert_eq!(sampler.interfaces.len(), MAX_FAMILY);
        }
    }

    #[test]
    fn a_board_says_what_happens_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let throttled = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled";
        write(root, throttled, "50005\n");
        write(root, "sys/block/mmcblk0/device/life_time", "0x02 0x01\n");
        write(root, "sys/block/mmcblk0/device/pre_eol_info", "0x01\n");
        write(root, "sys/block/sda/device/model", "x\n");
        let supply = |name: &str, charge: u8| {
            let text = format!(
                "POWER_SUPPLY_TYPE=Battery\nPOWER_SUPPLY_STATUS=Discharging\nPOWER_SUPPLY_VOLTAGE_NOW=11876543\nPOWER_SUPPLY_CAPACITY={charge}\n"
            );
            write(
                root,
                &format!("sys/class/power_supply/{name}/uevent"),
                &text,
            );
        };
        supply("BAT0", 90);
        supply("BAT1", 40);
        write(
            root,
            "sys/class/power_supply/AC/uevent",
            "POWER_SUPPLY_TYPE=Mains\n",
        );
        write(
            root,
            "proc/net/wireless",
            "head\nhead\n wlan0: 0000   54.  -56.  -256        0      0\n",
        );
        write(root, "run/systemd/timesync/synchronized", "");
        let start = Instant::now();
        let mut sampler = Sampler::new(root);
        let metrics = sampled(&mut sampler, start);
        assert_eq!(
            pairs(&metrics),
            [
                ("battery_percent", 40.0),
                ("battery_v", 11.88),
                ("disk_pre_eol_level", 1.0),
                ("disk_wear_percent", 20.0),
                ("throttling.frequency_capped", 0.0),
                ("throttling.soft_temperature_limit", 0.0),
                ("throttling.throttled", 1.0),
                ("throttling.under_voltage", 1.0),
                ("wifi_signal_dbm.wlan0", -56.0),
            ]
        );
        assert_eq!(sampler.battery(), Some(BatteryStatus::Discharging));
        assert!(sampler.clock().synchronized && sampler.clock().synchronized_at.is_some());
        assert!(sampler.poll_news() && !sampler.poll_news());

        // What comes and goes counts for a minute, and since boot for ever, even if the firmware forgets.
        let flag = |now, since_boot| Some(Flag { now, since_boot });
        let under_voltage = |sampler: &Sampler| sampler.throttling().unwrap().under_voltage;
        write(root, throttled, "0\n");
        sampled(&mut sampler, start + Duration::from_secs(50));
        assert_eq!(under_voltage(&sampler), flag(true, true));
        let later = sampled(&mut sampler, start + Duration::from_secs(70));
        assert_eq!(under_voltage(&sampler), flag(false, true));
        assert_eq!(later.get("throttling.under_voltage"), Some(&0.0));
        assert_eq!(
            sampler.throttling().unwrap().frequency_capped,
            flag(false, false)
        );
        assert!(sampler.poll_news());
    }

    #[test]
    fn debians_kernel_tells_only_of_the_voltage() {
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path(),
            "sys/class/hwmon/hwmon0/name",
            "cpu_thermal\n",
        );
        write(folder.path(), "sys/class/hwmon/hwmon1/name", "rpi_volt\n");
        write(
            folder.path(),
            "sys/class/hwmon/hwmon1/in0_lcrit_alarm",
            "1\n",
        );
        let mut sampler = Sampler::new(folder.path());
        let metrics = sampled(&mut sampler, Instant::now());
        assert_eq!(pairs(&metrics), [("throttling.under_voltage", 1.0)]);
        let throttling = sampler.throttling().unwrap();
        assert_eq!(
            (throttling.throttled, throttling.frequency_capped),
            (None, None)
        );
    }
}
