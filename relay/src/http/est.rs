//! Enrolment over Secure Transport (RFC 7030): the authority's certificate, a first one for a robot, and those after it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::message::RegistrationStatus;
use rustls_pki_types::CertificateDer;

use super::App;
use super::audited::Note;
use super::auth::Caller;
use super::extract::{Body, expect_type};
use super::problem::{Failure, Kind, basic_challenge};
use crate::broker::ClientCert;
use crate::clock;
use crate::identity::enrolment::{self, Registry};
use crate::identity::pkcs7;
use crate::identity::renewal;
use crate::identity::tokens::Secret;

/// The authority's certificates: its roots, and while the fleet moves to another root what one signed of the other.
#[utoipa::path(
    get, path = "/.well-known/est/cacerts", tag = "enrolment",
    responses((status = 200, description = "Base64 PKCS#7, certificates only (RFC 7030)", content_type = "application/pkcs7-mime", body = String))
)]
pub(super) async fn cacerts(State(app): State<App>) -> Result<Response, Failure> {
    certificates(&app.authority.certificates(), "application/pkcs7-mime")
}

/// The certificates that count no more (RFC 5280): DER, signed by the authority, as of now.
#[utoipa::path(
    get, path = "/crl", tag = "enrolment",
    responses(
        (status = 200, description = "The list, DER", content_type = "application/pkix-crl", body = String),
        (status = 503, description = "store-unavailable", body = lekiwi_protocol::api::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn crl(State(app): State<App>) -> Result<Response, Failure> {
    let lists = app.revocations.current().await?;
    let kind = HeaderValue::from_static("application/pkix-crl");
    // There is one by each authority that signs, the present one's first.
    let der = lists.first().cloned().unwrap_or_default();
    Ok(([(header::CONTENT_TYPE, kind)], der).into_response())
}

/// A robot's certificate. HTTP Basic: user is the robot's id, password an enrolment token. The same key
/// may ask again with the same token, and gets the same certificate. A token made for the robot's id
/// replaces its key: the old certificate is revoked, and its session ends.
#[utoipa::path(
    post, path = "/.well-known/est/simpleenroll", tag = "enrolment",
    request_body(content = String, content_type = "application/pkcs10", description = "Base64 PKCS#10: P-256, CN is the robot's id; serialNumber is the board's, OU the hardware profile"),
    responses(
        (status = 200, description = "Base64 PKCS#7, certificates only (RFC 7030)", content_type = "application/pkcs7-mime", body = String),
        (status = 400, description = "csr-invalid, robot-id-invalid", body = lekiwi_protocol::api::Problem, content_type = "application/problem+json"),
        (status = 401, description = "token-required, token-unknown", body = lekiwi_protocol::api::Problem, content_type = "application/problem+json"),
        (status = 403, description = "token-expired, token-wrong-serial, token-wrong-robot, csr-wrong-subject, certificate-revoked", body = lekiwi_protocol::api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "token-used, robot-exists", body = lekiwi_protocol::api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = lekiwi_protocol::api::Problem, content_type = "application/problem+json"),
    ),
    security(("enrolment" = []))
)]
pub(super) async fn simpleenroll(
    State(app): State<App>,
    headers: HeaderMap,
    note: Note,
    Body(body): Body,
) -> Result<Response, Failure> {
    let Some((user, password)) = basic(&headers) else {
        let (name, value) = basic_challenge();
        return Err(Failure::new(
            Kind::TokenRequired,
            "expected HTTP Basic authentication: the robot's id and an enrolment token",
        )
        .hint("make a token with `lekiwi token create` or `lekiwi-relay token create`")
        .header(name, value));
    };
    note.says("user", &user);
    expect_type(&headers, "application/pkcs10")?;
    let now = Timestamp::from_ms(clock::now_ms());
    let secret = Secret::shown(&password);
    let registry = Registry {
        store: &app.store,
        authority: &app.authority,
        org: app.root.org(),
        source: &app.source,
        lifetime: app.robot_lifetime,
    };
    match enrolment::enrol(registry, &user, &secret, &body, now).await {
        Ok(enrolled) => {
            note.by("robot", &enrolled.robot);
            if enrolled.replaced {
                app.broker.disconnect(enrolled.robot.as_str()).await;
            }
            certificates(
                &with_path(&app, enrolled.certificate),
                "application/pkcs7-mime; smime-type=certs-only",
            )
        }
        Err(error) => {
            let failure = Failure::from(error);
            tracing::warn!(
                user = %user.escape_debug().take(80).collect::<String>(),
                reason = failure.kind().slug(),
                detail = failure.detail(),
                "enrolment refused"
            );
            Err(failure)
        }
    }
}

/// A robot's next certificate, by the one that it shows in the TLS handshake. The one shown goes on counting until the
/// robot connects with the new one. The same key may ask again, and gets the same certificate.
#[utoipa::path(
    post, path = "/.well-known/est/simplereenroll", tag = "enrolment",
    request_body(content = String, content_type = "application/pkcs10", description = "Base64 PKCS#10: P-256, the subject of the certificate"),
    responses(
        (status = 200, description = "Base64 PKCS#7, certificates only (RFC 7030)", content_type = "application/pkcs7-mime", body = String),
        (status = 400, description = "csr-invalid", body = lekiwi_protocol::api::Problem, content_type = "application/problem+json"),
        (status = 401, description = "certificate-required", body = lekiwi_protocol::api::Problem, content_type = "application/problem+json"),
        (status = 403, description = "certificate-refused, csr-wrong-subject", body = lekiwi_protocol::api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "robot-not-registered", body = lekiwi_protocol::api::Problem, content_type = "application/problem+json"),
        (status = 429, description = "too-many-renewals", body = lekiwi_protocol::api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = lekiwi_protocol::api::Problem, content_type = "application/problem+json"),
    ),
    security(("robot" = []))
)]
pub(super) async fn simplereenroll(
    State(app): State<App>,
    Caller(robot): Caller,
    Extension(shown): Extension<Arc<ClientCert>>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Failure> {
    expect_type(&headers, "application/pkcs10")?;
    let registry = Registry {
        store: &app.store,
        authority: &app.authority,
        org: app.root.org(),
        source: &app.source,
        lifetime: app.robot_lifetime,
    };
    // Its enrolment may not have come into the picture yet: then it is as good as in quarantine.
    let status = app
        .fleet
        .robot(&robot)
        .map_or(RegistrationStatus::Quarantined, |view| {
            view.registration.status
        });
    let now = Timestamp::from_ms(clock::now_ms());
    match renewal::renew(registry, &robot, status, &shown, &body, now).await {
        Ok(certificate) => certificates(
            &with_path(&app, certificate),
            "application/pkcs7-mime; smime-type=certs-only",
        ),
        Err(error) => {
            let failure = Failure::from(error);
            tracing::warn!(
                %robot,
                reason = failure.kind().slug(),
                detail = failure.detail(),
                "renewal refused"
            );
            Err(failure)
        }
    }
}

/// A client's certificate, and what it shows after it.
fn with_path(app: &App, own: Vec<u8>) -> Vec<CertificateDer<'static>> {
    let mut all = vec![CertificateDer::from(own)];
    all.extend(app.authority.path());
    all
}

fn certificates(
    certificates: &[CertificateDer<'_>],
    content_type: &'static str,
) -> Result<Response, Failure> {
    let body = pkcs7::certs_only(certificates.iter().map(AsRef::as_ref)).map_err(|error| {
        Failure::new(
            Kind::Internal,
            format!("cannot encode the certificate: {error}"),
        )
    })?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (
            HeaderName::from_static("content-transfer-encoding"),
            HeaderValue::from_static("base64"),
        ),
    ];
    Ok((headers, body).into_response())
}

/// User and password of HTTP Basic; `None` where there is something else, or nothing.
#[must_use]
pub fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}
