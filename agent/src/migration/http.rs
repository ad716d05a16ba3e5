//! As much of HTTP/1.1 as one small request on loopback needs; each connection has one.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http;

/// Largest request, head and body.
const MAX_BYTES: usize = 16 * 1024;

/// As much of an answer as is read.
const MAX_ANSWER_BYTES: usize = 512;

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// Such as `PUT`.
    pub method: String,
    /// What for, with its query.
    pub path: String,
    /// The header `X-API-Key`.
    pub key: Option<String>,
    /// As long as the head says.
    pub body: Vec<u8>,
}

/// Reads a request, or says what is wrong with it.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Result<Asked, String>> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        match parse(&bytes) {
            Ok(Some(asked)) => return Ok(Ok(asked)),
            Err(reason) => return Ok(Err(reason)),
            Ok(None) if bytes.len() >= MAX_BYTES => {
                return Ok(Err(format!("expected at most {MAX_BYTES} bytes")));
            }
            Ok(None) => {}
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Reads a request from its beginning; `None` while it is not complete.
///
/// # Errors
/// When it is none, or too long: what was expected, for people.
pub fn parse(bytes: &[u8]) -> Result<Option<Asked>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "expected a head as text")?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(path), Some("HTTP/1.1" | "HTTP/1.0")) =
        (first.next(), first.next(), first.next())
    else {
        return Err("expected an HTTP/1.1 request".to_owned());
    };
    let (mut length, mut key) = (0, None);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("expected a header's name")?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = value
                .parse()
                .ok()
                .filter(|length: &usize| *length <= MAX_BYTES)
                .ok_or_else(|| format!("expected a length up to {MAX_BYTES}, got {value:?}"))?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("expected a body with a length".to_owned());
        } else if name.eq_ignore_ascii_case("x-api-key") {
            key = Some(value.to_owned());
        }
    }
    let body = &bytes[end + 4..];
    Ok((body.len() >= length).then(|| Asked {
        method: method.to_owned(),
        path: path.to_owned(),
        key,
        body: body[..length].to_vec(),
    }))
}

/// Answers.
pub(super) async fn write(stream: &mut TcpStream, status: u16, body: &str) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        401 => "Unauthorized",
        404 => "Not Found",
        _ => "Bad Request",
    };
    let answer = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// Asks.
pub(super) async fn ask(
    stream: &mut TcpStream,
    host: &str,
    request: (&str, &str),
    key: Option<&str>,
    body: &str,
) -> io::Result<()> {
    let (method, path) = request;
    let key = key.map_or(String::new(), |key| format!("X-API-Key: {key}\r\n"));
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{key}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await
}

/// The status of an answer, as soon as it is there: some keep the connection open whatever they are asked.
pub(super) async fn status(stream: &mut TcpStream) -> io::Result<u16> {
    let line = http::read_line(stream).await?;
    http::status(&line).ok_or_else(|| {
        let other = format!("expected an HTTP answer, got {line:?}");
        io::Error::new(io::ErrorKind::InvalidData, other)
    })
}

/// As much of an answer as fits.
pub(super) async fn answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut answer = Vec::with_capacity(MAX_ANSWER_BYTES);
    let mut bounded = stream.take(MAX_ANSWER_BYTES as u64);
    // What came before an error tells.
    if let Err(error) = bounded.read_to_end(&mut answer).await
        && answer.is_empty()
    {
        return Err(error);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str = "PUT /fleet/robots/k1_001 HTTP/1.1\r\nHost: a\r\nx-api-key: secret\r\n\
                         Content-Length: 15\r\n\r\n{\"battery\": 80}";

    #[test]
    fn a_request_is_read_when_it_is_complete() {
        for cut in 0..WHOLE.len() {
            assert_eq!(parse(&WHOLE.as_bytes()[..cut]), Ok(None), "{cut}");
        }
        let asked = Asked {
            method: "PUT".to_owned(),
            path: "/fleet/robots/k1_001".to_owned(),
            key: Some("secret".to_owned()),
            body: b"{\"battery\": 80}".to_vec(),
        };
        assert_eq!(parse(WHOLE.as_bytes()), Ok(Some(asked)));
    }

    #[test]
    fn what_is_no_request_is_refused_with_a_reason() {
        for (text, reason) in [
            ("hello\r\n\r\n", "expected an HTTP/1.1 request"),
            ("PUT / HTTP/2\r\n\r\n", "expected an HTTP/1.1 request"),
            ("PUT / HTTP/1.1\r\nhost\r\n\r\n", "expected a header's name"),
            (
                "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                "expected a body with a length",
            ),
            (
                "PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                "expected a length up to 16384, got \"99999999999999999999\"",
            ),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(reason.to_owned()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn damage_is_refused_or_read(mut bytes in Just(WHOLE.as_bytes().to_vec()), at in 0..WHOLE.len(), byte: u8) {
            bytes[at] = byte;
            let _ = parse(&bytes);
        }
    }
}
