//! The driver's part beside an older system: what its agent says becomes this robot's facts, and this robot
//! is written to the older relay at each heartbeat.

use std::time::{Duration, Instant};

use lekiwi_agent_core::bucket::Bucket;
use lekiwi_protocol::message::{kind, metric};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Driver;
use crate::clock;
use crate::config::{Config, MigrationConfig};
use crate::ipc::Question;
use crate::migration::{self, Robot};

/// Changes of the older system's robot that are told at once, and the time after which one more is: each is a write to
/// the card, and no other program may cause more of them.
const CHANGES: Bucket = Bucket::new(6, Duration::from_secs(50));

/// What runs beside the agent for an older system.
pub(super) struct Migration {
    listener: Option<JoinHandle<()>>,
    mirror: Option<mpsc::Sender<Robot>>,
    next_mirror: Instant,
    /// What was last heard of the older system's robot.
    heard: Robot,
    changes: Changes,
}

/// When a change of what was heard is told: at once, or, when there were many, the last of them later.
#[derive(Debug)]
struct Changes {
    told: Robot,
    pace: Bucket,
    later: Option<Instant>,
}

impl Changes {
    fn new() -> Self {
        Self {
            told: Robot::default(),
            pace: CHANGES,
            later: None,
        }
    }

    /// Whether `heard` is to be told now.
    fn poll(&mut self, now: Instant, heard: &Robot) -> bool {
        self.later = None;
        if *heard == self.told {
            return false;
        }
        match self.pace.take(now) {
            Ok(()) => {
                self.told = heard.clone();
                true
            }
            Err(wait) => {
                self.later = Some(now + wait);
                false
            }
        }
    }
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
            changes: Changes::new(),
        })
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let mirror = self.mirror.as_ref().map(|_| self.next_mirror);
        mirror.into_iter().chain(self.changes.later).min()
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
        let is_renamed = heard.robot_id != robot.robot_id;
        heard.robot_id = robot.robot_id;
        heard.mode = robot.mode.or(heard.mode.take());
        heard.status = robot.status.or(heard.status.take());
        heard.current_task = robot.current_task.or(heard.current_task.take());
        if is_renamed {
            self.local.states.want();
        }
        self.tell_legacy(now);
        Ok(())
    }

    /// Tells what the older system changed, when it may be told.
    fn tell_legacy(&mut self, now: Instant) {
        let Some(migration) = &mut self.local.migration else {
            return;
        };
        if migration.changes.poll(now, &migration.heard) {
            let data = json!(migration.heard);
            log::info!("{}: {data}", kind::LEGACY_CHANGED);
            self.event(kind::LEGACY_CHANGED, data);
        }
    }

    /// What waited until it may be told, and this robot for the older relay.
    pub(super) fn look_after_migration(&mut self, now: Instant) {
        let migration = self.local.migration.as_ref();
        let later = migration.and_then(|migration| migration.changes.later);
        if later.is_some_and(|at| at <= now) {
            self.tell_legacy(now);
        }
        self.mirror(now);
    }

    /// What the older system calls this robot, once its agent has said so.
    pub(super) fn aliases(&self) -> Vec<String> {
        let heard = self.local.migration.iter();
        let ids = heard.filter_map(|migration| migration.heard.robot_id.clone());
        ids.filter(|id| *id != self.config.robot_id.as_str())
            .collect()
    }

    /// Writes this robot to the older relay when it is time.
    fn mirror(&mut self, now: Instant) {
        let heartbeat = self.config.heartbeat;
        let mode = self.operating_mode();
        let due = self
            .local
            .migration
            .as_mut()
            .filter(|migration| migration.mirror.is_some() && migration.next_mirror <= now);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An older agent whose robot changes with every heartbeat.
    #[test]
    fn changes_are_few_and_the_last_one_is_told() {
        let robot = |task: u32| Robot {
            current_task: Some(format!("task {task}")),
            ..Robot::default()
        };
        let start = clock::now();
        let mut changes = Changes::new();
        let mut told = Vec::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            let task = u32::try_from(second).unwrap_or_default();
            if changes.poll(now, &robot(task)) {
                told.push(task);
            }
        }
        let at_once = 0..6;
        let later = (1..12).map(|many| many * 50);
        assert_eq!(told, at_once.chain(later).collect::<Vec<_>>());
        let due = changes.later;
        assert_eq!(due, Some(start + Duration::from_secs(600)));
        let now = start + Duration::from_secs(600);
        assert!(changes.poll(now, &robot(599)), "the last one");
        assert!(!changes.poll(now, &robot(599)), "once");
        assert_eq!(changes.later, None);
    }
}
