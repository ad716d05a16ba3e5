//! The golden schemas: what a consumer in another language relies on.
#![cfg(feature = "schema")]

use std::path::Path;

use lekiwi_protocol::message::{Factsheet, State};
use lekiwi_protocol::{Envelope, MessageType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

#[test]
fn golden_schemas_are_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    for (name, schema) in lekiwi_protocol::schema::all() {
        let path = folder.join(format!("{name}.schema.json"));
        let mut actual = serde_json::to_string_pretty(&schema).expect("a schema is JSON");
        actual.push('\n');
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(&path, &actual).expect("schemas are writable");
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            golden,
            actual,
            "{} is stale (hint: UPDATE_SCHEMAS=1 cargo test -p lekiwi-protocol --features schema)",
            path.display()
        );
    }
}

/// What every robot says of itself, and in which of the two messages; `docs/state.md` has the same table.
const STATE_MODEL: [(&str, &str); 22] = [
    ("factsheet", "/robot_id"),
    ("factsheet", "/payload/uuid"),
    ("factsheet", "/payload/profile"),
    ("factsheet", "/payload/hardware/serial"),
    ("factsheet", "/payload/hardware/model"),
    ("factsheet", "/payload/hardware/revision"),
    ("state", "/robot_id"),
    ("state", "/payload/network/hostname"),
    ("state", "/payload/network/mac_address"),
    ("state", "/payload/network/ip_addresses/0"),
    ("state", "/payload/uptime_s"),
    ("state", "/payload/deployment/os_version"),
    ("state", "/payload/deployment/agent_version"),
    ("state", "/payload/deployment/installed_packages/count"),
    ("state", "/payload/deployment/installed_packages/digest"),
    ("state", "/payload/teleoperation/active"),
    ("state", "/payload/teleoperation/operator_id"),
    ("state", "/payload/teleoperation/session_start"),
    ("state", "/payload/resources/cpu_percent"),
    ("state", "/payload/resources/memory_percent"),
    ("state", "/payload/resources/disk_percent"),
    ("state", "/payload/resources/uptime_s"),
];

/// Reads an example as its schema and its type do, and writes it again.
fn example<T: Serialize + DeserializeOwned>(name: &str, message_type: MessageType) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: String| std::fs::read(folder.join(path)).expect("a file of this crate");
    let text = read(format!("examples/{name}.json"));
    let example: Value = serde_json::from_slice(&text).expect("an example is JSON");
    let schema = serde_json::from_slice(&read(format!("schemas/{name}.schema.json")))
        .expect("a schema is JSON");
    if let Err(error) = jsonschema::validate(&schema, &example) {
        panic!("expected an example that fits its schema, {name} does not: {error}");
    }
    let robot = example["robot_id"].as_str().expect("an id");
    let robot = robot.parse().expect("an id");
    let message = Envelope::<T>::parse(message_type, &robot, &text).expect("an example is read");
    let written: Value = serde_json::from_slice(&message.to_json()).expect("JSON");
    assert_eq!(written, example, "nothing of {name} is lost in reading");
    example
}

/// They were said by a robot in an emulated board, and captured by
/// `cargo xtask image --living --capture protocol/examples`.
#[test]
fn captured_examples_are_read_and_have_the_whole_state_model() {
    let factsheet = example::<Factsheet>("factsheet", MessageType::Factsheet);
    let state = example::<State>("state", MessageType::State);
    for (name, field) in STATE_MODEL {
        let message = if name == "state" { &state } else { &factsheet };
        assert!(
            message.pointer(field).is_some_and(|value| !value.is_null()),
            "expected {field} in the example of {name}"
        );
    }
}
