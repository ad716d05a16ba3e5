//! Hearing of what other relays on the database commit: how far the log goes, and that certificates or sessions
//! changed. A thread with a connection of its own.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ::postgres::fallible_iterator::FallibleIterator;
use tokio::sync::watch;

use super::super::database::{Database, Result};
use super::super::identity::Index;
use super::super::log::last_position;
use super::{CHANNEL, Options, Postgres};
use crate::clock;

/// How often it looks whether the store is still there; and how often identity is read again at most.
const LOOK: Duration = Duration::from_secs(1);

/// Starts the thread; it ends with the store.
pub(in super::super) fn listen(
    options: &Arc<Options>,
    appended: Arc<watch::Sender<u64>>,
    index: &Arc<Index>,
) -> std::io::Result<()> {
    let mut listener = Listener {
        options: options.clone(),
        appended,
        index: Arc::downgrade(index),
    };
    std::thread::Builder::new()
        .name("store-listener".into())
        .spawn(move || {
            while listener.index.strong_count() > 0 {
                if let Err(error) = listener.run() {
                    tracing::warn!(%error, "cannot hear of other relays' events at the moment");
                    std::thread::sleep(LOOK);
                }
            }
        })?;
    Ok(())
}

struct Listener {
    options: Arc<Options>,
    appended: Arc<watch::Sender<u64>>,
    index: Weak<Index>,
}

impl Listener {
    /// Until the store is gone, or the connection.
    fn run(&mut self) -> Result<()> {
        let mut database = Postgres::open_reader(&self.options)?;
        database.batch(&format!("LISTEN {CHANNEL}"))?;
        // What was told before now was not heard.
        let mut is_stale = true;
        let mut read: Option<Instant> = None;
        let position = last_position(&mut database)?;
        self.advance(position);
        while let Some(index) = self.index.upgrade() {
            // At once, but not for each of many that enrol together.
            if is_stale && read.is_none_or(|read| read.elapsed() >= LOOK) {
                index.reload(&mut database)?;
                is_stale = false;
                read = Some(clock::monotonic());
            }
            drop(index);
            let mut position = 0;
            database.with(|client, _| {
                // Waits for the first one, and takes those that are there.
                let mut news = client.notifications().timeout_iter(LOOK).next()?;
                while let Some(told) = news {
                    match told.payload().strip_prefix("log ") {
                        Some(number) => position = number.parse().unwrap_or(position).max(position),
                        None => is_stale = true,
                    }
                    news = client.notifications().iter().next()?;
                }
                Ok(())
            })?;
            self.advance(position);
        }
        Ok(())
    }

    fn advance(&self, position: u64) {
        self.appended.send_if_modified(|known| {
            let is_news = position > *known;
            *known = position.max(*known);
            is_news
        });
    }
}
