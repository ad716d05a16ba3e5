//! `cargo xtask image`: boots customised cards in emulated boards, and waits until the relay on this machine lists
//! each as the robot it is. Judged from outside: by the relay's interface, and by what lies on the card afterwards.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use lekiwi_protocol::api::TokenRequest;
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Board, BoardOptions, HOST, Relay, RelayOptions, program, target};
use serde_json::Value;

/// Boot cards in an emulator and see them register.
#[derive(Parser)]
#[command(
    after_help = "Example:\n  cargo xtask image --profile lekiwi\n  cargo xtask image --profile lekiwi --cuts 10"
)]
struct Arguments {
    /// The base image.
    #[arg(long)]
    base: PathBuf,
    /// What the robot must turn out to be.
    #[arg(long, default_value = "lekiwi")]
    profile: String,
    /// Cut the power at so many random moments of a first boot, each on a fresh card.
    #[arg(long, default_value_t = 0)]
    cuts: u32,
    /// Keep cards and console logs here.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Seed of the random moments; printed, so that a run can be repeated.
    #[arg(long)]
    seed: Option<u64>,
}

/// An emulated first boot takes three minutes; a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(1_200);

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    let place = arguments
        .keep
        .clone()
        .unwrap_or_else(|| folder.path().to_owned());
    std::fs::create_dir_all(&place)?;
    let line = Line::start(&arguments, place).await?;
    line.first_and_second_boot().await?;
    if arguments.cuts > 0 {
        let seed = arguments
            .seed
            .unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
        line.power_cuts(arguments.cuts, seed).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A relay, and cards for it.
struct Line {
    relay: Relay,
    admin: Admin,
    base: PathBuf,
    profile: String,
    folder: PathBuf,
}

impl Line {
    async fn start(arguments: &Arguments, folder: PathBuf) -> Result<Self> {
        let relay = Relay::start_with(RelayOptions {
            arguments: vec![format!("--server-name={HOST}")],
            ..RelayOptions::default()
        })?;
        let admin =
            Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
        Ok(Self {
            relay,
            admin,
            base: arguments.base.clone(),
            profile: arguments.profile.clone(),
            folder,
        })
    }

    /// A fresh card for the robot `id`; answers it and the token it carries.
    async fn card(&self, id: &str) -> Result<(PathBuf, String)> {
        let request = TokenRequest {
            robot_id: Some(id.parse()?),
            ..TokenRequest::default()
        };
        let token = self.admin.token(&request).await?.token;
        let token_file = self.folder.join(format!("{id}.token"));
        std::fs::write(&token_file, &token)?;
        let card = self.folder.join(format!("{id}.img"));
        let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
        let https = port(self.relay.https()).context("an address has a port")?;
        let mqtt = port(self.relay.mqtt()).context("an address has a port")?;
        let made = Command::new(target("lekiwi-provisioner", "lekiwi-provisioner")?)
            .arg("customise")
            .arg(&self.base)
            .args(["--os", "debian", "--robot-id", id, "--force"])
            .args(["--profile", &self.profile])
            .arg(format!("--relay-https=https://{HOST}:{https}"))
            .arg(format!("--relay-mqtt=mqtts://{HOST}:{mqtt}"))
            .arg(format!("--ca-fingerprint={}", self.relay.ca_fingerprint()))
            .arg("--token-file")
            .arg(&token_file)
            .arg("--out")
            .arg(&card)
            .output()?;
        ensure!(
            made.status.success(),
            "customise: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        Ok((card, token))
    }

    fn board(&self, id: &str, card: PathBuf) -> Result<Board> {
        Board::power_on(BoardOptions {
            card,
            serial: serial(id),
            serial_ports: Vec::new(),
            folder: self.folder.join(id),
        })
    }

    async fn robot(&self, id: &str) -> Result<Option<Value>> {
        let answer = self
            .admin
            .get(&format!("/api/v1/robots/{id}"))
            .send()
            .await?;
        if answer.status().as_u16() == 404 {
            return Ok(None);
        }
        Ok(Some(answer.error_for_status()?.json().await?))
    }

    /// Waits until `fits`; answers the time since power-on.
    async fn wait(
        &self,
        id: &str,
        board: &mut Board,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let robot = self.robot(id).await?;
            if robot.as_ref().is_some_and(&fits) {
                return Ok(board.uptime());
            }
            if start.elapsed() > PATIENCE {
                bail!(
                    "expected {id} to be {what} within {PATIENCE:?}, it is {robot:?}\n{}",
                    last_lines(board)
                );
            }
            if board.is_off()? {
                bail!(
                    "expected {id} to be {what}, but the board went off\n{}",
                    last_lines(board)
                );
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn first_and_second_boot(&self) -> Result<()> {
        let id = "kiwi-01";
        let (card, token) = self.card(id).await?;
        let mut board = self.board(id, card.clone())?;
        let registered = self
            .wait(id, &mut board, "registered", |robot| {
                !robot["status"]["registered_at"].is_null()
            })
            .await?;
        say(&format!(
            "registered   {:>6.1} s after power-on",
            registered.as_secs_f64()
        ));
        let online = self
            .wait(id, &mut board, "online", |robot| {
                robot["status"]["online"] == true
            })
            .await?;
        say(&format!("online       {:>6.1} s", online.as_secs_f64()));
        let profile = self.profile.clone();
        let healthy = self
            .wait(id, &mut board, "healthy under its profile", |robot| {
                robot["type"] == profile.as_str() && robot["health"]["healthy"] == true
            })
            .await?;
        say(&format!("healthy      {:>6.1} s", healthy.as_secs_f64()));
        let scrubbed = self.wait_scrubbed(&card, &token, &mut board).await?;
        say(&format!("secrets gone {:>6.1} s", scrubbed.as_secs_f64()));
        let before = self.identity(id).await?;
        let options = board.cut_power()?;

        let mut board = Board::power_on(options)?;
        self.wait(id, &mut board, "offline before its second boot", |robot| {
            robot["status"]["online"] == false
        })
        .await?;
        let back = self
            .wait(id, &mut board, "online and healthy again", |robot| {
                robot["status"]["online"] == true && robot["health"]["healthy"] == true
            })
            .await?;
        say(&format!(
            "second boot  {:>6.1} s to online and healthy",
            back.as_secs_f64()
        ));
        let after = self.identity(id).await?;
        ensure!(
            before == after,
            "expected the second boot to keep the identity {before:?}, got {after:?}"
        );
        board.cut_power()?;
        self.key_stayed(&card)
    }

    /// The token's bytes are nowhere on the boot partition any more.
    async fn wait_scrubbed(&self, card: &Path, token: &str, board: &mut Board) -> Result<Duration> {
        let start = Instant::now();
        loop {
            if !boot_partition(card)?
                .windows(token.len())
                .any(|bytes| bytes == token.as_bytes())
            {
                return Ok(board.uptime());
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "expected the token to leave the boot partition within {PATIENCE:?}\n{}",
                last_lines(board)
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Uuid, and how often it was registered with which certificates.
    async fn identity(&self, id: &str) -> Result<(Value, Vec<Value>)> {
        let robot = self.robot(id).await?.context("expected the robot")?;
        let events = self.admin.events(&id.parse()?).await?;
        let registrations = events
            .into_iter()
            .filter(|event| event.kind == "robot.registered")
            .map(|event| event.data)
            .collect();
        Ok((robot["factsheet"]["uuid"].clone(), registrations))
    }

    /// The private key lies on the card's ext4 partition, readable by its owner alone, and nowhere in what the
    /// relay keeps.
    fn key_stayed(&self, card: &Path) -> Result<()> {
        let root = self.folder.join("root.img");
        let table = Command::new(program("sfdisk", "fdisk")?)
            .arg("--json")
            .arg(card)
            .output()?;
        let table: Value = serde_json::from_slice(&table.stdout)?;
        let start = table["partitiontable"]["partitions"][1]["start"]
            .as_u64()
            .context("expected a second partition")?;
        let copied = Command::new("dd")
            .arg(format!("if={}", card.display()))
            .arg(format!("of={}", root.display()))
            .args(["bs=1M", "conv=sparse", "iflag=skip_bytes"])
            .arg(format!("skip={}", start * 512))
            .output()?;
        ensure!(
            copied.status.success(),
            "dd: {}",
            String::from_utf8_lossy(&copied.stderr)
        );
        let replayed = Command::new(program("e2fsck", "e2fsprogs")?)
            .args(["-fy"])
            .arg(&root)
            .output()?;
        ensure!(
            replayed.status.code().is_some_and(|code| code <= 1),
            "expected a sound root partition: {}",
            String::from_utf8_lossy(&replayed.stdout)
        );
        let key = Command::new(program("debugfs", "e2fsprogs")?)
            .args(["-R", "cat /opt/lekiwi-agent/state/key.pem"])
            .arg(&root)
            .output()?;
        let key = String::from_utf8(key.stdout)?;
        ensure!(
            key.starts_with("-----BEGIN PRIVATE KEY-----"),
            "expected the robot's key on its card, got {key:?}"
        );
        let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
        for entry in std::fs::read_dir(self.relay.data())? {
            let path = entry?.path();
            if path.is_file() {
                let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
                ensure!(
                    !text.contains(&body),
                    "the robot's key lies in {}",
                    path.display()
                );
            }
        }
        say("the key is on the card only");
        Ok(())
    }

    /// Each cut on a fresh card and a fresh robot; the next boot must end in a registered one.
    async fn power_cuts(&self, cuts: u32, seed: u64) -> Result<()> {
        say(&format!("seed {seed}"));
        let mut random = seed | 1;
        for cut in 0..cuts {
            // xorshift64: moments need no better randomness.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let moment = Duration::from_millis(2_000 + random % 220_000);
            let id = format!("cut-{cut:02}");
            let (card, _) = self.card(&id).await?;
            let mut board = self.board(&id, card)?;
            while board.uptime() < moment && !board.is_off()? {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let was_registered = self.robot(&id).await?.is_some();
            let mut board = Board::power_on(board.cut_power()?)?;
            let back = self
                .wait(
                    &id,
                    &mut board,
                    "registered and online after a power cut",
                    |robot| {
                        robot["status"]["online"] == true
                            && !robot["status"]["registered_at"].is_null()
                    },
                )
                .await?;
            say(&format!(
                "cut {cut:>2} after {:>5.1} s ({}): online {:>6.1} s after the next power-on",
                moment.as_secs_f64(),
                if was_registered {
                    "registered"
                } else {
                    "not registered"
                },
                back.as_secs_f64()
            ));
            let options = board.cut_power()?;
            std::fs::remove_file(options.card)?;
        }
        Ok(())
    }
}

/// The end of a board's console.
fn last_lines(board: &Board) -> String {
    let console = board.console();
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(80)..].join("\n")
}

/// 16 hex digits that are the robot's own.
fn serial(id: &str) -> String {
    let digest = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{digest:016x}")
}

/// The bytes of a card's first partition.
fn boot_partition(card: &Path) -> Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(card)?;
    file.seek(SeekFrom::Start(8 << 20))?;
    let mut bytes = Vec::new();
    file.take(384 << 20).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[expect(clippy::print_stdout, reason = "a tool's report")]
fn say(text: &str) {
    println!("{text}");
}
