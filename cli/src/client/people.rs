//! Who may use the relay, and what they may.

use lekiwi_protocol::api::{
    Group, GroupList, GroupRequest, InvitationCreated, InvitationList, InvitationRequest, Join,
    Joined, Loan, LoanList, LoanRequest, Me, NewPassword, PasswordChange, Person, PersonChange,
    PersonList, PersonRequest, RecoveryCodes, SessionList, TotpCode, TotpEnd, TotpRequest,
    TotpSecret,
};
use lekiwi_protocol::{GroupName, RobotId, UserName};
use reqwest::Method;
use uuid::Uuid;

use super::Relay;
use crate::failure::Failure;

/// Letters of a name that would mean something else in a path.
pub(super) fn of(name: &UserName) -> String {
    format!("/api/v1/people/{}", name.as_str().replace('+', "%2B"))
}

impl Relay {
    pub(crate) async fn people(&self) -> Result<PersonList, Failure> {
        let expected = "a list of people";
        self.json(Method::GET, "/api/v1/people", None::<&()>, expected)
            .await
    }

    pub(crate) async fn add_person(&self, request: &PersonRequest) -> Result<Person, Failure> {
        self.json(Method::POST, "/api/v1/people", Some(request), "a person")
            .await
    }

    pub(crate) async fn change_person(
        &self,
        name: &UserName,
        change: &PersonChange,
    ) -> Result<Person, Failure> {
        self.json(Method::PATCH, &of(name), Some(change), "a person")
            .await
    }

    pub(crate) async fn remove_person(&self, name: &UserName) -> Result<(), Failure> {
        let path = of(name);
        let sent = self.send(Method::DELETE, &path, None::<&()>);
        sent.await.map(|_| ())
    }

    pub(crate) async fn set_password(
        &self,
        name: &UserName,
        password: String,
    ) -> Result<(), Failure> {
        let path = format!("{}/password", of(name));
        let new = NewPassword { password };
        let sent = self.send(Method::PUT, &path, Some(&new));
        sent.await.map(|_| ())
    }

    pub(crate) async fn groups(&self) -> Result<GroupList, Failure> {
        let expected = "a list of groups";
        self.json(Method::GET, "/api/v1/groups", None::<&()>, expected)
            .await
    }

    pub(crate) async fn set_group(
        &self,
        name: &GroupName,
        request: &GroupRequest,
    ) -> Result<Group, Failure> {
        let path = format!("/api/v1/groups/{name}");
        self.json(Method::PUT, &path, Some(request), "a group")
            .await
    }

    pub(crate) async fn remove_group(&self, name: &GroupName) -> Result<(), Failure> {
        let path = format!("/api/v1/groups/{name}");
        let sent = self.send(Method::DELETE, &path, None::<&()>);
        sent.await.map(|_| ())
    }

    pub(crate) async fn loans(&self, robot: &RobotId) -> Result<LoanList, Failure> {
        let path = format!("/api/v1/robots/{robot}/loans");
        self.json(Method::GET, &path, None::<&()>, "a list of loans")
            .await
    }

    pub(crate) async fn lend(
        &self,
        robot: &RobotId,
        request: &LoanRequest,
    ) -> Result<Loan, Failure> {
        let path = format!("/api/v1/robots/{robot}/loans");
        self.json(Method::POST, &path, Some(request), "a loan")
            .await
    }

    pub(crate) async fn end_loan(&self, robot: &RobotId, to: &UserName) -> Result<(), Failure> {
        let to = to.as_str().replace('+', "%2B");
        let path = format!("/api/v1/robots/{robot}/loans/{to}");
        let sent = self.send(Method::DELETE, &path, None::<&()>);
        sent.await.map(|_| ())
    }

    pub(crate) async fn me(&self) -> Result<Me, Failure> {
        self.json(Method::GET, "/api/v1/me", None::<&()>, "who you are")
            .await
    }

    pub(crate) async fn change_password(&self, change: &PasswordChange) -> Result<(), Failure> {
        let sent = self.send(Method::PUT, "/api/v1/me/password", Some(change));
        sent.await.map(|_| ())
    }

    pub(crate) async fn begin_totp(&self, password: String) -> Result<TotpSecret, Failure> {
        let request = TotpRequest { password };
        self.json(Method::POST, "/api/v1/me/totp", Some(&request), "a secret")
            .await
    }

    pub(crate) async fn confirm_totp(&self, code: String) -> Result<RecoveryCodes, Failure> {
        let (path, shown) = ("/api/v1/me/totp/confirm", TotpCode { code });
        self.json(Method::POST, path, Some(&shown), "recovery codes")
            .await
    }

    pub(crate) async fn end_totp(&self, shown: &TotpEnd) -> Result<(), Failure> {
        let sent = self.send(Method::DELETE, "/api/v1/me/totp", Some(shown));
        sent.await.map(|_| ())
    }

    pub(crate) async fn reset_totp(&self, name: &UserName) -> Result<(), Failure> {
        let path = format!("{}/totp", of(name));
        let sent = self.send(Method::DELETE, &path, None::<&()>);
        sent.await.map(|_| ())
    }

    pub(crate) async fn invitations(&self) -> Result<InvitationList, Failure> {
        let (path, expected) = ("/api/v1/invitations", "a list of invitations");
        self.json(Method::GET, path, None::<&()>, expected).await
    }

    pub(crate) async fn invite(
        &self,
        request: &InvitationRequest,
    ) -> Result<InvitationCreated, Failure> {
        let (path, expected) = ("/api/v1/invitations", "an invitation");
        self.json(Method::POST, path, Some(request), expected).await
    }

    pub(crate) async fn revoke_invitation(&self, id: Uuid) -> Result<(), Failure> {
        let path = format!("/api/v1/invitations/{id}");
        let sent = self.send(Method::DELETE, &path, None::<&()>);
        sent.await.map(|_| ())
    }

    pub(crate) async fn join(&self, join: &Join) -> Result<Joined, Failure> {
        self.json(Method::POST, "/api/v1/join", Some(join), "a session")
            .await
    }

    pub(crate) async fn sessions(&self) -> Result<SessionList, Failure> {
        let expected = "a list of sessions";
        self.json(Method::GET, "/api/v1/me/sessions", None::<&()>, expected)
            .await
    }

    pub(crate) async fn end_session(&self, id: &str) -> Result<(), Failure> {
        let path = format!("/api/v1/me/sessions/{id}");
        let sent = self.send(Method::DELETE, &path, None::<&()>);
        sent.await.map(|_| ())
    }
}
