//! Nodes of ROS 2 that write commands, as the detector of teleoperation takes them.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use lekiwi_agent_core::ros::Commander;
use lekiwi_agent_core::teleop::{Connection, Detector, Sample};
use lekiwi_protocol::profile::{Profile, Teleop};
use proptest::prelude::*;
use uuid::Uuid;

/// Time between two looks.
const LOOK_MS: u64 = 500;
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

fn signatures() -> Teleop {
    let text = "version: 1\nname: robot\ntitle: A robot\nteleop:\n  ros_topics: [/cmd_vel, /arm/jog]\n  \
                ports: [{port: 9090, role: page, what: rosbridge}]\n";
    Profile::parse(text, "robot.yml").unwrap().teleop
}

/// A writer: its participant, its node once that is announced, its topic, and its commands a second from when to when.
struct Writer(u8, Option<&'static str>, usize, u32, std::ops::Range<u64>);

/// What the detector says in `seconds`, and with which commands a second.
fn check(writers: &[Writer], client: bool, seconds: u64, expected: &Expect) {
    let start = Instant::now();
    let mut detector = Detector::new("robot", &signatures());
    let mut story = String::new();
    for look in 0..=seconds * 1000 / LOOK_MS {
        let ms = look * LOOK_MS;
        let now = start + Duration::from_millis(ms);
        let there = writers.iter().filter(|writer| writer.4.contains(&ms));
        let commanders: Vec<Commander> = there
            .map(|Writer(id, node, topic, rate, span)| {
                // Announced a second after the writer.
                let is_announced = ms >= span.start + 1000;
                Commander {
                    guid: [*id; 16],
                    topic: *topic,
                    node: node.filter(|_| is_announced).map(str::to_owned),
                    since: start + Duration::from_millis(span.start),
                    commands: rate / 2,
                    last: Some(now),
                }
            })
            .collect();
        let page = Connection {
            id: 1,
            port: 9090,
            remote: CLIENT,
            is_loopback: false,
            data_segs_in: 0,
            bytes_acked: 0,
            last_data_recv: Duration::from_millis(ms),
            rtt: Duration::from_millis(1),
            min_rtt: Duration::from_millis(1),
        };
        let sample = Sample {
            connections: if client { &[page] } else { &[] },
            commanders: &commanders,
            ..Sample::default()
        };
        let event = detector.observe(now, sample, &mut || Uuid::nil());
        if let Some(event) = event {
            let data = event.data;
            let kind = event.kind.rsplit('.').next().unwrap();
            let operator = data.operator;
            write!(story, "{ms} ms: {kind} {} {:?}", operator.id, operator.kind).unwrap();
            if let Some(control) = data.evidence.control {
                write!(story, ", {}/s on {}", control.commands_per_s, control.what).unwrap();
            }
            if let Some(ended) = data.ended {
                write!(story, ", {:?}", ended.reason).unwrap();
            }
            story.push('\n');
        }
    }
    expected.assert_eq(&story);
}

#[test]
fn a_node_that_commands_drives_by_its_name_until_it_is_gone() {
    check(
        &[Writer(1, Some("/teleop"), 0, 20, 0..10_000)],
        false,
        20,
        &expect![[r#"
            3000 ms: started /teleop RosNode, 20/s on /cmd_vel
            13000 ms: stopped /teleop RosNode, 20/s on /cmd_vel, Closed
        "#]],
    );
}

#[test]
fn what_nav2_writes_is_no_session() {
    check(
        &[
            Writer(1, Some("/controller_server"), 0, 20, 0..60_000),
            Writer(2, Some("/robot/velocity_smoother"), 0, 20, 0..60_000),
            Writer(3, Some("/collision_monitor"), 0, 20, 0..60_000),
        ],
        false,
        60,
        &expect![[""]],
    );
}

#[test]
fn two_nodes_are_two_operators() {
    check(
        &[
            Writer(1, Some("/teleop"), 0, 20, 0..20_000),
            Writer(2, Some("/arm/pad"), 1, 30, 10_000..30_000),
        ],
        false,
        40,
        &expect![[r#"
            3000 ms: started /teleop RosNode, 20/s on /cmd_vel
            22000 ms: operator_changed /arm/pad RosNode, 30/s on /arm/jog
            33000 ms: stopped /arm/pad RosNode, 30/s on /arm/jog, Closed
        "#]],
    );
}

#[test]
fn what_a_bridge_writes_is_of_its_remote_client() {
    let bridge = || Writer(1, Some("/rosbridge_websocket"), 0, 10, 0..10_000);
    check(
        &[bridge()],
        true,
        20,
        &expect![[r#"
        5000 ms: started 10.0.0.9 Ip, 10/s on /cmd_vel
        13000 ms: stopped 10.0.0.9 Ip, 10/s on /cmd_vel, Closed
    "#]],
    );
    // Without one that is seen, it is the bridge's own.
    check(
        &[bridge()],
        false,
        20,
        &expect![[r#"
        3000 ms: started /rosbridge_websocket RosNode, 10/s on /cmd_vel
        13000 ms: stopped /rosbridge_websocket RosNode, 10/s on /cmd_vel, Closed
    "#]],
    );
}

#[test]
fn a_writer_without_a_node_is_known_by_its_id() {
    check(
        &[Writer(171, None, 0, 6, 0..10_000)],
        false,
        20,
        &expect![[r#"
        4000 ms: started abababababababababababababababab RosNode, 6/s on /cmd_vel
        13000 ms: stopped abababababababababababababababab RosNode, 6/s on /cmd_vel, Closed
    "#]],
    );
}

proptest! {
    /// Autonomous nodes start nothing, however much they write and whenever they are announced as what they are.
    #[test]
    fn autonomous_nodes_never_drive(
        looks in prop::collection::vec((0_u64..1500, 0_u32..100, 0_usize..3), 1..100),
    ) {
        let mut now = Instant::now();
        let since = now;
        let mut detector = Detector::new("robot", &signatures());
        for (pause, commands, topic) in looks {
            now += Duration::from_millis(pause);
            let commander = Commander {
                guid: [1; 16],
                topic,
                node: (now > since + Duration::from_secs(2)).then(|| "/controller_server".to_owned()),
                since,
                commands,
                last: Some(now),
            };
            let sample = Sample { commanders: &[commander], ..Sample::default() };
            prop_assert_eq!(detector.observe(now, sample, &mut || Uuid::nil()), None);
            prop_assert!(detector.driving().is_none());
        }
    }
}
