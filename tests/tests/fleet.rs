//! Every scenario of the simulated fleet, short and side by side, against one relay.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use lekiwi_tests::fleet::{self, Admin, Endpoint, Kept, Pace, Plan, Scenario, Simulation};
use lekiwi_tests::harness::Relay;

const ROBOTS: usize = 6;

#[tokio::test]
async fn every_scenario_ends_with_all_robots_back_and_each_event_once() -> Result<()> {
    let relay = Relay::start()?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let folder = tempfile::tempdir()?;
    let endpoint: Endpoint = relay.mqtt().parse()?;
    let (admin, endpoint, folder) = (&admin, &endpoint, folder.path());
    let runs = Scenario::value_variants()
        .iter()
        .map(|scenario| async move {
            let prefix = format!("{scenario:?}").to_lowercase();
            let identities = fleet::enrol_all(admin, folder, &prefix, ROBOTS).await?;
            let plan = Plan {
                scenario: *scenario,
                pace: Pace {
                    heartbeat: Duration::from_secs(1),
                    telemetry: Some(Duration::from_millis(500)),
                    events: Some(Duration::from_millis(300)),
                    ramp: Duration::from_millis(500),
                },
                length: Duration::from_secs(6),
                seed: 1,
            };
            let simulation =
                Simulation::start(plan, &identities, endpoint, None, |_| Ok(Kept::in_memory()))?;
            let report = simulation.report(admin, Duration::from_secs(30)).await?;
            ensure!(report.is_good(), "{scenario:?}: {report}");
            let least = match scenario {
                Scenario::Steady | Scenario::Chatter | Scenario::TeleopHeavy => ROBOTS,
                Scenario::Storm | Scenario::Flapping => 2 * ROBOTS,
                Scenario::Partition => ROBOTS + ROBOTS / 3,
                Scenario::Renewal => {
                    ensure!(
                        report.renewals >= 2 * ROBOTS as u64,
                        "expected two renewals of each robot, {report}"
                    );
                    3 * ROBOTS
                }
            };
            ensure!(
                report.connections >= least as u64,
                "{scenario:?}: expected at least {least} connections, {report}"
            );
            // Events go on while robots are away: 6 s by 0.3 s, less half a second of ramp and one period.
            let events = if *scenario == Scenario::Chatter {
                170
            } else {
                17
            } * ROBOTS as u64;
            ensure!(
                report.tally.emitted >= events,
                "{scenario:?}: expected at least {events} events, {report}"
            );
            Ok(())
        });
    futures_util::future::try_join_all(runs).await?;
    Ok(())
}
