//! What a browser keeps of what it hears, whoever says it.

use core::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use lekiwi_protocol::discovery::ad::{ROBOTS, service_type};
use lekiwi_protocol::discovery::browser::{Browser, MOST, MOST_OF_ONE};
use lekiwi_protocol::discovery::name::Name;
use lekiwi_protocol::discovery::packet::{Data, Packet, Record};
use proptest::prelude::*;

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    Instant::now()
}

fn from() -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 7), 5353)
}

fn record(name: Name, ttl: u32, data: Data) -> Record {
    Record {
        name,
        flush: false,
        ttl,
        data,
    }
}

fn response(answers: Vec<Record>) -> Packet {
    Packet {
        response: true,
        answers,
        ..Packet::default()
    }
}

fn instance(label: &str) -> Name {
    Name::of(&[label, ROBOTS, "_tcp", "local"])
}

#[test]
fn details_that_did_not_come_are_asked_for() {
    let now = start();
    let mut browser = Browser::new(&[ROBOTS], now);
    browser.handle_timeout(now);
    let first = Packet::parse(&browser.poll_output().expect("there")).expect("there");
    assert_eq!(first.questions.len(), 1);
    let pointer = record(service_type(ROBOTS), 4500, Data::Ptr(instance("a")));
    assert!(browser.handle_packet(now, from(), &response(vec![pointer.clone()])));
    assert!(!browser.handle_packet(now, from(), &response(vec![pointer])));
    let mut asked = 0;
    let mut later = now;
    while let Some(at) = browser
        .poll_timeout()
        .filter(|at| *at < now + Duration::from_millis(900))
    {
        later = at;
        browser.handle_timeout(later);
        let question = Packet::parse(&browser.poll_output().unwrap_or_default());
        asked += question.map_or(0, |q| usize::from(q.questions[0].name == instance("a")));
    }
    assert_eq!(asked, 3);
    let host = Name::of(&["a", "local"]);
    let details = response(vec![
        record(
            instance("a"),
            120,
            Data::Srv {
                port: 1,
                target: host.clone(),
            },
        ),
        record(instance("a"), 120, Data::Txt(b"\x04id=a".to_vec())),
        record(host, 120, Data::A(Ipv4Addr::new(10, 0, 0, 8))),
    ]);
    assert!(browser.handle_packet(later, from(), &details));
    let found = browser.instances(ROBOTS).next().expect("there");
    assert_eq!(browser.addresses(found), [Ipv4Addr::new(10, 0, 0, 8)]);
}

#[test]
fn a_machine_that_moves_has_its_new_address_alone() {
    let (old, new) = (Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(10, 0, 0, 8));
    let host = Name::of(&["a", "local"]);
    let said = |address| {
        let place = Data::Srv {
            port: 1,
            target: host.clone(),
        };
        let mut of_host = record(host.clone(), 120, Data::A(address));
        of_host.flush = true;
        response(vec![
            record(service_type(ROBOTS), 4500, Data::Ptr(instance("a"))),
            record(instance("a"), 120, place),
            of_host,
        ])
    };
    // Announced twice, a second apart for the sender; packets may wait a moment before they are heard.
    for (first, second) in [(700, 1700), (999, 1950), (999, 2100), (1500, 2400)] {
        let now = start();
        let at = |ms| now + Duration::from_millis(ms);
        let mut browser = Browser::new(&[ROBOTS], now);
        let known = |browser: &Browser| {
            let found = browser.instances(ROBOTS).next().expect("there");
            browser.addresses(found)
        };
        browser.handle_packet(now, from(), &said(old));
        assert!(browser.handle_packet(at(first), from(), &said(new)));
        let together = if first > 1000 {
            vec![new]
        } else {
            vec![old, new]
        };
        assert_eq!(known(&browser), together, "{first} ms");
        let changed = browser.handle_packet(at(second), from(), &said(new));
        assert_eq!(changed, together.len() == 2);
        assert_eq!(known(&browser), [new], "{first} ms, {second} ms");
    }
}

#[test]
fn what_nobody_confirms_is_forgotten() {
    let now = start();
    let mut browser = Browser::new(&[ROBOTS], now);
    let pointer = record(service_type(ROBOTS), 10, Data::Ptr(instance("a")));
    browser.handle_packet(now, from(), &response(vec![pointer]));
    browser.handle_timeout(now + Duration::from_secs(9));
    assert_eq!(browser.instances(ROBOTS).count(), 1);
    browser.handle_timeout(now + Duration::from_secs(10));
    assert_eq!(browser.instances(ROBOTS).count(), 0);
}

#[test]
fn a_flood_of_instances_is_bounded_and_counted() {
    let now = start();
    let mut browser = Browser::new(&[ROBOTS], now);
    for n in 0..5000_u16 {
        let [_, third] = (n / 200).to_be_bytes();
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 0, third, 7), 5353);
        let name = instance(&format!("r{n}"));
        let host = Name::of(&[&format!("h{n}"), "local"]);
        let packet = response(vec![
            record(service_type(ROBOTS), u32::MAX, Data::Ptr(name.clone())),
            record(name.clone(), u32::MAX, Data::Txt(vec![0; 8000])),
            record(
                name,
                9,
                Data::Srv {
                    port: 0,
                    target: host.clone(),
                },
            ),
            record(host, 9, Data::A(Ipv4Addr::LOCALHOST)),
        ]);
        browser.handle_packet(now, from, &packet);
    }
    assert_eq!(browser.instances(ROBOTS).count(), MOST);
    assert_eq!(browser.refused(), 5000 - MOST as u64);
    assert!(browser.instances(ROBOTS).all(|i| i.txt.is_none()));
    browser.handle_timeout(now + Duration::from_secs(4500));
    assert_eq!(browser.instances(ROBOTS).count(), 0);
}

#[test]
fn one_liar_leaves_room_for_others() {
    let now = start();
    let mut browser = Browser::new(&[ROBOTS], now);
    let pointer = |label: &str| record(service_type(ROBOTS), 9, Data::Ptr(instance(label)));
    for n in 0..5000 {
        let lie = response(vec![pointer(&format!("r{n}"))]);
        browser.handle_packet(now, from(), &lie);
    }
    assert_eq!(browser.instances(ROBOTS).count(), MOST_OF_ONE);
    let other = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 8), 5353);
    assert!(browser.handle_packet(now, other, &response(vec![pointer("kiwi-01")])));
}

#[test]
fn instances_of_other_types_are_not_kept() {
    let now = start();
    let mut browser = Browser::new(&[ROBOTS], now);
    let printer = Name::of(&["printer", "_ipp", "_tcp", "local"]);
    let packet = response(vec![
        record(printer.parent(), 9, Data::Ptr(printer.clone())),
        record(service_type(ROBOTS), 9, Data::Ptr(printer)),
        record(Name::of(&["x", "local"]), 9, Data::A(Ipv4Addr::LOCALHOST)),
    ]);
    assert!(!browser.handle_packet(now, from(), &packet));
    assert_eq!(browser.instances(ROBOTS).count(), 0);
}

proptest! {
    #[test]
    fn noise_changes_nothing(bytes in proptest::collection::vec(any::<u8>(), 12..400)) {
        let mut browser = Browser::new(&[ROBOTS], start());
        if let Ok(packet) = Packet::parse(&bytes) {
            browser.handle_packet(start(), from(), &packet);
        }
        prop_assert_eq!(browser.instances(ROBOTS).count(), 0);
    }
}
