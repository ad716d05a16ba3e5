//! A real Mosquitto with exactly the configuration of `deploy/mosquitto`.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) struct Mosquitto {
    pub(crate) port: u16,
    child: Child,
    pub(crate) folder: tempfile::TempDir,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Mosquitto {
    /// Starts it in `folder`, which has ca.pem, server.pem and server.key; `rules` makes of the access rules those that the
    /// test needs, whose clients have other names; `line` is one more of its configuration.
    pub(crate) fn start(
        folder: tempfile::TempDir,
        port: u16,
        line: &str,
        rules: impl FnOnce(String) -> String,
    ) -> Self {
        let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/mosquitto/");
        let deployed = |name| std::fs::read_to_string(format!("{deploy}{name}")).unwrap();
        let config = deployed("mosquitto.conf")
            .replace("/etc/mosquitto/fleet", folder.path().to_str().unwrap())
            .replace("listener 8883", &format!("listener {port} 127.0.0.1"));
        for (name, text) in [
            ("acl", rules(deployed("acl"))),
            ("mosquitto.conf", format!("user root\n{config}{line}\n")),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let child = spawn(&folder);
        let started = Self {
            port,
            child,
            folder,
        };
        started.listens();
        started
    }

    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// After it was killed.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(&self.folder);
        self.listens();
    }

    fn listens(&self) {
        for _ in 0..1_000 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("mosquitto does not listen on {}", self.port);
    }
}

fn spawn(folder: &tempfile::TempDir) -> Child {
    Command::new("mosquitto")
        .arg("-c")
        .arg(folder.path().join("mosquitto.conf"))
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto (hint: apt-get install mosquitto)")
}
