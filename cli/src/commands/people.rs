//! `lekiwi people …`, `lekiwi groups …`, `lekiwi lend …`, `lekiwi invite …`, `lekiwi me …`.

use std::path::Path;

use lekiwi_protocol::api::{
    GroupRequest, InvitationRequest, LoanRequest, PasswordChange, PersonChange, PersonRequest,
    TotpEnd,
};

use super::session::{code, new_password, password};
use crate::args::people::{
    Groups, GroupsCommand, Invite, Lend, Me, MeCommand, People, PeopleCommand,
};
use crate::client::Relay;
use crate::failure::Failure;
use crate::show;
use crate::ui::{Ui, plain};

pub(super) async fn people(relay: &Relay, arguments: People, ui: &mut Ui) -> Result<(), Failure> {
    let change = async |name, change: PersonChange| relay.change_person(&name, &change).await;
    let person = match arguments.command {
        None => {
            let list = relay.people().await?;
            if arguments.output.json {
                return super::json(ui, &list);
            }
            return ui.line(show::people(&list.people, ui.colour));
        }
        Some(PeopleCommand::Add {
            name,
            roles,
            password_file,
        }) => {
            let password = new_password(password_file.as_deref(), name.as_str())?;
            let request = PersonRequest {
                name,
                password,
                roles,
            };
            relay.add_person(&request).await?
        }
        Some(PeopleCommand::Roles { name, roles }) => {
            let roles = Some(roles);
            change(
                name,
                PersonChange {
                    roles,
                    ..PersonChange::default()
                },
            )
            .await?
        }
        Some(PeopleCommand::Disable { name }) => {
            let disabled = Some(true);
            change(
                name,
                PersonChange {
                    disabled,
                    ..PersonChange::default()
                },
            )
            .await?
        }
        Some(PeopleCommand::Enable { name }) => {
            let disabled = Some(false);
            change(
                name,
                PersonChange {
                    disabled,
                    ..PersonChange::default()
                },
            )
            .await?
        }
        Some(PeopleCommand::Password {
            name,
            password_file,
        }) => {
            let password = new_password(password_file.as_deref(), name.as_str())?;
            relay.set_password(&name, password).await?;
            return ui.line(format!("{name} has another password; their sessions ended"));
        }
        Some(PeopleCommand::ResetFactor { name }) => {
            relay.reset_totp(&name).await?;
            return ui.line(format!(
                "{name} logs in by their password alone; their sessions ended"
            ));
        }
        Some(PeopleCommand::Remove { name }) => {
            relay.remove_person(&name).await?;
            return ui.line(format!("{name} is removed"));
        }
    };
    ui.line(show::people(&[person], ui.colour))
}

pub(super) async fn groups(relay: &Relay, arguments: Groups, ui: &mut Ui) -> Result<(), Failure> {
    match arguments.command {
        None => {
            let list = relay.groups().await?;
            if arguments.output.json {
                return super::json(ui, &list);
            }
            ui.line(show::groups(&list.groups, ui.colour))
        }
        Some(GroupsCommand::Set { name, robots }) => {
            let robots = robots.into_iter().collect();
            let group = relay.set_group(&name, &GroupRequest { robots }).await?;
            ui.line(show::groups(&[group], ui.colour))
        }
        Some(GroupsCommand::Remove { name }) => {
            relay.remove_group(&name).await?;
            ui.line(format!("{name} is removed, with the roles on it"))
        }
    }
}

pub(super) async fn lend(relay: &Relay, arguments: Lend, ui: &mut Ui) -> Result<(), Failure> {
    let robot = arguments.robot;
    let Some(to) = arguments.to else {
        let list = relay.loans(&robot).await?;
        if arguments.output.json {
            return super::json(ui, &list);
        }
        return ui.line(show::loans(&list.loans, ui.colour));
    };
    if arguments.end {
        relay.end_loan(&robot, &to).await?;
        return ui.line(format!("{robot} is not lent to {to} any more"));
    }
    let lifetime_s = arguments.lifetime.as_secs();
    let loan = relay.lend(&robot, &LoanRequest { to, lifetime_s }).await?;
    if arguments.output.json {
        return super::json(ui, &loan);
    }
    ui.line(format!(
        "{robot} is lent to {} until {}",
        loan.to, loan.until
    ))
}

pub(super) async fn invite(relay: &Relay, arguments: Invite, ui: &mut Ui) -> Result<(), Failure> {
    if let Some(id) = arguments.revoke {
        relay.revoke_invitation(id).await?;
        return ui.line("nobody can use it any more");
    }
    let Some(name) = arguments.name else {
        let list = relay.invitations().await?;
        if arguments.output.json {
            return super::json(ui, &list);
        }
        return ui.line(show::invitations(&list.invitations, ui.colour));
    };
    let request = InvitationRequest {
        name,
        roles: arguments.roles,
        lifetime_s: Some(arguments.lifetime.as_secs()),
    };
    let created = relay.invite(&request).await?;
    if arguments.output.json {
        return super::json(ui, &created);
    }
    let (name, until) = (&request.name, created.invitation.expires_at);
    let base = relay.url().as_str().trim_end_matches('/');
    ui.line(format!("{base}{}", created.path))?;
    ui.note(format!("{name} can join by this link until {until}"));
    Ok(())
}

/// `lekiwi me totp`.
async fn totp(
    relay: &Relay,
    confirm: Option<String>,
    off: bool,
    password_file: Option<&Path>,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let name = relay.me().await?.name;
    let confirm = match confirm {
        Some(code) => code,
        None => {
            let password = password(password_file, name.as_str())?;
            if off {
                let password = Some(password);
                let shown = TotpEnd {
                    password,
                    code: None,
                };
                relay.end_totp(&shown).await?;
                return ui.line("your password alone logs you in from now on");
            }
            let told = relay.begin_totp(password).await?;
            ui.line(format!(
                "Tell your authenticator this secret, or the address below (as a QR code at {}second-factor):\n\n  {}\n  {}\n",
                relay.url(),
                plain(&told.secret),
                plain(&told.uri)
            ))?;
            if !ui.can_ask() {
                return ui.line("Then say what it shows: lekiwi me totp --confirm CODE");
            }
            ui.flush()?;
            code(name.as_str())?
        }
    };
    let codes = relay.confirm_totp(confirm).await?.recovery_codes;
    let codes: Vec<String> = codes
        .iter()
        .map(|code| format!("  {}", plain(code)))
        .collect();
    ui.line(format!(
        "It is set up. Each of these recovery codes lets you in once, when your authenticator is lost:\n\n{}\n\n\
         Keep them where it is not; they are shown this once.",
        codes.join("\n")
    ))
}

pub(super) async fn me(relay: &Relay, arguments: Me, ui: &mut Ui) -> Result<(), Failure> {
    match arguments.command {
        None => {
            let me = relay.me().await?;
            if arguments.output.json {
                return super::json(ui, &me);
            }
            ui.line(show::me(&me, ui.colour))
        }
        Some(MeCommand::Password) => {
            let name = relay.me().await?.name;
            let current = password(None, name.as_str())?;
            let new = new_password(None, name.as_str())?;
            relay
                .change_password(&PasswordChange { current, new })
                .await?;
            ui.line("the password is changed; your other sessions ended")
        }
        Some(MeCommand::Totp {
            confirm,
            off,
            password_file,
        }) => totp(relay, confirm, off, password_file.as_deref(), ui).await,
        Some(MeCommand::Sessions { end: Some(id), .. }) => {
            relay.end_session(&id).await?;
            ui.line(format!("session {id} ended"))
        }
        Some(MeCommand::Sessions { end: None, output }) => {
            let list = relay.sessions().await?;
            if output.json {
                return super::json(ui, &list);
            }
            ui.line(show::sessions(&list.sessions, ui.colour))
        }
    }
}
