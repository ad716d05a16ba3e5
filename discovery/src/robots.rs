//! What was heard as robots: one entry a machine, with those that share an id marked. Pure.

use core::net::Ipv4Addr;
use std::collections::BTreeMap;
use std::time::Instant;

use lekiwi_protocol::api::DiscoveredRobot;
use lekiwi_protocol::discovery::ad::RobotAd;
use lekiwi_protocol::{RobotId, Timestamp};

use crate::Found;

/// What one who lists robots knows besides.
pub struct Context<'a> {
    /// Ethernet addresses, see [`crate::neighbours`].
    pub neighbours: &'a BTreeMap<Ipv4Addr, String>,
    /// Whether the relay knows the robot; `None` when no relay was asked.
    pub registered: &'a dyn Fn(&RobotId) -> Option<bool>,
    /// The same moment twice: what [`Found::heard`] is counted from.
    pub now: (Instant, Timestamp),
}

/// The robots among `found`, by id and address. Heard twice is listed once.
#[must_use]
pub fn list(found: &[Found], context: &Context<'_>) -> Vec<DiscoveredRobot> {
    let mut robots: BTreeMap<(RobotId, Vec<Ipv4Addr>), DiscoveredRobot> = BTreeMap::new();
    for found in found {
        let Some(ad) = RobotAd::read(&found.txt) else {
            continue;
        };
        let mut addresses = found.addresses.clone();
        addresses.sort();
        let mac = addresses.iter().find_map(|a| context.neighbours.get(a));
        let (now, wall) = context.now;
        let ago = now.saturating_duration_since(found.heard).as_millis();
        let ago = u64::try_from(ago).unwrap_or(u64::MAX);
        let robot = DiscoveredRobot {
            id: ad.id.clone(),
            robot_type: ad.robot_type,
            serial: ad.serial,
            agent_version: ad.agent_version,
            addresses: addresses.iter().map(Ipv4Addr::to_string).collect(),
            mac_address: mac.cloned(),
            says_registered: ad.registered,
            registered: (context.registered)(&ad.id),
            conflict: false,
            last_heard: Timestamp::from_ms(wall.as_ms().saturating_sub(ago)),
        };
        let entry = robots.entry((ad.id, addresses)).or_insert(robot.clone());
        if robot.last_heard > entry.last_heard {
            *entry = robot;
        }
    }
    let mut robots: Vec<DiscoveredRobot> = robots.into_values().collect();
    let mut times: BTreeMap<RobotId, u32> = BTreeMap::new();
    for robot in &robots {
        *times.entry(robot.id.clone()).or_default() += 1;
    }
    for robot in &mut robots {
        robot.conflict = times.get(&robot.id).is_some_and(|times| *times > 1);
    }
    robots
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn heard(id: &str, last: u8, registered: bool, heard: Instant) -> Found {
        let ad = RobotAd {
            id: RobotId::new(id).unwrap(),
            robot_type: "lekiwi".into(),
            serial: format!("{last}"),
            agent_version: "0.1.0".into(),
            registered,
        };
        Found {
            name: id.to_owned(),
            txt: ad.service().txt,
            addresses: vec![Ipv4Addr::new(10, 0, 0, last)],
            heard,
        }
    }

    #[test]
    fn twice_heard_is_once_listed_and_one_id_twice_is_a_conflict() {
        let now = crate::clock::now();
        let later = now + std::time::Duration::from_secs(3);
        let neighbours = BTreeMap::from([(Ipv4Addr::new(10, 0, 0, 1), "dc:a6:32:00:00:01".into())]);
        let context = Context {
            neighbours: &neighbours,
            registered: &|id| Some(id.as_str() == "a"),
            now: (later, Timestamp::from_ms(10_000)),
        };
        let other = Found {
            txt: b"\x04id=!".to_vec(),
            ..heard("a", 9, false, now)
        };
        let found = [
            heard("a", 1, true, later),
            heard("a", 1, false, now),
            heard("b", 2, true, now),
            heard("b", 3, false, now),
            other,
        ];
        let robots = list(&found, &context);
        let short: Vec<_> = robots
            .iter()
            .map(|r| {
                (
                    r.id.as_str(),
                    r.serial.as_str(),
                    r.conflict,
                    r.registered,
                    r.says_registered,
                )
            })
            .collect();
        assert_eq!(
            short,
            [
                ("a", "1", false, Some(true), true),
                ("b", "2", true, Some(false), true),
                ("b", "3", true, Some(false), false),
            ]
        );
        assert_eq!(robots[0].mac_address.as_deref(), Some("dc:a6:32:00:00:01"));
        assert_eq!(robots[1].last_heard, Timestamp::from_ms(7_000));
    }
}
