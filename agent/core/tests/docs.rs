//! The table of metrics in the documentation is what the catalogue says.

use std::fmt::Write;
use std::path::Path;

use lekiwi_agent_core::catalogue::{CATALOGUE, Metric};
use lekiwi_agent_core::debounce::Threshold;
use lekiwi_protocol::message::metric;

fn span(seconds: u64) -> String {
    match seconds {
        s if s % 3600 == 0 => format!("{} h", s / 3600),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

fn row(table: &mut String, described: &Metric) {
    let Metric {
        key,
        rule,
        what,
        source,
    } = described;
    let unit = metric::unit(key);
    let deadband = match rule.deadband {
        any if any > 1e300 => "never moves".to_owned(),
        deadband => deadband.to_string(),
    };
    let alert = match rule.alert {
        None => "–".to_owned(),
        Some(Threshold::Above { level, clear }) => format!("above {level} until {clear}"),
        Some(Threshold::Below { level, clear }) => format!("below {level} until {clear}"),
    };
    let (shortest, longest) = (
        span(rule.min_interval.as_secs()),
        span(rule.keep_alive.as_secs()),
    );
    let written = writeln!(
        table,
        "| `{key}` | {unit} | {what} | {source} | {deadband} | {shortest} | {longest} | {alert} |"
    );
    assert!(written.is_ok(), "a text takes everything");
}

#[test]
fn the_table_of_metrics_is_what_the_agent_measures() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/telemetry.md");
    let text = std::fs::read_to_string(&path).expect("the documentation is there");
    let (head, rest) = text
        .split_once("<!-- metrics: ")
        .expect("the table's place");
    let (note, rest) = rest.split_once("-->\n").expect("the table's begin");
    let (_, tail) = rest
        .split_once("<!-- end of metrics -->")
        .expect("the table's end");
    let mut table = String::from(
        "| metric | unit | what | source | deadband | shortest | longest | alert |\n|---|---|---|---|---|---|---|---|\n",
    );
    for described in &CATALOGUE {
        row(&mut table, described);
    }
    let expected =
        format!("{head}<!-- metrics: {note}-->\n\n{table}\n<!-- end of metrics -->{tail}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).expect("the documentation is writable");
    }
    let actual = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        actual == expected,
        "{} is stale (hint: UPDATE_DOCS=1 cargo test -p lekiwi-agent-core --test docs)",
        path.display()
    );
}
