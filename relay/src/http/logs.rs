//! Logs that robots upload when a command asks for them, and people look at; and what any other command has them
//! upload. The only route where a robot's certificate counts.

use std::fs::File;
use std::io;

use axum::Json as Answer;
use axum::body::Body as Streamed;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::{
    self, CommandView, LogList, PIECE_TYPE, REPR_DIGEST, UPLOAD_LENGTH, UPLOAD_OFFSET,
};
use lekiwi_protocol::limits::MAX_PACKAGES_BYTES;
use lekiwi_protocol::message::{LogSlice, Op, kind};
use serde_json::json;
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use super::App;
use super::auth::{Asker, Caller};
use super::extract::{Body, Cmd, Query, Robot, expect_type};
use super::problem::{Failure, Kind};
use super::robots::known;
use crate::ingest::Decision;
use crate::logs::{Upload, UploadError};

/// What is read of a file at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// The logs of a robot, newest first.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}/logs", tag = "logs",
    params(("id" = String, Path, description = "The robot")),
    responses(
        (status = 200, body = LogList),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    Robot(robot): Robot,
    query: Query,
) -> Result<Answer<LogList>, Failure> {
    query.finish()?;
    known(&app, &robot)?;
    let logs = app.logs.of_robot(&robot).await?;
    Ok(Answer(LogList { logs }))
}

/// What a command collected: text, by gzip. That somebody looked at it is on record.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}/logs/{cmd}", tag = "logs",
    params(
        ("id" = String, Path, description = "The robot"),
        ("cmd" = String, Path, description = "The command"),
    ),
    responses(
        (status = 200, description = "The text, by gzip; `Repr-Digest` has its SHA-256", content_type = "application/gzip", body = String),
        (status = 404, description = "robot-unknown, command-unknown, logs-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn one(
    State(app): State<App>,
    Robot(robot): Robot,
    Cmd(id): Cmd,
    asker: Asker,
    query: Query,
) -> Result<Response, Failure> {
    query.finish()?;
    known(&app, &robot)?;
    let Some((view, file)) = app.logs.open(&robot, id).await? else {
        return Err(Failure::new(
            Kind::LogsUnknown,
            format!("there are no logs of command {id} of {robot}"),
        )
        .hint(format!(
            "GET /api/v1/robots/{robot}/logs lists them; older ones make room"
        )));
    };
    let data = json!({ "id": id, "by": asker.by() });
    note(&app, &robot, &asker.by(), kind::LOGS_DOWNLOADED, data).await?;
    let digest = STANDARD.encode(hex::decode(&view.sha256).unwrap_or_default());
    let text = |text: String| HeaderValue::from_str(&text).ok();
    let headers = [
        (header::CONTENT_TYPE, text("application/gzip".to_owned())),
        (header::CONTENT_LENGTH, text(view.bytes.to_string())),
        (
            header::CONTENT_DISPOSITION,
            text(format!("attachment; filename=\"{robot}-{id}.log.gz\"")),
        ),
        (
            HeaderName::from_static(REPR_DIGEST),
            text(format!("sha-256=:{digest}:")),
        ),
    ];
    let headers: HeaderMap = headers
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    Ok((headers, Streamed::from_stream(chunks(file))).into_response())
}

/// The file from its beginning, a bounded part of it in memory.
fn chunks(file: File) -> impl futures_util::Stream<Item = io::Result<Bytes>> {
    futures_util::stream::try_unfold(tokio::fs::File::from_std(file), async |mut file| {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        let count = file.read_buf(&mut chunk).await?;
        Ok((count > 0).then(|| (chunk.freeze(), file)))
    })
}

/// A piece of what a command of the robot's asks for, logs or the list of packages, by the robot itself. Pieces follow each other as
/// in tus 1.0: `Upload-Offset` says where one begins, and the answer's where the next one does. `Upload-Length`
/// is the size of the whole, `Repr-Digest` its SHA-256, which must fit at the end.
#[utoipa::path(
    patch, path = "/api/v1/robots/{id}/logs/{cmd}", tag = "logs",
    params(
        ("id" = String, Path, description = "The robot"),
        ("cmd" = String, Path, description = "The command"),
        ("Upload-Offset" = u64, Header, description = "Where the piece begins"),
        ("Upload-Length" = u64, Header, description = "Size of the whole; at most what the command allows"),
        ("Repr-Digest" = String, Header, description = "`sha-256=:BASE64:` of the whole"),
    ),
    request_body(content = String, content_type = "application/offset+octet-stream", description = "At most 64 KiB"),
    responses(
        (status = 204, description = "Taken; `Upload-Offset` says where the next piece begins"),
        (status = 400, description = "upload-invalid", body = api::Problem, content_type = "application/problem+json"),
        (status = 401, description = "certificate-required", body = api::Problem, content_type = "application/problem+json"),
        (status = 403, description = "certificate-refused", body = api::Problem, content_type = "application/problem+json"),
        (status = 404, description = "command-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "upload-offset: another piece is next, `Upload-Offset` says which; upload-closed", body = api::Problem, content_type = "application/problem+json"),
        (status = 413, description = "too-large", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "upload-damaged: all begins anew", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("robot" = []))
)]
pub(super) async fn piece(
    State(app): State<App>,
    Caller(caller): Caller,
    Robot(robot): Robot,
    Cmd(id): Cmd,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Failure> {
    if caller != robot {
        return Err(Failure::new(
            Kind::CertificateRefused,
            format!("expected the certificate of {robot}, got that of {caller}"),
        ));
    }
    expect_type(&headers, PIECE_TYPE)?;
    let (op, most) = wanted(&app, &robot, id).await?;
    let offset = number(&headers, UPLOAD_OFFSET)?;
    let length = number(&headers, UPLOAD_LENGTH)?;
    if !(1..=most).contains(&length) {
        return Err(Failure::new(
            Kind::TooLarge,
            format!("expected {UPLOAD_LENGTH} to be 1 to {most}, got {length}"),
        ));
    }
    let upload = Upload {
        robot: robot.clone(),
        command: id,
        length,
        sha256: digest(&headers)?,
    };
    if op == Op::ListPackages {
        // What made room for it is asked for again when somebody wants it.
        let taken = app.packages.take(upload, offset, body).await?;
        return Ok((StatusCode::NO_CONTENT, next(taken.offset)).into_response());
    }
    let taken = app.logs.take(upload, offset, body).await?;
    for (robot, view) in taken.dropped {
        tracing::info!(%robot, id = %view.id, bytes = view.bytes, "logs made room for newer ones");
        let data = json!({ "id": view.id, "bytes": view.bytes });
        note(&app, &robot, &app.source, kind::LOGS_DROPPED, data).await?;
    }
    if taken.is_whole {
        tracing::info!(%robot, %id, bytes = length, "logs are uploaded");
    }
    Ok((StatusCode::NO_CONTENT, next(taken.offset)).into_response())
}

async fn note(
    app: &App,
    robot: &RobotId,
    by: &str,
    kind: &'static str,
    data: serde_json::Value,
) -> Result<(), Failure> {
    app.fleet
        .decide(robot, by, Decision::Note { kind, data })
        .await?;
    Ok(())
}

/// What an upload is that somebody waits for, and how large it may be.
async fn wanted(app: &App, robot: &RobotId, id: Uuid) -> Result<(Op, u64), Failure> {
    let Some(command) = app.store.command(robot, id).await? else {
        return Err(Failure::new(
            Kind::CommandUnknown,
            format!("there is no command {id} of {robot}"),
        ));
    };
    let CommandView { op, state, .. } = command;
    match (op, LogSlice::parse(&command.arguments)) {
        _ if state.is_end() => {}
        (Op::CollectLogs, Ok(slice)) => return Ok((op, slice.max_bytes)),
        (Op::ListPackages, _) => return Ok((op, MAX_PACKAGES_BYTES)),
        _ => {}
    }
    Err(Failure::new(
        Kind::UploadClosed,
        format!("expected an open command that uploads something, but {id} is {op}, {state}"),
    ))
}

fn number(headers: &HeaderMap, name: &'static str) -> Result<u64, Failure> {
    let text = headers.get(name).and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        Failure::new(
            Kind::UploadInvalid,
            format!(
                "expected {name} to be a whole number, got {}",
                text.unwrap_or("none")
            ),
        )
    })
}

/// The SHA-256 that a client says its whole upload has (RFC 9530).
///
/// # Errors
/// When it says none.
pub fn digest(headers: &HeaderMap) -> Result<[u8; 32], Failure> {
    let text = headers
        .get(REPR_DIGEST)
        .and_then(|value| value.to_str().ok());
    text.and_then(|text| text.strip_prefix("sha-256=:")?.strip_suffix(':'))
        .and_then(|base64| STANDARD.decode(base64).ok()?.try_into().ok())
        .ok_or_else(|| {
            Failure::new(
                Kind::UploadInvalid,
                format!(
                    "expected {REPR_DIGEST} to be sha-256=:BASE64:, got {}",
                    text.unwrap_or("none")
                ),
            )
        })
}

fn next(offset: u64) -> [(HeaderName, HeaderValue); 1] {
    [(HeaderName::from_static(UPLOAD_OFFSET), offset.into())]
}

impl From<UploadError> for Failure {
    fn from(error: UploadError) -> Self {
        let detail = error.to_string();
        let at = |kind, offset| {
            let [(name, value)] = next(offset);
            Self::new(kind, detail.clone()).header(name, value)
        };
        match error {
            UploadError::Offset { expected, .. } => at(Kind::UploadOffset, expected),
            UploadError::Damaged { .. } => at(Kind::UploadDamaged, 0),
            UploadError::Length { .. } => Self::new(Kind::TooLarge, detail),
            UploadError::Io { source, .. } => {
                tracing::error!(%source, "{detail}");
                Self::new(Kind::StoreUnavailable, detail)
                    .hint("the relay's log says more; try again in a while")
                    .header(header::RETRY_AFTER, HeaderValue::from_static("5"))
            }
        }
    }
}
