//! Who may use the relay, and what they may.

use lekiwi_protocol::api::{
    Group, GroupList, GroupRequest, Loan, LoanList, LoanRequest, Me, NewPassword, PasswordChange,
    Person, PersonChange, PersonList, PersonRequest, SessionList,
};
use lekiwi_protocol::{GroupName, RobotId, UserName};
use reqwest::Method;

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
