//! Alerts, the rules that they come from, and silences.

use std::sync::PoisonError;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use lekiwi_protocol::alert::{Alert, AlertState, Matchers, Rule, Severity, Silence, check_comment};
use lekiwi_protocol::api::{
    self, AcknowledgeRequest, AlertEntry, AlertHistory, AlertList, RuleList, RuleOrigin, RuleView,
    SilenceList, SilenceRequest,
};
use lekiwi_protocol::limits::{MAX_ALERT_RULES, MAX_ALERT_TIME, MAX_SILENCES};
use lekiwi_protocol::message::kind;
use lekiwi_protocol::{Permission, RobotId, RuleName, Timestamp};
use lekiwi_relay_core::alerts::history::{About, Name, page};
use lekiwi_relay_core::alerts::{
    ALERT, ALERT_RULE, ALERT_SILENCE, Alerts, Filter, MAX_RESOLVED, Origin, Output,
};
use lekiwi_relay_core::policy::{Action, What};
use serde_json::json;
use uuid::Uuid;

use super::App;
use super::audited::Note;
use super::auth::Asker;
use super::extract::{Id, Json, Query};
use super::problem::{Failure, Kind};
use crate::clock;
use crate::store::records::StoredEvent;

/// Entries of a page of the past.
const MOST: u64 = 1_000;
const USUAL: u64 = 100;

fn now() -> Timestamp {
    Timestamp::from_ms(clock::now_ms())
}

/// Looks at the alerts; never for long, ingest waits.
fn look<T>(app: &App, look: impl FnOnce(&Alerts) -> T) -> T {
    let alerts = app.fleet.alerts();
    let alerts = alerts.read().unwrap_or_else(PoisonError::into_inner);
    look(&alerts)
}

fn known<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(text.into()).ok()
}

/// Alerts: those that fire, or those that are over, the newest first; or those that may fire soon.
#[utoipa::path(
    get, path = "/api/v1/alerts", tag = "alerts",
    params(
        ("state" = Option<AlertState>, Query, description = "firing (when absent), resolved, or pending"),
        ("robot" = Option<String>, Query, pattern = "^[a-z0-9][a-z0-9-]{0,62}$", description = "Only of this robot"),
        ("rule" = Option<String>, Query, pattern = "^[a-z0-9][a-z0-9-]{0,39}$", description = "Only of this rule"),
        ("severity" = Option<Severity>, Query, description = "Only of this severity and above: info, warning, critical"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "1 to 1000; 100 when absent"),
    ),
    responses(
        (status = 200, body = AlertList),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    asker: Asker,
    mut query: Query,
) -> Result<Answer<AlertList>, Failure> {
    let state = query.text("state", "firing, resolved or pending", known)?;
    let robot = query.text("robot", RobotId::EXPECTED, |text| RobotId::new(text).ok())?;
    let rule = query.text("rule", RuleName::EXPECTED, |text| RuleName::new(text).ok())?;
    let severity = query.text("severity", "info, warning or critical", known::<Severity>)?;
    let limit = query.number("limit", 1..=MAX_RESOLVED as u64)?;
    query.finish()?;
    let now = now();
    let filter = Filter {
        state: state.unwrap_or(AlertState::Firing),
        rule,
        robot,
        severity,
        within: asker.seen(),
        limit: usize::try_from(limit.unwrap_or(USUAL)).unwrap_or(usize::MAX),
    };
    let (alerts, firing) = look(&app, |alerts| {
        let firing = match &filter.within {
            None => alerts.count(),
            Some(within) => {
                let firing = alerts.firing(now);
                let seen = firing.filter(|(alert, _)| within.contains(&alert.robot_id));
                seen.count()
            }
        };
        (alerts.list(now, &filter), firing)
    });
    Ok(Answer(AlertList {
        alerts,
        firing,
        now,
    }))
}

/// The past of alerts, newest first, as the log has it: what fired, who looked after it, what was silenced, what is
/// over, who was told and who could not be. A page may be short and not the last one: `next_before` says where the next
/// begins.
#[utoipa::path(
    get, path = "/api/v1/alerts/history", tag = "alerts",
    params(
        ("robot" = Option<String>, Query, pattern = "^[a-z0-9][a-z0-9-]{0,62}$", description = "Only of this robot"),
        ("rule" = Option<String>, Query, pattern = "^[a-z0-9][a-z0-9-]{0,39}$", description = "Only of this rule"),
        ("alert" = Option<String>, Query, pattern = "^[a-z0-9][a-z0-9-]{0,39}:[a-z0-9][a-z0-9-]{0,62}:[0-9]{1,15}$", description = "Only of this alert"),
        ("before" = Option<u64>, Query, maximum = 9223372036854775807_u64, description = "Only what is before this position of the log; all when absent"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "1 to 1000; 100 when absent"),
    ),
    responses(
        (status = 200, body = AlertHistory),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn history(
    State(app): State<App>,
    asker: Asker,
    mut query: Query,
) -> Result<Answer<AlertHistory>, Failure> {
    let robot = query.text("robot", RobotId::EXPECTED, |text| RobotId::new(text).ok())?;
    let rule = query.text("rule", RuleName::EXPECTED, |text| RuleName::new(text).ok())?;
    let alert = query.text("alert", Name::EXPECTED, Name::parse)?;
    let before = query.number("before", 0..=i64::MAX as u64)?;
    let limit = query.number("limit", 1..=MOST)?.unwrap_or(USUAL);
    query.finish()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let about = About { robot, rule, alert };
    let before = before.unwrap_or(i64::MAX as u64);
    let found = app.store.alert_events(about.clone(), before, limit).await?;
    let logged = found.events.iter().map(StoredEvent::logged);
    let within = asker.seen();
    let is_seen = |entry: &AlertEntry| match &within {
        None => true,
        Some(within) => entry
            .robot_id
            .as_ref()
            .is_some_and(|robot| within.contains(robot)),
    };
    let entries = logged.filter_map(|event| about.entry(&event));
    let entries = entries.filter(is_seen).collect();
    let (entries, next_before) = page(&about, entries, found.down_to, limit);
    Ok(Answer(AlertHistory {
        entries,
        next_before,
    }))
}

/// An alert of a robot that the asker may see.
fn alert(app: &App, asker: &Asker, id: &str) -> Result<Alert, Failure> {
    let found = look(app, |alerts| alerts.one(now(), id));
    let seen = found.filter(|alert| asker.sees(&alert.robot_id));
    seen.ok_or_else(|| {
        let shown: String = id.chars().take(80).collect();
        Failure::new(Kind::AlertUnknown, format!("there is no alert {shown:?}"))
            .hint("GET /api/v1/alerts lists them")
    })
}

/// One alert that fires, or is over since not long ago.
#[utoipa::path(
    get, path = "/api/v1/alerts/{id}", tag = "alerts", params(("id" = String, Path, description = "The alert")),
    responses(
        (status = 200, body = Alert),
        (status = 404, description = "alert-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn one(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
    query: Query,
) -> Result<Answer<Alert>, Failure> {
    query.finish()?;
    alert(&app, &asker, &id).map(Answer)
}

/// Says that somebody looks after an alert: nobody is reminded of it any more.
#[utoipa::path(
    post, path = "/api/v1/alerts/{id}/acknowledge", tag = "alerts", params(("id" = String, Path, description = "The alert")),
    request_body = AcknowledgeRequest,
    responses(
        (status = 200, body = Alert),
        (status = 404, description = "alert-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "alert-resolved", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn acknowledge(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
    Json(AcknowledgeRequest { comment }): Json<AcknowledgeRequest>,
) -> Result<Answer<Alert>, Failure> {
    let found = alert(&app, &asker, &id)?;
    let acknowledge = Action::Do(Permission::Acknowledge);
    asker.may(acknowledge, What::Robot(&found.robot_id))?;
    if found.state == AlertState::Resolved {
        return Err(Failure::new(Kind::AlertResolved, format!("{id} is over")));
    }
    invalid(check_comment(&comment))?;
    tracing::info!(alert = %id, user = %asker.name(), "alert acknowledged");
    let event = Output {
        aggregate_type: ALERT,
        aggregate_id: id.clone(),
        kind: kind::ALERT_ACKNOWLEDGED,
        data: json!({
            "rule": found.rule, "robot_id": found.robot_id, "by": asker.by(), "comment": comment,
        }),
    };
    app.fleet.decree(event).await?;
    alert(&app, &asker, &id).map(Answer)
}

fn invalid<E: std::fmt::Display>(checked: Result<(), E>) -> Result<(), Failure> {
    checked.map_err(|error| Failure::new(Kind::InvalidBody, error.to_string()))
}

fn views(alerts: &Alerts) -> Vec<RuleView> {
    let view = |entry: lekiwi_relay_core::alerts::RuleEntry<'_>| RuleView {
        rule: entry.rule.clone(),
        origin: match entry.origin {
            Origin::Default => RuleOrigin::Default,
            Origin::Configuration => RuleOrigin::Configuration,
            Origin::Interface => RuleOrigin::Interface,
        },
    };
    alerts.rules().map(view).collect()
}

/// All rules, and where each comes from.
#[utoipa::path(
    get, path = "/api/v1/alert-rules", tag = "alerts",
    responses((status = 200, body = RuleList)), security(("session" = []), ("cookie" = []))
)]
pub(super) async fn rules(
    State(app): State<App>,
    query: Query,
) -> Result<Answer<RuleList>, Failure> {
    query.finish()?;
    let rules = look(&app, views);
    Ok(Answer(RuleList { rules }))
}

fn rule(app: &App, id: &str) -> Result<RuleView, Failure> {
    let found = look(app, views);
    let found = found.into_iter().find(|view| view.rule.id.as_str() == id);
    found.ok_or_else(|| {
        let shown: String = id.chars().take(80).collect();
        Failure::new(
            Kind::AlertRuleUnknown,
            format!("there is no rule {shown:?}"),
        )
        .hint("GET /api/v1/alert-rules lists them")
    })
}

/// One rule.
#[utoipa::path(
    get, path = "/api/v1/alert-rules/{id}", tag = "alerts", params(("id" = String, Path, description = "The rule's name")),
    responses(
        (status = 200, body = RuleView),
        (status = 404, description = "alert-rule-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn one_rule(
    State(app): State<App>,
    Id(id): Id,
    query: Query,
) -> Result<Answer<RuleView>, Failure> {
    query.finish()?;
    rule(&app, &id).map(Answer)
}

/// Makes a rule, or another one in the place of the one of this name, wherever that comes from.
#[utoipa::path(
    put, path = "/api/v1/alert-rules/{id}", tag = "alerts", params(("id" = String, Path, description = "The rule's name")),
    request_body = Rule,
    responses(
        (status = 200, body = RuleView),
        (status = 409, description = "too-many-alert-rules", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn set_rule(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
    Json(new): Json<Rule>,
) -> Result<Answer<RuleView>, Failure> {
    if new.id.as_str() != id {
        let detail = format!("expected id to be that of the path, got {:?}", new.id);
        return Err(Failure::new(Kind::InvalidBody, detail));
    }
    invalid(new.check())?;
    let others = look(&app, |alerts| {
        alerts
            .rules()
            .filter(|entry| entry.rule.id != new.id)
            .count()
    });
    if others >= MAX_ALERT_RULES {
        let detail = format!("expected at most {MAX_ALERT_RULES} rules");
        return Err(Failure::new(Kind::TooManyAlertRules, detail).hint("remove one first"));
    }
    tracing::info!(rule = %id, user = %asker.name(), "alert rule set");
    let event = Output {
        aggregate_type: ALERT_RULE,
        aggregate_id: id.clone(),
        kind: kind::ALERT_RULE_SET,
        data: json!({ "rule": new, "by": asker.by() }),
    };
    app.fleet.decree(event).await?;
    rule(&app, &id).map(Answer)
}

/// Takes away a rule that was made over this interface. One of the configuration or of the relay itself, of the
/// same name, counts again.
#[utoipa::path(
    delete, path = "/api/v1/alert-rules/{id}", tag = "alerts", params(("id" = String, Path, description = "The rule's name")),
    responses(
        (status = 204, description = "Taken away"),
        (status = 404, description = "alert-rule-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "alert-rule-fixed", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn remove_rule(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
) -> Result<StatusCode, Failure> {
    let found = rule(&app, &id)?;
    if found.origin != RuleOrigin::Interface {
        let origin = found.origin.as_str();
        let detail = format!(
            "expected a rule that was made over the interface, but {id} is of origin {origin}"
        );
        return Err(Failure::new(Kind::AlertRuleFixed, detail).hint(format!(
            "switch it off: PUT /api/v1/alert-rules/{id} with \"enabled\": false"
        )));
    }
    tracing::info!(rule = %id, user = %asker.name(), "alert rule removed");
    let event = Output {
        aggregate_type: ALERT_RULE,
        aggregate_id: id,
        kind: kind::ALERT_RULE_REMOVED,
        data: json!({ "by": asker.by() }),
    };
    app.fleet.decree(event).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The silences that have not ended.
#[utoipa::path(
    get, path = "/api/v1/alert-silences", tag = "alerts",
    responses((status = 200, body = SilenceList)), security(("session" = []), ("cookie" = []))
)]
pub(super) async fn silences(
    State(app): State<App>,
    asker: Asker,
    query: Query,
) -> Result<Answer<SilenceList>, Failure> {
    query.finish()?;
    let within = asker.seen();
    let is_seen = |silence: &&Silence| match &within {
        None => true,
        Some(within) => {
            let robots = &silence.matchers.robots;
            let means =
                |robot: &RobotId| robots.iter().any(|pattern| pattern.matches(robot.as_str()));
            robots.is_empty() || within.iter().any(means)
        }
    };
    let silences = look(&app, |alerts| {
        alerts.silences(now()).filter(is_seen).cloned().collect()
    });
    Ok(Answer(SilenceList { silences }))
}

/// Whether the asker may silence these: those of robots that are named one by one, or of the fleet.
fn may_silence(asker: &Asker, matchers: &Matchers) -> Result<(), Failure> {
    let named = matchers
        .robots
        .iter()
        .map(|pattern| RobotId::new(pattern.as_str()).ok());
    let named: Option<Vec<RobotId>> = named.collect();
    let configure = Action::Do(Permission::Configure);
    match named.filter(|robots| !robots.is_empty()) {
        None => asker.may(configure, What::Fleet),
        Some(robots) => robots
            .iter()
            .try_for_each(|robot| asker.may(configure, What::Robot(robot))),
    }
}

/// Keeps some alerts quiet for some time: they fire all the same, and nobody is told.
#[utoipa::path(
    post, path = "/api/v1/alert-silences", tag = "alerts", request_body = SilenceRequest,
    responses(
        (status = 201, body = Silence),
        (status = 409, description = "too-many-silences", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn silence(
    State(app): State<App>,
    asker: Asker,
    note: Note,
    Json(request): Json<SilenceRequest>,
) -> Result<(StatusCode, Answer<Silence>), Failure> {
    let SilenceRequest {
        matchers,
        duration_s,
        comment,
    } = request;
    invalid(matchers.check())?;
    invalid(check_comment(&comment))?;
    may_silence(&asker, &matchers)?;
    let most = MAX_ALERT_TIME.as_secs();
    if !(1..=most).contains(&duration_s) {
        let detail = format!("expected duration_s to be 1 to {most}, got {duration_s}");
        return Err(Failure::new(Kind::InvalidBody, detail));
    }
    let since = now();
    if look(&app, |alerts| alerts.silences(since).count()) >= MAX_SILENCES {
        let detail = format!("expected at most {MAX_SILENCES} silences that have not ended");
        return Err(Failure::new(Kind::TooManySilences, detail).hint("end one first"));
    }
    let silence = Silence {
        id: Uuid::new_v4(),
        matchers,
        since,
        until: since.plus(Duration::from_secs(duration_s)),
        by: asker.by(),
        comment,
    };
    note.says("silence", silence.id);
    tracing::info!(silence = %silence.id, user = %silence.by, "alerts silenced");
    let event = Output {
        aggregate_type: ALERT_SILENCE,
        aggregate_id: silence.id.to_string(),
        kind: kind::ALERT_SILENCED,
        data: json!(silence),
    };
    app.fleet.decree(event).await?;
    Ok((StatusCode::CREATED, Answer(silence)))
}

/// Ends a silence before its time.
#[utoipa::path(
    delete, path = "/api/v1/alert-silences/{id}", tag = "alerts", params(("id" = String, Path, description = "The silence")),
    responses(
        (status = 204, description = "Ended"),
        (status = 404, description = "silence-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn unsilence(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
) -> Result<StatusCode, Failure> {
    let lasts = |id: Uuid| {
        let that = |silence: &&Silence| silence.id == id;
        look(&app, |alerts| alerts.silences(now()).find(that).cloned())
    };
    let Some(silence) = id.parse::<Uuid>().ok().and_then(lasts) else {
        let shown: String = id.chars().take(80).collect();
        let detail = format!("there is no silence {shown:?} that has not ended");
        return Err(Failure::new(Kind::SilenceUnknown, detail)
            .hint("GET /api/v1/alert-silences lists them"));
    };
    may_silence(&asker, &silence.matchers)?;
    tracing::info!(silence = %silence.id, user = %asker.name(), "silence ended");
    let event = Output {
        aggregate_type: ALERT_SILENCE,
        aggregate_id: silence.id.to_string(),
        kind: kind::ALERT_UNSILENCED,
        data: json!({ "id": silence.id, "matchers": silence.matchers, "by": asker.by() }),
    };
    app.fleet.decree(event).await?;
    Ok(StatusCode::NO_CONTENT)
}
