#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const CSV: &str = "\
robot_id,serial,profile,address,gateway,dns,wifi_ssid,wifi_password,wifi_country,token,token_file
kiwi-01,10000000ABCD0001,lekiwi,192.168.1.21/24,192.168.1.1,192.168.1.1 9.9.9.9,,,,lkt_aaaaaaaaaaaaaaaaaaaaaaaa,
# the second is on the other floor

kiwi-02,,,,,,Halle 7,correct horse,DE,,tokens/kiwi-02
,10000000abcd0003,,,,,,,,,
";

const YAML: &str = "
version: 1
cards:
  - robot_id: kiwi-01
    serial: 10000000ABCD0001
    profile: lekiwi
    network: {address: 192.168.1.21/24, gateway: 192.168.1.1, dns: [192.168.1.1, 9.9.9.9]}
    token: lkt_aaaaaaaaaaaaaaaaaaaaaaaa
  - robot_id: kiwi-02
    wifi: {ssid: Halle 7, password: correct horse, country: DE}
    token_file: tokens/kiwi-02
  - serial: 10000000abcd0003
";

const JSON: &str = r#"{"version": 1, "cards": [
    {"robot_id": "kiwi-01", "serial": "10000000ABCD0001", "profile": "lekiwi", "token": "lkt_aaaaaaaaaaaaaaaaaaaaaaaa",
     "network": {"address": "192.168.1.21/24", "gateway": "192.168.1.1", "dns": ["192.168.1.1", "9.9.9.9"]}},
    {"robot_id": "kiwi-02", "wifi": {"ssid": "Halle 7", "password": "correct horse", "country": "DE"}, "token_file": "tokens/kiwi-02"},
    {"serial": "10000000abcd0003"}]}"#;

fn refused(text: &str) -> String {
    let error = parse(text).err().unwrap();
    match error.hint() {
        Some(hint) => format!("{error} ({hint})"),
        None => error.to_string(),
    }
}

fn same(mut cards: Vec<JobCard>) -> Vec<JobCard> {
    for card in &mut cards {
        card.line = 0;
    }
    cards
}

#[test]
fn tables_and_trees_say_the_same() {
    let cards = parse(CSV).unwrap();
    assert_eq!(
        cards.iter().map(|card| card.line).collect::<Vec<_>>(),
        [2, 5, 6]
    );
    assert!(same(parse(YAML).unwrap()) == same(cards.clone()));
    assert!(same(parse(JSON).unwrap()) == same(cards.clone()));
    assert!(same(parse(&CSV.replace(',', ";")).unwrap()) == same(cards.clone()));
    assert!(
        same(parse(&format!("\u{feff}{}", CSV.replace('\n', "\r\n"))).unwrap())
            == same(cards.clone())
    );
    assert_eq!(cards[0].serial.as_deref(), Some("10000000abcd0001"));
    assert!(cards[1].token == Some(Token::File("tokens/kiwi-02".into())));
}

#[test]
fn a_cards_values_go_over_those_of_all() {
    let mut shared = crate::order::check::tests::order();
    shared.name = Name::Serial {
        prefix: "halle".parse().unwrap(),
    };
    let cards = parse(CSV).unwrap();
    let first = cards[0].over(&shared, Some("lkt_other".into()));
    assert!(first.name == Name::Given("kiwi-01".parse().unwrap()));
    assert_eq!(
        (first.token.as_str(), first.https),
        ("lkt_other", shared.https.clone())
    );
    assert!(first.addressing != Addressing::Dhcp && first.wifi.is_none());
    let third = cards[2].over(&shared, None);
    assert!(third == shared);
    let names: Vec<_> = cards.iter().map(|card| card.name(&shared)).collect();
    assert_eq!(
        names.iter().flatten().collect::<Vec<_>>(),
        ["kiwi-01", "kiwi-02", "halle-abcd0003"]
    );
}

#[test]
fn bad_tables_are_refused_with_their_lines() {
    for (text, expected) in [
        (
            "robot_id,serail\nkiwi-01,\n",
            "line 1: unknown column \"serail\" (did you mean \"serial\"?)",
        ),
        (
            "# list\n\nrobot_id,colour\n",
            "line 3: unknown column \"colour\" (known are robot_id, hostname, serial, profile, network, address, gateway, dns, wifi_ssid, wifi_password, wifi_country, token, token_file, note)",
        ),
        (
            "robot_id,robot_id\n",
            "line 1: expected each column once, got \"robot_id\" again",
        ),
        ("robot_id\n", "expected at least one card in the job"),
        (
            "robot_id,serial\nkiwi-01\n",
            "line 2: expected 2 fields as in the header, got 1",
        ),
        (
            "robot_id\nkiwi-01\nkiwi-02\nkiwi-01\n",
            "line 4: robot_id \"kiwi-01\" is on line 2 already",
        ),
        (
            "serial\n10000000abcd0001\n20000000ABCD0001\n",
            "line 3: serial \"abcd0001\" is on line 2 already",
        ),
        (
            "robot_id,token\na,lkt_same\nb,lkt_same\n",
            "line 3: token \"lkt_…\" is on line 2 already (each card gets its own; a token with several uses is given once, by --token-file)",
        ),
        (
            "robot_id\nKiwi 1\n",
            "line 2: expected a robot_id of 1 to 63 of a-z, 0-9 and '-', not starting with '-', got \"Kiwi 1\"",
        ),
        (
            "robot_id,hostname\nkiwi-01,other\n",
            "line 2: expected hostname to be the robot_id, as it is its certificate's name, got \"other\"",
        ),
        (
            "serial\nabc\n",
            "line 2: expected a serial of 8 to 32 hex digits, got \"abc\"",
        ),
        (
            "robot_id,profile\n,lekiwi\n",
            "line 2: expected a robot_id or a serial",
        ),
        (
            "robot_id,token,token_file\na,lkt_x,f\n",
            "line 2: expected either token or token_file, got \"f\"",
        ),
        (
            "robot_id,wifi_ssid\na,Halle\n",
            "line 2: expected a wireless network's name and its country together",
        ),
        (
            "robot_id,network\na,wlan\n",
            "line 2: expected network to be dhcp or static, got \"wlan\"",
        ),
        (
            "robot_id,network,address\na,dhcp,10.0.0.2/8\n",
            "line 2: expected no address with a network other than static, got \"10.0.0.2/8\"",
        ),
        (
            "robot_id,gateway\na,10.0.0.1\n",
            "line 2: expected an address of the static network",
        ),
    ] {
        assert_eq!(refused(text), expected);
    }
}

#[test]
fn bad_trees_are_refused_with_their_lines() {
    for (text, expected) in [
        (
            "version: 1\ncards:\n  - robot_id: a\n    serail: x\n",
            "line 4: unknown key \"serail\" (did you mean \"serial\"?)",
        ),
        (
            "version: 1\ncards: []\nowner: me\n",
            "line 3: unknown key \"owner\" (known are version, cards)",
        ),
        (
            "version: 1\ncards:\n  - robot_id: a\n    wifi: {ssid: x, country: DE, psk: y}\n",
            "line 4: unknown key \"psk\" (known are ssid, password, country)",
        ),
        (
            "# ours\nversion: 2\ncards: []\n",
            "line 2: expected version 1, got \"2\"",
        ),
        (
            "version: 1\ncards: []\n",
            "expected at least one card in the job",
        ),
        (
            "version: 1\ncards:\n  - robot_id: a\n  - robot_id: a\n",
            "line 4: robot_id \"a\" is on line 3 already",
        ),
        (
            "version: 1\ncards:\n  - robot_id: a\n    network: {}\n",
            "line 3: expected either dhcp: true or an address in network",
        ),
        ("cards: []\n", "line 1: expected a key \"version\""),
        (
            "version: 1\ncards:\n  - robot_id: a\n    robot_id: b\n",
            "line 4: expected each key once, got \"robot_id\" again",
        ),
    ] {
        assert_eq!(refused(text), expected);
    }
}
