//! Desired configurations as their events tell of them: a table that is written in the same commit as the
//! events, so that those of one robot are found without reading the log.

use lekiwi_protocol::RobotId;
use lekiwi_protocol::message::{ConfigurationState, Desired, kind};
use serde::Deserialize;

use super::database::{Database, Result, values};
use super::records::{NewEvent, OWN_SOURCE};
use super::{Store, StoreError};

/// Versions of one robot that are kept here; the log has all of them.
const KEPT: u64 = 100;

/// What the later events of a version say.
#[derive(Deserialize)]
struct Data {
    version: u64,
}

/// Takes what a new event of the log says of a configuration. Only the relay's own say something.
pub(super) fn project(database: &mut dyn Database, event: &NewEvent) -> Result<()> {
    if !event.kind.starts_with("configuration.") || !event.source.starts_with(OWN_SOURCE) {
        return Ok(());
    }
    let state = match &*event.kind {
        kind::CONFIGURATION_DESIRED => return desired(database, event),
        kind::CONFIGURATION_APPLIED => ConfigurationState::Applied,
        kind::CONFIGURATION_REJECTED => ConfigurationState::Rejected,
        kind::CONFIGURATION_ROLLED_BACK => ConfigurationState::RolledBack,
        _ => return Ok(()),
    };
    // The relay wrote it: what cannot be read is of another version, and says nothing here.
    let Ok(Data { version }) = serde_json::from_str(&event.data) else {
        return Ok(());
    };
    database.execute(
        "UPDATE configurations SET state = ?3 WHERE robot = ?1 AND version = ?2",
        values![event.aggregate_id, version, state.as_str()],
    )?;
    Ok(())
}

fn desired(database: &mut dyn Database, event: &NewEvent) -> Result<()> {
    let Ok(Desired { version, .. }) = serde_json::from_str(&event.data) else {
        return Ok(());
    };
    database.execute(
        "INSERT INTO configurations (robot, version, desired) VALUES (?1, ?2, ?3)
         ON CONFLICT (robot, version) DO NOTHING",
        values![event.aggregate_id, version, event.data],
    )?;
    database.execute(
        "DELETE FROM configurations WHERE robot = ?1 AND version <
         (SELECT version FROM configurations WHERE robot = ?1 ORDER BY version DESC LIMIT 1 OFFSET ?2)",
        values![event.aggregate_id, KEPT - 1],
    )?;
    Ok(())
}

impl Store {
    /// The newest version of each robot, and whether the log has what became of it. What is of another version
    /// of the relay is left out.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn desired_configurations(
        &self,
    ) -> std::result::Result<Vec<(RobotId, Desired, bool)>, StoreError> {
        self.inner
            .readers
            .read("desired_configurations", |database| {
                database.rows(
                    "SELECT robot, desired, state IS NOT NULL FROM configurations c WHERE version =
                     (SELECT max(version) FROM configurations n WHERE n.robot = c.robot) ORDER BY robot",
                    &[],
                    |row| {
                        let (robot, desired): (String, String) = (row.get(0)?, row.get(1)?);
                        let is_settled: bool = row.get(2)?;
                        let read = || {
                            let robot = RobotId::new(&robot).ok()?;
                            Some((robot, serde_json::from_str(&desired).ok()?, is_settled))
                        };
                        Ok(read())
                    },
                )
            })
            .await
            .map(|rows| rows.into_iter().flatten().collect())
    }

    /// One version of one robot.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn desired_configuration(
        &self,
        robot: &RobotId,
        version: u64,
    ) -> std::result::Result<Option<Desired>, StoreError> {
        let of_version = "SELECT desired FROM configurations WHERE robot = ?1 AND version = ?2";
        self.read_desired(of_version, robot, version).await
    }

    /// The newest version of one robot before `version` that the robot applied.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn applied_configuration_before(
        &self,
        robot: &RobotId,
        version: u64,
    ) -> std::result::Result<Option<Desired>, StoreError> {
        let applied_before = "SELECT desired FROM configurations
             WHERE robot = ?1 AND version < ?2 AND state = 'applied' ORDER BY version DESC LIMIT 1";
        self.read_desired(applied_before, robot, version).await
    }

    /// What `query` finds with a robot and a version.
    async fn read_desired(
        &self,
        query: &'static str,
        robot: &RobotId,
        version: u64,
    ) -> std::result::Result<Option<Desired>, StoreError> {
        let robot = robot.clone();
        let read = move |database: &mut dyn Database| {
            database.value(query, values![robot.as_str(), version])
        };
        let json: Option<String> = self.inner.readers.read("read_desired", read).await?;
        Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
    }
}
