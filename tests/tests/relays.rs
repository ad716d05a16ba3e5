//! Two relays, Mosquitto and PostgreSQL, each on a machine of its own, with robots that talk all the time. Whatever of them is
//! killed, restarted or cut off from another: the log has each event once, somebody answers at any time, and within half a
//! minute all goes on.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use lekiwi_protocol::api::{EventPage, RobotList};
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_tests::fleet::{
    self, Admin, Endpoint, Identity, Kept, Pace, Plan, Scenario, Simulation,
};
use lekiwi_tests::harness::{Host, Lan, Mosquitto, Postgres, Relay, RelayOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const ROBOTS: usize = 20;
/// "Recovery < 30 s after a failure" (H10).
const RECOVERY: Duration = Duration::from_secs(30);
/// Load before each fault.
const BEFORE: Duration = Duration::from_secs(2);
/// A reader's patience.
const ANSWER: Duration = Duration::from_secs(2);
/// From when on an event had to wait.
const LATE: Duration = Duration::from_secs(2);
/// Nobody answers for so long while a relay that was asked first is dead.
const SILENCE: Duration = Duration::from_secs(3);
const IDS: [&str; 2] = ["relay-a", "relay-b"];

/// So long, or in the slow tier so long.
fn tier(fast: u64, slow: u64) -> Duration {
    let is_slow = std::env::var_os("LEKIWI_SLOW").is_some();
    Duration::from_secs(if is_slow { slow } else { fast })
}

struct Site {
    relays: [Relay; 2],
    broker: Mosquitto,
    database: Postgres,
    hosts: [Host; 2],
    broker_host: Host,
    database_host: Host,
    identities: Vec<Arc<Identity>>,
    files: tempfile::TempDir,
}

impl Site {
    async fn start(lan: &mut Lan) -> Result<Self> {
        let hosts = [lan.host(1)?, lan.host(2)?];
        let (broker_host, database_host) = (lan.host(3)?, lan.host(4)?);
        let database = Postgres::start_on(Some(&database_host))?;
        let files = tempfile::tempdir()?;
        let shared = files.path().join("shared");
        let options = |number: usize| RelayOptions {
            host: Some(hosts[number].clone()),
            arguments: ["--relay-id", IDS[number], "--broker"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("mqtts://{}:8883", broker_host.address())])
                .collect(),
            environment: vec![
                ("LEKIWI_RELAY_SHARED", OsString::from(&shared)),
                ("LEKIWI_RELAY_STORE_POSTGRES", database.url().into()),
            ],
            ..RelayOptions::default()
        };
        let first = Relay::start_with(options(0))?;
        let certificate = tempfile::tempdir()?;
        first.certify_broker(&broker_host.address().to_string(), certificate.path())?;
        let broker = Mosquitto::deployed(&broker_host, certificate, &IDS)?;
        let second = Relay::start_with(options(1))?;
        let mut site = Self {
            relays: [first, second],
            broker,
            database,
            hosts,
            broker_host,
            database_host,
            identities: Vec::new(),
            files,
        };
        site.leader().await?;
        let folder = site.files.path().join("robots");
        site.identities = fleet::enrol_all(&site.admin(0).await?, &folder, "kiwi", ROBOTS).await?;
        Ok(site)
    }

    /// An administrator at one of them; the first one told the password.
    async fn admin(&self, number: usize) -> Result<Admin> {
        let (relay, first) = (&self.relays[number], &self.relays[0]);
        Admin::login(relay.https(), relay.ca_pem(), &first.admin_password_file()).await
    }

    /// Which relay leads; waits until one does.
    async fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + RECOVERY;
        loop {
            for number in 0..2 {
                if let Ok(admin) = self.admin(number).await
                    && admin
                        .get("/metrics")
                        .send()
                        .await?
                        .text()
                        .await?
                        .contains("\nlekiwi_leads 1\n")
                {
                    return Ok(number);
                }
            }
            ensure!(
                Instant::now() < deadline,
                "expected a relay to lead within {RECOVERY:?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Robots that talk for so long.
    fn load(&self, length: Duration, seed: u64) -> Result<Simulation> {
        let plan = Plan {
            scenario: Scenario::Steady,
            pace: Pace {
                heartbeat: Duration::from_secs(1),
                telemetry: Some(Duration::from_millis(500)),
                events: Some(Duration::from_millis(200)),
                ramp: Duration::from_secs(1),
            },
            length,
            seed,
        };
        let endpoint: Endpoint = self.broker.address().parse()?;
        Simulation::start(plan, &self.identities, &endpoint, None, |_| {
            Ok(Kept::in_memory())
        })
    }
}

/// What was answered.
#[derive(Debug, Default, Clone)]
struct Answers {
    /// How long nobody answered at most.
    gap: Duration,
    /// Answers that said that they may be old.
    stale: u64,
    all: u64,
    /// How far the log went when.
    log: Vec<(Timestamp, u64)>,
}

/// Asks whoever of these answers, all the time.
fn read_all_the_time(admins: Vec<Admin>) -> (watch::Receiver<Answers>, JoinHandle<()>) {
    let (sender, answers) = watch::channel(Answers::default());
    let task = tokio::spawn(async move {
        let mut last = Instant::now();
        loop {
            for admin in &admins {
                let asked = admin.get("/api/v1/robots").timeout(ANSWER).send().await;
                let is_stale = asked
                    .as_ref()
                    .is_ok_and(|answer| answer.headers().contains_key("lekiwi-stale"));
                let list = match asked.and_then(reqwest::Response::error_for_status) {
                    Ok(answer) => answer.json::<RobotList>().await.ok(),
                    Err(_) => None,
                };
                sender.send_modify(|answers| {
                    answers.gap = answers.gap.max(last.elapsed());
                    if let Some(list) = list {
                        last = Instant::now();
                        answers.all += 1;
                        answers.stale += u64::from(is_stale);
                        answers
                            .log
                            .push((Timestamp::from(SystemTime::now()), list.position));
                    }
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    (answers, task)
}

/// Waits until the log has an event of each robot from after `since`, by whoever of these answers; how long that took.
async fn goes_on(
    admins: &[Admin],
    identities: &[Arc<Identity>],
    since: SystemTime,
) -> Result<Duration> {
    let (began, since) = (Instant::now(), Timestamp::from(since));
    let mut waiting: Vec<&RobotId> = identities.iter().map(|identity| &identity.id).collect();
    while !waiting.is_empty() {
        ensure!(
            began.elapsed() < RECOVERY,
            "expected events of all robots within {RECOVERY:?}, none of {waiting:?}"
        );
        for admin in admins {
            let mut still = Vec::new();
            for robot in waiting {
                let path = format!("/api/v1/robots/{robot}/events?limit=1");
                let asked = tokio::time::timeout(ANSWER, admin.read::<EventPage>(&path)).await;
                let newest = asked
                    .ok()
                    .and_then(Result::ok)
                    .and_then(|page| page.events.into_iter().next());
                // Of the robot's own clock, which is this one.
                if newest
                    .is_none_or(|event| event.timestamp <= since || event.source != robot.as_str())
                {
                    still.push(robot);
                }
            }
            waiting = still;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(began.elapsed())
}

/// When the last event came into the log that had to wait, of those since a fault, counted from `since`.
async fn last_late(
    admin: &Admin,
    identities: &[Arc<Identity>],
    log: &[(Timestamp, u64)],
    (fault, since): (SystemTime, SystemTime),
) -> Result<Duration> {
    let (fault, since) = (Timestamp::from(fault), Timestamp::from(since));
    let mut last = Duration::ZERO;
    for identity in identities {
        for event in admin.events(&identity.id).await? {
            if event.source != identity.id.as_str() || event.timestamp < fault {
                continue;
            }
            let seen = log.iter().find(|(_, position)| *position >= event.position);
            let (came, _) =
                seen.with_context(|| format!("expected {event:?} to have been seen"))?;
            if came.since(event.timestamp) > LATE {
                last = last.max(came.since(since));
            }
        }
    }
    Ok(last)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    LeaderKilled,
    OtherKilled,
    BrokerRestarted,
    DatabaseGone,
    Cut { leader: bool, from: From },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Broker,
    Database,
}

const FAULTS: [Fault; 8] = [
    Fault::LeaderKilled,
    Fault::OtherKilled,
    Fault::BrokerRestarted,
    Fault::DatabaseGone,
    Fault::Cut {
        leader: true,
        from: From::Broker,
    },
    Fault::Cut {
        leader: false,
        from: From::Broker,
    },
    Fault::Cut {
        leader: true,
        from: From::Database,
    },
    Fault::Cut {
        leader: false,
        from: From::Database,
    },
];

impl Site {
    /// One fault under load; what to write into the table.
    async fn survives(&mut self, fault: Fault, seed: u64) -> Result<String> {
        let leader = self.leader().await?;
        let admins = [self.admin(0).await?, self.admin(1).await?];
        // Long enough for the broker, the database or a relay to be missed.
        let away = match fault {
            Fault::DatabaseGone => tier(12, 60),
            Fault::BrokerRestarted => Duration::ZERO,
            Fault::LeaderKilled | Fault::OtherKilled => tier(5, 20),
            Fault::Cut { .. } => tier(22, 60),
        };
        let load = self.load(BEFORE + away + tier(3, 10), seed)?;
        load.online(ROBOTS, RECOVERY).await?;
        tokio::time::sleep(BEFORE).await;
        let (answers, reader) = read_all_the_time(admins.to_vec());
        let began = Instant::now();
        let began_at = SystemTime::now();
        let mut since = began_at;
        // While the fault lasts, the others do it; where there are none, from its end on.
        let mut recovery = None;
        let hurt = match fault {
            Fault::LeaderKilled | Fault::Cut { leader: true, .. } => Some(leader),
            Fault::OtherKilled | Fault::Cut { leader: false, .. } => Some(1 - leader),
            Fault::BrokerRestarted | Fault::DatabaseGone => None,
        };
        match fault {
            Fault::LeaderKilled | Fault::OtherKilled => {
                self.relays[hurt.context("one is hurt")?].kill()?;
            }
            Fault::BrokerRestarted => self.broker.restart()?,
            Fault::DatabaseGone => self.database.kill()?,
            Fault::Cut { from, .. } => {
                let other = match from {
                    From::Broker => &self.broker_host,
                    From::Database => &self.database_host,
                };
                self.hosts[hurt.context("one is hurt")?].cut_off(&[other])?;
            }
        }
        if let Some(hurt) = hurt {
            let well = &admins[1 - hurt..=1 - hurt];
            recovery = Some(goes_on(well, &self.identities, since).await?);
        }
        tokio::time::sleep(away.saturating_sub(began.elapsed())).await;
        match fault {
            Fault::LeaderKilled | Fault::OtherKilled => {
                self.relays[hurt.context("one is hurt")?].restart()?;
            }
            Fault::BrokerRestarted => {}
            Fault::DatabaseGone => {
                self.database.resume()?;
                since = SystemTime::now();
            }
            Fault::Cut { .. } => self.hosts[hurt.context("one is hurt")?].cut_off(&[])?,
        }
        let recovery = match recovery {
            Some(recovery) => recovery,
            None => goes_on(&admins, &self.identities, since).await?,
        };
        // Asked at a relay that is well; the log is the same.
        let well = &admins[hurt.map_or(0, |hurt| 1 - hurt)];
        let report = load.report(well, RECOVERY).await?;
        ensure!(report.is_good(), "{fault:?}: {report}");
        // What was said last is seen, too.
        tokio::time::sleep(ANSWER).await;
        reader.abort();
        let answers = answers.borrow().clone();
        let late = last_late(well, &self.identities, &answers.log, (began_at, since)).await?;
        let recovery = recovery.max(late);
        ensure!(
            recovery < RECOVERY,
            "{fault:?}: expected recovery within {RECOVERY:?}, it took {recovery:?}"
        );
        ensure!(
            answers.gap < SILENCE,
            "{fault:?}: expected somebody to answer, nobody did for {:?}",
            answers.gap
        );
        let is_away = matches!(fault, Fault::DatabaseGone | Fault::Cut { .. });
        ensure!(
            !is_away || answers.stale > 0,
            "{fault:?}: expected answers that say that they may be old"
        );
        Ok(format!(
            "| {fault:?} | {:.1} s | {} | {:.2} s | {} of {} |",
            recovery.as_secs_f64(),
            report.tally.emitted,
            answers.gap.as_secs_f64(),
            answers.stale,
            answers.all,
        ))
    }
}

/// Each session of each robot began once and ended once in the log, whoever led.
async fn sessions_are_exact(admin: &Admin, identities: &[Arc<Identity>]) -> Result<()> {
    for identity in identities {
        let mut begun = Vec::new();
        for event in admin.events(&identity.id).await? {
            if event.kind == lekiwi_protocol::message::kind::CONNECTED {
                let session = event.data["session"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                ensure!(
                    !begun.contains(&session),
                    "{}: expected one beginning of session {session}, got another by {}",
                    identity.id,
                    event.source
                );
                begun.push(session);
            }
        }
        ensure!(
            !begun.is_empty(),
            "{}: expected sessions in the log",
            identity.id
        );
    }
    Ok(())
}

/// A relay with a broker of its own would not hear the robots of the others.
fn whoever_has_another_broker_is_refused(lan: &mut Lan, site: &Site) -> Result<()> {
    let refused = Relay::start_with(RelayOptions {
        host: Some(lan.host(5)?),
        environment: vec![
            (
                "LEKIWI_RELAY_SHARED",
                site.files.path().join("shared").into(),
            ),
            ("LEKIWI_RELAY_STORE_POSTGRES", site.database.url().into()),
        ],
        ..RelayOptions::default()
    });
    let Err(error) = refused else {
        bail!("expected a relay with a broker of its own not to start on this database");
    };
    let said = format!("{error:#}");
    ensure!(
        said.contains("another relay works on"),
        "expected the reason, got {said}"
    );
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table of the run")]
async fn whatever_fails(lan: &mut Lan) -> Result<()> {
    let mut site = Site::start(lan).await?;
    let mut table = vec![
        "| fault | events come as ever after | events | nobody answered for | answers that may be old |".to_owned(),
        "|---|---|---|---|---|".to_owned(),
    ];
    for (seed, fault) in (1..).zip(FAULTS) {
        let row = site
            .survives(fault, seed)
            .await
            .with_context(|| format!("{fault:?}"))?;
        println!("{row}");
        table.push(row);
    }
    sessions_are_exact(&site.admin(0).await?, &site.identities).await?;
    whoever_has_another_broker_is_refused(lan, &site)?;
    println!("\n{}", table.join("\n"));
    Ok(())
}

#[test]
fn two_relays_survive_whatever_fails_between_them() -> Result<()> {
    let mut lan = Lan::new()?;
    let operator = lan.host(9)?;
    operator.inside(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(whatever_fails(&mut lan))
    })?
}
