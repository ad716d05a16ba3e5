//! Whether this relay leads those on its log: then it alone writes what all of them see (who is there, alerts, samples,
//! pictures), sends commands and forgets what is old. Who begins to has first read what earlier leaders wrote.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ingest::Handle;
use crate::store::{Store, StoreError};

/// How often it looks how far the log was read.
const LOOK: Duration = Duration::from_millis(20);
/// How long a relay that must be alone waits for the one before it to be gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// The office of the relay that leads, held or stood for until this is dropped.
#[derive(Debug)]
pub(crate) enum Office {
    /// Nobody else can have it.
    Alone {
        _leads: watch::Sender<bool>,
        /// Nobody else may.
        _held: Option<Held>,
    },
    /// Others stand for it too.
    Shared(JoinHandle<()>),
}

/// An office that is held whatever happens.
#[derive(Debug)]
pub(crate) struct Held {
    _fit: watch::Sender<bool>,
    _office: watch::Receiver<Option<u64>>,
}

impl Drop for Office {
    fn drop(&mut self) {
        if let Self::Shared(task) = self {
            task.abort();
        }
    }
}

impl Office {
    /// The office of a relay whose log is its own.
    pub(crate) fn alone(leads: watch::Sender<bool>, held: Option<Held>) -> Self {
        Self::Alone {
            _leads: leads,
            _held: held,
        }
    }

    /// Stands for it whenever this relay is `fit` to lead, and tells `leads` whether it does.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub(crate) fn share(
        store: &Store,
        fit: watch::Receiver<bool>,
        fleet: Handle,
        leads: watch::Sender<bool>,
    ) -> Result<Self, StoreError> {
        let office = store.campaign(fit)?;
        Ok(Self::Shared(tokio::spawn(tell(office, fleet, leads))))
    }
}

impl Held {
    /// Takes the office for good; nothing when another relay has it.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub(crate) async fn take(store: &Store) -> Result<Option<Self>, StoreError> {
        let (fit_sender, fit) = watch::channel(true);
        let mut office = store.campaign(fit)?;
        let taken = async { office.wait_for(Option::is_some).await.is_ok() };
        let is_taken = tokio::time::timeout(PATIENCE, taken).await;
        Ok(is_taken.unwrap_or_default().then_some(Self {
            _fit: fit_sender,
            _office: office,
        }))
    }
}

async fn tell(mut office: watch::Receiver<Option<u64>>, fleet: Handle, leads: watch::Sender<bool>) {
    loop {
        let begun = *office.borrow_and_update();
        let is_read = begun.is_none_or(|position| fleet.position() >= position);
        if is_read {
            let is_held = begun.is_some();
            leads.send_if_modified(|known| std::mem::replace(known, is_held) != is_held);
        }
        tokio::select! {
            changed = office.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(LOOK), if !is_read => {}
        }
    }
}
