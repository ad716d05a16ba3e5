//! Storms, floods and second chances.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::protect::Tier;

const SECOND: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn guard() -> Guard {
    Guard::new(Limits {
        mqtt_connections: 5,
        https_connections: 5,
        connections_per_address: 3,
        messages_per_s: 10,
        messages_per_s_per_address: 30,
        ..Limits::of(Tier::Development)
    })
}

fn enter(guard: &mut Guard, port: Port, address: &str) -> Result<(), Refusal> {
    guard.enter(Instant::now(), port, Some(ip(address)))
}

#[test]
fn a_storm_from_one_address_leaves_room_for_the_others() {
    let mut guard = guard();
    let storm: Vec<_> = (0..100)
        .map(|_| enter(&mut guard, Port::Https, "192.0.2.1"))
        .collect();
    assert_eq!(storm.iter().filter(|outcome| outcome.is_ok()).count(), 3);
    assert!(
        storm[3..]
            .iter()
            .all(|outcome| *outcome == Err(Refusal::AddressFull))
    );
    assert_eq!(enter(&mut guard, Port::Https, "192.0.2.2"), Ok(()));
    // What is not limited is counted.
    assert_eq!(enter(&mut guard, Port::Https, "127.0.0.1"), Ok(()));
    assert_eq!(
        enter(&mut guard, Port::Https, "127.0.0.1"),
        Err(Refusal::Full)
    );
    // The ports have places of their own; an address has the same ones everywhere.
    assert_eq!(enter(&mut guard, Port::Mqtt, "192.0.2.2"), Ok(()));
    assert_eq!(
        enter(&mut guard, Port::Mqtt, "192.0.2.1"),
        Err(Refusal::AddressFull)
    );

    guard.leave(Port::Https, Some(ip("192.0.2.1")));
    assert_eq!(enter(&mut guard, Port::Mqtt, "192.0.2.1"), Ok(()));
}

#[test]
fn who_asks_too_much_waits_and_others_do_not() {
    let mut guard = Guard::new(Limits {
        requests_per_s: 2,
        requests_per_s_per_address: 5,
        ..Limits::of(Tier::Development)
    });
    let begin = Instant::now();
    let of_one = Refusal::Requests {
        per_s: 2,
        of_address: false,
    };
    let ask = |guard: &mut Guard, now, asker: &str, address: &str| {
        let asked = guard.request(now, ip(address));
        asked.and_then(|()| guard.request_of(now, asker, ip(address)))
    };
    // Ten seconds' worth at once, wherever from.
    for turn in 0..20 {
        let address = ["192.0.2.1", "192.0.2.2"][turn % 2];
        assert_eq!(ask(&mut guard, begin, "user ada", address), Ok(()));
    }
    assert_eq!(ask(&mut guard, begin, "user ada", "192.0.2.3"), Err(of_one));
    assert_eq!(ask(&mut guard, begin, "user bob", "192.0.2.1"), Ok(()));
    // Who waits as long as they are told is let in.
    let later = begin + SECOND;
    assert_eq!(ask(&mut guard, later, "user ada", "192.0.2.3"), Ok(()));
    // An address answers for all who ask there; this machine for nobody.
    let storm = (0..100).map(|n| ask(&mut guard, later, &format!("user {n}"), "192.0.2.9"));
    let refused: Vec<_> = storm.filter_map(Result::err).collect();
    let of_address = Refusal::Requests {
        per_s: 5,
        of_address: true,
    };
    assert_eq!(refused, [of_address; 50]);
    for _ in 0..100 {
        assert_eq!(ask(&mut guard, later, "user ada", "127.0.0.1"), Ok(()));
    }
}

#[test]
fn a_refusal_takes_no_place() {
    let mut guard = guard();
    for _ in 0..5 {
        enter(&mut guard, Port::Mqtt, "::1").unwrap();
    }
    for _ in 0..10 {
        assert_eq!(
            enter(&mut guard, Port::Mqtt, "192.0.2.1"),
            Err(Refusal::Full)
        );
    }
    guard.leave(Port::Mqtt, Some(ip("::1")));
    assert_eq!(enter(&mut guard, Port::Mqtt, "192.0.2.1"), Ok(()));
}

#[test]
fn who_has_one_address_of_a_network_of_ipv6_has_them_all() {
    let mut guard = guard();
    for n in 0..3 {
        assert_eq!(
            enter(&mut guard, Port::Https, &format!("2001:db8::{n}")),
            Ok(())
        );
    }
    let refused = enter(&mut guard, Port::Https, "2001:db8::ffff:1");
    assert_eq!(refused, Err(Refusal::AddressFull));
    assert_eq!(enter(&mut guard, Port::Https, "2001:db8:0:1::1"), Ok(()));
}

#[test]
fn a_client_that_floods_is_banned_and_its_neighbours_are_not() {
    let (mut guard, now, router) = (guard(), Instant::now(), ip("192.0.2.1"));
    let outcomes: Vec<_> = (0..201)
        .map(|_| guard.message(now, "kiwi-01", router))
        .collect();
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        100,
        "ten seconds' worth"
    );
    assert_eq!(outcomes[199], Err(Refusal::Rate));
    assert_eq!(outcomes[200], Err(Refusal::Banned { left: 60 * SECOND }));
    let welcome = |guard: &Guard, client| guard.welcome(now + SECOND, client);
    assert_eq!(
        welcome(&guard, "kiwi-01"),
        Err(Refusal::Banned { left: 59 * SECOND })
    );
    assert_eq!(welcome(&guard, "kiwi-02"), Ok(()));
    assert_eq!(guard.message(now, "kiwi-02", router), Ok(()));

    let expected = Ban {
        who: Offender::Client("kiwi-01".into()),
        reason: "messages",
        count: 1,
        until: now + 60 * SECOND,
    };
    assert_eq!(guard.bans(now), [expected]);
    assert_eq!(guard.bans(now + 60 * SECOND), []);
}

#[test]
fn an_address_has_so_many_messages_for_all_its_clients_and_none_is_blamed() {
    let (mut guard, now) = (guard(), Instant::now());
    let mut taken = 0;
    for n in 0..1_000 {
        let client = format!("kiwi-{}", n % 100);
        match guard.message(now, &client, ip("192.0.2.1")) {
            Ok(()) => taken += 1,
            refused => assert_eq!(refused, Err(Refusal::Rate)),
        }
    }
    assert_eq!(taken, 300);
    assert_eq!(guard.bans(now), []);
    assert_eq!(guard.message(now, "kiwi-1", ip("192.0.2.2")), Ok(()));
}

#[test]
fn a_ban_ends_and_the_next_one_is_twice_as_long() {
    let (mut guard, mut now, stranger) = (guard(), Instant::now(), ip("192.0.2.1"));
    let mut lengths = Vec::new();
    for _ in 0..13 {
        let ban = (0..=100)
            .find_map(|_| guard.offence(now, stranger, "handshake"))
            .unwrap();
        lengths.push((ban.until - now).as_secs());
        let refused = guard.enter(now, Port::Https, Some(stranger));
        assert!(matches!(refused, Err(Refusal::Banned { .. })));
        // Whoever is banned cannot make it worse.
        assert_eq!(
            (0..1_000).find_map(|_| guard.offence(now, stranger, "handshake")),
            None
        );
        now = ban.until + 200 * SECOND;
        assert_eq!(guard.enter(now, Port::Https, Some(stranger)), Ok(()));
        guard.leave(Port::Https, Some(stranger));
    }
    assert_eq!(lengths[..4], [60, 120, 240, 480]);
    assert_eq!(lengths[10..], [61_440, 86_400, 86_400]);

    now += LONGEST_BAN;
    let ban = (0..=100).find_map(|_| guard.offence(now, stranger, "handshake"));
    assert_eq!(ban.unwrap().count, 1, "a day of peace is enough");
    assert!(guard.lift(now, &Offender::Address(stranger)));
    assert!(!guard.lift(now, &Offender::Address(stranger)));
    assert_eq!(guard.enter(now, Port::Https, Some(stranger)), Ok(()));
}

/// Robots and strangers may have one address.
#[test]
fn a_banned_address_is_no_ban_of_the_clients_behind_it() {
    let (mut guard, now, router) = (guard(), Instant::now(), ip("192.0.2.1"));
    assert!((0..=100).any(|_| guard.offence(now, router, "handshake").is_some()));
    assert_eq!(guard.welcome(now, "kiwi-01"), Ok(()));
    assert_eq!(guard.enter(now, Port::Mqtt, Some(router)), Ok(()));
    // Who comes there has proved nothing yet.
    for port in [Port::Https, Port::Passage] {
        let refused = guard.enter(now, port, Some(router));
        assert_eq!(refused, Err(Refusal::Banned { left: 60 * SECOND }));
    }
}

#[test]
fn a_trusted_address_does_what_it_likes() {
    let (mut guard, now, here) = (guard(), Instant::now(), ip("127.0.0.1"));
    for _ in 0..1_000 {
        assert_eq!(guard.offence(now, here, "handshake"), None);
        assert_eq!(guard.message(now, "kiwi-01", here), Ok(()));
    }
    assert_eq!(guard.enter(now, Port::Https, Some(here)), Ok(()));
}

#[test]
fn without_a_length_nobody_is_banned() {
    let mut guard = Guard::new(Limits {
        ban: Duration::ZERO,
        ..Limits::default()
    });
    let now = Instant::now();
    assert_eq!(
        (0..1_000).find_map(|_| guard.offence(now, ip("192.0.2.1"), "handshake")),
        None
    );
}

#[test]
fn memory_is_bounded_and_bans_outlast_others() {
    let (mut guard, now) = (guard(), Instant::now());
    let banned = ip("192.0.2.1");
    assert!((0..=100).any(|_| guard.offence(now, banned, "handshake").is_some()));
    enter(&mut guard, Port::Https, "192.0.2.2").unwrap();
    for n in 0..3 * MAX_AT_REST as u32 {
        guard.offence(
            now,
            IpAddr::from((0x0a00_0000 + n).to_be_bytes()),
            "handshake",
        );
    }
    assert!(guard.addresses.known.len() <= 2 * MAX_AT_REST);
    assert_eq!(guard.bans(now).len(), 1);
    assert_eq!(guard.addresses.known[&ip("192.0.2.2")].connections, 1);
    // In peace all of it is forgotten.
    let later = now + 2 * LONGEST_BAN;
    guard.addresses.sweep_at = 0;
    guard.addresses.make_room(later);
    assert_eq!(guard.addresses.known.len(), 1);
}

proptest! {
    /// Whoever comes and goes how, the counts are those who are here, and within the limits.
    #[test]
    fn the_limits_hold_exactly(steps in proptest::collection::vec((0_u8..3, 0_u8..4, any::<bool>()), 0..200)) {
        let mut guard = guard();
        let now = Instant::now();
        let mut here: Vec<(Port, IpAddr)> = Vec::new();
        for (port, host, comes) in steps {
            let port = [Port::Mqtt, Port::Https, Port::Passage][usize::from(port)];
            let address = if host == 3 { ip("127.0.0.1") } else { IpAddr::from([192, 0, 2, host]) };
            let of_port = here.iter().filter(|(p, _)| *p == port).count();
            let of_address = here.iter().filter(|(_, a)| *a == address).count();
            if comes {
                let room = of_port < 5 && (host == 3 || of_address < 3);
                prop_assert_eq!(guard.enter(now, port, Some(address)).is_ok(), room);
                if room {
                    here.push((port, address));
                }
            } else if let Some(at) = here.iter().position(|(p, _)| *p == port) {
                let (port, address) = here.remove(at);
                guard.leave(port, Some(address));
            }
        }
    }
}
