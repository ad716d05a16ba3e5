//! Who may use the relay, and what they may.

mod identities;

use comfy_table::Cell;
use lekiwi_protocol::api::{Grant, Group, Invitation, KeyInfo, Loan, Me, Person, SessionView};
use lekiwi_protocol::{Permission, Timestamp};

pub(crate) use self::identities::identities;
use super::{NONE, finish, table};
use crate::ui::plain;

fn role(grant: &Grant) -> String {
    match grant.until {
        None => format!("{} on {}", grant.role, grant.on),
        Some(until) => format!("{} on {} until {until}", grant.role, grant.on),
    }
}

fn list(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() {
        NONE.into()
    } else {
        texts.join(", ")
    }
}

/// `lekiwi people`.
pub(crate) fn people(people: &[Person], colour: bool) -> String {
    let head = [
        "who",
        "roles",
        "lent to them",
        "sessions",
        "logs in by",
        "since",
    ];
    let mut table = table(colour, &head);
    for person in people {
        let lent = |loan: &Loan| format!("{} by {} until {}", loan.robot_id, loan.by, loan.until);
        let name = match person.disabled_at {
            None => person.name.to_string(),
            Some(at) => format!("{} (disabled {at})", person.name),
        };
        table.add_row(vec![
            Cell::new(name),
            Cell::new(list(person.roles.iter().map(role))),
            Cell::new(list(person.loans.iter().map(lent))),
            Cell::new(person.sessions),
            Cell::new(
                match (
                    &person.issuer,
                    person.has_password,
                    person.has_second_factor,
                ) {
                    (Some(issuer), ..) => plain(issuer),
                    (None, false, _) => NONE.into(),
                    (None, true, false) => "password".into(),
                    (None, true, true) => "password and second factor".into(),
                },
            ),
            Cell::new(person.created_at),
        ]);
    }
    finish(&table)
}

/// `lekiwi groups`.
pub(crate) fn groups(groups: &[Group], colour: bool) -> String {
    if groups.is_empty() {
        return "there are no groups".into();
    }
    let mut table = table(colour, &["group", "robots"]);
    for group in groups {
        table.add_row(vec![
            Cell::new(&group.name),
            Cell::new(list(group.robots.iter().map(ToString::to_string))),
        ]);
    }
    finish(&table)
}

/// `lekiwi lend ROBOT`.
pub(crate) fn loans(loans: &[Loan], colour: bool) -> String {
    if loans.is_empty() {
        return "it is lent to nobody".into();
    }
    let mut table = table(colour, &["to", "by", "until"]);
    for loan in loans {
        table.add_row(vec![
            Cell::new(&loan.to),
            Cell::new(&loan.by),
            Cell::new(loan.until),
        ]);
    }
    finish(&table)
}

/// `lekiwi invite`.
pub(crate) fn invitations(invitations: &[Invitation], colour: bool) -> String {
    if invitations.is_empty() {
        return "nobody is invited".into();
    }
    let mut table = table(colour, &["invitation", "who", "roles", "by", "until", "is"]);
    for invitation in invitations {
        table.add_row(vec![
            Cell::new(plain(&invitation.id)),
            Cell::new(&invitation.name),
            Cell::new(list(invitation.roles.iter().map(role))),
            Cell::new(&invitation.by),
            Cell::new(invitation.expires_at),
            Cell::new(invitation.state.as_str()),
        ]);
    }
    finish(&table)
}

/// `lekiwi me`.
pub(crate) fn me(me: &Me, colour: bool) -> String {
    let mut table = table(colour, &["where", "by", "you may", "until"]);
    for right in &me.rights {
        let may = right.permissions.iter().map(Permission::as_str);
        table.add_row(vec![
            Cell::new(&right.on),
            Cell::new(plain(&right.by)),
            Cell::new(list(may.map(str::to_owned))),
            Cell::new(
                right
                    .until
                    .map_or_else(|| NONE.to_owned(), |until| until.to_string()),
            ),
        ]);
    }
    let factor = if me.has_second_factor {
        let left = me.recovery_codes;
        format!(", and log in with a second factor ({left} recovery codes are left)")
    } else {
        String::new()
    };
    format!("you are {}{factor}\n\n{}", me.name, finish(&table))
}

/// `lekiwi me sessions`.
pub(crate) fn sessions(sessions: &[SessionView], colour: bool) -> String {
    let mut table = table(colour, &["session", "since", "until", "from", "program"]);
    for session in sessions {
        let id = if session.is_this {
            format!("{} (this one)", plain(&session.id))
        } else {
            plain(&session.id)
        };
        table.add_row(vec![
            Cell::new(id),
            Cell::new(session.created_at),
            Cell::new(session.expires_at),
            Cell::new(plain(&session.address)),
            Cell::new(plain(&session.agent)),
        ]);
    }
    finish(&table)
}

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
