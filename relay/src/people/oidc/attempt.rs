//! One login by a provider, from the browser's leaving to its coming back. Pure.
//!
//! All that is kept of it is a random secret in a cookie of the browser: what the provider is sent follows from it by
//! SHA-256. So nobody can fill the relay's memory with logins that they begin, any relay of several can end a login that
//! another began, and nothing of it can be guessed or made fit another provider, browser or time.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// How long people may take, seconds.
pub const LASTS_S: u64 = 600;

/// A login that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    begun_s: u64,
    secret: String,
    state: String,
}

impl Attempt {
    /// A new one at `now_s`, seconds since the epoch, by a provider.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn begin(provider: &str, now_s: u64) -> Result<Self, getrandom::Error> {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits)?;
        let mut attempt = Self {
            begun_s: now_s,
            secret: URL_SAFE_NO_PAD.encode(bits),
            state: String::new(),
        };
        attempt.state = attempt.derived(provider, "state");
        Ok(attempt)
    }

    /// The one that the browser's cookie is of, where it has come back with `state` from `provider` in time.
    #[must_use]
    pub fn resume(cookie: &str, provider: &str, state: &str, now_s: u64) -> Option<Self> {
        let (begun_s, secret) = cookie.split_once('.')?;
        let begun_s: u64 = begun_s.parse().ok()?;
        let mut attempt = Self {
            begun_s,
            secret: secret.to_owned(),
            state: String::new(),
        };
        attempt.state = attempt.derived(provider, "state");
        let is_ours = attempt.state.as_bytes().ct_eq(state.as_bytes());
        let is_fresh = now_s >= begun_s && now_s - begun_s < LASTS_S;
        (is_fresh && bool::from(is_ours)).then_some(attempt)
    }

    /// What the browser keeps.
    #[must_use]
    pub fn cookie(&self) -> String {
        format!("{}.{}", self.begun_s, self.secret)
    }

    /// What comes back from the provider as it was sent: it is this browser that comes.
    #[must_use]
    pub fn state(&self) -> &str {
        &self.state
    }

    /// What the token must have: it was made for this login.
    #[must_use]
    pub fn nonce(&self) -> String {
        self.derived(&self.state, "nonce")
    }

    /// What only this relay can show when it fetches the token (RFC 7636).
    #[must_use]
    pub fn verifier(&self) -> String {
        self.derived(&self.state, "verifier")
    }

    /// What the provider is sent of that at first: S256.
    #[must_use]
    pub fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(self.verifier()))
    }

    fn derived(&self, from: &str, what: &str) -> String {
        // No part has a blank: a provider's name, a number, and base64url.
        let text = format!("{what} {from} {} {}", self.begun_s, self.secret);
        URL_SAFE_NO_PAD.encode(Sha256::digest(text))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn it_is_resumed_by_the_same_browser_provider_and_state_in_time() {
        let begun = Attempt::begin("company", 1_000).unwrap();
        let (cookie, state) = (begun.cookie(), begun.state().to_owned());
        let resume = |cookie: &str, provider, state: &str, now_s| {
            Attempt::resume(cookie, provider, state, now_s)
        };
        assert_eq!(
            resume(&cookie, "company", &state, 1_000),
            Some(begun.clone())
        );
        assert_eq!(
            resume(&cookie, "company", &state, 1_599),
            Some(begun.clone())
        );
        assert_eq!(resume(&cookie, "company", &state, 1_600), None, "too late");
        assert_eq!(resume(&cookie, "company", &state, 999), None, "too early");
        assert_eq!(resume(&cookie, "other", &state, 1_000), None);
        let other = Attempt::begin("company", 1_000).unwrap();
        assert_eq!(resume(&other.cookie(), "company", &state, 1_000), None);
        assert_eq!(resume(&cookie, "company", "", 1_000), None);
        // A browser cannot give itself more time.
        let later = cookie.replace("1000.", "1500.");
        assert_eq!(resume(&later, "company", &state, 1_700), None);
        for broken in ["", ".", "1000", "1000.", "-1.x"] {
            assert_eq!(resume(broken, "company", &state, 1_000), None);
        }
    }

    #[test]
    fn nothing_that_is_sent_tells_the_rest() {
        let attempt = Attempt::begin("company", 1_000).unwrap();
        let mut all = vec![
            attempt.secret.clone(),
            attempt.state.clone(),
            attempt.nonce(),
            attempt.verifier(),
            attempt.challenge(),
        ];
        // Of RFC 7636: 43 to 128 characters.
        assert!(all.iter().all(|text| text.len() == 43));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn a_challenge_is_what_openssl_says() {
        let attempt = Attempt {
            begun_s: 1,
            secret: "s".to_owned(),
            state: "t".to_owned(),
        };
        // printf 'verifier t 1 s' | openssl dgst -sha256 -binary | basenc --base64url | tr -d =, and that of it again
        assert_eq!(
            attempt.verifier(),
            "F2nS-ShvuCJZCcumie3VCMcl5AMIYMFyoYNBqIAJhUw"
        );
        assert_eq!(
            attempt.challenge(),
            "ISPiVQ0lg3DLxrlp3Vg2fk-moUceNizvGBlBTV-2URo"
        );
    }
}
