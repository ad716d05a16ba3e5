//! The page by which people set up their second factor, and end it.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use lekiwi_protocol::api::{TotpEnd, TotpSecret};
use serde::Deserialize;

use super::App;
use super::audited::Note;
use super::auth::Asker;
use super::extract::Peer;
use super::problem::Failure;
use super::{factor, page};

/// Where it is.
pub(super) const PAGE: &str = "/second-factor";

const PASSWORD: &str = "<label for=\"password\">Your password, once more</label>\
     <input id=\"password\" name=\"password\" type=\"password\" autocomplete=\"current-password\" required autofocus>";

fn form(step: &str, fields: &str, button: &str, error: Option<&str>) -> String {
    format!(
        "<form method=\"post\" action=\"{PAGE}\">{}<input type=\"hidden\" name=\"step\" value=\"{step}\">{fields}\
         <button type=\"submit\">{button}</button></form>",
        page::error(error)
    )
}

fn confirm(told: Option<&TotpSecret>, error: Option<&str>) -> String {
    let secret = told.map_or_else(String::new, |told| {
        format!(
            "<p>Show this to your authenticator, or type the secret into it:</p>{}<p><code>{}</code></p>",
            page::qr(&told.uri),
            page::escaped(&told.secret)
        )
    });
    let fields = format!(
        "{secret}<label for=\"code\">What it shows now</label>\
         <input id=\"code\" name=\"code\" autocomplete=\"one-time-code\" inputmode=\"numeric\" required autofocus>"
    );
    form("confirm", &fields, "Set up", error)
}

/// What there is to do at first.
fn first(asker: &Asker, status: StatusCode, error: Option<&str>) -> Response {
    let account = asker.account();
    let content = if account.has_factor {
        let left = account.recovery_codes;
        let text = format!(
            "<p>Your login takes a code of your authenticator. {left} recovery codes are left.</p>{PASSWORD}"
        );
        form("end", &text, "Log in without it from now on", error)
    } else {
        let text = format!(
            "<p>A second factor keeps out who knows your password: an app of yours that shows another code every half minute.</p>{PASSWORD}"
        );
        form("begin", &text, "Begin", error)
    };
    shown(status, &content)
}

fn shown(status: StatusCode, content: &str) -> Response {
    let content = format!("{content}<p class=\"hint\"><a href=\"/\">To the dashboard</a></p>");
    page::page(status, "Second factor", &content)
}

/// The page.
pub(super) async fn page(asker: Asker) -> Response {
    first(&asker, StatusCode::OK, None)
}

/// What the forms send.
#[derive(Deserialize)]
#[serde(tag = "step", rename_all = "lowercase")]
enum Filled {
    Begin { password: String },
    Confirm { code: String },
    End { password: String },
}

impl Filled {
    fn step(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "begin",
            Self::Confirm { .. } => "confirm",
            Self::End { .. } => "end",
        }
    }
}

/// The forms.
pub(super) async fn submit(
    State(app): State<App>,
    Peer(address): Peer,
    asker: Asker,
    note: Note,
    request: Request,
) -> Response {
    let filled: Filled = match page::form(request).await {
        Ok(filled) => filled,
        Err(failure) => {
            return page::refused(failure, |failure| {
                first(&asker, failure.kind().status(), Some(failure.detail()))
            });
        }
    };
    note.says("step", filled.step());
    let is_confirm = matches!(filled, Filled::Confirm { .. });
    match done(&app, &asker, filled, address).await {
        Ok(content) => shown(StatusCode::OK, &content),
        Err(failure) => page::refused(failure, |failure| {
            let (status, text) = (failure.kind().status(), Some(failure.detail()));
            if is_confirm {
                shown(status, &confirm(None, text))
            } else {
                first(&asker, status, text)
            }
        }),
    }
}

/// Does a step; what to show after it.
async fn done(
    app: &App,
    asker: &Asker,
    filled: Filled,
    address: IpAddr,
) -> Result<String, Failure> {
    let name = asker.name();
    match filled {
        Filled::Begin { password } => {
            let told = app.sessions.begin_factor(name, password, address).await?;
            Ok(confirm(Some(&told), None))
        }
        Filled::Confirm { code } => {
            let codes = factor::confirmed(app, asker, &code, address).await?;
            let codes: Vec<String> = codes
                .iter()
                .map(|code| format!("<li>{code}</li>"))
                .collect();
            Ok(format!(
                "<form><p>It is set up. Keep these recovery codes where your authenticator is not: each lets you in once, when that \
                 is lost. They are shown this once.</p><ul>{}</ul></form>",
                codes.concat()
            ))
        }
        Filled::End { password } => {
            let password = Some(password);
            let shown = TotpEnd {
                password,
                code: None,
            };
            app.sessions.end_factor(name, shown, address).await?;
            tracing::info!(person = %name, "second factor ended");
            Ok("<form><p>Your password alone logs you in from now on.</p></form>".to_owned())
        }
    }
}
