//! The program from outside: how it starts, refuses to start, tells what is wrong, and ends.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Answer, Relay, command, curl_command, wait_for};
use crate::port;

/// Runs the program to its end.
fn ended(command: &mut Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .expect("the program runs");
    (
        status.code(),
        String::from_utf8_lossy(&stdout).into_owned(),
        String::from_utf8_lossy(&stderr).into_owned(),
    )
}

fn run(data: &Path) -> Command {
    run_at(data, "127.0.0.1:0", "127.0.0.1:0")
}

fn run_at(data: &Path, https: &str, mqtt: &str) -> Command {
    let mut command = command();
    command
        .args(["run", "--https", https, "--mqtt", mqtt, "--data"])
        .arg(data);
    command
}

/// The error alone, without the log before it.
fn error(stderr: &str) -> &str {
    &stderr[stderr
        .find("error: ")
        .unwrap_or_else(|| panic!("no error in {stderr}"))..]
}

#[test]
fn sigterm_ends_it_well_and_the_next_start_goes_on() {
    let relay = Relay::start();
    let (fingerprint, password) = (relay.fingerprint.clone(), relay.password());
    let session = relay.log_in();
    let (status, data) = relay.stop();
    assert_eq!(status.code(), Some(0));
    assert!(
        fs::read_to_string(data.path().join("log"))
            .expect("the log")
            .trim_end()
            .ends_with("stopped")
    );

    let relay = Relay::start_in(data);
    assert_eq!(relay.fingerprint, fingerprint);
    assert_eq!(relay.password(), password, "shown only once");
    assert_eq!(
        relay.curl_as(&session, "/api/v1/robots", &[]).status,
        200,
        "sessions outlive a restart"
    );
    // The log did not get the password.
    assert!(!relay.log().contains(&password));
}

#[test]
fn sigterm_is_heard_while_it_starts() {
    let (_, folder) = Relay::start().stop();
    let data = folder.path().join("data");
    let other = rusqlite::Connection::open(data.join("relay.db")).expect("the store");

    // Whoever has the file alone keeps the relay from opening it.
    let hold = "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE";
    other.execute_batch(hold).expect("nobody else has it");
    stopped_while(&data, "the store is not open yet");

    // A log that takes long to fold.
    let fill = "ROLLBACK; BEGIN;
        WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 300000)
        INSERT INTO events SELECT 100000 + n, 'robot', 'kiwi-01', 'kiwi-01', zeroblob(16), n, 'agent.started', n, n, '{}', '{}'
            FROM n;
        COMMIT";
    other.execute_batch(fill).expect("room for it");
    drop(other);
    stopped_while(&data, "the picture of the fleet is not read yet");
}

/// Starts a relay on the folder, and asks it to stop while this is what it waits for.
fn stopped_while(data: &Path, missing: &str) {
    let https = format!("127.0.0.1:{}", port::free());
    let mut child = run_at(data, &https, "127.0.0.1:0")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the relay starts");
    let url = format!("https://{https}/ready");
    wait_for(missing, || {
        let mut ask = curl_command(&data.join("ca/ca.pem"), &url, &[]);
        let output = ask.output().expect("curl is installed");
        let says = |output| Answer::read(output).json()["missing"][0] == missing;
        (output.status.success() && says(output)).then_some(())
    });
    let asked = Instant::now();
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let status = child.wait().expect("a child");
    let took = asked.elapsed();
    let mut log = String::new();
    let mut stderr = child.stderr.take().expect("its log");
    stderr.read_to_string(&mut log).expect("text");
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(took < Duration::from_secs(1), "{took:?}: {log}");
    assert!(log.trim_end().ends_with("stopped"), "{log}");
}

#[test]
fn without_a_terminal_the_password_goes_into_a_file_of_its_owner() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let ready = folder.path().join("ready");
    let mut child = run(&data)
        .arg("--ready-file")
        .arg(&ready)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the relay starts");
    wait_for("the ready file", || ready.exists().then_some(()));
    let file = data.join("admin-password");
    let password = fs::read_to_string(&file).expect("the password");
    assert_eq!(password.trim().len(), 24);
    for path in [&file, &data.join("ca/ca.key"), &data.join("ca/server.key")] {
        assert_eq!(
            fs::metadata(path).expect("a file").permissions().mode() & 0o777,
            0o600,
            "{}",
            path.display()
        );
    }
    assert_eq!(
        fs::metadata(&data)
            .expect("the folder")
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let status = child.wait().expect("a child");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_taken_port_is_named_with_a_way_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let (code, _, stderr) = ended(&mut run_at(
        folder.path(),
        &address.to_string(),
        "127.0.0.1:0",
    ));
    assert_eq!(code, Some(69));
    assert_eq!(
        error(&stderr),
        format!(
            "error: cannot listen on {address}: address already in use\n  (hint: stop the program that has it (`ss -ltnp 'sport = :{}'` names it), or choose another with --https)\n",
            address.port()
        )
    );
    let (code, _, stderr) = ended(&mut run_at(
        folder.path(),
        "127.0.0.1:0",
        &address.to_string(),
    ));
    assert_eq!(code, Some(69));
    assert!(
        error(&stderr).starts_with(&format!(
            "error: cannot listen on {address}: address already in use\n"
        )),
        "{stderr}"
    );
    assert!(stderr.contains("choose another with --mqtt"), "{stderr}");
}

#[test]
fn a_second_relay_on_the_same_data_is_refused() {
    let relay = Relay::start();
    let data = relay.data_folder();
    let (code, _, stderr) = ended(&mut run(&data));
    assert_eq!(code, Some(69));
    assert!(
        error(&stderr).starts_with("error: another relay (process "),
        "{stderr}"
    );
    assert!(error(&stderr).ends_with(&format!(
        ") runs on {}\n  (hint: each relay has a data folder of its own: see --data)\n",
        data.display()
    )));
    assert_eq!(relay.curl("/health", &[]).status, 200);
}

#[test]
fn a_broken_configuration_ends_with_78() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("relay.yml");
    fs::write(&file, "version: 1\nhtps: 127.0.0.1:1\n").expect("a file");
    let (code, _, stderr) = ended(&mut run(folder.path()));
    assert_eq!(code, Some(78));
    assert_eq!(
        stderr,
        format!(
            "error: expected a key of the configuration in {} line 2, got \"htps\"\n  (hint: did you mean \"https\"?)\n",
            file.display()
        )
    );
    fs::remove_file(&file).expect("a file");
    let (code, _, stderr) = ended(run(folder.path()).env("LEKIWI_RELAY_ORG", "ACME"));
    assert_eq!(code, Some(78));
    assert_eq!(
        stderr,
        "error: cannot use org: expected an organisation: 1 to 63 of a-z, 0-9 and '-', not starting with '-', got \"ACME\"\n"
    );
    let (code, _, stderr) = ended(
        run(folder.path())
            .arg("--config")
            .arg(folder.path().join("none.yml")),
    );
    assert_eq!(code, Some(78));
    assert_eq!(
        stderr,
        format!(
            "error: cannot read the configuration {}: No such file or directory (os error 2)\n",
            folder.path().join("none.yml").display()
        )
    );
    let (code, _, stderr) = ended(command().args(["run", "--htps"]));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("--https"), "{stderr}");
}

#[test]
fn a_damaged_authority_is_reported_and_kept() {
    let relay = Relay::start();
    let (_, data) = relay.stop();
    let ca = data.path().join("data/ca");
    fs::remove_file(ca.join("ca.pem")).expect("a file");
    let (code, _, stderr) = ended(&mut run(&data.path().join("data")));
    assert_eq!(code, Some(1));
    assert_eq!(
        error(&stderr),
        format!(
            "error: expected both ca.key and ca.pem in {}, found no ca.pem\n  (hint: restore the folder from a backup; or move it away, begin anew with `lekiwi-relay ca new`, and enrol every robot again)\n",
            ca.display()
        )
    );
    assert!(ca.join("ca.key").exists());
}

#[test]
fn small_commands() {
    let relay = Relay::start();
    let data = relay.data_folder();
    let data = data.to_str().expect("text");
    let (code, stdout, _) = ended(command().args(["ca", "show", "--data", data]));
    assert_eq!(code, Some(0));
    assert!(stdout.starts_with(&format!(
        "{}\n-----BEGIN CERTIFICATE-----\n",
        relay.fingerprint
    )));
    let (_, stdout, _) = ended(command().args(["ca", "show", "--json", "--data", data]));
    let shown: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(shown["fingerprint"], relay.fingerprint.as_str());

    let (_, stdout, _) = ended(command().args([
        "token",
        "create",
        "--json",
        "--robot",
        "kiwi-01",
        "--lifetime",
        "2h",
        "--data",
        data,
    ]));
    let made: lekiwi_protocol::api::TokenCreated = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(
        made.info.robot_id.as_ref().map(|r| r.as_str()),
        Some("kiwi-01")
    );
    assert_eq!(
        made.info.expires_at.since(made.info.created_at).as_secs(),
        2 * 3600
    );
    let (code, _, stderr) =
        ended(command().args(["token", "create", "--lifetime", "400d", "--data", data]));
    assert_eq!(
        (code, stderr.as_str()),
        (
            Some(1),
            "error: expected a lifetime of 1 to 31622400 seconds, got 34560000\n"
        )
    );
    let (code, _, stderr) =
        ended(command().args(["token", "create", "--robot", "K", "--data", data]));
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("expected a robot id: 1 to 63 of a-z"),
        "{stderr}"
    );

    let empty = tempfile::tempdir().expect("a folder");
    let shown = empty.path().display();
    let (code, _, stderr) = ended(
        command()
            .args(["token", "create", "--data"])
            .arg(empty.path()),
    );
    assert_eq!(
        (code, stderr),
        (
            Some(1),
            format!(
                "error: expected a relay's data in {shown}, found none\n  (hint: start the relay once, or name its folder with --data)\n"
            )
        )
    );
    let (code, _, stderr) = ended(command().args(["ca", "show", "--data"]).arg(empty.path()));
    assert_eq!(
        (code, stderr),
        (
            Some(1),
            format!(
                "error: expected a certificate authority in {shown}/ca, found none\n  (hint: start the relay once with `lekiwi-relay run`; it makes one)\n"
            )
        )
    );
    let (code, stdout, _) = ended(command().args(["completions", "bash"]));
    assert_eq!(code, Some(0));
    assert!(stdout.contains("complete -F _lekiwi__relay"));
}

#[test]
fn logs_are_json_where_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let (_, _, stderr) = ended(
        run_at(folder.path(), "127.0.0.1:0", &address)
            .args(["--log-format", "json"])
            .env("LEKIWI_RELAY_HTPS", "x"),
    );
    let first: serde_json::Value =
        serde_json::from_str(stderr.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["level"], "WARN");
    assert_eq!(
        first["message"],
        "the variable LEKIWI_RELAY_HTPS means nothing to this relay, did you mean LEKIWI_RELAY_HTTPS?"
    );
}

#[test]
fn whoever_asks_whether_it_is_ready_is_told() {
    let ask = |https: &str, data: &Path| {
        let url = format!("https://{https}");
        let mut command = command();
        command.args(["ready", "--url", &url, "--data"]).arg(data);
        ended(&mut command)
    };
    let relay = Relay::start();
    let https = relay.https.clone();
    let nothing_said = (Some(0), String::new(), String::new());
    assert_eq!(ask(&https, &relay.data_folder()), nothing_said);
    let (_, data) = relay.stop();
    let (code, _, stderr) = ask(&https, &data.path().join("data"));
    assert_eq!(code, Some(1));
    assert!(
        error(&stderr).starts_with("error: expected an answer of /ready: "),
        "{stderr}"
    );

    let relay = Relay::start_with(data, &["--broker", "mqtts://localhost:1"]);
    let (code, _, stderr) = ask(&relay.https, &relay.data_folder());
    assert_eq!(code, Some(1));
    assert!(error(&stderr).starts_with("error: not ready: "), "{stderr}");
    // Of another authority it would be another relay.
    let other = tempfile::tempdir().expect("a temporary folder");
    let (code, _, stderr) = ask(&relay.https, other.path());
    assert_eq!(code, Some(1));
    assert!(
        error(&stderr).starts_with("error: expected a certificate authority in "),
        "{stderr}"
    );
}

#[test]
fn the_brokers_certificate_waits_for_the_authority() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("broker");
    let mut waiting = command()
        .args([
            "ca",
            "broker",
            "--name",
            "localhost",
            "--wait",
            "30s",
            "--data",
        ])
        .arg(folder.path().join("data"))
        .arg("--out")
        .arg(&out)
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    let relay = Relay::start_in(folder);
    let status = waiting.wait().expect("a child");
    assert!(status.success(), "{status}");
    assert_eq!(
        fs::read(out.join("ca.pem")).expect("the authority"),
        fs::read(relay.ca()).expect("the authority")
    );
}
