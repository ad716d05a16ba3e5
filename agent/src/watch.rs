//! `lekiwi-agent teleop`: the indicators of teleoperation for people, drawn anew at a terminal, or as lines of
//! JSON for programs. Looks by itself, as the running agent does; both may look at the same time.

use std::io::{IsTerminal, Write, stdout};
use std::path::Path;
use std::time::{Duration, Instant};

use lekiwi_agent::clock;
use lekiwi_agent::config::{Config, ProfileChoice};
use lekiwi_agent::exit::ExitCode;
use lekiwi_agent::hardware;
use lekiwi_agent::profiles;
use lekiwi_agent::ros;
use lekiwi_agent::setup;
use lekiwi_agent::teleop::Watcher;
use lekiwi_agent_core::teleop::{CandidatePicture, Event};
use lekiwi_protocol::profile::{FOLDER, Profile};
use lekiwi_protocol::{ProfileName, Timestamp};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Failure, failed, is_denied};

/// One look lasts as long as commands are counted over, and a little.
const ONE_LOOK: Duration = Duration::from_millis(2600);
/// Clears a terminal.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";
const BOLD: &str = "\u{1b}[1m";
const GREEN: &str = "\u{1b}[32m";
const PLAIN: &str = "\u{1b}[0m";
/// Events that stay on the screen.
const LAST_EVENTS: usize = 5;

/// The profile that a person names: one of those on this machine, or a file.
pub(crate) fn named(name: &str, root: &Path) -> Result<Profile, Failure> {
    if name.contains('/') {
        let text = std::fs::read_to_string(name).map_err(|error| Failure {
            code: ExitCode::Failure,
            hint: is_denied(&error).then(|| "run it with `sudo`".to_owned()),
            message: format!("expected a readable profile at {name}: {error}"),
        })?;
        return Profile::parse(&text, name).map_err(|error| Failure {
            hint: error.hint(),
            ..failed(ExitCode::Failure, &error)
        });
    }
    let name = ProfileName::new(name).map_err(|error| Failure {
        hint: Some("a profile's file is named with its path, such as ./lekiwi.yml".to_owned()),
        ..failed(ExitCode::Usage, &error)
    })?;
    load(Path::new(FOLDER), root, &name)
}

/// The profile that this robot is registered, configured or known as.
pub(crate) fn configured(config: &Config, root: &Path) -> Result<Profile, Failure> {
    let name = match (
        setup::registered_profile(&config.state_dir),
        &config.profile,
    ) {
        (Some(name), _) => Some(name),
        (None, ProfileChoice::Named(name)) => Some(name.clone()),
        (None, ProfileChoice::Auto) => {
            hardware::remembered(config).and_then(|known| ProfileName::new(&known.profile).ok())
        }
    };
    let name = name.ok_or_else(|| match setup::is_registration_hidden(&config.state_dir) {
        true => Failure {
            code: ExitCode::Failure,
            message:
                "expected to see what the relay has registered this robot as, and this user may not"
                    .to_owned(),
            hint: Some("run it with `sudo`, or name a profile with `--profile`".to_owned()),
        },
        false => unknown_profile(),
    })?;
    load(&config.profiles_dir, root, &name)
}

fn unknown_profile() -> Failure {
    Failure {
        code: ExitCode::Failure,
        message: "expected a robot that is known to be of a profile, this one is of none yet"
            .to_owned(),
        hint: Some("name one with `--profile`".to_owned()),
    }
}

fn load(folder: &Path, root: &Path, name: &ProfileName) -> Result<Profile, Failure> {
    profiles::load(folder, root, name).map_err(|error| failed(ExitCode::Failure, &error))
}

/// Looks once, or until a signal when asked to `watch`.
pub(crate) async fn run(
    profile: &Profile,
    root: &Path,
    watch: bool,
    json: bool,
) -> Result<(), Failure> {
    let ros = ros::Slot::default().open(profile);
    let opened = Watcher::open(profile, root, ros, clock::now());
    let mut watcher = opened
        .map_err(|error| Failure {
            hint: Some("run it on the robot itself, outside of emulators and sandboxes".to_owned()),
            ..failed(ExitCode::Unavailable, &error)
        })?
        .ok_or_else(|| Failure {
            code: ExitCode::Failure,
            message: format!(
                "expected signatures of teleoperation in the profile {}, found none",
                profile.name
            ),
            hint: Some("they are below `teleop` in its file".to_owned()),
        })?;
    let wait = |kind| signal(kind).map_err(|error| failed(ExitCode::Failure, &error));
    let (mut interrupt, mut terminate) = (
        wait(SignalKind::interrupt())?,
        wait(SignalKind::terminate())?,
    );
    let is_terminal = stdout().is_terminal();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = is_terminal && !no_color;
    let end = clock::now() + ONE_LOOK;
    let mut events: Vec<(Timestamp, Event)> = Vec::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(watcher.poll_timeout().into()) => {}
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
        let now = clock::now();
        let event = watcher.look(now);
        let is_last = !watch && now >= end;
        let text = if json {
            lines(&watcher, now, event.as_ref())
        } else {
            events.extend(event.map(|event| (clock::wall(), event)));
            let surplus = events.len().saturating_sub(LAST_EVENTS);
            events.drain(..surplus);
            let picture = screen(profile, &watcher, now, &events, colour);
            match (watch, is_terminal) {
                (true, true) => format!("{CLEAR}{picture}"),
                (true, false) => format!("{picture}\n"),
                (false, _) if is_last => picture,
                (false, _) => String::new(),
            }
        };
        let shown = json && !watch && !is_last;
        // Nobody reading any more is an end like another.
        if !shown && !text.is_empty() && write(&text).is_err() {
            return Ok(());
        }
        if is_last {
            return Ok(());
        }
    }
}

fn write(text: &str) -> std::io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The look as a line of JSON, and the event before it as another.
fn lines(watcher: &Watcher, now: Instant, event: Option<&Event>) -> String {
    let timestamp = clock::wall();
    let mut text = String::new();
    if let Some(Event { kind, data }) = event {
        let line = json!({ "timestamp": timestamp, "type": kind, "data": data });
        text = format!("{line}\n");
    }
    let picture = watcher.picture(now);
    let look = json!({
        "phase": picture.phase,
        "contention": picture.contention,
        "candidates": picture.candidates,
        "connections": picture.connections,
        "local_input": watcher.input(),
    });
    let line = json!({ "timestamp": timestamp, "type": "look", "data": look });
    text + &format!("{line}\n")
}

/// One fact a line.
fn screen(
    profile: &Profile,
    watcher: &Watcher,
    now: Instant,
    events: &[(Timestamp, Event)],
    colour: bool,
) -> String {
    let picture = watcher.picture(now);
    let paint = |code: &str, text: &str| match colour {
        true => format!("{code}{text}{PLAIN}"),
        false => text.to_owned(),
    };
    let mut lines = Vec::new();
    let phase = match watcher.driving() {
        Some(driving) => {
            let seconds = now.saturating_duration_since(driving.since).as_secs();
            let also = if driving.contention {
                ", and not alone"
            } else {
                ""
            };
            let text = format!("driven by {} for {seconds} s{also}", driving.operator.id);
            paint(GREEN, &text)
        }
        None => picture.phase.to_owned(),
    };
    lines.push(format!("{:<13}{phase}", profile.name.as_str()));
    for candidate in &picture.candidates {
        lines.push(String::new());
        lines.push(paint(BOLD, &candidate.operator.id));
        lines.extend(indicators(candidate));
    }
    if !picture.connections.is_empty() {
        lines.push(String::new());
        lines.push(paint(BOLD, "connections"));
    }
    lines.extend(picture.connections.iter().map(|open| {
        let reads = if open.reads { ", reads" } else { "" };
        format!(
            "  {:<5} {:<22} {:<16} {:>6.1} commands/s, the last {} ago{reads}",
            open.port,
            open.what,
            open.remote,
            open.commands_per_s,
            span(open.silent_ms)
        )
    }));
    if let Some(input) = watcher.input() {
        let used = if input.in_use { ", in use" } else { "" };
        let what = format!(
            "{} of {} devices readable{used}",
            input.readable, input.devices
        );
        lines.push(String::new());
        lines.push(format!("{:<13}{what}", "local input"));
    }
    if !events.is_empty() {
        lines.push(String::new());
    }
    lines.extend(events.iter().map(|(at, event)| {
        let who = &event.data.operator.id;
        format!("{at} {} {who}", event.kind)
    }));
    lines.push(String::new());
    lines.join("\n")
}

fn indicators(candidate: &CandidatePicture) -> Vec<String> {
    let evidence = &candidate.evidence;
    let mut lines = vec![("confidence", format!("{:.2}", candidate.confidence))];
    if let Some(control) = &evidence.control {
        let last = span(control.silent_ms);
        let (rate, what) = (control.commands_per_s, &control.what);
        lines.push((
            "control",
            format!("{rate:.1}/s at {what}, the last {last} ago"),
        ));
    }
    if let Some(input) = &evidence.local_input {
        lines.push(("local input", format!("{} moves in 2 s", input.moves)));
    }
    if let Some(video) = &evidence.video {
        lines.push(("video", video.streams.join(", ")));
    }
    if let Some(present) = evidence.present_ms {
        lines.push(("present", span(present)));
    }
    if let Some(latency) = &evidence.latency {
        let (least, most) = (latency.min_rtt_ms, latency.rtt_ms);
        lines.push(("latency", format!("{least} to {most} ms")));
    }
    let line = |(name, text): (&str, String)| format!("  {name:<11}{text}");
    lines.into_iter().map(line).collect()
}

/// `32 ms`, `4.1 s` or `12 min`
fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..100_000 => format!("{}.{} s", ms / 1000, ms / 100 % 10),
        _ => format!("{} min", ms / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let spans = [0, 999, 1_000, 4_150, 99_999, 100_000, 3_600_000];
        let texts = [
            "0 ms", "999 ms", "1.0 s", "4.1 s", "99.9 s", "1 min", "60 min",
        ];
        assert_eq!(spans.map(span), texts);
    }
}
