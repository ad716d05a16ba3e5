//! Who did what.

use lekiwi_protocol::api::{AuditCheckpoint, AuditPage};
use reqwest::Method;

use super::Relay;
use crate::args::audit::Which;
use crate::failure::Failure;

impl Relay {
    /// The newest entries that were asked for.
    pub(crate) async fn audit(&self, which: &Which) -> Result<AuditPage, Failure> {
        let mut url = self.url.clone();
        url.query_pairs_mut().clear();
        let text = |value: &Option<_>| value.as_ref().map(ToString::to_string);
        for (name, value) in [
            ("who", which.who.clone()),
            ("action", which.action.clone()),
            ("robot", which.robot.as_ref().map(ToString::to_string)),
            ("from", text(&which.from)),
            ("to", text(&which.to)),
            ("limit", Some(which.limit.to_string())),
        ] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, &value);
            }
        }
        self.audit_page(url.query().unwrap_or_default()).await
    }

    /// Entries beyond this one, as many as the relay gives at once.
    pub(crate) async fn audit_after(&self, after: u64) -> Result<AuditPage, Failure> {
        self.audit_page(&format!("after={after}&limit=1000")).await
    }

    async fn audit_page(&self, query: &str) -> Result<AuditPage, Failure> {
        let path = format!("/api/v1/audit?{query}");
        self.json(Method::GET, &path, None::<&()>, "a page of the audit")
            .await
    }

    /// How far it goes, signed by the relay.
    pub(crate) async fn audit_checkpoint(&self) -> Result<AuditCheckpoint, Failure> {
        let path = "/api/v1/audit/checkpoint";
        self.json(Method::GET, path, None::<&()>, "a checkpoint of the audit")
            .await
    }
}
