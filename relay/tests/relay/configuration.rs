//! Wanted configurations: what no robot takes is refused before there is a version of it.

use serde_json::{Value, json};

use crate::common::Relay;

#[test]
fn settings_that_no_robot_takes_are_refused_with_their_path() {
    let relay = Relay::start();
    let session = relay.log_in();
    let put_body = |body: &Value| {
        let body = body.to_string();
        let json = "content-type: application/json";
        let options = ["-X", "PUT", "-H", json, "-d", &body];
        relay
            .curl_as(&session, "/api/v1/robots/kiwi-01/configuration", &options)
            .problem()
    };
    let put = |settings: &Value| put_body(&json!({ "settings": settings }));
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
    // Beside a signed configuration, only its own settings stand.
    let signed = |settings: Value| {
        let document = json!({
            "role": "configuration", "version": 7, "expires": "2099-01-01T00:00:00.000Z", "robots": "*", "settings": settings,
        });
        json!({ "document": document.to_string(), "signatures": [] })
    };
    let put_signed = |statement: &Value| {
        put_body(&json!({ "settings": { "heartbeat_s": 5 }, "proof": { "statement": statement } }))
    };
    let root = json!({ "document": "{\"role\":\"root\"}", "signatures": [] });
    for (statement, detail) in [
        (
            signed(json!({ "heartbeat_s": 6 })),
            "settings: expected those that were signed as version 7, got others",
        ),
        (
            root,
            "expected a document for configuration: missing field `version` at line 1 column 15",
        ),
    ] {
        let expected = (422, "invalid-body".to_owned(), detail.to_owned());
        assert_eq!(put_signed(&statement), expected, "{statement}");
    }
    // Right in itself, it gets as far as the robot, which there is not.
    let (status, kind, _) = put(&json!({ "heartbeat_s": 5 }));
    assert_eq!((status, kind.as_str()), (404, "robot-unknown"));
    let (status, kind, _) = put_signed(&signed(json!({ "heartbeat_s": 5 })));
    assert_eq!((status, kind.as_str()), (404, "robot-unknown"));
}
