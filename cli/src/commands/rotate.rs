//! `lekiwi identity rotate`: many robots get another certificate, spread over a time, so that neither they nor the relay
//! have to do it at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::api::{CommandRequest, CommandView, RobotView};
use lekiwi_protocol::message::{Arguments, CommandState, Op, RegistrationStatus};
use lekiwi_protocol::{RobotId, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::args::identities::Rotate;
use crate::client::Relay;
use crate::failure::Failure;
use crate::ui::{Ui, plain};

/// Time between two looks at a robot that is waited for.
const LOOK: Duration = Duration::from_millis(500);
/// A robot that has not accepted it by then may be away.
const AWAY: Duration = Duration::from_secs(10);
/// Time for each robot, where nobody says otherwise.
const EACH: Duration = Duration::from_secs(1);
/// Characters of the bar.
const BAR: usize = 30;

/// What became of one robot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// It was not its turn yet.
    NotSent,
    /// The relay has the command, or is just getting it; nobody waited for its end.
    Sent,
    /// It has another certificate.
    Renewed,
    /// It has not, for a reason.
    Failed,
    /// It is away, and gets the command when it comes back in time.
    Offline,
}

#[derive(Debug, Serialize)]
struct Report {
    robot_id: RobotId,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// As far as it was followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<CommandView>,
}

pub(super) async fn run(relay: Relay, arguments: Rotate, ui: &mut Ui) -> Result<(), Failure> {
    let list = relay.robots(None).await?;
    let group = match &arguments.group {
        None => None,
        Some(name) => {
            let groups = relay.groups().await?.groups;
            let group = groups.into_iter().find(|group| group.name == *name);
            Some(group.ok_or_else(|| Failure::NoGroup(name.clone()))?.robots)
        }
    };
    let robots = chosen(&list.robots, group.as_ref(), &arguments, list.now);
    let count = robots.len();
    let over = arguments.over.unwrap_or_else(|| EACH * steps(count));
    if arguments.ids.is_empty() && !arguments.yes && count > 0 {
        if !ui.can_ask() {
            return Err(Failure::Unconfirmed);
        }
        let over = humantime::format_duration(over);
        if !ui.confirm(&format!(
            "Renew the certificates of {count} robots over {over}?"
        )) {
            ui.note("nothing was sent");
            return Ok(());
        }
    }
    let reports = rotate(Arc::new(relay), robots, over, &arguments, ui).await;
    tell(&reports, arguments.output.json, ui)
}

/// How many robots come after the first.
fn steps(count: usize) -> u32 {
    u32::try_from(count.saturating_sub(1)).unwrap_or(u32::MAX)
}

/// Those that are meant, whether they are there or not. One that somebody names is asked whatever the list says of it.
fn chosen(
    robots: &[RobotView],
    group: Option<&BTreeSet<RobotId>>,
    arguments: &Rotate,
    now: Timestamp,
) -> Vec<RobotId> {
    let known = |id: &RobotId| robots.iter().find(|robot| robot.id == *id);
    let ends = |robot: &RobotView| match (arguments.ending_within, &robot.certificate) {
        (None, _) => true,
        (Some(within), Some(certificate)) => certificate.not_after <= now.plus(within),
        (Some(_), None) => false,
    };
    let named: BTreeSet<&RobotId> = arguments.ids.iter().collect();
    if !named.is_empty() {
        let named = named.into_iter().filter(|id| known(id).is_none_or(ends));
        return named.cloned().collect();
    }
    let takes_part = |robot: &&RobotView| {
        robot.registration.status == RegistrationStatus::Registered
            && group.is_none_or(|group| group.contains(&robot.id))
            && ends(robot)
    };
    let meant = robots.iter().filter(takes_part);
    meant.map(|robot| robot.id.clone()).collect()
}

/// When it is whose turn: anywhere in the time, at random, so that those who stand side by side are not without a
/// connection together. In the order of turns; `random` is asked for any `u64`.
fn turns(count: usize, over: Duration, random: &mut dyn FnMut() -> u64) -> Vec<(Duration, usize)> {
    let mut turns: Vec<(Duration, usize)> = (0..count)
        .map(|index| (over.mul_f64(random() as f64 / u64::MAX as f64), index))
        .collect();
    turns.sort_unstable();
    turns
}

async fn rotate(
    relay: Arc<Relay>,
    robots: Vec<RobotId>,
    over: Duration,
    arguments: &Rotate,
    ui: &mut Ui,
) -> Vec<Report> {
    let source = SystemRandom::new();
    let mut random = || {
        let mut bytes = [0; 8];
        // Without chance they come in their order.
        let _ = source.fill(&mut bytes);
        u64::from_ne_bytes(bytes)
    };
    let began = Instant::now();
    let mut turns = turns(robots.len(), over, &mut random)
        .into_iter()
        .peekable();
    let mut reports: Vec<Report> = robots
        .into_iter()
        .map(|robot_id| Report {
            robot_id,
            outcome: Outcome::NotSent,
            reason: None,
            command: None,
        })
        .collect();
    let mut asked = JoinSet::new();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    while turns.peek().is_some() || !asked.is_empty() {
        ui.progress(&bar(&reports));
        let next = turns.peek().map_or(began, |(after, _)| began + *after);
        tokio::select! {
            () = tokio::time::sleep_until(next), if turns.peek().is_some() => {
                if let Some((_, index)) = turns.next() {
                    let report = &mut reports[index];
                    report.outcome = Outcome::Sent;
                    let (relay, robot) = (Arc::clone(&relay), report.robot_id.clone());
                    let (expires, wait) = (arguments.expires, arguments.wait);
                    asked.spawn(async move { (index, ask(&relay, &robot, expires, wait).await) });
                }
            }
            Some(joined) = asked.join_next() => {
                // A task that panicked has said so.
                if let Ok((index, (outcome, reason, command))) = joined {
                    let report = &mut reports[index];
                    (report.outcome, report.reason, report.command) = (outcome, reason, command);
                }
            }
            _ = &mut interrupted => break,
        }
    }
    ui.progress("");
    reports
}

/// Asks one robot, and waits for its answer where that is wanted and it is there.
async fn ask(
    relay: &Relay,
    robot: &RobotId,
    expires: Duration,
    wait: bool,
) -> (Outcome, Option<String>, Option<CommandView>) {
    let request = CommandRequest {
        op: Op::RenewIdentity,
        arguments: Arguments::new(),
        expires_in_s: Some(expires.as_secs()),
    };
    let asked = async {
        let mut command = relay.command(robot, &request).await?;
        let began = Instant::now();
        while wait && !command.state.is_end() {
            tokio::time::sleep(LOOK).await;
            let looked = async {
                let command = relay.command_of(robot, command.id).await?;
                let is_late = began.elapsed() > AWAY && command.state == CommandState::Pending;
                let is_away = is_late && !relay.robot(robot).await?.status.online;
                Ok((command, is_away))
            };
            match looked.await {
                Ok((looked, true)) => return Ok((looked, Outcome::Offline)),
                Ok((looked, false)) => command = looked,
                // The relay starts anew, say: the command is on its disk.
                Err(failure) if Failure::is_temporary(&failure) => {}
                Err(failure) => return Err(failure),
            }
        }
        let outcome = match command.state {
            CommandState::Successful => Outcome::Renewed,
            CommandState::Failed => Outcome::Failed,
            _ => Outcome::Sent,
        };
        Ok((command, outcome))
    };
    match asked.await {
        Ok((command, outcome)) => (outcome, command.reason.clone(), Some(command)),
        Err(failure) => (Outcome::Failed, Some(failure.to_string()), None),
    }
}

fn count(reports: &[Report], outcome: Outcome) -> usize {
    let those = reports.iter().filter(|report| report.outcome == outcome);
    those.count()
}

/// How far it is, for people who wait.
fn bar(reports: &[Report]) -> String {
    let open = count(reports, Outcome::NotSent) + count(reports, Outcome::Sent);
    let done = reports.len() - open;
    let filled = BAR * done / reports.len().max(1);
    let (full, empty) = ("#".repeat(filled), "-".repeat(BAR - filled));
    format!("[{full}{empty}] {done}/{}  {}", reports.len(), sum(reports))
}

/// How many of each, of those that there are.
fn sum(reports: &[Report]) -> String {
    let words = [
        (Outcome::Renewed, "renewed"),
        (Outcome::Failed, "failed"),
        (Outcome::Offline, "offline"),
        (Outcome::Sent, "sent"),
        (Outcome::NotSent, "not sent"),
    ];
    let counted = words.map(|(outcome, word)| (count(reports, outcome), word));
    let some = counted.iter().filter(|(count, _)| *count > 0);
    let texts: Vec<String> = some
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    match texts.as_slice() {
        [] => "no robots".to_owned(),
        texts => texts.join(", "),
    }
}

fn tell(reports: &[Report], json: bool, ui: &mut Ui) -> Result<(), Failure> {
    let names = |outcome| {
        let those = reports.iter().filter(|report| report.outcome == outcome);
        let names: Vec<&str> = those.map(|report| report.robot_id.as_str()).collect();
        names.join(", ")
    };
    if json {
        super::json(ui, &serde_json::json!({ "robots": reports }))?;
    } else {
        ui.line(sum(reports))?;
        for report in reports {
            if let (Outcome::Failed, Some(reason)) = (report.outcome, &report.reason) {
                ui.note(format!("{}: {}", report.robot_id, plain(reason)));
            }
        }
        for (outcome, what) in [
            (
                Outcome::Offline,
                "not connected, and asked when they are back",
            ),
            (Outcome::NotSent, "not asked"),
        ] {
            if count(reports, outcome) > 0 {
                ui.note(format!("{what}: {}", names(outcome)));
            }
        }
    }
    match count(reports, Outcome::Failed) {
        0 => Ok(()),
        failed => Err(Failure::NotRenewed(failed)),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::args;
    use crate::args::identities::Identity;

    fn arguments(line: &str) -> Rotate {
        let line = format!("lekiwi identity rotate {line}");
        let parsed = args::Arguments::try_parse_from(line.split(' ')).unwrap();
        match parsed.command {
            args::Command::Identity(Identity::Rotate(rotate)) => rotate,
            other => panic!("expected rotate, got {other:?}"),
        }
    }

    fn robots() -> Vec<RobotView> {
        let robot = |id: &str, status: &str, not_after: Option<&str>| {
            let certificate = not_after.map(|at| json!({ "serial": "1", "not_after": at }));
            serde_json::from_value(json!({
                "id": id, "type": "lekiwi", "resources": {}, "certificate": certificate,
                "registration": { "status": status, "since": "2026-11-01T00:00:00.000Z" },
                "status": { "online": true, "stale": false, "connection": "ONLINE" },
            }))
            .unwrap()
        };
        vec![
            robot("kiwi-01", "registered", Some("2026-11-30T00:00:00.000Z")),
            robot("kiwi-02", "registered", Some("2027-01-30T00:00:00.000Z")),
            robot("kiwi-03", "quarantined", Some("2026-11-30T00:00:00.000Z")),
            robot("kiwi-04", "registered", None),
        ]
    }

    #[test]
    fn who_is_meant() {
        let now = "2026-11-22T00:00:00.000Z".parse().unwrap();
        let group = BTreeSet::from(["kiwi-02", "kiwi-03"].map(|id| id.parse().unwrap()));
        for (line, expected) in [
            ("--all", "kiwi-01 kiwi-02 kiwi-04"),
            ("--group hall --yes", "kiwi-02"),
            ("--ending-within 14d", "kiwi-01"),
            ("--ending-within 90d --group hall", "kiwi-02"),
            // The relay says why not.
            ("kiwi-09 kiwi-03 kiwi-03", "kiwi-03 kiwi-09"),
            ("kiwi-01 kiwi-02 --ending-within 14d", "kiwi-01"),
        ] {
            let arguments = arguments(line);
            let group = arguments.group.as_ref().map(|_| &group);
            let chosen = chosen(&robots(), group, &arguments, now);
            let chosen: Vec<&str> = chosen.iter().map(RobotId::as_str).collect();
            assert_eq!(chosen.join(" "), expected, "{line}");
        }
    }

    #[test]
    fn nobody_is_meant_by_accident() {
        for line in ["", " kiwi-01 --all", " --all --group hall", " --wait --yes"] {
            let line = format!("lekiwi identity rotate{line}");
            let parsed = args::Arguments::try_parse_from(line.split(' '));
            assert!(parsed.is_err_and(|error| error.use_stderr()), "{line}");
        }
        let nobody = args::Arguments::try_parse_from(["lekiwi", "identity", "rotate"]).unwrap_err();
        for way in ["ROBOT", "--all", "--group", "--ending-within"] {
            assert!(nobody.to_string().contains(way), "{nobody}");
        }
    }

    #[test]
    fn turns_are_anywhere_in_the_time_and_in_their_order() {
        let over = Duration::from_secs(100);
        let mut numbers = [u64::MAX, 0, u64::MAX / 2].into_iter();
        let turns = turns(3, over, &mut || numbers.next().unwrap());
        let turns: Vec<_> = turns
            .iter()
            .map(|(after, index)| (after.as_secs(), *index))
            .collect();
        assert_eq!(turns, [(0, 1), (50, 2), (100, 0)]);
        assert_eq!([0, 1, 40].map(steps), [0, 0, 39]);
    }

    #[test]
    fn the_bar_and_the_sum_count_what_is_over() {
        use Outcome::{Failed, NotSent, Offline, Renewed, Sent};
        let outcomes = [Renewed, Failed, Offline, Sent, NotSent, NotSent];
        let reports = outcomes.map(|outcome| Report {
            robot_id: "kiwi-01".parse().unwrap(),
            outcome,
            reason: None,
            command: None,
        });
        assert_eq!(
            bar(&reports),
            "[###############---------------] 3/6  1 renewed, 1 failed, 1 offline, 1 sent, 2 not sent"
        );
        assert_eq!(sum(&[]), "no robots");
    }
}
