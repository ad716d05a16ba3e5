//! Whether the agent can read the journal, which is what it collects logs from. Whoever looks may be somebody
//! else: it is judged by the owners and modes of the journal's files, and by the groups that the agent's account
//! and its unit have.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Finding;
use super::machine::files;
use super::own::SUDO;

const CHECK: &str = "logs";
const ACCOUNT: &str = "lekiwi-agent";
const UNIT: &str = "lekiwi-agent.service";

/// Nothing of a machine without the agent's account.
pub(super) fn examine(root: &Path) -> Option<Finding> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (passwd, group) = (read("etc/passwd"), read("etc/group"));
    let mut account = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(|fields| fields.first() == Some(&ACCOUNT));
    let fields = account.next()?;
    let number = |place: usize| fields.get(place)?.parse::<u32>().ok();
    let agent = Reader {
        user: number(2)?,
        groups: groups(number(3)?, &group, &supplementary(root)),
    };
    Some(judge(&agent, &group, root, &journals(root)))
}

fn judge(
    agent: &Reader,
    group: &str,
    root: &Path,
    journals: &[(PathBuf, io::Result<Metadata>)],
) -> Finding {
    let shown = |path: &Path| {
        let path = path.strip_prefix(root).unwrap_or(path);
        format!("/{}", path.display())
    };
    for (path, file) in journals {
        match file {
            Ok(file) if agent.may_read(file) => {}
            Ok(file) => {
                return Finding::warning(
                    CHECK,
                    format!(
                        "{ACCOUNT} may not read {} (group {}, mode {:04o})",
                        shown(path),
                        name_of(group, file.gid()),
                        file.mode() & 0o7777
                    ),
                    "its unit has `SupplementaryGroups=systemd-journal`, as the package brings it: \
                     `systemctl cat lekiwi-agent`",
                );
            }
            Err(error) => {
                let text = format!("cannot look at {}: {error}", shown(path));
                return Finding::unknown(CHECK, text, SUDO);
            }
        }
    }
    match journals.first() {
        Some((path, _)) => Finding::ok(CHECK, format!("the agent may read {}", shown(path))),
        None => Finding::warning(
            CHECK,
            "expected a journal in /var/log/journal or /run/log/journal, found none",
            "`lekiwi logs` has nothing to fetch; is systemd-journald running?",
        ),
    }
}

/// Who reads.
struct Reader {
    user: u32,
    groups: BTreeSet<u32>,
}

impl Reader {
    /// As the kernel does: the first class that fits decides.
    fn may_read(&self, file: &Metadata) -> bool {
        let bit = match () {
            () if file.uid() == self.user => 0o400,
            () if self.groups.contains(&file.gid()) => 0o040,
            () => 0o004,
        };
        file.mode() & bit != 0
    }
}

/// The system's own journals, of this boot and of earlier ones.
fn journals(root: &Path) -> Vec<(PathBuf, io::Result<Metadata>)> {
    let folders = ["var/log/journal", "run/log/journal"];
    let machines = folders.iter().flat_map(|folder| files(&root.join(folder)));
    machines
        .map(|machine| machine.join("system.journal"))
        .map(|path| (path.clone(), fs::metadata(path)))
        .filter(|(_, file)| {
            let error = file.as_ref().err().map(io::Error::kind);
            // Other files may lie beside the folders.
            !matches!(error, Some(ErrorKind::NotFound | ErrorKind::NotADirectory))
        })
        .collect()
}

/// Names of groups that the unit gives to the agent.
fn supplementary(root: &Path) -> BTreeSet<String> {
    let mut units = Vec::new();
    for folder in [
        "usr/lib/systemd/system",
        "lib/systemd/system",
        "etc/systemd/system",
    ] {
        let folder = root.join(folder);
        units.push(folder.join(UNIT));
        units.extend(files(&folder.join(format!("{UNIT}.d"))));
    }
    let mut names = BTreeSet::new();
    for text in units
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
    {
        let settings = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("SupplementaryGroups="));
        for setting in settings {
            // An empty one takes back what stood before.
            if setting.trim().is_empty() {
                names.clear();
            }
            names.extend(setting.split_whitespace().map(str::to_owned));
        }
    }
    names
}

/// Numbers of the account's groups: its first, those that list it, and those of the unit.
fn groups(first: u32, group: &str, of_unit: &BTreeSet<String>) -> BTreeSet<u32> {
    let number = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, number, members] = fields[..] else {
            return None;
        };
        let is_in = of_unit.contains(name) || members.split(',').any(|member| member == ACCOUNT);
        is_in.then(|| number.parse().ok()).flatten()
    };
    group.lines().filter_map(number).chain([first]).collect()
}

fn name_of(group: &str, wanted: u32) -> String {
    let name = group.lines().find_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let number: u32 = rest.split(':').nth(1)?.parse().ok()?;
        (number == wanted).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| wanted.to_string())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::Verdict;
    use super::*;

    const JOURNAL: &str = "var/log/journal/0123/system.journal";

    /// A machine with a journal of this mode, whose group is systemd-journal's, and these files beside it.
    fn found(mode: Option<u32>, others: &[(&str, &str)]) -> Option<(Verdict, String)> {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        if let Some(mode) = mode {
            let path = put(JOURNAL, "");
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let number = fs::metadata(folder.path()).unwrap().gid();
        for (path, text) in others {
            put(path, &text.replace("NUMBER", &number.to_string()));
        }
        examine(folder.path()).map(|found| (found.verdict, found.text))
    }

    #[test]
    fn what_this_user_cannot_look_at_is_unknown() {
        let agent = Reader {
            user: 1,
            groups: BTreeSet::new(),
        };
        let hidden = PathBuf::from("/x/run/log/journal/0123/system.journal");
        let journals = [(hidden, Err(ErrorKind::PermissionDenied.into()))];
        let found = judge(&agent, "", Path::new("/x"), &journals);
        assert_eq!(
            (found.verdict, found.text.as_str()),
            (
                Verdict::Unknown,
                "cannot look at /run/log/journal/0123/system.journal: permission denied"
            )
        );
    }

    #[test]
    fn who_may_read_the_journal_is_told_from_files_account_and_unit() {
        // Numbers that no file of a test has.
        let passwd = (
            "etc/passwd",
            "root:x:0:0::/:/x\nlekiwi-agent:x:4000001:4000002::/opt:/x\n",
        );
        let group = ("etc/group", "broken\nsystemd-journal:x:NUMBER:pi\n");
        let member = ("etc/group", "systemd-journal:x:NUMBER:pi,lekiwi-agent\n");
        let own = "etc/systemd/system/lekiwi-agent.service.d/own.conf";
        let unit = (
            "usr/lib/systemd/system/lekiwi-agent.service",
            "[Service]\nSupplementaryGroups=dialout video\nSupplementaryGroups=systemd-journal\n",
        );
        let good = Some((Verdict::Ok, format!("the agent may read /{JOURNAL}")));
        let refused = |mode: &str| {
            let text = format!(
                "lekiwi-agent may not read /{JOURNAL} (group systemd-journal, mode {mode})"
            );
            Some((Verdict::Warning, text))
        };
        assert_eq!(found(Some(0o640), &[passwd, group, unit]), good);
        assert_eq!(found(Some(0o640), &[passwd, member]), good);
        assert_eq!(found(Some(0o644), &[passwd, group]), good);
        assert_eq!(found(Some(0o640), &[passwd, group]), refused("0640"));
        assert_eq!(found(Some(0o604), &[passwd, member]), refused("0604"));
        let taken_back = (
            own,
            "[Service]\nSupplementaryGroups=\nSupplementaryGroups=video\n",
        );
        assert_eq!(
            found(Some(0o640), &[passwd, group, unit, taken_back]),
            refused("0640")
        );
        let none = "expected a journal in /var/log/journal or /run/log/journal, found none";
        assert_eq!(
            found(None, &[passwd, group, unit]),
            Some((Verdict::Warning, none.to_owned()))
        );
        assert_eq!(
            found(Some(0o640), &[group, unit]),
            None,
            "no agent is installed"
        );
    }
}
