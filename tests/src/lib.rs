//! The harness of the end-to-end tests: real processes, real disks, real TLS on loopback.
//!
//! - [`Cluster`] makes a cluster with `symbolond dev init`, starts every node itself, kills, restarts and looks into it.
//! - [`Cli`] calls `symbolon` as a person or a script would; [`Output`] is what came of it.
//! - [`Raw`] speaks to a node without the client library, for what no honest client would send.
//! - [`hurt`] hurts the disks of nodes.
//! - [`network`] stands between the nodes and delays, holds, loses or cuts what they say; [`proxy`] is how.
//! - [`load`] signs while something else happens.
//! - [`hostile`] has members that break the rules: a node that lies to clients, one that attacks its peers.
//!
//! Tests wait for conditions and never for time alone. Only one cluster runs at once on a machine, whichever test binary or
//! checkout it belongs to: a [`Cluster`] holds a lock for as long as it lives.
//!
//! `SYMBOLON_TEST_SEED` repeats the choices of a random test, `SYMBOLON_TEST_KEEP=1` leaves the directory of a failed test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness: whatever is not as it should be ends the test, with a message"
)]

mod cli;
mod cluster;
pub mod hostile;
pub mod hurt;
pub mod load;
pub mod network;
pub mod proxy;
mod raw;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand_core::{OsRng, RngCore as _};

pub use cli::{Cli, Output, assert_signs, public_key, run, signature_of};
pub use cluster::Cluster;
pub use raw::{Raw, body, sign_body};

/// How long anything may take that should take seconds; only a run that fails waits this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The root of the checkout.
#[must_use]
pub fn workspace() -> PathBuf {
    // At run time first: with a build directory shared between checkouts the built-in path may be another checkout's.
    let tests = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    PathBuf::from(tests).parent().expect("the tests lie inside the workspace").to_owned()
}

/// A program that the workspace builds.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let path = workspace().join("target/release").join(name);
    assert!(
        path.is_file(),
        "{} is not there: run `make test`, or `cargo build --release --locked --workspace` first",
        path.display()
    );
    path
}

/// Waits until a condition holds.
///
/// # Panics
/// When it does not hold within `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    eventually(what, limit, || condition().then_some(()));
}

/// Waits until there is a value.
///
/// # Panics
/// When there is none within `limit`.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut value: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(begin.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        sleep(Duration::from_millis(50));
    }
}

/// Writes a line past the capture of the test runner, so that it is seen in a run that passes too.
pub fn say(line: &str) {
    // Nobody to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The right to run a cluster; given back when it is dropped.
///
/// # Panics
/// When the lock file cannot be made.
#[must_use]
pub fn take_turn() -> File {
    let path = std::env::temp_dir().join("symbolon-tests.lock");
    let file = File::options().create(true).append(true).open(&path).expect("a lock file in the temporary directory");
    file.lock().expect("a lock on a local file");
    file
}

/// This machine's clock, milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(since.as_millis()).expect("a clock before the year 500,000,000")
}

/// A moment in the future as a date and time in UTC (RFC 3339), whole seconds.
#[must_use]
pub fn date_in(after: Duration) -> String {
    date_of(now_ms() / 1000 + after.as_secs())
}

fn date_of(seconds: u64) -> String {
    // Days to a civil date, counting from 1 March of the year 0, so that the leap day ends a year.
    let day = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Repeatable choices (SplitMix64).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From `SYMBOLON_TEST_SEED`, else a new seed; it is shown either way.
    ///
    /// # Panics
    /// When the variable is no number.
    #[must_use]
    pub fn from_environment(test: &str) -> Self {
        let seed = match std::env::var("SYMBOLON_TEST_SEED") {
            Ok(text) => text.parse().expect("SYMBOLON_TEST_SEED is a number"),
            Err(_) => OsRng.next_u64(),
        };
        say(&format!("{test}: SYMBOLON_TEST_SEED={seed}"));
        Self(seed)
    }
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }
    /// Bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number().to_be_bytes()[0]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(date_of(0), "1970-01-01T00:00:00Z");
        assert_eq!(date_of(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date_of(951_868_799), "2000-02-29T23:59:59Z");
        assert_eq!(date_of(1_767_225_599), "2025-12-31T23:59:59Z");
        assert_eq!(date_of(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn choices_repeat() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            [random.number(), random.number(), random.below(1 << 40)]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
