//! Writers of ROS 2 topics with commands, as operators.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use lekiwi_protocol::profile::is_node;

use super::super::MAX_WRITERS;
use super::super::scores::Scores;
use super::super::source::Source;
use super::{Detector, SETTLED, Who, bounded};
use crate::ros::{Commander, Guid};

/// A writer whose node is not autonomous.
#[derive(Debug)]
pub(super) struct Writer {
    guid: Guid,
    topic: usize,
    /// Its node's, else its own id: what is no node of ROS has no name.
    name: String,
    is_bridge: bool,
    since: Instant,
    pub(super) commands: Source,
}

impl Writer {
    /// Tells nodes apart: the same for all writers of one, and after it was started again.
    fn name_hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        hasher.finish()
    }
}

fn name(commander: &Commander) -> String {
    match &commander.node {
        Some(node) => bounded(node),
        None => format!("{:032x}", u128::from_be_bytes(commander.guid)),
    }
}

impl Detector {
    pub(super) fn take_commanders(&mut self, now: Instant, commanders: &[Commander], is_gap: bool) {
        let any = |names: &[String], commander: &Commander| {
            let node = commander.node.as_deref();
            node.is_some_and(|node| names.iter().any(|wanted| is_node(node, wanted)))
        };
        let (autonomous, bridges) = (&self.autonomous_nodes, &self.bridge_nodes);
        let drives = |c: &&Commander| c.topic < self.topics.len() && !any(autonomous, c);
        let drivers = || commanders.iter().filter(drives);
        self.writers
            .retain(|writer| drivers().any(|commander| commander.guid == writer.guid));
        for commander in drivers() {
            let known = |writer: &Writer| writer.guid == commander.guid;
            let (index, is_new) = match self.writers.iter().position(known) {
                Some(index) => (index, false),
                None if self.writers.len() < MAX_WRITERS => {
                    self.writers.push(Writer {
                        guid: commander.guid,
                        topic: commander.topic,
                        name: String::new(),
                        is_bridge: false,
                        since: commander.since.min(now),
                        commands: Source::default(),
                    });
                    (self.writers.len() - 1, true)
                }
                None => continue,
            };
            let writer = &mut self.writers[index];
            // Nodes are announced a moment after their writers.
            writer.name = name(commander);
            writer.is_bridge = any(bridges, commander);
            // What it wrote before anybody looked is none of now.
            let commands = if is_gap || is_new {
                0
            } else {
                commander.commands
            };
            let last = commander.last.unwrap_or(writer.since);
            writer.commands.take(now, commands, last);
        }
    }

    /// Whose commands these are.
    pub(super) fn who_writes(&self, now: Instant, writer: &Writer) -> Who {
        let client = writer.is_bridge.then(|| self.client(now, None)).flatten();
        client.unwrap_or_else(|| Who::Node(writer.name_hash()))
    }

    pub(super) fn add_writers(&self, now: Instant, who: Who, scores: &mut Scores) {
        let own = |writer: &&Writer| self.who_writes(now, writer) == who;
        for writer in self.writers.iter().filter(own) {
            let age = now.saturating_duration_since(writer.since);
            scores.present = scores.present.max(Some(age));
            let index = Some(self.ports.len() + writer.topic);
            scores.control.add(now, &writer.commands, index);
            // By then its node is known, or there is none.
            if age >= SETTLED {
                scores.is_settled = true;
                scores.settled.add(now, &writer.commands, index);
            }
        }
    }

    /// The node's name.
    pub(super) fn node(&self, hash: u64) -> Option<&str> {
        let mut writers = self.writers.iter();
        let writer = writers.find(|writer| writer.name_hash() == hash)?;
        Some(&writer.name)
    }

    /// What commands come through, in the profile's words.
    pub(super) fn what(&self, index: usize) -> &str {
        match index.checked_sub(self.ports.len()) {
            None => &self.ports[index].what,
            Some(topic) => &self.topics[topic],
        }
    }
}
