//! Who may connect: the certificate authority, enrolment over EST with one-time tokens, and what the
//! broker is told about a certificate.
//!
//! * [`authority`] signs, as one [`generation`] of it or, while the fleet moves to another root ([`rollover`]), two;
//!   [`server`] is the relay's own certificate.
//! * [`csr`] reads what robots and consumers send; [`pkcs7`] writes what they get.
//! * [`crl`] says which of them count no more, to those who cannot ask.
//! * [`tokens`] are the one-time secrets; [`enrolment`] spends them. [`renewal`] is by the certificate before.

pub mod authority;
pub mod consumers;
pub mod crl;
pub mod csr;
pub mod enrolment;
mod generation;
pub mod pkcs7;
pub mod renewal;
pub mod rollover;
pub mod server;
pub mod tokens;

pub use generation::{CA_CERTIFICATE, CA_KEY};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// PEM armour around `der`.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}-----END {label}-----\n",
        wrapped(&STANDARD.encode(der))
    )
}

/// Base64 in lines of 64: some decoders stop at longer ones.
fn wrapped(base64: &str) -> String {
    let mut lines = String::with_capacity(base64.len() + base64.len() / 64 + 1);
    for line in base64.as_bytes().chunks(64) {
        lines.extend(line.iter().map(|b| char::from(*b)));
        lines.push('\n');
    }
    lines
}
