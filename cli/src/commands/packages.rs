//! `lekiwi packages`: what the relay has, where that is what the robot has; otherwise the robot is asked.

use lekiwi_protocol::api::{CommandRequest, PackagesView};
use lekiwi_protocol::message::{Arguments, Op};

use super::command::success;
use crate::args::OneRobot;
use crate::client::Relay;
use crate::failure::Failure;
use crate::show;
use crate::ui::Ui;

pub(super) async fn run(relay: &Relay, arguments: OneRobot, ui: &mut Ui) -> Result<(), Failure> {
    let OneRobot { id: robot, output } = arguments;
    let known = match relay.packages(&robot).await {
        Err(Failure::Refused(problem)) if problem.problem_type.ends_with(":packages-unknown") => {
            None
        }
        other => Some(other?),
    };
    let list: PackagesView = match known.filter(|list| list.is_current != Some(false)) {
        Some(list) => list,
        None => {
            let request = CommandRequest {
                op: Op::ListPackages,
                arguments: Arguments::new(),
                expires_in_s: None,
            };
            let command = relay.command(&robot, &request).await?;
            if success(relay, command, ui).await?.is_none() {
                return Ok(());
            }
            relay.packages(&robot).await?
        }
    };
    if list.is_current.is_none() {
        ui.note(format!(
            "{robot} has not said whether that is what it has now"
        ));
    }
    if output.json {
        super::json(ui, &list)
    } else {
        ui.line(show::packages(&list, ui.colour))
    }
}
