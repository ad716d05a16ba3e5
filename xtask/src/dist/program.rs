//! What is shipped, and for which machines.

/// A machine and its C library.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// 64-bit Raspberry Pi OS and other ARM, static.
    Aarch64Musl,
    /// 32-bit Raspberry Pi OS, static.
    Armv7Musl,
    /// PCs, static.
    X86_64Musl,
    /// 64-bit ARM servers.
    Aarch64Gnu,
    /// PCs and servers.
    X86_64Gnu,
}

impl Target {
    /// Rust's name of it.
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Target::Aarch64Musl => "aarch64-unknown-linux-musl",
            Target::Armv7Musl => "armv7-unknown-linux-musleabihf",
            Target::X86_64Musl => "x86_64-unknown-linux-musl",
            Target::Aarch64Gnu => "aarch64-unknown-linux-gnu",
            Target::X86_64Gnu => "x86_64-unknown-linux-gnu",
        }
    }

    /// The static target of this machine.
    pub(crate) fn native_musl() -> Self {
        if cfg!(target_arch = "aarch64") {
            Target::Aarch64Musl
        } else {
            Target::X86_64Musl
        }
    }

    /// Whether programs for it run here without an emulator, and link with this machine's compiler.
    pub(super) fn is_native(self) -> bool {
        self.architecture() == std::env::consts::ARCH
    }

    /// Linux's name of the processor.
    pub(super) fn architecture(self) -> &'static str {
        match self {
            Target::Aarch64Musl | Target::Aarch64Gnu => "aarch64",
            Target::Armv7Musl => "arm",
            Target::X86_64Musl | Target::X86_64Gnu => "x86_64",
        }
    }

    /// Debian's name of the processor.
    pub(super) fn debian(self) -> &'static str {
        match self {
            Target::Aarch64Musl | Target::Aarch64Gnu => "arm64",
            Target::Armv7Musl => "armhf",
            Target::X86_64Musl | Target::X86_64Gnu => "amd64",
        }
    }

    /// The container world's name of the processor, and its variant.
    pub(super) fn oci(self) -> (&'static str, Option<&'static str>) {
        match self {
            Target::Aarch64Musl | Target::Aarch64Gnu => ("arm64", Some("v8")),
            Target::Armv7Musl => ("arm", Some("v7")),
            Target::X86_64Musl | Target::X86_64Gnu => ("amd64", None),
        }
    }
}

/// One shipped program.
pub(super) struct Program {
    /// Cargo's package, and Debian's.
    pub(super) package: &'static str,
    /// The executable.
    pub(super) binary: &'static str,
    /// The feature that makes it a variant of the package's program. It is shipped as an executable alone, to be put
    /// beside the packaged one.
    pub(super) feature: Option<&'static str>,
    /// One line for package lists.
    pub(super) summary: &'static str,
    /// The folder that packages put it in.
    pub(super) folder: &'static str,
    /// What it is built for.
    pub(super) targets: &'static [Target],
    /// Further files and flat folders of the checkout in its package: source and destination.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// Further units of `systemd/` in its package. Those that end with `.path` are enabled and start the others.
    pub(super) units: &'static [&'static str],
    /// Whether its package needs `systemd/BINARY.service`.
    pub(super) is_service: bool,
    /// Whether a container image of it is made.
    pub(super) has_image: bool,
    /// Folder of a container that outlives it.
    pub(super) volume: Option<&'static str>,
    /// What a container runs unless told otherwise.
    pub(super) arguments: &'static [&'static str],
    /// Ports of a container.
    pub(super) ports: &'static [u16],
}

impl Program {
    /// The name without the project's.
    pub(super) fn short(&self) -> &'static str {
        let name = match self.feature {
            Some(_) => self.binary,
            None => self.package,
        };
        name.strip_prefix("lekiwi-").unwrap_or(name)
    }

    /// Where packages put the executable.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.folder, self.binary)
    }
}

/// What everything but the agent is built for.
pub(super) const SERVER_TARGETS: &[Target] = &[Target::X86_64Gnu, Target::Aarch64Gnu];

/// The daemon on the robot.
pub(super) const AGENT: Program = Program {
    package: "lekiwi-agent",
    binary: "lekiwi-agent",
    feature: None,
    summary: "makes this machine a robot of a Lekiwi fleet",
    folder: "/opt/lekiwi-agent",
    targets: &[Target::Aarch64Musl, Target::Armv7Musl, Target::X86_64Musl],
    files: &[
        (
            "agent/agent.example.yml",
            "/usr/share/doc/lekiwi-agent/agent.example.yml",
        ),
        ("image/profiles", "/usr/share/lekiwi/profiles"),
        ("agent/signers", "/opt/lekiwi-agent/signers"),
    ],
    units: &[
        "lekiwi-scrub.service",
        "lekiwi-scrub.path",
        "lekiwi-setup.service",
        "lekiwi-setup.path",
        "lekiwi-privileged.service",
        "lekiwi-privileged.path",
    ],
    is_service: true,
    has_image: true,
    volume: Some("/opt/lekiwi-agent/state"),
    arguments: &["--config", "/etc/lekiwi/agent.yml", "run"],
    ports: &[],
};

/// The daemon on a robot with ROS 2.
pub(super) const AGENT_ROS2: Program = Program {
    binary: "lekiwi-agent-ros2",
    feature: Some("ros2"),
    ..AGENT
};

const RELAY: Program = Program {
    package: "lekiwi-relay",
    binary: "lekiwi-relay",
    feature: None,
    summary: "server of a Lekiwi fleet: broker, event log, API, dashboard",
    folder: "/usr/bin",
    targets: SERVER_TARGETS,
    files: &[],
    units: &[],
    is_service: true,
    has_image: true,
    volume: Some("/var/lib/lekiwi-relay"),
    arguments: &[
        "run",
        "--data",
        "/var/lib/lekiwi-relay",
        "--https",
        "0.0.0.0:8443",
        "--mqtt",
        "0.0.0.0:8883",
    ],
    ports: &[8443, 8883],
};

const CLI: Program = Program {
    package: "lekiwi-cli",
    binary: "lekiwi",
    feature: None,
    summary: "operator's command line for a Lekiwi fleet",
    folder: "/usr/bin",
    targets: SERVER_TARGETS,
    files: &[],
    units: &[],
    is_service: false,
    has_image: false,
    volume: None,
    arguments: &[],
    ports: &[],
};

const PROVISIONER: Program = Program {
    package: "lekiwi-provisioner",
    binary: "lekiwi-provisioner",
    summary: "prepares cards and seeds for the robots of a Lekiwi fleet",
    ..CLI
};

/// All of them.
pub(super) const PROGRAMS: &[&Program] = &[&AGENT, &AGENT_ROS2, &RELAY, &CLI, &PROVISIONER];
