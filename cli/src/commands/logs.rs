//! `lekiwi logs`: has a robot collect a part of its journal, waits, and fetches it from the relay.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use lekiwi_protocol::api::{CommandRequest, CommandView};
use lekiwi_protocol::message::{Arguments, Op};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::command::success;
use crate::args::Logs;
use crate::client::Relay;
use crate::failure::Failure;
use crate::ui::{Ui, plain};

pub(super) async fn run(relay: &Relay, arguments: Logs, ui: &mut Ui) -> Result<(), Failure> {
    let request = CommandRequest {
        op: Op::CollectLogs,
        arguments: slice(&arguments),
        expires_in_s: None,
    };
    let command = relay.command(&arguments.id, &request).await?;
    let Some(ended) = success(relay, command, ui).await? else {
        return Ok(());
    };
    let file = arguments.output.unwrap_or_else(|| name(&ended));
    let is_stdout = file == Path::new("-");
    fetch(relay, &ended, (!is_stdout).then_some(file.as_path()), ui).await?;
    if ended.result.get("is_cut") == Some(&Value::Bool(true)) {
        ui.note("older entries did not fit; --max-size allows for more of them");
    }
    match (arguments.json, is_stdout) {
        (true, false) => super::json(ui, &ended),
        (false, false) => {
            let of = |name: &str| {
                ended
                    .result
                    .get(name)
                    .map_or(String::new(), Value::to_string)
            };
            let (lines, bytes) = (of("lines"), of("bytes"));
            ui.line(format!(
                "{}: {} lines, {} bytes",
                plain(&file.to_string_lossy()),
                plain(&lines),
                plain(&bytes)
            ))
        }
        (_, true) => Ok(()),
    }
}

fn slice(arguments: &Logs) -> Arguments {
    let mut slice = Arguments::from([
        ("since".to_owned(), arguments.since.as_str().into()),
        ("max_bytes".to_owned(), arguments.max_size.into()),
    ]);
    if !arguments.units.is_empty() {
        slice.insert("unit".to_owned(), arguments.units.clone().into());
    }
    if let Some(until) = &arguments.until {
        slice.insert("until".to_owned(), until.as_str().into());
    }
    slice
}

/// Robot and time, as far as both can be in a name everywhere.
fn name(command: &CommandView) -> PathBuf {
    let issued = command.issued_at.to_string();
    let time: String = issued
        .chars()
        .take("2026-11-21T03:52:00".len())
        .filter(|c| !matches!(c, '-' | ':'))
        .collect();
    format!("{}-{time}Z.log.gz", command.robot_id).into()
}

/// Writes what the command brought, if it is what the robot says it is.
async fn fetch(
    relay: &Relay,
    command: &CommandView,
    to: Option<&Path>,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let mut answer = relay.logs(&command.robot_id, command.id).await?;
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |source| Failure::File {
            path,
            did: "written",
            source,
        }
    };
    let mut file = match to {
        Some(path) => Some((File::create(path).map_err(wrong(path))?, path)),
        None => None,
    };
    let mut hash = Sha256::new();
    while let Some(chunk) = answer
        .chunk()
        .await
        .map_err(|error| relay.unreachable(error))?
    {
        hash.update(&chunk);
        match &mut file {
            Some((file, path)) => file.write_all(&chunk).map_err(wrong(path))?,
            None => ui.bytes(&chunk)?,
        }
    }
    let actual = hex::encode(hash.finalize());
    match command.result.get("sha256").and_then(Value::as_str) {
        Some(expected) if expected != actual => Err(Failure::Damaged {
            expected: expected.to_owned(),
            actual,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::Parser;
    use lekiwi_protocol::message::LogSlice;
    use serde_json::json;

    use super::*;
    use crate::args;

    fn logs(line: &str) -> Logs {
        let arguments = args::Arguments::try_parse_from(line.split(' ')).unwrap();
        match arguments.command {
            args::Command::Logs(logs) => logs,
            other => panic!("expected logs, got {other:?}"),
        }
    }

    #[test]
    fn options_become_what_the_robot_takes() {
        for (line, expected) in [
            (
                "lekiwi logs kiwi-01",
                json!({ "since": "1h", "max_bytes": 4 << 20 }),
            ),
            (
                "lekiwi logs kiwi-01 --unit a.service --unit b --since 2d --until 1d --max-size 1MiB",
                json!({ "unit": ["a.service", "b"], "since": "2d", "until": "1d", "max_bytes": 1 << 20 }),
            ),
        ] {
            let slice = slice(&logs(line));
            assert_eq!(json!(slice), expected);
            LogSlice::parse(&slice).unwrap();
        }
    }

    #[test]
    fn a_file_is_named_by_robot_and_time() {
        let command: CommandView = serde_json::from_value(json!({
            "id": "00000000-0000-0000-0000-000000000000",
            "robot_id": "kiwi-01",
            "op": "collect_logs",
            "by": "admin",
            "issued_at": "2026-11-21T03:52:00.123Z",
            "expires_at": "2026-11-21T03:53:00.123Z",
            "updated_at": "2026-11-21T03:52:00.123Z",
            "state": "pending",
        }))
        .unwrap();
        assert_eq!(name(&command), Path::new("kiwi-01-20261121T035200Z.log.gz"));
    }
}
