//! Commands, and how far they are.

use comfy_table::{Cell, Color};
use lekiwi_protocol::api::CommandView;
use lekiwi_protocol::message::{Arguments, CommandState};

use super::{finish, table};
use crate::ui::plain;

/// `key=value` pairs; texts without quotes.
fn values(values: &Arguments) -> String {
    let pair = |(key, value): (&String, &serde_json::Value)| match value.as_str() {
        Some(text) => format!("{}={}", plain(key), plain(text)),
        None => format!("{}={}", plain(key), plain(&value.to_string())),
    };
    values.iter().map(pair).collect::<Vec<_>>().join(" ")
}

/// What came of a command, or why nothing did.
fn outcome(command: &CommandView) -> String {
    match &command.reason {
        Some(reason) => plain(reason),
        None => values(&command.result),
    }
}

/// One line on where a command is.
pub(crate) fn command(command: &CommandView) -> String {
    let line = format!(
        "{}  {} {}  {}  {}",
        command.id,
        command.robot_id,
        command.op,
        command.state,
        outcome(command)
    );
    line.trim_end().to_owned()
}

/// The same while it is waited for.
pub(crate) fn progress(command: &CommandView) -> String {
    match command.state {
        CommandState::Pending => format!("{} is sent to {}", command.op, command.robot_id),
        state => format!("{} of {} is {state}", command.op, command.robot_id),
    }
}

/// `lekiwi commands ID`.
pub(crate) fn commands(commands: &[CommandView], colour: bool) -> String {
    if commands.is_empty() {
        return "no commands".into();
    }
    let mut table = table(
        colour,
        &["id", "issued", "by", "command", "state", "outcome"],
    );
    for command in commands {
        let hue = match command.state {
            CommandState::Successful => Color::Green,
            CommandState::Failed => Color::Red,
            _ => Color::Yellow,
        };
        let what = format!("{} {}", command.op, values(&command.arguments));
        table.add_row(vec![
            Cell::new(command.id),
            Cell::new(command.issued_at),
            Cell::new(plain(&command.by)),
            Cell::new(what.trim_end()),
            Cell::new(command.state).fg(hue),
            Cell::new(outcome(command)),
        ]);
    }
    finish(&table)
}
