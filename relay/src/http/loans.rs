//! Robots that people lend each other for a while.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use lekiwi_protocol::api::{self, Loan, LoanList, LoanRequest};
use lekiwi_protocol::{Permission, RobotId, Scope, Timestamp, UserName};
use lekiwi_relay_core::policy::{Action, Source, What};

use super::App;
use super::audited::Note;
use super::auth::Asker;
use super::extract::{Json, Person, Query, Robot};
use super::problem::{Failure, Kind};
use super::robots::known;
use crate::clock;

/// For how long a robot can be lent, seconds.
const LIFETIME_S: std::ops::RangeInclusive<u64> = 60..=7 * 24 * 3600;

fn loans(app: &App, robot: &RobotId) -> Vec<Loan> {
    let now = clock::now_ms();
    let mut loans = Vec::new();
    for account in app.store.people().accounts.values() {
        for right in &account.rights {
            let (Source::Lent(by), Scope::Robot(on), Some(until)) =
                (&right.source, &right.on, right.until)
            else {
                continue;
            };
            if on == robot && until.as_ms() > now {
                loans.push(Loan {
                    robot_id: robot.clone(),
                    to: account.name.clone(),
                    by: by.clone(),
                    until,
                });
            }
        }
    }
    loans
}

/// To whom a robot is lent.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}/loans", tag = "people", params(("id" = String, Path, description = "The robot")),
    responses(
        (status = 200, body = LoanList),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    Robot(robot): Robot,
    query: Query,
) -> Result<Answer<LoanList>, Failure> {
    query.finish()?;
    known(&app, &robot)?;
    Ok(Answer(LoanList {
        loans: loans(&app, &robot),
    }))
}

/// Lends a robot to somebody, who may then see, stop and drive it. It ends by itself, with the lender's own right, or when
/// it is taken back. What was lent cannot be lent on.
#[utoipa::path(
    post, path = "/api/v1/robots/{id}/loans", tag = "people", params(("id" = String, Path, description = "The robot")),
    request_body = LoanRequest,
    responses(
        (status = 201, body = Loan),
        (status = 404, description = "robot-unknown, person-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn create(
    State(app): State<App>,
    Robot(robot): Robot,
    asker: Asker,
    note: Note,
    Json(LoanRequest { to, lifetime_s }): Json<LoanRequest>,
) -> Result<(StatusCode, Answer<Loan>), Failure> {
    known(&app, &robot)?;
    note.says("to", &to);
    note.says("seconds", lifetime_s);
    asker.may_by_role(Action::Do(Permission::Teleoperate), What::Robot(&robot))?;
    if !LIFETIME_S.contains(&lifetime_s) {
        return Err(Failure::new(
            Kind::InvalidBody,
            format!(
                "expected lifetime_s to be {} to {}, got {lifetime_s}",
                LIFETIME_S.start(),
                LIFETIME_S.end()
            ),
        ));
    }
    if !app.store.people().accounts.contains_key(&to) {
        let detail = format!("there is nobody called {to}");
        return Err(Failure::new(Kind::PersonUnknown, detail));
    }
    let by = asker.name().clone();
    let until = Timestamp::from_ms(clock::now_ms() + lifetime_s * 1_000);
    let on = Scope::Robot(robot.clone());
    app.store.lend(to.clone(), by.clone(), on, until).await?;
    tracing::info!(%robot, %to, %by, %until, "robot lent");
    let loan = Loan {
        robot_id: robot,
        to,
        by,
        until,
    };
    Ok((StatusCode::CREATED, Answer(loan)))
}

/// Ends what was lent to somebody: what the asker lent; all of it, where the asker manages the fleet.
#[utoipa::path(
    delete, path = "/api/v1/robots/{id}/loans/{person}", tag = "people",
    params(
        ("id" = String, Path, description = "The robot"),
        ("person" = String, Path, description = "To whom it was lent"),
    ),
    responses(
        (status = 204, description = "Ended"),
        (status = 404, description = "robot-unknown, loan-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn end(
    State(app): State<App>,
    Robot(robot): Robot,
    Person(person): Person,
    asker: Asker,
) -> Result<StatusCode, Failure> {
    // Whose robots are lent to whom is the business of people.
    asker.may(Action::LogIn, What::Fleet)?;
    let manages = asker
        .may(Action::Do(Permission::Manage), What::Fleet)
        .is_ok();
    let lender = (!manages).then(|| asker.name().clone());
    let refused = || {
        let shown: String = person.chars().take(80).collect();
        let detail = format!("{robot} is not lent to {shown:?} by {}", asker.name());
        Failure::new(Kind::LoanUnknown, detail)
    };
    let to = UserName::new(&person).map_err(|_| refused())?;
    let on = Scope::Robot(robot.clone());
    if app.store.end_loan(to, lender, on).await? == 0 {
        return Err(refused());
    }
    tracing::info!(%robot, to = %person, by = %asker.name(), "loan ended");
    Ok(StatusCode::NO_CONTENT)
}
