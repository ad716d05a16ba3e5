//! The command line's shape. Every command says what it does and shows an example.

pub(crate) mod alerts;
pub(crate) mod audit;
pub(crate) mod bans;
pub(crate) mod identities;
pub(crate) mod keys;
mod parse;
pub(crate) mod people;
mod telemetry;
pub(crate) mod trust;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use lekiwi_protocol::discovery::network::Network;
use lekiwi_protocol::message::Op;
use lekiwi_protocol::{ConsumerName, RobotId, Timestamp};
use serde_json::Value;
use uuid::Uuid;

pub(crate) use self::telemetry::Telemetry;
use crate::trust::Fingerprint;

const ENVIRONMENT: &str = "\
Environment:
  LEKIWI_URL             the relay, instead of the one logged in to
  LEKIWI_TOKEN           a session token, instead of the stored one
  LEKIWI_KEY             an API key instead of a session; @FILE for the one in a file
  LEKIWI_CA_FINGERPRINT  fingerprint of the relay's authority, instead of the stored one
  NO_COLOR               no colours

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not logged in, 4 not found,
5 relay not trusted, 69 relay not reached";

/// Operate a fleet of robots through its Lekiwi relay.
#[derive(Debug, Parser)]
#[command(name = "lekiwi", version, after_help = ENVIRONMENT, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Log in to a relay; its authority is pinned by fingerprint
    #[command(after_help = "Examples:
  lekiwi login https://relay.example:8443
  lekiwi login https://relay.example:8443 --ca-fingerprint sha256:… --password-file - < password
  lekiwi login https://relay.example:8443 --key-file key")]
    Login(Login),
    /// End the session and forget it
    Logout,
    /// List all robots, as they are or as they were
    #[command(after_help = "Examples:
  lekiwi robots --json | jq '.robots[] | select(.status.online) | .id'
  lekiwi robots --at 2026-11-21T03:52:00Z

What the past shows of registration, configuration and presence is exact; what robots measured is as of the last
picture that the relay kept before, at most an hour older while they were connected (as_of in --json).")]
    Robots(Robots),
    /// Show one robot
    #[command(after_help = "Example:\n  lekiwi robot kiwi-01")]
    Robot(OneRobot),
    /// Let a robot out of quarantine; takes effect at once
    #[command(after_help = "Example:\n  lekiwi approve kiwi-01 --profile lekiwi")]
    Approve(Approve),
    /// Turn a robot away: revoke its certificate and end its session
    #[command(after_help = "Example:\n  lekiwi reject kiwi-01

It comes back only by a token of its own: lekiwi token create --robot kiwi-01")]
    Reject(OneRobot),
    /// Tell a robot to do something
    #[command(
        name = "command",
        after_help = "Examples:
  lekiwi command kiwi-01 ping --wait
  lekiwi command kiwi-01 restart_service unit=lekiwi-host.service --wait
  lekiwi command kiwi-01 run_action action=wave times=3 --expires 1h
  lekiwi command kiwi-01 reboot

Operations: ping, full_state, restart_service (unit), reboot, shutdown, run_action (action, and the action's own),
collect_logs (unit, since, until, max_bytes; `lekiwi logs` fetches them as well), list_packages,
renew_identity (`lekiwi identity rotate` asks many).
A value is a number, true, false, or a text; '\"3\"' is a text."
    )]
    Send(SendCommand),
    /// List the newest commands of a robot
    #[command(after_help = "Example:\n  lekiwi commands kiwi-01 --limit 5")]
    Commands(Commands),
    /// Fetch a part of a robot's journal
    #[command(after_help = "Examples:
  lekiwi logs kiwi-01
  lekiwi logs kiwi-01 --unit lekiwi-host.service --unit lekiwi-agent.service --since 2h --until 30m
  lekiwi logs kiwi-01 --since 2026-11-21T03:52:00Z --max-size 16MiB -o night.log.gz
  lekiwi logs kiwi-01 -o - | zcat | less

What does not fit is the oldest. The relay keeps what came for a while: GET /api/v1/robots/ID/logs lists it.")]
    Logs(Logs),
    /// List a robot's installed packages; the robot is asked where the relay has an old list
    #[command(after_help = "Example:\n  lekiwi packages kiwi-01")]
    Packages(OneRobot),
    /// Change a robot's configuration from afar
    #[command(subcommand)]
    Config(Config),
    /// Say who may sign configurations and software, and sign and check them: offline, without a relay
    #[command(subcommand)]
    Trust(trust::Trust),
    /// Stop a robot at once, or all of them
    #[command(
        after_help = "Examples:\n  lekiwi estop kiwi-01\n  lekiwi estop --all --yes

The stop action of the robot's profile begins, and programs on the robot that subscribed to control are told."
    )]
    Estop(Estop),
    /// Show the newest events of a robot
    #[command(after_help = "Example:\n  lekiwi events kiwi-01 --limit 20")]
    Events(Events),
    /// Show metrics of a robot over time
    #[command(after_help = telemetry::EXAMPLES)]
    Telemetry(Telemetry),
    /// What is wrong, by which rules, and who looks after it
    #[command(subcommand)]
    Alerts(alerts::Alerts),
    /// Follow what robots say, live
    #[command(after_help = "Examples:\n  lekiwi watch\n  lekiwi watch kiwi-01 --json")]
    Watch(Watch),
    /// Find robots on this machine's networks, registered or not
    #[command(after_help = "Examples:
  lekiwi discover
  lekiwi discover --scan 192.168.1.0/24
  lekiwi discover --json | jq '.robots[] | select(.registered == false) | .id'")]
    Discover(Discover),
    /// Make, list and revoke enrolment tokens
    #[command(subcommand)]
    Token(Token),
    /// Who did what, and whether that is all of it
    Audit(audit::Audit),
    /// Who is not let in for a while, and let them in again
    Bans(bans::Bans),
    /// List, renew and revoke certificates of robots and programs
    #[command(subcommand)]
    Identity(identities::Identity),
    /// Make read-only broker certificates
    #[command(subcommand)]
    Consumer(Consumer),
    /// Who may log in, and what they may
    People(people::People),
    /// Groups of robots, for roles on them
    Groups(people::Groups),
    /// Lend a robot to somebody for a while, or take it back
    Lend(people::Lend),
    /// Keys of programs
    Keys(keys::Keys),
    /// Let somebody choose a password and log in, by a link
    Invite(people::Invite),
    /// Choose a password by the link of an invitation, and log in
    Join(people::Join),
    /// Who you are to the relay, your password, second factor and sessions
    Me(people::Me),
    /// Print a completion script
    #[command(
        after_help = "Example:\n  lekiwi completions bash > ~/.local/share/bash-completion/completions/lekiwi"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Json {
    /// Print JSON, as the relay's interface has it
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// Address of the relay, such as <https://relay.example:8443>
    pub(crate) url: String,
    /// User name
    #[arg(long, default_value = "admin")]
    pub(crate) user: String,
    /// Read the password from this file's first line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Show the API key in this file's first line instead of a password; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user", "password_file"])]
    pub(crate) key_file: Option<PathBuf>,
    /// What the authenticator shows now, or a recovery code; asked for where it is needed and absent
    #[arg(long, value_name = "CODE")]
    pub(crate) code: Option<String>,
    /// Fingerprint of the relay's authority, `sha256:…`; asked for when absent
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) ca_fingerprint: Option<Fingerprint>,
}

#[derive(Debug, Args)]
pub(crate) struct Robots {
    /// As they were at this time, in UTC, such as 2026-11-21T03:52:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<Timestamp>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct OneRobot {
    /// The robot
    pub(crate) id: RobotId,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Approve {
    /// The robot
    pub(crate) id: RobotId,
    /// Take it as this hardware profile, whatever it says
    #[arg(long)]
    pub(crate) profile: Option<String>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct SendCommand {
    /// The robot
    pub(crate) id: RobotId,
    /// What to do
    pub(crate) op: Op,
    /// With what
    #[arg(value_name = "KEY=VALUE", value_parser = parse::argument)]
    pub(crate) arguments: Vec<(String, Value)>,
    /// Wait for its end, and fail where it does; Ctrl-C stops the waiting only
    #[arg(long)]
    pub(crate) wait: bool,
    /// Within which time the robot must have accepted it, such as 10s or 1h; the relay's default is 60s
    #[arg(long, value_name = "TIME", value_parser = parse::expiry)]
    pub(crate) expires: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Commands {
    /// The robot
    pub(crate) id: RobotId,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) limit: u16,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The robot
    pub(crate) id: RobotId,
    /// Only of this unit; may be said several times
    #[arg(long = "unit", value_name = "UNIT", value_parser = parse::unit)]
    pub(crate) units: Vec<String>,
    /// From then on: a UTC time, or a time before now such as 90s, 30m, 2h or 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse::moment)]
    pub(crate) since: String,
    /// Until then; until now when absent
    #[arg(long, value_name = "TIME", value_parser = parse::moment)]
    pub(crate) until: Option<String>,
    /// Most bytes, compressed, such as 512KiB
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = parse::size)]
    pub(crate) max_size: u64,
    /// Where to; `-` is standard output. ID-TIME.log.gz when absent
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print the command as JSON, as the relay's interface has it
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Show what is wanted, and what the robot has
    #[command(after_help = "Example:\n  lekiwi config get kiwi-01")]
    Get(OneRobot),
    /// Want other settings, over those of the robot's own file; without a file, only these keys change
    #[command(after_help = "Examples:
  lekiwi config set kiwi-01 telemetry.sample_s=5 telemetry.metrics.cpu_percent.deadband=2 --wait
  lekiwi config set kiwi-01 log=            (takes a key away)
  lekiwi config set kiwi-01 --file settings.yml
  lekiwi config set kiwi-01 --signed kiwi-01.7.json --trust trust.json --wait

Keys are those of agent.yml: heartbeat_s, log, telemetry.sample_s, telemetry.metrics.NAME.…, traces.sample
The robot tries them, and goes back where the relay cannot confirm in time that it heard of that.")]
    Set(ConfigSet),
    /// Want the settings of an earlier version again
    #[command(after_help = "Examples:
  lekiwi config rollback kiwi-01 --wait     the newest one before that the robot applied
  lekiwi config rollback kiwi-01 --to 0     the robot's own file alone")]
    Rollback(ConfigRollback),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigSet {
    /// The robot
    pub(crate) id: RobotId,
    /// Which key, and its value; none takes the key away
    #[arg(value_name = "KEY=VALUE", value_parser = parse::setting, required_unless_present_any = ["file", "signed"])]
    pub(crate) settings: Vec<(String, Value)>,
    /// All settings, as YAML: what is not in it is not wanted any more
    #[arg(long, value_name = "FILE", conflicts_with = "settings")]
    pub(crate) file: Option<PathBuf>,
    /// A configuration of `lekiwi trust configuration`: for robots that take nothing else than what was signed
    #[arg(long, value_name = "FILE", requires = "trust", conflicts_with_all = ["settings", "file"])]
    pub(crate) signed: Option<PathBuf>,
    /// The trust file by whose roots it was signed
    #[arg(long, value_name = "FILE", requires = "signed")]
    pub(crate) trust: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) signatures: trust::Signatures,
    /// How long the robot tries them for without confirmation, such as 30s or 5min; the relay's default is 60s
    #[arg(long, value_name = "TIME", value_parser = parse::confirm_within)]
    pub(crate) confirm_within: Option<Duration>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigRollback {
    /// The robot
    pub(crate) id: RobotId,
    /// Which version; 0 is the robot's own file alone
    #[arg(long, value_name = "VERSION")]
    pub(crate) to: Option<u64>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Wait until the robot has applied it, and fail where it does not; Ctrl-C stops the waiting only
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Estop {
    /// The robot
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) id: Option<RobotId>,
    /// Every robot that is connected
    #[arg(long)]
    pub(crate) all: bool,
    /// Do not ask before all are stopped
    #[arg(long, requires = "all")]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// The robot
    pub(crate) id: RobotId,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Only this robot
    pub(crate) id: Option<RobotId>,
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Discover {
    /// How long to listen
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=300))]
    pub(crate) seconds: u16,
    /// Ask each address of this network as well, such as 192.168.1.0/24
    #[arg(long, value_name = "NETWORK")]
    pub(crate) scan: Option<Network>,
    /// Even if the network has more than 4096 addresses
    #[arg(long, requires = "scan")]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make an enrolment token; it is good for one robot, or --max-uses, and shown once
    #[command(
        after_help = "Example:\n  lekiwi token create --profile lekiwi --robot kiwi-01 --lifetime 2h"
    )]
    Create(TokenCreate),
    /// List enrolment tokens
    List(Json),
    /// Revoke an enrolment token
    Revoke {
        /// The token's id, as `lekiwi token list` shows it
        id: Uuid,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TokenCreate {
    /// Only for this hardware profile
    #[arg(long)]
    pub(crate) profile: Option<String>,
    /// Only for the machine with this serial number
    #[arg(long)]
    pub(crate) serial: Option<String>,
    /// Only for this robot id
    #[arg(long)]
    pub(crate) robot: Option<RobotId>,
    /// How long it may be used, such as 2h or 7d; the relay's default is 24h
    #[arg(long, value_parser = parse::lifetime)]
    pub(crate) lifetime: Option<Duration>,
    /// How many robots may use it; one when absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(lekiwi_protocol::limits::MAX_TOKEN_USES)))]
    pub(crate) max_uses: Option<u32>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Consumer {
    /// Make a read-only broker certificate; the key is made here and stays here
    #[command(after_help = "Examples:
  lekiwi consumer create analytics --out ./analytics
  lekiwi consumer create wall --out ./wall --read robots/kiwi-01/from/state --read alerts/+

With --read, certificates of this name read no more than that, those made before included.")]
    Create {
        /// Its name; the certificate's common name is `consumer:NAME`
        name: ConsumerName,
        /// Folder for key.pem, cert.pem and ca.pem
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Only this, such as robots/kiwi-01/from/#, robots/+/from/telemetry or alerts/+; may be said several times
        #[arg(long = "read", value_name = "FILTER")]
        reads: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use expect_test::{Expect, expect};

    use super::*;

    fn check(line: &str, expected: &Expect) {
        let error = Arguments::try_parse_from(line.split(' '))
            .expect_err("wrong usage")
            .to_string();
        expected.assert_eq(error.lines().next().unwrap_or_default());
    }

    #[test]
    fn the_definition_holds() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn wrong_usage_says_what_was_expected() {
        check(
            "lekiwi robot Kiwi",
            &expect![
                "error: invalid value 'Kiwi' for '<ID>': expected a robot id: 1 to 63 of a-z, 0-9 and '-', not starting with '-', got \"Kiwi\""
            ],
        );
        check(
            "lekiwi token create --lifetime 0s",
            &expect![
                "error: invalid value '0s' for '--lifetime <LIFETIME>': expected a time of at least a second, such as 30min, 2h or 7d"
            ],
        );
        check(
            "lekiwi login https://r --ca-fingerprint sha256:12",
            &expect![
                "error: invalid value 'sha256:12' for '--ca-fingerprint <FINGERPRINT>': expected sha256: and 64 hex digits, got \"sha256:12\""
            ],
        );
        check(
            "lekiwi events kiwi-01 --limit 0",
            &expect!["error: invalid value '0' for '--limit <LIMIT>': 0 is not in 1..=1000"],
        );
        check(
            "lekiwi token create --max-uses 10001",
            &expect![
                "error: invalid value '10001' for '--max-uses <N>': 10001 is not in 1..=10000"
            ],
        );
        check(
            "lekiwi discover --scan 192.168.1.7/24",
            &expect![
                "error: invalid value '192.168.1.7/24' for '--scan <NETWORK>': expected a network's first address, which is 192.168.1.0/24, got 192.168.1.7"
            ],
        );
        check(
            "lekiwi command kiwi-01 fly",
            &expect![
                "error: invalid value 'fly' for '<OP>': expected an operation such as ping or restart_service, got \"fly\""
            ],
        );
        check(
            "lekiwi command kiwi-01 ping now",
            &expect![
                "error: invalid value 'now' for '[KEY=VALUE]...': expected KEY=VALUE, such as unit=lekiwi-host.service"
            ],
        );
        check(
            "lekiwi command kiwi-01 ping --expires 8d",
            &expect![
                "error: invalid value '8d' for '--expires <TIME>': expected a time from 1s to 7d, such as 10s or 1h"
            ],
        );
        check(
            "lekiwi config set kiwi-01 log",
            &expect![
                "error: invalid value 'log' for '[KEY=VALUE]...': expected KEY=VALUE, such as telemetry.sample_s=5"
            ],
        );
        check(
            "lekiwi config set kiwi-01 log=debug --confirm-within 2h",
            &expect![
                "error: invalid value '2h' for '--confirm-within <TIME>': expected a time from 1s to 1h, such as 30s or 5min"
            ],
        );
        check(
            "lekiwi config set kiwi-01",
            &expect!["error: the following required arguments were not provided:"],
        );
        check(
            "lekiwi logs kiwi-01 --unit a*",
            &expect![
                "error: invalid value 'a*' for '--unit <UNIT>': expected a unit such as lekiwi-host.service, got \"a*\""
            ],
        );
        check(
            "lekiwi logs kiwi-01 --since yesterday",
            &expect![
                "error: invalid value 'yesterday' for '--since <TIME>': expected a UTC time such as 2026-11-21T03:52:00Z, or one before now such as 90s, 30m, 2h or 7d, got \"yesterday\""
            ],
        );
        check(
            "lekiwi logs kiwi-01 --max-size 17MiB",
            &expect![
                "error: invalid value '17MiB' for '--max-size <SIZE>': expected a size from 16KiB to 16MiB, such as 512KiB"
            ],
        );
        check(
            "lekiwi estop kiwi-01 --all",
            &expect!["error: the argument '[ID]' cannot be used with '--all'"],
        );
        check(
            "lekiwi estop",
            &expect!["error: the following required arguments were not provided:"],
        );
        check(
            "lekiwi consumer create Bad --out /x",
            &expect![
                "error: invalid value 'Bad' for '<NAME>': expected a consumer name: 1 to 40 of a-z, 0-9 and '-', not starting with '-', got \"Bad\""
            ],
        );
    }
}
