//! Files that are read and written.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use symbolon_client::Error;
use symbolon_protocol::error::ErrorCode;

use super::out::{Done, Stop};

/// Longest key or signature file, bytes.
pub(crate) const SMALL_BYTES: usize = 64 * 1024;

/// Opens a file; `-` is standard input.
pub(crate) fn open(path: &Path) -> Done<Box<dyn Read>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).map_err(|error| Error::file("read", path, &error))?;
    Ok(Box::new(file))
}

/// The error of reading a file.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Stop {
    Error::file("read", path, error).into()
}

/// Reads a whole file of at most `limit` bytes; none when it is longer.
pub(crate) fn read(path: &Path, limit: usize) -> Done<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    open(path)?.take(most).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    Ok((bytes.len() <= limit).then_some(bytes))
}

/// Reads a key or signature file.
pub(crate) fn read_small(path: &Path) -> Done<Vec<u8>> {
    read(path, SMALL_BYTES)?.ok_or_else(|| {
        let message = format!("{} has more than {SMALL_BYTES} bytes: it is no key or signature", path.display());
        Error::new(ErrorCode::LocalFile, message).into()
    })
}

/// Writes a file as a whole or not at all: another one is written beside it and renamed. What is no ordinary file (a pipe,
/// /dev/stdout) is written in place.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Done {
    let special = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
    let result = if special {
        OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(bytes))
    } else {
        replace(path, bytes)
    };
    result.map_err(|error| Error::file("write", path, &error).into())
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A link stays a link.
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let new = beside(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&new);
    }
    written
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.new", std::process::id()));
    Ok(path.with_file_name(hidden))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signature");
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(read_small(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write(&link, b"third").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read_small(&path).unwrap(), b"third");
    }

    #[test]
    fn devices_are_written_in_place_and_directories_not_at_all() {
        write(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
        let directory = tempfile::tempdir().unwrap();
        assert!(write(directory.path(), b"x").is_err());
        assert!(write(&directory.path().join("missing/file"), b"x").is_err());
    }

    #[test]
    fn long_files_are_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read(&path, 10).unwrap().map(|bytes| bytes.len()), Some(10));
        assert_eq!(read(&path, 9).unwrap(), None);
    }
}
