//! What is shipped for Prometheus and Grafana, judged by promtool and held against a running relay.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::Relay;
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn promtool(arguments: &[&str], folder: &Path, input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (apt-get install prometheus)");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&said)
    );
}

/// The names of the relay's metrics in `text`.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("lekiwi_"))
        .collect()
}

#[test]
fn rules_and_configuration_are_what_prometheus_takes() {
    let folder = repository().join("deploy/prometheus");
    promtool(
        &["check", "rules", "--lint-fatal", "rules.yml"],
        &folder,
        "",
    );
    promtool(&["test", "rules", "rules.test.yml"], &folder, "");
    let there = tempfile::tempdir().expect("a temporary folder");
    for name in ["prometheus.yml", "rules.yml"] {
        fs::copy(folder.join(name), there.path().join(name)).expect("a copy");
    }
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        fs::write(there.path().join(name), "").expect("a file");
    }
    promtool(&["check", "config", "prometheus.yml"], there.path(), "");
}

#[test]
fn rules_dashboard_and_documentation_name_the_metrics_that_there_are() {
    let relay = Relay::start();
    let session = relay.log_in();
    let metrics = relay.curl_as(&session, "/metrics", &[]).body;
    promtool(&["check", "metrics"], Path::new("/"), &metrics);

    let samples: BTreeSet<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/fleet.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let expressions: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"))
        .map(|target| target["expr"].as_str().expect("an expression"))
        .collect();
    assert!(expressions.len() >= panels.len());
    for used in [expressions.join(" "), text("deploy/prometheus/rules.yml")] {
        let used = names(&used);
        assert!(!used.is_empty());
        let missing: Vec<_> = used.difference(&samples).collect();
        assert!(missing.is_empty(), "{missing:?}: {metrics}");
    }

    let described: BTreeSet<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let documentation = text("docs/observability.md");
    let rows = documentation
        .lines()
        .filter(|line| line.starts_with("| `lekiwi_"));
    let documented: BTreeSet<&str> = rows
        .filter_map(|row| names(row).into_iter().next())
        .collect();
    assert_eq!(documented, described);
}
