//! The part of the configuration about alerts: rules, and who is told.

use std::path::PathBuf;
use std::time::Duration;

use lekiwi_protocol::ReceiverName;
use lekiwi_protocol::alert::{Pattern, Rule, Severity};
use lekiwi_protocol::limits::MAX_ALERT_RULES;
use lekiwi_relay_core::alerts::notify::Receiver;
use lettre::message::Mailbox;
use reqwest::Url;
use serde::Deserialize;

use crate::alerts::Reach;

/// Most receivers.
const MAX_RECEIVERS: usize = 16;
/// Most addresses of one receiver.
const MAX_ADDRESSES: usize = 50;
const GROUP_WAIT_S: u64 = 10;
const REPEAT_S: u64 = 4 * 3600;
const DAY_S: u64 = 24 * 3600;

/// What a person wrote below `alerts`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAlerts {
    /// Whether the rules that the relay brings count: `true` or `false`.
    #[serde(default)]
    pub defaults: Option<bool>,
    /// More rules, or others in the place of those of the same name.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Who is told.
    #[serde(default)]
    pub receivers: Vec<RawReceiver>,
}

/// Who is told, and of what: one of `webhook` and `email`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawReceiver {
    name: ReceiverName,
    #[serde(default)]
    webhook: Option<RawWebhook>,
    #[serde(default)]
    email: Option<RawEmail>,
    #[serde(default)]
    rules: Vec<Pattern>,
    #[serde(default)]
    robots: Vec<Pattern>,
    #[serde(default)]
    severity: Option<Severity>,
    #[serde(default)]
    resolved: Option<bool>,
    #[serde(default)]
    group_wait_s: Option<u64>,
    #[serde(default)]
    repeat_s: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWebhook {
    url: String,
    key: SecretSource,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    local: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEmail {
    server: String,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    tls: EmailTls,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    password: Option<SecretSource>,
    from: String,
    to: Vec<String>,
    #[serde(default)]
    ca_file: Option<PathBuf>,
}

/// Where a secret is. The configuration itself never has one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretSource {
    /// In a file; its last line's end does not count.
    File(PathBuf),
    /// In a variable of the environment.
    Environment(String),
}

/// How a mail server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmailTls {
    /// In the clear at first, then TLS, or not at all (port 587).
    #[default]
    Starttls,
    /// TLS from the first byte (port 465).
    Implicit,
    /// In the clear (port 25). Not with a password.
    None,
}

/// The checked part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlertsConfig {
    /// Whether the rules that the relay brings are left out.
    pub no_defaults: bool,
    /// Rules over those.
    pub rules: Vec<ConfiguredRule>,
    /// Who is told, and how.
    pub receivers: Vec<(Receiver, Channel)>,
}

/// A rule of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfiguredRule(pub Rule);

/// Numbers of a checked rule are finite.
impl Eq for ConfiguredRule {}

/// How a receiver is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Channel {
    /// By HTTP.
    Webhook(WebhookConfig),
    /// By e-mail.
    Email(EmailConfig),
}

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    /// Where to.
    pub url: Url,
    /// The key of its signatures.
    pub key: SecretSource,
    /// An authority that its server is believed by, beside those of the machine.
    pub ca_file: Option<PathBuf>,
    /// Which addresses its server may have.
    pub reach: Reach,
}

/// E-mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailConfig {
    /// The mail server's name.
    pub server: String,
    /// Its port.
    pub port: u16,
    /// How it is spoken to.
    pub tls: EmailTls,
    /// Who logs in there, with what.
    pub login: Option<(String, SecretSource)>,
    /// The sender.
    pub from: Mailbox,
    /// Who gets it.
    pub to: Vec<Mailbox>,
    /// An authority that the server is believed by, beside those of the machine.
    pub ca_file: Option<PathBuf>,
}

/// Why the part about alerts cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct AlertsError {
    place: String,
    problem: String,
}

fn problem(place: impl Into<String>, problem: impl Into<String>) -> AlertsError {
    AlertsError {
        place: place.into(),
        problem: problem.into(),
    }
}

impl RawAlerts {
    /// Checks every value.
    ///
    /// # Errors
    /// At the first one that is wrong.
    pub fn check(self) -> Result<AlertsConfig, AlertsError> {
        let mut names = std::collections::BTreeSet::new();
        let count = self.rules.len();
        if count > MAX_ALERT_RULES / 2 {
            let most = MAX_ALERT_RULES / 2;
            return Err(problem(
                "rules",
                format!("expected at most {most}, got {count}"),
            ));
        }
        for rule in &self.rules {
            let place = format!("rule {}", rule.id);
            rule.check()
                .map_err(|error| problem(place.clone(), error.to_string()))?;
            if !names.insert(rule.id.as_str().to_owned()) {
                return Err(problem(place, "expected each name once"));
            }
        }
        let count = self.receivers.len();
        if count > MAX_RECEIVERS {
            let text = format!("expected at most {MAX_RECEIVERS}, got {count}");
            return Err(problem("receivers", text));
        }
        names.clear();
        let mut receivers = Vec::new();
        for raw in self.receivers {
            let name = raw.name.clone();
            let place = format!("receiver {name}");
            if !names.insert(name.as_str().to_owned()) {
                return Err(problem(place, "expected each name once"));
            }
            receivers.push(raw.check().map_err(|text| problem(place, text))?);
        }
        Ok(AlertsConfig {
            no_defaults: self.defaults == Some(false),
            rules: self.rules.into_iter().map(ConfiguredRule).collect(),
            receivers,
        })
    }
}

fn seconds(what: &str, value: Option<u64>, usual: u64, least: u64) -> Result<Duration, String> {
    match value.unwrap_or(usual) {
        seconds if (least..=7 * DAY_S).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        other => Err(format!(
            "expected {what} to be {least} to {} seconds, got {other}",
            7 * DAY_S
        )),
    }
}

impl RawReceiver {
    fn check(self) -> Result<(Receiver, Channel), String> {
        let channel = match (self.webhook, self.email) {
            (Some(webhook), None) => Channel::Webhook(webhook.check()?),
            (None, Some(email)) => Channel::Email(email.check()?),
            _ => return Err("expected exactly one of webhook and email".to_owned()),
        };
        let receiver = Receiver {
            name: self.name,
            rules: self.rules,
            robots: self.robots,
            severity: self.severity.unwrap_or_default(),
            resolved: self.resolved.unwrap_or(true),
            group_wait: seconds("group_wait_s", self.group_wait_s, GROUP_WAIT_S, 0)?,
            repeat: seconds("repeat_s", self.repeat_s, REPEAT_S, 60)?,
        };
        Ok((receiver, channel))
    }
}

impl RawWebhook {
    fn check(self) -> Result<WebhookConfig, String> {
        let is_plain = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
        };
        let url = Url::parse(&self.url).ok().filter(is_plain);
        let shown: String = self.url.chars().take(80).collect();
        // What it is stays out of the message where somebody put a password into it.
        let url = url.ok_or_else(|| match shown.contains('@') {
            true => "expected url without user and password".to_owned(),
            false => format!("expected url to be an http or https address, got {shown:?}"),
        })?;
        let reach = if self.local {
            Reach::Local
        } else {
            Reach::Internet
        };
        // Names are looked at when they are connected to.
        let host = url.host_str().unwrap_or_default();
        let literal = host.trim_matches(['[', ']']).parse();
        if let Some(address) = literal.ok().filter(|address| !reach.allows(*address)) {
            return Err(format!(
                "expected url to lead into the internet (or to this network, with local: true), got {address}"
            ));
        }
        Ok(WebhookConfig {
            url,
            key: self.key,
            ca_file: self.ca_file,
            reach,
        })
    }
}

impl RawEmail {
    fn check(self) -> Result<EmailConfig, String> {
        let mailbox = |what: &str, text: &str| {
            let shown: String = text.chars().take(80).collect();
            let parsed = text.parse::<Mailbox>();
            parsed.map_err(|_| format!("expected {what} to be an e-mail address, got {shown:?}"))
        };
        if self.to.is_empty() || self.to.len() > MAX_ADDRESSES {
            let count = self.to.len();
            return Err(format!(
                "expected to to be 1 to {MAX_ADDRESSES} addresses, got {count}"
            ));
        }
        let login = match (self.user, self.password) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            _ => return Err("expected user and password, or none of the two".to_owned()),
        };
        if login.is_some() && self.tls == EmailTls::None {
            return Err(
                "expected tls to be starttls or implicit with a password, got none".to_owned(),
            );
        }
        if self.server.is_empty() {
            return Err("expected server to be a host's name, got nothing".to_owned());
        }
        let usual = match self.tls {
            EmailTls::Starttls => 587,
            EmailTls::Implicit => 465,
            EmailTls::None => 25,
        };
        Ok(EmailConfig {
            port: self.port.unwrap_or(usual),
            tls: self.tls,
            login,
            from: mailbox("from", &self.from)?,
            to: self
                .to
                .iter()
                .map(|to| mailbox("to", to))
                .collect::<Result<_, _>>()?,
            server: self.server,
            ca_file: self.ca_file,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use super::super::{Raw, parse};

    fn read(below: &str) -> Result<super::AlertsConfig, String> {
        let text = format!("version: 1\nalerts:\n{below}\n");
        let config = parse(Path::new("relay.yml"), &text).and_then(Raw::check);
        let whole = |error: &dyn std::error::Error| match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        config
            .map(|config| config.alerts)
            .map_err(|error| whole(&error))
    }

    #[test]
    fn rules_and_receivers_are_read() {
        let config = read(
            r"  defaults: false
  rules:
    - id: hot
      summary: Too hot
      severity: critical
      when: {threshold: {metric: temperature_c, above: 80, until: 75.5}}
      for_s: 60
      robots: ['kiwi-*']
    - id: flapping
      summary: A service flaps
      when: {events: {type: service.flapping, within_s: 600}}
  receivers:
    - name: ops
      webhook: {url: 'https://example.org/hook', key: {file: /etc/lekiwi/hook.key}}
      severity: critical
      group_wait_s: 0
    - name: mail
      email: {server: smtp.example.org, user: relay, password: {environment: SMTP_PASSWORD},
              from: 'Relay <relay@example.org>', to: [ops@example.org]}
      resolved: false",
        )
        .unwrap();
        assert!(config.no_defaults);
        assert_eq!(config.rules.len(), 2);
        assert_eq!(config.rules[0].0.for_s, 60);
        let (ops, _) = &config.receivers[0];
        assert_eq!(
            (ops.group_wait.as_secs(), ops.repeat.as_secs(), ops.resolved),
            (0, 14_400, true)
        );
        let (mail, channel) = &config.receivers[1];
        assert!(!mail.resolved);
        let super::Channel::Email(email) = channel else {
            panic!("{channel:?}");
        };
        assert_eq!((email.port, email.tls), (587, super::EmailTls::Starttls));
    }

    #[test]
    fn what_is_documented_is_read() {
        let page = include_str!("../../../docs/alerts.md");
        let examples: Vec<&str> = page
            .split("```yaml\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next())
            .collect();
        let [rule, alerts] = examples.as_slice() else {
            panic!("expected two examples, got {}", examples.len());
        };
        let rule: lekiwi_protocol::alert::Rule = serde_saphyr::from_str(rule).unwrap();
        assert_eq!(rule.check(), Ok(()));
        let config = parse(Path::new("relay.yml"), alerts)
            .and_then(Raw::check)
            .unwrap();
        assert_eq!(config.alerts.receivers.len(), 2);
        let (ops, _) = &config.alerts.receivers[0];
        assert_eq!(
            (ops.group_wait.as_secs(), ops.repeat.as_secs()),
            (10, 14_400)
        );
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        let hook = "webhook: {url: 'https://example.org', key: {file: /k}}";
        let mail = "server: s, from: a@example.org, to: [b@example.org]";
        for (below, expected) in [
            (
                "  rules: [{id: a, summary: x, when: {threshold: {metric: m}}}]".to_owned(),
                "cannot use alerts: rule a: expected exactly one of above and below",
            ),
            (
                "  rules: [{id: a, summary: x, when: {state: {is: offline}}}, {id: a, summary: x, when: {state: {is: offline}}}]".to_owned(),
                "cannot use alerts: rule a: expected each name once",
            ),
            (
                "  receivers: [{name: a}]".to_owned(),
                "cannot use alerts: receiver a: expected exactly one of webhook and email",
            ),
            (
                format!("  receivers: [{{name: a, {hook}, repeat_s: 5}}]"),
                "cannot use alerts: receiver a: expected repeat_s to be 60 to 604800 seconds, got 5",
            ),
            (
                "  receivers: [{name: a, webhook: {url: 'ftp://x', key: {file: /k}}}]".to_owned(),
                "cannot use alerts: receiver a: expected url to be an http or https address, got \"ftp://x\"",
            ),
            (
                "  receivers: [{name: a, webhook: {url: 'https://u:secret@x', key: {file: /k}}}]".to_owned(),
                "cannot use alerts: receiver a: expected url without user and password",
            ),
            (
                "  receivers: [{name: a, webhook: {url: 'http://127.1:80', key: {file: /k}}}]".to_owned(),
                "cannot use alerts: receiver a: expected url to lead into the internet (or to this network, with local: true), got 127.0.0.1",
            ),
            (
                "  receivers: [{name: a, webhook: {url: 'http://[::ffff:a9fe:a9fe]/', local: true, key: {file: /k}}}]".to_owned(),
                "cannot use alerts: receiver a: expected url to lead into the internet (or to this network, with local: true), got ::ffff:169.254.169.254",
            ),
            (
                format!("  receivers: [{{name: a, email: {{{mail}, user: u}}}}]"),
                "cannot use alerts: receiver a: expected user and password, or none of the two",
            ),
            (
                format!("  receivers: [{{name: a, email: {{{mail}, user: u, password: {{file: /p}}, tls: none}}}}]"),
                "cannot use alerts: receiver a: expected tls to be starttls or implicit with a password, got none",
            ),
            (
                "  receivers: [{name: a, email: {server: s, from: nobody, to: [b@example.org]}}]".to_owned(),
                "cannot use alerts: receiver a: expected from to be an e-mail address, got \"nobody\"",
            ),
            (
                "  rulez: []".to_owned(),
                "expected a key of the configuration in relay.yml line 3, got \"rulez\"",
            ),
        ] {
            assert_eq!(read(&below).unwrap_err(), expected, "{below}");
        }
    }
}
