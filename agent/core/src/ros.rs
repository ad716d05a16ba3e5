//! What is known of the nodes in one domain of ROS 2, and of the commands that they write. Pure; fed by the
//! agent's variant that takes part in DDS, read by [`crate::teleop`] and by the looks at the profile's nodes.
//!
//! ROS's middlewares on DDS announce nodes by a message on `ros_discovery_info`, one a participant, anew with each
//! change: `ParticipantEntitiesInfo`, with the nodes' names and the ids of their writers. A node is gone with the
//! message that leaves it out, or with its participant. The announcement is believed for the participant that
//! sent it and for no other. Invariant: memory is bounded, whatever is announced.

use std::fmt;
use std::time::Instant;

/// An id of DDS: twelve bytes of the participant, four of its writer.
pub type Guid = [u8; 16];
/// The participant's part of a [`Guid`].
pub type Prefix = [u8; 12];

/// Most participants whose nodes are kept.
pub const MAX_PARTICIPANTS: usize = 64;
/// Most nodes of one participant; component containers have dozens.
pub const MAX_NODES: usize = 64;
/// Most writers of one node that are kept.
pub const MAX_WRITERS_OF_A_NODE: usize = 32;
/// Longest name of a node with its namespace that is kept, in bytes.
pub const MAX_NODE_NAME: usize = 255;
/// Most writers of topics with commands.
pub const MAX_COMMANDERS: usize = 16;
/// Lengths of an id in the message: since ROS 2 Iron, and before, with eight zeros at its end.
const GID_BYTES: [usize; 2] = [16, 24];

/// Why an announcement says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// How many bytes came.
    pub bytes: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes;
        write!(
            f,
            "expected ParticipantEntitiesInfo of ROS 2, got {bytes} other bytes"
        )
    }
}

impl std::error::Error for Malformed {}

/// Which byte of a number comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The lowest.
    Little,
    /// The highest.
    Big,
}

/// A writer of a topic with commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commander {
    /// Its id.
    pub guid: Guid,
    /// Which of the topics.
    pub topic: usize,
    /// Its node with the namespace, as far as announced.
    pub node: Option<String>,
    /// When it was first seen.
    pub since: Instant,
    /// What it wrote since it was last asked.
    pub commands: u32,
    /// When it last wrote.
    pub last: Option<Instant>,
}

/// A domain of ROS 2.
#[derive(Debug, Default)]
pub struct Domain {
    participants: Vec<Participant>,
    commanders: Vec<Commander>,
    changed: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Participant {
    prefix: Prefix,
    nodes: Vec<Node>,
}

#[derive(Debug, PartialEq, Eq)]
struct Node {
    name: String,
    writers: Vec<Guid>,
}

impl Domain {
    /// The participant `prefix` announces its nodes.
    ///
    /// # Errors
    /// When it announces something else.
    pub fn announced(
        &mut self,
        prefix: Prefix,
        message: &[u8],
        order: Order,
    ) -> Result<(), Malformed> {
        let read = |gid_bytes| nodes(message, order, gid_bytes);
        let nodes = GID_BYTES.into_iter().find_map(read).ok_or(Malformed {
            bytes: message.len(),
        })?;
        if let Some(known) = self.participants.iter_mut().find(|p| p.prefix == prefix) {
            self.changed |= known.nodes != nodes;
            known.nodes = nodes;
        } else if self.participants.len() < MAX_PARTICIPANTS {
            self.participants.push(Participant { prefix, nodes });
            self.changed = true;
        }
        Ok(())
    }

    /// The participant `prefix` is gone, with all that it had.
    pub fn participant_lost(&mut self, prefix: Prefix) {
        let before = self.participants.len();
        self.participants.retain(|known| known.prefix != prefix);
        self.changed |= self.participants.len() != before;
        self.commanders
            .retain(|commander| commander.guid[..12] != prefix);
    }

    /// Somebody may write commands to `topic`.
    pub fn writer_found(&mut self, now: Instant, guid: Guid, topic: usize) {
        self.commander(now, guid, topic);
    }

    /// And does not any more.
    pub fn writer_lost(&mut self, guid: Guid) {
        self.commanders.retain(|commander| commander.guid != guid);
    }

    /// `guid` wrote a command to `topic`.
    pub fn commanded(&mut self, now: Instant, guid: Guid, topic: usize) {
        if let Some(commander) = self.commander(now, guid, topic) {
            commander.commands = commander.commands.saturating_add(1);
            commander.last = Some(now);
        }
    }

    fn commander(&mut self, now: Instant, guid: Guid, topic: usize) -> Option<&mut Commander> {
        let known = |commander: &Commander| commander.guid == guid;
        let index = match self.commanders.iter().position(known) {
            Some(index) => index,
            None if self.commanders.len() < MAX_COMMANDERS => {
                self.commanders.push(Commander {
                    guid,
                    topic,
                    node: None,
                    since: now,
                    commands: 0,
                    last: None,
                });
                self.commanders.len() - 1
            }
            None => return None,
        };
        self.commanders.get_mut(index)
    }

    /// Everybody who may write commands, with what was written since the last call.
    pub fn take_commanders(&mut self) -> Vec<Commander> {
        let mut taken = self.commanders.clone();
        for commander in &mut self.commanders {
            commander.commands = 0;
        }
        for commander in &mut taken {
            commander.node = self.node_of(&commander.guid).map(str::to_owned);
        }
        taken
    }

    /// Whether nodes came or went since the last call.
    pub fn poll_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Every node, with its namespace.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        let nodes = self.participants.iter().flat_map(|p| &p.nodes);
        nodes.map(|node| node.name.as_str())
    }

    fn node_of(&self, writer: &Guid) -> Option<&str> {
        // A participant speaks for its own writers only.
        let own = self
            .participants
            .iter()
            .find(|p| writer[..12] == p.prefix)?;
        let node = own.nodes.iter().find(|n| n.writers.contains(writer))?;
        Some(&node.name)
    }
}

/// Who is gone in the end, of those of whom is told, oldest first, that they are there or are not: whoever was lost and
/// found again is the same one, with all that it had.
#[must_use]
pub fn lost(told: &[(Prefix, bool)]) -> Vec<Prefix> {
    let mut lost: Vec<Prefix> = Vec::new();
    for (prefix, is_there) in told {
        lost.retain(|known| known != prefix);
        if !is_there {
            lost.push(*prefix);
        }
    }
    lost
}

/// Reads the nodes of a message whose ids are `gid_bytes` long; `None` when it is not such a message to its last byte.
fn nodes(message: &[u8], order: Order, gid_bytes: usize) -> Option<Vec<Node>> {
    let mut reader = Reader {
        bytes: message,
        at: 0,
        order,
    };
    reader.take(gid_bytes)?;
    let count = reader.number()?;
    let mut nodes = Vec::new();
    for _ in 0..count {
        let (namespace, name) = (reader.text()?, reader.text()?);
        reader.gids(gid_bytes, |_| {})?;
        let mut writers = Vec::new();
        reader.gids(gid_bytes, |gid| {
            if writers.len() < MAX_WRITERS_OF_A_NODE {
                writers.push(gid);
            }
        })?;
        let slash = if namespace.ends_with('/') { "" } else { "/" };
        let name = format!("{namespace}{slash}{name}");
        if nodes.len() < MAX_NODES && name.len() <= MAX_NODE_NAME {
            nodes.push(Node { name, writers });
        }
    }
    // Four bytes at most fill the message up.
    (message.len() - reader.at < 4).then_some(nodes)
}

/// Reads CDR, version 1: numbers are at multiples of their size.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    order: Order,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn number(&mut self) -> Option<usize> {
        self.at = self.at.next_multiple_of(4);
        let bytes: [u8; 4] = self.take(4)?.try_into().ok()?;
        usize::try_from(match self.order {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        })
        .ok()
    }

    /// A text, with a zero at its end.
    fn text(&mut self) -> Option<&'a str> {
        let count = self.number()?;
        let (zero, text) = self.take(count)?.split_last()?;
        let text = std::str::from_utf8(text).ok()?;
        (*zero == 0 && !text.contains(char::is_control)).then_some(text)
    }

    fn gids(&mut self, gid_bytes: usize, mut each: impl FnMut(Guid)) -> Option<()> {
        let count = self.number()?;
        for _ in 0..count {
            let (guid, rest) = self.take(gid_bytes)?.split_first_chunk()?;
            if rest.iter().any(|byte| *byte != 0) {
                return None;
            }
            each(*guid);
        }
        Some(())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// A message as ROS's middlewares write it.
    fn message(gid_bytes: usize, order: Order, nodes: &[(&str, &str, &[Guid])]) -> Vec<u8> {
        let mut bytes = vec![7; 16];
        bytes.resize(gid_bytes, 0);
        let number = |bytes: &mut Vec<u8>, number: usize| {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            let number = u32::try_from(number).unwrap();
            bytes.extend(match order {
                Order::Little => number.to_le_bytes(),
                Order::Big => number.to_be_bytes(),
            });
        };
        number(&mut bytes, nodes.len());
        for (namespace, name, writers) in nodes {
            for text in [namespace, name] {
                number(&mut bytes, text.len() + 1);
                bytes.extend(text.as_bytes());
                bytes.push(0);
            }
            // Readers are of no use here, and have to be read over.
            let readers: &[Guid] = &[[9; 16]];
            for gids in [readers, writers] {
                number(&mut bytes, gids.len());
                for gid in gids {
                    bytes.extend(gid);
                    bytes.resize(bytes.len() + gid_bytes - 16, 0);
                }
            }
        }
        bytes
    }

    fn guid(participant: u8, writer: u8) -> Guid {
        let mut guid = [participant; 16];
        guid[15] = writer;
        guid
    }

    fn names(domain: &Domain) -> Vec<&str> {
        domain.nodes().collect()
    }

    #[test]
    fn lost_is_who_did_not_come_back() {
        let (a, b) = ([1; 12], [2; 12]);
        let cases = [
            (vec![], vec![]),
            (vec![(a, true)], vec![]),
            (vec![(a, false)], vec![a]),
            (vec![(a, false), (a, true)], vec![]),
            (vec![(a, true), (a, false), (a, false)], vec![a]),
            (vec![(a, false), (b, true), (a, true), (b, false)], vec![b]),
        ];
        for (told, expected) in cases {
            assert_eq!(lost(&told), expected, "{told:?}");
        }
    }

    #[test]
    fn nodes_come_and_go_with_their_messages_and_participants() {
        for gid_bytes in GID_BYTES {
            for order in [Order::Little, Order::Big] {
                let mut domain = Domain::default();
                let two = message(
                    gid_bytes,
                    order,
                    &[("/", "teleop", &[]), ("/arm", "driver", &[guid(1, 3)])],
                );
                domain.announced([1; 12], &two, order).unwrap();
                assert!(domain.poll_change());
                assert_eq!(names(&domain), ["/teleop", "/arm/driver"]);
                domain.announced([1; 12], &two, order).unwrap();
                assert!(!domain.poll_change(), "said again");
                let one = message(gid_bytes, order, &[("/arm", "driver", &[guid(1, 3)])]);
                domain.announced([1; 12], &one, order).unwrap();
                assert!(domain.poll_change());
                assert_eq!(names(&domain), ["/arm/driver"]);
                domain.participant_lost([2; 12]);
                assert!(!domain.poll_change(), "another");
                domain.participant_lost([1; 12]);
                assert!(domain.poll_change());
                assert_eq!(names(&domain), [""; 0]);
            }
        }
    }

    #[test]
    fn commands_are_counted_by_writer_and_have_their_nodes_name() {
        let start = Instant::now();
        let mut domain = Domain::default();
        let (teleop, other) = (guid(1, 1), guid(2, 1));
        domain.writer_found(start, teleop, 0);
        for ms in [50, 100] {
            domain.commanded(start + Duration::from_millis(ms), teleop, 0);
        }
        domain.commanded(start, other, 1);
        // Announced by its own participant, and claimed by another.
        let own = message(16, Order::Little, &[("/", "teleop", &[teleop])]);
        domain.announced([1; 12], &own, Order::Little).unwrap();
        let claim = message(16, Order::Little, &[("/", "planner", &[teleop])]);
        domain.announced([3; 12], &claim, Order::Little).unwrap();
        let taken = domain.take_commanders();
        let taken: Vec<_> = taken
            .iter()
            .map(|c| (c.node.as_deref(), c.topic, c.commands))
            .collect();
        assert_eq!(taken, [(Some("/teleop"), 0, 2), (None, 1, 1)]);
        let again = domain.take_commanders();
        assert!(again.iter().all(|commander| commander.commands == 0));
        assert_eq!(again[0].last, Some(start + Duration::from_millis(100)));
        domain.writer_lost(other);
        assert_eq!(domain.take_commanders().len(), 1);
        domain.participant_lost([1; 12]);
        assert_eq!(domain.take_commanders().len(), 0);
    }

    #[test]
    fn what_is_something_else_changes_nothing() {
        let right = message(24, Order::Little, &[("/", "teleop", &[guid(1, 1)])]);
        let mut longer = right.clone();
        longer.extend([0; 4]);
        let control = message(24, Order::Little, &[("/", "tele\nop", &[])]);
        for wrong in [&right[..right.len() - 1], &longer, &control, &[]] {
            let mut domain = Domain::default();
            let error = domain.announced([1; 12], wrong, Order::Little).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "expected ParticipantEntitiesInfo of ROS 2, got {} other bytes",
                    wrong.len()
                )
            );
            assert!(!domain.poll_change());
        }
    }

    proptest! {
        /// Every message is read as what it was written from, and no byte of it can be trusted.
        #[test]
        fn whatever_is_announced_is_read_or_refused_and_bounded(
            messages in prop::collection::vec((any::<u8>(), 0_usize..200, any::<prop::sample::Index>(), any::<u8>()), 1..100),
        ) {
            let now = Instant::now();
            let mut domain = Domain::default();
            for (participant, count, place, byte) in messages {
                let nodes: Vec<(&str, &str, &[Guid])> = vec![("/", "a", &[[1; 16]; 40]); count];
                let mut bytes = message(16, Order::Little, &nodes);
                prop_assert!(domain.announced([participant; 12], &bytes, Order::Little).is_ok());
                let index = place.index(bytes.len());
                bytes[index] = byte;
                // Read or refused.
                let _ = domain.announced([participant; 12], &bytes, Order::Little);
                domain.commanded(now, [participant; 16], 0);
            }
            prop_assert!(domain.participants.len() <= MAX_PARTICIPANTS);
            let within = |p: &Participant| {
                p.nodes.len() <= MAX_NODES
                    && p.nodes.iter().all(|n| n.writers.len() <= MAX_WRITERS_OF_A_NODE)
            };
            prop_assert!(domain.participants.iter().all(within));
            prop_assert!(domain.take_commanders().len() <= MAX_COMMANDERS);
        }
    }
}
