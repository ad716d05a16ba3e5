//! Certificates of robots and programs.

use comfy_table::Cell;
use lekiwi_protocol::api::IdentityView;

use super::super::{finish, table};
use crate::ui::plain;

/// `lekiwi identity list`.
pub(crate) fn identities(identities: &[IdentityView], colour: bool) -> String {
    if identities.is_empty() {
        return "there is no certificate".into();
    }
    let mut table = table(colour, &["name", "serial", "state", "ends"]);
    for identity in identities {
        table.add_row(vec![
            Cell::new(plain(&identity.name)),
            Cell::new(plain(&identity.serial)),
            Cell::new(identity.state.as_str()),
            Cell::new(identity.not_after),
        ]);
    }
    finish(&table)
}
