//! Many who speak, and some who mean harm.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::DiscoveredRobot;
use lekiwi_protocol::discovery::ad::{ROBOTS, RobotAd, service_type};
use lekiwi_protocol::discovery::name::Name;
use lekiwi_protocol::discovery::packet::{Data, Packet, Record};
use lekiwi_protocol::discovery::{GROUP, PORT};
use lekiwi_tests::harness::{Host, Lan, RelayOptions};

use crate::support::{Robot, discover, discovered, has, ids, relay_on};

/// A socket of multicast DNS on a machine.
fn socket(host: &Host) -> Result<UdpSocket> {
    host.ip(&["route", "add", "224.0.0.0/4", "dev", "eth0"])?;
    host.inside(|| -> Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        socket.join_multicast_v4(&GROUP, &host.address())?;
        socket.set_multicast_ttl_v4(255)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(socket)
    })?
}

fn response(answers: Vec<Record>) -> Vec<u8> {
    let packet = Packet {
        response: true,
        answers,
        ..Packet::default()
    };
    packet.to_bytes()
}

fn advertised(id: &str, address: Ipv4Addr) -> Result<Vec<u8>> {
    let ad = RobotAd {
        id: RobotId::new(id)?,
        robot_type: "lekiwi".into(),
        serial: format!("serial-{id}"),
        agent_version: "0.1.0".into(),
        registered: true,
    };
    let instance = Name::of(&[id, ROBOTS, "_tcp", "local"]);
    let target = Name::of(&[id, "local"]);
    let record = |name: &Name, data| Record {
        name: name.clone(),
        flush: false,
        ttl: 120,
        data,
    };
    Ok(response(vec![
        record(&service_type(ROBOTS), Data::Ptr(instance.clone())),
        record(
            &instance,
            Data::Srv {
                port: 0,
                target: target.clone(),
            },
        ),
        record(&instance, Data::Txt(ad.service().txt)),
        record(&target, Data::A(address)),
    ]))
}

#[test]
#[expect(clippy::print_stderr, reason = "a measured figure")]
fn a_busy_segment_of_two_hundred() -> Result<()> {
    let mut lan = Lan::new()?;
    let (base, crowd, laptop) = (lan.host(1)?, lan.host(9)?, lan.host(4)?);
    let relay = relay_on(&base, RelayOptions::default())?;
    let mut robots = Vec::new();
    for number in 0..200_u8 {
        robots.push(advertised(
            &format!("robot-{number:03}"),
            Ipv4Addr::new(10, 77, 0, number),
        )?);
    }
    let socket = socket(&crowd)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        // All of them announce themselves, and answer whoever asks.
        scope.spawn(|| {
            let say = || {
                for robot in &robots {
                    let _ = socket.send_to(robot, (GROUP, PORT));
                    std::thread::sleep(Duration::from_millis(1));
                }
            };
            say();
            let mut bytes = [0; 9000];
            while !done.load(Ordering::Relaxed) {
                let Ok((length, _)) = socket.recv_from(&mut bytes) else {
                    continue;
                };
                // Whoever asks may know some already; hearing those again harms nobody.
                let asked = Packet::parse(&bytes[..length]);
                if asked.is_ok_and(|p| !p.response && !p.questions.is_empty()) {
                    say();
                }
            }
        });
        let outcome = (|| {
            let start = Instant::now();
            let answer = discovered(&base, &relay, "all 200", |answer| {
                answer.robots.len() == 200
            })?;
            eprintln!(
                "200 robots were known to the relay {:?} after they spoke",
                start.elapsed()
            );
            // No panic in here: the crowd would never end.
            let conflicts = answer.robots.iter().filter(|robot| robot.conflict).count();
            ensure!(conflicts == 0, "expected no conflict, got {conflicts}");
            let start = Instant::now();
            let mut newcomer = Robot::stranger(&lan.host(2)?, "kiwi-01")?;
            discovered(&base, &relay, "the newcomer", |answer| {
                has(answer, "kiwi-01", false)
            })?;
            eprintln!(
                "the 201st was known {:?} after its agent started",
                start.elapsed()
            );
            newcomer.wait_present()?;
            let robots = discover(&laptop, &["--seconds", "4"])?;
            ensure!(
                robots.len() == 201,
                "expected 201 robots, got {}",
                robots.len()
            );
            Ok(())
        })();
        done.store(true, Ordering::Relaxed);
        outcome
    })
}

#[test]
fn hostile_packets_disturb_nobody() -> Result<()> {
    let mut lan = Lan::new()?;
    let (base, kiwi, laptop, enemy) = (lan.host(1)?, lan.host(2)?, lan.host(3)?, lan.host(66)?);
    let newcomer = lan.host(5)?;
    let relay = relay_on(&base, RelayOptions::default())?;
    let mut robot = Robot::stranger(&kiwi, "kiwi-01")?;
    robot.wait_present()?;
    discovered(&base, &relay, "kiwi-01", |answer| {
        has(answer, "kiwi-01", false)
    })?;
    let bad = |rest: &[u8]| [&[0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0][..], rest].concat();
    let bomb = |txt: Vec<u8>| {
        let instance = Name::of(&["bomb", ROBOTS, "_tcp", "local"]);
        let name = service_type(ROBOTS);
        let record = |name, data| Record {
            name,
            flush: true,
            ttl: u32::MAX,
            data,
        };
        response(vec![
            record(name, Data::Ptr(instance.clone())),
            record(instance, Data::Txt(txt)),
        ])
    };
    let mut packets = vec![
        bad(&[0xc0, 12, 0, 12, 0, 1]),
        bad(&[1, b'a', 0xc0, 12, 0, 12, 0, 1]),
        bad(&[[&[63][..], &[b'x'; 63]].concat().repeat(20), vec![0]].concat()),
        vec![0xff; 1400],
        vec![0],
        bomb(vec![0xff; 1300]),
        bomb([b"\x0aid=bomb-01".to_vec(), b"\x01x".repeat(500)].concat()),
        bomb(b"\x0did=\x1b[2Jkiwi-01".to_vec()),
    ];
    for number in 0..1500 {
        packets.push(advertised(
            &format!("flood-{number}"),
            Ipv4Addr::new(10, 77, 0, 66),
        )?);
    }
    let socket = socket(&enemy)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            let everywhere = [GROUP, kiwi.address(), base.address(), laptop.address()];
            while !done.load(Ordering::Relaxed) {
                for packet in &packets {
                    for address in everywhere {
                        let _ = socket.send_to(packet, SocketAddr::from((address, PORT)));
                    }
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
        });
        let outcome = (|| {
            // In the middle of it the robot is found, and one more comes.
            let robots = discover(&laptop, &["--seconds", "3", "--scan", "10.77.0.0/29"])?;
            ensure!(
                ids(&robots).contains(&"kiwi-01"),
                "expected kiwi-01 among {}",
                robots.len()
            );
            let shown = |robot: &DiscoveredRobot| robot.serial.chars().any(char::is_control);
            ensure!(!robots.iter().any(shown), "expected no control characters");
            let _newcomer = Robot::stranger(&newcomer, "kiwi-02")?;
            discovered(&base, &relay, "both robots", |answer| {
                has(answer, "kiwi-01", false) && has(answer, "kiwi-02", false)
            })?;
            Ok(())
        })();
        done.store(true, Ordering::Relaxed);
        outcome
    })?;
    ensure!(
        robot.process.exited()?.is_none(),
        "expected a running agent"
    );
    Ok(())
}
