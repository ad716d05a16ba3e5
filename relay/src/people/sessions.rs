//! Logins and what they give: a random session token, kept only as its SHA-256. Called by the HTTP
//! interface.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lekiwi_protocol::api;
use lekiwi_protocol::{Org, Timestamp, UserName};
use tokio::sync::Semaphore;

use super::factor::{self, Code, Demand};
use super::invitations;
use super::password::{self, PasswordError, Weak};
use super::throttle::Throttle;
use crate::clock;
use crate::identity::tokens::Secret;
use crate::store::records::{Account, Session};
use crate::store::{MOST_MISSES, Store, StoreError};

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
    /// The password is right, but not all that is asked for.
    #[error("expected a code of the authenticator, or a recovery code")]
    FactorRequired,
    /// The password is right, the second factor is not.
    #[error(
        "expected a code that the authenticator shows now and that was not used, or a recovery code that was not used"
    )]
    FactorWrong,
    /// The password is right, but too many codes were wrong.
    #[error(
        "expected a recovery code, after {MOST_MISSES} wrong codes of the authenticator in a row"
    )]
    FactorLocked,
    /// There is a second factor already.
    #[error("expected no second factor, there is one")]
    FactorExists,
    /// There is no second factor.
    #[error("expected a second factor, there is none")]
    FactorUnknown,
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
    org: Org,
    demand: Demand,
}

impl Sessions {
    /// Over `store`, of the people of `org`, of whom a second factor is demanded or not.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new(store: Store, org: Org, demand: Demand) -> Result<Self, PasswordError> {
        Ok(Self {
            store,
            throttle: Mutex::default(),
            checks: Semaphore::new(CHECKS),
            waiting: Semaphore::new(WAITING),
            nobody: password::hash(&password::random()?)?,
            org,
            demand,
        })
    }

    /// Logs `login.user` in, from `address`, with the program that calls itself `agent`.
    ///
    /// # Errors
    /// When user, password or second factor are wrong, there were too many tries, or the store cannot write.
    pub async fn login(
        &self,
        login: api::Login,
        address: IpAddr,
        agent: &str,
    ) -> Result<api::Session, LoginError> {
        self.slowed(&login.user, address, async {
            self.password(&login.user, login.password.clone(), address)
                .await?;
            self.factor(&login.user, login.totp.as_deref(), address)
                .await
        })
        .await?;
        tracing::info!(user = %login.user, %address, "logged in");
        self.begin(login.user, LIFETIME, address, agent).await
    }

    /// Checks a password of somebody who is logged in, as a login does.
    ///
    /// # Errors
    /// When it is wrong, or there were too many tries.
    pub async fn check(
        &self,
        user: &UserName,
        password: String,
        address: IpAddr,
    ) -> Result<(), LoginError> {
        let user = user.as_str();
        self.slowed(user, address, self.password(user, password, address))
            .await
    }

    /// Runs a check of what `user` shows, unless there were too many that failed. One that succeeds forgives them.
    async fn slowed<T>(
        &self,
        user: &str,
        address: IpAddr,
        check: impl Future<Output = Result<T, LoginError>>,
    ) -> Result<T, LoginError> {
        if user.len() > LONGEST {
            return Err(LoginError::Wrong);
        }
        let _place = self.waiting.try_acquire().map_err(|_| LoginError::Busy)?;
        {
            let now = clock::monotonic();
            let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(wait) = throttle.wait(now, user, address) {
                return Err(LoginError::Throttled { wait });
            }
            throttle.tried(now, user, address);
        }
        let passed = check.await?;
        self.throttle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .succeeded(user, address);
        Ok(passed)
    }

    async fn password(
        &self,
        user: &str,
        password: String,
        address: IpAddr,
    ) -> Result<(), LoginError> {
        if password.len() > LONGEST {
            return Err(LoginError::Wrong);
        }
        let credential = self.store.credential(user).await?;
        let known = credential.is_some() && self.is_welcome(user);
        let hash = credential.map_or_else(|| self.nobody.clone(), |credential| credential.hash);
        let matches = self
            .slowly(move || password::matches(&password, &hash))
            .await?;
        if matches && known {
            return Ok(());
        }
        tracing::warn!(user = %user.escape_debug(), %address, "login refused");
        Err(LoginError::Wrong)
    }

    /// Checks the second factor of somebody whose password is right, where they have one.
    async fn factor(
        &self,
        user: &str,
        shown: Option<&str>,
        address: IpAddr,
    ) -> Result<(), LoginError> {
        let factor = self.store.factor(user).await?;
        let Some(factor) = factor.filter(|factor| factor.confirmed_ms.is_some()) else {
            return Ok(());
        };
        let shown = shown.map(str::trim).filter(|shown| !shown.is_empty());
        let code = Code::read(shown.ok_or(LoginError::FactorRequired)?);
        let is_taken = match code {
            Some(Code::Totp(_)) if factor.misses >= MOST_MISSES => {
                return Err(LoginError::FactorLocked);
            }
            Some(Code::Totp(code)) => {
                let now_ms = clock::now_ms();
                let step = factor::step_of(&factor.secret, &code, now_ms, factor.last_step);
                self.store.spend_step(user, step).await?
            }
            Some(Code::Recovery(hash)) => {
                let is_taken = self.store.spend_recovery_code(user, hash).await?;
                if is_taken {
                    tracing::warn!(user = %user.escape_debug(), %address, "a recovery code was used");
                }
                is_taken
            }
            None => false,
        };
        if is_taken {
            return Ok(());
        }
        tracing::warn!(user = %user.escape_debug(), %address, "second factor refused");
        Err(LoginError::FactorWrong)
    }

    /// Gives somebody who shows their password once more the secret of a new authenticator. Logins take it once it is
    /// confirmed.
    ///
    /// # Errors
    /// When the password is wrong, there is a second factor already, or the store cannot write.
    pub async fn begin_factor(
        &self,
        name: &UserName,
        password: String,
        address: IpAddr,
    ) -> Result<api::TotpSecret, LoginError> {
        self.check(name, password, address).await?;
        let secret = factor::secret().map_err(LoginError::Random)?;
        let told = api::TotpSecret {
            secret: factor::base32(&secret),
            uri: factor::uri(&secret, &self.org, name),
        };
        if self.store.begin_factor(name.clone(), secret).await? {
            Ok(told)
        } else {
            Err(LoginError::FactorExists)
        }
    }

    /// Has logins of somebody take their authenticator from now on, once it shows the right code; their recovery codes.
    ///
    /// # Errors
    /// When the code is wrong, nothing waits for it, or the store cannot write.
    pub async fn confirm_factor(
        &self,
        name: &UserName,
        shown: &str,
        address: IpAddr,
    ) -> Result<Vec<String>, LoginError> {
        let confirm = async {
            let factor = self.store.factor(name.as_str()).await?;
            let factor = factor.ok_or(LoginError::FactorUnknown)?;
            if factor.confirmed_ms.is_some() {
                return Err(LoginError::FactorExists);
            }
            let now_ms = clock::now_ms();
            let step = match Code::read(shown) {
                Some(Code::Totp(code)) => factor::step_of(&factor.secret, &code, now_ms, 0),
                _ => None,
            };
            let step = step.ok_or(LoginError::FactorWrong)?;
            let (codes, hashes) = factor::recovery_codes().map_err(LoginError::Random)?;
            let (name, secret) = (name.clone(), factor.secret);
            let confirmed = self
                .store
                .confirm_factor(name, secret, step, hashes, now_ms);
            // Somebody else was faster, with this code or another secret.
            confirmed
                .await?
                .then_some(codes)
                .ok_or(LoginError::FactorExists)
        };
        self.slowed(name.as_str(), address, confirm).await
    }

    /// Has somebody log in by their password alone, after they showed it or their second factor once more.
    ///
    /// # Errors
    /// When that is wrong, there is no second factor, or the store cannot write.
    pub async fn end_factor(
        &self,
        name: &UserName,
        shown: api::TotpEnd,
        address: IpAddr,
    ) -> Result<(), LoginError> {
        let factor = self.store.factor(name.as_str()).await?;
        if factor.is_none_or(|factor| factor.confirmed_ms.is_none()) {
            return Err(LoginError::FactorUnknown);
        }
        match shown.password {
            Some(password) => self.check(name, password, address).await?,
            None => {
                let code = shown.code.as_deref();
                let check = self.factor(name.as_str(), code, address);
                self.slowed(name.as_str(), address, check).await?;
            }
        }
        self.store.end_factor(name.clone()).await?;
        Ok(())
    }

    /// Whether somebody should have a second factor, and has none: they may do nothing but set it up.
    #[must_use]
    pub fn lacks_factor(&self, account: &Account) -> bool {
        let is_demanded = match self.demand {
            Demand::Optional => false,
            Demand::Admins => account.is_admin(),
            Demand::All => true,
        };
        is_demanded && account.has_password && !account.has_factor
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
        let (user, org) = (user.clone(), self.org.clone());
        self.slowly(move || {
            password::check(&password, user.as_str(), org.as_str())?;
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

    /// Begins a session of somebody who has shown who they are.
    ///
    /// # Errors
    /// When the system has no random numbers, or the store cannot write.
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

    /// Forgets sessions and invitations that ended long enough ago.
    ///
    /// # Errors
    /// When the store cannot write.
    pub async fn forget_old(&self, now_ms: u64) -> Result<(), StoreError> {
        self.store.expire_sessions(now_ms).await?;
        let shown_ms = u64::try_from(invitations::SHOWN.as_millis()).unwrap_or(u64::MAX);
        let before_ms = now_ms.saturating_sub(shown_ms);
        self.store.forget_invitations(before_ms).await?;
        Ok(())
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
