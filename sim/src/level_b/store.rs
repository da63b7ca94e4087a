//! A disk that loses what was not synced.
//!
//! Reads see every write at once. A sync makes everything durable that was written before it was asked for, some virtual time
//! later; syncs that wait together share one flush and are answered in the order in which they were asked for. A crash leaves
//! what was durable and, in order, some of the batches after it: a prefix, never a gap, never half a batch.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use symbolon_node::store::{Batch, COLUMNS, Change, Column, Store};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::table::{Pair, StoreFault, Tables};
use tokio::sync::{mpsc, oneshot};

use super::surroundings::SharedRng;
use super::trace::Trace;
use super::types::{Life, lock, spawn};

/// How long a flush takes, microseconds. Tokio's timers count whole milliseconds, rounded up.
const FLUSH_US: (u64, u64) = (100, 2_000);

type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// The content of a disk. Clones share tables until one of them changes.
#[derive(Clone, Default)]
pub struct Image(BTreeMap<Column, Arc<Table>>);

impl Image {
    fn table(&self, column: Column) -> Arc<Table> {
        self.0.get(&column).cloned().unwrap_or_default()
    }

    fn table_mut(&mut self, column: Column) -> &mut Table {
        Arc::make_mut(self.0.entry(column).or_default())
    }

    fn apply(&mut self, batch: &Batch) {
        for change in &batch.0 {
            match change {
                Change::Put(column, key, value) => {
                    self.table_mut(*column).insert(key.clone(), value.clone());
                }
                Change::Remove(column, key) => {
                    self.table_mut(*column).remove(key);
                }
                Change::RemoveRange(column, from, to) => {
                    self.table_mut(*column).retain(|key, _| key < from || key >= to);
                }
            }
        }
    }

    /// SHA-256 over everything on the disk.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (column, name) in COLUMNS {
            hash.update(name.as_bytes());
            for (key, value) in self.table(column).iter() {
                for bytes in [key, value] {
                    hash.update((bytes.len() as u64).to_be_bytes());
                    hash.update(bytes);
                }
            }
        }
        hash.finalize().into()
    }
}

/// What is on a disk and what is on its way there.
struct Disk {
    current: Image,
    durable: Image,
    /// Written, not durable, in order.
    pending: VecDeque<Batch>,
    /// Batches that were ever written.
    written: u64,
}

impl Disk {
    /// Makes the first `upto` batches durable.
    fn flush(&mut self, upto: u64) {
        while self.written - (self.pending.len() as u64) < upto {
            let Some(batch) = self.pending.pop_front() else { return };
            self.durable.apply(&batch);
        }
    }
}

/// Somebody who waits for a flush.
struct Waiter {
    upto: u64,
    done: oneshot::Sender<()>,
}

/// The store of one boot of a node.
#[derive(Clone)]
pub struct SimStore {
    life: Life,
    disk: Arc<Mutex<Disk>>,
    flusher: mpsc::UnboundedSender<Waiter>,
}

fn crashed() -> StoreFault {
    StoreFault("the node has crashed".to_owned())
}

impl SimStore {
    /// Opens a disk as an earlier boot left it; an empty one for a new node.
    #[must_use]
    pub fn open(node: NodeId, image: Image, life: Life, rng: SharedRng, trace: Trace) -> Self {
        let disk = Disk { current: image.clone(), durable: image, pending: VecDeque::new(), written: 0 };
        let disk = Arc::new(Mutex::new(disk));
        let (flusher, waiters) = mpsc::unbounded_channel();
        let flushing = Flushing { node, life: life.clone(), disk: Arc::clone(&disk), rng, trace };
        spawn(flushing.run(waiters));
        Self { life, disk, flusher }
    }

    /// The power fails. What remains is what was durable and a random number of the batches after it.
    #[must_use]
    pub fn crash(&self, chance: &SharedRng) -> Image {
        self.life.end();
        let disk = lock(&self.disk);
        let kept = chance.between(0, disk.pending.len() as u64);
        let mut image = disk.durable.clone();
        for batch in disk.pending.iter().take(usize::try_from(kept).unwrap_or(usize::MAX)) {
            image.apply(batch);
        }
        image
    }

    fn alive(&self) -> Result<(), StoreFault> {
        if self.life.lasts() { Ok(()) } else { Err(crashed()) }
    }

    fn table(&self, column: Column) -> Result<Arc<Table>, StoreFault> {
        self.alive()?;
        Ok(lock(&self.disk).current.table(column))
    }
}

/// The one task that flushes a disk.
struct Flushing {
    node: NodeId,
    life: Life,
    disk: Arc<Mutex<Disk>>,
    rng: SharedRng,
    trace: Trace,
}

impl Flushing {
    /// Takes everybody who waits, flushes once, tells them all; whoever comes meanwhile waits for the next flush.
    async fn run(self, mut waiters: mpsc::UnboundedReceiver<Waiter>) {
        while let Some(first) = waiters.recv().await {
            let mut group = vec![first];
            while let Ok(more) = waiters.try_recv() {
                group.push(more);
            }
            let (low, high) = FLUSH_US;
            tokio::time::sleep(Duration::from_micros(self.rng.between(low, high))).await;
            if !self.life.lasts() {
                // Those who wait are told by the closed channel.
                return;
            }
            let upto = group.iter().map(|waiter| waiter.upto).max().unwrap_or(0);
            lock(&self.disk).flush(upto);
            self.trace.synced(self.node, upto);
            for waiter in group {
                // Somebody who went away does not need to know.
                let _ = waiter.done.send(());
            }
        }
    }
}

impl Store for SimStore {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        Tables::get(&*self.table(column)?, key)
    }

    fn scan(&self, column: Column, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, StoreFault> {
        Tables::scan(&*self.table(column)?, prefix, after, limit)
    }

    fn last(&self, column: Column, prefix: &[u8]) -> Result<Option<Pair>, StoreFault> {
        // Keys are shorter than this run of 0xff, so that the last key with the prefix lies just below.
        let end = [prefix, &[0xff; 80]].concat();
        let table = self.table(column)?;
        let last = table.range(..=end).next_back().filter(|(key, _)| key.starts_with(prefix));
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn write(&self, batch: Batch) -> Result<(), StoreFault> {
        self.alive()?;
        let mut disk = lock(&self.disk);
        disk.current.apply(&batch);
        disk.pending.push_back(batch);
        disk.written += 1;
        Ok(())
    }

    fn sync(&self) -> impl Future<Output = Result<(), StoreFault>> + Send + 'static {
        let (done, flushed) = oneshot::channel();
        let upto = lock(&self.disk).written;
        let asked = self.alive().and_then(|()| self.flusher.send(Waiter { upto, done }).map_err(|_| crashed()));
        async move {
            asked?;
            flushed.await.map_err(|_| crashed())
        }
    }

    type View = SimView;

    fn view(&self) -> SimView {
        SimView(lock(&self.disk).current.table(Column::State))
    }
}

/// The replicated tables as they were at one moment.
pub struct SimView(Arc<Table>);

impl Tables for SimView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        Tables::get(&*self.0, key)
    }
    fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, StoreFault> {
        Tables::scan(&*self.0, prefix, after, limit)
    }
}
