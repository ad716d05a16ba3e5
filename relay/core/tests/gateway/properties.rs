//! What holds of the gateway's rules in any order of things.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::{
    ClientMessage, Filter, RelayMessage, Subscribe, Throttle, ThrottleMode,
};
use lekiwi_relay_core::gateway::{Client, Index, Output, Wanted, Within, parse_json};
use proptest::prelude::*;

use super::{Said, beat, event, ms, robot, telemetry, topics};

fn names() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn kinds() -> impl Strategy<Value = String> {
    let kinds = vec![
        "heartbeat",
        "telemetry",
        "presence",
        "robot.connected",
        "robot.stale",
        "setup.failed",
        "setup.step.failed",
        "teleoperation.started",
    ];
    prop::sample::select(kinds).prop_map(str::to_owned)
}

fn patterns() -> impl Strategy<Value = String> {
    let shapes = vec![
        "*",
        "K",
        "K",
        "setup.*",
        "robot.*",
        "*.failed",
        "robot.R.*",
        "robot.R.K",
        "robot.*.K",
        "robot.R.connected",
        "robot.*.setup.*",
    ];
    (prop::sample::select(shapes), names(), kinds())
        .prop_map(|(shape, robot, kind)| shape.replace('R', &robot).replace('K', &kind))
}

fn subscribes() -> impl Strategy<Value = Subscribe> {
    let list = |strategy| prop::collection::vec(strategy, 0..3);
    (
        list(patterns().boxed()),
        list(names().boxed()),
        list(prop_oneof![kinds(), Just("setup.*".to_owned()), Just("*".to_owned())].boxed()),
    )
        .prop_map(|(topics, robot_ids, event_types)| Subscribe {
            id: "a".to_owned(),
            topics,
            filter: Filter {
                robot_ids,
                event_types,
            },
            throttle: None,
            from: None,
        })
}

fn withins() -> impl Strategy<Value = Within> {
    let some = prop::collection::btree_set(names().prop_map(|name| robot(&name)), 0..3);
    prop::option::of(some.prop_map(Arc::new))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_index_finds_everybody_who_wants_a_message_once(
        mut all in prop::collection::vec((subscribes(), withins()), 1..12),
        replaced in prop::collection::vec((any::<prop::sample::Index>(), subscribes(), withins()), 0..6),
        said in prop::collection::vec((names(), kinds()), 1..20),
    ) {
        let mut index = Index::default();
        let wanted = |(subscribe, within): &(Subscribe, Within)| {
            Wanted::check(subscribe, within.clone()).unwrap()
        };
        let keys = |asked: &(Subscribe, Within)| -> Vec<_> {
            wanted(asked).keys().into_iter().collect()
        };
        for (id, asked) in all.iter().enumerate() {
            index.insert(id as u32, &keys(asked));
        }
        for (at, subscribe, within) in replaced {
            let at = at.index(all.len());
            index.remove(at as u32, &keys(&all[at]));
            all[at] = (subscribe, within);
            index.insert(at as u32, &keys(&all[at]));
        }
        for (name, kind) in said {
            let mut found = Vec::new();
            index.find(&robot(&name), &kind, |id| found.push(id));
            for (id, asked) in all.iter().enumerate() {
                let times = found.iter().filter(|found| **found == id as u32).count();
                prop_assert!(times <= 1, "asked {times} times");
                let wanted = wanted(asked);
                let may_hear = |robots: &Arc<BTreeSet<RobotId>>| robots.contains(&robot(&name));
                if !asked.1.as_ref().is_none_or(may_hear) {
                    prop_assert!(!wanted.matches(&robot(&name), &kind));
                    prop_assert_eq!(times, 0, "{:?} may not hear of {}", asked, name);
                }
                if wanted.matches(&robot(&name), &kind) {
                    prop_assert_eq!(times, 1, "{:?} wants {} of {}", asked, kind, name);
                    if let Some(robots) = wanted.robots() {
                        prop_assert!(robots.contains(&robot(&name)));
                    }
                }
            }
        }
        for (id, asked) in all.iter().enumerate() {
            index.remove(id as u32, &keys(asked));
        }
        prop_assert!(index.is_empty());
    }

    #[test]
    fn whatever_a_client_says_is_read_or_refused(text in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "\\{\"type\":\"(subscribe|ping|x)\",\"(id|topics|throttle|from)\":[\\[\\]{}\"a-z0-9:,.*-]{0,40}\\}".prop_map(String::into_bytes),
    ]) {
        if let Ok(message) = parse_json(&text) {
            let again = serde_json::to_vec(&message).unwrap();
            prop_assert_eq!(parse_json(&again), Ok(message.clone()));
            if let ClientMessage::Subscribe(subscribe) = message {
                let mut client: Client<Said> = Client::default();
                // Refused or taken; when taken, it is found.
                let taken = client.subscribe(&subscribe, 5).is_ok();
                prop_assert!(taken || client.keys().is_empty());
            }
        }
    }

    #[test]
    fn what_is_read_is_what_was_said(subscribe in subscribes(), rate in 1_u32..10_000, from: Option<u64>) {
        let mut subscribe = subscribe;
        let rate = f64::from(rate) / 100.0;
        subscribe.throttle = Some(Throttle { rate, mode: ThrottleMode::Aggregate });
        subscribe.from = from;
        let message = ClientMessage::Subscribe(subscribe);
        let text = serde_json::to_vec(&message).unwrap();
        prop_assert_eq!(parse_json(&text), Ok(message));
    }

    /// However slowly it reads: every message is told, became part of a newer one, or is said to be dropped; and
    /// while nothing of telemetry is dropped, the client ends with the newest value of every metric.
    #[test]
    fn nothing_goes_missing_unsaid(
        steps in prop::collection::vec((0_u64..4_000, 0_u8..8, names(), 0_u8..3, 0_usize..4), 1..150),
        bound in 5_000_usize..40_000,
    ) {
        let mut client: Client<Said> = Client::new(bound, None);
        client.subscribe(&topics(&["*"]), 0).unwrap();
        let (mut now, mut offered, mut accounted, mut position) = (0, 0, 0, 0);
        let mut truth: BTreeMap<(String, String), f64> = BTreeMap::new();
        let mut seen = truth.clone();
        let (mut lost_telemetry, mut value, mut slow) = (false, 0.0, false);
        let mut take = |client: &mut Client<Said>, now: u64, most: usize| {
            for _ in 0..most {
                match client.poll_output(ms(now)) {
                    None | Some(Output::Read(_)) => break,
                    Some(Output::Tell { message, .. }) => {
                        accounted += 1;
                        for (name, value) in message.content.metrics.iter().flatten() {
                            seen.insert((message.robot.to_string(), name.to_string()), *value);
                        }
                    }
                    Some(Output::Say(RelayMessage::Lagged(lagged))) => {
                        accounted += lagged.dropped;
                        assert_eq!(lagged.kinds.values().sum::<u64>(), lagged.dropped);
                        lost_telemetry |= lagged.kinds.contains_key("telemetry");
                    }
                    Some(Output::Say(RelayMessage::Slowed { .. })) => {
                        assert!(!std::mem::replace(&mut slow, true));
                    }
                    Some(Output::Say(RelayMessage::Resumed { merged })) => {
                        assert!(std::mem::replace(&mut slow, false));
                        accounted += merged;
                    }
                    Some(Output::Say(_)) => {}
                }
            }
        };
        for (pause, kind, name, metric, reads) in steps {
            now += pause;
            offered += 1;
            position += 1;
            let message = match kind {
                0 => event(&name, "setup.progress", position),
                1 => event(&name, "teleoperation.started", position),
                2 => event(&name, "robot.connected", position),
                3 => beat(&name, ""),
                _ => {
                    let metric = format!("m{metric}");
                    value += 1.0;
                    truth.insert((name.clone(), metric.clone()), value);
                    telemetry(&name, &[(&metric, value)])
                }
            };
            client.offer(ms(now), &message);
            take(&mut client, now, reads);
        }
        take(&mut client, now, usize::MAX);
        // Long after, so that it is not slow any more and says what was merged.
        now += 60_000;
        client.offer(ms(now), &event("a", "robot.connected", position + 1));
        take(&mut client, now, usize::MAX);
        now += 60_000;
        client.offer(ms(now), &event("a", "robot.connected", position + 2));
        take(&mut client, now, usize::MAX);
        prop_assert_eq!(accounted, offered + 2);
        prop_assert!(lost_telemetry || seen == truth, "{:?} instead of {:?}", seen, truth);
    }

    /// Whenever it is cut off, it goes on from the position that it was told, and has every event then.
    #[test]
    fn who_is_cut_off_misses_nothing(
        steps in prop::collection::vec((0_u8..4, 0_usize..4), 1..80),
    ) {
        let mut client: Client<Said> = Client::default();
        client.subscribe(&topics(&["*"]), 0).unwrap();
        let (mut offered, mut told) = (0, BTreeSet::new());
        for (kind, reads) in steps {
            offered += 1;
            let kind = ["setup.progress", "robot.connected", "teleoperation.started", "estop.requested"][usize::from(kind)];
            client.offer(ms(0), &event("a", kind, offered));
            for _ in 0..reads {
                if let Some(Output::Tell { message, .. }) = client.poll_output(ms(0)) {
                    told.extend(message.position);
                }
            }
            let again = client.position() + 1..=offered;
            let all: BTreeSet<u64> = told.iter().copied().chain(again).collect();
            prop_assert_eq!(all, (1..=offered).collect());
        }
        while client.poll_output(ms(0)).is_some() {}
        prop_assert_eq!(client.position(), offered, "nothing is told again for ever");
    }
}
