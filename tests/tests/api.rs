//! The relay's HTTP interface against its document, by requests that schemathesis makes up: what the document allows
//! is taken, what it does not is refused, and every answer is one that it names. With `LEKIWI_SLOW=1` by more of
//! them, others each time, and by sequences of them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lekiwi_tests::fleet::{Admin, enrol_all};
use lekiwi_tests::harness::Relay;
use reqwest::header::AUTHORIZATION;

/// Seconds for one answer; the slowest is that of a login.
const PATIENCE: &str = "10";

#[tokio::test]
async fn schemathesis_finds_nothing() -> Result<()> {
    let program = std::env::var_os("LEKIWI_SCHEMATHESIS").context(
        "expected LEKIWI_SCHEMATHESIS (hint: cargo xtask test installs schemathesis, and sets it)",
    )?;
    let relay = Relay::start()?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let folder = tempfile::tempdir()?;
    enrol_all(&admin, folder.path(), "sim", 1).await?;
    let document = admin.get("/api/v1/openapi.json");
    let session = document
        .try_clone()
        .and_then(|request| request.build().ok());
    let session = session.context("expected a request without a body")?;
    let session = session.headers().get(AUTHORIZATION).context("a session")?;
    let file = folder.path().join("openapi.json");
    std::fs::write(&file, document.send().await?.bytes().await?)?;

    let enrolment = format!("sim-0001:{}", relay.token(&["--robot", "sim-0001"])?);
    let configuration = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schemathesis");
    let mut command = Command::new(program);
    command
        .env("LEKIWI_ENROLMENT", STANDARD.encode(enrolment))
        .env("PYTHONPATH", &configuration)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(folder.path())
        .arg("--config-file")
        .arg(configuration.join("schemathesis.toml"))
        .arg("run")
        .arg(file)
        .args(["--url", admin.base()])
        .arg("--tls-verify")
        .arg(relay.ca_file()?)
        .args(["--header", &format!("Authorization: {}", session.to_str()?)])
        .args(["--request-timeout", PATIENCE])
        .args(["--no-color", "--continue-on-failure"]);
    if std::env::var_os("LEKIWI_SLOW").is_some_and(|value| value != "0") {
        command.args(["--max-examples", "100"]);
    } else {
        command.args([
            "--phases",
            "coverage,fuzzing",
            "--max-examples",
            "5",
            "--seed",
            "1",
        ]);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(
        output.status.success(),
        "expected no finding, got\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
