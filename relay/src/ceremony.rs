//! `lekiwi-relay ca`: what a person does with the authority. Blocking; errors are printed here.

use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::Timestamp;

use crate::audit::{self, Action};
use crate::cli::{CaBroker, CaIssuing, CaNext, CaRetire, CaShow, OfAuthority};
use crate::config::Config;
use crate::exit::Exit;
use crate::identity::authority::{Authority, AuthorityError};
use crate::identity::{CA_KEY, rollover, server};
use crate::metrics::Metrics;
use crate::paths::DataFolder;
use crate::store::{Location, Store, StoreError};
use crate::{clock, ui};

/// How often it looks for the authority.
const LOOK: Duration = Duration::from_millis(200);
/// How many names of certificates are said.
const NAMES: usize = 10;

/// `ca show`.
#[must_use]
pub fn show(options: &CaShow) -> Exit {
    let folder = options.data.folder();
    let authority = match Authority::open(&folder.authority()) {
        Ok(authority) => authority,
        Err(error) => return failed(&error),
    };
    let (fingerprint, pem) = (authority.fingerprint(), authority.certificate_pem());
    let (next, previous) = (
        authority.next_fingerprint(),
        authority.previous_fingerprint(),
    );
    if options.json {
        let shown = serde_json::json!({
            "fingerprint": fingerprint,
            "pem": pem,
            "issuing": authority.has_issuing(),
            "not_after": Timestamp::from_ms(authority.not_after_ms()),
            "next": next,
            "previous": previous,
        });
        ui::print(&format!("{shown}\n"));
        return Exit::Success;
    }
    ui::print(&format!("{fingerprint}\n{pem}"));
    let who = match authority.has_issuing() {
        true => "an issuing authority below it signs",
        false => "it signs",
    };
    let until = Timestamp::from_ms(authority.not_after_ms());
    ui::note(&format!("{who}, until {until}\n"));
    for (what, print) in [("next", next), ("before it, still trusted", previous)] {
        if let Some(print) = print {
            ui::note(&format!("{what}: {print}\n"));
        }
    }
    Exit::Success
}

/// `ca new`.
#[must_use]
pub fn begin(options: &OfAuthority, config: &Config) -> Exit {
    let place = options.data.folder().authority();
    match Authority::is_in(&place) {
        Ok(false) => {}
        Ok(true) => {
            ui::note(&format!(
                "error: expected no certificate authority in {}, found one\n  (hint: move the folder away first; to move a fleet to another root, `lekiwi-relay ca next`)\n",
                place.display()
            ));
            return Exit::Failure;
        }
        Err(error) => return failed(&error),
    }
    match Authority::open_or_create(&place, &config.org, clock::now_ms()) {
        Ok(authority) => {
            ui::print(&format!("{}\n", authority.fingerprint()));
            Exit::Success
        }
        Err(error) => failed(&error),
    }
}

/// `ca broker`.
#[must_use]
pub fn certify_broker(options: &CaBroker) -> Exit {
    let folder = options.data.folder();
    let made = authority_within(&folder, options.wait).and_then(|authority| {
        server::write_for_broker(&authority, &options.names, &options.out, clock::now_ms())
    });
    match made {
        Ok(ends) => {
            ui::note(&format!(
                "ca.pem, server.pem and server.key are in {}; the certificate is good until {}\n",
                options.out.display(),
                Timestamp::from_ms(ends)
            ));
            Exit::Success
        }
        Err(error) => failed(&error),
    }
}

/// The authority, as soon as there is one.
fn authority_within(folder: &DataFolder, wait: Duration) -> Result<Authority, AuthorityError> {
    let began = clock::monotonic();
    loop {
        match Authority::open(&folder.authority()) {
            Err(AuthorityError::Missing(_)) if began.elapsed() < wait => {
                std::thread::sleep(LOOK);
            }
            other => return other,
        }
    }
}

/// `ca issuing`.
#[must_use]
pub fn set_issuing(options: &CaIssuing, config: &Config, location: &Location) -> Exit {
    let place = options.of.data.folder().authority();
    let key = options.root_key.as_deref();
    match rollover::set_issuing(&place, key, &config.org, clock::now_ms()) {
        Ok(authority) => {
            ui::note(&format!(
                "an issuing authority signs until {}: take {} offline, and start the relays again\n",
                Timestamp::from_ms(authority.not_after_ms()),
                place.join(CA_KEY).display()
            ));
            put_on_record(&options.of.data.folder(), location, "issuing", &authority)
        }
        Err(error) => failed(&error),
    }
}

/// `ca next`.
#[must_use]
pub fn make_next(options: &CaNext, config: &Config, location: &Location) -> Exit {
    let place = options.of.data.folder().authority();
    let key = options.root_key.as_deref();
    let made = rollover::make_next(&place, key, &config.org, clock::now_ms());
    match made {
        Ok(authority) => {
            let print = authority.next_fingerprint().unwrap_or_default();
            ui::print(&format!("{print}\n"));
            if authority.has_issuing() {
                let key = place.join("next").join(CA_KEY);
                ui::note(&format!("take {} offline\n", key.display()));
            }
            ui::note(
                "start the relays again, one after the other; give external brokers their files by `lekiwi-relay ca broker`; then `lekiwi-relay ca switch`\n",
            );
            put_on_record(&options.of.data.folder(), location, "next", &authority)
        }
        Err(error) => failed(&error),
    }
}

/// `ca switch`.
#[must_use]
pub fn switch(options: &OfAuthority, location: &Location) -> Exit {
    match rollover::switch(&options.data.folder().authority()) {
        Ok(authority) => {
            ui::print(&format!("{}\n", authority.fingerprint()));
            ui::note(
                "this is what new robots pin; start the relays again, one after the other, and give external brokers their files by `lekiwi-relay ca broker`. Robots change over when they renew; then `lekiwi-relay ca retire`\n",
            );
            put_on_record(&options.data.folder(), location, "switch", &authority)
        }
        Err(error) => failed(&error),
    }
}

/// `ca retire`.
#[must_use]
pub fn retire(options: &CaRetire, location: &Location) -> Exit {
    let place = options.of.data.folder().authority();
    let authority = match Authority::open(&place) {
        Ok(authority) => authority,
        Err(error) => return failed(&error),
    };
    // Without one, the step itself says so.
    let is_due = authority.previous_fingerprint().is_some();
    let left = match is_due
        .then(|| left_behind(location, &authority))
        .transpose()
    {
        Ok(left) => left.unwrap_or_default(),
        Err(error) => {
            ui::error(&*error, None);
            return Exit::Failure;
        }
    };
    if !left.is_empty() && !options.force {
        let more = left.len().saturating_sub(NAMES);
        let and_more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        ui::note(&format!(
            "error: expected nobody with a certificate of the authority before, found {}{and_more}\n  (hint: robots change over when they renew, `lekiwi identity rotate` has them do it now; revoke what nobody uses with `lekiwi identity revoke`; --force leaves them behind)\n",
            left[..left.len().min(NAMES)].join(", "),
        ));
        return Exit::Failure;
    }
    match rollover::retire(&place) {
        Ok(authority) => {
            ui::note(
                "the authority before is forgotten as soon as the relays have started again\n",
            );
            put_on_record(&options.of.data.folder(), location, "retire", &authority)
        }
        Err(error) => failed(&error),
    }
}

/// What was done, for the audit of the relay whose store is there; where a root is kept offline there is none.
fn put_on_record(
    folder: &DataFolder,
    location: &Location,
    step: &'static str,
    authority: &Authority,
) -> Exit {
    if matches!(location, Location::Sqlite(_)) && !folder.has_store() {
        return Exit::Success;
    }
    let said = [
        ("step", step.to_owned()),
        ("ca", authority.fingerprint()),
        ("next", authority.next_fingerprint().unwrap_or_default()),
    ];
    let who = audit::operator();
    let entry = audit::of_system(&who, Action::AuthorityChange, "", said);
    match with_store(location, async |store| store.record(entry).await) {
        Ok(_) => Exit::Success,
        Err(error) => {
            ui::error(
                &*error,
                Some("it is done, and the audit does not say so: write down who did it"),
            );
            Exit::Failure
        }
    }
}

/// The names of those whose certificates count, and are not by the authority of now: each once.
fn left_behind(
    location: &Location,
    authority: &Authority,
) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let known = with_store(location, async |store| store.identities(None).await)?;
    let now_ms = clock::now_ms();
    let mut names: Vec<String> = known
        .into_iter()
        .map(|standing| standing.certificate)
        .filter(|it| it.revoked_ms.is_none() && it.not_after_ms > now_ms)
        .filter(|it| !authority.has_signed(&it.der))
        .map(|it| it.common_name)
        .collect();
    names.dedup();
    Ok(names)
}

/// Opens the store, beside a relay that may run, and asks it.
fn with_store<T>(
    location: &Location,
    ask: impl AsyncFnOnce(&Store) -> Result<T, StoreError>,
) -> Result<T, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (store, _commits) = Store::open_at(location, Arc::new(Metrics::default()))?;
    let answer = runtime.block_on(ask(&store));
    store.close();
    Ok(answer?)
}

fn failed(error: &AuthorityError) -> Exit {
    ui::error(error, error.hint());
    Exit::Failure
}
