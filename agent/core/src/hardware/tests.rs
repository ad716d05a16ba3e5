#![expect(clippy::unwrap_used, reason = "tests")]

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

/// The shipped profiles.
fn profiles() -> Vec<Profile> {
    [
        include_str!("../../../../image/profiles/generic.yml"),
        include_str!("../../../../image/profiles/lekiwi.yml"),
        include_str!("../../../../image/profiles/so101.yml"),
        include_str!("../../../../image/profiles/xle-2wheel.yml"),
        include_str!("../../../../image/profiles/xle.yml"),
    ]
    .map(|text| Profile::parse(text, "shipped").unwrap())
    .to_vec()
}

fn answered(port: &str, ids: &[u8]) -> Bus {
    let servo = |id: &u8| Servo {
        id: *id,
        model: Some(777),
    };
    Bus {
        port: port.to_owned(),
        state: BusState::Answered {
            servos: ids.iter().map(servo).collect(),
            garbled: Vec::new(),
        },
    }
}

fn bus(port: &str, state: BusState) -> Bus {
    Bus {
        port: port.to_owned(),
        state,
    }
}

fn usb(vendor: &str, product: &str, port: &str) -> UsbDevice {
    UsbDevice {
        vendor: vendor.to_owned(),
        product: product.to_owned(),
        port: port.to_owned(),
        name: String::new(),
    }
}

/// A robot with so many cameras, and a RealSense (which captures as well) if it has one.
fn robot(board: &str, memory_gb: u32, cameras: usize, realsense: bool, buses: &[Bus]) -> Facts {
    let camera = |index| usb("1bcf", "2c99", &format!("1-1.{index}"));
    let mut cameras: Vec<UsbDevice> = (1..=cameras).map(camera).collect();
    let mut devices = cameras.clone();
    if realsense {
        cameras.push(usb("8086", "0b3a", "2-1"));
        devices.push(usb("8086", "0b3a", "2-1"));
    }
    Facts {
        board: Board {
            kind: board.to_owned(),
            memory_gb,
            ..Board::default()
        },
        usb: devices,
        cameras,
        buses: buses.to_vec(),
    }
}

const ARM: &[u8] = &[1, 2, 3, 4, 5, 6];
const WITH_HEAD: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8];
const WITH_BASE: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8, 9];
const WITH_TWO_WHEELS: &[u8] = &[1, 2, 3, 4, 5, 6, 9, 10];

fn lekiwi() -> Facts {
    robot("pi5", 4, 2, false, &[answered("ttyACM0", WITH_BASE)])
}

fn xle() -> Facts {
    let buses = [
        answered("ttyACM0", WITH_HEAD),
        answered("ttyACM1", WITH_BASE),
    ];
    robot("pi5", 8, 2, true, &buses)
}

fn xle_2wheel() -> Facts {
    let buses = [
        answered("ttyACM1", WITH_HEAD),
        answered("ttyACM0", WITH_TWO_WHEELS),
    ];
    robot("pc", 16, 2, true, &buses)
}

fn so101() -> Facts {
    robot("pc", 16, 0, false, &[answered("ttyACM0", ARM)])
}

fn name(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Matched(matched) => matched.profile.as_str(),
        Outcome::Unknown { .. } => "unknown",
    }
}

fn check(facts: &Facts, expected: &Expect) {
    let text = match identify(facts, &profiles()) {
        Outcome::Matched(m) => format!(
            "{} on {:?}\nfits: {}\ndiffers: {}\nrunner-up: {}\n",
            m.profile,
            m.ports,
            m.matched.join("; "),
            m.differing.join("; "),
            m.runner_up.map_or("none".to_owned(), |r| r.profile)
        ),
        Outcome::Unknown {
            reasons, runner_up, ..
        } => {
            let nearest = runner_up.map_or("none".to_owned(), |r| {
                format!("{}, but {}", r.profile, r.differing.join("; "))
            });
            format!(
                "unknown: {}\nnearest: {nearest}\n",
                reasons.join("\n         ")
            )
        }
    };
    expected.assert_eq(&text);
}

#[test]
fn whole_robots_are_known() {
    check(
        &lekiwi(),
        &expect![[r#"
            lekiwi on ["ttyACM0"]
            fits: servos 1-9 on ttyACM0; board pi5; memory: 4 GB; cameras: 2
            differs: 
            runner-up: so101
        "#]],
    );
    check(
        &xle(),
        &expect![[r#"
            xle on ["ttyACM0", "ttyACM1"]
            fits: servos 1-8 on ttyACM0; servos 1-9 on ttyACM1; cameras: 2; RealSense: 1
            differs: 
            runner-up: xle-2wheel
        "#]],
    );
    check(
        &xle_2wheel(),
        &expect![[r#"
            xle-2wheel on ["ttyACM1", "ttyACM0"]
            fits: servos 1-8 on ttyACM1; servos 1-6, 9, 10 on ttyACM0; cameras: 2; RealSense: 1
            differs: 
            runner-up: xle
        "#]],
    );
    check(
        &so101(),
        &expect![[r#"
            so101 on ["ttyACM0"]
            fits: servos 1-6 on ttyACM0; cameras: 0
            differs: 
            runner-up: lekiwi
        "#]],
    );
}

#[test]
fn what_is_only_expected_is_said_and_decides_nothing() {
    check(
        &robot("pi4", 8, 3, false, &[answered("ttyUSB0", WITH_BASE)]),
        &expect![[r#"
            lekiwi on ["ttyUSB0"]
            fits: servos 1-9 on ttyUSB0; board pi4
            differs: memory: expected 4 GB, got 8 GB; cameras: expected 2, got 3
            runner-up: so101
        "#]],
    );
    // A camera on a table, at a computer that no LeKiwi has.
    check(
        &robot("pc", 16, 1, false, &[answered("ttyACM0", ARM)]),
        &expect![[r#"
            so101 on ["ttyACM0"]
            fits: servos 1-6 on ttyACM0
            differs: cameras: expected 0, got 1
            runner-up: lekiwi
        "#]],
    );
}

#[test]
fn a_lekiwi_without_wheels_is_no_so101() {
    check(
        &robot("pi5", 4, 2, false, &[answered("ttyACM0", ARM)]),
        &expect![[r#"
            unknown: the servos are those of so101, but 2 cameras may as well belong to lekiwi: servos 7-9 on ttyACM0 do not answer
            nearest: so101, but cameras: expected 0, got 2
        "#]],
    );
}

#[test]
fn an_xle_with_one_adapter_is_no_lekiwi() {
    check(
        &robot("pi5", 4, 2, true, &[answered("ttyACM0", WITH_BASE)]),
        &expect![[r#"
            unknown: the servos are those of lekiwi, but 1 RealSense may as well belong to xle: a bus with servos 1-8 is missing
            nearest: lekiwi, but cameras: expected 2, got 3
        "#]],
    );
}

#[test]
fn the_wrong_computer_is_no_robot() {
    check(
        &robot("pi3", 1, 2, false, &[answered("ttyACM0", WITH_BASE)]),
        &expect![[r#"
            unknown: no profile fits
            nearest: lekiwi, but board: expected pi4 or pi5, got pi3; memory: expected 4 GB, got 1 GB
        "#]],
    );
}

#[test]
fn missing_foreign_and_surplus_servos_are_named() {
    let mut foreign = answered("ttyACM0", WITH_BASE);
    if let BusState::Answered { servos, .. } = &mut foreign.state {
        servos[2].model = Some(1284);
        servos[3].model = None;
    }
    check(
        &robot("pi5", 4, 2, false, &[foreign]),
        &expect![[r#"
            unknown: no profile fits
            nearest: lekiwi, but servo 3 on ttyACM0: expected model 777, got 1284; servo 4 on ttyACM0: expected model 777, got none
        "#]],
    );
    check(
        &robot(
            "pi5",
            4,
            2,
            false,
            &[answered("ttyACM0", &[1, 2, 4, 5, 6, 7, 8, 9, 12])],
        ),
        &expect![[r#"
            unknown: no profile fits
            nearest: lekiwi, but servos 3 on ttyACM0 do not answer; servos 12 on ttyACM0 are not expected
        "#]],
    );
}

#[test]
fn a_bus_that_cannot_be_read_is_explained() {
    let silent = bus("ttyACM0", BusState::Silent);
    check(
        &robot("pi5", 4, 2, false, std::slice::from_ref(&silent)),
        &expect![[r#"
            unknown: ttyACM0: nobody answers: is the servos' power on?
            nearest: none
        "#]],
    );
    // One arm of an XLE without power: what answers is a whole LeKiwi.
    check(
        &robot(
            "pi5",
            4,
            2,
            false,
            &[silent, answered("ttyACM1", WITH_BASE)],
        ),
        &expect![[r#"
            unknown: ttyACM0: nobody answers: is the servos' power on?
            nearest: lekiwi, but the bus on ttyACM0 is not expected
        "#]],
    );
    check(
        &robot("pi5", 4, 2, false, &[answered("ttyACM0", &[1])]),
        &expect![[r#"
            unknown: ttyACM0: only servo 1 answers, as all do that have not got their ids yet
            nearest: so101, but servos 2-6 on ttyACM0 do not answer; cameras: expected 0, got 2
        "#]],
    );
    let garbled = BusState::Answered {
        servos: Vec::new(),
        garbled: vec![1],
    };
    check(
        &robot("pi5", 4, 2, false, &[bus("ttyACM0", garbled)]),
        &expect![[r#"
            unknown: ttyACM0: only servo 1 answers, as all do that have not got their ids yet
            nearest: none
        "#]],
    );
    let mut half = answered("ttyACM0", &[2, 3, 4, 5, 6, 7, 8, 9]);
    if let BusState::Answered { garbled, .. } = &mut half.state {
        garbled.push(1);
    }
    check(
        &robot("pi5", 4, 2, false, &[half]),
        &expect![[r#"
            unknown: ttyACM0: the answers of 1 are garbled, as when several servos have one id
            nearest: lekiwi, but servos 1 on ttyACM0 do not answer
        "#]],
    );
    for (state, reason) in [
        (BusState::Busy, "ttyACM0: another program uses it"),
        (
            BusState::Noise,
            "ttyACM0: something answers that is no servo",
        ),
        (
            BusState::Failed {
                reason: "gone".to_owned(),
            },
            "ttyACM0: it cannot be asked: gone",
        ),
    ] {
        let outcome = identify(
            &robot("pi5", 4, 2, false, &[bus("ttyACM0", state)]),
            &profiles(),
        );
        assert!(matches!(outcome, Outcome::Unknown { reasons, .. } if reasons == [reason]));
    }
}

#[test]
fn without_adapter_or_profile_nothing_is_guessed() {
    check(
        &robot("pi5", 4, 2, false, &[]),
        &expect![[r#"
            unknown: no servo adapter is plugged in
            nearest: none
        "#]],
    );
    let outcome = identify(&lekiwi(), &[]);
    let reason = "there is no profile that could be recognised";
    assert!(matches!(outcome, Outcome::Unknown { reasons, .. } if reasons == [reason]));
}

#[test]
fn two_profiles_that_fit_alike_are_none() {
    let mut all = profiles();
    let mut twin = all
        .iter()
        .find(|p| p.name.as_str() == "lekiwi")
        .unwrap()
        .clone();
    twin.name = ProfileName::new("kiwi-twin").unwrap();
    all.push(twin);
    let Outcome::Unknown { reasons, .. } = identify(&lekiwi(), &all) else {
        panic!("a guess");
    };
    assert_eq!(reasons, ["kiwi-twin and lekiwi fit alike"]);
}

#[test]
fn ids_are_listed_shortly() {
    assert_eq!(list([1, 2, 3, 5, 6, 9].into_iter()), "1-3, 5, 6, 9");
    assert_eq!(list([254, 253, 252].into_iter()), "252-254");
    assert_eq!(list([].into_iter()), "");
}

fn any_robot() -> impl Strategy<Value = (&'static str, Facts)> {
    prop_oneof![
        Just(("lekiwi", lekiwi())),
        Just(("xle", xle())),
        Just(("xle-2wheel", xle_2wheel())),
        Just(("so101", so101())),
    ]
}

/// Buses of any servos, to find what is wrongly taken for something.
fn any_buses() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let bus = proptest::sample::subsequence((1..=12).collect::<Vec<u8>>(), 0..=12);
    proptest::collection::vec(bus, 0..4)
}

proptest! {
    #[test]
    fn the_order_and_names_of_ports_never_matter(
        (expected, facts) in any_robot(),
        seed in 0_usize..24,
        swap: bool,
    ) {
        let mut other = facts.clone();
        let count = other.buses.len();
        other.buses.rotate_left(seed % count);
        let mut all = profiles();
        let length = all.len();
        all.rotate_left(seed % length);
        prop_assert_eq!(identify(&other, &all), identify(&facts, &profiles()));
        if swap {
            let mut names: Vec<String> = other.buses.iter().map(|b| b.port.clone()).collect();
            names.reverse();
            for (bus, name) in other.buses.iter_mut().zip(names) {
                bus.port = name;
            }
        }
        let outcome = identify(&other, &all);
        prop_assert_eq!(name(&outcome), expected);
    }

    #[test]
    fn an_unrelated_usb_device_changes_nothing(
        (expected, mut facts) in any_robot(),
        vendor in "(046d|0bda|1d6b|05ac)",
        product in "[0-9a-f]{4}",
    ) {
        let before = identify(&facts, &profiles());
        facts.usb.push(usb(&vendor, &product, "3-1"));
        let after = identify(&facts, &profiles());
        prop_assert_eq!(name(&after), expected);
        prop_assert_eq!(after, before);
    }

    #[test]
    fn a_robot_that_lost_servos_is_never_another(
        (_, mut facts) in any_robot(),
        lost in proptest::collection::vec((0_usize..2, 1_u8..=10), 1..5),
    ) {
        let mut changed = false;
        for (index, id) in lost {
            let count = facts.buses.len();
            if let BusState::Answered { servos, .. } = &mut facts.buses[index % count].state {
                let before = servos.len();
                servos.retain(|servo| servo.id != id);
                changed |= servos.len() != before;
            }
        }
        prop_assume!(changed);
        let outcome = identify(&facts, &profiles());
        prop_assert_eq!(name(&outcome), "unknown");
    }

    #[test]
    fn what_is_matched_has_exactly_the_profiles_buses(
        buses in any_buses(),
        cameras in 0_usize..4,
        realsense: bool,
        board in "(pi3|pi4|pi5|pc|virt)",
    ) {
        let buses: Vec<Bus> = buses
            .iter()
            .enumerate()
            .map(|(index, ids)| answered(&format!("ttyACM{index}"), ids))
            .collect();
        let facts = robot(&board, 4, cameras, realsense, &buses);
        if let Outcome::Matched(matched) = identify(&facts, &profiles()) {
            let all = profiles();
            let profile = all.iter().find(|p| p.name == matched.profile).unwrap();
            let recognise = profile.recognise.as_ref().unwrap();
            let mut there: Vec<BTreeSet<u8>> = facts.buses.iter().map(ids).collect();
            let mut wanted: Vec<BTreeSet<u8>> =
                recognise.servo_buses.iter().map(|bus| bus.iter().copied().collect()).collect();
            there.sort();
            wanted.sort();
            prop_assert_eq!(there, wanted);
            prop_assert!(recognise.boards.is_empty() || recognise.boards.contains(&board));
        }
    }
}
