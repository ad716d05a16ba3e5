//! Wanted configurations: what no robot takes is refused before there is a version of it.

use serde_json::{Value, json};

use crate::common::Relay;

#[test]
fn settings_that_no_robot_takes_are_refused_with_their_path() {
    let relay = Relay::start();
    let session = relay.log_in();
    let put = |settings: &Value| {
        let body = json!({ "settings": settings }).to_string();
        let json = "content-type: application/json";
        let options = ["-X", "PUT", "-H", json, "-d", &body];
        relay
            .curl_as(&session, "/api/v1/robots/kiwi-01/configuration", &options)
            .problem()
    };
    for (settings, detail) in [
        (
            json!({ "hartbeat_s": 5 }),
            "settings: expected one of heartbeat_s, log, telemetry, traces, got \"hartbeat_s\"",
        ),
        (
            json!({ "heartbeat_s": 3601 }),
            "settings.heartbeat_s: expected a whole number from 1 to 3600, got 3601",
        ),
        (
            json!({ "log": 3 }),
            "settings.log: expected error, warn, info, debug, trace, off, got 3",
        ),
        (
            json!({ "telemetry": { "metrics": { "cpu_percent": { "deadband": "much" } } } }),
            "settings.telemetry.metrics.cpu_percent.deadband: expected a number from 0, got \"much\"",
        ),
    ] {
        let expected = (422, "invalid-body".to_owned(), detail.to_owned());
        assert_eq!(put(&settings), expected, "{settings}");
    }
    // Right in itself, it gets as far as the robot, which there is not.
    let (status, kind, _) = put(&json!({ "heartbeat_s": 5 }));
    assert_eq!((status, kind.as_str()), (404, "robot-unknown"));
}
