//! The first line of an answer in HTTP/1, for those who ask small questions: health checks, the media server's API, an
//! older relay, a proxy. Bounded, and read as it comes.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest line that is read.
const MAX_LINE_BYTES: usize = 256;
/// Most characters of an answer that are told.
const MAX_TOLD: usize = 80;

/// Reads until the first line is complete, or there is nothing more of it, and gives that line.
pub(crate) async fn read_line(from: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(MAX_LINE_BYTES);
    while !bytes.contains(&b'\n') && bytes.len() < MAX_LINE_BYTES {
        if from.read_buf(&mut bytes).await? == 0 {
            break;
        }
    }
    Ok(first_line(&bytes))
}

/// The first line of an answer, for people.
pub(crate) fn first_line(answer: &[u8]) -> String {
    let line = answer.split(|byte| b"\r\n".contains(byte)).next();
    let line = String::from_utf8_lossy(line.unwrap_or_default());
    line.chars().take(MAX_TOLD).collect()
}

/// The status that a first line tells; `None` when it is not one of HTTP/1.
pub(crate) fn status(line: &str) -> Option<u16> {
    let status = line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    let is_number = status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit());
    status.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_three_digits_behind_a_version() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK", Some(200)),
            ("HTTP/1.0 404 Not Found", Some(404)),
            ("HTTP/1.1 204", Some(204)),
            ("HTTP/1.1 2000 OK", None),
            ("HTTP/1.1 +20 OK", None),
            ("HTTP/1.1", None),
            ("HTTP/2 200 OK", None),
            ("SSH-2.0-OpenSSH_9.2", None),
            ("", None),
        ] {
            assert_eq!(status(line), expected, "{line:?}");
        }
    }

    #[tokio::test]
    async fn a_line_is_read_to_its_end_and_not_for_ever() {
        let long = [b'a'; 3 * MAX_LINE_BYTES];
        let told = "a".repeat(MAX_TOLD);
        for (answer, expected) in [
            (
                &b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n"[..],
                "HTTP/1.1 200 OK",
            ),
            (b"HTTP/1.1 200 OK\n", "HTTP/1.1 200 OK"),
            (b"half a li", "half a li"),
            (b"", ""),
            (&long, &told),
        ] {
            let mut rest = answer;
            assert_eq!(read_line(&mut rest).await.unwrap(), expected);
            assert!(answer.len() - rest.len() <= 2 * MAX_LINE_BYTES, "bounded");
        }
    }
}
