use lekiwi_protocol::api::TokenInfo;
use tempfile::TempDir;

use super::*;

fn line(more: &str) -> Line {
    let text = format!(
        "version: 1\nname: line a\nnetwork: {{address: 10.77.0.1}}\nrelay: {{https: 'https://r:1', mqtt: 'mqtts://r:2', ca_fingerprint: sha256:{}, password_file: p}}\ndatabase: d\nimages: i\ndefaults: {{profile: lekiwi, image: base.img}}\nunits: [{{serial: 10000000abcdef01, robot_id: kiwi-01}}, {{serial: 10000000abcdef02}}]\n{more}",
        "0f".repeat(32)
    );
    Line::parse(&text).unwrap()
}

fn desk(folder: &TempDir, more: &str) -> Desk {
    let store = Store::open(&folder.path().join("line.sqlite")).unwrap();
    Desk::new(&line(more), store, at(0)).unwrap()
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_ms(1_000_000_000 + seconds * 1000)
}

fn board(serial: &str) -> Sighting {
    Sighting {
        serial: Some(serial.parse().unwrap()),
        ..Sighting::default()
    }
}

fn token(number: u128) -> TokenCreated {
    TokenCreated {
        token: format!("lkt_{number}"),
        info: TokenInfo {
            id: Uuid::from_u128(number),
            profile: None,
            serial: None,
            robot_id: None,
            created_at: at(0),
            expires_at: at(0),
            max_uses: 1,
            uses: 0,
            used_at: None,
            used_by: None,
        },
    }
}

fn text(result: Result<Wanted, DeskError>) -> String {
    match result {
        Ok(Wanted::Ready(ready)) => format!("ready {}", ready.token),
        Ok(Wanted::Token { attempt, stale, .. }) => {
            format!("token for {attempt}, stale {}", stale.is_some())
        }
        Err(error) => error.to_string(),
    }
}

const ONE: &str = "10000000abcdef01";

#[test]
fn a_token_goes_to_one_address_and_a_retry_gets_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = desk(&folder, "");
    let wanted = desk.seed(at(1), &board(ONE), "10.77.0.5").unwrap();
    let Wanted::Token {
        key,
        attempt,
        request,
        ..
    } = wanted
    else {
        panic!("expected that a token is wanted");
    };
    assert_eq!(request.serial.as_deref(), Some(ONE));
    assert_eq!(request.profile.as_deref(), Some("lekiwi"));
    assert_eq!(request.robot_id.unwrap().as_str(), "kiwi-01");
    assert_eq!(
        text(desk.granted(&key, attempt, token(1), "10.77.0.5")),
        "ready lkt_1"
    );
    // A second one, asked for at the same time, is not used.
    assert_eq!(
        text(desk.granted(&key, attempt, token(2), "10.77.0.5")),
        "ready lkt_1"
    );
    // The same after a crash.
    desk = self::desk(&folder, "");
    assert_eq!(
        text(desk.seed(at(2), &board(ONE), "10.77.0.5")),
        "ready lkt_1"
    );
    assert_eq!(
        text(desk.seed(at(2), &board(ONE), "10.77.0.6")),
        "the seed of abcdef01 was given to 10.77.0.5 already"
    );
    let failed = Event::Report {
        step: "failed".into(),
        detail: "no disk".into(),
    };
    desk.happened(at(3), &board(ONE), failed).unwrap();
    assert_eq!(
        text(desk.seed(at(4), &board(ONE), "10.77.0.5")),
        "abcdef01 failed: no disk"
    );
    assert_eq!(
        desk.image(at(4), &board(ONE)).unwrap_err().to_string(),
        "abcdef01 failed: no disk"
    );
    desk.retry(at(5), "kiwi-01").unwrap();
    assert_eq!(
        text(desk.granted(&key, 1, token(3), "10.77.0.6")),
        "abcdef01 was started again"
    );
    assert_eq!(
        text(desk.seed(at(6), &board(ONE), "10.77.0.6")),
        "token for 2, stale true"
    );
    assert_eq!(
        text(desk.granted(&key, 2, token(4), "10.77.0.6")),
        "ready lkt_4"
    );
}

#[test]
fn who_is_not_on_the_list_is_shown_and_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let desk = desk(&folder, "");
    let stranger = board("1000000000000099");
    let message = "00000099 is not on this line's list";
    let mut notices = desk.notices();
    for _ in 0..2 {
        assert_eq!(
            desk.happened(at(1), &stranger, Event::Dhcp)
                .unwrap_err()
                .to_string(),
            message
        );
        assert_eq!(text(desk.seed(at(1), &stranger, "x")), message);
        assert_eq!(
            desk.image(at(1), &stranger).unwrap_err().to_string(),
            message
        );
    }
    assert_eq!(notices.try_recv(), Ok(Notice::Trouble(message.into())));
    assert!(notices.try_recv().is_err(), "told once");
    let snapshot = desk.snapshot();
    assert_eq!((snapshot.counts.total, snapshot.units.len()), (2, 3));
    // Taken where the line says so; then half a serial number is too little for a token.
    let desk = self::desk(&folder, "unexpected: allow\n");
    assert_eq!(
        text(desk.seed(at(2), &stranger, "x")),
        "token for 1, stale false"
    );
    assert_eq!(
        text(desk.seed(at(2), &board("12345678"), "x")),
        "expected all 16 digits of the serial number, got 12345678"
    );
    assert_eq!(desk.snapshot().counts.total, 4);
}

fn robots(json: &str) -> Robots {
    serde_json::from_str(json).unwrap()
}

/// One robot as a relay shows it whose clock is an hour ahead; `more` goes before its end.
fn shown(id: &str, last_seen: u64, more: &str) -> Robots {
    let ahead = |seconds| at(3600 + seconds);
    robots(&format!(
        r#"{{"position": 7, "now": "{}", "robots": [{{"id": "{id}", "type": "lekiwi", "resources": {{}},
            "status": {{"online": true, "stale": false, "connection": "ONLINE", "last_seen": "{}"}}{more}}}]}}"#,
        ahead(100),
        ahead(last_seen)
    ))
}

#[test]
fn the_relay_says_who_is_enrolled_and_healthy() {
    let folder = tempfile::tempdir().unwrap();
    let desk = desk(&folder, "");
    let state = |name: &str| {
        let unit = desk.unit(name).unwrap();
        let reason = unit.state.reason().unwrap_or_default();
        format!("{} {reason}", unit.state.name())
            .trim_end()
            .to_owned()
    };
    desk.happened(at(90), &board(ONE), Event::Dhcp).unwrap();
    // Nothing new of a unit that starts again: what the relay heard before does not count.
    desk.retry(at(95), "kiwi-01").unwrap();
    desk.happened(at(96), &board(ONE), Event::Dhcp).unwrap();
    desk.relay_shows(at(100), &shown("kiwi-01", 90, ""))
        .unwrap();
    assert_eq!(state("kiwi-01"), "booting");
    // The same name on another board is another robot.
    let factsheet = |serial: &str| {
        format!(
            r#", "factsheet": {{"uuid": "{}", "profile": "lekiwi", "agent_version": "1", "agent_target": "x", "boot_id": "{}",
                "hardware": {{"serial": "{serial}", "model": "", "revision": ""}}}}"#,
            Uuid::nil(),
            Uuid::nil()
        )
    };
    let other = shown("kiwi-01", 99, &factsheet("20000000000000ff"));
    desk.relay_shows(at(100), &other).unwrap();
    assert_eq!(state("kiwi-01"), "booting");
    let quarantined = r#", "registration": {"status": "quarantined", "reason": "profile unknown", "since": "2026-01-01T00:00:00Z"}"#;
    desk.relay_shows(at(100), &shown("kiwi-01", 99, quarantined))
        .unwrap();
    assert_eq!(
        state("kiwi-01"),
        "failed quarantined by the relay: profile unknown"
    );
    desk.relay_shows(at(100), &shown("kiwi-01", 99, &factsheet(ONE)))
        .unwrap();
    assert_eq!(state("kiwi-01"), "enrolled");
    assert_eq!(
        text(desk.seed(at(101), &board(ONE), "x")),
        "abcdef01 is enrolled already"
    );
    let healthy = r#", "health": {"healthy": true, "setup": "done"}"#;
    desk.relay_shows(at(102), &shown("kiwi-01", 99, healthy))
        .unwrap();
    assert_eq!(state("kiwi-01"), "healthy");
    // Another unit under a name of its own: its board's serial number tells.
    desk.happened(at(96), &board("abcdef02"), Event::Dhcp)
        .unwrap();
    desk.relay_shows(
        at(100),
        &shown("my-robot", 99, &factsheet("10000000abcdef02")),
    )
    .unwrap();
    assert_eq!(state("my-robot"), "enrolled");
}

#[test]
fn what_other_processes_ask_for_is_done_at_the_next_tick() {
    let folder = tempfile::tempdir().unwrap();
    let desk = desk(&folder, "");
    desk.happened(at(1), &board(ONE), Event::Dhcp).unwrap();
    desk.tick(at(600)).unwrap();
    assert_eq!(desk.unit(ONE).unwrap().state.name(), "booting");
    desk.tick(at(601)).unwrap();
    assert_eq!(
        desk.unit(ONE).unwrap().state.reason(),
        Some("10 min went by before its image or its seed was fetched")
    );
    let mut other = Store::open(&folder.path().join("line.sqlite")).unwrap();
    other.wish(&Key("abcdef01".into())).unwrap();
    desk.tick(at(602)).unwrap();
    let unit = desk.unit(ONE).unwrap();
    assert_eq!((unit.state.name(), unit.attempt), ("waiting", 2));
    // Trouble with the relay is told when it begins and when it ends.
    let mut notices = desk.notices();
    desk.relay_fails("gone".into());
    desk.relay_fails("gone".into());
    desk.relay_shows(at(603), &shown("kiwi-09", 99, ""))
        .unwrap();
    assert_eq!(notices.try_recv(), Ok(Notice::Trouble("gone".into())));
    assert_eq!(
        notices.try_recv(),
        Ok(Notice::Trouble("the relay answers again".into()))
    );
    assert!(notices.try_recv().is_err());
}
