//! What the machine gives this process, for `doctor`: disk space, open files, the slot file, and what [`crate::harden`] got.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use symbolon_protocol::limits;
use symbolon_protocol::state::view::{Check, Level};

use crate::core::types::DISK_RESERVE_BYTES;
use crate::harden::Protection;

/// Files that a node has open besides its connections: the store's tables and logs, the slot file, listeners.
const OWN_FILES: u64 = 512;
/// Of the open files that are allowed, this part in use is a failure, percent.
const FILES_FULL_PERCENT: u64 = 90;
/// What is read at each end of the slot file, bytes.
const SLOT_PROBE_BYTES: u64 = 4_096;

/// The machine as a node sees it.
#[derive(Debug)]
pub struct Host {
    /// The node's directory.
    pub data: PathBuf,
    /// The slot file.
    pub slots: PathBuf,
    /// Connections that its listeners may take together.
    pub connections: u64,
    /// What the process gave up at its start.
    pub protections: Vec<Protection>,
}

impl Host {
    /// Looks at everything.
    #[must_use]
    pub fn examine(&self) -> Vec<Check> {
        let mut checks = vec![disk_space(&self.data), slot_file(&self.slots), open_files(self.connections)];
        checks.extend(self.protections.iter().map(protection));
        checks
    }

    /// Free space in the data directory, bytes; none where it cannot be looked at.
    #[must_use]
    pub fn disk_free(&self) -> u64 {
        free_bytes(&self.data).unwrap_or(0)
    }
}

fn free_bytes(data: &Path) -> nix::Result<u64> {
    let disk = statvfs(data)?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

fn disk_space(data: &Path) -> Check {
    const NAME: &str = "disk_space";
    let bytes = match free_bytes(data) {
        Ok(bytes) => bytes,
        Err(error) => {
            let detail = format!("the data directory cannot be looked at: {error}");
            return Check::new(NAME, Level::Failure, detail, "look at the disk, and whether it is mounted");
        }
    };
    let level = disk_level(bytes);
    let mut detail = format!("{} MiB are free in the data directory", bytes >> 20);
    if bytes < DISK_RESERVE_BYTES {
        detail.push_str(": this node gives no shares");
    }
    let advice = if level == Level::Ok { "" } else { "make room: a full disk stops the node" };
    Check::new(NAME, level, detail, advice)
}

fn disk_level(bytes: u64) -> Level {
    if bytes < limits::DISK_FAIL_BYTES {
        Level::Failure
    } else if bytes < limits::DISK_WARN_BYTES {
        Level::Warning
    } else {
        Level::Ok
    }
}

/// Both ends of the slot file, read from the disk. That every share opens is looked at elsewhere.
fn slot_file(path: &Path) -> Check {
    let read = || -> io::Result<u64> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        for at in [0, length.saturating_sub(SLOT_PROBE_BYTES)] {
            file.seek(SeekFrom::Start(at))?;
            io::copy(&mut (&file).take(SLOT_PROBE_BYTES), &mut io::sink())?;
        }
        Ok(length)
    };
    match read() {
        Ok(length) => Check::ok("slot_file", format!("readable, {} KiB", length >> 10)),
        Err(error) => {
            let advice = "look at the disk; without its slot file a node has no shares";
            Check::new("slot_file", Level::Failure, format!("the slot file cannot be read: {error}"), advice)
        }
    }
}

fn open_files(connections: u64) -> Check {
    let Ok((allowed, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Check::new("open_files", Level::Warning, "the limit of open files is not known", "");
    };
    // Not everywhere can a process count its own.
    let used = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
    judge_files(used, allowed, connections.saturating_add(OWN_FILES))
}

fn judge_files(used: u64, allowed: u64, wanted: u64) -> Check {
    let cure = format!("set LimitNOFILE={wanted} (systemd), `ulimits: nofile` (compose) or `ulimit -n {wanted}`");
    let detail = format!("{used} in use of {allowed}");
    if used.saturating_mul(100) >= allowed.saturating_mul(FILES_FULL_PERCENT) {
        return Check::new("open_files", Level::Failure, detail, cure);
    }
    if allowed < wanted {
        let detail = format!("{detail}; {wanted} may be needed when all connections are taken");
        return Check::new("open_files", Level::Warning, detail, format!("{cure}, or lower max_connections"));
    }
    Check::ok("open_files", detail)
}

/// A warning says what is not protected and, behind the semicolon, what to set.
fn protection(protection: &Protection) -> Check {
    match &protection.warning {
        None => Check::ok(protection.name, protection.held),
        Some(warning) => {
            let (detail, advice) = warning.split_once("; ").unwrap_or((warning, ""));
            Check::new(protection.name, Level::Warning, detail, advice)
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_judged_by_what_is_free() {
        assert_eq!(disk_level(limits::DISK_FAIL_BYTES - 1), Level::Failure);
        assert_eq!(disk_level(limits::DISK_FAIL_BYTES), Level::Warning);
        assert_eq!(disk_level(limits::DISK_WARN_BYTES - 1), Level::Warning);
        assert_eq!(disk_level(limits::DISK_WARN_BYTES), Level::Ok);
        assert_eq!(disk_space(Path::new("/nonexistent/directory")).level, Level::Failure);
    }

    #[test]
    fn a_slot_file_must_be_there_and_readable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slots");
        assert_eq!(slot_file(&path).level, Level::Failure);
        fs::write(&path, vec![7; 10_000]).unwrap();
        assert_eq!(slot_file(&path), Check::ok("slot_file", "readable, 9 KiB"));
        // A directory opens and does not read.
        assert_eq!(slot_file(directory.path()).level, Level::Failure);
    }

    #[test]
    fn open_files_are_judged_by_use_and_by_need() {
        assert_eq!(judge_files(100, 65_536, 6_000).level, Level::Ok);
        assert_eq!(judge_files(100, 1_024, 6_000).level, Level::Warning);
        assert_eq!(judge_files(922, 1_024, 600).level, Level::Failure);
        assert_eq!(judge_files(0, u64::MAX, u64::MAX).level, Level::Ok);
    }

    #[test]
    fn a_warning_is_told_with_its_cure() {
        let told = |warning: Option<&str>| {
            protection(&Protection {
                name: "memory_lock",
                held: "memory is locked",
                warning: warning.map(str::to_owned),
            })
        };
        assert_eq!(told(None), Check::ok("memory_lock", "memory is locked"));
        let check = told(Some("memory is not locked (why): secrets may be swapped; set this; or that"));
        assert_eq!((check.level, check.advice.as_str()), (Level::Warning, "set this; or that"));
        assert_eq!(check.detail, "memory is not locked (why): secrets may be swapped");
    }
}
