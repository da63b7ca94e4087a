//! Raft's log and vote in the store.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt as _;
use openraft::{LogState, OptionalSend};
use serde::Serialize;
use serde::de::DeserializeOwned;
use symbolon_protocol::table::StoreFault;

use super::types::{NodeTypes, RaftEntry, RaftLogId, RaftVote};
use crate::store::{Batch, Change, Column, Store};

const VOTE: &[u8] = b"v";
const PURGED: &[u8] = b"p";
const ENTRY: &[u8] = b"l";

/// Raft's log in a store.
#[derive(Clone)]
pub struct RaftLog<S> {
    store: S,
}

fn entry_key(index: u64) -> Vec<u8> {
    [ENTRY, &index.to_be_bytes()].concat()
}

/// Any failure of the store stops Raft.
pub(crate) fn io_fault(fault: StoreFault) -> io::Error {
    io::Error::other(fault)
}

/// Raft's own structures, as they are stored and sent; never signed.
///
/// # Errors
/// When a value has no encoding.
pub fn pack(value: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(io::Error::other)
}

/// The opposite of [`pack`].
///
/// # Errors
/// When the bytes are no such value.
pub fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(io::Error::other)
}

impl<S: Store> RaftLog<S> {
    /// The log in a store.
    pub fn new(store: S) -> Self {
        Self { store }
    }

    fn read<T: DeserializeOwned>(&self, key: &[u8]) -> io::Result<Option<T>> {
        self.store.get(Column::Raft, key).map_err(io_fault)?.map(|bytes| unpack(&bytes)).transpose()
    }

    /// The log id at an index, where the log still has it.
    pub(crate) fn log_id_at(&self, index: u64) -> io::Result<Option<RaftLogId>> {
        Ok(self.read::<RaftEntry>(&entry_key(index))?.map(|entry| entry.log_id))
    }

    fn entries(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        let mut list = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        while next < to {
            let limit = usize::try_from((to - next).min(256)).unwrap_or(256);
            // Keys ascend without gaps, so the key before the first one is a good place to start after.
            let after = next.checked_sub(1).map_or_else(Vec::new, entry_key);
            let page = self.store.scan(Column::Raft, ENTRY, &after, limit).map_err(io_fault)?;
            if page.is_empty() {
                break;
            }
            for (_, value) in page {
                let entry: RaftEntry = unpack(&value)?;
                bytes += value.len();
                if entry.log_id.index >= to || (bytes > bytes_max && !list.is_empty()) {
                    return Ok(list);
                }
                next = entry.log_id.index + 1;
                list.push(entry);
            }
        }
        Ok(list)
    }
}

impl<C: NodeTypes, S: Store> RaftLogReader<C> for RaftLog<S> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<RaftEntry>> {
        let from = match range.start_bound() {
            Bound::Included(n) => *n,
            Bound::Excluded(n) => n + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(n) => n + 1,
            Bound::Excluded(n) => *n,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(from, to, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntry>> {
        self.entries(start, end, symbolon_protocol::limits::APPEND_BYTES)
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        self.read(VOTE)
    }
}

impl<C: NodeTypes, S: Store> RaftLogStorage<C> for RaftLog<S> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<C>> {
        let last_purged_log_id: Option<RaftLogId> = self.read(PURGED)?;
        let last = self.store.last(Column::Raft, ENTRY).map_err(io_fault)?;
        let last_log_id = match last {
            Some((_, value)) => Some(unpack::<RaftEntry>(&value)?.log_id),
            None => last_purged_log_id,
        };
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        let change = Change::Put(Column::Raft, VOTE.to_vec(), pack(vote)?);
        self.store.write(Batch(vec![change])).map_err(io_fault)?;
        self.store.sync().await.map_err(io_fault)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::default();
        for entry in entries {
            batch.put(Column::Raft, entry_key(entry.log_id.index), pack(&entry)?);
        }
        self.store.write(batch).map_err(io_fault)?;
        // Syncs complete in the order in which they were asked for, so callbacks do too; Raft counts on that.
        let synced = self.store.sync();
        let _task = C::spawn(async move { callback.io_completed(synced.await.map_err(io_fault)) });
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<RaftLogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        let change = Change::RemoveRange(Column::Raft, entry_key(from), entry_key(u64::MAX));
        self.store.write(Batch(vec![change])).map_err(io_fault)
    }

    async fn purge(&mut self, log_id: RaftLogId) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.put(Column::Raft, PURGED.to_vec(), pack(&log_id)?);
        batch.0.push(Change::RemoveRange(Column::Raft, entry_key(0), entry_key(log_id.index + 1)));
        self.store.write(batch).map_err(io_fault)
    }
}
