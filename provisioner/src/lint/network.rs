//! Rules about `network-config`.

use serde_json::Value;

use super::{Report, Texts, line, yaml};
use crate::order::check::is_country;

const FILE: &str = "network-config";

pub(super) fn check(texts: &Texts, report: &mut Report) {
    yaml::check(texts, FILE, report);
    let (Some(text), Some(whole)) = (texts.text(FILE), texts.yaml(FILE)) else {
        return;
    };
    // An empty file is a statement too.
    if whole.is_null() {
        return;
    }
    let config = whole.get("network").unwrap_or(&whole);
    if config.get("config").and_then(Value::as_str) == Some("disabled") {
        return;
    }
    match config.get("version").and_then(Value::as_u64) {
        Some(2) => {}
        // The older format is another matter.
        Some(1) => return,
        _ => {
            report.error(
                "network-version",
                (FILE, line(text, "version")),
                "expected version: 2: cloud-init does not know what the rest means",
            );
            return;
        }
    }
    let devices = |kind: &str| {
        let found = config.get(kind).and_then(Value::as_object);
        found.into_iter().flatten()
    };
    for (name, device) in devices("ethernets") {
        if device.get("optional").and_then(Value::as_bool) != Some(true) {
            report.warning(
                "network-optional",
                (FILE, line(text, &format!("{name}:"))),
                format!("without optional: true the boot waits two minutes for a cable in {name}"),
            );
            report.hint("add optional: true");
        }
    }
    for (name, device) in devices("wifis") {
        country(texts, name, device, report);
        let points = device.get("access-points").and_then(Value::as_object);
        if points.is_none_or(serde_json::Map::is_empty) {
            report.error(
                "wifi-network",
                (FILE, line(text, &format!("{name}:"))),
                format!("{name} has no access-points, so it connects to nothing"),
            );
        }
        for (ssid, point) in points.into_iter().flatten() {
            let Some(password) = point.get("password").and_then(Value::as_str) else {
                continue;
            };
            if !(8..=64).contains(&password.len()) {
                report.error(
                    "wifi-password",
                    (FILE, line(text, "password")),
                    format!(
                        "expected a passphrase of 8 to 63 characters or 64 hex digits for {ssid:?}, got {}",
                        password.len()
                    ),
                );
            }
        }
    }
}

fn country(texts: &Texts, name: &str, device: &Value, report: &mut Report) {
    let text = texts.text(FILE).unwrap_or_default();
    let words = texts.cmdline();
    let kernel = words
        .iter()
        .find_map(|word| word.strip_prefix("cfg80211.ieee80211_regdom="));
    let ours = device.get("regulatory-domain").and_then(Value::as_str);
    for (file, found) in [(FILE, ours), ("cmdline.txt", kernel)] {
        if let Some(found) = found
            && !is_country(found)
        {
            let place = texts.text(file).unwrap_or_default();
            report.error(
                "wifi-country",
                (file, line(place, found)),
                format!("expected a country of two capital letters such as DE, got {found:?}"),
            );
            return;
        }
    }
    if ours.is_none() && kernel.is_none() {
        report.error(
            "wifi-country",
            (FILE, line(text, &format!("{name}:"))),
            format!(
                "no country is said for {name}: Raspberry Pi OS keeps the radio off until one is"
            ),
        );
        report.hint("add regulatory-domain: DE, and cfg80211.ieee80211_regdom=DE to cmdline.txt");
    }
}
