//! The hash of everything that happened: two runs with one hash are one history.

use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};
use symbolon_node::core::types::Lane;
use symbolon_protocol::id::NodeId;
use tokio::time::Instant;

use super::types::lock;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The scenario went on.
    Note = 0,
    /// A call left its sender.
    Sent = 1,
    /// A call or an answer was lost, or its link is cut, or nobody is left whom it concerns.
    Lost = 2,
    /// A call came to a node that does not run, or that refuses the caller's boot.
    Rejected = 3,
    /// A call arrived.
    Arrived = 4,
    /// An answer left.
    Answered = 5,
    /// An answer arrived.
    Returned = 6,
    /// A disk made writes durable.
    Synced = 7,
}

/// Collects the trace; clones write to the same one.
#[derive(Clone)]
pub struct Trace {
    origin: Instant,
    hash: Arc<Mutex<Sha256>>,
}

impl Trace {
    /// Begins now, which is also the beginning of virtual time.
    #[must_use]
    pub fn begin() -> Self {
        // The seed itself is left out: two seeds must differ by what happens.
        let hash = Sha256::new().chain_update(b"symbolon/sim-trace/v1");
        Self { origin: Instant::now(), hash: Arc::new(Mutex::new(hash)) }
    }

    /// The beginning of virtual time.
    #[must_use]
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// A step of a call or of its answer on the way from one node to another.
    pub fn hop(&self, kind: Kind, (from, to): (NodeId, NodeId), lane: Lane, payload: &[u8]) {
        let lane = match lane {
            Lane::Raft => 1,
            Lane::Work => 2,
        };
        self.event(kind, (from.get(), to.get()), lane, payload);
    }

    /// A disk made its first `batches` batches durable.
    pub fn synced(&self, node: NodeId, batches: u64) {
        self.event(Kind::Synced, (node.get(), node.get()), 0, &batches.to_be_bytes());
    }

    /// Something that the scenario did or saw, with the bytes that say more.
    pub fn note(&self, what: &str, bytes: &[u8]) {
        let text = Sha256::digest(what.as_bytes());
        self.event(Kind::Note, (0, 0), 0, &[text.as_slice(), bytes].concat());
    }

    fn event(&self, kind: Kind, (from, to): (u16, u16), lane: u8, payload: &[u8]) {
        let mut hash = lock(&self.hash);
        hash.update(self.origin.elapsed().as_nanos().to_be_bytes());
        hash.update([kind as u8, lane]);
        hash.update(from.to_be_bytes());
        hash.update(to.to_be_bytes());
        hash.update(Sha256::digest(payload));
    }

    /// The hash so far, in hexadecimal.
    #[must_use]
    pub fn hash(&self) -> String {
        hex::encode(lock(&self.hash).clone().finalize())
    }
}
