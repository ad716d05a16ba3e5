//! What robots say is text, whatever it looks like: every string of every message that the dashboard shows is markup here,
//! and no page, in a real browser, takes any of it for markup.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::api::RefusedList;
use lekiwi_protocol::{FromRobot, RobotId, Root, Timestamp};
use lekiwi_tests::fleet::{Admin, Endpoint, Identity, Wire};
use lekiwi_tests::harness::{Browser, Relay};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Elements that only hostile strings could have made.
const MARKUP: &str = "return document.querySelectorAll(\
     '[onerror],[onload],img[src=x],a[href^=javascript],script:not([src]),iframe').length";
/// Everything that a page shows, titles and placeholders included.
const SHOWN: &str = "return document.body.innerText + \
     [...document.querySelectorAll('*')].flatMap(e => [...e.attributes].map(a => a.value)).join(' ')";

/// A string that every place where markup can be takes for markup; `n` tells which one it was.
fn hostile(n: usize) -> String {
    format!(
        "h{n}h\"'></title></style><img src=x onerror=\"window.pwned={n}\"><script>window.pwned={n}</script>\
         <a href=javascript:window.pwned={n}>"
    )
}

/// Messages with every property that a schema names, every free string of them hostile.
struct Sampler {
    definitions: Map<String, Value>,
    strings: usize,
}

impl Sampler {
    fn message(name: &str, strings: usize) -> Result<(Value, usize)> {
        let path = format!(
            "{}/../protocol/schemas/{name}.schema.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let schema: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let definitions = schema["$defs"].as_object().cloned().unwrap_or_default();
        let mut sampler = Self {
            definitions,
            strings,
        };
        let value = sampler.value(&schema)?;
        Ok((value, sampler.strings))
    }

    fn hostile(&mut self) -> Value {
        self.strings += 1;
        json!(hostile(self.strings))
    }

    fn value(&mut self, schema: &Value) -> Result<Value> {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default();
            let definition = self.definitions.get(name).cloned();
            return self.value(&definition.with_context(|| format!("expected {reference}"))?);
        }
        if let Some(value) = schema.get("const") {
            return Ok(value.clone());
        }
        if let Some(value) = schema["enum"].get(0) {
            return Ok(value.clone());
        }
        for key in ["oneOf", "anyOf"] {
            let variants = schema[key].as_array().into_iter().flatten();
            if let Some(variant) = variants
                .into_iter()
                .find(|variant| variant["type"] != "null")
            {
                return self.value(variant);
            }
        }
        let kind = &schema["type"];
        let kind = kind.as_str().or_else(|| kind[0].as_str());
        Ok(match (kind, schema["format"].as_str()) {
            (Some("string"), Some("uuid")) => json!(Uuid::new_v4()),
            (Some("string"), Some("date-time")) => json!(now()),
            (Some("string"), _) if schema["pattern"].is_string() => json!("kiwi-01"),
            (Some("string"), _) => self.hostile(),
            (Some("integer" | "number"), _) => json!(7),
            (Some("boolean"), _) => json!(true),
            (Some("array"), _) => json!([self.value(&schema["items"])?]),
            (Some("object"), _) => {
                let mut object = Map::new();
                for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                    object.insert(name.clone(), self.value(property)?);
                }
                if schema["additionalProperties"].is_object() {
                    // Names of metrics are no free strings.
                    let value = self.value(&schema["additionalProperties"])?;
                    object.insert("cpu_percent".to_owned(), value);
                }
                object.into()
            }
            // Anything.
            _ => json!({ "words": self.hostile() }),
        })
    }
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// A robot that says all of it.
async fn speak(relay: &Relay, identity: &Identity) -> Result<usize> {
    let endpoint: Endpoint = relay.mqtt().parse()?;
    let tls = Arc::new(identity.client_config()?);
    let client = identity.id.to_string();
    let mut wire = Wire::connect(tls, endpoint, client, 600, None).await?;
    let session = Uuid::new_v4();
    let mut strings = 0;
    for (sequence, (name, from)) in [
        ("connection", FromRobot::Connection),
        ("factsheet", FromRobot::Factsheet),
        ("state", FromRobot::State),
        ("reported", FromRobot::Reported),
        ("events", FromRobot::Events),
    ]
    .into_iter()
    .enumerate()
    {
        let (mut message, so_far) = Sampler::message(name, strings)?;
        strings = so_far;
        message["type"] = json!(name);
        message["robot_id"] = json!(identity.id);
        message["sequence"] = json!(sequence);
        let payload = &mut message["payload"];
        if payload.get("session").is_some() {
            payload["session"] = json!(session);
        }
        match name {
            // Both are of a form that is checked.
            "state" => payload["aliases"] = json!([]),
            "events" => {
                payload["events"][0]["seq"] = json!(1);
                payload["events"][0]["type"] = json!("service.changed");
            }
            _ => {}
        }
        let topic = Root::default().from_robot(&identity.id, from.clone());
        let body = serde_json::to_vec(&message)?;
        wire.publish(
            topic.to_string(),
            QoS::AtLeastOnce,
            from.is_retained(),
            body,
        )?;
        wire.flush().await?;
        let answer = tokio::time::timeout(Duration::from_secs(10), wire.receive()).await??;
        ensure!(
            matches!(answer, Packet::PubAck(_)),
            "expected {name} to be taken, got {answer:?}"
        );
    }
    // It stays, so that nobody takes it for gone.
    tokio::spawn(async move { while wire.receive().await.is_ok() {} });
    Ok(strings)
}

#[tokio::test]
async fn no_page_takes_what_robots_say_for_markup() -> Result<()> {
    let relay = Relay::start()?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let folder = tempfile::tempdir()?;
    let robot: RobotId = "kiwi-01".parse()?;
    let identity = Identity::enrol(&admin, folder.path(), robot.clone()).await?;
    let strings = speak(&relay, &identity).await?;
    let events = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let events = admin.events(&robot).await?;
            if events.iter().any(|event| event.kind == "service.changed") {
                return anyhow::Ok(events);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    events.await.context("expected the event in the log")??;
    let refused: RefusedList = admin.read("/api/v1/refused").await?;
    ensure!(
        refused.refused.is_empty(),
        "expected every message to be taken, got {:?}",
        refused.refused
    );

    let browser = Browser::start().await?;
    let base = format!("https://{}", relay.https());
    let password = std::fs::read_to_string(relay.admin_password_file())?;
    browser.log_in(&base, "admin", password.trim()).await?;
    let mut shown = String::new();
    for (page, css) in [
        ("#/", "[data-robot='kiwi-01'] .c-agent"),
        ("#/robots/kiwi-01", "[data-event='service.changed']"),
        ("#/alerts", "main"),
    ] {
        browser.open(&format!("{base}/{page}")).await?;
        browser.text(css, |text| !text.is_empty()).await?;
        let markup = browser.script(MARKUP).await?;
        ensure!(
            markup == 0,
            "expected text on {page}, got {markup} elements"
        );
        let pwned = browser.script("return window.pwned ?? null").await?;
        ensure!(
            pwned.is_null(),
            "expected {page} to run nothing, string {pwned} did"
        );
        shown.push_str(browser.script(SHOWN).await?.as_str().unwrap_or_default());
    }
    // They are there, so it was text that they became.
    let seen: Vec<usize> = (1..=strings)
        .filter(|n| {
            shown.contains(&format!("h{n}h\"'></title>"))
                || shown.contains(&format!("h{n}h\\\"'></title>"))
        })
        .collect();
    ensure!(
        seen.len() * 2 > strings,
        "expected most of {strings} strings to be shown, got {seen:?}"
    );
    // What is looked for is found where it is.
    let planted = format!(
        "document.body.insertAdjacentHTML('beforeend', {});",
        json!(hostile(0))
    );
    browser.script(&planted).await?;
    ensure!(
        browser.script(MARKUP).await? != 0,
        "expected markup to be found"
    );
    // And even then the page's policy lets none of it run.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let pwned = browser.script("return window.pwned ?? null").await?;
    ensure!(pwned.is_null(), "expected the page's policy to stop it");
    browser.close().await
}
