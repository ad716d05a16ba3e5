//! The media server's own word on who reads: mediamtx's API on this machine. Pictures over UDP (RTSP, WebRTC) go
//! through no connection that the kernel could count. Asked once a second while somebody is connected to the
//! server or reads from it; a server without the API, which is off by default, is asked again after a minute.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use lekiwi_agent_core::teleop::{MAX_MEDIA, MediaSession};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::http;

/// Where the API is unless mediamtx is told otherwise.
const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9997);
const LISTS: [&str; 2] = ["/v3/rtspsessions/list", "/v3/webrtcsessions/list"];
const EVERY: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

type Found = io::Result<Vec<MediaSession>>;

#[derive(Debug)]
pub(super) struct Media {
    api: SocketAddr,
    next: Option<Instant>,
    is_asking: bool,
    has_readers: bool,
    sender: mpsc::Sender<Found>,
    found: mpsc::Receiver<Found>,
}

impl Default for Media {
    fn default() -> Self {
        Self::at(API)
    }
}

impl Media {
    fn at(api: SocketAddr) -> Self {
        let (sender, found) = mpsc::channel(1);
        Self {
            api,
            next: None,
            is_asking: false,
            has_readers: false,
            sender,
            found,
        }
    }

    /// A new answer, if there is one; asks anew when that is due and somebody is there.
    pub(super) fn poll(&mut self, now: Instant, has_peers: bool) -> Option<Vec<MediaSession>> {
        let found = self.found.try_recv().ok();
        if let Some(found) = &found {
            self.is_asking = false;
            if found.is_err() {
                self.next = Some(now + AGAIN);
            }
            self.has_readers = found.as_ref().is_ok_and(|found| !found.is_empty());
        }
        let is_due = self.next.is_none_or(|next| next <= now);
        if is_due && !self.is_asking && (has_peers || self.has_readers) {
            self.is_asking = true;
            self.next = Some(now + EVERY);
            let (api, sender) = (self.api, self.sender.clone());
            // One at a time, with a deadline; the channel has room for its answer.
            tokio::spawn(async move {
                let asked = tokio::time::timeout(PATIENCE, ask(api)).await;
                let late = |_| Err(io::ErrorKind::TimedOut.into());
                let _ = sender.send(asked.unwrap_or_else(late)).await;
            });
        }
        match found? {
            Ok(sessions) => Some(sessions),
            Err(error) => {
                log::debug!("no media server tells its readers at {}: {error}", self.api);
                Some(Vec::new())
            }
        }
    }
}

async fn ask(api: SocketAddr) -> Found {
    let mut sessions = Vec::new();
    for path in LISTS {
        sessions.extend(readers(&get(api, path).await?));
    }
    sessions.truncate(MAX_MEDIA);
    Ok(sessions)
}

/// The body of a page. In HTTP/1.0 it ends with the connection, and never comes in pieces.
async fn get(api: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(api).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {api}\r\nUser-Agent: lekiwi-agent\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut answer)
        .await?;
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let line = http::first_line(&answer);
    match split {
        Some(end) if http::status(&line) == Some(200) => Ok(answer.split_off(end + 4)),
        _ => Err(io::Error::other(format!(
            "expected 200 from http://{api}{path}, got {line:?}"
        ))),
    }
}

#[derive(Deserialize)]
struct List {
    items: Vec<Session>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    id: Uuid,
    remote_addr: SocketAddr,
    state: String,
    path: String,
    #[serde(alias = "outboundBytes")]
    bytes_sent: u64,
}

/// Those of a list who read; what is not of its shape has none.
#[must_use]
pub fn readers(body: &[u8]) -> Vec<MediaSession> {
    let list: List = match serde_json::from_slice(body) {
        Ok(list) => list,
        Err(error) => {
            log::debug!("a media server's list is of no use: {error}");
            return Vec::new();
        }
    };
    let read = list.items.into_iter().filter(|s| s.state == "read");
    let session = |session: Session| MediaSession {
        id: session.id.as_u64_pair().0,
        remote: session.remote_addr.ip().to_canonical(),
        path: session.path,
        bytes_sent: session.bytes_sent,
    };
    read.map(session).take(MAX_MEDIA).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::net::TcpListener;

    use crate::clock;

    use super::*;

    /// As mediamtx 1.9 answers: a reader over UDP, and a camera that publishes.
    const RTSP: &str = r#"{"itemCount":2,"pageCount":1,"items":[
        {"id":"86a2a3ea-4d3d-4a41-9d8c-b8b0a6ba9a0a","created":"2026-03-01T10:00:00.000000001Z",
         "remoteAddr":"10.0.0.9:41022","state":"read","path":"front","query":"","transport":"UDP",
         "bytesReceived":0,"bytesSent":1048576,"rtpPacketsReceived":0,"rtpPacketsSent":900,
         "rtpPacketsLost":0,"rtpPacketsInError":0,"rtpPacketsJitter":0},
        {"id":"0b0f3a1e-3f2d-4c7b-8a54-0d6f1cf6e3f1","created":"2026-03-01T09:00:00Z",
         "remoteAddr":"127.0.0.1:50112","state":"publish","path":"front","query":"","transport":"TCP",
         "bytesReceived":99999,"bytesSent":12}]}"#;
    const WEBRTC: &str = r#"{"itemCount":1,"pageCount":1,"items":[
        {"id":"5c9ec1c1-9f3f-4c0c-8f3b-6c8e1d6f0b11","created":"2026-03-01T10:00:05Z",
         "remoteAddr":"[fd00::7]:50000","peerConnectionEstablished":true,"localCandidate":"host/udp/10.0.0.1/8189",
         "remoteCandidate":"prflx/udp/fd00::7/50000","state":"read","path":"wrist","query":"",
         "bytesReceived":100,"bytesSent":500}]}"#;

    /// A server that answers so many requests, and says which came.
    async fn server(answers: Vec<String>) -> (SocketAddr, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async move {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 512];
                let length = stream.read(&mut request).await.unwrap();
                let line = String::from_utf8_lossy(&request[..length]);
                requests.push(line.lines().next().unwrap_or_default().to_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            requests
        };
        (address, tokio::spawn(serve))
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}")
    }

    /// Polls until an answer comes.
    async fn answer(media: &mut Media, now: Instant) -> Vec<MediaSession> {
        let deadline = clock::now() + Duration::from_secs(10);
        loop {
            if let Some(sessions) = media.poll(now, true) {
                return sessions;
            }
            assert!(clock::now() < deadline, "no answer came");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn readers_over_udp_are_known_from_the_server() {
        let (address, served) = server(vec![ok(RTSP), ok(WEBRTC)]).await;
        let mut media = Media::at(address);
        let sessions = answer(&mut media, clock::now()).await;
        let session = |id, remote: &str, path: &str, bytes_sent| MediaSession {
            id,
            remote: remote.parse().unwrap(),
            path: path.to_owned(),
            bytes_sent,
        };
        assert_eq!(
            sessions,
            [
                session(0x86a2_a3ea_4d3d_4a41, "10.0.0.9", "front", 1_048_576),
                session(0x5c9e_c1c1_9f3f_4c0c, "fd00::7", "wrist", 500),
            ]
        );
        let requests = LISTS.map(|path| format!("GET {path} HTTP/1.0"));
        assert_eq!(served.await.unwrap(), requests);
    }

    #[tokio::test]
    async fn a_server_without_the_api_is_asked_once_a_minute_and_without_peers_never() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let mut media = Media::at(address);
        let now = clock::now();
        assert_eq!(media.poll(now, false), None);
        assert!(!media.is_asking);
        assert_eq!(answer(&mut media, now).await, []);
        assert!(media.poll(now + AGAIN - EVERY, true).is_none());
        assert!(!media.is_asking);
        media.poll(now + AGAIN, true);
        assert!(media.is_asking);
    }

    #[test]
    fn what_is_no_list_has_no_readers() {
        assert_eq!(readers(b"{}"), []);
        assert_eq!(readers(b"\xff"), []);
        assert_eq!(readers(br#"{"items":[{"id":"x"}]}"#), []);
    }
}
