//! What only a server can do: go away, come back, and be shared.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lekiwi_relay::store::records::{Certificate, CertificateKind, Commit, NewSample, Session};
use lekiwi_relay::store::{Batch, Health, Location, PostgresOptions};
use lekiwi_relay_core::history::Retention;
use rcgen::{CertificateParams, Issuer, KeyPair};

use super::{PATIENCE, Server, at, batch, committed, event, open, until};

/// Takes connections to the server, and cuts one when it is told to.
struct Proxy {
    port: u16,
    cut: Arc<AtomicU8>,
    /// How often the last transaction asked the server, its beginning and its end included.
    turns: Arc<AtomicUsize>,
}

const PASS: u8 = 0;
/// When a transaction is to be committed, before the server hears of it.
const BEFORE: u8 = 1;
/// When the server has committed it, before its answer comes.
const AFTER: u8 = 2;
/// As before; and nobody gets through any more.
const BEFORE_AND_HOLD: u8 = 3;
const HOLD: u8 = 4;

impl Proxy {
    fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicU8::new(PASS));
        let turns = Arc::<AtomicUsize>::default();
        let (told, counted) = (cut.clone(), turns.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                while told.load(Ordering::SeqCst) == HOLD {
                    std::thread::sleep(Duration::from_millis(10));
                }
                let (server, told) = (TcpStream::connect(("127.0.0.1", server)), told.clone());
                let Ok(server) = server else { continue };
                let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let counted = counted.clone();
                std::thread::spawn(move || pass(client, server, &told, &counted));
                std::thread::spawn(move || {
                    // Ends with the connection.
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        });
        Self { port, cut, turns }
    }
}

fn pass(mut client: TcpStream, mut server: TcpStream, cut: &AtomicU8, turns: &AtomicUsize) {
    let mut buffer = vec![0; 65_536];
    let mut asked = 0;
    // The client waits for each answer, so that what comes at once is one turn.
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        let said = &buffer[..count];
        asked += 1;
        if said.windows(6).any(|part| part == b"BEGIN ") {
            asked = 1;
        }
        if said.windows(7).any(|part| part == b"COMMIT\0") {
            turns.store(asked, Ordering::SeqCst);
            match cut.swap(PASS, Ordering::SeqCst) {
                BEFORE => break,
                BEFORE_AND_HOLD => {
                    cut.store(HOLD, Ordering::SeqCst);
                    break;
                }
                AFTER => {
                    // The client hears nothing any more; the server does its work.
                    let _ = client.shutdown(Shutdown::Both);
                    let _ = server.write_all(said);
                    let _ = server.flush();
                    std::thread::sleep(Duration::from_millis(300));
                    break;
                }
                _ => {}
            }
        }
        if server.write_all(said).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_reported_once() {
    let server = Server::shared();
    let proxy = Proxy::start(server.port());
    let url = server.url(&server.database());
    let location = at(
        &server,
        &url.replace(&server.port().to_string(), &proxy.port.to_string()),
    );
    let (store, mut commits) = open(&location).await.unwrap();
    for (cut, seq) in [(BEFORE, 1), (AFTER, 2), (AFTER, 3), (BEFORE, 4)] {
        proxy.cut.store(cut, Ordering::SeqCst);
        store.submit(batch([event("kiwi-01", seq)]));
        let commit = committed(&mut commits).await;
        assert_eq!(
            commit
                .events
                .iter()
                .map(|stored| (stored.position, stored.event.seq))
                .collect::<Vec<_>>(),
            [(seq, seq)],
            "cut {cut}"
        );
        assert_eq!(commit.acks[0].ranges, [[seq, seq]]);
        assert_eq!(proxy.cut.load(Ordering::SeqCst), PASS, "it was cut");
    }
    until("well again", async || {
        *store.health().borrow() == Health::Writing
    })
    .await;
    // A certificate whose commit was done and not answered is known all the same.
    proxy.cut.store(AFTER, Ordering::SeqCst);
    let refusal = store
        .insert_certificate(certificate("aa"))
        .await
        .unwrap_err();
    assert!(
        refusal
            .to_string()
            .starts_with("the store cannot write at the moment: no connection to PostgreSQL ("),
        "{refusal}"
    );
    until("known", async || store.certificate_status("aa").is_some()).await;
    store.close();
}

/// What the commit's number costs is no turn of its own: a server may be far away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_asks_the_server_as_often_as_it_must() {
    let server = Server::shared();
    let proxy = Proxy::start(server.port());
    let url = server.url(&server.database());
    let through = url.replace(&server.port().to_string(), &proxy.port.to_string());
    let (store, mut commits) = open(&at(&server, &through)).await.unwrap();
    // The first one prepares its statements.
    for seq in [1, 2] {
        store.submit(batch([event("kiwi-01", seq)]));
        committed(&mut commits).await;
    }
    // Begin; what the log has, and how far it goes; write, tell the others, commit.
    assert_eq!(proxy.turns.load(Ordering::SeqCst), 6);
    store.close();
}

/// A robot comes to another relay with a part of what the first one could not write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_did_not_happen_is_not_taken_for_another_relays() {
    let server = Server::shared();
    let proxy = Proxy::start(server.port());
    let url = server.url(&server.database());
    let through = url.replace(&server.port().to_string(), &proxy.port.to_string());
    let (one, mut commits) = open(&at(&server, &through)).await.unwrap();
    let (two, mut others) = open(&at(&server, &url)).await.unwrap();
    proxy.cut.store(BEFORE_AND_HOLD, Ordering::SeqCst);
    one.submit(batch([event("kiwi-01", 1), event("kiwi-01", 2)]));
    until("it was cut", async || {
        proxy.cut.load(Ordering::SeqCst) == HOLD
    })
    .await;
    two.submit(batch([event("kiwi-01", 1)]));
    assert_eq!(committed(&mut others).await.events[0].position, 1);
    proxy.cut.store(PASS, Ordering::SeqCst);
    let commit = committed(&mut commits).await;
    let new: Vec<u64> = commit.events.iter().map(|s| s.event.seq).collect();
    assert_eq!(new, [2], "the first is the other's");
    assert_eq!(commit.acks[0].ranges, [[1, 2]]);
    let kept = two.events(0, 10).await.unwrap();
    assert_eq!(kept.iter().map(|s| s.event.seq).collect::<Vec<_>>(), [1, 2]);
    one.close();
    two.close();
}

fn certificate(serial: &str) -> Certificate {
    Certificate {
        serial: serial.into(),
        common_name: "kiwi-01".into(),
        kind: CertificateKind::Robot,
        key: [1; 32],
        not_before_ms: 0,
        not_after_ms: 10,
        revoked_ms: None,
        der: vec![1],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_loses_nothing_that_was_acknowledged() {
    let server = Server::start(|_| ());
    let location = at(&server, &server.url(&server.database()));
    let (store, mut commits) = open(&location).await.unwrap();
    let mut reported = Vec::new();
    let mut seq = 0;
    for _ in 0..2 {
        // Killed while it writes.
        let until_killed = seq + 300;
        while seq < until_killed {
            seq += 1;
            store.submit(batch([event("kiwi-01", seq)]));
            if seq == until_killed - 100 {
                server.kill();
            }
            tokio::task::yield_now().await;
        }
        until("it is said", async || {
            // Who reports waits for whoever listens.
            while let Ok(commit) = commits.try_recv() {
                reported.extend(commit.events.iter().map(|stored| stored.event.seq));
            }
            *store.health().borrow() != Health::Writing
        })
        .await;
        let asked = Instant::now();
        let refusal = store.last_position().await.unwrap_err().to_string();
        assert!(
            refusal.starts_with("the store cannot be reached at the moment: "),
            "{refusal}"
        );
        assert!(
            asked.elapsed() < Duration::from_secs(10),
            "an answer in time"
        );
        assert!(store.certificate_status("aa").is_none());
        server.resume();
        while reported.len() < seq as usize {
            let commit = committed(&mut commits).await;
            reported.extend(commit.events.iter().map(|stored| stored.event.seq));
        }
        until("well again", async || {
            *store.health().borrow() == Health::Writing
        })
        .await;
    }
    // Each once, in the log as in the reports.
    let all: Vec<u64> = (1..=seq).collect();
    assert_eq!(reported, all);
    let kept = store.events(0, 10_000).await.unwrap();
    assert_eq!(kept.iter().map(|s| s.event.seq).collect::<Vec<_>>(), all);
    assert_eq!(kept.iter().map(|s| s.position).collect::<Vec<_>>(), all);
    store.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_server_loses_nothing() {
    let server = Server::start_on_disk_of(96);
    let location = at(&server, &server.url(&server.database()));
    let (store, mut commits) = open(&location).await.unwrap();
    store.submit(batch([event("kiwi-01", 1)]));
    let mut reported: Vec<u64> = Vec::new();
    let report = |commit: Commit, reported: &mut Vec<u64>| {
        reported.extend(commit.events.iter().map(|stored| stored.event.seq));
    };
    report(committed(&mut commits).await, &mut reported);
    let ballast = server.fill_disk();
    let mut seq = 1;
    while *store.health().borrow() == Health::Writing {
        assert!(seq < 100_000, "the disk never got full");
        store.submit(batch((seq + 1..=seq + 500).map(|seq| {
            let mut event = event("kiwi-01", seq);
            event.data = format!("{{\"a\":\"{}\"}}", "x".repeat(500)).into();
            event
        })));
        seq += 500;
        while let Ok(commit) = commits.try_recv() {
            report(commit, &mut reported);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::remove_file(ballast).unwrap();
    while reported.len() < seq as usize {
        report(committed(&mut commits).await, &mut reported);
    }
    let all: Vec<u64> = (1..=seq).collect();
    assert_eq!(reported, all);
    let kept = store.events(0, 100_000).await.unwrap();
    assert_eq!(kept.iter().map(|s| s.event.seq).collect::<Vec<_>>(), all);
    until("well again", async || {
        *store.health().borrow() == Health::Writing
    })
    .await;
    store.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_hear_of_each_others_events_and_certificates() {
    let server = Server::shared();
    let location = at(&server, &server.url(&server.database()));
    let (one, mut commits) = open(&location).await.unwrap();
    let (two, _second) = open(&location).await.unwrap();
    let mut follower = two.follow(0);
    let waiting = tokio::spawn(async move { follower.next(10).await.unwrap() });
    one.submit(batch([event("kiwi-01", 1)]));
    committed(&mut commits).await;
    let heard = tokio::time::timeout(Duration::from_secs(3), waiting).await;
    assert_eq!(heard.expect("told, not found by looking").unwrap().len(), 1);
    one.insert_certificate(certificate("aa")).await.unwrap();
    until("the certificate", async || {
        two.certificate_status("aa").is_some()
    })
    .await;
    two.revoke_certificate("aa", 5).await.unwrap();
    until("revoked", async || {
        one.certificate_status("aa")
            .is_some_and(|status| status.revoked)
    })
    .await;
    let session = Session {
        hash: [1; 32],
        user: "admin".into(),
        created_ms: 1,
        expires_ms: 100,
        address: "127.0.0.1".into(),
        agent: "curl".into(),
    };
    one.insert_session(session).await.unwrap();
    until("the session", async || two.session(&[1; 32], 5).is_some()).await;
    assert!(two.delete_session([1; 32]).await.unwrap());
    until("logged out", async || one.session(&[1; 32], 5).is_none()).await;
    one.close();
    two.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_that_start_at_once_make_the_tables_once() {
    let server = Server::shared();
    let database = server.database();
    let location = at(&server, &server.url(&database));
    let starts: Vec<_> = (0..5)
        .map(|_| {
            let location = location.clone();
            tokio::spawn(async move { open(&location).await })
        })
        .collect();
    for start in starts {
        start.await.unwrap().unwrap().0.close();
    }
    let versions = server.admin(&database, |client| {
        client
            .query("SELECT version FROM lekiwi_schema", &[])
            .unwrap()
            .len()
    });
    assert_eq!(versions, 1);
    server.admin(&database, |client| {
        client
            .batch_execute("UPDATE lekiwi_schema SET version = 99")
            .unwrap();
    });
    let refusal = open(&location).await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        format!(
            "expected a store of version 4 or earlier, got version 99 in postgresql://127.0.0.1:{}/{database}",
            server.port()
        )
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_answer_while_the_writer_waits() {
    let server = Server::shared();
    let database = server.database();
    let location = at(&server, &server.url(&database));
    let (store, mut commits) = open(&location).await.unwrap();
    store.submit(batch([event("kiwi-01", 1)]));
    committed(&mut commits).await;
    let (held, hold) = std::sync::mpsc::channel::<()>();
    let (locked, lock) = tokio::sync::oneshot::channel();
    let holder = {
        let server = server.clone();
        // Another relay in the midst of a long transaction.
        std::thread::spawn(move || {
            server.admin(&database, move |client| {
                let held_by_writer = "SELECT pg_advisory_xact_lock(x'6c656b6977692077'::bigint)";
                let mut transaction = client.transaction().unwrap();
                transaction.execute(held_by_writer, &[]).unwrap();
                locked.send(()).unwrap();
                let _ = hold.recv();
            });
        })
    };
    lock.await.unwrap();
    store.submit(batch([event("kiwi-01", 2)]));
    for _ in 0..50 {
        let asked = Instant::now();
        assert_eq!(store.last_position().await.unwrap(), 1);
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "an answer in time"
        );
    }
    assert!(
        commits.try_recv().is_err(),
        "nothing is told that is not committed"
    );
    drop(held);
    holder.join().unwrap();
    assert_eq!(committed(&mut commits).await.events[0].position, 2);
    store.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_has_a_partition_for_each_month_that_it_needs() {
    const JANUARY: u64 = 1_767_225_600_000;
    let server = Server::shared();
    let database = server.database();
    let location = at(&server, &server.url(&database));
    let (store, _commits) = open(&location).await.unwrap();
    let months = || {
        server.admin(&database, |client| {
            let query = "SELECT inhrelid::regclass::text FROM pg_inherits
                         WHERE inhparent = to_regclass('telemetry') ORDER BY 1";
            let rows = client.query(query, &[]).unwrap();
            rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
        })
    };
    let samples = [JANUARY - 1, JANUARY, JANUARY + 40 * 86_400_000].map(|ts_ms| NewSample {
        robot: "kiwi-01".into(),
        metric: "cpu_percent".into(),
        ts_ms,
        value: 1.0,
    });
    store.submit(Batch {
        samples: samples.to_vec(),
        ..Batch::default()
    });
    let all = [
        "telemetry_2025_12",
        "telemetry_2026_01",
        "telemetry_2026_02",
    ];
    until("made", async || months() == all).await;
    let kept = Retention {
        raw_days: 50,
        minute_days: 50,
        quarter_days: 50,
        hour_days: 50,
    };
    // Beginning with the eleventh of January.
    store.keep_history(kept, JANUARY + 60 * 86_400_000);
    until("dropped", async || months() == all[1..]).await;
    until("deleted", async || {
        let kept = store
            .telemetry("kiwi-01", "cpu_percent", 0, u64::MAX, 9)
            .await;
        kept.unwrap().len() == 1
    })
    .await;
    store.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_certificate_must_be_of_the_authority_that_was_named() {
    let folder = tempfile::tempdir().unwrap();
    let authority = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        (path, Issuer::new(params, key))
    };
    let (ours, issuer) = authority("ours.pem");
    let (theirs, _) = authority("theirs.pem");
    let server = Server::start(|data: &Path| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(data.join("server.crt"), certificate.pem()).unwrap();
        std::fs::write(data.join("server.key"), key.serialize_pem()).unwrap();
        let (owner, file) = (std::fs::metadata(data).unwrap(), data.join("server.key"));
        let (user, group) = (
            std::os::unix::fs::MetadataExt::uid(&owner),
            std::os::unix::fs::MetadataExt::gid(&owner),
        );
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(user), Some(group)).unwrap();
        let mut settings = std::fs::OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.conf"))
            .unwrap();
        writeln!(settings, "ssl = on").unwrap();
    });
    let database = server.database();
    let url = format!(
        "postgresql://relay@localhost:{}/{database}?sslmode=require",
        server.port()
    );
    let with = async |ca: &Path| {
        let options = PostgresOptions::read(&url, Some(&server.password_file()), Some(ca)).unwrap();
        open(&Location::Postgres(Arc::new(options))).await
    };
    let (store, _commits) = with(&ours).await.unwrap();
    let encrypted: bool = server.admin(&database, |client| {
        let query = "SELECT bool_and(ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
                     WHERE a.application_name = 'lekiwi-relay'";
        client.query_one(query, &[]).unwrap().get(0)
    });
    assert!(encrypted);
    store.close();
    let refusal = with(&theirs).await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        format!(
            "cannot open the store postgresql://localhost:{}/{database}",
            server.port()
        )
    );
    let cause = std::error::Error::source(&refusal).unwrap().to_string();
    assert!(
        cause.contains("UnknownIssuer") || cause.contains("BadSignature"),
        "{cause}"
    );
    // A password that is wrong is not repeated.
    let wrong = url.replace("relay@", "relay:falsch@");
    let options = PostgresOptions::read(&wrong, None, Some(&ours)).unwrap();
    let refusal = open(&Location::Postgres(Arc::new(options)))
        .await
        .unwrap_err();
    let cause = std::error::Error::source(&refusal).unwrap().to_string();
    assert_eq!(
        cause,
        "no connection to PostgreSQL (PostgreSQL says: password authentication failed for user \"relay\")"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_across_a_restart_misses_nothing() {
    let server = Server::start(|_| ());
    let location = at(&server, &server.url(&server.database()));
    let (one, mut commits) = open(&location).await.unwrap();
    let (two, _second) = open(&location).await.unwrap();
    let mut follower = two.follow(0);
    let mut seen = BTreeSet::new();
    for (seq, is_killed) in [(1, false), (2, true), (3, true)] {
        if is_killed {
            server.kill();
            server.resume();
        }
        one.submit(batch([event("kiwi-01", seq)]));
        committed(&mut commits).await;
        let deadline = Instant::now() + PATIENCE;
        while !seen.contains(&seq) {
            assert!(Instant::now() < deadline, "followed in time");
            // A read on a connection that was cut fails; the next one has another.
            let next = tokio::time::timeout(PATIENCE, follower.next(10))
                .await
                .unwrap();
            for stored in next.unwrap_or_default() {
                assert!(seen.insert(stored.event.seq));
            }
        }
    }
    one.close();
    two.close();
}
