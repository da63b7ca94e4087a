//! Where a node keeps what must last: one ordered key-value store with one write-ahead log.
//!
//! A write is visible at once and durable once a later [`Store::sync`] completed. Writes become durable in the order in which
//! they were made, across columns: after a crash a prefix of them is there, never a gap. Everything that leaves the node waits
//! for the sync of what it depends on.

use std::future::Future;

use symbolon_protocol::step::{Receipt, Writes};
use symbolon_protocol::table::{OrderedWrites, Pair, StoreFault, Tables};

#[cfg(feature = "rocksdb")]
mod mark;
#[cfg(feature = "rocksdb")]
pub mod rocks;

/// Key spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// Raft's log, vote and applied position.
    Raft,
    /// The replicated tables.
    State,
    /// Shares, votes, boot counter: this node's alone.
    Private,
    /// The usage log.
    Usage,
    /// The last checkpoint of the replicated tables, in chunks.
    Snapshot,
}

/// Every column, with its name in the store.
pub const COLUMNS: [(Column, &str); 5] = [
    (Column::Raft, "raft"),
    (Column::State, "state"),
    (Column::Private, "private"),
    (Column::Usage, "usage"),
    (Column::Snapshot, "snapshot"),
];

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets a value.
    Put(Column, Vec<u8>, Vec<u8>),
    /// Removes a key.
    Remove(Column, Vec<u8>),
    /// Removes all keys from the first (included) to the second (excluded).
    RemoveRange(Column, Vec<u8>, Vec<u8>),
}

/// Changes that are made together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch(pub Vec<Change>);

impl Batch {
    /// Sets a value.
    pub fn put(&mut self, column: Column, key: Vec<u8>, value: Vec<u8>) {
        self.0.push(Change::Put(column, key, value));
    }
    /// Removes a key.
    pub fn remove(&mut self, column: Column, key: Vec<u8>) {
        self.0.push(Change::Remove(column, key));
    }
    /// Adds the ordered writes of `apply`.
    pub fn state(&mut self, writes: OrderedWrites) {
        for (key, value) in writes {
            match value {
                Some(value) => self.put(Column::State, key, value),
                None => self.remove(Column::State, key),
            }
        }
    }
}

/// A store. Clones are handles to the same one.
pub trait Store: Clone + Send + Sync + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreFault`]: the node must stop.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault>;

    /// At most `limit` pairs whose key starts with `prefix` and is greater than `after`, ascending.
    ///
    /// # Errors
    /// [`StoreFault`]: the node must stop.
    fn scan(&self, column: Column, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, StoreFault>;

    /// The last pair of a column whose key starts with `prefix`.
    ///
    /// # Errors
    /// [`StoreFault`]: the node must stop.
    fn last(&self, column: Column, prefix: &[u8]) -> Result<Option<Pair>, StoreFault>;

    /// Makes changes: visible at once, durable after the next sync.
    ///
    /// # Errors
    /// [`StoreFault`]: whether the changes were made is unknown and the node must stop.
    fn write(&self, batch: Batch) -> Result<(), StoreFault>;

    /// Completes once everything written before the call is durable. Calls at the same time share one flush.
    ///
    /// # Errors
    /// [`StoreFault`]: what is durable is unknown and the node must stop.
    fn sync(&self) -> impl Future<Output = Result<(), StoreFault>> + Send + 'static;

    /// A consistent copy of the replicated tables as they are now; cheap, read later.
    type View: Tables + Send + Sync + 'static;

    /// Takes one.
    fn view(&self) -> Self::View;
}

/// The replicated tables of a store.
#[derive(Clone)]
pub struct StateTables<S>(pub S);

impl<S: Store> Tables for StateTables<S> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        self.0.get(Column::State, key)
    }
    fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, StoreFault> {
        self.0.scan(Column::State, prefix, after, limit)
    }
}

/// Makes the private writes of a step durable and gives the receipt for them.
///
/// # Errors
/// [`StoreFault`]: the node must stop.
pub async fn commit<S: Store>(store: &S, writes: Writes) -> Result<Receipt, StoreFault> {
    if !writes.is_empty() {
        let mut batch = Batch::default();
        for write in writes.list() {
            match &write.value {
                Some(value) => batch.put(Column::Private, write.key.clone(), value.clone()),
                None => batch.remove(Column::Private, write.key.clone()),
            }
        }
        store.write(batch)?;
        store.sync().await?;
    }
    Ok(writes.durable())
}
