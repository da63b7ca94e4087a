//! The types that Raft is instantiated with, and what the core needs of its surroundings.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::impls::leader_id_std;
use openraft::vote::RaftLeaderId;
use openraft::{EmptyNode, Entry, EntryPayload, LogId, RaftTypeConfig, StoredMembership, Vote};
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use symbolon_protocol::genesis::Member;
use symbolon_protocol::id::NodeId;
use symbolon_protocol::limits;
use symbolon_protocol::state::view::Check;
use zeroize::Zeroizing;

/// A canonical [`symbolon_protocol::entry::Entry`], as Raft carries it.
#[derive(Clone, Serialize, Deserialize)]
pub struct EntryBytes(pub Vec<u8>);

impl fmt::Debug for EntryBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for EntryBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A canonical [`symbolon_protocol::outcome::Outcome`], as Raft returns it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OutcomeBytes(pub Vec<u8>);

/// Leader id: standard Raft, one leader per term.
pub type LeaderId = leader_id_std::LeaderId<u64, u64>;
/// What a log id names of its leader: the term.
pub type Committed = <LeaderId as RaftLeaderId>::Committed;
/// Payload of a Raft entry.
pub type RaftPayload = EntryPayload<EntryBytes, u64, EmptyNode>;
/// A Raft entry.
pub type RaftEntry = Entry<Committed, RaftPayload>;
/// A log id.
pub type RaftLogId = LogId<Committed>;
/// A vote.
pub type RaftVote = Vote<LeaderId>;
/// A membership with its log id. Addresses are not in it: they come from the admin-signed membership.
pub type RaftMembership = StoredMembership<Committed, u64, EmptyNode>;

/// Raft types of this node over some runtime.
pub trait NodeTypes:
    RaftTypeConfig<
        D = EntryBytes,
        R = OutcomeBytes,
        NodeId = u64,
        Node = EmptyNode,
        Term = u64,
        LeaderId = LeaderId,
        Vote = RaftVote,
        Payload = RaftPayload,
        Entry = RaftEntry,
    >
{
}

impl<C> NodeTypes for C where
    C: RaftTypeConfig<
            D = EntryBytes,
            R = OutcomeBytes,
            NodeId = u64,
            Node = EmptyNode,
            Term = u64,
            LeaderId = LeaderId,
            Vote = RaftVote,
            Payload = RaftPayload,
            Entry = RaftEntry,
        >
{
}

/// Which stream a call goes on: neither starves the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Raft.
    Raft,
    /// Share operations, signing, everything else.
    Work,
}

/// Why a call to a peer has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkError(pub String);

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LinkError {}

/// The way to the peers. Clones are handles to the same one.
pub trait Transport: Clone + Send + Sync + 'static {
    /// Calls a peer and waits for its answer; the caller sets the deadline.
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        call: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, LinkError>> + Send + 'static;

    /// Whether a peer can be reached, as far as is known.
    fn reachable(&self, node: NodeId) -> bool;

    /// Who the peers are from now on: nobody else is called, and nobody else may call. A transport on which everybody is known
    /// has nothing to do.
    fn follow(&self, _peers: &BTreeMap<NodeId, Member>) {}
}

/// With less free disk space a holder gives no shares, bytes. What is left is for what is ordered, so that a right can still be
/// taken away; `doctor` calls the disk a failure well before.
pub const DISK_RESERVE_BYTES: u64 = limits::DISK_FAIL_BYTES / 2;

/// Clock, entropy, and the machine.
pub trait Surroundings: Clone + Send + Sync + 'static {
    /// Where random bytes come from.
    type Rng: RngCore + CryptoRng + Send;

    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;

    /// Milliseconds of a clock that begins anywhere, never goes back, goes on while the machine sleeps, and that nobody sets.
    fn boot_ms(&self) -> u64;

    /// A source of random bytes.
    fn rng(&self) -> Self::Rng;

    /// What the machine says of itself, for `doctor`; nothing where there is none.
    fn examine(&self) -> Vec<Check> {
        Vec::new()
    }

    /// Free space where the store lies, bytes; no bound where there is none.
    fn disk_free(&self) -> u64 {
        u64::MAX
    }
}

/// Where shares rest. A record without its key slot is noise.
pub trait Vault: Send + Sync + 'static {
    /// Makes a key slot for a record and seals a share under it. The slot is durable once [`Vault::synced`], asked for
    /// afterwards, completes.
    ///
    /// # Errors
    /// What the operator should know.
    fn seal(&self, record: [u8; 32], secret: &[u8; 32]) -> Result<Vec<u8>, String>;

    /// Opens a sealed share.
    ///
    /// # Errors
    /// What the operator should know: no slot, or a damaged record.
    fn open(&self, record: [u8; 32], sealed: &[u8]) -> Result<Zeroizing<[u8; 32]>, String>;

    /// Erases the key slot of a record. It is overwritten on disk once [`Vault::synced`], asked for afterwards, completes. A
    /// record without a slot is erased already.
    ///
    /// # Errors
    /// What the operator should know.
    fn erase(&self, record: [u8; 32]) -> Result<(), String>;

    /// Completes when every slot that was made or erased before is so on disk. Those who wait at the same time share one sync.
    /// At once, where slots need no sync.
    ///
    /// # Errors (of the future)
    /// What the operator should know; no change is durable any more then.
    fn synced(&self) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Records that have a slot.
    fn records(&self) -> Vec<[u8; 32]>;
}

/// Time limits of the core.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Raft heartbeat.
    pub heartbeat: Duration,
    /// Shortest election timeout; the longest is twice as long.
    pub election: Duration,
    /// Answer of a peer to a work call.
    pub call: Duration,
    /// How often the reconciler looks without being woken.
    pub reconcile: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            election: Duration::from_millis(600),
            call: Duration::from_secs(2),
            reconcile: Duration::from_millis(500),
        }
    }
}
