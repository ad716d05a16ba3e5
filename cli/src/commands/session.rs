//! `lekiwi login` and `lekiwi logout`.

use std::fs;
use std::io;
use std::path::Path;

use lekiwi_protocol::api;

use crate::args::Login;
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
    let url = client::address(&login.url)?;
    let pin = match login.ca_fingerprint {
        Some(pin) => pin,
        None => trust(&Relay::stranger(url.clone(), None)?, ui).await?,
    };
    let relay = Relay::stranger(url, Some(pin))?;
    if let Some(file) = &login.key_file {
        return by_key(relay, credentials::key_in(file)?, pin, &path, ui).await;
    }
    let password = password(login.password_file.as_deref(), &login.user)?;
    let session = relay
        .login(&api::Login {
            user: login.user.clone(),
            password,
        })
        .await?;
    let expires_at = session.expires_at;
    let credentials = Credentials {
        url: relay.url().to_string(),
        ca_fingerprint: pin,
        user: login.user,
        token: session.token,
        expires_at,
    };
    credentials::save(&path, &credentials)?;
    ui.line(format!(
        "logged in to {} as {} until {expires_at}",
        relay.url(),
        credentials.user
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
