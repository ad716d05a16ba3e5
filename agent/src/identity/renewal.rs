//! The next certificate, got by the present one: asked for, kept beside it, promoted or dropped. Each step's result is on
//! the disk before the next begins. See [`lekiwi_agent_core::renewal`] for when.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use lekiwi_protocol::Timestamp;
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::ParsedCertificate;
use rustls_pki_types::CertificateDer;

use super::enrolment::own_first;
use super::est::{Client, EnrolError};
use super::key::{Key, Keys};
use super::{Enrolment, IdentityError, Store, certificate, certificates, https, provider, write};
use crate::clock::unix_time;

/// Most authorities that are kept beside the pinned one.
const MAX_ANCHORS: usize = 8;

/// Gets the next certificate, which [`Store::promote`] may let count. `now` judges the relay's.
///
/// # Errors
/// See [`EnrolError`]; nothing is lost by asking again.
pub async fn renew(enrolment: &Enrolment, now: Timestamp) -> Result<(), EnrolError> {
    let Enrolment {
        store, robot_id, ..
    } = enrolment;
    store.settle().map_err(EnrolError::Store)?;
    // One that has ended asks as well: whose clock is wrong is not decided here.
    let present = store.load(robot_id, enrolment.ca_fingerprint, Timestamp::from_ms(0));
    let present = present.map_err(EnrolError::Store)?;
    let subject = certificate::subject(&present.chain).map_err(EnrolError::BadCertificate)?;
    let tls = https(&present, now).map_err(|error| EnrolError::Untrusted {
        address: enrolment.relay.clone(),
        source: io::Error::other(error),
    })?;
    let client = Client::known(
        enrolment.relay.clone(),
        enrolment.proxy.clone(),
        enrolment.ca_fingerprint,
        tls,
    );
    let (named, shown) = client.authorities().await?;
    let anchors = anchors(&present.authorities, named, &shown, now);
    let pinned = present.authorities.first();
    store
        .keep_anchors(pinned, &anchors)
        .map_err(EnrolError::Store)?;
    let authorities = store
        .authorities(enrolment.ca_fingerprint)
        .map_err(EnrolError::Store)?;

    let key = store.next_key().map_err(EnrolError::Store)?;
    let request = key.request(subject).await?;
    let issued = client.reenrol(&request).await;
    // The same key may ask again; where it is not wanted, or gets something useless, another one does.
    let checked = issued.and_then(|issued| {
        let chain = own_first(issued, &authorities, |leaf| {
            certificate::check(leaf, &authorities, robot_id, &key, now).is_ok()
        });
        certificate::check(&chain, &authorities, robot_id, &key, now)
            .map(|_| chain)
            .map_err(EnrolError::BadCertificate)
    });
    match checked {
        Ok(chain) => store.keep_next(&chain).map_err(EnrolError::Store),
        Err(error) => {
            if !error.is_temporary()
                && let Err(error) = store.drop_next()
            {
                log::warn!("{error}");
            }
            Err(error)
        }
    }
}

/// The roots to trust beside the pinned one: those that the relay names, as long as they are enough to know the relay
/// by, and those of before where they are not.
pub(super) fn anchors(
    trusted: &[CertificateDer<'static>],
    named: Vec<CertificateDer<'static>>,
    shown: &[CertificateDer<'_>],
    now: Timestamp,
) -> Vec<CertificateDer<'static>> {
    let (pinned, before) = trusted.split_at(trusted.len().min(1));
    let mut anchors: Vec<_> = named
        .into_iter()
        .filter(|root| certificate::is_root(root) && !pinned.contains(root))
        .take(MAX_ANCHORS)
        .collect();
    let enough = [pinned, &anchors].concat();
    if !is_signed_by(shown, &enough, now) {
        let missing = before.iter().filter(|root| !anchors.contains(root));
        let missing: Vec<_> = missing.cloned().collect();
        anchors.extend(missing);
    }
    anchors
}

/// Whether the relay that showed this is known by these roots.
fn is_signed_by(
    shown: &[CertificateDer<'_>],
    trusted: &[CertificateDer<'static>],
    now: Timestamp,
) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    let Some((own, intermediates)) = shown.split_first() else {
        return false;
    };
    let algorithms = provider().signature_verification_algorithms.all;
    ParsedCertificate::try_from(own).is_ok_and(|own| {
        let time = unix_time(now);
        verify_server_cert_signed_by_trust_anchor(&own, &roots, intermediates, time, algorithms)
            .is_ok()
    })
}

impl Store {
    /// Whether there is a next certificate that may be promoted.
    pub(crate) fn has_next(&self) -> bool {
        self.next_certificate.exists() && self.keys.has_next()
    }

    /// Whether the next key counts already, and its certificate has yet to take its place.
    pub(super) fn is_promoting(&self) -> bool {
        self.next_certificate.exists() && !self.keys.has_next()
    }

    /// Goes on with a promotion that was interrupted.
    pub(crate) fn settle(&self) -> Result<(), IdentityError> {
        match self.is_promoting() {
            true => rename(&self.next_certificate, &self.certificate),
            false => Ok(()),
        }
    }

    /// The next key and certificate take the place of the present ones.
    pub(crate) fn promote(&self) -> Result<(), IdentityError> {
        if let Keys::Files { present, next } = &self.keys
            && !self.is_promoting()
        {
            self.places.pass();
            rename(next, present)?;
        }
        self.places.pass();
        rename(&self.next_certificate, &self.certificate)?;
        self.places.pass();
        Ok(())
    }

    /// Forgets the next key and its certificate; the certificate first, for alone it would count.
    pub(crate) fn drop_next(&self) -> Result<(), IdentityError> {
        remove(&self.next_certificate)?;
        match &self.keys {
            Keys::Files { next, .. } => remove(next),
            Keys::Signer { .. } => Ok(()),
        }
    }

    /// The one that is there, or a new one.
    fn next_key(&self) -> Result<Key, IdentityError> {
        self.keys.next(|path, pem| {
            self.places.pass();
            write(path, pem, 0o600)?;
            self.places.pass();
            Ok(())
        })
    }

    fn keep_next(&self, chain: &[CertificateDer<'_>]) -> Result<(), IdentityError> {
        self.places.pass();
        write(
            &self.next_certificate,
            certificate::certificates_pem(chain).as_bytes(),
            0o644,
        )?;
        self.places.pass();
        Ok(())
    }

    /// The pinned one is among them where the robot was enrolled with another: nothing else has it.
    pub(super) fn keep_anchors(
        &self,
        pinned: Option<&CertificateDer<'static>>,
        anchors: &[CertificateDer<'static>],
    ) -> Result<(), IdentityError> {
        let of_enrolment = certificates(&self.authority).unwrap_or_default();
        let elsewhere = pinned.filter(|pinned| !of_enrolment.contains(pinned));
        let kept: Vec<_> = elsewhere.into_iter().chain(anchors).cloned().collect();
        if certificates(&self.anchors).unwrap_or_default() == kept {
            return Ok(());
        }
        log::info!(
            "{} authorities are trusted beside the pinned one",
            anchors.len()
        );
        let pem = certificate::certificates_pem(&kept);
        write(&self.anchors, pem.as_bytes(), 0o644)
    }
}

/// On the disk when this returns: the other of the two renames must not be there before.
fn rename(from: &Path, to: &Path) -> Result<(), IdentityError> {
    fs::rename(from, to).map_err(|error| file(from, error))?;
    let folder = to.parent().unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| file(folder, error))
}

/// It may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), IdentityError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(path, error)),
        _ => Ok(()),
    }
}

fn file(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lekiwi_protocol::pinned::Fingerprint;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    use super::*;

    fn root(name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn a_root_that_the_configuration_pins_later_is_kept_whatever_the_relay_names() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path(), None);
        let [first, second, third] = ["first", "second", "third"].map(root);
        let pem = certificate::certificates_pem(std::slice::from_ref(&first));
        write(&store.authority, pem.as_bytes(), 0o644).unwrap();
        store
            .keep_anchors(Some(&first), &[third.clone(), second.clone()])
            .unwrap();

        let pinned = Fingerprint::of(&second);
        let now = Timestamp::from_ms(0);
        // The relay names it and the others, it alone, or none that is known.
        let lists: [&[_]; 3] = [&[&first, &second, &third], &[&second], &[]];
        for named in lists {
            let trusted = store.authorities(pinned).unwrap();
            assert_eq!(trusted[0], second);
            let named = named.iter().copied().cloned().collect();
            let anchors = anchors(&trusted, named, &[], now);
            store.keep_anchors(trusted.first(), &anchors).unwrap();
        }
        assert_eq!(store.authorities(pinned).unwrap()[0], second);
        // And a configuration that goes back to the one before is no harm.
        let trusted = store.authorities(Fingerprint::of(&first)).unwrap();
        assert_eq!(trusted[0], first);
        assert!(trusted.contains(&second));
    }
}
