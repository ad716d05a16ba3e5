//! Whether somebody drives the robot, by what its connections and devices really do. Pure; fed by the agent's
//! probes about twice a second, in `lekiwi-agent run` and in `lekiwi-agent teleop`.
//!
//! What the profile calls a control port is ambiguous by itself (LeRobot has commands in on 5555 of one robot
//! and pictures out on 5555 of another), so the direction decides: only segments with data that come *in* are
//! commands. Bytes say nothing, since commands are compressed. Each operator has indicators, and a confidence
//! `1 - Π(1 - weight × score)`:
//!
//! | indicator | weight | score |
//! |---|---|---|
//! | control | 0.8 | 1 for 10 commands in 2 s, the last within 500 ms; 0.5 for steady ones from 0.8/s |
//! | local input | 0.6 | 1 when keys or sticks at the robot moved in the last 2 s |
//! | video | 0.3 | 1 while pictures or observations are read |
//! | presence | 0.2 | 1 when connected for 3 s |
//!
//! A session starts when the confidence is 0.65 for 2 s with control or local input in it, or when either has
//! been steady for 5 s; what comes through a connection younger than 3 s starts nothing (scans, health checks).
//! A node of ROS 2 that writes to a command topic is an operator by its own name and its messages are commands,
//! unless the profile calls the node autonomous; what a bridge writes there is of its remote client.
//! It stops for want of commands alone: an open picture holds nothing. Time in which nobody looked (the process
//! was stopped, the machine was busy) is neither silence nor evidence: counts begin anew, and deadlines move.
//!
//! Invariants: no event without evidence; `started` and `stopped` alternate; an operator changes only within a
//! session; contention means two operators; memory is bounded, whatever comes.

mod detector;
pub mod diag;
mod scores;
mod source;

use core::net::IpAddr;
use std::time::{Duration, Instant};

use lekiwi_protocol::message::{Operator, TeleoperationEvent};
use serde::Serialize;

use crate::ros::Commander;
pub use detector::Detector;

/// Most connections that are looked at: those that commands came through last.
pub const MAX_CONNECTIONS: usize = 24;
/// Most writers of ROS 2 topics.
pub const MAX_WRITERS: usize = crate::ros::MAX_COMMANDERS;
/// Most readers of a media server.
pub const MAX_MEDIA: usize = 8;
/// Most programs that report operators.
pub const MAX_REPORTS: usize = 4;
/// Longest name of an operator or a stream that is kept, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// A longer time between two looks is one in which nobody looked.
pub const GAP: Duration = Duration::from_secs(2);
/// How long a reported operator is believed.
pub const REPORT_LIFE: Duration = Duration::from_secs(60);

/// A TCP connection at one of the profile's ports, as the kernel has it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The kernel's own number of this socket, never used again.
    pub id: u64,
    /// Our port.
    pub port: u16,
    /// Who is at the other end.
    pub remote: IpAddr,
    /// The other end is this machine.
    pub is_loopback: bool,
    /// Segments with data that came in, since it was opened; wraps.
    pub data_segs_in: u32,
    /// Bytes of ours that the other end has acknowledged, since it was opened.
    pub bytes_acked: u64,
    /// Since data last came in.
    pub last_data_recv: Duration,
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Least round trip.
    pub min_rtt: Duration,
}

/// Somebody who reads from the media server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaSession {
    /// The server's name for it, as a number.
    pub id: u64,
    /// Who reads.
    pub remote: IpAddr,
    /// What.
    pub path: String,
    /// Sent so far.
    pub bytes_sent: u64,
}

/// Everything that was seen at one time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample<'a> {
    /// All open connections at the profile's ports, up to [`MAX_CONNECTIONS`].
    pub connections: &'a [Connection],
    /// Keys and sticks at the robot that moved since the last sample.
    pub moves: u32,
    /// Readers of the media server, up to [`MAX_MEDIA`]; `None` when it was not asked anew.
    pub media: Option<&'a [MediaSession]>,
    /// Writers of the profile's ROS 2 topics, with what they wrote since the last sample.
    pub commanders: &'a [Commander],
}

/// What a program on the robot says about an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who.
    pub operator: Operator,
    /// Where commands of this operator come from; they are the operator's then. Without, the operator is one
    /// by itself.
    pub address: Option<IpAddr>,
    /// Commands that were carried out since the last report.
    pub commands: u32,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// One of the four [`lekiwi_protocol::message::kind`]s of teleoperation.
    pub kind: &'static str,
    /// With everything that is known of it.
    pub data: TeleoperationEvent,
}

/// The session that is under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Driving {
    /// Who drives.
    pub operator: Operator,
    /// When the commands began.
    pub since: Instant,
    /// Somebody else commands as well.
    pub contention: bool,
}

/// The indicators of one moment, for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Picture {
    /// `idle`, `observing` or `teleoperated`.
    pub phase: &'static str,
    /// Two command at once.
    pub contention: bool,
    /// Everybody who shows in an indicator.
    pub candidates: Vec<CandidatePicture>,
    /// Every connection that is looked at.
    pub connections: Vec<ConnectionPicture>,
}

/// Somebody who may be driving.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CandidatePicture {
    /// Who.
    pub operator: Operator,
    /// All indicators together.
    pub confidence: f64,
    /// Each by itself.
    pub evidence: lekiwi_protocol::message::Evidence,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConnectionPicture {
    /// Our port.
    pub port: u16,
    /// What it is, in the profile's words.
    pub what: String,
    /// The other end.
    pub remote: IpAddr,
    /// Segments with data that came in, over the last two seconds.
    pub commands_per_s: f64,
    /// Since the last one, ms.
    pub silent_ms: u64,
    /// Whether the other end reads what we send.
    pub reads: bool,
}
