//! What else could be installed on a robot, each on one of its own with what it talks to.

use std::any::Any;
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::RobotId;
use lekiwi_tests::fleet::{Admin, Identity};
use lekiwi_tests::harness::{Host, Process, Relay, RelayOptions, program};

use crate::robot::Folders;
use crate::site::Site;
use crate::subject::{Subject, copy_of};
use crate::table::Missing;

/// The least that says a robot lives, see `agent/examples/skeleton.rs`.
const SKELETON: &str = "bare heartbeat skeleton";

/// What is needed of this machine beside Debian's packages.
pub(crate) struct Tools<'a> {
    pub(crate) skeleton: Option<&'a Path>,
    pub(crate) python: &'a Path,
}

type Start = fn(&Tools<'_>) -> Result<Subject>;

const ALL: [(&str, Start); 5] = [
    (SKELETON, skeleton),
    ("collectd with mqtt", collectd),
    ("prometheus-node-exporter", exporter),
    ("netdata", netdata),
    ("psutil + websockets", script),
];

/// Starts all of them, and says which are not there.
pub(crate) fn start(tools: &Tools<'_>) -> (Vec<Subject>, Vec<Missing>) {
    let (mut subjects, mut missing) = (Vec::new(), Vec::new());
    for (name, start) in ALL {
        match start(tools) {
            Ok(subject) => subjects.push(Subject { name, ..subject }),
            Err(error) => missing.push(Missing {
                name,
                why: format!("{error:#}"),
            }),
        }
    }
    (subjects, missing)
}

fn subject(site: Site, process: Process, around: Vec<Box<dyn Any>>) -> Subject {
    Subject {
        name: "",
        process,
        _around: around,
        site,
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

fn skeleton(tools: &Tools<'_>) -> Result<Subject> {
    let built = tools.skeleton.context(
        "expected LEKIWI_SKELETON (hint: cargo xtask bench agent builds it, and sets it)",
    )?;
    let (site, folders) = (Site::new()?, Folders::new()?);
    let relay = Relay::start_with(RelayOptions {
        host: Some(site.server.clone()),
        ..RelayOptions::default()
    })?;
    let id: RobotId = "bench-01".parse()?;
    let disk = folders.disk.path();
    site.server.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build()?;
        runtime.block_on(async {
            let password = relay.admin_password_file();
            let admin = Admin::login(relay.https(), relay.ca_pem(), &password).await?;
            Identity::enrol(&admin, disk, id.clone()).await
        })
    })??;
    let arguments = [
        relay.mqtt().into(),
        id.to_string().into(),
        disk.join(id.as_str()).into_os_string(),
    ];
    let log = folders.memory.path().join("skeleton.log");
    let mut process = site
        .robot
        .start("skeleton", &copy_of(built, disk)?, arguments, &[], &log)?;
    process.wait_for("a connection", || said(&log, "connected"))?;
    Ok(subject(
        site,
        process,
        vec![Box::new(relay), Box::new(folders)],
    ))
}

/// A line of a program's log.
fn said(log: &Path, line: &str) -> Option<()> {
    let text = std::fs::read_to_string(log).ok()?;
    text.lines().any(|said| said == line).then_some(())
}

/// Waits until somebody listens at `address`, asked from `here`.
fn listens(process: &mut Process, here: &Host, address: (Ipv4Addr, u16)) -> Result<()> {
    process.wait_for("a listener", || {
        here.inside(|| TcpStream::connect(address).ok()).ok()?
    })?;
    Ok(())
}

const COLLECTD_PLUGINS: &str = "/usr/lib/collectd";

fn collectd(_: &Tools<'_>) -> Result<Subject> {
    let (broker, collectd) = (
        program("mosquitto", "mosquitto")?,
        program("collectd", "collectd-core")?,
    );
    ensure!(
        Path::new(COLLECTD_PLUGINS).join("mqtt.so").is_file(),
        "expected collectd's mqtt plugin in {COLLECTD_PLUGINS} (hint: apt-get install -y collectd-core)"
    );
    let (site, folders) = (Site::new()?, Folders::new()?);
    let (disk, memory) = (folders.disk.path(), folders.memory.path());
    let broker_config = disk.join("mosquitto.conf");
    std::fs::write(
        &broker_config,
        "user root\nlistener 1883 0.0.0.0\nallow_anonymous true\n",
    )?;
    let arguments = [Path::new("-c"), &broker_config];
    let log = memory.join("mosquitto.log");
    let mut broker = site
        .server
        .start("mosquitto", &broker, arguments, &[], &log)?;
    listens(&mut broker, &site.server, (Ipv4Addr::LOCALHOST, 1883))?;
    let config = disk.join("collectd.conf");
    let plugins = ["cpu", "memory", "df", "interface", "load", "mqtt"];
    let plugins: String = plugins
        .iter()
        .map(|name| format!("LoadPlugin {name}\n"))
        .collect();
    std::fs::write(
        &config,
        format!(
            "Hostname \"bench-01\"\nFQDNLookup false\nInterval 10\nBaseDir \"{0}\"\nPIDFile \"{0}/pid\"\n\
             PluginDir \"{COLLECTD_PLUGINS}\"\nTypesDB \"/usr/share/collectd/types.db\"\n{plugins}<Plugin mqtt>\n\
             <Publish \"bench\">\nHost \"{1}\"\nPort \"1883\"\nClientId \"bench-01\"\n</Publish>\n</Plugin>\n",
            disk.display(),
            site.server.address()
        ),
    )?;
    let arguments = ["-f".into(), "-C".into(), config.into_os_string()];
    let log = memory.join("collectd.log");
    let process = site
        .robot
        .start("collectd", &copy_of(&collectd, disk)?, arguments, &[], &log)?;
    Ok(subject(
        site,
        process,
        vec![Box::new(broker), Box::new(folders)],
    ))
}

fn exporter(tools: &Tools<'_>) -> Result<Subject> {
    let exporter = program("prometheus-node-exporter", "prometheus-node-exporter")?;
    let (site, folders) = (Site::new()?, Folders::new()?);
    let (disk, memory) = (folders.disk.path(), folders.memory.path());
    let none: [OsString; 0] = [];
    let log = memory.join("exporter.log");
    let mut process = site
        .robot
        .start("exporter", &copy_of(&exporter, disk)?, none, &[], &log)?;
    listens(&mut process, &site.server, (site.robot.address(), 9100))?;
    let robot = site.robot.address().to_string();
    let log = memory.join("scrape.log");
    let arguments = python_arguments("scrape", &["--host", &robot]);
    let mut scraper = site
        .server
        .start("scrape", tools.python, arguments, &[], &log)?;
    scraper.wait_for("metrics", || said(&log, "scraped"))?;
    Ok(subject(
        site,
        process,
        vec![Box::new(scraper), Box::new(folders)],
    ))
}

fn python_arguments(kind: &str, more: &[&str]) -> Vec<OsString> {
    let script: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/bench_agent/peers.py");
    let mut all = vec![script.into_os_string(), kind.into()];
    all.extend(words(more));
    all
}

/// As the package has it, but for its folders, and for root instead of a user of its own.
fn netdata(_: &Tools<'_>) -> Result<Subject> {
    let netdata = program("netdata", "netdata-core")?;
    let (site, folders) = (Site::new()?, Folders::new()?);
    let disk = folders.disk.path();
    let mut arguments = words(&["-D", "-u", "root", "-P"]);
    arguments.push(disk.join("pid").into_os_string());
    for name in ["cache", "lib", "log"] {
        let folder = disk.join(name);
        std::fs::create_dir(&folder)?;
        arguments.extend(words(&["-W", "set", "directories", name]));
        arguments.push(folder.into_os_string());
    }
    let log = folders.memory.path().join("netdata.log");
    let mut process = site
        .robot
        .start("netdata", &netdata, arguments, &[], &log)?;
    listens(&mut process, &site.robot, (Ipv4Addr::LOCALHOST, 19_999))?;
    Ok(subject(site, process, vec![Box::new(folders)]))
}

fn script(tools: &Tools<'_>) -> Result<Subject> {
    let (site, folders) = (Site::new()?, Folders::new()?);
    let memory = folders.memory.path();
    let log = memory.join("hub.log");
    let hub = python_arguments("hub", &[]);
    let mut hub = site.server.start("hub", tools.python, hub, &[], &log)?;
    hub.wait_for("a listener", || said(&log, "ready"))?;
    let server = site.server.address().to_string();
    let log = memory.join("heartbeat.log");
    let arguments = python_arguments("heartbeat", &["--host", &server]);
    let mut process = site
        .robot
        .start("heartbeat", tools.python, arguments, &[], &log)?;
    process.wait_for("a connection", || said(&log, "connected"))?;
    Ok(subject(
        site,
        process,
        vec![Box::new(hub), Box::new(folders)],
    ))
}
