//! One look of a check: connect to a TCP port or a Unix socket, or ask for a page in plain HTTP.

use std::time::Duration;

use lekiwi_protocol::profile;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::http;
use crate::lookup::Destination;

/// What must answer, and how long that may take.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    place: Place,
    timeout: Duration,
}

#[derive(Debug, Clone)]
enum Place {
    Tcp(Destination),
    Http { server: Destination, path: String },
    Unix(String),
}

impl Probe {
    pub(super) fn new(probe: profile::Probe<'_>, timeout: Duration) -> Self {
        let place = match probe {
            profile::Probe::Tcp(address) => Place::Tcp(Destination::new(address)),
            profile::Probe::Unix(path) => Place::Unix(path.to_owned()),
            profile::Probe::Http(url) => {
                // A checked profile has http://HOST:PORT/PATH.
                let rest = url.strip_prefix("http://").unwrap_or(url);
                let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
                Place::Http {
                    server: Destination::new(address),
                    path: format!("/{path}"),
                }
            }
        };
        Self { place, timeout }
    }

    /// Looks once; says what was expected and what came.
    pub(super) async fn run(&self) -> Result<(), String> {
        let look = async {
            match &self.place {
                Place::Tcp(server) => match server.connect().await {
                    Ok(_) => Ok(()),
                    Err(error) => {
                        let address = server.as_str();
                        Err(format!("expected a connection to {address}: {error}"))
                    }
                },
                Place::Unix(path) => match UnixStream::connect(path).await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(format!("expected a connection to {path}: {error}")),
                },
                Place::Http { server, path } => page(server, path).await,
            }
        };
        let late = |_| {
            let seconds = self.timeout.as_secs();
            let place = &self.place;
            Err(format!(
                "expected an answer from {place} within {seconds} s"
            ))
        };
        tokio::time::timeout(self.timeout, look)
            .await
            .unwrap_or_else(late)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(server) => f.write_str(server.as_str()),
            Self::Unix(path) => f.write_str(path),
            Self::Http { server, path } => write!(f, "http://{}{path}", server.as_str()),
        }
    }
}

async fn page(server: &Destination, path: &str) -> Result<(), String> {
    let address = server.as_str();
    let exchange = async {
        let mut stream = server.connect().await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: lekiwi-agent\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        http::read_line(&mut stream).await
    };
    let expected = || format!("expected 2xx from http://{address}{path}");
    let line = exchange
        .await
        .map_err(|error| format!("{}: {error}", expected()))?;
    match http::status(&line) {
        Some(200..=299) => Ok(()),
        _ => Err(format!("{}, got {line:?}", expected())),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3);

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    #[tokio::test]
    async fn a_port_that_listens_passes_and_a_closed_one_does_not() {
        let (listener, address) = listener().await;
        let probe = Probe::new(profile::Probe::Tcp(&address), TIMEOUT);
        assert_eq!(probe.run().await, Ok(()));
        drop(listener);
        assert_eq!(
            probe.run().await,
            Err(format!(
                "expected a connection to {address}: Connection refused (os error 111)"
            ))
        );
    }

    #[tokio::test]
    async fn a_unix_socket_must_be_listened_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket").display().to_string();
        let probe = Probe::new(profile::Probe::Unix(&path), TIMEOUT);
        assert_eq!(
            probe.run().await,
            Err(format!(
                "expected a connection to {path}: No such file or directory (os error 2)"
            ))
        );
        let _listener = UnixListener::bind(&path).unwrap();
        assert_eq!(probe.run().await, Ok(()));
    }

    /// Answers one request with `answer`; returns what was asked.
    async fn answered(answer: &'static str) -> (Result<(), String>, String, String) {
        let (listener, address) = listener().await;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let count = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let url = format!("http://{address}/status?full=1");
        let result = Probe::new(profile::Probe::Http(&url), TIMEOUT).run().await;
        (result, server.await.unwrap(), url)
    }

    #[tokio::test]
    async fn a_page_must_be_answered_with_success() {
        let (result, request, _) = answered("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(result, Ok(()));
        assert!(
            request.starts_with("GET /status?full=1 HTTP/1.1\r\nHost: 127.0.0.1:"),
            "{request}"
        );
        let (result, _, url) = answered("HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
        let got = "HTTP/1.1 503 Service Unavailable";
        assert_eq!(result, Err(format!("expected 2xx from {url}, got {got:?}")));
        let (result, _, url) = answered("SSH-2.0-OpenSSH_9.2\r\n").await;
        assert_eq!(
            result,
            Err(format!(
                "expected 2xx from {url}, got \"SSH-2.0-OpenSSH_9.2\""
            ))
        );
        let (result, _, url) = answered("").await;
        assert_eq!(result, Err(format!("expected 2xx from {url}, got \"\"")));
    }

    #[tokio::test]
    async fn a_page_that_never_comes_is_given_up() {
        let (_listener, address) = listener().await;
        let url = format!("http://{address}/");
        let probe = Probe::new(profile::Probe::Http(&url), Duration::from_secs(1));
        assert_eq!(
            probe.run().await,
            Err(format!("expected an answer from {url} within 1 s"))
        );
    }
}
