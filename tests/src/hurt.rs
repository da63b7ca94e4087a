//! Hurting the disk of a node: copies, cuts and flipped bits of files, and file systems that are full or fail.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Cluster, Output, PATIENCE, binary, run};

/// A block of RocksDB's log format, bytes.
const BLOCK: usize = 32 << 10;

/// A record of a RocksDB log: a write batch in a write-ahead log, an edit in a manifest.
#[derive(Debug)]
pub struct LogRecord {
    /// Where its first header begins, bytes from the start of the file.
    pub begin: u64,
    /// Where its last byte ends.
    pub end: u64,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl LogRecord {
    /// Number of the last write of a batch.
    ///
    /// # Panics
    /// When it is no batch.
    #[must_use]
    pub fn last_write(&self) -> u64 {
        let (first, rest) = self.bytes.split_first_chunk().expect("the sequence number of a batch");
        let count = rest.first_chunk().expect("the count of a batch");
        (u64::from_le_bytes(*first) + u64::from(u32::from_le_bytes(*count))).saturating_sub(1)
    }
}

/// The records of a log, every checksum checked (RocksDB wiki, "Write Ahead Log File Format": blocks of 32 KiB; header: masked
/// CRC-32C of what follows the length, length, type, and for recycled logs the log's number).
///
/// # Panics
/// When the file is not whole.
#[must_use]
pub fn log_records(path: &Path) -> Vec<LogRecord> {
    let file = fs::read(path).expect("a log");
    let (mut records, mut at, mut open) = (Vec::new(), 0, None::<LogRecord>);
    while at < file.len() {
        let left = BLOCK - at % BLOCK;
        let header = &file[at..file.len().min(at + left.min(7))];
        if header.len() < 7 || header.iter().all(|byte| *byte == 0) {
            at += left;
            continue;
        }
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let (kind, begin) = (header[6], at as u64);
        let skip = if matches!(kind, 5..=8 | 11) { 11 } else { 7 };
        let end = at + skip + length;
        let crc = crc32c(&file[at + 6..end]);
        let masked = crc.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked.to_le_bytes(), file[at..at + 4], "a checksum of {} at {at}", path.display());
        let bytes = &file[at + skip..end];
        match kind {
            1 | 5 => records.push(LogRecord { begin, end: end as u64, bytes: bytes.to_vec() }),
            2 | 6 => open = Some(LogRecord { begin, end: end as u64, bytes: bytes.to_vec() }),
            3 | 4 | 7 | 8 => {
                let record = open.as_mut().expect("a first fragment before this one");
                record.end = end as u64;
                record.bytes.extend_from_slice(bytes);
                if matches!(kind, 4 | 8) {
                    records.extend(open.take());
                }
            }
            // What says how the log is written.
            _ => {}
        }
        at = end;
    }
    records
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (if crc & 1 == 1 { 0x82f6_3b78 } else { 0 });
    !bytes.iter().fold(!0, |crc: u32, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// Copies a directory with everything in it.
#[track_caller]
pub fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to), b"", PATIENCE).exits(0);
}

/// Files of a directory with this at the beginning and at the end of their names, in the order of their names.
///
/// # Panics
/// When the directory cannot be read.
#[must_use]
pub fn files(directory: &Path, begin: &str, end: &str) -> Vec<PathBuf> {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let all = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<PathBuf> =
        all.filter(|path| name(path).starts_with(begin) && name(path).ends_with(end)).collect();
    found.sort();
    found
}

/// Turns this bit of a file around.
///
/// # Panics
/// When the file cannot be changed.
pub fn flip_bit(path: &Path, bit: u64) {
    let file = File::options().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).expect("a byte of the file");
    file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8).expect("a byte of the file");
}

/// Makes a file shorter.
///
/// # Panics
/// When it cannot be changed.
pub fn cut(path: &Path, length: u64) {
    File::options().write(true).open(path).and_then(|file| file.set_len(length)).expect("a file");
}

/// `symbolond check --store` for a node's directory. It ends by itself, with 0 or 1: a panic or a signal is a failure.
#[track_caller]
#[must_use]
pub fn check_store(directory: &Path) -> Output {
    let mut command = Command::new(binary("symbolond"));
    command.args(["check", "--store", "--config"]).arg(directory.join("symbolond.toml"));
    let output = run(&mut command, b"", PATIENCE);
    assert!(matches!(output.code, 0 | 1) && !output.stderr.contains("panicked"), "{output}");
    output
}

/// A file system of its own in the place of a directory, with what was in it. Let go when it is dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Moves the directory of a node that does not run to a disk of its own (ext4 on a loop device; its image lies in
    /// `holding`, and takes room there only as it is written). None where that is not permitted.
    #[must_use]
    pub fn under(cluster: &Cluster, node: usize, mib: u64, holding: &Path) -> Option<Self> {
        let (at, image) = (cluster.node_directory(node), holding.join(format!("disk{node}")));
        File::create_new(&image).and_then(|file| file.set_len(mib << 20)).ok()?;
        let options = ["-q", "-F", "-O", "^has_journal", "-m", "0"];
        call(Command::new("mkfs.ext4").args(options).arg(&image)).then_some(())?;
        let aside = cluster.scratch(&format!("aside{node}"));
        fs::rename(&at, &aside).and_then(|()| fs::create_dir(&at)).ok()?;
        let disk = Self { image, at };
        if !disk.mount() {
            let _ = fs::remove_dir(&disk.at).and_then(|()| fs::rename(&aside, &disk.at));
            return None;
        }
        copy(&aside.join("."), &disk.at);
        Some(disk)
    }

    /// Mounts it.
    #[must_use]
    pub fn mount(&self) -> bool {
        call(Command::new("mount").args(["-o", "loop,noinit_itable"]).arg(&self.image).arg(&self.at))
    }

    /// Mounts it anew, so that only what reached the disk is there.
    #[track_caller]
    pub fn remount(&self) {
        assert!(call(Command::new("umount").arg(&self.at)), "{} is in use", self.at.display());
        call(Command::new("e2fsck").args(["-y", "-f"]).arg(&self.image));
        assert!(self.mount(), "{} cannot be mounted again", self.image.display());
    }

    /// Fills it until so much is free, MiB.
    #[track_caller]
    pub fn fill(&self, leave_mib: u64) {
        fill(&self.at, leave_mib << 20);
    }

    /// Makes room again.
    ///
    /// # Panics
    /// When it was not filled.
    #[track_caller]
    pub fn free(&self) {
        fs::remove_file(self.at.join(FILLER)).expect("the file that fills the disk");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also while somebody still has a file open.
        call(Command::new("umount").arg("-l").arg(&self.at));
    }
}

/// Memory as a disk, for the image of another one: what it has room for is what that one can write.
#[derive(Debug)]
pub struct Memory(PathBuf);

impl Memory {
    /// Mounts it. None where that is not permitted.
    #[must_use]
    pub fn at(path: &Path, mib: u64) -> Option<Self> {
        fs::create_dir(path).ok()?;
        let size = format!("size={mib}m");
        call(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path)).then(|| Self(path.to_owned()))
    }
    /// Fills it.
    #[track_caller]
    pub fn fill(&self) {
        fill(&self.0, 0);
    }
    /// Makes room again.
    ///
    /// # Panics
    /// When it was not filled.
    #[track_caller]
    pub fn free(&self) {
        fs::remove_file(self.0.join(FILLER)).expect("the file that fills the memory");
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        call(Command::new("umount").arg("-l").arg(&self.0));
    }
}

const FILLER: &str = "filler";
/// How exactly a disk is filled, bytes.
const SLACK: u64 = 128 << 10;

#[track_caller]
fn fill(directory: &Path, leave: u64) {
    let free = || {
        let disk = nix::sys::statvfs::statvfs(directory).expect("a file system");
        disk.blocks_available() * disk.fragment_size()
    };
    let more = free().saturating_sub(leave).to_string();
    // Fails at its end, and keeps what it got, where the file system needs some of the room for the file itself.
    call(Command::new("fallocate").arg("--length").arg(more).arg(directory.join(FILLER)));
    assert!(free() <= leave + SLACK, "{} is not full", directory.display());
}

/// Whether a command succeeds; one that is not there does not.
fn call(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_the_castagnoli_one() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
