#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use lekiwi_agent_core::debounce::Threshold;
use lekiwi_protocol::message::metric;

use super::*;

const FINGERPRINT: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn minimal(more: &str) -> String {
    format!(
        "version: 1\nrelay:\n  https: https://relay.example:8443\n  ca_fingerprint: {FINGERPRINT}\n{more}"
    )
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    parse(
        text,
        "/etc/lekiwi/agent.yml",
        &environment(variables),
        "Kiwi_07.local",
    )
}

fn refused(text: &str, variables: &[(&str, &str)]) -> String {
    let error = read(text, variables).unwrap_err();
    let hint = error
        .hint()
        .map_or(String::new(), |hint| format!("\n  (hint: {hint})"));
    format!("{error}{hint}")
}

#[test]
fn the_shipped_file_says_what_the_defaults_are() {
    let shipped = include_str!("../../agent.example.yml");
    let config = read(shipped, &[]).unwrap().config;
    let defaults = read(&minimal(""), &[]).unwrap().config;
    assert_eq!(config.metrics, defaults.metrics);
    assert_eq!(config.state_dir, defaults.state_dir);
    assert_eq!(config.socket, defaults.socket);
    assert_eq!(config.heartbeat, defaults.heartbeat);
    assert_eq!(config.sample, defaults.sample);
    assert_eq!(config.log, defaults.log);
    assert_eq!(config.token_file, defaults.token_file);
    assert_eq!(config.trust_file, defaults.trust_file);
    assert!(config.mdns && defaults.mdns);
    assert_eq!(
        (config.profile, config.profiles_dir, config.hardware),
        (defaults.profile, defaults.profiles_dir, defaults.hardware)
    );
    assert_eq!(config.relay.endpoints, defaults.relay.endpoints);
    assert_eq!(config.relay.fail_back, defaults.relay.fail_back);
}

#[test]
fn the_host_name_is_the_default_id() {
    let config = read(&minimal(""), &[]).unwrap().config;
    assert_eq!(config.robot_id.as_str(), "kiwi-07");
    assert_eq!(
        (config.org.as_str(), &config.profile),
        ("default", &ProfileChoice::Auto)
    );
    assert_eq!(
        ways(&config),
        ["relay.example:8883 0", "relay.example:8443 last resort"]
    );
    assert_eq!(config.relay.proxy, None);
}

fn ways(config: &Config) -> Vec<String> {
    let way = |endpoint: &Endpoint| match endpoint.rank.last_resort {
        true => format!("{} last resort", endpoint.mqtt),
        false => format!("{} {}", endpoint.mqtt, endpoint.rank.preference),
    };
    config.relay.endpoints.iter().map(way).collect()
}

fn relay(more: &str) -> String {
    minimal("").replace("\n  ca_", &format!("\n  {more}\n  ca_"))
}

#[test]
fn ways_to_the_relay_are_listed_or_one_and_end_with_https() {
    let several = "endpoints: [{mqtt: 'mqtts://a', preference: 2}, {mqtt: 'mqtts://b:443'}]";
    let cases = [
        (
            "mqtt: mqtts://a:1",
            &["a:1 0", "relay.example:8443 last resort"][..],
        ),
        (
            several,
            &["a:8883 2", "b:443 0", "relay.example:8443 last resort"],
        ),
        ("mqtt: mqtts://a\n  last_resort: false", &["a:8883 0"]),
        (
            "mqtt: mqtts://relay.example:8443",
            &["relay.example:8443 0"],
        ),
    ];
    for (more, expected) in cases {
        assert_eq!(ways(&read(&relay(more), &[]).unwrap().config), expected);
    }
    let variables = [
        ("LEKIWI_RELAY_PROXY", "http://proxy.example:8080"),
        ("LEKIWI_RELAY_LAST_RESORT", "false"),
        ("LEKIWI_RELAY_FAIL_BACK_S", "60"),
    ];
    let config = read(&minimal(""), &variables).unwrap().config;
    assert_eq!(ways(&config), ["relay.example:8883 0"]);
    assert_eq!(config.relay.fail_back, Duration::from_secs(60));
    assert_eq!(
        config.relay.proxy.map(|proxy| proxy.to_string()).as_deref(),
        Some("proxy.example:8080")
    );
}

#[test]
fn variables_override_the_file() {
    let loaded = read(
        &minimal("robot_id: kiwi-01\n"),
        &[
            ("LEKIWI_ROBOT_ID", "kiwi-02"),
            ("LEKIWI_RELAY_HTTPS", "https://127.0.0.1:9"),
            ("LEKIWI_HEARTBEAT_S", "5"),
            ("LEKIWI_ENROLMENT_REMOVE_TOKEN", "false"),
            ("LEKIWI_PROFILE", "xle-2wheel"),
            ("LEKIWI_HARDWARE_ROOT", "/tmp/tree"),
            ("LEKIWI_HARDWARE_SERVO_PORTS", "/dev/pts/1, /dev/pts/2"),
            ("LEKIWI_DISCOVERY_MDNS", "false"),
            ("LEKIWI_LOG", "debug"),
            ("LEKIWI_ROBTO_ID", "x"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(loaded.config.robot_id.as_str(), "kiwi-02");
    assert!(loaded.config.relay.https.is_loopback() && !loaded.config.remove_token);
    assert!(!loaded.config.mdns);
    assert_eq!(loaded.config.heartbeat, Duration::from_secs(5));
    assert_eq!(loaded.config.profile.to_string(), "xle-2wheel");
    let ports = ["/dev/pts/1", "/dev/pts/2"].map(std::path::PathBuf::from);
    assert_eq!(
        loaded.config.hardware,
        HardwareConfig {
            root: "/tmp/tree".into(),
            servo_ports: Some(ports.to_vec())
        }
    );
    assert_eq!(
        loaded.warnings,
        ["unknown variable LEKIWI_ROBTO_ID is ignored, did you mean LEKIWI_ROBOT_ID?"]
    );
}

#[test]
fn every_wrong_file_says_where_and_what_was_expected() {
    let cases = [
        (
            minimal("heartbeat: 30\n"),
            "unknown key \"heartbeat\" at /etc/lekiwi/agent.yml:5:1, expected one of version, robot_id, org, \
             profile, profiles_dir, hardware, relay, enrolment, identity, trust_file, state_dir, socket, heartbeat_s, log, telemetry, traces, discovery, migration\n  (hint: did you mean \"heartbeat_s\"?)",
        ),
        (
            minimal("telemetry:\n  metrics:\n    cpu: {deadband: 1}\n"),
            "unknown key \"cpu\" at /etc/lekiwi/agent.yml:7:5, expected one of cpu_percent, cpu_percent.*, load_1m, \
             load_5m, load_15m, memory_percent, swap_percent, disk_percent, disk_free_bytes, disk_inodes_percent, \
             disk_wear_percent, disk_pre_eol_level, temperature_c, temperature_c.*, throttling.*, \
             net_rx_bytes_per_s, net_rx_bytes_per_s.*, net_tx_bytes_per_s, net_tx_bytes_per_s.*, \
             net_errors_per_s.*, wifi_signal_dbm.*, battery_percent, battery_v, battery_charging, service_memory_bytes.*, \
             service_cpu_percent.*, custom.*, legacy.*, uptime_s\n  \
             (hint: did you mean \"cpu_percent\"?)",
        ),
        (
            minimal(
                "telemetry: {metrics: {wifi_signal_dbm.*: {alert_below: -70, alert_clear: -80}}}\n",
            ),
            "telemetry.metrics.wifi_signal_dbm.*.alert_clear in /etc/lekiwi/agent.yml: expected at least alert_below, \
             which is -70, got -80",
        ),
        (
            minimal(
                "telemetry: {metrics: {battery_percent: {alert_below: 20, alert_above: 80}}}\n",
            ),
            "telemetry.metrics.battery_percent in /etc/lekiwi/agent.yml: expected alert_above or alert_below, got both",
        ),
        (
            minimal("telemetry: {metrics: {cpu_percent.0: {alert_above: .nan}}}\n"),
            "telemetry.metrics.cpu_percent.0.alert_above in /etc/lekiwi/agent.yml: expected a number, got NaN",
        ),
        (
            minimal("telemetry: {metrics: {cpu_percent.0: {keep_alive_s: 0}}}\n"),
            "telemetry.metrics.cpu_percent.0.keep_alive_s in /etc/lekiwi/agent.yml: expected 1 to 86400 seconds, got 0",
        ),
        (
            minimal("zzz: 1\n"),
            "unknown key \"zzz\" at /etc/lekiwi/agent.yml:5:1, expected one of version, robot_id, org, \
             profile, profiles_dir, hardware, relay, enrolment, identity, trust_file, state_dir, socket, heartbeat_s, log, telemetry, traces, discovery, migration",
        ),
        (
            minimal("heartbeat_s: soon\n"),
            "wrong value at /etc/lekiwi/agent.yml:5:14: expected a whole number",
        ),
        (
            minimal("discovery: {mdns: often}\n"),
            "wrong value at /etc/lekiwi/agent.yml:5:19: expected true or false",
        ),
        (
            minimal("org: [\n"),
            "wrong value at /etc/lekiwi/agent.yml:5:6: expected string scalar",
        ),
        (
            minimal("org: a\norg: b\n"),
            "wrong value at /etc/lekiwi/agent.yml:6:1: expected each key once, got \"org\" again",
        ),
        (
            minimal("org: 'a\n"),
            "wrong value at /etc/lekiwi/agent.yml:6:1: invalid indentation in multiline quoted scalar",
        ),
        (
            minimal("").replace("version: 1", "version: 2"),
            "version in /etc/lekiwi/agent.yml: expected 1, got 2",
        ),
        (
            minimal("").replace("version: 1\n", ""),
            "version in /etc/lekiwi/agent.yml: expected `version: 1`, got none",
        ),
        (
            minimal("robot_id: Kiwi\n"),
            "robot_id in /etc/lekiwi/agent.yml: expected a robot id: 1 to 63 of a-z, 0-9 and '-', not starting \
             with '-', got \"Kiwi\"",
        ),
        (
            minimal("profile: Le Kiwi\n"),
            "profile in /etc/lekiwi/agent.yml: expected a profile: 1 to 63 of a-z, 0-9 and '-', not starting with \
             '-', neither auto nor unknown, got \"Le Kiwi\"",
        ),
        (
            minimal("profile: unknown\n"),
            "profile in /etc/lekiwi/agent.yml: expected a profile: 1 to 63 of a-z, 0-9 and '-', not starting with \
             '-', neither auto nor unknown, got \"unknown\"",
        ),
        (
            minimal("profiles_dir: profiles\n"),
            "profiles_dir in /etc/lekiwi/agent.yml: expected an absolute path, got \"profiles\"",
        ),
        (
            minimal("hardware: {servo_ports: [ttyACM0]}\n"),
            "hardware.servo_ports in /etc/lekiwi/agent.yml: expected an absolute path, got \"ttyACM0\"",
        ),
        (
            minimal("hardware: {servo_port: /dev/ttyACM0}\n"),
            "unknown key \"servo_port\" at /etc/lekiwi/agent.yml:5:12, expected one of root, servo_ports\n  \
             (hint: did you mean \"servo_ports\"?)",
        ),
        (
            minimal("").replace("https://relay", "http://relay"),
            "relay.https in /etc/lekiwi/agent.yml: expected https://HOST:PORT with a name or IPv4 address, got \
             \"http://relay.example:8443\"",
        ),
        (
            "version: 1\n".to_owned(),
            "relay.https in /etc/lekiwi/agent.yml: expected https://HOST:PORT, got none",
        ),
        (
            "version: 1\nrelay: {https: 'https://a'}\n".to_owned(),
            "relay.ca_fingerprint in /etc/lekiwi/agent.yml: expected the fingerprint that the relay shows at its \
             first start, got none",
        ),
        (
            minimal("").replace("sha256:", "sha1:"),
            "relay.ca_fingerprint in /etc/lekiwi/agent.yml: expected sha256: and 64 hex digits, got \
             \"sha1:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"",
        ),
        (
            minimal("migration: {listen: '0.0.0.0:8765', auth: none}\n"),
            "migration.listen in /etc/lekiwi/agent.yml: expected an address of this machine such as \
             127.0.0.1:8765, got \"0.0.0.0:8765\"",
        ),
        (
            minimal("migration: {mirror: 'https://old', auth: none}\n"),
            "migration.mirror in /etc/lekiwi/agent.yml: expected http://HOST:PORT with a name or IPv4 \
             address, got \"https://old\"",
        ),
        (
            minimal("migration: {listen: '127.0.0.1:8765'}\n"),
            "migration.api_key_file in /etc/lekiwi/agent.yml: expected the file with the older system's \
             key, or `auth: none`, got neither",
        ),
        (
            minimal("migration: {auth: off}\n"),
            "migration.auth in /etc/lekiwi/agent.yml: expected `none` and no api_key_file, got \"off\"",
        ),
        (
            minimal("log: loud\n"),
            "log in /etc/lekiwi/agent.yml: expected error, warn, info, debug or trace, got \"loud\"",
        ),
        (
            relay("mqtt: mqtts://a\n  endpoints: [{mqtt: 'mqtts://b'}]"),
            "relay.endpoints in /etc/lekiwi/agent.yml: expected either relay.mqtt or relay.endpoints, got both",
        ),
        (
            relay("endpoints: []"),
            "relay.endpoints in /etc/lekiwi/agent.yml: expected 1 to 8, got 0",
        ),
        (
            relay("endpoints: [{mqtt: 'mqtts://b'}, {mqtt: 'mqtts://b:8883', preference: 1}]"),
            "relay.endpoints in /etc/lekiwi/agent.yml: expected each address once, got b:8883 again",
        ),
        (
            relay("endpoints: [{preference: 1}]"),
            "relay.endpoints.mqtt in /etc/lekiwi/agent.yml: expected mqtts://HOST:PORT with a name or IPv4 \
             address, got \"\"",
        ),
        (
            relay("endpoints: [{mqtt: 'mqtts://b', weight: 1}]"),
            "unknown key \"weight\" at /etc/lekiwi/agent.yml:4:35, expected one of mqtt, preference",
        ),
        (
            relay("proxy: socks://a"),
            "relay.proxy in /etc/lekiwi/agent.yml: expected http://HOST:PORT with a name or IPv4 address, got \
             \"socks://a\"",
        ),
        (
            relay("fail_back_s: 1"),
            "relay.fail_back_s in /etc/lekiwi/agent.yml: expected 5 to 86400 seconds, got 1",
        ),
        (
            minimal("state_dir: state\n"),
            "state_dir in /etc/lekiwi/agent.yml: expected an absolute path, got \"state\"",
        ),
        (
            minimal("heartbeat_s: 0\n"),
            "heartbeat_s in /etc/lekiwi/agent.yml: expected 1 to 3600 seconds, got 0",
        ),
        (
            minimal("telemetry: {metrics: {cpu_percent: {deadband: -1}}}\n"),
            "telemetry.metrics.cpu_percent.deadband in /etc/lekiwi/agent.yml: expected a number from 0, got -1",
        ),
        (
            minimal("telemetry: {metrics: {cpu_percent: {alert_above: 50, alert_clear: 60}}}\n"),
            "telemetry.metrics.cpu_percent.alert_clear in /etc/lekiwi/agent.yml: expected at most alert_above, \
             which is 50, got 60",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(refused(&text, &[]), expected, "{text}");
    }
}

#[test]
fn what_cannot_change_while_it_runs_is_named() {
    let mut config = read(&minimal("robot_id: kiwi-01\n"), &[]).unwrap().config;
    let more = "robot_id: kiwi-02\nheartbeat_s: 5\nlog: debug\nprofiles_dir: /srv\nsocket: /run/other\n\
                telemetry: {sample_s: 9, metrics: {cpu_percent: {deadband: 7}}}\n";
    let new = minimal(more).replace("relay.example", "other.example");
    let new = read(&new, &[]).unwrap().config;
    assert_eq!(
        config.take(new),
        ["robot_id", "relay.https", "relay.endpoints", "socket"]
    );
    assert_eq!(config.robot_id.as_str(), "kiwi-01");
    assert_eq!(
        config.relay.endpoints[0].mqtt.to_string(),
        "relay.example:8883"
    );
    assert_eq!(config.socket, Path::new("/run/lekiwi/agent.sock"));
    assert_eq!(
        (config.heartbeat.as_secs(), config.sample.as_secs()),
        (5, 9)
    );
    assert_eq!(config.log, log::LevelFilter::Debug);
    assert_eq!(config.profiles_dir, Path::new("/srv"));
    assert_eq!(config.metrics.of("cpu_percent").unwrap().deadband, 7.0);
    let same = read(&minimal("robot_id: kiwi-01\n"), &[]).unwrap().config;
    assert_eq!(config.take(same), Vec::<&str>::new());
    assert_eq!(config.heartbeat.as_secs(), 30);
}

#[test]
fn the_variable_comes_before_the_files_log_level() {
    let level = |file: &str, variables: &[(&str, &str)]| {
        read(&minimal(file), variables).unwrap().config.log
    };
    assert_eq!(level("", &[]), log::LevelFilter::Info);
    assert_eq!(level("log: warn\n", &[]), log::LevelFilter::Warn);
    let both = level("log: warn\n", &[("LEKIWI_LOG", "trace")]);
    assert_eq!(both, log::LevelFilter::Trace);
    let wrong = level("log: warn\n", &[("LEKIWI_LOG", "loud")]);
    assert_eq!(wrong, log::LevelFilter::Warn);
}

#[test]
fn a_profile_fills_in_what_the_file_does_not_say() {
    let profile = |rules: &str| {
        let text = format!(
            "version: 1\nname: kiwi\ntitle: Kiwi\nagent: {{metrics: {{temperature_c: {rules}}}}}\n"
        );
        lekiwi_protocol::profile::Profile::parse(&text, "kiwi.yml").unwrap()
    };
    let more = "telemetry: {metrics: {temperature_c: {deadband: 1}}}\n";
    let mut config = read(&minimal(more), &[]).unwrap().config;
    let defaults = config.metrics.clone();
    config
        .adopt(&profile(
            "{deadband: 9, keep_alive_s: 60, alert_above: 70, alert_clear: 60}",
        ))
        .unwrap();
    for key in metric::KEYS {
        let (rule, default) = (config.metrics.of(key).unwrap(), defaults.of(key));
        if key == "temperature_c" {
            assert_eq!(
                (rule.deadband, rule.keep_alive),
                (1.0, Duration::from_secs(60))
            );
            let (level, clear) = (70.0, 60.0);
            assert_eq!(rule.alert, Some(Threshold::Above { level, clear }));
        } else {
            assert_eq!(Some(rule), default);
        }
    }
    let before = config.metrics.clone();
    assert_eq!(
        config
            .adopt(&profile("{alert_clear: 99}"))
            .unwrap_err()
            .to_string(),
        "telemetry.metrics.temperature_c.alert_clear in the profile kiwi: expected at most alert_above, which is 80, got 99"
    );
    assert_eq!(config.metrics, before);
}

#[test]
fn a_members_rule_comes_before_its_familys_and_the_file_before_the_profile() {
    let more = "telemetry: {metrics: {cpu_percent.*: {deadband: 7, min_interval_s: 9}, cpu_percent.0: {deadband: 1}, \
                wifi_signal_dbm.wlan0: {alert_below: -70}}}\n";
    let mut config = read(&minimal(more), &[]).unwrap().config;
    let rule = |config: &Config, name: &str| *config.metrics.of(name).unwrap();
    let paces = |config: &Config| {
        ["cpu_percent.0", "cpu_percent.1", "cpu_percent"].map(|name| {
            let rule = rule(config, name);
            (
                rule.deadband,
                rule.min_interval.as_secs(),
                rule.keep_alive.as_secs(),
            )
        })
    };
    assert_eq!(
        paces(&config),
        [(1.0, 9, 3600), (7.0, 9, 3600), (5.0, 10, 300)]
    );
    let (level, clear) = (-70.0, -66.5);
    assert_eq!(
        rule(&config, "wifi_signal_dbm.wlan0").alert,
        Some(Threshold::Below { level, clear })
    );
    assert_eq!(rule(&config, "wifi_signal_dbm.wlan1").alert, None);
    let text = "version: 1\nname: kiwi\ntitle: Kiwi\nagent: {metrics: {cpu_percent.0: {keep_alive_s: 60, deadband: 3}, \
                cpu_percent.1: {deadband: 4}}}\n";
    let profile = lekiwi_protocol::profile::Profile::parse(text, "kiwi.yml").unwrap();
    config.adopt(&profile).unwrap();
    assert_eq!(
        paces(&config),
        [(1.0, 9, 60), (4.0, 9, 3600), (5.0, 10, 300)]
    );
}

#[test]
fn a_wrong_variable_is_named() {
    assert_eq!(
        refused(&minimal(""), &[("LEKIWI_HEARTBEAT_S", "often")]),
        "LEKIWI_HEARTBEAT_S in the environment: expected a number of seconds, got \"often\""
    );
    assert_eq!(
        refused(&minimal(""), &[("LEKIWI_RELAY_MQTT", "mqtt://a")]),
        "LEKIWI_RELAY_MQTT in the environment: expected mqtts://HOST:PORT with a name or IPv4 address, got \"mqtt://a\""
    );
}

#[test]
fn a_missing_file_says_which() {
    let error = load(
        Path::new("/nonexistent/agent.yml"),
        &Environment::default(),
        "a",
        None,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected a readable configuration file at /nonexistent/agent.yml"
    );
}

#[test]
fn desired_settings_stand_over_the_file_and_under_the_environment() {
    let file = "heartbeat_s: 20\nlog: warn\ntelemetry:\n  sample_s: 3\n  metrics: {cpu_percent: {deadband: 7, alert_above: 50}}\n";
    let with = |settings: serde_json::Value, variables: &[(&str, &str)]| {
        let layer = Layer {
            version: 4,
            settings: serde_json::from_value(settings).unwrap(),
        };
        let origin = "/etc/lekiwi/agent.yml";
        let config = desired::over(&minimal(file), origin, &layer, &environment(variables), "a");
        config.map_err(|error| error.to_string())
    };
    let own = read(&minimal(file), &[]).unwrap().config;
    assert_eq!(
        with(serde_json::json!({}), &[]).unwrap().digest(),
        own.digest()
    );

    let settings = serde_json::json!({
        "heartbeat_s": 5,
        "telemetry": { "metrics": { "cpu_percent": { "keep_alive_s": 9 }, "cpu_percent.*": { "deadband": 1.5 } } },
    });
    let config = with(settings.clone(), &[]).unwrap();
    let cpu = config.metrics.of("cpu_percent").unwrap();
    assert_eq!(
        (
            config.heartbeat.as_secs(),
            config.sample.as_secs(),
            config.log
        ),
        (5, 3, log::LevelFilter::Warn)
    );
    assert_eq!((cpu.deadband, cpu.keep_alive.as_secs()), (7.0, 9));
    assert_eq!(config.metrics.of("cpu_percent.1").unwrap().deadband, 1.5);
    assert_ne!(config.digest(), own.digest());
    let config = with(settings, &[("LEKIWI_HEARTBEAT_S", "8")]).unwrap();
    assert_eq!(
        config.heartbeat.as_secs(),
        8,
        "root on the robot has the last word"
    );

    for (settings, reason) in [
        (
            serde_json::json!({ "state_dir": "/elsewhere" }),
            "unknown key \"state_dir\" at the desired configuration 4:1:2, expected one of heartbeat_s, log, telemetry, traces",
        ),
        (
            serde_json::json!({ "telemetry": { "metrics": { "cpu_percent": { "alert_clear": 60 } } } }),
            "telemetry.metrics.cpu_percent.alert_clear in the desired configuration 4: expected at most alert_above, which \
             is 50, got 60",
        ),
    ] {
        assert_eq!(with(settings, &[]).unwrap_err(), reason);
    }
}

#[test]
fn what_the_relay_refuses_no_robot_takes_and_the_other_way_round() {
    let layer = |settings: &serde_json::Value| Layer {
        version: 1,
        settings: serde_json::from_value(settings.clone()).unwrap(),
    };
    let of_cpu =
        |rule: &str| format!("{{\"telemetry\":{{\"metrics\":{{\"cpu_percent\":{rule}}}}}}}");
    let whole =
        "{\"heartbeat_s\":3600,\"log\":\"off\",\"telemetry\":{\"sample_s\":600}}".to_owned();
    for (settings, is_taken) in [
        (whole, true),
        (
            of_cpu("{\"deadband\":0,\"min_interval_s\":1,\"keep_alive_s\":86400}"),
            true,
        ),
        (of_cpu("{\"alert_above\":80,\"alert_clear\":70}"), true),
        ("{\"heartbeat\":5}".to_owned(), false),
        ("{\"heartbeat_s\":0}".to_owned(), false),
        ("{\"heartbeat_s\":3601}".to_owned(), false),
        ("{\"log\":\"loud\"}".to_owned(), false),
        ("{\"telemetry\":{\"sample_s\":601}}".to_owned(), false),
        (
            "{\"telemetry\":{\"metrics\":{\"cpu\":{}}}}".to_owned(),
            false,
        ),
        (of_cpu("{\"dead\":1}"), false),
        (of_cpu("{\"deadband\":-1}"), false),
        (of_cpu("{\"keep_alive_s\":86401}"), false),
        (of_cpu("{\"alert_above\":1,\"alert_below\":2}"), false),
    ] {
        let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
        let layer = layer(&settings);
        let config = desired::over(&minimal(""), "a", &layer, &environment(&[]), "a");
        let relay = lekiwi_protocol::message::check_settings(&layer.settings);
        assert_eq!(
            (config.is_ok(), relay.is_ok()),
            (is_taken, is_taken),
            "{settings}"
        );
    }
}
