//! `lekiwi-provisioner flash`: an image onto cards, or a list of the cards there are.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use lekiwi_provisioner::clock;
use lekiwi_provisioner::flash::bmap::Bmap;
use lekiwi_provisioner::flash::card::{Card, Rest};
use lekiwi_provisioner::flash::device::{Device, Limits, Refusal, Survey};
use lekiwi_provisioner::flash::survey::{self, SurveyError};
use lekiwi_provisioner::flash::write::{self, Failed, Image, Job, Outcome, Written};
use lekiwi_provisioner::media::compressed;
use lekiwi_provisioner::watch::Watch;
use serde_json::json;

use crate::failure::Failure;
use crate::progress::{Bars, Progress};

/// What `flash` takes.
#[derive(Args)]
#[command(
    after_help = "Example:\n  lekiwi-provisioner flash --list\n  lekiwi-provisioner flash raspios.img sda sdb"
)]
pub(crate) struct Options {
    /// The image, packed as .xz, .gz, .zst or .zip, or not.
    #[arg(required_unless_present = "list")]
    image: Option<PathBuf>,
    /// Cards to write it to, all at once: names such as `sda`, or paths.
    devices: Vec<PathBuf>,
    /// List what could be written to, and why the rest could not.
    #[arg(long, conflicts_with_all = ["image", "yes", "bmap"])]
    list: bool,
    /// Overwrite the device of this name without asking; repeatable.
    #[arg(long, value_name = "DEVICE_NAME", value_delimiter = ',')]
    yes: Vec<String>,
    /// The largest device that is taken for a card: bytes, or with K, M, G or T (of 1024).
    #[arg(long, default_value = "256G", value_parser = size)]
    max_size: u64,
    /// The image's block map; the one beside the image is found by itself.
    #[arg(long)]
    bmap: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Lists devices, or writes to some.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    match &options.image {
        Some(path) => flash(options, path),
        None => list(options),
    }
}

fn list(options: &Options) -> Result<(), Failure> {
    let limits = Limits {
        most_bytes: options.max_size,
        image_bytes: None,
    };
    let mut survey = survey::take().map_err(unlisted)?;
    let devices: Vec<Device> = survey.candidates().cloned().collect();
    for device in &devices {
        survey::inspect(&mut survey, device);
    }
    let judged: Vec<(&Device, Vec<String>)> = devices
        .iter()
        .map(|device| {
            let refusals = survey.refusals(device, &limits);
            (
                device,
                refusals.iter().map(|refusal| chain(refusal)).collect(),
            )
        })
        .collect();
    let mut out = io::stdout().lock();
    if options.json {
        let devices: Vec<_> = judged
            .iter()
            .map(|(device, refused)| {
                json!({
                    "name": device.name, "path": device.path, "bytes": device.bytes,
                    "model": device.model, "serial": device.serial, "transport": device.transport,
                    "refused": refused,
                })
            })
            .collect();
        writeln!(out, "{}", json!({ "devices": devices }))?;
        return Ok(());
    }
    let mut rows = vec![
        [
            "NAME",
            "SIZE",
            "MODEL",
            "SERIAL",
            "VIA",
            "MAY BE OVERWRITTEN",
        ]
        .map(str::to_owned),
    ];
    rows.extend(judged.iter().map(|(device, refused)| {
        let verdict = if refused.is_empty() {
            "yes".to_owned()
        } else {
            format!("no: {}", refused.join("; "))
        };
        [
            device.name.clone(),
            decimal(device.bytes),
            or_dash(device.model.as_ref()),
            or_dash(device.serial.as_ref()),
            or_dash(device.transport.as_ref()),
            verdict,
        ]
    }));
    write!(out, "{}", table(&rows))?;
    Ok(())
}

fn flash(options: &Options, path: &Path) -> Result<(), Failure> {
    let bytes = File::open(path)
        .and_then(|file| file.metadata())
        .and_then(|metadata| {
            if metadata.is_file() {
                return Ok(metadata.len());
            }
            Err(io::Error::other("not a file"))
        })
        .map_err(|source| Failure::file("read", path, source))?;
    let packed = compressed::detect(path).map_err(Failure::new)?.is_some();
    let bytes = (!packed).then_some(bytes);
    let map = bmap(options, path)?;
    let limits = Limits {
        most_bytes: options.max_size,
        image_bytes: map.as_ref().map(|(_, map)| map.image_bytes()).or(bytes),
    };
    let (survey, devices) = chosen(options, &limits)?;
    for (device, named) in &devices {
        confirm(options, device, named)?;
    }
    let cards = devices
        .iter()
        .map(|(device, _)| Card::open(&survey, device, &limits))
        .collect::<Result<Vec<_>, _>>()
        .map_err(refused)?;
    let open = || compressed::open(path);
    let image = Image { open: &open, bytes };
    let bars = Bars::start(options.json)?;
    let watches: Vec<Timed> = cards
        .iter()
        .map(|card| Timed::new(bars.bar(card.name())))
        .collect();
    let jobs = cards
        .into_iter()
        .zip(&watches)
        .map(|(card, watch)| Job { card, watch })
        .collect();
    let outcome = write::write(&image, map.as_ref().map(|(_, map)| map), jobs);
    let times: Vec<Times> = watches.into_iter().map(Timed::end).collect();
    let names: Vec<&str> = devices
        .iter()
        .map(|(device, _)| device.name.as_str())
        .collect();
    report(options, &names, &times, outcome)
}

/// A card's bar, and when its steps began.
struct Timed {
    bar: Progress,
    steps: Mutex<Steps>,
}

struct Steps {
    begun: Vec<Instant>,
    last: Instant,
}

/// How long a card took; zero for a step that it did not reach.
struct Times {
    writing: Duration,
    reading: Duration,
}

impl Timed {
    fn new(bar: Progress) -> Self {
        Self {
            bar,
            steps: Mutex::new(Steps {
                begun: Vec::new(),
                last: clock::monotonic(),
            }),
        }
    }

    fn note(&self, begins: bool) {
        let now = clock::monotonic();
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.last = now;
        if begins {
            steps.begun.push(now);
        }
    }

    fn end(self) -> Times {
        let steps = self.steps.into_inner();
        let Steps { begun, last } = steps.unwrap_or_else(PoisonError::into_inner);
        let step = |index: usize| {
            let begun_at = begun.get(index).copied().unwrap_or(last);
            begun.get(index + 1).copied().unwrap_or(last) - begun_at
        };
        Times {
            writing: step(0),
            reading: step(1),
        }
    }
}

impl Watch for Timed {
    fn begin(&self, step: &str, bytes: Option<u64>) {
        self.note(true);
        self.bar.begin(step, bytes);
    }

    fn advance(&self, bytes: u64) {
        self.note(false);
        self.bar.advance(bytes);
    }

    fn stopped(&self) -> bool {
        self.bar.stopped()
    }
}

/// The block map that was named, or that lies beside the image: `a.img.xz` has `a.img.xz.bmap`, `a.img.bmap` or
/// `a.bmap`.
fn bmap(options: &Options, image: &Path) -> Result<Option<(PathBuf, Bmap)>, Failure> {
    let path = match &options.bmap {
        Some(path) => path.clone(),
        None => {
            let Some(path) = beside(image).into_iter().find(|path| path.is_file()) else {
                return Ok(None);
            };
            path
        }
    };
    let text =
        std::fs::read_to_string(&path).map_err(|source| Failure::file("read", &path, source))?;
    let map = Bmap::parse(&text)
        .map_err(|error| Failure::new(format!("{}: {}", path.display(), chain(&error))))?;
    Ok(Some((path, map)))
}

fn beside(image: &Path) -> Vec<PathBuf> {
    let mut whole = image.as_os_str().to_owned();
    whole.push(".bmap");
    let mut paths = vec![PathBuf::from(whole)];
    let mut base = image.to_owned();
    while base.extension().is_some() {
        base.set_extension("");
        let mut name = base.as_os_str().to_owned();
        name.push(".bmap");
        paths.push(PathBuf::from(name));
    }
    paths
}

/// The devices that were named, none of them refused, each with how it was named if that is a link.
fn chosen(options: &Options, limits: &Limits) -> Result<(Survey, Vec<(Device, String)>), Failure> {
    let mut survey = survey::take().map_err(unlisted)?;
    let mut devices: Vec<(Device, String)> = Vec::new();
    for named in &options.devices {
        let (device, real) = survey::find(&survey, named).map_err(unlisted)?;
        if devices.iter().any(|(other, _)| other.name == device.name) {
            return Err(Failure::new(format!(
                "expected different devices, got {} twice",
                device.name
            )));
        }
        let shown = if named.is_absolute() && *named != real {
            format!("{} -> {}", named.display(), real.display())
        } else {
            real.display().to_string()
        };
        devices.push((device.clone(), shown));
    }
    if devices.is_empty() {
        return Err(Failure::new("expected the cards to write to").hint(Some(
            "`lekiwi-provisioner flash --list` shows what there is",
        )));
    }
    if let Some(stray) = options
        .yes
        .iter()
        .find(|name| !devices.iter().any(|(device, _)| device.name == **name))
    {
        return Err(Failure::new(format!(
            "expected --yes with the name of a device to write to, got {stray:?}"
        )));
    }
    for (device, _) in &devices {
        survey::inspect(&mut survey, device);
    }
    let mut against = devices
        .iter()
        .flat_map(|(device, _)| survey.refusals(device, limits));
    if let Some(first) = against.next() {
        let hint = first.hint();
        let all: Vec<String> = std::iter::once(first)
            .chain(against)
            .map(|refusal| chain(&refusal))
            .collect();
        return Err(Failure::new(all.join("; ")).hint(hint));
    }
    Ok((survey, devices))
}

/// Asks for the device's own name, unless it was given beforehand.
fn confirm(options: &Options, device: &Device, named: &str) -> Result<(), Failure> {
    let name = &device.name;
    if options.yes.contains(name) {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::new(format!(
            "expected a terminal to ask whether {named} may be overwritten"
        ))
        .hint(Some(format!("--yes {name} overwrites it without asking"))));
    }
    let mut err = io::stderr().lock();
    write!(
        err,
        "{}\nEverything on it will be lost. Type its name ({name}) to go on: ",
        described(device, named)
    )?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == name {
        return Ok(());
    }
    Err(Failure::new(format!(
        "expected {name}, got {:?}: nothing was written",
        answer.trim()
    )))
}

fn described(device: &Device, named: &str) -> String {
    let parts = [
        Some(named.to_owned()),
        Some(decimal(device.bytes)),
        device.model.clone(),
        device
            .serial
            .as_ref()
            .map(|serial| format!("serial {serial}")),
        device.transport.clone(),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Says what became of each card; fails when one did.
fn report(
    options: &Options,
    names: &[&str],
    times: &[Times],
    outcome: Outcome,
) -> Result<(), Failure> {
    let failed = outcome.cards.iter().filter(|card| card.is_err()).count();
    let cards = names.iter().zip(times).zip(&outcome.cards);
    if options.json {
        let cards: Vec<_> = cards
            .map(|((name, times), card)| match card {
                Ok(written) => json!({
                    "name": name, "written": true, "image_bytes": written.image_bytes,
                    "written_bytes": written.written_bytes, "rest_zeroed": written.rest != Rest::Kept,
                    "writing_seconds": times.writing.as_secs_f64(),
                    "reading_seconds": times.reading.as_secs_f64(),
                }),
                Err(failed) => json!({
                    "name": name, "written": false, "error": chain(&failed.error), "blank": failed.blank,
                }),
            })
            .collect();
        writeln!(io::stdout().lock(), "{}", json!({ "cards": cards }))?;
    } else {
        for ((name, times), card) in cards {
            match card {
                Ok(written) => writeln!(io::stdout().lock(), "{}", done(name, written, times))?,
                Err(failed) => writeln!(io::stderr().lock(), "{}", undone(name, failed))?,
            }
        }
    }
    if let Err(error) = outcome.image {
        return Err(Failure::new(error));
    }
    if failed > 0 {
        return Err(Failure::new(format!(
            "{failed} of {} cards do not hold the image",
            names.len()
        )));
    }
    Ok(())
}

fn done(name: &str, written: &Written, times: &Times) -> String {
    let note = match written.rest {
        Rest::Kept => "; what lies behind the image is as it was",
        Rest::Nothing | Rest::Zeroed => "",
    };
    let milliseconds = u64::try_from(times.writing.as_millis()).unwrap_or(u64::MAX);
    let rate = written.image_bytes.saturating_mul(1000) / milliseconds.max(1);
    format!(
        "{name}: {} written in {:.1} s ({}/s), read back in {:.1} s{note}",
        decimal(written.image_bytes),
        times.writing.as_secs_f64(),
        decimal(rate),
        times.reading.as_secs_f64()
    )
}

fn undone(name: &str, failed: &Failed) -> String {
    let state = if failed.blank {
        "it has no partition table, so nothing boots from it"
    } else {
        "what is on it is not known"
    };
    format!("{name}: {}; {state}", chain(&failed.error))
}

fn refused(refusal: Refusal) -> Failure {
    let hint = refusal.hint();
    Failure::new(refusal).hint(hint)
}

fn unlisted(error: SurveyError) -> Failure {
    let hint = error.hint();
    Failure::new(error).hint(hint)
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Bytes as makers of cards count them.
fn decimal(bytes: u64) -> String {
    let units = [
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
    ];
    let Some((unit, size)) = units.into_iter().find(|(_, size)| bytes >= *size) else {
        return format!("{bytes} B");
    };
    let tenths = bytes / (size / 10);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

fn or_dash(text: Option<&String>) -> String {
    text.map_or("-", |text| text.trim()).to_owned()
}

/// Columns two blanks apart.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or_default();
            if column + 1 < N {
                text.push_str(&format!("{cell:width$}  "));
            } else {
                text.push_str(cell);
            }
        }
        text.push('\n');
    }
    text
}

/// `256G`: bytes, in units of 1024.
fn size(text: &str) -> Result<u64, String> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let (number, shift) = units
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))
        .unwrap_or((text, 0));
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("expected bytes such as 268435456 or 256G, got {text:?}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        assert_eq!(size("256G").unwrap(), 274_877_906_944);
        assert_eq!(size("512").unwrap(), 512);
        assert_eq!(
            size("32GB").unwrap_err(),
            "expected bytes such as 268435456 or 256G, got \"32GB\""
        );
        assert_eq!(
            size("99999999T").unwrap_err(),
            "expected bytes such as 268435456 or 256G, got \"99999999T\""
        );
        assert_eq!(decimal(31_914_983_424), "31.9 GB");
        assert_eq!(decimal(999), "999 B");
    }

    #[test]
    fn block_maps_are_looked_for_beside_the_image() {
        assert_eq!(
            beside(Path::new("/x/a.img.xz")),
            [
                Path::new("/x/a.img.xz.bmap"),
                Path::new("/x/a.img.bmap"),
                Path::new("/x/a.bmap")
            ]
        );
    }
}
