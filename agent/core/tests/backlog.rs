//! Which samples go first, whatever comes, and how fast the rest goes out.
#![expect(clippy::disallowed_methods, reason = "tests")]

use std::convert::Infallible;
use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use lekiwi_agent_core::backlog::{Drain, Place, Shelf, Thinner, merged};
use lekiwi_protocol::message::{Metrics, Thinned};
use lekiwi_protocol::{MetricName, Timestamp};
use proptest::prelude::*;

/// Samples in memory: what each holds is the numbers that were merged into it.
#[derive(Debug, Clone, Default)]
struct Row {
    places: Vec<(Place, Vec<u64>)>,
}

impl Row {
    fn push(&mut self, seq: u64, outage: u32, bytes: u64) {
        let place = Place {
            seq,
            outage,
            timestamp: Timestamp::from_ms(seq * 1_000),
            bytes,
        };
        self.places.push((place, vec![seq]));
    }

    fn bytes(&self) -> u64 {
        self.places.iter().map(|(place, _)| place.bytes).sum()
    }

    fn seqs(&self, outage: u32) -> Vec<u64> {
        let of = self.places.iter().map(|(place, _)| place);
        of.filter(|place| place.outage == outage)
            .map(|place| place.seq)
            .collect()
    }

    fn index(&self, place: Place) -> usize {
        self.places
            .iter()
            .position(|(held, _)| held.seq == place.seq)
            .expect("a sample that is there")
    }
}

impl Shelf for Row {
    type Error = Infallible;

    fn count(&self) -> u64 {
        self.places.len() as u64
    }

    fn after(&self, seq: u64) -> Result<[Option<Place>; 2], Infallible> {
        let mut behind = self
            .places
            .iter()
            .map(|(place, _)| *place)
            .filter(|place| place.seq > seq);
        Ok([behind.next(), behind.next()])
    }

    fn merge(&mut self, removed: Place, into: Place) -> Result<u64, Infallible> {
        let (_, mut held) = self.places.remove(self.index(removed));
        let index = self.index(into);
        held.append(&mut self.places[index].1);
        self.places[index].1 = held;
        Ok(removed.bytes)
    }

    fn remove(&mut self, place: Place) -> Result<(), Infallible> {
        self.places.remove(self.index(place));
        Ok(())
    }
}

fn make_room(thinner: &mut Thinner, row: &mut Row, bytes: u64) -> (u64, Option<Thinned>) {
    let Ok(room) = thinner.make_room(row, bytes);
    room
}

/// The outages of 10 bytes a sample, thinned by one sample at a time.
fn check(outages: &[&[u64]], times: u64, expected: &Expect) {
    let mut row = Row::default();
    for (outage, seqs) in (1..).zip(outages) {
        seqs.iter().for_each(|seq| row.push(*seq, outage, 10));
    }
    let mut thinner = Thinner::default();
    let mut story = String::new();
    for _ in 0..times {
        make_room(&mut thinner, &mut row, 1);
        let left: Vec<Vec<u64>> = (1..).take(outages.len()).map(|n| row.seqs(n)).collect();
        story.push_str(&format!("{left:?}\n"));
    }
    expected.assert_eq(&story);
}

#[test]
fn the_oldest_lose_every_second_sample_and_then_again() {
    check(
        &[&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]],
        6,
        &expect![[r#"
            [[1, 3, 4, 5, 6, 7, 8, 9, 10]]
            [[1, 3, 5, 6, 7, 8, 9, 10]]
            [[1, 3, 5, 7, 8, 9, 10]]
            [[1, 5, 7, 8, 9, 10]]
            [[1, 5, 8, 9, 10]]
            [[1, 5, 9, 10]]
        "#]],
    );
}

#[test]
fn of_a_long_outage_all_but_its_newest_part_is_told_equally_well() {
    let (mut row, mut thinner) = (Row::default(), Thinner::default());
    for seq in 1..=10_000 {
        let free = (row.bytes() + 10).saturating_sub(1_000);
        make_room(&mut thinner, &mut row, free);
        row.push(seq, 1, 10);
    }
    let in_tenth = |n: u64| {
        let seqs = row.seqs(1);
        seqs.iter().filter(|seq| **seq / 1_000 == n).count()
    };
    let tenths: Vec<usize> = (0..10).map(in_tenth).collect();
    expect!["[4, 4, 4, 4, 4, 4, 4, 4, 4, 63]"].assert_eq(&format!("{tenths:?}"));
}

#[test]
fn ends_of_outages_stay_until_there_is_nothing_else() {
    check(
        &[&[1, 2, 3], &[4], &[5, 6, 7, 8]],
        7,
        &expect![[r#"
            [[1, 3], [4], [5, 6, 7, 8]]
            [[1, 3], [4], [5, 7, 8]]
            [[1, 3], [4], [5, 8]]
            [[3], [4], [5, 8]]
            [[], [4], [5, 8]]
            [[], [], [5, 8]]
            [[], [], [8]]
        "#]],
    );
}

#[test]
fn nothing_is_left_in_the_end_and_that_is_said() {
    let mut row = Row::default();
    row.push(7, 1, 10);
    row.push(9, 1, 10);
    let thinned = Thinned {
        from: Timestamp::from_ms(7_000),
        to: Timestamp::from_ms(9_000),
        samples: 2,
    };
    let mut thinner = Thinner::default();
    assert_eq!(
        make_room(&mut thinner, &mut row, 1_000),
        (20, Some(thinned))
    );
    assert_eq!(make_room(&mut thinner, &mut row, 1), (0, None));
    row.push(10, 1, 10);
    assert_eq!(make_room(&mut thinner, &mut row, 0), (0, None));
}

#[test]
fn what_only_the_older_one_says_is_kept() {
    let metrics = |pairs: &[(&str, f64)]| -> Metrics {
        let named =
            |(name, value): &(&str, f64)| MetricName::new(name).ok().map(|name| (name, *value));
        pairs.iter().filter_map(named).collect()
    };
    let older = metrics(&[("cpu_percent", 90.0), ("disk_percent", 41.0)]);
    let newer = metrics(&[("cpu_percent", 10.0), ("temperature_c", 50.0)]);
    let both = metrics(&[
        ("cpu_percent", 10.0),
        ("disk_percent", 41.0),
        ("temperature_c", 50.0),
    ]);
    assert_eq!(merged(older, newer), both);
}

#[test]
fn the_drain_waits_for_its_pace_and_for_acknowledgements() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut drain = Drain::default();
    assert_eq!(drain.poll_output(start), None, "offline");
    drain.link_up();
    let all = Drain::MAX_ON_THE_WAY;
    assert_eq!(drain.poll_output(start), Some((0, all)));
    drain.sent(start, 20, 20, 4_096);
    assert_eq!(drain.poll_output(start), Some((20, all - 20)));
    drain.sent(start, 40, 20, 8_192);
    // 12 KiB went at once: 8 KiB were there, 2 KiB come each second.
    assert_eq!(drain.poll_output(start), None);
    let ready = start + 2 * second + second / 1000;
    let next = drain.poll_timeout();
    assert!(next.is_some_and(|next| start + 2 * second <= next && next < ready));
    assert!(!drain.handle_timeout(ready));
    assert_eq!(drain.poll_output(ready), Some((40, all - 40)));
    // Nothing was acknowledged in time.
    let late = start + Drain::PATIENCE;
    assert_eq!(drain.poll_timeout(), Some(late));
    assert!(drain.handle_timeout(late));
    assert_eq!(drain.poll_output(late), Some((0, all)));
    drain.sent(late, 64, all, 100);
    assert_eq!(drain.poll_output(late), None, "full");
    drain.acknowledged(late + second, all);
    assert_eq!(drain.poll_timeout(), None);
    drain.link_down();
    assert_eq!(drain.poll_output(late + 2 * second), None);
}

#[derive(Debug, Clone)]
enum Act {
    Sample(u64),
    Reconnect,
    Acknowledge(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        40 => (50_u64..200).prop_map(Act::Sample),
        1 => Just(Act::Reconnect),
        1 => (1_usize..5).prop_map(Act::Acknowledge),
    ];
    proptest::collection::vec(act, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever comes in whichever size: the bound holds, ends stay, resolution falls with age, and all
    /// that was measured is in what is left.
    #[test]
    fn thinning_keeps_its_promises(acts in acts(), bound in 4_000_u64..8_000) {
        let (mut row, mut thinner, mut outage, mut seq) = (Row::default(), Thinner::default(), 1, 0);
        let mut all: Vec<(u64, u32)> = Vec::new();
        let mut acknowledged = 0;
        let mut told = 0;
        for act in acts {
            match act {
                Act::Sample(bytes) => {
                    seq += 1;
                    let free = (row.bytes() + bytes).saturating_sub(bound);
                    let (freed, thinned) = make_room(&mut thinner, &mut row, free);
                    prop_assert!(freed >= free);
                    prop_assert_eq!(freed > 0, thinned.is_some());
                    told += thinned.map_or(0, |thinned| thinned.samples);
                    row.push(seq, outage, bytes);
                    all.push((seq, outage));
                }
                Act::Reconnect => outage += 1,
                Act::Acknowledge(count) => {
                    for (place, _) in row.places.drain(..count.min(row.places.len())) {
                        acknowledged = place.seq;
                    }
                    all.retain(|(seq, _)| *seq > acknowledged);
                }
            }
            prop_assert!(row.bytes() <= bound);
            prop_assert!(row.places.windows(2).all(|pair| pair[0].0.seq < pair[1].0.seq));
        }
        // So few outages that there is always something between their ends.
        prop_assume!(outage <= 8);
        for outage in 1..=outage {
            let of: Vec<u64> = all.iter().filter(|(_, o)| *o == outage).map(|(seq, _)| *seq).collect();
            let kept = row.seqs(outage);
            prop_assert_eq!(of.last(), kept.last());
            if of.first() == Some(&1) || acknowledged == 0 {
                prop_assert_eq!(of.first(), kept.first());
            }
            let distances: Vec<u64> = kept.windows(2).map(|pair| pair[1] - pair[0]).collect();
            prop_assert!(distances.windows(2).all(|pair| pair[0] >= pair[1]), "{:?}", kept);
        }
        let mut measured: Vec<u64> = row.places.iter().flat_map(|(_, held)| held.clone()).collect();
        measured.sort_unstable();
        measured.retain(|seq| *seq > acknowledged);
        prop_assert_eq!(measured, all.iter().map(|(seq, _)| *seq).collect::<Vec<_>>());
        if acknowledged == 0 {
            prop_assert_eq!(told, seq - row.places.len() as u64);
        }
    }
}
