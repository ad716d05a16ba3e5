//! What the setup says, on its way to the agent's outbox: kept in order while no agent answers, bounded.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lekiwi_agent_core::setup::Saying;
use lekiwi_protocol::message::kind;
use serde_json::json;

use crate::clock;
use crate::driver::chain;
use crate::ipc::{self, Report};
use crate::program::Stop;

/// Most reports that wait; the oldest progress goes first.
const MOST: usize = 64;
/// Time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest reason, in characters.
const MAX_REASON: usize = 1000;

/// Reports to the agent.
#[derive(Debug)]
pub(super) struct Telling {
    socket: PathBuf,
    profile: String,
    waiting: VecDeque<Report>,
}

impl Telling {
    pub(super) fn new(socket: &Path, profile: &str) -> Self {
        Self {
            socket: socket.to_owned(),
            profile: profile.to_owned(),
            waiting: VecDeque::new(),
        }
    }

    /// Tells the agent, after what it was not told before; what it does not take now waits.
    pub(super) async fn say(&mut self, saying: &Saying) {
        if self.waiting.len() >= MOST {
            let progress = |report: &Report| report.kind == kind::SETUP_PROGRESS;
            let index = self.waiting.iter().position(progress).unwrap_or(0);
            self.waiting.remove(index);
        }
        self.waiting.push_back(self.report(saying));
        self.send().await;
    }

    /// Sends what waits. Says whether nothing does any more.
    pub(super) async fn send(&mut self) -> bool {
        while let Some(report) = self.waiting.front() {
            match ipc::report_event(&self.socket, report).await {
                Ok(_) => {}
                Err(error @ ipc::IpcError::Answer { .. }) => {
                    // It will not take it tomorrow either.
                    log::warn!("{} is not reported: {}", report.kind, chain(&error));
                }
                Err(error) => {
                    log::debug!("the agent is told later: {}", chain(&error));
                    return false;
                }
            }
            self.waiting.pop_front();
        }
        true
    }

    /// Sends what waits, for as long as `within`. Says whether nothing does any more.
    pub(super) async fn flush(&mut self, within: Duration, stop: &mut Stop) -> bool {
        let deadline = clock::now() + within;
        loop {
            if self.send().await {
                return true;
            }
            if clock::now() >= deadline || stop.during(PAUSE).await {
                return false;
            }
        }
    }

    fn report(&self, saying: &Saying) -> Report {
        let profile = &self.profile;
        let (kind, data) = match saying {
            Saying::Started { steps, percent } => (
                kind::SETUP_STARTED,
                json!({ "profile": profile, "steps": steps, "percent": percent }),
            ),
            Saying::Progress { step, percent } => (
                kind::SETUP_PROGRESS,
                json!({ "step": step, "percent": percent }),
            ),
            Saying::Completed => (kind::SETUP_COMPLETED, json!({ "profile": profile })),
            Saying::Failed {
                step,
                reason,
                retry_in,
            } => {
                let reason: String = reason.chars().take(MAX_REASON).collect();
                (
                    kind::SETUP_FAILED,
                    json!({ "step": step, "reason": reason, "retry_in_s": retry_in.as_secs() }),
                )
            }
        };
        Report {
            kind: kind.to_owned(),
            data,
        }
    }
}
