//! `cargo xtask bench relay`: what the relay costs, beside Mosquitto in the same run.
//!
//! * `latency`: heartbeat, robot → broker → relay → SSE client, at 1, 100 and 1,000 simulated robots.
//! * `ingest`: telemetry fully processed by the relay (tapped, parsed, folded, written), against Mosquitto
//!   forwarding the same bytes to one subscriber. Both over mutual TLS, both with the same publishers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use futures_util::StreamExt;
use lekiwi_protocol::{
    Clock, Envelope, FromRobot, MessageType, MetricName, RobotId, Root, Timestamp,
};
use lekiwi_tests::fleet::{self, Admin, Counters, Endpoint, Identity, Options, Pulses};
use lekiwi_tests::flood;
use lekiwi_tests::harness::{Mosquitto, Relay};
use tokio::sync::watch;

/// What the relay costs, beside Mosquitto in the same run.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// Print one JSON object instead of tables.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// Heartbeat latency, robot to SSE client.
    Latency {
        /// Fleet sizes.
        #[arg(long, value_delimiter = ',', default_value = "1,100,1000")]
        robots: Vec<usize>,
        /// Seconds a fleet size.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Ingest rate against Mosquitto's forwarding.
    Ingest {
        /// Publishing robots.
        #[arg(long, default_value_t = 10)]
        robots: usize,
        /// Seconds a measurement.
        #[arg(long, default_value_t = 8)]
        seconds: u64,
        /// Pairs of measurements; medians are reported.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut report = serde_json::Map::new();
    match arguments.what {
        Some(What::Latency { robots, seconds }) => latency(&robots, seconds, &mut report).await?,
        Some(What::Ingest {
            robots,
            seconds,
            rounds,
        }) => ingest(robots, seconds, rounds, &mut report).await?,
        None => {
            latency(&[1, 100, 1000], 30, &mut report).await?;
            ingest(10, 8, 3, &mut report).await?;
        }
    }
    if arguments.json {
        say(&serde_json::Value::Object(report).to_string());
    }
    Ok(())
}

/// A relay with `robots` enrolled robots.
async fn relay_with(
    robots: usize,
    folder: &Path,
) -> Result<(Relay, Admin, Vec<Arc<Identity>>, Endpoint)> {
    let relay = Relay::start()?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let identities = fleet::enrol_all(&admin, folder, "sim", robots).await?;
    let endpoint = endpoint(relay.mqtt())?;
    Ok((relay, admin, identities, endpoint))
}

fn endpoint(address: &str) -> Result<Endpoint> {
    let (host, port) = address.rsplit_once(':').context("expected host:port")?;
    Ok(Endpoint {
        host: host.to_owned(),
        port: port.parse()?,
    })
}

async fn latency(
    sizes: &[usize],
    seconds: u64,
    report: &mut serde_json::Map<String, serde_json::Value>,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let most = sizes.iter().copied().max().unwrap_or(1);
    let (_relay, admin, identities, endpoint) = relay_with(most, folder.path()).await?;
    say("heartbeat, robot to SSE client\n  robots  heartbeats   p50 ms   p99 ms   max ms");
    for size in sizes {
        let mut took = latency_of(
            identities.get(..*size).unwrap_or_default(),
            &admin,
            &endpoint,
            seconds,
        )
        .await?;
        took.sort_unstable();
        let at = |share: f64| -> f64 {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an index"
            )]
            let index = ((took.len() - 1) as f64 * share) as usize;
            took.get(index).copied().unwrap_or_default().as_secs_f64() * 1e3
        };
        ensure!(
            !took.is_empty(),
            "expected heartbeats of {size} robots within {seconds} s, none came"
        );
        say(&format!(
            "  {size:>6}  {:>10}  {:>7.2}  {:>7.2}  {:>7.2}",
            took.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        ));
        report.insert(
            format!("latency_{size}"),
            serde_json::json!({ "heartbeats": took.len(), "p50_ms": at(0.5), "p99_ms": at(0.99) }),
        );
    }
    Ok(())
}

async fn latency_of(
    identities: &[Arc<Identity>],
    admin: &Admin,
    endpoint: &Endpoint,
    seconds: u64,
) -> Result<Vec<Duration>> {
    let (stop, stopped) = watch::channel(false);
    let counters = Arc::new(Counters::default());
    let pulses = Pulses::default();
    // About 100 heartbeats a second in all, so that each size gives as many samples.
    let heartbeat = Duration::from_millis(10 * identities.len().max(10) as u64);
    let options = Options {
        heartbeat,
        telemetry: None,
        emission: None,
    };
    let robots: Vec<_> = identities
        .iter()
        .map(|identity| {
            let (identity, endpoint, options) =
                (Arc::clone(identity), endpoint.clone(), options.clone());
            let pulses = Some(Arc::clone(&pulses));
            tokio::spawn(fleet::run(
                identity,
                endpoint,
                options,
                Arc::clone(&counters),
                pulses,
                stopped.clone(),
            ))
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    while counters.online.load(Ordering::Relaxed) < identities.len() as u64 {
        ensure!(
            Instant::now() < deadline,
            "expected {} robots online within 60 s",
            identities.len()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The births are through before the measurement begins.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let took = follow(admin, &pulses, Duration::from_secs(seconds)).await?;
    stop.send_replace(true);
    for robot in robots {
        robot.await??;
    }
    Ok(took)
}

/// Reads the live stream as any client does, and looks up when each heartbeat was sent.
async fn follow(admin: &Admin, pulses: &Pulses, duration: Duration) -> Result<Vec<Duration>> {
    let answer = admin
        .get("/api/v1/stream?type=heartbeat")
        .send()
        .await?
        .error_for_status()?;
    let mut stream = answer.bytes_stream();
    let mut text = Vec::new();
    let mut took = Vec::new();
    let end = Instant::now() + duration;
    while let Ok(Some(chunk)) =
        tokio::time::timeout(end.saturating_duration_since(Instant::now()), stream.next()).await
    {
        text.extend_from_slice(&chunk?);
        let received = Instant::now();
        while let Some(line_end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=line_end).collect();
            let Some(data) = line.strip_prefix(b"data:") else {
                continue;
            };
            let live: lekiwi_protocol::api::Live = serde_json::from_slice(data)?;
            let sent = pulses
                .lock()
                .ok()
                .and_then(|mut pulses| pulses.remove(&(live.robot_id, live.sequence)));
            took.extend(sent.map(|sent| received - sent));
        }
    }
    Ok(took)
}

async fn ingest(
    robots: usize,
    seconds: u64,
    rounds: usize,
    report: &mut serde_json::Map<String, serde_json::Value>,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (relay, admin, identities, endpoint) = relay_with(robots + 1, folder.path()).await?;
    let mosquitto = Mosquitto::start(
        &relay.ca_file()?,
        &relay.data().join("ca/server.pem"),
        &relay.data().join("ca/server.key"),
    )?;
    let mosquitto_endpoint = self::endpoint(mosquitto.address())?;
    let (subscriber, publishers) = identities.split_first().context("expected a subscriber")?;
    let duration = Duration::from_secs(seconds);
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    say(
        "telemetry at QoS 0 over mutual TLS, messages/s\n  round   relay: processed   shed   Mosquitto: forwarded   ratio",
    );
    for round in 1..=rounds {
        let before = metrics(&admin).await?;
        let (_, elapsed) = flood(publishers, &endpoint, duration).await?;
        let after = metrics(&admin).await?;
        let sum = |values: &HashMap<String, f64>, start: &str| -> f64 {
            let fits = values.iter().filter(|(name, _)| name.starts_with(start));
            fits.map(|(_, value)| value).sum()
        };
        let delta = |name: &str| sum(&after, name) - sum(&before, name);
        let processed = delta(PROCESSED) / elapsed.as_secs_f64();
        let shed = delta(SHED) / elapsed.as_secs_f64();

        let received = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = watch::channel(false);
        let counting = tokio::spawn(flood::count(
            Arc::clone(subscriber),
            mosquitto_endpoint.clone(),
            Root::default().all_robots(),
            Arc::clone(&received),
            stopped,
        ));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (_, elapsed) = flood(publishers, &mosquitto_endpoint, duration).await?;
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let forwarded = received.load(Ordering::Relaxed) as f64 / elapsed.as_secs_f64();
        stop.send_replace(true);
        counting.await??;

        say(&format!(
            "  {round:>5}   {processed:>16.0}   {shed:>4.0}   {forwarded:>20.0}   {:>5.2}",
            processed / forwarded
        ));
        ours.push(processed);
        theirs.push(forwarded);
        ratios.push(processed / forwarded);
    }
    let (ours, theirs, ratio) = (median(ours), median(theirs), median(ratios));
    say(&format!(
        "  median  {ours:>16.0}          {theirs:>20.0}   {ratio:>5.2}"
    ));
    report.insert(
        "ingest".to_owned(),
        serde_json::json!({ "relay_per_s": ours, "mosquitto_per_s": theirs, "ratio": ratio }),
    );
    Ok(())
}

/// What the names of the relay's counters that the benchmark reads start with.
const PROCESSED: &str = "lekiwi_messages_total{kind=\"telemetry\"}";
const SHED: &str = "lekiwi_shed_total";

/// The relay's metrics by name and labels.
async fn metrics(admin: &Admin) -> Result<HashMap<String, f64>> {
    let text = admin
        .get("/metrics")
        .send()
        .await?
        .error_for_status()?
        .text()
        .await?;
    Ok(text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect())
}

/// All publishers at full speed for a while; how much they sent, and how long it took.
async fn flood(
    publishers: &[Arc<Identity>],
    endpoint: &Endpoint,
    duration: Duration,
) -> Result<(u64, Duration)> {
    let sent = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = watch::channel(false);
    let tasks: Vec<_> = publishers
        .iter()
        .map(|identity| {
            let messages = telemetry(&identity.id)?;
            let (identity, endpoint) = (Arc::clone(identity), endpoint.clone());
            Ok(tokio::spawn(flood::publish(
                identity,
                endpoint,
                messages,
                Arc::clone(&sent),
                stopped.clone(),
            )))
        })
        .collect::<Result<_>>()?;
    let start = Instant::now();
    tokio::time::sleep(duration).await;
    stop.send_replace(true);
    for task in tasks {
        task.await??;
    }
    Ok((sent.load(Ordering::Relaxed), start.elapsed()))
}

/// 64 telemetry messages of about 200 bytes with values that differ.
fn telemetry(robot: &RobotId) -> Result<Vec<(String, Vec<u8>)>> {
    let topic = Root::default()
        .from_robot(robot, FromRobot::Telemetry)
        .to_string();
    (0_u64..64)
        .map(|sequence| {
            let metrics = [("cpu_percent", 10.5), ("temperature_c", 48.0)]
                .into_iter()
                .map(|(name, value)| {
                    Ok((
                        MetricName::new(name)?,
                        value + f64::from(u8::try_from(sequence)?),
                    ))
                })
                .collect::<Result<_>>()?;
            let envelope = Envelope {
                message_type: MessageType::Telemetry,
                robot_id: robot.clone(),
                timestamp: Timestamp::from(std::time::SystemTime::now()),
                sequence,
                clock: Clock::Synced,
                payload: lekiwi_protocol::message::Telemetry { metrics },
            };
            Ok((topic.clone(), envelope.to_json()))
        })
        .collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn say(line: &str) {
    println!("{line}");
}
