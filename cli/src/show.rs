//! Answers as tables and lines for people. Pure: values in, text out; what robots and relays say cannot harm the terminal.

mod alerts;
mod bans;
mod commands;
mod configuration;
mod discovered;
mod packages;
mod people;
mod telemetry;

use comfy_table::{Cell, Color, Table, presets};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::{EventRecord, Live, RobotList, RobotView, Status, TokenInfo};
use lekiwi_protocol::message::{
    ConnectionState, Metrics, RegistrationStatus, RobotHealth, Service, ServiceKind, ServiceState,
    SetupStatus, metric,
};

use crate::ui::plain;
pub(crate) use alerts::{alert, alert_history, alerts, rules, silence, silences};
pub(crate) use bans::bans;
pub(crate) use commands::{command, commands, progress};
pub(crate) use configuration::configuration;
pub(crate) use discovered::discovered;
pub(crate) use packages::packages;
pub(crate) use people::{groups, identities, invitations, keys, loans, me, people, sessions};
pub(crate) use telemetry::{CHART_WIDTH, chart, csv};

const NONE: &str = "–";

fn table(colour: bool, head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(
        head.iter()
            .map(|title| Cell::new(title.to_uppercase()))
            .collect::<Vec<_>>(),
    );
    table
}

fn finish(table: &Table) -> String {
    // Without borders each cell still has a space on both sides.
    table
        .lines()
        .map(|line| {
            line.strip_prefix(' ')
                .unwrap_or(&line)
                .trim_end()
                .to_owned()
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn presence(status: &Status) -> (&'static str, Color) {
    match status {
        Status {
            last_seen: None, ..
        } => ("never seen", Color::DarkGrey),
        Status { stale: true, .. } => ("stale", Color::Yellow),
        Status { online: true, .. } => ("online", Color::Green),
        _ => ("offline", Color::Red),
    }
}

/// In a word: `healthy`, `unhealthy`, or where the setup stands; nothing of a robot that says nothing.
fn health(health: Option<&RobotHealth>) -> (String, Color) {
    match health {
        None => (NONE.into(), Color::DarkGrey),
        Some(RobotHealth { healthy: true, .. }) => ("healthy".into(), Color::Green),
        Some(health) => match health.setup {
            SetupStatus::Done if health.failing.is_empty() => ("starting".into(), Color::Yellow),
            SetupStatus::Done => ("unhealthy".into(), Color::Red),
            SetupStatus::Failed => ("setup failed".into(), Color::Red),
            setup => (format!("setup {setup}"), Color::Yellow),
        },
    }
}

/// Where a robot stands matters more than whether it is there.
fn state(robot: &RobotView) -> (&'static str, Color) {
    match robot.registration.status {
        RegistrationStatus::Registered => presence(&robot.status),
        RegistrationStatus::Quarantined => ("quarantined", Color::Magenta),
        RegistrationStatus::Rejected => ("rejected", Color::DarkGrey),
    }
}

/// One line on where a robot stands, with the reason.
pub(crate) fn standing(robot: &RobotView) -> String {
    let known = &robot.registration;
    let status = known.status;
    let detail = match (&known.reason, &known.approved_by, status) {
        (Some(reason), _, _) => format!(": {reason}"),
        (None, Some(by), RegistrationStatus::Registered) => {
            format!(" as {}, approved by {by}", robot.robot_type)
        }
        (None, _, _) => String::new(),
    };
    plain(&format!("{} is {status}{detail}", robot.id))
}

/// `3 s ago`, `5 min ago`, `2 h ago`, `4 d ago`.
fn ago(at: Option<Timestamp>, now: Timestamp) -> String {
    let Some(at) = at else { return "never".into() };
    match now.since(at).as_secs() {
        0 => "now".into(),
        s => format!("{} ago", span(s)),
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3_600 => format!("{} min", s / 60),
        s @ 3_600..86_400 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

fn figure(name: &str, value: f64) -> String {
    let rounded = format!("{value:.1}");
    match metric::unit(name) {
        "s" => span(value.max(0.0) as u64),
        "" => rounded,
        unit if unit.starts_with('B') => format!("{value:.0} {unit}"),
        unit => format!("{rounded} {unit}"),
    }
}

/// `active, 2 restarts, 51200000 B`; a check answers or does not.
fn doing(service: &Service) -> String {
    let word = match (service.state, service.kind) {
        (ServiceState::Unknown, _) => "not looked at yet",
        (ServiceState::Active, ServiceKind::Check) => "answers",
        (ServiceState::Inactive, ServiceKind::Check) => "does not answer",
        (ServiceState::Active, ServiceKind::RosNode) => "present",
        (ServiceState::Inactive, ServiceKind::RosNode) => "absent",
        (ServiceState::Active, _) => "active",
        (ServiceState::Restarting, _) => "restarting",
        (ServiceState::Inactive, _) => "inactive",
    };
    let mut words = vec![word.to_owned()];
    if service.flapping {
        words.push("flapping".to_owned());
    }
    match service.restarts {
        0 => {}
        1 => words.push("1 restart".to_owned()),
        restarts => words.push(format!("{restarts} restarts")),
    }
    let memory = service.memory_bytes;
    words.extend(memory.map(|bytes| figure(metric::SERVICE_MEMORY_BYTES, bytes as f64)));
    words.join(", ")
}

fn resource(metrics: &Metrics, name: &str) -> String {
    metrics
        .get(name)
        .map_or_else(|| NONE.into(), |value| figure(name, *value))
}

/// `lekiwi robots`; ages are those at `then`.
pub(crate) fn robots(list: &RobotList, then: Timestamp, colour: bool) -> String {
    if list.robots.is_empty() {
        return "no robots yet; make a token with `lekiwi token create` and enrol the first one"
            .into();
    }
    let mut table = table(
        colour,
        &[
            "robot",
            "status",
            "health",
            "type",
            "cpu",
            "memory",
            "temp",
            "last seen",
        ],
    );
    for robot in &list.robots {
        let (word, hue) = state(robot);
        let (condition, colour_of_it) = health(robot.health.as_ref());
        table.add_row(vec![
            Cell::new(robot.id.as_str()),
            Cell::new(word).fg(hue),
            Cell::new(condition).fg(colour_of_it),
            Cell::new(plain(&robot.robot_type)),
            Cell::new(resource(&robot.resources, metric::CPU_PERCENT)),
            Cell::new(resource(&robot.resources, metric::MEMORY_PERCENT)),
            Cell::new(resource(&robot.resources, metric::TEMPERATURE_C)),
            Cell::new(ago(robot.status.last_seen, then)),
        ]);
    }
    let waiting = list
        .robots
        .iter()
        .filter(|robot| robot.registration.status == RegistrationStatus::Quarantined)
        .map(|robot| format!("\n{}", standing(robot)));
    let waiting: String = waiting.collect();
    if waiting.is_empty() {
        finish(&table)
    } else {
        format!(
            "{}\n{waiting}\nlet one in with `lekiwi approve ID`, or turn it away with `lekiwi reject ID`",
            finish(&table)
        )
    }
}

/// `lekiwi robot ID`.
pub(crate) fn robot(robot: &RobotView, now: Timestamp) -> String {
    let connection = match robot.status.connection {
        ConnectionState::Online => "online",
        ConnectionState::Offline => "offline",
        ConnectionState::ConnectionBroken => "broken",
    };
    let mut facts: Vec<(String, String)> = Vec::new();
    let mut fact = |name: &str, value: String| facts.push((plain(name), plain(&value)));
    fact("robot", robot.id.to_string());
    fact("status", presence(&robot.status).0.into());
    fact("connection", connection.into());
    fact("registration", robot.registration.status.to_string());
    if let Some(reason) = &robot.registration.reason {
        fact("because", reason.clone());
    }
    if let Some(by) = &robot.registration.approved_by {
        fact("approved by", by.clone());
    }
    fact("last seen", ago(robot.status.last_seen, now));
    if let Some(at) = robot.status.registered_at {
        fact("registered", at.to_string());
    }
    if let Some(certificate) = &robot.certificate {
        let until = format!("{} until {}", certificate.serial, certificate.not_after);
        fact("certificate", until);
    }
    if let Some(seconds) = robot.status.uptime_s {
        fact("up for", span(seconds));
    }
    fact("type", robot.robot_type.clone());
    if let Some(status) = robot
        .configuration
        .as_ref()
        .filter(|status| status.desired > 0)
    {
        let reported = status.reported.as_ref();
        fact(
            "configuration",
            configuration::standing(status.desired, reported),
        );
    }
    if robot.health.is_some() {
        fact("health", health(robot.health.as_ref()).0);
    }
    for failing in robot.health.iter().flat_map(|health| &health.failing) {
        fact("failing", format!("{}: {}", failing.name, failing.reason));
    }
    for service in &robot.services {
        fact("service", format!("{} {}", service.name, doing(service)));
    }
    if let Some(teleoperation) = robot
        .teleoperation
        .as_ref()
        .filter(|teleoperation| teleoperation.active)
    {
        fact(
            "driven by",
            teleoperation
                .operator_id
                .clone()
                .unwrap_or_else(|| "somebody".into()),
        );
    }
    if let Some(network) = &robot.network {
        fact("host name", network.hostname.clone());
        fact("addresses", network.ip_addresses.join(", "));
    }
    if let Some(deployment) = &robot.deployment {
        fact("system", deployment.os_version.clone());
    }
    if let Some(factsheet) = &robot.factsheet {
        fact(
            "agent",
            format!("{} ({})", factsheet.agent_version, factsheet.agent_target),
        );
        fact("model", factsheet.hardware.model.clone());
        fact("serial", factsheet.hardware.serial.clone());
        fact("uuid", factsheet.uuid.to_string());
    }
    for (name, value) in &robot.resources {
        fact(name.as_str(), figure(name.as_str(), *value));
    }
    let width = facts
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or_default();
    facts
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}").trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// One line of `lekiwi events`.
pub(crate) fn event(event: &EventRecord) -> String {
    let data = match &event.data {
        serde_json::Value::Null => String::new(),
        serde_json::Value::Object(fields) if fields.is_empty() => String::new(),
        data => data.to_string(),
    };
    let line = format!(
        "{}  {}  {:24}  {}",
        event.timestamp,
        plain(&event.aggregate_id),
        plain(&event.kind),
        plain(&data)
    );
    line.trim_end().to_owned()
}

/// `lekiwi token list`.
pub(crate) fn tokens(tokens: &[TokenInfo], now: Timestamp, colour: bool) -> String {
    if tokens.is_empty() {
        return "no tokens".into();
    }
    let mut table = table(
        colour,
        &["id", "state", "robot", "profile", "serial", "expires"],
    );
    for token in tokens {
        let (word, hue) = match (&token.used_by, token.used_at) {
            _ if token.max_uses > 1 => {
                let word = format!("{} of {} used", token.uses, token.max_uses);
                if token.uses >= token.max_uses {
                    (word, Color::DarkGrey)
                } else if token.expires_at <= now {
                    ("expired".into(), Color::Red)
                } else {
                    (word, Color::Green)
                }
            }
            (Some(robot), _) => (format!("used by {robot}"), Color::DarkGrey),
            (None, Some(_)) => ("used".into(), Color::DarkGrey),
            (None, None) if token.expires_at <= now => ("expired".into(), Color::Red),
            (None, None) => ("fresh".into(), Color::Green),
        };
        let optional = |text: Option<&str>| text.map_or_else(|| "any".into(), plain);
        table.add_row(vec![
            Cell::new(token.id),
            Cell::new(word).fg(hue),
            Cell::new(optional(token.robot_id.as_ref().map(|id| id.as_str()))),
            Cell::new(optional(token.profile.as_deref())),
            Cell::new(optional(token.serial.as_deref())),
            Cell::new(token.expires_at),
        ]);
    }
    finish(&table)
}

/// One line of `lekiwi watch`.
pub(crate) fn live(live: &Live) -> String {
    let clock = live.timestamp.to_string();
    let time = clock.get(11..19).unwrap_or(&clock);
    let what = match (live.message_type.as_str(), &live.payload) {
        ("telemetry", payload) => payload
            .get("metrics")
            .and_then(|metrics| metrics.as_object())
            .map(|metrics| {
                let figures = metrics.iter().filter_map(|(name, value)| {
                    Some(format!("{name} {}", figure(name, value.as_f64()?)))
                });
                figures.collect::<Vec<_>>().join(", ")
            }),
        ("heartbeat", payload) => payload
            .get("uptime_s")
            .and_then(|s| s.as_u64())
            .map(|s| format!("up for {}", span(s))),
        ("connection", payload) => payload
            .get("state")
            .and_then(|state| state.as_str())
            .map(str::to_owned),
        ("state" | "factsheet", _) => Some(String::new()),
        (_, payload) => payload
            .get("data")
            .filter(|data| data.as_object().is_none_or(|fields| !fields.is_empty()))
            .map(ToString::to_string),
    };
    let line = format!(
        "{time}  {}  {:12}  {}",
        live.robot_id,
        plain(&live.message_type),
        plain(&what.unwrap_or_default())
    );
    line.trim_end().to_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn list() -> RobotList {
        serde_json::from_value(json!({
            "position": 7, "now": "2026-11-21T04:00:10.000Z",
            "robots": [
                {"id": "kiwi-01", "type": "lekiwi", "resources": {"cpu_percent": 12.34, "memory_percent": 40, "temperature_c": 51.25},
                 "status": {"online": true, "stale": false, "connection": "ONLINE", "last_seen": "2026-11-21T04:00:07.000Z", "uptime_s": 7300},
                 "network": {"hostname": "kiwi\u{1b}[2J", "ip_addresses": ["10.0.0.7", "fd00::7"]},
                 "health": {"healthy": false, "setup": "done", "failing": [{"name": "host.service", "reason": "it is\u{7} gone"}]},
                 "services": [{"name": "host.service", "kind": "unit", "state": "restarting", "restarts": 2, "flapping": true, "memory_bytes": 51200000},
                              {"name": "port", "kind": "check", "state": "active", "restarts": 0}]},
                {"id": "kiwi-02", "type": "lekiwi", "resources": {}, "health": {"healthy": false, "setup": "running"},
                 "status": {"online": false, "stale": false, "connection": "OFFLINE"}},
                {"id": "kiwi-03", "type": "lekiwi", "resources": {}, "health": {"healthy": true, "setup": "done"},
                 "status": {"online": false, "stale": false, "connection": "OFFLINE"}},
                {"id": "xle-1", "type": "xle", "resources": {"cpu_percent": 3},
                 "status": {"online": false, "stale": true, "connection": "ONLINE", "last_seen": "2026-11-21T03:58:00.000Z"}},
                {"id": "zz-1", "type": "unknown", "resources": {},
                 "registration": {"status": "quarantined", "reason": "its hardware matches no profile", "since": "2026-11-21T03:58:00.000Z"},
                 "status": {"online": true, "stale": false, "connection": "ONLINE", "last_seen": "2026-11-21T04:00:10.000Z"}},
            ]
        }))
        .unwrap()
    }

    #[test]
    fn the_table_of_robots() {
        expect![[r#"
            ROBOT    STATUS       HEALTH         TYPE     CPU     MEMORY  TEMP     LAST SEEN
            kiwi-01  online       unhealthy      lekiwi   12.3 %  40.0 %  51.2 °C  3 s ago
            kiwi-02  never seen   setup running  lekiwi   –       –       –        never
            kiwi-03  never seen   healthy        lekiwi   –       –       –        never
            xle-1    stale        –              xle      3.0 %   –       –        2 min ago
            zz-1     quarantined  –              unknown  –       –       –        now

            zz-1 is quarantined: its hardware matches no profile
            let one in with `lekiwi approve ID`, or turn it away with `lekiwi reject ID`"#]]
        .assert_eq(&robots(&list(), list().now, false));
        let coloured = robots(&list(), list().now, true);
        assert!(
            coloured.contains("\u{1b}[") && coloured.contains("online"),
            "{coloured}"
        );
    }

    #[test]
    fn one_robot_with_hostile_names() {
        let list = list();
        expect![[r#"
            robot           kiwi-01
            status          online
            connection      online
            registration    registered
            last seen       3 s ago
            up for          2 h
            type            lekiwi
            health          unhealthy
            failing         host.service: it is\u{7} gone
            service         host.service restarting, flapping, 2 restarts, 51200000 B
            service         port answers
            host name       kiwi\u{1b}[2J
            addresses       10.0.0.7, fd00::7
            cpu_percent     12.3 %
            memory_percent  40.0 %
            temperature_c   51.2 °C"#]]
        .assert_eq(&robot(&list.robots[0], list.now));
        let quarantined = robot(&list.robots[4], list.now);
        assert!(
            quarantined.contains("because       its hardware matches no profile"),
            "{quarantined}"
        );
    }

    #[test]
    fn live_lines() {
        let line = |kind: &str, payload: serde_json::Value| {
            live(&Live {
                message_type: kind.into(),
                robot_id: "kiwi-01".parse().unwrap(),
                timestamp: "2026-11-21T04:00:07.000Z".parse().unwrap(),
                sequence: 1,
                payload,
            })
        };
        let lines = [
            line(
                "telemetry",
                json!({"metrics": {"cpu_percent": 12.34, "odd": "x"}}),
            ),
            line("heartbeat", json!({"uptime_s": 65})),
            line("connection", json!({"state": "ONLINE"})),
            line("robot.connected", json!({"data": {}})),
            line(
                "health.resource_alert",
                json!({"data": {"note": "\u{9b}31m"}}),
            ),
            line("telemetry", json!(null)),
        ];
        expect![[r#"
            04:00:07  kiwi-01  telemetry     cpu_percent 12.3 %
            04:00:07  kiwi-01  heartbeat     up for 1 min
            04:00:07  kiwi-01  connection    ONLINE
            04:00:07  kiwi-01  robot.connected
            04:00:07  kiwi-01  health.resource_alert  {"note":"\u{9b}31m"}
            04:00:07  kiwi-01  telemetry"#]]
        .assert_eq(&lines.join("\n"));
    }
}
