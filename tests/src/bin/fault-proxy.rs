//! Carries TCP connections as a slow network would, for benchmarks:
//!
//! ```text
//! fault-proxy [--delay-ms N] [--jitter-ms N] [--kib-per-second N] --listen ADDRESS --to ADDRESS [--listen ... --to ...]
//! ```
//!
//! The delay is one way: a round trip takes twice as long. It runs until it is killed.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use symbolon_tests::proxy::{Forward, Line, Switch};
use symbolon_tests::say;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What it was told.
#[derive(Default)]
struct Told {
    line: Line,
    /// Where it listens, and where that leads.
    pairs: Vec<(String, String)>,
}

fn read(mut arguments: impl Iterator<Item = String>) -> Result<Told, String> {
    let mut told = Told::default();
    let mut listen = None;
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{name} {value}: {error}"));
        match (name.as_str(), listen.take()) {
            ("--listen", None) => listen = Some(value),
            ("--to", Some(address)) => told.pairs.push((address, value)),
            ("--delay-ms", None) => told.line.delay = Duration::from_millis(number()?),
            ("--jitter-ms", None) => told.line.jitter = Duration::from_millis(number()?),
            ("--kib-per-second", None) => told.line.rate = Some(number()? << 10),
            _ => return Err(format!("{name} is not understood here; each --listen is followed by its --to")),
        }
    }
    match (told.pairs.is_empty(), listen) {
        (false, None) => Ok(told),
        _ => Err("name at least one --listen with its --to".to_owned()),
    }
}

async fn run(told: Told) -> io::Result<()> {
    let mut all = JoinSet::new();
    for (listen, to) in told.pairs {
        let forward = Forward { to, there: Switch::new(told.line), back: Switch::new(told.line) };
        all.spawn(forward.run(TcpListener::bind(&listen).await?));
    }
    // The first that ends has failed.
    all.join_next().await.map_or(Ok(()), |ended| ended?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let ran = match read(std::env::args().skip(1)) {
        Ok(told) => run(told).await.map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("fault-proxy: {error}"));
            ExitCode::FAILURE
        }
    }
}
