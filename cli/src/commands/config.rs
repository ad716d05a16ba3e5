//! `lekiwi config get`, `set` and `rollback`.

use std::path::Path;
use std::time::Duration;

use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::{ConfigurationRequest, ConfigurationView, RollbackRequest};
use lekiwi_protocol::message::{ConfigurationState, Settings};
use lekiwi_protocol::yaml;
use serde_json::Value;

use super::trust;
use crate::args::{Config, ConfigSet};
use crate::client::Relay;
use crate::failure::Failure;
use crate::show;
use crate::ui::Ui;

/// Time between two looks at a version that is waited for.
const LOOK: Duration = Duration::from_millis(250);

pub(super) async fn run(relay: &Relay, config: Config, ui: &mut Ui) -> Result<(), Failure> {
    match config {
        Config::Get(robot) => {
            let view = relay.configuration(&robot.id).await?;
            if robot.output.json {
                super::json(ui, &view)
            } else {
                ui.line(show::configuration(&view))
            }
        }
        Config::Set(arguments) => {
            let request = request(relay, &arguments).await?;
            let view = relay.configure(&arguments.id, &request).await?;
            let (wait, json) = (arguments.wait.wait, arguments.wait.output.json);
            follow(relay, &arguments.id, view, wait, json, ui).await
        }
        Config::Rollback(arguments) => {
            let request = RollbackRequest { to: arguments.to };
            let view = relay.roll_back(&arguments.id, &request).await?;
            let (wait, json) = (arguments.wait.wait, arguments.wait.output.json);
            follow(relay, &arguments.id, view, wait, json, ui).await
        }
    }
}

/// A file or what was signed replaces everything, keys change what there is; of what the robot refused nothing is left.
async fn request(relay: &Relay, arguments: &ConfigSet) -> Result<ConfigurationRequest, Failure> {
    let confirm_within_s = arguments.confirm_within.map(|time| time.as_secs());
    if let Some(path) = &arguments.file {
        return Ok(ConfigurationRequest {
            settings: read(path)?,
            confirm_within_s,
            base_version: None,
            proof: None,
        });
    }
    if let (Some(signed), Some(trust)) = (&arguments.signed, &arguments.trust) {
        let (robot, signatures) = (&arguments.id, &arguments.signatures);
        let (settings, proof) = trust::proof(signed, signatures, trust, robot)?;
        return Ok(ConfigurationRequest {
            settings,
            confirm_within_s,
            base_version: None,
            proof: Some(proof),
        });
    }
    let view = relay.configuration(&arguments.id).await?;
    let mut settings = view.base().map_err(|version| Failure::UnknownBase {
        robot: arguments.id.clone(),
        version,
    })?;
    for (key, value) in &arguments.settings {
        change(&mut settings, key, value.clone());
    }
    Ok(ConfigurationRequest {
        settings,
        confirm_within_s,
        base_version: Some(view.desired.map_or(0, |desired| desired.version)),
        proof: None,
    })
}

pub(super) fn read(path: &Path) -> Result<Settings, Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| Failure::File {
        path: path.to_owned(),
        did: "read",
        source,
    })?;
    yaml::parse(&text, &path.display().to_string()).map_err(Failure::Settings)
}

/// The levels of a key. Names of metrics may have dots, names of their fields have none.
fn levels(key: &str) -> Vec<&str> {
    match key.strip_prefix("telemetry.metrics.") {
        Some(rest) => {
            let (metric, field) = rest.rsplit_once('.').unwrap_or((rest, ""));
            let levels = ["telemetry", "metrics", metric, field];
            levels
                .into_iter()
                .filter(|level| !level.is_empty())
                .collect()
        }
        None => key.split('.').collect(),
    }
}

/// Sets one key, or takes it away where the value is an empty text; levels that are empty then go as well.
pub(super) fn change(settings: &mut Settings, key: &str, value: Value) {
    let mut all = Value::Object(std::mem::take(settings).into_iter().collect());
    place(&mut all, &levels(key), value);
    if let Value::Object(all) = all {
        settings.extend(all);
    }
}

fn place(at: &mut Value, levels: &[&str], value: Value) {
    let Some((level, rest)) = levels.split_first() else {
        *at = value;
        return;
    };
    if !at.is_object() {
        *at = Value::Object(serde_json::Map::new());
    }
    let Value::Object(map) = at else {
        return;
    };
    let below = map.entry(*level).or_insert(Value::Null);
    place(below, rest, value);
    let is_nothing = match below {
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    if is_nothing {
        map.remove(*level);
    }
}

/// Shows what was wanted, and waits for what becomes of it.
async fn follow(
    relay: &Relay,
    robot: &RobotId,
    mut view: ConfigurationView,
    wait: bool,
    json: bool,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let version = view.desired.as_ref().map_or(0, |desired| desired.version);
    if wait {
        ui.note(format!("version {version} is sent to {robot}"));
        let ended = tokio::select! {
            ended = end(relay, robot, version, &mut view) => Some(ended?),
            _ = tokio::signal::ctrl_c() => None,
        };
        if ended.is_none() {
            ui.note(format!(
                "`lekiwi config get {robot}` shows what becomes of it"
            ));
            return Ok(());
        }
    }
    if json {
        super::json(ui, &view)?;
    } else {
        ui.line(show::configuration(&view))?;
    }
    match &view.reported {
        Some(said) if wait && !said.follows(version) => Err(Failure::Configuration {
            robot: robot.clone(),
            version,
            state: said.state,
            reason: if said.version == version {
                said.reason.clone().unwrap_or_default()
            } else {
                format!("the robot has version {}", said.version)
            },
        }),
        _ => Ok(()),
    }
}

async fn end(
    relay: &Relay,
    robot: &RobotId,
    version: u64,
    view: &mut ConfigurationView,
) -> Result<(), Failure> {
    loop {
        if let Some(said) = &view.reported
            && said.version >= version
            && said.state != ConfigurationState::Trying
        {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
        match relay.configuration(robot).await {
            Ok(newer) => *view = newer,
            // The relay starts anew, say: the version is on its disk.
            Err(failure) if failure.is_temporary() => {}
            Err(failure) => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_change_what_there_is() {
        let mut settings = Settings::new();
        for (key, value, expected) in [
            ("heartbeat_s", json!(5), json!({ "heartbeat_s": 5 })),
            (
                "telemetry.metrics.cpu_percent.0.deadband",
                json!(2.5),
                json!({ "heartbeat_s": 5, "telemetry": { "metrics": { "cpu_percent.0": { "deadband": 2.5 } } } }),
            ),
            (
                "heartbeat_s",
                json!(""),
                json!({ "telemetry": { "metrics": { "cpu_percent.0": { "deadband": 2.5 } } } }),
            ),
            (
                "telemetry.metrics.cpu_percent.0.keep_alive_s",
                json!(9),
                json!({ "telemetry": { "metrics": { "cpu_percent.0": { "deadband": 2.5, "keep_alive_s": 9 } } } }),
            ),
            (
                "telemetry.metrics.cpu_percent.0.deadband",
                json!(""),
                json!({ "telemetry": { "metrics": { "cpu_percent.0": { "keep_alive_s": 9 } } } }),
            ),
            (
                "telemetry.metrics.cpu_percent.0.keep_alive_s",
                json!(""),
                json!({}),
            ),
            ("no.such", json!(""), json!({})),
        ] {
            change(&mut settings, key, value);
            assert_eq!(json!(settings), expected, "{key}");
        }
    }
}
