//! What operators desire: tried, confirmed or gone back from, wherever the agent is killed.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::broker::{Ears, Process, Site, status};
use crate::support::eventually;

/// What a relay sends.
fn desire(ears: &Ears, version: u64, settings: &Value, confirm_within_s: u64, confirmed: bool) {
    let message = json!({
        "type": "desired", "robot_id": "kiwi-01", "timestamp": "2026-11-21T12:00:00.000Z", "sequence": 0,
        "payload": {
            "version": version, "settings": settings, "confirm_within_s": confirm_within_s, "confirmed": confirmed,
            "issued_at": "2026-11-21T12:00:00.000Z", "by": "admin",
        }
    });
    ears.publish("desired", message.to_string());
}

fn said(ears: &Ears) -> Option<Value> {
    let last = ears.all("reported").pop();
    last.map(|heard| heard.body["payload"].clone())
}

/// What the robot says of `version` once that is in `state`.
async fn reported(site: &Site, ears: &Ears, version: u64, state: &str) -> Value {
    let mut found = None;
    let what = format!("{version} is {state}; the agent says\n{}", site.log());
    eventually(&what, || {
        found = said(ears).filter(|said| said["version"] == version && said["state"] == state);
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Sends a version and, once it is tried, the confirmation.
async fn apply(site: &Site, ears: &Ears, version: u64, settings: &Value) -> Value {
    desire(ears, version, settings, 60, false);
    let tried = reported(site, ears, version, "trying").await;
    assert_eq!(tried["in_force"], version);
    desire(ears, version, settings, 60, true);
    let applied = reported(site, ears, version, "applied").await;
    assert_eq!(applied["digest"], tried["digest"]);
    applied
}

async fn online(site: &Site, ears: &Ears, arguments: &[&str]) -> Process {
    ears.forget();
    let agent = site.agent_with(arguments);
    ears.connection(site, "ONLINE").await;
    eventually("the robot says what it has", || said(ears).is_some()).await;
    agent
}

#[tokio::test]
async fn what_operators_desire_stands_over_the_file_and_outlives_the_agent() {
    let site = Site::start().await;
    let ears = site.listen();
    let file = site.folder.path().join("agent.yml");
    let text = fs::read_to_string(&file).unwrap();
    let mut agent = online(&site, &ears, &["run"]).await;
    let own = said(&ears).unwrap();
    assert_eq!(
        (&own["version"], &own["state"], &own["in_force"]),
        (&json!(0), &json!("applied"), &json!(0))
    );
    let session = ears.all("connection")[0].body["payload"]["session"].clone();

    let settings = json!({
        "heartbeat_s": 3600, "log": "debug",
        "telemetry": { "metrics": { "cpu_percent": { "deadband": 50 }, "cpu_percent.0": { "keep_alive_s": 9 } } }
    });
    let applied = apply(&site, &ears, 1, &settings).await;
    assert_ne!(applied["digest"], own["digest"]);
    ears.forget();
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        text,
        "the file is the administrator's"
    );

    // What the file says of the same keys waits below, and a reload keeps both.
    fs::write(&file, text.replace("heartbeat_s: 1\n", "heartbeat_s: 2\n")).unwrap();
    agent.signal(Signal::SIGHUP);
    assert_eq!(reported(&site, &ears, 1, "applied").await, applied);
    let now = status(&site).unwrap();
    assert_eq!(
        (&now["session"], &now["configuration"]["desired"]),
        (&session, &json!(1))
    );
    let shown = String::from_utf8(site.run(&["status"]).stdout).unwrap();
    let over = "desired      version 1 of the operators' settings stands over the file\n";
    assert!(shown.contains(over), "{shown}");

    agent.signal(Signal::SIGKILL);
    agent.ended().await;
    let mut agent = online(&site, &ears, &["run"]).await;
    assert_eq!(reported(&site, &ears, 1, "applied").await, applied);

    // What came before is not looked at again, with whatever content.
    desire(&ears, 1, &json!({ "heartbeat_s": 5 }), 60, true);
    desire(&ears, 2, &json!({}), 60, false);
    let bare = reported(&site, &ears, 2, "trying").await;
    desire(&ears, 2, &json!({}), 60, true);
    reported(&site, &ears, 2, "applied").await;
    ears.forget();
    desire(&ears, 1, &settings, 60, false);
    desire(&ears, 2, &json!({}), 60, false);
    assert_eq!(
        reported(&site, &ears, 2, "applied").await["digest"],
        bare["digest"]
    );
    assert_eq!(
        ears.all("reported").len(),
        1,
        "an older one is no reason to speak"
    );

    // A file that no longer goes with what is desired starts all the same.
    apply(
        &site,
        &ears,
        3,
        &json!({ "telemetry": { "metrics": { "cpu_percent": { "alert_clear": 900 } } } }),
    )
    .await;
    agent.signal(Signal::SIGKILL);
    agent.ended().await;
    fs::write(
        &file,
        text.replace(
            "cpu_percent: {alert_above: 1000}",
            "cpu_percent: {alert_above: 800}",
        ),
    )
    .unwrap();
    let _agent = online(&site, &ears, &["run"]).await;
    let refused = reported(&site, &ears, 3, "rejected").await;
    assert_eq!(refused["in_force"], 0);
    assert_eq!(
        refused["reason"],
        "telemetry.metrics.cpu_percent.alert_clear in the desired configuration 3: expected at most alert_above, which \
         is 800, got 900"
    );
}

#[tokio::test]
async fn what_cannot_be_is_rejected_with_its_reason_and_nothing_changes() {
    let site = Site::start().await;
    let ears = site.listen();
    let _agent = online(&site, &ears, &["run"]).await;
    let applied = apply(&site, &ears, 1, &json!({ "heartbeat_s": 7 })).await;
    for (version, settings, reason) in [
        (
            2,
            json!({ "heartbeat": 1 }),
            "unknown key \"heartbeat\" at the desired configuration 2:1:2, expected one of heartbeat_s, log, telemetry, traces \
             (hint: did you mean \"heartbeat_s\"?)",
        ),
        (
            3,
            json!({ "relay": { "https": "https://elsewhere" } }),
            "unknown key \"relay\" at the desired configuration 3:1:2, expected one of heartbeat_s, log, telemetry, traces",
        ),
        (
            4,
            json!({ "heartbeat_s": 0 }),
            "heartbeat_s in the desired configuration 4: expected 1 to 3600 seconds, got 0",
        ),
        (
            5,
            json!({ "telemetry": { "metrics": { "cpu_percent": { "alert_clear": 2000 } } } }),
            "telemetry.metrics.cpu_percent.alert_clear in the desired configuration 5: expected at most alert_above, \
             which is 1000, got 2000",
        ),
        (
            6,
            json!({ "telemetry": { "sample_s": 601 } }),
            "telemetry.sample_s in the desired configuration 6: expected 1 to 600 seconds, got 601",
        ),
    ] {
        for confirmed in [false, true] {
            desire(&ears, version, &settings, 60, confirmed);
            let said = reported(&site, &ears, version, "rejected").await;
            assert_eq!(said["reason"], reason);
            assert_eq!(
                (&said["in_force"], &said["digest"]),
                (&json!(1), &applied["digest"])
            );
            ears.forget();
        }
    }
}

#[tokio::test]
async fn killed_at_any_step_a_configuration_is_confirmed_or_gone_back_from() {
    let site = Site::start().await;
    let ears = site.listen();
    let mut agent = online(&site, &ears, &["run"]).await;
    let mut version = 1;
    let mut before = apply(&site, &ears, 1, &json!({ "heartbeat_s": 11 })).await;
    agent.signal(Signal::SIGKILL);
    agent.ended().await;
    for confirms in [true, false] {
        // Each step has a place before it is written, and one after.
        for place in 1.. {
            let when = format!("confirmed: {confirms}, killed at place {place}");
            version += 1;
            let settings = json!({ "heartbeat_s": version + 10 });
            let mut agent = online(&site, &ears, &["run", "--kill-at", &place.to_string()]).await;
            assert_eq!(
                said(&ears).unwrap()["in_force"],
                before["in_force"],
                "{when}"
            );
            let end = if confirms { "applied" } else { "rolled_back" };
            let is_over = |ears: &Ears| {
                said(ears).is_some_and(|said| said["version"] == version && said["state"] == end)
            };
            // What a relay does: it says it again, and confirms what is tried.
            let say = |ears: &Ears| {
                let tried = said(ears)
                    .is_some_and(|said| said["version"] == version && said["state"] == "trying");
                let within = if confirms { 60 } else { 1 };
                desire(ears, version, &settings, within, confirms && tried);
            };
            let mut status = None;
            eventually(
                &format!("{when}: the end of the agent or of the trial"),
                || {
                    if !is_over(&ears) {
                        say(&ears);
                    }
                    status = agent.try_ended();
                    status.is_some() || (place > 4 && is_over(&ears))
                },
            )
            .await;
            if let Some(status) = status {
                assert_eq!(status.signal(), Some(9), "{when}");
                agent = online(&site, &ears, &["run"]).await;
                let what = format!("{when}: an end; the agent says\n{}", site.log());
                eventually(&what, || {
                    if !is_over(&ears) {
                        say(&ears);
                    }
                    is_over(&ears)
                })
                .await;
            }
            let end = said(&ears).unwrap();
            if confirms {
                assert_eq!(end["in_force"], version, "{when}");
                assert_ne!(end["digest"], before["digest"], "{when}");
                before = end;
            } else {
                assert_eq!(
                    end["reason"], "the relay did not confirm it within 1 s",
                    "{when}"
                );
                assert_eq!(
                    (&end["in_force"], &end["digest"]),
                    (&before["in_force"], &before["digest"]),
                    "{when}"
                );
            }
            agent.signal(Signal::SIGKILL);
            agent.ended().await;
            if status.is_none() {
                assert_eq!(place, 5, "two steps have four places");
                break;
            }
        }
    }
}
