//! The probes of teleoperation: who is connected at the profile's ports (`NETLINK_SOCK_DIAG`, which any user may
//! ask), who reads from the media server, whether keys or sticks at the robot move, and in the variant for ROS 2,
//! which nodes write commands. What that means is
//! decided by [`lekiwi_agent_core::teleop`]. Used by the driver and by `lekiwi-agent teleop`.
//!
//! Nothing is asked more often than needed: every second the kernel's count of accepted connections, which is
//! all there is to do at an idle robot; a dump of connections only after it has grown; known connections one by
//! one, twice a second; the media server only while somebody is connected to it.

mod diag;
mod input;
pub mod media;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lekiwi_agent_core::teleop::diag::SocketId;
use lekiwi_agent_core::teleop::{
    Connection, Detector, Driving, Event, MAX_CONNECTIONS, Picture, Report, Sample,
};
use lekiwi_protocol::profile::{PortRole, Profile};
use uuid::Uuid;

use crate::driver::chain;
use crate::ros::Ros;
use diag::Diag;
pub use diag::DiagError;
use input::Input;
pub use input::InputState;
use media::Media;

/// Between two looks at known connections and moving sticks.
const BUSY: Duration = Duration::from_millis(500);
/// Between two looks for somebody new.
const IDLE: Duration = Duration::from_secs(1);
/// How long sticks count as moving, for the time between looks.
const MOVING: Duration = Duration::from_secs(6);
/// Least time between two looks, whatever the detector wants.
const LEAST: Duration = Duration::from_millis(20);
/// Dumps after the count of accepted connections grew: it grows a moment before the connection is open.
const DUMPS: u8 = 2;

/// Watches for teleoperation by the signatures of one profile.
#[derive(Debug)]
pub struct Watcher {
    detector: Box<Detector>,
    diag: Option<Diag>,
    ports: Vec<u16>,
    video: Vec<u16>,
    known: Vec<(SocketId, Connection)>,
    accepted: Option<u64>,
    dumps: u8,
    input: Option<Input>,
    moved: Option<Instant>,
    media: Option<Media>,
    ros: Option<Arc<Ros>>,
    /// Somebody wrote to the profile's topics at the last look.
    writes: bool,
    complaint: Option<String>,
    next_look: Instant,
    next_discovery: Instant,
}

impl Watcher {
    /// Watches for the signatures of `profile`, with devices below `root`, and in `ros` where that can be had.
    /// `None` when it has none.
    ///
    /// # Errors
    /// When the kernel does not tell who is connected.
    pub fn open(
        profile: &Profile,
        root: &Path,
        ros: Option<Arc<Ros>>,
        now: Instant,
    ) -> Result<Option<Self>, DiagError> {
        let signatures = &profile.teleop;
        let ros = ros.filter(|_| !signatures.ros_topics.is_empty());
        if signatures.ports.is_empty() && !signatures.local_input && ros.is_none() {
            return Ok(None);
        }
        let ports: Vec<u16> = signatures.ports.iter().map(|port| port.port).collect();
        let video = signatures.ports.iter();
        let video = video.filter(|port| port.role == PortRole::Video);
        let video: Vec<u16> = video.map(|port| port.port).collect();
        let mut watcher = Self {
            detector: Box::new(Detector::new(profile.name.as_str(), signatures)),
            diag: None,
            media: (!video.is_empty()).then(Media::default),
            ports,
            video,
            known: Vec::new(),
            accepted: None,
            dumps: DUMPS,
            input: signatures.local_input.then(|| Input::new(root)),
            moved: None,
            ros,
            writes: false,
            complaint: None,
            next_look: now,
            next_discovery: now,
        };
        if !watcher.ports.is_empty() {
            watcher.dump()?;
        }
        Ok(Some(watcher))
    }

    /// When [`Self::look`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.next_look
    }

    /// Looks, and says what became known.
    pub fn look(&mut self, now: Instant) -> Option<Event> {
        let event = match self.sockets(now) {
            Ok(()) => {
                let moves = self.input.as_mut().map_or(0, Input::moves);
                if moves > 0 {
                    self.moved = Some(now);
                }
                let connections: Vec<Connection> = self
                    .known
                    .iter()
                    .map(|(_, connection)| *connection)
                    .collect();
                let is_video = |open: &Connection| self.video.contains(&open.port);
                let has_peers = connections.iter().any(is_video);
                let media = self.media.as_mut().and_then(|m| m.poll(now, has_peers));
                let commanders = self.ros.as_ref().map(|ros| ros.take_commanders());
                let commanders = commanders.unwrap_or_default();
                self.writes = commanders.iter().any(|writer| writer.commands > 0);
                let sample = Sample {
                    connections: &connections,
                    moves,
                    media: media.as_deref(),
                    commanders: &commanders,
                };
                self.detector.observe(now, sample, &mut Uuid::new_v4)
            }
            Err(error) => {
                self.complain(&error);
                // The detector is told nothing: that nobody was seen is not that nobody was there.
                self.diag = None;
                self.dumps = DUMPS;
                self.next_look = now + IDLE;
                return None;
            }
        };
        self.next_look = self.next(now);
        event
    }

    /// A program on the robot says who drives.
    pub fn report(&mut self, now: Instant, report: &Report) {
        self.detector.report(now, report);
        self.next_look = self.next_look.min(now + BUSY);
    }

    /// Nobody looks any more: ends the session, if there is one.
    pub fn end(&mut self, now: Instant) -> Option<Event> {
        self.detector.end(now)
    }

    /// The session that is under way.
    #[must_use]
    pub fn driving(&self) -> Option<Driving> {
        self.detector.driving()
    }

    /// What somebody reads of pictures and observations.
    #[must_use]
    pub fn streams(&self) -> Vec<String> {
        self.detector.streams()
    }

    /// Everything that is seen, for people.
    #[must_use]
    pub fn picture(&self, now: Instant) -> Picture {
        self.detector.picture(now)
    }

    /// What is known of the devices at the robot; `None` where the profile does not look at them.
    #[must_use]
    pub fn input(&self) -> Option<InputState> {
        self.input.as_ref().map(Input::state)
    }

    fn next(&self, now: Instant) -> Instant {
        let moving = self
            .moved
            .is_some_and(|at| now.saturating_duration_since(at) < MOVING);
        let busy =
            !self.known.is_empty() || moving || self.writes || self.detector.driving().is_some();
        let tick = now + if busy { BUSY } else { IDLE };
        match self.detector.poll_timeout() {
            Some(deadline) => tick.min(deadline.max(now + LEAST)),
            None => tick,
        }
    }

    /// Brings [`Self::known`] up to date.
    fn sockets(&mut self, now: Instant) -> Result<(), DiagError> {
        if self.ports.is_empty() {
            return Ok(());
        }
        if self.next_discovery <= now {
            self.next_discovery = now + IDLE;
            let accepted = diag::accepted();
            if accepted.is_none() || accepted != self.accepted || self.is_full() {
                self.dumps = DUMPS;
            }
            self.accepted = accepted;
            if self.dumps > 0 {
                self.dumps -= 1;
                return self.dump();
            }
        }
        let Some(diag) = &self.diag else {
            return self.dump();
        };
        let mut open = Vec::with_capacity(self.known.len());
        for (id, _) in &self.known {
            open.extend(diag.lookup(id)?.map(|connection| (*id, connection)));
        }
        self.known = open;
        Ok(())
    }

    /// Some may have been left out.
    fn is_full(&self) -> bool {
        self.known.len() >= MAX_CONNECTIONS
    }

    fn dump(&mut self) -> Result<(), DiagError> {
        let diag = match self.diag.take() {
            Some(diag) => diag,
            None => Diag::open()?,
        };
        self.known = diag.dump(&self.ports)?;
        self.diag = Some(diag);
        self.complaint = None;
        Ok(())
    }

    /// Says what is wrong, once until something else is.
    fn complain(&mut self, error: &DiagError) {
        let text = chain(error);
        if self.complaint.as_ref() != Some(&text) {
            log::warn!("teleoperation is not seen: {text}");
            self.complaint = Some(text);
        }
    }
}

/// Where devices are below `root`.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}
