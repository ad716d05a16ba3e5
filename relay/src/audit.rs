//! Who did what: what is put on record, in which words, and the notary that signs how far the record goes. The store keeps
//! it (`store/audit.rs`), the HTTP interface says most of it (`http/audited.rs`), the driver and the command line the rest.

mod notary;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use crate::clock;
use crate::store::NewEntry;
pub use notary::{Notary, NotaryError};

/// The outcome of what was done.
pub const DONE: &str = "done";

/// Longest text of an entry, in characters.
const LONGEST: usize = 300;

macro_rules! actions {
    ($($action:ident = $slug:literal, $meaning:literal;)*) => {
        /// What somebody can do that is put on record. The names stay as they are: people search for them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Action { $(#[doc = $meaning] $action,)* }

        impl Action {
            /// Every one, for the documentation.
            pub const ALL: &[Self] = &[$(Self::$action,)*];

            /// Its stable name.
            #[must_use]
            pub fn slug(self) -> &'static str {
                match self { $(Self::$action => $slug,)* }
            }

            /// What it is, for people.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$action => $meaning,)* }
            }
        }
    };
}

actions! {
    Login = "login", "Somebody logged in, or tried to";
    Logout = "logout", "Somebody ended the session they showed";
    Request = "request", "Somebody asked for what the policy refuses them";
    SessionEnd = "session-end", "Somebody ended another session of theirs";
    SessionsEnd = "sessions-end", "All sessions of a person were ended";
    PasswordChange = "password-change", "Somebody changed their own password";
    PasswordSet = "password-set", "A person was given another password";
    FactorChange = "factor-change", "Somebody set up or ended their second factor, in steps";
    FactorReset = "factor-reset", "A person's second factor was ended for them";
    PersonInvite = "person-invite", "Somebody was invited";
    InvitationRevoke = "invitation-revoke", "An invitation was taken back";
    PersonJoin = "person-join", "Somebody came by an invitation, or tried to";
    PersonAdd = "person-add", "A person was added";
    PersonChange = "person-change", "A person was given other roles, or let in or not";
    PersonRemove = "person-remove", "A person was removed";
    GroupSet = "group-set", "A group of robots was made or changed";
    GroupRemove = "group-remove", "A group of robots was removed";
    RobotLend = "robot-lend", "A robot was lent to somebody";
    LoanEnd = "loan-end", "A robot that was lent was taken back";
    TokenCreate = "token-create", "An enrolment token was made";
    TokenRemove = "token-remove", "An enrolment token was removed";
    RobotEnrol = "robot-enrol", "A robot was given a certificate";
    RobotRenew = "robot-renew", "A robot was given its next certificate";
    RobotApprove = "robot-approve", "A robot was let out of quarantine";
    RobotReject = "robot-reject", "A robot was turned away";
    ConsumerCertify = "consumer-certify", "A program was given a certificate for the broker";
    CertificateRevoke = "certificate-revoke", "A certificate was taken back";
    KeyCreate = "key-create", "An API key was made";
    KeyRotate = "key-rotate", "An API key was given another secret";
    KeyRevoke = "key-revoke", "An API key was ended";
    BanLift = "ban-lift", "Somebody who was banned was let in again";
    RobotCommand = "robot-command", "A robot was told to do something";
    RobotStop = "robot-stop", "A robot was stopped at once";
    ConfigurationSet = "configuration-set", "A robot was given another configuration";
    ConfigurationRollback = "configuration-rollback", "A robot was given an earlier configuration";
    LogsRead = "logs-read", "Logs of a robot were fetched";
    AlertAcknowledge = "alert-acknowledge", "An alert was acknowledged";
    AlertRuleSet = "alert-rule-set", "A rule of alerts was made or changed";
    AlertRuleRemove = "alert-rule-remove", "A rule of alerts was removed";
    AlertSilence = "alert-silence", "Alerts were silenced for a while";
    AlertUnsilence = "alert-unsilence", "A silence was ended";
    AuditExport = "audit-export", "A checkpoint of the audit was signed for somebody";
    AuditPrune = "audit-prune", "The oldest entries of the audit were forgotten";
    AdminCreate = "admin-create", "The first administrator was made";
    AdminReset = "admin-reset", "An administrator was let in on the relay's machine";
    RelayStart = "relay-start", "A relay started";
    AuthorityChange = "authority-change", "A step of `lekiwi-relay ca` changed the authority";
    StoreBackup = "store-backup", "A backup was made";
    StoreRestore = "store-restore", "A backup was put in the place of the store";
    StoreMove = "store-move", "The store was moved into a database";
}

/// The text as an entry has it: bounded, and without what would mean something to a terminal or a log.
#[must_use]
pub fn plain(text: &str) -> String {
    let letters = text.chars().take(LONGEST);
    let plain = letters.map(|letter| match letter {
        letter if letter.is_control() => char::REPLACEMENT_CHARACTER,
        letter => letter,
    });
    plain.collect()
}

/// An entry of what a relay or the command line did itself.
pub fn of_system(
    who: &str,
    action: Action,
    on: &str,
    detail: impl IntoIterator<Item = (&'static str, String)>,
) -> NewEntry {
    let detail = detail.into_iter();
    let detail = detail.map(|(name, value)| (name.to_owned(), plain(&value)));
    NewEntry {
        at_ms: clock::now_ms(),
        who: plain(who),
        action: action.slug(),
        on: plain(on),
        outcome: DONE,
        detail: detail.collect::<BTreeMap<_, _>>(),
        ..NewEntry::default()
    }
}

/// Who runs the command line on the relay's own machine, such as `system:uid-0`.
#[must_use]
pub fn operator() -> String {
    let uid = std::fs::metadata("/proc/self").map(|of| of.uid().to_string());
    format!(
        "system:uid-{}",
        uid.unwrap_or_else(|_| "unknown".to_owned())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_described() {
        let mut slugs: Vec<_> = Action::ALL.iter().map(|action| action.slug()).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), Action::ALL.len());
        assert_eq!(Action::AuditPrune.slug(), lekiwi_protocol::audit::PRUNED);
        let page = include_str!("../../docs/audit.md");
        for action in Action::ALL {
            let line = format!("| `{}` | {} |", action.slug(), action.meaning());
            assert!(page.contains(&line), "expected in docs/audit.md: {line}");
        }
    }

    #[test]
    fn nothing_of_a_stranger_moves_a_cursor() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\0"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
        assert_eq!(plain(&"ä".repeat(1_000)).chars().count(), LONGEST);
    }
}
