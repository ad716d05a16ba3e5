//! The root of trust that the image pinned, and what is kept of it in the state folder. Decided by
//! [`lekiwi_agent_core::trust`].

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use lekiwi_agent_core::trust::{Record, Trust};
use lekiwi_protocol::limits::{MAX_DOCUMENT_BYTES, MAX_ROOTS};
use lekiwi_protocol::message::Desired;
use lekiwi_protocol::signed::Signed;
use lekiwi_protocol::{RobotId, Timestamp};
use webpki::ring::ED25519;

use crate::storage::Kept;

const FILE: &str = "trust.json";
/// Of what is pinned: more is no row of roots.
const MAX_PINNED_BYTES: u64 = (2 * MAX_ROOTS * MAX_DOCUMENT_BYTES) as u64;

/// Whom this robot believes.
#[derive(Debug)]
pub(crate) enum Anchor {
    /// Its relay: nothing is pinned.
    Relay,
    /// Those who hold the keys.
    Keys { trust: Trust, file: Kept },
    /// Nobody, for this reason: something is pinned, and it cannot be read.
    Nobody(String),
}

/// Why what is desired is not looked at any further.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// For good.
    Unbelieved(String),
    /// Until the disk takes what was seen.
    Unkept(String),
}

impl Anchor {
    /// Reads what is pinned, and goes on with what the state folder has; `kill_at` is for tests.
    pub(crate) fn open(pinned: &Path, state_dir: &Path, kill_at: Option<u32>) -> Self {
        let roots = match read(pinned) {
            Ok(Some(roots)) => roots,
            Ok(None) => return Self::Relay,
            Err(error) => return nobody(pinned, &error.to_string()),
        };
        let file = Kept::new(state_dir.join(FILE), kill_at);
        let record = match file.read() {
            Ok(None) => Ok(Record::default()),
            Ok(Some(json)) => serde_json::from_slice(&json).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        // Without it a robot would take again what it left behind.
        let record = match record {
            Ok(record) => record,
            Err(error) => return nobody(file.path(), &error),
        };
        match Trust::open(&roots, record, ED25519) {
            Ok((trust, dropped)) => {
                if let Some(error) = dropped {
                    let path = file.path().display();
                    log::warn!("roots in {path} do not follow from the pinned one: {error}");
                }
                let version = trust.root().version;
                log::info!("configurations must be signed, by the keys of root {version}");
                Self::Keys { trust, file }
            }
            Err(error) => nobody(pinned, &error.to_string()),
        }
    }

    /// Whether the robot may look at what is desired; what was seen is on the disk then.
    pub(crate) fn check(
        &mut self,
        now: Timestamp,
        robot: &RobotId,
        desired: &Desired,
    ) -> Result<(), Refused> {
        let (trust, file) = match self {
            Self::Relay => return Ok(()),
            Self::Nobody(reason) => return Err(Refused::Unbelieved(reason.clone())),
            Self::Keys { trust, file } => (trust, file),
        };
        let mut next = trust.clone();
        let outcome = next.configuration(now, robot, desired, ED25519);
        if next != *trust {
            let json = serde_json::to_vec(next.record()).map_err(io::Error::from);
            json.and_then(|json| file.write(&json))
                .map_err(|error| Refused::Unkept(error.to_string()))?;
            *trust = next;
        }
        outcome.map_err(|refusal| Refused::Unbelieved(refusal.to_string()))
    }
}

fn nobody(path: &Path, error: &str) -> Anchor {
    let reason = format!("expected a root of trust in {}: {error}", path.display());
    log::error!("no configuration is taken: {reason}");
    Anchor::Nobody(reason)
}

fn read(path: &Path) -> io::Result<Option<Vec<Signed>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut json = Vec::new();
    file.take(MAX_PINNED_BYTES).read_to_end(&mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

#[cfg(test)]
mod tests;
