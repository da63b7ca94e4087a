//! The total order, in the place of Raft: a log that everybody reads sooner or later, and a node that orders while it leads.

use symbolon_protocol::entry::{Entry, LogEntry, Payload};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::limits;
use symbolon_protocol::wire::{decode, encode};

/// An entry of the log.
#[derive(Debug, Clone)]
pub(crate) enum Logged {
    /// A new leader's empty entry.
    Blank,
    /// One of ours, canonical.
    Normal(Vec<u8>),
}

impl Logged {
    /// As `apply` takes it.
    pub(crate) fn entry(&self) -> LogEntry<'_> {
        match self {
            Self::Blank => LogEntry::Blank,
            Self::Normal(bytes) => LogEntry::Normal(bytes),
        }
    }

    /// The canonical bytes; none of an empty entry.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Blank => &[],
            Self::Normal(bytes) => bytes,
        }
    }
}

/// The log and who leads.
#[derive(Debug, Default)]
pub(crate) struct Order {
    log: Vec<Logged>,
    /// Who orders; nobody for a while between two leaders.
    pub(crate) leader: Option<NodeId>,
}

impl Order {
    /// Entries so far; the index of the next one.
    pub(crate) fn length(&self) -> u64 {
        self.log.len() as u64
    }

    /// Appends an entry as it is; its index.
    pub(crate) fn append(&mut self, logged: Logged) -> u64 {
        self.log.push(logged);
        self.length() - 1
    }

    /// Orders a payload (in its stand-alone encoding) at a time of the leader's clock; none when it is no payload or too large.
    pub(crate) fn order(&mut self, time_ms: u64, payload: &[u8]) -> Option<u64> {
        let payload = decode::<Payload>(payload).ok()?;
        let bytes = encode(&Entry { time_ms, payload });
        (bytes.len() <= limits::ENTRY_BYTES).then(|| self.append(Logged::Normal(bytes)))
    }

    /// An entry.
    pub(crate) fn get(&self, index: u64) -> Option<&Logged> {
        self.log.get(usize::try_from(index).ok()?)
    }

    /// At most `limit` entries from an index on.
    pub(crate) fn page(&self, index: u64, limit: usize) -> Vec<(u64, Logged)> {
        (index..).zip(self.log.iter().skip(usize::try_from(index).unwrap_or(usize::MAX)).take(limit).cloned()).collect()
    }
}
