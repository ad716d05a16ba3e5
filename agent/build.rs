//! Tells the agent when and for what it was built. The build time is the least that the clock can be
//! when certificates are judged; `SOURCE_DATE_EPOCH` makes it reproducible.
#![expect(clippy::disallowed_methods, reason = "a build script has no clock.rs")]

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    let seconds = match given {
        Some(text) => text
            .parse::<u64>()
            .expect("SOURCE_DATE_EPOCH is seconds since 1970"),
        None => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    };
    println!("cargo::rustc-env=AGENT_BUILD_TIME_S={seconds}");
    let target = std::env::var("TARGET").expect("cargo sets TARGET");
    println!("cargo::rustc-env=AGENT_TARGET={target}");
}
