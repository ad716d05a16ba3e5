//! What operators desire of a robot's configuration, with real programs at both ends.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::{ConfigurationRequest, ConfigurationView, RollbackRequest};
use lekiwi_protocol::message::{ConfigurationState, kind};
use lekiwi_protocol::trace::TraceParent;
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Agent, Relay, RelayOptions, target};
use serde_json::{Value, json};

const ROBOT: &str = "kiwi-01";
const PATH: &str = "/api/v1/robots/kiwi-01/configuration";
const PATIENCE: Duration = Duration::from_secs(60);

struct Site {
    relay: Relay,
    admin: Admin,
    agent: Agent,
}

impl Site {
    async fn start() -> Result<Self> {
        Self::start_on(Relay::start()?).await
    }

    async fn start_on(relay: Relay) -> Result<Self> {
        let admin =
            Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
        let program = target("lekiwi-agent", "lekiwi-agent")?;
        let token = relay.token(&["--robot", ROBOT])?;
        let agent = Agent::start_program(&relay, ROBOT, &token, &program, &[])?;
        let site = Self {
            relay,
            admin,
            agent,
        };
        site.until("the robot says what it has", |view| view.reported.is_some())
            .await?;
        Ok(site)
    }

    async fn view(&self) -> Result<ConfigurationView> {
        let answer = self.admin.get(PATH).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    async fn until(
        &self,
        what: &str,
        fits: impl Fn(&ConfigurationView) -> bool,
    ) -> Result<ConfigurationView> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            // A relay that is away answers nothing.
            if let Ok(view) = self.view().await
                && fits(&view)
            {
                return Ok(view);
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "never came about: {what}; last {:?}",
                self.view().await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn want(&self, settings: Value, base: Option<u64>) -> Result<ConfigurationView> {
        let request = ConfigurationRequest {
            settings: serde_json::from_value(settings)?,
            confirm_within_s: Some(60),
            base_version: base,
            proof: None,
        };
        self.admin.put(PATH, &request).await
    }

    /// What the robot says of a version, once that has come to an end.
    async fn end(&self, version: u64, state: ConfigurationState) -> Result<ConfigurationView> {
        self.until(&format!("version {version} is {state}"), |view| {
            let said = view.reported.as_ref();
            said.is_some_and(|said| said.version == version && said.state == state)
        })
        .await
    }

    /// What the log says of configurations: the types, with their versions.
    async fn history(&self) -> Result<Vec<(String, u64)>> {
        let events = self.admin.events(&RobotId::new(ROBOT)?).await?;
        let of = |event: lekiwi_protocol::api::EventRecord| {
            let version = event.data["version"].as_u64()?;
            let is_one = event.kind.starts_with("configuration.");
            is_one.then_some((event.kind, version))
        };
        Ok(events.into_iter().filter_map(of).collect())
    }

    /// Waits until that is what the log says: an end is shown before it is on the disk.
    async fn recorded(&self, expected: &[(String, u64)]) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let history = self.history().await?;
            if history == expected {
                return Ok(());
            }
            let is_late = tokio::time::Instant::now() >= deadline;
            ensure!(!is_late, "expected {expected:?}, got {history:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_configuration_reaches_the_robot_and_what_became_of_it_is_on_record() -> Result<()> {
    let site = Site::start().await?;
    let own = site.view().await?;
    ensure!(own.desired.is_none() && !own.drift, "got {own:?}");
    let wanted = site.want(json!({ "heartbeat_s": 7 }), Some(0)).await?;
    let desired = wanted.desired.context("what was wanted")?;
    ensure!(desired.version == 1 && desired.by == "admin" && wanted.drift);
    let applied = site.end(1, ConfigurationState::Applied).await?;
    ensure!(!applied.drift, "got {applied:?}");

    // Somebody else was faster; and what is wrong in itself is refused at once.
    for (base, body, status, reason) in [
        (
            Some(0),
            json!({ "heartbeat_s": 8 }),
            "409",
            "expected version 0 of the configuration to be the newest, got 1",
        ),
        (
            None,
            json!({ "log": "x".repeat(20_000) }),
            "422",
            "expected settings of at most 16384 bytes, got 20010",
        ),
        (
            None,
            json!({ "heartbeat": 5 }),
            "422",
            "settings: expected one of heartbeat_s, log, telemetry, traces, got \\\"heartbeat\\\"",
        ),
        (
            None,
            json!({ "telemetry": { "metrics": { "cpu_percent": { "deadband": -1 } } } }),
            "422",
            "settings.telemetry.metrics.cpu_percent.deadband: expected a number from 0, got -1",
        ),
    ] {
        let error = site.want(body, base).await.err().context("a refusal")?;
        let error = error.to_string();
        ensure!(
            error.contains(status) && error.contains(reason),
            "got {error}"
        );
    }

    // What only the robot can say: it has levels of its own for this alert.
    let alert = json!({ "telemetry": { "metrics": { "cpu_percent": { "alert_clear": 99 } } } });
    site.want(alert, Some(1)).await?;
    let rejected = site.end(2, ConfigurationState::Rejected).await?;
    let said = rejected.reported.context("what the robot says")?;
    ensure!(
        rejected.drift
            && said.in_force == 1
            && said.reason.as_deref()
                == Some(
                    "telemetry.metrics.cpu_percent.alert_clear in the desired configuration 2: expected at most \
                     alert_above, which is 95, got 99"
                ),
        "got {said:?}"
    );
    let in_force = rejected.in_force.context("what is in force")?;
    ensure!(in_force.version == 1 && in_force.settings["heartbeat_s"] == 7);

    // Back to what the robot had applied, as a new version; and to nothing at all.
    let path = format!("{PATH}/rollback");
    let back: ConfigurationView = site
        .admin
        .post(&path, &RollbackRequest { to: None })
        .await?;
    let desired = back.desired.context("what was wanted")?;
    ensure!(desired.version == 3 && desired.settings["heartbeat_s"] == 7);
    let applied = site.end(3, ConfigurationState::Applied).await?;
    let first = applied.reported.context("what the robot says")?.digest;
    ensure!(first == said.digest, "the same settings are in force");
    let to = |to| RollbackRequest { to: Some(to) };
    let unknown = site.admin.post::<_, Value>(&path, &to(9)).await;
    let unknown = unknown.err().context("a refusal")?.to_string();
    ensure!(
        unknown.contains("404") && unknown.contains("there is no version 9 of kiwi-01"),
        "got {unknown}"
    );
    let _: ConfigurationView = site.admin.post(&path, &to(0)).await?;
    let bare = site.end(4, ConfigurationState::Applied).await?;
    let bare = bare.reported.context("what the robot says")?.digest;
    ensure!(bare == own.reported.context("what the robot said")?.digest);

    let expected = [
        (kind::CONFIGURATION_DESIRED, 1),
        (kind::CONFIGURATION_APPLIED, 1),
        (kind::CONFIGURATION_DESIRED, 2),
        (kind::CONFIGURATION_REJECTED, 2),
        (kind::CONFIGURATION_DESIRED, 3),
        (kind::CONFIGURATION_APPLIED, 3),
        (kind::CONFIGURATION_DESIRED, 4),
        (kind::CONFIGURATION_APPLIED, 4),
    ];
    let expected = expected.map(|(kind, version)| (kind.to_owned(), version));
    site.recorded(&expected).await?;
    let robots = site.admin.robots().await?.robots;
    let status = robots[0].configuration.clone().context("a status")?;
    ensure!(status.desired == 4 && !status.drift, "got {status:?}");
    Ok(())
}

#[tokio::test]
async fn killed_robots_and_relays_come_to_the_same_configuration() -> Result<()> {
    let mut site = Site::start().await?;
    site.agent.kill()?;
    site.want(json!({ "heartbeat_s": 5 }), None).await?;
    site.want(json!({ "heartbeat_s": 6 }), None).await?;
    site.relay.kill()?;
    site.relay.restart()?;
    let view = site.until("the relay is back", |_| true).await?;
    ensure!(view.drift && view.desired.is_some_and(|desired| desired.version == 2));
    site.agent.restart()?;
    let applied = site.end(2, ConfigurationState::Applied).await?;
    site.agent.kill()?;
    site.agent.restart()?;
    site.relay.kill()?;
    site.relay.restart()?;
    let again = site.end(2, ConfigurationState::Applied).await?;
    ensure!(again == applied, "got {again:?} after {applied:?}");
    let expected = [
        (kind::CONFIGURATION_DESIRED, 1),
        (kind::CONFIGURATION_DESIRED, 2),
        (kind::CONFIGURATION_APPLIED, 2),
    ];
    site.recorded(&expected.map(|(kind, version)| (kind.to_owned(), version)))
        .await?;
    Ok(())
}

#[tokio::test]
async fn the_command_line_sets_shows_and_waits() -> Result<()> {
    let site = Site::start().await?;
    let program = target("lekiwi", "lekiwi-cli")?;
    let home = tempfile::tempdir()?;
    let run = |arguments: &[&str]| -> Result<(Option<i32>, String, String)> {
        let output = Command::new(&program)
            .args(arguments)
            .env("XDG_CONFIG_HOME", home.path())
            .output()?;
        let text = |bytes| String::from_utf8(bytes);
        Ok((
            output.status.code(),
            text(output.stdout)?,
            text(output.stderr)?,
        ))
    };
    let password = site.relay.admin_password_file();
    let url = format!("https://{}", site.relay.https());
    let login = run(&[
        "login",
        &url,
        "--ca-fingerprint",
        site.relay.ca_fingerprint(),
        "--password-file",
        &password.display().to_string(),
    ])?;
    ensure!(login.0 == Some(0), "got {login:?}");

    let key = "telemetry.metrics.cpu_percent.0.deadband=2.5";
    let (code, shown, said) = run(&["config", "set", ROBOT, "heartbeat_s=9", key, "--wait"])?;
    ensure!(code == Some(0), "got {code:?} {said}");
    let lines: Vec<&str> = shown.lines().collect();
    ensure!(
        lines[0] == "version 1 is applied" && lines[2..] == ["heartbeat_s=9", key],
        "got {shown}"
    );
    // Only this key changes. The robot refuses it; the next change is of what is in force.
    let alert = "telemetry.metrics.cpu_percent.alert_clear=99";
    let (code, shown, said) = run(&["config", "set", ROBOT, alert, "--wait"])?;
    let reason = "telemetry.metrics.cpu_percent.alert_clear in the desired configuration 2: expected at most \
                  alert_above, which is 95, got 99";
    ensure!(
        code == Some(1)
            && shown.contains(key)
            && said.contains(&format!(
                "version 2 of the configuration of {ROBOT} is rejected: {reason}"
            )),
        "got {code:?} {shown} {said}"
    );
    let (code, shown, said) = run(&["config", "set", ROBOT, "log=debug", "--wait"])?;
    let lines: Vec<&str> = shown.lines().collect();
    ensure!(
        code == Some(0)
            && lines[0] == "version 3 is applied"
            && lines[2..] == ["heartbeat_s=9", "log=debug", key],
        "got {code:?} {shown} {said}"
    );
    // What no robot takes is no version.
    let (code, _, said) = run(&["config", "set", ROBOT, "heartbeat=5", "--wait"])?;
    ensure!(
        code == Some(1)
            && said.contains(
                "settings: expected one of heartbeat_s, log, telemetry, traces, got \"heartbeat\""
            ),
        "got {code:?} {said}"
    );
    let (code, shown, said) = run(&["config", "rollback", ROBOT, "--wait", "--json"])?;
    let view: ConfigurationView = serde_json::from_str(&shown).context(said)?;
    ensure!(code == Some(0) && !view.drift, "got {view:?}");
    let (_, shown, _) = run(&["config", "get", ROBOT])?;
    ensure!(
        shown.starts_with("version 4 is applied\n")
            && shown.contains("heartbeat_s=9\n")
            && !shown.contains("log="),
        "got {shown}"
    );
    Ok(())
}

/// What the owner does offline, and what the operator then sends.
#[tokio::test]
async fn a_robot_with_a_root_of_trust_is_configured_by_its_owner() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let lekiwi = target("lekiwi", "lekiwi-cli")?;
    let run = |program: &Path, arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(folder.path())
            .env("XDG_CONFIG_HOME", folder.path())
            .output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8(said)?))
    };
    let fine = |program: &Path, arguments: &[&str]| -> Result<String> {
        let (code, said) = run(program, arguments)?;
        ensure!(code == Some(0), "{arguments:?}: {said}");
        Ok(said)
    };
    let minisign = Path::new("minisign");
    for (public, secret) in [("anna.pub", "anna.key"), ("ops.pub", "ops.key")] {
        fine(minisign, &["-G", "-W", "-p", public, "-s", secret])?;
    }
    #[rustfmt::skip]
    fine(&lekiwi, &[
        "trust", "root", "root.json", "--expires", "1d", "--root", "anna.pub", "--configuration", "ops.pub",
    ])?;
    fine(minisign, &["-S", "-s", "anna.key", "-m", "root.json"])?;
    fine(&lekiwi, &["trust", "add-root", "trust.json", "root.json"])?;

    let relay = Relay::start()?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let program = target("lekiwi-agent", "lekiwi-agent")?;
    let token = relay.token(&["--robot", ROBOT])?;
    let pinned = format!("trust_file: {}/trust.json\n", folder.path().display());
    let pin = |config: String| format!("{config}\n{pinned}");
    let agent = Agent::start_edited(&relay, ROBOT, &token, &program, &[], pin)?;
    let site = Site {
        relay,
        admin,
        agent,
    };
    site.until("the robot says what it has", |view| view.reported.is_some())
        .await?;

    let unsigned = site.want(json!({ "heartbeat_s": 5 }), None).await?;
    ensure!(unsigned.desired.is_some_and(|desired| !desired.is_signed));
    let view = site.end(1, ConfigurationState::Rejected).await?;
    let reason = view.reported.and_then(|said| said.reason);
    ensure!(
        reason.as_deref()
            == Some("expected a signed configuration, as this robot has a root of trust"),
        "got {reason:?}"
    );

    let password = site.relay.admin_password_file();
    let (url, password) = (
        format!("https://{}", site.relay.https()),
        password.display().to_string(),
    );
    let fingerprint = site.relay.ca_fingerprint();
    #[rustfmt::skip]
    fine(&lekiwi, &["login", &url, "--ca-fingerprint", fingerprint, "--password-file", &password])?;
    let sign = |file: &str, version: &str, setting: &str| -> Result<String> {
        #[rustfmt::skip]
        fine(&lekiwi, &[
            "trust", "configuration", file, "--robot", ROBOT, "--version", version, "--expires", "1h", setting,
        ])?;
        fine(minisign, &["-S", "-s", "ops.key", "-m", file])
    };
    let set = |file| {
        [
            "config",
            "set",
            ROBOT,
            "--signed",
            file,
            "--trust",
            "trust.json",
            "--wait",
        ]
    };
    sign("7.json", "7", "heartbeat_s=5")?;
    let shown = fine(&lekiwi, &set("7.json"))?;
    ensure!(
        shown.contains("version 2 is applied\nversion 2 is of admin, signed, "),
        "got {shown}"
    );
    sign("8.json", "8", "heartbeat_s=6")?;
    fine(&lekiwi, &set("8.json"))?;
    // Well signed, and older than what the robot has seen.
    let (code, said) = run(&lekiwi, &set("7.json"))?;
    let expected = "is rejected: expected version 8 for configuration or a later one, got 7";
    ensure!(
        code == Some(1) && said.contains(expected),
        "got {code:?} {said}"
    );
    let view = site.view().await?;
    let in_force = view.in_force.context("a version in force")?;
    ensure!(
        in_force.version == 3 && in_force.is_signed,
        "got {in_force:?}"
    );
    Ok(())
}

#[tokio::test]
async fn an_operator_has_every_event_of_one_robot_traced() -> Result<()> {
    // Where the collector would be, nobody is: the log says what there is to tell it.
    let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9".into());
    let relay = Relay::start_with(RelayOptions {
        environment: vec![collector],
        ..RelayOptions::default()
    })?;
    let mut site = Site::start_on(relay).await?;
    site.want(json!({ "traces": { "sample": 1 } }), None)
        .await?;
    site.end(1, ConfigurationState::Applied).await?;
    site.agent.kill()?;
    site.agent.restart()?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let events = site.admin.events(&RobotId::new(ROBOT)?).await?;
        let mut started = events
            .iter()
            .filter(|event| event.kind == kind::AGENT_STARTED);
        if let Some(again) = started.nth(1) {
            let said = again.metadata["traceparent"].as_str();
            let trace = said.and_then(TraceParent::parse);
            ensure!(trace.is_some_and(|trace| trace.is_sampled), "got {again:?}");
            return Ok(());
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "expected that the agent started again, got {events:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
