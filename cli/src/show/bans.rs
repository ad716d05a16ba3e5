//! Who is not let in for a while.

use comfy_table::Cell;
use lekiwi_protocol::api::Ban;

use super::{finish, table};
use crate::ui::plain;

/// `lekiwi bans`.
pub(crate) fn bans(bans: &[Ban], colour: bool) -> String {
    if bans.is_empty() {
        return "nobody is banned".into();
    }
    let mut table = table(colour, &["who", "what for", "ban", "until"]);
    for ban in bans {
        table.add_row(vec![
            Cell::new(plain(&ban.who)),
            Cell::new(plain(&ban.reason)),
            Cell::new(ban.count),
            Cell::new(ban.until),
        ]);
    }
    finish(&table)
}
