//! The environment variables that count, read once; tests fill it by hand.

use std::path::PathBuf;

/// What the process was started with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    /// `LEKIWI_URL`: the relay, instead of the one logged in to.
    pub(crate) url: Option<String>,
    /// `LEKIWI_TOKEN`: a session token, instead of the stored one.
    pub(crate) token: Option<String>,
    /// `LEKIWI_KEY`: an API key instead of a session, or `@` and the file that has one.
    pub(crate) key: Option<String>,
    /// `LEKIWI_CA_FINGERPRINT`: the relay's authority, instead of the stored one.
    pub(crate) ca_fingerprint: Option<String>,
    /// `$XDG_CONFIG_HOME/lekiwi`, or `~/.config/lekiwi`.
    pub(crate) config_dir: Option<PathBuf>,
    /// `NO_COLOR`, whatever it says.
    pub(crate) no_color: bool,
}

impl Environment {
    pub(crate) fn of_process() -> Self {
        // Set but empty means unset.
        Self::read(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn read(var: impl Fn(&str) -> Option<std::ffi::OsString>) -> Self {
        let text = |name: &str| var(name).map(|value| value.to_string_lossy().into_owned());
        // The XDG specification: a relative path is to be ignored.
        let xdg = var("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        Self {
            url: text("LEKIWI_URL"),
            token: text("LEKIWI_TOKEN"),
            key: text("LEKIWI_KEY"),
            ca_fingerprint: text("LEKIWI_CA_FINGERPRINT"),
            config_dir: xdg
                .or_else(|| var("HOME").map(|home| PathBuf::from(home).join(".config")))
                .map(|config| config.join("lekiwi")),
            no_color: var("NO_COLOR").is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_folder() {
        for (xdg, home, expected) in [
            (Some("/x"), Some("/h"), Some("/x/lekiwi")),
            (Some("relative"), Some("/h"), Some("/h/.config/lekiwi")),
            (None, Some("/h"), Some("/h/.config/lekiwi")),
            (None, None, None),
        ] {
            let environment = Environment::read(|name| match name {
                "XDG_CONFIG_HOME" => xdg.map(Into::into),
                "HOME" => home.map(Into::into),
                _ => None,
            });
            assert_eq!(environment.config_dir, expected.map(PathBuf::from));
        }
    }
}
