//! Raft's types in the simulation, what follows from a seed, and the life of one boot of a node.

#[cfg(not(tokio_unstable))]
compile_error!(
    "level B needs `--cfg tokio_unstable` for the seed of tokio's scheduler: start cargo inside the repository, whose \
     .cargo/config.toml sets it, and leave RUSTFLAGS alone"
);

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft_rt::AsyncRuntime as _;
use openraft_rt::deterministic_rng::DeterministicRng;
use sha2::{Digest as _, Sha256};
use symbolon_node::core::Core;
use symbolon_node::core::types::{EntryBytes, LeaderId, OutcomeBytes};

use super::network::SimTransport;
use super::pause::Pausable;
use super::store::SimStore;
use super::surroundings::SimSurroundings;

/// Tokio with seeded random numbers. It panics outside of its scope: everything here is spawned with [`spawn`].
pub type SimRuntime = DeterministicRng<Pausable>;

openraft::declare_raft_types!(
    /// Raft on the deterministic runtime.
    pub SimTypes: D = EntryBytes, R = OutcomeBytes, NodeId = u64, Node = openraft::EmptyNode,
    LeaderId = LeaderId, AsyncRuntime = SimRuntime,
);

/// The node core as the simulation runs it.
pub type SimCore = Core<SimTypes, SimTransport, SimStore, SimSurroundings>;

/// Spawns a task inside the seeded scope of the one that spawns it.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    let _task = SimRuntime::spawn(future);
}

/// A lock whose holder failed protects nothing that a later reader could not use.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that follow from a seed, a label and numbers, and from nothing else.
#[must_use]
pub fn derive(seed: u64, label: &str, numbers: &[u64]) -> [u8; 32] {
    let mut hash = Sha256::new().chain_update(seed.to_be_bytes());
    for number in numbers {
        hash.update(number.to_be_bytes());
    }
    hash.chain_update(label.as_bytes()).finalize().into()
}

/// A number that follows from a seed, a label and numbers.
#[must_use]
pub fn derive_number(seed: u64, label: &str, numbers: &[u64]) -> u64 {
    derive(seed, label, numbers).iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// One boot of a node, shared by everything that acts for it. A crash ends it at one instant for the disk, the network and
/// the vault, so that tasks which are still there can do nothing any more.
#[derive(Clone, Debug)]
pub struct Life(Arc<AtomicBool>);

impl Life {
    /// A boot begins.
    #[must_use]
    pub fn begin() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
    /// Whether it still lasts.
    #[must_use]
    pub fn lasts(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
    /// It ends, for ever.
    pub fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
