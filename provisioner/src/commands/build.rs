//! `lekiwi-provisioner build`: a base image from Debian packages.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use lekiwi_provisioner::build::{self, BuildOrder};

use crate::failure::Failure;
use crate::progress::Bars;

/// What `build` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// Folder with the recipe `base.yml`, `early/` and `overlay/`.
    #[arg(long, default_value = "image")]
    image: PathBuf,
    /// The agent's Debian package for arm64.
    #[arg(long)]
    agent_deb: PathBuf,
    /// Debian archive to take packages from.
    #[arg(long)]
    mirror: Option<String>,
    /// Where finished parts are kept for the next run.
    #[arg(long, default_value = "/var/cache/lekiwi-provisioner")]
    cache: PathBuf,
    /// Folder for the image, its checksum and its bill of materials.
    #[arg(long, default_value = ".")]
    out: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Builds the image and says where it is.
pub(crate) fn run(options: Options) -> Result<(), Failure> {
    let order = BuildOrder {
        image: options.image,
        agent_deb: options.agent_deb,
        mirror: options.mirror,
        cache: options.cache,
        out: options.out,
    };
    let progress = Bars::start(options.json)?.bar("");
    let built = build::build(&order, &progress).map_err(|error| {
        let hint = error.hint();
        Failure::new(error).hint(hint)
    })?;
    drop(progress);
    let mut out = io::stdout().lock();
    if options.json {
        writeln!(out, "{}", serde_json::json!(built))?;
        return Ok(());
    }
    let note = if built.cached {
        " (from the cache)"
    } else {
        ""
    };
    writeln!(out, "image   {}{note}", built.image.display())?;
    writeln!(out, "sha256  {}", built.sha256)?;
    writeln!(out, "sbom    {}", built.sbom.display())?;
    Ok(())
}
