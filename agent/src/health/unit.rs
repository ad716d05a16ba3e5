//! Whether a systemd unit is active, told without asking systemd: a bus client is not worth its bytes.
//!
//! systemd keeps `/run/systemd/units/invocation:NAME`, a link whose target is the id of the unit's current
//! run, from when it starts until it is inactive or has failed; and a service's processes are in the
//! cgroup of its name, below `system.slice` or another slice. A service is active when both are there, or
//! the link alone where its unit file has `RemainAfterExit=` (drop-ins are not read). Between two automatic
//! restarts the link stays and the processes are gone; a restart between two looks shows as another id. A
//! unit that failed cannot be told from one that was stopped.

use std::fs;
use std::path::{Path, PathBuf};

use lekiwi_agent_core::services::Sight;
use lekiwi_protocol::message::ServiceState;

use super::{Look, process};
use crate::telemetry::{Files, number_of};

/// Where control groups are: the unified hierarchy, or its place beside the older ones.
const HIERARCHIES: [&str; 2] = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];
/// Where unit files are; the first one counts.
const UNIT_FILES: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// Most processes of a unit whose memory is added up where the kernel does not count it.
const MOST_PROCESSES: usize = 64;

/// A unit that is watched.
#[derive(Debug)]
pub(super) struct Unit {
    name: String,
    /// Below the hierarchy: where it was found, or where it would be by default.
    cgroup: PathBuf,
    /// The run that the last look saw.
    run: Option<PathBuf>,
}

impl Unit {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cgroup: Path::new("system.slice").join(within_slice(name)),
            run: None,
        }
    }

    /// One look.
    pub(super) fn look(&mut self, files: &mut Files) -> Look {
        let sight = |state, restarted| Sight { state, restarted };
        let link = format!("run/systemd/units/invocation:{}", self.name);
        let Ok(run) = fs::read_link(files.root().join(link)) else {
            self.run = None;
            let stopped = sight(ServiceState::Inactive, false);
            return (stopped, Err(self.expected("it is not running")));
        };
        if self.name.ends_with(".service") && !self.has_processes(files) && !self.remains(files) {
            let but = "it has no process, and may be waiting for its restart";
            return (
                sight(ServiceState::Restarting, false),
                Err(self.expected(but)),
            );
        }
        match self.run.replace(run) {
            Some(before) if Some(&before) != self.run.as_ref() => (
                sight(ServiceState::Active, true),
                Err(self.expected("it was started again since the last look")),
            ),
            _ => (sight(ServiceState::Active, false), Ok(())),
        }
    }

    /// Memory of all its processes: what the kernel counts for the cgroup, or, where it does not (a Pi as
    /// delivered), what they have each.
    pub(super) fn memory_bytes(&self, files: &mut Files) -> Option<u64> {
        let cgroup = self.cgroup.display();
        let counted = HIERARCHIES.iter().find_map(|hierarchy| {
            let text = files.text(&format!("{hierarchy}/{cgroup}/memory.current"))?;
            text.trim().parse().ok()
        });
        counted.or_else(|| {
            let ids: Vec<u32> = HIERARCHIES.iter().find_map(|hierarchy| {
                let text = files.text(&format!("{hierarchy}/{cgroup}/cgroup.procs"))?;
                let ids = text.lines().filter_map(|line| line.parse().ok());
                Some(ids.take(MOST_PROCESSES).collect())
            })?;
            let each = ids.into_iter();
            let each = each.filter_map(|id| process::resident_bytes(files, id));
            each.reduce(u64::saturating_add)
        })
    }

    /// Processor time of all its processes so far, in microseconds.
    pub(super) fn cpu_us(&self, files: &mut Files) -> Option<u64> {
        HIERARCHIES.iter().find_map(|hierarchy| {
            let path = format!("{hierarchy}/{}/cpu.stat", self.cgroup.display());
            number_of(files.text(&path)?, "usage_usec")
        })
    }

    fn expected(&self, but: &str) -> String {
        format!("expected {} to be active, but {but}", self.name)
    }

    /// Whether there are any. Where it is not known where they would be, all slices are looked through for the
    /// unit.
    fn has_processes(&mut self, files: &mut Files) -> bool {
        if is_populated(files, &self.cgroup) {
            return true;
        }
        for hierarchy in HIERARCHIES {
            for slice in files.names(hierarchy) {
                if !slice.ends_with(".slice") {
                    continue;
                }
                // The cgroup of a-b.slice is in that of a.slice.
                let inner = files.names(&format!("{hierarchy}/{slice}"));
                let inner = inner.into_iter().filter(|name| name.ends_with(".slice"));
                let folders = inner.map(|name| Path::new(&slice).join(name));
                let found = std::iter::once(PathBuf::from(&slice))
                    .chain(folders)
                    .map(|folder| folder.join(&self.name))
                    .find(|cgroup| is_populated(files, cgroup));
                if let Some(cgroup) = found {
                    self.cgroup = cgroup;
                    return true;
                }
            }
        }
        false
    }

    /// Whether it is active without processes, as its file says.
    fn remains(&self, files: &mut Files) -> bool {
        let file = match self.name.split_once('@') {
            Some((template, _)) => format!("{template}@.service"),
            None => self.name.clone(),
        };
        let mut texts = UNIT_FILES.iter().map(|folder| format!("{folder}/{file}"));
        let found = texts.find_map(|path| {
            let mut lines = files.text(&path)?.lines();
            Some(lines.any(|line| {
                let value = line.trim().strip_prefix("RemainAfterExit=");
                value.is_some_and(|value| ["yes", "true", "on", "1"].contains(&value.trim()))
            }))
        });
        found.unwrap_or_default()
    }
}

fn is_populated(files: &mut Files, cgroup: &Path) -> bool {
    HIERARCHIES.iter().any(|hierarchy| {
        let events = format!("{hierarchy}/{}/cgroup.events", cgroup.display());
        let text = files.text(&events);
        text.is_some_and(|text| text.lines().any(|line| line == "populated 1"))
    })
}

/// A unit's cgroup in `system.slice`; a template's instances share a slice in it.
fn within_slice(name: &str) -> PathBuf {
    match name.split_once('@') {
        Some((template, _)) => {
            let template = template.replace('-', "\\x2d");
            Path::new(&format!("system-{template}.slice")).join(name)
        }
        None => PathBuf::from(name),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn run(&self, unit: &str, id: Option<&str>) {
            let folder = self.0.path().join("run/systemd/units");
            fs::create_dir_all(&folder).unwrap();
            let link = folder.join(format!("invocation:{unit}"));
            let _ = fs::remove_file(&link);
            if let Some(id) = id {
                symlink(id, link).unwrap();
            }
        }

        fn processes(&self, cgroup: &str, populated: bool) {
            let text = format!("populated {}\nfrozen 0\n", u8::from(populated));
            self.write(
                &format!("sys/fs/cgroup/system.slice/{cgroup}/cgroup.events"),
                &text,
            );
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn a_service_is_active_while_its_run_has_processes() {
        let machine = Machine(tempfile::tempdir().unwrap());
        let mut files = Files::new(machine.0.path());
        let mut unit = Unit::new("lekiwi-host.service");
        let expected = |state, restarted, but: &str| {
            let reason = format!("expected lekiwi-host.service to be active, but {but}");
            (Sight { state, restarted }, Err(reason))
        };
        let stopped = expected(ServiceState::Inactive, false, "it is not running");
        let active = (
            Sight {
                state: ServiceState::Active,
                restarted: false,
            },
            Ok(()),
        );
        let files = &mut files;
        assert_eq!(unit.look(files), stopped);
        machine.run("lekiwi-host.service", Some("01"));
        let waiting = expected(
            ServiceState::Restarting,
            false,
            "it has no process, and may be waiting for its restart",
        );
        assert_eq!(unit.look(files), waiting);
        machine.processes("lekiwi-host.service", false);
        assert_eq!(unit.look(files), waiting);
        machine.processes("lekiwi-host.service", true);
        assert_eq!(unit.look(files), active);
        assert_eq!(unit.look(files), active);
        machine.run("lekiwi-host.service", Some("02"));
        assert_eq!(
            unit.look(files),
            expected(
                ServiceState::Active,
                true,
                "it was started again since the last look"
            )
        );
        assert_eq!(unit.look(files), active);
        machine.run("lekiwi-host.service", None);
        assert_eq!(unit.look(files), stopped);
        machine.run("lekiwi-host.service", Some("03"));
        assert_eq!(unit.look(files), active, "stopped and started by somebody");
    }

    #[test]
    fn memory_is_the_cgroups_or_its_processes_together() {
        let machine = Machine(tempfile::tempdir().unwrap());
        let mut files = Files::new(machine.0.path());
        let unit = Unit::new("lekiwi-host.service");
        assert_eq!(unit.memory_bytes(&mut files), None);
        assert_eq!(unit.cpu_us(&mut files), None);
        let group = "sys/fs/cgroup/system.slice/lekiwi-host.service";
        machine.write(&format!("{group}/cgroup.procs"), "7\n8\n9\n");
        for id in [7, 8] {
            machine.write(&format!("proc/{id}/status"), "VmRSS:\t    1000 kB\n");
        }
        assert_eq!(unit.memory_bytes(&mut files), Some(2_048_000));
        machine.write(&format!("{group}/memory.current"), "5000\n");
        machine.write(
            &format!("{group}/cpu.stat"),
            "usage_usec 1500\nuser_usec 1\n",
        );
        assert_eq!(unit.memory_bytes(&mut files), Some(5000));
        assert_eq!(unit.cpu_us(&mut files), Some(1500));
    }

    #[test]
    fn instances_have_a_slice_and_other_kinds_no_processes() {
        let machine = Machine(tempfile::tempdir().unwrap());
        let mut files = Files::new(machine.0.path());
        machine.run("robot-arm@left.service", Some("01"));
        let slice = r"system-robot\x2darm.slice/robot-arm@left.service";
        machine.processes(slice, true);
        let mut passes = |name| Unit::new(name).look(&mut files).1;
        assert_eq!(passes("robot-arm@left.service"), Ok(()));
        machine.run("lekiwi.timer", Some("01"));
        assert_eq!(passes("lekiwi.timer"), Ok(()));
    }

    #[test]
    fn a_service_is_found_in_whatever_slice_it_is() {
        let machine = Machine(tempfile::tempdir().unwrap());
        let mut files = Files::new(machine.0.path());
        let slices = [
            ("base.service", "robot.slice/base.service"),
            (
                "arm@left.service",
                "robot.slice/robot-arms.slice/arm@left.service",
            ),
        ];
        for (name, cgroup) in slices {
            machine.run(name, Some("01"));
            let mut unit = Unit::new(name);
            assert_eq!(unit.look(&mut files).0.state, ServiceState::Restarting);
            let group = format!("sys/fs/cgroup/{cgroup}");
            machine.write(&format!("{group}/cgroup.events"), "populated 1\n");
            machine.write(&format!("{group}/memory.current"), "5000\n");
            assert_eq!(unit.look(&mut files).1, Ok(()));
            assert_eq!(unit.memory_bytes(&mut files), Some(5000));
            machine.write(&format!("{group}/cgroup.events"), "populated 0\n");
            assert_eq!(unit.look(&mut files).0.state, ServiceState::Restarting);
        }
    }

    #[test]
    fn what_remains_after_its_exit_needs_no_process() {
        let machine = Machine(tempfile::tempdir().unwrap());
        let mut files = Files::new(machine.0.path());
        let mut unit = Unit::new("can@0.service");
        let packaged = "usr/lib/systemd/system/can@.service";
        machine.write(packaged, "[Service]\nType=oneshot\nRemainAfterExit=yes\n");
        assert_eq!(unit.look(&mut files).0.state, ServiceState::Inactive);
        machine.run("can@0.service", Some("01"));
        assert_eq!(unit.look(&mut files).1, Ok(()));
        machine.write("etc/systemd/system/can@.service", "RemainAfterExit=no\n");
        assert_eq!(unit.look(&mut files).0.state, ServiceState::Restarting);
    }
}
