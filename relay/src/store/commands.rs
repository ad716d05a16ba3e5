//! Commands as their events tell of them: a table that is written in the same commit as the events, so that
//! one command or those of one robot are found without reading the log.

use lekiwi_protocol::api::CommandView;
use lekiwi_protocol::message::{Arguments, Command, CommandState, kind};
use lekiwi_protocol::{RobotId, Timestamp};
use serde::Deserialize;
use uuid::Uuid;

use super::database::{Database, Result, Row, values};
use super::records::{NewEvent, OWN_SOURCE};
use super::{Store, StoreError};

/// Commands of one robot that are kept here; the log has all of them.
const KEPT: u64 = 500;

/// What the later events of a command say.
#[derive(Deserialize)]
struct Data {
    id: Uuid,
    #[serde(default)]
    result: Arguments,
    reason: Option<String>,
}

/// Takes what a new event of the log says of a command. Only the relay's own say something.
pub(super) fn project(database: &mut dyn Database, event: &NewEvent) -> Result<()> {
    if !event.kind.starts_with("command.") || !event.source.starts_with(OWN_SOURCE) {
        return Ok(());
    }
    let state = match &*event.kind {
        kind::COMMAND_REQUESTED => return requested(database, event),
        kind::COMMAND_ACCEPTED => CommandState::Accepted,
        kind::COMMAND_RUNNING => CommandState::Running,
        kind::COMMAND_SUCCESSFUL => CommandState::Successful,
        kind::COMMAND_FAILED => CommandState::Failed,
        _ => return Ok(()),
    };
    // The relay wrote it: what cannot be read is of another version, and says nothing here.
    let Ok(data) = serde_json::from_str::<Data>(&event.data) else {
        return Ok(());
    };
    let result = (!data.result.is_empty()).then(|| serde_json::json!(data.result).to_string());
    database.execute(
        "UPDATE commands SET state = ?2, updated = ?3, result = ?4, reason = ?5
         WHERE id = ?1 AND state NOT IN ('successful', 'failed')",
        values![
            data.id.to_string(),
            state.as_str(),
            event.ts_ms,
            result,
            data.reason
        ],
    )?;
    Ok(())
}

fn requested(database: &mut dyn Database, event: &NewEvent) -> Result<()> {
    let Ok(command) = serde_json::from_str::<Command>(&event.data) else {
        return Ok(());
    };
    database.execute(
        "INSERT INTO commands (id, robot, command, issued, state, updated)
         VALUES (?1, ?2, ?3, ?4, 'pending', ?4) ON CONFLICT (id) DO NOTHING",
        values![
            command.id.to_string(),
            event.aggregate_id,
            event.data,
            command.issued_at.as_ms()
        ],
    )?;
    database.execute(
        "DELETE FROM commands WHERE robot = ?1 AND state IN ('successful', 'failed') AND issued <
         (SELECT issued FROM commands WHERE robot = ?1 ORDER BY issued DESC LIMIT 1 OFFSET ?2)",
        values![event.aggregate_id, KEPT - 1],
    )?;
    Ok(())
}

const COLUMNS: &str = "SELECT robot, command, state, updated, result, reason FROM commands";

/// A row; `None` where it is of another version.
fn view(row: &Row<'_>) -> Result<Option<CommandView>> {
    let (robot, command, state): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let updated: u64 = row.get(3)?;
    let (result, reason): (Option<String>, Option<String>) = (row.get(4)?, row.get(5)?);
    let read = || {
        let command: Command = serde_json::from_str(&command).ok()?;
        let result = result.map(|result| serde_json::from_str(&result));
        Some(CommandView {
            id: command.id,
            robot_id: RobotId::new(&robot).ok()?,
            op: command.op,
            arguments: command.arguments,
            by: command.by,
            issued_at: command.issued_at,
            expires_at: command.expires_at,
            state: serde_json::from_value(state.into()).ok()?,
            updated_at: Timestamp::from_ms(updated),
            result: result.transpose().ok()?.unwrap_or_default(),
            reason,
        })
    };
    Ok(read())
}

impl Store {
    /// One command of one robot.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn command(
        &self,
        robot: &RobotId,
        id: Uuid,
    ) -> std::result::Result<Option<CommandView>, StoreError> {
        let robot = robot.clone();
        self.inner
            .readers
            .read("command", move |database| {
                database.row(
                    &format!("{COLUMNS} WHERE id = ?1 AND robot = ?2"),
                    values![id.to_string(), robot.as_str()],
                    view,
                )
            })
            .await
            .map(Option::flatten)
    }

    /// The newest `limit` commands of one robot, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn commands_of_robot(
        &self,
        robot: &RobotId,
        limit: usize,
    ) -> std::result::Result<Vec<CommandView>, StoreError> {
        let robot = robot.clone();
        self.inner
            .readers
            .read("commands_of_robot", move |database| {
                database.rows(
                    &format!("{COLUMNS} WHERE robot = ?1 ORDER BY issued DESC, id LIMIT ?2"),
                    values![robot.as_str(), limit],
                    view,
                )
            })
            .await
            .map(|views| views.into_iter().flatten().collect())
    }

    /// How many commands of one robot have not ended.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn open_commands_of_robot(
        &self,
        robot: &RobotId,
    ) -> std::result::Result<usize, StoreError> {
        let robot = robot.clone();
        self.inner
            .readers
            .read("open_commands_of_robot", move |database| {
                database.value(
                    "SELECT count(*) FROM commands
                     WHERE robot = ?1 AND state NOT IN ('successful', 'failed')",
                    values![robot.as_str()],
                )
            })
            .await
            .map(Option::unwrap_or_default)
    }

    /// All commands that have not ended, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn open_commands(&self) -> std::result::Result<Vec<CommandView>, StoreError> {
        self.inner
            .readers
            .read("open_commands", |database| {
                database.rows(
                    &format!(
                        "{COLUMNS} WHERE state NOT IN ('successful', 'failed') ORDER BY issued, id"
                    ),
                    &[],
                    view,
                )
            })
            .await
            .map(|views| views.into_iter().flatten().collect())
    }
}
