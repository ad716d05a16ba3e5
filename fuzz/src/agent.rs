//! What the agent reads on its robot: local programs, the kernel, a media server, an older system, its configuration and the relay's
//! certificates. Files are in memory.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lekiwi_agent::config::{self, Environment};
use lekiwi_agent::identity::certs_only;
use lekiwi_agent::ipc::{Caller, Request, Standing};
use lekiwi_agent::migration::{self, http};
use lekiwi_agent::scrub::scrub;
use lekiwi_agent::telemetry::{packages, parse};
use lekiwi_agent::teleop::media;
use lekiwi_agent_core::teleop::MAX_MEDIA;
use lekiwi_agent_core::twin::Layer;
use tempfile::TempDir;

/// Panics where the bytes break something.
type Try = fn(&[u8]);

/// All of them.
pub(crate) const TARGETS: &[(&str, Try)] = &[
    ("local", local),
    ("machine", machine),
    ("answer", answer),
    ("settings", settings),
    ("scrubbed", scrubbed),
];

/// Lines of the robot's programs, and requests of an older system's agent.
fn local(bytes: &[u8]) {
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(request) = Request::parse(line) else {
            continue;
        };
        let text = serde_json::to_vec(&request).expect("what was read can be written");
        assert_eq!(Request::parse(&text).as_ref(), Ok(&request));
        let may = |standing| request.check(Caller { uid: 1, standing }).is_ok();
        // Who may more may this too.
        assert!(may(Standing::Member) || !may(Standing::Guest));
        assert!(may(Standing::Owner) || !may(Standing::Member));
    }
    if let Ok(Some(asked)) = http::parse(bytes) {
        // What comes after a request is not part of it.
        let longer = [bytes, b"x"].concat();
        assert_eq!(http::parse(&longer).as_ref(), Ok(&Some(asked)));
    }
    let _ = serde_json::from_slice::<migration::Robot>(bytes);
}

/// Texts of `/proc`, `/sys` and dpkg.
fn machine(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let text = &*text;
    let mut before = None;
    for (core, cpu) in parse::cpus(text) {
        assert!(core.len() < text.len());
        if let Some(percent) = before.and_then(|before| cpu.busy_percent_since(before)) {
            share(percent);
        }
        before = Some(cpu);
    }
    let shares = [
        parse::memory_percent(text),
        parse::swap_percent(text),
        parse::battery(text).map(|battery| battery.percent),
    ];
    shares.into_iter().flatten().for_each(share);
    if let Some(worn) = parse::wear_percent(text) {
        // The last tenth is beyond what a card was made for.
        assert!((10.0..=110.0).contains(&worn));
    }
    for mean in parse::load(text).into_iter().flatten() {
        assert!(mean >= 0.0 && mean.is_finite());
    }
    for (name, _) in parse::interfaces(text) {
        assert!(!name.is_empty());
    }
    for (_, level) in parse::signals(text) {
        assert!((-150.0..=0.0).contains(&level));
    }
    let _ = (
        parse::number(text),
        parse::throttled(text),
        parse::uptime_s(text),
        parse::kilobytes(text, "VmRSS:"),
        parse::number_of(text, "usage_usec"),
        parse::temperature_c(text),
    );
    let root = folder(&["var/lib/dpkg"]);
    put(&root.path().join("var/lib/dpkg/status"), bytes);
    let list = packages::list(root.path()).expect("a file that can be read");
    assert_eq!(list.packages.len(), list.installed.count as usize);
    assert!(list.packages.iter().all(|line| !line.contains('\n')));
}

fn share(percent: f64) {
    assert!((0.0..=100.0).contains(&percent), "{percent}");
}

/// What a relay answers as certificates, and a media server as its readers.
fn answer(bytes: &[u8]) {
    for body in [bytes, STANDARD.encode(bytes).as_bytes()] {
        if let Some(certificates) = certs_only(body) {
            assert!(!certificates.is_empty());
        }
    }
    assert!(media::readers(bytes).len() <= MAX_MEDIA);
}

/// The agent's file, what operators desire over it, and the lines of an environment.
fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default();
    let (file, desired, variables) = (next(), next(), next());
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let environment: Environment = variables.collect();
    let folder = folder(&[]);
    let path = folder.path().join("agent.yml");
    put(&path, file.as_bytes());
    let alone = config::load(&path, &environment, "kiwi-01", None);
    let Ok(settings) = serde_json::from_str(desired) else {
        return;
    };
    let layer = Layer {
        version: 7,
        settings,
    };
    let both = config::load(&path, &environment, "kiwi-01", Some(&layer));
    // What is desired mends nothing.
    assert!(alone.is_ok() || both.is_err());
    for error in [alone.err(), both.err()].into_iter().flatten() {
        let _ = (error.to_string(), error.hint());
    }
}

/// Longest seed that is tried: what is looked for grows with what is found.
const MOST_SCRUBBED: usize = 4096;

/// A seed whose secrets are masked: nothing else changes, and nothing is left to do.
fn scrubbed(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MOST_SCRUBBED)];
    let folder = folder(&["boot", "var/log"]);
    let root = folder.path();
    let (seed, log) = (
        root.join("boot/user-data"),
        root.join("var/log/cloud-init.log"),
    );
    for path in [&seed, &log] {
        put(path, bytes);
    }
    let report = scrub(root, &root.join("boot"));
    assert_eq!(report.failed, Vec::<String>::new());
    for path in [&seed, &log] {
        let after = fs::read(path).expect("a file");
        assert_eq!(after.len(), bytes.len());
        let kept = |(old, new): (&u8, &u8)| old == new || *new == b'0';
        assert!(bytes.iter().zip(&after).all(kept));
        let tokens = after
            .windows(4 + 20)
            .filter(|window| window.starts_with(b"lkt_"));
        let secret =
            |byte: &u8| byte.is_ascii_alphanumeric() && *byte != b'0' || b"-_".contains(byte);
        let whole = |token: &[u8]| token.iter().all(|byte| *byte == b'0' || secret(byte));
        assert!(
            tokens
                .map(|window| &window[4..])
                .all(|token| !whole(token) || !token.iter().any(secret))
        );
    }
    let again = scrub(root, &root.join("boot"));
    assert_eq!(again.masked, Vec::<PathBuf>::new());
}

/// A folder in memory with folders in it.
fn folder(within: &[&str]) -> TempDir {
    let folder = tempfile::tempdir_in("/dev/shm").expect("memory");
    for each in within {
        fs::create_dir_all(folder.path().join(each)).expect("memory");
    }
    folder
}

fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("memory");
}
