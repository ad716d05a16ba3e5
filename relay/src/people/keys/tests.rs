use std::time::Instant;

use super::*;
use crate::metrics::Metrics;

const NOW: Timestamp = Timestamp::from_ms(1_800_000_000_000);

async fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::default());
    let (store, _commits) = Store::open(&folder.path().join("relay.db"), metrics).unwrap();
    for name in ["ada", "bob"] {
        let added = store.add_person(name.parse().unwrap(), None, Vec::new(), 1);
        assert!(added.await.unwrap());
    }
    (folder, store)
}

fn request(name: &str) -> KeyRequest {
    KeyRequest {
        name: name.to_owned(),
        note: String::new(),
        permissions: [Permission::Read].into_iter().collect(),
        on: lekiwi_protocol::Scope::Fleet,
        lifetime_s: Some(3_600),
    }
}

fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

#[test]
fn a_key_has_a_prefix_and_a_checksum() {
    let known = secret([7; RANDOM_BYTES]);
    assert_eq!(
        known.expose(),
        "lka_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwdLsG-O"
    );
    let fresh = fresh().unwrap();
    assert_eq!(fresh.expose().len(), 52);
    assert!(is_whole(fresh.expose()) && is_whole(known.expose()));
    for (at, _) in fresh.expose().char_indices() {
        let mut mistyped = fresh.expose().to_owned();
        let other = if mistyped.as_bytes()[at] == b'A' {
            "B"
        } else {
            "A"
        };
        mistyped.replace_range(at..=at, other);
        assert!(!is_whole(&mistyped), "{at}");
        assert!(!is_whole(&fresh.expose()[..at]), "{at}");
    }
    assert!(!is_whole(&format!("{}A", fresh.expose())));
}

#[tokio::test]
async fn a_key_works_until_it_ends_and_survives_a_restart() {
    let (folder, store) = store().await;
    let ada: UserName = "ada".parse().unwrap();
    let made = create(&store, request("ci"), &ada, NOW).await.unwrap();
    let works = |store: &Store, secret: &str, now| find(store, secret, now).is_some();
    assert!(works(&store, &made.key, NOW) && works(&store, &made.key, after(3_599)));
    assert!(!works(&store, &made.key, after(3_600)));
    assert!(!works(&store, fresh().unwrap().expose(), NOW));

    // One use is noted, and the next only after a minute.
    let (key, _) = find(&store, &made.key, NOW).unwrap();
    for seconds in [0, 30] {
        store.note_use(&key, after(seconds).as_ms());
        assert_eq!(info(&key, NOW).used_at, Some(NOW));
    }
    store.note_use(&key, after(60).as_ms());
    assert_eq!(info(&key, NOW).used_at, Some(after(60)));
    store.close();

    let metrics = Arc::new(Metrics::default());
    let (store, _commits) = Store::open(&folder.path().join("relay.db"), metrics).unwrap();
    assert_eq!(find(&store, &made.key, NOW).unwrap().0.right, key.right);
    assert_eq!(store.expire_keys(after(3_599).as_ms()).await.unwrap(), 0);
    assert_eq!(store.expire_keys(after(3_600).as_ms()).await.unwrap(), 1);
    assert_eq!(of(&store, &ada).len(), 0);
}

#[tokio::test]
async fn a_rotated_key_has_two_secrets_for_a_while() {
    let (_folder, store) = store().await;
    let ada: UserName = "ada".parse().unwrap();
    let first = create(&store, request("ci"), &ada, NOW).await.unwrap();
    let digest = |made: &KeyCreated| Secret::shown(&made.key).digest();
    let turn = async |shown: &KeyCreated, overlap_s, now| {
        let (key, shown) = find(&store, &shown.key, now).unwrap();
        rotate(&store, &key, shown, Some(overlap_s), now).await
    };
    let works = |made: &KeyCreated, seconds| find(&store, &made.key, after(seconds)).is_some();
    let second = turn(&first, 60, NOW).await.unwrap();
    assert_eq!(second.info.old_until, Some(after(60)));
    assert_eq!(second.info.expires_at, first.info.expires_at);
    assert!(works(&first, 59) && works(&second, 59));
    assert!(!works(&first, 60) && works(&second, 60));
    assert_eq!(of(&store, &ada).len(), 1);

    // The answer was lost, and the program asks again with what it has: it works on, and no longer than before.
    let third = turn(&first, 600, after(50)).await.unwrap();
    assert_eq!(third.info.old_until, Some(after(60)));
    assert!(works(&first, 59) && works(&third, 59) && !works(&second, 59));
    assert!(!works(&first, 60));

    // Without an overlap there is one secret at once; what does not work rotates nothing.
    let fourth = turn(&third, 0, after(70)).await.unwrap();
    assert!(works(&fourth, 70) && !works(&third, 70));
    let (key, _) = find(&store, &fourth.key, after(70)).unwrap();
    let refused = rotate(&store, &key, digest(&second), None, after(70)).await;
    assert!(matches!(refused, Err(KeyError::Unknown(_))));
    let long = rotate(&store, &key, key.hash, Some(604_801), after(70)).await;
    assert_eq!(
        long.err().unwrap().to_string(),
        "expected overlap_s to be at most 604800, got 604801"
    );
    store.close();
}

#[tokio::test]
async fn keys_have_bounds_and_end_with_their_owner() {
    let (_folder, store) = store().await;
    let (ada, bob): (UserName, UserName) = ("ada".parse().unwrap(), "bob".parse().unwrap());
    let with = |change: fn(&mut KeyRequest)| {
        let mut request = request("ci");
        change(&mut request);
        request
    };
    for (wrong, expected) in [
        (
            with(|it| it.name = " ".to_owned()),
            "expected a name of 1 to 64 bytes without control characters, got \"\"",
        ),
        (
            with(|it| it.note = "a\nb".to_owned()),
            "expected a note of at most 200 bytes without control characters",
        ),
        (
            with(|it| it.permissions = lekiwi_protocol::Permissions::NONE),
            "expected at least one permission",
        ),
        (
            with(|it| it.permissions = [Permission::Manage].into_iter().collect()),
            "expected permissions of programs, got `manage`",
        ),
        (
            with(|it| it.lifetime_s = Some(59)),
            "expected lifetime_s to be 60 to 31536000, got 59",
        ),
        (
            with(|it| it.lifetime_s = Some(31_536_001)),
            "expected lifetime_s to be 60 to 31536000, got 31536001",
        ),
    ] {
        let refused = create(&store, wrong, &ada, NOW).await.err().unwrap();
        assert_eq!(refused.to_string(), expected);
    }
    for n in 0..MAX_KEYS {
        let name = n.to_string();
        create(&store, request(&name), &ada, NOW).await.unwrap();
    }
    let refused = create(&store, request("one more"), &ada, NOW).await;
    assert_eq!(
        refused.err().unwrap().to_string(),
        "expected at most 100 keys of ada"
    );
    let other = create(&store, request("of bob"), &bob, NOW).await.unwrap();
    store.remove_person(ada.clone(), 0).await.unwrap();
    assert_eq!(of(&store, &ada).len(), 0);
    assert_eq!(of(&store, &bob).len(), 1);
    assert!(store.remove_key(other.info.id).await.unwrap());
    assert!(!store.remove_key(other.info.id).await.unwrap());
    assert!(find(&store, &other.key, NOW).is_none());
    store.close();
}

/// Whoever tries secrets learns nothing from how long the answer takes: one that is wrong in its first byte and one that is
/// wrong in its last take as long. Rounds of both alternate, so that whatever else the machine does meets both, and their
/// medians are compared; the bound is wide, since what it is to find is a search byte by byte, or in a database.
#[tokio::test]
async fn how_long_a_wrong_key_takes_does_not_depend_on_where_it_is_wrong() {
    const ROUNDS: usize = 301;
    const TRIES: usize = 100;
    let (_folder, store) = store().await;
    let ada: UserName = "ada".parse().unwrap();
    let made = create(&store, request("ci"), &ada, NOW).await.unwrap();
    let encoded = made.key.strip_prefix(PREFIX).unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(encoded).unwrap();
    let wrong = |at: usize| {
        let mut random: [u8; RANDOM_BYTES] = bytes[..RANDOM_BYTES].try_into().unwrap();
        random[at] ^= 1;
        secret(random).expose().to_owned()
    };
    let texts = [wrong(0), wrong(RANDOM_BYTES - 1)];
    let mut taken = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (text, taken) in texts.iter().zip(&mut taken) {
            let begun: Instant = clock::monotonic();
            for _ in 0..TRIES {
                assert!(find(&store, std::hint::black_box(text), NOW).is_none());
            }
            taken.push(clock::monotonic().duration_since(begun));
        }
    }
    let [first, last] = taken.map(|mut times| {
        times.sort_unstable();
        times[ROUNDS / 2].as_secs_f64()
    });
    let ratio = first / last;
    assert!(
        (0.6..1.7).contains(&ratio),
        "wrong first byte {first} s, wrong last byte {last} s for {TRIES}"
    );
    store.close();
}
