//! A relay that shares its database with others, seen by whoever asks it.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::api::Readiness;
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Postgres, Relay, RelayOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Somebody who looks every second, and twice, has noticed.
const NOTICED: Duration = Duration::from_secs(3);
const END: Duration = Duration::from_secs(30);

/// A relay as one of several, on a broker that is not there: what is asked for here needs none.
fn start(database: &Postgres, shared: &Path) -> Result<Relay> {
    Relay::start_with(RelayOptions {
        arguments: ["--relay-id", "relay-1", "--broker", "mqtts://127.0.0.1:1"]
            .map(str::to_owned)
            .to_vec(),
        environment: vec![
            ("LEKIWI_RELAY_SHARED", OsString::from(shared)),
            ("LEKIWI_RELAY_STORE_POSTGRES", database.url().into()),
        ],
        ..RelayOptions::default()
    })
}

#[tokio::test]
async fn a_relay_that_stops_says_so_before_it_takes_no_more_requests() -> Result<()> {
    let database = Postgres::start()?;
    let shared = tempfile::tempdir()?;
    let mut relay = start(&database, shared.path())?;
    // A second installation is refused, which is as good: the provider is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A connection for each request: who is new is the one that must not be cut off.
    let http = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(relay.ca_pem().as_bytes())?])
        .pool_max_idle_per_host(0)
        .build()?;
    let url = format!("https://{}/ready", relay.https());

    let process = relay.process().id().context("it runs")?;
    kill(Pid::from_raw(i32::try_from(process)?), Signal::SIGTERM)?;
    let asked = Instant::now();
    let mut said = None;
    let refused = loop {
        match http.get(&url).send().await {
            Ok(answer) => {
                let readiness: Readiness = answer.json().await?;
                if readiness.missing == ["the relay is stopping"] {
                    said.get_or_insert_with(Instant::now);
                }
            }
            Err(_) => break Instant::now(),
        }
        ensure!(asked.elapsed() < END, "expected the relay to stop");
    };
    let said = said.context("expected it to say that it stops")?;
    ensure!(
        refused - said >= NOTICED,
        "expected it to take requests for {NOTICED:?} more, it did for {:?}",
        refused - said
    );
    let status = relay.process().stop()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[tokio::test]
async fn answers_are_no_longer_old_when_the_database_is_back_though_nothing_happens() -> Result<()>
{
    let mut database = Postgres::start()?;
    let shared = tempfile::tempdir()?;
    let relay = start(&database, shared.path())?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    says_that_the_log_is_old(&admin, false).await?;
    database.kill()?;
    says_that_the_log_is_old(&admin, true).await?;
    database.resume()?;
    says_that_the_log_is_old(&admin, false).await
}

/// Waits until answers say that, or do not.
async fn says_that_the_log_is_old(admin: &Admin, expected: bool) -> Result<()> {
    let began = Instant::now();
    loop {
        let answer = admin.get("/api/v1/robots").send().await?;
        ensure!(answer.status().is_success(), "{answer:?}");
        let stale = answer.headers().get("lekiwi-stale");
        let stale = stale.map_or(Ok(""), |stale| stale.to_str())?;
        if stale.contains("the log") == expected {
            return Ok(());
        }
        ensure!(began.elapsed() < END, "expected {expected}, got {stale:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
