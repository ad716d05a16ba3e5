//! The factory line with a real relay: a unit's token, its enrolment, and what the line makes of it. Booting from the
//! network is tested in `provisioner/tests/line`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lekiwi_protocol::api::KeyCreated;
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Process, Relay, free_port, program, target};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

const SERIAL: &str = "10000000abcdef01";

struct Line {
    process: Process,
    folder: tempfile::TempDir,
    http: reqwest::Client,
    boards: String,
    operator: String,
}

impl Line {
    /// A line for one unit, which asks the relay by `credential`, with what else is to be in its file.
    fn start(
        relay: &Relay,
        folder: tempfile::TempDir,
        credential: &str,
        more: &str,
    ) -> Result<Self> {
        let (boards, operator) = (free_port()?, free_port()?);
        std::fs::write(
            folder.path().join("line.yml"),
            format!(
                "version: 1\nname: line a\nnetwork: {{address: 127.0.0.1, http_port: {boards}}}\noperator: 127.0.0.1:{operator}\n\
                 relay:\n  https: https://{}\n  mqtt: mqtts://{}\n  ca_fingerprint: {}\n  {credential}\n\
                 database: line.sqlite\n{more}\nunits:\n  - {{serial: '{SERIAL}', robot_id: kiwi-01}}\n",
                relay.https(),
                relay.mqtt(),
                relay.ca_fingerprint(),
            ),
        )?;
        let program = target("lekiwi-provisioner", "lekiwi-provisioner")?;
        let process = Process::start(
            "line",
            &program,
            [
                "serve".into(),
                "--json".into(),
                "--line".into(),
                folder.path().join("line.yml").into_os_string(),
            ],
            &[],
            &folder.path().join("log"),
        )?;
        let mut line = Self {
            process,
            folder,
            // A line that was killed leaves connections that look alive.
            http: reqwest::Client::builder()
                .pool_max_idle_per_host(0)
                .build()?,
            boards: format!("http://127.0.0.1:{boards}"),
            operator: format!("http://127.0.0.1:{operator}"),
        };
        line.wait_ready(1)?;
        Ok(line)
    }

    /// Waits until it serves for the nth time.
    fn wait_ready(&mut self, times: usize) -> Result<()> {
        let log = self.folder.path().join("log");
        self.process.wait_for("the line", || {
            let text = std::fs::read_to_string(&log).ok()?;
            (text.matches("\"ready\":true").count() >= times).then_some(())
        })
    }

    async fn seed(&self, serial: &str, file: &str) -> Result<(u16, String)> {
        let answer = self
            .http
            .get(format!("{}/seed/{serial}/{file}", self.boards));
        let answer = answer.send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    async fn unit(&self) -> Result<Value> {
        let answer = self.http.get(format!("{}/api/line", self.operator));
        let line: Value = answer.send().await?.json().await?;
        let units = line["units"].as_array().context("expected units")?;
        let ours = units.iter().find(|unit| unit["serial"] == SERIAL);
        let mut unit = ours.context("expected the listed unit")?.clone();
        unit["trouble"] = line["trouble"].clone();
        Ok(unit)
    }

    async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let unit = self.unit().await?;
            if wanted(&unit) {
                return Ok(unit);
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "expected {what}, got {unit}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The token in a seed.
fn token(user_data: &str) -> Result<String> {
    let start = user_data.find("lkt_").context("expected a token")?;
    let letters = |c: &char| c.is_ascii_alphanumeric() || "_-".contains(*c);
    Ok(user_data[start..].chars().take_while(letters).collect())
}

/// Enrols as the board with `serial` would; the HTTP status and what the relay says.
async fn enrol(admin: &Admin, serial: &str, token: &str) -> Result<(u16, String)> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, "kiwi-01");
    name.push(DnType::OrganizationalUnitName, "lekiwi");
    name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), serial);
    let request = params.serialize_request(&key)?;
    let answer = admin
        .http()
        .post(format!("{}/.well-known/est/simpleenroll", admin.base()))
        .basic_auth("kiwi-01", Some(token))
        .header("content-type", "application/pkcs10")
        .body(STANDARD.encode(request.der()))
        .send()
        .await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test]
async fn a_seed_carries_a_token_for_one_board_and_the_relay_ends_the_wait() -> Result<()> {
    let mut relay = Relay::start()?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let folder = tempfile::tempdir()?;
    let request = json!({ "name": "line", "permissions": ["enrol", "read"], "on": "fleet" });
    let made: KeyCreated = admin.post("/api/v1/keys", &request).await?;
    std::fs::write(folder.path().join("key"), format!("{}\n", made.key))?;
    let more = "defaults: {profile: lekiwi}";
    let mut line = Line::start(&relay, folder, "api_key_file: key", more)?;

    let (status, user_data) = line.seed(SERIAL, "user-data").await?;
    ensure!(status == 200, "{status}: {user_data}");
    let token = token(&user_data)?;
    ensure!(user_data.contains("kiwi-01") && user_data.contains(relay.ca_fingerprint()));
    for file in ["meta-data", "network-config", "vendor-data"] {
        ensure!(line.seed(SERIAL, file).await?.0 == 200, "{file}");
    }
    let (status, text) = line.seed(SERIAL, "passwd").await?;
    ensure!(
        (status, text.as_str())
            == (
                404,
                "error: expected one of user-data, meta-data, network-config, lekiwi.json, got \"passwd\"\n"
            ),
        "{status}: {text}"
    );
    ensure!(line.seed("10000000000000ff", "user-data").await?.0 == 403);

    // Killed: the same seed, not another token.
    line.process.kill()?;
    line.process.restart(None)?;
    line.wait_ready(2)?;
    ensure!(line.seed(SERIAL, "user-data").await? == (200, user_data));
    ensure!(line.unit().await?["state"] == "installing");

    // A relay that is away is told, and nothing else stops.
    relay.kill()?;
    let unit = line
        .until("trouble with the relay", |unit| unit["trouble"].is_string())
        .await?;
    ensure!(
        unit["trouble"]
            .as_str()
            .is_some_and(|text| text.contains("cannot be reached")),
        "{unit}"
    );
    relay.restart()?;
    line.until("the relay again", |unit| unit["trouble"].is_null())
        .await?;

    // Only the board that it is for may use the token.
    let (status, text) = enrol(&admin, "20000000000000ff", &token).await?;
    ensure!(status == 403, "{status}: {text}");
    ensure!(line.unit().await?["state"] == "installing");
    let (status, text) = enrol(&admin, SERIAL, &token).await?;
    ensure!(status == 200, "{status}: {text}");
    let unit = line
        .until("an enrolled unit", |unit| unit["state"] == "enrolled")
        .await?;
    ensure!(unit["robot_id"] == "kiwi-01", "{unit}");
    let (status, text) = line.seed(SERIAL, "user-data").await?;
    ensure!(
        (status, text.as_str()) == (409, "error: abcdef01 is enrolled already\n"),
        "{status}: {text}"
    );

    // Started again: another token, and what the relay knew before does not count.
    let retry = line
        .http
        .post(format!("{}/api/units/kiwi-01/retry", line.operator))
        .header("x-lekiwi-line", "retry")
        .send()
        .await?;
    ensure!(retry.status() == 204, "{}", retry.status());
    let (status, again) = line.seed(SERIAL, "user-data").await?;
    ensure!(
        status == 200 && self::token(&again)? != token,
        "{status}: {again}"
    );
    ensure!(line.unit().await?["attempt"] == 2);
    ensure!(line.process.stop()?.success(), "SIGTERM is a good end");
    Ok(())
}

/// A loop device over a file, for the board's disk.
struct Disk(String);

impl Disk {
    fn over(file: &Path) -> Result<Self> {
        let made = run(Command::new(program("losetup", "mount")?)
            .args(["--show", "-f"])
            .arg(file))?;
        Ok(Self(made.trim().to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("partx").args(["--delete", &self.0]).output();
        let _ = Command::new("losetup").args(["-d", &self.0]).output();
    }
}

/// What a program printed, if it was content.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where the boot partition begins, and how long it is, in MiB.
const BOOT: (u64, u64) = (4, 64);

/// An image with a boot partition and nothing else, as far as the script is concerned.
fn image(folder: &Path) -> Result<()> {
    let (image, boot) = (folder.join("images/base.img"), folder.join("boot.fat"));
    std::fs::create_dir(folder.join("images"))?;
    std::fs::File::create(&boot)?.set_len(BOOT.1 << 20)?;
    run(Command::new(program("mkfs.vfat", "dosfstools")?)
        .args(["-F", "32", "-n", "bootfs"])
        .arg(&boot))?;
    std::fs::File::create(&image)?.set_len(80 << 20)?;
    let table = format!(
        "label: dos\nstart={}MiB, size={}MiB, type=c\n",
        BOOT.0, BOOT.1
    );
    run(Command::new("sh")
        .args([
            "-c",
            "printf %s \"$1\" | sfdisk --quiet \"$2\"",
            "sh",
            &table,
        ])
        .arg(&image))?;
    run(Command::new("dd")
        .arg(format!("if={}", boot.display()))
        .arg(format!("of={}", image.display()))
        .args(["bs=1M", "conv=notrunc", &format!("seek={}", BOOT.0)]))?;
    Ok(())
}

/// Folders for programs, before the machine's own: where this kernel knows no FAT, mtools stand in for it.
fn path(folder: &Path) -> Result<std::ffi::OsString> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let known = std::fs::read_to_string("/proc/filesystems")?;
    if known.contains("vfat") {
        return Ok(own);
    }
    let bin = folder.join("bin");
    std::fs::create_dir(&bin)?;
    for (name, text) in [
        ("mount", "printf %s \"$1\" >\"$2.device\"\n"),
        (
            "umount",
            "mcopy -Q -n -o -s -i \"$(cat \"$1.device\")\" \"$1\"/* ::/\n",
        ),
    ] {
        let program = bin.join(name);
        std::fs::write(&program, format!("#!/bin/sh\nset -e\n{text}"))?;
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
    }
    let folders = std::iter::once(bin).chain(std::env::split_paths(&own));
    Ok(std::env::join_paths(folders)?)
}

#[tokio::test]
async fn a_board_that_runs_the_script_has_its_image_and_a_seed_of_its_own() -> Result<()> {
    let relay = Relay::start()?;
    let folder = tempfile::tempdir()?;
    image(folder.path())?;
    run(Command::new("xz")
        .arg("-1")
        .arg(folder.path().join("images/base.img")))?;
    std::fs::write(folder.path().join("agent.deb"), "a package")?;
    let password = format!("password_file: {}", relay.admin_password_file().display());
    let line = Line::start(
        &relay,
        folder,
        &password,
        "images: images\ndefaults: {profile: lekiwi, image: base.img.xz, agent_deb: agent.deb}",
    )?;

    let card = line.folder.path().join("card");
    std::fs::File::create(&card)?.set_len(100 << 20)?;
    let disk = Disk::over(&card)?;
    let said = run(Command::new("sh")
        .args(["-c", &format!("curl -fsS {}/bootstrap | sh", line.boards)])
        .env("PATH", path(line.folder.path())?)
        .env("LEKIWI_SERIAL", SERIAL)
        .env("LEKIWI_TARGET", &disk.0)
        .env("LEKIWI_RESTART", "no"))?;
    ensure!(
        said.contains("verified: ") && said.contains("seeded: "),
        "{said}"
    );
    drop(disk);

    let boot = line.folder.path().join("written.fat");
    run(Command::new("dd")
        .arg(format!("if={}", card.display()))
        .arg(format!("of={}", boot.display()))
        .args([
            "bs=1M",
            &format!("skip={}", BOOT.0),
            &format!("count={}", BOOT.1),
        ]))?;
    run(Command::new("fsck.vfat").arg("-n").arg(&boot))?;
    let on_card = |name: &str| {
        run(Command::new("mtype")
            .arg("-i")
            .arg(&boot)
            .arg(format!("::{name}")))
    };
    let user_data = on_card("user-data")?;
    ensure!(user_data.starts_with("#cloud-config\n") && user_data.contains("kiwi-01"));
    ensure!(token(&user_data)?.len() > 20);
    ensure!(on_card("meta-data")?.contains("instance-id: "));
    ensure!(on_card("network-config")?.contains("version: 2"));
    ensure!(on_card("lekiwi-agent.deb")? == "a package");
    let unit = line.unit().await?;
    let steps = unit["steps"].as_array().context("expected steps")?;
    let names: Vec<_> = steps
        .iter()
        .filter_map(|step| step["name"].as_str())
        .collect();
    for wanted in ["booted", "image", "written", "verified", "seed", "seeded"] {
        ensure!(names.contains(&wanted), "expected {wanted} among {names:?}");
    }
    ensure!(unit["state"] == "installing", "{unit}");
    Ok(())
}
