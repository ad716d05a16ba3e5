//! The network of an order: netplan's format for cloud-init, NetworkManager's for Bookworm. Pure.

use std::fmt::Write as _;

use serde_json::json;

use super::render::yaml;
use crate::order::{Addressing, Order, Os, Wifi};

/// The `network-config` of a seed. The wired interface is optional always: without a cable the boot would wait for it.
pub(super) fn config(order: &Order) -> String {
    let mut text = String::from("version: 2\nethernets:\n");
    // NetworkManager, which Raspberry Pi OS has, wants the interface's own name.
    text.push_str(match order.os {
        Os::RaspiosTrixie | Os::RaspiosBookworm => "  eth0:\n",
        Os::Ubuntu2404 | Os::Debian => "  wired:\n    match:\n      name: \"e*\"\n",
    });
    text.push_str("    optional: true\n");
    let wired = if order.wifi.is_some() {
        &Addressing::Dhcp
    } else {
        &order.addressing
    };
    addresses(&mut text, wired);
    if let Some(wifi) = &order.wifi {
        let access_point = match &wifi.password {
            Some(password) => json!({ "password": password }),
            None => json!({}),
        };
        let _ = write!(
            text,
            "wifis:\n  wlan0:\n    optional: true\n    regulatory-domain: {}\n    access-points:\n      {}: {}\n",
            yaml(&wifi.country),
            yaml(&wifi.ssid),
            yaml(&access_point)
        );
        addresses(&mut text, &order.addressing);
    }
    text
}

fn addresses(text: &mut String, addressing: &Addressing) {
    let Addressing::Static {
        address,
        gateway,
        dns,
    } = addressing
    else {
        text.push_str("    dhcp4: true\n");
        return;
    };
    let _ = writeln!(
        text,
        "    dhcp4: false\n    addresses: {}",
        yaml(&[address])
    );
    if let Some(gateway) = gateway {
        let routes = json!([{ "to": "default", "via": gateway }]);
        let _ = writeln!(text, "    routes: {}", yaml(&routes));
    }
    if !dns.is_empty() {
        let servers = json!({ "addresses": dns });
        let _ = writeln!(text, "    nameservers: {}", yaml(&servers));
    }
}

/// NetworkManager's profiles, by file name. Wired DHCP needs none.
pub(super) fn profiles(order: &Order) -> Vec<(&'static str, String)> {
    match &order.wifi {
        Some(wifi) => vec![(
            "lekiwi-wifi.nmconnection",
            wireless(wifi, &order.addressing),
        )],
        None if order.addressing == Addressing::Dhcp => Vec::new(),
        None => {
            let head = "[connection]\nid=lekiwi-wired\ntype=ethernet\n";
            vec![(
                "lekiwi-wired.nmconnection",
                format!("{head}{}", ip(&order.addressing)),
            )]
        }
    }
}

fn wireless(wifi: &Wifi, addressing: &Addressing) -> String {
    // As bytes: no character of the name means anything then.
    let ssid: String = wifi.ssid.bytes().map(|b| format!("{b};")).collect();
    let mut text = format!(
        "[connection]\nid=lekiwi-wifi\ntype=wifi\n\n[wifi]\nmode=infrastructure\nssid={ssid}\n"
    );
    if let Some(password) = &wifi.password {
        // Of the key file's escapes only these matter to printable ASCII.
        let escaped = password.replace('\\', "\\\\").replace(' ', "\\s");
        let _ = write!(text, "\n[wifi-security]\nkey-mgmt=wpa-psk\npsk={escaped}\n");
    }
    text.push_str(&ip(addressing));
    text
}

fn ip(addressing: &Addressing) -> String {
    let Addressing::Static {
        address,
        gateway,
        dns,
    } = addressing
    else {
        return "\n[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n".to_owned();
    };
    let (ours, other) = if address.contains(':') {
        ("ipv6", "ipv4")
    } else {
        ("ipv4", "ipv6")
    };
    let mut text = format!("\n[{ours}]\nmethod=manual\naddress1={address}");
    if let Some(gateway) = gateway {
        let _ = write!(text, ",{gateway}");
    }
    text.push('\n');
    let same: Vec<&str> = dns
        .iter()
        .map(String::as_str)
        .filter(|server| server.contains(':') == address.contains(':'))
        .collect();
    if !same.is_empty() {
        let _ = writeln!(text, "dns={};", same.join(";"));
    }
    let _ = write!(text, "\n[{other}]\nmethod=auto\n");
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::order::check::tests::{order, wifi};

    #[test]
    fn a_hostile_network_stays_a_value() {
        let mut order = order();
        order.wifi = Some(Wifi {
            ssid: "a\": {}\u{2028}🤖".into(),
            password: Some("\\\"} # 'x".into()),
            ..wifi()
        });
        let read: serde_json::Value = serde_saphyr::from_str(&config(&order)).unwrap();
        let points = &read["wifis"]["wlan0"]["access-points"];
        assert_eq!(points["a\": {}\u{2028}🤖"]["password"], "\\\"} # 'x");
        assert_eq!(points.as_object().unwrap().len(), 1);
        let profile = &profiles(&order)[0].1;
        assert!(profile.contains("\nssid=97;34;58;32;123;125;226;128;168;240;159;164;150;\n"));
        assert!(profile.contains("\npsk=\\\\\"}\\s#\\s'x\n"), "{profile}");
    }

    #[test]
    fn an_address_belongs_to_the_wireless_interface_where_there_is_one() {
        let mut order = order();
        order.addressing = Addressing::Static {
            address: "10.0.0.5/24".into(),
            gateway: Some("10.0.0.1".into()),
            dns: vec!["10.0.0.1".into(), "fd00::1".into()],
        };
        let read = |order: &Order| -> serde_json::Value {
            serde_saphyr::from_str(&config(order)).unwrap()
        };
        assert_eq!(
            read(&order)["ethernets"]["eth0"]["addresses"][0],
            "10.0.0.5/24"
        );
        assert_eq!(profiles(&order)[0].0, "lekiwi-wired.nmconnection");
        order.wifi = Some(wifi());
        let both = read(&order);
        assert_eq!(both["ethernets"]["eth0"]["dhcp4"], true);
        assert_eq!(both["wifis"]["wlan0"]["addresses"][0], "10.0.0.5/24");
        assert!(
            profiles(&order)[0]
                .1
                .ends_with("\n[ipv4]\nmethod=manual\naddress1=10.0.0.5/24,10.0.0.1\ndns=10.0.0.1;\n\n[ipv6]\nmethod=auto\n")
        );
    }
}
