//! The texts of `/proc` and `/sys`. Pure; `None` for anything unexpected.

use lekiwi_protocol::message::BatteryStatus;

/// Time that a core spent, or all of them, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    busy: u64,
    all: u64,
}

impl Cpu {
    /// The share in which it was busy; `None` when no time has passed.
    #[must_use]
    pub fn busy_percent_since(self, before: Self) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        let busy = self.busy.saturating_sub(before.busy).min(all);
        // In this order a whole is exactly 100.
        Some(busy as f64 / all as f64 * 100.0)
    }
}

/// The first lines of `/proc/stat`: all cores, whose number is empty, then each by its number. user, nice,
/// system, idle, iowait, irq, softirq, steal, guest, …
pub fn cpus(text: &str) -> impl Iterator<Item = (&str, Cpu)> {
    let lines = text.lines().map_while(|line| line.strip_prefix("cpu"));
    lines.filter_map(|line| {
        let (core, ticks) = line.split_once(' ')?;
        let is_number = core.bytes().all(|b| b.is_ascii_digit());
        Some((core, cpu(ticks)?)).filter(|_| is_number)
    })
}

fn cpu(ticks: &str) -> Option<Cpu> {
    let (mut all, mut idle, mut count) = (0_u64, 0_u64, 0);
    // Guest time is contained in user time already.
    for tick in ticks.split_whitespace().take(8) {
        let tick = tick.parse::<u64>().ok()?;
        all = all.checked_add(tick)?;
        if count == 3 || count == 4 {
            idle += tick;
        }
        count += 1;
    }
    (count > 3).then(|| Cpu {
        busy: all - idle,
        all,
    })
}

/// `/proc/loadavg`: the means of one, five and fifteen minutes.
#[must_use]
pub fn load(text: &str) -> Option<[f64; 3]> {
    let mut words = text.split_whitespace();
    let mut mean = || {
        let mean = words.next()?.parse::<f64>().ok()?;
        (mean.is_finite() && mean >= 0.0).then_some(mean)
    };
    Some([mean()?, mean()?, mean()?])
}

/// `/proc/meminfo`: what is neither free nor reclaimable, as a share.
#[must_use]
pub fn memory_percent(text: &str) -> Option<f64> {
    used_percent(
        kilobytes(text, "MemTotal:")?,
        kilobytes(text, "MemAvailable:")?,
    )
}

/// Used swap as a share; `None` without any.
#[must_use]
pub fn swap_percent(text: &str) -> Option<f64> {
    used_percent(
        kilobytes(text, "SwapTotal:")?,
        kilobytes(text, "SwapFree:")?,
    )
}

fn used_percent(total: u64, free: u64) -> Option<f64> {
    let used = total.saturating_sub(free);
    (total > 0).then(|| used as f64 / total as f64 * 100.0)
}

/// A line of `/proc/meminfo` or `/proc/PID/status` in kB.
#[must_use]
pub fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A line `key number`, as in a cgroup's `cpu.stat`.
#[must_use]
pub fn number_of(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().map(|line| line.split_whitespace());
    lines.find_map(|mut words| match words.next() {
        Some(word) if word == key => words.next()?.parse().ok(),
        _ => None,
    })
}

/// A number in decimal, or after `0x` in hex.
#[must_use]
pub fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A Pi's `get_throttled`: hex, with or without `0x`.
#[must_use]
pub fn throttled(text: &str) -> Option<u32> {
    let text = text.trim();
    u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// An eMMC's `life_time`, two estimates in tenths: the worse one as a share. 11 is beyond its life.
#[must_use]
pub fn wear_percent(text: &str) -> Option<f64> {
    let estimates = text.split_whitespace().filter_map(number);
    let worst = estimates.filter(|tenth| (1..=11).contains(tenth)).max()?;
    Some(worst as f64 * 10.0)
}

/// A thermal zone in thousandths of a degree; values that no robot has are broken sensors.
#[must_use]
pub fn temperature_c(text: &str) -> Option<f64> {
    let celsius = text.trim().parse::<i64>().ok()? as f64 / 1000.0;
    (-60.0..=200.0).contains(&celsius).then_some(celsius)
}

/// What an interface has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes in.
    pub received: u64,
    /// Bytes out.
    pub sent: u64,
    /// Packets broken or dropped, both ways.
    pub errors: u64,
}

/// `/proc/net/dev` without loopback. Received: bytes, packets, errs, drop, fifo, frame, compressed,
/// multicast; sent: bytes, packets, errs, drop, …
pub fn interfaces(text: &str) -> impl Iterator<Item = (&str, Traffic)> {
    text.lines().skip(2).filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let mut columns = [0_u64; 12];
        let mut words = numbers.split_whitespace();
        for column in &mut columns {
            *column = words.next()?.parse().ok()?;
        }
        let lost = [2, 3, 10, 11].into_iter().map(|n| columns[n]);
        let traffic = Traffic {
            received: columns[0],
            sent: columns[8],
            errors: lost.fold(0, u64::saturating_add),
        };
        Some((name.trim(), traffic)).filter(|(name, _)| !name.is_empty() && *name != "lo")
    })
}

/// `/proc/net/wireless`: signal level by interface in dBm; old drivers count from -256.
pub fn signals(text: &str) -> impl Iterator<Item = (&str, f64)> {
    text.lines().skip(2).filter_map(|line| {
        let (name, columns) = line.split_once(':')?;
        let level = columns.split_whitespace().nth(2)?;
        let level = level.trim_end_matches('.').parse::<i16>().ok()?;
        let level = if level >= 64 { level - 256 } else { level };
        (-150..=0)
            .contains(&level)
            .then(|| (name.trim(), f64::from(level)))
    })
}

/// A battery as its `uevent` describes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Battery {
    /// Its charge, 0 to 100.
    pub percent: f64,
    /// Its voltage.
    pub voltage_v: Option<f64>,
    /// Whether it is charged or discharged.
    pub status: BatteryStatus,
}

/// `/sys/class/power_supply/*/uevent`; `None` for what feeds no robot: mains, and a mouse's battery.
#[must_use]
pub fn battery(uevent: &str) -> Option<Battery> {
    let value = |key: &str| {
        let mut lines = uevent
            .lines()
            .filter_map(|l| l.strip_prefix("POWER_SUPPLY_"));
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    if value("TYPE") != Some("Battery") || value("SCOPE") == Some("Device") {
        return None;
    }
    let percent = value("CAPACITY")?.parse::<u8>().ok()?;
    let microvolts = value("VOLTAGE_NOW").and_then(|text| text.parse::<u32>().ok());
    Some(Battery {
        percent: f64::from(percent.min(100)),
        voltage_v: microvolts.map(|microvolts| f64::from(microvolts) / 1e6),
        status: match value("STATUS") {
            Some("Charging") => BatteryStatus::Charging,
            Some("Discharging") => BatteryStatus::Discharging,
            Some("Not charging") => BatteryStatus::NotCharging,
            Some("Full") => BatteryStatus::Full,
            _ => BatteryStatus::Unknown,
        },
    })
}

/// `/proc/uptime` in whole seconds.
#[must_use]
pub fn uptime_s(text: &str) -> Option<u64> {
    text.split(['.', ' ']).next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pi_says_what_it_has() {
        let meminfo = "MemTotal:        3884360 kB\nMemFree:         2730512 kB\nMemAvailable:    3370004 kB\n\
                       Buffers: 1 kB\nSwapTotal:        524284 kB\nSwapFree:         393213 kB\n";
        let percent = memory_percent(meminfo).map(|p| (p * 100.0).round());
        assert_eq!(percent, Some(1324.0));
        let percent = swap_percent(meminfo).map(|p| (p * 100.0).round());
        assert_eq!(percent, Some(2500.0));
        assert_eq!(temperature_c("47236\n"), Some(47.236));
        assert_eq!(uptime_s("349735.47 234388.90\n"), Some(349_735));
        assert_eq!(
            load("0.42 0.30 0.25 2/187 12345\n"),
            Some([0.42, 0.30, 0.25])
        );
        assert_eq!(throttled("50005\n"), Some(0x50005));
        assert_eq!(throttled("0x0\n"), Some(0));
        assert_eq!(wear_percent("0x01 0x03\n"), Some(30.0));
        assert_eq!(number("0x02\n"), Some(2));
        let stat = "usage_usec 8123456\nuser_usec 7000000\nsystem_usec 1123456\n";
        assert_eq!(number_of(stat, "usage_usec"), Some(8_123_456));
    }

    #[test]
    fn cores_are_told_apart() {
        let text = "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 50 0 50 350 50 0 0 0 0 0\ncpu1 50 0 50 350 50 0 0 0 0 0\n\
                    intr 12345 0 0\ncpu9 1 1 1 1 1 1 1 1\n";
        let found: Vec<_> = cpus(text).collect();
        let cpu = |busy, all| Cpu { busy, all };
        assert_eq!(
            found,
            [
                ("", cpu(200, 1000)),
                ("0", cpu(100, 500)),
                ("1", cpu(100, 500))
            ]
        );
    }

    #[test]
    fn interfaces_and_signals_are_told_apart() {
        let text = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop\n    \
                    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n  eth0: 1000 10 1 2 0 0 0 0 500 5 3 4 0 0 0 0\n wlan0:7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n";
        let traffic = |received, sent, errors| Traffic {
            received,
            sent,
            errors,
        };
        assert_eq!(
            interfaces(text).collect::<Vec<_>>(),
            [
                ("eth0", traffic(1000, 500, 10)),
                ("wlan0", traffic(7, 8, 0))
            ]
        );
        let text = "Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE\n face | tus | link level \
                    noise |  nwid  crypt   frag  retry   misc | beacon | 22\n wlan0: 0000   54.  -56.  -256        0      0      0      0      \
                    0        0\n wlan1: 0000   54.  200.  0  0 0 0 0 0 0\n wlan2: 0000 5. 7. 0 0\n";
        assert_eq!(
            signals(text).collect::<Vec<_>>(),
            [("wlan0", -56.0), ("wlan1", -56.0)]
        );
    }

    #[test]
    fn a_battery_is_one_that_feeds_the_robot() {
        let text = "POWER_SUPPLY_NAME=BAT0\nPOWER_SUPPLY_TYPE=Battery\nPOWER_SUPPLY_STATUS=Not charging\n\
                    POWER_SUPPLY_VOLTAGE_NOW=12345678\nPOWER_SUPPLY_CAPACITY=81\n";
        let found = battery(text).map(|b| (b.percent, b.voltage_v, b.status));
        assert_eq!(
            found,
            Some((81.0, Some(12.345_678), BatteryStatus::NotCharging))
        );
        let bare = "POWER_SUPPLY_TYPE=Battery\nPOWER_SUPPLY_CAPACITY=250\nPOWER_SUPPLY_STATUS=?\n";
        let found = battery(bare).map(|b| (b.percent, b.voltage_v, b.status));
        assert_eq!(found, Some((100.0, None, BatteryStatus::Unknown)));
        for other in [
            "POWER_SUPPLY_TYPE=Mains\nPOWER_SUPPLY_CAPACITY=5\n",
            "POWER_SUPPLY_TYPE=Battery\nPOWER_SUPPLY_SCOPE=Device\nPOWER_SUPPLY_CAPACITY=5\n",
            "POWER_SUPPLY_TYPE=Battery\n",
            "",
        ] {
            assert!(battery(other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn nonsense_is_absent() {
        for text in [
            "",
            "cpu",
            "cpu  a b c d",
            "cpu  1 2 3",
            "intr 1 2",
            "cpux 1 2 3 4",
        ] {
            assert_eq!(cpus(text).next(), None, "{text:?}");
        }
        assert_eq!(memory_percent("MemTotal: 0 kB\nMemAvailable: 0 kB\n"), None);
        assert_eq!(memory_percent("MemTotal: 5 kB\n"), None);
        assert_eq!(swap_percent("SwapTotal: 0 kB\nSwapFree: 0 kB\n"), None);
        assert_eq!(temperature_c("-274000"), None);
        assert_eq!(temperature_c("hot"), None);
        assert_eq!(uptime_s("soon"), None);
        assert_eq!(load("0.1 NaN 0.3"), None);
        assert_eq!(load("0.1 0.2"), None);
        assert_eq!(throttled("on"), None);
        assert_eq!(wear_percent("0x00 0x0f"), None);
        assert_eq!(number_of("usage_usec\n", "usage_usec"), None);
        assert_eq!(interfaces("a\nb\neth0: x y\nbroken\n: 1 2\n").next(), None);
        assert_eq!(signals("a\nb\nwlan0: 0000 1.\nwlan1 x\n").next(), None);
    }

    proptest! {
        /// The kernel is no stranger, but nothing that it may come to say ends the agent.
        #[test]
        fn any_text_is_read_or_refused(text in "(cpu|[0-9]{1,20}|[a-z]{1,8}|: ?| |\n|\\.|-|0x|POWER_SUPPLY_TYPE=Battery\n|\\PC){0,80}") {
            cpus(&text).for_each(drop);
            interfaces(&text).for_each(drop);
            signals(&text).for_each(drop);
            let _ = (load(&text), memory_percent(&text), swap_percent(&text), number(&text), throttled(&text));
            let _ = (wear_percent(&text), temperature_c(&text), battery(&text), uptime_s(&text));
            let _ = (kilobytes(&text, "a"), number_of(&text, "a"));
        }
    }
}
