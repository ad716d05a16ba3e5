//! Invitations: `lki_` and 256 random bits let one person choose the password of an account that somebody else chose the name
//! and roles of. The relay keeps only the SHA-256. Called by the HTTP interface.

use std::time::Duration;

use lekiwi_protocol::api::{self, InvitationCreated, InvitationState};
use lekiwi_protocol::{Timestamp, UserName};
use uuid::Uuid;

use crate::identity::tokens::Secret;
use crate::store::records::Invitation;
use crate::store::{Store, StoreError};

/// Where invited people choose their password.
pub const PAGE: &str = "/join";
/// How long what became of an invitation is shown after its time.
pub const SHOWN: Duration = Duration::from_secs(30 * 24 * 3600);
const LIFETIME: Duration = Duration::from_secs(3 * 24 * 3600);
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
const PREFIX: &str = "lki_";

/// Why nobody was invited.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// The lifetime is out of bounds.
    #[error("expected lifetime_s to be {} to {}, got {actual}", SHORTEST.as_secs(), LONGEST.as_secs())]
    Lifetime {
        /// What was asked for.
        actual: u64,
    },
    /// There is somebody of this name.
    #[error("there is somebody called {0}")]
    Taken(UserName),
    /// The system gave no random numbers.
    #[error("cannot draw random numbers: {0}")]
    Random(getrandom::Error),
    /// The store refused.
    #[error("cannot keep the invitation")]
    Store(#[from] StoreError),
}

/// What became of an invitation by now.
#[must_use]
pub fn state(invitation: &Invitation, now_ms: u64) -> InvitationState {
    match invitation {
        Invitation {
            used_ms: Some(_), ..
        } => InvitationState::Used,
        Invitation {
            revoked_ms: Some(_),
            ..
        } => InvitationState::Revoked,
        _ if invitation.expires_ms <= now_ms => InvitationState::Expired,
        _ => InvitationState::Open,
    }
}

/// What people are told of an invitation.
#[must_use]
pub fn view(invitation: &Invitation, now_ms: u64) -> api::Invitation {
    api::Invitation {
        id: invitation.id.clone(),
        name: invitation.person.clone(),
        roles: invitation.roles.clone(),
        by: invitation.inviter.clone(),
        created_at: Timestamp::from_ms(invitation.created_ms),
        expires_at: Timestamp::from_ms(invitation.expires_ms),
        state: state(invitation, now_ms),
    }
}

/// Invites somebody, in the name of `inviter`.
///
/// # Errors
/// When the request is out of bounds, the name is taken, or the store cannot write.
pub async fn invite(
    store: &Store,
    request: api::InvitationRequest,
    inviter: UserName,
    now_ms: u64,
) -> Result<InvitationCreated, InviteError> {
    let lifetime = request.lifetime_s.map_or(LIFETIME, Duration::from_secs);
    if !(SHORTEST..=LONGEST).contains(&lifetime) {
        let actual = lifetime.as_secs();
        return Err(InviteError::Lifetime { actual });
    }
    if store.people().accounts.contains_key(&request.name) {
        return Err(InviteError::Taken(request.name));
    }
    let secret = Secret::random(PREFIX).map_err(InviteError::Random)?;
    let invitation = Invitation {
        id: Uuid::new_v4().to_string(),
        hash: secret.digest(),
        person: request.name,
        roles: request.roles,
        inviter,
        created_ms: now_ms,
        expires_ms: Timestamp::from_ms(now_ms).plus(lifetime).as_ms(),
        used_ms: None,
        revoked_ms: None,
    };
    let told = view(&invitation, now_ms);
    store.insert_invitation(invitation).await?;
    Ok(InvitationCreated {
        token: secret.expose().to_owned(),
        path: format!("{PAGE}?token={}", secret.expose()),
        invitation: told,
    })
}
