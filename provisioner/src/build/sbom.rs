//! What is in an image, as CycloneDX 1.6: every Debian package with its version and package URL. Reads the
//! package database of the finished tree.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::BuildError;
use super::recipe::Recipe;

/// The bill of materials of a tree.
pub(super) fn of(root: &Path, recipe: &Recipe) -> Result<String, BuildError> {
    let path = root.join("var/lib/dpkg/status");
    let status = fs::read_to_string(&path).map_err(BuildError::file("read", &path))?;
    let mut text = document(&status, recipe).to_string();
    text.push('\n');
    Ok(text)
}

fn document(status: &str, recipe: &Recipe) -> Value {
    let components: Vec<Value> = status
        .split("\n\n")
        .filter_map(|entry| component(entry, recipe))
        .collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "operating-system",
                "name": recipe.name,
                "version": recipe.suite,
            },
        },
        "components": components,
    })
}

fn component(entry: &str, recipe: &Recipe) -> Option<Value> {
    let field = |name: &str| {
        entry
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    if field("Status")? != "install ok installed" {
        return None;
    }
    let (name, version, architecture) =
        (field("Package")?, field("Version")?, field("Architecture")?);
    // In a package URL the version is percent-encoded; Debian's use + : and ~ of what needs it.
    let encoded = version
        .replace('%', "%25")
        .replace('+', "%2B")
        .replace(':', "%3A");
    let name_in_url = name.replace('+', "%2B");
    let purl = if name.starts_with("lekiwi-") {
        format!("pkg:generic/{name}@{encoded}?arch={architecture}")
    } else {
        format!(
            "pkg:deb/debian/{name_in_url}@{encoded}?arch={architecture}&distro={}",
            recipe.suite
        )
    };
    Some(
        json!({ "type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl }),
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_listed() {
        let recipe = Recipe::parse(include_str!("../../../image/base.yml")).unwrap();
        let status = "Package: libstdc++6\nStatus: install ok installed\nArchitecture: arm64\nVersion: 1:14.2.0-19\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nArchitecture: arm64\nVersion: 1\n\n\
                      Package: lekiwi-agent\nStatus: install ok installed\nArchitecture: arm64\nVersion: 0.1.0\n";
        let document = document(status, &recipe);
        assert_eq!(
            document["components"],
            json!([
                {
                    "type": "library", "name": "libstdc++6", "version": "1:14.2.0-19",
                    "purl": "pkg:deb/debian/libstdc%2B%2B6@1%3A14.2.0-19?arch=arm64&distro=trixie",
                    "bom-ref": "pkg:deb/debian/libstdc%2B%2B6@1%3A14.2.0-19?arch=arm64&distro=trixie",
                },
                {
                    "type": "library", "name": "lekiwi-agent", "version": "0.1.0",
                    "purl": "pkg:generic/lekiwi-agent@0.1.0?arch=arm64",
                    "bom-ref": "pkg:generic/lekiwi-agent@0.1.0?arch=arm64",
                },
            ])
        );
    }
}
