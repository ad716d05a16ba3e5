use std::sync::LazyLock;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaSubjectPublicKey,
};
use serde_json::json;

use super::*;

const NOW_S: u64 = 1_700_000_000;

struct Provider {
    rsa: RsaPair,
    curve: EcdsaKeyPair,
    edwards: Ed25519KeyPair,
}

static PROVIDER: LazyLock<Provider> = LazyLock::new(|| Provider {
    rsa: RsaPair::generate(KeySize::Rsa2048).unwrap(),
    curve: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
    edwards: Ed25519KeyPair::generate().unwrap(),
});

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The modulus of a DER `RSAPublicKey` of 2048 bits with the usual exponent: two headers, a zero, 256 bytes, five more.
fn modulus(key: &RsaSubjectPublicKey) -> &[u8] {
    &key.as_ref()[9..265]
}

fn published() -> Value {
    let point = PROVIDER.curve.public_key().as_ref();
    json!({ "keys": [
        { "kty": "RSA", "kid": "r", "use": "sig", "n": text(modulus(PROVIDER.rsa.public_key())), "e": "AQAB" },
        { "kty": "EC", "kid": "c", "crv": "P-256", "alg": "ES256", "x": text(&point[1..33]), "y": text(&point[33..]) },
        { "kty": "OKP", "kid": "e", "crv": "Ed25519", "x": text(PROVIDER.edwards.public_key().as_ref()) },
        { "kty": "RSA", "kid": "enc", "use": "enc", "n": text(modulus(PROVIDER.rsa.public_key())), "e": "AQAB" },
        { "kty": "oct", "kid": "o", "k": "c2VjcmV0" },
        { "kty": "new", "kid": 7 },
    ] })
}

fn keys() -> Keys {
    Keys::parse(published().to_string().as_bytes()).unwrap()
}

fn signed(header: &Value, claims: &Value) -> String {
    let message = format!(
        "{}.{}",
        text(header.to_string().as_bytes()),
        text(claims.to_string().as_bytes())
    );
    let (random, bytes) = (SystemRandom::new(), message.as_bytes());
    let mut rsa = vec![0; PROVIDER.rsa.public_modulus_len()];
    let signature = match header["alg"].as_str().unwrap() {
        "RS256" => {
            let way = &RSA_PKCS1_SHA256;
            PROVIDER.rsa.sign(way, &random, bytes, &mut rsa).unwrap();
            rsa
        }
        "PS256" => {
            let way = &RSA_PSS_SHA256;
            PROVIDER.rsa.sign(way, &random, bytes, &mut rsa).unwrap();
            rsa
        }
        "ES256" => PROVIDER.curve.sign(&random, bytes).unwrap().as_ref().into(),
        "EdDSA" | "Ed25519" => PROVIDER.edwards.sign(bytes).as_ref().into(),
        // What everybody knows as the secret.
        "HS256" => {
            let key = hmac::Key::new(hmac::HMAC_SHA256, PROVIDER.rsa.public_key().as_ref());
            hmac::sign(&key, bytes).as_ref().into()
        }
        _ => Vec::new(),
    };
    format!("{message}.{}", text(&signature))
}

fn claims() -> Value {
    json!({
        "iss": "https://login.example", "aud": "lekiwi", "sub": "42", "nonce": "n",
        "iat": NOW_S, "exp": NOW_S + 300, "groups": ["robotics"],
    })
}

fn judge(token: &str) -> Result<Claims, String> {
    let expected = Expected {
        issuer: "https://login.example",
        client_id: "lekiwi",
        nonce: "n",
        now_s: NOW_S,
    };
    verify(token, &keys(), expected).map_err(|error| error.to_string())
}

#[test]
fn a_token_of_the_provider_is_taken() {
    for (alg, kid) in [
        ("RS256", "r"),
        ("PS256", "r"),
        ("ES256", "c"),
        ("EdDSA", "e"),
        ("Ed25519", "e"),
    ] {
        for header in [
            json!({ "alg": alg, "kid": kid }),
            json!({ "alg": alg, "typ": "JWT" }),
        ] {
            let taken = judge(&signed(&header, &claims())).unwrap();
            assert_eq!(Value::from(taken), claims(), "{header}");
        }
    }
}

#[test]
fn nothing_is_taken_that_the_provider_did_not_sign() {
    let good = signed(&json!({ "alg": "RS256", "kid": "r" }), &claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let mut other = claims();
    other["sub"] = "1".into();
    let other = text(other.to_string().as_bytes());
    let none = text(br#"{"alg":"none"}"#);
    let form = "expected a signed token, got something else: ";
    let signature_expected =
        "expected a token that the provider signed, got one that was changed or is somebody else's";
    let algorithm =
        |alg| format!("expected a token signed by RS256, ES256 or the like, got {alg:?}");
    let key = |id| format!("expected a token signed with a key of the provider, got one of {id}");
    for (token, expected) in [
        (
            format!("{header}.{other}.{signature}"),
            signature_expected.to_owned(),
        ),
        (
            format!("{header}.{payload}."),
            signature_expected.to_owned(),
        ),
        (format!("{none}.{payload}."), algorithm("none")),
        (format!("{none}.{payload}.{signature}"), algorithm("none")),
        (
            signed(&json!({ "alg": "HS256", "kid": "r" }), &claims()),
            algorithm("HS256"),
        ),
        (
            signed(&json!({ "alg": "nOnE" }), &claims()),
            algorithm("nOnE"),
        ),
        // One key's name with another one's algorithm, what is not for signatures, and what is not known.
        (
            signed(&json!({ "alg": "ES256", "kid": "r" }), &claims()),
            key("r"),
        ),
        (
            signed(&json!({ "alg": "RS256", "kid": "enc" }), &claims()),
            key("enc"),
        ),
        (
            signed(&json!({ "alg": "RS256", "kid": "new" }), &claims()),
            key("new"),
        ),
        (
            signed(&json!({ "alg": "RS256", "kid": "o" }), &claims()),
            key("o"),
        ),
        (
            signed(
                &json!({ "alg": "RS256", "crit": ["exp"], "exp": 1 }),
                &claims(),
            ),
            format!("{form}its header takes an extension"),
        ),
        (String::new(), format!("{form}it has no parts")),
        (
            format!("{header}.{payload}"),
            format!("{form}it has two parts"),
        ),
        (format!("{good}.AAAA"), signature_expected.to_owned()),
        (
            format!("x.{payload}.{signature}"),
            format!("{form}its header cannot be read"),
        ),
        (
            format!("{message}.!"),
            format!("{form}its signature is no base64url"),
        ),
        ("a".repeat(LONGEST + 1), format!("{form}it is too long")),
    ] {
        assert_eq!(judge(&token).unwrap_err(), expected, "{token}");
    }
}

#[test]
fn nothing_is_taken_that_is_not_of_this_login() {
    for (claim, value, expected) in [
        (
            "iss",
            json!("https://login.example/"),
            "to be https://login.example, got \"https://login.example/\"",
        ),
        ("aud", json!("other"), "to be lekiwi, got \"other\""),
        ("aud", json!([]), "to be lekiwi, got []"),
        ("azp", json!("other"), "to be lekiwi, got \"other\""),
        (
            "exp",
            json!(NOW_S - 60),
            "to be a time to come, got 1699999940",
        ),
        ("exp", json!("never"), "to be a time to come, got \"never\""),
        ("exp", Value::Null, "to be a time to come, got null"),
        (
            "iat",
            json!(NOW_S + 61),
            "to be a time that has been, got 1700000061",
        ),
        (
            "nbf",
            json!(NOW_S + 61),
            "to be a time that has been, got 1700000061",
        ),
        (
            "nonce",
            json!("other"),
            "to be that of this login, got \"other\"",
        ),
        ("nonce", Value::Null, "to be that of this login, got null"),
        ("sub", json!(""), "to be 1 to 255 bytes, got \"\""),
        ("sub", json!(7), "to be 1 to 255 bytes, got 7"),
    ] {
        let mut claims = claims();
        claims[claim] = value;
        let token = signed(&json!({ "alg": "ES256" }), &claims);
        let expected = format!("expected {claim} of the token {expected}");
        assert_eq!(judge(&token).unwrap_err(), expected);
    }
    let mut for_others = claims();
    for_others["aud"] = json!(["lekiwi", "other"]);
    let token = signed(&json!({ "alg": "ES256" }), &for_others);
    assert_eq!(
        judge(&token).unwrap_err(),
        "expected azp of the token to be lekiwi, got null"
    );
}

#[test]
fn clocks_may_be_a_minute_apart_and_audiences_several() {
    for change in [
        json!({ "exp": NOW_S - 59 }),
        json!({ "exp": NOW_S as f64 + 0.5 }),
        json!({ "iat": NOW_S + 60 }),
        json!({ "nbf": NOW_S + 60 }),
        json!({ "aud": ["lekiwi"] }),
        json!({ "aud": ["other", "lekiwi"], "azp": "lekiwi" }),
    ] {
        let mut claims = claims();
        for (claim, value) in change.as_object().unwrap() {
            claims[claim] = value.clone();
        }
        let token = signed(&json!({ "alg": "ES256" }), &claims);
        assert!(judge(&token).is_ok(), "{change}");
    }
}

#[test]
fn keys_may_begin_with_zeros() {
    let mut padded = published();
    let n = [&[0][..], modulus(PROVIDER.rsa.public_key())].concat();
    padded["keys"][0]["n"] = text(&n).into();
    let keys = Keys::parse(padded.to_string().as_bytes()).unwrap();
    let token = signed(&json!({ "alg": "RS256", "kid": "r" }), &claims());
    assert!(open(&token, &keys).is_ok());
    assert!(Keys::parse(b"{}").is_err());
}
