//! Robots whose key is in no file: real tokens, which real agents enrol, connect and renew with, by the signers that are
//! shipped. `SoftHSM` is the PKCS#11 token, swtpm the TPM.

use std::ffi::OsString;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_agent::ipc::{self, Report, Status};
use lekiwi_tests::harness::{Agent, Process, Relay, program, target};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

const PIN: &str = "493817";

fn signers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/signers")
}

/// Runs to the end; what it prints.
fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("expected to start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Something with a key that does not come out.
struct Token {
    /// What the agent is told to sign by.
    signer: Vec<String>,
    /// What that needs to find it.
    variable: (&'static str, OsString),
    files: TempDir,
    _tpm: Option<Process>,
}

impl Token {
    /// A PKCS#11 token with two keys, of which the second is the robot's.
    fn pkcs11() -> Result<Self> {
        let files = tempfile::tempdir()?;
        let (folder, config) = (files.path().join("tokens"), files.path().join("conf"));
        std::fs::create_dir(&folder)?;
        std::fs::write(
            &config,
            format!("directories.tokendir = {}\n", folder.display()),
        )?;
        let variable = ("SOFTHSM2_CONF", config.into_os_string());
        let begin = [
            "--init-token",
            "--free",
            "--label",
            "kiwi",
            "--so-pin",
            "87654321",
            "--pin",
            PIN,
        ];
        run(Command::new(program("softhsm2-util", "softhsm2")?)
            .env(variable.0, &variable.1)
            .args(begin))?;
        let module = "/usr/lib/softhsm/libsofthsm2.so";
        for id in ["01", "02"] {
            let text = run(Command::new(program("pkcs11-tool", "opensc")?)
                .env(variable.0, &variable.1)
                .args([
                    "--module",
                    module,
                    "--token-label",
                    "kiwi",
                    "--login",
                    "--pin",
                    PIN,
                ])
                .args(["--keypairgen", "--key-type", "EC:prime256v1", "--id", id]))?;
            ensure!(text.contains("never extractable"), "{text}");
        }
        let pin = secret(files.path(), "pin", PIN)?;
        let signer = [
            &*path(&signers().join("lekiwi-sign-pkcs11")),
            module,
            "kiwi",
            "02",
            &*path(&pin),
        ];
        Ok(Self {
            signer: signer.map(str::to_owned).to_vec(),
            variable,
            files,
            _tpm: None,
        })
    }

    /// A TPM with a key that has a password.
    fn tpm2() -> Result<Self> {
        const HANDLE: &str = "0x81000010";
        let files = tempfile::tempdir()?;
        let at = |name: &str| path(&files.path().join(name));
        std::fs::create_dir(files.path().join("state"))?;
        let mut tpm = Process::start(
            "swtpm",
            &program("swtpm", "swtpm")?,
            [
                "socket".to_owned(),
                "--tpm2".to_owned(),
                "--tpmstate".to_owned(),
                format!("dir={}", at("state")),
                "--server".to_owned(),
                format!("type=unixio,path={}", at("tpm")),
                "--ctrl".to_owned(),
                format!("type=unixio,path={}", at("tpm.ctrl")),
                "--flags".to_owned(),
                "not-need-init,startup-clear".to_owned(),
            ],
            &[],
            &files.path().join("swtpm.log"),
        )?;
        tpm.wait_for("a socket", || {
            files.path().join("tpm").exists().then_some(())
        })?;
        let variable = ("TPM2TOOLS_TCTI", format!("swtpm:path={}", at("tpm")));
        let password = secret(files.path(), "auth", PIN)?;
        let auth = format!("file:{}", password.display());
        let (primary, public, private, key) =
            (at("primary"), at("public"), at("private"), at("key"));
        let steps: [&[&str]; 4] = [
            &[
                "tpm2_createprimary",
                "-Q",
                "-C",
                "o",
                "-G",
                "ecc256",
                "-c",
                &primary,
            ],
            &[
                "tpm2_create",
                "-Q",
                "-C",
                &primary,
                "-G",
                "ecc256:ecdsa-sha256",
                "-u",
                &public,
                "-r",
                &private,
                "-p",
                &auth,
                "-a",
                "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign",
            ],
            &[
                "tpm2_load",
                "-Q",
                "-C",
                &primary,
                "-u",
                &public,
                "-r",
                &private,
                "-c",
                &key,
            ],
            &["tpm2_evictcontrol", "-Q", "-C", "o", "-c", &key, HANDLE],
        ];
        for step in steps {
            for step in [step, &["tpm2_flushcontext", "-t"]] {
                run(Command::new(program(step[0], "tpm2-tools")?)
                    .env(variable.0, &variable.1)
                    .args(&step[1..]))?;
            }
        }
        let signer = [
            &*path(&signers().join("lekiwi-sign-tpm2")),
            HANDLE,
            &*path(&password),
        ];
        Ok(Self {
            signer: signer.map(str::to_owned).to_vec(),
            variable: (variable.0, variable.1.into()),
            files,
            _tpm: Some(tpm),
        })
    }

    /// The key, as the signer shows it.
    fn public_key(&self) -> Result<String> {
        let (program, arguments) = self.signer.split_first().context("a program")?;
        run(Command::new(program)
            .args(arguments)
            .arg("public-key")
            .env(self.variable.0, &self.variable.1))
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn secret(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&path)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    Ok(path)
}

fn with_signer(config: &str, signer: &[String]) -> String {
    format!("{config}identity: {{signer: {}}}\n", json!(signer))
}

struct Robot {
    agent: Agent,
    variable: (&'static str, OsString),
}

impl Robot {
    fn start(relay: &Relay, token: &Token, signer: Option<&[String]>) -> Result<Self> {
        let (name, value) = &token.variable;
        let mut set = OsString::from(format!("{name}="));
        set.push(value);
        let agent = target("lekiwi-agent", "lekiwi-agent")?;
        let agent = Agent::start_edited(
            relay,
            "kiwi-01",
            &relay.token(&["--robot", "kiwi-01"])?,
            &program("env", "coreutils")?,
            &[set, agent.into_os_string()],
            |config| match signer {
                Some(signer) => with_signer(&config, signer),
                None => config,
            },
        )?;
        Ok(Self {
            agent,
            variable: token.variable.clone(),
        })
    }

    /// Has the certificate renewed; the next one's serial.
    async fn renew(&self, before: &str) -> Result<String> {
        self.agent.renew().await?;
        self.agent.serial_after(before).await
    }

    /// The key that its certificate is for.
    fn certified(&self) -> Result<String> {
        let certificate = self.agent.state_dir().join("cert.pem");
        run(Command::new("openssl")
            .args(["x509", "-noout", "-pubkey", "-in"])
            .arg(certificate))
    }

    /// The doctor's line about the signer.
    fn doctor(&self) -> Result<String> {
        let config = self.agent.state_dir().join("../agent.yml");
        let said = Command::new(target("lekiwi-agent", "lekiwi-agent")?)
            .arg("--config")
            .arg(config)
            .arg("doctor")
            .env(self.variable.0, &self.variable.1)
            .output()?;
        let said = String::from_utf8(said.stdout)?;
        let line = said.lines().find(|line| line.contains(" signer "));
        Ok(line.with_context(|| said.clone())?.to_owned())
    }
}

/// That no file below `folder` has a private key.
fn nothing_to_steal(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            nothing_to_steal(&path)?;
        } else if path.is_file() {
            let bytes = std::fs::read(&path)?;
            let found = bytes.windows(11).any(|window| window == b"PRIVATE KEY");
            ensure!(!found, "expected no private key in {}", path.display());
        }
    }
    Ok(())
}

/// A robot's whole life with the key of `token`.
async fn lives_with(token: Token) -> Result<()> {
    let relay = Relay::start()?;
    let mut robot = Robot::start(&relay, &token, Some(&token.signer))?;
    let first = robot.agent.serial().await?;
    let key = token.public_key()?;
    ensure!(
        robot.certified()? == key,
        "expected a certificate for the token's key"
    );
    let second = robot.renew(&first).await?;
    let third = robot.renew(&second).await?;
    ensure!(
        robot.certified()? == key,
        "expected the next certificate for the same key"
    );

    robot.agent.stop()?;
    robot.agent.restart()?;
    ensure!(
        robot.agent.serial().await? == third,
        "expected the certificate of before"
    );
    let status = ipc::ask_status(&robot.agent.socket()).await?;
    ensure!(
        status.signer == Some(token.signer.join(" ")),
        "got {:?}",
        status.signer
    );
    let line = robot.doctor()?;
    ensure!(
        line.starts_with("ok ") && line.ends_with("` signs"),
        "got {line}"
    );

    let state = robot.agent.state_dir();
    nothing_to_steal(state.parent().context("a state folder lies in another")?)?;
    for file in ["key.pem", "next-key.pem", "next-cert.pem"] {
        ensure!(!state.join(file).exists(), "expected no {file}");
    }
    ensure!(
        std::fs::read_to_string(state.join("public-key.pem"))? == key,
        "expected the token's key"
    );
    // The PIN is nobody else's.
    ensure!(
        !robot.agent.process().log().contains(PIN),
        "expected no PIN in the log"
    );
    Ok(())
}

#[tokio::test]
async fn a_key_in_a_pkcs11_token_never_leaves_it() -> Result<()> {
    lives_with(Token::pkcs11()?).await
}

#[tokio::test]
async fn a_key_in_a_tpm_never_leaves_it() -> Result<()> {
    lives_with(Token::tpm2()?).await
}

#[tokio::test]
async fn a_robot_that_had_its_key_in_a_file_gets_one_in_a_token() -> Result<()> {
    let (relay, token) = (Relay::start()?, Token::pkcs11()?);
    let mut robot = Robot::start(&relay, &token, None)?;
    let first = robot.agent.serial().await?;
    let state = robot.agent.state_dir();
    let key = state.join("key.pem");
    ensure!(key.exists(), "expected a key in a file");

    robot.agent.stop()?;
    let config = state.join("../agent.yml");
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, with_signer(&text, &token.signer))?;
    let fresh = relay.token(&["--robot", "kiwi-01"])?;
    std::fs::write(state.join("../token"), fresh)?;
    robot.agent.restart()?;
    ensure!(
        robot.agent.serial().await? != first,
        "expected another certificate"
    );
    ensure!(
        robot.certified()? == token.public_key()?,
        "expected the token's key"
    );
    nothing_to_steal(state.parent().context("a state folder lies in another")?)
}

#[tokio::test]
async fn a_signer_that_hangs_or_fails_is_said_and_the_agent_goes_on() -> Result<()> {
    let (relay, token) = (Relay::start()?, Token::pkcs11()?);
    let folder = token.files.path();
    let (script, mode) = (folder.join("moody"), folder.join("mode"));
    let text = format!(
        "#!/bin/sh\nread -r mode < {}\ncase $mode in\nhang) exec sleep 1000 ;;\nfail) echo 'no token in the slot' >&2; exit 3 ;;\n\
         other) set -- \"$1\" \"$2\" 01 \"$4\" \"$5\" ;;\nrubbish) echo x; exit ;;\nesac\nexec {} \"$@\"\n",
        mode.display(),
        token.signer[0]
    );
    std::fs::write(&script, text)?;
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
    let is = |now: &str| std::fs::write(&mode, format!("{now}\n"));
    is("fail")?;
    let mut signer = token.signer.clone();
    signer[0] = path(&script);
    let line = signer.join(" ");
    let mut robot = Robot::start(&relay, &token, Some(&signer))?;
    let complains = |words: String| {
        move |status: &Status| {
            let error = status.last_error.as_deref();
            error.is_some_and(|error| error.contains(&words))
        }
    };
    // The token is not used up by that.
    let failing = "to succeed, got exit status: 3: no token in the slot";
    let words = format!(
        "the robot's key is of no use: expected `{line} public-key` {failing} (hint: identity.signer is"
    );
    robot
        .agent
        .status_when("unable to enrol", complains(words))
        .await?;
    is("rubbish")?;
    let words =
        format!("expected a P-256 public key as PEM from `{line} public-key`, got 2 other bytes");
    robot
        .agent
        .status_when("unable to enrol", complains(words))
        .await?;
    is("well")?;
    let serial = robot.agent.serial().await?;

    for (now, words) in [
        ("fail", format!("expected `{line} sign` {failing}")),
        (
            "rubbish",
            format!("expected a signature by this robot's key from `{line} sign`, got another"),
        ),
        (
            "other",
            format!("expected a signature by this robot's key from `{line} sign`, got another"),
        ),
        ("hang", format!("expected `{line} sign` to end within 10 s")),
    ] {
        robot.agent.stop()?;
        is(now)?;
        robot.agent.restart()?;
        // No connection, which needs a signature, and yet everything else.
        robot
            .agent
            .status_when("running", |status| status.link != "online")
            .await?;
        let report = Report {
            kind: "custom.tick".to_owned(),
            data: json!({ "mode": now }),
        };
        ipc::report_event(&robot.agent.socket(), &report).await?;
        // Also while the signer hangs it is there for whoever asks, in two seconds.
        for _ in 0..20 {
            ipc::ask_status(&robot.agent.socket()).await?;
            sleep(Duration::from_millis(50)).await;
        }
        robot.agent.status_when("offline", complains(words)).await?;
    }
    is("fail")?;
    let line = robot.doctor()?;
    ensure!(
        line.starts_with("failed ") && line.contains(failing),
        "got {line}"
    );
    is("well")?;
    ensure!(
        robot.agent.serial().await? == serial,
        "expected the certificate of before"
    );
    robot.renew(&serial).await?;
    // It ends at once though a signature is on its way.
    is("hang")?;
    robot.agent.renew().await?;
    robot.agent.stop()?;
    Ok(())
}

#[test]
fn the_signers_are_scripts_for_any_shell() -> Result<()> {
    let scripts = ["lekiwi-sign-pkcs11", "lekiwi-sign-tpm2"].map(|name| signers().join(name));
    run(Command::new(program("shellcheck", "shellcheck")?).args(scripts))?;
    Ok(())
}
