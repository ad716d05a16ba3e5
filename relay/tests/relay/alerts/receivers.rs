//! Who is told: a real HTTP server, and a real mail server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::common::{openssl, wait_for};

/// An HTTP server that fails at first, and keeps what came.
pub(crate) struct Hook {
    pub(crate) url: String,
    pub(crate) came: Arc<Mutex<Vec<Came>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Came {
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Came {
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("{name} in {self:?}")).1
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

impl Hook {
    /// Answers the statuses in turn, the last one for ever.
    pub(crate) fn start(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!(
            "http://{}/alerts",
            listener.local_addr().expect("an address")
        );
        let came: Arc<Mutex<Vec<Came>>> = Arc::default();
        let kept = came.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
                let (mut headers, mut line) = (Vec::new(), String::new());
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    if let Some((name, value)) = line.split_once(": ") {
                        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                    }
                    line.clear();
                }
                let length = headers.iter().find(|(name, _)| name == "content-length");
                let length = length.map_or(0, |(_, value)| value.parse().expect("a number"));
                let mut body = vec![0; length];
                if length == 0 || reader.read_exact(&mut body).is_err() {
                    continue;
                }
                let body = String::from_utf8(body).expect("text");
                let mut kept = kept.lock().expect("no panic");
                let status = statuses[kept.len().min(statuses.len() - 1)];
                kept.push(Came { headers, body });
                let answer = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                // The relay may have been killed.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { url, came }
    }

    pub(crate) fn wait(&self, what: &str, is_it: impl Fn(&Came) -> bool) -> Came {
        wait_for(what, || {
            let came = self.came.lock().expect("no panic");
            came.iter().rev().find(|came| is_it(came)).cloned()
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.came.lock().expect("no panic").len()
    }
}

/// A mail server, until it is dropped.
pub(crate) struct Mail {
    child: Child,
    pub(crate) port: String,
}

impl Drop for Mail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Mail {
    pub(crate) fn start(folder: &Path) -> Self {
        let at = |name: &str| folder.join(name).to_str().expect("text").to_owned();
        let (key, pem) = (at("smtp.key"), at("smtp.pem"));
        let made = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=mail",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &key,
            "-out",
            &pem,
        ];
        openssl(&made, "");
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/relay/alerts/smtp_server.py"
        );
        let mut child = Command::new("/usr/bin/python3")
            .args([script, &pem, &key, &at("mails")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed (apt-get install python3)");
        let mut port = String::new();
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        said.read_line(&mut port).expect("text");
        let port = port.trim().to_owned();
        assert!(
            !port.is_empty(),
            "the mail server starts (apt-get install python3-aiosmtpd)"
        );
        Self { child, port }
    }
}
