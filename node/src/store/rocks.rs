//! The store on RocksDB.
//!
//! All columns share one write-ahead log. It is flushed and synced by one thread, so that callers who wait at the same time
//! share one flush. A damaged log is refused: RocksDB's default would silently open with everything after the damage gone. A log
//! that merely ends too early looks whole to RocksDB; the mark beside the store tells (`mark.rs`).

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, Direction, ErrorKind, IteratorMode, Options, ReadOptions,
    WriteBatch,
};
use symbolon_protocol::table::{Pair, StoreFault, Tables};
use tokio::sync::oneshot;

use super::mark::{self, Mark};
use super::{Batch, COLUMNS, Change, Column, Store};

type Waiter = oneshot::Sender<Result<(), StoreFault>>;

/// A RocksDB store.
#[derive(Clone)]
pub struct RocksStore {
    db: Arc<DB>,
    flusher: mpsc::Sender<Waiter>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Waits for a store to close. A process that ends while RocksDB still closes in another thread may be aborted by it.
pub struct Closing(Arc<Mutex<Option<JoinHandle<()>>>>);

impl Closing {
    /// Returns once the store is closed; every handle to it must have been dropped, or this waits for ever.
    pub fn wait(self) {
        let thread = self.0.lock().ok().and_then(|mut thread| thread.take());
        if let Some(thread) = thread {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
    }
}

/// With what to do about it.
fn fault(error: &rocksdb::Error) -> StoreFault {
    let advice = match error.kind() {
        ErrorKind::Corruption | ErrorKind::InvalidArgument => {
            "; what was written does not come back: the disk is failing, its files were changed, or a loss of power tore the end of \
             the log. Put another node in the place of this one (`symbolon member replace`)"
        }
        ErrorKind::IOError => "; look at the disk: whether it is full, mounted read-only or failing",
        _ => "",
    };
    StoreFault(format!("{error}{advice}"))
}

fn columns() -> impl Iterator<Item = ColumnFamilyDescriptor> {
    COLUMNS.iter().map(|(_, name)| ColumnFamilyDescriptor::new(*name, Options::default()))
}

/// Whether everything is there that was synced.
fn check_tail(db: &DB, synced: u64) -> Result<(), StoreFault> {
    let end = db.latest_sequence_number();
    if end >= synced {
        return Ok(());
    }
    Err(StoreFault(format!(
        "it ends with write {end}, and write {synced} was synced: it was restored or lost its tail. This node is quarantined: it \
         must not sign or vote again with this identity. Put another node in its place (`symbolon member replace`)"
    )))
}

fn options(is_new: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    // One that a store had and lost must not come back empty.
    options.create_missing_column_families(is_new);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    // The flusher decides when the log reaches the disk; nothing is acknowledged before.
    options.set_manual_wal_flush(true);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(2);
    options.set_write_buffer_size(32 << 20);
    options.set_max_total_wal_size(256 << 20);
    options
}

impl RocksStore {
    /// Opens or creates the store in a directory.
    ///
    /// # Errors
    /// [`StoreFault`] when it is damaged, lost its tail, is locked by another process or cannot be created.
    pub fn open(directory: &Path) -> Result<Self, StoreFault> {
        let synced = mark::synced(directory).map_err(|e| StoreFault(e.to_string()))?;
        let is_new = synced == 0 || !directory.join("CURRENT").exists();
        let db = DB::open_cf_descriptors(&options(is_new), directory, columns()).map_err(|e| fault(&e))?;
        check_tail(&db, synced)?;
        let mark = Mark::open(directory).map_err(|e| StoreFault(e.to_string()))?;
        let db = Arc::new(db);
        let (flusher, waiters) = mpsc::channel();
        let flushed = Arc::clone(&db);
        let thread = std::thread::Builder::new()
            .name("wal-flush".to_owned())
            .spawn(move || flush_loop(&flushed, &mark, &waiters))
            .map_err(|e| StoreFault(e.to_string()))?;
        Ok(Self { db, flusher, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Opens the store of a node that does not run, to read it; nothing on the disk changes.
    ///
    /// # Errors
    /// [`StoreFault`] when it is damaged or lost its tail.
    pub fn open_read_only(directory: &Path) -> Result<Self, StoreFault> {
        let synced = mark::synced(directory).map_err(|e| StoreFault(e.to_string()))?;
        let db = DB::open_cf_descriptors_read_only(&options(false), directory, columns(), false);
        let db = db.map_err(|e| fault(&e))?;
        check_tail(&db, synced)?;
        // Nobody waits at the other end: what syncs is refused.
        let (flusher, _) = mpsc::channel();
        Ok(Self { db: Arc::new(db), flusher, thread: Arc::default() })
    }

    /// What to wait for at the end of the process.
    #[must_use]
    pub fn closing(&self) -> Closing {
        Closing(Arc::clone(&self.thread))
    }

    fn column(&self, column: Column) -> Result<&ColumnFamily, StoreFault> {
        column_of(&self.db, column)
    }
}

fn column_of(db: &DB, column: Column) -> Result<&ColumnFamily, StoreFault> {
    let name = COLUMNS.iter().find(|(c, _)| *c == column).map_or("", |(_, name)| name);
    db.cf_handle(name).ok_or_else(|| StoreFault(format!("column {name} is missing")))
}

/// Takes everybody who waits, flushes once, tells them all. After a failed flush nothing is known to be durable, ever.
fn flush_loop(db: &DB, mark: &Mark, waiters: &mpsc::Receiver<Waiter>) {
    let mut failed: Option<StoreFault> = None;
    while let Ok(first) = waiters.recv() {
        let mut group = vec![first];
        group.extend(waiters.try_iter());
        let result = match &failed {
            Some(fault) => Err(fault.clone()),
            None => flush(db, mark),
        };
        if let Err(fault) = &result {
            failed = Some(fault.clone());
        }
        for waiter in group {
            // Somebody who went away does not need to know.
            let _ = waiter.send(result.clone());
        }
    }
}

fn flush(db: &DB, mark: &Mark) -> Result<(), StoreFault> {
    // Asked first: what is written while the log is flushed may miss the flush.
    let end = db.latest_sequence_number();
    db.flush_wal(true).map_err(|e| fault(&e))?;
    mark.set(end).map_err(|e| StoreFault(format!("the mark of what was synced cannot be written: {e}")))
}

fn scan_with(
    db: &DB,
    column: Column,
    read: ReadOptions,
    prefix: &[u8],
    after: &[u8],
    limit: usize,
) -> Result<Vec<Pair>, StoreFault> {
    let start = if after < prefix { prefix } else { after };
    let mut pairs = Vec::new();
    for item in db.iterator_cf_opt(column_of(db, column)?, read, IteratorMode::From(start, Direction::Forward)) {
        if pairs.len() >= limit {
            break;
        }
        let (key, value) = item.map_err(|e| fault(&e))?;
        if !key.starts_with(prefix) {
            break;
        }
        if *key > *after || after < prefix {
            pairs.push((key.into_vec(), value.into_vec()));
        }
    }
    Ok(pairs)
}

impl Store for RocksStore {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        self.db.get_cf(self.column(column)?, key).map_err(|e| fault(&e))
    }

    fn scan(&self, column: Column, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, StoreFault> {
        scan_with(&self.db, column, ReadOptions::default(), prefix, after, limit)
    }

    fn last(&self, column: Column, prefix: &[u8]) -> Result<Option<Pair>, StoreFault> {
        // Keys are shorter than this run of 0xff, so that the last key with the prefix lies just below.
        let mut end = prefix.to_vec();
        end.extend_from_slice(&[0xff; 80]);
        let mode = IteratorMode::From(&end, Direction::Reverse);
        match self.db.iterator_cf(self.column(column)?, mode).next() {
            Some(item) => {
                let (key, value) = item.map_err(|e| fault(&e))?;
                Ok(key.starts_with(prefix).then(|| (key.into_vec(), value.into_vec())))
            }
            None => Ok(None),
        }
    }

    fn write(&self, batch: Batch) -> Result<(), StoreFault> {
        let mut write = WriteBatch::default();
        for change in batch.0 {
            match change {
                Change::Put(column, key, value) => write.put_cf(self.column(column)?, key, value),
                Change::Remove(column, key) => write.delete_cf(self.column(column)?, key),
                Change::RemoveRange(column, from, to) => write.delete_range_cf(self.column(column)?, from, to),
            }
        }
        self.db.write(write).map_err(|e| fault(&e))
    }

    fn sync(&self) -> impl Future<Output = Result<(), StoreFault>> + Send + 'static {
        let (waiter, done) = oneshot::channel();
        let sent = self.flusher.send(waiter);
        async move {
            let gone = || StoreFault("the thread that flushes the write-ahead log has ended".to_owned());
            sent.map_err(|_| gone())?;
            done.await.map_err(|_| gone())?
        }
    }

    type View = RocksView;

    fn view(&self) -> RocksView {
        RocksView::new(Arc::clone(&self.db))
    }
}

/// A consistent view: the database held together with a snapshot of it.
pub struct RocksView {
    // Declared before the database: the snapshot must be released first.
    snapshot: rocksdb::SnapshotWithThreadMode<'static, DB>,
    _db: Arc<DB>,
}

impl RocksView {
    #[expect(unsafe_code, reason = "ties a snapshot to the reference-counted database that it borrows")]
    fn new(db: Arc<DB>) -> Self {
        // SAFETY: the snapshot borrows the database behind the Arc, which does not move and lives at least as long as
        // `_db`; fields drop in the order of declaration, so the snapshot goes before the last reference can.
        let borrowed: &'static DB = unsafe { &*Arc::as_ptr(&db) };
        Self { snapshot: borrowed.snapshot(), _db: db }
    }
}

impl Tables for RocksView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        self.snapshot.get_cf(column_of(&self._db, Column::State)?, key).map_err(|e| fault(&e))
    }
    fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, StoreFault> {
        let mut read = ReadOptions::default();
        read.set_snapshot(&self.snapshot);
        scan_with(&self._db, Column::State, read, prefix, after, limit)
    }
}

/// Where the store lies under a node's directory.
#[must_use]
pub fn directory(data: &Path) -> PathBuf {
    data.join("store")
}
