//! Uploads a file to the relay in pieces, with the robot's certificate; where the relay has to go on it says.
//! What fails is tried again, on a new connection and with smaller pieces, until the time is over.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use lekiwi_agent_core::logs::Pace;
use lekiwi_protocol::api::{PIECE_TYPE, Problem, REPR_DIGEST, UPLOAD_LENGTH, UPLOAD_OFFSET};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use uuid::Uuid;

use super::{Collected, Way};
use crate::clock::{self, Floor};
use crate::dial::Dialer;
use crate::driver::chain;
use crate::identity::https;

/// Longest time for all of it; below what the command has.
const LIMIT: Duration = Duration::from_secs(1100);
/// Longest time for one piece. The relay waits for half of that.
const PIECE_LIMIT: Duration = Duration::from_secs(30);
/// Longest time for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// Largest answer.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// Why the relay does not have the file.
#[derive(Debug)]
pub(super) enum Refused {
    /// It is not what was announced.
    Damaged(String),
    /// To try again is of no use, or it was tried for long enough.
    ForGood(String),
}

/// What a try came to.
#[derive(Debug)]
enum Trouble {
    Passing(String),
    Refused(Refused),
}

/// What an upload consists of.
struct Upload<'a> {
    way: &'a Way,
    /// What certificates are judged by, in view of what became of the tries.
    floor: Floor,
    id: Uuid,
    file: File,
    collected: &'a Collected,
    dialer: Dialer,
    digest: String,
    /// Where the next piece begins, as far as is known here.
    offset: u64,
    pace: Pace,
}

/// Uploads `path`, which is what was `collected`.
pub(super) async fn run(
    way: &Way,
    id: Uuid,
    path: &Path,
    collected: &Collected,
) -> Result<(), Refused> {
    let mut upload = Upload::new(way, id, path, collected)?;
    let mut last = "it had no time".to_owned();
    let tries = async {
        loop {
            match upload.session().await {
                Ok(()) => return Ok(()),
                Err(Trouble::Refused(refused)) => return Err(refused),
                Err(Trouble::Passing(reason)) => {
                    log::debug!("the upload waits: {reason}");
                    last = reason;
                }
            }
            tokio::time::sleep(upload.pace.failed()).await;
        }
    };
    timeout(LIMIT, tries).await.unwrap_or_else(|_| {
        let seconds = LIMIT.as_secs();
        Err(Refused::ForGood(format!(
            "expected the relay to take the upload within {seconds} s: {last}"
        )))
    })
}

fn passing(error: impl std::error::Error) -> Trouble {
    Trouble::Passing(chain(&error))
}

impl<'a> Upload<'a> {
    fn new(way: &'a Way, id: Uuid, path: &Path, collected: &'a Collected) -> Result<Self, Refused> {
        let file = File::open(path).map_err(|error| {
            Refused::ForGood(format!("cannot read {}: {error}", path.display()))
        })?;
        let digest = hex::decode(&collected.sha256).unwrap_or_default();
        Ok(Self {
            way,
            floor: way.floor.clone(),
            id,
            file,
            collected,
            dialer: Dialer::new(way.enrolment.proxy.clone()),
            digest: format!("sha-256=:{}:", STANDARD.encode(digest)),
            offset: 0,
            pace: Pace::default(),
        })
    }

    /// Sends pieces over one connection.
    async fn session(&mut self) -> Result<(), Trouble> {
        let stream = timeout(CONNECT_LIMIT, self.connect())
            .await
            .unwrap_or_else(|_| Err(Trouble::Passing("the relay does not answer".to_owned())));
        // The time may have been the reason.
        match stream {
            Ok(_) => self.floor.worked(),
            Err(_) => self.floor.failed(),
        }
        let stream = stream?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(passing)?;
        // Joined, not spawned: when this future is dropped, the connection is.
        tokio::select! {
            done = self.pieces(sender) => done,
            ended = connection => Err(match ended {
                Ok(()) => Trouble::Passing("the relay closed the connection".to_owned()),
                Err(error) => passing(error),
            }),
        }
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, Trouble> {
        let enrolment = &self.way.enrolment;
        let now = self.floor.certificate_time();
        let identity = enrolment
            .store
            .load(&enrolment.robot_id, enrolment.ca_fingerprint, now);
        let tls = identity.map_err(passing)?;
        let tls = https(&tls, now).map_err(passing)?;
        let address = &enrolment.relay;
        let name = ServerName::try_from(address.host.clone()).map_err(passing)?;
        let tcp = self.dialer.dial(address).await.map_err(passing)?;
        tls.connect(name, tcp).await.map_err(passing)
    }

    async fn pieces(&mut self, mut sender: SendRequest<Full<Bytes>>) -> Result<(), Trouble> {
        while self.offset < self.collected.bytes {
            let began = clock::now();
            let sent = timeout(PIECE_LIMIT, self.piece(&mut sender)).await;
            sent.unwrap_or_else(|_| {
                Err(Trouble::Passing(format!(
                    "expected a piece to be taken within {} s",
                    PIECE_LIMIT.as_secs()
                )))
            })?;
            let took = clock::now().saturating_duration_since(began);
            tokio::time::sleep(self.pace.sent(took)).await;
        }
        Ok(())
    }

    /// Sends the next piece, and learns where the one after it begins.
    async fn piece(&mut self, sender: &mut SendRequest<Full<Bytes>>) -> Result<(), Trouble> {
        let rest = self.collected.bytes - self.offset;
        let size = usize::try_from(rest.min(self.pace.piece())).unwrap_or(usize::MAX);
        let mut piece = vec![0; size];
        let read = self.file.read_exact_at(&mut piece, self.offset);
        read.map_err(|error| {
            Trouble::Refused(Refused::ForGood(format!(
                "cannot read what is uploaded: {error}"
            )))
        })?;
        let enrolment = &self.way.enrolment;
        let request = Request::builder()
            .method(Method::PATCH)
            .uri(format!(
                "/api/v1/robots/{}/logs/{}",
                enrolment.robot_id, self.id
            ))
            .header(HOST, enrolment.relay.to_string())
            .header(
                USER_AGENT,
                concat!("lekiwi-agent/", env!("CARGO_PKG_VERSION")),
            )
            .header(CONTENT_TYPE, PIECE_TYPE)
            .header(UPLOAD_OFFSET, self.offset)
            .header(UPLOAD_LENGTH, self.collected.bytes)
            .header(REPR_DIGEST, self.digest.as_str())
            .body(Full::new(Bytes::from(piece)))
            .map_err(|error| passing(io::Error::other(error)))?;
        sender.ready().await.map_err(passing)?;
        let answer = sender.send_request(request).await.map_err(passing)?;
        let status = answer.status();
        let offset = answer.headers().get(UPLOAD_OFFSET);
        let offset = offset.and_then(|offset| offset.to_str().ok()?.parse().ok());
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await;
        let body = body
            .map_err(|error| passing(io::Error::other(error)))?
            .to_bytes();
        self.answered(status, offset, &body)
    }

    fn answered(
        &mut self,
        status: StatusCode,
        offset: Option<u64>,
        body: &[u8],
    ) -> Result<(), Trouble> {
        let offset = offset.filter(|offset| *offset <= self.collected.bytes);
        match (status, offset) {
            // Where the relay is counts, whether it took this piece or has another one.
            (StatusCode::NO_CONTENT | StatusCode::CONFLICT, Some(offset)) => {
                self.offset = offset;
                return Ok(());
            }
            (StatusCode::UNPROCESSABLE_ENTITY, Some(_)) => {
                return Err(Trouble::Refused(Refused::Damaged(reason(status, body))));
            }
            _ => {}
        }
        let reason = reason(status, body);
        let is_passing = status.is_server_error()
            || matches!(
                status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
            );
        Err(if is_passing {
            Trouble::Passing(reason)
        } else {
            Trouble::Refused(Refused::ForGood(reason))
        })
    }
}

/// The relay's words.
fn reason(status: StatusCode, body: &[u8]) -> String {
    let problem = serde_json::from_slice::<Problem>(body).ok();
    let words = problem.map(|problem| problem.detail.unwrap_or(problem.title));
    let words = words.unwrap_or_else(|| status.to_string());
    format!("the relay does not take the upload: {words}")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config::Address;
    use crate::identity::{Enrolment, Store};

    #[tokio::test]
    async fn a_try_that_fails_has_the_next_one_judge_by_another_time() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("x.log.gz");
        std::fs::write(&text, "1234").unwrap();
        let address = Address {
            host: "127.0.0.1".to_owned(),
            port: 1,
        };
        let way = Way {
            enrolment: Enrolment {
                // There is no certificate: as bad as one that is not valid yet.
                store: Store::new(folder.path(), None),
                relay: address,
                proxy: None,
                ca_fingerprint: format!("sha256:{}", "00".repeat(32)).parse().unwrap(),
                robot_id: "kiwi-01".parse().unwrap(),
                profile: "generic".to_owned(),
                serial: String::new(),
                token_file: folder.path().join("token"),
                remove_token: false,
            },
            floor: Floor::load(folder.path().join("clock")),
        };
        let collected = Collected {
            bytes: 4,
            lines: 1,
            sha256: "00".repeat(32),
            is_cut: false,
        };
        let mut upload = Upload::new(&way, Uuid::nil(), &text, &collected).unwrap();
        let trouble = upload.session().await.unwrap_err();
        assert!(matches!(trouble, Trouble::Passing(_)), "{trouble:?}");
        let mut expected = way.floor.clone();
        expected.failed();
        assert_eq!(upload.floor, expected);
        upload.session().await.unwrap_err();
        expected.failed();
        assert_eq!(upload.floor, expected);
    }
}
