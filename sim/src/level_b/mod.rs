//! Level B: the node core with Raft, on a simulated network, disk and clock.
//!
//! One process, one thread, one seed, one history: the runtime has one thread and virtual time, its scheduler and Raft's
//! election timeouts are seeded, every delay and loss comes from the seed, all maps are ordered. Two runs of one seed in one
//! process are not promised to be equal (libraries may keep global state): run one seed per process.
//!
//! - [`types`]: Raft's types, seeds, the life of a boot. [`trace`]: the hash of everything that happened.
//! - [`store`]: a disk that loses what was not synced. [`vault`]: key slots. [`surroundings`]: clocks and entropy.
//! - [`network`]: delays, losses, cut links, lies. [`pause`]: nodes that stand still.
//! - [`cluster`]: nodes that join, start, crash and start again from bytes.
//! - [`client`]: who asks, and checks. [`crowd`]: many who ask, whatever happens. [`log_order`]: what they may have been answered.
//! - [`scenario`]: what is done; the seed says which one. [`many`]: many seeds.

pub mod client;
pub mod cluster;
pub mod crowd;
pub mod evil;
pub mod log_order;
pub mod many;
pub mod network;
pub mod pause;
pub mod scenario;
pub mod store;
pub mod surroundings;
pub mod trace;
pub mod types;
pub mod vault;

use tokio::runtime::{Builder, RngSeed};

use scenario::Scenario;
use types::{SimRuntime, derive, derive_number};

/// Plays the scenario of a seed and gives the hash of its trace, in hexadecimal.
///
/// # Errors
/// What went wrong, or what was waited for in vain, and how it is played again.
pub fn run(seed: u64) -> Result<String, String> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&derive(seed, "scheduler", &[])))
        .build()
        .map_err(|e| e.to_string())?;
    let played = SimRuntime::scope(derive_number(seed, "world", &[]), scenario::play(seed));
    runtime
        .block_on(played)
        .map_err(|why| format!("level B, {}, seed {seed}: {why}\n  replay: {}", Scenario::of(seed), replay(seed)))
}

/// How a seed is replayed.
#[must_use]
pub fn replay(seed: u64) -> String {
    format!("cargo run --release -p sim -- --level b --seed {seed}")
}
