//! `lekiwi bans …`.

use crate::args::bans::{Bans, BansCommand};
use crate::client::Relay;
use crate::failure::Failure;
use crate::show;
use crate::ui::Ui;

pub(super) async fn run(relay: &Relay, arguments: Bans, ui: &mut Ui) -> Result<(), Failure> {
    match arguments.command {
        None => {
            let list = relay.bans().await?;
            if arguments.output.json {
                return super::json(ui, &list);
            }
            ui.line(show::bans(&list.bans, ui.colour))
        }
        Some(BansCommand::Lift { who }) => {
            relay.lift_ban(&who).await?;
            ui.line(format!("{who} may come again"))
        }
    }
}
