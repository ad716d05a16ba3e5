//! Each piece of the harness that no other suite exercises, on the real component.

use anyhow::{Result, ensure};
use lekiwi_tests::harness::{Postgres, program};

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
