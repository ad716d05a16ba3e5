//! Password hashes: Argon2id with its recommended parameters. Slow by intent (tens of milliseconds and
//! 19 MiB each), so callers run it on a blocking thread and bound how many run at once.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};

/// Letters and digits that cannot be taken for one another.
const ALPHABET: &[u8; 56] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
const LENGTH: usize = 24;

/// Why a hash could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The library refused.
    #[error("cannot hash the password: {0}")]
    Hash(argon2::password_hash::Error),
    /// The system gave no random numbers.
    #[error("cannot draw random numbers: {0}")]
    Random(getrandom::Error),
}

/// A fresh password of 24 characters (139 bits).
///
/// # Errors
/// When the system has no random numbers.
pub fn random() -> Result<String, PasswordError> {
    let mut password = String::with_capacity(LENGTH);
    // Bytes beyond the last multiple of the alphabet would prefer its first letters.
    let bound = 256 / ALPHABET.len() * ALPHABET.len();
    while password.len() < LENGTH {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(PasswordError::Random)?;
        let letters = bytes.iter().map(|b| usize::from(*b)).filter(|b| *b < bound);
        let missing = LENGTH - password.len();
        password.extend(
            letters
                .take(missing)
                .map(|b| char::from(ALPHABET[b % ALPHABET.len()])),
        );
    }
    Ok(password)
}

/// The hash that is kept, with its salt and parameters.
///
/// # Errors
/// When the system has no random numbers.
pub fn hash(password: &str) -> Result<String, PasswordError> {
    Argon2::default()
        .hash_password(password.as_bytes())
        .map(|hash: PasswordHash| hash.to_string())
        .map_err(PasswordError::Hash)
}

/// Whether `password` is the one behind `hash`. A hash that cannot be read matches nothing.
#[must_use]
pub fn matches(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| {
        Argon2::default()
            .verify_password(password.as_bytes(), &hash)
            .is_ok()
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_matches() {
        let password = random().unwrap();
        assert_eq!(password.len(), 24);
        assert_ne!(password, random().unwrap());
        let kept = hash(&password).unwrap();
        assert!(kept.starts_with("$argon2id$"), "{kept}");
        assert_ne!(kept, hash(&password).unwrap(), "salted");
        assert!(matches(&password, &kept));
        assert!(!matches(&password[1..], &kept));
        assert!(!matches(&password, "no hash"));
    }
}
