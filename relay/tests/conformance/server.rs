//! A server of PostgreSQL of the test's own: a cluster in a temporary folder, as a user without rights, on a port of
//! the loopback interface.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use tempfile::TempDir;

use super::port;

const PASSWORD: &str = "geheim & lang";
/// Whom the server runs as when the test is root, which PostgreSQL refuses to be.
const NOBODY: u32 = 65_534;

pub(crate) struct Server {
    dir: TempDir,
    port: u16,
    running: Mutex<Option<(mpsc::Sender<()>, JoinHandle<()>)>>,
    is_mounted: bool,
}

/// The server that tests share as long as one of them needs it.
static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

impl Server {
    pub(crate) fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap();
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start(|_| ()));
        *shared = Arc::downgrade(&server);
        server
    }

    /// A new cluster; `prepare` may add to its folder before it starts.
    pub(crate) fn start(prepare: impl FnOnce(&Path)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), prepare)
    }

    /// A new cluster on a disk of so many megabytes. Needs root for its tmpfs.
    pub(crate) fn start_on_disk_of(megabytes: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(
            mounted.success(),
            "cannot mount a tmpfs for this test: run it as root"
        );
        let mut server = Self::start_in(dir, |_| ());
        server.is_mounted = true;
        server
    }

    /// Takes all space that is left on the server's disk.
    pub(crate) fn fill_disk(&self) -> PathBuf {
        let ballast = self.dir.path().join("ballast");
        let mut file = std::fs::File::create(&ballast).unwrap();
        for size in [65_536, 4_096] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        ballast
    }

    fn start_in(dir: TempDir, prepare: impl FnOnce(&Path)) -> Self {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        if is_root() {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let made = program("initdb", dir.path())
            .args([
                "--username=relay",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
            ])
            .args(["--locale=C.UTF-8", "--no-sync", "--pgdata=data"])
            .arg(format!("--pwfile={}", password.display()))
            .output()
            .expect(
                "initdb: install it with `cargo xtask test`, which asks for Debian's `postgresql`",
            );
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        prepare(&dir.path().join("data"));
        let port = port::free();
        let server = Self {
            dir,
            port,
            running: Mutex::default(),
            is_mounted: false,
        };
        server.resume();
        server
    }

    /// Starts the server on what is there.
    pub(crate) fn resume(&self) {
        let (folder, port) = (self.dir.path().to_owned(), self.port);
        let (stop, stopped) = mpsc::channel::<()>();
        // The process ends with the thread that started it: one of its own, which waits for it.
        let keeper = std::thread::spawn(move || {
            loop {
                let mut child = postgres(&folder, port);
                loop {
                    if stopped.recv_timeout(Duration::from_millis(50))
                        != Err(RecvTimeoutError::Timeout)
                    {
                        child.kill().unwrap();
                        child.wait().unwrap();
                        return;
                    }
                    // Right after a crash the last processes of before may still be there, and it ends by itself.
                    if child.try_wait().unwrap().is_some() {
                        break;
                    }
                }
            }
        });
        *self.running.lock().unwrap() = Some((stop, keeper));
        let deadline = Instant::now() + Duration::from_secs(60);
        let url = self.plain("postgres");
        apart(|| {
            while let Err(error) = Client::connect(&url, NoTls) {
                assert!(
                    Instant::now() < deadline,
                    "{error:?}\n{}",
                    std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
                );
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }

    /// Kills the server as a power cut would: at once.
    pub(crate) fn kill(&self) {
        if let Some((stop, keeper)) = self.running.lock().unwrap().take() {
            drop(stop);
            keeper.join().unwrap();
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn password_file(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    /// The URL without a password.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgresql://relay@127.0.0.1:{}/{database}", self.port)
    }

    fn plain(&self, database: &str) -> String {
        format!(
            "host=127.0.0.1 port={} user=relay password='{PASSWORD}' dbname={database}",
            self.port
        )
    }

    /// A new empty database; its name.
    pub(crate) fn database(&self) -> String {
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        self.admin("postgres", |client| {
            client
                .batch_execute(&format!("CREATE DATABASE {name}"))
                .unwrap();
        });
        name
    }

    /// Does something with a database beside the relay.
    pub(crate) fn admin<T: Send>(
        &self,
        database: &str,
        work: impl FnOnce(&mut Client) -> T + Send,
    ) -> T {
        let url = self.plain(database);
        apart(move || work(&mut Client::connect(&url, NoTls).unwrap()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if self.is_mounted {
            // Best effort: a mount that is left over harms nobody.
            let _ = Command::new("umount")
                .arg("-l")
                .arg(self.dir.path())
                .status();
        }
    }
}

/// On a thread of its own: the client waits by itself, which a thread of the test's runtime must not.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

fn postgres(folder: &Path, port: u16) -> Child {
    program("postgres", folder)
        .args(["-D", "data", "-k", ".", "-h", "127.0.0.1", "-p"])
        .arg(port.to_string())
        .args(["-c", "fsync=off", "-c", "shared_buffers=16MB"])
        .args(["-c", "max_connections=80", "-c", "autovacuum=off"])
        .stderr(std::fs::File::create(folder.join("log")).unwrap())
        .spawn()
        .unwrap()
}

fn is_root() -> bool {
    // Whose process this is.
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A program of PostgreSQL's, which Debian keeps out of the path.
fn program(name: &str, folder: &Path) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    let mut found: Vec<PathBuf> = versions
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin").join(name))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .arg(found.pop().unwrap_or_else(|| name.into()))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}
