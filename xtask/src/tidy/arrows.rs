//! Which package may depend on which, and that all keep the workspace's lints.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command::{cargo, read};

/// Package, and the packages of this workspace that it may depend on; none, where nothing is listed.
const ARROWS: &[(&str, &[&str])] = &[
    ("lekiwi-protocol", &[]),
    ("lekiwi-agent-core", &["lekiwi-protocol"]),
    ("lekiwi-discovery", &["lekiwi-protocol"]),
    (
        "lekiwi-agent",
        &["lekiwi-protocol", "lekiwi-discovery", "lekiwi-agent-core"],
    ),
    ("lekiwi-relay-core", &["lekiwi-protocol"]),
    (
        "lekiwi-relay",
        &["lekiwi-protocol", "lekiwi-discovery", "lekiwi-relay-core"],
    ),
    ("lekiwi-cli", &["lekiwi-protocol", "lekiwi-discovery"]),
    ("lekiwi-provisioner", &["lekiwi-protocol"]),
    // Simulated robots send from the agent's own outbox (decision 4).
    ("lekiwi-tests", &["lekiwi-protocol", "lekiwi-agent"]),
    ("xtask", &[]),
];

/// Packages without IO. What is optional is a feature of one: its reason stands in the manifest.
pub(super) const PURE: &[&str] = &["lekiwi-protocol", "lekiwi-agent-core", "lekiwi-relay-core"];

/// What reaches sockets, files, clocks or the kernel.
const IMPURE: &[&str] = &[
    "tokio",
    "mio",
    "hyper",
    "reqwest",
    "axum",
    "rustls",
    "tokio-rustls",
    "rumqttc",
    "rmqtt",
    "rusqlite",
    "nix",
    "libc",
    "socket2",
    "sysinfo",
    "tempfile",
    "tracing-subscriber",
    "async-std",
    "smol",
    "chrono",
    "time",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    path: Option<String>,
    kind: Option<String>,
    #[serde(default)]
    optional: bool,
}

fn metadata() -> Result<Vec<Package>> {
    let text = read(&mut cargo([
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--locked",
    ]))?;
    let metadata: Metadata =
        serde_json::from_str(&text).context("cargo metadata printed something unexpected")?;
    Ok(metadata.packages)
}

/// The arrows between packages, and what pure ones must not reach.
pub(super) fn check(problems: &mut Vec<String>) -> Result<()> {
    problems.extend(judge(&metadata()?));
    Ok(())
}

fn judge(packages: &[Package]) -> Vec<String> {
    let mut problems = Vec::new();
    for package in packages {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
            problems.push(format!(
                "{} has no arrows (hint: list it in xtask/src/tidy/arrows.rs)",
                package.name
            ));
            continue;
        };
        for dependency in &package.dependencies {
            if dependency.path.is_some() && !allowed.contains(&dependency.name.as_str()) {
                problems.push(format!(
                    "{} must not depend on {}",
                    package.name, dependency.name
                ));
            }
            let for_tests = dependency.kind.as_deref() == Some("dev");
            if PURE.contains(&package.name.as_str())
                && IMPURE.contains(&dependency.name.as_str())
                && !for_tests
                && !dependency.optional
            {
                problems.push(format!(
                    "{} does no IO, so it must not depend on {}",
                    package.name, dependency.name
                ));
            }
        }
    }
    problems
}

/// Every package takes the workspace's lints.
pub(super) fn lints(problems: &mut Vec<String>) -> Result<()> {
    #[derive(Deserialize)]
    struct Manifest {
        lints: Option<Lints>,
    }
    #[derive(Deserialize)]
    struct Lints {
        workspace: Option<bool>,
    }
    for package in metadata()? {
        let text = std::fs::read_to_string(&package.manifest_path)?;
        let manifest: Manifest = toml::from_str(&text)
            .with_context(|| format!("{} is no manifest", package.manifest_path))?;
        if manifest.lints.and_then(|lints| lints.workspace) != Some(true) {
            problems.push(format!(
                "{} must say `[lints] workspace = true`",
                package.name
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[(&str, bool, Option<&str>)]) -> Package {
        Package {
            name: name.to_owned(),
            manifest_path: String::new(),
            dependencies: dependencies
                .iter()
                .map(|(name, ours, kind)| Dependency {
                    name: (*name).to_owned(),
                    path: ours.then(String::new),
                    kind: kind.map(str::to_owned),
                    optional: false,
                })
                .collect(),
        }
    }

    #[test]
    fn wrong_arrows_are_named() {
        let problems = judge(&[
            package(
                "lekiwi-agent",
                &[("lekiwi-protocol", true, None), ("tokio", false, None)],
            ),
            package("lekiwi-cli", &[("lekiwi-relay", true, Some("dev"))]),
            package(
                "lekiwi-relay-core",
                &[("tokio", false, None), ("tempfile", false, Some("dev"))],
            ),
            package("lekiwi-new", &[]),
        ]);
        assert_eq!(
            problems,
            [
                "lekiwi-cli must not depend on lekiwi-relay",
                "lekiwi-relay-core does no IO, so it must not depend on tokio",
                "lekiwi-new has no arrows (hint: list it in xtask/src/tidy/arrows.rs)",
            ]
        );
    }
}
