//! A whole voter without disk and network, for tests of what a node answers.

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use openraft::EmptyNode;
use rand_core::OsRng;
use symbolon_protocol::genesis::{Genesis, Member, MemberRole};
use symbolon_protocol::id::{Name, NodeId};
use symbolon_protocol::identity::Identity;
use symbolon_protocol::limits;
use symbolon_protocol::sign::arithmetic::Backend;
use symbolon_protocol::table::{Pair, StoreFault, Tables};
use zeroize::Zeroizing;

use crate::core::start::open_store;
use crate::core::types::{EntryBytes, Lane, LeaderId, LinkError, OutcomeBytes, Surroundings, Timing, Transport, Vault};
use crate::core::{Core, Parts, lock};
use crate::store::{Batch, Change, Column, Store};

openraft::declare_raft_types!(
    /// Types of these tests.
    pub(crate) Types: D = EntryBytes, R = OutcomeBytes, NodeId = u64, Node = EmptyNode,
    LeaderId = LeaderId, AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

/// The clock stands still here.
pub(crate) const NOW_MS: u64 = 1_800_000_000_000;

type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store in memory: what is written is there.
#[derive(Clone, Default)]
pub(crate) struct MemoryStore(Arc<Mutex<BTreeMap<Column, Table>>>);

impl MemoryStore {
    fn table(&self, column: Column) -> Table {
        lock(&self.0).get(&column).cloned().unwrap_or_default()
    }
}

impl Store for MemoryStore {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        Tables::get(&self.table(column), key)
    }

    fn scan(&self, column: Column, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, StoreFault> {
        Tables::scan(&self.table(column), prefix, after, limit)
    }

    fn last(&self, column: Column, prefix: &[u8]) -> Result<Option<Pair>, StoreFault> {
        Ok(self.scan(column, prefix, b"", usize::MAX)?.pop())
    }

    fn write(&self, batch: Batch) -> Result<(), StoreFault> {
        let mut tables = lock(&self.0);
        for change in batch.0 {
            match change {
                Change::Put(column, key, value) => {
                    tables.entry(column).or_default().insert(key, value);
                }
                Change::Remove(column, key) => {
                    tables.entry(column).or_default().remove(&key);
                }
                Change::RemoveRange(column, from, to) => {
                    tables.entry(column).or_default().retain(|key, _| *key < from || *key >= to);
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> impl Future<Output = Result<(), StoreFault>> + Send + 'static {
        ready(Ok(()))
    }

    type View = Table;

    fn view(&self) -> Table {
        self.table(Column::State)
    }
}

/// A network on which nobody answers.
#[derive(Clone)]
pub(crate) struct Alone;

impl Transport for Alone {
    fn call(
        &self,
        to: NodeId,
        _lane: Lane,
        _call: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, LinkError>> + Send + 'static {
        ready(Err(LinkError(format!("node {to} does not run"))))
    }

    fn reachable(&self, _node: NodeId) -> bool {
        false
    }
}

/// A clock that stands still.
#[derive(Clone)]
pub(crate) struct Still;

impl Surroundings for Still {
    type Rng = OsRng;

    fn now_ms(&self) -> u64 {
        NOW_MS
    }

    fn boot_ms(&self) -> u64 {
        0
    }

    fn rng(&self) -> OsRng {
        OsRng
    }
}

/// Holds nothing: no key is made here.
struct NoVault;

impl Vault for NoVault {
    fn seal(&self, _record: [u8; 32], _secret: &[u8; 32]) -> Result<Vec<u8>, String> {
        Err("there is no vault".to_owned())
    }

    fn open(&self, _record: [u8; 32], _sealed: &[u8]) -> Result<Zeroizing<[u8; 32]>, String> {
        Err("there is no vault".to_owned())
    }

    fn erase(&self, _record: [u8; 32]) -> Result<(), String> {
        Ok(())
    }

    fn records(&self) -> Vec<[u8; 32]> {
        Vec::new()
    }
}

/// A voter that runs. Of its peers, nodes 1 to 3, it hears only what the test hands to it.
pub(crate) type Voter = Core<Types, Alone, MemoryStore, Still>;

pub(crate) fn node(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn identity(number: u16) -> Identity {
    Identity::from_seed(&[u8::try_from(number).unwrap(); 32])
}

fn genesis() -> Genesis {
    let member = |number: u16| Member {
        name: Name::new(&format!("node{number}")).unwrap(),
        key: identity(number).public(),
        peer_address: format!("node{number}:1"),
        client_address: format!("node{number}:2"),
        zone: String::new(),
        role: MemberRole::Voter,
    };
    Genesis {
        name: Name::new("test").unwrap(),
        members: (1..=3).map(|number| (node(number), member(number))).collect(),
        administrators: BTreeMap::from([(Name::new("admin").unwrap(), identity(100).public())]),
        checkpoint_entries: limits::CHECKPOINT_ENTRIES,
        salt: [7; 16],
    }
}

/// Starts a voter that takes Raft messages, with an empty log and the tables of genesis.
pub(crate) async fn voter(number: u16) -> Voter {
    voter_with(number, MemoryStore::default(), Box::new(NoVault)).await
}

/// The same, on a store and a vault that may hold something.
pub(crate) async fn voter_with(number: u16, store: MemoryStore, vault: Box<dyn Vault>) -> Voter {
    let (genesis, me) = (Arc::new(genesis()), node(number));
    let boot = open_store(&store, genesis.cluster_id(), me, [9; 16]).await.unwrap();
    let parts = Parts {
        me,
        identity: identity(number),
        genesis,
        boot,
        store,
        transport: Alone,
        surroundings: Still,
        vault,
        timing: Timing::default(),
        usage_bytes: 1 << 20,
        backend: Backend::default(),
        state_version: symbolon_protocol::state::records::STATE_VERSION,
    };
    let voter = Voter::start(parts).await.unwrap();
    voter.0.admitted.store(true, Ordering::Relaxed);
    voter
}
