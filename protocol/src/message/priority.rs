//! Which events overtake which, and which are given up first when there is no room.

/// How urgent an event is. Within a priority, events go in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Emergency stops, and what the robot had to give up.
    Critical,
    /// Who drives the robot, what was commanded and deployed, and whether it is well.
    High,
    /// Everything else.
    Normal,
    /// Progress of what has an end that is told anyway, and what became of late telemetry.
    Low,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];

    /// The priority of an event's type; of its family (what stands before the dot), where the type has
    /// none of its own.
    #[must_use]
    pub fn of(kind: &str) -> Self {
        let family = kind.split('.').next().unwrap_or_default();
        match (kind, family) {
            ("setup.progress" | "deployment.progress", _) | (_, "telemetry") => Self::Low,
            (_, "estop" | "events") => Self::Critical,
            (_, "teleoperation" | "command" | "deployment" | "health") => Self::High,
            _ => Self::Normal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::kind;

    #[test]
    fn families_have_priorities_and_progress_has_the_least() {
        for (kind, priority) in [
            ("estop.triggered", Priority::Critical),
            (kind::DROPPED, Priority::Critical),
            ("teleoperation.started", Priority::High),
            ("deployment.failed", Priority::High),
            (kind::UNHEALTHY, Priority::High),
            (kind::AGENT_STARTED, Priority::Normal),
            (kind::SETUP_FAILED, Priority::Normal),
            ("", Priority::Normal),
            (kind::SETUP_PROGRESS, Priority::Low),
            (kind::THINNED, Priority::Low),
        ] {
            assert_eq!(Priority::of(kind), priority, "{kind}");
        }
    }
}
