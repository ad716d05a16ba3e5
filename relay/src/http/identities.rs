//! The certificates that robots and programs have: which there are, and that one counts no more.

use std::sync::Arc;

use axum::Extension;
use axum::Json as Answer;
use axum::extract::State;
use lekiwi_protocol::api::{
    self, IdentityKind, IdentityList, IdentityRevoked, IdentityState, IdentityView,
};
use lekiwi_protocol::message::kind;
use lekiwi_protocol::{RobotId, Timestamp};
use serde_json::json;

use super::App;
use super::audited::Note;
use super::auth::Asker;
use super::extract::{Id, Query};
use super::problem::{Failure, Kind};
use crate::broker::ClientCert;
use crate::clock;
use crate::ingest::Decision;
use crate::store::records::{CertificateKind, Standing};

fn view(standing: Standing, now: Timestamp) -> IdentityView {
    let Standing {
        certificate,
        renews,
        is_unused,
        is_replaced,
    } = standing;
    let not_after = Timestamp::from_ms(certificate.not_after_ms);
    let state = match certificate.revoked_ms {
        Some(_) if is_replaced => IdentityState::Replaced,
        Some(_) => IdentityState::Revoked,
        None if not_after <= now => IdentityState::Expired,
        None if is_unused => IdentityState::Unused,
        None => IdentityState::Active,
    };
    IdentityView {
        serial: certificate.serial,
        name: certificate.common_name,
        kind: match certificate.kind {
            CertificateKind::Robot => IdentityKind::Robot,
            CertificateKind::Consumer => IdentityKind::Consumer,
        },
        state,
        not_before: Timestamp::from_ms(certificate.not_before_ms),
        not_after,
        revoked: certificate.revoked_ms.map(Timestamp::from_ms),
        renews,
    }
}

fn unknown(serial: &str) -> Failure {
    let shown: String = serial.chars().take(40).collect();
    Failure::new(
        Kind::IdentityUnknown,
        format!("expected the serial of a certificate of this relay, got {shown:?}"),
    )
    .hint("GET /api/v1/identities lists them")
}

/// Certificates that count; with `all=true` also those that do no more.
#[utoipa::path(
    get, path = "/api/v1/identities", tag = "enrolment",
    params(
        ("name" = Option<String>, Query, description = "Of this common name only: a robot's id, or `consumer:` and a name"),
        ("all" = Option<bool>, Query, description = "`true`: also what was replaced, was revoked or has expired"),
    ),
    responses(
        (status = 200, body = IdentityList),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    mut query: Query,
) -> Result<Answer<IdentityList>, Failure> {
    let name = query.text("name", "a common name", |text| Some(text.to_owned()))?;
    let all = query.text("all", "true or false", |text| text.parse::<bool>().ok())?;
    query.finish()?;
    let now = Timestamp::from_ms(clock::now_ms());
    let views = app.store.identities(name).await?;
    let views = views.into_iter().map(|standing| view(standing, now));
    let identities = views.filter(|view| all == Some(true) || view.state.counts());
    Ok(Answer(IdentityList {
        identities: identities.collect(),
    }))
}

/// Takes a certificate back, at once: whoever is connected with it is disconnected. What was asked for with it and was
/// not used yet goes with it.
#[utoipa::path(
    post, path = "/api/v1/identities/{id}/revoke", tag = "enrolment",
    params(("id" = String, Path, description = "The certificate's serial")),
    responses(
        (status = 200, body = IdentityRevoked),
        (status = 404, description = "identity-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn revoke(
    State(app): State<App>,
    Id(serial): Id,
    asker: Asker,
    note: Note,
) -> Result<Answer<IdentityRevoked>, Failure> {
    let certificate = app.store.certificate(&serial).await?;
    let certificate = certificate.ok_or_else(|| unknown(&serial))?;
    let name = certificate.common_name;
    note.says("of", &name);
    let serials = app
        .store
        .revoke_certificate(&serial, clock::now_ms())
        .await?;
    app.broker.disconnect(&name).await;
    tracing::info!(%name, %serial, by = %asker.by(), "certificate revoked");
    if certificate.kind == CertificateKind::Robot
        && !serials.is_empty()
        && let Ok(robot) = RobotId::new(&name)
    {
        let said = Decision::Note {
            kind: kind::REVOKED,
            data: json!({ "serials": serials, "by": asker.by() }),
        };
        app.fleet.decide(&robot, &asker.by(), said).await?;
    }
    Ok(Answer(IdentityRevoked { serials }))
}

/// The certificate that the robot shows, as the relay knows it. Whoever gets an answer can connect with it.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}/identity", tag = "enrolment",
    params(("id" = String, Path, description = "The robot")),
    responses(
        (status = 200, body = IdentityView),
        (status = 401, description = "certificate-required", body = api::Problem, content_type = "application/problem+json"),
        (status = 403, description = "certificate-refused", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("robot" = []))
)]
pub(super) async fn own(
    State(app): State<App>,
    Extension(shown): Extension<Arc<ClientCert>>,
) -> Result<Answer<IdentityView>, Failure> {
    let standing = app.store.identity(&shown.serial).await?;
    let standing = standing.ok_or_else(|| unknown(&shown.serial))?;
    Ok(Answer(view(standing, Timestamp::from_ms(clock::now_ms()))))
}
