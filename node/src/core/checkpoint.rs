//! Checkpoints: the replicated tables at a fixed index, cut into chunks, under a head that a majority of the voters signed.
//!
//! Every node makes the checkpoint of an index by itself and signs its head. A node that fell behind takes one from the leader
//! only under such signatures, so that nobody, the leader included, can hand it a state that the cluster does not have.

use std::collections::BTreeMap;
use std::io;

use openraft::alias::SnapshotMetaOf;
use serde::{Deserialize, Serialize};
use symbolon_protocol::history::Head;
use symbolon_protocol::id::{Digest, NodeId};
use symbolon_protocol::identity::Signature;
use symbolon_protocol::limits;
use symbolon_protocol::schema::replicated as schema;
use symbolon_protocol::state::{StreamDigest, members};
use symbolon_protocol::table::{Pair, StoreFault, Tables};
use symbolon_protocol::wire::{Bytes, decode, encode};

use super::raft_log::{io_fault, pack, unpack};
use super::types::{NodeTypes, RaftLogId, RaftMembership};
use crate::store::{Batch, Change, Column, StateTables, Store};

const CURRENT: &[u8] = b"m";
const INCOMING: &[u8] = b"i";
const CHUNK: &[u8] = b"c";
const SIGNATURES: &[u8] = b"h";

/// A checkpoint as it is stored: chunks lie beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) last_log_id: RaftLogId,
    pub(crate) membership: RaftMembership,
    /// Canonical head.
    head: Vec<u8>,
    pub(crate) chunks: u64,
}

impl Checkpoint {
    pub(crate) fn new(last_log_id: RaftLogId, membership: RaftMembership, head: &Head, chunks: u64) -> Self {
        Self { last_log_id, membership, head: encode(head), chunks }
    }
    pub(crate) fn head(&self) -> Result<Head, StoreFault> {
        Ok(decode(&self.head)?)
    }
    pub(crate) fn meta<C: NodeTypes>(&self) -> SnapshotMetaOf<C> {
        SnapshotMetaOf::<C> { last_log_id: Some(self.last_log_id), last_membership: self.membership.clone() }
    }
}

/// Which of two checkpoints a chunk belongs to: the node's own last one, or one that is coming in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shelf {
    Current,
    Incoming,
}

fn chunk_key(shelf: Shelf, index: u64, number: u64) -> Vec<u8> {
    let shelf: &[u8] = match shelf {
        Shelf::Current => b"a",
        Shelf::Incoming => b"b",
    };
    [CHUNK, shelf, &index.to_be_bytes(), &number.to_be_bytes()].concat()
}

/// The checkpoints of a store.
#[derive(Clone)]
pub(crate) struct Checkpoints<S> {
    store: S,
}

type Chunk = Vec<(Bytes, Bytes)>;

/// Rows of the tables.
pub(crate) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

impl<S: Store> Checkpoints<S> {
    pub(crate) fn new(store: S) -> Self {
        Self { store }
    }

    /// The node's last checkpoint.
    pub(crate) fn current(&self) -> io::Result<Option<Checkpoint>> {
        self.store.get(Column::Snapshot, CURRENT).map_err(io_fault)?.map(|bytes| unpack(&bytes)).transpose()
    }

    /// Cuts a view into chunks and makes it the current checkpoint. Gives the digest of the stream.
    pub(crate) fn write(&self, view: &impl Tables, index: u64) -> Result<(Digest, u64), StoreFault> {
        let mut digest = StreamDigest::default();
        let mut chunk: Chunk = Vec::new();
        let (mut bytes, mut number, mut after) = (0, 0, Vec::new());
        loop {
            let page = view.scan(b"", &after, 512)?;
            let Some((last, _)) = page.last() else { break };
            after.clone_from(last);
            for (key, value) in page {
                digest.add(&key, &value);
                bytes += key.len() + value.len() + 8;
                chunk.push((Bytes(key), Bytes(value)));
                if bytes >= limits::SNAPSHOT_CHUNK_BYTES / 2 {
                    self.put_chunk(Shelf::Current, index, number, &std::mem::take(&mut chunk))?;
                    (bytes, number) = (0, number + 1);
                }
            }
        }
        if !chunk.is_empty() {
            self.put_chunk(Shelf::Current, index, number, &chunk)?;
            number += 1;
        }
        Ok((digest.finish(), number))
    }

    /// Makes a checkpoint the current one; the one before is removed.
    pub(crate) fn set_current(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let before = self.current()?;
        let mut batch = Batch::default();
        batch.put(Column::Snapshot, CURRENT.to_vec(), pack(checkpoint)?);
        if let Some(before) = before.filter(|b| b.last_log_id.index != checkpoint.last_log_id.index) {
            let index = before.last_log_id.index;
            let range = (chunk_key(Shelf::Current, index, 0), chunk_key(Shelf::Current, index, u64::MAX));
            batch.0.push(Change::RemoveRange(Column::Snapshot, range.0, range.1));
            batch.remove(Column::Snapshot, signatures_key(index));
        }
        self.store.write(batch).map_err(io_fault)
    }

    pub(crate) fn put_chunk(&self, shelf: Shelf, index: u64, number: u64, chunk: &Chunk) -> Result<(), StoreFault> {
        let mut batch = Batch::default();
        batch.put(Column::Snapshot, chunk_key(shelf, index, number), encode(chunk));
        self.store.write(batch)
    }

    pub(crate) fn chunk(&self, shelf: Shelf, index: u64, number: u64) -> Result<Chunk, StoreFault> {
        let bytes = self.store.get(Column::Snapshot, &chunk_key(shelf, index, number))?;
        let bytes = bytes.ok_or_else(|| StoreFault(format!("chunk {number} of checkpoint {index} is missing")))?;
        Ok(decode(&bytes)?)
    }

    /// The cluster's record in a checkpoint, as a table of its own.
    pub(crate) fn cluster_row(&self, shelf: Shelf, index: u64, chunks: u64) -> Result<Rows, StoreFault> {
        let mut rows = Rows::new();
        for number in 0..chunks {
            let found = self.chunk(shelf, index, number)?.into_iter().find(|(key, _)| key.0 == schema::cluster());
            if let Some((key, value)) = found {
                rows.insert(key.0, value.0);
                break;
            }
        }
        Ok(rows)
    }

    /// Forgets everything that was coming in.
    pub(crate) fn clear_incoming(&self) -> Result<(), StoreFault> {
        let from = [CHUNK, b"b"].concat();
        let to = [CHUNK, b"c"].concat();
        self.store.write(Batch(vec![
            Change::RemoveRange(Column::Snapshot, from, to),
            Change::Remove(Column::Snapshot, INCOMING.to_vec()),
        ]))
    }

    /// Reads an incoming checkpoint whole and checks that it is what the head says: ascending keys, the right digest. Gives the
    /// rows of the membership in it; none when it is something else.
    pub(crate) fn check_incoming(&self, head: &Head, chunks: u64) -> Result<Option<Rows>, StoreFault> {
        let mut digest = StreamDigest::default();
        let mut rows = Rows::new();
        let mut last: Option<Vec<u8>> = None;
        for number in 0..chunks {
            for (key, value) in self.chunk(Shelf::Incoming, head.index, number)? {
                if last.as_ref().is_some_and(|last| *last >= key.0) {
                    return Ok(None);
                }
                digest.add(&key.0, &value.0);
                if [schema::CLUSTER, schema::MEMBERS, schema::VOTER_SETS].iter().any(|prefix| key.0.starts_with(prefix))
                {
                    rows.insert(key.0.clone(), value.0);
                }
                last = Some(key.0);
            }
        }
        Ok((head.state == Some(digest.finish())).then_some(rows))
    }

    /// Signatures over the head of a checkpoint.
    pub(crate) fn signatures(&self, index: u64) -> Result<BTreeMap<NodeId, Signature>, StoreFault> {
        match self.store.get(Column::Snapshot, &signatures_key(index))? {
            Some(bytes) => Ok(decode(&bytes)?),
            None => Ok(BTreeMap::new()),
        }
    }

    /// How many voters there were at a version of the membership.
    pub(crate) fn voters_at(&self, version: u64) -> Result<Option<usize>, StoreFault> {
        let voters = members::voters_at(&StateTables(self.store.clone()), version)?;
        Ok(voters.map(|voters| voters.len()))
    }

    /// Adds a signature that was checked.
    pub(crate) fn add_signature(&self, index: u64, node: NodeId, signature: Signature) -> Result<(), StoreFault> {
        let mut all = self.signatures(index)?;
        all.insert(node, signature);
        let mut batch = Batch::default();
        batch.put(Column::Snapshot, signatures_key(index), encode(&all));
        self.store.write(batch)
    }

    /// Replaces the replicated tables by a checkpoint, together with what `extra` adds, in one batch.
    pub(crate) fn install(&self, shelf: Shelf, index: u64, chunks: u64, extra: Vec<Change>) -> Result<(), StoreFault> {
        let mut batch = Batch::default();
        batch.0.push(Change::RemoveRange(Column::State, Vec::new(), vec![0xff; 80]));
        for number in 0..chunks {
            for (key, value) in self.chunk(shelf, index, number)? {
                let pair: Pair = (key.0, value.0);
                batch.put(Column::State, pair.0, pair.1);
            }
        }
        batch.0.extend(extra);
        self.store.write(batch)
    }
}

fn signatures_key(index: u64) -> Vec<u8> {
    [SIGNATURES, &index.to_be_bytes()].concat()
}
