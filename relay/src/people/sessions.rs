//! Logins and what they give: a random session token, kept only as its SHA-256. Called by the HTTP
//! interface.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lekiwi_protocol::api;
use lekiwi_protocol::{Timestamp, UserName};
use tokio::sync::Semaphore;

use super::password::{self, PasswordError, Weak};
use super::throttle::Throttle;
use crate::clock;
use crate::identity::tokens::Secret;
use crate::store::records::Session;
use crate::store::{Store, StoreError};

/// How long a session lasts.
pub const LIFETIME: Duration = Duration::from_secs(12 * 3600);
const PREFIX: &str = "lks_";
/// Password checks at once: each takes a core and 19 MiB for a while.
const CHECKS: usize = 2;
/// Logins that may wait for a check.
const WAITING: usize = 64;
/// Longest user name or password worth a look.
const LONGEST: usize = 256;
/// What is kept of what a client's program calls itself, characters.
const LONGEST_AGENT: usize = 120;

/// Why a login failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// User or password: which of them is not said.
    #[error("expected a known user and the right password")]
    Wrong,
    /// Too many tries.
    #[error("too many failed logins; the next one is taken in {} s", wait.as_secs() + 1)]
    Throttled {
        /// How long to wait.
        wait: Duration,
    },
    /// A new password is none.
    #[error(transparent)]
    Refused(#[from] Weak),
    /// No hash could be made.
    #[error(transparent)]
    Hash(#[from] PasswordError),
    /// Others are before it.
    #[error("too many logins at once")]
    Busy,
    /// The store refused.
    #[error("cannot keep the session")]
    Store(#[from] StoreError),
    /// The system gave no random numbers.
    #[error("cannot draw random numbers: {0}")]
    Random(getrandom::Error),
    /// The check was cut off by the end of the process.
    #[error("the relay is stopping")]
    Stopping,
}

/// Checks logins, makes and ends sessions.
#[derive(Debug)]
pub struct Sessions {
    store: Store,
    throttle: Mutex<Throttle>,
    checks: Semaphore,
    waiting: Semaphore,
    /// Checked against when the user is unknown, so that the answer takes as long.
    nobody: String,
}

impl Sessions {
    /// Over `store`.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new(store: Store) -> Result<Self, password::PasswordError> {
        Ok(Self {
            store,
            throttle: Mutex::default(),
            checks: Semaphore::new(CHECKS),
            waiting: Semaphore::new(WAITING),
            nobody: password::hash(&password::random()?)?,
        })
    }

    /// Logs `login.user` in, from `address`, with the program that calls itself `agent`.
    ///
    /// # Errors
    /// When user or password are wrong, there were too many tries, or the store cannot write.
    pub async fn login(
        &self,
        login: api::Login,
        address: IpAddr,
        agent: &str,
    ) -> Result<api::Session, LoginError> {
        self.check(&login, address).await?;
        tracing::info!(user = %login.user, %address, "logged in");
        self.begin(login.user, LIFETIME, address, agent).await
    }

    /// Checks a password, as a login does.
    ///
    /// # Errors
    /// When user or password are wrong, or there were too many tries.
    pub async fn check(&self, login: &api::Login, address: IpAddr) -> Result<(), LoginError> {
        if login.user.len() > LONGEST || login.password.len() > LONGEST {
            return Err(LoginError::Wrong);
        }
        let _place = self.waiting.try_acquire().map_err(|_| LoginError::Busy)?;
        {
            let now = clock::monotonic();
            let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(wait) = throttle.wait(now, &login.user, address) {
                return Err(LoginError::Throttled { wait });
            }
            throttle.tried(now, &login.user, address);
        }
        let credential = self.store.credential(&login.user).await?;
        let is_welcome = self.is_welcome(&login.user);
        let known = credential.is_some() && is_welcome;
        let hash = credential.map_or_else(|| self.nobody.clone(), |credential| credential.hash);
        let password = login.password.clone();
        let matches = self
            .slowly(move || password::matches(&password, &hash))
            .await?;
        if !(matches && known) {
            tracing::warn!(user = %login.user.escape_debug(), %address, "login refused");
            return Err(LoginError::Wrong);
        }
        self.throttle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .succeeded(&login.user, address);
        Ok(())
    }

    fn is_welcome(&self, user: &str) -> bool {
        let people = self.store.people();
        let account = people.accounts.get(user);
        account.is_some_and(|account| account.disabled_ms.is_none())
    }

    /// The hash of a new password, where it is good enough.
    ///
    /// # Errors
    /// When it is too easy to guess, or there are too many logins.
    pub async fn hash(&self, user: &UserName, password: String) -> Result<String, LoginError> {
        if password.len() > LONGEST {
            return Err(LoginError::Refused(Weak::Long(LONGEST)));
        }
        let _place = self.waiting.try_acquire().map_err(|_| LoginError::Busy)?;
        let user = user.clone();
        self.slowly(move || {
            password::check(&password, user.as_str())?;
            Ok(password::hash(&password)?)
        })
        .await?
    }

    /// What takes a core for a while.
    async fn slowly<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LoginError> {
        let permit = self.checks.acquire().await;
        let _permit = permit.map_err(|_| LoginError::Stopping)?;
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_| LoginError::Stopping)
    }

    /// Begins a session of somebody whom something else than a password let in.
    ///
    /// # Errors
    /// When the store cannot write.
    pub async fn begin(
        &self,
        user: String,
        lifetime: Duration,
        address: IpAddr,
        agent: &str,
    ) -> Result<api::Session, LoginError> {
        let secret = Secret::random(PREFIX).map_err(LoginError::Random)?;
        let now = Timestamp::from_ms(clock::now_ms());
        let expires_at = now.plus(lifetime);
        let session = Session {
            hash: secret.digest(),
            user,
            created_ms: now.as_ms(),
            expires_ms: expires_at.as_ms(),
            address: address.to_string(),
            agent: agent.chars().take(LONGEST_AGENT).collect(),
        };
        self.store.insert_session(session).await?;
        Ok(api::Session {
            token: secret.expose().to_owned(),
            expires_at,
        })
    }

    /// Whose session this is, if it still counts. From memory.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<Session> {
        self.store
            .session(&Secret::shown(token).digest(), clock::now_ms())
    }

    /// Ends a session.
    ///
    /// # Errors
    /// When the store cannot write.
    pub async fn end(&self, session: &Session) -> Result<(), StoreError> {
        self.store.delete_session(session.hash).await?;
        Ok(())
    }
}
