//! Files of every earlier version, with rows in them, and files that are no good.

use super::*;

/// Rows that a version brought room for, as its relay wrote them.
const ROWS: &[&str] = &[
    "INSERT INTO events VALUES (7, 'robot', 'kiwi-01', 'kiwi-01', x'00000000000000000000000000000001', 3,
         'agent.started', 1, 2, '{\"a\":1}', '{}');
     INSERT INTO robots VALUES (1, 'kiwi-01', 7, 5, '{}');
     INSERT INTO metrics VALUES (1, 'cpu_percent');
     INSERT INTO telemetry VALUES (1, 1, 1000, 2.5);
     INSERT INTO refused VALUES (1, 2, 'c', 't', 'malformed', 'no JSON', x'7B', 1);
     INSERT INTO certificates VALUES ('c1', 'kiwi-01', 'robot', x'AA', 1, 2, NULL, x'00');
     INSERT INTO tokens VALUES ('t1', x'01', 'lekiwi', NULL, NULL, 1, 9, x'AA', 5, 'c1');
     INSERT INTO tokens VALUES ('t2', x'02', NULL, NULL, 'kiwi-02', 2, 9, NULL, NULL, NULL);
     INSERT INTO sessions VALUES (x'03', 'admin', 1, 2);
     INSERT INTO credentials VALUES ('admin', '$argon2id$');",
    "INSERT INTO tokens VALUES ('t3', x'04', NULL, NULL, NULL, 3, 9, 5);
     INSERT INTO token_uses VALUES ('t3', x'BB', 6, 'c1');",
    "INSERT INTO commands VALUES ('d1', 'kiwi-01', '{}', 1, 'pending', 1, NULL, NULL);",
    "INSERT INTO configurations VALUES ('kiwi-01', 1, '{}', 'applied');",
    "INSERT INTO telemetry_blocks VALUES (1, 1, 0, 20000, x'01');",
    "",
    "INSERT INTO pictures VALUES (1, 7, 5, '{}');",
    "",
    "INSERT INTO robot_groups VALUES ('warehouse');
     INSERT INTO group_robots VALUES ('warehouse', 'kiwi-01');
     INSERT INTO keys VALUES ('k1', 'admin', 'ci', '', '[\"read\"]', 'fleet', x'05', NULL, NULL, 1, 2, NULL);
     INSERT INTO renewals VALUES ('c2', 'c1', 5, NULL);
     INSERT INTO audit VALUES (1, 2, 'person:ada', '', 'login', '', 'done', '', '{}', x'00');
     INSERT INTO second_factors VALUES ('admin', x'01', 1, 2, 0);
     INSERT INTO recovery_codes VALUES ('admin', x'02');
     INSERT INTO invitations VALUES ('i1', x'03', 'ada', '[]', 'admin', 1, 2, NULL, NULL);
     INSERT INTO consumer_reads VALUES ('wall', 'alerts/+');",
];

/// A file as the relay of `version` left it.
fn of_version(path: &Path, version: usize) {
    let mut connection = Connection::open(path).unwrap();
    for (step, rows) in ROWS.iter().enumerate().take(version) {
        migrate(&mut connection, step, step + 1).unwrap();
        connection.execute_batch(rows).unwrap();
    }
}

#[test]
fn every_earlier_version_becomes_this_one_with_all_that_it_held() {
    assert_eq!(
        ROWS.len(),
        MIGRATIONS.len(),
        "a version without a file to test with"
    );
    let dir = tempfile::tempdir().unwrap();
    for version in 0..=MIGRATIONS.len() {
        let path = dir.path().join(format!("relay-{version}.db"));
        of_version(&path, version);
        // The second time finds nothing to do.
        for _ in 0..2 {
            let database = Sqlite::open_writer(&path).unwrap();
            assert_eq!(
                database.versions().unwrap(),
                (MIGRATIONS.len(), MIGRATIONS.len())
            );
            let connection = database.connection();
            let count = |table: &str| -> i64 {
                connection
                    .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                        row.get(0)
                    })
                    .unwrap()
            };
            let has = |since: usize| i64::from(version >= since);
            for (table, since) in [
                ("events", 1),
                ("robots", 1),
                ("metrics", 1),
                ("telemetry", 1),
                ("refused", 1),
                ("certificates", 1),
                ("sessions", 1),
                ("credentials", 1),
                // Whoever had a password is the administrator.
                ("people", 1),
                ("rights", 1),
                ("robot_groups", 9),
                ("group_robots", 9),
                ("keys", 9),
                ("renewals", 9),
                ("audit", 9),
                ("second_factors", 9),
                ("recovery_codes", 9),
                ("invitations", 9),
                ("consumer_reads", 9),
                ("commands", 3),
                ("configurations", 4),
                ("telemetry_blocks", 5),
                // Of the log's first six events no picture tells: they are gone.
                ("pictures", 1),
                ("log_base", 1),
            ] {
                assert_eq!(count(table), has(since), "{table} of version {version}");
            }
            assert_eq!(count("tokens"), 2 * has(1) + has(2));
            assert_eq!(count("token_uses"), has(1) + has(2));
            if version > 0 {
                let event: (i64, i64, String, String) = connection
                    .query_row("SELECT position, seq, type, data FROM events", [], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                    })
                    .unwrap();
                assert_eq!(event, (7, 3, "agent.started".into(), r#"{"a":1}"#.into()));
            }
        }
    }
}

#[test]
fn spent_tokens_of_the_first_version_stay_spent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.db");
    of_version(&path, 1);
    let database = Sqlite::open_writer(&path).unwrap();
    let connection = database.connection();
    let uses: (String, Vec<u8>, i64, String) = connection
        .query_row(
            "SELECT token, key, used, certificate FROM token_uses",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .unwrap();
    assert_eq!(uses, ("t1".to_owned(), vec![0xAA], 5, "c1".to_owned()));
    let most: Vec<i64> = connection
        .prepare("SELECT max_uses FROM tokens ORDER BY id")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<std::result::Result<_, _>>()
        .unwrap();
    assert_eq!(most, [1, 1]);
}

#[test]
fn a_later_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.db");
    let later = MIGRATIONS.len() + 1;
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", later as u32)
        .unwrap();
    let refusal = Sqlite::open_writer(&path).err().unwrap();
    assert_eq!(
        refusal.to_string(),
        format!(
            "expected a store of version {} or earlier, got version {later} in {}",
            MIGRATIONS.len(),
            path.display()
        )
    );
}

#[test]
fn a_damaged_file_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.db");
    of_version(&path, MIGRATIONS.len());
    let sound = std::fs::read(&path).unwrap();
    let mut damaged = sound.clone();
    // Every page but the first: tables and indexes.
    for byte in damaged.iter_mut().skip(4_096).step_by(7) {
        *byte ^= 0x55;
    }
    std::fs::write(&path, damaged).unwrap();
    let refusal = Sqlite::open_writer(&path).err().unwrap();
    assert!(matches!(refusal, StoreError::Damaged { .. }), "{refusal:?}");
    assert!(
        refusal.to_string().starts_with(&format!(
            "expected a store without damage in {}, got: ",
            path.display()
        )),
        "{refusal}"
    );
    assert!(
        refusal
            .hint()
            .unwrap()
            .contains("lekiwi-relay restore FILE")
    );
    std::fs::write(&path, sound).unwrap();
    Sqlite::open_writer(&path).unwrap();
}
