//! Every error of the HTTP interface: RFC 9457 problem details with a stable `type`. Handlers return
//! [`Failure`]; the kinds, their status and title are one table, so that clients can rely on them.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lekiwi_protocol::api::Problem;

use crate::audit::NotaryError;
use crate::identity::authority::AuthorityError;
use crate::identity::consumers::ConsumerError;
use crate::identity::crl::CrlError;
use crate::identity::csr::CsrError;
use crate::identity::enrolment::EnrolError;
use crate::identity::renewal::RenewError;
use crate::identity::tokens::TokenError;
use crate::ingest::DecideError;
use crate::people::invitations::InviteError;
use crate::people::keys::KeyError;
use crate::people::sessions::LoginError;
use crate::store::StoreError;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $slug:literal, $status:ident, $title:literal;)*) => {
        /// What kind of problem it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            /// Every kind, for the documentation.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The stable name behind `urn:lekiwi:problem:`.
            #[must_use]
            pub fn slug(self) -> &'static str {
                match self { $(Self::$kind => $slug,)* }
            }

            /// The HTTP status.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status,)* }
            }

            /// The kind for people.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$kind => $title,)* }
            }
        }
    };
}

kinds! {
    /// No or a dead session.
    LoginRequired = "login-required", UNAUTHORIZED, "Log in first";
    /// A program asks for what only a person may.
    SessionRequired = "session-required", FORBIDDEN, "Log in as a person";
    /// User or password are wrong.
    LoginFailed = "login-failed", UNAUTHORIZED, "Login failed";
    /// The password is right, and a second factor is missing or wrong.
    SecondFactorRequired = "second-factor-required", UNAUTHORIZED, "Second factor required";
    /// They may do nothing before they have a second factor.
    SecondFactorMissing = "second-factor-missing", FORBIDDEN, "Set up a second factor first";
    /// There is a second factor already.
    SecondFactorExists = "second-factor-exists", CONFLICT, "Second factor exists";
    /// There is no second factor.
    SecondFactorUnknown = "second-factor-unknown", NOT_FOUND, "No second factor";
    /// Too many failed logins.
    LoginThrottled = "login-throttled", TOO_MANY_REQUESTS, "Too many failed logins";
    /// Too many requests a second.
    TooManyRequests = "too-many-requests", TOO_MANY_REQUESTS, "Too many requests";
    /// Too many logins at once.
    LoginBusy = "login-busy", SERVICE_UNAVAILABLE, "Too many logins at once";
    /// A cookie came with a request of another site.
    CrossOrigin = "cross-origin", FORBIDDEN, "Request of another site";
    /// It is not clear which host a request is for.
    HostInvalid = "host-invalid", BAD_REQUEST, "Not for one host";
    /// A permission is missing.
    PermissionMissing = "permission-missing", FORBIDDEN, "Permission missing";
    /// No such route.
    NotFound = "not-found", NOT_FOUND, "Not found";
    /// No such robot.
    RobotUnknown = "robot-unknown", NOT_FOUND, "Unknown robot";
    /// Before what can be looked back at.
    LogGone = "log-gone", GONE, "Before the log";
    /// After what has happened.
    NotYet = "not-yet", UNPROCESSABLE_ENTITY, "Not yet";
    /// The robot was rejected, and cannot be approved.
    RobotRejected = "robot-rejected", CONFLICT, "Robot was rejected";
    /// The robot does not take part, so that it takes no commands.
    RobotNotRegistered = "robot-not-registered", CONFLICT, "Robot is not registered";
    /// The robot's agent knows no commands.
    CommandsUnsupported = "commands-unsupported", CONFLICT, "Robot takes no commands";
    /// The robot's agent takes commands, but not this one.
    CommandUnsupported = "command-unsupported", CONFLICT, "Robot does not know the command";
    /// Too many commands of the robot have not ended.
    TooManyCommands = "too-many-commands", CONFLICT, "Too many commands";
    /// No such command.
    CommandUnknown = "command-unknown", NOT_FOUND, "Unknown command";
    /// The robot's agent takes no configurations.
    ConfigurationUnsupported = "configuration-unsupported", CONFLICT, "Robot takes no configurations";
    /// Another version of the configuration is the newest by now.
    ConfigurationChanged = "configuration-changed", CONFLICT, "Configuration changed meanwhile";
    /// No such version of a configuration.
    ConfigurationUnknown = "configuration-unknown", NOT_FOUND, "Unknown configuration";
    /// A robot's route without a robot's certificate.
    CertificateRequired = "certificate-required", UNAUTHORIZED, "Show a robot's certificate";
    /// The certificate is not welcome, or another robot's.
    CertificateRefused = "certificate-refused", FORBIDDEN, "Certificate refused";
    /// The next piece of an upload begins elsewhere.
    UploadOffset = "upload-offset", CONFLICT, "Another piece is next";
    /// Nobody waits for the upload.
    UploadClosed = "upload-closed", CONFLICT, "Nobody waits for this upload";
    /// What came is not what was announced.
    UploadDamaged = "upload-damaged", UNPROCESSABLE_ENTITY, "Upload is damaged";
    /// The headers of a piece are wrong.
    UploadInvalid = "upload-invalid", BAD_REQUEST, "Invalid upload";
    /// No such logs.
    LogsUnknown = "logs-unknown", NOT_FOUND, "Unknown logs";
    /// The relay has no list of the robot's packages.
    PackagesUnknown = "packages-unknown", NOT_FOUND, "Unknown packages";
    /// No such alert, or it is over since long ago.
    AlertUnknown = "alert-unknown", NOT_FOUND, "Unknown alert";
    /// The alert is over.
    AlertResolved = "alert-resolved", CONFLICT, "Alert is over";
    /// No such rule.
    AlertRuleUnknown = "alert-rule-unknown", NOT_FOUND, "Unknown alert rule";
    /// The rule is not one of the interface.
    AlertRuleFixed = "alert-rule-fixed", CONFLICT, "Alert rule cannot be removed";
    /// There are too many rules.
    TooManyAlertRules = "too-many-alert-rules", CONFLICT, "Too many alert rules";
    /// There are too many silences.
    TooManySilences = "too-many-silences", CONFLICT, "Too many silences";
    /// No such silence, or it has ended.
    SilenceUnknown = "silence-unknown", NOT_FOUND, "Unknown silence";
    /// Nobody is called so.
    PersonUnknown = "person-unknown", NOT_FOUND, "Unknown person";
    /// Somebody is called so.
    PersonExists = "person-exists", CONFLICT, "Person exists";
    /// What they are is said by their provider.
    PersonProvided = "person-provided", CONFLICT, "Person of a provider";
    /// Nobody would be left who may give rights.
    LastAdmin = "last-admin", CONFLICT, "Last administrator";
    /// The password is too easy to guess, or too long.
    PasswordRefused = "password-refused", UNPROCESSABLE_ENTITY, "Password refused";
    /// No such session of the person.
    SessionUnknown = "session-unknown", NOT_FOUND, "Unknown session";
    /// No such invitation, or it is not open.
    InvitationUnknown = "invitation-unknown", NOT_FOUND, "Unknown invitation";
    /// The invitation was used, taken back, or its time is over.
    InvitationOver = "invitation-over", GONE, "Invitation is over";
    /// No such group.
    GroupUnknown = "group-unknown", NOT_FOUND, "Unknown group";
    /// There are too many groups.
    TooManyGroups = "too-many-groups", CONFLICT, "Too many groups";
    /// The robot is not lent to them.
    LoanUnknown = "loan-unknown", NOT_FOUND, "Unknown loan";
    /// No such key, or another's.
    KeyUnknown = "key-unknown", NOT_FOUND, "Unknown API key";
    /// They have too many keys.
    TooManyKeys = "too-many-keys", CONFLICT, "Too many API keys";
    /// No such token.
    TokenNotFound = "token-not-found", NOT_FOUND, "Unknown token";
    /// No such ban.
    BanUnknown = "ban-unknown", NOT_FOUND, "Unknown ban";
    /// The route exists, the method does not.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "Method not allowed";
    /// The query is out of bounds.
    InvalidQuery = "invalid-query", BAD_REQUEST, "Invalid query";
    /// The body is no JSON.
    MalformedBody = "malformed-body", BAD_REQUEST, "Malformed body";
    /// The body is JSON, but not what the route takes.
    InvalidBody = "invalid-body", UNPROCESSABLE_ENTITY, "Invalid body";
    /// The body is of another type.
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "Unsupported media type";
    /// The body is too large.
    TooLarge = "too-large", PAYLOAD_TOO_LARGE, "Body too large";
    /// The body did not arrive in time.
    TooSlow = "too-slow", REQUEST_TIMEOUT, "Body too slow";
    /// Too many live streams.
    TooManyStreams = "too-many-streams", SERVICE_UNAVAILABLE, "Too many live streams";
    /// The request is no WebSocket upgrade.
    UpgradeRequired = "upgrade-required", UPGRADE_REQUIRED, "WebSocket upgrade required";
    /// EST without a token.
    TokenRequired = "token-required", UNAUTHORIZED, "Enrolment token required";
    /// EST with a token that this relay does not know.
    TokenUnknown = "token-unknown", UNAUTHORIZED, "Unknown enrolment token";
    /// EST with a token whose time is over.
    TokenExpired = "token-expired", FORBIDDEN, "Enrolment token expired";
    /// EST with a token that other keys used up.
    TokenUsed = "token-used", CONFLICT, "Enrolment token used";
    /// EST with a token for another machine.
    TokenWrongSerial = "token-wrong-serial", FORBIDDEN, "Enrolment token is for another machine";
    /// EST with a token for another robot.
    TokenWrongRobot = "token-wrong-robot", FORBIDDEN, "Enrolment token is for another robot";
    /// EST for a robot that exists, with a token that is not bound to it.
    RobotExists = "robot-exists", CONFLICT, "Robot exists";
    /// EST again, after the certificate was revoked.
    CertificateRevoked = "certificate-revoked", FORBIDDEN, "Certificate revoked";
    /// EST with a user name that is no robot id.
    RobotIdInvalid = "robot-id-invalid", BAD_REQUEST, "Invalid robot id";
    /// The certificate request is none, or not acceptable.
    CsrInvalid = "csr-invalid", BAD_REQUEST, "Invalid certificate request";
    /// The certificate request is for somebody else.
    CsrWrongSubject = "csr-wrong-subject", FORBIDDEN, "Certificate request for another robot";
    /// No certificate has this serial.
    IdentityUnknown = "identity-unknown", NOT_FOUND, "Unknown certificate";
    /// The robot's certificate was renewed too often.
    TooManyRenewals = "too-many-renewals", TOO_MANY_REQUESTS, "Too many renewals";
    /// The audit does not go on from what was signed of it.
    AuditBroken = "audit-broken", INTERNAL_SERVER_ERROR, "Audit broken";
    /// The store cannot write at the moment.
    StoreUnavailable = "store-unavailable", SERVICE_UNAVAILABLE, "Store unavailable";
    /// The relay is not there yet.
    Starting = "starting", SERVICE_UNAVAILABLE, "Relay is starting";
    /// The relay is going down.
    Stopping = "stopping", SERVICE_UNAVAILABLE, "Relay is stopping";
    /// A fault of the relay.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Fault in the relay";
}

/// One error on its way to the client.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    detail: Option<String>,
    hint: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Failure {
    /// A problem with its detail: what was expected and what came.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: Some(detail.into()),
            hint: None,
            headers: Vec::new(),
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a header that the status calls for.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The detail, for pages that show it themselves.
    #[must_use]
    pub fn detail(&self) -> &str {
        self.detail.as_deref().unwrap_or(self.kind.title())
    }

    /// What to do about it, for pages that show it themselves.
    #[must_use]
    pub fn hinted(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// A fault of the relay: the cause goes into the log, not to the client.
    fn internal(error: &dyn std::error::Error) -> Self {
        let mut chain = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            chain = format!("{chain}: {cause}");
            source = cause.source();
        }
        tracing::error!(error = %chain, "request failed");
        Self {
            kind: Kind::Internal,
            detail: None,
            hint: Some("the relay's log says more".into()),
            headers: Vec::new(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let problem = Problem {
            problem_type: format!("urn:lekiwi:problem:{}", self.kind.slug()),
            title: self.kind.title().to_owned(),
            status: self.kind.status().as_u16(),
            detail: self.detail,
            hint: self.hint,
        };
        // A struct of strings and a number always becomes JSON.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (
            self.kind.status(),
            [(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/problem+json"),
            )],
            body,
        )
            .into_response();
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        // For `audited`.
        response.extensions_mut().insert(self.kind);
        response
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Unreachable(_) => {
                Self::new(Kind::StoreUnavailable, error.to_string())
                    .hint("see /health; try again in a while")
                    .header(header::RETRY_AFTER, HeaderValue::from_static("5"))
            }
            StoreError::Closed => Self::new(Kind::Stopping, error.to_string()),
            other => Self::internal(&other),
        }
    }
}

impl From<NotaryError> for Failure {
    fn from(error: NotaryError) -> Self {
        match error {
            NotaryError::Store(error) => error.into(),
            NotaryError::Broken(broken) => {
                tracing::error!(%broken, "the audit does not go on from what was signed");
                Self::new(Kind::AuditBroken, broken.to_string()).hint("see docs/audit.md")
            }
            other => Self::internal(&other),
        }
    }
}

impl From<DecideError> for Failure {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::Slow => Self::new(Kind::StoreUnavailable, error.to_string())
                .hint("see /health; look at the robot before you decide again")
                .header(header::RETRY_AFTER, HeaderValue::from_static("5")),
            DecideError::Changed { .. } => {
                Self::new(Kind::ConfigurationChanged, error.to_string()).hint("look at it again")
            }
            DecideError::Stopping => Self::new(Kind::Stopping, error.to_string()),
        }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let detail = error.to_string();
        match error {
            KeyError::Unknown(_) => {
                Self::new(Kind::KeyUnknown, detail).hint("GET /api/v1/keys lists yours")
            }
            KeyError::TooMany(_) => {
                Self::new(Kind::TooManyKeys, detail).hint("revoke some that nobody uses")
            }
            KeyError::Store(error) => error.into(),
            KeyError::Random(_) => Self::internal(&error),
            _ => Self::new(Kind::InvalidBody, detail),
        }
    }
}

impl From<AuthorityError> for Failure {
    fn from(error: AuthorityError) -> Self {
        Self::internal(&error)
    }
}

impl From<CsrError> for Failure {
    fn from(error: CsrError) -> Self {
        Self::new(Kind::CsrInvalid, error.to_string()).hint(error.hint())
    }
}

/// Asks HTTP clients for a token.
#[must_use]
pub fn basic_challenge() -> (HeaderName, HeaderValue) {
    (
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Basic realm=\"lekiwi enrolment\", charset=\"UTF-8\""),
    )
}

impl From<EnrolError> for Failure {
    fn from(error: EnrolError) -> Self {
        let detail = error.to_string();
        let token_hint = "make one with `lekiwi token create` or `lekiwi-relay token create`";
        match error {
            EnrolError::Store(error) => error.into(),
            EnrolError::Authority(error) => error.into(),
            EnrolError::Csr(error) => error.into(),
            EnrolError::UnknownToken => {
                let (name, value) = basic_challenge();
                Self::new(Kind::TokenUnknown, detail).hint(token_hint).header(name, value)
            }
            EnrolError::RobotId(_) => Self::new(Kind::RobotIdInvalid, detail).hint("the user name is the robot's id"),
            EnrolError::WrongSubject { .. } => Self::new(Kind::CsrWrongSubject, detail)
                .hint("user name and the request's CN are both the robot's id"),
            EnrolError::Expired { .. } => Self::new(Kind::TokenExpired, detail).hint(token_hint),
            EnrolError::UsedUp { max_uses: 1, .. } => Self::new(Kind::TokenUsed, detail).hint(format!("a token is good for one key; {token_hint}")),
            EnrolError::UsedUp { .. } => Self::new(Kind::TokenUsed, detail).hint(token_hint),
            EnrolError::Profile { .. } => Self::new(Kind::CsrInvalid, detail).hint("leave the OU out where no profile is known"),
            EnrolError::WrongSerial { .. } => {
                Self::new(Kind::TokenWrongSerial, detail).hint("the request's serialNumber is the machine's serial")
            }
            EnrolError::WrongRobot { .. } => Self::new(Kind::TokenWrongRobot, detail).hint(token_hint),
            EnrolError::RobotExists(robot) => Self::new(Kind::RobotExists, detail).hint(format!(
                "choose another id; or, to replace the robot's key, `lekiwi token create --robot {robot}`"
            )),
            EnrolError::Revoked(_) => Self::new(Kind::CertificateRevoked, detail).hint(token_hint),
        }
    }
}

impl From<CrlError> for Failure {
    fn from(error: CrlError) -> Self {
        match error {
            CrlError::Store(error) => error.into(),
            CrlError::Authority(error) => error.into(),
        }
    }
}

impl From<RenewError> for Failure {
    fn from(error: RenewError) -> Self {
        let detail = error.to_string();
        match error {
            RenewError::Csr(error) => error.into(),
            RenewError::WrongSubject { .. } => Self::new(Kind::CsrWrongSubject, detail)
                .hint("the request's subject is the certificate's, or its CN alone"),
            RenewError::NotRegistered { robot, .. } => Self::new(Kind::RobotNotRegistered, detail)
                .hint(format!("let it in with `lekiwi approve {robot}`")),
            RenewError::Ended(_) => Self::new(Kind::CertificateRefused, detail),
            RenewError::TooMany => Self::new(Kind::TooManyRenewals, detail)
                .header(header::RETRY_AFTER, HeaderValue::from_static("600")),
            RenewError::Store(error) => error.into(),
            RenewError::Authority(error) => error.into(),
        }
    }
}

impl From<ConsumerError> for Failure {
    fn from(error: ConsumerError) -> Self {
        let detail = error.to_string();
        match error {
            ConsumerError::Csr(error) => error.into(),
            ConsumerError::Lifetime(_) | ConsumerError::Reads(_) => {
                Self::new(Kind::InvalidBody, detail)
            }
            ConsumerError::Store(error) => error.into(),
            ConsumerError::Authority(error) => error.into(),
        }
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        let detail = error.to_string();
        match error {
            TokenError::Lifetime { .. } | TokenError::Uses { .. } | TokenError::Binding { .. } => {
                Self::new(Kind::InvalidBody, detail)
            }
            TokenError::Store(error) => error.into(),
            TokenError::Random(_) => Self::internal(&error),
        }
    }
}

impl From<InviteError> for Failure {
    fn from(error: InviteError) -> Self {
        let detail = error.to_string();
        match error {
            InviteError::Lifetime { .. } => Self::new(Kind::InvalidBody, detail),
            InviteError::Taken(_) => Self::new(Kind::PersonExists, detail),
            InviteError::Store(error) => error.into(),
            InviteError::Random(_) => Self::internal(&error),
        }
    }
}

impl From<LoginError> for Failure {
    fn from(error: LoginError) -> Self {
        let detail = error.to_string();
        match error {
            LoginError::Wrong => Self::new(Kind::LoginFailed, detail),
            LoginError::FactorRequired | LoginError::FactorWrong | LoginError::FactorLocked => {
                Self::new(Kind::SecondFactorRequired, detail).hint(
                    "say it as `totp`; an administrator can reset a second factor that is lost",
                )
            }
            LoginError::FactorExists => {
                Self::new(Kind::SecondFactorExists, detail).hint("DELETE /api/v1/me/totp ends it")
            }
            LoginError::FactorUnknown => {
                Self::new(Kind::SecondFactorUnknown, detail).hint("POST /api/v1/me/totp begins one")
            }
            LoginError::Throttled { wait } => Self::new(Kind::LoginThrottled, detail)
                .header(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1)),
            LoginError::Busy => Self::new(Kind::LoginBusy, detail)
                .header(header::RETRY_AFTER, HeaderValue::from_static("2")),
            LoginError::Store(error) => error.into(),
            LoginError::Stopping => Self::new(Kind::Stopping, detail),
            LoginError::Refused(_) => Self::new(Kind::PasswordRefused, detail),
            LoginError::Random(_) | LoginError::Hash(_) => Self::internal(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_unique_and_every_kind_is_an_error() {
        let mut slugs: Vec<_> = Kind::ALL.iter().map(|kind| kind.slug()).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert!(
                kind.status().is_client_error() || kind.status().is_server_error(),
                "{kind:?}"
            );
        }
    }
}
