//! Several ways to the relay: the next one when one fails, back to the better one, through the port of
//! HTTPS at last; and somebody else at the relay's address.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lekiwi_agent::ipc::Status;
use lekiwi_tests::harness::{Fault, FaultyProxy, Relay, program, target};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::RECOVERY;
use super::support::{Site, print, seconds};

/// A circuit that opened, and everything after it.
const OPEN: Duration = Duration::from_secs(120);

/// Two ways to one relay.
async fn two_ways(more: &str) -> Result<(FaultyProxy, FaultyProxy, Site)> {
    let relay = Relay::start()?;
    let better = FaultyProxy::start(relay.mqtt()).await?;
    let worse = FaultyProxy::start(relay.mqtt()).await?;
    let site = Site::behind(relay, &[&better, &worse], more).await?;
    Ok((better, worse, site))
}

async fn by(site: &mut Site, proxy: &FaultyProxy, limit: Duration) -> Result<Duration> {
    let (began, address) = (Instant::now(), proxy.address().to_string());
    let what = format!("connected by {address}");
    site.until(&what, limit, |status| {
        status.session.is_some() && status.relay == address
    })
    .await?;
    Ok(began.elapsed())
}

#[tokio::test]
async fn a_robot_falls_over_to_the_next_endpoint_and_back_to_the_better_one() -> Result<()> {
    let (better, worse, mut site) = two_ways("last_resort: false\n  fail_back_s: 5").await?;
    by(&mut site, &better, RECOVERY).await?;

    better.set(Fault::Closed);
    better.cut();
    let over = by(&mut site, &worse, RECOVERY).await?;
    better.set(Fault::None);
    let back = by(&mut site, &better, OPEN).await?;

    // A black hole is no refusal: it has its head start, and then the other one begins beside it.
    better.set(Fault::Silence);
    let hole = by(&mut site, &worse, RECOVERY).await?;
    better.set(Fault::None);
    better.cut();
    by(&mut site, &better, OPEN).await?;

    // One that takes everybody and drops them soon does not win for ever.
    let flapping = async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            better.cut();
        }
    };
    let stays = async {
        let flaps = by(&mut site, &worse, OPEN).await?;
        let session = site.session().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        ensure!(site.session().await == session, "expected it to stay there");
        anyhow::Ok(flaps)
    };
    let flaps = tokio::select! {
        () = flapping => Duration::ZERO,
        flaps = stays => flaps?,
    };
    let events = site.nothing_lost().await?;
    let rows = [
        ("better one closed, until on the other", seconds(over)),
        (
            "better one open again, until back (fail_back_s: 5)",
            seconds(back),
        ),
        ("better one silent, until on the other", seconds(hole)),
        (
            "better one drops everybody after 0.3 s, until on the other",
            seconds(flaps),
        ),
        ("events, none lost and none doubled", events.to_string()),
    ];
    print("two endpoints", &rows.map(|(a, b)| (a.to_owned(), b)))
}

#[tokio::test]
async fn mqtt_comes_by_the_port_of_https_when_nothing_else_works() -> Result<()> {
    let relay = Relay::start()?;
    let mqtt = FaultyProxy::start(relay.mqtt()).await?;
    let https = relay.https().to_owned();
    let mut site = Site::behind(relay, &[&mqtt], "fail_back_s: 5").await?;
    let before = site.session().await;
    mqtt.set(Fault::Closed);
    mqtt.cut();
    site.connected(before, Duration::from_secs(60)).await?;
    let status = site.status().await;
    ensure!(
        status.as_ref().is_some_and(|status| status.relay == https),
        "expected it by {https}, got {status:?}"
    );
    mqtt.set(Fault::None);
    by(&mut site, &mqtt, OPEN).await?;
    site.nothing_lost().await?;
    Ok(())
}

fn said(status: &Status) -> &str {
    status.last_error.as_deref().unwrap_or_default()
}

/// Somebody else's TLS server; counts what it is told.
async fn imposter() -> Result<(String, Arc<AtomicU64>)> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()])?.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?.to_string();
    let told = Arc::new(AtomicU64::new(0));
    let count = told.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), count.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(tcp).await else {
                    return;
                };
                let mut buffer = [0; 1024];
                while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
                    count.fetch_add(bytes as u64, Ordering::Relaxed);
                }
            });
        }
    });
    Ok((address, told))
}

#[tokio::test]
async fn another_certificate_is_refused_with_its_reason_and_told_nothing() -> Result<()> {
    let relay = Relay::start()?;
    let mqtt = FaultyProxy::start(relay.mqtt()).await?;
    let https = FaultyProxy::start(relay.https()).await?;
    let program = target("lekiwi-agent", "lekiwi-agent")?;
    let (own, theirs) = (relay.https().to_owned(), https.address().to_string());
    let (direct, ways) = (
        format!("mqtt: mqtts://{}", relay.mqtt()),
        format!("mqtt: mqtts://{}", mqtt.address()),
    );
    let real = relay.mqtt().to_owned();
    let mut site = Site::start(relay, &program, &[], |config| {
        config.replace(&own, &theirs).replace(&direct, &ways)
    })
    .await?;
    // As if somebody wanted it enrolled anew: a token to be stolen.
    let token = site.agent.state_dir().with_file_name("token");
    std::fs::write(&token, site.relay.token(&[])?)?;
    let before = site.session().await;
    let (imposter, told) = imposter().await?;
    mqtt.lead_to(&imposter)?;
    https.lead_to(&imposter)?;
    mqtt.cut();
    let reason = format!(
        "expected a lasting connection to the broker at {}: expected a certificate of the pinned authority \
         for 127.0.0.1: invalid peer certificate: ",
        mqtt.address()
    );
    site.until("refusing", RECOVERY, |status| {
        said(status).starts_with(&reason)
    })
    .await?;
    // By the last resort as well.
    let reason = reason.replace(&mqtt.address().to_string(), &theirs);
    site.until("refusing", Duration::from_secs(60), |status| {
        said(status).starts_with(&reason)
    })
    .await?;
    ensure!(
        told.load(Ordering::Relaxed) == 0,
        "expected nothing to be told to an imposter"
    );
    ensure!(token.exists(), "expected the token to be unused");
    mqtt.lead_to(&real)?;
    site.connected(before, RECOVERY).await?;
    site.nothing_lost().await?;
    Ok(())
}

#[tokio::test]
async fn a_session_that_is_resumed_saves_bytes() -> Result<()> {
    let relay = Relay::start()?;
    let proxy = FaultyProxy::start(relay.mqtt()).await?;
    let mut site = Site::behind(relay, &[&proxy], "last_resort: false").await?;
    site.quiet().await?;
    let mut full = Vec::new();
    let mut resumed = Vec::new();
    for _ in 0..5 {
        // A new process knows no session.
        let before = site.session().await;
        site.agent.kill()?;
        full.push(connection_bytes(&mut site, &proxy, before, true).await?);
        let before = site.session().await;
        proxy.cut();
        resumed.push(connection_bytes(&mut site, &proxy, before, false).await?);
    }
    // What else is said meanwhile only adds to it.
    let least = |values: Vec<u64>| values.into_iter().min().unwrap_or_default();
    let (full, resumed) = (least(full), least(resumed));
    ensure!(
        resumed + 800 < full,
        "expected a resumed session to save 800 bytes, got {resumed} after {full}"
    );
    let rows = [("full handshake", full), ("resumed session", resumed)];
    print(
        "until connected, birth and state included",
        &rows.map(|(a, b)| (a.to_owned(), format!("{b} bytes"))),
    )
}

/// Bytes of both directions from the first one until the robot is connected.
async fn connection_bytes(
    site: &mut Site,
    proxy: &FaultyProxy,
    before: Option<uuid::Uuid>,
    restart: bool,
) -> Result<u64> {
    let bytes = proxy.bytes();
    if restart {
        site.agent.restart()?;
    }
    site.connected(before, RECOVERY).await?;
    // Birth, factsheet and state follow at once.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(proxy.bytes() - bytes)
}

#[tokio::test]
async fn the_last_addresses_are_used_when_there_is_no_dns() -> Result<()> {
    let relay = Relay::start_with(lekiwi_tests::harness::RelayOptions {
        arguments: vec!["--server-name".to_owned(), "relay.test".to_owned()],
        ..Default::default()
    })?;
    let proxy = FaultyProxy::start(relay.mqtt()).await?;
    let files = tempfile::tempdir()?;
    let hosts = files.path().join("hosts");
    let resolver = files.path().join("resolv.conf");
    std::fs::write(&hosts, "127.0.0.1 localhost relay.test\n")?;
    std::fs::write(
        &resolver,
        "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    )?;
    let agent = target("lekiwi-agent", "lekiwi-agent")?;
    let script = "mount --bind \"$0\" /etc/hosts && mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
    let first = [
        "--mount".into(),
        "sh".into(),
        "-c".into(),
        script.into(),
        hosts.clone().into_os_string(),
        resolver.into_os_string(),
        agent.into_os_string(),
    ];
    let mqtt = format!("mqtt: mqtts://{}", relay.mqtt());
    let named = format!(
        "mqtt: mqtts://relay.test:{}\n  last_resort: false",
        proxy.address().port()
    );
    let unshare = program("unshare", "util-linux")?;
    let mut site = Site::start(relay, &unshare, &first, |config| {
        config.replace(&mqtt, &named)
    })
    .await?;
    std::fs::write(&hosts, "")?;
    let before = site.session().await;
    proxy.cut();
    let gone = site.connected(before, RECOVERY).await?;
    site.nothing_lost().await?;
    print(
        "name",
        &[(
            "no DNS any more, connection reset".to_owned(),
            seconds(gone),
        )],
    )
}

/// A proxy as companies have them: CONNECT, and nothing else. Counts what it connected.
async fn connect_proxy() -> Result<(String, Arc<AtomicU64>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?.to_string();
    let connected = Arc::new(AtomicU64::new(0));
    let count = connected.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let mut client = BufReader::new(client);
                let (mut request, mut line) = (String::new(), String::new());
                client.read_line(&mut request).await?;
                while client.read_line(&mut line).await? > 2 {
                    line.clear();
                }
                let target = request.split(' ').nth(1).unwrap_or_default();
                let mut server = TcpStream::connect(target).await?;
                count.fetch_add(1, Ordering::Relaxed);
                client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    Ok((address, connected))
}

#[tokio::test]
async fn a_robot_behind_a_proxy_enrols_and_connects_through_it() -> Result<()> {
    let relay = Relay::start()?;
    let (proxy, connected) = connect_proxy().await?;
    let program = target("lekiwi-agent", "lekiwi-agent")?;
    let line = format!("proxy: http://{proxy}\n  ca_fingerprint:");
    let site = Site::start(relay, &program, &[], |config| {
        config.replace("ca_fingerprint:", &line)
    })
    .await?;
    // The authority, the certificate, the broker.
    let connections = connected.load(Ordering::Relaxed);
    ensure!(
        connections == 3,
        "expected 3 connections through it, got {connections}"
    );
    site.nothing_lost().await?;
    Ok(())
}
