//! Who else than the relay may say who somebody is, as the configuration says it.

use std::path::PathBuf;
use std::time::Duration;

use lekiwi_protocol::{Role, Scope};
use reqwest::Url;
use serde::Deserialize;

use super::alerts::SecretSource;

/// Most providers.
const MAX_PROVIDERS: usize = 8;
/// Most roles that claims of one provider are mapped to.
const MAX_ROLES: usize = 100;
const MAX_NAME: usize = 40;
const NAME_CLAIM: &str = "preferred_username";
const LONGEST_SESSION_H: u32 = 12;

/// A provider of OpenID Connect, as a person wrote it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawProvider {
    name: String,
    issuer: String,
    client_id: String,
    #[serde(default)]
    client_secret: Option<SecretSource>,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    scopes: Option<Vec<String>>,
    #[serde(default)]
    name_claim: Option<String>,
    #[serde(default)]
    session_hours: Option<u32>,
    #[serde(default)]
    roles: Vec<MappedRole>,
    #[serde(default)]
    default_role: Option<Role>,
}

/// A role for those of whom the provider says something.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MappedRole {
    /// Which claim; a JSON pointer when it begins with `/`.
    pub claim: String,
    /// What it is, or has among others.
    pub value: String,
    /// What they are then.
    pub role: Role,
    /// Where.
    #[serde(default = "fleet")]
    pub on: Scope,
}

fn fleet() -> Scope {
    Scope::Fleet
}

/// A checked provider of OpenID Connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderConfig {
    /// What it is called, here and in addresses.
    pub name: String,
    /// Who signs: exactly as the provider writes it.
    pub issuer: String,
    /// What the relay is called there.
    pub client_id: String,
    /// The relay's secret there; a public client has none.
    pub client_secret: Option<SecretSource>,
    /// An authority to trust beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// What is asked for, with `openid`.
    pub scopes: Vec<String>,
    /// Which claim says as whom somebody logs in here for the first time.
    pub name_claim: String,
    /// How long sessions last at most.
    pub session: Duration,
    /// Roles by claims.
    pub roles: Vec<MappedRole>,
    /// What everybody else is.
    pub default_role: Option<Role>,
}

impl ProviderConfig {
    /// Whether it may be spoken to in the clear: only on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        Url::parse(&self.issuer).is_ok_and(|url| is_local(&url))
    }
}

/// Whether what is sent there does not leave the machine, and needs no TLS.
pub(crate) fn is_local(url: &Url) -> bool {
    url.scheme() == "http" && matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"))
}

/// What cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct OidcError {
    place: String,
    problem: String,
}

/// Checks all of them.
pub(super) fn check(providers: Vec<RawProvider>) -> Result<Vec<ProviderConfig>, OidcError> {
    let problem = |place: &str, problem: String| OidcError {
        place: place.to_owned(),
        problem,
    };
    let count = providers.len();
    if count > MAX_PROVIDERS {
        let text = format!("expected at most {MAX_PROVIDERS}, got {count}");
        return Err(problem("oidc", text));
    }
    let mut checked: Vec<ProviderConfig> = Vec::new();
    for raw in providers {
        let place = format!(
            "provider {}",
            raw.name.chars().take(MAX_NAME).collect::<String>()
        );
        let provider = raw.check().map_err(|text| problem(&place, text))?;
        if checked.iter().any(|other| other.name == provider.name) {
            return Err(problem(&place, "expected each name once".to_owned()));
        }
        checked.push(provider);
    }
    Ok(checked)
}

impl RawProvider {
    fn check(self) -> Result<ProviderConfig, String> {
        let fits =
            |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
        if self.name.is_empty() || self.name.len() > MAX_NAME || !self.name.bytes().all(fits) {
            return Err(format!(
                "expected name to be 1 to {MAX_NAME} of a-z, 0-9 and -, got {:?}",
                cut(&self.name)
            ));
        }
        let is_secure = |url: &Url| url.scheme() == "https" && url.has_host() || is_local(url);
        let is_plain = |url: &Url| {
            let is_bare = url.query().is_none() && url.fragment().is_none();
            is_bare && url.username().is_empty() && url.password().is_none()
        };
        let url = Url::parse(&self.issuer).ok();
        if !url.is_some_and(|url| is_secure(&url) && is_plain(&url)) {
            return Err(format!(
                "expected issuer to be an https address without user, query and fragment, got {:?}",
                cut(&self.issuer)
            ));
        }
        if self.client_id.is_empty() {
            return Err(
                "expected client_id to be what the provider calls the relay, got nothing"
                    .to_owned(),
            );
        }
        let scopes = self.scopes.unwrap_or_else(|| vec!["profile".to_owned()]);
        let is_token =
            |scope: &String| !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic());
        if let Some(scope) = scopes.iter().find(|scope| !is_token(scope)) {
            return Err(format!(
                "expected scopes without spaces, got {:?}",
                cut(scope)
            ));
        }
        let hours = self.session_hours.unwrap_or(LONGEST_SESSION_H);
        if !(1..=LONGEST_SESSION_H).contains(&hours) {
            return Err(format!(
                "expected session_hours to be 1 to {LONGEST_SESSION_H}, got {hours}"
            ));
        }
        let count = self.roles.len();
        if count > MAX_ROLES {
            return Err(format!("expected at most {MAX_ROLES} roles, got {count}"));
        }
        if count == 0 && self.default_role.is_none() {
            return Err("expected roles or default_role, or nobody could log in".to_owned());
        }
        Ok(ProviderConfig {
            name: self.name,
            issuer: self.issuer,
            client_id: self.client_id,
            client_secret: self.client_secret,
            ca_file: self.ca_file,
            scopes,
            name_claim: self.name_claim.unwrap_or_else(|| NAME_CLAIM.to_owned()),
            session: Duration::from_secs(u64::from(hours) * 3600),
            roles: self.roles,
            default_role: self.default_role,
        })
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use super::super::{Raw, parse};
    use super::*;

    fn read(text: &str) -> Result<Vec<ProviderConfig>, String> {
        let config = parse(Path::new("relay.yml"), text).and_then(Raw::check);
        let whole = |error: &dyn std::error::Error| match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        config
            .map(|config| config.oidc)
            .map_err(|error| whole(&error))
    }

    #[test]
    fn what_is_documented_is_read() {
        let page = include_str!("../../../docs/people.md");
        let mut examples = page.split("```yaml\n");
        let example = examples.find(|text| text.contains("oidc:")).unwrap();
        let providers = read(example.split("```").next().unwrap()).unwrap();
        let [company] = providers.as_slice() else {
            panic!("expected one provider, got {providers:?}");
        };
        assert_eq!(company.name, "company");
        assert_eq!(company.session, Duration::from_secs(8 * 3600));
        assert_eq!(company.name_claim, "preferred_username");
        assert_eq!(company.roles[0].on, Scope::Fleet);
        assert_eq!(company.roles[1].on.to_string(), "group:warehouse");
        assert_eq!(company.default_role, None);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        let with = |more: &str| {
            format!(
                "people: {{oidc: [{{name: a, issuer: 'https://i.example', client_id: c, {more}}}]}}"
            )
        };
        for (text, expected) in [
            (
                "people: {oidc: [{name: A, issuer: 'https://i.example', client_id: c}]}".to_owned(),
                "cannot use people: provider A: expected name to be 1 to 40 of a-z, 0-9 and -, got \"A\"",
            ),
            (
                "people: {oidc: [{name: a, issuer: 'http://i.example', client_id: c}]}".to_owned(),
                "cannot use people: provider a: expected issuer to be an https address without user, query and fragment, got \"http://i.example\"",
            ),
            (
                "people: {oidc: [{name: a, issuer: 'http://127.0.0.1.example', client_id: c}]}"
                    .to_owned(),
                "cannot use people: provider a: expected issuer to be an https address without user, query and fragment, got \"http://127.0.0.1.example\"",
            ),
            (
                with("session_hours: 13, default_role: operator"),
                "cannot use people: provider a: expected session_hours to be 1 to 12, got 13",
            ),
            (
                with("scopes: ['a b'], default_role: operator"),
                "cannot use people: provider a: expected scopes without spaces, got \"a b\"",
            ),
            (
                with("roles: []"),
                "cannot use people: provider a: expected roles or default_role, or nobody could log in",
            ),
        ] {
            assert_eq!(read(&text).unwrap_err(), expected, "{text}");
        }
        let twice = "people: {oidc: [
            {name: a, issuer: 'http://127.0.0.1:1', client_id: c, default_role: operator},
            {name: a, issuer: 'http://[::1]:1', client_id: c, default_role: operator}]}";
        assert_eq!(
            read(twice).unwrap_err(),
            "cannot use people: provider a: expected each name once"
        );
    }
}
