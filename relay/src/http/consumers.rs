//! Broker certificates for programs that listen.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api;

use super::App;
use super::audited::Note;
use super::extract::Json;
use super::problem::Failure;
use crate::clock;
use crate::identity::consumers;

/// Issues a read-only broker certificate, for everything that robots say or a part of it. The key stays with who asks.
#[utoipa::path(
    post, path = "/api/v1/consumers", tag = "enrolment", request_body = api::ConsumerRequest,
    responses(
        (status = 201, body = api::ConsumerCreated),
        (status = 400, description = "csr-invalid", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn create(
    State(app): State<App>,
    note: Note,
    Json(request): Json<api::ConsumerRequest>,
) -> Result<(StatusCode, Answer<api::ConsumerCreated>), Failure> {
    note.says("consumer", &request.name);
    let now = Timestamp::from_ms(clock::now_ms());
    let before = app.store.reads(&request.name);
    let created = consumers::create(
        &app.store,
        &app.authority,
        &app.root,
        app.mqtt.clone(),
        &request,
        now,
    )
    .await?;
    // What is connected has subscriptions of before.
    if before != app.store.reads(&request.name) {
        app.broker.disconnect(&request.name.common_name()).await;
    }
    Ok((StatusCode::CREATED, Answer(created)))
}
