//! `lekiwi login`, `lekiwi join` and `lekiwi logout`.

use std::fs;
use std::io;
use std::path::Path;

use lekiwi_protocol::api;
use reqwest::Url;

use crate::args::Login;
use crate::args::people::Join;
use crate::client::{self, Relay};
use crate::credentials::{self, Credentials, first_line};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::trust::Fingerprint;
use crate::ui::{Ui, plain};

pub(super) async fn login(
    login: Login,
    environment: &Environment,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let path = credentials::path(environment)?;
    let (relay, pin) = trusted(client::address(&login.url)?, login.ca_fingerprint, ui).await?;
    if let Some(file) = &login.key_file {
        return by_key(relay, credentials::key_in(file)?, pin, &path, ui).await;
    }
    let password = password(login.password_file.as_deref(), &login.user)?;
    let mut shown = api::Login {
        user: login.user,
        password,
        totp: login.code,
    };
    let session = match relay.login(&shown).await {
        Err(failure) if failure.is_second_factor() && shown.totp.is_none() && ui.can_ask() => {
            shown.totp = Some(code(&shown.user)?);
            relay.login(&shown).await?
        }
        other => other?,
    };
    keep(&path, &relay, pin, shown.user, session, ui)
}

pub(super) async fn join(
    join: Join,
    environment: &Environment,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let path = credentials::path(environment)?;
    let not_a_link = || Failure::Link(join.link.chars().take(40).collect());
    let mut link = Url::parse(&join.link).map_err(|_| not_a_link())?;
    let token = link.query_pairs().find(|(name, _)| name == "token");
    let token = token.map(|(_, token)| token.into_owned());
    let token = token.ok_or_else(not_a_link)?;
    link.set_path("/");
    link.set_query(None);
    let (relay, pin) = trusted(client::address(link.as_str())?, join.ca_fingerprint, ui).await?;
    let password = new_password(join.password_file.as_deref(), "yours")?;
    let joined = relay.join(&api::Join { token, password }).await?;
    let user = joined.name.to_string();
    keep(&path, &relay, pin, user, joined.session, ui)
}

/// The relay at an address, and the authority by which it is known from now on.
async fn trusted(
    url: Url,
    pin: Option<Fingerprint>,
    ui: &mut Ui,
) -> Result<(Relay, Fingerprint), Failure> {
    let pin = match pin {
        Some(pin) => pin,
        None => trust(&Relay::stranger(url.clone(), None)?, ui).await?,
    };
    Ok((Relay::stranger(url, Some(pin))?, pin))
}

/// Keeps a session for the commands to come.
fn keep(
    path: &Path,
    relay: &Relay,
    pin: Fingerprint,
    user: String,
    session: api::Session,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let credentials = Credentials {
        url: relay.url().to_string(),
        ca_fingerprint: pin,
        user,
        token: session.token,
        expires_at: session.expires_at,
    };
    credentials::save(path, &credentials)?;
    ui.line(format!(
        "logged in to {} as {} until {}",
        relay.url(),
        credentials.user,
        credentials.expires_at
    ))
}

/// Keeps an API key in place of a session.
async fn by_key(
    relay: Relay,
    key: String,
    pin: Fingerprint,
    path: &Path,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let relay = relay.shown(key.clone());
    let me = relay.me().await?;
    let info = me.key.ok_or(Failure::NoKey)?;
    let credentials = Credentials {
        url: relay.url().to_string(),
        ca_fingerprint: pin,
        user: me.name.to_string(),
        token: key,
        expires_at: info.expires_at,
    };
    credentials::save(path, &credentials)?;
    ui.line(format!(
        "logged in to {} by key {} of {} until {}",
        relay.url(),
        plain(&info.name),
        credentials.user,
        info.expires_at
    ))
}

/// What somebody's authenticator shows.
pub(super) fn code(user: &str) -> Result<String, Failure> {
    let question = format!("What the authenticator of {user} shows, or a recovery code: ");
    rpassword::prompt_password(question).map_err(Failure::Password)
}

/// Shows the authority, and asks whether it is the right one.
async fn trust(stranger: &Relay, ui: &mut Ui) -> Result<Fingerprint, Failure> {
    let fingerprint = stranger.authority().await?;
    if !ui.can_ask() {
        return Err(Failure::Untrusted(fingerprint));
    }
    ui.note(format!(
        "The relay at {} is not known yet. The fingerprint of its authority is\n  {fingerprint}",
        stranger.url()
    ));
    if ui.confirm("Is that what the relay printed when it started?") {
        Ok(fingerprint)
    } else {
        Err(Failure::Untrusted(fingerprint))
    }
}

/// The password of `user` that counts.
pub(super) fn password(file: Option<&Path>, user: &str) -> Result<String, Failure> {
    let password = match file {
        Some(path) if path == Path::new("-") => {
            first_line(io::stdin().lock()).map_err(Failure::Password)?
        }
        Some(path) => fs::File::open(path)
            .and_then(first_line)
            .map_err(|source| Failure::File {
                path: path.to_owned(),
                did: "read",
                source,
            })?,
        None => rpassword::prompt_password(format!("Password of {user}: "))
            .map_err(Failure::Password)?,
    };
    if password.is_empty() {
        Err(Failure::EmptyPassword)
    } else {
        Ok(password)
    }
}

/// A password that is to count: asked for twice, where somebody types it.
pub(super) fn new_password(file: Option<&Path>, user: &str) -> Result<String, Failure> {
    if file.is_some() {
        return password(file, user);
    }
    let ask = |what: &str| rpassword::prompt_password(format!("{what} of {user}: "));
    let (first, second) = (
        ask("New password").map_err(Failure::Password)?,
        ask("Once more, the new password").map_err(Failure::Password)?,
    );
    match first.as_str() {
        "" => Err(Failure::EmptyPassword),
        _ if first != second => Err(Failure::TwoPasswords),
        _ => Ok(first),
    }
}

pub(super) async fn logout(environment: &Environment, ui: &mut Ui) -> Result<(), Failure> {
    let path = credentials::path(environment)?;
    let Some(stored) = credentials::load(&path)? else {
        return Err(Failure::NotLoggedIn);
    };
    if credentials::is_key(&stored.token) {
        credentials::remove(&path)?;
        return ui.line(format!(
            "forgot the key of {}; it works until it ends or is revoked",
            stored.url
        ));
    }
    // The stored session is meant, whatever the environment says.
    let own = Environment {
        config_dir: environment.config_dir.clone(),
        ..Environment::default()
    };
    let ended = Relay::of(&own)?.logout().await;
    credentials::remove(&path)?;
    match ended {
        Ok(()) => ui.line(format!("logged out of {}", stored.url)),
        Err(failure) if failure.is_session_over() => {
            ui.line(format!("logged out of {}", stored.url))
        }
        Err(failure) => {
            ui.note(format!(
                "forgot the session at {}; it stays open there until {}",
                stored.url, stored.expires_at
            ));
            Err(failure)
        }
    }
}
