//! The OpenAPI document, generated from the handlers and checked in as `relay/openapi.json`;
//! `UPDATE_OPENAPI=1 cargo test -p lekiwi-relay --test relay` writes it anew.

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use lekiwi_protocol::api;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Lekiwi Heartbeat relay",
        description = "A fleet of robots: who they are, how they are, what happened. Errors are RFC 9457 problems with a stable `type`."
    ),
    paths(
        super::health::health,
        super::health::metrics,
        super::est::cacerts,
        super::est::simpleenroll,
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
        super::refused::list,
        super::discovered::list,
        super::bans::list,
        super::bans::lift,
        document,
    ),
    components(schemas(api::Live, api::ClientMessage, api::RelayMessage)),
    modifiers(&Security)
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
            "robot",
            SecurityScheme::MutualTls {
                description: Some("A robot's certificate, of this relay's authority".to_owned()),
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
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = String)),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn document() -> impl IntoResponse {
    (
        [(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )],
        text(),
    )
}
