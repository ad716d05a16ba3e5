//! Beside an older system: its agent's requests become this robot's facts, and its relay is told of this one.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::broker::Site;
use crate::support::eventually;

/// One request; returns status and body.
fn ask(port: u16, request: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: x\r\nX-API-Key: secret\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    answer(&mut stream)
}

fn answer(stream: &mut TcpStream) -> (u16, Value) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn both_systems_see_the_robot() {
    let site = Site::start().await;
    let ears = site.listen();
    let older = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mirror = older.local_addr().unwrap();
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let key = site.folder.path().join("key");
    fs::write(&key, "secret\n").unwrap();
    let file = site.folder.path().join("agent.yml");
    let text = fs::read_to_string(&file).unwrap();
    let migration = format!(
        "migration: {{listen: '127.0.0.1:{port}', mirror: 'http://{mirror}', api_key_file: {}}}\n",
        key.display()
    );
    fs::write(&file, text + &migration).unwrap();
    let _agent = site.agent();
    ears.connection(&site, "ONLINE").await;

    let (status, health) = ask(port, "GET /health", "");
    assert_eq!((status, &health["status"]), (200, &json!("ok")));
    let robot = json!({
        "robot_id": "k1_001", "battery": 61.5, "mode": "autonomous", "status": "busy",
        "position": { "x": 1.5, "y": -2, "z": 0 }, "current_task": "t-1", "timestamp": 1_795_233_120
    });
    let taken = (200, json!({ "success": true, "robot_id": "k1_001" }));
    let put = "PUT /fleet/robots/k1_001";
    assert_eq!(ask(port, put, &robot.to_string()), taken);
    // Whichever comes first tells it: telemetry, or the state, which also has the robot's other name.
    let tells = |level: &str, metrics: &str| {
        ears.all(level).iter().any(|heard| {
            let metrics = &heard.body["payload"][metrics];
            metrics["battery_percent"] == 61.5 && metrics["legacy.position_x"] == 1.5
        })
    };
    eventually("battery and place", || {
        tells("telemetry", "metrics") || tells("state", "resources")
    })
    .await;
    let changed = |payload: &Value| {
        let events = payload["events"].as_array().unwrap();
        events.iter().any(|event| {
            event["type"] == "legacy.changed"
                && event["data"]
                    == json!({
                        "robot_id": "k1_001", "mode": "autonomous", "status": "busy", "current_task": "t-1"
                    })
        })
    };
    ears.wait(&site, "events", "what the older agent says", changed)
        .await;

    // What this agent says of itself to the older relay.
    let (mut stream, _) = older.accept().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut bytes = [0; 4096];
    let count = stream.read(&mut bytes).unwrap();
    let request = String::from_utf8_lossy(&bytes[..count]).into_owned();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("PUT /fleet/robots/kiwi-01 HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains("\r\nX-API-Key: secret\r\n"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&body["robot_id"], &body["mode"], &body["status"]),
        (&json!("kiwi-01"), &json!("AUTOMATIC"), &json!("idle"))
    );

    for (request, body, status, reason) in [
        (
            put,
            r#"{"battery": 200}"#,
            400,
            "expected a battery from 0 to 100, got 200",
        ),
        (
            put,
            "[]x",
            400,
            "expected a robot as JSON: trailing characters at line 1 column 3",
        ),
        (
            "GET /fleet/tasks",
            "",
            404,
            "expected PUT /fleet/robots/ID or GET /health, got GET /fleet/tasks",
        ),
    ] {
        assert_eq!(
            ask(port, request, body),
            (status, json!({ "error": reason })),
            "{request} {body}"
        );
    }
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "{put} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}").unwrap();
    assert_eq!(
        answer(&mut stream),
        (401, json!({ "error": "Unauthorized" }))
    );
}
