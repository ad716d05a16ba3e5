//! Who may publish, subscribe and leave a will where: the contract's access rules as pure functions.
//! The embedded broker asks them in its hooks; the rules for external brokers in `deploy/` say the same.
//!
//! Rules follow from the direction alone. A robot writes its own `from/#`, reads its own `to/#` and all
//! of `relays/`; a consumer reads `from/#`, `relays/`, `tasks/` and `alerts/` of its organisation, or less ([`Reads`]), and
//! writes nothing. A relay
//! that is a client of an external broker reads what robots say, and writes what is to them, itself, and alerts.

mod reads;

pub use reads::{MAX_FILTERS, Reads, ReadsError};

use crate::id::{ConsumerName, RelayId, RobotId};
use crate::topic::{FromRobot, Path, Root, Topic, TopicError, VERSION};

/// Who a client certificate speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A robot; its MQTT client id equals its id.
    Robot(RobotId),
    /// A read-only program, and what it may read; its client ids are its common name, or start with it and a colon.
    Consumer(ConsumerName, Reads),
    /// A relay at an external broker; its one client id is its common name.
    Relay(RelayId),
}

/// Why something was refused. The text is what operators read in the list of refused messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The topic is none of the contract.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The topic lies outside the client's organisation or prefix.
    #[error("expected a topic below {expected}, got {actual:?}")]
    Root {
        /// The client's own root.
        expected: String,
        /// The topic or filter.
        actual: String,
    },
    /// A robot may write only its own `from/#`.
    #[error("robot {robot} may publish only below its own robots/{robot}/from/, not to {topic:?}")]
    Publish {
        /// Who asked.
        robot: RobotId,
        /// What for.
        topic: String,
    },
    /// A robot's will may name only its own `from/connection`.
    #[error("robot {robot} may leave a will only on its own from/connection, not on {topic:?}")]
    Will {
        /// Who asked.
        robot: RobotId,
        /// What for.
        topic: String,
    },
    /// A relay speaks to robots, of itself and of alerts.
    #[error("relay {relay} may not publish to {topic:?}")]
    Relay {
        /// Who asked.
        relay: RelayId,
        /// What for.
        topic: String,
    },
    /// Consumers only read.
    #[error("consumer {0} may not publish")]
    ReadOnly(ConsumerName),
    /// The filter reaches beyond what this client may read.
    #[error("{client} may not subscribe to {filter:?}")]
    Subscribe {
        /// Who asked.
        client: String,
        /// What for.
        filter: String,
    },
    /// The client id is not the certificate's.
    #[error("expected client id {expected}, got {actual:?}")]
    ClientId {
        /// The certificate's common name.
        expected: String,
        /// The client id of the CONNECT.
        actual: String,
    },
}

impl Principal {
    /// The common name in this client's certificate.
    #[must_use]
    pub fn common_name(&self) -> String {
        match self {
            Self::Robot(robot) => robot.to_string(),
            Self::Consumer(name, _) => name.common_name(),
            Self::Relay(relay) => format!("relay:{relay}"),
        }
    }

    /// Whether this certificate may connect as `client_id`.
    ///
    /// # Errors
    /// When the client id belongs to another certificate.
    pub fn may_connect_as(&self, client_id: &str) -> Result<(), Refusal> {
        let common_name = self.common_name();
        let own = match self {
            Self::Robot(_) | Self::Relay(_) => client_id == common_name,
            Self::Consumer(..) => client_id
                .strip_prefix(&common_name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(':')),
        };
        if own {
            Ok(())
        } else {
            Err(Refusal::ClientId {
                expected: match self {
                    Self::Robot(_) | Self::Relay(_) => common_name,
                    Self::Consumer(..) => format!("{common_name} or {common_name}:…"),
                },
                actual: client_id.chars().take(120).collect(),
            })
        }
    }

    /// Whether this client may publish to `topic`, and which topic that is.
    ///
    /// # Errors
    /// When it may not.
    pub fn may_publish(&self, root: &Root, topic: &str) -> Result<Topic, Refusal> {
        if let Self::Consumer(name, _) = self {
            return Err(Refusal::ReadOnly(name.clone()));
        }
        let parsed = Topic::parse(topic)?;
        if parsed.root != *root {
            return Err(Refusal::Root {
                expected: root.to_string(),
                actual: topic.to_owned(),
            });
        }
        let topic = topic.to_owned();
        match (self, &parsed.path) {
            (Self::Robot(robot), Path::From(id, _)) if id == robot => Ok(parsed),
            (Self::Robot(robot), _) => Err(Refusal::Publish {
                robot: robot.clone(),
                topic,
            }),
            (Self::Relay(relay), Path::Relay(id)) if id == relay => Ok(parsed),
            // A death that came too late is corrected where it is retained.
            (
                Self::Relay(_),
                Path::To(..) | Path::From(_, FromRobot::Connection) | Path::Alert(_),
            ) => Ok(parsed),
            (Self::Relay(relay), _) => Err(Refusal::Relay {
                relay: relay.clone(),
                topic,
            }),
            (Self::Consumer(name, _), _) => Err(Refusal::ReadOnly(name.clone())),
        }
    }

    /// Whether this client may leave its will on `topic`.
    ///
    /// # Errors
    /// When it may not.
    pub fn may_will(&self, root: &Root, topic: &str) -> Result<(), Refusal> {
        let topic = self.may_publish(root, topic)?;
        match (self, &topic.path) {
            (Self::Robot(robot), Path::From(_, from)) if *from != FromRobot::Connection => {
                Err(Refusal::Will {
                    robot: robot.clone(),
                    topic: topic.to_string(),
                })
            }
            (Self::Relay(relay), path) if !matches!(path, Path::Relay(_)) => Err(Refusal::Relay {
                relay: relay.clone(),
                topic: topic.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether this client may subscribe to `filter`. Shared subscriptions (`$share/…`) are refused.
    ///
    /// # Errors
    /// When it may not.
    pub fn may_subscribe(&self, root: &Root, filter: &str) -> Result<(), Refusal> {
        let levels: Vec<&str> = filter.split('/').collect();
        let below = match levels.as_slice() {
            [prefix, VERSION, org, below @ ..]
                if *prefix == root.prefix() && *org == root.org().as_str() =>
            {
                below
            }
            _ => {
                return Err(Refusal::Root {
                    expected: root.to_string(),
                    actual: filter.chars().take(120).collect(),
                });
            }
        };
        let allowed = match (self, below) {
            (_, ["relays", _]) => true,
            (Self::Robot(robot), ["robots", id, "to", _, ..]) => *id == robot.as_str(),
            (Self::Consumer(_, reads), ["robots", _, "from", _, ..] | ["tasks" | "alerts", _]) => {
                reads.allow(below)
            }
            (Self::Relay(_), ["robots", _, "from", _, ..]) => true,
            _ => false,
        };
        if allowed {
            Ok(())
        } else {
            Err(Refusal::Subscribe {
                client: self.common_name(),
                filter: filter.chars().take(120).collect(),
            })
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn robot() -> Principal {
        Principal::Robot("kiwi-01".parse().unwrap())
    }

    fn consumer() -> Principal {
        Principal::Consumer("analytics".parse().unwrap(), Reads::default())
    }

    fn relay() -> Principal {
        Principal::Relay("r1".parse().unwrap())
    }

    #[test]
    fn a_relay_writes_to_robots_and_of_itself() {
        let root = Root::default();
        let publish = |topic: &str| {
            relay()
                .may_publish(&root, topic)
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        for topic in [
            "fleet/v1/default/robots/kiwi-01/to/ack",
            "fleet/v1/default/robots/kiwi-01/from/connection",
            "fleet/v1/default/relays/r1",
            "fleet/v1/default/alerts/hot:kiwi-01:1",
        ] {
            assert_eq!(publish(topic), Ok(()));
        }
        for topic in [
            "fleet/v1/default/robots/kiwi-01/from/state",
            "fleet/v1/default/relays/r2",
            "fleet/v1/default/tasks/t1",
        ] {
            let expected = format!("relay r1 may not publish to {topic:?}");
            assert_eq!(publish(topic), Err(expected));
        }
        let will = |topic: &str| relay().may_will(&root, topic).map_err(|e| e.to_string());
        assert_eq!(will("fleet/v1/default/relays/r1"), Ok(()));
        assert_eq!(
            will("fleet/v1/default/robots/kiwi-01/to/estop"),
            Err("relay r1 may not publish to \"fleet/v1/default/robots/kiwi-01/to/estop\"".into())
        );
        assert_eq!(relay().common_name(), "relay:r1");
        assert!(relay().may_connect_as("relay:r1").is_ok());
        assert!(relay().may_connect_as("relay:r1:2").is_err());
    }

    #[test]
    fn a_robot_writes_only_its_own_from() {
        let root = Root::default();
        let publish = |topic: &str| {
            robot()
                .may_publish(&root, topic)
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        assert_eq!(
            publish("fleet/v1/default/robots/kiwi-01/from/state"),
            Ok(())
        );
        for topic in [
            "fleet/v1/default/robots/kiwi-02/from/state",
            "fleet/v1/default/robots/kiwi-01/to/estop",
            "fleet/v1/default/relays/r1",
            "fleet/v1/default/tasks/t1",
            "fleet/v1/default/alerts/hot:kiwi-01:1",
        ] {
            assert_eq!(
                publish(topic),
                Err(format!(
                    "robot kiwi-01 may publish only below its own robots/kiwi-01/from/, not to {topic:?}"
                ))
            );
        }
        assert_eq!(
            publish("fleet/v1/other/robots/kiwi-01/from/state"),
            Err("expected a topic below fleet/v1/default, got \"fleet/v1/other/robots/kiwi-01/from/state\"".into())
        );
        assert_eq!(
            publish("fleet/v2/default/robots/kiwi-01/from/state"),
            Err("expected version v1, got \"v2\"".into())
        );
    }

    #[test]
    fn a_will_names_only_the_connection() {
        let root = Root::default();
        let will = |topic: &str| robot().may_will(&root, topic).map_err(|e| e.to_string());
        assert_eq!(
            will("fleet/v1/default/robots/kiwi-01/from/connection"),
            Ok(())
        );
        assert_eq!(
            will("fleet/v1/default/robots/kiwi-01/from/events"),
            Err("robot kiwi-01 may leave a will only on its own from/connection, not on \"fleet/v1/default/robots/kiwi-01/from/events\"".into())
        );
        assert!(will("fleet/v1/default/robots/kiwi-02/from/connection").is_err());
        assert_eq!(
            consumer()
                .may_will(&root, "fleet/v1/default/robots/kiwi-01/from/connection")
                .unwrap_err()
                .to_string(),
            "consumer analytics may not publish"
        );
    }

    #[test]
    fn subscriptions() {
        let root = Root::default();
        for (client, filter, allowed) in [
            (robot(), "fleet/v1/default/robots/kiwi-01/to/#", true),
            (robot(), "fleet/v1/default/robots/kiwi-01/to/cmd/+/+", true),
            (robot(), "fleet/v1/default/relays/+", true),
            (robot(), "fleet/v1/default/relays/#", true),
            (robot(), "fleet/v1/default/robots/kiwi-01/#", false),
            (robot(), "fleet/v1/default/robots/kiwi-01/from/#", false),
            (robot(), "fleet/v1/default/robots/+/to/#", false),
            (robot(), "fleet/v1/default/robots/kiwi-02/to/#", false),
            (robot(), "fleet/v1/default/tasks/+", false),
            (robot(), "fleet/v1/+/relays/+", false),
            (robot(), "#", false),
            (robot(), "$share/g/fleet/v1/default/relays/+", false),
            (robot(), "", false),
            (consumer(), "fleet/v1/default/robots/+/from/#", true),
            (
                consumer(),
                "fleet/v1/default/robots/kiwi-01/from/state",
                true,
            ),
            (consumer(), "fleet/v1/default/tasks/#", true),
            (consumer(), "fleet/v1/default/alerts/#", true),
            (robot(), "fleet/v1/default/alerts/#", false),
            (consumer(), "fleet/v1/default/#", false),
            (consumer(), "fleet/v1/default/robots/+/#", false),
            (consumer(), "fleet/v1/default/robots/#", false),
            (consumer(), "fleet/v1/default/robots/+/+/#", false),
            (consumer(), "fleet/v1/default/robots/+/to/#", false),
            (consumer(), "fleet/v1/+/robots/+/from/#", false),
            (consumer(), "$SYS/#", false),
            (consumer(), "#", false),
            (relay(), "fleet/v1/default/robots/+/from/#", true),
            (relay(), "fleet/v1/default/relays/+", true),
            (relay(), "fleet/v1/default/robots/+/to/#", false),
            (relay(), "fleet/v1/default/alerts/#", false),
            (relay(), "fleet/v1/other/robots/+/from/#", false),
        ] {
            assert_eq!(
                client.may_subscribe(&root, filter).is_ok(),
                allowed,
                "{client:?} {filter}"
            );
        }
        assert_eq!(
            robot()
                .may_subscribe(&root, "fleet/v1/default/robots/+/to/#")
                .unwrap_err()
                .to_string(),
            "kiwi-01 may not subscribe to \"fleet/v1/default/robots/+/to/#\""
        );
    }

    #[test]
    fn a_consumer_reads_what_it_was_made_for() {
        let root = Root::default();
        let reads = Reads::parse(&["robots/+/from/telemetry".to_owned()]).unwrap();
        let wall = Principal::Consumer("wall".parse().unwrap(), reads);
        let subscribe = |filter: &str| {
            let asked = wall.may_subscribe(&root, &format!("fleet/v1/default/{filter}"));
            asked.map_err(|refusal| refusal.to_string())
        };
        for filter in [
            "robots/kiwi-01/from/telemetry",
            "robots/+/from/telemetry",
            "relays/+",
        ] {
            assert_eq!(subscribe(filter), Ok(()));
        }
        assert_eq!(
            subscribe("robots/+/from/#"),
            Err("consumer:wall may not subscribe to \"fleet/v1/default/robots/+/from/#\"".into())
        );
        assert!(subscribe("alerts/+").is_err());
        let own = "fleet/v1/default/robots/kiwi-01/from/telemetry";
        assert!(wall.may_publish(&root, own).is_err() && wall.may_will(&root, own).is_err());
    }

    #[test]
    fn client_ids() {
        assert!(robot().may_connect_as("kiwi-01").is_ok());
        assert_eq!(
            robot().may_connect_as("kiwi-02").unwrap_err().to_string(),
            "expected client id kiwi-01, got \"kiwi-02\""
        );
        for (client_id, allowed) in [
            ("consumer:analytics", true),
            ("consumer:analytics:1234", true),
            ("consumer:analytics-b", false),
            ("kiwi-01", false),
            ("", false),
        ] {
            assert_eq!(
                consumer().may_connect_as(client_id).is_ok(),
                allowed,
                "{client_id}"
            );
        }
    }
}
