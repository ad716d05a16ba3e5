//! The files of a robot that this machine is not: for an agent with `--root`.

use std::os::unix::fs::symlink;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A calm robot of the profile `generic` with a Pi's board, a battery, packages, a service, a process and a
/// check of `address`. Its processor, memory and network are this machine's.
///
/// # Errors
/// When the files cannot be written.
pub fn robot_tree(address: &str) -> Result<TempDir> {
    let tree = tempfile::tempdir()?;
    let profile = format!(
        "version: 1\nname: generic\ntitle: A robot\nservices: [host.service]\n\
         processes: [{{name: camera, pattern: \"*camera --front\"}}]\n\
         checks: [{{name: port, tcp: \"{address}\", every_s: 1, timeout_s: 1}}]\n"
    );
    let group = "sys/fs/cgroup/system.slice/host.service";
    let firmware = "sys/devices/platform/soc/soc:firmware/get_throttled";
    let battery =
        "POWER_SUPPLY_TYPE=Battery\nPOWER_SUPPLY_CAPACITY=81\nPOWER_SUPPLY_STATUS=Discharging\n";
    let packages = "Package: dpkg\nStatus: install ok installed\nVersion: 1\n";
    for (path, text) in [
        ("usr/share/lekiwi/profiles/generic.yml", profile.as_str()),
        (firmware, "50000\n"),
        ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
        ("sys/class/power_supply/BAT0/uevent", battery),
        ("run/systemd/timesync/synchronized", ""),
        ("var/lib/dpkg/status", packages),
        (&format!("{group}/cgroup.events"), "populated 1\n"),
        (&format!("{group}/memory.current"), "1000000\n"),
        ("proc/loadavg", "0.42 0.30 0.25 2/187 12345\n"),
        ("proc/4242/cmdline", "/usr/bin/camera\0--front\0"),
        ("proc/4242/status", "VmRSS:\t    2048 kB\n"),
    ] {
        let path = tree.path().join(path);
        std::fs::create_dir_all(path.parent().context("expected a file in a folder")?)?;
        std::fs::write(path, text)?;
    }
    let units = tree.path().join("run/systemd/units");
    std::fs::create_dir_all(&units)?;
    symlink("01", units.join("invocation:host.service"))?;
    for own in ["stat", "meminfo", "uptime", "net"] {
        let there = std::path::Path::new("/proc").join(own);
        symlink(there, tree.path().join("proc").join(own))?;
    }
    Ok(tree)
}
