//! Starts the real relay as a child on free ports, with a data folder of its own, and stops it with the
//! test. HTTP goes through `curl`, as it would for a person.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::secrets;

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `check` until it answers, or fails the test with `what`.
pub(crate) fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    for _ in 0..DEADLINE.as_millis() / PAUSE.as_millis() {
        if let Some(value) = check() {
            return value;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("waited {DEADLINE:?} for {what}");
}

pub(crate) struct Relay {
    child: Child,
    pub(crate) data: tempfile::TempDir,
    pub(crate) https: String,
    pub(crate) mqtt: String,
    pub(crate) fingerprint: String,
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            let password = fs::read_to_string(self.data.path().join("password"));
            if let Ok(password) = password {
                secrets::keep("the administrator's password", password.trim());
            }
            secrets::check(&self.data.path().join("log"));
        }
    }
}

pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lekiwi-relay"));
    for (name, _) in std::env::vars() {
        if name.starts_with("LEKIWI_") {
            command.env_remove(name);
        }
    }
    command
}

impl Relay {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn start_in(data: tempfile::TempDir) -> Self {
        Self::start_with(data, &[])
    }

    /// The same with more on the command line.
    pub(crate) fn start_with(data: tempfile::TempDir, options: &[&str]) -> Self {
        let ready = data.path().join("ready.json");
        let _ = fs::remove_file(&ready);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(data.path().join("log"))
            .expect("a log file");
        let mut child = command()
            .args([
                "run",
                "--https",
                "127.0.0.1:0",
                "--mqtt",
                "127.0.0.1:0",
                "--relay-id",
                "r1",
            ])
            .arg("--data")
            .arg(data.path().join("data"))
            .arg("--admin-password-file")
            .arg(data.path().join("password"))
            .arg("--ready-file")
            .arg(&ready)
            .args(options)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("the relay starts");
        let said = wait_for("the ready file", || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!(
                    "the relay ended with {status}: {}",
                    fs::read_to_string(data.path().join("log")).unwrap_or_default()
                );
            }
            serde_json::from_slice::<Value>(&fs::read(&ready).ok()?).ok()
        });
        let text = |key: &str| said[key].as_str().expect("a text").to_owned();
        assert_eq!(said["pid"], child.id());
        Self {
            https: text("https"),
            mqtt: text("mqtt"),
            fingerprint: text("ca_fingerprint"),
            child,
            data,
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.data.path().join("log")).expect("the log")
    }

    pub(crate) fn data_folder(&self) -> PathBuf {
        self.data.path().join("data")
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.data_folder().join("ca/ca.pem")
    }

    pub(crate) fn password(&self) -> String {
        fs::read_to_string(self.data.path().join("password"))
            .expect("the password file")
            .trim()
            .to_owned()
    }

    /// Sends SIGTERM and waits for the end; gives back the data folder for the next start.
    pub(crate) fn stop(mut self) -> (std::process::ExitStatus, tempfile::TempDir) {
        let ended = Command::new("kill")
            .arg(self.child.id().to_string())
            .status()
            .expect("kill runs");
        assert!(ended.success());
        let status = wait_for("the relay's end", || {
            self.child.try_wait().expect("a child")
        });
        (
            status,
            std::mem::replace(
                &mut self.data,
                tempfile::tempdir().expect("a temporary folder"),
            ),
        )
    }

    pub(crate) fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
        std::mem::replace(
            &mut self.data,
            tempfile::tempdir().expect("a temporary folder"),
        )
    }

    /// `lekiwi-relay token create` beside the running relay.
    pub(crate) fn token(&self, options: &[&str]) -> String {
        let output = command()
            .args(["token", "create", "--data"])
            .arg(self.data_folder())
            .args(options)
            .output()
            .expect("the program runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let token = String::from_utf8(output.stdout)
            .expect("text")
            .trim()
            .to_owned();
        assert!(token.starts_with("lkt_"), "{token}");
        token
    }

    /// Runs curl against `path`.
    pub(crate) fn curl(&self, path: &str, options: &[&str]) -> Answer {
        for sent in options {
            if let Ok(body) = serde_json::from_str(sent) {
                secrets::keep_fields(&body);
            }
        }
        let output = curl_command(
            &self.ca(),
            &format!("https://{}{path}", self.https),
            options,
        )
        .output()
        .expect("curl is installed (apt-get install curl)");
        let answer = Answer::read(output);
        if let Ok(body) = serde_json::from_str(&answer.body) {
            secrets::keep_fields(&body);
        }
        answer
    }

    /// Logs in as the administrator; the answer is the session's token.
    pub(crate) fn log_in(&self) -> String {
        let body = serde_json::json!({ "user": "admin", "password": self.password() }).to_string();
        let answer = self.curl(
            "/api/v1/session",
            &["-H", "content-type: application/json", "-d", &body],
        );
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["token"].as_str().expect("a token").to_owned()
    }

    pub(crate) fn curl_as(&self, session: &str, path: &str, options: &[&str]) -> Answer {
        let bearer = format!("authorization: Bearer {session}");
        let mut all = vec!["-H", &bearer];
        all.extend(options);
        self.curl(path, &all)
    }

    /// Enrols with a CSR file (base64 of DER).
    pub(crate) fn enrol(&self, robot: &str, token: &str, csr: &Path) -> Answer {
        let user = format!("{robot}:{token}");
        let body = format!("@{}", csr.display());
        self.curl(
            "/.well-known/est/simpleenroll",
            &[
                "-u",
                &user,
                "-H",
                "content-type: application/pkcs10",
                "--data-binary",
                &body,
            ],
        )
    }
}

pub(crate) fn curl_command(ca: &Path, url: &str, options: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command
        .args(["-sS", "-i", "--max-time", "20", "--cacert"])
        .arg(ca)
        .args(options)
        .arg(url);
    command
}

/// What curl printed with `-i`.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(output: Output) -> Self {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "curl failed: {error}");
        // Interim answers (100 Continue) come first.
        while text.starts_with("HTTP/1.1 100") {
            text = text.split_once("\r\n\r\n").expect("headers").1.to_owned();
        }
        let (head, body) = text.split_once("\r\n\r\n").expect("headers and a body");
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|s| s.parse().ok())
            .expect("a status");
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self {
            status,
            headers,
            body: body.to_owned(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Status, problem type and detail of an error; checks that it is a problem.
    pub(crate) fn problem(&self) -> (u16, String, String) {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{}",
            self.body
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        let slug = problem["type"]
            .as_str()
            .and_then(|t| t.strip_prefix("urn:lekiwi:problem:"))
            .expect("a type")
            .to_owned();
        (
            self.status,
            slug,
            problem["detail"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

/// Runs openssl and gives back what it printed.
pub(crate) fn openssl(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed (apt-get install openssl)");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), input.as_bytes())
        .expect("openssl reads");
    let output = child.wait_with_output().expect("openssl ends");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Key and EST request of a robot, made by openssl: `(key file, request file)`.
pub(crate) fn request(folder: &Path, name: &str, subject: &str) -> (PathBuf, PathBuf) {
    let (key, csr) = (
        folder.join(format!("{name}.key")),
        folder.join(format!("{name}.b64")),
    );
    let shown = key.to_str().expect("text");
    openssl(
        &[
            "ecparam",
            "-genkey",
            "-name",
            "prime256v1",
            "-noout",
            "-out",
            shown,
        ],
        "",
    );
    let der = folder.join(format!("{name}.der"));
    openssl(
        &[
            "req",
            "-new",
            "-key",
            shown,
            "-subj",
            subject,
            "-outform",
            "DER",
            "-out",
            der.to_str().expect("text"),
        ],
        "",
    );
    openssl(
        &[
            "base64",
            "-in",
            der.to_str().expect("text"),
            "-out",
            csr.to_str().expect("text"),
        ],
        "",
    );
    (key, csr)
}

/// The first certificate in an EST answer, PEM.
pub(crate) fn certificate(est: &str) -> String {
    let pem = format!(
        "-----BEGIN PKCS7-----\n{}\n-----END PKCS7-----\n",
        est.trim_end()
    );
    let printed = openssl(&["pkcs7", "-print_certs"], &pem);
    let start = printed.find("-----BEGIN").expect("a certificate");
    printed[start..].to_owned()
}

/// What a child prints, read in the background.
pub(crate) struct Heard {
    text: std::sync::Arc<std::sync::Mutex<String>>,
    reader: std::thread::JoinHandle<()>,
}

impl Heard {
    pub(crate) fn new(mut stream: impl Read + Send + 'static) -> Self {
        let text = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let shared = text.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                let part = String::from_utf8_lossy(&buffer[..read]).into_owned();
                shared.lock().expect("no panic").push_str(&part);
            }
        });
        Self { text, reader }
    }

    /// So far.
    pub(crate) fn text(&self) -> String {
        self.text.lock().expect("no panic").clone()
    }

    /// Whether the text is whole. That the child has ended does not say so: its last words may still lie in the pipe.
    pub(crate) fn is_whole(&self) -> bool {
        self.reader.is_finished()
    }
}
