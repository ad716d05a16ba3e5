//! `lekiwi-provisioner customise`: finished images for one robot or for many, of one base image.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lekiwi_provisioner::cmdline::CmdlineError;
use lekiwi_provisioner::customise::{self, Card, Compress, CustomiseError, Report, Request};
use lekiwi_provisioner::job::{self, JobCard, JobError, Token};
use lekiwi_provisioner::media::checksum;
use lekiwi_provisioner::media::fat::{self, BootFile, FatError};
use lekiwi_provisioner::order::{Name, Order, OrderError};
use lekiwi_provisioner::plan::{self, Content, PlannedFile};
use serde_json::json;

use super::ordering::{self, Ordering};
use crate::failure::Failure;
use crate::progress::Bars;

/// What `customise` takes.
#[derive(Args)]
#[command(
    after_help = "Example:\n  lekiwi-provisioner customise raspios.img.xz --job cards.csv --out images --bmap --os raspios-trixie …\n\n  with cards.csv:\n    robot_id,profile,address,gateway,token_file\n    kiwi-01,lekiwi,192.168.1.21/24,192.168.1.1,tokens/kiwi-01\n    kiwi-02,lekiwi,,,tokens/kiwi-02"
)]
pub(crate) struct Options {
    /// The base image: .img, or one within .xz, .gz, .zst or .zip
    base: PathBuf,
    #[command(flatten)]
    ordering: Ordering,
    /// CSV or YAML file that lists the cards; the other options say what all have in common
    #[arg(long, value_name = "FILE", conflicts_with = "robot_id")]
    job: Option<PathBuf>,
    /// Where to write: a file, or a folder for NAME.img of each robot; one is made for a job
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Pack the images
    #[arg(long, value_name = "HOW", default_value = "none")]
    compress: Packing,
    /// Write a block map beside each image: less to write to a card, and each part verified
    #[arg(long)]
    bmap: bool,
    /// The base image's published SHA-256; without it, a file BASE.sha256 is believed if there is one
    #[arg(long, value_name = "HEX", value_parser = checksum::parse)]
    sha256: Option<String>,
    /// Replace images that are there
    #[arg(long)]
    force: bool,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How images are packed.
#[derive(Clone, Copy, ValueEnum)]
enum Packing {
    Xz,
    Zst,
    None,
}

/// A job that cannot be used.
#[derive(Debug, thiserror::Error)]
enum CardError {
    /// The file.
    #[error("cannot use {path}")]
    Job {
        path: PathBuf,
        #[source]
        source: JobError,
    },
    /// A card.
    #[error("cannot make the card of line {line} in {path}")]
    Order {
        path: PathBuf,
        line: u64,
        #[source]
        source: OrderError,
    },
}

/// An image to be made.
struct Planned {
    robot: String,
    serial: Option<String>,
    place: PathBuf,
    files: Vec<PlannedFile>,
}

/// Makes the images, or says which.
pub(crate) fn run(options: Options) -> Result<(), Failure> {
    let Options {
        base,
        ordering,
        job,
        out,
        compress,
        bmap,
        sha256,
        force,
        dry_run,
        json,
    } = options;
    let compress = match compress {
        Packing::Xz => Compress::Xz,
        Packing::Zst => Compress::Zstd,
        Packing::None => Compress::None,
    };
    let request = Request {
        base: &base,
        sha256: sha256.as_deref(),
        compress,
        bmap,
        force,
    };
    let lacks_agent = ordering.lacks_agent();
    let planned = match job {
        Some(job) => many(&job, ordering, &out, compress)?,
        None => vec![one(ordering, &out, compress)?],
    };
    let cards: Vec<Card> = planned.iter().map(card).collect();
    customise::check(&request, &cards).map_err(failure)?;
    let report = if dry_run {
        None
    } else {
        let made = folder(&planned)?;
        let watch = Bars::start(json)?.bar("");
        let report = customise::run(&request, &cards, &watch);
        if let (Err(_), Some(made)) = (&report, made) {
            // Only if nothing came of it.
            let _ = fs::remove_dir(made);
        }
        Some(report.map_err(failure)?)
    };
    if lacks_agent {
        ordering::warn_of_no_agent();
    }
    if json {
        return say_json(&planned, report.as_ref());
    }
    say(&planned, report.as_ref())
}

fn one(ordering: Ordering, out: &Path, compress: Compress) -> Result<Planned, Failure> {
    let order = ordering.order()?;
    let robot = match &order.name {
        Name::Given(id) => id.to_string(),
        Name::Serial { prefix } => prefix.to_string(),
    };
    let place = if out.is_dir() || out.as_os_str().to_string_lossy().ends_with('/') {
        out.join(format!("{robot}{}", compress.extension()))
    } else {
        let name = out.to_string_lossy();
        let fits = match compress {
            Compress::None => ![".xz", ".gz", ".zst", ".zip"]
                .iter()
                .any(|end| name.ends_with(end)),
            Compress::Xz => name.ends_with(".xz"),
            Compress::Zstd => name.ends_with(".zst"),
        };
        if !fits {
            let as_it_is = match compress {
                Compress::None => "not packed",
                Compress::Xz => "packed by xz",
                Compress::Zstd => "packed by zstd",
            };
            return Err(Failure::new(format!(
                "expected a name that ends with {}, as it is {as_it_is}, got {name}",
                compress.extension(),
            ))
            .hint((compress == Compress::None).then_some("--compress xz or zst packs it")));
        }
        out.to_owned()
    };
    Ok(Planned {
        robot,
        serial: None,
        place,
        files: plan::seed(&order),
    })
}

fn many(
    path: &Path,
    ordering: Ordering,
    out: &Path,
    compress: Compress,
) -> Result<Vec<Planned>, Failure> {
    let text = fs::read_to_string(path).map_err(|source| Failure::file("read", path, source))?;
    let cards = job::parse(&text).map_err(|source| {
        let hint = source.hint();
        let path = path.to_owned();
        Failure::new(CardError::Job { path, source }).hint(hint)
    })?;
    let shared = ordering.shared()?;
    let mut own_tokens: HashMap<String, u64> = HashMap::new();
    cards
        .iter()
        .map(|card| {
            let order = order(path, card, &shared)?;
            // By whichever file it came.
            if card.token.is_some()
                && let Some(first) = own_tokens.insert(order.token.clone(), card.line)
            {
                let source = JobError::Duplicate {
                    first,
                    second: card.line,
                    what: "token",
                    value: "lkt_…".to_owned(),
                };
                let path = path.to_owned();
                return Err(Failure::new(CardError::Job { path, source }));
            }
            let robot = card.name(&shared).unwrap_or_default();
            Ok(Planned {
                place: out.join(format!("{robot}{}", compress.extension())),
                robot,
                serial: card.serial.clone(),
                files: plan::seed(&order),
            })
        })
        .collect()
}

fn order(path: &Path, card: &JobCard, shared: &Order) -> Result<Order, Failure> {
    let (token, expires) = match &card.token {
        None => (None, None),
        Some(Token::Here(token)) => (Some(token.clone()), None),
        Some(Token::File(file)) => {
            let file = path.parent().unwrap_or(Path::new("")).join(file);
            let (token, expires) = ordering::token(&file)?;
            (Some(token), expires)
        }
    };
    let mut order = card.over(shared, token);
    order.token_expires = order.token_expires.or(expires);
    order.check().map_err(|source| {
        let hint = source.hint();
        let error = CardError::Order {
            path: path.to_owned(),
            line: card.line,
            source,
        };
        Failure::new(error).hint(hint)
    })
}

/// The folder of the images, where it had to be made.
fn folder(planned: &[Planned]) -> Result<Option<PathBuf>, Failure> {
    let parent = planned.first().and_then(|card| card.place.parent());
    match parent {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.exists() => {
            fs::create_dir(folder).map_err(|source| Failure::file("made", folder, source))?;
            Ok(Some(folder.to_owned()))
        }
        _ => Ok(None),
    }
}

fn card(planned: &Planned) -> Card {
    let files = planned.files.iter().map(|file| BootFile {
        path: file.name.clone(),
        content: match &file.content {
            Content::Text(text) => fat::Content::Bytes(text.clone().into_bytes()),
            Content::Copy(path) => fat::Content::FromFile(path.clone()),
            Content::Edit(edit) => {
                let edit = edit.clone();
                fat::Content::Edit(Box::new(move |before| {
                    edit.edit(before.as_deref()).map_err(Into::into)
                }))
            }
        },
    });
    Card {
        place: planned.place.clone(),
        files: files.collect(),
    }
}

fn failure(error: CustomiseError) -> Failure {
    let of_edit = match &error {
        CustomiseError::Files {
            source: FatError::Edit { source, .. },
            ..
        } => source.downcast_ref().and_then(CmdlineError::hint),
        _ => None,
    };
    let hint = of_edit.or(error.hint());
    Failure::new(error).hint(hint)
}

fn say_json(planned: &[Planned], report: Option<&Report>) -> Result<(), Failure> {
    let finished: BTreeMap<_, _> = report
        .iter()
        .flat_map(|report| &report.finished)
        .map(|card| (&card.place, card))
        .collect();
    let images: Vec<_> = planned
        .iter()
        .map(|card| {
            let files: Vec<_> = card.files.iter().map(|file| file.name.as_str()).collect();
            let mut image = json!({ "robot": card.robot, "path": card.place, "files": files });
            if let Some(serial) = &card.serial {
                image["serial"] = json!(serial);
            }
            if let Some(finished) = finished.get(&card.place) {
                image["bytes"] = json!(finished.bytes);
                image["changed_bytes"] = json!(finished.changed);
                if let Some((path, mapped)) = &finished.bmap {
                    image["bmap"] = json!({ "path": path, "mapped_bytes": mapped });
                }
            }
            image
        })
        .collect();
    let mut all = json!({ "written": report.is_some(), "images": images });
    if let Some(report) = report {
        all["boot"] = json!({ "partition": report.boot.number, "label": report.label });
    }
    writeln!(io::stdout().lock(), "{all}")?;
    Ok(())
}

fn say(planned: &[Planned], report: Option<&Report>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let verb = if report.is_some() {
        "wrote"
    } else {
        "would write"
    };
    for card in planned {
        let files: Vec<_> = card.files.iter().map(|file| file.name.as_str()).collect();
        writeln!(
            out,
            "{verb} {} with {}",
            card.place.display(),
            files.join(", ")
        )?;
    }
    Ok(())
}
