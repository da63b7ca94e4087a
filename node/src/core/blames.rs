//! What this node can prove against others: the newest blames of each node, with their evidence.
//!
//! Nobody else's word is kept, and nothing follows from it by itself: to take a node out is an operator's act.

use std::sync::Mutex;

use symbolon_protocol::blame::BlameRecord;
use symbolon_protocol::id::NodeId;
use symbolon_protocol::limits;
use symbolon_protocol::schema::private as schema;
use symbolon_protocol::state::view::BlamedView;
use symbolon_protocol::table::StoreFault;
use symbolon_protocol::wire::{decode, encode};

use super::lock;
use crate::store::{Batch, Column, Store};

/// The blames in a node's store.
pub struct Blames<S> {
    store: S,
    /// Numbers are given out one after the other.
    turn: Mutex<()>,
}

impl<S: Store> Blames<S> {
    /// In a node's store.
    pub fn new(store: S) -> Self {
        Self { store, turn: Mutex::new(()) }
    }

    /// The last blame of a node, and its number, which counts all that there were.
    fn last(&self, accused: NodeId) -> Result<Option<(u64, BlameRecord)>, StoreFault> {
        let prefix = schema::blames_of(accused);
        let Some((key, value)) = self.store.last(Column::Private, &prefix)? else { return Ok(None) };
        let number = key.get(prefix.len()..).and_then(|number| number.try_into().ok()).map_or(0, u64::from_be_bytes);
        Ok(Some((number, decode(&value)?)))
    }

    /// Keeps a blame that was verified, and forgets the oldest of the same node when there are too many. Durable with what is
    /// synced next.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn keep(&self, record: &BlameRecord) -> Result<(), StoreFault> {
        let _turn = lock(&self.turn);
        let accused = record.blame.accused;
        let number = self.last(accused)?.map_or(0, |(number, _)| number).saturating_add(1);
        let mut batch = Batch::default();
        batch.put(Column::Private, schema::blame(accused, number), encode(record));
        if let Some(old) = number.checked_sub(limits::BLAMES_PER_NODE) {
            batch.remove(Column::Private, schema::blame(accused, old));
        }
        self.store.write(batch)
    }

    /// How often a node was blamed by this one, and for what the last time; none when it never was.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn of(&self, accused: NodeId) -> Result<Option<BlamedView>, StoreFault> {
        let view = |(count, record): (u64, BlameRecord)| BlamedView {
            count,
            kind: record.blame.kind(),
            time_ms: record.time_ms,
        };
        Ok(self.last(accused)?.map(view))
    }
}
