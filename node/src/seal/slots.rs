//! The key-slot file: one wrapping key for each record, overwritten in place when the record is erased.
//!
//! See `layout` for the bytes. Every change is written and synced on side A, then on side B; so at any
//! moment at least one side of every slot is whole, and the newer of two whole sides is the truth. Changes
//! that wait at the same time share the two syncs.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand_core::{CryptoRng, OsRng, RngCore};
use tracing::warn;

use self::changes::Change;
pub use self::changes::{Changes, Written};
use self::layout::{
    Content, FileKeys, Header, HeaderSide, MAX_SLOTS, PAGE_LEN, REGION_LEN, SLOT_LEN, SLOTS_PER_SEGMENT, Sequence,
    Side, Slot,
};
use super::error::SealError;
use super::files::{PRIVATE_MODE, io_error, sync_parent};
use super::record::WrappingKey;
use super::root::SealKey;

mod changes;
mod layout;
#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests;

/// The identifier of a record: 32 bytes, unique within the node, chosen by the caller.
pub type RecordId = [u8; 32];

/// Generation of a slot that was never used.
const FIRST_GENERATION: u64 = 1;

/// The open slot file of a node. It holds an exclusive lock on the file while it lives.
///
/// After a write or sync has failed, nobody knows what the disk holds: every later change is refused with
/// [`SealError::SlotFileStopped`], and the node must stop. The next open reads what is really there.
pub struct SlotFile {
    path: PathBuf,
    file: Arc<File>,
    keys: FileKeys,
    header: Header,
    sequence: Sequence,
    used: BTreeMap<RecordId, UsedSlot>,
    /// Generation of each free slot, by position.
    free: BTreeMap<u32, u64>,
    /// Changed in memory and not yet on disk, in the order of the changes.
    changed: Vec<Change>,
    stopped: bool,
}

struct UsedSlot {
    position: u32,
    generation: u64,
    key: WrappingKey,
}

/// One side of a slot, sealed anew because it was bad or old.
struct Repair {
    side: Side,
    position: u32,
    sealed: Vec<u8>,
}

impl SlotFile {
    /// Makes a new slot file with 256 free slots and sequence number 0. It gets its name only when it is
    /// whole: a crash on the way leaves at most `PATH.new`, which the next attempt removes.
    ///
    /// # Errors
    /// [`SealError::AlreadyExists`] when `path` is there; [`SealError::Io`]; [`SealError::RandomUnavailable`].
    pub fn create(path: &Path, seal: &SealKey, cluster: [u8; 32], node: u16) -> Result<Self, SealError> {
        if path.try_exists().map_err(io_error("examine", path))? {
            return Err(SealError::AlreadyExists { path: path.to_owned() });
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let unfinished = PathBuf::from(name);
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove the unfinished file", &unfinished)(error));
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(PRIVATE_MODE)
            .open(&unfinished)
            .map_err(io_error("create", &unfinished))?;
        let mut slots = Self::locked(path, file, FileKeys::new(seal, cluster, node)?)?;
        slots.grow(&mut OsRng)?;
        slots.write_sequence(Sequence { value: 0, generation: 0 })?;
        slots.write_sequence(Sequence { value: 0, generation: 1 })?;
        fs::rename(&unfinished, path).map_err(io_error("rename the finished file to", path))?;
        sync_parent(path)?;
        Ok(slots)
    }

    /// Opens the slot file, checks every slot, and repairs sides that a torn write has left bad or old.
    ///
    /// # Errors
    /// [`SealError::Missing`]; [`SealError::FileInUse`]; [`SealError::WrongSealKey`];
    /// [`SealError::SlotFileForeign`]; [`SealError::UnsupportedFormat`]; when both sides of something are
    /// bad, [`SealError::SlotFileDamaged`], [`SealError::SequenceUnreadable`] or
    /// [`SealError::SlotUnreadable`]; [`SealError::SlotContradiction`]; [`SealError::Io`].
    pub fn open(path: &Path, seal: &SealKey, cluster: [u8; 32], node: u16) -> Result<Self, SealError> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                SealError::Missing { path: path.to_owned(), what: "key-slot file" }
            } else {
                io_error("open", path)(error)
            }
        })?;
        let mut slots = Self::locked(path, file, FileKeys::new(seal, cluster, node)?)?;
        slots.load_header()?;
        slots.load_sequence()?;
        slots.load_slots()?;
        Ok(slots)
    }

    /// Gives `record` a slot with a fresh random wrapping key, on disk once the next [`Changes`] are; the file grows
    /// when it is full.
    ///
    /// # Errors
    /// [`SealError::RecordPresent`]; [`SealError::SlotFileFull`]; [`SealError::SlotFileStopped`];
    /// [`SealError::RandomUnavailable`]; [`SealError::Io`].
    pub fn add(&mut self, record: RecordId, rng: &mut (impl RngCore + CryptoRng)) -> Result<WrappingKey, SealError> {
        self.check_running()?;
        if self.used.contains_key(&record) {
            // A new key in its place would turn the sealed record into noise.
            return Err(SealError::RecordPresent { path: self.path.clone(), record: hex::encode(record) });
        }
        if self.free.is_empty() {
            self.grow(rng)?;
        }
        let Some((&position, &old)) = self.free.first_key_value() else {
            return Err(SealError::Bug { what: "no free slot after the slot file has grown" });
        };
        let generation = next(old)?;
        let key = WrappingKey::generate(rng)?;
        let slot = Slot { generation, content: Content::Used { record, key: key.duplicate() } };
        self.change(position, &slot, rng)?;
        self.free.remove(&position);
        self.adopt(position, slot)?;
        Ok(key)
    }

    /// Erases the wrapping key of `record`: here at once, on disk once the next [`Changes`] are. A record without a slot is
    /// erased already, or is so with those.
    ///
    /// # Errors
    /// [`SealError::SlotFileStopped`]; [`SealError::RandomUnavailable`].
    pub fn remove(&mut self, record: RecordId) -> Result<(), SealError> {
        self.check_running()?;
        let Some(used) = self.used.get(&record) else { return Ok(()) };
        let (position, generation) = (used.position, next(used.generation)?);
        self.change(position, &Slot { generation, content: Content::Free }, &mut OsRng)?;
        self.used.remove(&record);
        self.free.insert(position, generation);
        Ok(())
    }

    /// Takes what has been changed and is not on disk, to be written; [`SlotFile::settle`] is to be told how that ended.
    ///
    /// # Errors
    /// [`SealError::SlotFileStopped`].
    pub fn changes(&mut self) -> Result<Changes, SealError> {
        self.check_running()?;
        Ok(Changes { file: Arc::clone(&self.file), changes: std::mem::take(&mut self.changed) })
    }

    /// Takes note of how writing ended.
    ///
    /// # Errors
    /// [`SealError::Io`] when it failed; everything that was changed since then counts as not done.
    pub fn settle(&mut self, written: Written) -> Result<(), SealError> {
        // A second try after a failed one may succeed without the data being there: never try again.
        self.stopped |= written.is_err();
        written.map_err(|(action, error)| io_error(action, &self.path)(error))
    }

    /// Stores the sequence number of the last critical synced write of the store; one sync. A number equal
    /// to the stored one costs nothing.
    ///
    /// # Errors
    /// [`SealError::SequenceBackwards`] for a lower number; [`SealError::SlotFileStopped`]; [`SealError::Io`].
    pub fn set_sequence(&mut self, value: u64) -> Result<(), SealError> {
        self.check_running()?;
        let stored = self.sequence.value;
        if value < stored {
            return Err(SealError::SequenceBackwards { path: self.path.clone(), stored, asked: value });
        }
        if value == stored {
            return Ok(());
        }
        self.write_sequence(Sequence { value, generation: next(self.sequence.generation)? })
    }

    /// The stored sequence number. A store that opens with a lower one has lost its tail.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence.value
    }

    /// The wrapping key of `record`, if it has a slot.
    #[must_use]
    pub fn get(&self, record: RecordId) -> Option<WrappingKey> {
        self.used.get(&record).map(|used| used.key.duplicate())
    }

    /// The records that have a slot, in ascending order.
    pub fn records(&self) -> impl Iterator<Item = RecordId> {
        self.used.keys().copied()
    }

    /// Locks `file` and wraps it, with nothing loaded.
    fn locked(path: &Path, file: File, keys: FileKeys) -> Result<Self, SealError> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SealError::FileInUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(io_error("lock", path)(error)),
        }
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            keys,
            header: Header { capacity: 0, generation: 0 },
            sequence: Sequence { value: 0, generation: 0 },
            used: BTreeMap::new(),
            free: BTreeMap::new(),
            changed: Vec::new(),
            stopped: false,
        })
    }

    fn load_header(&mut self) -> Result<(), SealError> {
        let mut sides = Vec::with_capacity(Side::BOTH.len());
        for side in Side::BOTH {
            sides.push(self.keys.decode_header(side, &self.read(side.header_offset(), PAGE_LEN)?)?);
        }
        let good = sides.iter().filter_map(|side| match side {
            HeaderSide::Good(header) => Some(*header),
            _ => None,
        });
        let Some(best) = good.max_by_key(|header| header.generation) else {
            return Err(self.header_error(&sides));
        };
        self.header = best;
        for (side, found) in Side::BOTH.into_iter().zip(&sides) {
            if !matches!(found, HeaderSide::Good(header) if *header == best) {
                warn!(path = %self.path.display(), ?side, "header of the slot file repaired from its other copy");
                let page = self.keys.encode_header(side, best)?;
                self.put(side.header_offset(), &page)?;
            }
        }
        Ok(())
    }

    /// The most telling reason why no side of the header is good.
    fn header_error(&self, sides: &[HeaderSide]) -> SealError {
        let path = || self.path.clone();
        let mut error = SealError::SlotFileDamaged { path: path() };
        for side in sides {
            match side {
                HeaderSide::OtherFormat(found) => {
                    return SealError::UnsupportedFormat { path: path(), found: *found };
                }
                HeaderSide::Foreign { node, cluster } => {
                    return SealError::SlotFileForeign { path: path(), node: *node, cluster: hex::encode(cluster) };
                }
                HeaderSide::OtherKey => error = SealError::WrongSealKey { path: path() },
                HeaderSide::Good(_) | HeaderSide::Damaged => {}
            }
        }
        error
    }

    fn load_sequence(&mut self) -> Result<(), SealError> {
        let mut good = Vec::with_capacity(Side::BOTH.len());
        for side in Side::BOTH {
            good.extend(self.keys.decode_sequence(side, &self.read(side.sequence_offset(), PAGE_LEN)?)?);
        }
        let Some(best) = good.iter().max_by_key(|sequence| sequence.generation) else {
            return Err(SealError::SequenceUnreadable { path: self.path.clone() });
        };
        self.sequence = *best;
        if good.len() < Side::BOTH.len() {
            // The next generation goes to the other side, which is the bad one.
            warn!(path = %self.path.display(), "sequence record of the slot file repaired from its other copy");
            self.write_sequence(Sequence { value: best.value, generation: next(best.generation)? })?;
        }
        Ok(())
    }

    fn load_slots(&mut self) -> Result<(), SealError> {
        let mut repairs = Vec::new();
        for segment in 0..self.header.capacity / SLOTS_PER_SEGMENT {
            let region_a = self.read(Side::A.region_offset(segment), REGION_LEN)?;
            let region_b = self.read(Side::B.region_offset(segment), REGION_LEN)?;
            let pairs = region_a.chunks_exact(SLOT_LEN).zip(region_b.chunks_exact(SLOT_LEN));
            for (position, (a, b)) in (segment * SLOTS_PER_SEGMENT..).zip(pairs) {
                let (slot, repair) = self.resolve(position, a, b)?;
                repairs.extend(repair);
                self.adopt(position, slot)?;
            }
        }
        self.repair(&repairs)
    }

    /// Decides between the two sides of a slot, and seals the one that lost anew.
    fn resolve(&self, position: u32, a: &[u8], b: &[u8]) -> Result<(Slot, Option<Repair>), SealError> {
        let a = self.keys.open_slot(Side::A, position, a);
        let b = self.keys.open_slot(Side::B, position, b);
        let (slot, lost) = match (a, b) {
            (None, None) => return Err(SealError::SlotUnreadable { path: self.path.clone(), slot: position }),
            (Some(a), None) => (a, Side::B),
            (None, Some(b)) => (b, Side::A),
            (Some(a), Some(b)) if a.generation > b.generation => (a, Side::B),
            (Some(a), Some(b)) if a.generation < b.generation => (b, Side::A),
            (Some(a), Some(b)) if a.content.same(&b.content) => return Ok((a, None)),
            (Some(_), Some(_)) => {
                return Err(SealError::SlotContradiction { path: self.path.clone(), slot: position });
            }
        };
        let sealed = self.keys.seal_slot(lost, position, &slot, &mut OsRng)?;
        Ok((slot, Some(Repair { side: lost, position, sealed })))
    }

    /// Takes a slot that is on disk into memory.
    fn adopt(&mut self, position: u32, slot: Slot) -> Result<(), SealError> {
        match slot.content {
            Content::Free => {
                self.free.insert(position, slot.generation);
            }
            Content::Used { record, key } => {
                let used = UsedSlot { position, generation: slot.generation, key };
                if self.used.insert(record, used).is_some() {
                    // `write` refuses a second slot for a record, so this file was pieced together.
                    return Err(SealError::SlotContradiction { path: self.path.clone(), slot: position });
                }
            }
        }
        Ok(())
    }

    /// Writes the repairs, side by side: while one side is being written, all of the other is left alone.
    fn repair(&mut self, repairs: &[Repair]) -> Result<(), SealError> {
        for side in Side::BOTH {
            let mut written = false;
            for repair in repairs.iter().filter(|repair| repair.side == side) {
                warn!(path = %self.path.display(), slot = repair.position, ?side, "key slot repaired from its other copy");
                self.write_at(side.slot_offset(repair.position), &repair.sealed)?;
                written = true;
            }
            if written {
                self.sync()?;
            }
        }
        Ok(())
    }

    /// Adds a segment of free slots at the end. It counts only from the moment the header says so.
    fn grow(&mut self, rng: &mut (impl RngCore + CryptoRng)) -> Result<(), SealError> {
        self.check_running()?;
        let first = self.header.capacity;
        let capacity = first.saturating_add(SLOTS_PER_SEGMENT);
        if capacity > MAX_SLOTS {
            return Err(SealError::SlotFileFull { path: self.path.clone() });
        }
        let free = Slot { generation: FIRST_GENERATION, content: Content::Free };
        for side in Side::BOTH {
            let mut region = Vec::with_capacity(REGION_LEN);
            for position in first..capacity {
                region.extend_from_slice(&self.keys.seal_slot(side, position, &free, rng)?);
            }
            // A failed write here (a full disk) stops nothing: no slot lies there yet.
            let offset = side.region_offset(first / SLOTS_PER_SEGMENT);
            self.file.write_all_at(&region, offset).map_err(io_error("enlarge", &self.path))?;
        }
        self.sync()?;
        let header = Header { capacity, generation: next(self.header.generation)? };
        for side in Side::BOTH {
            let page = self.keys.encode_header(side, header)?;
            self.put(side.header_offset(), &page)?;
        }
        self.header = header;
        self.free.extend((first..capacity).map(|position| (position, FIRST_GENERATION)));
        Ok(())
    }

    /// Seals a slot for the next [`Changes`]. The rest of memory is the caller's to change, afterwards.
    fn change(&mut self, position: u32, slot: &Slot, rng: &mut (impl RngCore + CryptoRng)) -> Result<(), SealError> {
        let a = self.keys.seal_slot(Side::A, position, slot, rng)?;
        let b = self.keys.seal_slot(Side::B, position, slot, rng)?;
        self.changed.push(Change { position, a, b });
        Ok(())
    }

    fn write_sequence(&mut self, sequence: Sequence) -> Result<(), SealError> {
        let side = Side::of_sequence(sequence.generation);
        let page = self.keys.encode_sequence(side, sequence)?;
        self.put(side.sequence_offset(), &page)?;
        self.sequence = sequence;
        Ok(())
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SealError> {
        self.write_at(offset, bytes)?;
        self.sync()
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SealError> {
        let written = self.file.write_all_at(bytes, offset);
        self.stop_on_error("write", written)
    }

    fn sync(&mut self) -> Result<(), SealError> {
        // A second sync after a failed one may succeed without the data being there: never try again.
        let synced = self.file.sync_data();
        self.stop_on_error("sync", synced)
    }

    fn stop_on_error(&mut self, action: &'static str, result: io::Result<()>) -> Result<(), SealError> {
        self.stopped |= result.is_err();
        result.map_err(io_error(action, &self.path))
    }

    fn check_running(&self) -> Result<(), SealError> {
        if self.stopped { Err(SealError::SlotFileStopped { path: self.path.clone() }) } else { Ok(()) }
    }

    /// Reads `length` bytes; past the end of the file they are zero, which no check accepts.
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, SealError> {
        let mut bytes = vec![0; length];
        let (mut rest, mut offset) = (bytes.as_mut_slice(), offset);
        while !rest.is_empty() {
            match self.file.read_at(rest, offset) {
                Ok(0) => break,
                Ok(count) => {
                    rest = rest.get_mut(count..).unwrap_or_default();
                    offset = offset.saturating_add(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_error("read", &self.path)(error)),
            }
        }
        Ok(bytes)
    }
}

impl fmt::Debug for SlotFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotFile")
            .field("path", &self.path)
            .field("capacity", &self.header.capacity)
            .field("used", &self.used.len())
            .field("sequence", &self.sequence.value)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}

/// The generation after `generation`.
fn next(generation: u64) -> Result<u64, SealError> {
    generation.checked_add(1).ok_or(SealError::Bug { what: "a generation counter is at its end" })
}
