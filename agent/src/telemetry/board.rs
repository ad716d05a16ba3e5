//! What the board says of itself: temperatures, power supply, firmware, the card's wear. The list of what
//! there is, is made anew every so often; sensors that are plugged in later are found.

use std::time::{Duration, Instant};

use lekiwi_protocol::message::{BatteryStatus, Flag, Throttling, metric};

use super::files::Files;
use super::{Sink, hundredths, parse, tenths};

/// Time between two looks for thermal zones.
const ZONES_EVERY: Duration = Duration::from_secs(60);
/// Time between two looks for firmware and eMMCs, and at the wear.
const RARELY: Duration = Duration::from_secs(600);
/// So long after it was last seen, a complaint of the firmware still counts as present: it comes and goes
/// many times a second.
const HELD: Duration = Duration::from_secs(60);
/// What the firmware says, by bit, and the same since boot 16 bits higher.
const COMPLAINTS: [&str; 4] = [
    "under_voltage",
    "frequency_capped",
    "throttled",
    "soft_temperature_limit",
];
/// The kernels without `get_throttled` tell only of the voltage.
const UNDER_VOLTAGE: u32 = 1;

#[derive(Debug)]
struct Zone {
    name: String,
    path: String,
}

/// Where the firmware is asked.
#[derive(Debug, Clone)]
enum Firmware {
    /// The Raspberry Pi's own kernel: all complaints as one number.
    Throttled(String),
    /// Debian's kernel: an alarm of the voltage.
    Voltage(String),
}

/// The board.
#[derive(Debug, Default)]
pub(super) struct Board {
    zones: Vec<Zone>,
    next_zones: Option<Instant>,
    firmware: Option<Firmware>,
    next_rarely: Option<Instant>,
    /// When each complaint was last seen.
    seen: [Option<Instant>; COMPLAINTS.len()],
    since_boot: u32,
    throttling: Option<Throttling>,
    battery: Option<BatteryStatus>,
}

impl Board {
    pub(super) fn throttling(&self) -> Option<Throttling> {
        self.throttling
    }

    pub(super) fn battery(&self) -> Option<BatteryStatus> {
        self.battery
    }

    pub(super) fn temperatures(&mut self, files: &mut Files, now: Instant, sink: Sink<'_>) {
        if self.next_zones.is_none_or(|at| at <= now) {
            self.next_zones = Some(now + ZONES_EVERY);
            self.zones = zones(files);
        }
        let mut hottest = None;
        for zone in &self.zones {
            let text = files.text(&zone.path);
            if let Some(celsius) = text.and_then(parse::temperature_c) {
                sink(metric::TEMPERATURE_C, &zone.name, tenths(celsius));
                hottest = Some(celsius.max(hottest.unwrap_or(celsius)));
            }
        }
        if let Some(celsius) = hottest {
            sink(metric::TEMPERATURE_C, "", tenths(celsius));
        }
    }

    pub(super) fn power(&mut self, files: &mut Files, now: Instant, sink: Sink<'_>) {
        if self.next_rarely.is_none_or(|at| at <= now) {
            self.next_rarely = Some(now + RARELY);
            if self.firmware.is_none() {
                self.firmware = firmware(files);
            }
            wear(files, sink);
        }
        self.complaints(files, now, sink);
        let mut emptiest: Option<parse::Battery> = None;
        for name in files.names("sys/class/power_supply") {
            let path = format!("sys/class/power_supply/{name}/uevent");
            if let Some(battery) = files.text(&path).and_then(parse::battery)
                && emptiest.is_none_or(|known| battery.percent < known.percent)
            {
                emptiest = Some(battery);
            }
        }
        self.battery = emptiest.map(|battery| battery.status);
        if let Some(battery) = emptiest {
            sink(metric::BATTERY_PERCENT, "", battery.percent);
            if let Some(voltage) = battery.voltage_v {
                sink(metric::BATTERY_V, "", hundredths(voltage));
            }
        }
    }

    fn complaints(&mut self, files: &mut Files, now: Instant, sink: Sink<'_>) {
        let (bits, known) = match &self.firmware {
            None => return,
            Some(Firmware::Throttled(path)) => {
                (files.text(path).and_then(parse::throttled), 0b1111)
            }
            Some(Firmware::Voltage(path)) => {
                let alarm = files.text(path).and_then(parse::number);
                (alarm.map(|alarm| u32::from(alarm != 0)), UNDER_VOLTAGE)
            }
        };
        let Some(bits) = bits else {
            return;
        };
        // Reading the firmware's memory may clear it: ours does not forget.
        self.since_boot |= bits | bits >> 16;
        let mut flags = [None; COMPLAINTS.len()];
        for (bit, name) in COMPLAINTS.iter().enumerate() {
            let mask = 1 << bit;
            if known & mask == 0 {
                continue;
            }
            if bits & mask != 0 {
                self.seen[bit] = Some(now);
            }
            let is_held = |at: Instant| now.saturating_duration_since(at) < HELD;
            let flag = Flag {
                now: self.seen[bit].is_some_and(is_held),
                since_boot: self.since_boot & mask != 0,
            };
            sink(metric::THROTTLING, name, f64::from(u8::from(flag.now)));
            flags[bit] = Some(flag);
        }
        let [
            under_voltage,
            frequency_capped,
            throttled,
            soft_temperature_limit,
        ] = flags;
        self.throttling = Some(Throttling {
            under_voltage,
            frequency_capped,
            throttled,
            soft_temperature_limit,
        });
    }
}

/// All thermal zones by type; a type that comes again gets a number.
fn zones(files: &mut Files) -> Vec<Zone> {
    let mut zones: Vec<Zone> = Vec::new();
    let mut kinds: Vec<String> = Vec::new();
    for folder in files.names("sys/class/thermal") {
        if !folder.starts_with("thermal_zone") {
            continue;
        }
        let folder = format!("sys/class/thermal/{folder}");
        let kind = files.text(&format!("{folder}/type"));
        let kind = kind.map(str::trim).filter(|kind| !kind.is_empty());
        let kind = kind.unwrap_or("unnamed").to_owned();
        let name = match kinds.iter().filter(|before| **before == kind).count() {
            0 => kind.clone(),
            count => format!("{kind}-{}", count + 1),
        };
        kinds.push(kind);
        zones.push(Zone {
            name,
            path: format!("{folder}/temp"),
        });
    }
    zones
}

fn firmware(files: &mut Files) -> Option<Firmware> {
    // soc/soc:firmware up to the Pi 4, soc@107c000000/soc@107c000000:firmware on a Pi 5.
    for soc in files.names("sys/devices/platform") {
        if !soc.starts_with("soc") {
            continue;
        }
        for device in files.names(&format!("sys/devices/platform/{soc}")) {
            let path = format!("sys/devices/platform/{soc}/{device}/get_throttled");
            if device.ends_with(":firmware") && files.text(&path).is_some() {
                return Some(Firmware::Throttled(path));
            }
        }
    }
    for sensor in files.names("sys/class/hwmon") {
        let folder = format!("sys/class/hwmon/{sensor}");
        let name = files.text(&format!("{folder}/name"));
        if name.map(str::trim) == Some("rpi_volt") {
            return Some(Firmware::Voltage(format!("{folder}/in0_lcrit_alarm")));
        }
    }
    None
}

/// The worst eMMC.
fn wear(files: &mut Files, sink: Sink<'_>) {
    let (mut wear, mut level) = (None::<f64>, None::<f64>);
    for disk in files.names("sys/block") {
        if !disk.starts_with("mmcblk") {
            continue;
        }
        let life = files.text(&format!("sys/block/{disk}/device/life_time"));
        if let Some(used) = life.and_then(parse::wear_percent) {
            wear = Some(used.max(wear.unwrap_or(used)));
        }
        let end = files.text(&format!("sys/block/{disk}/device/pre_eol_info"));
        // 0 is "not defined".
        if let Some(near @ 1..=3) = end.and_then(parse::number) {
            level = Some((near as f64).max(level.unwrap_or(0.0)));
        }
    }
    if let Some(wear) = wear {
        sink(metric::DISK_WEAR_PERCENT, "", wear);
    }
    if let Some(level) = level {
        sink(metric::DISK_PRE_EOL_LEVEL, "", level);
    }
}
