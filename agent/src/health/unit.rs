//! Whether a systemd unit is active, told without asking systemd: a bus client is not worth its bytes.
//!
//! systemd keeps `/run/systemd/units/invocation:NAME`, a link whose target is the id of the unit's current
//! run, from when it starts until it is inactive or has failed; and a service's processes are in the
//! cgroup of its name. A service is active when both are there. Between two automatic restarts the link
//! stays and the processes are gone; a restart between two looks shows as another id. A unit that failed
//! cannot be told from one that was stopped.

use std::fs;
use std::path::{Path, PathBuf};

use lekiwi_agent_core::services::Sight;
use lekiwi_protocol::message::ServiceState;

use super::{Look, process};
use crate::telemetry::{Files, number_of};

/// Where control groups are: the unified hierarchy, or its place beside the older ones.
const HIERARCHIES: [&str; 2] = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];
/// Most processes of a unit whose memory is added up where the kernel does not count it.
const MOST_PROCESSES: usize = 64;

/// A unit that is watched.
#[derive(Debug)]
pub(super) struct Unit {
    name: String,
    /// The run that the last look saw.
    run: Option<PathBuf>,
}

impl Unit {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
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
        if self.name.ends_with(".service") && !self.has_processes(files) {
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
        let cgroup = self.cgroup();
        let cgroup = cgroup.display();
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
        let cgroup = self.cgroup();
        HIERARCHIES.iter().find_map(|hierarchy| {
            let path = format!("{hierarchy}/{}/cpu.stat", cgroup.display());
            number_of(files.text(&path)?, "usage_usec")
        })
    }

    fn expected(&self, but: &str) -> String {
        format!("expected {} to be active, but {but}", self.name)
    }

    fn has_processes(&self, files: &mut Files) -> bool {
        let cgroup = self.cgroup();
        HIERARCHIES.iter().any(|hierarchy| {
            let events = format!("{hierarchy}/{}/cgroup.events", cgroup.display());
            let text = files.text(&events);
            text.is_some_and(|text| text.lines().any(|line| line == "populated 1"))
        })
    }

    /// The unit's cgroup; a template's instances share a slice.
    fn cgroup(&self) -> PathBuf {
        let slice = Path::new("system.slice");
        match self.name.split_once('@') {
            Some((template, _)) => {
                let template = template.replace('-', "\\x2d");
                slice
                    .join(format!("system-{template}.slice"))
                    .join(&self.name)
            }
            None => slice.join(&self.name),
        }
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
}
