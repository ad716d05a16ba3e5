#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn collected(bytes: u64) -> Collected {
    Collected {
        bytes,
        lines: 2,
        sha256: "00".repeat(32),
        is_cut: false,
    }
}

#[test]
fn only_a_whole_file_with_its_note_counts() {
    let state = tempfile::tempdir().unwrap();
    let files = Files::new(state.path(), Uuid::from_u128(1));
    fs::create_dir(state.path().join(FOLDER)).unwrap();
    fs::write(&files.data, "1234").unwrap();
    assert_eq!(files.collected(), None, "it may be half of it");
    files.keep(&collected(5)).unwrap();
    assert_eq!(files.collected(), None, "a power cut took a byte");
    files.keep(&collected(4)).unwrap();
    assert_eq!(files.collected(), Some(collected(4)));
    forget(state.path(), Uuid::from_u128(1));
    assert_eq!(files.collected(), None);
    assert!(!files.data.exists() && !files.note.exists());
}

#[test]
fn what_ended_commands_left_goes_and_the_rest_stays() {
    let state = tempfile::tempdir().unwrap();
    let [ended, going_on] = [1, 2].map(|id| Files::new(state.path(), Uuid::from_u128(id)));
    fs::create_dir(state.path().join(FOLDER)).unwrap();
    let strange = state.path().join(FOLDER).join("strange");
    for path in [
        &ended.data,
        &ended.note,
        &going_on.data,
        &going_on.note,
        &strange,
    ] {
        fs::write(path, "").unwrap();
    }
    forget_others(state.path(), &[Uuid::from_u128(2)]);
    let left = [
        &ended.data,
        &ended.note,
        &going_on.data,
        &going_on.note,
        &strange,
    ];
    assert_eq!(
        left.map(|path| path.exists()),
        [false, false, true, true, false]
    );
}
