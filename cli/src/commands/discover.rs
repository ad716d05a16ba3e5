//! `lekiwi discover`: listens on this machine's networks, asks each address of one if wanted, and asks
//! the relay, if there is a login, which of those found it knows.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lekiwi_discovery::presence::{News, Presence, Purpose};
use lekiwi_discovery::robots::{self, Context};
use lekiwi_discovery::{Found, neighbours, scan};
use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::DiscoveredRobot;
use lekiwi_protocol::discovery::ad::{RELAYS, ROBOTS, RelayAd};
use serde::Serialize;

use crate::args::Discover;
use crate::client::Relay;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::ui::{Ui, plain};
use crate::{clock, show};

const KINDS: &[&str] = &[ROBOTS, RELAYS];

#[derive(Debug, Serialize)]
struct Answer {
    robots: Vec<DiscoveredRobot>,
    relays: Vec<FoundRelay>,
}

/// A relay that says it is there.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct FoundRelay {
    id: String,
    addresses: Vec<String>,
    https: u16,
    mqtt: u16,
    ca_fingerprint: String,
}

pub(super) async fn run(
    arguments: &Discover,
    environment: &Environment,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let scanned = async {
        match arguments.scan {
            None => Ok(Vec::new()),
            Some(network) => scan::scan(network, KINDS, arguments.force).await,
        }
    };
    let listening = listen(Duration::from_secs(arguments.seconds.into()), ui);
    let (heard, answered) = tokio::join!(listening, scanned);
    let answered = answered.map_err(Failure::Scan)?;
    let (mut robots, mut relays) = match heard {
        Ok(heard) => heard,
        // Who asks each address can do without multicast.
        Err(failure) if arguments.scan.is_none() => return Err(failure),
        Err(failure) => {
            ui.note(format!("not listening: {failure}"));
            (Vec::new(), Vec::new())
        }
    };
    for (kind, found) in answered {
        match kind {
            ROBOTS => robots.push(found),
            _ => relays.push(found),
        }
    }
    let addresses = robots
        .iter()
        .flat_map(|robot| robot.addresses.iter().copied());
    if let Err(error) = neighbours::meet(addresses).await {
        ui.note(format!("Ethernet addresses may be missing: {error}"));
    }
    let known = known(environment, ui).await;
    let context = Context {
        neighbours: &neighbours::list(),
        registered: &|id| known.as_ref().map(|known| known.contains(id)),
        now: (clock::monotonic(), clock::now()),
    };
    let answer = Answer {
        robots: robots::list(&robots, &context),
        relays: list_relays(&relays),
    };
    if arguments.output.json {
        return super::json(ui, &answer);
    }
    ui.line(show::discovered(&answer.robots, ui.colour))?;
    for line in remarks(&answer) {
        ui.note(line);
    }
    Ok(())
}

async fn listen(time: Duration, ui: &mut Ui) -> Result<(Vec<Found>, Vec<Found>), Failure> {
    let news = Arc::new(Mutex::new(Vec::new()));
    let told = news.clone();
    let presence = Presence::start(Purpose {
        service: None,
        hear: KINDS,
        tell: Box::new(move |one| {
            told.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(one.clone());
        }),
    });
    tokio::time::sleep(time).await;
    let heard = (presence.found(ROBOTS).await, presence.found(RELAYS).await);
    presence.leave().await;
    let news = std::mem::take(&mut *news.lock().unwrap_or_else(PoisonError::into_inner));
    let trouble = |one: &News| match one {
        News::Trouble { interface, reason } => Some(format!("{interface}: {reason}")),
        _ => None,
    };
    let troubles: Vec<String> = news.iter().filter_map(trouble).collect();
    if !news.iter().any(|one| matches!(one, News::On { .. })) {
        return Err(Failure::NoNetwork(troubles));
    }
    for trouble in troubles {
        ui.note(format!("not listening on {trouble}"));
    }
    Ok(heard)
}

/// The robots that the relay knows; `None` when there is no login, or no answer.
async fn known(environment: &Environment, ui: &mut Ui) -> Option<BTreeSet<RobotId>> {
    let relay = match Relay::of(environment) {
        Ok(relay) => relay,
        Err(Failure::NotLoggedIn | Failure::NoConfigDir) => {
            ui.note("not logged in: whether a robot is registered is what it says itself");
            return None;
        }
        Err(failure) => {
            ui.note(format!("the relay was not asked: {failure}"));
            return None;
        }
    };
    match relay.robots(None).await {
        Ok(list) => Some(list.robots.into_iter().map(|robot| robot.id).collect()),
        Err(failure) => {
            ui.note(format!(
                "the relay did not answer: {}",
                plain(&failure.to_string())
            ));
            None
        }
    }
}

fn list_relays(found: &[Found]) -> Vec<FoundRelay> {
    let mut relays: Vec<FoundRelay> = found
        .iter()
        .filter_map(|found| {
            let ad = RelayAd::read(&found.txt)?;
            Some(FoundRelay {
                id: ad.id.to_string(),
                addresses: found.addresses.iter().map(ToString::to_string).collect(),
                https: ad.https,
                mqtt: ad.mqtt,
                ca_fingerprint: ad.ca_fingerprint,
            })
        })
        .collect();
    relays.sort();
    relays.dedup();
    relays
}

fn remarks(answer: &Answer) -> Vec<String> {
    let mut remarks = Vec::new();
    let shared: BTreeSet<&RobotId> = answer
        .robots
        .iter()
        .filter(|robot| robot.conflict)
        .map(|robot| &robot.id)
        .collect();
    for id in shared {
        let same = answer.robots.iter().filter(|robot| robot.id == *id);
        let places: Vec<String> = same.map(|robot| robot.addresses.join(", ")).collect();
        remarks.push(format!(
            "! {} machines say that they are {id}, at {}; only one of them can be registered",
            places.len(),
            places.join(" and ")
        ));
    }
    for relay in &answer.relays {
        let address = relay.addresses.first().map_or("", String::as_str);
        remarks.push(format!(
            "relay {} is at https://{address}:{} and says that its authority is {}",
            relay.id,
            relay.https,
            plain(&relay.ca_fingerprint)
        ));
    }
    remarks
}
