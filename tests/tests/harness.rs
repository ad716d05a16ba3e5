//! Each piece of the harness that no other suite exercises, on the real component.

use anyhow::{Result, ensure};
use lekiwi_tests::harness::{Postgres, Process, program};

#[test]
fn postgresql_runs_unprivileged_and_ends_with_the_test() -> Result<()> {
    let server = Postgres::start()?;
    let client = program("psql", "postgresql-client")?;
    let output = std::process::Command::new(client)
        .args([
            &server.url(),
            "-Atc",
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user",
        ])
        .output()?;
    ensure!(
        output.stdout == b"t\n",
        "expected t, got {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let url = server.url();
    drop(server);
    let client = program("psql", "postgresql-client")?;
    let output = std::process::Command::new(client)
        .args([&url, "-Atc", "SELECT 1"])
        .output()?;
    ensure!(!output.status.success(), "expected the server to be gone");
    Ok(())
}

#[test]
fn a_missing_component_names_the_command_that_installs_it() {
    let error = program("no-such-program", "no-such-package")
        .map(|_| ())
        .map_err(|error| error.to_string());
    assert_eq!(
        error,
        Err("no-such-program is missing (hint: apt-get install -y no-such-package)".to_owned())
    );
}

/// A program of this project that says in its log what no log may have ends the test that started it.
#[test]
fn a_secret_in_the_log_of_a_program_fails_its_test() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    let echo = program("echo", "coreutils")?;
    let end_of = |said: &str| -> Result<()> {
        // What it is given to run is one of ours, as it is to whoever runs one elsewhere.
        let mut process = Process::start("echo", &echo, ["lekiwi-agent", said], &[], &log)?;
        let said_it = || {
            std::fs::read_to_string(&log)
                .ok()?
                .contains(said)
                .then_some(())
        };
        process.wait_for("its words", said_it)
    };
    end_of("tokens begin with lkt_")?;
    let token = format!("token=lkt_{}", "A1".repeat(12));
    let told = std::panic::catch_unwind(|| end_of(&token));
    let told = told.err().and_then(|told| told.downcast::<String>().ok());
    let told = told.map(|told| *told).unwrap_or_default();
    ensure!(told.contains("got an enrolment token in line"), "{told}");
    ensure!(!told.contains(&token), "the secret itself is shown");
    Ok(())
}
