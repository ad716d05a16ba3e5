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
mod tests {
    use super::*;

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
