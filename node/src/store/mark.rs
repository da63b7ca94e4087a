//! How far a store was synced, in a small file beside it: a write-ahead log cannot tell that its own end is missing.
//!
//! Written after each sync of the log and not synced itself, so that it costs nothing: the kernel writes it out within half a
//! minute. It never says more than is true, and when it is lost only the warning is lost.
//!
//! Layout, 16 bytes: number of the last synced write (u64, big-endian), the first 8 bytes of
//! `H("symbolon/synced/v1", these 8 bytes)`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use symbolon_protocol::identity::tagged_hash;

const CHECK: &str = "symbolon/synced/v1";

/// The open file.
pub(super) struct Mark(File);

fn path(store: &Path) -> PathBuf {
    store.with_extension("synced")
}

fn encode(sequence: u64) -> Vec<u8> {
    let number = sequence.to_be_bytes();
    let mut bytes = number.to_vec();
    bytes.extend(tagged_hash(CHECK, &number).as_bytes().iter().take(8));
    bytes
}

impl Mark {
    /// Opens or makes the file of the store in a directory.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn open(store: &Path) -> io::Result<Self> {
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path(store))?;
        Ok(Self(file))
    }

    /// Notes that everything up to a write is durable.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn set(&self, sequence: u64) -> io::Result<()> {
        self.0.write_all_at(&encode(sequence), 0)
    }
}

/// The last write that was synced for certain; 0 where nothing is known.
///
/// # Errors
/// What the file system says.
pub(super) fn synced(store: &Path) -> io::Result<u64> {
    let bytes = match fs::read(path(store)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        read => read?,
    };
    let sequence = bytes.first_chunk().map(|number| u64::from_be_bytes(*number));
    let known = sequence.filter(|sequence| encode(*sequence) == bytes);
    if known.is_none() && !bytes.is_empty() {
        tracing::warn!(file = %path(store).display(), "damaged: a tail that the store lost would not be noticed at this start");
    }
    Ok(known.unwrap_or(0))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_set_last_and_nothing_when_it_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("store");
        assert_eq!(synced(&store).unwrap(), 0);
        let mark = Mark::open(&store).unwrap();
        assert_eq!(synced(&store).unwrap(), 0);
        for number in [7, u64::MAX, 8] {
            mark.set(number).unwrap();
            assert_eq!(synced(&store).unwrap(), number);
        }
        drop(Mark::open(&store).unwrap());
        assert_eq!(synced(&store).unwrap(), 8, "opening forgets nothing");
        let good = fs::read(path(&store)).unwrap();
        for bit in 0..good.len() * 8 {
            let mut hurt = good.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            fs::write(path(&store), hurt).unwrap();
            assert_eq!(synced(&store).unwrap(), 0, "bit {bit}");
        }
        for length in 0..good.len() {
            fs::write(path(&store), &good[..length]).unwrap();
            assert_eq!(synced(&store).unwrap(), 0, "length {length}");
        }
    }
}
