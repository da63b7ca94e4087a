//! Changes of slots on their way to the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::layout::Side;

/// How writing ended; a failure with what was tried.
pub type Written = Result<(), (&'static str, io::Error)>;

/// Both sides of a slot, sealed.
pub(super) struct Change {
    pub(super) position: u32,
    pub(super) a: Vec<u8>,
    pub(super) b: Vec<u8>,
}

/// Changes that are written together. They do not need the slot file, which can be read and changed meanwhile; but only one
/// batch may be under way at a time, and in the order in which they were taken.
pub struct Changes {
    pub(super) file: Arc<File>,
    pub(super) changes: Vec<Change>,
}

impl Changes {
    /// Writes and syncs side A of all of them, then side B: while one side is being written, all of the other is left alone.
    ///
    /// # Errors
    /// What the file system says; which of the changes the disk has is not known then.
    pub fn write(&self) -> Written {
        if self.changes.is_empty() {
            return Ok(());
        }
        for side in Side::BOTH {
            for change in &self.changes {
                let bytes = match side {
                    Side::A => &change.a,
                    Side::B => &change.b,
                };
                self.file.write_all_at(bytes, side.slot_offset(change.position)).map_err(|error| ("write", error))?;
            }
            self.file.sync_data().map_err(|error| ("sync", error))?;
        }
        Ok(())
    }
}
