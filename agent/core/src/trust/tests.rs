#![expect(clippy::unwrap_used, reason = "tests")]

use lekiwi_protocol::signed::minisign::{KeyId, PublicKey, sign};
use lekiwi_protocol::signed::{ArtefactError, Receiving};
use proptest::prelude::*;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use webpki::ring::ED25519;

use super::*;

/// Who signs for what in the first root; others are strangers or come later.
const ROOT: [u8; 3] = [1, 2, 3];
const ARTEFACTS: [u8; 1] = [4];
const CONFIGURATION: [u8; 3] = [5, 6, 7];

fn pair(number: u8) -> (Ed25519KeyPair, PublicKey) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap();
    let key = pair.public_key().as_ref().try_into().unwrap();
    let id = KeyId([number; 8]);
    (pair, PublicKey { id, key })
}

fn signed(document: &Value, signers: &[u8]) -> Signed {
    let document = document.to_string();
    let sign = |number: &u8| {
        let (pair, key) = pair(*number);
        sign(document.as_bytes(), key.id, "", |bytes| {
            pair.sign(bytes).as_ref().try_into().unwrap()
        })
    };
    Signed {
        signatures: signers.iter().map(sign).collect(),
        document,
    }
}

/// The first days of 2026, which is all that there is here.
fn day(day: u64) -> Timestamp {
    Timestamp::from_ms(1_767_225_600_000 + day * 24 * 3600 * 1000)
}

/// Two of three keys for the root and for configurations, one for artefacts; it ends on day 100.
fn root_with(version: u64, configuration: &[u8]) -> Value {
    let keys = |numbers: &[u8], threshold: u8| {
        let keys: Vec<_> = numbers.iter().map(|number| pair(*number).1).collect();
        json!({ "keys": keys, "threshold": threshold })
    };
    let threshold = configuration.len().min(2) as u8;
    json!({
        "role": "root", "version": version, "expires": day(100),
        "roles": {
            "root": keys(&ROOT, 2),
            "artefacts": keys(&ARTEFACTS, 1),
            "configuration": keys(configuration, threshold),
        },
    })
}

fn first_root() -> Signed {
    signed(&root_with(1, &CONFIGURATION), &ROOT)
}

fn trust() -> Trust {
    let (trust, dropped) = Trust::open(&[first_root()], Record::default(), ED25519).unwrap();
    assert_eq!(dropped, None);
    trust
}

fn statement(version: u64, heartbeat_s: u64) -> Value {
    json!({
        "role": "configuration", "version": version, "expires": day(10), "robots": "kiwi-01",
        "settings": { "heartbeat_s": heartbeat_s },
    })
}

fn desired(settings: Value, proof: Option<Proof>) -> Desired {
    Desired {
        version: 1,
        settings: serde_json::from_value(settings).unwrap(),
        confirm_within_s: 60,
        confirmed: false,
        issued_at: day(0),
        by: "admin".to_owned(),
        proof,
    }
}

fn proof(statement: Signed, roots: &[Signed]) -> Proof {
    Proof {
        roots: roots.to_vec(),
        statement,
    }
}

/// What `kiwi-01` says on that day of a statement that asks for its own settings.
fn ask(trust: &mut Trust, today: u64, statement: &Signed, roots: &[Signed]) -> Result<(), String> {
    let document: Value = serde_json::from_str(&statement.document).unwrap();
    let desired = desired(
        document["settings"].clone(),
        Some(proof(statement.clone(), roots)),
    );
    told(trust, today, &desired)
}

fn told(trust: &mut Trust, today: u64, desired: &Desired) -> Result<(), String> {
    let robot = RobotId::new("kiwi-01").unwrap();
    let seen = trust.record.seen.clone();
    let outcome = trust.configuration(day(today), &robot, desired, ED25519);
    if outcome.is_err() {
        assert_eq!(trust.record.seen, seen, "a refusal was counted");
    }
    outcome.map_err(|refusal| refusal.to_string())
}

fn refused(outcome: Result<(), String>, expected: &str) {
    assert_eq!(outcome, Err(expected.to_owned()));
}

#[test]
fn what_enough_keys_signed_is_taken_and_again_when_it_comes_again() {
    let mut trust = trust();
    let first = signed(&statement(1, 5), &[5, 6]);
    for _ in 0..2 {
        assert_eq!(ask(&mut trust, 0, &first, &[]), Ok(()));
    }
    let mut for_all = statement(20, 6);
    for_all["robots"] = "*".into();
    assert_eq!(
        ask(&mut trust, 9, &signed(&for_all, &[6, 7]), &[]),
        Ok(()),
        "gaps are fine, and other keys of the role"
    );
}

#[test]
fn arbitrary_software() {
    let mut trust = trust();
    refused(
        told(&mut trust, 0, &desired(json!({ "heartbeat_s": 1 }), None)),
        "expected a signed configuration, as this robot has a root of trust",
    );
    refused(
        ask(&mut trust, 0, &signed(&statement(1, 5), &[]), &[]),
        "expected signatures of 2 keys of root 1 for configuration, got 0",
    );
    refused(
        ask(&mut trust, 0, &signed(&statement(1, 5), &[8, 9]), &[]),
        "expected signatures of 2 keys of root 1 for configuration, got 0",
    );
    let mut changed = signed(&statement(1, 5), &[5, 6]);
    changed.document = changed.document.replace(":5}", ":1}");
    refused(
        ask(&mut trust, 0, &changed, &[]),
        "expected a signature of key 0505050505050505 over exactly this document",
    );
    // A stranger's own root, though it is well signed by itself.
    let own = signed(&root_with(2, &[8, 9]), &[8, 9]);
    refused(
        ask(&mut trust, 0, &signed(&statement(1, 5), &[8, 9]), &[own]),
        "expected signatures of 2 keys of root 1 for root, got 0",
    );
    assert_eq!(trust, self::trust());
}

#[test]
fn wrong_role() {
    let mut trust = trust();
    refused(
        ask(&mut trust, 0, &signed(&statement(1, 5), &[1, 2, 3, 4]), &[]),
        "expected signatures of 2 keys of root 1 for configuration, got 0",
    );
    // Signed by the right keys, and a document of another role.
    let mut other = statement(1, 5);
    other["role"] = "artefacts".into();
    refused(
        ask(&mut trust, 0, &signed(&other, &[5, 6]), &[]),
        "expected a document for configuration: expected the role configuration, got artefacts",
    );
}

#[test]
fn keys_compromised_below_the_threshold() {
    let mut trust = trust();
    refused(
        ask(&mut trust, 0, &signed(&statement(1, 5), &[5]), &[]),
        "expected signatures of 2 keys of root 1 for configuration, got 1",
    );
    refused(
        ask(&mut trust, 0, &signed(&statement(1, 5), &[5, 5, 5]), &[]),
        "expected signatures of 2 keys of root 1 for configuration, got 1",
    );
    let taken_over = signed(&root_with(2, &[8]), &[1, 8, 9]);
    refused(
        ask(
            &mut trust,
            0,
            &signed(&statement(1, 5), &[8]),
            &[taken_over],
        ),
        "expected signatures of 2 keys of root 1 for root, got 1",
    );
}

#[test]
fn rollback() {
    let mut trust = trust();
    let [old, new] = [7, 8].map(|version| signed(&statement(version, version), &[5, 6]));
    assert_eq!(ask(&mut trust, 0, &new, &[]), Ok(()));
    refused(
        ask(&mut trust, 0, &old, &[]),
        "expected version 8 for configuration or a later one, got 7",
    );
    // One version is one document, though the same keys signed both.
    refused(
        ask(&mut trust, 0, &signed(&statement(8, 7), &[5, 6]), &[]),
        "expected version 8 for configuration to say what it said before, or a later version",
    );
}

#[test]
fn replay_after_a_restart() {
    let mut trust = trust();
    let old = signed(&statement(7, 5), &[5, 6]);
    let second = signed(&root_with(2, &[5, 6, 8]), &[1, 2]);
    let new = signed(&statement(8, 6), &[6, 8]);
    assert_eq!(ask(&mut trust, 0, &old, &[]), Ok(()));
    assert_eq!(ask(&mut trust, 0, &new, &[second]), Ok(()));
    let kept = serde_json::to_vec(trust.record()).unwrap();
    let kept = serde_json::from_slice(&kept).unwrap();
    let (mut again, dropped) = Trust::open(&[first_root()], kept, ED25519).unwrap();
    assert_eq!((&again, dropped), (&trust, None));
    refused(
        ask(&mut again, 0, &old, &[]),
        "expected version 8 for configuration or a later one, got 7",
    );
}

#[test]
fn freeze() {
    let mut trust = trust();
    let statement_1 = signed(&statement(1, 5), &[5, 6]);
    assert_eq!(ask(&mut trust, 9, &statement_1, &[]), Ok(()));
    refused(
        ask(&mut trust, 10, &statement_1, &[]),
        "expected a statement for configuration that has not ended, got one until 2026-01-11T00:00:00.000Z; \
         it is 2026-01-11T00:00:00.000Z",
    );
    // Whoever keeps later roots back gets no further than the one that is known.
    let mut lasting = statement(2, 5);
    lasting["expires"] = json!(day(1000));
    let lasting = signed(&lasting, &[5, 6]);
    assert_eq!(ask(&mut trust, 99, &lasting, &[]), Ok(()));
    refused(
        ask(&mut trust, 100, &lasting, &[]),
        "expected a root later than 1, which ended at 2026-04-11T00:00:00.000Z; it is 2026-04-11T00:00:00.000Z",
    );
    // One that lay on a shelf for long follows through roots that ended.
    let mut third = root_with(3, &CONFIGURATION);
    third["expires"] = json!(day(1000));
    let later = [
        signed(&root_with(2, &CONFIGURATION), &ROOT),
        signed(&third, &ROOT),
    ];
    assert_eq!(ask(&mut trust, 100, &lasting, &later), Ok(()));
    assert_eq!(trust.root().version, 3);
}

#[test]
fn mix_and_match() {
    let mut trust = trust();
    let [one, other] = [1, 2].map(|version| signed(&statement(version, version), &[5, 6]));
    let mixed = desired(json!({ "heartbeat_s": 1 }), Some(proof(other.clone(), &[])));
    refused(
        told(&mut trust, 0, &mixed),
        "expected the settings that were signed as version 2, got others",
    );
    let crossed = Signed {
        document: other.document,
        signatures: one.signatures,
    };
    refused(
        ask(&mut trust, 0, &crossed, &[]),
        "expected a signature of key 0505050505050505 over exactly this document",
    );
    // Artefacts of one version are signed together: what goes with what is not a matter of their names.
    let artefacts = artefacts(&mut trust, 1, &[("agent", b"1"), ("model", b"1")]).unwrap();
    let mut model = Receiving::new(artefacts.artefacts["model"].clone());
    model.take(b"2").unwrap();
    assert_eq!(model.finish(), Err(ArtefactError::Content));
}

fn artefacts(trust: &mut Trust, version: u64, what: &[(&str, &[u8])]) -> Result<Artefacts, String> {
    let listed: BTreeMap<_, _> = what
        .iter()
        .map(|(name, bytes)| {
            let sha256 = hex::encode(Sha256::digest(bytes));
            (name, json!({ "length": bytes.len(), "sha256": sha256 }))
        })
        .collect();
    let document = json!({
        "role": "artefacts", "version": version, "expires": day(10), "artefacts": listed,
    });
    let proof = proof(signed(&document, &ARTEFACTS), &[]);
    trust
        .artefacts(day(0), &proof, ED25519)
        .map_err(|refusal| refusal.to_string())
}

#[test]
fn roles_count_their_versions_by_themselves() {
    let mut trust = trust();
    assert_eq!(
        ask(&mut trust, 0, &signed(&statement(9, 5), &[5, 6]), &[]),
        Ok(())
    );
    artefacts(&mut trust, 2, &[("agent", b"2")]).unwrap();
    let expected = "expected version 2 for artefacts or a later one, got 1";
    assert_eq!(
        artefacts(&mut trust, 1, &[("agent", b"1")]).unwrap_err(),
        expected
    );
}

#[test]
fn wrong_robot() {
    let mut trust = trust();
    let mut for_another = statement(90, 5);
    for_another["robots"] = "kiwi-02".into();
    refused(
        ask(&mut trust, 0, &signed(&for_another, &[5, 6]), &[]),
        "expected a configuration for kiwi-01, got one for kiwi-02",
    );
    // Nor do the numbers of others keep its own from counting.
    assert_eq!(
        ask(&mut trust, 0, &signed(&statement(2, 5), &[5, 6]), &[]),
        Ok(())
    );
}

#[test]
fn endless_data() {
    let mut trust = trust();
    let mut long = signed(&statement(1, 5), &[5, 6]);
    long.document.push_str(&" ".repeat(32 * 1024));
    let length = long.document.len();
    refused(
        ask(&mut trust, 0, &long, &[]),
        &format!("expected a document of at most 32768 bytes, got {length}"),
    );
    let mut many = signed(&statement(1, 5), &[5, 6]);
    many.signatures = vec![many.signatures[0].clone(); 17];
    refused(
        ask(&mut trust, 0, &many, &[]),
        "expected at most 16 signatures, got 17",
    );
    let mut wide = signed(&statement(1, 5), &[5, 6]);
    wide.signatures[0].push_str(&"x".repeat(4096));
    let length = wide.signatures[0].len();
    refused(
        ask(&mut trust, 0, &wide, &[]),
        &format!("expected a signature of at most 2048 bytes, got {length}"),
    );
    let good = signed(&statement(1, 5), &[5, 6]);
    refused(
        ask(&mut trust, 0, &good, &vec![first_root(); 17]),
        "expected at most 16 roots, got 17",
    );
    let listed = artefacts(&mut trust, 1, &[("model", b"abc")]).unwrap();
    let mut model = Receiving::new(listed.artefacts["model"].clone());
    model.take(b"abc").unwrap();
    assert_eq!(model.take(b"d"), Err(ArtefactError::More(3)));
}

#[test]
fn fast_forward() {
    let mut trust = trust();
    // Two keys are in a stranger's hands, and the last version is used up.
    let last = signed(&statement(u64::MAX, 1), &[5, 6]);
    let next = signed(&statement(1, 5), &[7, 8]);
    assert_eq!(ask(&mut trust, 0, &last, &[]), Ok(()));
    // One of them is replaced: with the other two the stranger could still replay, so that nothing is forgotten.
    let second = signed(&root_with(2, &[6, 7, 8]), &ROOT);
    refused(
        ask(&mut trust, 0, &next, std::slice::from_ref(&second)),
        "expected version 18446744073709551615 for configuration or a later one, got 1",
    );
    let third = signed(&root_with(3, &[7, 8, 9]), &ROOT);
    assert_eq!(ask(&mut trust, 0, &next, &[second, third]), Ok(()));
    refused(
        ask(&mut trust, 0, &last, &[]),
        "expected signatures of 2 keys of root 3 for configuration, got 0",
    );
}

#[test]
fn a_root_is_taken_though_the_statement_beside_it_is_refused() {
    let mut trust = trust();
    let second = signed(&root_with(2, &[8, 9]), &ROOT);
    let old = signed(&statement(1, 5), &[5, 6]);
    refused(
        ask(&mut trust, 0, &old, &[second]),
        "expected signatures of 2 keys of root 2 for configuration, got 0",
    );
    refused(
        ask(&mut trust, 0, &old, &[]),
        "expected signatures of 2 keys of root 2 for configuration, got 0",
    );
}

#[test]
fn roots_on_the_disk_follow_from_the_pinned_one_or_are_dropped() {
    let mut trust = trust();
    let second = signed(&root_with(2, &[6, 7, 8]), &ROOT);
    let statement_7 = signed(&statement(7, 5), &[6, 8]);
    assert_eq!(
        ask(&mut trust, 0, &statement_7, std::slice::from_ref(&second)),
        Ok(())
    );
    let record = trust.record().clone();
    // A later image has pinned what was followed.
    let (again, dropped) = Trust::open(&[first_root(), second], record.clone(), ED25519).unwrap();
    assert_eq!((again.root(), dropped), (trust.root(), None));
    assert_eq!(again.record().seen, record.seen);
    // Another owner's image knows nothing of it.
    let another = signed(&root_with(1, &[8]), &ROOT);
    let mut foreign = record;
    foreign.roots = vec![signed(&root_with(2, &[8, 9]), &[8, 9])];
    let (again, dropped) = Trust::open(&[another], foreign, ED25519).unwrap();
    assert_eq!(again.root().version, 1);
    assert_eq!(
        dropped.unwrap().to_string(),
        "expected signatures of 2 keys of root 1 for root, got 0"
    );
}

/// What a stranger may send: any statement that was ever signed, or that some keys could sign.
fn sent() -> impl Strategy<Value = (u64, u64, Vec<u8>, u64, bool)> {
    let signers = proptest::sample::subsequence(vec![4, 5, 6, 7, 8], 0..=5);
    (1..6_u64, 1..3_u64, signers, 0..20_u64, any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever comes in whatever order, with restarts between: what is taken was signed by two of the three, had not
    /// ended, is for this robot, and is never older than what was taken before, nor another of its version.
    #[test]
    fn what_is_taken_only_goes_forward(all in proptest::collection::vec((sent(), any::<bool>()), 1..12)) {
        let mut trust = trust();
        let mut newest: Option<(u64, String)> = None;
        for ((version, heartbeat_s, signers, today, is_mine), restarts) in all {
            let mut document = statement(version, heartbeat_s);
            if !is_mine {
                document["robots"] = "kiwi-02".into();
            }
            let statement = signed(&document, &signers);
            let enough = signers.iter().filter(|key| CONFIGURATION.contains(key)).count() >= 2;
            let forward = newest.as_ref().is_none_or(|(seen, said)| {
                version > *seen || (version == *seen && statement.document == *said)
            });
            let outcome = ask(&mut trust, today, &statement, &[]);
            prop_assert_eq!(outcome.is_ok(), enough && is_mine && today < 10 && forward);
            if outcome.is_ok() {
                newest = Some((version, statement.document));
            }
            if restarts {
                let record = trust.record().clone();
                let (again, dropped) = Trust::open(&[first_root()], record, ED25519).unwrap();
                prop_assert_eq!((&again, dropped), (&trust, None));
            }
        }
    }

    /// However roots come, the one that counts is as far as an unbroken row of well signed ones goes.
    #[test]
    fn roots_only_go_forward(
        all in proptest::collection::vec((1..6_u64, proptest::sample::subsequence(vec![1, 2, 3, 8], 0..=4)), 1..10),
    ) {
        let mut trust = trust();
        let mut expected = 1;
        for (version, signers) in all {
            let next = signed(&root_with(version, &CONFIGURATION), &signers);
            let enough = signers.iter().filter(|key| ROOT.contains(key)).count() >= 2;
            let _ = ask(&mut trust, 0, &signed(&statement(1, 5), &[5, 6]), &[next]);
            if enough && version == expected + 1 {
                expected = version;
            }
            prop_assert_eq!(trust.root().version, expected);
        }
    }
}
