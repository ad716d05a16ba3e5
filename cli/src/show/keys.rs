//! Keys of programs.

use comfy_table::Cell;
use lekiwi_protocol::api::KeyInfo;
use lekiwi_protocol::{Permission, Timestamp};

use super::{NONE, finish, table};
use crate::ui::plain;

/// `lekiwi keys`.
pub(crate) fn keys(keys: &[KeyInfo], now: Timestamp, colour: bool) -> String {
    if keys.is_empty() {
        return "there are no keys".into();
    }
    let head = ["key", "name", "may", "where", "until", "last used", "note"];
    let mut table = table(colour, &head);
    for key in keys {
        let may: Vec<&str> = key.permissions.iter().map(Permission::as_str).collect();
        let until = if key.expires_at <= now {
            format!("{} (over)", key.expires_at)
        } else {
            key.expires_at.to_string()
        };
        let used = key.used_at.map(|at| at.to_string());
        table.add_row(vec![
            Cell::new(key.id),
            Cell::new(plain(&key.name)),
            Cell::new(may.join(", ")),
            Cell::new(&key.on),
            Cell::new(until),
            Cell::new(used.unwrap_or_else(|| NONE.to_owned())),
            Cell::new(plain(&key.note)),
        ]);
    }
    finish(&table)
}
