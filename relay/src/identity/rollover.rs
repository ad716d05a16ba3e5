//! The fleet moves from one root to the next without a robot being touched: the next is made and announced, then it
//! signs while the one before is trusted, then the one before is forgotten. And an issuing authority below the root, so
//! that the root's key can be taken offline. Called by a person, beside relays that run; they see it when they start
//! again. Blocking file IO.
//!
//! Invariants: at any moment there is one whole authority in the folder, or the next open puts it there; no step is
//! undone by doing it twice; the root before signs the next one, so a robot that has only heard of that one goes on
//! believing the relay.

use std::fs;
use std::io;
use std::path::Path;

use lekiwi_protocol::Org;

use super::authority::{
    Authority, AuthorityError, BEFORE, NEXT, PREVIOUS, SWITCHED, io_error, lock,
};
use super::generation::{
    self, CA_CERTIFICATE, CA_KEY, CROSS_CERTIFICATE, ISSUING_CERTIFICATE, ISSUING_KEY, Root,
    beside, remove,
};
use crate::files;

/// Puts an issuing authority below the root in `folder`, or renews the one that is there. The root's key is in the
/// folder, or in the file `root_key`.
///
/// # Errors
/// When the root's key is not there, or the folder cannot be written.
pub fn set_issuing(
    folder: &Path,
    root_key: Option<&Path>,
    org: &Org,
    now_ms: u64,
) -> Result<Authority, AuthorityError> {
    let _lock = lock_existing(folder)?;
    let root = Root::open(folder, root_key)?;
    generation::set_issuing(folder, &root, org, now_ms)?;
    Authority::open(folder)
}

/// Makes the root that comes after that in `folder`, which is announced from then on; with an issuing authority where the
/// present one has one.
///
/// # Errors
/// When there is one already, the present root's key is not there, or the folder cannot be written.
pub fn make_next(
    folder: &Path,
    root_key: Option<&Path>,
    org: &Org,
    now_ms: u64,
) -> Result<Authority, AuthorityError> {
    let _lock = lock_existing(folder)?;
    let authority = Authority::open(folder)?;
    if authority.next_fingerprint().is_some() {
        return Err(AuthorityError::OutOfStep {
            expected: "no next authority",
            found: "one",
            hint: "`lekiwi-relay ca switch` lets it sign; remove its folder, `next`, to have another one",
        });
    }
    if authority.previous_fingerprint().is_some() {
        return Err(AuthorityError::OutOfStep {
            expected: "one authority",
            found: "the one before beside it",
            hint: "`lekiwi-relay ca retire` first",
        });
    }
    let root = Root::open(folder, root_key)?;
    let has_issuing = authority.has_issuing();
    if !root.allows(1 + u32::from(has_issuing)) {
        return Err(AuthorityError::OutOfStep {
            expected: "a root that allows two authorities below it",
            found: "an old one that allows one",
            hint: "remove issuing.pem and issuing.key, with the root's key in the folder, for as long as this takes",
        });
    }
    let next = folder.join(NEXT);
    generation::create(&next, org, now_ms, Some(&root), has_issuing)?;
    Authority::open(folder)
}

/// Lets the next authority sign, and keeps the present one trusted.
///
/// # Errors
/// When there is no next one, or the folder cannot be written.
pub fn switch(folder: &Path) -> Result<Authority, AuthorityError> {
    let _lock = lock_existing(folder)?;
    let authority = Authority::open(folder)?;
    if authority.next_fingerprint().is_none() {
        return Err(AuthorityError::OutOfStep {
            expected: "a next authority",
            found: "none",
            hint: "`lekiwi-relay ca next` makes one",
        });
    }
    let (making, switched, before) = (
        beside(folder, ".new"),
        beside(folder, SWITCHED),
        beside(folder, BEFORE),
    );
    if folder.is_symlink() {
        return Err(AuthorityError::OutOfStep {
            expected: "the authority's folder",
            found: "a link to it, which would be replaced",
            hint: "put the folder itself there",
        });
    }
    for left in [&making, &switched, &before] {
        remove(left)?;
    }
    let previous = making.join(PREVIOUS);
    for made in [&making, &previous] {
        files::create_folder(made).map_err(io_error("create", made))?;
    }
    // The next root's certificate by the present one comes along; that of the present one by an earlier one is over.
    let of_next = [
        CA_KEY,
        CA_CERTIFICATE,
        ISSUING_KEY,
        ISSUING_CERTIFICATE,
        CROSS_CERTIFICATE,
    ];
    for name in of_next {
        copy(&folder.join(NEXT).join(name), &making.join(name))?;
    }
    for name in &of_next[..4] {
        copy(&folder.join(name), &previous.join(name))?;
    }
    for made in [&previous, &making] {
        files::sync_parent(&made.join(CA_CERTIFICATE)).map_err(io_error("sync", made))?;
    }
    let rename = |from: &Path, to: &Path| fs::rename(from, to).map_err(io_error("rename", from));
    rename(&making, &switched)?;
    if let Err(error) = rename(folder, &before) {
        // Keys are in it.
        remove(&switched)?;
        return Err(error);
    }
    // From here on it is done by whoever opens the folder next.
    Authority::is_in(folder)?;
    files::sync_parent(folder).map_err(io_error("sync", folder))?;
    remove(&before)?;
    Authority::open(folder)
}

/// Forgets the authority before: whose certificate is by that one is refused from then on.
///
/// # Errors
/// When there is none, or the folder cannot be written.
pub fn retire(folder: &Path) -> Result<Authority, AuthorityError> {
    let _lock = lock_existing(folder)?;
    // An interrupted step may have left it there, and keys are in it.
    let retired = beside(folder, ".retired");
    remove(&retired)?;
    let authority = Authority::open(folder)?;
    if authority.previous_fingerprint().is_none() {
        return Err(AuthorityError::OutOfStep {
            expected: "an authority before this one",
            found: "none",
            hint: "`lekiwi-relay ca next` and `ca switch` come first",
        });
    }
    let cross = folder.join(CROSS_CERTIFICATE);
    match fs::remove_file(&cross) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove", &cross)(error));
        }
        _ => {}
    }
    // Renamed before it is removed: half a folder would be damage.
    let previous = folder.join(PREVIOUS);
    fs::rename(&previous, &retired).map_err(io_error("rename", &previous))?;
    remove(&retired)?;
    Authority::open(folder)
}

/// Held while the authority is changed, where there is one: a name that was mistyped leaves nothing behind.
fn lock_existing(folder: &Path) -> Result<fs::File, AuthorityError> {
    match Authority::is_in(folder)? {
        true => lock(folder),
        false => Err(AuthorityError::Missing(folder.to_owned())),
    }
}

/// Copies a file, its mode as well, if it is there.
fn copy(from: &Path, to: &Path) -> Result<(), AuthorityError> {
    let bytes = match fs::read(from) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("read", from)(error)),
    };
    let is_key = from.extension().is_some_and(|ending| ending == "key");
    let mode = match is_key {
        true => files::SECRET,
        false => files::PUBLIC,
    };
    files::create_for_owner(to, &bytes, mode).map_err(io_error("write", to))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;
    use std::time::Duration;

    use rcgen::{KeyPair, PublicKeyData};
    use rustls::RootCertStore;
    use rustls::client::verify_server_cert_signed_by_trust_anchor;
    use rustls::server::ParsedCertificate;
    use rustls_pki_types::{CertificateDer, UnixTime};

    use super::super::authority::Subject;
    use super::super::server::{ServerIdentity, ServerName};
    use super::*;

    const NOW: u64 = 1_795_233_120_000;

    fn made() -> (tempfile::TempDir, PathBuf, Authority) {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("ca");
        let authority = Authority::open_or_create(&folder, &Org::default(), NOW).unwrap();
        (data, folder, authority)
    }

    fn next(folder: &Path) -> Result<Authority, AuthorityError> {
        make_next(folder, None, &Org::default(), NOW)
    }

    /// Whether somebody who trusts `root` alone believes a relay of `authority`.
    fn believes(root: &CertificateDer<'static>, authority: &Authority) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let names = [ServerName::parse("localhost").unwrap()];
        let shown = ServerIdentity::open_or_renew(authority, folder.path(), &names, NOW).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let own = ParsedCertificate::try_from(&shown.chain[0]).unwrap();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider();
        verify_server_cert_signed_by_trust_anchor(
            &own,
            &roots,
            &shown.chain[1..],
            UnixTime::since_unix_epoch(Duration::from_millis(NOW)),
            algorithms.signature_verification_algorithms.all,
        )
        .is_ok()
    }

    fn signed_by(authority: &Authority) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let subject = Subject::Robot("kiwi-01".parse().unwrap());
        let day = Duration::from_secs(24 * 3600);
        let spki = key.subject_public_key_info();
        let issued = authority.issue(&subject, &Org::default(), &spki, NOW, day);
        issued.unwrap().der
    }

    #[test]
    fn who_knows_one_root_believes_the_relay_until_the_one_before_is_forgotten() {
        for has_issuing in [false, true] {
            let (_data, folder, first) = made();
            if has_issuing {
                set_issuing(&folder, None, &Org::default(), NOW).unwrap();
            }
            let before = first.certificate().clone();

            let announced = next(&folder).unwrap();
            assert_eq!(announced.fingerprint(), first.fingerprint());
            assert_eq!(announced.roots().len(), 2);
            let after = announced.roots()[1].clone();
            assert!(believes(&before, &announced) && !believes(&after, &announced));

            let switched = switch(&folder).unwrap();
            assert_eq!(
                switched.fingerprint(),
                announced.next_fingerprint().unwrap()
            );
            assert_eq!(switched.previous_fingerprint(), Some(first.fingerprint()));
            assert_eq!(switched.has_issuing(), has_issuing);
            assert!(believes(&before, &switched) && believes(&after, &switched));
            let (old, new) = (signed_by(&announced), signed_by(&switched));
            assert!(announced.has_signed(&old) && !switched.has_signed(&old));
            assert!(switched.has_signed(&new));

            let retired = retire(&folder).unwrap();
            assert_eq!(retired.roots(), std::slice::from_ref(&after));
            assert!(!believes(&before, &retired) && believes(&after, &retired));
            // And on to the one after that.
            next(&folder).unwrap();
            assert!(believes(&after, &switch(&folder).unwrap()));
        }
    }

    #[test]
    fn steps_out_of_turn_are_refused_and_change_nothing() {
        let (_data, folder, first) = made();
        let said = |result: Result<Authority, AuthorityError>| result.unwrap_err().to_string();
        assert_eq!(
            said(switch(&folder)),
            "expected a next authority, found none"
        );
        assert_eq!(
            said(retire(&folder)),
            "expected an authority before this one, found none"
        );
        let announced = next(&folder).unwrap();
        assert_eq!(said(next(&folder)), "expected no next authority, found one");
        let now = Authority::open(&folder).unwrap();
        assert_eq!(now.next_fingerprint(), announced.next_fingerprint());
        assert_eq!(now.fingerprint(), first.fingerprint());
        switch(&folder).unwrap();
        assert_eq!(
            said(next(&folder)),
            "expected one authority, found the one before beside it"
        );
    }

    #[test]
    fn a_folder_that_is_not_there_stays_so() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("mistyped/ca");
        let issuing = set_issuing(&folder, None, &Org::default(), NOW);
        for refused in [issuing, next(&folder), switch(&folder), retire(&folder)] {
            assert!(matches!(refused, Err(AuthorityError::Missing(_))));
        }
        assert!(!data.path().join("mistyped").exists());
    }

    #[test]
    fn a_switch_that_was_interrupted_is_finished_or_begun_again() {
        let (data, folder, _) = made();
        let after = next(&folder).unwrap().next_fingerprint();
        // Before anything was renamed.
        let half = data.path().join("ca.new");
        fs::create_dir(&half).unwrap();
        fs::write(half.join(CA_KEY), "half a k").unwrap();
        // Between the renames.
        switch(&folder).unwrap();
        fs::rename(&folder, data.path().join("ca.switched")).unwrap();
        fs::create_dir(data.path().join("ca.before")).unwrap();
        assert!(Authority::is_in(&folder).unwrap());
        let authority = Authority::open(&folder).unwrap();
        assert_eq!(Some(authority.fingerprint()), after);
        let left = |name: &str| data.path().join(name).exists();
        assert!(!left("ca.new") && !left("ca.switched") && !left("ca.before"));
    }

    #[test]
    fn with_an_issuing_authority_the_roots_key_may_be_elsewhere() {
        let (data, folder, first) = made();
        let direct = signed_by(&first);
        let online = set_issuing(&folder, None, &Org::default(), NOW).unwrap();
        assert!(online.has_issuing() && online.fingerprint() == first.fingerprint());
        // What the root signed itself counts as well, and can be listed as long as its key is there.
        assert!(online.has_signed(&direct));
        assert_eq!(lists(&online), 2);
        let away = data.path().join("safe.key");
        fs::rename(folder.join(CA_KEY), &away).unwrap();
        let authority = Authority::open(&folder).unwrap();
        assert_eq!(lists(&authority), 1);
        assert!(believes(first.certificate(), &authority));
        assert!(authority.has_signed(&signed_by(&authority)));

        let shown = folder.join(CA_KEY);
        assert_eq!(
            next(&folder).unwrap_err().to_string(),
            format!("expected the root's key in {}, found none", shown.display())
        );
        let other = folder.join(ISSUING_KEY);
        assert_eq!(
            make_next(&folder, Some(&other), &Org::default(), NOW)
                .unwrap_err()
                .to_string(),
            format!(
                "expected the key of ca.pem in {}, got something else",
                other.display()
            )
        );
        // Renewed, it is the same authority: what it signed counts.
        let year = 365 * 24 * 3_600_000;
        let earlier = signed_by(&authority);
        let again = set_issuing(&folder, Some(&away), &Org::default(), NOW + year).unwrap();
        assert!(again.not_after_ms() > authority.not_after_ms() && again.has_signed(&earlier));
        make_next(&folder, Some(&away), &Org::default(), NOW).unwrap();
        assert!(believes(first.certificate(), &switch(&folder).unwrap()));
        let mut keys: Vec<_> = walk(&folder)
            .into_iter()
            .filter(|it| it.ends_with(".key"))
            .collect();
        keys.sort();
        assert_eq!(keys, ["ca.key", "issuing.key", "previous/issuing.key"]);
    }

    /// How many lists of revoked certificates there are.
    fn lists(authority: &Authority) -> usize {
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2026, 1, 1),
            next_update: rcgen::date_time_ymd(2026, 2, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        authority.sign_list(&list).unwrap().len()
    }

    #[test]
    fn a_link_to_the_folder_is_not_replaced() {
        let (data, folder, _) = made();
        next(&folder).unwrap();
        let link = data.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert_eq!(
            switch(&link).unwrap_err().to_string(),
            "expected the authority's folder, found a link to it, which would be replaced"
        );
        assert!(Authority::open(&link).unwrap().next_fingerprint().is_some());
        switch(&folder).unwrap();
    }

    /// Only root can try.
    #[test]
    fn what_root_makes_belongs_to_whom_the_folder_belongs() {
        const NOBODY: u32 = 65_534;
        let (data, folder, _) = made();
        let all = |folder: &Path| -> Vec<PathBuf> {
            let files = walk(folder).into_iter().map(|it| folder.join(it));
            let folders = ["", PREVIOUS, NEXT].map(|it| folder.join(it));
            files.chain(folders).filter(|it| it.exists()).collect()
        };
        for path in all(&folder)
            .iter()
            .map(PathBuf::as_path)
            .chain([data.path()])
        {
            if std::os::unix::fs::chown(path, Some(NOBODY), None).is_err() {
                return;
            }
        }
        let all_are_nobodys = || {
            for path in all(&folder) {
                let owner = fs::metadata(&path).unwrap().uid();
                assert_eq!(owner, NOBODY, "{}", path.display());
            }
        };
        set_issuing(&folder, None, &Org::default(), NOW).unwrap();
        all_are_nobodys();
        next(&folder).unwrap();
        all_are_nobodys();
        switch(&folder).unwrap();
        all_are_nobodys();
    }

    fn walk(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => found.extend(walk(&entry.path()).iter().map(|it| format!("{name}/{it}"))),
                false => found.push(name),
            }
        }
        found
    }

    #[test]
    fn a_root_that_allows_one_authority_below_it_has_no_room_for_two() {
        let (_data, folder, _) = made();
        let key = KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(1));
        let root = params.self_signed(&key).unwrap();
        fs::write(folder.join(CA_KEY), key.serialize_pem()).unwrap();
        fs::write(folder.join(CA_CERTIFICATE), root.pem()).unwrap();
        set_issuing(&folder, None, &Org::default(), NOW).unwrap();
        assert_eq!(
            next(&folder).unwrap_err().to_string(),
            "expected a root that allows two authorities below it, found an old one that allows one"
        );
        for name in [ISSUING_CERTIFICATE, ISSUING_KEY] {
            fs::remove_file(folder.join(name)).unwrap();
        }
        next(&folder).unwrap();
        assert!(believes(root.der(), &switch(&folder).unwrap()));
    }

    #[test]
    fn half_an_issuing_authority_is_damage() {
        let (_data, folder, _) = made();
        set_issuing(&folder, None, &Org::default(), NOW).unwrap();
        let certificate = folder.join(ISSUING_CERTIFICATE);
        let pem = fs::read(&certificate).unwrap();
        fs::remove_file(&certificate).unwrap();
        let shown = folder.display();
        // It was not finished, and the root goes on.
        assert!(!Authority::open(&folder).unwrap().has_issuing());
        let (key, away) = (folder.join(CA_KEY), folder.join("away.key"));
        fs::rename(&key, &away).unwrap();
        assert_eq!(
            Authority::open(&folder).unwrap_err().to_string(),
            format!("expected both issuing.key and issuing.pem in {shown}, found no issuing.pem")
        );
        fs::rename(&away, &key).unwrap();
        let (_other_data, other, _) = made();
        set_issuing(&other, None, &Org::default(), NOW).unwrap();
        for name in [ISSUING_CERTIFICATE, ISSUING_KEY] {
            fs::copy(other.join(name), folder.join(name)).unwrap();
        }
        assert_eq!(
            Authority::open(&folder).unwrap_err().to_string(),
            format!("expected a certificate that ca.pem has signed in {shown}/issuing.pem")
        );
        fs::write(&certificate, pem).unwrap();
        assert_eq!(
            Authority::open(&folder).unwrap_err().to_string(),
            format!("expected the key of issuing.pem in {shown}/issuing.key, got another key")
        );
    }
}
