//! The document of the HTTP interface: that it is the one that is checked in, and says what there is.

use std::collections::BTreeSet;

use lekiwi_relay::http::openapi;
use lekiwi_relay::http::routes::{Needs, ROUTES};
use serde_json::Value;

#[test]
fn the_openapi_document_is_the_one_that_is_checked_in() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, openapi::text()).expect("a writable folder");
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        golden == openapi::text(),
        "the interface changed: see `UPDATE_OPENAPI=1 cargo test -p lekiwi-relay --test relay`"
    );
}

#[test]
fn every_route_is_documented_and_every_documented_route_exists() {
    let document: Value = serde_json::from_str(openapi::text()).expect("JSON");
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let route = ROUTES
                .iter()
                .find(|r| r.path == path && r.method.as_str().eq_ignore_ascii_case(method));
            let route =
                route.unwrap_or_else(|| panic!("{method} {path} is documented, but no route"));
            let by = operation["security"].to_string();
            let secured = by.contains("session") || by.contains("robot");
            assert_eq!(secured, route.needs != Needs::Open, "{method} {path}");
            // What it takes is said, and is what is asked for.
            assert_eq!(operation["x-needs"], route.needs.to_string());
            documented.insert((route.method.as_str(), route.path));
        }
    }
    for route in ROUTES {
        let page = matches!(
            route.path,
            "/" | "/login" | "/logout" | "/join" | "/second-factor" | "/assets/{*path}"
        ) || route.path.starts_with("/login/oidc/");
        assert_eq!(
            documented.contains(&(route.method.as_str(), route.path)),
            !page,
            "{} {}",
            route.method,
            route.path
        );
    }
}
