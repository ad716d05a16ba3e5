//! Which relay is believed: the one whose authority is pinned. Called by `client`.

use std::sync::Arc;

use lekiwi_protocol::pinned::Verifier;
use rustls::{ClientConfig, Error};

pub(crate) use lekiwi_protocol::pinned::{Fingerprint, FingerprintError};

/// A TLS configuration that believes `pin` alone, and what knows who was shown instead.
pub(crate) fn tls(pin: Option<Fingerprint>) -> Result<(ClientConfig, Arc<Verifier>), Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Verifier::new(pin, Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    Ok((config, verifier))
}
