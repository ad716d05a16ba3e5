//! The configuration is read again while the agent runs.

use std::fs;

use lekiwi_protocol::trace::TraceParent;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::broker::{Site, status};
use crate::support::eventually;

/// Changes the file.
fn edit(site: &Site, from: &str, to: &str) {
    let path = site.folder.path().join("agent.yml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn configuration(site: &Site) -> Value {
    status(site).unwrap()["configuration"].clone()
}

#[tokio::test]
async fn a_reload_keeps_the_connection_and_a_wrong_file_changes_nothing() {
    let site = Site::start().await;
    edit(&site, "heartbeat_s: 1\n", "heartbeat_s: 3600\n");
    let ears = site.listen();
    let agent = site.agent();
    let session = ears.connection(&site, "ONLINE").await.body["payload"]["session"].clone();
    eventually("the agent is connected", || {
        status(&site).is_some_and(|status| status["phase"] == "Connected")
    })
    .await;
    let reload = |site: &Site| {
        let output = site.run(&["reload"]);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    };

    edit(&site, "heartbeat_s: 3600\n", "heartbeat_s: 1\n");
    agent.signal(Signal::SIGHUP);
    let pulse = ears.wait(&site, "heartbeat", "heartbeat", |_| true).await;
    assert_eq!(pulse.body["payload"]["session"], session);

    edit(&site, "heartbeat_s: 1\n", "heartbeat: 1\n");
    agent.signal(Signal::SIGHUP);
    let at = site.folder.path().join("agent.yml");
    let refused = |site: &Site| configuration(site)["refused"].clone();
    eventually("the wrong file is refused", || !refused(&site).is_null()).await;
    let why = refused(&site).as_str().unwrap().to_owned();
    let begins = format!(
        "unknown key \"heartbeat\" at {}:13:1, expected one of ",
        at.display()
    );
    assert!(why.starts_with(&begins), "{why}");
    assert!(
        why.ends_with(" (hint: did you mean \"heartbeat_s\"?)"),
        "{why}"
    );
    let logged = format!("the configuration stays as it was: {why}");
    assert!(site.log().contains(&logged), "{}", site.log());
    let (code, _, said) = reload(&site);
    let expected = format!("error: {why}\n  (hint: the configuration stays as it was)\n");
    assert_eq!((code, said), (78, expected));
    ears.forget();
    ears.wait(&site, "heartbeat", "the old one counts", |_| true)
        .await;

    edit(&site, "heartbeat: 1\n", "heartbeat_s: 1\nlog: debug\n");
    edit(&site, "profile: lekiwi\n", "profile: generic\n");
    edit(&site, "https://127.0.0.1:1\n", "https://127.0.0.1:2\n");
    let (code, said, _) = reload(&site);
    assert_eq!(
        (code, said.as_str()),
        (
            0,
            "the configuration is in force, but for profile, relay.https: `systemctl restart lekiwi-agent`\n"
        )
    );
    let now = configuration(&site);
    assert_eq!(
        (&now["refused"], &now["waiting"]),
        (&Value::Null, &json!(["profile", "relay.https"]))
    );
    assert!(
        site.log()
            .contains("relay.https is another one in the file, which counts from the next start")
    );
    edit(&site, "profile: generic\n", "profile: lekiwi\n");
    edit(&site, "https://127.0.0.1:2\n", "https://127.0.0.1:1\n");
    let (code, said, _) = reload(&site);
    assert_eq!(
        (code, said.as_str()),
        (0, "the configuration is in force\n")
    );
    assert_eq!(status(&site).unwrap()["session"], session);
    let connections = ears.all("connection");
    assert!(
        connections
            .iter()
            .all(|heard| heard.body["payload"]["session"] == session)
    );
}

#[tokio::test]
async fn traces_begin_with_messages_of_events_as_often_as_the_configuration_says() {
    let mut site = Site::start().await;
    edit(
        &site,
        "heartbeat_s: 1\n",
        "heartbeat_s: 1\ntraces: {sample: 0}\n",
    );
    let ears = site.listen();
    let agent = site.agent();
    let events = ears.wait(&site, "events", "events", |_| true).await;
    assert_eq!(events.properties, []);

    edit(&site, "sample: 0}", "sample: 1.5}");
    agent.signal(Signal::SIGHUP);
    let refused = |site: &Site| configuration(site)["refused"].clone();
    eventually("the wrong file is refused", || {
        let said = refused(&site).to_string();
        said.contains("expected a share from 0 to 1, got 1.5")
    })
    .await;
    edit(&site, "sample: 1.5}", "sample: 1}");
    agent.signal(Signal::SIGHUP);
    eventually("the file is read", || refused(&site).is_null()).await;
    // Nobody has acknowledged them: they are sent again, on a new connection.
    site.broker = None;
    ears.forget();
    site.start_broker().await;
    let events = ears.wait(&site, "events", "events", |_| true).await;
    let [(name, value)] = &events.properties[..] else {
        panic!("expected a property, got {:?}", events.properties);
    };
    assert_eq!(name, "traceparent");
    let trace = TraceParent::parse(value).unwrap();
    assert!(trace.is_sampled);
    let pulse = ears.wait(&site, "heartbeat", "heartbeat", |_| true).await;
    assert_eq!(pulse.properties, []);
}
