//! Relays that share a log: each follows it, whoever wrote, and one of them leads. Whoever leads writes what all of them see
//! and speaks to robots; the others know as much, and only keep it in mind.

use std::sync::PoisonError;
use std::time::Duration;

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::RobotView;
use tokio::sync::{mpsc, watch};

use super::{Ingest, commands, twins};
use crate::broker::Broker;
use crate::clock;
use crate::store::records::StoredEvent;
use crate::store::{Follower, StoreError};

/// Events that are read at once.
const PAGE: usize = 5_000;
/// Pages that may wait for ingest.
const AHEAD: usize = 2;
/// Time between two attempts to read.
const PAUSE: Duration = Duration::from_secs(1);

/// What comes of a log that others write too; of one's own nothing ever does.
#[derive(Debug)]
pub(super) struct Log(Option<mpsc::Receiver<Vec<StoredEvent>>>);

impl Log {
    /// The next events, in their order.
    pub(super) async fn next(&mut self) -> Option<Vec<StoredEvent>> {
        match &mut self.0 {
            Some(events) => events.recv().await,
            None => std::future::pending().await,
        }
    }
}

/// Who leads, where that is a question.
#[derive(Debug)]
pub(super) struct Office(Option<watch::Receiver<bool>>);

impl Office {
    /// Whether this relay leads, as soon as that is other than `known`.
    pub(super) async fn leads(&mut self, known: bool) -> bool {
        if let Some(leads) = &mut self.0
            && leads.wait_for(|leads| *leads != known).await.is_ok()
        {
            return !known;
        }
        std::future::pending().await
    }
}

async fn read(
    mut log: Follower,
    events: mpsc::Sender<Vec<StoredEvent>>,
    behind: watch::Sender<Option<String>>,
) {
    loop {
        match log.next(PAGE).await {
            Ok(page) => {
                behind.send_if_modified(|known| known.take().is_some());
                if events.send(page).await.is_err() {
                    return;
                }
            }
            Err(StoreError::Closed) => return,
            Err(error) => {
                let reason = format!("the log cannot be read: {error}");
                if behind.send_replace(Some(reason)).is_none() {
                    tracing::warn!(%error, "cannot read what other relays write at the moment");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Ingest {
    /// Follows the log from where the picture is, if other relays write it too.
    pub(super) fn follow(&self) -> (Log, Office) {
        let sharing = self.settings.sharing.clone();
        let events = sharing.is_some().then(|| {
            let fleet = self.fleet.read().unwrap_or_else(PoisonError::into_inner);
            let log = self.store.follow(fleet.position());
            let (sender, events) = mpsc::channel(AHEAD);
            tokio::spawn(read(log, sender, self.behind.clone()));
            events
        });
        (Log(events), Office(sharing))
    }

    /// This relay begins or ceases to lead.
    pub(super) async fn lead(&mut self, broker: &Broker, leads: bool) {
        if leads && let Err(error) = self.take_over().await {
            tracing::warn!(%error, "cannot read what is to be done as the relay that leads");
            tokio::time::sleep(PAUSE).await;
            return;
        }
        self.leads = leads;
        self.metrics.leads.set(leads.into());
        let now = Timestamp::from_ms(clock::now_ms());
        self.fleet
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .lead(now, leads);
        self.apply(broker, Vec::new()).await;
        self.lead_alerts(broker, leads).await;
    }

    /// What commands and configurations are open, the store knows: whoever led wrote it there.
    async fn take_over(&mut self) -> Result<(), StoreError> {
        let mut commands = commands::restore(&self.store).await?;
        let mut twins = twins::restore(&self.store).await?;
        let now = Timestamp::from_ms(clock::now_ms());
        let views: Vec<RobotView> = {
            let fleet = self.fleet.read().unwrap_or_else(PoisonError::into_inner);
            fleet.views().collect()
        };
        for view in views {
            if view.status.online {
                commands.connection(now, &view.id, true);
                twins.connection(now, &view.id, true);
            }
            if let Some(reported) = view.configuration.and_then(|known| known.reported) {
                twins.reported(now, &view.id, reported);
            }
        }
        self.commands = commands;
        self.twins = twins;
        Ok(())
    }
}
