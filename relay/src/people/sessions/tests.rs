//! How long logins take tells nothing. Of what is compared, each round tries one after the other, so that whatever else the
//! machine does meets all of them, and the ranks of their times are compared (Mann and Whitney): how often the one took longer
//! than the other, half of the times where nothing tells them apart. The bound is five standard deviations away from that.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::*;
use crate::metrics::Metrics;

const ROUNDS: usize = 31;
/// Half of the times, and so much more or less: 5 · √((2n + 1) / 12n²), for n of 31.
const BOUND: f64 = 0.37;
const PASSWORD: &str = "correct horse battery staple";

async fn sessions() -> (tempfile::TempDir, Store, Sessions) {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::default());
    let (store, _commits) = Store::open(&folder.path().join("relay.db"), metrics).unwrap();
    let hash = password::hash(PASSWORD).unwrap();
    for (name, hash) in [
        ("known", Some(hash.clone())),
        ("disabled", Some(hash)),
        ("invited", None),
    ] {
        let added = store.add_person(name.parse().unwrap(), hash, Vec::new(), 1);
        assert!(added.await.unwrap());
    }
    let disabled = store.disable_person("disabled".parse().unwrap(), Some(1));
    disabled.await.unwrap();
    let sessions = Sessions::new(store.clone(), Org::default(), Demand::Optional).unwrap();
    (folder, store, sessions)
}

/// Tries all of `cases` in turn, and finds any two of them whose times differ.
async fn expect_alike<C: std::fmt::Debug>(cases: &[C], mut attempt: impl AsyncFnMut(&C, usize)) {
    let mut taken = vec![Vec::new(); cases.len()];
    for round in 0..ROUNDS {
        for turn in 0..cases.len() {
            // Each of them is the first one of a round as often as the others.
            let case = (round + turn) % cases.len();
            let begun = clock::monotonic();
            attempt(&cases[case], round * cases.len() + turn).await;
            taken[case].push(clock::monotonic().duration_since(begun));
        }
    }
    let medians = taken.iter().map(|times| {
        let mut times = times.clone();
        times.sort_unstable();
        times[ROUNDS / 2]
    });
    let medians: Vec<Duration> = medians.collect();
    for (one, ones) in taken.iter().enumerate() {
        for (other, others) in taken.iter().enumerate().skip(one + 1) {
            let pairs = ones.iter().flat_map(|a| others.iter().map(move |b| a > b));
            let longer = pairs.filter(|is_longer| *is_longer).count();
            let share = longer as f64 / (ROUNDS * ROUNDS) as f64;
            assert!(
                (share - 0.5).abs() < BOUND,
                "{:?} took longer than {:?} in {share:.2} of the times: {:?}, {:?}",
                cases[one],
                cases[other],
                medians[one],
                medians[other],
            );
        }
    }
}

#[tokio::test]
async fn how_long_a_refused_login_takes_does_not_say_whom_there_is() {
    let (_folder, store, sessions) = sessions().await;
    let cases = [
        ("known", "incorrect horse battery staple"),
        ("nobody", PASSWORD),
        ("invited", PASSWORD),
        ("disabled", "incorrect horse battery staple"),
        ("disabled", PASSWORD),
    ];
    expect_alike(&cases, async |(user, password), number| {
        let login = api::Login {
            user: (*user).to_owned(),
            password: (*password).to_owned(),
            totp: None,
        };
        // From everywhere, so that nobody is slowed down.
        let address = Ipv4Addr::from_bits(number as u32).into();
        let refused = sessions.login(login, address, "").await;
        assert!(matches!(refused, Err(LoginError::Wrong)), "{user}");
    })
    .await;
    store.close();
}

#[tokio::test]
async fn how_long_a_refused_code_takes_does_not_say_how_wrong_it_is() {
    let (_folder, store, sessions) = sessions().await;
    let name: UserName = "known".parse().unwrap();
    let secret = vec![7; 20];
    let begun = store.begin_factor(name.clone(), secret.clone());
    assert!(begun.await.unwrap());
    // A code of a step that is spent, as all are before one that is far away.
    let (codes, hashes) = factor::recovery_codes().unwrap();
    let confirmed = store.confirm_factor(name, secret, u64::MAX >> 1, hashes, 1);
    assert!(confirmed.await.unwrap());
    let here = Ipv4Addr::LOCALHOST.into();
    assert!(
        sessions
            .factor("known", Some(&codes[0]), here)
            .await
            .is_ok()
    );
    let other = |at: usize| {
        let mut code = codes[1].clone();
        let letter = if code.as_bytes()[at] == b'a' {
            "b"
        } else {
            "a"
        };
        code.replace_range(at..=at, letter);
        code
    };
    let recovery = [codes[0].clone(), other(0), other(18)];
    expect_alike(&recovery, async |code, _| {
        let refused = sessions.factor("known", Some(code), here).await;
        assert!(matches!(refused, Err(LoginError::FactorWrong)));
    })
    .await;
    let totp = ["000000", "123456"].map(str::to_owned);
    expect_alike(&totp, async |code, _| {
        let refused = sessions.factor("known", Some(code), here).await;
        assert!(matches!(refused, Err(LoginError::FactorWrong)));
    })
    .await;
    store.close();
}
