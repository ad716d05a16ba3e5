//! `cargo xtask fuzz`: libFuzzer over what reads bytes of strangers (`fuzz/`). Stable Rust will do: the compiler's own passes
//! count which code an input reaches.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::command::{cargo, command, run};
use crate::{needs, ui, workspace};

/// What `cargo xtask fuzz` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// Only this target, a folder of `fuzz/seeds`
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Of each target in the slow tier.
pub(crate) const SLOW: Options = Options {
    target: None,
    seconds: 600,
};

const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Runs the targets one after another; stops at the first whose input breaks something.
pub(crate) fn run_chore(options: &Options, yes: bool) -> Result<()> {
    let seeds = folder().join("seeds");
    let mut targets: Vec<String> = std::fs::read_dir(&seeds)
        .with_context(|| format!("could not read {}", seeds.display()))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    targets.sort();
    if let Some(wanted) = &options.target {
        if !targets.contains(wanted) {
            bail!(
                "expected a target among {}, got `{wanted}`",
                targets.join(", ")
            );
        }
        targets.retain(|name| name == wanted);
    }
    needs::ensure([&needs::FUZZ], yes)?;
    // With a triple named, the flags are for what is fuzzed, and not for what runs while that is built.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    run(over("build")
        .args(["--release", "--features", "libfuzzer", "--target", &triple])
        .env("RUSTFLAGS", COVERAGE))?;
    let program = workspace::target()
        .join("fuzz")
        .join(triple)
        .join("release/fuzz");
    for name in &targets {
        ui::step(format_args!("fuzzing {name}, {} s", options.seconds));
        // What it finds of new ways through the code stays, for the next run.
        let corpus = folder().join("corpus").join(name);
        let artifacts = folder().join("artifacts").join(name);
        for made in [&corpus, &artifacts] {
            std::fs::create_dir_all(made)
                .with_context(|| format!("could not make {}", made.display()))?;
        }
        run(command(&program)
            .env("LEKIWI_FUZZ", name)
            .arg(corpus)
            .arg(seeds.join(name))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!("-max_total_time={}", options.seconds))
            .args(["-max_len=65536", "-timeout=5", "-rss_limit_mb=1024"])
            .args(["-print_final_stats=1", "-verbosity=0"]))
        .with_context(|| {
            format!(
                "{name} is broken by an input in {} (hint: it belongs into {} once that is mended)",
                artifacts.display(),
                seeds.join(name).display()
            )
        })?;
    }
    Ok(())
}

/// What is checked in breaks nothing.
pub(crate) fn seeds() -> Result<()> {
    run(&mut over("test"))
}

fn folder() -> PathBuf {
    workspace::root().join("fuzz")
}

/// Cargo over the workspace of its own.
fn over(subcommand: &str) -> Command {
    let mut cargo = cargo([subcommand, "--locked", "--manifest-path"]);
    cargo
        .arg(folder().join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", workspace::target().join("fuzz"));
    cargo
}
