//! `lekiwi alerts …`.

use std::path::Path;

use lekiwi_protocol::alert::{Matchers, Rule};
use lekiwi_protocol::api::{AcknowledgeRequest, SilenceRequest};
use lekiwi_protocol::yaml;

use crate::args::alerts::Alerts;
use crate::client::Relay;
use crate::failure::Failure;
use crate::show;
use crate::ui::Ui;

pub(super) async fn run(relay: &Relay, alerts: Alerts, ui: &mut Ui) -> Result<(), Failure> {
    match alerts {
        Alerts::List(wanted) => {
            let list = relay.alerts(&wanted).await?;
            if wanted.output.json {
                return super::json(ui, &list);
            }
            ui.line(show::alerts(&list, wanted.state, ui.colour))
        }
        Alerts::History(wanted) => {
            let history = relay.alert_history(&wanted).await?;
            if wanted.output.json {
                return super::json(ui, &history);
            }
            ui.line(show::alert_history(&history, ui.colour))
        }
        Alerts::Ack(arguments) => {
            let request = AcknowledgeRequest {
                comment: arguments.comment,
            };
            let alert = relay.acknowledge(&arguments.id, &request).await?;
            if arguments.output.json {
                return super::json(ui, &alert);
            }
            ui.line(format!("acknowledged {}", show::alert(&alert)))
        }
        Alerts::Silence(arguments) => {
            let request = SilenceRequest {
                matchers: Matchers {
                    rules: arguments.rules,
                    robots: arguments.robots,
                    severity: arguments.severity,
                },
                duration_s: arguments.duration.as_secs(),
                comment: arguments.comment,
            };
            let silence = relay.silence(&request).await?;
            if arguments.output.json {
                return super::json(ui, &silence);
            }
            ui.line(show::silence(&silence))
        }
        Alerts::Silences(output) => {
            let list = relay.silences().await?;
            if output.json {
                return super::json(ui, &list);
            }
            ui.line(show::silences(&list.silences))
        }
        Alerts::Unsilence { id } => {
            relay.unsilence(id).await?;
            ui.line(format!("ended {id}"))
        }
        Alerts::Rules(output) => {
            let list = relay.alert_rules().await?;
            if output.json {
                return super::json(ui, &list);
            }
            ui.line(show::rules(&list.rules, ui.colour))
        }
        Alerts::SetRule(arguments) => {
            let rule = read(&arguments.file)?;
            let view = relay.set_alert_rule(&rule).await?;
            if arguments.output.json {
                return super::json(ui, &view);
            }
            ui.line(format!("rule {} is in force", view.rule.id))
        }
        Alerts::RemoveRule { name } => {
            relay.remove_alert_rule(&name).await?;
            ui.line(format!("removed {name}"))
        }
    }
}

fn read(path: &Path) -> Result<Rule, Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| Failure::File {
        path: path.to_owned(),
        did: "read",
        source,
    })?;
    yaml::parse(&text, &path.display().to_string()).map_err(Failure::Settings)
}
