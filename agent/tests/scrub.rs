//! What `lekiwi-agent scrub` leaves of a robot's seed, for the layout of each system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TOKEN: &str = "lkt_abcdefghijklmnopqrstuvwxyz0123456789-_ABCDE";
const SECRET: &str = "abcdefghijklmnopqrstuvwxyz0123456789-_ABCDE";
/// Hard to write in every language.
const PASSPHRASE: &str = "correct \"horse\" 'battery' $staple\\";

/// An enrolled robot's files.
struct Robot {
    root: tempfile::TempDir,
}

impl Robot {
    fn new() -> Self {
        let robot = Self {
            root: tempfile::tempdir().expect("a folder"),
        };
        robot.write("opt/lekiwi-agent/state/cert.pem", "certificate");
        robot
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        fs::write(path, content).expect("writable");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("readable")
    }

    fn run(&self) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lekiwi-agent"))
            .arg("scrub")
            .arg("--root")
            .arg(self.root.path())
            .arg("--boot")
            .arg(self.path("boot/firmware"))
            .output()
            .expect("the agent starts")
    }

    fn scrub(&self) -> String {
        let output = self.run();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }

    /// Files that hold these bytes, below `folder`.
    fn holders(&self, folder: &str, secret: &[u8]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.path(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("readable") {
                let path = entry.expect("readable").path();
                if path.is_symlink() {
                    continue;
                } else if path.is_dir() {
                    folders.push(path);
                } else if contains(&fs::read(&path).expect("readable"), secret) {
                    found.push(path);
                }
            }
        }
        found
    }

    fn is_clean(&self) {
        for secret in [SECRET, "horse", "battery", "staple"] {
            assert_eq!(
                self.holders("", secret.as_bytes()),
                self.kept(secret),
                "{secret}"
            );
        }
    }

    /// The system's own copies, which are in use.
    fn kept(&self, secret: &str) -> Vec<PathBuf> {
        let own = [
            "etc/netplan/50-cloud-init.yaml",
            "etc/NetworkManager/system-connections/lekiwi-wifi.nmconnection",
        ];
        own.iter()
            .map(|name| self.path(name))
            .filter(|path| secret != SECRET && path.exists())
            .collect()
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("JSON")
}

fn network() -> String {
    format!(
        "version: 2\nwifis:\n  wlan0:\n    access-points:\n      \"Werkstatt\": {{\"password\":{}}}\n",
        json(PASSPHRASE)
    )
}

fn user_data() -> String {
    format!(
        "#cloud-config\nhostname: kiwi-01\nbootcmd:\n  - - sh\n    - -c\n    - |\n      token='{TOKEN}'\n"
    )
}

/// What cloud-init leaves behind: copies as they came, as JSON, in Python's pickle and in its log.
fn cloud_init(robot: &Robot) {
    let instance = "var/lib/cloud/instances/kiwi-01-0011aabb";
    robot.write(&format!("{instance}/user-data.txt"), user_data());
    robot.write(&format!("{instance}/user-data.txt.i"), user_data());
    robot.write(&format!("{instance}/cloud-config.txt"), user_data());
    robot.write(&format!("{instance}/vendor-data.txt"), "");
    let config = format!("{{\"wifis\": {{\"password\": {}}}}}", json(PASSPHRASE));
    robot.write(&format!("{instance}/network-config.json"), &config);
    let mut pickle = b"\x80\x05\x95\x10\0\0\0\0\0\0\0}\x94\x8c\x08password\x94\x8c".to_vec();
    pickle.push(u8::try_from(PASSPHRASE.len()).expect("short"));
    pickle.extend(PASSPHRASE.as_bytes());
    pickle.extend(b"\x94\x8c\x0cuserdata_raw\x94\x8c\xff");
    pickle.extend(user_data().as_bytes());
    robot.write(&format!("{instance}/obj.pkl"), pickle);
    robot.write(
        "run/cloud-init/combined-cloud-config.json",
        json(&user_data()),
    );
    let repr = PASSPHRASE.replace('\\', "\\\\").replace('\'', "\\'");
    robot.write(
        "var/log/cloud-init.log",
        format!("applying {{'password': '{repr}'}}\n"),
    );
    robot.write("var/log/other.log", "password: not ours\n");
}

fn netplan(robot: &Robot) {
    let lines: String = network()
        .lines()
        .map(|line| format!("  {line}\n"))
        .collect();
    robot.write(
        "etc/netplan/50-cloud-init.yaml",
        format!("network:\n{lines}"),
    );
}

/// Raspberry Pi OS Trixie, Ubuntu and Debian: cloud-init's three files, some of them with a command line.
fn with_cloud_init() -> Robot {
    let robot = Robot::new();
    robot.write("boot/firmware/user-data", user_data());
    robot.write(
        "boot/firmware/meta-data",
        "instance-id: \"kiwi-01-0011aabb\"\n",
    );
    robot.write("boot/firmware/network-config", network());
    robot.write(
        "boot/firmware/cmdline.txt",
        "root=x ds=nocloud;i=kiwi-01-0011aabb\n",
    );
    robot.write("boot/firmware/kernel8.img", vec![7; 5 << 20]);
    cloud_init(&robot);
    netplan(&robot);
    robot
}

/// Bookworm: one script, and NetworkManager's own file.
fn with_firstrun() -> Robot {
    let robot = Robot::new();
    let escaped = PASSPHRASE.replace('\\', "\\\\").replace(' ', "\\s");
    let profile =
        format!("[wifi-security]\nkey-mgmt=wpa-psk\npsk={escaped}\n\n[ipv4]\nmethod=auto\n");
    robot.write(
        "boot/firmware/firstrun.sh",
        format!(
            "#!/bin/bash\ntoken='{TOKEN}'\nput a 600 '{}'\nexit 0\n",
            profile.replace('\'', "'\\''")
        ),
    );
    robot.write("boot/firmware/cmdline.txt", "root=x\n");
    robot.write(
        "etc/NetworkManager/system-connections/lekiwi-wifi.nmconnection",
        profile,
    );
    robot
}

#[test]
fn no_secret_is_left_with_cloud_init_and_the_instance_is_the_same() {
    let robot = with_cloud_init();
    let before = robot.read("boot/firmware/meta-data");
    let said = robot.scrub();
    assert!(
        said.contains("the seed's secrets were overwritten in"),
        "{said}"
    );
    assert!(!said.contains(SECRET) && !said.contains("horse"), "{said}");
    robot.is_clean();
    assert_eq!(robot.read("boot/firmware/meta-data"), before);
    assert_eq!(
        robot.read("boot/firmware/user-data"),
        user_data()
            .replace(SECRET, &"0".repeat(SECRET.len()))
            .into_bytes()
    );
    let network = String::from_utf8(robot.read("boot/firmware/network-config")).expect("UTF-8");
    let read: serde_json::Value = serde_saphyr::from_str(&network).expect("still YAML");
    let password = read["wifis"]["wlan0"]["access-points"]["Werkstatt"]["password"].clone();
    assert_eq!(password, "0".repeat(json(PASSPHRASE).len() - 2));
    assert_eq!(
        robot.read("var/log/other.log"),
        b"password: not ours\n",
        "it is nobody's business"
    );
    assert!(robot.scrub().contains("no secret of the seed is left"));
}

#[test]
fn no_secret_is_left_of_a_first_run_script_and_it_is_a_script_still() {
    let robot = with_firstrun();
    robot.scrub();
    robot.is_clean();
    let judged = Command::new("bash")
        .arg("-n")
        .arg(robot.path("boot/firmware/firstrun.sh"))
        .output()
        .expect("bash is missing (hint: apt-get install -y bash)");
    assert!(judged.status.success());
    assert!(robot.scrub().contains("no secret of the seed is left"));
}

#[test]
fn lengths_stay_so_that_a_pickle_is_one_still() {
    let robot = with_cloud_init();
    let pickle = "var/lib/cloud/instances/kiwi-01-0011aabb/obj.pkl";
    let before = robot.read(pickle);
    robot.scrub();
    let after = robot.read(pickle);
    assert_eq!(before.len(), after.len());
    let changed = before.iter().zip(&after).filter(|(a, b)| a != b);
    assert!(changed.clone().count() > 0);
    assert!(changed.map(|(_, b)| *b).all(|byte| byte == b'0'));
}

#[test]
fn whatever_a_cut_of_power_has_left_is_found_again() {
    // Each file with its secret masked up to some byte, or from some byte on, as a sector's end may have it.
    for cut in (0..SECRET.len()).step_by(5) {
        for head in [true, false] {
            let robot = with_cloud_init();
            let mut bytes = robot.read("boot/firmware/user-data");
            let start = bytes
                .windows(SECRET.len())
                .position(|window| window == SECRET.as_bytes())
                .expect("the secret");
            let range = if head {
                start..start + cut
            } else {
                start + cut..start + SECRET.len()
            };
            bytes[range].fill(b'0');
            robot.write("boot/firmware/user-data", bytes);
            robot.scrub();
            robot.is_clean();
        }
    }
}

#[test]
fn a_host_named_like_the_passphrase_keeps_its_name() {
    let robot = Robot::new();
    robot.write(
        "boot/firmware/user-data",
        "#cloud-config\nhostname: raspberrypi\n",
    );
    robot.write(
        "boot/firmware/network-config",
        "wifis: {wlan0: {access-points: {a: {password: raspberrypi}}}}\n",
    );
    robot.scrub();
    assert_eq!(
        robot.read("boot/firmware/user-data"),
        b"#cloud-config\nhostname: raspberrypi\n"
    );
    assert_eq!(
        robot.read("boot/firmware/network-config"),
        b"wifis: {wlan0: {access-points: {a: {password: 00000000000}}}}\n"
    );
}

#[test]
fn a_robot_that_is_not_enrolled_keeps_its_token() {
    let robot = with_cloud_init();
    let certificate = robot.path("opt/lekiwi-agent/state/cert.pem");
    fs::remove_file(&certificate).expect("there");
    let output = robot.run();
    assert_eq!(output.status.code(), Some(75));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!(
            "error: expected an enrolled robot, found no {}\n  (hint: the token is needed until then)\n",
            certificate.display()
        )
    );
    assert_eq!(
        robot.read("boot/firmware/user-data"),
        user_data().into_bytes()
    );
}

#[test]
fn links_are_not_followed_and_modes_stay() {
    let robot = with_cloud_init();
    let outside = tempfile::tempdir().expect("a folder");
    let file = outside.path().join("file");
    fs::write(&file, TOKEN).expect("writable");
    std::os::unix::fs::symlink(&file, robot.path("boot/firmware/link")).expect("writable");
    let seed = robot.path("boot/firmware/user-data");
    fs::set_permissions(&seed, PermissionsExt::from_mode(0o600)).expect("writable");
    // The agent's own folder is the agent's: what it puts there leads nowhere.
    let state = robot.path("opt/lekiwi-agent/state");
    fs::create_dir_all(&state).expect("writable");
    std::os::unix::fs::symlink(&file, state.join("token")).expect("writable");
    robot.scrub();
    assert_eq!(fs::read_to_string(&file).expect("there"), TOKEN);
    let mode = seed.metadata().expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn systemd_takes_the_units() {
    let folder = tempfile::tempdir().expect("a folder");
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    // The program's place on a robot is not there on this machine.
    let mut paths = Vec::new();
    for name in ["lekiwi-scrub.service", "lekiwi-scrub.path"] {
        let text = fs::read_to_string(units.join(name)).expect("a unit");
        let text = text.replace(
            "/opt/lekiwi-agent/lekiwi-agent scrub",
            &format!("{} scrub", env!("CARGO_BIN_EXE_lekiwi-agent")),
        );
        let path = folder.path().join(name);
        fs::write(&path, text).expect("writable");
        paths.push(path);
    }
    let judged = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&paths)
        .output()
        .expect("systemd-analyze is missing (hint: apt-get install -y systemd)");
    let said = String::from_utf8_lossy(&judged.stderr);
    assert!(judged.status.success() && said.is_empty(), "{said}");
}
