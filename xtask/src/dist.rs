//! `cargo xtask dist`: what is shipped, in `target/dist`: binaries, Debian packages, container images
//! (written here, no container engine needed) and their checksums.

mod compile;
mod deb;
mod libraries;
mod oci;
mod program;

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sha2::{Digest, Sha256};

pub(crate) use self::compile::{Way, agent, skeleton};
pub(crate) use self::program::Target;
use self::program::{AGENT, PROGRAMS, Program};
use crate::build;
use crate::command::{command, read};
use crate::needs;
use crate::ui;
use crate::workspace::{self, environment};

/// What `cargo xtask dist` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these programs: agent, agent-ros2, relay, cli, provisioner
    #[arg(long, value_name = "PROGRAM", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these targets, by triple
    #[arg(long, value_name = "TRIPLE", value_delimiter = ',')]
    target: Vec<String>,
    /// Compile the agent without a container engine even where one runs
    #[arg(long)]
    without_container: bool,
    /// Install what is missing without asking (nor does it ask with CI=true or without a terminal)
    #[arg(long, short)]
    yes: bool,
}

/// Builds and packs what was chosen.
pub(crate) fn run(options: &Options) -> Result<()> {
    let chosen = chosen(options)?;
    needs::ensure(needs::BUILD.iter().chain(needs::PACK), options.yes)?;
    let way = if options.without_container {
        Way::Fallback
    } else {
        Way::choose()
    };
    for (program, targets) in &chosen {
        if program.package == "lekiwi-relay" {
            build::dashboard(options.yes)?;
        }
        for target in targets {
            let binary = if program.package == AGENT.package {
                compile::variant(program, *target, way, options.yes)?
            } else {
                compile::server(program, *target, options.yes)?
            };
            match program.feature {
                Some(_) => copy(program, *target, &binary)?,
                None => drop(pack(program, *target, &binary)?),
            }
        }
    }
    let sums = write_sums(&folder())?;
    ui::result(format_args!("\n{}\n{sums}", folder().display()));
    Ok(())
}

fn chosen(options: &Options) -> Result<Vec<(&'static Program, Vec<Target>)>> {
    let names: Vec<&str> = PROGRAMS.iter().map(|program| program.short()).collect();
    if let Some(unknown) = options
        .only
        .iter()
        .find(|name| !names.contains(&name.as_str()))
    {
        bail!(
            "expected a program among {}, got `{unknown}`",
            names.join(", ")
        );
    }
    let mut chosen = Vec::new();
    for program in PROGRAMS {
        if !options.only.is_empty() && !options.only.iter().any(|name| name == program.short()) {
            continue;
        }
        let targets: Vec<Target> = program
            .targets
            .iter()
            .copied()
            .filter(|target| {
                options.target.is_empty()
                    || options.target.iter().any(|name| name == target.triple())
            })
            .collect();
        if !targets.is_empty() {
            chosen.push((*program, targets));
        }
    }
    ensure!(
        !chosen.is_empty(),
        "expected something to build, but no chosen program is built for {}\n  (hint: the agent is built for {}, the others for {})",
        options.target.join(", "),
        triples(AGENT.targets),
        triples(program::SERVER_TARGETS)
    );
    Ok(chosen)
}

fn triples(targets: &[Target]) -> String {
    let triples: Vec<&str> = targets.iter().map(|target| target.triple()).collect();
    triples.join(", ")
}

/// Packs the agent for these targets, and reads every package back: its files, its image, and the
/// packed program itself, which must start.
pub(crate) fn pack_agent(targets: &[Target], yes: bool) -> Result<()> {
    for target in targets {
        let binary = compile::agent(*target, Way::Fallback, yes)?;
        let packed = pack(&AGENT, *target, &binary)?;
        deb::check(&AGENT, *target, &packed.deb)?;
        let image = packed
            .image
            .context("expected the agent to have a container image")?;
        oci::check(*target, &image)?;
    }
    write_sums(&folder())?;
    Ok(())
}

/// The agent's Debian package.
pub(crate) fn agent_deb(target: Target, yes: bool) -> Result<PathBuf> {
    let binary = compile::agent(target, Way::Fallback, yes)?;
    Ok(pack(&AGENT, target, &binary)?.deb)
}

/// What became of one program for one target.
struct Packed {
    deb: PathBuf,
    image: Option<PathBuf>,
}

fn pack(program: &Program, target: Target, binary: &Path) -> Result<Packed> {
    ui::step(format_args!(
        "packing {} for {}",
        program.binary,
        target.triple()
    ));
    copy(program, target, binary)?;
    let folder = folder();
    let deb = deb::write(program, target, binary, &folder)?;
    let image = program
        .has_image
        .then(|| oci::write(program, target, binary, &folder))
        .transpose()?;
    Ok(Packed { deb, image })
}

/// The executable by itself.
fn copy(program: &Program, target: Target, binary: &Path) -> Result<()> {
    let folder = folder();
    std::fs::create_dir_all(&folder)?;
    let copy = folder.join(format!("{}-{VERSION}-{}", program.binary, target.triple()));
    std::fs::copy(binary, &copy).with_context(|| format!("could not write {}", copy.display()))?;
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// The version of everything in this workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn folder() -> PathBuf {
    workspace::target().join("dist")
}

/// Seconds since the epoch of what is packed: the commit's, so that the same commit packs the same bytes.
fn timestamp() -> Result<u64> {
    let text = match environment("SOURCE_DATE_EPOCH") {
        Some(text) => text,
        None => read(command("git").args(["log", "-1", "--format=%ct"]))?,
    };
    text.trim()
        .parse()
        .with_context(|| format!("expected seconds since the epoch, got `{}`", text.trim()))
}

/// Lower-case hexadecimal SHA-256.
fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Writes `SHA256SUMS` over all files of the folder, in `sha256sum`'s format.
fn write_sums(folder: &Path) -> Result<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name() != "SHA256SUMS" {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    let mut sums = String::new();
    for name in names {
        writeln!(
            sums,
            "{}  {name}",
            sha256(&std::fs::read(folder.join(&name))?)
        )?;
    }
    std::fs::write(folder.join("SHA256SUMS"), &sums)?;
    Ok(sums)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn options(only: &[&str], target: &[&str]) -> Options {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Options {
            only: own(only),
            target: own(target),
            without_container: false,
            yes: false,
        }
    }

    #[test]
    fn programs_and_targets_are_chosen() {
        let count = |only: &[&str], target: &[&str]| {
            let chosen = chosen(&options(only, target)).unwrap();
            chosen
                .iter()
                .map(|(_, targets)| targets.len())
                .sum::<usize>()
        };
        assert_eq!(count(&[], &[]), 12);
        assert_eq!(count(&["agent"], &[]), 3);
        assert_eq!(count(&["agent-ros2"], &[]), 3);
        assert_eq!(count(&["relay", "cli"], &["aarch64-unknown-linux-gnu"]), 2);
    }

    #[test]
    fn unknown_programs_and_targets_are_refused() {
        let refused = |only: &[&str], target: &[&str]| {
            chosen(&options(only, target))
                .map(|_| ())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused(&["agnet"], &[]),
            "expected a program among agent, agent-ros2, relay, cli, provisioner, got `agnet`"
        );
        assert_eq!(
            refused(&["agent"], &["sparc"]),
            "expected something to build, but no chosen program is built for sparc\n  (hint: the agent is built for aarch64-unknown-linux-musl, armv7-unknown-linux-musleabihf, x86_64-unknown-linux-musl, the others for x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu)"
        );
    }

    #[test]
    fn sums_are_what_sha256sum_takes() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("b"), "").unwrap();
        std::fs::write(folder.path().join("a"), "abc").unwrap();
        write_sums(folder.path()).unwrap();
        let again = write_sums(folder.path()).unwrap();
        assert_eq!(
            again,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a\n\
             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  b\n"
        );
    }
}
