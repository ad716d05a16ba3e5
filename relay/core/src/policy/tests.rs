use expect_test::expect;
use proptest::prelude::*;

use super::*;
use lekiwi_protocol::access::Reads;

const NOW: Timestamp = Timestamp::from_ms(1_800_000_000_000);
const LATER: Timestamp = Timestamp::from_ms(1_800_000_060_000);

fn user(name: &str) -> UserName {
    name.parse().unwrap()
}

fn robot(id: &str) -> RobotId {
    id.parse().unwrap()
}

fn right(role: Role, on: &str) -> Right {
    Right {
        permissions: role.permissions(),
        on: on.parse().unwrap(),
        until: None,
        source: Source::Role(role),
    }
}

fn lent(on: &str, until: Timestamp) -> Right {
    Right {
        until: Some(until),
        source: Source::Lent(user("ada")),
        ..right(Role::Operator, on)
    }
}

fn key(permissions: &[Permission], on: &str) -> Right {
    Right {
        permissions: permissions.iter().copied().collect(),
        on: on.parse().unwrap(),
        until: None,
        source: Source::Key,
    }
}

struct World {
    groups: Groups,
}

impl World {
    fn new() -> Self {
        let groups = [("warehouse", "kiwi-01"), ("yard", "kiwi-02")]
            .map(|(group, id)| (group.parse().unwrap(), BTreeSet::from([robot(id)])));
        Self {
            groups: groups.into(),
        }
    }

    fn at(&self, now: Timestamp) -> Circumstances<'_> {
        Circumstances {
            now,
            groups: &self.groups,
        }
    }
}

/// Everybody by name, with each permission on the fleet, on any robot, on kiwi-01 and on kiwi-02, in this order.
#[test]
fn what_each_may() {
    let (world, bob) = (World::new(), user("bob"));
    let all = [
        ("nobody", None),
        ("without rights", Some(vec![])),
        ("operator", Some(vec![right(Role::Operator, "fleet")])),
        ("engineer", Some(vec![right(Role::Engineer, "fleet")])),
        ("admin", Some(vec![right(Role::Admin, "fleet")])),
        (
            "operator of group",
            Some(vec![right(Role::Operator, "group:warehouse")]),
        ),
        (
            "engineer of group",
            Some(vec![right(Role::Engineer, "group:warehouse")]),
        ),
        (
            "admin of group",
            Some(vec![right(Role::Admin, "group:warehouse")]),
        ),
        (
            "of an unknown group",
            Some(vec![right(Role::Operator, "group:gone")]),
        ),
        (
            "engineer of robot",
            Some(vec![right(Role::Engineer, "robot:kiwi-01")]),
        ),
        ("lent until later", Some(vec![lent("robot:kiwi-01", LATER)])),
        ("lent until now", Some(vec![lent("robot:kiwi-01", NOW)])),
        (
            "engineer here, operator there",
            Some(vec![
                right(Role::Engineer, "robot:kiwi-01"),
                right(Role::Operator, "group:yard"),
            ]),
        ),
    ];
    let robots = [robot("kiwi-01"), robot("kiwi-02")];
    let mut table = String::new();
    for (name, rights) in &all {
        let who = match rights {
            None => Who::Nobody,
            Some(rights) => Who::Person { name: &bob, rights },
        };
        table.push_str(&format!("{name:<30}"));
        for permission in Permission::ALL {
            let marks: String = [
                What::Fleet,
                What::Some,
                What::Robot(&robots[0]),
                What::Robot(&robots[1]),
            ]
            .map(
                |what| match allow(who, Action::Do(permission), what, world.at(NOW)) {
                    Ok(_) => 'x',
                    Err(Denial::Login) => '!',
                    Err(Denial::Unseen(..)) => '?',
                    Err(_) => '-',
                },
            )
            .into_iter()
            .collect();
            table.push_str(&format!(" {permission} {marks}"));
        }
        table.push('\n');
    }
    expect![[r#"
        nobody                         read !!!! stop !!!! teleoperate !!!! acknowledge !!!! diagnose !!!! command !!!! configure !!!! deploy !!!! enrol !!!! manage !!!! audit !!!!
        without rights                 read --?? stop --?? teleoperate --?? acknowledge --?? diagnose --?? command --?? configure --?? deploy --?? enrol --?? manage --?? audit --??
        operator                       read xxxx stop xxxx teleoperate xxxx acknowledge xxxx diagnose ---- command ---- configure ---- deploy ---- enrol ---- manage ---- audit ----
        engineer                       read xxxx stop xxxx teleoperate ---- acknowledge xxxx diagnose xxxx command xxxx configure xxxx deploy xxxx enrol ---- manage ---- audit ----
        admin                          read xxxx stop xxxx teleoperate xxxx acknowledge xxxx diagnose xxxx command xxxx configure xxxx deploy xxxx enrol xxxx manage xxxx audit xxxx
        operator of group              read -xx? stop -xx? teleoperate -xx? acknowledge -xx? diagnose ---? command ---? configure ---? deploy ---? enrol ---? manage ---? audit ---?
        engineer of group              read -xx? stop -xx? teleoperate ---? acknowledge -xx? diagnose -xx? command -xx? configure -xx? deploy -xx? enrol ---? manage ---? audit ---?
        admin of group                 read -xx? stop -xx? teleoperate -xx? acknowledge -xx? diagnose -xx? command -xx? configure -xx? deploy -xx? enrol -xx? manage -xx? audit -xx?
        of an unknown group            read -x?? stop -x?? teleoperate -x?? acknowledge -x?? diagnose --?? command --?? configure --?? deploy --?? enrol --?? manage --?? audit --??
        engineer of robot              read -xx? stop -xx? teleoperate ---? acknowledge -xx? diagnose -xx? command -xx? configure -xx? deploy -xx? enrol ---? manage ---? audit ---?
        lent until later               read -xx? stop -xx? teleoperate -xx? acknowledge -xx? diagnose ---? command ---? configure ---? deploy ---? enrol ---? manage ---? audit ---?
        lent until now                 read --?? stop --?? teleoperate --?? acknowledge --?? diagnose --?? command --?? configure --?? deploy --?? enrol --?? manage --?? audit --??
        engineer here, operator there  read -xxx stop -xxx teleoperate -x-x acknowledge -xxx diagnose -xx- command -xx- configure -xx- deploy -xx- enrol ---- manage ---- audit ----
    "#]].assert_eq(&table);
}

#[test]
fn each_operation_takes_one_permission() {
    let all: Vec<String> = Op::ALL
        .iter()
        .map(|op| format!("{op} {}", Permission::to(*op)))
        .collect();
    expect![[r#"
        ping diagnose
        full_state diagnose
        restart_service command
        reboot command
        shutdown command
        run_action command
        collect_logs diagnose
        list_packages diagnose
        renew_identity enrol
        estop stop"#]]
    .assert_eq(&all.join("\n"));
}

#[test]
fn a_refusal_says_what_is_missing_and_hides_what_is_not_seen() {
    let (world, bob) = (World::new(), user("bob"));
    let rights = [
        right(Role::Operator, "group:warehouse"),
        lent("robot:kiwi-02", NOW),
    ];
    let who = Who::Person {
        name: &bob,
        rights: &rights,
    };
    let ask = |action, what| {
        allow(who, action, what, world.at(NOW))
            .map(|_| ())
            .map_err(|denial| denial.to_string())
    };
    let (one, two, none) = (robot("kiwi-01"), robot("kiwi-02"), robot("kiwi-99"));
    assert_eq!(
        ask(Action::Command(Op::Reboot), What::Robot(&one)),
        Err("expected the permission `command` on robot kiwi-01, user bob has operator on group:warehouse".into())
    );
    for hidden in [&two, &none] {
        assert_eq!(
            ask(Action::Command(Op::Reboot), What::Robot(hidden)),
            Err(format!("there is no robot {hidden} that user bob may see"))
        );
    }
    assert_eq!(ask(Action::Command(Op::Estop), What::Robot(&one)), Ok(()));
    assert_eq!(ask(Action::Own, What::Fleet), Ok(()));
    assert_eq!(
        ask(Action::Report, What::Robot(&one)),
        Err("expected a robot's certificate in the TLS handshake, got none".into())
    );
}

#[test]
fn a_key_may_what_both_it_and_its_owner_may() {
    let (world, ada) = (World::new(), user("ada"));
    let (one, two) = (robot("kiwi-01"), robot("kiwi-02"));
    let ask = |right: &Right, rights: &[Right], action, what| {
        let who = Who::Program {
            key: "ci",
            right,
            owner: &ada,
            rights,
        };
        allow(who, action, what, world.at(NOW))
            .map(|_| ())
            .map_err(|denial| denial.to_string())
    };
    let reads = key(&[Permission::Read, Permission::Command], "fleet");
    let owner = [right(Role::Operator, "group:warehouse")];
    let read = Action::Do(Permission::Read);
    assert_eq!(ask(&reads, &owner, read, What::Robot(&one)), Ok(()));
    assert_eq!(
        ask(&reads, &owner, read, What::Robot(&two)),
        Err("there is no robot kiwi-02 that API key \"ci\" of ada may see".into())
    );
    assert_eq!(
        ask(&reads, &owner, Action::Do(Permission::Stop), What::Robot(&one)),
        Err("expected the permission `stop` on robot kiwi-01, API key \"ci\" of ada has read, command on fleet".into())
    );
    assert_eq!(
        ask(&reads, &owner, Action::Command(Op::Reboot), What::Robot(&one)),
        Err("expected the permission `command` on robot kiwi-01, the owner of API key \"ci\" of ada has it not".into())
    );
    // What its owner lost it has lost, and what its owner has beyond it is not its own.
    assert_eq!(
        ask(&reads, &[], read, What::Robot(&one)),
        Err("there is no robot kiwi-01 that API key \"ci\" of ada may see".into())
    );
    // Nor does it let anybody in, whatever it was given.
    let all = key(&Permission::ALL, "fleet");
    let admin = [right(Role::Admin, "fleet")];
    for action in [Action::LogIn, Action::Do(Permission::Manage)] {
        assert_eq!(
            ask(&all, &admin, action, What::Fleet),
            Err("expected the session of a person, got API key \"ci\" of ada".into())
        );
    }
    assert_eq!(ask(&all, &admin, Action::Own, What::Fleet), Ok(()));
    assert_eq!(ask(&all, &admin, Action::Scrape, What::Fleet), Ok(()));
    let over = Right {
        until: Some(NOW),
        ..all
    };
    assert!(ask(&over, &admin, read, What::Robot(&one)).is_err());
}

#[test]
fn a_certificate_speaks_for_its_owner_only() {
    let world = World::new();
    let own = Principal::Robot(robot("kiwi-01"));
    let consumer = Principal::Consumer("analytics".parse().unwrap(), Reads::default());
    let ask = |client, action, what| {
        allow(Who::Certified(client), action, what, world.at(NOW))
            .map(|_| ())
            .map_err(|denial| denial.to_string())
    };
    let (one, two) = (robot("kiwi-01"), robot("kiwi-02"));
    assert_eq!(ask(&own, Action::Report, What::Robot(&one)), Ok(()));
    assert_eq!(
        ask(&own, Action::Report, What::Robot(&two)),
        Err("robot kiwi-01 may speak for itself, not for kiwi-02".into())
    );
    assert_eq!(
        ask(&consumer, Action::Report, What::Robot(&one)),
        Err(
            "expected a robot's certificate in the TLS handshake, got that of consumer analytics"
                .into()
        )
    );
    assert_eq!(ask(&consumer, Action::Scrape, What::Fleet), Ok(()));
    let alerts = Reads::parse(&["alerts/+".to_owned()]).unwrap();
    let narrow = Principal::Consumer("wall".parse().unwrap(), alerts);
    let root = Root::default();
    let subscribe = |client, filter| ask(client, Action::Subscribe(&root, filter), What::Fleet);
    let (alerts, robots) = (
        "fleet/v1/default/alerts/+",
        "fleet/v1/default/robots/+/from/#",
    );
    for client in [&consumer, &narrow] {
        assert_eq!(subscribe(client, alerts), Ok(()));
        assert_eq!(
            ask(
                client,
                Action::Publish(&root, "fleet/v1/default/alerts/a"),
                What::Fleet
            ),
            Err(format!("{} may not publish", Who::Certified(client)))
        );
    }
    assert_eq!(subscribe(&consumer, robots), Ok(()));
    assert_eq!(
        subscribe(&narrow, robots),
        Err(format!("consumer:wall may not subscribe to {robots:?}"))
    );
    let login = "expected a session, an API key or `Authorization: Bearer …`";
    assert_eq!(ask(&own, Action::Scrape, What::Fleet), Err(login.into()));
    for permission in Permission::ALL {
        for client in [&own, &consumer] {
            let denied = ask(client, Action::Do(permission), What::Robot(&one));
            assert_eq!(denied, Err(login.into()));
        }
    }
}

fn any_right() -> impl Strategy<Value = Right> {
    let on = prop_oneof![
        Just("fleet"),
        Just("group:warehouse"),
        Just("group:yard"),
        Just("robot:kiwi-01"),
        Just("robot:kiwi-02"),
    ];
    let until = prop_oneof![Just(None), Just(Some(NOW)), Just(Some(LATER))];
    let role = prop_oneof![
        Just(Role::Operator),
        Just(Role::Engineer),
        Just(Role::Admin)
    ];
    (role, on, until).prop_map(|(role, on, until)| Right {
        until,
        ..right(role, on)
    })
}

proptest! {
    /// More rights never allow less, and what ended allows nothing.
    #[test]
    fn rights_only_add(
        some in prop::collection::vec(any_right(), 0..4),
        more in prop::collection::vec(any_right(), 0..4),
        permission in prop::sample::select(Permission::ALL.to_vec()),
        of in 0usize..4,
    ) {
        let (world, bob) = (World::new(), user("bob"));
        let (one, two) = (robot("kiwi-01"), robot("kiwi-02"));
        let what = [What::Fleet, What::Some, What::Robot(&one), What::Robot(&two)][of];
        let both: Vec<Right> = some.iter().chain(&more).cloned().collect();
        let may = |rights: &[Right], now| {
            let who = Who::Person { name: &bob, rights };
            allow(who, Action::Do(permission), what, world.at(now)).is_ok()
        };
        prop_assert!(!may(&some, NOW) || may(&both, NOW));
        prop_assert!(!may(&some, LATER) || may(&some, NOW));
        let each = both.iter().any(|right| may(std::slice::from_ref(right), NOW));
        prop_assert_eq!(may(&both, NOW), each);
    }
    /// A key may what it was given where its owner may, and nothing else; and sees what it may read.
    #[test]
    fn a_key_is_cut_to_its_owner(
        given in any_right(),
        owners in prop::collection::vec(any_right(), 0..4),
        permission in prop::sample::select(Permission::ALL.to_vec()),
        of in 0usize..4,
    ) {
        let (world, ada) = (World::new(), user("ada"));
        let robots = [robot("kiwi-01"), robot("kiwi-02")];
        let what = [What::Fleet, What::Some, What::Robot(&robots[0]), What::Robot(&robots[1])][of];
        let program = Who::Program { key: "ci", right: &given, owner: &ada, rights: &owners };
        let person = |rights| Who::Person { name: &ada, rights };
        let may = |who| allow(who, Action::Do(permission), what, world.at(NOW)).is_ok();
        let both = may(person(std::slice::from_ref(&given))) && may(person(&owners));
        prop_assert_eq!(may(program), both && permission != Permission::Manage);
        let seen = seen(program, world.at(NOW));
        for robot in &robots {
            let reads = allow(program, Action::Do(Permission::Read), What::Robot(robot), world.at(NOW)).is_ok();
            prop_assert_eq!(seen.as_ref().is_none_or(|seen| seen.contains(robot)), reads);
        }
    }
}
