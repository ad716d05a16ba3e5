//! Alerts by HTTP: a POST with the message as JSON, signed with a key that only relay and receiver have.

use aws_lc_rs::hmac;
use lekiwi_protocol::ReceiverName;
use lekiwi_protocol::api::{
    AlertNotification, DELIVERY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER,
};
use lekiwi_relay_core::alerts::notify::Outcome;
use reqwest::{StatusCode, Url};
use rustls::ClientConfig;
use std::path::Path;
use std::sync::Arc;

use super::secret::Secret;
use super::{ReceiverError, TIMEOUT, chain};
use crate::config::alerts::WebhookConfig;
use crate::tls;

/// A webhook.
#[derive(Debug)]
pub(super) struct Webhook {
    url: Url,
    key: hmac::Key,
    http: reqwest::Client,
}

impl Webhook {
    pub(super) fn new(name: &ReceiverName, config: &WebhookConfig) -> Result<Self, ReceiverError> {
        let key = Secret::load_key(&config.key)?;
        let tls = tls(name, config.ca_file.as_deref())?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(config.reach))
            .timeout(TIMEOUT)
            .user_agent(concat!("lekiwi-relay/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| ReceiverError::Tls {
                receiver: name.clone(),
                source: source.into(),
            })?;
        Ok(Self {
            url: config.url.clone(),
            key: hmac::Key::new(hmac::HMAC_SHA256, key.reveal().as_bytes()),
            http,
        })
    }

    pub(super) async fn send(&self, message: &AlertNotification) -> Outcome {
        // Texts, numbers and lists always become JSON.
        let body = serde_json::to_vec(message).unwrap_or_default();
        let timestamp = (message.sent_at.as_ms() / 1_000).to_string();
        let request = self
            .http
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header(DELIVERY_HEADER, &message.id)
            .header(SIGNATURE_HEADER, signature(&self.key, &timestamp, &body))
            .header(TIMESTAMP_HEADER, timestamp)
            .body(body);
        match request.send().await.map(|answer| answer.status()) {
            Ok(status) if status.is_success() => Outcome::Delivered,
            Ok(status) => {
                let reason = format!("expected HTTP 2xx, got {}", status.as_u16());
                let may_pass = status.is_server_error()
                    || matches!(
                        status,
                        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
                    );
                if may_pass {
                    Outcome::Failed(reason)
                } else {
                    Outcome::Refused(reason)
                }
            }
            // Addresses may have secrets in their paths.
            Err(error) => Outcome::Failed(chain(&error.without_url())),
        }
    }
}

/// The value of [`SIGNATURE_HEADER`].
fn signature(key: &hmac::Key, timestamp: &str, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(timestamp.as_bytes());
    context.update(b".");
    context.update(body);
    format!("v1={}", hex::encode(context.sign()))
}

fn tls(name: &ReceiverName, ca_file: Option<&Path>) -> Result<ClientConfig, ReceiverError> {
    let roots = tls::roots(ca_file).map_err(|source| ReceiverError::Authority {
        path: ca_file.unwrap_or(Path::new("")).to_owned(),
        source,
    })?;
    tls::client(roots).map_err(|source| ReceiverError::Tls {
        receiver: name.clone(),
        source: source.into(),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::alerts::Reach;
    use crate::config::alerts::SecretSource;

    /// A name of the internet may have an address of this machine, today or at the next look.
    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_not_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, "a key of sixteen bytes and more").unwrap();
        let port = listener.local_addr().unwrap().port();
        let send = async |reach| {
            let config = WebhookConfig {
                url: format!("http://localhost:{port}/").parse().unwrap(),
                key: SecretSource::File(file.clone()),
                ca_file: None,
                reach,
            };
            let webhook = Webhook::new(&"ops".parse().unwrap(), &config).unwrap();
            let sent = webhook
                .http
                .get(config.url)
                .timeout(std::time::Duration::from_secs(2));
            sent.send().await.map_err(|error| chain(&error))
        };
        let refused = send(Reach::Internet).await.unwrap_err();
        assert!(
            refused.contains("expected an address of the internet, got "),
            "{refused}"
        );
        assert!(listener.accept().is_err(), "nobody came");
        // Where it is allowed, somebody comes; and waits in vain.
        assert!(send(Reach::Local).await.is_err());
        assert!(listener.accept().is_ok());
    }

    #[test]
    fn a_signature_is_what_openssl_says() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        assert_eq!(
            signature(&key, "1700000000", b"{}"),
            "v1=e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e"
        );
    }
}
