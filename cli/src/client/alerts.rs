//! Alerts, rules and silences.

use lekiwi_protocol::RuleName;
use lekiwi_protocol::alert::{Alert, Rule, Silence};
use lekiwi_protocol::api::{
    AcknowledgeRequest, AlertHistory, AlertList, RuleList, RuleView, SilenceList, SilenceRequest,
};
use reqwest::Method;
use uuid::Uuid;

use super::Relay;
use crate::args::alerts::{AlertList as Wanted, History};
use crate::failure::Failure;

impl Relay {
    pub(crate) async fn alerts(&self, wanted: &Wanted) -> Result<AlertList, Failure> {
        let mut path = format!(
            "/api/v1/alerts?state={}&limit={}",
            wanted.state.as_str(),
            wanted.limit
        );
        // Names have no characters that queries reserve.
        if let Some(robot) = &wanted.robot {
            path.push_str(&format!("&robot={robot}"));
        }
        if let Some(rule) = &wanted.rule {
            path.push_str(&format!("&rule={rule}"));
        }
        if let Some(severity) = wanted.severity {
            path.push_str(&format!("&severity={severity}"));
        }
        self.json(Method::GET, &path, None::<&()>, "a list of alerts")
            .await
    }

    /// As much as is wanted: the relay's pages may be short.
    pub(crate) async fn alert_history(&self, wanted: &History) -> Result<AlertHistory, Failure> {
        let mut all = AlertHistory {
            entries: Vec::new(),
            next_before: wanted.before,
        };
        loop {
            let limit = usize::from(wanted.limit) - all.entries.len();
            let mut path = format!("/api/v1/alerts/history?limit={limit}");
            // None of them has characters that queries reserve.
            for (name, value) in [
                ("robot", wanted.robot.as_ref().map(ToString::to_string)),
                ("rule", wanted.rule.as_ref().map(ToString::to_string)),
                ("alert", wanted.alert.clone()),
                (
                    "before",
                    all.next_before.map(|position| position.to_string()),
                ),
            ] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={value}"));
                }
            }
            let page: AlertHistory = self
                .json(Method::GET, &path, None::<&()>, "the history of alerts")
                .await?;
            all.entries.extend(page.entries);
            all.next_before = page.next_before;
            if all.next_before.is_none() || all.entries.len() >= usize::from(wanted.limit) {
                return Ok(all);
            }
        }
    }

    pub(crate) async fn acknowledge(
        &self,
        id: &str,
        request: &AcknowledgeRequest,
    ) -> Result<Alert, Failure> {
        // What is no part of an alert's name would mean another route.
        let is_fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == ':';
        if id.is_empty() || !id.chars().all(is_fine) {
            return Err(Failure::AlertId(id.chars().take(80).collect()));
        }
        let path = format!("/api/v1/alerts/{id}/acknowledge");
        self.json(Method::POST, &path, Some(request), "an alert")
            .await
    }

    pub(crate) async fn alert_rules(&self) -> Result<RuleList, Failure> {
        let path = "/api/v1/alert-rules";
        self.json(Method::GET, path, None::<&()>, "a list of rules")
            .await
    }

    pub(crate) async fn set_alert_rule(&self, rule: &Rule) -> Result<RuleView, Failure> {
        let path = format!("/api/v1/alert-rules/{}", rule.id);
        self.json(Method::PUT, &path, Some(rule), "a rule").await
    }

    pub(crate) async fn remove_alert_rule(&self, name: &RuleName) -> Result<(), Failure> {
        let path = format!("/api/v1/alert-rules/{name}");
        self.send(Method::DELETE, &path, None::<&()>)
            .await
            .map(|_| ())
    }

    pub(crate) async fn silences(&self) -> Result<SilenceList, Failure> {
        let path = "/api/v1/alert-silences";
        self.json(Method::GET, path, None::<&()>, "a list of silences")
            .await
    }

    pub(crate) async fn silence(&self, request: &SilenceRequest) -> Result<Silence, Failure> {
        let path = "/api/v1/alert-silences";
        self.json(Method::POST, path, Some(request), "a silence")
            .await
    }

    pub(crate) async fn unsilence(&self, id: Uuid) -> Result<(), Failure> {
        let path = format!("/api/v1/alert-silences/{id}");
        self.send(Method::DELETE, &path, None::<&()>)
            .await
            .map(|_| ())
    }
}
