//! Invitations, for those who manage; and how the invited use them.

use std::net::IpAddr;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use lekiwi_protocol::api::{
    self, InvitationCreated, InvitationList, InvitationRequest, InvitationState, Join, Joined,
};

use super::App;
use super::audited::Note;
use super::auth::{self, Asker};
use super::extract::{Id, Json, Peer, Query};
use super::people::{check_roles, in_words};
use super::problem::{Failure, Kind};
use crate::clock;
use crate::identity::tokens::Secret;
use crate::people::invitations;
use crate::people::sessions::LIFETIME;
use crate::store::Joining;
use crate::store::records::Invitation;

/// Invitations that are open, or ended less than a month ago.
#[utoipa::path(
    get, path = "/api/v1/invitations", tag = "people", responses((status = 200, body = InvitationList)),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    query: Query,
) -> Result<Answer<InvitationList>, Failure> {
    query.finish()?;
    let now_ms = clock::now_ms();
    let invitations = app.store.invitations().await?;
    let view = |invitation| invitations::view(invitation, now_ms);
    Ok(Answer(InvitationList {
        invitations: invitations.iter().map(view).collect(),
    }))
}

/// Invites somebody: the answer has the link by which they choose their password, told this once.
#[utoipa::path(
    post, path = "/api/v1/invitations", tag = "people", request_body = InvitationRequest,
    responses(
        (status = 201, body = InvitationCreated),
        (status = 409, description = "person-exists", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn create(
    State(app): State<App>,
    asker: Asker,
    note: Note,
    Json(request): Json<InvitationRequest>,
) -> Result<(StatusCode, Answer<InvitationCreated>), Failure> {
    note.says("person", &request.name);
    note.says("roles", in_words(&request.roles));
    check_roles(&request.roles)?;
    let inviter = asker.name().clone();
    let created = invitations::invite(&app.store, request, inviter, clock::now_ms()).await?;
    let person = &created.invitation.name;
    note.says("invitation", &created.invitation.id);
    tracing::info!(%person, by = %asker.name(), id = created.invitation.id, "invited");
    Ok((StatusCode::CREATED, Answer(created)))
}

/// Takes an invitation back.
#[utoipa::path(
    delete, path = "/api/v1/invitations/{id}", tag = "people", params(("id" = String, Path, description = "The invitation")),
    responses(
        (status = 204, description = "Nobody can use it any more"),
        (status = 404, description = "invitation-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn revoke(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
) -> Result<StatusCode, Failure> {
    if app.store.revoke_invitation(&id, clock::now_ms()).await? {
        tracing::info!(id, by = %asker.name(), "invitation taken back");
        return Ok(StatusCode::NO_CONTENT);
    }
    let shown: String = id.chars().take(80).collect();
    let detail = format!("there is no open invitation {shown:?}");
    Err(Failure::new(Kind::InvitationUnknown, detail).hint("GET /api/v1/invitations lists them"))
}

/// Makes the account that the invitation is for, and logs in: the token for programs, and the same as a cookie for browsers.
#[utoipa::path(
    post, path = "/api/v1/join", tag = "session", request_body = Join,
    responses(
        (status = 201, body = Joined),
        (status = 404, description = "invitation-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "person-exists", body = api::Problem, content_type = "application/problem+json"),
        (status = 410, description = "invitation-over", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body, password-refused", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "login-busy, store-unavailable, stopping", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn join(
    State(app): State<App>,
    Peer(address): Peer,
    uri: Uri,
    headers: HeaderMap,
    note: Note,
    Json(join): Json<Join>,
) -> Result<Response, Failure> {
    // Another site must not log a browser in as somebody else. Programs send no Origin.
    if headers.contains_key(header::ORIGIN) {
        let authority = uri.authority().map(|authority| authority.as_str());
        auth::same_origin(&Method::POST, authority, &headers)?;
    }
    let joined = joined(&app, join, address, auth::agent(&headers), &note).await?;
    let cookie = auth::cookie(&joined.session.token, LIFETIME.as_secs());
    Ok((
        StatusCode::CREATED,
        AppendHeaders([(header::SET_COOKIE, cookie)]),
        Answer(joined),
    )
        .into_response())
}

/// The invitation with this secret, while it is open.
pub(super) async fn open(app: &App, token: &str) -> Result<Invitation, Failure> {
    let found = app.store.invitation(Secret::shown(token).digest()).await?;
    let found = found.ok_or_else(|| {
        Failure::new(
            Kind::InvitationUnknown,
            "expected the token of an invitation, got another text",
        )
        .hint("open the whole link that you were given")
    })?;
    let what = match invitations::state(&found, clock::now_ms()) {
        InvitationState::Open => return Ok(found),
        InvitationState::Used => "it was used",
        InvitationState::Expired => "its time is over",
        InvitationState::Revoked => "it was taken back",
    };
    Err(over(what, &found))
}

fn over(what: &str, invitation: &Invitation) -> Failure {
    let name = &invitation.person;
    let detail = format!("expected an invitation that is open, got that of {name}: {what}");
    let hint = format!("ask {} for another one", invitation.inviter);
    Failure::new(Kind::InvitationOver, detail).hint(hint)
}

/// Makes the account and begins its first session.
pub(super) async fn joined(
    app: &App,
    join: Join,
    address: IpAddr,
    agent: &str,
    note: &Note,
) -> Result<Joined, Failure> {
    // What costs much is done for the invited only.
    let invitation = open(app, &join.token).await?;
    note.by("person", &invitation.person);
    note.says("invitation", &invitation.id);
    let hash = app.sessions.hash(&invitation.person, join.password).await?;
    let name = match app
        .store
        .join(invitation.hash, hash, clock::now_ms())
        .await?
    {
        Joining::Joined(name) => name,
        Joining::Taken(name) => {
            let detail = format!("there is somebody called {name}");
            return Err(Failure::new(Kind::PersonExists, detail)
                .hint(format!("ask {} for another name", invitation.inviter)));
        }
        Joining::Over => return Err(over("it has just ended", &invitation)),
    };
    tracing::info!(person = %name, by = %invitation.inviter, id = invitation.id, %address, "joined");
    let session = app
        .sessions
        .begin(name.to_string(), LIFETIME, address, agent)
        .await?;
    Ok(Joined { name, session })
}
