//! Debian packages, laid out here and written by `dpkg-deb`.

use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::program::{Program, Target};
use super::{VERSION, libraries, timestamp};
use crate::command::{command, read};
use crate::workspace;

/// Where systemd looks for what packages bring, by the ending of our file's name.
const UNIT_FOLDERS: &[(&str, &str)] = &[
    (".service", "/usr/lib/systemd/system"),
    (".socket", "/usr/lib/systemd/system"),
    (".sysusers.conf", "/usr/lib/sysusers.d"),
    (".tmpfiles.conf", "/usr/lib/tmpfiles.d"),
];

/// Writes the package into `folder` and answers its path.
pub(super) fn write(
    program: &Program,
    target: Target,
    binary: &Path,
    folder: &Path,
) -> Result<PathBuf> {
    let name = format!("{}_{VERSION}_{}.deb", program.package, target.debian());
    let stage =
        workspace::target()
            .join("stage")
            .join(format!("{}-{}", program.package, target.debian()));
    if stage.exists() {
        std::fs::remove_dir_all(&stage)?;
    }
    let tree = Tree { stage: &stage };
    tree.copy(binary, &program.path(), 0o755)?;
    if program.folder != "/usr/bin" {
        tree.link(&program.path(), &format!("/usr/bin/{}", program.binary))?;
    }
    for (source, destination) in program.files {
        tree.copy_all(&workspace::root().join(source), destination)?;
    }
    tree.text(
        &format!("/usr/share/doc/{}/copyright", program.package),
        COPYRIGHT,
        0o644,
    )?;
    let units = units(program, &tree)?;
    tree.text("/DEBIAN/control", &control(program, target, binary)?, 0o644)?;
    if !units.is_empty() {
        tree.text("/DEBIAN/postinst", &postinst(program, &units), 0o755)?;
        tree.text("/DEBIAN/prerm", &prerm(program), 0o755)?;
        tree.text("/DEBIAN/postrm", &postrm(program), 0o755)?;
    }
    let deb = folder.join(name);
    read(
        command("dpkg-deb")
            .env("SOURCE_DATE_EPOCH", timestamp()?.to_string())
            .args(["--root-owner-group", "-Zxz", "--build"])
            .args([&stage, &deb]),
    )?;
    Ok(deb)
}

/// A package's files before they are packed.
struct Tree<'a> {
    stage: &'a Path,
}

impl Tree<'_> {
    fn place(&self, destination: &str) -> Result<PathBuf> {
        let path = self.stage.join(destination.trim_start_matches('/'));
        let parent = path.parent().context("a file lies in a folder")?;
        std::fs::create_dir_all(parent)
            .with_context(|| format!("could not create {}", parent.display()))?;
        // Whatever this process's umask is, packages hold 0755 folders.
        for folder in parent
            .ancestors()
            .take_while(|folder| folder.starts_with(self.stage))
        {
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755))?;
        }
        Ok(path)
    }

    fn copy(&self, source: &Path, destination: &str, mode: u32) -> Result<()> {
        let path = self.place(destination)?;
        std::fs::copy(source, &path)
            .with_context(|| format!("could not pack {}", source.display()))?;
        Ok(std::fs::set_permissions(
            &path,
            PermissionsExt::from_mode(mode),
        )?)
    }

    /// A file, or the files of a folder. Scripts stay programs.
    fn copy_all(&self, source: &Path, destination: &str) -> Result<()> {
        if !source.is_dir() {
            return self.copy(source, destination, mode(source)?);
        }
        for entry in std::fs::read_dir(source)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().context("expected a name in UTF-8")?;
            let destination = format!("{destination}/{name}");
            self.copy(&entry.path(), &destination, mode(&entry.path())?)?;
        }
        Ok(())
    }

    fn text(&self, destination: &str, text: &str, mode: u32) -> Result<()> {
        let path = self.place(destination)?;
        std::fs::write(&path, text)?;
        Ok(std::fs::set_permissions(
            &path,
            PermissionsExt::from_mode(mode),
        )?)
    }

    fn link(&self, to: &str, destination: &str) -> Result<()> {
        Ok(symlink(to, self.place(destination)?)?)
    }
}

/// Packs `systemd/BINARY.*`, and answers the endings.
fn units(program: &Program, tree: &Tree<'_>) -> Result<Vec<&'static str>> {
    let systemd = workspace::root().join("systemd");
    let mut found = Vec::new();
    for (ending, folder) in UNIT_FOLDERS {
        let source = systemd.join(format!("{}{ending}", program.binary));
        if source.is_file() {
            let installed = ending.replace(".sysusers", "").replace(".tmpfiles", "");
            tree.copy(
                &source,
                &format!("{folder}/{}{installed}", program.binary),
                0o644,
            )?;
            found.push(*ending);
        }
    }
    for unit in program.units {
        tree.copy(
            &systemd.join(unit),
            &format!("/usr/lib/systemd/system/{unit}"),
            0o644,
        )?;
    }
    ensure!(
        !program.is_service || found.contains(&".service"),
        "expected a unit of {} in systemd/{}.service, found none",
        program.binary,
        program.binary
    );
    Ok(found)
}

const COPYRIGHT: &str = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: Lekiwi Heartbeat

Files: *
Copyright: the Lekiwi Heartbeat contributors
License: Apache-2.0
 On Debian systems the licence is in /usr/share/common-licenses/Apache-2.0.
";

fn control(program: &Program, target: Target, binary: &Path) -> Result<String> {
    let mut control = format!(
        "Package: {}\nVersion: {VERSION}\nArchitecture: {}\nMaintainer: Lekiwi Heartbeat contributors <{}>\nSection: net\nPriority: optional\nHomepage: {}\n",
        program.package,
        target.debian(),
        "maintainers@lekiwi-heartbeat.invalid",
        env!("CARGO_PKG_REPOSITORY"),
    );
    let size = binary.metadata()?.len().div_ceil(1024);
    writeln!(control, "Installed-Size: {size}")?;
    if let Some((major, minor)) = libraries::of(binary, target)?.glibc {
        writeln!(control, "Depends: libc6 (>= {major}.{minor}), libgcc-s1")?;
    }
    writeln!(control, "Description: {}", program.summary)?;
    Ok(control)
}

/// Users and folders first, then the unit; `preset` works in an image under construction as well, where
/// no systemd runs.
fn postinst(program: &Program, units: &[&str]) -> String {
    let name = program.binary;
    let enabled = enabled(program);
    let mut steps = String::new();
    if units.contains(&".sysusers.conf") {
        steps.push_str(&format!("  systemd-sysusers {name}.conf\n"));
    }
    if units.contains(&".tmpfiles.conf") {
        steps.push_str(&format!(
            "  systemd-tmpfiles --create {name}.conf || true\n"
        ));
    }
    format!(
        "#!/bin/sh\nset -e\n\
         if [ \"$1\" = configure ] && command -v systemctl >/dev/null; then\n\
         {steps}\
         \x20 [ -n \"$2\" ] || systemctl preset {enabled}\n\
         \x20 if [ -d /run/systemd/system ]; then\n\
         \x20   systemctl daemon-reload\n\
         \x20   if [ -n \"$2\" ]; then systemctl try-restart {enabled}; else systemctl start {enabled}; fi || true\n\
         \x20 fi\n\
         fi\n"
    )
}

/// The units that an administrator may switch off.
fn enabled(program: &Program) -> String {
    let mut units = vec![format!("{}.service", program.binary)];
    let paths = program.units.iter().filter(|unit| unit.ends_with(".path"));
    units.extend(paths.map(|unit| (*unit).to_owned()));
    units.join(" ")
}

fn prerm(program: &Program) -> String {
    format!(
        "#!/bin/sh\nset -e\n\
         if [ \"$1\" = remove ] && command -v systemctl >/dev/null; then\n\
         \x20 [ ! -d /run/systemd/system ] || systemctl stop {enabled} || true\n\
         \x20 systemctl disable {enabled} || true\n\
         fi\n",
        enabled = enabled(program)
    )
}

/// Identity and data go only when the administrator says purge.
fn postrm(program: &Program) -> String {
    let purge = program.volume.map_or(String::new(), |folder| {
        format!("if [ \"$1\" = purge ]; then rm -rf {folder}; fi\n")
    });
    format!(
        "#!/bin/sh\nset -e\n\
         [ ! -d /run/systemd/system ] || systemctl daemon-reload\n{purge}"
    )
}

/// Reads a package back, unpacks it, and starts the program in it.
pub(super) fn check(program: &Program, target: Target, deb: &Path) -> Result<()> {
    let listing = read(command("dpkg-deb").arg("--contents").arg(deb))?;
    let files = packed(program)?.into_iter();
    let files = files.map(|(mode, file)| match mode {
        0o755 => ("-rwxr-xr-x", format!(".{file}")),
        _ => ("-rw-r--r--", format!(".{file}")),
    });
    let unit = format!("./usr/lib/systemd/system/{}.service", program.binary);
    let path = program.path();
    let mut expected = vec![
        ("-rwxr-xr-x", format!(".{path}")),
        ("-rw-r--r--", unit),
        (
            "-rw-r--r--",
            format!("./usr/share/doc/{}/copyright", program.package),
        ),
    ];
    expected.extend(files);
    for unit in program.units {
        expected.push(("-rw-r--r--", format!("./usr/lib/systemd/system/{unit}")));
    }
    for (mode, file) in expected {
        ensure!(
            listing.lines().any(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some(mode)
                    && words.next() == Some("root/root")
                    && words.next_back() == Some(&file)
            }),
            "expected {} to hold {file} as {mode} of root, got\n{listing}",
            deb.display()
        );
    }
    let unpacked = tempfile_folder(deb)?;
    read(command("dpkg-deb").arg("--extract").args([deb, &unpacked]))?;
    let binary = unpacked.join(path.trim_start_matches('/'));
    let version = read(emulated(target, &binary).arg("--version"))?;
    ensure!(
        version.trim() == format!("{} {VERSION}", program.binary),
        "expected {} to call itself {} {VERSION}, got `{}`",
        deb.display(),
        program.binary,
        version.trim()
    );
    std::fs::remove_dir_all(&unpacked)?;
    Ok(())
}

/// The mode that a file of the checkout has in a package.
fn mode(source: &Path) -> Result<u32> {
    let found = std::fs::metadata(source)
        .with_context(|| format!("could not pack {}", source.display()))?;
    match found.permissions().mode() & 0o100 {
        0 => Ok(0o644),
        _ => Ok(0o755),
    }
}

/// Where the program's further files go, one by one, and with which modes.
fn packed(program: &Program) -> Result<Vec<(u32, String)>> {
    let mut files = Vec::new();
    for (source, destination) in program.files {
        let source = workspace::root().join(source);
        if !source.is_dir() {
            files.push((mode(&source)?, (*destination).to_owned()));
            continue;
        }
        for entry in std::fs::read_dir(&source)? {
            let entry = entry?;
            let name = entry.file_name();
            let file = format!("{destination}/{}", name.to_string_lossy());
            files.push((mode(&entry.path())?, file));
        }
    }
    Ok(files)
}

/// A folder beside the stage, empty.
fn tempfile_folder(deb: &Path) -> Result<PathBuf> {
    let name = deb.file_stem().context("a package has a name")?;
    let folder = workspace::target().join("stage/unpacked").join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The program, under an emulator where its processor is another.
fn emulated(target: Target, binary: &Path) -> std::process::Command {
    if target.is_native() {
        return command(binary);
    }
    let mut emulator = command(format!("qemu-{}-static", target.architecture()));
    emulator.arg(binary);
    emulator
}
