//! Which of the relays on one database leads: the one that has an advisory lock. A thread with a connection of its own.
//!
//! The lock is the connection's. That of a relay which dies is free at once; that of one which is cut off is when the server
//! has missed it for [`MISSED`]. Who leads looks every [`LOOK`] whether the connection stands, and gives up within [`ANSWER`]
//! more, so that nobody leads any longer when the next one begins to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::super::database::{Database, Result};
use super::super::log::last_position;
use super::{ANSWER, Options, Postgres};

/// The advisory lock of the relay that leads ("lekiwi l").
const LOCK: i64 = 0x6c65_6b69_7769_206c;
const LOOK: Duration = Duration::from_secs(1);
/// Time for what was written while leading to come into the log, before somebody else leads.
const HANDOVER: Duration = Duration::from_secs(1);
/// What the server is told: to miss a connection within 9 s. (Of PostgreSQL's manual: idle, interval and count in seconds, the
/// other in milliseconds; it decides how long probes may stay unanswered.)
const MISSED: &str =
    "SET tcp_keepalives_idle = 3; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;
                      SET tcp_user_timeout = 9000";

/// Starts the thread, which ends when nobody asks any more. While this relay leads there is the position up to which the log
/// went when it began to; it leads only while it is `fit` to.
pub(in super::super) fn campaign(
    options: &Arc<Options>,
    fit: watch::Receiver<bool>,
) -> std::io::Result<watch::Receiver<Option<u64>>> {
    let (leads, told) = watch::channel(None);
    let candidate = Candidate {
        options: options.clone(),
        fit,
        leads,
    };
    std::thread::Builder::new()
        .name("store-leader".into())
        .spawn(move || candidate.run())?;
    Ok(told)
}

struct Candidate {
    options: Arc<Options>,
    fit: watch::Receiver<bool>,
    leads: watch::Sender<Option<u64>>,
}

impl Candidate {
    fn run(&self) {
        let mut is_told = false;
        while !self.leads.is_closed() {
            if self.is_fit() {
                let term = self.stand();
                // Before anything else: somebody else may lead soon.
                let led = self.leads.send_replace(None).is_some();
                match term {
                    Ok(()) => is_told = false,
                    Err(error) if led || !is_told => {
                        is_told = true;
                        tracing::warn!(%error, "this relay cannot lead at the moment");
                    }
                    Err(_) => {}
                }
            }
            std::thread::sleep(LOOK);
        }
    }

    fn is_fit(&self) -> bool {
        *self.fit.borrow() && self.fit.has_changed().is_ok() && !self.leads.is_closed()
    }

    /// Until it is not fit any more, or the connection is lost.
    fn stand(&self) -> Result<()> {
        let mut database = Postgres::open_reader(&self.options)?;
        database.batch(MISSED)?;
        while self.is_fit() {
            if (&mut database as &mut dyn Database)
                .value(&format!("SELECT pg_try_advisory_lock({LOCK})"), &[])?
                .unwrap_or_default()
            {
                self.lead(&mut database)?;
            } else {
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    fn lead(&self, database: &mut Postgres) -> Result<()> {
        let position = last_position(database)?;
        tracing::info!(position, "this relay leads");
        self.leads.send_replace(Some(position));
        while self.is_fit() {
            std::thread::sleep(LOOK);
            database.with(|client, _| client.is_valid(ANSWER))?;
        }
        self.leads.send_replace(None);
        tracing::info!("this relay leads no more");
        std::thread::sleep(HANDOVER);
        database.batch(&format!("SELECT pg_advisory_unlock({LOCK})"))
    }
}
