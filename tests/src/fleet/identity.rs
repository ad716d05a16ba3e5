//! Certificates of simulated robots: enrolled over EST like any other, kept for the next run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt, TryStreamExt};
use lekiwi_agent::identity;
use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::TokenRequest;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::admin::Admin;

/// How many enrolments are under way at once.
const AT_ONCE: usize = 16;

/// A simulated robot's key and certificate.
#[derive(Debug)]
pub struct Identity {
    /// Whose it is.
    pub id: RobotId,
    key_pem: String,
    certificate_pem: String,
    ca_pem: String,
    /// The relay, as `https://host:port`.
    relay: String,
    folder: PathBuf,
}

impl Identity {
    /// Loads what [`Self::enrol`] stored of a robot of `relay`, which is `https://host:port`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn load(folder: &Path, relay: &str, id: RobotId) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(id.as_str()).join(name);
            std::fs::read_to_string(&path)
                .with_context(|| format!("expected an enrolled robot at {}", path.display()))
        };
        Ok(Self {
            key_pem: read("key.pem")?,
            certificate_pem: read("cert.pem")?,
            ca_pem: read("ca.pem")?,
            relay: relay.to_owned(),
            folder: folder.to_owned(),
            id,
        })
    }

    /// Makes a key, asks for a token and enrols with it.
    ///
    /// # Errors
    /// When the relay refuses.
    pub async fn enrol(admin: &Admin, folder: &Path, id: RobotId) -> Result<Self> {
        let (key, request) = request(&id)?;
        let token = admin
            .token(&TokenRequest {
                robot_id: Some(id.clone()),
                ..TokenRequest::default()
            })
            .await?
            .token;
        let asked = admin
            .http()
            .post(format!("{}/.well-known/est/simpleenroll", admin.base()))
            .basic_auth(&id, Some(&token));
        let identity = Self {
            certificate_pem: certificate(&id, asked, &key, request).await?,
            id,
            key_pem: key.serialize_pem(),
            ca_pem: admin.ca_pem().to_owned(),
            relay: admin.base().to_owned(),
            folder: folder.to_owned(),
        };
        identity.store()?;
        Ok(identity)
    }

    /// Its successor, with a key of its own, by this certificate; stored in this one's place.
    ///
    /// # Errors
    /// When the relay refuses.
    pub async fn renew(&self) -> Result<Self> {
        let (key, request) = request(&self.id)?;
        let own = format!("{}{}", self.key_pem, self.certificate_pem);
        let http = reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(
                self.ca_pem.as_bytes(),
            )?)
            .identity(reqwest::Identity::from_pem(own.as_bytes())?)
            .build()?;
        let est = |what: &str| format!("{}/.well-known/est/{what}", self.relay);
        // As the agent: the relay names its roots to who knows one of them.
        let named = http.get(est("cacerts"));
        let named = certificates(&self.id, named).await?;
        let roots = named.iter().filter(|it| identity::is_root(it));
        let ca_pem = roots.map(|root| pem("CERTIFICATE", root)).collect();
        let asked = http.post(est("simplereenroll"));
        let identity = Self {
            certificate_pem: certificate(&self.id, asked, &key, request).await?,
            id: self.id.clone(),
            key_pem: key.serialize_pem(),
            ca_pem,
            relay: self.relay.clone(),
            folder: self.folder.clone(),
        };
        identity.store()?;
        Ok(identity)
    }

    fn store(&self) -> Result<()> {
        let folder = self.folder.join(self.id.as_str());
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("key.pem"), &self.key_pem)?;
        std::fs::write(folder.join("ca.pem"), &self.ca_pem)?;
        // Last, so that a folder with a certificate is whole.
        std::fs::write(folder.join("cert.pem"), &self.certificate_pem)?;
        Ok(())
    }

    /// A TLS configuration that shows this certificate and trusts only the relay's authority.
    ///
    /// # Errors
    /// When one of the three is not what its name says.
    pub fn client_config(&self) -> Result<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(self.ca_pem.as_bytes()) {
            roots.add(authority?)?;
        }
        let chain = CertificateDer::pem_slice_iter(self.certificate_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        // A robot talks with one relay: the usual cache of 256 sessions takes more memory than its connection.
        config.resumption = rustls::client::Resumption::in_memory_sessions(1);
        Ok(config)
    }
}

/// A new key, and a request for a certificate in DER.
fn request(id: &RobotId) -> Result<(KeyPair, Vec<u8>)> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, id.as_str());
    let request = params.serialize_request(&key)?.der().to_vec();
    Ok((key, request))
}

/// The certificate of `key` and those after it that EST answers to `asked` with this `request`, as PEM.
async fn certificate(
    id: &RobotId,
    asked: reqwest::RequestBuilder,
    key: &KeyPair,
    request: Vec<u8>,
) -> Result<String> {
    let asked = asked
        .header("content-type", "application/pkcs10")
        .body(STANDARD.encode(request));
    let mut chain = certificates(id, asked).await?;
    // They come as a set.
    let public = key.public_key_raw();
    chain.sort_by_key(|it| !it.windows(public.len()).any(|part| part == public));
    Ok(chain.iter().map(|it| pem("CERTIFICATE", it)).collect())
}

/// The certificates that EST answers.
async fn certificates(
    id: &RobotId,
    asked: reqwest::RequestBuilder,
) -> Result<Vec<CertificateDer<'static>>> {
    let answer = asked.send().await?;
    let status = answer.status();
    let body = answer.text().await?;
    ensure!(
        status.is_success(),
        "a certificate of {id}: {status}: {body}"
    );
    identity::certs_only(body.as_bytes())
        .filter(|certificates| !certificates.is_empty())
        .with_context(|| format!("expected a base64 PKCS#7 for {id}, got {body:?}"))
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// The identities of robots `{prefix}-0000` …, enrolling those that `folder` does not have yet.
///
/// # Errors
/// When the relay refuses one of them.
pub async fn enrol_all(
    admin: &Admin,
    folder: &Path,
    prefix: &str,
    robots: usize,
) -> Result<Vec<Arc<Identity>>> {
    futures_util::stream::iter(0..robots)
        .map(|number| async move {
            let id: RobotId = format!("{prefix}-{number:04}").parse()?;
            let identity = match Identity::load(folder, admin.base(), id.clone()) {
                Ok(identity) => identity,
                Err(_) => Identity::enrol(admin, folder, id).await?,
            };
            anyhow::Ok(Arc::new(identity))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}
