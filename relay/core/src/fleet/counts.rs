//! Numbers for metrics, counted when somebody asks.

use super::Fleet;

/// How many robots are how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Robots known.
    pub known: usize,
    /// Of these, connected (stale ones included).
    pub connected: usize,
    /// Of these, silent for too long.
    pub stale: usize,
    /// Of the connected, those that somebody drives by their last state.
    pub teleoperated: usize,
}

impl Fleet {
    /// Numbers for metrics. Looks at each robot.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let connected = || self.robots.values().filter(|robot| robot.is_connected());
        Counts {
            known: self.robots.len(),
            connected: connected().count(),
            stale: connected().filter(|robot| robot.stale).count(),
            teleoperated: connected().filter(|robot| robot.is_teleoperated()).count(),
        }
    }
}
