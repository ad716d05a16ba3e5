//! Certificates of robots and programs.

use lekiwi_protocol::api::{IdentityList, IdentityRevoked};
use reqwest::Method;

use super::Relay;
use crate::failure::Failure;

impl Relay {
    /// Those that count, or all of them; of one name only where there is one.
    pub(crate) async fn identities(
        &self,
        name: Option<&str>,
        all: bool,
    ) -> Result<IdentityList, Failure> {
        let name = name.map_or_else(String::new, |name| format!("&name={name}"));
        let path = format!("/api/v1/identities?all={all}{name}");
        self.json(Method::GET, &path, None::<&()>, "a list of certificates")
            .await
    }

    pub(crate) async fn revoke_identity(&self, serial: &str) -> Result<IdentityRevoked, Failure> {
        let path = format!("/api/v1/identities/{serial}/revoke");
        self.json(Method::POST, &path, None::<&()>, "what was revoked")
            .await
    }
}
