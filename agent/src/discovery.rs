//! Lets others on the local network find this robot, before and after it has an identity. A thin edge
//! over `lekiwi-discovery`, called by the driver.

use lekiwi_discovery::presence::{News, Presence, Purpose};
use lekiwi_protocol::discovery::ad::RobotAd;

use crate::config::Config;

/// The robot as others find it.
#[derive(Debug)]
pub struct Discovery {
    presence: Presence,
    ad: RobotAd,
}

impl Discovery {
    /// Begins, unless the configuration says not to.
    #[must_use]
    pub fn start(config: &Config, profile: &str, serial: &str, registered: bool) -> Option<Self> {
        if !config.mdns {
            return None;
        }
        let ad = RobotAd {
            id: config.robot_id.clone(),
            robot_type: profile.to_owned(),
            serial: serial.to_owned(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            registered,
        };
        let presence = Presence::start(Purpose {
            service: Some(ad.service()),
            hear: &[],
            tell: Box::new(|news| match news {
                News::On { .. } | News::Off { .. } => log::info!("{news}"),
                News::Conflict { .. } | News::Trouble { .. } => log::warn!("{news}"),
            }),
        });
        Some(Self { presence, ad })
    }

    /// Whether the robot holds a certificate; others are told when that changes.
    pub fn say_registered(&mut self, registered: bool) {
        if self.ad.registered != registered {
            self.ad.registered = registered;
            self.presence.update(self.ad.service());
        }
    }

    /// Takes back what was said.
    pub async fn leave(self) {
        self.presence.leave().await;
    }
}
