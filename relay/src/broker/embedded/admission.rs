//! Lets connections in as far as there is room, by rmqtt's `Fitter`: one is made for each connection that was
//! authenticated and lives as long as its session, so that it holds the connection's [`Place`] whichever way that ends.
//!
//! Why here: what an authentication hook refuses is refused as "not authorized", upon which a robot doubts its
//! certificate. What a fitter refuses is refused as "server unavailable", upon which it comes back later. rmqtt's accept
//! loop asks nobody, so that this is the first place where one can refuse; TLS has been paid for by then.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rmqtt::codec::types::Publish;
use rmqtt::fitter::{DefaultFitter, Fitter, FitterManager};
use rmqtt::types::{ConnectInfo, Disconnect, FitterType, Id, ListenerConfig};

use crate::protect::{Place, Protect};

/// Makes a fitter for each connection.
pub(super) struct Admission(pub(super) Arc<Protect>);

impl FitterManager for Admission {
    fn create(&self, info: Arc<ConnectInfo>, id: Id, config: ListenerConfig) -> FitterType {
        let place = match id.remote_addr {
            Some(remote) => match self.0.enter_mqtt(&id.client_id, remote) {
                Ok(place) => Ok(place),
                Err(refusal) => {
                    tracing::debug!(client = %id.client_id, %remote, %refusal, "connection refused");
                    Err(refusal.to_string())
                }
            },
            None => Err("expected a connection with an address".to_owned()),
        };
        Arc::new(Admitted {
            usual: DefaultFitter::new(info, id, config),
            place,
        })
    }
}

/// What rmqtt usually grants, to whom there is room for.
struct Admitted {
    usual: DefaultFitter,
    place: Result<Place, String>,
}

#[async_trait]
impl Fitter for Admitted {
    fn keep_alive(&self, keep_alive: &mut u16) -> rmqtt::Result<u16> {
        match &self.place {
            Ok(_) => self.usual.keep_alive(keep_alive),
            Err(refusal) => Err(rmqtt::Error::msg(refusal.clone())),
        }
    }

    fn max_mqueue_len(&self) -> usize {
        self.usual.max_mqueue_len()
    }

    fn mqueue_rate_limit(&self) -> (NonZeroU32, Duration) {
        self.usual.mqueue_rate_limit()
    }

    fn max_inflight(&self) -> NonZeroU16 {
        self.usual.max_inflight()
    }

    fn session_expiry_interval(&self, disconnect: Option<&Disconnect>) -> Duration {
        self.usual.session_expiry_interval(disconnect)
    }

    fn message_expiry_interval(&self, publish: &Publish) -> Duration {
        self.usual.message_expiry_interval(publish)
    }

    fn max_client_topic_aliases(&self) -> u16 {
        self.usual.max_client_topic_aliases()
    }

    fn max_server_topic_aliases(&self) -> u16 {
        self.usual.max_server_topic_aliases()
    }
}
