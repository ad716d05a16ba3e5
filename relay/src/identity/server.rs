//! The relay's own certificate, for HTTPS and MQTT: signed by the authority for the names that robots
//! and people call the relay by. Blocking; called at start.
//!
//! Kept in two files because the broker reads files. They may be lost or mismatched (a crash between
//! the two writes): then they are made anew, at no cost to anybody.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::extensions::GeneralName;

use super::authority::{Authority, AuthorityError, Issued, io_error};
use super::generation::{BACKDATED, CA_CERTIFICATE};
use crate::files;

const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";
const CLIENTS: &str = "clients.pem";
const LIFETIME: Duration = Duration::from_secs(397 * 24 * 3600);
/// A certificate with less than this left is renewed at start; a running relay complains.
pub const RENEW_BEFORE: Duration = Duration::from_secs(60 * 24 * 3600);

/// A name or address that clients call the relay by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerName {
    /// A host name.
    Dns(String),
    /// An address.
    Address(IpAddr),
}

impl ServerName {
    /// Reads a name as a person writes it.
    ///
    /// # Errors
    /// When it is neither an address nor a host name.
    pub fn parse(text: &str) -> Result<Self, ServerNameError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if text.len() <= 253 && text.split('.').all(label) {
            Ok(Self::Dns(text.to_ascii_lowercase()))
        } else {
            Err(ServerNameError(text.chars().take(80).collect()))
        }
    }
}

/// Why a text is no [`ServerName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a host name or an IP address, got {0:?}")]
pub struct ServerNameError(String);

/// The server's certificate chain and key.
pub struct ServerIdentity {
    /// Leaf to roots, so that a client can pin a root before it has it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// File with the chain, PEM.
    pub certificate_path: PathBuf,
    /// File with the key, PEM.
    pub key_path: PathBuf,
    /// Who may have signed a client's certificate.
    pub of_clients: Vec<CertificateDer<'static>>,
    /// File with these, PEM.
    pub clients_path: PathBuf,
    /// End of the leaf's validity, milliseconds since the epoch.
    pub not_after_ms: u64,
}

impl std::fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerIdentity")
            .field("path", &self.certificate_path)
            .finish_non_exhaustive()
    }
}

impl ServerIdentity {
    /// Loads the certificate in `folder`, or makes one when there is none, it ends soon, or it is not for `names`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn open_or_renew(
        authority: &Authority,
        folder: &Path,
        names: &[ServerName],
        now_ms: u64,
    ) -> Result<Self, AuthorityError> {
        let mut names = names.to_vec();
        names.sort();
        names.dedup();
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        let clients_path = folder.join(CLIENTS);
        files::replace(
            &clients_path,
            pem(&authority.of_clients()).as_bytes(),
            files::PUBLIC,
        )
        .map_err(io_error("write", &clients_path))?;
        if let Some(identity) = load(authority, folder, &names)
            && identity.not_after_ms > now_ms + duration_ms(RENEW_BEFORE)
        {
            return Ok(identity);
        }
        make(authority, folder, &names, now_ms)
    }
}

fn paths(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join(CERTIFICATE), folder.join(KEY))
}

/// The identity on disk if it is whole, of this authority, and for exactly these names.
fn load(authority: &Authority, folder: &Path, names: &[ServerName]) -> Option<ServerIdentity> {
    let (certificate_path, key_path) = paths(folder);
    let chain: Vec<_> = CertificateDer::pem_file_iter(&certificate_path)
        .ok()?
        .collect::<Result<_, _>>()
        .ok()?;
    let key = KeyPair::from_pem(&fs::read_to_string(&key_path).ok()?).ok()?;
    let (leaf, path) = chain.split_first()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    if path != authority.path_to_roots()
        || parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes()
    {
        return None;
    }
    let mut found: Vec<ServerName> = parsed
        .subject_alternative_name()
        .ok()??
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(ServerName::Dns((*name).to_owned())),
            GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
                .ok()
                .map(ServerName::Address),
            _ => None,
        })
        .collect();
    found.sort();
    let not_after_ms = u64::try_from(parsed.validity().not_after.timestamp()).ok()? * 1000;
    (found == names).then(|| ServerIdentity {
        key: private_key(&key),
        chain: chain.clone(),
        certificate_path,
        key_path,
        of_clients: authority.of_clients(),
        clients_path: folder.join(CLIENTS),
        not_after_ms,
    })
}

fn make(
    authority: &Authority,
    folder: &Path,
    names: &[ServerName],
    now_ms: u64,
) -> Result<ServerIdentity, AuthorityError> {
    let (key, issued) = issue(authority, "lekiwi-relay", names, now_ms)?;
    let (certificate_path, key_path) = paths(folder);
    let chain = chain(authority, issued.der);
    files::replace(&key_path, key.serialize_pem().as_bytes(), files::SECRET)
        .map_err(io_error("write", &key_path))?;
    files::replace(&certificate_path, pem(&chain).as_bytes(), files::PUBLIC)
        .map_err(io_error("write", &certificate_path))?;
    Ok(ServerIdentity {
        chain,
        key: private_key(&key),
        certificate_path,
        key_path,
        of_clients: authority.of_clients(),
        clients_path: folder.join(CLIENTS),
        not_after_ms: issued.not_after_ms,
    })
}

/// Writes the certificate of an external broker, its key and the authority's certificates into `folder`, which is made
/// where it is missing; the end of the certificate, milliseconds since the epoch.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_for_broker(
    authority: &Authority,
    names: &[ServerName],
    folder: &Path,
    now_ms: u64,
) -> Result<u64, AuthorityError> {
    let (key, issued) = issue(authority, "lekiwi-broker", names, now_ms)?;
    fs::create_dir_all(folder).map_err(io_error("create", folder))?;
    let write = |name: &str, text: &str, mode| {
        let path = folder.join(name);
        files::replace(&path, text.as_bytes(), mode).map_err(io_error("write", &path))
    };
    write(KEY, &key.serialize_pem(), files::SECRET)?;
    let ends_ms = issued.not_after_ms;
    let chain = chain(authority, issued.der);
    write(CERTIFICATE, &pem(&chain), files::PUBLIC)?;
    let authorities = pem(&authority.of_clients());
    write(CA_CERTIFICATE, &authorities, files::PUBLIC)?;
    Ok(ends_ms)
}

/// A server's certificate, and those up to the roots.
fn chain(authority: &Authority, own: Vec<u8>) -> Vec<CertificateDer<'static>> {
    let mut chain = vec![CertificateDer::from(own)];
    chain.extend(authority.path_to_roots());
    chain
}

fn pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates
        .iter()
        .map(|it| super::pem("CERTIFICATE", it))
        .collect()
}

/// A key, and a certificate for it that is good for `names`.
fn issue(
    authority: &Authority,
    common_name: &str,
    names: &[ServerName],
    now_ms: u64,
) -> Result<(KeyPair, Issued), AuthorityError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in names {
        params.subject_alt_names.push(match name {
            ServerName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            ServerName::Address(address) => SanType::IpAddress(*address),
        });
    }
    let issued = authority.sign(params, &key, now_ms, BACKDATED, LIFETIME)?;
    Ok((key, issued))
}

fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lekiwi_protocol::Org;

    use super::*;

    const NOW: u64 = 1_795_233_120_000;

    fn names(texts: &[&str]) -> Vec<ServerName> {
        texts
            .iter()
            .map(|t| ServerName::parse(t).unwrap())
            .collect()
    }

    #[test]
    fn is_renewed_for_new_names_near_the_end_and_after_damage() {
        let data = tempfile::tempdir().unwrap();
        let authority =
            Authority::open_or_create(&data.path().join("ca"), &Org::default(), NOW).unwrap();
        let open = |texts: &[&str], now| {
            ServerIdentity::open_or_renew(&authority, authority.folder(), &names(texts), now)
                .unwrap()
        };
        let first = open(&["localhost", "127.0.0.1", "::1"], NOW);
        assert_eq!(
            open(&["::1", "127.0.0.1", "LOCALHOST", "localhost"], NOW).chain,
            first.chain
        );

        let renamed = open(&["localhost", "relay.example"], NOW);
        assert_ne!(renamed.chain[0], first.chain[0]);
        let late = renamed.not_after_ms - duration_ms(RENEW_BEFORE);
        assert_eq!(
            open(&["localhost", "relay.example"], late - 1).chain,
            renamed.chain
        );
        let renewed = open(&["localhost", "relay.example"], late);
        assert!(renewed.not_after_ms > renamed.not_after_ms);

        fs::write(&renewed.key_path, "torn").unwrap();
        let repaired = open(&["localhost", "relay.example"], late);
        assert_ne!(repaired.chain[0], renewed.chain[0]);
        assert_eq!(repaired.chain[1], first.chain[1]);
    }

    #[test]
    fn names_are_hosts_or_addresses() {
        for bad in ["", "a b", "-a", "http://a", "a..b", &"x".repeat(64)] {
            let error = ServerName::parse(bad).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("expected a host name or an IP address, got {bad:?}")
            );
        }
    }
}
