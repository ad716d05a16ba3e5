//! Messages per second, against a Mosquitto that gets the same ones and forwards them to one subscriber. Both
//! over mutual TLS, both with the same publishers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lekiwi_protocol::{
    Clock, Envelope, FromRobot, MessageType, MetricName, RobotId, Root, Timestamp,
};
use lekiwi_tests::fleet::{Endpoint, Identity};
use lekiwi_tests::flood::{self, Confirmation};
use lekiwi_tests::harness::Mosquitto;
use tokio::sync::watch;

use crate::goal::{Table, Wish};
use crate::site::{Counts, Site};

/// Publishing robots.
pub(crate) const CLIENTS: usize = 10;
/// State updates per second of the K1 relay by HTTP PUT, measured with its own program (issue 5).
const K1_PER_S: f64 = 668.0;

/// Telemetry: processed by the relay, forwarded by Mosquitto.
pub(crate) async fn telemetry(
    site: &Site,
    duration: Duration,
    rounds: usize,
    table: &mut Table,
) -> Result<()> {
    let (_mosquitto, other) = mosquitto(site)?;
    let admin = site.admin().await?;
    let (subscriber, publishers) = site.identities.split_first().context("a subscriber")?;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let before = Counts::read(&admin).await?;
        let elapsed = flood_telemetry(publishers, &site.endpoint, duration).await?;
        let after = Counts::read(&admin).await?;
        let processed = after.since(&before, "lekiwi_messages_total{kind=\"telemetry\"}");
        let shed = after.since(&before, "lekiwi_shed_total");
        crate::say(&format!(
            "{processed} telemetry messages processed, {shed} shed"
        ));
        let processed = processed / elapsed.as_secs_f64();
        let forwarded = forwarded(subscriber, &other, async || {
            flood_telemetry(publishers, &other, duration).await
        })
        .await?;
        ours.push(processed);
        theirs.push(forwarded);
        ratios.push(processed / forwarded);
    }
    let k1 = ours.iter().map(|rate| rate / K1_PER_S).collect();
    let row = |what: &str| format!("telemetry, QoS 0: {what}");
    table.add(row("relay, processed"), "1/s", Wish::None, ours);
    table.add(row("Mosquitto, forwarded"), "1/s", Wish::None, theirs);
    table.add(row("ratio"), "x", Wish::AtLeast(1.0), ratios);
    let what = "state updates over MQTT, against 668/s of the K1 relay".to_owned();
    table.add(what, "x", Wish::AtLeast(100.0), k1);
    Ok(())
}

/// Events, one a message: in the relay's log and acknowledged, forwarded by Mosquitto.
pub(crate) async fn events(
    site: &Site,
    duration: Duration,
    rounds: usize,
    table: &mut Table,
) -> Result<()> {
    let (_mosquitto, other) = mosquitto(site)?;
    let (subscriber, publishers) = site.identities.split_first().context("a subscriber")?;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (confirmed, elapsed) = flood_events(
            publishers,
            &site.endpoint,
            Confirmation::Log,
            1,
            Until::Time(duration),
        )
        .await?;
        let acknowledged = confirmed / elapsed.as_secs_f64();
        let forwarded = forwarded(subscriber, &other, async || {
            let until = Until::Time(duration);
            let flood = flood_events(publishers, &other, Confirmation::Broker, 1, until);
            Ok(flood.await?.1)
        })
        .await?;
        ours.push(acknowledged);
        theirs.push(forwarded);
        ratios.push(acknowledged / forwarded);
    }
    let row = |what: &str| format!("events, QoS 1: {what}");
    table.add(
        row("relay, on disk and acknowledged"),
        "1/s",
        Wish::None,
        ours,
    );
    table.add(row("Mosquitto, forwarded"), "1/s", Wish::None, theirs);
    table.add(row("ratio"), "x", Wish::AtLeast(0.5), ratios);
    Ok(())
}

/// Puts so many events into the relay's log.
pub(crate) async fn fill(site: &Site, events: u64) -> Result<()> {
    crate::say(&format!("filling the log with {events} events"));
    let until = Until::Events(events);
    flood_events(
        &site.identities,
        &site.endpoint,
        Confirmation::Log,
        100,
        until,
    )
    .await?;
    Ok(())
}

/// A Mosquitto that takes the same robots.
fn mosquitto(site: &Site) -> Result<(Mosquitto, Endpoint)> {
    let mosquitto = Mosquitto::start(
        &site.relay.ca_file()?,
        &site.relay.data().join("ca/server.pem"),
        &site.relay.data().join("ca/server.key"),
    )?;
    let endpoint = mosquitto.address().parse()?;
    Ok((mosquitto, endpoint))
}

/// Messages per second that reach one subscriber while `flood` goes on.
async fn forwarded(
    subscriber: &Arc<Identity>,
    endpoint: &Endpoint,
    flood: impl AsyncFnOnce() -> Result<Duration>,
) -> Result<f64> {
    let received = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = watch::channel(false);
    let counting = tokio::spawn(flood::count(
        Arc::clone(subscriber),
        endpoint.clone(),
        Root::default().all_robots(),
        Arc::clone(&received),
        stopped,
    ));
    // The subscription is acknowledged before the first message is sent.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let elapsed = flood().await?;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = received.load(Ordering::Relaxed) as f64 / elapsed.as_secs_f64();
    stop.send_replace(true);
    counting.await??;
    Ok(rate)
}

/// All publishers at full speed for a while; how long it took.
async fn flood_telemetry(
    publishers: &[Arc<Identity>],
    endpoint: &Endpoint,
    duration: Duration,
) -> Result<Duration> {
    let sent = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = watch::channel(false);
    let mut tasks = Vec::new();
    for identity in publishers {
        tasks.push(tokio::spawn(flood::publish(
            Arc::clone(identity),
            endpoint.clone(),
            messages(&identity.id)?,
            Arc::clone(&sent),
            stopped.clone(),
        )));
    }
    let start = Instant::now();
    tokio::time::sleep(duration).await;
    stop.send_replace(true);
    for task in tasks {
        task.await??;
    }
    Ok(start.elapsed())
}

#[derive(Clone, Copy)]
enum Until {
    Time(Duration),
    Events(u64),
}

/// All publishers with as many events under way as a window has; how many were confirmed in which time.
async fn flood_events(
    publishers: &[Arc<Identity>],
    endpoint: &Endpoint,
    by: Confirmation,
    per_message: u64,
    until: Until,
) -> Result<(f64, Duration)> {
    let confirmed = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = watch::channel(false);
    let most = match until {
        Until::Time(_) => u64::MAX,
        Until::Events(events) => events.div_ceil(publishers.len() as u64),
    };
    let tasks: Vec<_> = publishers
        .iter()
        .map(|identity| {
            tokio::spawn(flood::events(
                Arc::clone(identity),
                endpoint.clone(),
                by,
                per_message,
                most,
                Arc::clone(&confirmed),
                stopped.clone(),
            ))
        })
        .collect();
    let start = Instant::now();
    if let Until::Time(duration) = until {
        tokio::time::sleep(duration).await;
        stop.send_replace(true);
    }
    for task in tasks {
        task.await??;
    }
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let count = confirmed.load(Ordering::Relaxed) as f64;
    Ok((count, start.elapsed()))
}

/// 64 telemetry messages of about 200 bytes with values that differ.
fn messages(robot: &RobotId) -> Result<Vec<(String, Vec<u8>)>> {
    let topic = Root::default()
        .from_robot(robot, FromRobot::Telemetry)
        .to_string();
    (0_u8..64)
        .map(|sequence| {
            let metrics = [("cpu_percent", 10.5), ("temperature_c", 48.0)]
                .into_iter()
                .map(|(name, value)| Ok((MetricName::new(name)?, value + f64::from(sequence))))
                .collect::<Result<_>>()?;
            let envelope = Envelope {
                message_type: MessageType::Telemetry,
                robot_id: robot.clone(),
                timestamp: Timestamp::from(std::time::SystemTime::now()),
                sequence: sequence.into(),
                clock: Clock::Synced,
                payload: lekiwi_protocol::message::Telemetry { metrics },
            };
            Ok((topic.clone(), envelope.to_json()))
        })
        .collect()
}
