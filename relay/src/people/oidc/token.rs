//! ID tokens: whether one is what the provider says, to this relay, of who logs in right now. Pure: time is an argument.
//! Called by [`super`].
//!
//! Invariant: the algorithm is one of [`ALGORITHMS`], and the key one of the provider's that is meant for it: a token
//! without signature, or signed with what everybody knows, is none.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;

/// How far the provider's clock and this one's may be apart, seconds.
const SKEW_S: f64 = 60.0;
/// Longest token worth a look, bytes.
const LONGEST: usize = 64 * 1024;
/// Longest subject (OpenID Connect Core 1.0, section 2), bytes.
const LONGEST_SUBJECT: usize = 255;

/// What a token says.
pub type Claims = Map<String, Value>;

/// What a key does with a signature.
enum Check {
    Rsa(&'static RsaParameters),
    Curve(&'static str, &'static dyn VerificationAlgorithm),
}

/// Those that providers sign with. None of them takes a secret.
const ALGORITHMS: [(&str, Check); 10] = [
    ("RS256", Check::Rsa(&RSA_PKCS1_2048_8192_SHA256)),
    ("RS384", Check::Rsa(&RSA_PKCS1_2048_8192_SHA384)),
    ("RS512", Check::Rsa(&RSA_PKCS1_2048_8192_SHA512)),
    ("PS256", Check::Rsa(&RSA_PSS_2048_8192_SHA256)),
    ("PS384", Check::Rsa(&RSA_PSS_2048_8192_SHA384)),
    ("PS512", Check::Rsa(&RSA_PSS_2048_8192_SHA512)),
    ("ES256", Check::Curve("P-256", &ECDSA_P256_SHA256_FIXED)),
    ("ES384", Check::Curve("P-384", &ECDSA_P384_SHA384_FIXED)),
    ("EdDSA", Check::Curve("Ed25519", &ED25519)),
    // The same by its newer name (RFC 9864).
    ("Ed25519", Check::Curve("Ed25519", &ED25519)),
];

/// Why a token is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not of the form.
    #[error("expected a signed token, got something else: {0}")]
    Form(&'static str),
    /// It is signed in another way, or not at all.
    #[error("expected a token signed by RS256, ES256 or the like, got {0:?}")]
    Algorithm(String),
    /// It is signed with a key that the provider has not published.
    #[error("expected a token signed with a key of the provider, got one of {0}")]
    Key(String),
    /// The signature is wrong.
    #[error(
        "expected a token that the provider signed, got one that was changed or is somebody else's"
    )]
    Signature,
    /// It is not for this login.
    #[error("expected {claim} of the token to be {expected}, got {actual}")]
    Claim {
        /// Which claim.
        claim: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        actual: String,
    },
}

/// The keys that a provider publishes.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The only algorithm that it is for, when that is said.
    algorithm: Option<String>,
    public: Public,
}

#[derive(Debug)]
enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Curve { name: String, point: Vec<u8> },
}

/// A JSON Web Key (RFC 7517), as far as it can verify.
#[derive(Debug, Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    fn key(self) -> Option<Key> {
        if self.purpose.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let public = match self.kty.as_str() {
            "RSA" => Public::Rsa {
                n: number(&self.n?)?,
                e: number(&self.e?)?,
            },
            "EC" => Public::Curve {
                // Not compressed: both coordinates.
                point: [vec![4], decoded(&self.x?)?, decoded(&self.y?)?].concat(),
                name: self.crv?,
            },
            "OKP" => Public::Curve {
                point: decoded(&self.x?)?,
                name: self.crv?,
            },
            _ => return None,
        };
        Some(Key {
            id: self.kid,
            algorithm: self.alg,
            public,
        })
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

/// Without the zeros that some providers put in front.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = decoded(text)?;
    let first = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes[first..].to_vec())
}

impl Keys {
    /// Reads a JSON Web Key Set; keys of other kinds are left out.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(json)?;
        let keys = set.keys.into_iter();
        let keys = keys.filter_map(|key| serde_json::from_value::<Jwk>(key).ok()?.key());
        Ok(Self(keys.collect()))
    }
}

impl Key {
    fn is_for(&self, name: &str, check: &Check) -> bool {
        let is_meant = self.algorithm.as_ref().is_none_or(|only| only == name);
        is_meant
            && match (check, &self.public) {
                (Check::Rsa(_), Public::Rsa { .. }) => true,
                (Check::Curve(curve, _), Public::Curve { name, .. }) => curve == name,
                _ => false,
            }
    }

    fn signed(&self, check: &Check, message: &[u8], signature: &[u8]) -> bool {
        match (check, &self.public) {
            (Check::Rsa(parameters), Public::Rsa { n, e }) => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, message, signature).is_ok()
            }
            (Check::Curve(_, algorithm), Public::Curve { point, .. }) => {
                let key = UnparsedPublicKey::new(*algorithm, point);
                key.verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// What a token must be about.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Who says it.
    pub issuer: &'a str,
    /// To whom.
    pub client_id: &'a str,
    /// In which login.
    pub nonce: &'a str,
    /// The time, seconds since the epoch.
    pub now_s: u64,
}

/// What the provider says in `token`.
///
/// # Errors
/// When it does not say it, or not of this login.
pub fn verify(token: &str, keys: &Keys, expected: Expected<'_>) -> Result<Claims, TokenError> {
    let claims = open(token, keys)?;
    check(&claims, expected)?;
    Ok(claims)
}

/// What was signed with one of the keys.
fn open(token: &str, keys: &Keys) -> Result<Claims, TokenError> {
    #[derive(Deserialize)]
    struct Header {
        alg: String,
        kid: Option<String>,
        crit: Option<Value>,
    }
    if token.len() > LONGEST {
        return Err(TokenError::Form("it is too long"));
    }
    let (message, signature) = token
        .rsplit_once('.')
        .ok_or(TokenError::Form("it has no parts"))?;
    let (header, payload) = message
        .split_once('.')
        .ok_or(TokenError::Form("it has two parts"))?;
    let header = decoded(header).and_then(|json| serde_json::from_slice::<Header>(&json).ok());
    let header = header.ok_or(TokenError::Form("its header cannot be read"))?;
    let algorithm = ALGORITHMS.iter().find(|(name, _)| *name == header.alg);
    let (name, check) = algorithm.ok_or_else(|| TokenError::Algorithm(cut(&header.alg)))?;
    if header.crit.is_some() {
        return Err(TokenError::Form("its header takes an extension"));
    }
    let is_named = |key: &&Key| header.kid.is_none() || key.id == header.kid;
    let fitting = keys.0.iter().filter(is_named);
    let mut fitting = fitting.filter(|key| key.is_for(name, check)).peekable();
    if fitting.peek().is_none() {
        let id = header.kid.as_deref().map(cut);
        return Err(TokenError::Key(id.unwrap_or_else(|| "no name".to_owned())));
    }
    let signature = decoded(signature).ok_or(TokenError::Form("its signature is no base64url"))?;
    if !fitting.any(|key| key.signed(check, message.as_bytes(), &signature)) {
        return Err(TokenError::Signature);
    }
    let payload = decoded(payload).and_then(|json| serde_json::from_slice(&json).ok());
    payload.ok_or(TokenError::Form("its claims cannot be read"))
}

/// Whether claims that were signed are about this login (OpenID Connect Core 1.0, section 3.1.3.7).
///
/// # Errors
/// When they are not.
pub fn check(claims: &Claims, expected: Expected<'_>) -> Result<(), TokenError> {
    let of = |claim: &str| claims.get(claim).unwrap_or(&Value::Null);
    let wrong = |claim: &'static str, expected: &str| TokenError::Claim {
        claim,
        expected: expected.to_owned(),
        actual: cut(&of(claim).to_string()),
    };
    if of("iss") != expected.issuer {
        return Err(wrong("iss", expected.issuer));
    }
    let client_id = expected.client_id;
    let (is_for_us, is_for_others) = match of("aud") {
        Value::Array(all) => (all.iter().any(|one| one == client_id), all.len() > 1),
        one => (one == client_id, false),
    };
    if !is_for_us {
        return Err(wrong("aud", client_id));
    }
    let presenter = of("azp");
    if presenter != client_id && (is_for_others || !presenter.is_null()) {
        return Err(wrong("azp", client_id));
    }
    let time = |claim| of(claim).as_f64().filter(|time| time.is_finite());
    let now = expected.now_s as f64;
    if time("exp").is_none_or(|until| until + SKEW_S <= now) {
        return Err(wrong("exp", "a time to come"));
    }
    if time("iat").is_none_or(|made| made - SKEW_S > now) {
        return Err(wrong("iat", "a time that has been"));
    }
    if claims.contains_key("nbf") && time("nbf").is_none_or(|from| from - SKEW_S > now) {
        return Err(wrong("nbf", "a time that has been"));
    }
    let nonce = of("nonce").as_str().unwrap_or_default();
    if !bool::from(nonce.as_bytes().ct_eq(expected.nonce.as_bytes())) {
        return Err(wrong("nonce", "that of this login"));
    }
    let subject = of("sub").as_str().unwrap_or_default();
    if subject.is_empty() || subject.len() > LONGEST_SUBJECT {
        return Err(wrong("sub", "1 to 255 bytes"));
    }
    Ok(())
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
