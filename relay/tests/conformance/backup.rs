//! Backup, restore, verify and move: of every kind of store, and as people use them on the command line.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use lekiwi_protocol::api::Grant;
use lekiwi_protocol::{GroupName, Role, Scope};
use lekiwi_relay::store::records::{NewSample, Refused, Session, Snapshot};
use lekiwi_relay::store::{Batch, Location, Store, backup};

use super::rows::{DAY, JANUARY, certificate, sample, token};
use super::{Place, Server, at, batch, committed, event, exists, factors, open, until};

fn relay(arguments: &[&str], data: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lekiwi-relay"))
        .args(arguments)
        .arg("--data")
        .arg(data)
        .env_remove("LEKIWI_RELAY_CONFIG")
        .output()
        .unwrap()
}

/// What it says on standard error.
fn refusal(arguments: &[&str], data: &Path, code: i32) -> String {
    let output = relay(arguments, data);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    // The log comes first.
    let error = said.find("error: ").expect("an error");
    said[error..].to_owned()
}

fn said(arguments: &[&str], data: &Path) -> String {
    let output = relay(arguments, data);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

async fn store_with(data: &Path, count: u64) -> Store {
    std::fs::create_dir_all(data).unwrap();
    let location = Location::Sqlite(data.join("relay.db"));
    let (store, mut commits) = open(&location).await.unwrap();
    store.submit(batch((1..=count).map(|seq| event("kiwi-01", seq))));
    committed(&mut commits).await;
    store
}

/// All tables but the one in which it says that there was a backup or a restore.
fn besides_audit(contents: &serde_json::Value) -> Vec<&serde_json::Value> {
    let tables = contents["tables"].as_array().unwrap().iter();
    tables.filter(|table| table["name"] != "audit").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_made_checked_and_restored_by_command() {
    let dir = tempfile::tempdir().unwrap();
    let (data, other) = (dir.path().join("data"), dir.path().join("other"));
    // Open all the while, as by a relay that runs.
    let store = store_with(&data, 1_000).await;
    let file = dir.path().join("relay.backup");
    let path = file.to_str().unwrap();
    assert_eq!(
        said(&["backup", path], &data),
        format!(
            "{path} has {} up to position 1000, 1000 rows\n",
            data.join("relay.db").display()
        )
    );
    assert_eq!(
        refusal(&["backup", path], &data, 1).lines().next().unwrap(),
        format!("error: expected nothing at {path}, found a file")
    );
    assert_eq!(
        said(&["verify", path], &data),
        format!("{path} is sound, up to position 1000, 1000 rows\n")
    );
    let live: serde_json::Value =
        serde_json::from_str(&said(&["verify", "--json"], &data)).unwrap();
    assert_eq!(live["position"], 1_000);
    assert_eq!(live["tables"][0]["name"], "events");
    assert_eq!(live["tables"][0]["rows"], 1_000);

    // Where a store is, nothing is restored; where none is, the same comes out.
    assert_eq!(
        refusal(&["restore", path], &data, 1),
        format!(
            "error: expected nothing at {}, found a file\n  (hint: choose another name, or move it away first)\n",
            data.join("relay.db").display()
        )
    );
    said(&["restore", path], &other);
    let restored: serde_json::Value =
        serde_json::from_str(&said(&["verify", "--json"], &other)).unwrap();
    assert_eq!(besides_audit(&restored), besides_audit(&live));
    store.close();

    // One bit of an event's data: only the checksum knows.
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes
        .windows(13)
        .rposition(|part| part == b"agent.started")
        .unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let damage = refusal(&["verify", path], &data, 1);
    assert!(
        damage.starts_with("error: expected 1000 rows of events (sha256 ")
            || damage.starts_with(&format!("error: expected {path} without damage, got: ")),
        "{damage}"
    );
    // A store of another version is not taken for one of this.
    let earlier = dir.path().join("earlier");
    std::fs::create_dir(&earlier).unwrap();
    rusqlite::Connection::open(earlier.join("relay.db"))
        .unwrap()
        .pragma_update(None, "user_version", 3)
        .unwrap();
    let target = dir.path().join("never");
    assert_eq!(
        refusal(&["backup", target.to_str().unwrap()], &earlier, 1),
        format!(
            "error: expected version 9 of a store in {}, got version 3\n  (hint: use the relay of that version; this one, once started on it, brings it to its own)\n",
            earlier.join("relay.db").display()
        )
    );
    assert!(!exists(&target) && !exists(&dir.path().join("never.partial")));
    let nothing = dir.path().join("nothing");
    std::fs::write(
        &nothing,
        "this is no backup, and long enough to look like one",
    )
    .unwrap();
    assert_eq!(
        refusal(&["verify", nothing.to_str().unwrap()], &data, 1),
        format!(
            "error: expected a backup of a relay in {}, got something else\n",
            nothing.display()
        )
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_moves_into_a_database_by_command() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    store_with(&data, 5_000).await.close();
    let server = Server::shared();
    let url = server.url(&server.database());
    let password = server.password_file();
    let arguments = [
        "move",
        "--to",
        &url,
        "--password-file",
        password.to_str().unwrap(),
        "--json",
    ];
    let lock = lekiwi_relay::paths::DataFolder::new(&data).lock().unwrap();
    let running = refusal(&arguments, &data, 69);
    assert!(
        running.starts_with("error: another relay (process "),
        "{running}"
    );
    assert!(
        running.ends_with("(hint: stop the relay first)\n"),
        "{running}"
    );
    drop(lock);
    let moved: serde_json::Value = serde_json::from_str(&said(&arguments, &data)).unwrap();
    assert_eq!(moved["position"], 5_000);
    let before: serde_json::Value =
        serde_json::from_str(&said(&["verify", "--json"], &data)).unwrap();
    assert_eq!(moved["tables"], before["tables"]);
    assert_eq!(
        refusal(&arguments, &data, 1).lines().next().unwrap(),
        format!(
            "error: expected an empty store in {}, found one with a history",
            url.replace("relay@", "")
        )
    );
    // The relay's configuration finds it there.
    std::fs::write(
        data.join("relay.yml"),
        format!(
            "store:\n  postgres: {url}\n  password_file: {}\n",
            password.display()
        ),
    )
    .unwrap();
    let there: serde_json::Value =
        serde_json::from_str(&said(&["verify", "--json"], &data)).unwrap();
    assert_eq!(there["place"], url.replace("relay@", ""));
    assert_eq!(besides_audit(&there), besides_audit(&before));
    let (store, mut commits) = open(&at(&server, &url)).await.unwrap();
    store.submit(batch([event("kiwi-01", 5_000), event("kiwi-01", 5_001)]));
    let commit = committed(&mut commits).await;
    assert_eq!(commit.events.len(), 1);
    assert_eq!(commit.events[0].position, 5_001);
    store.close();
}

/// Everything that a store can hold.
async fn filled(store: &Store) {
    store.insert_token(token(1)).await.unwrap();
    store
        .redeem("t1", certificate("aa", "kiwi-01", 1), false, 5)
        .await
        .unwrap();
    store
        .insert_session(Session {
            hash: [1; 32],
            user: "admin".into(),
            created_ms: 1,
            expires_ms: 100,
            address: "127.0.0.1".into(),
            agent: "curl".into(),
        })
        .await
        .unwrap();
    let (admin, warehouse) = ("admin".parse().unwrap(), "warehouse".parse().unwrap());
    let grant = Grant {
        role: Role::Operator,
        on: Scope::Group(GroupName::clone(&warehouse)),
        until: None,
    };
    let added = store.add_person(admin, Some("slow".into()), vec![grant], 3);
    assert!(added.await.unwrap());
    let robots = ["kiwi-01".parse().unwrap()].into();
    store.set_group(warehouse, robots).await.unwrap();
    store.record(super::audit::entry(1)).await.unwrap();
    factors::filled(store).await;
    store.submit(Batch {
        events: (1..=3_000).map(|seq| event("kiwi-01", seq)).collect(),
        samples: (0..3_000)
            .map(|n| sample("cpu_percent", JANUARY + n * DAY / 50, n as f64 / 3.0))
            .collect(),
        refused: vec![Refused {
            at_ms: 1,
            client: "c".into(),
            topic: "t".into(),
            kind: "malformed",
            reason: "r".into(),
            payload: vec![0, 255],
            payload_bytes: 2,
        }],
        snapshots: vec![Snapshot {
            robot: "kiwi-01".into(),
            position: 2,
            taken_ms: 3,
            picture: "{}".into(),
        }],
        ..Batch::default()
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_backup_is_the_store_at_its_position() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        filled(&store).await;
        committed(&mut commits).await;
        let file = place.dir.path().join("backup");
        // Under load: what comes meanwhile is in the backup up to one position, and not beyond it.
        let writing = {
            let store = store.clone();
            tokio::spawn(async move {
                for seq in 3_001..=3_400 {
                    assert!(store.submit(batch([event("kiwi-01", seq)])).is_empty());
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        };
        tokio::spawn(async move { while commits.recv().await.is_some() {} });
        let (location, target) = (place.location.clone(), file.clone());
        let taken = tokio::task::spawn_blocking(move || {
            let mut reports = 0;
            let taken = backup::backup(&location, &target, &mut |_, done, total| {
                assert!(done <= total);
                reports += 1;
            })
            .unwrap();
            assert!(reports > 0);
            assert_eq!(
                backup::backup(&location, &target, &mut |_, _, _| ())
                    .unwrap_err()
                    .to_string(),
                format!("expected nothing at {}, found a file", target.display())
            );
            taken
        })
        .await
        .unwrap();
        writing.await.unwrap();
        assert!(
            (3_000..=3_400).contains(&taken.position),
            "{}",
            taken.position
        );
        until("all is written", async || {
            store.last_position().await.unwrap() == 3_400
        })
        .await;
        let expected = store.events(0, taken.position as usize).await.unwrap();
        store.close();

        for target in [Place::sqlite(), Place::postgres()] {
            let (backup_file, location) = (file.clone(), target.location.clone());
            tokio::task::spawn_blocking(move || {
                let quiet: &mut backup::Progress<'_> = &mut |_, _, _| ();
                assert_eq!(
                    backup::verify_file(&backup_file, quiet).unwrap(),
                    taken_of(&backup_file)
                );
                backup::restore(&backup_file, &location, quiet).unwrap();
                assert_eq!(
                    backup::verify_store(&location, &[], quiet).unwrap(),
                    taken_of(&backup_file)
                );
                // Nothing is overwritten.
                let refusal = backup::restore(&backup_file, &location, quiet).unwrap_err();
                assert!(refusal.to_string().starts_with("expected "), "{refusal}");
                assert!(refusal.hint().is_some());
            })
            .await
            .unwrap();
            let (restored, mut commits) = open(&target.location).await.unwrap();
            assert_eq!(restored.events(0, 10_000).await.unwrap(), expected);
            assert_eq!(
                &*restored.certificate_status("aa").unwrap().common_name,
                "kiwi-01"
            );
            // It goes on where the backup ended, with numbers that nothing has yet.
            restored.submit(Batch {
                samples: vec![NewSample {
                    robot: "kiwi-09".into(),
                    ..sample("other_percent", JANUARY, 1.0)
                }],
                ..batch([event("kiwi-09", 1)])
            });
            let commit = committed(&mut commits).await;
            assert_eq!(commit.events[0].position, expected.len() as u64 + 1);
            assert_eq!(
                restored.metrics_of_robot("kiwi-09").await.unwrap(),
                ["other_percent"]
            );
            restored.close();
        }
        assert!(exists(&file));
    }
}

/// What a backup says of itself, checked.
fn taken_of(file: &Path) -> backup::Contents {
    backup::verify_file(file, &mut |_, _, _| ()).unwrap()
}

/// Earlier versions kept in a file what PostgreSQL has no room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_characters_that_postgresql_cannot_keep_moves_all_the_same() {
    let (from, to) = (Place::sqlite(), Place::postgres());
    let (store, mut commits) = from.open().await;
    store.submit(batch([event("kiwi-01", 1), event("kiwi-01", 2)]));
    committed(&mut commits).await;
    store.close();
    let path = from.dir.path().join("relay.db");
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute("UPDATE events SET type = ?1 WHERE seq = 2", ["custom.\0"])
        .unwrap();
    drop(file);
    let (source, target) = (from.location.clone(), to.location.clone());
    let backup_file = from.dir.path().join("backup");
    let kept = tokio::task::spawn_blocking(move || {
        let progress: &mut backup::Progress<'_> = &mut |_, _, _| ();
        // As it is, in a backup as well.
        let expected = backup::backup(&source, &backup_file, progress).unwrap();
        let verified = backup::verify_file(&backup_file, progress).unwrap();
        assert_eq!(verified, expected);
        let moved = backup::move_store(&source, &target, progress).unwrap();
        assert_ne!(moved, expected, "a text became another one");
        (moved, backup::verify_store(&target, &[], progress).unwrap())
    });
    let (moved, found) = kept.await.unwrap();
    assert_eq!(found, moved);
    let (store, _commits) = to.open().await;
    let kinds: Vec<_> = store.events(0, 10).await.unwrap();
    let kinds: Vec<&str> = kinds.iter().map(|stored| &*stored.event.kind).collect();
    assert_eq!(kinds, ["agent.started", "custom.\u{FFFD}"]);
    store.close();
}
