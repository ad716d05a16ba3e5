//! `lekiwi watch`: the live stream as lines, for as long as somebody looks. Comes back after the relay
//! did; gives up only where waiting cannot help.

use std::time::Duration;

use lekiwi_protocol::api::{Lagged, Live};

use crate::args::Watch;
use crate::client::Relay;
use crate::failure::Failure;
use crate::show;
use crate::sse::{Event, Parser};
use crate::ui::Ui;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

pub(super) async fn run(relay: &Relay, arguments: &Watch, ui: &mut Ui) -> Result<(), Failure> {
    // What fails at once is told at once; only a stream that has been there is waited for.
    let mut response = relay.stream(arguments.id.as_ref(), None).await?;
    let mut last: Option<String> = None;
    loop {
        let mut parser = Parser::default();
        let broken = loop {
            match response.chunk().await {
                Ok(Some(bytes)) => {
                    for event in parser.push(&bytes) {
                        take(&event, arguments, ui)?;
                    }
                    ui.flush()?;
                }
                Ok(None) => break None,
                Err(source) => break Some(relay.unreachable(source)),
            }
        };
        ui.note(match broken {
            Some(failure) => format!("reconnecting: {failure}"),
            None => format!(
                "reconnecting: the relay at {} ended the stream",
                relay.url()
            ),
        });
        if let Some(id) = parser.last_event_id() {
            last = Some(id.to_owned());
        }
        let mut pause = FIRST_PAUSE;
        response = loop {
            tokio::time::sleep(pause).await;
            match relay.stream(arguments.id.as_ref(), last.as_deref()).await {
                Ok(response) => break response,
                Err(failure) if failure.is_temporary() => pause = (pause * 2).min(LONGEST_PAUSE),
                Err(failure) => return Err(failure),
            }
        };
        ui.note("reconnected; the events that happened meanwhile come first");
    }
}

fn take(event: &Event, arguments: &Watch, ui: &mut Ui) -> Result<(), Failure> {
    if event.name == "lagged" {
        if let Ok(Lagged { dropped, .. }) = serde_json::from_str(&event.data) {
            ui.note(format!(
                "{dropped} messages were left out: this terminal is too slow"
            ));
        }
        return Ok(());
    }
    // What the relay says of the stream itself: the newest of each robot still comes.
    if matches!(event.name.as_str(), "slowed" | "resumed" | "replayed") {
        return Ok(());
    }
    let live: Live = serde_json::from_str(&event.data).map_err(|source| Failure::Body {
        expected: "live messages",
        source,
    })?;
    if arguments.json {
        // One object a line, also if the sender's JSON had line ends in it.
        let line = serde_json::to_string(&live).map_err(|source| Failure::Output(source.into()))?;
        ui.line(line)
    } else {
        ui.line(show::live(&live))
    }
}
