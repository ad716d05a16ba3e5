//! The enrolment as a whole: key, authority, request, certificate, in an order that survives a crash
//! at any step. Each step's result is on disk before the next begins, and the same key may ask again.

use std::fs;
use std::io;
use std::path::PathBuf;

use lekiwi_protocol::pinned::Fingerprint;
use lekiwi_protocol::{RobotId, Timestamp};
use rcgen::{DistinguishedName, DnType};
use rustls_pki_types::CertificateDer;

use super::est::{Client, EnrolError};
use super::renewal::anchors;
use super::{Identity, Store, certificate};
use crate::config::Address;

/// What an enrolment needs.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// Where key and certificates go.
    pub store: Store,
    /// Where the relay is.
    pub relay: Address,
    /// The proxy on the way there.
    pub proxy: Option<Address>,
    /// Its authority.
    pub ca_fingerprint: Fingerprint,
    /// Who asks.
    pub robot_id: RobotId,
    /// Its profile.
    pub profile: String,
    /// The machine's serial number, when it has one.
    pub serial: String,
    /// Where the token lies.
    pub token_file: PathBuf,
    /// Whether to remove it afterwards.
    pub remove_token: bool,
}

/// Gets a certificate. `now` judges the relay's own.
///
/// # Errors
/// See [`EnrolError`]; nothing is lost by asking again.
pub async fn enrol(enrolment: &Enrolment, now: Timestamp) -> Result<Identity, EnrolError> {
    let Enrolment {
        store, robot_id, ..
    } = enrolment;
    let token = token(&enrolment.token_file)?;
    // One from before would take the place of what comes now.
    store.drop_next().map_err(EnrolError::Store)?;
    let key = store.keys.obtain().await?;
    let client = Client::new(
        enrolment.relay.clone(),
        enrolment.proxy.clone(),
        enrolment.ca_fingerprint,
        now,
    )?;
    let (named, shown) = client.authorities().await?;
    let authority = client.pinned(&named)?;
    let mut authorities = vec![authority.clone()];
    let anchors = anchors(&authorities, named, &shown, now);
    authorities.extend_from_slice(&anchors);
    let request = key.request(subject(enrolment)).await?;
    let issued = client.enrol(robot_id.as_str(), &token, &request).await?;
    let chain = own_first(issued, &authorities, |leaf| {
        certificate::check(leaf, &authorities, robot_id, &key, now).is_ok()
    });
    certificate::check(&chain, &authorities, robot_id, &key, now)
        .map_err(EnrolError::BadCertificate)?;
    store
        .keep_anchors(None, &anchors)
        .map_err(EnrolError::Store)?;
    store.keep(&chain, &authority).map_err(EnrolError::Store)?;
    remove_token(enrolment, "it is used");
    store
        .load(robot_id, enrolment.ca_fingerprint, now)
        .map_err(EnrolError::Store)
}

/// Removes the token of a robot that is enrolled, also one that a crash left behind; says why.
pub(crate) fn remove_token(enrolment: &Enrolment, why: &str) {
    if !enrolment.remove_token {
        return;
    }
    match fs::remove_file(&enrolment.token_file) {
        Ok(()) => log::info!(
            "removed the token {}: {why}",
            enrolment.token_file.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => log::warn!(
            "the token {} cannot be removed, {why}: {error}",
            enrolment.token_file.display()
        ),
    }
}

fn token(path: &std::path::Path) -> Result<String, EnrolError> {
    let no_token = |source| EnrolError::NoToken {
        path: path.to_owned(),
        source,
    };
    let text = fs::read_to_string(path).map_err(no_token)?;
    let token = text.trim();
    let printable = token.bytes().all(|b| b.is_ascii_graphic());
    if token.is_empty() || token.len() > 256 || !printable {
        let what = "expected one line that begins with lkt_";
        return Err(no_token(io::Error::new(io::ErrorKind::InvalidData, what)));
    }
    Ok(token.to_owned())
}

fn subject(enrolment: &Enrolment) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, enrolment.robot_id.as_str());
    subject.push(DnType::OrganizationalUnitName, enrolment.profile.as_str());
    if !enrolment.serial.is_empty() {
        // serialNumber
        subject.push(
            DnType::CustomDnType(vec![2, 5, 4, 5]),
            enrolment.serial.as_str(),
        );
    }
    subject
}

/// PKCS#7 holds a set, sorted by encoding: the robot's own certificate goes first, the authorities out.
pub(super) fn own_first(
    issued: Vec<CertificateDer<'static>>,
    authorities: &[CertificateDer<'_>],
    is_own: impl Fn(&[CertificateDer<'static>]) -> bool,
) -> Vec<CertificateDer<'static>> {
    let mut chain: Vec<_> = issued
        .into_iter()
        .filter(|c| !authorities.contains(c))
        .collect();
    for index in 0..chain.len() {
        chain.swap(0, index);
        if is_own(&chain) {
            break;
        }
        chain.swap(0, index);
    }
    chain
}
