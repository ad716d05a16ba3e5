//! `lekiwi token …`.

use lekiwi_protocol::api::TokenRequest;
use uuid::Uuid;

use crate::args::{Json, TokenCreate};
use crate::client::Relay;
use crate::failure::Failure;
use crate::ui::{Ui, plain};
use crate::{clock, show};

pub(super) async fn create(
    relay: &Relay,
    arguments: TokenCreate,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let request = TokenRequest {
        profile: arguments.profile,
        serial: arguments.serial,
        robot_id: arguments.robot,
        lifetime_s: arguments.lifetime.map(|lifetime| lifetime.as_secs()),
        max_uses: arguments.max_uses,
    };
    let created = relay.create_token(&request).await?;
    if arguments.output.json {
        return super::json(ui, &created);
    }
    // The secret alone on standard output: `TOKEN=$(lekiwi token create)` works.
    ui.line(plain(&created.token))?;
    ui.note(format!(
        "good for {} until {}; shown only now (revoke it with `lekiwi token revoke {}`)",
        match created.info.max_uses {
            1 => "one robot".to_owned(),
            n => format!("{n} robots"),
        },
        created.info.expires_at,
        created.info.id
    ));
    Ok(())
}

pub(super) async fn list(relay: &Relay, output: &Json, ui: &mut Ui) -> Result<(), Failure> {
    let list = relay.tokens().await?;
    if output.json {
        return super::json(ui, &list);
    }
    ui.line(show::tokens(&list.tokens, clock::now(), ui.colour))
}

pub(super) async fn revoke(relay: &Relay, id: Uuid, ui: &mut Ui) -> Result<(), Failure> {
    relay.revoke_token(id).await?;
    ui.line(format!("revoked {id}"))
}
