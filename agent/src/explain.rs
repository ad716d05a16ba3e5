//! `lekiwi-agent hardware` for people: what was found, and why it is this profile and no other.

use lekiwi_agent::config::Config;
use lekiwi_agent::hardware::{self, Detection};
use lekiwi_agent_core::hardware::{Bus, BusState, UsbDevice};

/// One fact a line.
pub(crate) fn detection(detection: &Detection, config: &Config) -> String {
    let (facts, found) = (&detection.facts, &detection.identification);
    let board = &facts.board;
    let or_none = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    let mut lines = vec![
        (
            "board",
            format!("{}, {} GB", or_none(&board.kind), board.memory_gb),
        ),
        ("model", or_none(&board.model)),
        ("serial", or_none(&board.serial)),
        ("HAT", or_none(board.hat.as_deref().unwrap_or_default())),
    ];
    lines.extend(facts.usb.iter().map(|usb| ("USB", device(usb))));
    lines.extend(
        facts
            .cameras
            .iter()
            .map(|camera| ("camera", device(camera))),
    );
    lines.extend(facts.buses.iter().map(|bus| ("servos", servos(bus))));
    lines.push(("", String::new()));
    lines.push(("profile", found.profile.clone()));
    lines.extend(found.matched.iter().map(|what| ("fits", what.clone())));
    lines.extend(found.differing.iter().map(|what| ("differs", what.clone())));
    if let Some(other) = &found.runner_up {
        let but = match &other.differing[..] {
            [] => String::new(),
            differing => format!(", but {}", differing.join("; ")),
        };
        lines.push(("runner-up", format!("{}{but}", other.profile)));
    }
    let used = match hardware::remembered(config) {
        _ if config.profile.to_string() != "auto" => format!("{}, as configured", config.profile),
        Some(remembered) => format!("{}, as remembered", remembered.profile),
        None => format!("{}, as detected", found.profile),
    };
    lines.push(("in use", used));
    let lines = lines
        .into_iter()
        .map(|(what, text)| format!("{what:<11} {text}").trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

fn device(device: &UsbDevice) -> String {
    format!(
        "{}:{} at {} {}",
        device.vendor, device.product, device.port, device.name
    )
}

fn servos(bus: &Bus) -> String {
    let what = match &bus.state {
        BusState::Answered { servos, garbled } => {
            let servos = servos.iter().map(|servo| match servo.model {
                Some(model) => format!("{} (model {model})", servo.id),
                None => format!("{} (model unknown)", servo.id),
            });
            let garbled = garbled.iter().map(|id| format!("{id} (garbled)"));
            servos.chain(garbled).collect::<Vec<_>>().join(", ")
        }
        BusState::Silent => "nobody answers".to_owned(),
        BusState::Noise => "something that is no servo".to_owned(),
        BusState::Busy => "used by another program".to_owned(),
        BusState::Failed { reason } => reason.clone(),
    };
    format!("{}: {what}", bus.port)
}
