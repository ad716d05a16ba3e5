//! Keys of programs.

use lekiwi_protocol::UserName;
use lekiwi_protocol::api::{KeyCreated, KeyList, KeyRequest, RotationRequest};
use reqwest::Method;
use uuid::Uuid;

use super::{Relay, people};
use crate::failure::Failure;

impl Relay {
    /// The keys of who asks, or of somebody else.
    pub(crate) async fn keys(&self, of: Option<&UserName>) -> Result<KeyList, Failure> {
        let path = match of {
            Some(name) => format!("{}/keys", people::of(name)),
            None => "/api/v1/keys".to_owned(),
        };
        self.json(Method::GET, &path, None::<&()>, "a list of keys")
            .await
    }

    pub(crate) async fn create_key(&self, request: &KeyRequest) -> Result<KeyCreated, Failure> {
        self.json(Method::POST, "/api/v1/keys", Some(request), "a key")
            .await
    }

    pub(crate) async fn rotate_key(
        &self,
        id: Uuid,
        request: &RotationRequest,
    ) -> Result<KeyCreated, Failure> {
        let path = format!("/api/v1/keys/{id}/rotate");
        self.json(Method::POST, &path, Some(request), "a key").await
    }

    pub(crate) async fn revoke_key(&self, id: Uuid) -> Result<(), Failure> {
        let path = format!("/api/v1/keys/{id}");
        let sent = self.send(Method::DELETE, &path, None::<&()>);
        sent.await.map(|_| ())
    }
}
