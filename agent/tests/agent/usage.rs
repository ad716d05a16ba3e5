//! The command line: a second instance, wrong input, exit codes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

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

#[tokio::test]
async fn a_user_who_may_not_see_it_is_told_what_helps() {
    const NOBODY: u32 = 65_534;
    let site = Site::start().await;
    let folder = site.folder.path();
    let mode = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let registered = folder.join("state/registered.json");
    fs::write(&registered, r#"{"status":"registered","profile":"lekiwi"}"#).unwrap();
    fs::write(folder.join("mine.yml"), "").unwrap();
    mode(folder, 0o755);
    mode(&folder.join("agent.yml"), 0o640);
    mode(&folder.join("mine.yml"), 0o600);
    mode(&folder.join("state"), 0o700);
    let _agent = site.agent();
    eventually("the agent runs", || status(&site).is_some()).await;
    // Where that user may run it, wherever it was built.
    let program = folder.join("lekiwi-agent");
    fs::copy(env!("CARGO_BIN_EXE_lekiwi-agent"), &program).unwrap();
    let mine = folder.join("mine.yml").display().to_string();
    let ask = |arguments: &[&str], group: u32| {
        let output = Command::new(&program)
            .arg("--config")
            .arg(folder.join("agent.yml"))
            .args(arguments)
            .env("LEKIWI_SOCKET", folder.join("agent.sock"))
            .env("LEKIWI_PROFILE", "auto")
            .env_remove("JOURNAL_STREAM")
            .current_dir("/")
            .uid(NOBODY)
            .gid(group)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{output:?}");
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8(said).unwrap()
    };
    let at = folder.display();
    let denied = "Permission denied (os error 13)";
    let group = "run it with `sudo`, or add yourself to the group lekiwi-agent: `sudo usermod -aG lekiwi-agent $USER`, \
                 then log in again";
    // Nothing, not even the socket.
    for arguments in [
        &["status"][..],
        &["teleop"],
        &["check-config"],
        &["hardware"],
        &["follow"],
    ] {
        assert_eq!(
            ask(arguments, NOBODY),
            format!(
                "error: expected a readable configuration file at {at}/agent.yml: {denied}\n  (hint: {group})\n"
            ),
            "{arguments:?}"
        );
    }
    let said = ask(&["doctor"], NOBODY);
    let expected = format!(
        "failed  configuration expected a readable configuration file at {at}/agent.yml: {denied}\n"
    );
    assert!(said.starts_with(&expected), "{said}");
    assert!(said.contains(&format!("(hint: {group})")), "{said}");
    assert_eq!(
        ask(&["teleop", "--profile", &mine], NOBODY),
        format!(
            "error: expected a readable profile at {mine}: {denied}\n  (hint: run it with `sudo`)\n"
        )
    );

    // The configuration, as everybody, and not the state.
    mode(&folder.join("agent.yml"), 0o644);
    assert_eq!(
        ask(&["status"], NOBODY),
        format!(
            "error: expected a running agent at {at}/agent.sock: {denied}\n  (hint: {group})\n"
        )
    );
    assert_eq!(
        ask(&["teleop"], NOBODY),
        "error: expected to see what the relay has registered this robot as, and this user may not\n  \
         (hint: run it with `sudo`, or name a profile with `--profile`)\n"
    );
    let said = ask(&["run"], NOBODY);
    assert!(
        said.contains(denied) && said.ends_with("  (hint: run it with `sudo`)\n"),
        "{said}"
    );
    // Not that there is nothing.
    let said = ask(&["doctor"], NOBODY);
    for (check, text) in [
        ("identity", "not to be read by this user"),
        ("agent", "not to be asked by this user"),
        ("outbox", "not to be seen by this user"),
        (
            "profile",
            "what the relay has registered is not to be seen by this user",
        ),
    ] {
        assert!(
            said.contains(&format!("unknown {check:<13} {text}\n")),
            "{said}"
        );
    }
}
