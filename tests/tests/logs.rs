//! Logs of a robot from its journal to somebody's disk, with real programs at every step.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::{CommandRequest, CommandView, LogList, Problem};
use lekiwi_protocol::message::{CommandState, Op, kind};
use lekiwi_tests::fleet::{Admin, Identity};
use lekiwi_tests::harness::{Agent, Fault, FaultyProxy, Relay, program, target};
use serde_json::{Value, json};

const ROBOT: &str = "kiwi-01";
const PATIENCE: Duration = Duration::from_secs(60);
const MACHINE: &str = "0123456789abcdef0123456789abcdef";
/// Entries of the robot's service.
const LINES: usize = 8000;
/// When the journal begins, and the time between two entries.
const BEGIN_S: u64 = 1_700_000_000;

/// Text that gzip cannot make much of, a different one for each number.
fn noise(number: usize) -> String {
    let mut state = number as u64 + 1;
    let mut digit = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b' ' + 1 + ((state >> 33) % 94) as u8)
    };
    (0..100).map(|_| digit()).collect()
}

/// A journal below `root` that systemd's own program wrote: a service's entries, a second apart, and among them
/// those of another one.
fn journal(root: &Path) -> Result<()> {
    let folder = root.join("var/log/journal").join(MACHINE);
    std::fs::create_dir_all(&folder)?;
    let remote = program(
        "/usr/lib/systemd/systemd-journal-remote",
        "systemd-journal-remote",
    )?;
    let mut child = Command::new(remote)
        .arg(format!(
            "--output={}",
            folder.join("system.journal").display()
        ))
        .args(["--split-mode=none", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut text = String::new();
    for number in 0..LINES {
        let (unit, message) = match number % 10 {
            9 => ("other.service", "something else".to_owned()),
            _ => ("host.service", format!("entry {number} {}", noise(number))),
        };
        let us = (BEGIN_S + number as u64) * 1_000_000;
        text.push_str(&format!(
            "__REALTIME_TIMESTAMP={us}\n__MONOTONIC_TIMESTAMP={}\n_BOOT_ID={MACHINE}\n_MACHINE_ID={MACHINE}\n\
             _HOSTNAME={ROBOT}\nSYSLOG_IDENTIFIER=host\n_SYSTEMD_UNIT={unit}\nMESSAGE={message}\n\n",
            number + 1
        ));
    }
    let mut stdin = child.stdin.take().context("a pipe")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    let status = child.wait()?;
    ensure!(status.success(), "expected a journal, got {status}");
    Ok(())
}

/// A relay, a robot with a journal, a network between the two that can be slow, and somebody who is logged in.
struct Site {
    relay: Relay,
    admin: Admin,
    agent: Agent,
    proxy: FaultyProxy,
    folder: tempfile::TempDir,
}

impl Site {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        journal(folder.path())?;
        let profiles = folder.path().join("usr/share/lekiwi/profiles");
        std::fs::create_dir_all(&profiles)?;
        let profile = "version: 1\nname: generic\ntitle: A robot\n";
        std::fs::write(profiles.join("generic.yml"), profile)?;
        let relay = Relay::start()?;
        let admin =
            Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
        let proxy = FaultyProxy::start(relay.https()).await?;
        let agent = Agent::start_edited(
            &relay,
            ROBOT,
            &relay.token(&["--robot", ROBOT])?,
            &target("lekiwi-agent", "lekiwi-agent")?,
            &["--root".into(), folder.path().as_os_str().to_owned()],
            |config| config.replace(relay.https(), &proxy.address().to_string()),
        )?;
        let site = Self {
            relay,
            admin,
            agent,
            proxy,
            folder,
        };
        site.until("the robot is there", async || {
            let robots = site.admin.robots().await.ok()?.robots;
            let robot = robots.iter().find(|robot| robot.id.as_str() == ROBOT)?;
            (robot.status.online && robot.factsheet.is_some()).then_some(())
        })
        .await?;
        Ok(site)
    }

    async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(seen) = look().await {
                return Ok(seen);
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "never came about: {what}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn send(&self, op: Op, arguments: Value) -> Result<CommandView> {
        let request = CommandRequest {
            op,
            arguments: serde_json::from_value(arguments)?,
            expires_in_s: None,
        };
        let path = format!("/api/v1/robots/{ROBOT}/commands");
        self.admin.post(&path, &request).await
    }

    async fn end(&self, command: &CommandView) -> Result<CommandView> {
        let path = format!("/api/v1/robots/{ROBOT}/commands/{}", command.id);
        self.until(&format!("{} has ended", command.op), async || {
            // A relay that is away answers nothing.
            let answer = self.admin.get(&path).send().await.ok()?;
            let view: CommandView = answer.json().await.ok()?;
            view.state.is_end().then_some(view)
        })
        .await
    }

    /// A command that has ended well, and the text that it brought, after a look whether it is what was said.
    async fn collected(&self, command: &CommandView) -> Result<(CommandView, String)> {
        let end = self.end(command).await?;
        ensure!(end.state == CommandState::Successful, "got {end:?}");
        let path = format!("/api/v1/robots/{ROBOT}/logs/{}", end.id);
        let packed = self.admin.get(&path).send().await?.error_for_status()?;
        let packed = packed.bytes().await?;
        let file = self.folder.path().join("downloaded.gz");
        std::fs::write(&file, &packed)?;
        ensure!(end.result["bytes"] == packed.len(), "got {end:?}");
        ensure!(end.result["sha256"] == sha256(&file)?, "got {end:?}");
        let text = unpacked(&file)?;
        ensure!(end.result["lines"] == text.lines().count(), "got {end:?}");
        let logs: LogList = self
            .admin
            .get(&format!("/api/v1/robots/{ROBOT}/logs"))
            .send()
            .await?
            .json()
            .await?;
        ensure!(
            logs.logs
                .iter()
                .any(|log| log.id == end.id && log.bytes == packed.len() as u64),
            "expected it in {logs:?}"
        );
        Ok((end, text))
    }

    /// What the relay has of an upload that is not whole.
    fn part(&self) -> Option<(PathBuf, u64)> {
        let folder = self.relay.data().join("logs").join(ROBOT);
        let mut parts = std::fs::read_dir(folder).ok()?.filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_part = path.extension().is_some_and(|ending| ending == "part");
            Some((path.clone(), path.metadata().ok()?.len())).filter(|_| is_part)
        });
        parts.next()
    }

    /// Waits until an upload has come far enough to be interrupted.
    async fn under_way(&self) -> Result<(PathBuf, u64)> {
        let look = async || self.part().filter(|(_, bytes)| *bytes > 100_000);
        self.until("an upload is under way", look).await
    }

    /// What the robot keeps of logs.
    fn left(&self) -> usize {
        let folder = self.agent.state_dir().join("logs");
        std::fs::read_dir(folder).map_or(0, |entries| entries.count())
    }

    /// Starts the agent again, which kills itself at a place of its journal where one is given.
    fn restart_agent(&mut self, kill_at: Option<u32>) -> Result<()> {
        let config = self.agent.state_dir().join("../agent.yml");
        let mut arguments = vec![
            "--root".into(),
            self.folder.path().into(),
            "--config".into(),
            config.into_os_string(),
            "run".into(),
        ];
        if let Some(place) = kill_at {
            arguments.extend(["--kill-at".into(), place.to_string().into()]);
        }
        self.agent.process().restart(Some(arguments))
    }
}

fn sha256(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

fn unpacked(file: &Path) -> Result<String> {
    let output = Command::new(program("gzip", "gzip")?)
        .arg("-dc")
        .arg(file)
        .output()?;
    ensure!(output.status.success(), "expected gzip, got {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The numbers of the service's entries in a text, in its order.
fn entries(text: &str) -> Vec<usize> {
    let number = |line: &str| {
        let (_, rest) = line.split_once("host: entry ")?;
        rest.split(' ').next()?.parse().ok()
    };
    text.lines().filter_map(number).collect()
}

/// The numbers of the service's entries among these.
fn expected(range: std::ops::Range<usize>) -> Vec<usize> {
    range.filter(|number| number % 10 != 9).collect()
}

fn at(number: usize) -> String {
    lekiwi_protocol::Timestamp::from_ms((BEGIN_S + number as u64) * 1000).to_string()
}

#[tokio::test]
async fn a_part_of_the_journal_is_fetched_and_nothing_is_left_on_the_robot() -> Result<()> {
    let site = Site::start().await?;
    let asked = json!({ "unit": "host.service", "since": at(20), "until": at(40) });
    let command = site.send(Op::CollectLogs, asked).await?;
    let (end, text) = site.collected(&command).await?;
    ensure!(entries(&text) == expected(20..41), "got {text}");
    ensure!(!text.contains("something else") && end.result["is_cut"] == false);
    ensure!(
        text.starts_with("2023-11-14T22:13:40.000000+0000 kiwi-01 host: entry 20 "),
        "got {text}"
    );
    site.until("nothing is left", async || (site.left() == 0).then_some(()))
        .await?;

    // More than fits: the newest, in their order.
    let asked = json!({ "max_bytes": 100_000 });
    let command = site.send(Op::CollectLogs, asked).await?;
    let (end, text) = site.collected(&command).await?;
    let bytes = end.result["bytes"].as_u64().context("a size")?;
    ensure!(
        end.result["is_cut"] == true && (50_000..=100_000).contains(&bytes),
        "got {end:?}"
    );
    let there = entries(&text);
    let first = *there.first().context("entries")?;
    ensure!(there == expected(first..LINES), "got {there:?}");

    // What is of no use is refused before the robot hears of it.
    let error = site.send(Op::CollectLogs, json!({ "unit": "a*" })).await;
    let error = error.err().context("a refusal")?.to_string();
    ensure!(
        error.contains("422") && error.contains("expected a unit such as lekiwi-host.service"),
        "got {error}"
    );
    // Who looked is on record.
    let events = site.admin.events(&RobotId::new(ROBOT)?).await?;
    let looked = events
        .iter()
        .filter(|event| event.kind == kind::LOGS_DOWNLOADED);
    ensure!(looked.filter(|event| event.data["by"] == "admin").count() == 2);
    Ok(())
}

#[tokio::test]
async fn an_upload_that_is_cut_off_on_either_side_goes_on() -> Result<()> {
    let mut site = Site::start().await?;
    site.proxy.set(Fault::Slow(100_000));
    let before = site.proxy.bytes();
    let command = site.send(Op::CollectLogs, json!({})).await?;
    let (part, bytes) = site.under_way().await?;
    site.relay.kill()?;
    site.relay.restart()?;
    let further = async || site.part().filter(|(_, now)| *now > bytes + 100_000);
    let (_, bytes) = site.until("it goes on after the relay", further).await?;
    site.agent.kill()?;
    let (_, kept) = site.part().context("a part")?;
    ensure!(kept >= bytes, "expected {bytes} bytes or more, got {kept}");
    site.agent.restart()?;
    let further = async || {
        site.part()
            .filter(|(path, now)| *path == part && *now > kept)
    };
    site.until("it goes on after the agent", further).await?;
    site.proxy.set(Fault::None);
    let (end, text) = site.collected(&command).await?;
    ensure!(entries(&text) == expected(0..LINES));
    // Each interruption costs a piece or two, not the whole.
    let (carried, size) = (
        site.proxy.bytes() - before,
        end.result["bytes"].as_u64().context("a size")?,
    );
    ensure!(
        carried < size + 400_000,
        "expected about {size} bytes to be carried, got {carried}"
    );
    let history = site.admin.events(&RobotId::new(ROBOT)?).await?;
    let ends = history
        .iter()
        .filter(|event| event.kind == kind::COMMAND_SUCCESSFUL);
    ensure!(ends.count() == 1, "it ends once");
    Ok(())
}

#[tokio::test]
async fn killed_at_any_step_logs_are_there_in_the_end() -> Result<()> {
    let mut site = Site::start().await?;
    for place in 1.. {
        site.agent.kill()?;
        site.restart_agent(Some(place))?;
        let asked = json!({ "unit": "other.service" });
        let command = site.send(Op::CollectLogs, asked).await?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let path = format!("/api/v1/robots/{ROBOT}/commands/{}", command.id);
        let mut is_killed = false;
        while !is_killed {
            let view: CommandView = site.admin.get(&path).send().await?.json().await?;
            is_killed = site.agent.process().exited()?.is_some();
            if view.state.is_end() && !is_killed {
                break;
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "stuck at place {place}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if is_killed {
            site.restart_agent(None)?;
        }
        let (_, text) = site.collected(&command).await?;
        ensure!(
            text.lines().count() == LINES / 10,
            "killed at place {place}"
        );
        site.until("nothing is left", async || (site.left() == 0).then_some(()))
            .await?;
        if !is_killed {
            ensure!(
                place == 5,
                "expected two places of begun and ended each, got to place {place}"
            );
            return Ok(());
        }
    }
    Ok(())
}

/// A disk of 64 KiB, until it goes out of scope.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&at)?;
        let mounted = Command::new(program("mount", "mount")?)
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(&at)
            .status()?;
        ensure!(
            mounted.success(),
            "expected to mount a disk (hint: run these tests with sudo)"
        );
        Ok(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_fails_the_command_with_its_reason_and_is_emptied() -> Result<()> {
    let site = Site::start().await?;
    let _disk = SmallDisk::mount(site.agent.state_dir().join("logs"))?;
    let command = site.send(Op::CollectLogs, json!({})).await?;
    let end = site.end(&command).await?;
    let reason = end.reason.as_deref().unwrap_or_default();
    ensure!(
        reason.starts_with("expected gzip to succeed, got exit status: 1: ")
            && reason.ends_with("No space left on device"),
        "got {end:?}"
    );
    ensure!(site.left() == 0, "the file is gone");
    let small = json!({ "unit": "other.service", "until": at(200) });
    let command = site.send(Op::CollectLogs, small).await?;
    let (_, text) = site.collected(&command).await?;
    ensure!(text.lines().count() == 20, "got {text}");
    Ok(())
}

/// What the relay says to a piece for `command` that comes with a certificate, or without one.
async fn piece(site: &Site, identity: Option<&Identity>, command: &str) -> Result<(u16, Problem)> {
    let mut client = reqwest::Client::builder();
    client = match identity {
        Some(identity) => client.tls_backend_preconfigured(identity.client_config()?),
        None => client.tls_certs_only([reqwest::Certificate::from_pem(
            site.relay.ca_pem().as_bytes(),
        )?]),
    };
    let answer = client
        .build()?
        .patch(format!(
            "{}/api/v1/robots/{ROBOT}/logs/{command}",
            site.admin.base()
        ))
        .header("content-type", "application/offset+octet-stream")
        .header("upload-offset", 0)
        .header("upload-length", 4)
        .header("repr-digest", format!("sha-256=:{}=:", "A".repeat(43)))
        .body("text")
        .send()
        .await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

#[tokio::test]
async fn only_the_robot_itself_uploads_and_only_what_it_was_asked_for() -> Result<()> {
    let mut site = Site::start().await?;
    let other = Identity::enrol(&site.admin, site.folder.path(), RobotId::new("kiwi-02")?).await?;
    std::os::unix::fs::symlink(site.agent.state_dir(), site.folder.path().join(ROBOT))?;
    let own = Identity::load(site.folder.path(), site.admin.base(), RobotId::new(ROBOT)?)?;
    let ping = site.send(Op::Ping, json!({})).await?;
    site.end(&ping).await?;
    site.agent.kill()?;
    let open = site.send(Op::CollectLogs, json!({})).await?;
    let (ping, open) = (ping.id.to_string(), open.id.to_string());
    let nothing = "00000000-0000-0000-0000-000000000000";
    let refusals = [
        (
            None,
            &*open,
            401,
            "expected a robot's certificate in the TLS handshake, got none".to_owned(),
        ),
        (
            Some(&other),
            &open,
            403,
            "robot kiwi-02 may speak for itself, not for kiwi-01".to_owned(),
        ),
        (
            Some(&own),
            nothing,
            404,
            format!("there is no command {nothing} of kiwi-01"),
        ),
        (
            Some(&own),
            &ping,
            409,
            format!(
                "expected an open command that uploads something, but {ping} is ping, successful"
            ),
        ),
    ];
    for (identity, command, status, detail) in refusals {
        let (answered, problem) = piece(&site, identity, command).await?;
        ensure!(
            (answered, problem.detail.as_deref()) == (status, Some(&detail)),
            "expected {status} {detail:?}, got {answered} {problem:?}"
        );
    }
    // What it was asked for is taken, though this is not what was announced.
    let (status, problem) = piece(&site, Some(&own), &open).await?;
    ensure!(
        status == 422 && problem.problem_type == "urn:lekiwi:problem:upload-damaged",
        "got {problem:?}"
    );
    // A certificate counts for nothing elsewhere, and for nothing at all once it is revoked.
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(own.client_config()?)
        .build()?;
    let answer = client
        .get(format!("{}/api/v1/robots", site.admin.base()))
        .send()
        .await?;
    ensure!(answer.status().as_u16() == 401, "got {}", answer.status());
    let _: Value = site
        .admin
        .post(&format!("/api/v1/robots/{ROBOT}/reject"), &())
        .await?;
    let (status, problem) = piece(&site, Some(&own), &open).await?;
    let detail = problem.detail.unwrap_or_default();
    ensure!(
        status == 403 && detail.ends_with("of \"kiwi-01\" was revoked"),
        "got {status} {detail}"
    );
    Ok(())
}

// The proxy goes on while a program is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_fetches_logs_into_a_file_or_a_pipe() -> Result<()> {
    let site = Site::start().await?;
    let lekiwi = |arguments: &[&str]| {
        let output = Command::new(target("lekiwi", "lekiwi-cli")?)
            .args(arguments)
            .current_dir(site.folder.path())
            .env("XDG_CONFIG_HOME", site.folder.path())
            .output()?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::Ok((output.status.success(), output.stdout, error))
    };
    let (url, password) = (
        site.admin.base().to_owned(),
        site.relay.admin_password_file(),
    );
    let password = password.to_string_lossy();
    let pin = site.relay.ca_fingerprint();
    let login = [
        "login",
        &url,
        "--password-file",
        &password,
        "--ca-fingerprint",
        pin,
    ];
    let (done, _, error) = lekiwi(&login)?;
    ensure!(done, "{error}");

    let (since, until) = (at(0), at(18));
    let first = [
        "logs",
        ROBOT,
        "--unit",
        "other.service",
        "--since",
        &since,
        "--until",
        &until,
    ];
    let (done, said, error) = lekiwi(&[&first[..], &["-o", "x.log.gz"]].concat())?;
    ensure!(
        done && error.contains("collect_logs is sent to kiwi-01"),
        "{error}"
    );
    let file = site.folder.path().join("x.log.gz");
    let size = file.metadata()?.len();
    ensure!(
        String::from_utf8(said.clone())? == format!("x.log.gz: 1 lines, {size} bytes\n"),
        "got {said:?}"
    );
    ensure!(unpacked(&file)?.ends_with("host: something else\n"));

    let (done, packed, error) = lekiwi(&[&first[..], &["-o", "-"]].concat())?;
    ensure!(done, "{error}");
    std::fs::write(&file, packed)?;
    ensure!(unpacked(&file)?.ends_with("host: something else\n"));
    Ok(())
}
