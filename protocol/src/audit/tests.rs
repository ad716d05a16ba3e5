//! Whatever is changed in a chain is found.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use ring::signature::{Ed25519KeyPair, KeyPair};
use webpki::ring::ED25519;

use super::*;

fn entry(number: u64) -> AuditEntry {
    AuditEntry {
        number,
        at: Timestamp::from_ms(1_795_233_120_000 + number),
        who: "person:ada".into(),
        address: "192.0.2.7".into(),
        action: "robot-command".into(),
        on: "robots/kiwi-01".into(),
        outcome: "done".into(),
        trace: String::new(),
        detail: BTreeMap::from([("op".into(), "reboot".into())]),
        hash: String::new(),
    }
}

/// Gives every entry its hash.
fn seal(entries: &mut [AuditEntry]) {
    let mut previous = START;
    for entry in entries {
        previous = hash(&previous, entry);
        entry.hash = hex::encode(previous);
    }
}

fn chain(length: u64) -> Vec<AuditEntry> {
    let mut entries: Vec<_> = (1..=length).map(entry).collect();
    seal(&mut entries);
    entries
}

fn check(entries: &[AuditEntry], marks: &[Mark]) -> Result<Whole, Broken> {
    let mut chain = Chain::expecting(marks.to_vec());
    entries.iter().try_for_each(|entry| chain.take(entry))?;
    chain.finish()
}

fn mark(entry: &AuditEntry) -> Mark {
    Mark {
        number: entry.number,
        hash: entry.hash.clone(),
        at: entry.at,
    }
}

#[test]
fn what_is_whole_is_told_from_what_is_not() {
    let entries = chain(9);
    let whole = check(&entries, &[mark(&entries[4])]).unwrap();
    assert_eq!((whole.first, whole.last), (1, 9));
    assert_eq!(check(&[], &[]), Ok(Whole::default()));

    let mut without = entries.clone();
    without.remove(3);
    let gap = |expected, got| Err(Broken::Gap { expected, got });
    assert_eq!(check(&without, &[]), gap(4, 5));
    let mut swapped = entries.clone();
    swapped.swap(3, 4);
    assert_eq!(check(&swapped, &[]), gap(4, 5));
    // Without a mark nobody knows that there was more.
    let tail = [mark(&entries[8])];
    assert!(check(&entries[..8], &[]).is_ok());
    let short = Broken::Short {
        expected: 9,
        got: 8,
    };
    assert_eq!(check(&entries[..8], &tail), Err(short));
    // Who can write all of it anew still does not have what was signed.
    let mut anew = entries.clone();
    anew[2].who = "person:bob".into();
    assert_eq!(check(&anew, &[]), Err(Broken::Changed(3)));
    seal(&mut anew);
    assert!(check(&anew, &[]).is_ok());
    assert_eq!(check(&anew, &tail), Err(Broken::Mark(9)));
}

#[test]
fn the_beginning_goes_only_where_an_entry_says_so() {
    let mut entries = chain(9);
    assert_eq!(check(&entries[3..], &[]), Err(Broken::Start(4)));
    let forgotten = entries[2].hash.clone();
    entries[8].action = PRUNED.into();
    entries[8].detail = BTreeMap::from([
        (PRUNED_NUMBER.into(), "3".into()),
        (PRUNED_HASH.into(), forgotten),
    ]);
    seal(&mut entries);
    let whole = check(&entries[3..], &[mark(&entries[1])]).unwrap();
    assert_eq!((whole.first, whole.last), (4, 9));
    // More than it says, and another first entry.
    assert_eq!(check(&entries[4..], &[]), Err(Broken::Start(5)));
    let mut changed = entries[3..].to_vec();
    changed[0].outcome = "done ".into();
    assert_eq!(check(&changed, &[]), Err(Broken::Start(4)));
}

#[test]
fn checkpoints_are_of_one_key_and_of_every_letter() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let key = public_key(pair.public_key().as_ref().try_into().unwrap());
    let entries = chain(3);
    let sign = |bytes: &[u8]| pair.sign(bytes).as_ref().try_into().unwrap();
    let signed = checkpoint(&mark(&entries[2]), &key, sign);
    assert_eq!(signed.read(Some(&key), ED25519), Ok(mark(&entries[2])));
    let other = public_key([8; 32]);
    let refused = signed.read(Some(&other), ED25519);
    assert!(matches!(refused, Err(CheckpointError::OtherKey { .. })));
    let mut forged = signed.clone();
    forged.document = forged.document.replace("\"number\":3", "\"number\":2");
    assert!(matches!(
        forged.read(None, ED25519),
        Err(CheckpointError::Signature(_))
    ));
}

proptest! {
    /// One letter, anywhere, in any entry.
    #[test]
    fn one_changed_letter_is_found(number in 0_usize..6, field in 0_usize..10, letter in 0_usize..200, by in 1_u8..60) {
        let mut entries = chain(6);
        let entry = &mut entries[number];
        let change = |text: &mut String| {
            let at = letter % text.len().max(1);
            let was = text.as_bytes().get(at).copied().unwrap_or(b' ');
            let now = char::from(b' ' + (was - b' ' + by) % 94);
            if text.is_empty() { text.push(now) } else { text.replace_range(at..=at, &now.to_string()) }
        };
        match field {
            0 => entry.number = entry.number.wrapping_add(u64::from(by)),
            1 => entry.at = Timestamp::from_ms(entry.at.as_ms() ^ u64::from(by)),
            2 => change(&mut entry.who),
            3 => change(&mut entry.address),
            4 => change(&mut entry.action),
            5 => change(&mut entry.on),
            6 => change(&mut entry.outcome),
            7 => change(&mut entry.trace),
            8 => entry.detail.values_mut().for_each(change),
            _ => change(&mut entry.hash),
        }
        prop_assert!(check(&entries, &[]).is_err());
    }

    /// A letter that moves from one text to the next.
    #[test]
    fn texts_are_told_apart(letters in 1_usize..9) {
        let mut moved = entry(1);
        let rest = moved.who.split_off(moved.who.len() - letters);
        moved.address.insert_str(0, &rest);
        prop_assert_ne!(hash(&START, &moved), hash(&START, &entry(1)));
    }
}
