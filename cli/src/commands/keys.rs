//! `lekiwi keys …`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::{KeyCreated, KeyRequest, RotationRequest};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::args::keys::{Keys, KeysCommand, Rotate};
use crate::client::Relay;
use crate::clock;
use crate::credentials::{key_in, replace_private};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::show;
use crate::ui::{Ui, plain};

/// When it is looked again whether it is time.
const LOOK: Duration = Duration::from_secs(60);

pub(super) async fn run(
    arguments: Keys,
    environment: &Environment,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let relay = || Relay::of(environment);
    match arguments.command {
        None => {
            let list = relay()?.keys(arguments.of.as_ref()).await?;
            if arguments.output.json {
                return super::json(ui, &list);
            }
            ui.line(show::keys(&list.keys, clock::now(), ui.colour))
        }
        Some(KeysCommand::Create {
            name,
            permissions,
            on,
            lifetime,
            note,
            output,
        }) => {
            let request = KeyRequest {
                name,
                note,
                permissions: permissions.into_iter().collect(),
                on,
                lifetime_s: lifetime.map(|lifetime| lifetime.as_secs()),
            };
            let created = relay()?.create_key(&request).await?;
            tell(&created, output.json, ui)
        }
        Some(KeysCommand::Rotate(arguments)) => rotate(&arguments, environment, ui).await,
        Some(KeysCommand::Revoke { id }) => {
            relay()?.revoke_key(id).await?;
            ui.line(format!("revoked {id}"))
        }
    }
}

fn tell(created: &KeyCreated, as_json: bool, ui: &mut Ui) -> Result<(), Failure> {
    if as_json {
        return super::json(ui, created);
    }
    // The secret alone on standard output: `lekiwi keys create … > key` works.
    ui.line(plain(&created.key))?;
    let info = &created.info;
    ui.note(format!(
        "works until {}; shown only now (revoke it with `lekiwi keys revoke {}`)",
        info.expires_at, info.id
    ));
    if let Some(until) = info.old_until {
        ui.note(format!("the one before works until {until}"));
    }
    Ok(())
}

async fn rotate(arguments: &Rotate, environment: &Environment, ui: &mut Ui) -> Result<(), Failure> {
    let request = RotationRequest {
        overlap_s: arguments.overlap.map(|overlap| overlap.as_secs()),
    };
    if let Some(id) = arguments.id {
        let rotated = Relay::of(environment)?.rotate_key(id, &request).await?;
        return tell(&rotated, arguments.output.json, ui);
    }
    let Some(file) = &arguments.write else {
        return Ok(());
    };
    let Some(every) = arguments.every else {
        return renew(file, &request, environment, ui).await;
    };
    loop {
        // Many programs that were installed together do not come together.
        let due = changed(file)?.plus(every.mul_f64(1.0 - chance() / 10.0));
        while clock::now() < due {
            tokio::time::sleep(due.since(clock::now()).min(LOOK)).await;
        }
        match renew(file, &request, environment, ui).await {
            Err(failure) if failure.is_temporary() => {
                ui.note(format!("warning: {failure}; another try follows"));
                tokio::time::sleep(LOOK.mul_f64(0.5 + chance())).await;
            }
            done => done?,
        }
    }
}

/// Has the key in `file` rotate itself. It is replaced once the relay has taken the new one: whatever is cut off before, what
/// is in the file works.
async fn renew(
    file: &Path,
    request: &RotationRequest,
    environment: &Environment,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let relay = Relay::with_key(environment, key_in(file)?)?;
    let own = relay.me().await?.key.ok_or(Failure::NoKey)?;
    let rotated = relay.rotate_key(own.id, request).await?;
    Relay::with_key(environment, rotated.key.clone())?
        .me()
        .await?;
    replace_private(file, format!("{}\n", rotated.key).as_bytes())?;
    ui.line(format!(
        "{} has another secret of {} {}; it ends {}",
        file.display(),
        own.id,
        plain(&own.name),
        rotated.info.expires_at
    ))?;
    ui.flush()
}

/// When the file was written last.
fn changed(file: &Path) -> Result<Timestamp, Failure> {
    let changed = fs::metadata(file).and_then(|metadata| metadata.modified());
    let changed = changed.map_err(|source| Failure::File {
        path: file.to_owned(),
        did: "read",
        source,
    })?;
    Ok(changed.into())
}

/// From 0 to 1. Without chance all come at the same time, which is all that is lost.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
