use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    booting: Duration::from_secs(600),
    installing: Duration::from_secs(1800),
    enrolled: Duration::from_secs(3600),
};

fn unit() -> Unit {
    Unit::new(
        Key("abcdef01".into()),
        "lekiwi".into(),
        Timestamp::from_ms(0),
    )
}

fn report(step: &str, detail: &str) -> Event {
    Event::Report {
        step: step.into(),
        detail: detail.into(),
    }
}

fn robot() -> RobotId {
    RobotId::new("kiwi-01").unwrap()
}

/// Feeds events at seconds, and tells the story.
fn story(events: &[(u64, Event)]) -> (Unit, Vec<String>) {
    let mut unit = unit();
    for (second, event) in events {
        let now = Timestamp::from_ms(second * 1000);
        unit.handle(now, &LIMITS, event.clone()).unwrap();
    }
    let told = unit.steps.iter().map(|step| {
        let line = format!(
            "{}s #{} {} {}",
            step.at.as_ms() / 1000,
            step.attempt,
            step.name,
            step.detail
        );
        line.trim_end().to_owned()
    });
    let told = told.collect();
    (unit, told)
}

#[test]
fn from_the_first_packet_to_healthy() {
    let (unit, told) = story(&[
        (1, Event::Dhcp),
        (2, Event::Dhcp),
        (3, Event::Tftp("start4.elf".into())),
        (4, Event::Tftp("kernel8.img".into())),
        (9, report("booted", "Debian")),
        (10, Event::Image("base.img.xz".into())),
        (70, report("written", "")),
        (71, Event::Seed("10.0.0.5".into())),
        (200, Event::Enrolled(robot())),
        (210, Event::Enrolled(robot())),
        (300, Event::Healthy),
        (9999, Event::Tick),
        (10_000, report("failed", "too late")),
    ]);
    assert_eq!(
        told,
        [
            "1s #1 booting",
            "1s #1 dhcp",
            "3s #1 tftp start4.elf",
            "9s #1 booted Debian",
            "10s #1 installing",
            "10s #1 image base.img.xz",
            "70s #1 written",
            "71s #1 seed 10.0.0.5",
            "200s #1 enrolled",
            "300s #1 healthy",
        ]
    );
    assert_eq!(unit.state, State::Healthy);
    assert_eq!(unit.robot_id, Some(robot()));
}

#[test]
fn a_failure_says_why_and_a_retry_starts_again() {
    let (unit, told) = story(&[
        (1, report("booted", "")),
        (2, report("failed", "expected one unmounted disk, found 2")),
        (3, Event::Dhcp),
        (4, Event::Retry),
        (5, Event::Dhcp),
        (6, Event::Seed("10.0.0.5".into())),
        (6 + 1799, Event::Tick),
        (6 + 1800, Event::Tick),
        (2000, Event::Enrolled(robot())),
    ]);
    assert_eq!(
        told,
        [
            "1s #1 booting",
            "1s #1 booted",
            "2s #1 failed expected one unmounted disk, found 2",
            "4s #2 waiting",
            "5s #2 booting",
            "5s #2 dhcp",
            "6s #2 installing",
            "6s #2 seed 10.0.0.5",
            "1806s #2 failed 30 min went by before the relay heard of it",
            "2000s #2 enrolled",
        ]
    );
    assert_eq!(unit.state, State::Enrolled);
}

#[test]
fn what_needs_no_retry_is_told() {
    let mut unit = unit();
    let now = Timestamp::from_ms(1);
    assert_eq!(
        unit.handle(now, &LIMITS, Event::Retry)
            .unwrap_err()
            .to_string(),
        "expected a unit that failed or hangs, but abcdef01 is still waiting"
    );
    unit.handle(now, &LIMITS, Event::Healthy).unwrap();
    assert_eq!(
        unit.handle(now, &LIMITS, Event::Retry)
            .unwrap_err()
            .to_string(),
        "expected a unit that failed or hangs, but abcdef01 is healthy"
    );
}

#[test]
fn a_quarantine_is_a_failure_until_it_is_lifted() {
    let (unit, told) = story(&[
        (1, Event::Seed("10.0.0.5".into())),
        (
            2,
            Event::Refused("quarantined by the relay: profile unknown".into()),
        ),
        (3, Event::Enrolled(robot())),
    ]);
    assert_eq!(
        told[2..],
        [
            "2s #1 failed quarantined by the relay: profile unknown",
            "3s #1 enrolled",
        ]
    );
    assert_eq!(unit.state, State::Enrolled);
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Dhcp),
        ".{0,12}".prop_map(Event::Tftp),
        ".{0,12}".prop_map(Event::Image),
        ".{0,12}".prop_map(Event::Seed),
        ("[a-z]{1,8}|failed", ".{0,400}").prop_map(|(step, detail)| report(&step, &detail)),
        Just(Event::Enrolled(robot())),
        ".{0,400}".prop_map(Event::Refused),
        Just(Event::Healthy),
        Just(Event::Retry),
        Just(Event::Tick),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_invariants_hold(
        // Clocks are set back now and then.
        events in prop::collection::vec((0_u64..8_000_000, event()), 0..200)
    ) {
        let mut unit = unit();
        for (ms, event) in events {
            let before = unit.clone();
            let changed = unit.handle(Timestamp::from_ms(ms), &LIMITS, event.clone());
            if matches!(changed, Ok(false) | Err(_)) {
                prop_assert_eq!((&before.state, before.steps.len()), (&unit.state, unit.steps.len()));
            }
            prop_assert!(unit.steps.is_sorted_by_key(|step| (step.at, step.attempt)));
            prop_assert!(unit.steps.iter().all(|s| s.detail.chars().count() <= MAX_DETAIL));
            if let State::Failed { reason } = &unit.state {
                prop_assert!(!reason.is_empty());
            }
            if before.state == State::Healthy {
                prop_assert_eq!(&unit, &before);
            }
            if matches!(before.state, State::Failed { .. }) && before.state != unit.state {
                prop_assert!(matches!(event, Event::Retry | Event::Enrolled(_) | Event::Healthy));
            }
            if event == Event::Retry && changed.is_ok() {
                prop_assert_eq!(unit.attempt, before.attempt + 1);
                prop_assert_eq!(&unit.state, &State::Waiting);
            }
        }
        // Nothing hangs for ever.
        unit.handle(Timestamp::from_ms(100_000_000), &LIMITS, Event::Tick).unwrap();
        prop_assert!(unit.deadline(&LIMITS).is_none());
    }

    #[test]
    fn a_chatty_board_fills_nothing(reports in 200_usize..400) {
        let mut unit = unit();
        for n in 0..reports {
            unit.handle(Timestamp::from_ms(1), &LIMITS, report(&format!("step-{n}"), "x")).unwrap();
        }
        prop_assert_eq!(unit.steps.len(), MAX_STEPS);
    }
}
