//! The command line: a second instance, wrong input, exit codes.

use std::fs;

use crate::broker::{Site, status};
use crate::support::eventually;

#[tokio::test]
async fn a_second_agent_is_refused_and_wrong_input_has_its_exit_code() {
    let site = Site::start().await;
    let not_running = site.run(&["status"]);
    assert_eq!(not_running.status.code(), Some(69));
    let said = String::from_utf8(not_running.stderr).unwrap();
    let socket = site.folder.path().join("agent.sock");
    let expected = format!(
        "error: expected a running agent at {}: No such file or directory (os error 2)\n  \
         (hint: start it with `systemctl start lekiwi-agent` or `lekiwi-agent run`)\n",
        socket.display()
    );
    assert_eq!(said, expected);

    let _agent = site.agent();
    eventually("the agent runs", || status(&site).is_some()).await;
    let second = site.run(&["run"]);
    assert_eq!(second.status.code(), Some(69));
    let said = String::from_utf8(second.stderr).unwrap();
    let state = site.folder.path().join("state");
    let expected = format!(
        "error: another lekiwi-agent runs with the state folder {}\n  \
         (hint: stop it with `systemctl stop lekiwi-agent`, or give this one another state_dir)\n",
        state.display()
    );
    assert_eq!(said, expected);

    let wrong = site.folder.path().join("wrong.yml");
    fs::write(&wrong, "version: 1\nheartbeat: 30\n").unwrap();
    let output = site.run(&["check-config", "--config", wrong.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    let start = format!(
        "error: unknown key \"heartbeat\" at {}:2:1, expected one of ",
        wrong.display()
    );
    assert!(said.starts_with(&start), "{said}");
    assert!(
        said.ends_with("\n  (hint: did you mean \"heartbeat_s\"?)\n"),
        "{said}"
    );
    let right = site.run(&["check-config"]);
    assert!(right.status.success());
}

#[tokio::test]
async fn enrol_says_that_it_is_done_and_gives_up_on_time() {
    let site = Site::start().await;
    let done = site.run(&["enrol"]);
    assert!(
        String::from_utf8(done.stdout)
            .unwrap()
            .starts_with("kiwi-01 is enrolled already, until ")
    );
    fs::remove_file(site.folder.path().join("state/cert.pem")).unwrap();
    fs::write(site.folder.path().join("token"), "lkt_x").unwrap();
    let output = site.run(&["enrol", "--within", "1"]);
    assert_eq!(output.status.code(), Some(75));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("error: expected a relay at 127.0.0.1:1: Connection refused"),
        "{said}"
    );
    assert!(!said.contains("lkt_x"), "the token is in the log");
}
