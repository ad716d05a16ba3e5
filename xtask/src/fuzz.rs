//! `cargo xtask fuzz`: libFuzzer over what reads bytes of strangers (`fuzz/`). Stable Rust will do: the compiler's own passes
//! count which code an input reaches.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::command::{cargo, command, run};
use crate::{needs, ui, workspace};

/// What `cargo xtask fuzz` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// Only this target, a folder of `fuzz/seeds/PART`
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

/// A feature of `fuzz/` and a folder of its seeds, with those of its targets, which are folders too.
struct Part {
    name: String,
    targets: Vec<String>,
}

/// Runs the targets one after another; stops at the first whose input breaks something.
pub(crate) fn run_chore(options: &Options, yes: bool) -> Result<()> {
    let mut parts = parts()?;
    if let Some(wanted) = &options.target {
        let known: Vec<String> = parts.iter().flat_map(|part| part.targets.clone()).collect();
        if !known.contains(wanted) {
            bail!(
                "expected a target among {}, got `{wanted}`",
                known.join(", ")
            );
        }
        // Of the programs only the one that is needed is compiled.
        for part in &mut parts {
            part.targets.retain(|name| name == wanted);
        }
        parts.retain(|part| !part.targets.is_empty());
    }
    needs::ensure([&needs::FUZZ], yes)?;
    // With a triple named, the flags are for what is fuzzed, and not for what runs while that is built.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let features: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    run(over("build")
        .args(["--release", "--target", &triple])
        .args(["--features", "libfuzzer", "--features", &features.join(",")])
        .env("RUSTFLAGS", COVERAGE))?;
    let program = workspace::target()
        .join("fuzz")
        .join(triple)
        .join("release/fuzz");
    for part in &parts {
        for name in &part.targets {
            ui::step(format_args!("fuzzing {name}, {} s", options.seconds));
            fuzz(
                &program,
                &folder().join("seeds").join(&part.name),
                name,
                options,
            )?;
        }
    }
    Ok(())
}

fn parts() -> Result<Vec<Part>> {
    let seeds = folder().join("seeds");
    let mut parts = Vec::new();
    for name in folders(&seeds)? {
        let targets = folders(&seeds.join(&name))?;
        parts.push(Part { name, targets });
    }
    Ok(parts)
}

fn folders(within: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(within)
        .with_context(|| format!("could not read {}", within.display()))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

fn fuzz(program: &Path, seeds: &Path, name: &str, options: &Options) -> Result<()> {
    // What it finds of new ways through the code stays, for the next run.
    let corpus = folder().join("corpus").join(name);
    let artifacts = folder().join("artifacts").join(name);
    for made in [&corpus, &artifacts] {
        std::fs::create_dir_all(made)
            .with_context(|| format!("could not make {}", made.display()))?;
    }
    run(command(program)
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
    })
}

/// What is checked in of the cores breaks nothing; the programs' own tests try the rest.
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
