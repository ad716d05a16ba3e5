//! Who may use the relay, and what they may.

mod identities;

use comfy_table::Cell;
use lekiwi_protocol::Permission;
use lekiwi_protocol::api::{Grant, Group, Loan, Me, Person, SessionView};

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
        "password",
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
            Cell::new(if person.has_password { "yes" } else { "no" }),
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
    format!("you are {}\n\n{}", me.name, finish(&table))
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
