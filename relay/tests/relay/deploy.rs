//! What is shipped to run relays in containers and on other brokers, held against what relays take. Docker, Kubernetes and
//! EMQX themselves are not asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use axum::http::Method;
use clap::Parser;
use lekiwi_relay::cli::{Cli, Command};
use lekiwi_relay::config::{self, Config};
use lekiwi_relay::http::routes::{self, Needs};
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents(path: &Path, text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: &Path) -> Value {
    documents(path, &text(path)).remove(0)
}

/// All files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

fn strings(list: &Value) -> Vec<&str> {
    let items = list.as_array().into_iter().flatten();
    items.map(|item| item.as_str().expect("a text")).collect()
}

fn cli(arguments: &[&str]) -> Cli {
    let words = [&["lekiwi-relay"], arguments].concat();
    Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

/// What a relay makes of a file, under variables.
fn configuration(path: &Path, variables: &BTreeMap<String, String>) -> Config {
    let (environment, warnings) = config::environment(variables.clone());
    assert_eq!(warnings, Vec::<String>::new());
    let file = config::parse(path, &text(path)).expect("a configuration");
    environment
        .over(file)
        .check()
        .expect("a configuration that can be used")
}

/// Whom the rules of Mosquitto let do what where.
fn rules_of_mosquitto() -> BTreeSet<(String, &'static str, String)> {
    let mut who = "all".to_owned();
    let mut rules = BTreeSet::new();
    for line in text(&deploy().join("mosquitto/acl")).lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["user", user] => user.clone_into(&mut who),
            ["pattern" | "topic", "read", filter] => {
                rules.insert((
                    who.clone(),
                    "subscribe",
                    filter.replace("%u", "${username}"),
                ));
            }
            ["pattern" | "topic", "write", filter] => {
                rules.insert((who.clone(), "publish", filter.replace("%u", "${username}")));
            }
            _ => assert!(line.is_empty() || line.starts_with('#'), "{line}"),
        }
    }
    rules
}

#[test]
fn every_yaml_file_is_one() {
    let files = files(&deploy());
    let mut count = 0;
    for path in &files {
        if path
            .extension()
            .is_some_and(|ending| ending == "yml" || ending == "yaml")
        {
            assert!(
                !documents(path, &text(path)).is_empty(),
                "{}",
                path.display()
            );
            count += 1;
        }
    }
    assert!(count > 10, "{files:?}");
}

#[test]
fn compose_has_what_relays_take() {
    let folder = deploy().join("compose");
    let path = folder.join("compose.yml");
    let interpolated = text(&path)
        .replace("${RELAY_IMAGE:-lekiwi-relay:0.1.0}", "RELAY")
        .replace("${FLEET_HOST}", "fleet.example.org")
        .replace(
            "${FLEET_HOST:?the name by which robots and people reach this machine}",
            "fleet.example.org",
        );
    assert!(!interpolated.contains("${"), "{interpolated}");
    assert!(text(&path).contains(&format!("lekiwi-relay:{}}}", env!("CARGO_PKG_VERSION"))));
    let compose = documents(&path, &interpolated).remove(0);

    let mut relays = Vec::new();
    for (name, service) in compose["services"].as_object().expect("services") {
        // What is mounted is there, and no secret of anybody is in the repository.
        for mount in strings(&service["volumes"]) {
            let source = mount.split(':').next().expect("a source");
            if source.starts_with('.') {
                let is_there = folder.join(source).exists();
                assert_eq!(
                    is_there,
                    !source.starts_with("./secrets/"),
                    "{name}: {mount}"
                );
            } else {
                assert!(compose["volumes"].get(source).is_some(), "{name}: {mount}");
            }
        }
        for secret in strings(&service["secrets"]) {
            let file = compose["secrets"][secret]["file"].as_str().expect("a file");
            assert!(file.starts_with("./secrets/"), "{name}: {file}");
        }
        if service["image"] != "RELAY" {
            continue;
        }
        let Command::Run(_) = cli(&strings(&service["command"])).command else {
            continue;
        };
        relays.push(name.as_str());
        assert_eq!(service["hostname"], name.as_str());

        let variables: BTreeMap<String, String> =
            serde_json::from_value(service["environment"].clone()).expect("texts");
        let config = configuration(&folder.join("relay.yml"), &variables);
        assert!(
            strings(&service["volumes"])
                .contains(&format!("./relay.yml:{}:ro", variables["LEKIWI_RELAY_CONFIG"]).as_str())
        );
        let shared = format!(":{}", variables["LEKIWI_RELAY_SHARED"]);
        assert!(
            strings(&service["volumes"])
                .iter()
                .any(|mount| mount.ends_with(&shared))
        );
        let own = format!("{}:uid=65532,", variables["LEKIWI_RELAY_DATA"]);
        assert!(strings(&service["tmpfs"])[0].starts_with(&own));
        let password = config
            .store
            .expect("a database")
            .password_file
            .expect("a file");
        let secret = password.strip_prefix("/run/secrets").expect("a secret");
        assert!(strings(&service["secrets"]).contains(&secret.to_str().expect("a name")));
        let door = &compose["services"]["door"]["networks"]["fleet"]["ipv4_address"];
        let door = door
            .as_str()
            .expect("an address")
            .parse()
            .expect("an address");
        assert!(config.limits.trusts(door));

        let check = strings(&service["healthcheck"]["test"]);
        assert_eq!(check[..2], ["CMD", "/usr/bin/lekiwi-relay"]);
        let Command::Ready(ready) = cli(&check[2..]).command else {
            panic!("expected to ask whether it is ready, got {check:?}");
        };
        assert_eq!(
            ready.url,
            format!("https://localhost:{}", config.https.port())
        );
    }
    assert_eq!(relays, ["relay-1", "relay-2"]);

    // Whoever names them names all of them.
    let publishes = |relay: &str| {
        let topic = format!("fleet/v1/default/relays/{relay}");
        (format!("relay:{relay}"), "publish", topic)
    };
    let haproxy = text(&folder.join("haproxy.cfg"));
    let prometheus = yaml(&folder.join("prometheus.yml"));
    let targets = strings(&prometheus["scrape_configs"][0]["static_configs"][0]["targets"]);
    for relay in relays {
        assert!(rules_of_mosquitto().contains(&publishes(relay)), "{relay}");
        let server = format!("server {relay} {relay}:8443");
        assert_eq!(haproxy.matches(&server).count(), 2, "{relay}");
        assert!(targets.contains(&format!("{relay}:8443").as_str()));
    }
    assert_eq!(haproxy.matches("    server ").count(), 4);
    assert_eq!(targets.len(), 2);
}

/// What a folder of kustomize has, those that it names included.
fn kustomized(folder: &Path) -> Vec<Value> {
    let path = folder.join("kustomization.yaml");
    let kustomization = yaml(&path);
    let mut all = Vec::new();
    for resource in strings(&kustomization["resources"]) {
        let resource = folder.join(resource);
        if resource.is_dir() {
            all.extend(kustomized(&resource));
        } else {
            all.extend(documents(&resource, &text(&resource)));
        }
    }
    for generator in kustomization["configMapGenerator"]
        .as_array()
        .into_iter()
        .flatten()
    {
        for file in strings(&generator["files"]) {
            // Others are refused by kustomize.
            let parts: Vec<_> = Path::new(file).components().collect();
            assert!(matches!(parts[..], [Component::Normal(_)]), "{file}");
            assert!(folder.join(file).exists(), "{file}");
        }
        let mut generator = generator.clone();
        generator["kind"] = "ConfigMapGenerator".into();
        all.push(generator);
    }
    all.push(kustomization);
    all
}

#[test]
fn kubernetes_has_what_relays_take() {
    let folder = deploy().join("kubernetes");
    let base = kustomized(&folder.join("base"));
    let trial = kustomized(&folder.join("trial"));
    let of_kind = |kind: &'static str| base.iter().filter(move |object| object["kind"] == kind);
    let tag = of_kind("Kustomization")
        .find_map(|object| object["images"][0]["newTag"].as_str())
        .expect("a tag");
    assert_eq!(tag, env!("CARGO_PKG_VERSION"));
    let names = of_kind("ConfigMapGenerator")
        .find(|generator| generator["name"] == "names")
        .map(|generator| strings(&generator["literals"]))
        .expect("names");
    let names: BTreeMap<&str, &str> = names
        .into_iter()
        .map(|literal| literal.split_once('=').expect("NAME=VALUE"))
        .collect();

    let relay = of_kind("StatefulSet")
        .find(|set| set["metadata"]["name"] == "relay")
        .expect("relays");
    let start = relay["spec"]["ordinals"]["start"]
        .as_u64()
        .expect("a number");
    let replicas = relay["spec"]["replicas"].as_u64().expect("a number");
    let container = &relay["spec"]["template"]["spec"]["containers"][0];
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    let is_mounted = |path: &Path| {
        let of = |mount: &Value| path.starts_with(mount["mountPath"].as_str().expect("a path"));
        mounts.iter().any(of)
    };
    assert!(matches!(
        cli(&strings(&container["args"])).command,
        Command::Run(_)
    ));
    for pod in (start..start + replicas).map(|number| format!("relay-{number}")) {
        let variables: BTreeMap<String, String> = container["env"]
            .as_array()
            .expect("variables")
            .iter()
            .map(|variable| {
                let from = &variable["valueFrom"];
                let value = match (&variable["value"], &from["configMapKeyRef"]["key"]) {
                    (Value::String(value), _) => value.clone(),
                    (_, Value::String(key)) => names[key.as_str()].to_owned(),
                    _ => {
                        assert_eq!(from["fieldRef"]["fieldPath"], "metadata.name");
                        pod.clone()
                    }
                };
                (variable["name"].as_str().expect("a name").to_owned(), value)
            })
            .collect();
        for variable in [
            "LEKIWI_RELAY_CONFIG",
            "LEKIWI_RELAY_DATA",
            "LEKIWI_RELAY_SHARED",
        ] {
            assert!(is_mounted(Path::new(&variables[variable])), "{variable}");
        }
        for overlay in ["base", "trial"] {
            let config = configuration(&folder.join(overlay).join("relay.yml"), &variables);
            assert_eq!(config.relay_id.expect("an id").as_str(), pod);
            assert_eq!(container["ports"][0]["containerPort"], config.https.port());
            let store = config.store.expect("a database");
            assert!(is_mounted(&store.password_file.expect("a file")));
            assert!(store.ca.is_none_or(|file| is_mounted(&file)));
            // The broker's name is that of its service, and of its certificate.
            let broker = config.broker.expect("a broker").to_string();
            assert_eq!(broker, "broker:8883");
        }
        let publishes = format!("fleet/v1/default/relays/{pod}");
        assert!(rules_of_mosquitto().contains(&(format!("relay:{pod}"), "publish", publishes)));
    }

    // What probes ask, everybody may.
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let path = container[probe]["httpGet"]["path"]
            .as_str()
            .expect("a path");
        let route = routes::find(&Method::GET, path).expect("a route");
        assert_eq!(route.needs, Needs::Open, "{probe}");
    }

    let certificate = of_kind("StatefulSet")
        .find_map(|set| set["spec"]["template"]["spec"]["initContainers"].get(0))
        .expect("whoever makes the broker's certificate");
    let arguments: Vec<String> = strings(&certificate["args"])
        .iter()
        .map(|argument| argument.replace("$(BROKER_NAME)", names["BROKER_NAME"]))
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert!(matches!(cli(&arguments).command, Command::Ca(_)));
    assert!(arguments.contains(&"--name=broker"));

    // What is mounted of volumes is there, and services find somebody.
    let mut labels = BTreeSet::new();
    for set in trial
        .iter()
        .filter(|object| object["kind"] == "StatefulSet")
    {
        let pod = &set["spec"]["template"];
        labels.insert(pod["metadata"]["labels"].to_string());
        assert_eq!(
            set["spec"]["selector"]["matchLabels"],
            pod["metadata"]["labels"]
        );
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let claims = set["spec"]["volumeClaimTemplates"]
            .as_array()
            .into_iter()
            .flatten();
        let volumes: BTreeSet<&str> = volumes
            .map(|volume| &volume["name"])
            .chain(claims.map(|claim| &claim["metadata"]["name"]))
            .map(|name| name.as_str().expect("a name"))
            .collect();
        for container in [&pod["spec"]["containers"], &pod["spec"]["initContainers"]] {
            for container in container.as_array().into_iter().flatten() {
                for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                    let name = mount["name"].as_str().expect("a name");
                    assert!(volumes.contains(name), "{mount}");
                }
            }
        }
    }
    for service in trial.iter().filter(|object| object["kind"] == "Service") {
        assert!(
            labels.contains(&service["spec"]["selector"].to_string()),
            "{service}"
        );
    }
}

#[test]
fn the_rules_for_emqx_are_those_for_mosquitto() {
    let emqx = text(&deploy().join("emqx/acl.conf"));
    let lines = emqx.lines().filter(|line| !line.starts_with("%%"));
    let terms = lines.collect::<Vec<_>>().join(" ");
    let mut rules = BTreeSet::new();
    let mut last = "";
    for term in terms
        .split("}.")
        .map(str::trim)
        .filter(|term| !term.is_empty())
    {
        last = term;
        let Some((head, filters)) = term.split_once('[') else {
            continue;
        };
        let quoted = |text: &str| -> Vec<String> {
            text.split('"')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        };
        let who = quoted(head).pop().unwrap_or_else(|| "all".to_owned());
        let what = if head.ends_with("publish, ") {
            "publish"
        } else {
            "subscribe"
        };
        assert!(
            head.starts_with("{allow, ") && head.contains(what),
            "{term}"
        );
        for filter in quoted(filters) {
            rules.insert((who.clone(), what, filter));
        }
    }
    assert_eq!(rules, rules_of_mosquitto());
    assert_eq!(last, "{deny, all");
}
