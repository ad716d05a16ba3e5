//! Rules about what makes the machine a robot: token, relay. They look at the text, for it may stand in any file.

use lekiwi_protocol::Timestamp;

use super::{Report, Texts};
use crate::order::check::{is_address, is_token};

pub(super) fn check(texts: &Texts, now: Timestamp, report: &mut Report) {
    for file in ["user-data", "firstrun.sh"] {
        for (index, line) in texts.text(file).unwrap_or_default().lines().enumerate() {
            let at = (file, Some(index + 1));
            tokens(line, at, report);
            address(line, at, report);
        }
    }
    let expires = texts.sidecar("token_expires");
    if let Some(expires) = expires.and_then(|text| text.parse::<Timestamp>().ok())
        && expires <= now
    {
        let text = texts.text("lekiwi.json").unwrap_or_default();
        report.error(
            "token-expired",
            ("lekiwi.json", super::line(text, "token_expires")),
            format!("the token expired at {expires}: the relay lets no robot in with it"),
        );
        report.hint("make one with `lekiwi token create`, and the seed anew");
    }
}

fn tokens(line: &str, at: (&str, Option<usize>), report: &mut Report) {
    for (index, _) in line.match_indices("lkt_") {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let rest = &line[index..];
        let token = &rest[..rest.find(|c| !fits(c)).unwrap_or(rest.len())];
        // The seed's own script knows a scrubbed one by its beginning.
        if rest[token.len()..].starts_with('*') {
            continue;
        }
        if token[4..].len() >= 20 && token[4..].bytes().all(|b| b == b'0') {
            report.warning(
                "token-used",
                at,
                "the token was overwritten after an enrolment: no other robot gets in with this seed",
            );
            report.hint("make one with `lekiwi token create`, and the seed anew");
        } else if !is_token(token) {
            report.error(
                "token",
                at,
                "expected an enrolment token of lkt_ and at least 20 letters, digits, '-' and '_': the relay lets no robot in with this one",
            );
            report.hint("make one with `lekiwi token create`");
        }
    }
}

/// `https:` and `mqtt:` as the agent's configuration has them.
fn address(line: &str, at: (&str, Option<usize>), report: &mut Report) {
    for (key, scheme, example) in [
        ("https:", "https", "https://relay.example:8443"),
        ("mqtt:", "mqtts", "mqtts://relay.example:8883"),
    ] {
        let Some(value) = line.trim_start().strip_prefix(key) else {
            continue;
        };
        let value = value.trim().trim_matches(['"', '\'']);
        if value.is_empty() || value.starts_with("//") || is_address(scheme, value) {
            continue;
        }
        report.error(
            "address",
            at,
            format!("expected an address such as {example}, got {value:?}: the agent does not start with it"),
        );
    }
}
