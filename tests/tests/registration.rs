//! Who may take part, with a real robot on the other side.

use std::time::Duration;

use anyhow::{Result, ensure};
use lekiwi_protocol::api::{Grant, Person, PersonRequest, RobotView};
use lekiwi_protocol::message::RegistrationStatus;
use lekiwi_protocol::{Role, Scope};
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Agent, Browser, Relay, RelayOptions};

/// The robot, once `wanted` likes it.
async fn until(admin: &Admin, what: &str, wanted: impl Fn(&RobotView) -> bool) -> Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let robots = admin.robots().await?.robots;
        if robots.iter().any(&wanted) {
            return Ok(());
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "expected the robot {what}, got {robots:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_rejected_robot_comes_back_by_a_token_made_for_it() -> Result<()> {
    let relay = Relay::start()?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let agent = Agent::start(&relay, "kiwi-01", &relay.token(&[])?)?;
    let token_file = agent.state_dir().with_file_name("token");
    until(&admin, "online", |robot| robot.status.online).await?;
    ensure!(!token_file.exists(), "a used token is removed");

    let rejected: RobotView = admin.post("/api/v1/robots/kiwi-01/reject", &()).await?;
    ensure!(rejected.registration.status == RegistrationStatus::Rejected);
    until(&admin, "rejected and gone", |robot| {
        robot.registration.status == RegistrationStatus::Rejected && !robot.status.online
    })
    .await?;

    // The agent that was turned away still runs, and finds the new token by itself.
    std::fs::write(&token_file, relay.token(&["--robot", "kiwi-01"])?)?;
    until(&admin, "back", |robot| {
        robot.registration.status == RegistrationStatus::Registered && robot.status.online
    })
    .await?;
    ensure!(!token_file.exists(), "a used token is removed");
    Ok(())
}

#[tokio::test]
async fn who_may_not_let_a_robot_in_is_not_asked_to() -> Result<()> {
    let relay = Relay::start_with(RelayOptions {
        environment: vec![("LEKIWI_RELAY_REGISTRATION", "approve".into())],
        ..RelayOptions::default()
    })?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let _agent = Agent::start(&relay, "kiwi-01", &relay.token(&[])?)?;
    until(&admin, "waiting", |robot| {
        robot.registration.status == RegistrationStatus::Quarantined
    })
    .await?;
    let ada = PersonRequest {
        name: "ada".parse()?,
        password: "four unlikely words together".to_owned(),
        roles: vec![Grant {
            role: Role::Operator,
            on: Scope::Fleet,
            until: None,
        }],
    };
    let _: Person = admin.post("/api/v1/people", &ada).await?;

    let browser = Browser::start().await?;
    let base = format!("https://{}", relay.https());
    let page = format!("{base}/#/robots/kiwi-01");
    let approve = "return document.querySelector('[data-action=approve]').checkVisibility()";
    let waiting = |text: &str| text.contains("Nobody hears it");
    browser.log_in(&base, "ada", &ada.password).await?;
    browser.text("#who", |text| text == "ada").await?;
    browser.open(&page).await?;
    browser.text(".quarantine", waiting).await?;
    ensure!(browser.script(approve).await? == false, "ada cannot");

    let password = std::fs::read_to_string(relay.admin_password_file())?;
    browser.log_in(&base, "admin", password.trim()).await?;
    browser.text("#who", |text| text == "admin").await?;
    browser.open(&page).await?;
    browser
        .text("[data-action=approve]", |text| text == "Approve")
        .await?;
    browser.close().await?;
    Ok(())
}
