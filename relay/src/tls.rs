//! TLS of the relay as a client of others: receivers of alerts, collectors of traces, providers of logins.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Why an authority cannot be used.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The authorities that the system trusts, and the one in a file.
pub(crate) fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, Failure> {
    // A machine without authorities may still have one of its own in the configuration.
    let mut roots = system_roots();
    if let Some(path) = ca_file {
        roots.add(CertificateDer::from_pem_file(path)?)?;
    }
    Ok(roots)
}

/// The authorities that the system trusts; a machine may have none.
pub(crate) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// A client that trusts these authorities.
pub(crate) fn client(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
