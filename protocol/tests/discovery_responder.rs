//! Robots on one network segment, whose time moves by hand: names, conflicts, news, floods.

use core::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use lekiwi_protocol::RobotId;
use lekiwi_protocol::discovery::PORT;
use lekiwi_protocol::discovery::ad::{ROBOTS, RobotAd, service_type};
use lekiwi_protocol::discovery::browser::Browser;
use lekiwi_protocol::discovery::name::Name;
use lekiwi_protocol::discovery::network::Network;
use lekiwi_protocol::discovery::packet::{A, ANY, Data, PTR, Packet, Question, Record, SRV, TXT};
use lekiwi_protocol::discovery::responder::{Heard, Home, Output, Responder};

/// A network segment with robots on it: time moves by hand, packets arrive at once.
struct Segment {
    now: Instant,
    robots: Vec<Robot>,
    browser: Browser,
    /// Who said what to whom; `None` is the group.
    said: Vec<(SocketAddrV4, Option<SocketAddrV4>, Packet)>,
    conflicts: Vec<(Ipv4Addr, Ipv4Addr, String)>,
}

struct Robot {
    at: SocketAddrV4,
    responder: Responder,
    up: bool,
}

fn at(last: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), PORT)
}

fn asker() -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 250), PORT)
}

fn ad(id: &str, registered: bool) -> RobotAd {
    RobotAd {
        id: RobotId::new(id).expect("there"),
        robot_type: "lekiwi".into(),
        serial: format!("serial of {id}"),
        agent_version: "0.1.0".into(),
        registered,
    }
}

fn robots() -> Name {
    service_type(ROBOTS)
}

fn random() -> u64 {
    7_777
}

fn query(name: Name, kind: u16) -> Packet {
    let question = Question {
        name,
        kind,
        unicast: false,
    };
    Packet {
        questions: vec![question],
        ..Packet::default()
    }
}

impl Segment {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        Self {
            now,
            robots: Vec::new(),
            browser: Browser::new(&[ROBOTS], now),
            said: Vec::new(),
            conflicts: Vec::new(),
        }
    }

    fn add_as(&mut self, last: u8, ad: &RobotAd) {
        let home = Home {
            address: *at(last).ip(),
            network: Network::of(*at(last).ip(), 24),
        };
        let own = vec![home.address];
        let responder = Responder::new(ad.service(), home, own, self.now, &mut random);
        self.robots.push(Robot {
            at: at(last),
            responder,
            up: true,
        });
    }

    fn add(&mut self, last: u8, id: &str) {
        self.add_as(last, &ad(id, false));
    }

    fn deliver(&mut self, from: SocketAddrV4, to: Option<SocketAddrV4>, bytes: &[u8]) {
        let packet = Packet::parse(bytes).expect("there");
        for robot in &mut self.robots {
            if robot.up && to.is_none_or(|to| to == robot.at) {
                let heard = Heard {
                    from,
                    direct: to.is_some(),
                    packet: &packet,
                };
                robot.responder.handle_packet(self.now, heard, &mut random);
            }
        }
        if to.is_none() {
            self.browser.handle_packet(self.now, from, &packet);
        }
        self.said.push((from, to, packet));
    }

    fn settle(&mut self) {
        loop {
            let mut outputs = Vec::new();
            for robot in &mut self.robots {
                while let Some(output) = robot.responder.poll_output() {
                    if robot.up {
                        outputs.push((robot.at, output));
                    }
                }
            }
            if outputs.is_empty() {
                return;
            }
            for (from, output) in outputs {
                match output {
                    Output::Multicast(bytes) => self.deliver(from, None, &bytes),
                    Output::Unicast(to, bytes) => self.deliver(from, Some(to), &bytes),
                    Output::Conflict { other, instead } => {
                        self.conflicts.push((*from.ip(), other, instead));
                    }
                }
            }
        }
    }

    /// Moves time on in steps of ten milliseconds.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(10);
            for robot in &mut self.robots {
                if robot
                    .responder
                    .poll_timeout()
                    .is_some_and(|at| at <= self.now)
                {
                    robot.responder.handle_timeout(self.now);
                }
            }
            self.settle();
            if self.browser.poll_timeout().is_some_and(|at| at <= self.now) {
                self.browser.handle_timeout(self.now);
            }
            while let Some(bytes) = self.browser.poll_output() {
                self.deliver(asker(), None, &bytes);
                self.settle();
            }
        }
    }

    fn ask(&mut self, from: SocketAddrV4, to: Option<SocketAddrV4>, packet: &Packet) {
        self.deliver(from, to, &packet.to_bytes());
        self.settle();
    }

    fn names(&self) -> Vec<String> {
        let instances = self.browser.instances(ROBOTS);
        instances.map(|instance| instance.name.first()).collect()
    }

    fn responses(&self) -> usize {
        self.said.iter().filter(|(_, _, p)| p.response).count()
    }
}

#[test]
fn a_robot_is_known_within_two_seconds_and_then_silent() {
    let mut segment = Segment::new();
    segment.add(1, "kiwi-01");
    segment.pass(Duration::from_secs(1));
    let found = segment
        .browser
        .instances(ROBOTS)
        .next()
        .expect("there")
        .clone();
    assert_eq!(
        RobotAd::read(&found.txt.clone().expect("there")),
        Some(ad("kiwi-01", false))
    );
    assert_eq!(segment.browser.addresses(&found), [*at(1).ip()]);
    assert_eq!(found.place.expect("there").1, 0);
    segment.pass(Duration::from_secs(2));
    // Who listens knows it, and says so: nothing more goes over the wire.
    let (probes, announcements) = (3, 2);
    let of_robot = segment.said.iter().filter(|(from, _, _)| *from == at(1));
    assert_eq!(of_robot.count(), probes + announcements);
    assert_eq!(segment.robots[0].responder.poll_timeout(), None);
    let before = segment.responses();
    segment.pass(Duration::from_secs(600));
    assert_eq!(segment.responses(), before);
}

#[test]
fn two_robots_with_one_id_are_both_seen_and_told() {
    for delay in [Duration::from_secs(10), Duration::ZERO] {
        let mut segment = Segment::new();
        segment.add_as(1, &ad("kiwi-01", true));
        segment.pass(delay);
        segment.add_as(2, &ad("kiwi-01", false));
        segment.pass(Duration::from_secs(6));
        assert_eq!(segment.names(), ["kiwi-01", "kiwi-01 (2)"], "{delay:?}");
        let ids = segment.browser.instances(ROBOTS);
        let ids: Vec<_> = ids
            .map(|instance| {
                RobotAd::read(instance.txt.as_ref().expect("there"))
                    .expect("there")
                    .id
            })
            .collect();
        assert_eq!(
            ids,
            [
                RobotId::new("kiwi-01").expect("there"),
                RobotId::new("kiwi-01").expect("there")
            ]
        );
        let (loser, winner, instead) = segment.conflicts.first().expect("there").clone();
        assert_eq!(segment.conflicts.len(), 1, "{delay:?}");
        assert_ne!(loser, winner);
        assert_eq!(instead, "kiwi-01 (2)");
    }
}

#[test]
fn a_conflict_that_a_cable_brings_is_seen_at_the_next_question() {
    let mut segment = Segment::new();
    segment.add_as(1, &ad("kiwi-01", true));
    segment.pass(Duration::from_secs(5));
    segment.robots[0].up = false;
    segment.add_as(2, &ad("kiwi-01", false));
    segment.pass(Duration::from_secs(5));
    segment.robots[0].up = true;
    segment.ask(at(9), None, &query(robots(), PTR));
    segment.pass(Duration::from_secs(6));
    assert_eq!(segment.names(), ["kiwi-01", "kiwi-01 (2)"]);
}

#[test]
fn a_robot_with_two_ways_into_a_network_is_no_conflict() {
    let mut segment = Segment::new();
    segment.add(1, "kiwi-01");
    segment.add(2, "kiwi-01");
    for robot in &mut segment.robots {
        robot.responder.set_own(vec![*at(1).ip(), *at(2).ip()]);
    }
    segment.pass(Duration::from_secs(4));
    assert_eq!(
        (segment.names(), segment.conflicts.len()),
        (vec!["kiwi-01".to_owned()], 0)
    );
}

#[test]
fn news_are_announced_and_a_goodbye_is_believed() {
    let mut segment = Segment::new();
    segment.add(1, "kiwi-01");
    segment.pass(Duration::from_secs(4));
    let now = segment.now;
    segment.robots[0]
        .responder
        .update(now, ad("kiwi-01", true).service());
    segment.pass(Duration::from_secs(2));
    let found = segment.browser.instances(ROBOTS).next().expect("there");
    assert!(
        RobotAd::read(found.txt.as_ref().expect("there"))
            .expect("there")
            .registered
    );
    let before = segment.said.len();
    segment.robots[0]
        .responder
        .update(now, ad("kiwi-01", true).service());
    segment.pass(Duration::from_secs(2));
    assert_eq!(segment.said.len(), before);
    segment.robots[0].responder.goodbye();
    segment.pass(Duration::from_secs(2));
    assert_eq!(segment.names(), Vec::<String>::new());
    segment.ask(at(9), None, &query(robots(), PTR));
    segment.pass(Duration::from_secs(1));
    assert_eq!(
        segment.responses(),
        5,
        "two announcements, two of the news, one goodbye, no answer"
    );
}

#[test]
fn a_scan_is_answered_directly_and_briefly() {
    let mut segment = Segment::new();
    segment.add(1, "kiwi-01");
    segment.pass(Duration::from_secs(4));
    let scanner = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 250), 40_000);
    let mut question = query(robots(), PTR);
    question.id = 0x1234;
    segment.ask(scanner, Some(at(1)), &question);
    let (_, to, answer) = segment.said.last().expect("there");
    assert_eq!(
        (*to, answer.id, answer.questions.len()),
        (Some(scanner), 0x1234, 1)
    );
    assert_eq!((answer.answers.len(), answer.additionals.len()), (1, 3));
    let mut all = answer.answers.iter().chain(&answer.additionals);
    assert!(all.all(|record| record.ttl <= 10 && !record.flush));
    // From somewhere in the internet, or faster than twenty a second: not at all.
    let before = segment.responses();
    let outside = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 40_000);
    segment.ask(outside, Some(at(1)), &question);
    assert_eq!(segment.responses(), before);
    for _ in 0..100 {
        segment.ask(scanner, Some(at(1)), &question);
    }
    assert_eq!(segment.responses(), before + 19);
}

#[test]
fn a_flood_of_questions_gets_an_answer_a_second() {
    let mut segment = Segment::new();
    segment.add(1, "kiwi-01");
    segment.pass(Duration::from_secs(4));
    let before = segment.responses();
    for _ in 0..1000 {
        segment.ask(at(9), None, &query(robots(), PTR));
        segment.pass(Duration::from_millis(10));
    }
    assert!((10..=11).contains(&(segment.responses() - before)));
}

#[test]
fn a_liar_who_takes_every_name_gets_no_flood() {
    let mut segment = Segment::new();
    segment.add(1, "kiwi-01");
    let mut sent = 0;
    for _ in 0..6000 {
        segment.pass(Duration::from_millis(10));
        let called = segment.robots[0].responder.called();
        let instance = Name::of(&[&called, ROBOTS, "_tcp", "local"]);
        let lie = Record {
            name: instance,
            flush: true,
            ttl: 120,
            data: Data::Srv {
                port: 666,
                target: Name::of(&["liar", "local"]),
            },
        };
        if segment.said.len() > sent {
            segment.ask(
                at(66),
                None,
                &Packet {
                    response: true,
                    answers: vec![lie],
                    ..Packet::default()
                },
            );
            sent = segment.said.len();
        }
    }
    let of_robot = segment.said.iter().filter(|(from, _, _)| *from == at(1));
    assert!(of_robot.count() < 60, "in a minute");
    assert!(segment.robots[0].responder.called().len() <= 63);
}

#[test]
fn what_is_known_is_not_said_again_even_in_many_packets() {
    let mut segment = Segment::new();
    for n in 0..200_u8 {
        segment.add(n + 1, &format!("kiwi-with-a-rather-long-name-{n:03}"));
    }
    segment.pass(Duration::from_secs(3));
    assert_eq!(segment.names().len(), 200);
    segment.pass(Duration::from_secs(1));
    let before = segment.responses();
    let now = segment.now;
    segment.browser.ask_again(now);
    segment.pass(Duration::from_secs(2));
    let packets = segment
        .said
        .iter()
        .rev()
        .take_while(|(from, _, _)| *from == asker());
    let packets: Vec<_> = packets.map(|(_, _, p)| p).collect();
    assert!(packets.len() > 3 && packets.iter().all(|p| p.to_bytes().len() <= 1400));
    assert_eq!(segment.responses(), before);
}

#[test]
fn each_record_is_found_by_its_own_question() {
    let mut segment = Segment::new();
    segment.add(1, "kiwi-01");
    segment.pass(Duration::from_secs(4));
    let instance = Name::of(&["kiwi-01", "_lekiwi", "_tcp", "local"]);
    let host = Name::of(&["kiwi-01", "lekiwi", "local"]);
    let types = Name::of(&["_services", "_dns-sd", "_udp", "local"]);
    for (name, kind, expected) in [
        (instance.clone(), SRV, vec![SRV]),
        (instance, ANY, vec![SRV, TXT]),
        (host.clone(), A, vec![A]),
        (types, PTR, vec![PTR]),
        (host, SRV, vec![]),
        (
            Name::of(&["kiwi-02", "_lekiwi", "_tcp", "local"]),
            ANY,
            vec![],
        ),
    ] {
        segment.said.clear();
        segment.ask(at(9), None, &query(name, kind));
        segment.pass(Duration::from_secs(2));
        let answers = segment.said.iter().filter(|(_, _, p)| p.response);
        let kinds: Vec<_> = answers
            .flat_map(|(_, _, p)| p.answers.iter().map(|r| r.data.kind()))
            .collect();
        assert_eq!(kinds, expected);
    }
}

#[test]
fn the_longest_id_still_has_a_number() {
    let mut segment = Segment::new();
    let id = "k".repeat(63);
    segment.add(1, &id);
    segment.pass(Duration::from_secs(4));
    segment.add_as(2, &ad(&id, true));
    segment.pass(Duration::from_secs(4));
    assert_eq!(segment.names(), [format!("{} (2)", "k".repeat(59)), id]);
}
