//! Root's helper where something is wrong with it: the request is taken away all the same, since one that stays
//! starts the helper again and again, until systemd starts it no more.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::commands::{BOOT_ID, Robot, helper};

/// A robot whose agent has asked for a restart of its service.
async fn asked(id: Uuid) -> (Robot, PathBuf) {
    let mut robot = Robot::new().await;
    // The tests start root's helper themselves.
    robot.end_helper();
    let boot_id = fs::read_to_string(BOOT_ID).unwrap();
    let request = robot.file("state/privileged.json");
    let text = json!({ "id": id, "boot_id": boot_id.trim(), "act": { "restart": { "unit": "host.service" } } });
    fs::write(&request, text.to_string()).unwrap();
    (robot, request)
}

#[tokio::test]
async fn a_wrong_configuration_fails_the_request_and_takes_it_away() {
    let id = Uuid::new_v4();
    let (robot, request) = asked(id).await;
    let folder = robot.site.folder.path();
    fs::write(robot.file("agent.yml"), "version: 2\n").unwrap();
    let wrong = format!(
        "version in {}/agent.yml: expected 1, got 2",
        folder.display()
    );
    for answer in [
        json!({ "id": id, "progress": { "failed": format!("root's helper has no configuration: {wrong}") } }),
        // Without a request there is nothing to answer.
        Value::Null,
    ] {
        let refused = helper(folder);
        assert_eq!(refused.status.code(), Some(78));
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains(&format!("error: {wrong}\n")), "{said}");
        assert!(!request.exists(), "it is taken away");
        assert_eq!(robot.answer(), answer);
        let _ = fs::remove_file(robot.file("root/var/lib/lekiwi-privileged/answer.json"));
    }
    assert_eq!(robot.lines("systemctl"), Vec::<String>::new());
}

#[tokio::test]
async fn an_answer_that_finds_no_room_leaves_no_request() {
    let (robot, request) = asked(Uuid::new_v4()).await;
    let place = robot.file("root/var/lib/lekiwi-privileged");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, "").unwrap();
    let refused = helper(robot.site.folder.path());
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    let expected = format!(
        "error: expected a writable folder for {}/answer.json: File exists (os error 17)\n",
        place.display()
    );
    assert!(said.contains(&expected), "{said}");
    assert!(!request.exists(), "it is taken away");
    assert_eq!(robot.lines("systemctl"), Vec::<String>::new());
}
