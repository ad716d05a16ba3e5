//! The texts of `/proc` and `/sys`. Pure; `None` for anything unexpected.

/// Time that all cores spent, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cpu {
    busy: u64,
    all: u64,
}

impl Cpu {
    pub(super) fn busy_percent_since(self, before: Self) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        let busy = self.busy.saturating_sub(before.busy).min(all);
        Some(100.0 * busy as f64 / all as f64)
    }
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, guest, …
pub(super) fn cpu(text: &str) -> Option<Cpu> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    // Guest time is contained in user time already.
    let ticks: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map(|n| n.parse().ok())
        .collect::<Option<_>>()?;
    let idle = ticks.get(3)? + ticks.get(4).copied().unwrap_or(0);
    let all = ticks.iter().sum::<u64>();
    Some(Cpu {
        busy: all - idle,
        all,
    })
}

/// `/proc/meminfo`: what is neither free nor reclaimable, as a share.
pub(super) fn memory_percent(text: &str) -> Option<f64> {
    let total = kilobytes(text, "MemTotal:")? as f64;
    let available = kilobytes(text, "MemAvailable:")? as f64;
    (total > 0.0).then(|| 100.0 * (total - available).max(0.0) / total)
}

/// A line of `/proc/meminfo` in kB.
pub(super) fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A thermal zone in thousandths of a degree; values that no robot has are broken sensors.
pub(super) fn temperature_c(text: &str) -> Option<f64> {
    let celsius = text.trim().parse::<i64>().ok()? as f64 / 1000.0;
    (-60.0..=200.0).contains(&celsius).then_some(celsius)
}

/// Bytes over all interfaces but loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Traffic {
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// `/proc/net/dev`.
pub(super) fn traffic(text: &str) -> Traffic {
    let mut sum = Traffic::default();
    for line in text.lines().skip(2) {
        let Some((name, numbers)) = line.split_once(':') else {
            continue;
        };
        let mut numbers = numbers.split_whitespace().map(|n| n.parse::<u64>().ok());
        let (received, sent) = (numbers.next().flatten(), numbers.nth(7).flatten());
        if name.trim() != "lo"
            && let (Some(received), Some(sent)) = (received, sent)
        {
            sum.received += received;
            sum.sent += sent;
        }
    }
    sum
}

/// `/proc/uptime` in whole seconds.
#[must_use]
pub fn uptime_s(text: &str) -> Option<u64> {
    text.split(['.', ' ']).next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pi_says_what_it_has() {
        let meminfo = "MemTotal:        3884360 kB\nMemFree:         2730512 kB\nMemAvailable:    3370004 kB\nBuffers: 1 kB\n";
        let percent = memory_percent(meminfo).map(|p| (p * 100.0).round());
        assert_eq!(percent, Some(1324.0));
        assert_eq!(temperature_c("47236\n"), Some(47.236));
        assert_eq!(uptime_s("349735.47 234388.90\n"), Some(349_735));
    }

    #[test]
    fn nonsense_is_absent() {
        for text in ["", "cpu", "cpu  a b c d", "cpu  1 2 3", "intr 1 2"] {
            assert_eq!(cpu(text), None, "{text:?}");
        }
        assert_eq!(memory_percent("MemTotal: 0 kB\nMemAvailable: 0 kB\n"), None);
        assert_eq!(memory_percent("MemTotal: 5 kB\n"), None);
        assert_eq!(temperature_c("-274000"), None);
        assert_eq!(temperature_c("hot"), None);
        assert_eq!(uptime_s("soon"), None);
        assert_eq!(traffic("a\nb\neth0: x y\nbroken\n"), Traffic::default());
    }
}
