//! Robots that were found on the network.

use comfy_table::{Cell, Color};
use lekiwi_protocol::api::DiscoveredRobot;

use super::{NONE, finish, table};
use crate::ui::plain;

/// `lekiwi discover`.
pub(crate) fn discovered(robots: &[DiscoveredRobot], colour: bool) -> String {
    if robots.is_empty() {
        return "no robots found; where the network filters multicast, ask each address with \
                `lekiwi discover --scan NETWORK`"
            .into();
    }
    let head = [
        "robot",
        "type",
        "address",
        "mac",
        "serial",
        "agent",
        "registered",
    ];
    let mut table = table(colour, &head);
    let or_none = |text: &str| match text {
        "" => NONE.to_owned(),
        text => plain(text),
    };
    for robot in robots {
        let (registered, hue) = match (robot.registered, robot.says_registered) {
            (Some(true), _) => ("yes", Color::Green),
            (Some(false), true) => ("elsewhere", Color::Yellow),
            (Some(false), false) => ("no", Color::Yellow),
            (None, true) => ("says yes", Color::DarkGrey),
            (None, false) => ("says no", Color::DarkGrey),
        };
        let id = match robot.conflict {
            true => Cell::new(format!("{} !", robot.id)).fg(Color::Red),
            false => Cell::new(robot.id.as_str()),
        };
        table.add_row(vec![
            id,
            Cell::new(or_none(&robot.robot_type)),
            Cell::new(robot.addresses.join(", ")),
            Cell::new(robot.mac_address.as_deref().unwrap_or(NONE)),
            Cell::new(or_none(&robot.serial)),
            Cell::new(or_none(&robot.agent_version)),
            Cell::new(registered).fg(hue),
        ]);
    }
    finish(&table)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use lekiwi_protocol::Timestamp;

    use super::*;

    #[test]
    fn discovered_robots_as_a_table() {
        let robot = |id: &str, registered, says_registered, conflict| DiscoveredRobot {
            id: id.parse().expect("an id"),
            robot_type: "lekiwi".into(),
            serial: if conflict {
                String::new()
            } else {
                "10000000\u{1b}[2J".into()
            },
            agent_version: "0.1.0".into(),
            addresses: vec!["10.0.0.7".into()],
            mac_address: (!conflict).then(|| "dc:a6:32:00:00:07".into()),
            says_registered,
            registered,
            conflict,
            last_heard: Timestamp::from_ms(0),
        };
        let robots = [
            robot("kiwi-01", Some(true), true, false),
            robot("kiwi-02", Some(false), true, true),
            robot("kiwi-03", Some(false), false, false),
            robot("kiwi-04", None, true, true),
            robot("kiwi-05", None, false, true),
        ];
        expect![[r#"
            ROBOT      TYPE    ADDRESS   MAC                SERIAL             AGENT  REGISTERED
            kiwi-01    lekiwi  10.0.0.7  dc:a6:32:00:00:07  10000000\u{1b}[2J  0.1.0  yes
            kiwi-02 !  lekiwi  10.0.0.7  –                  –                  0.1.0  elsewhere
            kiwi-03    lekiwi  10.0.0.7  dc:a6:32:00:00:07  10000000\u{1b}[2J  0.1.0  no
            kiwi-04 !  lekiwi  10.0.0.7  –                  –                  0.1.0  says yes
            kiwi-05 !  lekiwi  10.0.0.7  –                  –                  0.1.0  says no"#]]
        .assert_eq(&discovered(&robots, false));
        expect!["no robots found; where the network filters multicast, ask each address with `lekiwi discover --scan NETWORK`"]
            .assert_eq(&discovered(&[], false));
    }
}
