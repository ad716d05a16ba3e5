//! Who overrules whom, and what is refused in which words.

use super::*;

fn refusal(text: &str) -> (String, Option<String>) {
    let error = parse(Path::new("relay.yml"), text)
        .and_then(Raw::check)
        .unwrap_err();
    let cause =
        std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
    (format!("{error}{cause}"), error.hint())
}

#[test]
fn file_environment_and_command_line_in_ascending_order() {
    let file = parse(
        Path::new("relay.yml"),
        "# ours\nversion: 1\nhttps: 127.0.0.1:1\nmqtt: 127.0.0.1:2\norg: acme\nserver_names: [relay.example, 10.0.0.7]\ntelemetry_days: 7\nregistration: approve\n",
    )
    .unwrap();
    let (environment, warnings) = environment(
        [
            ("LEKIWI_RELAY_MQTT", "127.0.0.1:3"),
            ("LEKIWI_RELAY_ORG", "beta"),
            ("PATH", "/bin"),
        ]
        .map(|(n, v)| (n.to_owned(), v.to_owned())),
    );
    assert_eq!(warnings, Vec::<String>::new());
    let flags = Raw {
        org: Some("gamma".into()),
        ..Raw::default()
    };
    let config = flags.over(environment).over(file).check().unwrap();
    assert_eq!(config.https.port(), 1);
    assert_eq!(config.mqtt.port(), 3);
    assert_eq!(config.org.as_str(), "gamma");
    assert_eq!(
        config.retention,
        Retention {
            raw_days: 7,
            ..Retention::default()
        }
    );
    assert_eq!(config.registration, Policy::Approve);
    assert_eq!(
        config.server_names,
        [
            ServerName::Dns("relay.example".into()),
            ServerName::Address("10.0.0.7".parse().unwrap())
        ]
    );
    let usual = parse(Path::new("relay.yml"), "# nothing\n\n")
        .unwrap()
        .check()
        .unwrap();
    assert_eq!(
        (usual.https.port(), usual.mqtt.port(), usual.allow_tls12),
        (8443, 8883, false)
    );
}

#[test]
fn an_external_broker_is_named_by_its_url() {
    let file = parse(Path::new("relay.yml"), "broker: mqtts://broker.example\n").unwrap();
    let (environment, warnings) = environment([(
        "LEKIWI_RELAY_BROKER".to_owned(),
        "mqtts://broker.example:1".to_owned(),
    )]);
    assert_eq!(warnings, Vec::<String>::new());
    let config = environment.over(file).check().unwrap();
    assert_eq!(
        config.broker.map(|broker| broker.to_string()).as_deref(),
        Some("broker.example:1")
    );
    assert_eq!(
        refusal("broker: tcp://broker\n").0,
        "cannot use broker: expected the broker as mqtts://host or mqtts://host:port, got \"tcp://broker\""
    );
}

#[test]
fn a_slip_is_named_with_its_line() {
    assert_eq!(
        refusal("version: 1\nhtps: 127.0.0.1:1\n"),
        (
            "expected a key of the configuration in relay.yml line 2, got \"htps\"".into(),
            Some("did you mean \"https\"?".into())
        )
    );
    let (message, hint) = refusal("colour: blue\n");
    assert_eq!(
        message,
        "expected a key of the configuration in relay.yml line 1, got \"colour\""
    );
    assert!(
        hint.unwrap()
            .starts_with("the keys are version, https, mqtt, ")
    );
    assert_eq!(
        refusal("version: 2\n").0,
        "expected version 1 in relay.yml, got 2"
    );
    assert_eq!(
        refusal("https: 8443\n").0,
        "expected https to be an address and port such as 0.0.0.0:8443, got \"8443\""
    );
    assert_eq!(
        refusal("https_tls: \"1.1\"\n").0,
        "expected https_tls to be \"1.3\" or \"1.2\", got \"1.1\""
    );
    assert_eq!(
        refusal("registration: closed\n").0,
        "expected registration to be open or approve, got \"closed\""
    );
    assert_eq!(
        refusal("watch_dhcp: maybe\n").0,
        "expected watch_dhcp to be true or false, got \"maybe\""
    );
    assert_eq!(
        refusal("server_names: [\"a b\"]\n").0,
        "cannot use server_names: expected a host name or an IP address, got \"a b\""
    );
    assert_eq!(
        refusal("org: ACME\n").0,
        "cannot use org: expected an organisation: 1 to 63 of a-z, 0-9 and '-', not starting with '-', got \"ACME\""
    );
    let (message, _) = refusal("version: 1\nserver_names: relay\n  x: [\n");
    assert!(
        message.starts_with("cannot understand relay.yml line "),
        "{message}"
    );
}

#[test]
fn a_database_is_said_with_its_files_and_never_shown() {
    let file = parse(
        Path::new("relay.yml"),
        "store:\n  postgres: postgresql://relay:geheim@db.example/lekiwi\n  ca: /etc/ca.pem\n",
    )
    .unwrap();
    let (environment, _) = environment(
        [("LEKIWI_RELAY_STORE_PASSWORD_FILE", "/run/password")]
            .map(|(n, v)| (n.to_owned(), v.to_owned())),
    );
    let config = environment.over(file).check().unwrap();
    let store = config.store.clone().unwrap();
    assert_eq!(
        store.url.expose(),
        "postgresql://relay:geheim@db.example/lekiwi"
    );
    assert_eq!(store.password_file.unwrap(), Path::new("/run/password"));
    assert_eq!(store.ca.unwrap(), Path::new("/etc/ca.pem"));
    assert!(!format!("{config:?}").contains("geheim"));
    assert_eq!(
        refusal("store:\n  ca: /etc/ca.pem\n").0,
        "expected store.postgres beside store.ca, got none"
    );
    assert_eq!(
        refusal("store:\n  postgres: postgresql://relay:geheim@db.example\n").0,
        "expected a URL such as postgresql://relay@db.example.org/lekiwi for store.postgres (it names no database)"
    );
}

#[test]
fn events_that_matter_for_ever_cannot_be_told_to_go() {
    let parsed = parse(
        Path::new("relay.yml"),
        "event_days: { service.*: 30, robot.connected: 7, robot.*: 90 }\n",
    );
    assert_eq!(
        parsed.unwrap().check().unwrap().event_days,
        [("robot.*", 90), ("robot.connected", 7), ("service.*", 30)]
            .map(|(k, d)| (k.to_owned(), d))
    );
    for (text, expected) in [
        (
            "event_days: { command.*: 1 }",
            "expected types in event_days that may be forgotten, got \"command.*\": command.* stays for ever",
        ),
        (
            "event_days: { robot.approved: 1 }",
            "expected types in event_days that may be forgotten, got \"robot.approved\": robot.approved stays for ever",
        ),
        (
            "event_days: { \"*\": 1 }",
            "expected types such as service.changed or service.* in event_days, got \"*\"",
        ),
        (
            "event_days: { service.changed: 0 }",
            "expected a number of days of 1 to 36500 for service.changed in event_days, got 0",
        ),
    ] {
        assert_eq!(refusal(text).0, expected);
    }
}

#[test]
fn the_example_says_the_defaults() {
    let example = include_str!("../../relay.example.yml");
    let parsed = parse(Path::new("relay.example.yml"), example).unwrap();
    assert_eq!(parsed.check().unwrap(), Raw::default().check().unwrap());
    for key in KEYS {
        assert!(
            example.contains(&format!("{key}: ")),
            "{key} is not in the example"
        );
    }
}

#[test]
fn an_unknown_variable_warns() {
    let (_, warnings) = environment(
        [("LEKIWI_RELAY_HTPS", "x"), ("LEKIWI_RELAY_LOG", "debug")]
            .map(|(n, v)| (n.to_owned(), v.to_owned())),
    );
    assert_eq!(
        warnings,
        [
            "the variable LEKIWI_RELAY_HTPS means nothing to this relay, did you mean LEKIWI_RELAY_HTTPS?"
        ]
    );
}

#[test]
fn limits_are_a_tier_and_what_is_said_over_it() {
    let parsed = parse(
        Path::new("relay.yml"),
        "limits: { tier: production, messages_per_s: 20, ban_s: 0, trusted: [10.0.0.0/8] }\n",
    )
    .unwrap();
    let (variables, _) = environment([("LEKIWI_RELAY_LIMITS_TIER".into(), "development".into())]);
    let limits = variables.over(parsed).check().unwrap().limits;
    assert_eq!((limits.mqtt_connections, limits.messages_per_s), (100, 20));
    assert!(limits.ban.is_zero());
    assert!(
        limits.trusts("10.1.2.3".parse().unwrap()) && !limits.trusts("127.0.0.1".parse().unwrap())
    );
    for (text, expected) in [
        (
            "{ tier: huge }",
            "cannot use limits: expected the tier development, production or high-performance, got \"huge\"",
        ),
        (
            "{ messages_per_s: 0 }",
            "cannot use limits: expected messages_per_s to be 1 to 1000000, got 0",
        ),
        (
            "{ ban_s: 86401 }",
            "cannot use limits: expected ban_s to be 0 to 86400, got 86401",
        ),
        (
            "{ trusted: [home] }",
            "cannot use limits: cannot use trusted",
        ),
    ] {
        assert_eq!(refusal(&format!("limits: {text}\n")).0, expected);
    }
}

#[test]
fn a_second_factor_is_demanded_of_whom_the_configuration_says() {
    let demand = |text: &str, variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let (environment, warnings) = environment(variables);
        assert!(warnings.is_empty(), "{warnings:?}");
        let raw = parse(Path::new("relay.yml"), text).unwrap();
        environment.over(raw).check().unwrap().second_factor
    };
    let variable = ("LEKIWI_RELAY_PEOPLE_SECOND_FACTOR", "all");
    let admins = "people: { second_factor: admins }\n";
    assert_eq!(demand("", &[]), Demand::Optional);
    assert_eq!(demand(admins, &[]), Demand::Admins);
    assert_eq!(demand(admins, &[variable]), Demand::All);
    assert_eq!(
        refusal("people: { second_factor: robots }\n").0,
        "expected people.second_factor to be optional, admins or all, got \"robots\""
    );
}

#[test]
fn traces_go_where_file_and_variables_say() {
    let file = "traces: { endpoint: \"https://collector.example/otlp\", sample: 1 }\n";
    let said = |variables: &[(&str, &str)]| {
        let parsed = parse(Path::new("relay.yml"), file).unwrap();
        let variables = variables
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let (variables, warnings) = environment(variables);
        assert_eq!(warnings, [""; 0]);
        let traces = variables.over(parsed).check().unwrap().traces.unwrap();
        (traces.endpoint.to_string(), traces.sample.share())
    };
    let collector = "https://collector.example/otlp".to_owned();
    assert_eq!(said(&[]), (collector.clone(), 1.0));
    assert_eq!(
        said(&[("LEKIWI_RELAY_TRACES_SAMPLE", "0.5")]),
        (collector, 0.5)
    );
    let standard = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://other:4318");
    assert_eq!(said(&[standard]).0, "http://other:4318/");
    let own = ("LEKIWI_RELAY_TRACES_ENDPOINT", "http://own:4318");
    assert_eq!(said(&[standard, own]).0, "http://own:4318/");
    for (text, expected) in [
        (
            "{ endpoint: \"grpc://x:4317\" }",
            "expected traces.endpoint to be the URL of a collector such as http://127.0.0.1:4318, got \"grpc://x:4317\"",
        ),
        (
            "{ sample: 1.5 }",
            "expected traces.sample to be a share from 0 to 1, got \"1.5\"",
        ),
    ] {
        assert_eq!(refusal(&format!("traces: {text}\n")).0, expected);
    }
}

#[test]
fn other_sites_are_named_by_their_origin() {
    let parsed = parse(
        Path::new("relay.yml"),
        "cors: [\"https://Ops.example.org\", \"http://localhost:5173\"]\n",
    );
    let origins = parsed.unwrap().check().unwrap().cors;
    assert_eq!(
        origins,
        ["https://ops.example.org", "http://localhost:5173"]
    );
    for wrong in [
        "\"*\"",
        "\"null\"",
        "\"https://ops.example.org/\"",
        "\"https://ops.example.org/page\"",
        "\"http://ops.example.org\"",
        "\"https://me@ops.example.org\"",
        "ops.example.org",
    ] {
        let (message, _) = refusal(&format!("cors: [{wrong}]\n"));
        let expected = "expected cors to be origins such as https://ops.example.org, got ";
        assert!(message.starts_with(expected), "{wrong}: {message}");
    }
}
