//! Alerts by e-mail, over SMTP.

use std::fmt::Write;
use std::path::Path;

use lekiwi_protocol::ReceiverName;
use lekiwi_protocol::alert::Alert;
use lekiwi_protocol::api::AlertNotification;
use lekiwi_relay_core::alerts::notify::Outcome;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use super::secret::Secret;
use super::{ReceiverError, TIMEOUT, chain};
use crate::config::alerts::{EmailConfig, EmailTls};

/// A mail server and who gets mail.
#[derive(Debug)]
pub(super) struct Email {
    config: EmailConfig,
    smtp: AsyncSmtpTransport<Tokio1Executor>,
}

impl Email {
    pub(super) fn new(name: &ReceiverName, config: EmailConfig) -> Result<Self, ReceiverError> {
        let tls = match config.tls {
            EmailTls::None => Tls::None,
            EmailTls::Starttls => Tls::Required(tls(name, &config)?),
            EmailTls::Implicit => Tls::Wrapper(tls(name, &config)?),
        };
        let mut builder =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(config.server.clone())
                .port(config.port)
                .timeout(Some(TIMEOUT))
                .tls(tls);
        if let Some((user, password)) = &config.login {
            let password = Secret::load(password)?;
            let credentials = Credentials::new(user.clone(), password.reveal().to_owned());
            builder = builder.credentials(credentials);
        }
        let smtp = builder.build();
        Ok(Self { config, smtp })
    }

    pub(super) async fn send(&self, message: &AlertNotification) -> Outcome {
        let mut mail = Message::builder()
            .from(self.config.from.clone())
            .subject(subject(message))
            // The same for every attempt: mail programs show it once.
            .message_id(Some(format!(
                "<{}@{}.lekiwi>",
                message.id.replace(':', "."),
                message.relay
            )))
            .header(ContentType::TEXT_PLAIN);
        for to in &self.config.to {
            mail = mail.to(to.clone());
        }
        let mail = match mail.body(text(message)) {
            Ok(mail) => mail,
            Err(error) => return Outcome::Refused(chain(&error)),
        };
        match self.smtp.send(mail).await {
            Ok(_) => Outcome::Delivered,
            Err(error) if error.is_permanent() => Outcome::Refused(chain(&error)),
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }
}

fn tls(name: &ReceiverName, config: &EmailConfig) -> Result<TlsParameters, ReceiverError> {
    let mut builder = TlsParameters::builder(config.server.clone());
    if let Some(path) = &config.ca_file {
        builder = builder.add_root_certificate(authority(path)?);
    }
    builder.build_rustls().map_err(|source| ReceiverError::Tls {
        receiver: name.clone(),
        source: source.into(),
    })
}

fn authority(path: &Path) -> Result<Certificate, ReceiverError> {
    let unusable = |source: Box<dyn std::error::Error + Send + Sync>| ReceiverError::Authority {
        path: path.to_owned(),
        source,
    };
    let pem = std::fs::read(path).map_err(|error| unusable(error.into()))?;
    Certificate::from_pem(&pem).map_err(|error| unusable(error.into()))
}

/// The whole of it in a line.
fn subject(message: &AlertNotification) -> String {
    let all = message.firing.iter().chain(&message.resolved);
    let worst = all
        .clone()
        .map(|alert| alert.severity)
        .max()
        .unwrap_or_default();
    let state = if message.firing.is_empty() {
        "resolved"
    } else {
        "firing"
    };
    let again = if message.repeats > 0 { ", again" } else { "" };
    let summary = all.clone().next().map_or("", |alert| &alert.summary);
    let count = message.firing.len() + message.resolved.len() + message.omitted;
    let robots = match all.map(|alert| alert.robot_id.as_str()).next() {
        Some(robot) if count == 1 => robot.to_owned(),
        _ => format!("{count} robots"),
    };
    format!("[{worst}] {robots}: {summary} ({state}{again})")
}

fn text(message: &AlertNotification) -> String {
    let mut text = String::new();
    let mut list = |title: &str, alerts: &[Alert]| {
        if alerts.is_empty() {
            return;
        }
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{title}:");
        for alert in alerts {
            let (robot, reason, since) = (&alert.robot_id, &alert.reason, alert.since);
            let _ = writeln!(text, "  {robot}: {reason} (since {since})");
            let _ = writeln!(text, "    {}", alert.id);
        }
    };
    list("Firing", &message.firing);
    list("Resolved", &message.resolved);
    if message.omitted > 0 {
        let _ = writeln!(text, "And {} more.", message.omitted);
    }
    let _ = writeln!(text, "\nRule {}, relay {}.", message.rule, message.relay);
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mail_says_what_is_wrong_in_its_subject() {
        let alert = |robot: &str| {
            json!({
                "id": format!("hot:{robot}:1"), "rule": "hot", "robot_id": robot, "severity": "critical",
                "summary": "Too hot", "reason": "temperature_c is 90, above 80", "state": "firing",
                "since": "2026-11-21T12:00:00.000Z",
            })
        };
        let mut message: AlertNotification = serde_json::from_value(json!({
            "id": "ops:hot:1:0", "receiver": "ops", "relay": "r1", "sent_at": "2026-11-21T12:00:01.000Z",
            "rule": "hot", "repeats": 0, "firing": [alert("kiwi-01")], "resolved": [], "omitted": 0,
        }))
        .unwrap();
        assert_eq!(subject(&message), "[critical] kiwi-01: Too hot (firing)");
        assert_eq!(
            text(&message),
            "Firing:\n  kiwi-01: temperature_c is 90, above 80 (since 2026-11-21T12:00:00.000Z)\n    hot:kiwi-01:1\n\nRule hot, relay r1.\n"
        );
        message.resolved = std::mem::take(&mut message.firing);
        message.omitted = 2;
        assert_eq!(subject(&message), "[critical] 3 robots: Too hot (resolved)");
        assert!(text(&message).contains("Resolved:\n  kiwi-01"));
        assert!(text(&message).contains("And 2 more."));
    }
}
