//! WebSockets: a connection that both sides speak on. What is told and when is the gateway's; here it is read and
//! written. The frames of a message are made once for all clients, compression included, which no WebSocket
//! library does; so the library is used for headers and handshake only (decision 0021).
//!
//! Invariant: a client that does not read for 30 s is disconnected, and one that does not answer a ping on a quiet
//! connection, too.

pub mod frames;
pub mod handshake;

use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use lekiwi_protocol::api::{ClientMessage, RelayMessage};
use lekiwi_relay_core::gateway::{MAX_REQUEST_BYTES, RequestError, parse_json};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tungstenite::protocol::frame::coding::{CloseCode, Control, OpCode};

use self::frames::{Decoder, Incoming, Violation};
pub(super) use self::handshake::Upgrade;
use super::live::Listener;
use crate::live::{self, Form};

/// Longest time that a client may refuse to take what it is told.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// After so much silence a client is asked whether it is there, and after as much again it is not.
const SILENCE: Duration = Duration::from_secs(30);
/// What is read at once.
const READ_BYTES: usize = 1024;
/// Answers that may wait for a client before it is listened to again.
const MAX_UNSAID: usize = 64;
/// For the last words.
const FAREWELL: Duration = Duration::from_secs(1);

impl Upgrade {
    /// Answers the client, and serves `listener` once the connection is a WebSocket.
    pub(super) fn serve(self, listener: Listener) -> axum::response::Response {
        let (form, deflate) = self.form();
        let (response, on) = self.accept();
        tokio::spawn(run(on, listener, form, deflate));
        response
    }
}

async fn run(on: OnUpgrade, listener: Listener, form: Form, deflate: bool) {
    let upgraded = match on.await {
        Ok(upgraded) => upgraded,
        Err(error) => return tracing::debug!(%error, "a WebSocket did not begin"),
    };
    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
    let mut decoder = Decoder::new(deflate);
    let mut asked = false;
    let farewell = loop {
        tokio::select! {
            todo = listener.next() => {
                let Some(todo) = todo else {
                    break Some((CloseCode::Away, "the session or the relay ended"));
                };
                let Some(bytes) = listener.carry_out(todo, form).await else {
                    break Some((CloseCode::Error, "the event log cannot be read"));
                };
                if write(&mut writer, &bytes).await.is_none() {
                    return;
                }
            }
            read = read(&mut reader, &mut decoder), if listener.watcher.hears(MAX_UNSAID) => {
                asked = false;
                let answer = match read {
                    None => return,
                    Some(()) => hear(&mut decoder, &listener).await,
                };
                match answer {
                    Ok(Heard { pongs, goes: false }) if pongs.is_empty() => {}
                    Ok(Heard { pongs, goes }) => {
                        if write(&mut writer, &pongs).await.is_none() {
                            return;
                        }
                        if goes {
                            break Some((CloseCode::Normal, ""));
                        }
                    }
                    Err(Violation { code, reason }) => break Some((code, reason)),
                }
            }
            () = tokio::time::sleep(SILENCE) => {
                if std::mem::replace(&mut asked, true) {
                    break None;
                }
                let ping = live::frame(OpCode::Control(Control::Ping), b"", false);
                if write(&mut writer, &[ping]).await.is_none() {
                    return;
                }
            }
        }
    };
    if let Some((code, reason)) = farewell {
        let mut payload = u16::from(code).to_be_bytes().to_vec();
        payload.extend_from_slice(reason.as_bytes());
        let close = live::frame(OpCode::Control(Control::Close), &payload, false);
        // A courtesy; the connection ends either way.
        let _ = tokio::time::timeout(FAREWELL, async {
            writer.write_all(&close).await?;
            writer.shutdown().await
        })
        .await;
    }
}

/// Reads a little more; `None` at the end.
async fn read(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
    decoder: &mut Decoder,
) -> Option<()> {
    let buffer = decoder.buffer();
    if buffer.is_empty() {
        // Nothing is allocated while a client is silent: this waits for a byte.
        let mut first = [0; 1];
        let n = reader.read(&mut first).await.ok()?;
        buffer.extend_from_slice(first.get(..n).filter(|bytes| !bytes.is_empty())?);
        return Some(());
    }
    buffer.reserve(READ_BYTES);
    let n = reader.read_buf(buffer).await.ok()?;
    (n > 0).then_some(())
}

/// What a client said: what to answer at once, and whether it goes.
#[derive(Default)]
struct Heard {
    pongs: Vec<Bytes>,
    goes: bool,
}

async fn hear(decoder: &mut Decoder, listener: &Listener) -> Result<Heard, Violation> {
    let mut heard = Heard::default();
    while let Some(incoming) = decoder.next_incoming()? {
        let request = match incoming {
            Incoming::Text(text) => parse_json(&text),
            Incoming::Binary(bytes) => parse_cbor(&bytes),
            Incoming::Ping(payload) => {
                let pong = live::frame(OpCode::Control(Control::Pong), &payload, false);
                heard.pongs.push(pong);
                continue;
            }
            Incoming::Pong => continue,
            Incoming::Close => {
                heard.goes = true;
                return Ok(heard);
            }
        };
        obey(request, listener).await;
    }
    Ok(heard)
}

async fn obey(request: Result<ClientMessage, RequestError>, listener: &Listener) {
    listener.watcher.heard();
    let (id, outcome) = match request {
        Err(error) => (None, Err(error.to_string())),
        Ok(ClientMessage::Ping { nonce }) => {
            listener.watcher.say(RelayMessage::Pong { nonce });
            return;
        }
        Ok(ClientMessage::Subscribe(request)) => {
            let outcome = listener.subscribe(&request).await.map(drop);
            (Some(request.id), outcome)
        }
        Ok(ClientMessage::Unsubscribe { id }) => {
            let outcome = listener.watcher.unsubscribe(&id);
            (Some(id), outcome.map_err(|error| error.to_string()))
        }
    };
    if let Err(detail) = outcome {
        listener.watcher.say(RelayMessage::Error { id, detail });
    }
}

/// A client's message in CBOR, not checked any further.
///
/// # Errors
/// When it is too long or cannot be read.
pub fn parse_cbor(bytes: &[u8]) -> Result<ClientMessage, RequestError> {
    if bytes.len() > MAX_REQUEST_BYTES {
        return Err(RequestError::TooLong(bytes.len()));
    }
    ciborium::from_reader(bytes).map_err(|error| RequestError::Malformed(error.to_string()))
}

/// Writes in as few pieces as fit; `None` when the client went, or has not read for so long that it might as well.
async fn write(writer: &mut (impl AsyncWrite + Unpin), frames: &[Bytes]) -> Option<()> {
    /// A record of TLS.
    const PIECE: usize = 16 * 1024;
    let send = async |writer: &mut _, bytes: &[u8]| -> Option<()> {
        let sent =
            tokio::time::timeout(SEND_TIMEOUT, AsyncWriteExt::write_all(writer, bytes)).await;
        sent.ok()?.ok()
    };
    if let [frame] = frames {
        send(writer, frame).await?;
    } else {
        let mut piece = Vec::with_capacity(frames.iter().map(Bytes::len).sum::<usize>().min(PIECE));
        for frame in frames {
            if !piece.is_empty() && piece.len() + frame.len() > PIECE {
                send(writer, &piece).await?;
                piece.clear();
            }
            piece.extend_from_slice(frame);
        }
        send(writer, &piece).await?;
    }
    let flushed = tokio::time::timeout(SEND_TIMEOUT, writer.flush()).await;
    flushed.ok()?.ok()
}
