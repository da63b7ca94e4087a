//! The vault of a node: shares sealed under key slots in a file.
//!
//! Slots are changed in memory at once; one thread brings the changes to the disk, so that those who wait at the same time
//! share its syncs, and nobody else waits for them.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use rand_core::OsRng;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::{SealError, SlotFile, open_record, seal_record};
use crate::core::lock;
use crate::core::types::Vault;

type Waiter = oneshot::Sender<Result<(), String>>;

/// Shares sealed under the slots of a file.
pub struct FileVault {
    slots: Arc<Mutex<SlotFile>>,
    flusher: Sender<Waiter>,
}

impl FileVault {
    /// On an open slot file.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(slots: SlotFile) -> io::Result<Self> {
        let slots = Arc::new(Mutex::new(slots));
        let (flusher, waiters) = channel();
        let flushed = Arc::clone(&slots);
        std::thread::Builder::new().name("slot-flush".to_owned()).spawn(move || flush_loop(&flushed, &waiters))?;
        Ok(Self { slots, flusher })
    }
}

/// Takes everybody who waits, flushes once, tells them all; until the vault is gone.
fn flush_loop(slots: &Mutex<SlotFile>, waiters: &Receiver<Waiter>) {
    while let Ok(first) = waiters.recv() {
        let mut group = vec![first];
        group.extend(waiters.try_iter());
        let result = flush(slots).map_err(|error| error.to_string());
        for waiter in group {
            // Somebody who went away does not need to know.
            let _ = waiter.send(result.clone());
        }
    }
}

/// The lock is not held while the disk is written.
fn flush(slots: &Mutex<SlotFile>) -> Result<(), SealError> {
    let changes = lock(slots).changes()?;
    let written = changes.write();
    lock(slots).settle(written)
}

impl Vault for FileVault {
    fn seal(&self, record: [u8; 32], secret: &[u8; 32]) -> Result<Vec<u8>, String> {
        let key = lock(&self.slots).add(record, &mut OsRng).map_err(|e| e.to_string())?;
        seal_record(&key, &record, secret, &mut OsRng).map_err(|e| e.to_string())
    }

    fn open(&self, record: [u8; 32], sealed: &[u8]) -> Result<Zeroizing<[u8; 32]>, String> {
        let key = lock(&self.slots).get(record).ok_or("its key slot is gone")?;
        let opened = open_record(&key, &record, sealed).map_err(|e| e.to_string())?;
        let mut secret = Zeroizing::new([0; 32]);
        if opened.len() != secret.len() {
            return Err("the record has another size".to_owned());
        }
        secret.copy_from_slice(&opened);
        Ok(secret)
    }

    fn erase(&self, record: [u8; 32]) -> Result<(), String> {
        lock(&self.slots).remove(record).map_err(|e| e.to_string())
    }

    fn synced(&self) -> BoxFuture<'static, Result<(), String>> {
        let (waiter, done) = oneshot::channel();
        let sent = self.flusher.send(waiter);
        Box::pin(async move {
            let gone = || "the thread that writes the key slots has ended".to_owned();
            sent.map_err(|_| gone())?;
            done.await.map_err(|_| gone())?
        })
    }

    fn records(&self) -> Vec<[u8; 32]> {
        lock(&self.slots).records().collect()
    }
}
