//! The disk of a simulated node: what is synced stays, of the rest a crash keeps a random number of the oldest batches.
//!
//! Shares lie here as plain bytes: sealing and key slots belong to the node, not to floor 0.

use std::collections::BTreeMap;

/// Ordered bytes.
pub(crate) type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Parts of the disk, as the columns of the real store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Column {
    /// Identity and genesis, which are files in a real node.
    Files,
    /// The replicated tables.
    State,
    /// Shares, votes, boot counter.
    Private,
    /// The usage log.
    Usage,
    /// The applied index.
    Position,
}

/// One change; no value removes the key.
pub(crate) type Change = (Column, Vec<u8>, Option<Vec<u8>>);
/// Changes that are durable together or not at all.
pub(crate) type Batch = Vec<Change>;

#[derive(Debug, Clone, Default)]
struct Columns {
    files: Map,
    state: Map,
    private: Map,
    usage: Map,
    position: Map,
}

impl Columns {
    fn of(&self, column: Column) -> &Map {
        match column {
            Column::Files => &self.files,
            Column::State => &self.state,
            Column::Private => &self.private,
            Column::Usage => &self.usage,
            Column::Position => &self.position,
        }
    }

    fn take(&mut self, (column, key, value): Change) {
        let map = match column {
            Column::Files => &mut self.files,
            Column::State => &mut self.state,
            Column::Private => &mut self.private,
            Column::Usage => &mut self.usage,
            Column::Position => &mut self.position,
        };
        match value {
            Some(value) => {
                map.insert(key, value);
            }
            None => {
                map.remove(&key);
            }
        }
    }
}

/// A disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    durable: Columns,
    /// What the node itself reads: durable and pending together.
    live: Columns,
    pending: Vec<Batch>,
    /// Counts whatever changed what is durable.
    changes: u64,
}

impl Disk {
    /// Writes a batch; it is readable at once and durable after the next sync.
    pub(crate) fn write(&mut self, batch: Batch) {
        for change in &batch {
            self.live.take(change.clone());
        }
        self.pending.push(batch);
    }

    /// Makes everything that was written durable.
    pub(crate) fn sync(&mut self) {
        self.changes += 1;
        for change in self.pending.drain(..).flatten() {
            self.durable.take(change);
        }
    }

    /// Batches that are not durable.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Loses power: the first `keep` pending batches are durable, the others never were.
    pub(crate) fn crash(&mut self, keep: usize) {
        self.pending.truncate(keep);
        self.sync();
        self.live = self.durable.clone();
    }

    /// What the node reads.
    pub(crate) fn live(&self, column: Column) -> &Map {
        self.live.of(column)
    }

    /// What a crash cannot take.
    pub(crate) fn durable(&self, column: Column) -> &Map {
        self.durable.of(column)
    }

    /// Grows whenever what is durable changes.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: u8) -> Batch {
        vec![(Column::Private, vec![key], Some(vec![key]))]
    }

    #[test]
    fn a_crash_keeps_a_prefix_of_what_was_not_synced() {
        let mut disk = Disk::default();
        disk.write(put(1));
        disk.sync();
        for key in 2..5 {
            disk.write(put(key));
        }
        assert_eq!((disk.live(Column::Private).len(), disk.durable(Column::Private).len()), (4, 1));
        disk.crash(1);
        let keys: Vec<Vec<u8>> = disk.live(Column::Private).keys().cloned().collect();
        assert_eq!(keys, [vec![1], vec![2]]);
        assert_eq!(disk.live(Column::Private), disk.durable(Column::Private));
        assert_eq!(disk.pending(), 0);
    }
}
