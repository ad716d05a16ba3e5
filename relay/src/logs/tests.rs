#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const SMALL: Bounds = Bounds {
    robot: 100,
    total: 150,
};

fn upload(robot: &str, command: u128, content: &[u8]) -> Upload {
    Upload {
        robot: RobotId::new(robot).unwrap(),
        command: Uuid::from_u128(command),
        length: content.len() as u64,
        sha256: Sha256::digest(content).into(),
    }
}

async fn take(logs: &Logs, upload: &Upload, offset: u64, piece: &[u8]) -> Result<Taken, String> {
    let taken = logs
        .take(upload.clone(), offset, Bytes::copy_from_slice(piece))
        .await;
    taken.map_err(|error| error.to_string())
}

async fn ids(logs: &Logs, robot: &str) -> Vec<u128> {
    let views = logs.of_robot(&RobotId::new(robot).unwrap()).await.unwrap();
    let mut ids: Vec<u128> = views.iter().map(|view| view.id.as_u128()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn pieces_are_taken_in_order_and_the_whole_is_what_was_announced() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::new(folder.path().join("logs"), LOG_ENDING, SMALL);
    let file = upload("kiwi-01", 1, b"0123456789");
    assert_eq!(take(&logs, &file, 0, b"0123").await.unwrap().offset, 4);
    for (offset, piece, expected) in [
        (
            0,
            &b"0123"[..],
            "expected a piece from 4 on, got one from 0",
        ),
        (9, b"9", "expected a piece from 4 on, got one from 9"),
        (4, b"456789x", "expected 10 bytes in all, got 11"),
    ] {
        assert_eq!(
            take(&logs, &file, offset, piece).await,
            Err(expected.to_owned())
        );
    }
    assert_eq!(ids(&logs, "kiwi-01").await, [0; 0], "it is not whole");
    // Another relay after a restart: the folder says where to go on.
    let logs = Logs::new(folder.path().join("logs"), LOG_ENDING, SMALL);
    let last = take(&logs, &file, 4, b"456789").await.unwrap();
    assert!(last.is_whole && last.offset == 10, "{last:?}");
    // Again, by a robot that did not get the answer.
    assert_eq!(
        take(&logs, &file, 0, b"0123").await,
        Err("expected a piece from 10 on, got one from 0".to_owned())
    );
    let again = take(&logs, &file, 10, b"").await.unwrap();
    assert!(!again.is_whole && again.offset == 10, "{again:?}");
    let (view, mut there) = logs.open(&file.robot, file.command).await.unwrap().unwrap();
    let mut text = String::new();
    there.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), view.bytes), ("0123456789", 10));
    assert_eq!(view.sha256, hex::encode(file.sha256));
}

#[tokio::test]
async fn damage_is_noticed_and_it_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::new(folder.path().to_owned(), LOG_ENDING, SMALL);
    let file = upload("kiwi-01", 1, b"0123456789");
    take(&logs, &file, 0, b"0123").await.unwrap();
    let error = take(&logs, &file, 4, b"45678x").await.unwrap_err();
    assert!(
        error.starts_with(&format!(
            "expected SHA-256 {}, got ",
            hex::encode(file.sha256)
        )),
        "{error}"
    );
    // Collected again, it is another file.
    let other = upload("kiwi-01", 1, b"abc");
    take(&logs, &file, 0, b"01").await.unwrap();
    assert!(take(&logs, &other, 0, b"abc").await.unwrap().is_whole);
    let left: Vec<_> = logs.entries().unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn the_oldest_make_room_and_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::new(folder.path().to_owned(), LOG_ENDING, SMALL);
    let age = |robot: &str, command: u128, seconds: u64| {
        let robot = RobotId::new(robot).unwrap();
        let entries = logs.entries_of(&robot).unwrap();
        let entry = entries
            .iter()
            .find(|entry| entry.view.id.as_u128() == command);
        let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
        let file = File::options().append(true).open(&entry.unwrap().path);
        file.unwrap().set_modified(time).unwrap();
    };
    let content = [b'x'; 40];
    let put = async |robot: &str, command| {
        let taken = take(&logs, &upload(robot, command, &content), 0, &content).await;
        let dropped = taken.unwrap().dropped.into_iter();
        dropped
            .map(|(robot, view)| (robot.to_string(), view.id.as_u128()))
            .collect::<Vec<_>>()
    };
    for (command, at) in [(1, 10), (2, 5)] {
        assert_eq!(put("kiwi-01", command).await, []);
        age("kiwi-01", command, at);
    }
    assert_eq!(
        put("kiwi-01", 3).await,
        [("kiwi-01".to_owned(), 2)],
        "its own bound"
    );
    assert_eq!(put("kiwi-02", 4).await, []);
    assert_eq!(
        put("kiwi-02", 5).await,
        [("kiwi-01".to_owned(), 1)],
        "the bound of all"
    );
    assert_eq!(ids(&logs, "kiwi-01").await, [3]);
    assert_eq!(ids(&logs, "kiwi-02").await, [4, 5]);
    // What nobody goes on with.
    take(&logs, &upload("kiwi-03", 6, &content[..20]), 0, b"x")
        .await
        .unwrap();
    age("kiwi-03", 6, 1000);
    let now = |seconds: u64| Timestamp::from_ms(seconds * 1000);
    logs.forget_abandoned(now(1000 + 24 * 3600)).await.unwrap();
    assert_eq!(logs.entries().unwrap().len(), 4);
    logs.forget_abandoned(now(1001 + 24 * 3600)).await.unwrap();
    assert_eq!(logs.entries().unwrap().len(), 3);
}
