//! The rules of an order. Pure. No value that passes has a control character, so that each can be quoted.

use std::net::IpAddr;

use super::{Addressing, Name, Order, OrderError, TRUST, User, Wifi};

impl Order {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(self) -> Result<Self, OrderError> {
        if let Name::Serial { prefix } = &self.name
            && prefix.as_str().len() > 54
        {
            return Err(OrderError::Prefix(cut(prefix.as_str())));
        }
        address("a relay address", "https://relay.example:8443", &self.https)?;
        address("a broker address", "mqtts://relay.example:8883", &self.mqtt)?;
        let digits = self
            .ca_fingerprint
            .strip_prefix("sha256:")
            .unwrap_or_default();
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(OrderError::Fingerprint(cut(&self.ca_fingerprint)));
        }
        if !is_token(&self.token) {
            return Err(OrderError::Token);
        }
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.profile.is_empty() || self.profile.len() > 63 || !self.profile.bytes().all(letters)
        {
            return Err(OrderError::Profile(cut(&self.profile)));
        }
        self.user.as_ref().map_or(Ok(()), user)?;
        self.wifi.as_ref().map_or(Ok(()), wifi)?;
        addressing(&self.addressing)?;
        let names = |text: &str, more: &[u8]| {
            text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
                && text.len() <= 64
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        if let Some(zone) = &self.time_zone
            && (!names(zone, b"/_+-") || zone.ends_with('/') || zone.contains("//"))
        {
            return Err(OrderError::TimeZone(cut(zone)));
        }
        if let Some(locale) = &self.locale
            && !names(locale, b"_.@-")
        {
            return Err(OrderError::Locale(cut(locale)));
        }
        if let Some(layout) = &self.keyboard
            && !names(layout, b"-_")
        {
            return Err(OrderError::Keyboard(cut(layout)));
        }
        if let Some(path) = &self.agent_deb
            && path.extension().is_none_or(|extension| extension != "deb")
        {
            return Err(OrderError::Package(cut(&path.to_string_lossy())));
        }
        if let Some(file) = self
            .card_files
            .iter()
            .find(|file| !is_looked_for(&file.name))
        {
            return Err(OrderError::CardFile(cut(&file.name)));
        }
        Ok(self)
    }
}

/// Whether the agent or its setup would look at a file of this name in the card's folder `lekiwi`.
fn is_looked_for(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let sane = parts
        .iter()
        .all(|part| !matches!(*part, "" | "." | "..") && !part.contains(['\\', '\0']));
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    sane && match parts.as_slice() {
        [TRUST] => true,
        ["profiles", _] => ends(&[".yml"]),
        ["packages", _] => ends(&[".deb"]),
        ["wheels", _] => ends(&[".whl", ".tar.gz", ".zip"]),
        ["overlays", _, _, ..] => true,
        _ => false,
    }
}

/// `lkt_` and at least 20 characters that need no quoting anywhere.
pub(crate) fn is_token(text: &str) -> bool {
    let secret = text.strip_prefix("lkt_").unwrap_or_default();
    (20..=200).contains(&secret.len())
        && secret
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Two capital letters.
pub(crate) fn is_country(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase())
}

/// `scheme://host:port` and nothing more.
pub(crate) fn is_address(scheme: &str, text: &str) -> bool {
    text.strip_prefix(scheme)
        .and_then(|rest| rest.strip_prefix("://"))
        .and_then(|rest| rest.rsplit_once(':'))
        .is_some_and(|(host, port)| {
            let host_fits = host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
            !host.is_empty() && host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
}

pub(super) fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

fn user(user: &User) -> Result<(), OrderError> {
    let first = |b: &u8| b.is_ascii_lowercase() || *b == b'_';
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
    let name = user.name.as_bytes();
    if !name.first().is_some_and(first)
        || name.len() > 32
        || !name.iter().copied().all(rest)
        || name == b"root"
    {
        return Err(OrderError::UserName(cut(&user.name)));
    }
    for key in &user.ssh_keys {
        if key.contains("PRIVATE KEY") {
            return Err(OrderError::PrivateKey);
        }
        let kind = key.split(' ').next().unwrap_or_default();
        let known = ["ssh-", "ecdsa-", "sk-"]
            .iter()
            .any(|start| kind.starts_with(start));
        if !known || key.chars().any(char::is_control) || key.split(' ').count() < 2 {
            return Err(OrderError::SshKey(cut(key)));
        }
    }
    if let Some(hash) = &user.password_hash {
        // Only what crypt(3) makes: `$id$…`, long enough to be no password of someone fond of dollars.
        let letters = |b: u8| b.is_ascii_alphanumeric() || b"$./,=-+*".contains(&b);
        let parts = hash
            .strip_prefix('$')
            .map_or(0, |rest| rest.split('$').count());
        if parts < 3 || hash.len() < 30 || hash.len() > 256 || !hash.bytes().all(letters) {
            return Err(OrderError::PasswordHash);
        }
    }
    Ok(())
}

fn wifi(wifi: &Wifi) -> Result<(), OrderError> {
    if wifi.ssid.is_empty() || wifi.ssid.len() > 32 || wifi.ssid.chars().any(char::is_control) {
        return Err(OrderError::Ssid(cut(&wifi.ssid)));
    }
    if let Some(password) = &wifi.password {
        let printable = password.bytes().all(|b| (0x20..0x7f).contains(&b));
        let key = password.len() == 64 && password.bytes().all(|b| b.is_ascii_hexdigit());
        let phrase = printable && (8..=63).contains(&password.len());
        if !(key || phrase) {
            return Err(OrderError::Passphrase);
        }
    }
    if !is_country(&wifi.country) {
        return Err(OrderError::Country(cut(&wifi.country)));
    }
    Ok(())
}

fn addressing(addressing: &Addressing) -> Result<(), OrderError> {
    let Addressing::Static {
        address,
        gateway,
        dns,
    } = addressing
    else {
        return Ok(());
    };
    let wrong = |name, example, actual: &str| OrderError::Ip {
        name,
        example,
        actual: cut(actual),
    };
    let fits = address.split_once('/').is_some_and(|(ip, length)| {
        let most = match ip.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        length
            .parse::<u8>()
            .is_ok_and(|length| (1..=most).contains(&length))
    });
    if !fits {
        return Err(wrong("an address", "192.168.1.20/24", address));
    }
    let servers = dns.iter().map(|server| ("a name server", server));
    for (name, text) in gateway
        .iter()
        .map(|text| ("a gateway", text))
        .chain(servers)
    {
        if text.parse::<IpAddr>().is_err() {
            return Err(wrong(name, "192.168.1.1", text));
        }
    }
    Ok(())
}

fn address(name: &'static str, example: &'static str, text: &str) -> Result<(), OrderError> {
    let (scheme, _) = example.split_once("://").unwrap_or_default();
    if is_address(scheme, text) {
        return Ok(());
    }
    Err(OrderError::Address {
        name,
        example,
        actual: cut(text),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use super::super::Os;
    use super::*;
    use lekiwi_protocol::Org;

    pub(crate) fn order() -> Order {
        Order {
            os: Os::RaspiosTrixie,
            name: Name::Given("kiwi-01".parse().unwrap()),
            org: Org::default(),
            profile: "lekiwi".into(),
            https: "https://relay.example:8443".into(),
            mqtt: "mqtts://relay.example:8883".into(),
            ca_fingerprint: format!("sha256:{}", "0f".repeat(32)),
            token: "lkt_abcdefghijklmnopqrstuvwxyz0123456789-_ABCDE".into(),
            token_expires: None,
            user: Some(User {
                name: "lekiwi".into(),
                ssh_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample operator".into()],
                password_hash: None,
            }),
            wifi: None,
            addressing: Addressing::Dhcp,
            time_zone: None,
            locale: None,
            keyboard: None,
            agent_deb: Some("lekiwi-agent_0.1.0_arm64.deb".into()),
            card_files: Vec::new(),
        }
    }

    pub(crate) fn wifi() -> Wifi {
        Wifi {
            ssid: "Werkstatt \"7\"".into(),
            password: Some("correct horse 'battery' $staple".into()),
            country: "DE".into(),
        }
    }

    fn user(order: &mut Order) -> &mut User {
        order.user.as_mut().unwrap()
    }

    #[test]
    fn bad_orders_say_what_was_expected() {
        let error = |change: &dyn Fn(&mut Order)| {
            let mut order = order();
            order.wifi = Some(wifi());
            change(&mut order);
            order.check().err().unwrap().to_string()
        };
        let fixed = |address: &str, gateway: Option<&str>, dns: &[&str]| Addressing::Static {
            address: address.into(),
            gateway: gateway.map(Into::into),
            dns: dns.iter().map(|text| (*text).to_owned()).collect(),
        };
        assert!(order().check().is_ok());
        type Damage<'a> = &'a dyn Fn(&mut Order);
        let cases: &[(Damage<'_>, &str)] = &[
            (
                &|o| o.https = "relay.example".into(),
                "expected a relay address such as https://relay.example:8443, got \"relay.example\"",
            ),
            (
                &|o| o.mqtt = "mqtt://relay.example:1883".into(),
                "expected a broker address such as mqtts://relay.example:8883, got \"mqtt://relay.example:1883\"",
            ),
            (
                &|o| o.mqtt = "mqtts://relay.example:0".into(),
                "expected a broker address such as mqtts://relay.example:8883, got \"mqtts://relay.example:0\"",
            ),
            (
                &|o| o.ca_fingerprint = "sha256:12".into(),
                "expected a fingerprint such as sha256: and 64 hex digits, got \"sha256:12\"",
            ),
            (
                &|o| o.token = "secret".into(),
                "expected an enrolment token that starts with lkt_ and has letters, digits, '-' and '_' only",
            ),
            (
                &|o| o.profile = "XLE two".into(),
                "expected a profile name of a-z, 0-9 and '-', got \"XLE two\"",
            ),
            (
                &|o| {
                    o.name = Name::Serial {
                        prefix: "a".repeat(55).parse().unwrap(),
                    };
                },
                "expected a prefix of at most 54 characters, got \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
            ),
            (
                &|o| user(o).name = "root".into(),
                "expected a user name of a-z, 0-9, '-' and '_' that is not root, got \"root\"",
            ),
            (
                &|o| user(o).name = "a b".into(),
                "expected a user name of a-z, 0-9, '-' and '_' that is not root, got \"a b\"",
            ),
            (
                &|o| user(o).ssh_keys = vec!["ssh-ed25519 AAAA\nssh-rsa AAAA".into()],
                "expected an SSH public key such as \"ssh-ed25519 AAAA… name\" on one line, got \"ssh-ed25519 AAAA\\nssh-rsa AAAA\"",
            ),
            (
                &|o| user(o).ssh_keys = vec!["-----BEGIN OPENSSH PRIVATE KEY-----".into()],
                "expected an SSH public key, got a private one",
            ),
            (
                &|o| user(o).password_hash = Some("$ecret$and$clear".into()),
                "expected a password hash such as $6$… or $y$…, got something else",
            ),
            (
                &|o| o.wifi.as_mut().unwrap().ssid = "x".repeat(33),
                "expected a network name of 1 to 32 bytes without control characters, got \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"",
            ),
            (
                &|o| o.wifi.as_mut().unwrap().password = Some("short".into()),
                "expected a passphrase of 8 to 63 printable ASCII characters or 64 hex digits",
            ),
            (
                &|o| o.wifi.as_mut().unwrap().country = "de".into(),
                "expected a country of two capital letters such as DE, got \"de\"",
            ),
            (
                &|o| o.addressing = fixed("10.0.0.5", None, &[]),
                "expected an address such as 192.168.1.20/24, got \"10.0.0.5\"",
            ),
            (
                &|o| o.addressing = fixed("10.0.0.5/33", None, &[]),
                "expected an address such as 192.168.1.20/24, got \"10.0.0.5/33\"",
            ),
            (
                &|o| o.addressing = fixed("10.0.0.5/24", Some("router"), &[]),
                "expected a gateway such as 192.168.1.1, got \"router\"",
            ),
            (
                &|o| o.addressing = fixed("10.0.0.5/24", None, &["1.1.1"]),
                "expected a name server such as 192.168.1.1, got \"1.1.1\"",
            ),
            (
                &|o| o.time_zone = Some("../etc/passwd".into()),
                "expected a time zone such as Europe/Berlin, got \"../etc/passwd\"",
            ),
            (
                &|o| o.locale = Some("de DE".into()),
                "expected a locale such as de_DE.UTF-8, got \"de DE\"",
            ),
            (
                &|o| o.keyboard = Some("$(x)".into()),
                "expected a keyboard layout such as de, got \"$(x)\"",
            ),
            (
                &|o| o.agent_deb = Some("agent.rpm".into()),
                "expected the path of a .deb package, got \"agent.rpm\"",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(error(change), *expected);
        }
        assert_eq!(
            "windows".parse::<Os>().unwrap_err().to_string(),
            "expected raspios-trixie, raspios-bookworm, ubuntu-24.04 or debian, got \"windows\""
        );
    }

    #[test]
    fn what_crypt_makes_is_a_hash() {
        for hash in [
            "$6$rounds=5000$abcdefgh$aVeryLongHashOfSomething./ABCDEFGHIJKLMN",
            "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7",
        ] {
            let mut order = order();
            user(&mut order).password_hash = Some(hash.into());
            assert!(order.check().is_ok(), "{hash}");
        }
    }
}
