//! What the agent answers on the command line, for people or as a line of JSON.

use std::io::IsTerminal;
use std::path::Path;

use lekiwi_agent::config::Config;
use lekiwi_agent::doctor;
use lekiwi_agent::exit::ExitCode;
use lekiwi_agent::ipc::Status;

use crate::{Failure, failed, no_color, print, wrong};

/// `lekiwi-agent status`.
pub(crate) fn status(status: &Status, json: bool) -> Result<(), Failure> {
    if json {
        let text =
            serde_json::to_string(status).map_err(|error| failed(ExitCode::Failure, &error))?;
        print(&text);
        return Ok(());
    }
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let outbox = &status.outbox;
    let durable = if outbox.durable {
        "on disk"
    } else {
        "in memory only"
    };
    print(&format!(
        "robot        {} (agent {})\nphase        {} (link {})\nrelay        {}\nsession      {}\nonline since {}\n\
         telemetry    {}\ncertificate  until {}, renewed from {}\nevents       {} waiting, newest {}, {durable}\nbacklog      {} telemetry samples waiting",
        status.robot_id,
        status.version,
        status.phase,
        status.link,
        status.relay,
        or_none(status.session.map(|session| session.to_string())),
        or_none(status.online_since.map(|at| at.to_string())),
        or_none(status.last_telemetry.map(|at| at.to_string())),
        or_none(status.certificate_not_after.map(|at| at.to_string())),
        or_none(status.renewal.renews_at.map(|at| at.to_string())),
        outbox.pending,
        outbox.last_seq,
        outbox.late_samples,
    ));
    if let Some(signer) = &status.signer {
        print(&format!("key          by `{signer}`"));
    }
    let configuration = &status.configuration;
    if configuration.desired > 0 {
        print(&format!(
            "desired      version {} of the operators' settings stands over the file",
            configuration.desired
        ));
    }
    if !configuration.waiting.is_empty() {
        print(&format!(
            "waiting      for the next start: {}",
            configuration.waiting.join(", ")
        ));
    }
    let trouble = [
        &outbox.trouble,
        &status.last_error,
        &status.renewal.trouble,
        &configuration.refused,
    ];
    for trouble in trouble.into_iter().flatten() {
        print(&format!("trouble      {trouble}"));
    }
    Ok(())
}

/// `lekiwi-agent doctor`; fails when a check has.
pub(crate) fn report(report: &doctor::Report, json: bool) -> Result<(), Failure> {
    if json {
        let text =
            serde_json::to_string(report).map_err(|error| failed(ExitCode::Failure, &error))?;
        print(&text);
    } else {
        let is_terminal = std::io::stdout().is_terminal();
        print(&report.text(is_terminal, is_terminal && !no_color()));
    }
    match report.count(doctor::Verdict::Failed) {
        0 => Ok(()),
        1 => Err(wrong("one check failed")),
        count => Err(wrong(&format!("{count} checks failed"))),
    }
}

/// `lekiwi-agent check-config`.
pub(crate) fn configuration(config: &Config, path: &Path) {
    let brokers = config.relay.endpoints.iter();
    let brokers: Vec<String> = brokers.map(|way| format!("mqtts://{}", way.mqtt)).collect();
    print(&format!(
        "{} is right\nrobot      {} ({}, organisation {})\nrelay      https://{} and {}\nauthority  {}\n\
         state      {}\nsocket     {}\ntoken      {}\nheartbeat  every {} s, sensors every {} s",
        path.display(),
        config.robot_id,
        config.profile,
        config.org,
        config.relay.https,
        brokers.join(", "),
        config.relay.ca_fingerprint,
        config.state_dir.display(),
        config.socket.display(),
        config.token_file.display(),
        config.heartbeat.as_secs(),
        config.sample.as_secs(),
    ));
    if let Some(signer) = &config.signer {
        print(&format!("key        by `{signer}`"));
    }
}
