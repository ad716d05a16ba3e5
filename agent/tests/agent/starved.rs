//! A machine that makes no new process and no new thread, as under a fork bomb.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::broker::{Process, Site, status};
use crate::support::eventually;

const NOBODY: u32 = 65_534;

/// Gives a folder and all in it to nobody.
fn give_away(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give_away(&entry.unwrap().path());
        }
    }
}

#[tokio::test]
async fn an_agent_that_gets_no_new_thread_lives_on() {
    let mut site = Site::start().await;
    let folder = site.folder.path().to_owned();
    // By name: looking one up is what needs a thread.
    let file = folder.join("agent.yml");
    let text = fs::read_to_string(&file).unwrap();
    let named = text.replace("mqtts://127.0.0.1:", "mqtts://localhost:");
    assert_ne!(named, text);
    fs::write(&file, named).unwrap();
    let program = folder.join("lekiwi-agent");
    fs::copy(env!("CARGO_BIN_EXE_lekiwi-agent"), &program).unwrap();
    give_away(&folder);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();

    let ears = site.listen();
    let log = fs::File::create(folder.join("agent.log")).unwrap();
    // Limits do not hold root.
    let agent = Command::new(program)
        .arg("--config")
        .arg(&file)
        .arg("run")
        .env_clear()
        .env("LEKIWI_LOG", "debug")
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .stderr(log)
        .spawn()
        .unwrap();
    let mut agent = Process(agent);
    ears.connection(&site, "ONLINE").await;
    let limited = Command::new("prlimit")
        .args([format!("--pid={}", agent.0.id()), "--nproc=0:0".to_owned()])
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .expect("prlimit is needed: apt-get install util-linux");
    assert!(limited.success());

    site.broker = None;
    eventually("the loss is noticed", || {
        status(&site).is_some_and(|status| status["phase"] == "Reconnecting")
    })
    .await;
    ears.forget();
    site.start_broker().await;
    ears.connection(&site, "ONLINE").await;
    assert!(agent.0.try_wait().unwrap().is_none(), "{}", site.log());
    assert!(!site.log().contains("panicked"), "{}", site.log());
}
