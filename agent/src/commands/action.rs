//! Runs an action of the profile.

use lekiwi_protocol::message::Arguments;
use lekiwi_protocol::profile::{Action, Profile};

use super::program;
use crate::driver::chain;
use crate::program::{Limits, Running, Stop, end_with_us};

/// Runs the action that `arguments` name; answers with the end of what it printed.
pub(super) async fn run(profile: &Profile, arguments: &Arguments) -> Result<Arguments, String> {
    let (action, words) =
        Action::choose(&profile.actions, arguments).map_err(|error| error.to_string())?;
    let limits = Limits {
        total: action.timeout(),
        silence: action.timeout(),
    };
    let mut program = program(&words);
    end_with_us(&mut program);
    let running = Running::start(program).map_err(|error| chain(&error))?;
    let said = running
        .end(limits, &mut Stop::never())
        .await
        .map_err(|error| chain(&error))?;
    Ok(Arguments::from([("output".to_owned(), said.into())]))
}
