//! The one error type of sealing. Every message says what to do next.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What went wrong while sealing, unsealing or keeping the key slots.
#[derive(Debug)]
pub enum SealError {
    /// A file that must be new is there already.
    AlreadyExists {
        /// The file.
        path: PathBuf,
    },
    /// Something that cannot happen; a bug of ours.
    Bug {
        /// What happened.
        what: &'static str,
    },
    /// Another process holds the slot file.
    FileInUse {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused an operation.
    Io {
        /// What was tried, as in "cannot {action} {path}".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key file of the wrong length.
    KeyFileLength {
        /// The file.
        path: PathBuf,
    },
    /// A file that must exist does not.
    Missing {
        /// The file.
        path: PathBuf,
        /// What it is, as in "the {what}".
        what: &'static str,
    },
    /// A secret is not in a regular file.
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The parameter file of the passphrase cannot be understood.
    ParamsDamaged {
        /// The file.
        path: PathBuf,
    },
    /// The passphrase and its repetition differ.
    PassphrasesDiffer,
    /// A passphrase that is empty or too long.
    PassphraseUnusable {
        /// Where it came from: a path, or "the terminal".
        origin: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A secret file that others may read or change.
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The operating system gave no randomness.
    RandomUnavailable,
    /// A sealed record in a format that this release does not know.
    RecordFormat {
        /// The format version found.
        found: u8,
    },
    /// The record has a slot already.
    RecordPresent {
        /// The slot file.
        path: PathBuf,
        /// The record, in hexadecimal.
        record: String,
    },
    /// A sealed record that does not open.
    RecordUnreadable,
    /// A sequence number below the stored one.
    SequenceBackwards {
        /// The slot file.
        path: PathBuf,
        /// The stored number.
        stored: u64,
        /// The number that was to be stored.
        asked: u64,
    },
    /// Both copies of the sequence record are bad.
    SequenceUnreadable {
        /// The slot file.
        path: PathBuf,
    },
    /// Both copies of a slot open, have the same generation and say different things; or one record has
    /// two slots.
    SlotContradiction {
        /// The slot file.
        path: PathBuf,
        /// The slot, counted from 0.
        slot: u32,
    },
    /// Both copies of the header are bad.
    SlotFileDamaged {
        /// The slot file.
        path: PathBuf,
    },
    /// The slot file of another node or cluster.
    SlotFileForeign {
        /// The slot file.
        path: PathBuf,
        /// The node it belongs to.
        node: u16,
        /// The cluster it belongs to, in hexadecimal.
        cluster: String,
    },
    /// No further slot can be made.
    SlotFileFull {
        /// The slot file.
        path: PathBuf,
    },
    /// An earlier write or sync failed; what the disk holds is unknown.
    SlotFileStopped {
        /// The slot file.
        path: PathBuf,
    },
    /// Both copies of a slot are bad.
    SlotUnreadable {
        /// The slot file.
        path: PathBuf,
        /// The slot, counted from 0.
        slot: u32,
    },
    /// The passphrase could not be read from the terminal.
    Terminal {
        /// Why.
        source: io::Error,
    },
    /// A file of a format that this release does not know.
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// The format version found.
        found: u16,
    },
    /// The passphrase does not match the parameter file.
    WrongPassphrase {
        /// The parameter file.
        path: PathBuf,
    },
    /// The slot file was sealed under another seal key.
    WrongSealKey {
        /// The slot file.
        path: PathBuf,
    },
}

/// What remains to do when the slots themselves are gone: nobody can bring a wrapping key back, but the
/// cluster can give the node new shares.
const REPLACE_NODE: &str = "the shares sealed under it are lost here, not in the cluster: check the disk, \
     keep this directory as evidence, and bring the node back with an empty store so that it gets new shares";

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyFileLength { .. }
            | Self::Missing { .. }
            | Self::NotAFile { .. }
            | Self::ParamsDamaged { .. }
            | Self::PassphrasesDiffer
            | Self::PassphraseUnusable { .. }
            | Self::Permissions { .. }
            | Self::Terminal { .. }
            | Self::WrongPassphrase { .. }
            | Self::WrongSealKey { .. } => self.fmt_root(f),
            Self::SequenceBackwards { .. }
            | Self::SequenceUnreadable { .. }
            | Self::SlotContradiction { .. }
            | Self::SlotFileDamaged { .. }
            | Self::SlotFileForeign { .. }
            | Self::SlotFileFull { .. }
            | Self::SlotFileStopped { .. }
            | Self::SlotUnreadable { .. } => self.fmt_slots(f),
            Self::AlreadyExists { .. }
            | Self::Bug { .. }
            | Self::FileInUse { .. }
            | Self::Io { .. }
            | Self::RandomUnavailable
            | Self::RecordFormat { .. }
            | Self::RecordPresent { .. }
            | Self::RecordUnreadable
            | Self::UnsupportedFormat { .. } => self.fmt_common(f),
        }
    }
}

impl std::error::Error for SealError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } | Self::Terminal { source } => Some(source),
            _ => None,
        }
    }
}

impl SealError {
    /// Messages about the root: key file, passphrase, terminal.
    fn fmt_root(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyFileLength { path } => write!(
                f,
                "the key file {} does not hold exactly 32 bytes: put the right key file there; \
                 if this node never finished its first start, delete the file and let a new one be made",
                path.display()
            ),
            Self::Missing { path, what } => write!(
                f,
                "the {what} {} does not exist: check the path in the configuration; \
                 a node that has stored anything needs the same file again",
                path.display()
            ),
            Self::NotAFile { path } => {
                write!(f, "{} is not a regular file: put the secret into an ordinary file", path.display())
            }
            Self::ParamsDamaged { path } => write!(
                f,
                "the passphrase parameters in {} are damaged: restore this file from a backup of the same \
                 node; if this node never finished its first start, delete it and start again",
                path.display()
            ),
            Self::PassphrasesDiffer => {
                f.write_str("the two passphrases differ: start again and type the same one twice")
            }
            Self::PassphraseUnusable { origin, why } => {
                write!(f, "the passphrase from {origin} is {why}: use one of 1 to 1024 bytes")
            }
            Self::Permissions { path, mode } => write!(
                f,
                "{} is open to group or others (mode {mode:04o}): run `chmod 600 {}`",
                path.display(),
                path.display()
            ),
            Self::Terminal { source } => write!(
                f,
                "cannot read a passphrase from the terminal ({source}): start from a terminal, \
                 or configure a passphrase file"
            ),
            Self::WrongPassphrase { path } => write!(
                f,
                "wrong passphrase for {}: give the passphrase that this node was created with; \
                 if it is surely right, restore that file from a backup of the same node",
                path.display()
            ),
            Self::WrongSealKey { path } => write!(
                f,
                "{} was sealed under another seal key: configure the key file or passphrase that this \
                 node was created with (if it is surely that one, the header is damaged); nothing was changed",
                path.display()
            ),
            _ => fmt::Debug::fmt(self, f),
        }
    }

    /// Messages about the slot file.
    fn fmt_slots(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SequenceBackwards { path, stored, asked } => write!(
                f,
                "{} holds sequence number {stored}, and {asked} is lower: the store has lost its last \
                 writes; keep the node stopped and follow the quarantine steps of the operating guide",
                path.display()
            ),
            Self::SequenceUnreadable { path } => {
                write!(f, "both copies of the sequence record in {} are damaged: {REPLACE_NODE}", path.display())
            }
            Self::SlotContradiction { path, slot } => write!(
                f,
                "slot {slot} in {} contradicts its other copy or another slot (pieces of two histories): {REPLACE_NODE}",
                path.display()
            ),
            Self::SlotFileDamaged { path } => {
                write!(f, "both copies of the header of {} are damaged: {REPLACE_NODE}", path.display())
            }
            Self::SlotFileForeign { path, node, cluster } => write!(
                f,
                "{} belongs to node {node} of cluster {cluster}: point this node at its own data directory",
                path.display()
            ),
            Self::SlotFileFull { path } => write!(
                f,
                "{} has no room for another slot: destroy keys that are no longer needed, or move keys to other nodes",
                path.display()
            ),
            Self::SlotFileStopped { path } => write!(
                f,
                "an earlier write to {} failed and what the disk holds is unknown: check the disk, then restart the node",
                path.display()
            ),
            Self::SlotUnreadable { path, slot } => {
                write!(f, "both copies of slot {slot} in {} are damaged: {REPLACE_NODE}", path.display())
            }
            _ => fmt::Debug::fmt(self, f),
        }
    }

    /// Messages that belong to no single file.
    fn fmt_common(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyExists { path } => {
                write!(f, "{} exists already and is never overwritten: use it, or move it away first", path.display())
            }
            Self::Bug { what } => write!(f, "{what}: this is a bug in symbolond, please report it"),
            Self::FileInUse { path } => write!(
                f,
                "{} is held by another process: stop the other symbolond that uses this data directory",
                path.display()
            ),
            Self::Io { action, path, source } => write!(
                f,
                "cannot {action} {}: {source}; check the path, its owner and the free space, then start again",
                path.display()
            ),
            Self::RandomUnavailable => f.write_str(
                "the operating system gives no random bytes: check that getrandom(2) is allowed, then start again",
            ),
            Self::RecordFormat { found } => write!(
                f,
                "a sealed record has format {found}, which this release does not know: run the release that wrote it"
            ),
            Self::RecordPresent { path, record } => {
                write!(f, "record {record} has a slot in {} already: erase it before writing it again", path.display())
            }
            Self::RecordUnreadable => f.write_str(
                "a sealed record does not open (damaged, or not the one its slot belongs to): \
                 treat it as lost and let the key be healed",
            ),
            Self::UnsupportedFormat { path, found } => write!(
                f,
                "{} has format {found}, which this release does not know: run the release that wrote it; nothing was changed",
                path.display()
            ),
            _ => fmt::Debug::fmt(self, f),
        }
    }
}
