//! What clients of the gateway are told: stories here, what holds in any order in `properties`.
#![expect(clippy::unwrap_used, reason = "tests")]

mod properties;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::api::{Lagged, Subscribe, Summary, Throttle, ThrottleMode};
use lekiwi_protocol::message::{Metrics, Priority};
use lekiwi_protocol::{MetricName, RobotId};
use lekiwi_relay_core::gateway::{
    Client, Content, MAX_REQUEST_BYTES, Message, Output, PLAIN, parse_json,
};

/// A content of tests: telemetry, or a word.
#[derive(Debug, Default)]
struct Said {
    word: String,
    metrics: Option<Metrics>,
    aggregates: BTreeMap<MetricName, Summary>,
}

impl Content for Said {
    fn metrics(&self) -> Option<&Metrics> {
        self.metrics.as_ref()
    }
    fn merged(&self, metrics: Metrics, aggregates: Option<BTreeMap<MetricName, Summary>>) -> Self {
        Self {
            word: self.word.clone(),
            metrics: Some(metrics),
            aggregates: aggregates.unwrap_or_default(),
        }
    }
    fn weight(&self) -> usize {
        872
    }
}

fn robot(name: &str) -> RobotId {
    RobotId::new(name).unwrap()
}

fn message(name: &str, kind: &str, position: Option<u64>, content: Said) -> Arc<Message<Said>> {
    Arc::new(Message {
        robot: robot(name),
        kind: kind.into(),
        priority: Priority::of(kind),
        position,
        picture: PLAIN.contains(&kind),
        content,
    })
}

fn telemetry(name: &str, values: &[(&str, f64)]) -> Arc<Message<Said>> {
    let metric = |(name, value): &(&str, f64)| (MetricName::new(name).unwrap(), *value);
    let metrics = Some(values.iter().map(metric).collect());
    let content = Said {
        metrics,
        ..Said::default()
    };
    // As the driver has it: the type's family would be of late telemetry.
    let mut message = message(name, "telemetry", None, content);
    Arc::get_mut(&mut message).unwrap().priority = Priority::Normal;
    message
}

fn event(name: &str, kind: &str, position: u64) -> Arc<Message<Said>> {
    message(name, kind, Some(position), Said::default())
}

fn beat(name: &str, word: &str) -> Arc<Message<Said>> {
    let content = Said {
        word: word.to_owned(),
        ..Said::default()
    };
    message(name, "heartbeat", None, content)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn topics(topics: &[&str]) -> Subscribe {
    Subscribe {
        id: "a".to_owned(),
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        ..Subscribe::default()
    }
}

fn client(subscribe: &Subscribe) -> Client<Said> {
    let mut client = Client::default();
    client.subscribe(subscribe, 100).unwrap();
    told(&mut client, 0);
    client
}

/// What a client is told, a line each.
fn told(client: &mut Client<Said>, now: u64) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(output) = client.poll_output(ms(now)) {
        lines.push(match output {
            Output::Say(message) => serde_json::to_string(&message).unwrap(),
            Output::Tell { message, late } => {
                let Said {
                    word,
                    metrics,
                    aggregates,
                } = &message.content;
                let mut line = format!("{} {}", message.robot, message.kind);
                for part in [word.as_str(), if late { "late" } else { "" }] {
                    if !part.is_empty() {
                        line = format!("{line} {part}");
                    }
                }
                for (name, value) in metrics.iter().flatten() {
                    line = format!("{line} {name}={value}");
                }
                for (name, a) in aggregates {
                    line = format!("{line} {name}:{}..{}~{}x{}", a.min, a.max, a.mean, a.count);
                }
                line
            }
            Output::Read(read) => {
                lines.push(format!("read {:?} after {}", read.robot, read.after));
                break;
            }
        });
    }
    lines
}

#[test]
fn a_message_is_told_once_however_many_subscriptions_want_it() {
    let mut client = client(&topics(&["heartbeat"]));
    let mut other = topics(&["robot.kiwi-01.*"]);
    other.id = "b".to_owned();
    other.throttle = Some(Throttle {
        rate: 1.0,
        mode: ThrottleMode::Latest,
    });
    client.subscribe(&other, 7).unwrap();
    assert_eq!(
        told(&mut client, 0),
        [r#"{"type":"subscribed","id":"b","position":7}"#]
    );
    for n in ["1", "2"] {
        assert!(client.offer(ms(0), &beat("kiwi-01", n)));
    }
    assert!(!client.offer(ms(0), &event("kiwi-02", "robot.connected", 8)));
    assert!(client.offer(ms(0), &event("kiwi-01", "robot.connected", 9)));
    let expected = [
        "kiwi-01 heartbeat 1",
        "kiwi-01 heartbeat 2",
        "kiwi-01 robot.connected",
    ];
    assert_eq!(told(&mut client, 0), expected);
    client.unsubscribe("a").unwrap();
    client.offer(ms(10), &beat("kiwi-01", "3"));
    client.offer(ms(20), &beat("kiwi-01", "4"));
    client.offer(ms(30), &beat("kiwi-02", "5"));
    let expected = [r#"{"type":"unsubscribed","id":"a"}"#, "kiwi-01 heartbeat 3"];
    assert_eq!(told(&mut client, 30), expected);
    assert_eq!(client.poll_timeout(), Some(ms(1_010)));
    assert_eq!(told(&mut client, 1_009), Vec::<String>::new());
    assert_eq!(told(&mut client, 1_010), ["kiwi-01 heartbeat 4"]);
    assert_eq!(
        client.unsubscribe("a").unwrap_err().to_string(),
        "expected the id of a subscription, got \"a\""
    );
}

#[test]
fn throttles_do_what_their_modes_say() {
    let story = [
        (0, telemetry("a", &[("cpu_percent", 10.0)])),
        (
            100,
            telemetry("a", &[("cpu_percent", 30.0), ("load_1m", 1.0)]),
        ),
        (200, telemetry("a", &[("cpu_percent", 20.0)])),
        (300, telemetry("b", &[("cpu_percent", 5.0)])),
        (400, event("a", "teleoperation.started", 101)),
        (1_500, telemetry("a", &[("cpu_percent", 40.0)])),
    ];
    let cases: [(ThrottleMode, &[&str]); 3] = [
        (
            ThrottleMode::Sample,
            &[
                "0 a telemetry cpu_percent=10",
                "300 b telemetry cpu_percent=5",
                "400 a teleoperation.started",
                "1500 a telemetry cpu_percent=40",
            ],
        ),
        (
            ThrottleMode::Latest,
            &[
                "0 a telemetry cpu_percent=10",
                "300 b telemetry cpu_percent=5",
                "400 a teleoperation.started",
                "1000 a telemetry cpu_percent=20 load_1m=1",
                "2000 a telemetry cpu_percent=40",
            ],
        ),
        (
            ThrottleMode::Aggregate,
            &[
                "400 a teleoperation.started",
                "1000 a telemetry cpu_percent=20 load_1m=1 cpu_percent:10..30~20x3 load_1m:1..1~1x1",
                "1300 b telemetry cpu_percent=5 cpu_percent:5..5~5x1",
                "2500 a telemetry cpu_percent=40 cpu_percent:40..40~40x1",
            ],
        ),
    ];
    for (mode, expected) in cases {
        let mut subscribe = topics(&["*"]);
        subscribe.throttle = Some(Throttle { rate: 1.0, mode });
        let mut client = client(&subscribe);
        let mut lines = Vec::new();
        let mut story = story.iter().peekable();
        loop {
            let next = story.peek().map(|(at, _)| *at);
            let due = client.poll_timeout().map(|due| due.as_millis() as u64);
            let Some(now) = [next, due].into_iter().flatten().min() else {
                break;
            };
            if let Some((_, message)) = story.next_if(|(at, _)| *at == now) {
                client.offer(ms(now), message);
            }
            lines.extend(
                told(&mut client, now)
                    .iter()
                    .map(|line| format!("{now} {line}")),
            );
        }
        assert_eq!(lines, expected, "{mode:?}");
    }
}

#[test]
fn the_urgent_overtake_and_within_a_priority_the_first_goes_first() {
    let mut client = client(&topics(&["*"]));
    for (position, kind) in [
        (1, "setup.progress"),
        (2, "robot.connected"),
        (3, "teleoperation.started"),
        (4, "estop.received"),
        (5, "teleoperation.stopped"),
    ] {
        client.offer(ms(0), &event("a", kind, position));
    }
    assert_eq!(
        told(&mut client, 0),
        [
            "a estop.received",
            "a teleoperation.started",
            "a teleoperation.stopped",
            "a robot.connected",
            "a setup.progress"
        ]
    );
}

#[test]
fn a_slow_client_gets_the_newest_of_each_picture_and_is_told_so() {
    let mut client = client(&topics(&["*"]));
    client.offer(
        ms(0),
        &telemetry("a", &[("cpu_percent", 1.0), ("load_1m", 7.0)]),
    );
    client.offer(ms(0), &beat("a", "1"));
    client.offer(ms(1_000), &telemetry("b", &[("cpu_percent", 2.0)]));
    // Longer than a picture may wait.
    client.offer(ms(5_001), &telemetry("a", &[("cpu_percent", 3.0)]));
    client.offer(ms(5_002), &beat("a", "2"));
    client.offer(ms(5_003), &event("a", "robot.connected", 101));
    assert_eq!(
        told(&mut client, 5_004),
        [
            r#"{"type":"slowed","waiting":4}"#,
            "a robot.connected",
            "a telemetry late cpu_percent=3 load_1m=7",
            "a heartbeat 2 late",
            "b telemetry cpu_percent=2"
        ]
    );
    // Still slow, and still served.
    client.offer(ms(6_000), &beat("a", "3"));
    assert_eq!(told(&mut client, 6_000), ["a heartbeat 3"]);
    client.offer(ms(16_000), &beat("a", "4"));
    let expected = [r#"{"type":"resumed","merged":2}"#, "a heartbeat 4"];
    assert_eq!(told(&mut client, 16_000), expected);
}

#[test]
fn without_room_the_least_urgent_go_first_and_that_is_said() {
    // Room for ten messages of 1,000 bytes.
    let mut client: Client<Said> = Client::new(10_000, None);
    client.subscribe(&topics(&["*"]), 0).unwrap();
    told(&mut client, 0);
    for position in 1..=3 {
        client.offer(ms(0), &event("a", "setup.progress", position));
        client.offer(ms(0), &event("a", "teleoperation.started", 10 + position));
        client.offer(ms(0), &event("a", "robot.connected", 20 + position));
        client.offer(ms(0), &beat(&format!("r{position}"), ""));
        client.offer(ms(0), &beat("a", &position.to_string()));
    }
    for position in 31..=34 {
        client.offer(ms(0), &event("a", "estop.received", position));
    }
    let lagged =
        r#"{"type":"lagged","dropped":7,"kinds":{"heartbeat":4,"setup.progress":3},"after":0}"#;
    let lines = told(&mut client, 0);
    assert_eq!(lines[0], lagged);
    assert_eq!(lines[1], r#"{"type":"slowed","waiting":10}"#);
    let estops = ["a estop.received"; 4];
    assert_eq!(lines[2..6], estops);
    assert_eq!(lines[6..9], ["a teleoperation.started"; 3]);
    assert_eq!(lines[9..], ["a robot.connected"; 3]);
}

#[test]
fn what_was_lost_on_the_way_is_told_too() {
    let mut client = client(&topics(&["*"]));
    for after in [Some(7), None, Some(5)] {
        client.lost(&Lagged {
            dropped: 2,
            kinds: [
                ("heartbeat".to_owned(), 1),
                ("robot.connected".to_owned(), 1),
            ]
            .into(),
            after,
        });
    }
    assert_eq!(
        told(&mut client, 0),
        [r#"{"type":"lagged","dropped":6,"kinds":{"heartbeat":3,"robot.connected":3},"after":5}"#]
    );
}

#[test]
fn stored_events_come_before_live_ones_and_each_once() {
    let mut client = Client::default();
    let mut subscribe = topics(&["robot.a.*"]);
    subscribe.from = Some(3);
    client.subscribe(&subscribe, 5).unwrap();
    assert_eq!(
        told(&mut client, 0),
        [
            r#"{"type":"subscribed","id":"a","position":5}"#,
            r#"read Some(a) after 3"#
        ]
    );
    // A live one comes while the page is read, which has it already, and a picture, which has no place in the log.
    client.offer(ms(0), &event("a", "robot.connected", 6));
    client.offer(ms(0), &beat("a", "1"));
    let Some(Output::Tell { .. }) = client.poll_output(ms(0)) else {
        panic!("expected the picture");
    };
    let Some(Output::Read(read)) = client.poll_output(ms(0)) else {
        panic!("expected a page to be wanted");
    };
    let stored = [4, 5, 6].map(|position| event("a", "robot.connected", position));
    let page = client.page(read.subscription, 6, true, stored.to_vec());
    let positions: Vec<_> = page.iter().filter_map(|message| message.position).collect();
    assert_eq!(positions, [4, 5, 6]);
    client.offer(ms(0), &event("a", "robot.connected", 6));
    client.offer(ms(0), &event("a", "robot.disconnected", 7));
    assert_eq!(
        told(&mut client, 0),
        [
            r#"{"type":"replayed","id":"a","position":6}"#,
            "a robot.disconnected"
        ]
    );
    // Of a subscription that has ended nothing is told.
    assert!(client.page(99, 9, true, stored.to_vec()).is_empty());
}

#[test]
fn who_is_cut_off_goes_on_before_what_was_overtaken() {
    let mut client = client(&topics(&["*"]));
    for (position, kind) in [
        (101, "setup.progress"),
        (103, "robot.connected"),
        (104, "robot.connected"),
        (107, "estop.requested"),
    ] {
        client.offer(ms(0), &event("a", kind, position));
    }
    assert_eq!(client.position(), 100);
    let mut told = Vec::new();
    while let Some(Output::Tell { message, .. }) = client.poll_output(ms(0)) {
        told.push((message.position.unwrap(), client.position()));
    }
    // The last in the log is told first, and the first last.
    assert_eq!(told, [(107, 100), (103, 100), (104, 100), (101, 107)]);
    // What another subscription has yet to read counts as well.
    let mut other = topics(&["estop.*"]);
    other.id = "b".to_owned();
    other.from = Some(20);
    client.subscribe(&other, 107).unwrap();
    assert_eq!(client.position(), 20);
}

#[test]
fn an_event_that_no_page_can_have_does_not_keep_a_replay_from_ending() {
    let mut client = Client::default();
    let mut subscribe = topics(&["robot.a.*"]);
    subscribe.from = Some(3);
    client.subscribe(&subscribe, 5).unwrap();
    told(&mut client, 0);
    let Some(Output::Read(read)) = client.poll_output(ms(0)) else {
        panic!("expected a page to be wanted");
    };
    // Of an alert that names the robot: it is in the log, but not among the robot's own events.
    client.offer(ms(0), &event("a", "alert.firing", 6));
    assert!(
        client
            .page(read.subscription, 5, true, Vec::new())
            .is_empty()
    );
    assert_eq!(told(&mut client, 0), ["read Some(a) after 5"]);
    client.page(read.subscription, 6, true, Vec::new());
    let replayed = r#"{"type":"replayed","id":"a","position":6}"#;
    assert_eq!(told(&mut client, 0), [replayed]);
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let parse = |text: &str| parse_json(text.as_bytes()).map_err(|error| error.to_string());
    let expected = "expected a message such as {\"type\":\"subscribe\",\"id\":\"a\",\"topics\":[\"heartbeat\"]}: ";
    for (text, reason) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("[]", "missing field `type` at line 1 column 2"),
        (
            r#"{"type":"shout"}"#,
            "unknown variant `shout`, expected one of `subscribe`, `unsubscribe`, `ping` at line 1 column 15",
        ),
        (r#"{"type":"subscribe"}"#, "missing field `id`"),
        (r#"{"type":"unsubscribe"}"#, "missing field `id`"),
    ] {
        assert_eq!(parse(text), Err(format!("{expected}{reason}")), "{text}");
    }
    assert_eq!(
        parse(&" ".repeat(MAX_REQUEST_BYTES + 1)),
        Err("expected at most 16384 bytes, got 16385".to_owned())
    );
    let many = |n: usize| vec!["a".to_owned(); n];
    let with = |change: &dyn Fn(&mut Subscribe)| {
        let mut subscribe = topics(&["*"]);
        change(&mut subscribe);
        let mut client: Client<Said> = Client::default();
        let refused = client.subscribe(&subscribe, 9).unwrap_err().to_string();
        assert!(client.keys().is_empty(), "nothing is left of it");
        refused
    };
    type Change<'a> = &'a dyn Fn(&mut Subscribe);
    let cases: [(Change<'_>, &str); 9] = [
        (&|s| s.id.clear(), "expected an id of 1 to 64 bytes, got 0"),
        (
            &|s| s.id = "x".repeat(65),
            "expected an id of 1 to 64 bytes, got 65",
        ),
        (
            &|s| s.topics = vec!["Robot".to_owned()],
            "expected a topic such as heartbeat, teleoperation.*, robot.kiwi-01.* or robot.*.heartbeat, got \"Robot\"",
        ),
        (
            &|s| s.topics = many(257),
            "expected at most 256 topics, got 257",
        ),
        (
            &|s| s.filter.robot_ids = vec!["A".to_owned()],
            "expected a robot id: 1 to 63 of a-z, 0-9 and '-', not starting with '-', got \"A\"",
        ),
        (
            &|s| s.filter.event_types = vec!["a-b".to_owned()],
            "expected a type such as heartbeat, teleoperation.started or teleoperation.*, got \"a-b\"",
        ),
        (
            &|s| {
                s.throttle = Some(Throttle {
                    rate: 0.0,
                    mode: ThrottleMode::Latest,
                })
            },
            "expected a rate of 0.01 to 100 messages a second, got 0",
        ),
        (
            &|s| {
                s.throttle = Some(Throttle {
                    rate: f64::NAN,
                    mode: ThrottleMode::Latest,
                })
            },
            "expected a rate of 0.01 to 100 messages a second, got NaN",
        ),
        (
            &|s| s.from = Some(10),
            "expected from to be a position of the event log, which ends at 9, got 10",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(with(change), expected);
    }
    let mut client: Client<Said> = Client::default();
    for n in 0..17 {
        let mut subscribe = topics(&["*"]);
        subscribe.id = format!("s{n}");
        let outcome = client
            .subscribe(&subscribe, 0)
            .map_err(|error| error.to_string());
        let expected = "expected at most 16 subscriptions, got one more".to_owned();
        assert_eq!(outcome, if n < 16 { Ok(()) } else { Err(expected) });
    }
    client.subscribe(&topics(&["*"]), 0).unwrap_err();
    let mut again = topics(&["heartbeat"]);
    again.id = "s3".to_owned();
    client.subscribe(&again, 0).unwrap();
}
