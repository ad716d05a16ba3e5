//! Enrolment tokens, good for one key or a stated number of them: `lkt_` and 256 random bits. The relay keeps only their SHA-256, so a stolen
//! store enrols nobody, and looking one up compares digests, never secrets. Called by the HTTP interface
//! and by `lekiwi-relay token create`.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lekiwi_protocol::api::{TokenCreated, TokenInfo, TokenRequest};
use lekiwi_protocol::{RobotId, Timestamp, limits};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::records::Token;
use crate::store::{Store, StoreError};

/// Longest life of a token.
pub const MAX_LIFETIME: Duration = Duration::from_secs(366 * 24 * 3600);
const PREFIX: &str = "lkt_";

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The lifetime is out of bounds.
    #[error("expected a lifetime of 1 to {max} seconds, got {actual}", max = MAX_LIFETIME.as_secs())]
    Lifetime {
        /// What was asked for.
        actual: u64,
    },
    /// The number of uses is out of bounds.
    #[error("expected max_uses to be 1 to {max}, got {actual}", max = limits::MAX_TOKEN_USES)]
    Uses {
        /// What was asked for.
        actual: u32,
    },
    /// A profile or serial that no machine could have.
    #[error(
        "expected {field} to be 1 to {MAX_BINDING_BYTES} printable characters without spaces, got {actual:?}"
    )]
    Binding {
        /// `profile` or `serial`.
        field: &'static str,
        /// What was asked for, cut.
        actual: String,
    },
    /// The system gave no random numbers.
    #[error("cannot draw random numbers: {0}")]
    Random(getrandom::Error),
    /// The store refused.
    #[error("cannot keep the token")]
    Store(#[from] StoreError),
}

/// Longest profile name or serial that a token can be bound to.
pub const MAX_BINDING_BYTES: usize = 64;

/// A secret as it was handed in or made.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// A fresh one.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn random(prefix: &str) -> Result<Self, getrandom::Error> {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits)?;
        Ok(Self(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bits))))
    }

    /// One that somebody showed.
    #[must_use]
    pub fn shown(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The secret itself, for the one who may have it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

/// Makes a token and keeps it.
///
/// # Errors
/// When the request is out of bounds or the store cannot write.
pub async fn create(
    store: &Store,
    request: &TokenRequest,
    now: Timestamp,
) -> Result<TokenCreated, TokenError> {
    let lifetime_s = request
        .lifetime_s
        .unwrap_or(limits::TOKEN_LIFETIME.as_secs());
    if !(1..=MAX_LIFETIME.as_secs()).contains(&lifetime_s) {
        return Err(TokenError::Lifetime { actual: lifetime_s });
    }
    let max_uses = request.max_uses.unwrap_or(1);
    if !(1..=limits::MAX_TOKEN_USES).contains(&max_uses) {
        return Err(TokenError::Uses { actual: max_uses });
    }
    for (field, value) in [("profile", &request.profile), ("serial", &request.serial)] {
        if let Some(value) = value
            && !is_binding(value)
        {
            return Err(TokenError::Binding {
                field,
                actual: value.chars().take(80).collect(),
            });
        }
    }
    let secret = Secret::random(PREFIX).map_err(TokenError::Random)?;
    let token = Token {
        id: Uuid::new_v4().to_string(),
        hash: secret.digest(),
        profile: request.profile.clone(),
        serial: request.serial.clone(),
        robot: request.robot_id.as_ref().map(ToString::to_string),
        created_ms: now.as_ms(),
        expires_ms: now.plus(Duration::from_secs(lifetime_s)).as_ms(),
        max_uses,
        uses: 0,
        used_ms: None,
        used_by: None,
    };
    let info = info(&token);
    store.insert_token(token).await?;
    Ok(TokenCreated {
        token: secret.expose().to_owned(),
        info,
    })
}

/// Whether a text can be a profile or a serial number.
#[must_use]
pub fn is_binding(text: &str) -> bool {
    (1..=MAX_BINDING_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// What people are told of a kept token.
#[must_use]
pub fn info(token: &Token) -> TokenInfo {
    let robot = |name: &Option<String>| name.as_deref().and_then(|name| RobotId::new(name).ok());
    TokenInfo {
        // Ids are made above, as UUIDs.
        id: token.id.parse().unwrap_or_default(),
        profile: token.profile.clone(),
        serial: token.serial.clone(),
        robot_id: robot(&token.robot),
        created_at: Timestamp::from_ms(token.created_ms),
        expires_at: Timestamp::from_ms(token.expires_ms),
        max_uses: token.max_uses,
        uses: token.uses,
        used_at: token.used_ms.map(Timestamp::from_ms),
        used_by: robot(&token.used_by),
    }
}
