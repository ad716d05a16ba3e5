//! What the rest of the relay sees of ingest.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use lekiwi_protocol::api::RobotView;
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::alerts::Alerts;
use lekiwi_relay_core::protect::Overload;
use lekiwi_relay_core::{Counts, Fleet};
use tokio::sync::{mpsc, watch};

use super::alerts;
use super::decision::Request;
use crate::clock;
use crate::live::Live;

/// What the rest of the relay sees of ingest; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) fleet: Arc<RwLock<Fleet>>,
    pub(super) live: Live,
    pub(super) decisions: mpsc::Sender<Request>,
    pub(super) alerts: Arc<RwLock<Alerts>>,
    pub(super) alert_requests: mpsc::Sender<alerts::Request>,
    pub(super) overload: Arc<Mutex<Overload>>,
    /// Why the log of several relays cannot be followed, while it cannot.
    pub(super) behind: watch::Receiver<Option<String>>,
}

impl Handle {
    /// All robots, by id, and the log position that the answer includes.
    #[must_use]
    pub fn robots(&self) -> (Vec<RobotView>, u64) {
        let now = Timestamp::from_ms(clock::now_ms());
        let fleet = self.fleet.read().unwrap_or_else(PoisonError::into_inner);
        (fleet.fresh_views(now).collect(), fleet.position())
    }

    /// The log position that the picture includes.
    #[must_use]
    pub fn position(&self) -> u64 {
        let fleet = self.fleet.read().unwrap_or_else(PoisonError::into_inner);
        fleet.position()
    }

    /// How many robots are how.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let fleet = self.fleet.read().unwrap_or_else(PoisonError::into_inner);
        fleet.counts()
    }

    /// One robot.
    #[must_use]
    pub fn robot(&self, id: &RobotId) -> Option<RobotView> {
        let now = Timestamp::from_ms(clock::now_ms());
        let fleet = self.fleet.read().unwrap_or_else(PoisonError::into_inner);
        fleet.fresh_view(id, now)
    }

    /// How much was given up since the relay has more to do than it can; nothing when it has not.
    #[must_use]
    pub fn shedding(&self) -> Option<u64> {
        let overload = self.overload.lock();
        overload.unwrap_or_else(PoisonError::into_inner).shedding()
    }

    /// Why the picture may lack what other relays wrote, if it may.
    #[must_use]
    pub fn behind(&self) -> Option<String> {
        self.behind.borrow().clone()
    }

    /// The live stream.
    #[must_use]
    pub fn live(&self) -> &Live {
        &self.live
    }
}
