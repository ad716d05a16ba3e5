//! What is the agent's own: its folder, clock, identity, process, outbox, unit, and the profile's software.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use lekiwi_agent_core::setup::plan;
use lekiwi_protocol::message::SetupStatus;
use lekiwi_protocol::profile::Profile;
use lekiwi_protocol::{ProfileName, Timestamp};
use nix::sys::statvfs::statvfs;
use rusqlite::{Connection, OpenFlags};

use super::Finding;
use crate::config::{Config, ProfileChoice};
use crate::driver::chain;
use crate::identity::{Identity, IdentityError};
use crate::ipc::{IpcError, Status};
use crate::setup::{self, Record, accounts};
use crate::{clock, hardware, health, profiles};

/// Bytes without which the agent cannot keep its events, and below which somebody should make room.
const ROOM: [f64; 2] = [20e6, 100e6];
/// Files that may still be made.
const INODES: f64 = 200.0;
/// Of a certificate's lifetime, the share by which its renewal may be late before that is said.
const LATE: u32 = 10;
/// Restarts of the unit that nobody asked for.
const RESTARTS: u32 = 5;
/// Base64 of 256 bits.
const TOKEN_CHARS: usize = 43;
pub(super) const SUDO: &str =
    "only root and the agent's own user can look: `sudo lekiwi-agent doctor`";

pub(super) fn state_folder(folder: &Path) -> Vec<Finding> {
    const CHECK: &str = "state folder";
    let at = folder.display();
    let trial = folder.join(".doctor");
    let tried = fs::write(&trial, b"").and_then(|()| fs::remove_file(&trial));
    let mut findings = vec![match tried {
        Ok(()) => Finding::ok(CHECK, format!("writable at {at}")),
        Err(error) => {
            let text = format!("expected a writable folder at {at}: {error}");
            match error.kind() {
                ErrorKind::PermissionDenied => Finding::unknown(CHECK, text, SUDO),
                ErrorKind::NotFound => Finding::failed(
                    CHECK,
                    text,
                    "`systemd-tmpfiles --create` makes it as the package says",
                ),
                ErrorKind::ReadOnlyFilesystem => Finding::failed(
                    CHECK,
                    text,
                    "the card may be failing: look at `dmesg`, and have a new one at hand",
                ),
                _ => Finding::failed(CHECK, text, "make room on the disk, or look at `dmesg`"),
            }
        }
    }];
    if let Ok(disk) = statvfs(folder) {
        let bytes = disk.blocks_available() as f64 * disk.fragment_size() as f64;
        let inodes = (disk.files() > 0).then(|| disk.files_available() as f64);
        findings.push(space(bytes, inodes));
    }
    findings
}

/// Some file systems count no files.
fn space(bytes: f64, inodes: Option<f64>) -> Finding {
    const CHECK: &str = "space";
    let mb = (bytes / 1e6).floor();
    let hint = "make room: `journalctl --vacuum-size=50M`, `apt-get clean`";
    match (bytes, inodes) {
        (_, Some(inodes)) if inodes < INODES => Finding::failed(
            CHECK,
            format!("expected room for {INODES} files, got {inodes}"),
            "too many small files: `du --inodes -x / | sort -n | tail`",
        ),
        (bytes, _) if bytes < ROOM[0] => {
            Finding::failed(CHECK, format!("expected 20 MB, got {mb} MB"), hint)
        }
        (bytes, _) if bytes < ROOM[1] => {
            Finding::warning(CHECK, format!("only {mb} MB are left"), hint)
        }
        _ => Finding::ok(CHECK, format!("{mb} MB are left")),
    }
}

pub(super) fn clock(root: &Path) -> Finding {
    let synchronised = root.join("run/systemd/timesync/synchronized").exists();
    judge_clock(clock::wall(), clock::build_time(), synchronised)
}

fn judge_clock(wall: Timestamp, built: Timestamp, synchronised: bool) -> Finding {
    const CHECK: &str = "clock";
    const HINT: &str = "is there a time server in the network? `timedatectl timesync-status`";
    if wall < built {
        let text = format!("expected a time after this program was made, {built}, got {wall}");
        return Finding::failed(CHECK, text, HINT);
    }
    match synchronised {
        true => Finding::ok(CHECK, "set by the network"),
        false => Finding::warning(
            CHECK,
            format!("{wall}, and not set by systemd-timesyncd since boot"),
            HINT,
        ),
    }
}

pub(super) fn identity(
    config: &Config,
    identity: &Result<Identity, IdentityError>,
    now: Timestamp,
) -> Finding {
    const CHECK: &str = "identity";
    let key = config.state_dir.join("key.pem");
    match identity {
        Ok(_) if mode(&key).is_some_and(|mode| mode & 0o077 != 0) => Finding::failed(
            CHECK,
            format!(
                "expected mode 0600 of {}, got {:04o}",
                key.display(),
                mode(&key).unwrap_or_default()
            ),
            &format!(
                "`chmod 600 {}`; others may have read it: enrol the robot anew",
                key.display()
            ),
        ),
        Ok(identity) => {
            let text = format!(
                "{}, signed by the relay's authority, until {}",
                config.robot_id, identity.not_after
            );
            let term = identity.term();
            let due = term.renews_at(&config.robot_id);
            let late = now.since(due) > term.not_after.since(term.since) / LATE;
            match late {
                true => Finding::warning(
                    CHECK,
                    format!("{text}, and was to be renewed at {due}"),
                    "`lekiwi-agent status` says why it is not, `lekiwi-agent renew` tries again; once it has ended, \
                     a token enrols the robot anew: `lekiwi token create`",
                ),
                false => Finding::ok(CHECK, format!("{text}, renewed from {due}")),
            }
        }
        Err(IdentityError::File { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
            Finding::unknown(CHECK, "not to be read by this user", SUDO)
        }
        Err(IdentityError::Missing(_)) if config.token_file.exists() => Finding::warning(
            CHECK,
            "not enrolled yet, and there is a token",
            "the agent enrols by itself; by hand: `lekiwi-agent enrol`",
        ),
        Err(error @ IdentityError::Missing(_)) => Finding::failed(
            CHECK,
            chain(error),
            &format!(
                "write a token of `lekiwi token create` into {}",
                config.token_file.display()
            ),
        ),
        Err(error) => Finding::failed(
            CHECK,
            chain(error),
            "a new token enrols the robot anew: `lekiwi token create`",
        ),
    }
}

fn mode(path: &Path) -> Option<u32> {
    Some(fs::metadata(path).ok()?.mode() & 0o7777)
}

pub(super) fn token(config: &Config, is_enrolled: bool) -> Finding {
    const CHECK: &str = "token";
    let at = config.token_file.display();
    match (fs::read_to_string(&config.token_file), is_enrolled) {
        (Ok(_), true) if config.remove_token => Finding::warning(
            CHECK,
            format!("{at} is there, and the robot is enrolled"),
            "the agent removes it once it is connected; if it is: `rm` it",
        ),
        (Ok(token), false) if is_token(token.trim()) => {
            Finding::ok(CHECK, format!("waits to be used at {at}"))
        }
        (Ok(token), false) => Finding::failed(
            CHECK,
            format!(
                "expected lkt_ and {TOKEN_CHARS} letters, digits, '-' and '_' in {at}, got {} characters of another form",
                token.trim().chars().count()
            ),
            "write a whole token of `lekiwi token create` into it, in one line",
        ),
        (Ok(_), true) => Finding::ok(CHECK, format!("{at} stays, as configured")),
        (Err(error), _) if error.kind() == ErrorKind::PermissionDenied => {
            Finding::unknown(CHECK, format!("{at} is not to be read by this user"), SUDO)
        }
        (Err(error), false) if error.kind() != ErrorKind::NotFound => Finding::failed(
            CHECK,
            format!("expected a readable token at {at}: {error}"),
            "write a token of `lekiwi token create` into it",
        ),
        _ => Finding::ok(CHECK, "none is left over"),
    }
}

/// As the relay makes them. Its value is nobody's business here.
fn is_token(text: &str) -> bool {
    let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    text.strip_prefix("lkt_")
        .is_some_and(|rest| rest.len() == TOKEN_CHARS && rest.bytes().all(letters))
}

pub(super) fn agent(status: &Result<Status, IpcError>) -> Vec<Finding> {
    const CHECK: &str = "agent";
    let status = match status {
        Ok(status) => status,
        Err(IpcError::NotRunning { source, .. })
            if source.kind() == ErrorKind::PermissionDenied =>
        {
            let text = "not to be asked by this user";
            let hint = "members of its group may ask: `sudo usermod -aG lekiwi-agent $USER`";
            return vec![Finding::unknown(CHECK, text, hint)];
        }
        Err(error) => {
            let hint = "`systemctl start lekiwi-agent`; why it ended: `journalctl -u lekiwi-agent`";
            return vec![Finding::failed(CHECK, chain(error), hint)];
        }
    };
    let running = format!("{} runs, {}", status.version, status.phase);
    let mut findings = vec![match (&status.online_since, &status.last_error) {
        (Some(since), None) => Finding::ok(CHECK, format!("{running} since {since}")),
        (Some(_), Some(error)) => Finding::warning(CHECK, format!("{running}: {error}"), ""),
        (None, error) => {
            let error = error.as_deref().unwrap_or("it has not tried yet");
            Finding::failed(CHECK, format!("{running}: {error}"), "")
        }
    }];
    let configuration = &status.configuration;
    if let Some(refused) = &configuration.refused {
        findings.push(Finding::failed(
            "reload",
            format!("the configuration was not taken: {refused}"),
            "put it right, then `systemctl reload lekiwi-agent`",
        ));
    } else if !configuration.waiting.is_empty() {
        findings.push(Finding::warning(
            "reload",
            format!(
                "{} count from the next start",
                configuration.waiting.join(", ")
            ),
            "`systemctl restart lekiwi-agent`",
        ));
    }
    findings
}

pub(super) fn outbox(state_dir: &Path, status: Option<&Status>) -> Finding {
    const CHECK: &str = "outbox";
    if let Some(status) = status {
        let outbox = &status.outbox;
        let waiting = format!("{} events wait", outbox.pending);
        return match (&outbox.trouble, outbox.durable) {
            (None, true) => Finding::ok(CHECK, waiting),
            (Some(earlier), true) => Finding::warning(
                CHECK,
                format!("{waiting}; when it was opened: {earlier}"),
                "new events are safe, and the event log says what is lost",
            ),
            (trouble, _) => Finding::failed(
                CHECK,
                format!("{waiting}: {}", trouble.as_deref().unwrap_or("in memory")),
                "a power cut would lose events: look at the disk",
            ),
        };
    }
    let path = state_dir.join("agent.db");
    match fs::metadata(&path) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Finding::unknown(CHECK, "not to be seen by this user", SUDO);
        }
        Err(_) => return Finding::ok(CHECK, "empty, nothing was kept yet"),
    }
    // As a file that nobody changes: whoever looks leaves no trace.
    let address = format!("file:{}?immutable=1", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let answer = Connection::open_with_flags(address, flags).and_then(|database| {
        database.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
    });
    match answer {
        Ok(answer) if answer == "ok" => Finding::ok(CHECK, "the database is intact"),
        Ok(complaint) => damaged(&path, &complaint),
        Err(error) => damaged(&path, &error.to_string()),
    }
}

fn damaged(path: &Path, why: &str) -> Finding {
    Finding::failed(
        "outbox",
        format!("expected an intact database at {}: {why}", path.display()),
        "the agent sets it aside when it starts, and says so to the relay",
    )
}

/// Only of the running system: nobody else's service manager can be asked.
pub(super) fn unit(root: &Path) -> Option<Finding> {
    const PROPERTIES: &str =
        "--property=LoadState,ActiveState,SubState,UnitFileState,NRestarts,Result";
    if root != Path::new("/") || !Path::new("/run/systemd/system").exists() {
        return None;
    }
    let shown = Command::new("systemctl")
        .args(["show", "lekiwi-agent.service", PROPERTIES])
        .output()
        .ok()?;
    Some(judge_unit(&String::from_utf8_lossy(&shown.stdout)))
}

fn judge_unit(shown: &str) -> Finding {
    const CHECK: &str = "unit";
    let property = |name: &str| {
        let value = shown.lines().find_map(|line| {
            line.strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('='))
        });
        value.unwrap_or_default()
    };
    let restarts: u32 = property("NRestarts").parse().unwrap_or(0);
    let is = format!(
        "{} ({}), restarted {restarts} times",
        property("ActiveState"),
        property("SubState")
    );
    match (property("LoadState"), property("ActiveState")) {
        ("not-found", _) => Finding::warning(
            CHECK,
            "lekiwi-agent.service is not installed",
            "the package lekiwi-agent brings it",
        ),
        (_, "failed") => Finding::failed(
            CHECK,
            format!("{is}: {}", property("Result")),
            "why: `journalctl -u lekiwi-agent -n 50`; again: `systemctl restart lekiwi-agent`",
        ),
        _ if property("UnitFileState") == "disabled" => Finding::warning(
            CHECK,
            format!("{is}, and does not start at boot"),
            "`systemctl enable lekiwi-agent`",
        ),
        _ if restarts > RESTARTS => {
            Finding::warning(CHECK, is, "why: `journalctl -u lekiwi-agent`")
        }
        _ => Finding::ok(CHECK, is),
    }
}

/// The profile, and the software that it brings.
pub(super) async fn profile(
    root: &Path,
    config: &Config,
    status: Option<&Status>,
    findings: &mut Vec<Finding>,
) {
    const CHECK: &str = "profile";
    if setup::is_registration_hidden(&config.state_dir) {
        let text = "what the relay has registered is not to be seen by this user";
        return findings.push(Finding::unknown(CHECK, text, SUDO));
    }
    let registered = setup::registered_profile(&config.state_dir);
    let name = registered.clone().or_else(|| match &config.profile {
        ProfileChoice::Named(name) => Some(name.clone()),
        ProfileChoice::Auto => ProfileName::new(&hardware::remembered(config)?.profile).ok(),
    });
    let Some(name) = name else {
        let hint = "`lekiwi-agent hardware` explains";
        return findings.push(Finding::warning(CHECK, "not known yet", hint));
    };
    let profile = match profiles::load(&config.profiles_dir, root, &name) {
        Ok(profile) => profile,
        Err(error) => {
            let hint = "profiles come with the package, or lie in /etc/lekiwi/profiles";
            return findings.push(Finding::failed(CHECK, chain(&error), hint));
        }
    };
    findings.push(match registered {
        Some(_) => Finding::ok(CHECK, format!("{name}, as the relay has registered it")),
        None => Finding::warning(
            CHECK,
            format!("{name}, not registered by the relay yet"),
            &format!(
                "is it waiting for somebody? `lekiwi approve {}`",
                config.robot_id
            ),
        ),
    });
    findings.extend(groups(root, &profile));
    if registered.is_some() {
        findings.push(super::stop::examine(root, &profile, status));
        software(root, &profile, findings).await;
        super::ros::examine(&profile, findings).await;
    }
}

async fn software(root: &Path, profile: &Profile, findings: &mut Vec<Finding>) {
    let needs_setup = !plan(profile).is_empty();
    let record = Record::load(&root.join(setup::FOLDER.trim_start_matches('/')))
        .filter(|record| record.profile == profile.name.as_str());
    let setup = record.map_or(SetupStatus::Pending, |record| record.status);
    if needs_setup {
        const CHECK: &str = "setup";
        let hint = "`journalctl -u lekiwi-setup` says how far it is";
        match setup {
            SetupStatus::Done => findings.push(Finding::ok(CHECK, "done")),
            SetupStatus::Failed => {
                return findings.push(Finding::failed(
                    CHECK,
                    "a step failed, and is tried again",
                    hint,
                ));
            }
            SetupStatus::Pending | SetupStatus::Running => {
                return findings.push(Finding::warning(CHECK, setup.to_string(), hint));
            }
        }
    }
    for (name, result) in health::look_once(profile, root).await {
        findings.push(match result {
            Ok(()) => Finding::ok("service", format!("{name} is well")),
            Err(reason) => Finding::failed(
                "service",
                format!("{name}: {reason}"),
                &format!("`systemctl status {name}`"),
            ),
        });
    }
}

/// Whether everybody who uses the robot's devices may.
fn groups(root: &Path, profile: &Profile) -> Option<Finding> {
    const CHECK: &str = "groups";
    if profile.groups.is_empty() {
        return None;
    }
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (passwd, group) = (read("etc/passwd"), read("etc/group"));
    let users = accounts::users_of_devices(&passwd, "lekiwi-agent");
    for name in &profile.groups {
        let Some(members) = accounts::members(&group, name) else {
            let text = format!("expected a group {name}, found none");
            return Some(Finding::warning(
                CHECK,
                text,
                &format!("`groupadd -r {name}`"),
            ));
        };
        if let Some(user) = users.iter().find(|user| !members.contains(*user)) {
            return Some(Finding::warning(
                CHECK,
                format!("{user} is not a member of {name}, and cannot use the robot's devices"),
                &format!("root's setup adds everybody; by hand: `usermod -aG {name} {user}`"),
            ));
        }
    }
    Some(Finding::ok(CHECK, profile.groups.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn words(finding: &Finding) -> (Verdict, &str) {
        (finding.verdict, &finding.text)
    }

    #[test]
    fn space_is_measured_in_bytes_and_files() {
        let found = |bytes, inodes| {
            let found = space(bytes, inodes);
            (found.verdict, found.text)
        };
        assert_eq!(
            found(5e9, Some(1e5)),
            (Verdict::Ok, "5000 MB are left".to_owned())
        );
        assert_eq!(
            found(50e6, None),
            (Verdict::Warning, "only 50 MB are left".to_owned())
        );
        assert_eq!(
            found(1e6, Some(1e5)),
            (Verdict::Failed, "expected 20 MB, got 1 MB".to_owned())
        );
        assert_eq!(
            found(5e9, Some(3.0)),
            (
                Verdict::Failed,
                "expected room for 200 files, got 3".to_owned()
            )
        );
    }

    #[test]
    fn a_clock_is_judged_by_the_program_and_the_network() {
        let at = |ms| Timestamp::from_ms(ms);
        let built = at(1_795_233_120_007);
        assert_eq!(
            words(&judge_clock(at(1_795_233_130_000), built, true)),
            (Verdict::Ok, "set by the network")
        );
        assert_eq!(
            words(&judge_clock(at(1_795_233_130_000), built, false)),
            (
                Verdict::Warning,
                "2026-11-21T03:52:10.000Z, and not set by systemd-timesyncd since boot"
            )
        );
        assert_eq!(
            words(&judge_clock(at(0), built, true)),
            (
                Verdict::Failed,
                "expected a time after this program was made, 2026-11-21T03:52:00.007Z, got 1970-01-01T00:00:00.000Z"
            )
        );
    }

    #[test]
    fn a_unit_is_judged_by_what_systemd_shows() {
        let unit = |load: &str, active: &str, file: &str, restarts: u32| {
            judge_unit(&format!(
                "Result=exit-code\nLoadState={load}\nActiveState={active}\nSubState=sub\nUnitFileState={file}\nNRestarts={restarts}\n"
            ))
        };
        for (finding, expected) in [
            (
                unit("loaded", "active", "enabled", 0),
                (Verdict::Ok, "active (sub), restarted 0 times"),
            ),
            (
                unit("loaded", "active", "enabled", 6),
                (Verdict::Warning, "active (sub), restarted 6 times"),
            ),
            (
                unit("loaded", "active", "disabled", 0),
                (
                    Verdict::Warning,
                    "active (sub), restarted 0 times, and does not start at boot",
                ),
            ),
            (
                unit("loaded", "failed", "enabled", 1),
                (
                    Verdict::Failed,
                    "failed (sub), restarted 1 times: exit-code",
                ),
            ),
            (
                unit("not-found", "inactive", "", 0),
                (Verdict::Warning, "lekiwi-agent.service is not installed"),
            ),
        ] {
            assert_eq!(words(&finding), expected);
        }
    }
}
