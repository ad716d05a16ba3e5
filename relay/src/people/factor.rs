//! The second factor: codes of an authenticator (RFC 6238 with what every authenticator has: SHA-1, six digits, thirty
//! seconds), and random codes that are taken once when it is lost. Pure but for random numbers. Called by `sessions`.
//!
//! SHA-1 is what authenticators know; HMAC does not need it to be free of collisions.

use aws_lc_rs::hmac;
use lekiwi_protocol::{Org, UserName};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const STEP_S: u64 = 30;
const DIGITS: usize = 6;
/// As long as the digest, as RFC 4226 wants it.
const SECRET_BYTES: usize = 20;
const RECOVERY_CODES: usize = 10;
/// 80 bits: far beyond guessing, so that a fast hash does.
const RECOVERY_BYTES: usize = 10;
/// Letters of a recovery code between two dashes.
const GROUP: usize = 4;
/// RFC 4648.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Of whom a second factor is demanded. Who should have one and has none can do nothing but set it up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Demand {
    /// Of nobody.
    #[default]
    Optional,
    /// Of administrators of the fleet, a group or a robot.
    Admins,
    /// Of everybody with a password.
    All,
}

/// What somebody shows as their second factor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// What an authenticator shows.
    Totp(String),
    /// SHA-256 of a recovery code.
    Recovery([u8; 32]),
}

impl Code {
    /// Reads what a person typed, with spaces and dashes where they like. None when it can be neither.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let mut text = text.to_ascii_uppercase();
        text.retain(|letter| letter != ' ' && letter != '-');
        if text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Self::Totp(text));
        }
        let is_recovery = text.len() == RECOVERY_BYTES * 8 / 5;
        is_recovery.then(|| Self::Recovery(Sha256::digest(text).into()))
    }
}

/// A fresh secret for an authenticator.
///
/// # Errors
/// When the system has no random numbers.
pub fn secret() -> Result<Vec<u8>, getrandom::Error> {
    let mut secret = vec![0; SECRET_BYTES];
    getrandom::fill(&mut secret)?;
    Ok(secret)
}

/// What an authenticator reads from a QR code.
#[must_use]
pub fn uri(secret: &[u8], org: &Org, user: &UserName) -> String {
    let user = user.as_str().replace('@', "%40").replace('+', "%2B");
    let issuer = format!("Lekiwi%20{org}");
    let secret = base32(secret);
    format!(
        "otpauth://totp/{issuer}:{user}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits={DIGITS}&period={STEP_S}"
    )
}

/// The code of a step.
fn code(key: &hmac::Key, step: u64) -> String {
    let digest = hmac::sign(key, &step.to_be_bytes());
    let digest = digest.as_ref();
    let offset = usize::from(digest[digest.len() - 1] & 0xf);
    let bytes = [0, 1, 2, 3].map(|n| digest[offset + n]);
    let number = u32::from_be_bytes(bytes) & 0x7fff_ffff;
    format!("{:0DIGITS$}", number % 10_u32.pow(DIGITS as u32))
}

/// The step after `last_step` whose code this is: that of now, the one before or the one after it, for clocks that differ.
/// Takes the same time whatever the code is.
#[must_use]
pub fn step_of(secret: &[u8], shown: &str, now_ms: u64, last_step: u64) -> Option<u64> {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let now = now_ms / 1000 / STEP_S;
    let mut found = None;
    for step in now.saturating_sub(1)..=now + 1 {
        let is_it = bool::from(code(&key, step).as_bytes().ct_eq(shown.as_bytes()));
        if is_it && step > last_step {
            found = Some(step);
        }
    }
    found
}

/// Fresh recovery codes, and what is kept of each.
///
/// # Errors
/// When the system has no random numbers.
pub fn recovery_codes() -> Result<(Vec<String>, Vec<[u8; 32]>), getrandom::Error> {
    let mut codes = Vec::new();
    let mut hashes = Vec::new();
    for _ in 0..RECOVERY_CODES {
        let mut bytes = [0; RECOVERY_BYTES];
        getrandom::fill(&mut bytes)?;
        let text = base32(&bytes);
        hashes.push(Sha256::digest(&text).into());
        let letters: Vec<char> = text.to_ascii_lowercase().chars().collect();
        let groups: Vec<String> = letters.chunks(GROUP).map(|g| g.iter().collect()).collect();
        codes.push(groups.join("-"));
    }
    Ok((codes, hashes))
}

/// Base32 of bytes whose number is a multiple of five, so that nothing is left over.
#[must_use]
pub fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(5) {
        let bits = group
            .iter()
            .fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        for n in (0..8).rev() {
            text.push(char::from(BASE32[(bits >> (5 * n) & 31) as usize]));
        }
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Of RFC 6238, appendix B.
    const SECRET: &[u8] = b"12345678901234567890";

    #[test]
    fn codes_are_those_of_the_standard() {
        for (now_s, shown) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            let found = step_of(SECRET, shown, now_s * 1000, 0);
            assert_eq!(found, Some(now_s / 30), "{now_s}");
        }
    }

    #[test]
    fn clocks_may_differ_by_a_step_and_no_code_is_taken_twice() {
        let shown = "050471"; // of the step 37,037,037, from 1,111,111,110 s on
        let step = 37_037_037;
        let at = |now_s: u64, last| step_of(SECRET, shown, now_s * 1000, last);
        let (from, to) = (1_111_111_080, 1_111_111_170);
        assert_eq!(
            [at(from - 1, 0), at(from, 0), at(to - 1, 0), at(to, 0)],
            [None, Some(step), Some(step), None]
        );
        assert_eq!(at(1_111_111_111, step - 1), Some(step));
        assert_eq!(at(1_111_111_111, step), None, "again");
        assert_eq!(step_of(SECRET, "50471", 1_111_111_111_000, 0), None);
        assert_eq!(step_of(SECRET, "", 1_111_111_111_000, 0), None);
    }

    #[test]
    fn an_authenticator_is_told_by_what_it_reads() {
        assert_eq!(base32(SECRET), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert_eq!(
            uri(
                SECRET,
                &Org::default(),
                &"ada+x@example.org".parse().unwrap()
            ),
            "otpauth://totp/Lekiwi%20default:ada%2Bx%40example.org?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\
             &issuer=Lekiwi%20default&algorithm=SHA1&digits=6&period=30"
        );
        assert_eq!(secret().unwrap().len(), SECRET_BYTES);
        assert_ne!(secret().unwrap(), secret().unwrap());
    }

    #[test]
    fn recovery_codes_are_read_as_people_write_them() {
        let (codes, hashes) = recovery_codes().unwrap();
        assert_eq!((codes.len(), hashes.len()), (10, 10));
        for (code, hash) in codes.iter().zip(&hashes) {
            assert_eq!(code.len(), 19, "{code}");
            let recovery = Some(Code::Recovery(*hash));
            assert_eq!(Code::read(code), recovery);
            let typed = format!(" {} ", code.to_uppercase().replace('-', " "));
            assert_eq!(Code::read(&typed), recovery);
        }
        assert_ne!(hashes[0], hashes[1]);
        assert_eq!(Code::read("123 456"), Some(Code::Totp("123456".to_owned())));
        for neither in ["", "12345", "1234567", "hunter2"] {
            assert_eq!(Code::read(neither), None, "{neither}");
        }
    }
}
