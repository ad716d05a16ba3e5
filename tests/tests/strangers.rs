//! Everyone who is not our own program: curl and openssl enrol a robot, Mosquitto's clients publish and follow.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::api::RefusedList;
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Process, Relay, program, robot_tree, target, wait_until};

/// A shell line with the given files; its output.
fn shell(folder: &Path, script: &str) -> Result<Output> {
    Ok(Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()?)
}

fn succeeds(folder: &Path, script: &str) -> Result<String> {
    let output = shell(folder, script)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{script}\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

struct Stranger {
    relay: Relay,
    folder: tempfile::TempDir,
}

impl Stranger {
    /// A robot that was enrolled by curl and openssl alone.
    fn enrolled(id: &str) -> Result<Self> {
        for (name, package) in [
            ("curl", "curl"),
            ("openssl", "openssl"),
            ("mosquitto_pub", "mosquitto-clients"),
        ] {
            program(name, package)?;
        }
        let relay = Relay::start()?;
        let folder = tempfile::tempdir()?;
        let token = relay.token(&["--robot", id])?;
        let script = format!(
            "curl -sSfk https://{https}/.well-known/est/cacerts | base64 -d | openssl pkcs7 -inform DER -print_certs -out ca.pem\n\
             test \"sha256:$(openssl x509 -in ca.pem -outform DER | sha256sum | cut -d' ' -f1)\" = {fingerprint}\n\
             openssl ecparam -name prime256v1 -genkey -noout -out key.pem\n\
             openssl req -new -key key.pem -subj /CN={id} -outform DER | base64 -w0 > csr.b64\n\
             curl -sSf --cacert ca.pem -u {id}:{token} -H 'Content-Type: application/pkcs10' --data-binary @csr.b64 \
                https://{https}/.well-known/est/simpleenroll | base64 -d | openssl pkcs7 -inform DER -print_certs -out cert.pem\n\
             openssl verify -CAfile ca.pem cert.pem",
            https = relay.https(),
            fingerprint = relay.ca_fingerprint(),
        );
        succeeds(folder.path(), &script)?;
        Ok(Self { relay, folder })
    }

    fn client(&self, program: &str, more: &str) -> String {
        let (host, port) = self.relay.mqtt().rsplit_once(':').unwrap_or_default();
        format!(
            "timeout 20 {program} -V 5 -h {host} -p {port} --cafile ca.pem --cert cert.pem --key key.pem {more}"
        )
    }

    async fn admin(&self) -> Result<Admin> {
        Admin::login(
            self.relay.https(),
            self.relay.ca_pem(),
            &self.relay.admin_password_file(),
        )
        .await
    }

    async fn refusals(&self) -> Result<Vec<String>> {
        let list: RefusedList = self
            .admin()
            .await?
            .get("/api/v1/refused")
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        Ok(list
            .refused
            .into_iter()
            .map(|refused| refused.reason)
            .collect())
    }

    async fn expect_refusal(&self, reason: &str) -> Result<()> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let refusals = self.refusals().await?;
            if refusals.iter().any(|refusal| refusal.contains(reason)) {
                return Ok(());
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "expected a refusal {reason:?} among {refusals:#?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn envelope(kind: &str, robot: &str, payload: &str) -> String {
    format!(
        r#"{{"type":"{kind}","robot_id":"{robot}","timestamp":"2026-11-21T03:52:00.000Z","sequence":0,"payload":{payload}}}"#
    )
}

const SESSION: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

#[tokio::test]
async fn curl_enrols_and_the_certificate_is_a_robot_and_no_other() -> Result<()> {
    let stranger = Stranger::enrolled("kiwi-07")?;
    let folder = stranger.folder.path();
    let root = "fleet/v1/default/robots";
    let online = envelope(
        "connection",
        "kiwi-07",
        &format!(r#"{{"session":"{SESSION}","state":"ONLINE"}}"#),
    );
    std::fs::write(folder.join("online.json"), &online)?;
    let telemetry = envelope(
        "telemetry",
        "kiwi-07",
        r#"{"metrics":{"cpu_percent":42.5}}"#,
    );
    std::fs::write(folder.join("telemetry.json"), &telemetry)?;

    succeeds(
        folder,
        &stranger.client(
            "mosquitto_pub",
            &format!("-i kiwi-07 -q 1 -t {root}/kiwi-07/from/connection -r -f online.json"),
        ),
    )?;
    succeeds(
        folder,
        &stranger.client(
            "mosquitto_pub",
            &format!("-i kiwi-07 -q 1 -t {root}/kiwi-07/from/telemetry -f telemetry.json"),
        ),
    )?;
    let admin = stranger.admin().await?;
    let robots = admin.robots().await?.robots;
    let robot = robots
        .iter()
        .find(|robot| robot.id.as_str() == "kiwi-07")
        .context("expected kiwi-07 in the fleet")?;
    ensure!(
        robot.resources.get("cpu_percent") == Some(&42.5),
        "expected its CPU, got {robot:?}"
    );

    // Another robot's topic: MQTT 5 says why, and the relay keeps it for inspection.
    let output = shell(
        folder,
        &stranger.client(
            "mosquitto_pub",
            &format!("-d -i kiwi-07 -q 1 -t {root}/kiwi-08/from/connection -r -f online.json"),
        ),
    )?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(
        said.contains("Not authorized") || said.contains("RC:135") || !output.status.success(),
        "expected a refusal, got {said}"
    );
    stranger.expect_refusal("robot kiwi-07 may publish only below its own robots/kiwi-07/from/, not to \"fleet/v1/default/robots/kiwi-08/from/connection\"").await?;

    // As a will, retained: refused at CONNECT.
    let will = format!(
        "-i kiwi-07 -t {root}/kiwi-07/from/heartbeat -m x --will-topic {root}/kiwi-08/from/connection --will-retain --will-qos 1 --will-payload forged"
    );
    let output = shell(folder, &stranger.client("mosquitto_pub", &will))?;
    ensure!(
        !output.status.success(),
        "expected the will to be refused at CONNECT"
    );
    stranger
        .expect_refusal("not to \"fleet/v1/default/robots/kiwi-08/from/connection\"")
        .await?;
    let will = format!(
        "-i kiwi-07 -t {root}/kiwi-07/from/heartbeat -m x --will-topic {root}/kiwi-07/from/events --will-payload forged"
    );
    ensure!(
        !shell(folder, &stranger.client("mosquitto_pub", &will))?
            .status
            .success(),
        "expected the will to be refused at CONNECT"
    );
    stranger
        .expect_refusal("robot kiwi-07 may leave a will only on its own from/connection")
        .await?;

    // Another client id, another robot's inbox, everything.
    ensure!(
        !shell(
            folder,
            &stranger.client("mosquitto_pub", "-i kiwi-08 -t x -m x")
        )?
        .status
        .success(),
        "expected the client id to be refused"
    );
    stranger
        .expect_refusal("expected client id kiwi-07, got \"kiwi-08\"")
        .await?;
    for filter in [
        "'#'",
        "fleet/v1/default/robots/+/to/#",
        "fleet/v1/default/robots/+/from/#",
    ] {
        let output = shell(
            folder,
            &stranger.client("mosquitto_sub", &format!("-i kiwi-07 -W 3 -t {filter}")),
        )?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            said.contains("All subscription requests were denied") && output.stdout.is_empty(),
            "expected {filter} to be refused, got {said}"
        );
    }
    stranger
        .expect_refusal("kiwi-07 may not subscribe to \"fleet/v1/default/robots/+/to/#\"")
        .await?;

    let ids: Vec<String> = admin
        .robots()
        .await?
        .robots
        .iter()
        .map(|robot| robot.id.to_string())
        .collect();
    ensure!(
        ids == ["kiwi-07"],
        "expected no trace of kiwi-08, got {ids:?}"
    );
    Ok(())
}

#[tokio::test]
async fn bad_messages_are_refused_counted_and_kept_and_harm_nobody() -> Result<()> {
    let stranger = Stranger::enrolled("kiwi-07")?;
    let folder = stranger.folder.path();
    let publish = |topic: &str, body: &str| -> Result<()> {
        std::fs::write(folder.join("body"), body)?;
        shell(
            folder,
            &stranger.client(
                "mosquitto_pub",
                &format!("-i kiwi-07 -q 1 -t fleet/{topic} -f body"),
            ),
        )
        .map(|_| ())
    };
    let own = "v1/default/robots/kiwi-07/from";
    publish(&format!("{own}/heartbeat"), "{not json")?;
    stranger
        .expect_refusal("expected a heartbeat envelope as JSON")
        .await?;
    publish(
        &format!("{own}/heartbeat"),
        &envelope(
            "state",
            "kiwi-07",
            &format!(r#"{{"session":"{SESSION}","uptime_s":1}}"#),
        ),
    )?;
    stranger
        .expect_refusal("expected type heartbeat, got state")
        .await?;
    publish(
        &format!("{own}/heartbeat"),
        &envelope(
            "heartbeat",
            "kiwi-08",
            &format!(r#"{{"session":"{SESSION}","uptime_s":1}}"#),
        ),
    )?;
    stranger
        .expect_refusal("expected robot_id kiwi-07, got kiwi-08")
        .await?;
    publish("v2/default/robots/kiwi-07/from/heartbeat", "{}")?;
    stranger
        .expect_refusal("expected version v1, got \"v2\"")
        .await?;
    publish(&format!("{own}/nonsense"), "{}")?;
    stranger
        .expect_refusal(
            "expected a topic of the contract such as fleet/v1/default/robots/kiwi-01/from/state",
        )
        .await?;
    publish(&format!("{own}/heartbeat"), &"x".repeat(70_000))?;
    stranger
        .expect_refusal("expected at most 65536 bytes, got 70000")
        .await?;
    let metrics: Vec<String> = (0..300).map(|n| format!("\"m{n}\":1")).collect();
    publish(
        &format!("{own}/telemetry"),
        &envelope(
            "telemetry",
            "kiwi-07",
            &format!("{{\"metrics\":{{{}}}}}", metrics.join(",")),
        ),
    )?;
    stranger
        .expect_refusal("expected at most 256 metrics, got 300")
        .await?;

    // The same event twice, then a good neighbour: counted once, acknowledged, nobody harmed.
    let event = r#"{"stream":"0b5b6a52-8e5f-4a6b-9c3e-0a1b2c3d4e5f","ordinal":1,"events":[{"seq":1,"type":"test.once","timestamp":"2026-11-21T03:52:00.000Z","data":{}}]}"#;
    for _ in 0..2 {
        publish(
            &format!("{own}/events"),
            &envelope("events", "kiwi-07", event),
        )?;
    }
    let admin = stranger.admin().await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let events = admin.events(&"kiwi-07".parse()?).await?;
        let once = events
            .iter()
            .filter(|event| event.kind == "test.once")
            .count();
        ensure!(once < 2, "expected the event once");
        let metrics = admin.get("/metrics").send().await?.text().await?;
        if once == 1
            && metrics.lines().any(|line| {
                line.contains("duplicate") && !line.starts_with('#') && line.ends_with(" 1")
            })
        {
            break;
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "expected one event and one duplicate counted, got {once} and\n{metrics}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_consumer_follows_the_fleet_and_cannot_speak() -> Result<()> {
    let stranger = Stranger::enrolled("kiwi-07")?;
    let folder = stranger.folder.path();
    let lekiwi = target("lekiwi", "lekiwi-cli")?;
    let home = folder.join("home");
    let cli = |arguments: &str| {
        format!(
            "XDG_CONFIG_HOME={} {} {arguments}",
            home.display(),
            lekiwi.display()
        )
    };
    succeeds(
        folder,
        &cli(&format!(
            "login https://{} --password-file {} --ca-fingerprint {}",
            stranger.relay.https(),
            stranger.relay.admin_password_file().display(),
            stranger.relay.ca_fingerprint()
        )),
    )?;
    succeeds(folder, &cli("consumer create analytics --out consumer"))?;
    let consumer = folder.join("consumer");
    let log = folder.join("followed");
    let (host, port) = stranger
        .relay
        .mqtt()
        .rsplit_once(':')
        .context("expected host:port")?;
    let subscriber = program("mosquitto_sub", "mosquitto-clients")?;
    let file = |name: &str| -> PathBuf { consumer.join(name) };
    let mut following = Process::start(
        "mosquitto_sub",
        &subscriber,
        [
            "-V".into(),
            "5".into(),
            "-d".into(),
            "-v".into(),
            "-h".into(),
            host.into(),
            "-p".into(),
            port.into(),
            "-i".into(),
            "consumer:analytics".into(),
            "--cafile".into(),
            file("ca.pem").into_os_string(),
            "--cert".into(),
            file("cert.pem").into_os_string(),
            "--key".into(),
            file("key.pem").into_os_string(),
            "-t".into(),
            std::ffi::OsString::from("fleet/v1/default/robots/+/from/#"),
            "-t".into(),
            "fleet/v1/default/relays/+".into(),
        ],
        &[],
        &log,
    )?;
    following.wait_for("the relay's birth", || {
        std::fs::read_to_string(&log)
            .ok()?
            .contains("\"online\":true")
            .then_some(())
    })?;
    let tree = robot_tree(stranger.relay.https())?;
    let mut agent = lekiwi_tests::harness::Agent::start_program(
        &stranger.relay,
        "kiwi-01",
        &stranger.relay.token(&["--profile", "generic"])?,
        &target("lekiwi-agent", "lekiwi-agent")?,
        &["--root".into(), tree.path().into()],
    )?;
    for topic in ["connection", "factsheet", "state", "telemetry", "events"] {
        let wanted = format!("fleet/v1/default/robots/kiwi-01/from/{topic} {{");
        wait_until(
            &format!("{topic} at the consumer"),
            Duration::from_secs(30),
            || following.log().contains(&wanted).then_some(()),
        )?;
    }
    wait_until(
        "the whole state at the consumer",
        Duration::from_secs(30),
        || {
            let log = following.log();
            let state = log.lines().rev().find_map(|line| {
                line.strip_prefix("fleet/v1/default/robots/kiwi-01/from/state ")
            })?;
            is_whole(&serde_json::from_str(state).ok()?).then_some(())
        },
    )?;
    let run = "run/systemd/units/invocation:host.service";
    std::fs::remove_file(tree.path().join(run))?;
    wait_until(
        "the service's end at the consumer",
        Duration::from_secs(30),
        || {
            following
                .log()
                .contains("\"service.changed\"")
                .then_some(())
        },
    )?;
    agent.process().stop()?;
    wait_until(
        "the goodbye at the consumer",
        Duration::from_secs(10),
        || {
            following
                .log()
                .lines()
                .any(|line| {
                    line.contains("kiwi-01/from/connection") && line.contains("\"OFFLINE\"")
                })
                .then_some(())
        },
    )?;
    every_message_fits_its_schema(&following.log())?;

    let speak = format!(
        "timeout 20 mosquitto_pub -V 5 -h {host} -p {port} --cafile consumer/ca.pem --cert consumer/cert.pem --key consumer/key.pem \
         -i consumer:analytics:2 -q 1 -t fleet/v1/default/robots/kiwi-01/to/estop -m stop"
    );
    shell(folder, &speak)?;
    stranger
        .expect_refusal("consumer analytics may not publish")
        .await?;
    let listen = speak
        .replace("mosquitto_pub", "mosquitto_sub -W 3")
        .replace(
            "-q 1 -t fleet/v1/default/robots/kiwi-01/to/estop -m stop",
            "-t 'fleet/v1/default/robots/+/to/#'",
        );
    let output = shell(folder, &listen)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        said.contains("All subscription requests were denied"),
        "expected to/# to be refused to a consumer, got {said}"
    );
    Ok(())
}

/// Whether a state says everything that the state model has, but for who drives the robot.
fn is_whole(state: &serde_json::Value) -> bool {
    let payload = &state["payload"];
    let services = payload["services"].as_array().map_or(0, |services| {
        let active = services
            .iter()
            .filter(|service| service["state"] == "active");
        active.count()
    });
    services == 3
        && [
            "/network/hostname",
            "/network/ip_addresses",
            "/deployment/os_version",
            "/deployment/agent_version",
            "/deployment/installed_packages/digest",
            "/services/0/memory_bytes",
            "/services/1/memory_bytes",
            "/throttling/under_voltage/since_boot",
            "/clock/synchronized_at",
            "/battery",
            "/health/healthy",
            "/resources/battery_percent",
            "/resources/cpu_percent",
            "/resources/cpu_percent.0",
            "/resources/memory_percent",
            "/resources/disk_percent",
            "/resources/load_1m",
            "/resources/temperature_c",
            "/resources/temperature_c.cpu-thermal",
            "/resources/throttling.under_voltage",
            "/resources/service_memory_bytes.host.service",
        ]
        .iter()
        .all(|place| payload.pointer(place).is_some())
}

/// What really went over the wire is what `protocol/schemas` promises to other languages.
fn every_message_fits_its_schema(log: &str) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/schemas");
    let fits = |name: &str, value: &serde_json::Value| -> Result<()> {
        let schema = std::fs::read(folder.join(format!("{name}.schema.json")))?;
        if let Err(error) = jsonschema::validate(&serde_json::from_slice(&schema)?, value) {
            anyhow::bail!("{name}: {error}\n{value}");
        }
        Ok(())
    };
    let mut checked = 0;
    for line in log.lines().filter(|line| line.starts_with("fleet/v1/")) {
        let (topic, body) = line.split_once(' ').context("expected topic and body")?;
        let name = if topic.contains("/relays/") {
            "relay"
        } else {
            topic.rsplit('/').next().context("a level")?
        };
        let body: serde_json::Value = serde_json::from_str(body)?;
        fits(name, &body)?;
        for event in body["payload"]["events"].as_array().into_iter().flatten() {
            if let Some(what) = event["type"]
                .as_str()
                .and_then(|t| t.strip_prefix("service."))
            {
                fits(&format!("service_{what}"), &event["data"])?;
            }
        }
        checked += 1;
    }
    ensure!(checked >= 6, "expected every kind of message in\n{log}");
    Ok(())
}

#[test]
fn a_certificate_of_another_authority_is_no_certificate() -> Result<()> {
    let one = Stranger::enrolled("kiwi-07")?;
    let other = Stranger::enrolled("kiwi-07")?;
    // The right robot, the right relay's authority to trust, another authority's certificate to show.
    std::fs::copy(
        other.folder.path().join("cert.pem"),
        one.folder.path().join("cert.pem"),
    )?;
    std::fs::copy(
        other.folder.path().join("key.pem"),
        one.folder.path().join("key.pem"),
    )?;
    let output = shell(
        one.folder.path(),
        &one.client(
            "mosquitto_pub",
            "-i kiwi-07 -t fleet/v1/default/robots/kiwi-07/from/heartbeat -m x",
        ),
    )?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success(),
        "expected the handshake to fail, got {said}"
    );
    Ok(())
}
