//! What only a whole machine can show of a robot that runs: a clock that is years off, somebody who drives it by
//! its own keys, and what it says of itself as an example for everybody else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::{
    CommandRequest, CommandView, ConsumerCreated, ConsumerRequest, EventRecord, TelemetryHistory,
};
use lekiwi_protocol::message::{Arguments, CommandState, Op, kind};
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::card::Planted;
use lekiwi_tests::harness::{Relay, Shell, program};
use serde_json::Value;
use uuid::Uuid;

use crate::say;

/// An emulated board does everything slowly, and a false clock costs a second attempt.
const PATIENCE: Duration = Duration::from_secs(300);
const SHELL_PATIENCE: Duration = Duration::from_secs(120);
const YEAR_S: i64 = 31_557_600;
/// How far a clock may be off that was set through a serial port.
const SET_WITHIN_S: i64 = 120;
/// Where the program is that presses keys.
const KEYS_PATH: &str = "/opt/keys.py";
/// Makes a keyboard, and presses a key four times a second for so many seconds.
const KEYS: &str = r#"import fcntl, os, struct, sys, time
EV_KEY, KEY_W = 1, 17
UI_SET_EVBIT, UI_SET_KEYBIT, UI_DEV_CREATE = 0x40045564, 0x40045565, 0x5501
board = os.open("/dev/uinput", os.O_WRONLY)
fcntl.ioctl(board, UI_SET_EVBIT, EV_KEY)
for key in range(1, 89):
    fcntl.ioctl(board, UI_SET_KEYBIT, key)
os.write(board, struct.pack("80sHHHHi256x", b"judge's keyboard", 3, 1, 1, 1, 0) + bytes(768))
fcntl.ioctl(board, UI_DEV_CREATE)
time.sleep(2)
print("keys", flush=True)
end = time.monotonic() + float(sys.argv[1])
event = lambda kind, code, value: os.write(board, struct.pack("llHHi", 0, 0, kind, code, value))
while time.monotonic() < end:
    for value in (1, 0):
        event(EV_KEY, KEY_W, value)
        event(0, 0, 0)
    time.sleep(0.25)
"#;

/// What the card of such a robot needs.
pub(crate) fn planted() -> Vec<(String, Planted)> {
    let mut things = Shell::planted();
    things.push((KEYS_PATH.to_owned(), Planted::File(KEYS.to_owned())));
    things
}

/// One running robot.
pub(crate) struct Living<'a> {
    pub(crate) id: &'a str,
    pub(crate) relay: &'a Relay,
    pub(crate) admin: &'a Admin,
    pub(crate) shell: &'a mut Shell,
}

impl Living<'_> {
    /// All of it.
    pub(crate) async fn judge(mut self, capture: Option<&Path>) -> Result<()> {
        let began = Timestamp::from(SystemTime::now());
        self.driven_by_keys(capture).await?;
        for years in [10, -10] {
            self.years_off(years).await?;
        }
        self.set_clock(0).await?;
        self.answers("with the right clock again").await?;
        self.nothing_lost().await?;
        self.has_sane_telemetry(began).await
    }

    /// Keys that are pressed at the robot are somebody who drives it, until 30 s after the last.
    async fn driven_by_keys(&mut self, capture: Option<&Path>) -> Result<()> {
        self.shell
            .run("modprobe uinput && modprobe evdev", SHELL_PATIENCE)?;
        let before = self.count(kind::TELEOPERATION_STARTED).await?;
        let pressing =
            format!("(python3 {KEYS_PATH} 60 >/tmp/keys 2>&1 &) && sleep 5; cat /tmp/keys");
        let said = self.shell.run(&pressing, SHELL_PATIENCE)?;
        ensure!(
            said.ends_with("keys") || said.is_empty(),
            "expected keys to be pressed on the board, got {said}"
        );
        let pressed = Instant::now();
        let started = self
            .event("teleoperation to start", |events| {
                let of_kind = |event: &&EventRecord| event.kind == kind::TELEOPERATION_STARTED;
                events.iter().filter(of_kind).nth(before).cloned()
            })
            .await?;
        let told = pressed.elapsed();
        let evidence = started.data.to_string();
        ensure!(
            evidence.contains("local_input"),
            "expected local input as evidence, got {evidence}"
        );
        if let Some(folder) = capture {
            self.capture(folder).await?;
        }
        self.event("teleoperation to stop", |events| {
            let session = &started.data["session"];
            let mut of_session = events
                .iter()
                .filter(|event| event.data["session"] == *session);
            of_session
                .find(|event| event.kind == kind::TELEOPERATION_STOPPED)
                .cloned()
        })
        .await?;
        say(&format!(
            "keys         told {:>5.1} s after 5 s of them, by {evidence}",
            told.as_secs_f64()
        ));
        Ok(())
    }

    /// The clock is so many years off: the connection holds, and a new one comes about.
    async fn years_off(&mut self, years: i64) -> Result<()> {
        self.set_clock(years * YEAR_S).await?;
        self.answers(&format!("{years:+} years, connection as it was"))
            .await?;
        let starts = self.count(kind::AGENT_STARTED).await?;
        self.shell
            .run("systemctl restart lekiwi-agent", SHELL_PATIENCE)?;
        let restarted = Instant::now();
        self.event("the agent to start", |events| {
            let of_kind = |event: &&EventRecord| event.kind == kind::AGENT_STARTED;
            events.iter().filter(of_kind).nth(starts).cloned()
        })
        .await?;
        let back = restarted.elapsed().as_secs_f64();
        say(&format!(
            "connected    {back:>6.1} s after the agent's restart, {years:+} years"
        ));
        self.answers(&format!("{years:+} years, agent started anew"))
            .await
    }

    /// Sets the clock to so many seconds from what is right; the robot says so.
    async fn set_clock(&mut self, off_s: i64) -> Result<()> {
        let seconds = |timestamp: Timestamp| i64::try_from(timestamp.as_ms() / 1_000);
        let now = seconds(SystemTime::now().into())?;
        let steps = self.count(kind::CLOCK_STEPPED).await?;
        let shown: i64 = self.shell.run("date +%s", SHELL_PATIENCE)?.parse()?;
        self.shell
            .run(&format!("date -s @{}", now + off_s), SHELL_PATIENCE)?;
        let expected = now + off_s - shown;
        let stepped = self
            .event("the clock's step", |events| {
                let of_kind = |event: &&EventRecord| event.kind == kind::CLOCK_STEPPED;
                events.iter().filter(of_kind).nth(steps).cloned()
            })
            .await?;
        let by_s = stepped.data["by_s"].as_i64().context("expected by_s")?;
        ensure!(
            (by_s - expected).abs() <= SET_WITHIN_S,
            "expected a step by about {expected} s, got {by_s}"
        );
        let stamp = seconds(stepped.timestamp)?;
        let right = seconds(SystemTime::now().into())? + off_s;
        ensure!(
            (stamp - right).abs() <= SET_WITHIN_S,
            "expected the event to have the robot's time {right}, got {stamp}"
        );
        Ok(())
    }

    /// A command reaches the robot, and its answer the relay.
    async fn answers(&self, when: &str) -> Result<()> {
        let began = Instant::now();
        let request = CommandRequest {
            op: Op::Ping,
            arguments: Arguments::new(),
            expires_in_s: Some(PATIENCE.as_secs()),
        };
        let path = format!("/api/v1/robots/{}/commands", self.id);
        let command: CommandView = self.admin.post(&path, &request).await?;
        let path = format!("{path}/{}", command.id);
        loop {
            let answer = self.admin.get(&path).send().await?.error_for_status()?;
            let view: CommandView = answer.json().await?;
            if view.state == CommandState::Successful {
                break;
            }
            ensure!(
                began.elapsed() < PATIENCE && view.state != CommandState::Failed,
                "expected an answer, {when}, got {view:?}"
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let time = began.elapsed().as_secs_f64();
        say(&format!("answers      {time:>6.1} s, {when}"));
        Ok(())
    }

    async fn own_events(&self) -> Result<Vec<EventRecord>> {
        let mut events = self.admin.events(&self.id.parse()?).await?;
        events.retain(|event| event.source == self.id);
        Ok(events)
    }

    async fn count(&self, of: &str) -> Result<usize> {
        let events = self.own_events().await?;
        Ok(events.iter().filter(|event| event.kind == of).count())
    }

    /// Waits for an event of the robot.
    async fn event(
        &self,
        what: &str,
        find: impl Fn(&[EventRecord]) -> Option<EventRecord>,
    ) -> Result<EventRecord> {
        let began = Instant::now();
        loop {
            let events = self.own_events().await?;
            if let Some(found) = find(&events) {
                return Ok(found);
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "expected {what} within {PATIENCE:?}, got {events:#?}"
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Each stream has all of its numbers, each once.
    async fn nothing_lost(&self) -> Result<()> {
        let mut streams: BTreeMap<Uuid, BTreeSet<u64>> = BTreeMap::new();
        let events = self.own_events().await?;
        for event in &events {
            ensure!(
                streams.entry(event.stream).or_default().insert(event.seq),
                "expected {event:?} once"
            );
            ensure!(
                event.kind != kind::DROPPED,
                "expected no loss, got {event:?}"
            );
        }
        for (stream, seqs) in &streams {
            let last = seqs.last().copied().unwrap_or_default();
            ensure!(
                seqs.len() as u64 == last,
                "expected events 1 to {last} of {stream}, got {seqs:?}"
            );
        }
        say(&format!(
            "events       {:>6} none lost, none doubled",
            events.len()
        ));
        Ok(())
    }

    /// Whatever the robot's clock said, history has its telemetry at times when it ran.
    async fn has_sane_telemetry(&self, began: Timestamp) -> Result<()> {
        let path = format!(
            "/api/v1/robots/{}/telemetry?metric=uptime_s&limit=10000&from=0&to={}",
            self.id,
            u64::from(u32::MAX) * 1_000
        );
        let answer = self.admin.get(&path).send().await?.error_for_status()?;
        let history: TelemetryHistory = answer.json().await?;
        let points: Vec<(u64, f64)> = history
            .series
            .into_iter()
            .flat_map(|series| series.points)
            .collect();
        let now = Timestamp::from(SystemTime::now()).as_ms();
        let earliest = began.as_ms().saturating_sub(3_600_000);
        let is_sane = |(at, _): &(u64, f64)| (earliest..=now).contains(at);
        ensure!(
            !points.is_empty() && points.iter().all(is_sane),
            "expected telemetry of the last hour, got {points:?}"
        );
        say(&format!(
            "telemetry    {:>6} points, all of now",
            points.len()
        ));
        Ok(())
    }

    /// Writes the messages that the broker retains of this robot, as a consumer of the fleet gets them.
    async fn capture(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let private = tempfile::tempdir()?;
        let key = rcgen::KeyPair::generate()?;
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, "consumer:capture");
        let request = ConsumerRequest {
            name: "capture".parse()?,
            csr_pem: parameters.serialize_request(&key)?.pem()?,
            reads: Vec::new(),
            lifetime_days: None,
        };
        let created: ConsumerCreated = self.admin.post("/api/v1/consumers", &request).await?;
        let key = key.serialize_pem();
        for (name, pem) in [
            ("ca.pem", &created.ca_pem),
            ("cert.pem", &created.certificate_pem),
            ("key.pem", &key),
        ] {
            std::fs::write(private.path().join(name), pem)?;
        }
        let (host, port) = self.relay.mqtt().rsplit_once(':').unwrap_or_default();
        let began = Instant::now();
        let mut names = vec!["state", "factsheet"];
        while let Some(name) = names.last() {
            let topic = format!("fleet/v1/default/robots/{}/from/{name}", self.id);
            let output =
                tokio::process::Command::new(program("mosquitto_sub", "mosquitto-clients")?)
                    .current_dir(private.path())
                    .args(["-V", "5", "-h", host, "-p", port, "-i", "consumer:capture"])
                    .args([
                        "--cafile", "ca.pem", "--cert", "cert.pem", "--key", "key.pem",
                    ])
                    .args(["--retained-only", "-C", "1", "-W", "20", "-t", &topic])
                    .output()
                    .await?;
            let message: Value = serde_json::from_slice(&output.stdout).with_context(|| {
                let said = String::from_utf8_lossy(&output.stderr);
                format!("expected a retained {name}, got {said}")
            })?;
            // A state that says all: who drives it, and what is installed.
            let is_whole = [
                "/teleoperation/operator_id",
                "/deployment/installed_packages",
            ]
            .iter()
            .all(|field| message["payload"].pointer(field).is_some());
            if *name == "state" && !is_whole {
                ensure!(
                    began.elapsed() < PATIENCE,
                    "expected a whole state, got {message}"
                );
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            let text = format!("{}\n", serde_json::to_string_pretty(&message)?);
            std::fs::write(folder.join(format!("{name}.json")), text)?;
            names.pop();
        }
        say(&format!("captured     {}", folder.display()));
        Ok(())
    }
}
