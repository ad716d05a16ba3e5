//! Would an emergency stop stop this robot?

use std::path::Path;

use lekiwi_protocol::profile::Profile;

use super::Finding;
use crate::ipc::Status;

const CHECK: &str = "stop";
/// What helps where nothing would.
const HINT: &str = "give the profile a `stop`, or have the program that drives it confirm stops (docs/commands.md)";

/// By the stop action of a registered robot's `profile`, or by who listens at the running agent.
pub(super) fn examine(root: &Path, profile: &Profile, status: Option<&Status>) -> Finding {
    if let Some(program) = profile.stop.as_ref().and_then(|stop| stop.run.first()) {
        let exists = |path: &str| root.join(path.trim_start_matches('/')).exists();
        if !exists(program) {
            return Finding::failed(
                CHECK,
                format!("expected the stop action's program {program}, found none"),
                "what the profile brings is installed by the setup: `journalctl -u lekiwi-setup`",
            );
        }
        let units = profile.software.units.iter();
        let mut sockets = units.filter(|unit| unit.name.ends_with(".socket"));
        let deaf = sockets.find_map(|unit| {
            let mut lines = unit.content.lines();
            let path = lines.find_map(|line| line.trim().strip_prefix("ListenStream=/"))?;
            (!exists(path)).then_some((unit.name.as_str(), path))
        });
        return match deaf {
            None => Finding::ok(CHECK, format!("an emergency stop runs {program}")),
            Some((unit, path)) => Finding::failed(
                CHECK,
                format!("expected systemd to listen at /{path} for the stop action"),
                &format!("`systemctl status {unit}` says why not"),
            ),
        };
    }
    match status.and_then(|status| status.stop) {
        Some(stop) if stop.confirmed > 0 => Finding::ok(
            CHECK,
            format!(
                "{} of {} local programs that listen have confirmed a stop",
                stop.confirmed, stop.listeners
            ),
        ),
        Some(stop) => Finding::warning(
            CHECK,
            format!(
                "the profile has no stop action, and of {} local programs that listen none has confirmed a stop",
                stop.listeners
            ),
            HINT,
        ),
        None => Finding::unknown(
            CHECK,
            "the profile has no stop action, and only a running agent knows who listens",
            HINT,
        ),
    }
}
