use std::time::Duration;

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_ms(1);

fn planned(serial: Option<&str>, mac: Option<&str>, robot: Option<&str>) -> Planned {
    Planned {
        serial: serial.map(|text| text.parse().unwrap()),
        mac: mac.map(|text| text.parse().unwrap()),
        robot_id: robot.map(|text| text.parse().unwrap()),
        profile: "lekiwi".into(),
        image: None,
    }
}

fn roster(planned: &[Planned]) -> Roster {
    let limit = Duration::from_secs(60);
    let limits = Limits {
        booting: limit,
        installing: limit,
        enrolled: limit,
    };
    let defaults = Defaults {
        prefix: "robot".into(),
        profile: "generic".into(),
        image: None,
    };
    Roster::new(limits, defaults, Vec::new(), planned, NOW)
}

fn seen(serial: Option<&str>, mac: Option<&str>) -> Sighting {
    Sighting {
        serial: serial.map(|text| text.parse().unwrap()),
        mac: mac.map(|text| text.parse().unwrap()),
        ..Sighting::default()
    }
}

#[test]
fn a_board_is_recognised_by_whatever_it_shows() {
    let mut roster = roster(&[
        planned(Some("10000000abcdef01"), None, Some("kiwi-01")),
        planned(None, Some("dc:a6:32:01:36:c2"), None),
        planned(Some("00000000feedbeef"), None, None),
    ]);
    let mut key = |sighting: &Sighting| roster.sight(NOW, sighting).unwrap().key.0;
    assert_eq!(key(&seen(Some("abcdef01"), None)), "abcdef01");
    // The address was learned along with the serial number.
    assert_eq!(
        key(&seen(Some("abcdef01"), Some("2c:cf:67:00:00:01"))),
        "abcdef01"
    );
    assert_eq!(key(&seen(None, Some("2c:cf:67:00:00:01"))), "abcdef01");
    // Known by its address, then by its serial number as well.
    assert_eq!(
        key(&seen(Some("10000000000000aa"), Some("dc:a6:32:01:36:c2"))),
        "dc:a6:32:01:36:c2"
    );
    assert_eq!(key(&seen(Some("000000aa"), None)), "dc:a6:32:01:36:c2");
    // Up to the Pi 3, the address is made from the serial number.
    assert_eq!(key(&seen(None, Some("b8:27:eb:ed:be:ef"))), "feedbeef");
    let robots: Vec<_> = roster.units().filter_map(|u| u.robot_id.clone()).collect();
    assert_eq!(
        robots.iter().map(RobotId::as_str).collect::<Vec<_>>(),
        ["kiwi-01", "robot-000000aa", "robot-feedbeef"]
    );
    for name in [
        "kiwi-01",
        "abcdef01",
        "10000000abcdef01",
        "2c:cf:67:00:00:01",
    ] {
        assert_eq!(roster.named(name).unwrap().key.0, "abcdef01");
    }
    assert_eq!(
        roster.named("kiwi-02").unwrap_err().to_string(),
        "there is no unit \"kiwi-02\""
    );
    // The other half of the number tells them apart.
    assert!(roster.named("20000000abcdef01").is_err());
}

#[test]
fn bytes_in_the_other_order_are_believed_only_when_they_name_a_unit() {
    let mut roster = roster(&[planned(Some("10000000abcdef01"), None, None)]);
    let both = |serial: u32| Sighting {
        serial: Some(Serial::from_low(serial)),
        other_serial: Some(Serial::from_low(serial.swap_bytes())),
        ..Sighting::default()
    };
    assert_eq!(
        roster.sight(NOW, &both(0xabcd_ef01)).unwrap().key.0,
        "abcdef01"
    );
    assert_eq!(
        roster.sight(NOW, &both(0x01ef_cdab)).unwrap().key.0,
        "abcdef01"
    );
    assert_eq!(
        roster.sight(NOW, &both(0x0102_0304)).unwrap().key.0,
        "01020304"
    );
}

#[test]
fn a_stranger_known_by_its_address_melts_into_the_unit_it_is() {
    let mut roster = roster(&[planned(Some("10000000abcdef01"), None, None)]);
    let mac = "dc:a6:32:01:36:c2";
    assert_eq!(
        roster.sight(NOW, &seen(None, Some(mac))).unwrap().key.0,
        mac
    );
    assert_eq!(roster.counts(true).total, 2);
    assert_eq!(roster.counts(false).total, 1);
    let both = seen(Some("10000000abcdef01"), Some(mac));
    assert_eq!(roster.sight(NOW, &both).unwrap().key.0, "abcdef01");
    assert_eq!(roster.counts(true).total, 1);
    assert_eq!(
        roster
            .sight(NOW, &Sighting::default())
            .unwrap_err()
            .to_string(),
        "expected a serial number or an Ethernet address, got neither"
    );
}

#[test]
fn made_up_boards_are_bounded() {
    let mut roster = roster(&[planned(Some("10000000abcdef01"), None, None)]);
    let mut sight = |low: u32| {
        let sighting = Sighting {
            serial: Some(Serial::from_low(low)),
            ..Sighting::default()
        };
        roster.sight(NOW, &sighting)
    };
    for low in 0..500 {
        sight(low).unwrap();
    }
    assert_eq!(
        sight(500).unwrap_err().to_string(),
        "expected the boards of the line's file, got more than 500 others"
    );
    sight(0xabcd_ef01).unwrap();
}

#[test]
fn another_file_keeps_what_was_stored() {
    let mut first = roster(&[planned(Some("10000000abcdef01"), None, Some("kiwi-01"))]);
    let key = Key("abcdef01".into());
    first.handle(&key, NOW, Event::Dhcp).unwrap();
    let second = Roster::new(
        first.limits,
        first.defaults.clone(),
        first.units().cloned().collect(),
        &[planned(Some("1000000012345678"), None, None)],
        NOW,
    );
    let known = second.unit(&key).unwrap();
    assert_eq!((known.state.name(), known.expected), ("booting", false));
    assert_eq!(second.counts(false).waiting, 1);
}

proptest! {
    /// A unit that fails, or whatever else happens to it, never touches another.
    #[test]
    fn what_happens_to_one_changes_no_other(
        events in prop::collection::vec((0_u32..8, 0_u8..6, 0_u64..1_000_000), 0..100)
    ) {
        let plan: Vec<_> = (0..8).map(|n| planned(Some(&format!("1000000000000a0{n}")), None, None)).collect();
        let mut roster = roster(&plan);
        for (which, what, ms) in events {
            let before = roster.clone();
            let sighting = Sighting { serial: Some(Serial::from_low(0xa00 + which)), ..Sighting::default() };
            let key = roster.sight(NOW, &sighting).unwrap().key;
            let event = match what {
                0 => Event::Dhcp,
                1 => Event::Report { step: "failed".into(), detail: "x".into() },
                2 => Event::Retry,
                3 => Event::Healthy,
                4 => Event::Seed("10.0.0.1".into()),
                _ => Event::Tick,
            };
            let _ = roster.handle(&key, Timestamp::from_ms(ms), event);
            for unit in before.units().filter(|unit| unit.key != key) {
                prop_assert_eq!(Some(unit), roster.unit(&unit.key));
            }
            prop_assert_eq!(roster.counts(false).total, 8);
        }
    }
}
