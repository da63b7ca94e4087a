//! How long a cluster is without signatures and without changes when its leader dies, over many deaths:
//!
//! ```text
//! failover [ROUNDS]      20 unless told
//! ```
//!
//! Prints one line of JSON; what happens meanwhile goes to standard error. Clients sign all the time, one after the other asks
//! another node first, so that some have their connection to the node that dies.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement: whatever is not as it should be ends it, with a message"
)]

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use symbolon_client::{Client, Config, Name};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::request::{Grant, Role};
use symbolon_tests::load::{Answered, Load};
use symbolon_tests::{Cluster, PATIENCE, public_key, say, wait_until};
use tokio::runtime::Builder;

const NODES: usize = 5;
const CLIENTS: usize = NODES;
/// Signatures of each client after a death until it counts as over.
const AFTER: usize = 5;

/// Times of one kind, milliseconds.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn add(&mut self, time: Duration) {
        self.0.push((time.as_secs_f64() * 1e4).round() / 10.0);
    }
    fn report(&mut self) -> Value {
        self.0.sort_by(f64::total_cmp);
        let at = |percent: usize| self.0.get((self.0.len() * percent).div_ceil(100).max(1) - 1).copied();
        json!({ "p50_ms": at(50), "p99_ms": at(99), "max_ms": at(100) })
    }
}

/// One change, asked for until it is known to be made. Gives how often it took a new request.
async fn change(client: &Client, name: &Name, cluster: &Cluster) -> usize {
    let grant = Grant { role: Role::Auditor, keys: "*".to_owned() };
    let key = cluster.new_identity(name.as_str()).1.public();
    for tries in 1.. {
        match client.add_client(name, key, grant.clone()).await {
            Ok(_) => return tries,
            // An earlier request came through without its answer.
            Err(error) if tries > 1 && error.code() == ErrorCode::AlreadyExists => return tries,
            Err(error) => assert!(error.is_retryable(), "{}: {error}", error.code().row().name),
        }
    }
    0
}

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(20, |text| text.parse().unwrap());
    let mut cluster = Cluster::start(NODES);
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "release", "--threshold", "3"]);
    let public = public_key(&cli, "release", None);
    let load = Load::start(&cli, "release", &public, CLIENTS);
    let config = Config::load(&cli.path("SYMBOLON_GENESIS"), &cli.path("SYMBOLON_IDENTITY")).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let writer = runtime.block_on(Client::connect(config)).unwrap();
    let (mut first, mut every, mut written, mut again, mut errors) =
        (Times::default(), Times::default(), Times::default(), 0, 0);
    for round in 0..rounds {
        sign_after(&load, Instant::now());
        let (leader, name) = (cluster.leader(), Name::new(&format!("round-{round}")).unwrap());
        // So that the writer too has the connection that it had before.
        runtime.block_on(change(&writer, &Name::new(&format!("before-{round}")).unwrap(), &cluster));
        drop(load.answered());
        let begin = Instant::now();
        cluster.kill(leader);
        again += runtime.block_on(change(&writer, &name, &cluster)) - 1;
        let ordered = begin.elapsed();
        let seen = sign_after(&load, begin);
        let waited = seen.iter().filter(|one| one.had > begin).map(|one| one.had - one.asked.max(begin)).max().unwrap();
        let earliest = seen.iter().filter(|one| one.asked >= begin).map(|one| one.had - begin).min().unwrap();
        errors += load.errors().len();
        say(&format!(
            "round {}: node{leader} died; a signature after {earliest:?}, longest wait for one {waited:?}, a change after {ordered:?}",
            round + 1
        ));
        first.add(earliest);
        every.add(waited);
        written.add(ordered);
        cluster.start_node(leader);
        cluster.wait_ready();
    }
    let signatures = load.stop();
    let report = json!({
        "nodes": NODES, "rounds": rounds, "clients": CLIENTS, "signatures": signatures,
        "first_signature": first.report(), "longest_wait_for_a_signature": every.report(), "change": written.report(),
        "sign_errors": errors, "changes_asked_again": again,
    });
    std::io::stdout().write_all(format!("{report}\n").as_bytes()).unwrap();
}

/// Waits until every client got signatures that it asked for after a moment. Gives all answers since the last time.
fn sign_after(load: &Load, moment: Instant) -> Vec<Answered> {
    let mut seen = Vec::new();
    wait_until("every client to sign", PATIENCE, || {
        seen.extend(load.answered());
        let enough = |client| seen.iter().filter(|one| one.client == client && one.asked >= moment).count() >= AFTER;
        (0..CLIENTS).all(enough)
    });
    seen
}
