#![expect(clippy::disallowed_methods, reason = "tests")]

use proptest::prelude::*;

use super::*;

const FAIL_BACK: Duration = Duration::from_secs(300);
const MS: fn(u64) -> Duration = Duration::from_millis;

fn rank(preference: u16) -> Rank {
    Rank {
        last_resort: false,
        preference,
    }
}

const LAST_RESORT: Rank = Rank {
    last_resort: true,
    preference: 0,
};

fn seconds(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn preference_comes_first_and_latency_among_equals() {
    let start = Instant::now();
    let mut endpoints = Endpoints::new([rank(2), rank(1), rank(1)], FAIL_BACK);
    assert_eq!(endpoints.order(start), [1, 2, 0]);
    endpoints.connected(start, 1, MS(50));
    assert_eq!(endpoints.order(start), [2, 1, 0], "2 was never measured");
    endpoints.connected(start, 2, MS(45));
    assert_eq!(endpoints.order(start), [2, 1, 0]);
    endpoints.connected(start, 1, MS(50));
    assert_eq!(endpoints.order(start), [1, 2, 0], "no change for a tenth");
    for _ in 0..8 {
        endpoints.looked(start, 2, Some(MS(10)));
    }
    assert_eq!(endpoints.order(start), [2, 1, 0], "but for a fifth");
}

#[test]
fn a_circuit_opens_after_five_failures_and_lets_one_try_after_a_minute() {
    let start = Instant::now();
    let mut endpoints = Endpoints::new([rank(1), rank(2)], FAIL_BACK);
    for failures in 1..=5 {
        assert_eq!(endpoints.order(start), [0, 1]);
        endpoints.failed(start, 0);
        let open = failures == 5;
        let expected = if open { Circuit::Open } else { Circuit::Closed };
        assert_eq!(endpoints.circuit(start, 0), Some(expected));
    }
    assert_eq!(endpoints.order(start), [1, 0], "last, but not never");
    let later = seconds(start, 60);
    assert_eq!(endpoints.circuit(later, 0), Some(Circuit::HalfOpen));
    assert_eq!(endpoints.order(later), [0, 1]);
    endpoints.failed(later, 0);
    assert_eq!(
        endpoints.circuit(later, 0),
        Some(Circuit::Open),
        "one is enough"
    );
    let later = seconds(start, 120);
    endpoints.connected(later, 0, MS(5));
    endpoints.lost(later + STABLE);
    assert_eq!(endpoints.circuit(later, 0), Some(Circuit::Closed));
}

#[test]
fn an_endpoint_that_takes_and_drops_is_a_failing_one() {
    let start = Instant::now();
    let mut endpoints = Endpoints::new([rank(1), rank(2)], FAIL_BACK);
    for _ in 0..5 {
        endpoints.connected(start, 0, MS(5));
        endpoints.lost(seconds(start, 1));
    }
    assert_eq!(endpoints.order(seconds(start, 2)), [1, 0]);
}

#[test]
fn the_last_resort_waits_until_all_else_failed_three_times() {
    let start = Instant::now();
    let mut endpoints = Endpoints::new([LAST_RESORT, rank(9), rank(1)], FAIL_BACK);
    for _ in 0..3 {
        assert_eq!(endpoints.order(start), [2, 1]);
        endpoints.failed(start, 2);
    }
    assert_eq!(endpoints.order(start), [2, 1], "1 did not fail");
    (0..3).for_each(|_| endpoints.failed(start, 1));
    assert_eq!(endpoints.order(start), [2, 1, 0]);
}

#[test]
fn a_better_endpoint_is_looked_at_while_idle_and_more_seldom_in_vain() {
    let start = Instant::now();
    let mut endpoints = Endpoints::new([rank(1), rank(2)], FAIL_BACK);
    endpoints.failed(start, 0);
    endpoints.connected(start, 1, MS(5));
    let at = |s| seconds(start, s);
    assert_eq!(endpoints.poll_timeout(), Some(at(300)));
    assert_eq!(endpoints.handle_timeout(at(299), true), None);
    assert_eq!(
        endpoints.handle_timeout(at(300), false),
        None,
        "it is driven"
    );
    assert_eq!(endpoints.handle_timeout(at(330), true), Some(0));
    assert!(!endpoints.looked(at(331), 0, None));
    assert_eq!(endpoints.poll_timeout(), Some(at(630)));
    assert_eq!(endpoints.handle_timeout(at(630), true), Some(0));
    assert_eq!(endpoints.poll_timeout(), Some(at(1230)));
    assert!(endpoints.looked(at(631), 0, Some(MS(4))), "go there");
    endpoints.lost(at(631));
    assert_eq!(endpoints.order(at(631)), [0, 1]);
    endpoints.connected(at(632), 0, MS(4));
    assert_eq!(endpoints.poll_timeout(), None, "there is nothing better");
    endpoints.lost(at(700));
    assert!(
        !endpoints.looked(at(701), 0, Some(MS(4))),
        "it was lost meanwhile"
    );
    endpoints.connected(at(702), 1, MS(5));
    assert_eq!(endpoints.poll_timeout(), Some(at(1002)), "it had lasted");
}

#[test]
fn an_open_better_endpoint_is_looked_at_as_soon_as_it_is_half_open() {
    let start = Instant::now();
    let at = |s| seconds(start, s);
    let mut endpoints = Endpoints::new([rank(1), rank(2)], Duration::from_secs(5));
    (0..5).for_each(|_| endpoints.failed(start, 0));
    endpoints.connected(at(1), 1, MS(5));
    assert_eq!(endpoints.handle_timeout(at(6), true), None);
    assert_eq!(endpoints.poll_timeout(), Some(at(60)));
    assert_eq!(endpoints.handle_timeout(at(60), true), Some(0));
    assert_eq!(endpoints.poll_timeout(), Some(at(65)));
}

#[derive(Debug, Clone)]
enum Act {
    Round,
    Connect(usize),
    Lose,
    Timeout(bool),
    Looked(usize, Option<u64>),
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        Just(Act::Round),
        (0_usize..4).prop_map(Act::Connect),
        Just(Act::Lose),
        any::<bool>().prop_map(Act::Timeout),
        (0_usize..4, proptest::option::of(0_u64..5_000))
            .prop_map(|(index, latency)| Act::Looked(index, latency)),
    ]
}

proptest! {
    /// Whatever happens: somebody is left to try, nobody twice, and no open circuit before a closed one;
    /// looks are at better endpoints of idle robots, and at least the pause apart.
    #[test]
    fn any_order_of_events_is_survived(
        ranks in proptest::collection::vec((any::<bool>(), 0_u16..3), 1..4),
        acts in proptest::collection::vec((0_u64..90_000, any_act()), 0..200),
    ) {
        let mut now = Instant::now();
        let ranks: Vec<Rank> = ranks
            .into_iter()
            .enumerate()
            // The first is an ordinary one.
            .map(|(index, (last_resort, preference))| Rank { last_resort: last_resort && index > 0, preference })
            .collect();
        let mut endpoints = Endpoints::new(ranks.clone(), FAIL_BACK);
        let mut online = None;
        let mut looked: Option<Instant> = None;
        for (pause, act) in acts {
            now += MS(pause);
            match act {
                Act::Round => {
                    endpoints.lost(now);
                    for index in endpoints.order(now) {
                        endpoints.failed(now, index);
                    }
                    online = None;
                }
                Act::Connect(index) if index < ranks.len() => {
                    endpoints.lost(now);
                    endpoints.connected(now, index, MS(pause % 500));
                    online = Some(index);
                    looked = Some(now);
                }
                Act::Connect(_) => {}
                Act::Lose => {
                    endpoints.lost(now);
                    online = None;
                }
                Act::Timeout(idle) => if let Some(index) = endpoints.handle_timeout(now, idle) {
                    prop_assert!(idle);
                    let current = online.expect("looks only while online");
                    prop_assert!(ranks[index] < ranks[current]);
                    prop_assert!(looked.is_some_and(|at| now.duration_since(at) >= FAIL_BACK));
                    looked = Some(now);
                },
                Act::Looked(index, latency) => {
                    let go = endpoints.looked(now, index, latency.map(MS));
                    if go {
                        prop_assert!(online.is_some_and(|current| ranks[index] < ranks[current]));
                    }
                }
            }
            let order = endpoints.order(now);
            prop_assert!(!order.is_empty());
            let mut each = order.clone();
            each.sort_unstable();
            each.dedup();
            prop_assert_eq!(each.len(), order.len());
            let open: Vec<bool> = order
                .iter()
                .map(|index| endpoints.circuit(now, *index) == Some(Circuit::Open))
                .collect();
            prop_assert!(open.is_sorted(), "an open circuit before another");
            if endpoints.poll_timeout().is_some() {
                prop_assert!(online.is_some());
            }
        }
    }
}
