//! Small files with secrets or parameters: read with a permission check, written once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use super::error::SealError;

/// Permission bits of every file made here.
pub(super) const PRIVATE_MODE: u32 = 0o600;

/// Permission bits of group and others; none may be set on a file with a secret.
const OTHERS_MASK: u32 = 0o077;

/// Turns an I/O error into ours; for `map_err`.
pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SealError {
    move |source| SealError::Io { action, path: path.to_owned(), source }
}

/// Fills `bytes` from `rng`.
///
/// # Errors
/// [`SealError::RandomUnavailable`] when the generator fails.
pub(super) fn random(rng: &mut (impl RngCore + CryptoRng), bytes: &mut [u8]) -> Result<(), SealError> {
    rng.try_fill_bytes(bytes).map_err(|_| SealError::RandomUnavailable)
}

/// Reads a secret file of at most `max` bytes; `what` names it in the error when it is missing.
/// Returns `None` when it is longer.
///
/// # Errors
/// [`SealError::Missing`], [`SealError::NotAFile`], [`SealError::Permissions`], [`SealError::Io`].
pub(super) fn read_private(
    path: &Path,
    what: &'static str,
    max: usize,
) -> Result<Option<Zeroizing<Vec<u8>>>, SealError> {
    let file = open_existing(path, what)?;
    // Asked of the open file, so that the answer is about the bytes that are read.
    let metadata = file.metadata().map_err(io_error("examine", path))?;
    if !metadata.is_file() {
        return Err(SealError::NotAFile { path: path.to_owned() });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS_MASK != 0 {
        return Err(SealError::Permissions { path: path.to_owned(), mode });
    }
    read_bounded(file, path, max)
}

/// Reads a file without secrets of at most `max` bytes. Returns `None` when it is longer.
///
/// # Errors
/// [`SealError::Missing`], [`SealError::Io`].
pub(super) fn read_public(
    path: &Path,
    what: &'static str,
    max: usize,
) -> Result<Option<Zeroizing<Vec<u8>>>, SealError> {
    read_bounded(open_existing(path, what)?, path, max)
}

/// Writes a new file with mode 0600, and syncs it and its directory.
///
/// # Errors
/// [`SealError::AlreadyExists`] when the file is there; [`SealError::Io`].
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), SealError> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(PRIVATE_MODE).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(SealError::AlreadyExists { path: path.to_owned() });
        }
        Err(error) => return Err(io_error("create", path)(error)),
    };
    if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()) {
        // Half a file would look like a damaged one at the next start; the first error is the one to tell.
        drop(fs::remove_file(path));
        return Err(io_error("write", path)(error));
    }
    sync_parent(path)
}

/// Syncs the directory of `path`, so that a new name in it survives a power cut.
///
/// # Errors
/// [`SealError::Io`].
pub(super) fn sync_parent(path: &Path) -> Result<(), SealError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    File::open(&parent).and_then(|directory| directory.sync_all()).map_err(io_error("sync the directory", &parent))
}

fn open_existing(path: &Path, what: &'static str) -> Result<File, SealError> {
    File::open(path).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            SealError::Missing { path: path.to_owned(), what }
        } else {
            io_error("open", path)(error)
        }
    })
}

/// Reads into a buffer that never grows: a growing one leaves pieces of the secret behind in freed memory.
fn read_bounded(mut file: File, path: &Path, max: usize) -> Result<Option<Zeroizing<Vec<u8>>>, SealError> {
    let mut buffer = Zeroizing::new(vec![0; max.saturating_add(1)]);
    let mut length: usize = 0;
    while let Some(space) = buffer.get_mut(length..) {
        match file.read(space) {
            Ok(0) => break,
            Ok(count) => length = length.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error("read", path)(error)),
        }
    }
    buffer.truncate(length);
    Ok((length <= max).then_some(buffer))
}
