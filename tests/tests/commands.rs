//! What people tell robots to do, with real programs at both ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::{CommandList, CommandRequest, CommandView, EventRecord};
use lekiwi_protocol::message::{Arguments, CommandState, Op, kind};
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Agent, Relay, target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

const ROBOT: &str = "kiwi-01";
const PATIENCE: Duration = Duration::from_secs(60);

/// A relay, a robot of a profile with actions, and somebody who is logged in.
struct Site {
    relay: Relay,
    admin: Admin,
    agent: Agent,
    folder: tempfile::TempDir,
}

impl Site {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = folder.path().display();
        let profile = format!(
            "version: 1\nname: generic\ntitle: A robot\nactions:\n  \
             - {{name: wave, what: waves, run: [/bin/sh, -c, 'sleep $0; echo $0 >> {at}/waved', \"{{seconds}}\"], \
             arguments: {{seconds: {{type: integer, min: 0, max: 10}}}}}}\n\
             stop: {{run: [/bin/sh, -c, 'echo >> {at}/stopped']}}\n"
        );
        let profiles = folder.path().join("usr/share/lekiwi/profiles");
        std::fs::create_dir_all(&profiles)?;
        std::fs::write(profiles.join("generic.yml"), profile)?;
        let relay = Relay::start()?;
        let admin =
            Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
        let program = target("lekiwi-agent", "lekiwi-agent")?;
        let first = ["--root".into(), folder.path().as_os_str().to_owned()];
        let token = relay.token(&["--robot", ROBOT])?;
        let agent = Agent::start_program(&relay, ROBOT, &token, &program, &first)?;
        let site = Self {
            relay,
            admin,
            agent,
            folder,
        };
        site.online().await?;
        Ok(site)
    }

    /// Waits until the robot is there, registered, and has said what it can do.
    async fn online(&self) -> Result<()> {
        let registered = self.agent.state_dir().join("registered.json");
        self.until("the robot is there", async || {
            let robots = self.admin.robots().await.ok()?.robots;
            let robot = robots.iter().find(|robot| robot.id.as_str() == ROBOT)?;
            let told = registered.exists() && robot.factsheet.is_some();
            (robot.status.online && told).then_some(())
        })
        .await
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

    async fn send(&self, op: Op, arguments: Value, expires_in_s: u64) -> Result<CommandView> {
        let request = CommandRequest {
            op,
            arguments: serde_json::from_value(arguments)?,
            expires_in_s: Some(expires_in_s),
        };
        let path = format!("/api/v1/robots/{ROBOT}/commands");
        self.admin.post(&path, &request).await
    }

    /// The command, once it is in this state or beyond it.
    async fn reached(&self, command: &CommandView, state: CommandState) -> Result<CommandView> {
        let path = format!("/api/v1/robots/{ROBOT}/commands/{}", command.id);
        self.until(&format!("{} is {state}", command.op), async || {
            // A relay that is away answers nothing.
            let answer = self.admin.get(&path).send().await.ok()?;
            let view: CommandView = answer.json().await.ok()?;
            (view.state >= state).then_some(view)
        })
        .await
    }

    async fn end(&self, command: &CommandView) -> Result<CommandView> {
        self.reached(command, CommandState::Successful).await
    }

    async fn tell(&self, op: Op, arguments: Value) -> Result<CommandView> {
        let command = self.send(op, arguments, 60).await?;
        self.end(&command).await
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let id = self.agent.process().id().context("a running agent")?;
        Ok(kill(Pid::from_raw(i32::try_from(id)?), signal)?)
    }

    fn socket(&self) -> PathBuf {
        let state = self.agent.state_dir();
        state.parent().unwrap_or(Path::new("/")).join("agent.sock")
    }

    /// The types of what the log says of a command.
    async fn history(&self, command: &CommandView) -> Result<Vec<EventRecord>> {
        let id = json!(command.id);
        let events = self.admin.events(&RobotId::new(ROBOT)?).await?;
        Ok(events
            .into_iter()
            .filter(|event| event.kind.starts_with("command.") && event.data["id"] == id)
            .collect())
    }
}

fn wave(seconds: u32) -> Value {
    json!({ "action": "wave", "seconds": seconds })
}

#[tokio::test]
async fn a_command_reaches_the_robot_and_its_end_is_on_record() -> Result<()> {
    let site = Site::start().await?;
    let pong = site.tell(Op::Ping, json!({})).await?;
    ensure!(pong.state == CommandState::Successful, "got {pong:?}");
    ensure!(pong.by == "admin" && pong.result["version"] == env!("CARGO_PKG_VERSION"));

    let waved = site.tell(Op::RunAction, wave(0)).await?;
    ensure!(waved.state == CommandState::Successful, "got {waved:?}");
    ensure!(
        site.lines("waved") == ["0"],
        "got {:?}",
        site.lines("waved")
    );
    let history = site.history(&waved).await?;
    let kinds: Vec<&str> = history.iter().map(|event| event.kind.as_str()).collect();
    ensure!(
        kinds
            == [
                kind::COMMAND_REQUESTED,
                kind::COMMAND_ACCEPTED,
                kind::COMMAND_RUNNING,
                kind::COMMAND_SUCCESSFUL
            ],
        "got {kinds:?}"
    );
    ensure!(history[0].data["by"] == "admin", "who asked is on record");

    // What is wrong in itself is refused at once, what the profile does not have by the robot.
    for (arguments, status, reason) in [
        (
            json!({ "seconds": 1 }),
            "422",
            "expected run_action with a text as action, got none",
        ),
        (json!({ "action": "wave", "seconds": 11 }), "", ""),
    ] {
        let sent = site.send(Op::RunAction, arguments, 60).await;
        if status.is_empty() {
            let refused = site.end(&sent?).await?;
            ensure!(
                refused.reason.as_deref()
                    == Some("expected seconds to be a whole number from 0 to 10, got 11"),
                "got {refused:?}"
            );
        } else {
            let error = sent.err().context("a refusal")?.to_string();
            ensure!(
                error.contains(status) && error.contains(reason),
                "got {error}"
            );
        }
    }
    ensure!(site.lines("waved").len() == 1, "nothing else was done");

    let path = format!("/api/v1/robots/{ROBOT}/commands?limit=2");
    let list: CommandList = site.admin.get(&path).send().await?.json().await?;
    ensure!(
        list.commands.len() == 2 && list.commands[1].id == waved.id,
        "newest first, got {list:?}"
    );
    let metrics = site.admin.get("/metrics").send().await?.text().await?;
    for line in [
        "lekiwi_commands_ended_total{end=\"successful\"} 2",
        "lekiwi_commands_ended_total{end=\"failed\"} 1",
    ] {
        ensure!(metrics.contains(line), "expected {line} in {metrics}");
    }
    Ok(())
}

#[tokio::test]
async fn a_robot_that_was_away_gets_what_has_not_expired() -> Result<()> {
    let mut site = Site::start().await?;
    site.agent.kill()?;
    let short = site.send(Op::RunAction, wave(0), 1).await?;
    let long = site.send(Op::RunAction, wave(1), 60).await?;
    let longer = site.send(Op::RunAction, wave(2), 60).await?;
    let expired = site.end(&short).await?;
    ensure!(
        expired.reason.as_deref() == Some("expired: the robot was not connected in time"),
        "got {expired:?}"
    );
    site.agent.restart()?;
    // One after the other: the robot is busy meanwhile.
    for command in [long, longer] {
        let end = site.end(&command).await?;
        ensure!(end.state == CommandState::Successful, "got {end:?}");
    }
    ensure!(
        site.lines("waved") == ["1", "2"],
        "got {:?}",
        site.lines("waved")
    );
    Ok(())
}

#[tokio::test]
async fn a_command_that_comes_often_is_done_once() -> Result<()> {
    let mut site = Site::start().await?;
    // Nobody reads for a while, and the relay says it again.
    site.signal(Signal::SIGSTOP)?;
    let command = site.send(Op::RunAction, wave(0), 60).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    site.signal(Signal::SIGCONT)?;
    let end = site.end(&command).await?;
    ensure!(end.state == CommandState::Successful, "got {end:?}");
    // A command behind it has been through the same queue.
    site.tell(Op::Ping, json!({})).await?;
    ensure!(
        site.lines("waved") == ["0"],
        "got {:?}",
        site.lines("waved")
    );
    ensure!(site.history(&command).await?.len() == 4);
    Ok(())
}

#[tokio::test]
async fn a_relay_that_is_killed_forgets_no_command() -> Result<()> {
    let mut site = Site::start().await?;
    let running = site.send(Op::RunAction, wave(4), 60).await?;
    let waiting = site.send(Op::RunAction, wave(0), 60).await?;
    site.reached(&running, CommandState::Running).await?;
    site.relay.kill()?;
    site.relay.restart()?;
    for command in [&running, &waiting] {
        let end = site.end(command).await?;
        ensure!(end.state == CommandState::Successful, "got {end:?}");
    }
    ensure!(
        site.lines("waved") == ["4", "0"],
        "got {:?}",
        site.lines("waved")
    );
    Ok(())
}

#[tokio::test]
async fn an_emergency_stop_is_begun_said_and_on_record() -> Result<()> {
    let site = Site::start().await?;
    let stream = UnixStream::connect(site.socket()).await?;
    let (from, mut to) = stream.into_split();
    to.write_all(b"{\"subscribe\":[\"control\"]}\n").await?;
    let mut lines = BufReader::new(from).lines();
    ensure!(
        lines.next_line().await?.as_deref() == Some(r#"{"subscribed":["control"]}"#),
        "expected to be subscribed"
    );
    let path = format!("/api/v1/robots/{ROBOT}/estop");
    let stop: CommandView = site.admin.post(&path, &()).await?;
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
    let line: Value = serde_json::from_str(&line.context("a line")?)?;
    ensure!(
        line == json!({ "control": { "estop": { "id": stop.id, "by": "admin" } } }),
        "got {line}"
    );
    let confirmed = format!("{}\n", json!({ "stopped": stop.id }));
    to.write_all(confirmed.as_bytes()).await?;
    let end = site.end(&stop).await?;
    let counts = ["listeners", "confirmed"].map(|name| (name.to_owned(), json!(1)));
    ensure!(
        end.state == CommandState::Successful && end.result == Arguments::from(counts),
        "got {end:?}"
    );
    ensure!(site.lines("stopped").len() == 1, "the stop action ran once");
    site.until("the robot's own word", async || {
        let robot = RobotId::new(ROBOT).ok()?;
        let events = site.admin.events(&robot).await.ok()?;
        let of = |kind: &str| events.iter().any(|event| event.kind == kind);
        (of(kind::ESTOP_RECEIVED) && of(kind::ESTOP_DONE)).then_some(())
    })
    .await
}

#[tokio::test]
async fn nobody_commands_a_robot_that_takes_no_part() -> Result<()> {
    let site = Site::start().await?;
    let path = format!("/api/v1/robots/{ROBOT}/reject");
    let _: Value = site.admin.post(&path, &()).await?;
    let error = site.send(Op::Ping, json!({}), 60).await;
    let error = error.err().context("a refusal")?.to_string();
    ensure!(
        error.contains("409")
            && error.contains("expected a registered robot, but kiwi-01 is rejected"),
        "got {error}"
    );
    Ok(())
}
