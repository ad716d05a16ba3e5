//! Password hashes: Argon2id with its recommended parameters. Slow by intent (tens of milliseconds and
//! 19 MiB each), so callers run it on a blocking thread and bound how many run at once.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use zxcvbn::Score;

/// Letters and digits that cannot be taken for one another.
const ALPHABET: &[u8; 56] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
const LENGTH: usize = 24;
/// Fewest characters of a password that people choose, which is all that they log in by.
const LEAST: usize = 15;
/// Words that nobody has to know to guess them.
const CONTEXT: [&str; 5] = ["lekiwi", "kiwi", "heartbeat", "relay", "robot"];
/// Shortest part of a name that counts as one: shorter ones are in many words.
const SHORTEST_NAME: usize = 3;

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

/// Why a password cannot be taken (NIST SP 800-63B: length and guessability count, and not which characters it has).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Weak {
    /// It is too short.
    #[error("expected at least {LEAST} characters, got {0}")]
    Short(usize),
    /// It is too long.
    #[error("expected at most {0} bytes")]
    Long(usize),
    /// It would be guessed.
    #[error("expected a password that is hard to guess: {0}")]
    Guessable(String),
}

/// Checks a new password of `user` of `org`. Names that whoever guesses knows add nothing to it: it is judged by what is left
/// without them.
///
/// # Errors
/// When it is too short, or would be guessed: because many people have it, or because it is made of names.
pub fn check(password: &str, user: &str, org: &str) -> Result<(), Weak> {
    let length = password.chars().count();
    if length < LEAST {
        return Err(Weak::Short(length));
    }
    let parts = |name: &'_ str| -> Vec<String> {
        let parts = name.split(|letter: char| !letter.is_alphanumeric());
        parts.map(str::to_lowercase).collect()
    };
    let mut names: Vec<String> = CONTEXT.map(str::to_owned).into();
    names.extend(parts(user).into_iter().chain(parts(org)));
    names.retain(|name| name.chars().count() >= SHORTEST_NAME);
    // The longest first, so that nothing is left of one that has another in it.
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let mut rest = password.to_lowercase();
    for name in &names {
        rest = rest.replace(name.as_str(), "");
    }
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let estimate = zxcvbn::zxcvbn(&rest, &known);
    if estimate.score() >= Score::Three {
        return Ok(());
    }
    let feedback = estimate.feedback();
    let warning = feedback.and_then(|feedback| feedback.warning());
    Err(Weak::Guessable(warning.map_or_else(
        || "add some words that have nothing to do with each other".to_owned(),
        |warning| warning.to_string(),
    )))
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
    fn what_is_easy_to_guess_is_refused() {
        let refusal = |password: &str| {
            check(password, "ada.lovelace", "default")
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refusal("correct horse"),
            "expected at least 15 characters, got 13"
        );
        for weak in [
            "passwordpassword",
            "aaaaaaaaaaaaaaaa",
            "lovelacelovelace",
            "qwertyqwertyqwerty",
            // Many people have these, however long they are.
            "123456789012345",
            "qwertyuiopasdfghjkl",
            "1q2w3e4r5t6y7u8i9o0p",
            "iloveyouiloveyou",
            "Password123Password123",
            "abcdefghijklmnopqrstuvwxyz",
            "zaq12wsxzaq12wsx",
            // Nothing but names, in any number, order and spelling.
            "lovelace-ada-lovelace-ada",
            "Ada Lovelace & LeKiwi robots",
            "LovelaceLekiwiHeartbeatRelayRobot",
            "adaLovelaceKiwiAdaLovelaceDefault1",
        ] {
            let error = refusal(weak);
            assert!(
                error.starts_with("expected a password that is hard to guess: "),
                "{weak}: {error}"
            );
        }
        for good in [
            "correct horse battery staple",
            &random().unwrap(),
            "größer als äpfel im märz",
            "my robot waltzes past nine green bottles",
        ] {
            assert_eq!(check(good, "ada.lovelace", "default"), Ok(()), "{good}");
        }
    }

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
