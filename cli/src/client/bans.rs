//! Who is not let in for a while.

use lekiwi_protocol::api::BanList;
use reqwest::Method;

use super::Relay;
use crate::failure::Failure;

impl Relay {
    pub(crate) async fn bans(&self) -> Result<BanList, Failure> {
        self.json(Method::GET, "/api/v1/bans", None::<&()>, "a list of bans")
            .await
    }

    pub(crate) async fn lift_ban(&self, who: &str) -> Result<(), Failure> {
        let path = format!("/api/v1/bans/{who}");
        self.send(Method::DELETE, &path, None::<&()>)
            .await
            .map(|_| ())
    }
}
