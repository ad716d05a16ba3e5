//! `cors`: which other sites' pages may ask the relay.

use axum::http::{HeaderValue, Uri};

use super::ConfigError;

const EXPECTED: &str = "origins such as https://ops.example.org";

/// Checks every origin: what browsers send in `Origin`, `https://` but for pages of this machine.
pub(super) fn check(origins: Vec<String>) -> Result<Vec<HeaderValue>, ConfigError> {
    let origins = origins.into_iter().map(|text| {
        let origin = text.to_ascii_lowercase();
        let value = HeaderValue::from_str(&origin).ok();
        let value = value.filter(|_| is_origin(&origin));
        value.ok_or(ConfigError::Value {
            key: "cors",
            expected: EXPECTED,
            actual: text,
        })
    });
    origins.collect()
}

fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return false;
    };
    let is_here = matches!(authority.host(), "localhost" | "127.0.0.1" | "[::1]");
    // Neither a path nor a name: it is compared as it is.
    text == format!("{scheme}://{authority}")
        && !authority.as_str().contains('@')
        && (scheme == "https" || (scheme == "http" && is_here))
}
