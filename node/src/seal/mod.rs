//! Sealing: what a node keeps secret on its disk, and how it is made to disappear.
//!
//! Three layers, from the outside in:
//!
//! 1. [`SealKey`], the root of one node: 32 bytes from a key file or from a passphrase through Argon2id.
//! 2. [`SlotFile`], sealed under the root: a small file of key slots that is overwritten in place. Each
//!    slot holds the random [`WrappingKey`] of one record.
//! 3. [`seal_record`] and [`open_record`]: the record itself (a share), sealed under its own wrapping key
//!    and kept in RocksDB.
//!
//! A RocksDB delete does not erase: old values stay in older files, in the write-ahead log and in backups.
//! So erasing a record means overwriting its slot. Once the changes after [`SlotFile::remove`] are written,
//! every copy of the sealed record, wherever it is, is noise.
//!
//! # What this guarantees
//!
//! - A disk or a backup without the root gives neither shares nor wrapping keys.
//! - [`Changes::write`] returns only when both copies of every slot that changed are synced.
//! - A crash at any point leaves at least one good copy of every slot; the other is repaired at open.
//! - A slot moved to another place, another copy, another node or another cluster is refused.
//! - One copy of a slot put back to an older state loses against the other, newer copy.
//! - The file remembers the last critical write of the store ([`SlotFile::sequence`]), so a store that
//!   lost its tail is noticed.
//!
//! # What it does not guarantee
//!
//! - That the drive forgets. Flash translation layers, copy-on-write file systems (btrfs, ZFS), snapshots
//!   and `data=journal` may keep the old blocks. Whoever has such blocks *and* the root reads what was
//!   erased. Keep the root off that disk, and the slot file on a file system that overwrites in place.
//! - That the whole file is new. Both copies of a slot, or the whole file, put back from a backup look
//!   right. The boot counter that peers remember and the sequence number catch the rolled-back node.
//! - Anything against someone who reads the memory of the running process. `harden` makes that harder.

mod error;
mod files;
mod passphrase;
mod record;
mod root;
mod secret;
mod slots;
mod vault;

pub use error::SealError;
pub use passphrase::{PassphraseSource, SEAL_PARAMS_FILE};
pub use record::{RECORD_OVERHEAD, WrappingKey, open_record, seal_record};
pub use root::{KeyFile, SealKey};
pub use slots::{Changes, RecordId, SlotFile, Written};
pub use vault::FileVault;
