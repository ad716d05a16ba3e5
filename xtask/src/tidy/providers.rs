//! One implementation of cryptography in each program: ring where bytes count, aws-lc-rs in the relay. Two
//! make rustls refuse to choose, at run time, wherever no provider is named.

use anyhow::Result;

use crate::command::{cargo, read};

/// Package, the feature of rustls that it must have, and the one it must not.
const PROVIDERS: &[(&str, &str, Option<&str>)] = &[
    ("lekiwi-agent", "ring", Some("aws_lc_rs")),
    ("lekiwi-cli", "ring", Some("aws_lc_rs")),
    ("lekiwi-provisioner", "ring", Some("aws_lc_rs")),
    // The broker's library brings ring through quinn and leaves no choice, so the relay names its provider
    // wherever it makes a TLS configuration.
    ("lekiwi-relay", "aws_lc_rs", None),
];

/// Libraries that no program may link.
const BANNED: &[&str] = &["openssl-sys", "native-tls"];

/// Looks at what each program links.
pub(super) fn check(problems: &mut Vec<String>) -> Result<()> {
    for (package, wanted, unwanted) in PROVIDERS {
        let tree = read(&mut cargo([
            "tree",
            "--locked",
            "--quiet",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}|{f}",
        ]))?;
        problems.extend(judge(package, wanted, *unwanted, &tree));
    }
    Ok(())
}

fn judge(package: &str, wanted: &str, unwanted: Option<&str>, tree: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let features = |krate: &str| {
        tree.lines()
            .filter_map(|line| line.split_once('|'))
            .find(|(name, _)| name.split(' ').next() == Some(krate))
            .map(|(_, features)| {
                features
                    .trim_end_matches(" (*)")
                    .split(',')
                    .collect::<Vec<_>>()
            })
    };
    match features("rustls") {
        None => problems.push(format!("{package} must use rustls")),
        Some(features) => {
            if !features.contains(&wanted) {
                problems.push(format!(
                    "{package} must have rustls with {wanted}, got {}",
                    features.join(",")
                ));
            }
            if let Some(unwanted) = unwanted.filter(|name| features.contains(name)) {
                problems.push(format!("{package} must not have rustls with {unwanted}"));
            }
        }
    }
    for banned in BANNED {
        if features(banned).is_some() {
            problems.push(format!("{package} must not link {banned}"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_providers_or_the_wrong_one_are_named() {
        let good = "lekiwi-agent v0.1.0 (/x)|\nrustls v0.23.1|ring,std\nrustls-pki-types v1.0.0|aws_lc_rs\n";
        assert_eq!(
            judge("lekiwi-agent", "ring", Some("aws_lc_rs"), good),
            [""; 0]
        );
        let both = "rustls v0.23.1|aws_lc_rs,ring,std (*)\nopenssl-sys v0.9.1|\n";
        assert_eq!(
            judge("lekiwi-agent", "ring", Some("aws_lc_rs"), both),
            [
                "lekiwi-agent must not have rustls with aws_lc_rs",
                "lekiwi-agent must not link openssl-sys",
            ]
        );
        assert_eq!(
            judge(
                "lekiwi-agent",
                "ring",
                Some("aws_lc_rs"),
                "rustls v0.23.1|std\n"
            ),
            ["lekiwi-agent must have rustls with ring, got std"]
        );
        assert_eq!(
            judge("lekiwi-agent", "ring", Some("aws_lc_rs"), ""),
            ["lekiwi-agent must use rustls"]
        );
    }
}
