//! Who somebody is here, by what their provider says. Pure.

use lekiwi_protocol::api::Grant;
use lekiwi_protocol::{Role, Scope, UserName};
use serde_json::Value;

use super::token::Claims;
use crate::config::oidc::{MappedRole, ProviderConfig};
use crate::store::records::Outsider;

/// Providers say so beside an address that they have checked.
const EMAIL: &str = "email";

/// The claim of this name; what is below another one when it is a JSON pointer.
fn find<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    let Some(path) = name.strip_prefix('/') else {
        return claims.get(name);
    };
    let (first, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
    claims.get(first)?.pointer(rest)
}

/// Whether all is said that the configuration asks for.
pub(super) fn are_complete(config: &ProviderConfig, claims: &Claims) -> bool {
    let roles = config.roles.iter().map(|role| role.claim.as_str());
    let mut names = roles.chain([config.name_claim.as_str()]);
    names.all(|name| find(claims, name).is_some())
}

/// Who it is, and what they are here.
pub(super) fn outsider(config: &ProviderConfig, claims: &Claims) -> Outsider {
    let text = |name: &str| find(claims, name).and_then(Value::as_str);
    let is_checked =
        config.name_claim != EMAIL || claims.get("email_verified") == Some(&true.into());
    let name = text(&config.name_claim).filter(|_| is_checked);
    let matching = config.roles.iter().filter(|role| applies(role, claims));
    let mut roles: Vec<Grant> = matching
        .map(|role| grant(role.role, role.on.clone()))
        .collect();
    if let Some(role) = config.default_role
        && roles.is_empty()
    {
        roles.push(grant(role, Scope::Fleet));
    }
    Outsider {
        issuer: config.issuer.clone(),
        // No token is without.
        subject: text("sub").unwrap_or_default().to_owned(),
        name: name.and_then(|name| UserName::new(&name.to_ascii_lowercase()).ok()),
        roles,
    }
}

fn grant(role: Role, on: Scope) -> Grant {
    Grant {
        role,
        on,
        until: None,
    }
}

fn applies(role: &MappedRole, claims: &Claims) -> bool {
    match find(claims, &role.claim) {
        Some(Value::Array(all)) => all.iter().any(|one| *one == role.value),
        Some(one) => *one == role.value,
        None => false,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn config(name_claim: &str, default_role: Option<Role>) -> ProviderConfig {
        let role = |claim: &str, value: &str, role, on: &str| MappedRole {
            claim: claim.to_owned(),
            value: value.to_owned(),
            role,
            on: on.parse().unwrap(),
        };
        ProviderConfig {
            name: "company".to_owned(),
            issuer: "https://login.example".to_owned(),
            client_id: "lekiwi".to_owned(),
            client_secret: None,
            ca_file: None,
            scopes: Vec::new(),
            name_claim: name_claim.to_owned(),
            session: Duration::from_secs(3600),
            roles: vec![
                role("groups", "robotics", Role::Engineer, "fleet"),
                role("groups", "shift", Role::Operator, "group:warehouse"),
                role("/realm_access/roles", "admin", Role::Admin, "fleet"),
                role("department", "service", Role::Operator, "fleet"),
            ],
            default_role,
        }
    }

    fn roles(claims: &Value, default_role: Option<Role>) -> Vec<String> {
        let config = config("preferred_username", default_role);
        let who = outsider(&config, claims.as_object().unwrap());
        let shown = |grant: &Grant| format!("{} on {}", grant.role, grant.on);
        who.roles.iter().map(shown).collect()
    }

    #[test]
    fn roles_follow_from_claims() {
        for (claims, expected) in [
            (json!({}), &[][..]),
            (json!({ "groups": "robotics" }), &["engineer on fleet"]),
            (
                json!({ "groups": ["x", "shift", "robotics"] }),
                &["engineer on fleet", "operator on group:warehouse"],
            ),
            (json!({ "groups": ["robotics2", 1, null] }), &[]),
            (json!({ "groups": { "robotics": true } }), &[]),
            (
                json!({ "realm_access": { "roles": ["admin"] } }),
                &["admin on fleet"],
            ),
            (json!({ "/realm_access/roles": ["admin"] }), &[]),
            (json!({ "department": "service" }), &["operator on fleet"]),
        ] {
            assert_eq!(roles(&claims, None), expected, "{claims}");
        }
        let operator = Some(Role::Operator);
        assert_eq!(roles(&json!({}), operator), ["operator on fleet"]);
        let engineer = json!({ "groups": "robotics" });
        assert_eq!(roles(&engineer, operator), ["engineer on fleet"]);
    }

    #[test]
    fn names_are_user_names_and_addresses_are_checked() {
        let name = |claim: &str, claims: Value| {
            let who = outsider(&config(claim, None), claims.as_object().unwrap());
            who.name.map(|name| name.to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        let user = "preferred_username";
        assert_eq!(
            name(user, json!({ "preferred_username": "Ada" })),
            some("ada")
        );
        assert_eq!(name(user, json!({ "preferred_username": "a da" })), None);
        assert_eq!(name(user, json!({ "preferred_username": 7 })), None);
        assert_eq!(name(user, json!({ "sub": "x" })), None);
        let ada = "ada@example.org";
        let checked = json!({ "email": ada, "email_verified": true });
        assert_eq!(name("email", checked), some(ada));
        for claim in [json!(false), json!("true"), json!(null)] {
            let claims = json!({ "email": ada, "email_verified": claim });
            assert_eq!(name("email", claims), None);
        }
        assert_eq!(name("email", json!({ "email": ada })), None);
    }

    #[test]
    fn what_is_missing_is_asked_for() {
        let config = config("preferred_username", None);
        let mut claims = json!({ "groups": [], "realm_access": { "roles": [] }, "department": "" });
        assert!(!are_complete(&config, claims.as_object().unwrap()));
        claims["preferred_username"] = "ada".into();
        assert!(are_complete(&config, claims.as_object().unwrap()));
    }
}
