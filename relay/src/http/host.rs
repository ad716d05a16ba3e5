//! Whom a request is for must be the same to everybody on its way. What could be for two hosts, or is for none, is refused
//! before anything else of it counts (RFC 9112, 3.2); the HTTP library sees to where requests end.

use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::{Failure, Kind};

/// The layer around all routes. A connection of HTTP/1 ends with the refusal, and whatever follows in it.
pub(super) async fn one(request: Request, next: Next) -> Response {
    let version = request.version();
    let Err(failure) = check(&request) else {
        return next.run(request).await;
    };
    let mut response = failure.into_response();
    if version < Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

fn check(request: &Request) -> Result<(), Failure> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let wrong = match (hosts.next(), hosts.next(), request.uri().authority()) {
        (_, Some(_), _) => "expected one Host, got several",
        (None, None, _) if request.version() == Version::HTTP_11 => "expected a Host, got none",
        (Some(host), None, Some(authority))
            if !authority
                .as_str()
                .as_bytes()
                .eq_ignore_ascii_case(host.as_bytes()) =>
        {
            "expected Host to be that of the request's URL"
        }
        _ => return Ok(()),
    };
    Err(Failure::new(Kind::HostInvalid, wrong))
}
