//! The driver's part beside an older system: what its agent says becomes this robot's facts, and this robot
//! is written to the older relay at each heartbeat.

use std::time::Instant;

use lekiwi_protocol::message::{kind, metric};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Driver;
use crate::clock;
use crate::config::{Config, MigrationConfig};
use crate::ipc::Question;
use crate::migration::{self, Robot};

/// What runs beside the agent for an older system.
pub(super) struct Migration {
    listener: Option<JoinHandle<()>>,
    mirror: Option<mpsc::Sender<Robot>>,
    next_mirror: Instant,
    /// What was last heard of the older system's robot.
    heard: Robot,
}

impl Drop for Migration {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

impl Migration {
    /// Begins what `config` asks for; what cannot be begun is said, and the rest goes on.
    pub(super) fn start(config: &Config, driver: &mpsc::Sender<Question>) -> Option<Self> {
        let MigrationConfig {
            listen,
            mirror,
            api_key_file,
        } = config.migration.as_ref()?;
        let key = match api_key_file.as_ref().map(std::fs::read_to_string) {
            None => None,
            Some(Ok(key)) if !key.trim().is_empty() => Some(key.trim().to_owned()),
            Some(other) => {
                let why = other.err();
                let why = why.map_or("it is empty".to_owned(), |error| error.to_string());
                log::error!("migration is off: migration.api_key_file is of no use: {why}");
                return None;
            }
        };
        let listener = listen.and_then(|address| {
            migration::listen(address, key.clone(), driver.clone())
                .inspect_err(|error| log::error!("nobody listens at {address}: {error}"))
                .ok()
        });
        let mirror = mirror.clone();
        Some(Self {
            listener,
            mirror: mirror.map(|address| migration::mirror(address, key, &config.robot_id)),
            next_mirror: clock::now(),
            heard: Robot::default(),
        })
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.mirror.as_ref().map(|_| self.next_mirror)
    }
}

impl Driver {
    /// The older system's agent said how the robot is.
    pub(super) fn legacy(&mut self, now: Instant, robot: Robot) -> Result<(), String> {
        if let Some(battery) = robot.battery {
            if !(0.0..=100.0).contains(&battery) {
                return Err(format!("expected a battery from 0 to 100, got {battery}"));
            }
            self.debouncer
                .observe(now, metric::BATTERY_PERCENT, "", battery);
        }
        if let Some(position) = robot.position {
            for (axis, value) in [
                ("position_x", position.x),
                ("position_y", position.y),
                ("position_z", position.z),
            ] {
                self.debouncer.observe(now, metric::LEGACY, axis, value);
            }
        }
        let Some(migration) = &mut self.local.migration else {
            return Ok(());
        };
        // Its relay merges as well: what is absent has not changed.
        let heard = &mut migration.heard;
        let before = heard.clone();
        heard.robot_id = robot.robot_id;
        heard.mode = robot.mode.or(heard.mode.take());
        heard.status = robot.status.or(heard.status.take());
        heard.current_task = robot.current_task.or(heard.current_task.take());
        let is_renamed = heard.robot_id != before.robot_id;
        if *heard != before {
            let data = json!(heard);
            log::info!("{}: {data}", kind::LEGACY_CHANGED);
            self.event(kind::LEGACY_CHANGED, data);
        }
        if is_renamed {
            self.local.states.want();
        }
        Ok(())
    }

    /// What the older system calls this robot, once its agent has said so.
    pub(super) fn aliases(&self) -> Vec<String> {
        let heard = self.local.migration.iter();
        let ids = heard.filter_map(|migration| migration.heard.robot_id.clone());
        ids.filter(|id| *id != self.config.robot_id.as_str())
            .collect()
    }

    /// Writes this robot to the older relay when it is time.
    pub(super) fn mirror(&mut self, now: Instant) {
        let heartbeat = self.config.heartbeat;
        let mode = self.operating_mode();
        let due = self
            .local
            .migration
            .as_mut()
            .filter(|migration| migration.poll_timeout().is_some_and(|at| at <= now));
        let Some(migration) = due else {
            return;
        };
        migration.next_mirror = now + heartbeat;
        let newest = |name: &str| {
            let mut metrics = self.debouncer.newest();
            metrics.find_map(|(metric, value)| (metric.as_str() == name).then_some(value))
        };
        let text = |value: serde_json::Value| value.as_str().map(str::to_owned);
        let robot = Robot {
            robot_id: Some(self.config.robot_id.to_string()),
            battery: newest(metric::BATTERY_PERCENT),
            mode: text(json!(mode)),
            status: text(json!(self.lifecycle.activity())),
            timestamp: Some(clock::wall().as_ms() as f64 / 1000.0),
            ..Robot::default()
        };
        if let Some(mirror) = &migration.mirror {
            // Full while the older relay is slow: the next one is newer.
            let _ = mirror.try_send(robot);
        }
    }
}
