//! `cargo xtask soak`: relay, agents and simulated robots are killed with SIGKILL at random while numbered
//! events flow; afterwards the event log must hold each event exactly once, without a hole by (stream, seq).
//!
//! Two witnesses say what was emitted: each robot's own outbox, and a plain file beside it that got a line
//! after every append. The relay's log is read over its REST interface.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use lekiwi_agent::outbox::{Limit, Outbox};
use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::TokenRequest;
use lekiwi_tests::fleet::{self, Admin};
use lekiwi_tests::harness::{Agent, Fleet, Relay};

/// Kill -9 of relay, agent and both at random while events flow.
#[derive(Parser)]
#[command(after_help = "Example:\n  cargo xtask soak --minutes 5 --robots 50")]
struct Arguments {
    /// How long to go on killing.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Simulated robots, spread over four processes that are killed too.
    #[arg(long, default_value_t = 48)]
    robots: usize,
    /// Real agents beside them.
    #[arg(long, default_value_t = 2)]
    agents: usize,
    /// Milliseconds between two events of one simulated robot.
    #[arg(long, default_value_t = 500)]
    events_every_ms: u64,
    /// Seed of the random order of kills; printed, so that a run can be repeated.
    #[arg(long)]
    seed: Option<u64>,
}

const PROCESSES: usize = 4;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let seed = arguments
        .seed
        .unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
    say(&format!("seed {seed}"));
    let mut soak = Soak::start(&arguments, seed).await?;
    soak.chaos(Duration::from_secs_f64(arguments.minutes * 60.0))
        .await?;
    soak.settle().await?;
    let report = soak.verify().await?;
    say(&report.to_string());
    Ok(if report.is_exact() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Soak {
    folder: tempfile::TempDir,
    relay: Relay,
    slices: Vec<Fleet>,
    agents: Vec<Agent>,
    robots: Vec<RobotId>,
    random: Random,
    kills: BTreeMap<&'static str, u32>,
}

impl Soak {
    async fn start(arguments: &Arguments, seed: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let relay = Relay::start()?;
        let admin =
            Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
        let fleet_folder = folder.path().join("fleet");
        say(&format!("enrolling {} robots", arguments.robots));
        let identities = fleet::enrol_all(&admin, &fleet_folder, "sim", arguments.robots).await?;
        let robots = identities
            .iter()
            .map(|identity| identity.id.clone())
            .collect();
        let per_slice = arguments.robots.div_ceil(PROCESSES);
        let slices = (0..PROCESSES)
            .map(|slice| {
                let first = slice * per_slice;
                let count = per_slice.min(arguments.robots.saturating_sub(first));
                Fleet::start(
                    &relay,
                    &fleet_folder,
                    &[
                        format!("--first={first}"),
                        format!("--robots={count}"),
                        format!("--events-every-ms={}", arguments.events_every_ms),
                        "--heartbeat-s=5".to_owned(),
                        "--telemetry-every-ms=1000".to_owned(),
                    ],
                )
            })
            .collect::<Result<_>>()?;
        let mut agents = Vec::new();
        for number in 0..arguments.agents {
            let token = admin.token(&TokenRequest::default()).await?.token;
            agents.push(Agent::start(&relay, &format!("agent-{number}"), &token)?);
        }
        Ok(Self {
            folder,
            relay,
            slices,
            agents,
            robots,
            random: Random(seed | 1),
            kills: BTreeMap::new(),
        })
    }

    /// Kills one thing, some things or everything, waits a moment, starts it again; until the time is over.
    async fn chaos(&mut self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(1_000 + self.random.below(6_000))).await;
            let (relay, robots) = match self.random.below(3) {
                0 => (true, false),
                1 => (false, true),
                _ => (true, true),
            };
            let slice = usize::try_from(self.random.below(self.slices.len() as u64))?;
            let agent = usize::try_from(self.random.below(self.agents.len().max(1) as u64))?;
            if relay {
                self.relay.kill()?;
                *self.kills.entry("relay").or_default() += 1;
            }
            if robots {
                if let Some(slice) = self.slices.get_mut(slice) {
                    slice.kill()?;
                    *self.kills.entry("robots").or_default() += 1;
                }
                if let Some(agent) = self.agents.get_mut(agent) {
                    agent.kill()?;
                    *self.kills.entry("agent").or_default() += 1;
                }
            }
            tokio::time::sleep(Duration::from_millis(self.random.below(3_000))).await;
            if relay {
                self.relay.restart()?;
            }
            if robots {
                if let Some(slice) = self.slices.get_mut(slice) {
                    slice.restart()?;
                }
                if let Some(agent) = self.agents.get_mut(agent) {
                    agent.restart()?;
                }
            }
            let left = end.saturating_duration_since(Instant::now()).as_secs();
            say(&format!(
                "{left:>4} s left, killed so far: {:?}",
                self.kills
            ));
        }
        Ok(())
    }

    /// Stops emitting, waits until every simulated robot's outbox is empty, and stops the agents.
    async fn settle(&mut self) -> Result<()> {
        say("no more events; waiting until every outbox is empty");
        for slice in &mut self.slices {
            slice.stop()?;
            slice.drain()?;
        }
        // What an agent says while it stops may still wait in its outbox: see `Emitted`.
        tokio::time::sleep(Duration::from_secs(5)).await;
        for agent in &mut self.agents {
            agent.process().stop()?;
        }
        Ok(())
    }

    fn outboxes(&self) -> Vec<(RobotId, PathBuf)> {
        let fleet = self.folder.path().join("fleet");
        let simulated = self
            .robots
            .iter()
            .map(|id| (id.clone(), fleet.join(id.as_str()).join("agent.db")));
        let real = self
            .agents
            .iter()
            .map(|agent| (agent.id().clone(), agent.state_dir().join("agent.db")));
        simulated.chain(real).collect()
    }

    async fn verify(&self) -> Result<Report> {
        let admin = Admin::login(
            self.relay.https(),
            self.relay.ca_pem(),
            &self.relay.admin_password_file(),
        )
        .await?;
        let mut report = Report::default();
        for (robot, outbox) in self.outboxes() {
            let emitted = Emitted::read(&outbox)?;
            let mut logged: BTreeMap<_, Vec<u64>> = BTreeMap::new();
            for event in admin.events(&robot).await? {
                if event.source == robot.as_str() {
                    logged.entry(event.stream).or_default().push(event.seq);
                }
            }
            report.robots += 1;
            // No disk was damaged, so a robot has the one stream; what is in another was made up.
            let seqs = logged.remove(&emitted.stream).unwrap_or_default();
            report.invented += logged.values().map(|seqs| seqs.len() as u64).sum::<u64>();
            let distinct: BTreeSet<u64> = seqs.iter().copied().collect();
            let expected: BTreeSet<u64> = (1..=emitted.last)
                .filter(|seq| !emitted.waiting.contains(seq) || distinct.contains(seq))
                .collect();
            report.emitted += expected.len() as u64;
            report.logged += seqs.len() as u64;
            report.doubled += (seqs.len() - distinct.len()) as u64;
            report.holes += expected.difference(&distinct).count() as u64;
            report.invented += distinct.difference(&expected).count() as u64;
            if emitted.witnessed > emitted.last {
                report.holes += emitted.witnessed - emitted.last;
            }
        }
        report.kills = self.kills.values().sum();
        Ok(report)
    }
}

/// What a robot emitted, by its outbox and by the file beside it.
struct Emitted {
    stream: uuid::Uuid,
    last: u64,
    /// Not acknowledged yet, hence not to be expected in the log.
    waiting: BTreeSet<u64>,
    witnessed: u64,
}

impl Emitted {
    fn read(path: &Path) -> Result<Self> {
        let outbox = Outbox::open(path, std::time::SystemTime::now().into());
        ensure!(
            outbox.is_durable(),
            "expected a readable outbox at {}: {:?}",
            path.display(),
            outbox.trouble()
        );
        let journal = std::fs::read_to_string(path.with_file_name("emitted")).unwrap_or_default();
        Ok(Self {
            stream: outbox.stream(),
            last: outbox.last_seq(),
            waiting: outbox
                .pending(Limit::default())
                .into_iter()
                .flat_map(|batch| batch.events)
                .map(|event| event.seq)
                .collect(),
            witnessed: journal
                .lines()
                .filter_map(|line| line.parse().ok())
                .max()
                .unwrap_or(0),
        })
    }
}

#[derive(Default)]
struct Report {
    kills: u32,
    robots: usize,
    emitted: u64,
    logged: u64,
    holes: u64,
    doubled: u64,
    invented: u64,
}

impl Report {
    fn is_exact(&self) -> bool {
        self.emitted > 0
            && self.emitted == self.logged
            && self.holes + self.doubled + self.invented == 0
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {} kills, {} robots, {} events emitted, {} in the log, {} holes, {} doubled, {} never emitted",
            if self.is_exact() {
                "exact"
            } else {
                "NOT EXACT"
            },
            self.kills,
            self.robots,
            self.emitted,
            self.logged,
            self.holes,
            self.doubled,
            self.invented,
        )
    }
}

/// A small generator whose runs can be repeated by their seed (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit.max(1)
    }
}

#[expect(clippy::print_stderr, reason = "a program for people")]
fn say(line: &str) {
    eprintln!("soak: {line}");
}
