//! The OpenAPI document, generated from the handlers and checked in as `relay/openapi.json`;
//! `UPDATE_OPENAPI=1 cargo test -p lekiwi-relay --test relay` writes it anew.

use std::sync::LazyLock;

use axum::http::{HeaderValue, Method, header};
use axum::response::IntoResponse;
use lekiwi_protocol::{Permission, api};
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::extract::Query;
use super::problem::{Failure, Kind};
use super::routes::{self, Needs};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Lekiwi Heartbeat relay",
        description = "A fleet of robots: who they are, how they are, what happened. Errors are RFC 9457 problems with a stable `type`."
    ),
    paths(
        super::health::health,
        super::health::ready,
        super::health::metrics,
        super::connections::list,
        super::est::cacerts,
        super::est::simpleenroll,
        super::est::simplereenroll,
        super::est::crl,
        super::session::create,
        super::session::end,
        super::robots::list,
        super::robots::one,
        super::robots::approve,
        super::robots::reject,
        super::events::of_robot,
        super::telemetry::of_robot,
        super::commands::list,
        super::commands::create,
        super::commands::one,
        super::commands::estop,
        super::logs::list,
        super::logs::one,
        super::logs::piece,
        super::packages::list,
        super::configuration::one,
        super::configuration::replace,
        super::configuration::rollback,
        super::live::stream,
        super::live::websocket,
        super::live::watchers,
        super::alerts::list,
        super::alerts::history,
        super::alerts::one,
        super::alerts::acknowledge,
        super::alerts::rules,
        super::alerts::one_rule,
        super::alerts::set_rule,
        super::alerts::remove_rule,
        super::alerts::silences,
        super::alerts::silence,
        super::alerts::unsilence,
        super::tokens::list,
        super::tokens::create,
        super::tokens::remove,
        super::consumers::create,
        super::identities::list,
        super::identities::revoke,
        super::identities::own,
        super::me::one,
        super::me::password,
        super::factor::begin,
        super::factor::confirm,
        super::factor::end,
        super::me::sessions,
        super::me::end_session,
        super::keys::list,
        super::keys::create,
        super::keys::rotate,
        super::keys::revoke,
        super::keys::of_person,
        super::people::list,
        super::people::create,
        super::people::one,
        super::people::change,
        super::people::remove,
        super::people::password,
        super::people::sessions,
        super::people::end_sessions,
        super::factor::reset,
        super::invitations::list,
        super::invitations::create,
        super::invitations::revoke,
        super::invitations::join,
        super::groups::list,
        super::groups::replace,
        super::groups::remove,
        super::loans::list,
        super::loans::create,
        super::loans::end,
        super::refused::list,
        super::discovered::list,
        super::bans::list,
        super::bans::lift,
        super::audit::list,
        super::audit::checkpoint,
        document,
    ),
    components(schemas(
        api::Aggregate, api::ThrottleMode, api::Live, api::ClientMessage, api::RelayMessage, lekiwi_protocol::Permission
    )),
    modifiers(&Security, &Common)
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme(
            "session",
            SecurityScheme::Http(
                HttpBuilder::new()
                    .scheme(HttpAuthScheme::Bearer)
                    .description(Some("The token of POST /api/v1/session"))
                    .build(),
            ),
        );
        components.add_security_scheme(
            "cookie",
            SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(super::auth::COOKIE))),
        );
        components.add_security_scheme(
            "key",
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
                api::API_KEY,
                "An API key; `Authorization: Bearer …` takes it too",
            ))),
        );
        components.add_security_scheme(
            "robot",
            SecurityScheme::MutualTls {
                description: Some("A robot's certificate, of this relay's authority".to_owned()),
                extensions: None,
                deprecated: None,
            },
        );
        components.add_security_scheme(
            "consumer",
            SecurityScheme::MutualTls {
                description: Some("A consumer's certificate, of this relay's authority".to_owned()),
                extensions: None,
                deprecated: None,
            },
        );
        components.add_security_scheme(
            "enrolment",
            SecurityScheme::Http(
                HttpBuilder::new()
                    .scheme(HttpAuthScheme::Basic)
                    .description(Some("User: the robot's id; password: an enrolment token"))
                    .build(),
            ),
        );
    }
}

/// What the layers around handlers and the extractors refuse, on every route that has them.
struct Common;

impl Modify for Common {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut openapi.paths.paths {
            if let Some(operation) = &mut item.get
                && is_for_people(operation)
            {
                // Of `Query`.
                refuses(operation, &[Kind::InvalidQuery]);
            }
            for (method, operation) in [
                (Method::GET, &mut item.get),
                (Method::PUT, &mut item.put),
                (Method::POST, &mut item.post),
                (Method::DELETE, &mut item.delete),
                (Method::PATCH, &mut item.patch),
            ] {
                let Some(operation) = operation else { continue };
                if let Some(route) = routes::find(&method, path) {
                    let needs = ExtensionsBuilder::new().add("x-needs", route.needs.to_string());
                    operation.extensions = Some(needs.build());
                    if matches!(route.needs, Needs::May(..)) {
                        refuses(operation, &[Kind::PermissionMissing]);
                    }
                    if matches!(
                        route.needs,
                        Needs::Session
                            | Needs::Setup
                            | Needs::SetupPage
                            | Needs::May(Permission::Manage, _)
                    ) {
                        refuses(operation, &[Kind::SessionRequired]);
                    } else if is_for_people(operation)
                        && let Some(security) = &mut operation.security
                    {
                        security.push(SecurityRequirement::new("key", [""; 0]));
                    }
                    let is_setup =
                        matches!(route.needs, Needs::Whoami | Needs::Setup | Needs::SetupPage);
                    if is_for_people(operation) && !is_setup {
                        refuses(operation, &[Kind::SecondFactorMissing]);
                    }
                }
                if is_for_people(operation) {
                    refuses(operation, GUARD);
                }
                if let Some(RefOr::T(body)) = &operation.request_body {
                    let is_json = body.content.contains_key("application/json");
                    refuses(operation, BODY);
                    if is_json {
                        refuses(operation, &[Kind::MalformedBody, Kind::InvalidBody]);
                    }
                }
            }
        }
    }
}

/// Of `http::auth` before every handler, and of the store behind them.
const GUARD: &[Kind] = &[
    Kind::LoginRequired,
    Kind::CrossOrigin,
    Kind::StoreUnavailable,
    Kind::Stopping,
];

/// Of `http::extract` for every body.
const BODY: &[Kind] = &[Kind::TooSlow, Kind::TooLarge, Kind::UnsupportedMediaType];

/// Whether a session is asked for.
fn is_for_people(operation: &Operation) -> bool {
    let session = SecurityRequirement::new("session", [""; 0]);
    operation
        .security
        .as_ref()
        .is_some_and(|security| security.contains(&session))
}

/// Adds answers that are not there yet.
fn refuses(operation: &mut Operation, kinds: &[Kind]) {
    let responses = &mut operation.responses.responses;
    for kind in kinds {
        let status = kind.status().as_str().to_owned();
        match responses.get_mut(&status) {
            None => {
                let problem = ContentBuilder::new()
                    .schema(Some(Ref::from_schema_name("Problem")))
                    .build();
                let response = ResponseBuilder::new()
                    .description(kind.slug())
                    .content("application/problem+json", problem)
                    .build();
                responses.insert(status, response.into());
            }
            Some(RefOr::T(response)) if !response.description.contains(kind.slug()) => {
                response.description = format!("{}, {}", response.description, kind.slug());
            }
            Some(_) => {}
        }
    }
}

static TEXT: LazyLock<String> = LazyLock::new(|| {
    // The document is built of strings and maps, which always become JSON.
    let mut text = Document::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
});

/// The document as it is checked in.
#[must_use]
pub fn text() -> &'static str {
    &TEXT
}

/// This document.
#[utoipa::path(
    get, path = "/api/v1/openapi.json", tag = "relay",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = serde_json::Value)),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn document(query: Query) -> Result<impl IntoResponse, Failure> {
    query.finish()?;
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], text()))
}
