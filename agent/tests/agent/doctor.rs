//! `lekiwi-agent doctor` on a robot that is well, and on broken ones: the exact lines.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::broker::{Process, Site, register, status};
use crate::support::{Est, eventually, write_config};

const PROFILE: &str = "version: 1\nname: lekiwi\ntitle: A robot\n";

/// Puts a file below the folder that is the machine.
fn put(site: &Site, path: &str, text: &str) {
    let path = site.folder.path().join("root").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A robot on a machine that is well.
async fn robot() -> Site {
    let site = Site::start().await;
    put(&site, "usr/share/lekiwi/profiles/lekiwi.yml", PROFILE);
    put(&site, "run/systemd/timesync/synchronized", "");
    site
}

/// Exit code, and the lines without the sum and those of `space`, which differ by machine.
fn doctor(site: &Site) -> (i32, String) {
    let root = site.folder.path().join("root").display().to_string();
    let output = site.run(&["--root", &root, "doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), lasting(site, &text))
}

/// What is the same on every machine.
fn lasting(site: &Site, text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let sum = lines.pop().unwrap();
    assert!(sum.ends_with(" unknown"), "{sum}");
    lines.retain(|line| !line.contains(" space "));
    let at = site.folder.path().display().to_string();
    let text = lines.join("\n").replace(&at, "AT");
    text.replace(&site.port.to_string(), "PORT")
}

/// The one line of a check, and its hint.
fn line(site: &Site, check: &str) -> String {
    let (_, text) = doctor(site);
    let mut lines = text
        .lines()
        .skip_while(|line| !line[8..].starts_with(check))
        .peekable();
    let first = lines.next().unwrap_or_default();
    match lines.next().filter(|line| line.starts_with(' ')) {
        Some(hint) => format!("{first}\n{hint}"),
        None => first.to_owned(),
    }
}

#[tokio::test]
async fn a_robot_that_is_well_passes_and_an_agent_that_does_not_run_is_said() {
    let site = robot().await;
    let est = Est::start(&site.authority, site.authority.clone(), []).await;
    write_config(
        site.folder.path(),
        "kiwi-01",
        est.port,
        site.port,
        &site.authority.fingerprint(),
    );
    // Not waited for: the enrolment's server is in this process.
    let root = site.folder.path().join("root").display().to_string();
    let said = site.folder.path().join("said");
    let mut command = site.command(&["--root", &root, "doctor"]);
    let command = command
        .stdout(fs::File::create(&said).unwrap())
        .stderr(Stdio::null());
    let mut process = Process(command.spawn().unwrap());
    let code = process.ended().await.code();
    let text = lasting(&site, &fs::read_to_string(said).unwrap());
    let text = text.replace(&est.port.to_string(), "EST");
    assert_eq!(code, Some(1));
    assert_eq!(
        text,
        "ok      configuration right, for kiwi-01\n\
         ok      state folder  writable at AT/state\n\
         ok      clock         set by the network\n\
         ok      identity      kiwi-01, signed by the relay's authority, until 4096-01-01T00:00:00.000Z, renewed from 3394-09-27T09:55:31.061Z\n\
         ok      token         none is left over\n\
         failed  agent         expected a running agent at AT/agent.sock: No such file or directory (os error 2)\n                      \
         (hint: `systemctl start lekiwi-agent`; why it ended: `journalctl -u lekiwi-agent`)\n\
         ok      outbox        empty, nothing was kept yet\n\
         ok      name          127.0.0.1 is 127.0.0.1\n\
         ok      enrolment     127.0.0.1:EST answers, with a trusted authority\n\
         ok      broker        127.0.0.1:PORT takes this robot\n\
         warning profile       lekiwi, not registered by the relay yet\n                      \
         (hint: is it waiting for somebody? `lekiwi approve kiwi-01`)"
    );
}

#[tokio::test]
async fn a_running_agent_is_asked_and_left_alone() {
    let site = robot().await;
    let ears = site.listen();
    let _agent = site.agent();
    let session = ears.connection(&site, "ONLINE").await.body["payload"]["session"].clone();
    register(
        &ears,
        serde_json::json!({ "status": "registered", "profile": "lekiwi" }),
    );
    let file = site.folder.path().join("state/registered.json");
    eventually("the registration is on disk", || file.exists()).await;
    let agent = line(&site, "agent");
    assert!(
        agent.starts_with("ok      agent         0.1.0 runs, Connected since "),
        "{agent}"
    );
    assert_eq!(
        line(&site, "broker"),
        "ok      broker        127.0.0.1:PORT has the agent's session"
    );
    assert_eq!(
        line(&site, "profile"),
        "ok      profile       lekiwi, as the relay has registered it"
    );
    assert_eq!(
        line(&site, "stop"),
        "warning stop          the profile has no stop action, and of 0 local programs that listen none has confirmed \
         a stop\n                      \
         (hint: give the profile a `stop`, or have the program that drives it confirm stops (docs/commands.md))"
    );
    let outbox = line(&site, "outbox");
    assert!(outbox.ends_with(" events wait"), "{outbox}");
    let root = site.folder.path().join("root").display().to_string();
    let output = site.run(&["--root", &root, "doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Nobody listens at the enrolment's port.
    assert_eq!(report["healthy"], false);
    let checks = report["checks"].as_array().unwrap();
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check["verdict"] == "failed")
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    assert_eq!(failed, ["enrolment"]);
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: one check failed\n"
    );
    assert_eq!(status(&site).unwrap()["session"], session);
}

#[tokio::test]
async fn what_was_damaged_before_is_named_and_no_fault_of_now() {
    let site = robot().await;
    let state = site.folder.path().join("state");
    fs::write(state.join("agent.db"), "garbage, and no database at all").unwrap();
    let _agent = site.agent();
    eventually("the agent runs", || status(&site).is_some()).await;
    let outbox = line(&site, "outbox");
    assert!(outbox.starts_with("warning outbox "), "{outbox}");
    assert!(
        outbox.contains(", set aside as agent.db.damaged-"),
        "{outbox}"
    );
}

#[tokio::test]
async fn a_certificate_that_was_not_renewed_has_a_hint() {
    let site = robot().await;
    let state = site.folder.path().join("state");
    let left = Duration::from_secs(6 * 86_400 + 3_600);
    let (certificate, key) = site.authority.ending("kiwi-01", left);
    fs::write(state.join("cert.pem"), certificate).unwrap();
    fs::write(state.join("key.pem"), key.serialize_pem()).unwrap();
    let soon = line(&site, "identity");
    let (found, hint) = soon.split_once('\n').unwrap();
    assert!(found.starts_with("warning identity "), "{found}");
    assert!(found.contains(", and was to be renewed at "), "{found}");
    assert_eq!(
        hint.trim(),
        "(hint: `lekiwi-agent status` says why it is not, `lekiwi-agent renew` tries again; once it has ended, a token \
         enrols the robot anew: `lekiwi token create`)"
    );
    fs::write(site.folder.path().join("token"), "lkt_x").unwrap();
    fs::remove_file(state.join("cert.pem")).unwrap();
    assert_eq!(
        line(&site, "identity"),
        "warning identity      not enrolled yet, and there is a token\n                      \
         (hint: the agent enrols by itself; by hand: `lekiwi-agent enrol`)"
    );
}

#[tokio::test]
async fn each_broken_part_has_its_line_and_its_hint() {
    let mut site = robot().await;
    let state = site.folder.path().join("state");

    let key = state.join("key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        line(&site, "identity"),
        "failed  identity      expected mode 0600 of AT/state/key.pem, got 0644\n                      \
         (hint: `chmod 600 AT/state/key.pem`; others may have read it: enrol the robot anew)"
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    fs::write(site.folder.path().join("token"), "lkt_x").unwrap();
    assert_eq!(
        line(&site, "token"),
        "warning token         AT/token is there, and the robot is enrolled\n                      \
         (hint: the agent removes it once it is connected; if it is: `rm` it)"
    );
    fs::remove_file(site.folder.path().join("token")).unwrap();

    fs::write(state.join("agent.db"), "garbage, and no database at all").unwrap();
    assert_eq!(
        line(&site, "outbox"),
        "failed  outbox        expected an intact database at AT/state/agent.db: file is not a database\n                      \
         (hint: the agent sets it aside when it starts, and says so to the relay)"
    );
    assert_eq!(
        line(&site, "broker"),
        "ok      broker        127.0.0.1:PORT takes this robot"
    );
    site.broker = None;
    assert_eq!(
        line(&site, "broker"),
        "failed  broker        expected a connection to 127.0.0.1:PORT: Connection refused (os error 111)\n                      \
         (hint: is the relay running, relay.mqtt right, and the port let through?)"
    );
    assert_eq!(
        line(&site, "enrolment"),
        "failed  enrolment     expected a relay at 127.0.0.1:1: Connection refused (os error 111)\n                      \
         (hint: is the relay running, and relay.https right?)"
    );

    put(
        &site,
        "sys/devices/platform/soc/soc:firmware/get_throttled",
        "50005\n",
    );
    assert_eq!(
        line(&site, "power"),
        "failed  power         under-voltage, throttled now\n                      \
         (hint: a stronger power supply and a shorter cable, or more air)"
    );

    let profile = format!("{PROFILE}groups: [dialout]\nservices: [host.service]\n");
    put(&site, "usr/share/lekiwi/profiles/lekiwi.yml", &profile);
    put(&site, "etc/passwd", "pi:x:1000:1000::/home/pi:/bin/sh\n");
    put(&site, "etc/group", "dialout:x:20:\n");
    assert_eq!(
        line(&site, "profile"),
        "warning profile       lekiwi, not registered by the relay yet\n                      \
         (hint: is it waiting for somebody? `lekiwi approve kiwi-01`)"
    );
    assert_eq!(
        line(&site, "groups"),
        "warning groups        pi is not a member of dialout, and cannot use the robot's devices\n                      \
         (hint: root's setup adds everybody; by hand: `usermod -aG dialout pi`)"
    );
    let profile = format!("{PROFILE}services: [host.service]\n");
    put(&site, "usr/share/lekiwi/profiles/lekiwi.yml", &profile);
    fs::write(
        state.join("registered.json"),
        r#"{"status":"registered","profile":"lekiwi"}"#,
    )
    .unwrap();
    assert_eq!(
        line(&site, "service"),
        "failed  service       host.service: expected host.service to be active, but it is not running\n                      \
         (hint: `systemctl status host.service`)"
    );
    assert_eq!(
        line(&site, "stop"),
        "unknown stop          the profile has no stop action, and only a running agent knows who listens\n                      \
         (hint: give the profile a `stop`, or have the program that drives it confirm stops (docs/commands.md))"
    );
    let profile = format!("{PROFILE}stop: {{run: [/opt/robot/stop, now]}}\n");
    put(&site, "usr/share/lekiwi/profiles/lekiwi.yml", &profile);
    assert_eq!(
        line(&site, "stop"),
        "failed  stop          expected the stop action's program /opt/robot/stop, found none\n                      \
         (hint: what the profile brings is installed by the setup: `journalctl -u lekiwi-setup`)"
    );
    put(&site, "opt/robot/stop", "");
    assert_eq!(
        line(&site, "stop"),
        "ok      stop          an emergency stop runs /opt/robot/stop"
    );
    let unit = "software: {units: [{name: stop.socket, content: \"[Socket]\\nListenStream=/run/stop.sock\\n[Install]\\nWantedBy=sockets.target\\n\"}]}\n";
    put(
        &site,
        "usr/share/lekiwi/profiles/lekiwi.yml",
        &format!("{profile}{unit}"),
    );
    assert_eq!(
        line(&site, "stop"),
        "failed  stop          expected systemd to listen at /run/stop.sock for the stop action\n                      \
         (hint: `systemctl status stop.socket` says why not)"
    );
    put(&site, "run/stop.sock", "");
    assert_eq!(
        line(&site, "stop"),
        "ok      stop          an emergency stop runs /opt/robot/stop"
    );
    fs::remove_file(
        site.folder
            .path()
            .join("root/usr/share/lekiwi/profiles/lekiwi.yml"),
    )
    .unwrap();
    assert_eq!(
        line(&site, "profile"),
        "failed  profile       expected a readable file at AT/root/usr/share/lekiwi/profiles/lekiwi.yml: \
         No such file or directory (os error 2)\n                      \
         (hint: profiles come with the package, or lie in /etc/lekiwi/profiles)"
    );

    fs::remove_file(state.join("cert.pem")).unwrap();
    assert_eq!(
        line(&site, "identity"),
        "failed  identity      expected AT/state/cert.pem of an enrolled robot\n                      \
         (hint: write a token of `lekiwi token create` into AT/token)"
    );
    let token = site.folder.path().join("token");
    fs::write(&token, "lkt_secret\n").unwrap();
    let malformed = line(&site, "token");
    assert_eq!(
        malformed,
        "failed  token         expected lkt_ and 43 letters, digits, '-' and '_' in AT/token, got 10 characters of \
         another form\n                      \
         (hint: write a whole token of `lekiwi token create` into it, in one line)"
    );
    fs::write(&token, format!("lkt_{}\n", "aB3-_".repeat(9))).unwrap();
    assert!(
        line(&site, "token").starts_with("failed  token "),
        "two too many"
    );
    fs::write(&token, format!("lkt_{}\n", &"aB3-_".repeat(9)[..43])).unwrap();
    assert_eq!(
        line(&site, "token"),
        "ok      token         waits to be used at AT/token"
    );
    fs::remove_dir_all(&state).unwrap();
    assert_eq!(
        line(&site, "state folder"),
        "failed  state folder  expected a writable folder at AT/state: No such file or directory (os error 2)\n                      \
         (hint: `systemd-tmpfiles --create` makes it as the package says)"
    );
    fs::write(site.folder.path().join("agent.yml"), "version: 2\n").unwrap();
    let (code, text) = doctor(&site);
    assert_eq!(code, 1);
    assert!(
        text.starts_with("failed  configuration version in AT/agent.yml: expected 1, got 2\n"),
        "{text}"
    );
}

/// Adds to the configuration, which is as at first otherwise.
fn configure(site: &Site, first: &str, more: &str) {
    fs::write(
        site.folder.path().join("agent.yml"),
        format!("{first}{more}"),
    )
    .unwrap();
}

/// What `check` found, each in a line, without hints.
fn findings(site: &Site, check: &str) -> Vec<String> {
    let (_, text) = doctor(site);
    let lines = text.lines().filter(|line| line[8..].starts_with(check));
    lines.map(str::to_owned).collect()
}

/// Answers each request with this, for as long as the test lasts.
fn answering(answer: &'static str) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
            let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
        }
    });
    address
}

#[tokio::test]
async fn what_a_migration_needs_is_looked_at() {
    let site = robot().await;
    let file = site.folder.path().join("agent.yml");
    let first = fs::read_to_string(&file).unwrap();
    assert_eq!(findings(&site, "migration"), Vec::<String>::new());

    let key = site.folder.path().join("key");
    let with_key = format!("migration: {{api_key_file: {}}}\n", key.display());
    configure(&site, &first, &with_key);
    assert_eq!(
        line(&site, "migration"),
        "failed  migration     expected the older system's key in AT/key: No such file or directory (os error 2)\n                      \
         (hint: without it nothing is forwarded; readable by the agent: `chown root:lekiwi-agent FILE; chmod 640 FILE`)"
    );
    fs::write(&key, "\n").unwrap();
    assert_eq!(
        findings(&site, "migration"),
        ["failed  migration     expected the older system's key in AT/key: it is empty"]
    );

    // The older relay itself has the port that is meant for its agent here, and answers `/health` too.
    let older = answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{\"status\":\"ok\"}",
    );
    let migration = |listen: std::net::SocketAddr, mirror: std::net::SocketAddr| {
        let text =
            format!("migration: {{listen: '{listen}', mirror: 'http://{mirror}', auth: none}}\n");
        configure(&site, &first, &text);
    };
    migration(older, older);
    assert_eq!(
        findings(&site, "migration"),
        [
            format!(
                "failed  migration     expected {older} to be free for the older agent's words: Address already in use \
                 (os error 98)"
            ),
            format!("ok      migration     the older relay answers at http://{older}"),
        ]
    );
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let gone = free.local_addr().unwrap();
    drop(free);
    migration(gone, gone);
    assert_eq!(
        findings(&site, "migration"),
        [
            format!("ok      migration     {gone} is free for the older agent's words"),
            format!(
                "failed  migration     expected the older relay at http://{gone}: Connection refused (os error 111)"
            ),
        ]
    );
    let closed = answering("HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\n");
    migration(gone, closed);
    let agent = site.agent();
    eventually("the agent runs", || status(&site).is_some()).await;
    assert_eq!(
        findings(&site, "migration"),
        [
            format!("ok      migration     the agent hears the older one at {gone}"),
            format!(
                "failed  migration     expected the older relay at http://{closed} to take the key, got a refusal"
            ),
        ]
    );
    // Not the agent's, whatever it answers at /health.
    migration(older, older);
    assert_eq!(
        findings(&site, "migration")[0],
        format!("failed  migration     expected this agent at {older}, got somebody else")
    );
    drop(agent);
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_as_what_refuses() {
    let site = robot().await;
    let file = site.folder.path().join("agent.yml");
    let first = fs::read_to_string(&file).unwrap();
    let proxied = |proxy: std::net::SocketAddr| {
        let text = first.replace("relay:\n", &format!("relay:\n  proxy: http://{proxy}\n"));
        assert_ne!(text, first);
        configure(&site, &text, "");
    };
    let refusing = answering("HTTP/1.1 403 Forbidden\r\n\r\n");
    proxied(refusing);
    assert_eq!(
        line(&site, "proxy"),
        format!(
            "failed  proxy         no way to 127.0.0.1:1: expected the proxy at {refusing} to connect, got \
             \"HTTP/1.1 403 Forbidden\"\n                      \
             (hint: it must allow CONNECT to this address and port; without one, take relay.proxy away)"
        )
    );
    for behind in ["enrolment", "broker"] {
        assert_eq!(findings(&site, behind), Vec::<String>::new());
    }
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let gone = free.local_addr().unwrap();
    drop(free);
    proxied(gone);
    assert_eq!(
        line(&site, "proxy"),
        format!(
            "failed  proxy         expected a proxy at {gone}: Connection refused (os error 111)\n                      \
             (hint: is it running, and relay.proxy right?)"
        )
    );
    let yes = answering("HTTP/1.1 200 Connection established\r\n\r\n");
    proxied(yes);
    assert_eq!(
        findings(&site, "proxy"),
        [format!(
            "ok      proxy         {yes} connects to 127.0.0.1:1"
        )]
    );
}
