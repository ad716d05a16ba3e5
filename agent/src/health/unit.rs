//! Whether a systemd unit is active, told without asking systemd: a bus client is not worth its bytes.
//!
//! systemd keeps `/run/systemd/units/invocation:NAME`, a link whose target is the id of the unit's current
//! run, from when it starts until it is inactive or has failed; and a service's processes are in the
//! cgroup of its name. A service is active when both are there. Between two automatic restarts the link
//! stays and the processes are gone; a restart between two looks shows as another id.

use std::fs;
use std::path::{Path, PathBuf};

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

    /// One look at the files below `root`.
    pub(super) fn look(&mut self, root: &Path) -> Result<(), String> {
        let link = root.join(format!("run/systemd/units/invocation:{}", self.name));
        let Ok(run) = fs::read_link(link) else {
            self.run = None;
            return Err(self.expected("it is not running"));
        };
        if self.name.ends_with(".service") && !self.has_processes(root) {
            return Err(self.expected("it has no process, and may be waiting for its restart"));
        }
        match self.run.replace(run) {
            Some(before) if Some(&before) != self.run.as_ref() => {
                Err(self.expected("it was started again since the last look"))
            }
            _ => Ok(()),
        }
    }

    fn expected(&self, but: &str) -> String {
        format!("expected {} to be active, but {but}", self.name)
    }

    fn has_processes(&self, root: &Path) -> bool {
        // The unified hierarchy, or its place beside the older ones.
        ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
            .iter()
            .any(|hierarchy| {
                let events = root
                    .join(hierarchy)
                    .join(self.cgroup())
                    .join("cgroup.events");
                fs::read_to_string(events)
                    .is_ok_and(|text| text.lines().any(|line| line == "populated 1"))
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
            let folder = self
                .0
                .path()
                .join("sys/fs/cgroup/system.slice")
                .join(cgroup);
            fs::create_dir_all(&folder).unwrap();
            let text = format!("populated {}\nfrozen 0\n", u8::from(populated));
            fs::write(folder.join("cgroup.events"), text).unwrap();
        }
    }

    #[test]
    fn a_service_is_active_while_its_run_has_processes() {
        let machine = Machine(tempfile::tempdir().unwrap());
        let root = machine.0.path();
        let mut unit = Unit::new("lekiwi-host.service");
        let expected = |but: &str| {
            Err(format!(
                "expected lekiwi-host.service to be active, but {but}"
            ))
        };
        assert_eq!(unit.look(root), expected("it is not running"));
        machine.run("lekiwi-host.service", Some("01"));
        let waiting = expected("it has no process, and may be waiting for its restart");
        assert_eq!(unit.look(root), waiting);
        machine.processes("lekiwi-host.service", false);
        assert_eq!(unit.look(root), waiting);
        machine.processes("lekiwi-host.service", true);
        assert_eq!(unit.look(root), Ok(()));
        assert_eq!(unit.look(root), Ok(()));
        machine.run("lekiwi-host.service", Some("02"));
        assert_eq!(
            unit.look(root),
            expected("it was started again since the last look")
        );
        assert_eq!(unit.look(root), Ok(()));
        machine.run("lekiwi-host.service", None);
        assert_eq!(unit.look(root), expected("it is not running"));
        machine.run("lekiwi-host.service", Some("03"));
        assert_eq!(unit.look(root), Ok(()), "stopped and started by somebody");
    }

    #[test]
    fn instances_have_a_slice_and_other_kinds_no_processes() {
        let machine = Machine(tempfile::tempdir().unwrap());
        let root = machine.0.path();
        machine.run("robot-arm@left.service", Some("01"));
        let slice = r"system-robot\x2darm.slice/robot-arm@left.service";
        machine.processes(slice, true);
        assert_eq!(Unit::new("robot-arm@left.service").look(root), Ok(()));
        machine.run("lekiwi.timer", Some("01"));
        assert_eq!(Unit::new("lekiwi.timer").look(root), Ok(()));
    }
}
