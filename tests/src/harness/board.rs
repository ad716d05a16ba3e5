//! A board in an emulator: QEMU's `virt` machine with the kernel and start-up image of the card's own boot
//! partition, and a device tree that says it is a Raspberry Pi with a serial number. Its network reaches this
//! machine's loopback interface at 10.0.2.2, and nothing else when the test runs in a network namespace.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::process::{Process, program};

/// Where a guest finds this machine's loopback interface.
pub const HOST: &str = "10.0.2.2";
/// Where the base image's boot partition begins, for mtools.
const BOOT_PARTITION: &str = "@@8M";

/// What a board is made of.
#[derive(Debug, Clone)]
pub struct BoardOptions {
    /// The raw image in its card slot; written to.
    pub card: PathBuf,
    /// Its serial number, 16 hex digits.
    pub serial: String,
    /// How many cores it has.
    pub cores: u32,
    /// Sockets of simulated serial devices: `/dev/ttyS0` and on.
    pub serial_ports: Vec<PathBuf>,
    /// Folder for what it needs and says.
    pub folder: PathBuf,
}

/// A running board.
pub struct Board {
    process: Process,
    options: BoardOptions,
    power_on: Instant,
}

impl Board {
    /// Switches one on.
    ///
    /// # Errors
    /// When QEMU is missing, or the card has no kernel.
    pub fn power_on(options: BoardOptions) -> Result<Self> {
        std::fs::create_dir_all(&options.folder)?;
        let qemu = program("qemu-system-aarch64", "qemu-system-arm")?;
        let kernel = take(&options, "vmlinuz")?;
        let initrd = take(&options, "initrd.img")?;
        let tree = device_tree(&qemu, &options)?;
        let mut arguments: Vec<OsString> = machine(options.cores).map(OsString::from).into();
        arguments.extend(
            [
                "-nographic",
                "-no-reboot",
                "-append",
                "root=LABEL=rootfs rw rootwait console=ttyAMA0 net.ifnames=0 panic=-1 systemd.journald.forward_to_console=1",
                "-netdev",
                "user,id=net",
                "-device",
                "virtio-net-pci,netdev=net,romfile=",
            ]
            .map(OsString::from),
        );
        for (flag, path) in [("-kernel", &kernel), ("-initrd", &initrd), ("-dtb", &tree)] {
            arguments.extend([flag.into(), path.clone().into_os_string()]);
        }
        arguments.extend([
            "-drive".into(),
            format!("file={},format=raw,if=virtio", options.card.display()).into(),
        ]);
        for (number, socket) in options.serial_ports.iter().enumerate() {
            arguments.extend([
                "-chardev".into(),
                format!("socket,id=bus{number},path={}", socket.display()).into(),
                "-device".into(),
                format!("pci-serial,chardev=bus{number}").into(),
            ]);
        }
        let console = options.folder.join("console.log");
        let process = Process::start("board", &qemu, arguments, &[], &console)?;
        Ok(Self {
            process,
            options,
            power_on: Instant::now(),
        })
    }

    /// Cuts its power; what the guest had not written is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut_power(mut self) -> Result<BoardOptions> {
        self.process.kill()?;
        Ok(self.options.clone())
    }

    /// How long it has had power.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.power_on.elapsed()
    }

    /// Everything on its console.
    #[must_use]
    pub fn console(&self) -> String {
        self.process.log()
    }

    /// Whether it switched itself off.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn is_off(&mut self) -> Result<bool> {
        Ok(self.process.exited()?.is_some())
    }
}

fn machine(cores: u32) -> [String; 8] {
    let cores = cores.to_string();
    [
        "-M",
        "virt",
        "-cpu",
        "cortex-a72",
        "-smp",
        &cores,
        "-m",
        "1024",
    ]
    .map(str::to_owned)
}

/// The newest file of the boot partition whose name starts so.
fn take(options: &BoardOptions, start: &str) -> Result<PathBuf> {
    let image = format!("{}{BOOT_PARTITION}", options.card.display());
    let listing = Command::new(program("mdir", "mtools")?)
        .args(["-b", "-i", &image, "::/"])
        .output()?;
    let listing = String::from_utf8(listing.stdout)?;
    let name = listing
        .lines()
        .filter_map(|line| line.strip_prefix("::/"))
        .filter(|name| name.starts_with(start))
        .max()
        .with_context(|| {
            format!("expected {start}… on the card's boot partition, found:\n{listing}")
        })?;
    let place = options.folder.join(start);
    let copied = Command::new(program("mcopy", "mtools")?)
        .args(["-n", "-o", "-i", &image, &format!("::/{name}")])
        .arg(&place)
        .status()?;
    ensure!(copied.success(), "expected to copy {name} off the card");
    Ok(place)
}

/// QEMU's own device tree of this machine, with the properties by which a Raspberry Pi 5 is known.
fn device_tree(qemu: &Path, options: &BoardOptions) -> Result<PathBuf> {
    let tree = options.folder.join("board.dtb");
    let mut arguments = machine(options.cores);
    arguments[1] = format!("virt,dumpdtb={}", tree.display());
    let dumped = Command::new(qemu)
        .args(&arguments)
        .args([
            "-nographic",
            "-netdev",
            "user,id=net",
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
        ])
        .output()?;
    ensure!(
        tree.is_file(),
        "expected QEMU to write its device tree: {}",
        String::from_utf8_lossy(&dumped.stderr)
    );
    let put = program("fdtput", "device-tree-compiler")?;
    let strings = |node: &str, property: &str, values: &[&str]| -> Result<()> {
        let done = Command::new(&put)
            .args(["-p", "-t", "s"])
            .arg(&tree)
            .args([node, property])
            .args(values)
            .status()?;
        ensure!(done.success(), "expected fdtput to set {property}");
        Ok(())
    };
    strings("/", "model", &["Raspberry Pi 5 Model B Rev 1.0"])?;
    strings(
        "/",
        "compatible",
        &["raspberrypi,5-model-b", "brcm,bcm2712", "linux,dummy-virt"],
    )?;
    strings("/", "serial-number", &[&options.serial])?;
    // New style, 4 GB, BCM2712, 5 Model B, revision 1.0.
    let done = Command::new(&put)
        .args(["-p", "-t", "x"])
        .arg(&tree)
        .args(["/system", "linux,revision", "c04170"])
        .status()?;
    ensure!(done.success(), "expected fdtput to set the revision");
    Ok(tree)
}
