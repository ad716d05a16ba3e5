//! What of the profile is about ROS 2, and whether this program sees it.

use std::time::Duration;

use lekiwi_protocol::profile::Profile;

use super::Finding;
use crate::clock;
use crate::driver::chain;
use crate::ros::{Ros, RosError};

const CHECK: &str = "ROS 2";
/// How long nodes have to be found.
const PATIENCE: Duration = Duration::from_secs(6);

/// Looks for the nodes of `profile`.
pub(super) async fn examine(profile: &Profile, findings: &mut Vec<Finding>) {
    if !profile.names_ros() {
        return;
    }
    let (nodes, topics) = (&profile.ros.nodes, &profile.teleop.ros_topics);
    let ros = match Ros::open(profile.ros.domain_id, topics) {
        Ok(ros) => ros,
        Err(error) => {
            let all: Vec<&str> = nodes.iter().chain(topics).map(String::as_str).collect();
            let hint = match error {
                RosError::Absent => "install lekiwi-agent-ros2 in its place",
                RosError::Thread(_) => "",
            };
            let text = format!("{} not looked at: {}", all.join(", "), chain(&error));
            return findings.push(Finding::warning(CHECK, text, hint));
        }
    };
    let end = clock::now() + PATIENCE;
    let missing = || nodes.iter().filter(|node| !ros.has_node(node));
    while missing().next().is_some()
        && let Ok(()) = tokio::time::timeout_at(end.into(), ros.changed()).await
    {}
    let domain = ros.domain();
    for node in missing() {
        let text = format!("expected the node {node} in the domain {domain}, found none");
        findings.push(Finding::failed(CHECK, text, "`ros2 node list`"));
    }
    if missing().next().is_none() {
        let text = match nodes.len() {
            0 => format!("domain {domain} is looked at"),
            count => format!("domain {domain}, all {count} nodes are there"),
        };
        findings.push(Finding::ok(CHECK, text));
    }
}

#[cfg(all(test, not(feature = "ros2")))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::ros::Slot;

    #[tokio::test]
    async fn a_program_that_does_not_look_at_ros_takes_the_profile_and_says_so() {
        let text = "version: 1\nname: robot\ntitle: A robot\nros: {nodes: [slam]}\nteleop: {ros_topics: [/cmd_vel]}\n";
        let profile = Profile::parse(text, "robot.yml").unwrap();
        assert!(Slot::default().open(&profile).is_none());
        let mut findings = Vec::new();
        examine(&profile, &mut findings).await;
        assert_eq!(
            findings,
            [Finding {
                check: CHECK,
                verdict: Verdict::Warning,
                text: "slam, /cmd_vel not looked at: expected the variant lekiwi-agent-ros2 to look at ROS 2, this \
                       is lekiwi-agent"
                    .to_owned(),
                hint: Some("install lekiwi-agent-ros2 in its place".to_owned()),
            }]
        );
        // Most robots have none.
        let profile = Profile::parse("version: 1\nname: robot\ntitle: A robot\n", "robot.yml");
        findings.clear();
        examine(&profile.unwrap(), &mut findings).await;
        assert_eq!(findings, []);
    }
}
