//! `lekiwi identity …`.

use super::rotate;
use crate::args::identities::{Identity, List};

use crate::client::Relay;
use crate::clock;
use crate::failure::Failure;
use crate::show;
use crate::ui::Ui;

pub(super) async fn run(relay: Relay, identity: Identity, ui: &mut Ui) -> Result<(), Failure> {
    match identity {
        Identity::List(List {
            name,
            all,
            ending_within,
            output,
        }) => {
            let mut list = relay.identities(name.as_deref(), all).await?;
            if let Some(within) = ending_within {
                let then = clock::now().plus(within);
                list.identities.retain(|it| it.not_after <= then);
            }
            if output.json {
                return super::json(ui, &list);
            }
            ui.line(show::identities(&list.identities, ui.colour))
        }
        Identity::Rotate(arguments) => rotate::run(relay, arguments, ui).await,
        Identity::Revoke { serial } => {
            let revoked = relay.revoke_identity(&serial).await?;
            let text = match revoked.serials.as_slice() {
                [] => format!("{serial} was revoked before"),
                serials => format!("revoked: {}", serials.join(", ")),
            };
            ui.line(text)
        }
    }
}
