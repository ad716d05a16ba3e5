//! The program that signs with the robot's key, where there is one.

use lekiwi_agent_core::race::HEAD_START;

use super::Finding;
use crate::clock;
use crate::driver::chain;
use crate::identity::{Identity, Signer};

/// Has it sign something; with the key of the certificate, where there is one.
pub(super) async fn examine(signer: &Signer, identity: Option<&Identity>) -> Finding {
    const CHECK: &str = "signer";
    let begun = clock::now();
    let tried = signer.trial(identity).await;
    let took = clock::now().saturating_duration_since(begun);
    match tried {
        Err(error) => Finding::failed(
            CHECK,
            chain(&error),
            "run it by hand as the agent's user, with `public-key` at its end; is the token plugged in, its PIN right, \
             and the device allowed in the unit?",
        ),
        Ok(()) if took > HEAD_START => Finding::warning(
            CHECK,
            format!("`{signer}` signs, and takes {} s", took.as_secs()),
            "one that needs longer than 2 s can keep the robot from going back to a better endpoint",
        ),
        Ok(()) => Finding::ok(CHECK, format!("`{signer}` signs")),
    }
}
