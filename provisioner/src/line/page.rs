//! The line's page. Pure: a snapshot in, HTML out. Everything that comes from boards or files is escaped.

use std::fmt::{self, Write as _};

use lekiwi_protocol::Timestamp;

use super::desk::Snapshot;
use super::unit::{State, Unit};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Text in HTML.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// What may run and be fetched on the page that has `nonce`.
#[must_use]
pub(super) fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The whole page.
#[must_use]
pub(super) fn page(snapshot: &Snapshot, now: Timestamp, nonce: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<link rel=\"icon\" href=\"data:,\">\n<title>{name} · Lekiwi line</title>\n<style nonce=\"{nonce}\">{STYLE}</style>\n</head>\n<body>\n<header><h1>{name}</h1><a href=\"/units.csv\" download>CSV</a><span id=\"link\" role=\"status\"></span></header>\n<main id=\"line\">{}</main>\n<script nonce=\"{nonce}\">{SCRIPT}</script>\n</body>\n</html>\n",
        content(snapshot, now),
        name = Escaped(&snapshot.name),
    )
}

/// The part of the page that changes.
#[must_use]
pub(super) fn content(snapshot: &Snapshot, now: Timestamp) -> String {
    let mut html = String::new();
    if let Some(trouble) = &snapshot.trouble {
        push(
            &mut html,
            format_args!(
                "<p class=\"trouble\" role=\"alert\">{}</p>",
                Escaped(trouble)
            ),
        );
    }
    let counts = &snapshot.counts;
    html.push_str("<ul class=\"counts\">");
    for (name, count) in [
        ("units", counts.total),
        ("waiting", counts.waiting),
        ("booting", counts.booting),
        ("installing", counts.installing),
        ("enrolled", counts.enrolled),
        ("healthy", counts.healthy),
        ("failed", counts.failed),
    ] {
        push(
            &mut html,
            format_args!("<li class=\"{name}\"><b data-count=\"{name}\">{count}</b> {name}</li>"),
        );
    }
    html.push_str("</ul><div class=\"scroll\"><table><thead><tr><th>Unit</th><th>Robot</th><th>Profile</th><th>Board</th><th>State</th><th>For</th><th>Last step</th><th></th></tr></thead><tbody>");
    let mut units: Vec<&Unit> = snapshot.units.iter().collect();
    // Who needs a person comes first, then who is under way; strangers come last.
    units.sort_by_key(|unit| (!taken(unit, snapshot), urgency(&unit.state)));
    for unit in units {
        row(&mut html, unit, snapshot, now);
    }
    html.push_str("</tbody></table></div>");
    html
}

fn taken(unit: &Unit, snapshot: &Snapshot) -> bool {
    unit.expected || snapshot.takes_all
}

fn urgency(state: &State) -> u8 {
    match state {
        State::Failed { .. } => 0,
        State::Installing => 1,
        State::Booting => 2,
        State::Enrolled => 3,
        State::Waiting => 4,
        State::Healthy => 5,
    }
}

fn row(html: &mut String, unit: &Unit, snapshot: &Snapshot, now: Timestamp) {
    let state = if taken(unit, snapshot) {
        unit.state.name()
    } else {
        "unexpected"
    };
    let key = Escaped(&unit.key.0);
    let serial = unit.serial.as_ref().map_or("", |serial| serial.as_str());
    let mac = unit.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let robot = unit.robot_id.as_ref().map_or("", |robot| robot.as_str());
    let memory = unit
        .memory_mib
        .map(|mib| format!(" {mib} MiB"))
        .unwrap_or_default();
    push(
        html,
        format_args!(
            "<tr data-unit=\"{key}\" data-state=\"{state}\"><td><b>{}</b><br><small>{}</small></td><td>{}</td><td>{}</td><td>{}{memory}</td>",
            Escaped(if serial.is_empty() {
                &unit.key.0
            } else {
                serial
            }),
            Escaped(&mac),
            Escaped(robot),
            Escaped(&unit.profile),
            Escaped(unit.board.as_deref().unwrap_or_default()),
        ),
    );
    let reason = unit.state.reason().unwrap_or_default();
    let again = if unit.attempt > 1 {
        format!(" <small>attempt {}</small>", unit.attempt)
    } else {
        String::new()
    };
    push(
        html,
        format_args!(
            "<td><span class=\"state {state}\">{state}</span>{again}<br><small>{}</small></td><td>{}</td>",
            Escaped(reason),
            span(now.since(unit.since).as_secs()),
        ),
    );
    let last = unit.steps.last();
    push(
        html,
        format_args!(
            "<td>{} <small>{}</small></td><td>",
            Escaped(last.map_or("", |step| &step.name)),
            Escaped(last.map_or("", |step| &step.detail)),
        ),
    );
    if !matches!(unit.state, State::Waiting | State::Healthy) {
        push(
            html,
            format_args!("<button type=\"button\" data-retry=\"{key}\">Retry</button> "),
        );
    }
    if unit.robot_id.is_some() && taken(unit, snapshot) {
        push(
            html,
            format_args!("<a href=\"/units/{key}/label.svg\">Label</a>"),
        );
    }
    html.push_str("</td></tr>");
}

/// Writing to a string does not fail.
fn push(html: &mut String, arguments: fmt::Arguments<'_>) {
    let _ = html.write_fmt(arguments);
}

/// `3:07`, or `2:03:07`.
pub(super) fn span(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::roster::Counts;
    use crate::line::unit::Key;

    #[test]
    fn what_boards_say_stays_text() {
        let at = Timestamp::from_ms;
        let mut unit = Unit::new(Key("abcdef01".into()), "lekiwi".into(), at(0));
        unit.board = Some("<script>alert(1)</script>".into());
        unit.state = State::Failed {
            reason: "\"><img src=x onerror='x'>&".into(),
        };
        let snapshot = Snapshot {
            name: "line <a>".into(),
            counts: Counts::default(),
            units: vec![unit],
            takes_all: false,
            trouble: Some("<b>".into()),
        };
        let html = page(&snapshot, at(187_000), "n0nce");
        assert!(!html.contains("<script>alert"), "{html}");
        assert!(!html.contains("<img"), "{html}");
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(html.contains("&quot;&gt;&lt;img src=x onerror=&#39;x&#39;&gt;&amp;"));
        assert!(html.contains("<title>line &lt;a&gt; · Lekiwi line</title>"));
        assert!(html.contains("<td>3:07</td>"));
        assert_eq!(html.matches("nonce=\"n0nce\"").count(), 2);
    }
}
