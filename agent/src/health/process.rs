//! Whether a process runs that the profile knows by its command line. The one that was found is looked at
//! again by its id; all of `/proc` is walked only while none is known.

use std::time::{Duration, Instant};

use lekiwi_agent_core::patience::Patience;
use lekiwi_agent_core::pattern;
use lekiwi_agent_core::services::Sight;
use lekiwi_protocol::message::ServiceState;

use super::Look;
use crate::telemetry::Files;

/// A process that is watched.
#[derive(Debug)]
pub(super) struct Process {
    pattern: String,
    /// The one that was found.
    id: Option<u32>,
    /// Walking all of `/proc` costs milliseconds.
    walks: Patience,
}

impl Process {
    pub(super) fn new(now: Instant, pattern: &str) -> Self {
        Self {
            pattern: pattern.to_owned(),
            id: None,
            walks: Patience::new(now, Duration::ZERO),
        }
    }

    /// One look; `None` when it has to wait for the machine to calm down.
    pub(super) fn look(
        &mut self,
        files: &mut Files,
        now: Instant,
        load_per_core: Option<f64>,
    ) -> Option<Look> {
        let before = self.id;
        if !before.is_some_and(|id| self.is_it(files, id)) {
            if !self.walks.is_due(now, load_per_core) {
                return None;
            }
            self.id = self.find(files);
        }
        let sight = Sight {
            state: match self.id {
                Some(_) => ServiceState::Active,
                None => ServiceState::Inactive,
            },
            restarted: before.is_some() && self.id.is_some() && before != self.id,
        };
        let result = match self.id {
            Some(_) => Ok(()),
            None => Err(format!("expected a process {:?}, found none", self.pattern)),
        };
        Some((sight, result))
    }

    /// Memory in use, as the kernel counts it for one process.
    pub(super) fn memory_bytes(&self, files: &mut Files) -> Option<u64> {
        resident_bytes(files, self.id?)
    }

    fn find(&self, files: &mut Files) -> Option<u32> {
        let ids = files.names("proc");
        let mut ids: Vec<u32> = ids.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort_unstable();
        ids.into_iter()
            .filter(|id| *id != std::process::id())
            .find(|id| self.is_it(files, *id))
    }

    fn is_it(&self, files: &mut Files, id: u32) -> bool {
        let Some(line) = files.bytes(&format!("proc/{id}/cmdline")) else {
            return false;
        };
        let end = line.iter().rposition(|byte| *byte != 0);
        let mut line = line[..end.map_or(0, |end| end + 1)].to_vec();
        for byte in &mut line {
            if *byte == 0 {
                *byte = b' ';
            }
        }
        // A kernel thread has none.
        !line.is_empty() && pattern::matches(&self.pattern, &line)
    }
}

/// What a process has in memory, shared pages included.
pub(super) fn resident_bytes(files: &mut Files, id: u32) -> Option<u64> {
    let status = files.text(&format!("proc/{id}/status"))?;
    crate::telemetry::kilobytes(status, "VmRSS:")?.checked_mul(1024)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::clock;

    fn put(root: &Path, id: u32, line: &str) {
        let folder = root.join(format!("proc/{id}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cmdline"), line).unwrap();
        fs::write(folder.join("status"), "Name:\tx\nVmRSS:\t    2048 kB\n").unwrap();
    }

    #[test]
    fn a_process_is_known_by_its_command_line_and_its_restart_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut files = Files::new(root);
        let now = clock::now();
        let mut process = Process::new(now, "*python* -m lekiwi_host*");
        let gone = Err("expected a process \"*python* -m lekiwi_host*\", found none".to_owned());
        let sight = |state, restarted| Sight { state, restarted };
        put(root, 2, "");
        put(root, 90, "/usr/bin/python3\0-m\0other\0");
        let mut look = |load| process.look(&mut files, now, load);
        assert_eq!(
            look(Some(0.1)),
            Some((sight(ServiceState::Inactive, false), gone.clone()))
        );
        put(root, 100, "/usr/bin/python3\0-m\0lekiwi_host\0--id\0a\0");
        assert_eq!(look(Some(9.0)), None, "busy");
        let active = |restarted| Some((sight(ServiceState::Active, restarted), Ok(())));
        assert_eq!(look(None), active(false));
        assert_eq!(look(Some(9.0)), active(false), "nothing to walk for");
        fs::remove_dir_all(root.join("proc/100")).unwrap();
        put(root, 120, "python\0-m\0lekiwi_host");
        assert_eq!(look(None), active(true));
        assert_eq!(process.memory_bytes(&mut files), Some(2048 * 1024));
        fs::remove_dir_all(root.join("proc/120")).unwrap();
        let look = process.look(&mut files, now, None);
        assert_eq!(look, Some((sight(ServiceState::Inactive, false), gone)));
        assert_eq!(process.memory_bytes(&mut files), None);
    }

    #[test]
    fn a_real_process_is_found() {
        let mut child = std::process::Command::new("sleep")
            .args(["71.25"])
            .spawn()
            .unwrap();
        let mut files = Files::new(Path::new("/"));
        let mut process = Process::new(clock::now(), "*sleep 71.25");
        let deadline = clock::now() + Duration::from_secs(10);
        loop {
            // Until it is executed its command line is ours.
            let look = process.look(&mut files, clock::now(), None).unwrap();
            if look.1.is_ok() && process.memory_bytes(&mut files).is_some() {
                break;
            }
            assert!(clock::now() < deadline, "{look:?}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let (sight, _) = process.look(&mut files, clock::now(), None).unwrap();
        assert_eq!(sight.state, ServiceState::Inactive);
    }
}
