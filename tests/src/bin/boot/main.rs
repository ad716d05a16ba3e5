//! `cargo xtask image`: boots customised cards in emulated boards, and waits until the relay on this machine lists
//! each as the robot it is. Judged from outside: by the relay's interface, and by what lies on the card afterwards.
//!
//! A `lekiwi` is told so by its seed. An `xle` finds it out: from two servo buses on emulated serial ports, and from
//! the USB devices of a recorded robot; its seed has a token for any robot and names nobody.

mod cuts;
mod living;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use lekiwi_protocol::api::TokenRequest;
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::card::{self, Planted};
use lekiwi_tests::harness::{
    Board, BoardOptions, HOST, Relay, RelayOptions, ServoBus, Shell, target,
};
use serde_json::Value;

use living::Living;

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
    #[arg(long, value_enum, default_value = "lekiwi")]
    profile: Kind,
    /// Cut the power at so many random moments of a first boot, each on a fresh card.
    #[arg(long, default_value_t = 0)]
    cuts: u32,
    /// Boards that are cut off at the same time.
    #[arg(long, default_value_t = 2)]
    at_once: usize,
    /// Judge a `lekiwi` that runs: its clock years off, and driven by its own keys.
    #[arg(long)]
    living: bool,
    /// Write its factsheet and state here, as they come from it; only with `--living`.
    #[arg(long, requires = "living")]
    capture: Option<PathBuf>,
    /// Keep cards and console logs here.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Seed of the random moments; printed, so that a run can be repeated.
    #[arg(long)]
    seed: Option<u64>,
}

/// An emulated first boot takes three minutes; a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(1_200);

/// A type of robot that can be emulated.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Lekiwi,
    Xle,
}

impl Kind {
    fn profile(self) -> &'static str {
        match self {
            Kind::Lekiwi => "lekiwi",
            Kind::Xle => "xle",
        }
    }

    /// Ids of the servos on each of its buses that the board finds.
    fn buses(self) -> &'static [&'static [u8]] {
        match self {
            Kind::Lekiwi => &[],
            Kind::Xle => &[&[1, 2, 3, 4, 5, 6, 7, 8, 9], &[1, 2, 3, 4, 5, 6, 7, 8]],
        }
    }
}

/// An XLeRobot's `/proc` and `/sys`.
const RECORDED: &str = include_str!("../../../../agent/tests/hardware/trees/xle.tree");
/// Where they are laid in the guest.
const RECORDED_ROOT: &str = "/opt/recorded";
/// In place of LeRobot, which is too heavy to emulate: a service that listens where its host does.
const STAND_IN: &str = r#"
        [Unit]
        Description=Stands in for the LeRobot host

        [Service]
        DynamicUser=true
        ExecStart=/usr/bin/python3 -c 'import socketserver as s, threading; [threading.Thread(target=s.TCPServer(("127.0.0.1", p), s.BaseRequestHandler).serve_forever).start() for p in (5555, 5556)]'
        Restart=always

        [Install]
        WantedBy=multi-user.target
"#;

/// Who is on a card.
enum Named<'a> {
    /// This robot, of this profile.
    Given(&'a str),
    /// Whoever boots it, so many times.
    Anybody(u32),
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(
        !arguments.living || arguments.profile == Kind::Lekiwi,
        "expected --living with --profile lekiwi, whose serial ports are free"
    );
    let folder = tempfile::tempdir()?;
    let place = arguments
        .keep
        .clone()
        .unwrap_or_else(|| folder.path().to_owned());
    std::fs::create_dir_all(&place)?;
    let line = Line::start(&arguments, place).await?;
    let first_boot = match line.kind {
        Kind::Lekiwi => {
            let (card, token) = line.card("kiwi-01", &Named::Given("kiwi-01")).await?;
            line.first_and_second_boot("kiwi-01", card, &token, &arguments)
                .await?
        }
        Kind::Xle => {
            let (card, token) = line.card("anybody", &Named::Anybody(2)).await?;
            let copies = [line.copy(&card, "second")?, line.copy(&card, "third")?];
            let id = format!("robot-{}", &serial("first")[8..]);
            let first_boot = line
                .first_and_second_boot(&id, card, &token, &arguments)
                .await?;
            line.one_of_two(copies).await?;
            first_boot
        }
    };
    if arguments.cuts > 0 {
        let seed = arguments
            .seed
            .unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
        line.power_cuts(arguments.cuts, seed, arguments.at_once, first_boot)
            .await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A relay, and cards for it.
struct Line {
    relay: Relay,
    admin: Admin,
    base: PathBuf,
    kind: Kind,
    living: bool,
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
            kind: arguments.profile,
            living: arguments.living,
            folder,
        })
    }

    /// A fresh card; answers it and the token it carries.
    async fn card(&self, name: &str, named: &Named<'_>) -> Result<(PathBuf, String)> {
        let mut request = TokenRequest::default();
        match named {
            Named::Given(id) => request.robot_id = Some(id.parse()?),
            Named::Anybody(times) => request.max_uses = Some(*times),
        }
        let token = self.admin.token(&request).await?.token;
        let token_file = self.folder.join(format!("{name}.token"));
        std::fs::write(&token_file, &token)?;
        let card = self.folder.join(format!("{name}.img"));
        let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
        let https = port(self.relay.https()).context("an address has a port")?;
        let mqtt = port(self.relay.mqtt()).context("an address has a port")?;
        let mut customise = Command::new(target("lekiwi-provisioner", "lekiwi-provisioner")?);
        customise
            .arg("customise")
            .arg(&self.base)
            .args(["--os", "debian", "--force", "--card-files"])
            .arg(self.stand_ins()?)
            .arg(format!("--relay-https=https://{HOST}:{https}"))
            .arg(format!("--relay-mqtt=mqtts://{HOST}:{mqtt}"))
            .arg(format!("--ca-fingerprint={}", self.relay.ca_fingerprint()))
            .arg("--token-file")
            .arg(&token_file)
            .arg("--out")
            .arg(&card);
        if let Named::Given(id) = named {
            customise.args(["--robot-id", id, "--profile", self.kind.profile()]);
        }
        let made = customise.output()?;
        ensure!(
            made.status.success(),
            "customise: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        if self.living && matches!(named, Named::Given("kiwi-01")) {
            card::plant(&card, &self.folder, &living::planted())?;
        }
        if self.kind == Kind::Xle {
            card::plant(&card, &self.folder, &recorded_robot())?;
        }
        Ok((card, token))
    }

    /// The folder with the profiles whose software is stood in for.
    fn stand_ins(&self) -> Result<PathBuf> {
        let folder = self.folder.join("card");
        std::fs::create_dir_all(folder.join("profiles"))?;
        for (name, text, service) in [
            (
                "lekiwi",
                include_str!("../../../../image/profiles/lekiwi.yml"),
                "lekiwi-host.service",
            ),
            (
                "xle",
                include_str!("../../../../image/profiles/xle.yml"),
                "xle-host.service",
            ),
        ] {
            let (before, rest) = text.split_once("software:\n").context("its software")?;
            let (_, after) = rest.split_once("\nservices:").context("its services")?;
            // Nothing on a LeKiwi drives by its own keys, so that its profile does not look at them; the emulated
            // board has no other way to be driven.
            let after = if after.contains("local_input: true") {
                after.to_owned()
            } else {
                after.replace("\nteleop:\n", "\nteleop:\n  local_input: true\n")
            };
            let stand_in = format!(
                "{before}software:\n  units:\n    - name: {service}\n      content: |{STAND_IN}services:{after}"
            );
            std::fs::write(folder.join(format!("profiles/{name}.yml")), stand_in)?;
        }
        Ok(folder)
    }

    fn copy(&self, card: &Path, name: &str) -> Result<PathBuf> {
        let copy = self.folder.join(format!("{name}.img"));
        let copied = Command::new("cp")
            .arg("--sparse=always")
            .args([card, &copy])
            .status()?;
        ensure!(copied.success(), "expected to copy {}", card.display());
        Ok(copy)
    }

    fn board(&self, name: &str, card: PathBuf, cores: u32, shell: Option<&Shell>) -> Result<Board> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let buses = self.kind.buses().iter().enumerate();
        let mut serial_ports = buses
            .map(|(number, ids)| {
                let bus = ServoBus::listen(&folder.join(format!("bus{number}")), ids)?;
                Ok(bus.path().to_owned())
            })
            .collect::<Result<Vec<_>>>()?;
        serial_ports.extend(shell.map(|shell| shell.path().to_owned()));
        Board::power_on(BoardOptions {
            card,
            serial: serial(name),
            cores,
            serial_ports,
            folder,
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

    /// Answers how long the first boot took, to its very end.
    async fn first_and_second_boot(
        &self,
        id: &str,
        card: PathBuf,
        token: &str,
        arguments: &Arguments,
    ) -> Result<Duration> {
        let mut shell = arguments
            .living
            .then(|| Shell::listen(&self.folder.join("shell")))
            .transpose()?;
        let mut board = self.board("first", card.clone(), 2, shell.as_ref())?;
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
        let healthy = self
            .wait(id, &mut board, "healthy under its profile", |robot| {
                robot["type"] == self.kind.profile() && robot["health"]["healthy"] == true
            })
            .await?;
        say(&format!("healthy      {:>6.1} s", healthy.as_secs_f64()));
        let scrubbed = self.wait_scrubbed(&card, token, &mut board).await?;
        say(&format!("secrets gone {:>6.1} s", scrubbed.as_secs_f64()));
        if let Some(shell) = &mut shell {
            let living = Living {
                id,
                relay: &self.relay,
                admin: &self.admin,
                shell,
            };
            living
                .judge(arguments.capture.as_deref())
                .await
                .with_context(|| last_lines(&board))?;
        }
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
        self.key_stayed(&card)?;
        Ok(scrubbed)
    }

    /// The token's bytes are nowhere on the boot partition any more.
    async fn wait_scrubbed(&self, card: &Path, token: &str, board: &mut Board) -> Result<Duration> {
        let start = Instant::now();
        loop {
            if !card::boot_partition(card)?
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

    /// The private key lies on the card's ext4 partition, and nowhere in what the relay keeps.
    fn key_stayed(&self, card: &Path) -> Result<()> {
        let key = card::read_root(
            card,
            &self.folder.join("root.img"),
            "/opt/lekiwi-agent/state/key.pem",
        )?;
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

    /// Two boards with the same card and a token that is good for one of them: one becomes a robot of its own name,
    /// the other is refused.
    async fn one_of_two(&self, cards: [PathBuf; 2]) -> Result<()> {
        let [second, third] = cards;
        let mut boards = [
            ("second", self.board("second", second, 1, None)?),
            ("third", self.board("third", third, 1, None)?),
        ];
        let start = Instant::now();
        let (mut registered, mut refused) = (BTreeSet::new(), BTreeSet::new());
        while registered.len() + refused.len() < boards.len() {
            for (name, board) in &mut boards {
                let id = format!("robot-{}", &serial(name)[8..]);
                if self.robot(&id).await?.is_some() {
                    registered.insert(id);
                } else if board
                    .console()
                    .contains("the token was used by 2 other keys")
                {
                    refused.insert(id);
                }
                ensure!(
                    start.elapsed() < PATIENCE && !board.is_off()?,
                    "expected one of two boards to be registered and one to be refused within {PATIENCE:?}, got \
                     {registered:?} and {refused:?}\n{}",
                    last_lines(board)
                );
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        ensure!(
            registered.len() == 1,
            "expected one of two boards to be registered, got {registered:?}"
        );
        say(&format!(
            "the same card again: {registered:?} is a robot of its own, {refused:?} is refused"
        ));
        for (_, board) in boards {
            std::fs::remove_file(board.cut_power()?.card)?;
        }
        Ok(())
    }
}

/// The recorded tree as files and links of the guest, its servo adapters being the emulated serial ports, and the
/// board the emulated one; the agent is told to look there.
fn recorded_robot() -> Vec<(String, Planted)> {
    let lines = RECORDED
        .lines()
        .filter(|line| line.starts_with("sys/") && !line.contains("ttyAMA"));
    let below = |path: &str| format!("{RECORDED_ROOT}/{path}");
    let mut things: Vec<(String, Planted)> = lines
        .filter_map(|line| match line.split_once(" -> ") {
            Some((path, target)) => Some((below(path), Planted::Link(target.to_owned()))),
            None => line
                .split_once(" = ")
                .map(|(path, content)| (below(path), Planted::File(format!("{content}\n")))),
        })
        .collect();
    for (path, target) in [
        ("dev/ttyACM0", "/dev/ttyS0"),
        ("dev/ttyUSB0", "/dev/ttyS1"),
        ("proc", "/proc"),
    ] {
        things.push((below(path), Planted::Link(target.to_owned())));
    }
    things.push((
        "/etc/systemd/system/lekiwi-agent.service.d/recorded.conf".to_owned(),
        Planted::File(format!(
            "[Service]\nEnvironment=LEKIWI_HARDWARE_ROOT={RECORDED_ROOT}\n"
        )),
    ));
    things
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

#[expect(clippy::print_stdout, reason = "a tool's report")]
fn say(text: &str) {
    println!("{text}");
}
