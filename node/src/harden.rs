//! Keeps the memory of the process off the disk and away from other processes, as far as the system lets.

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};

/// One protection of the process.
#[derive(Debug, Clone)]
pub struct Protection {
    /// Its name, as `doctor` has it.
    pub name: &'static str,
    /// What holds where it could be had.
    pub held: &'static str,
    /// Why it could not be had and, behind a semicolon, what to set; none where it holds.
    pub warning: Option<String>,
}

/// Forbids core files, forbids other processes of the same user to attach or to read the memory, and locks
/// all memory (present and future) so that it is never swapped out. Call it first thing, before a secret is
/// read and before a thread is started.
///
/// Returns what came of each protection; that one could not be had is no reason not to start. Memory is
/// locked only where `RLIMIT_MEMLOCK` allows any amount: under a limit, the allocation that exceeds it
/// fails, at any later time and anywhere in the process.
#[must_use = "the warnings tell the operator what is not protected"]
pub fn harden_process() -> Vec<Protection> {
    let protection = |name, held, warning| Protection { name, held, warning };
    vec![
        protection("core_files", "core files are forbidden", forbid_core_files()),
        protection("debuggers", "other processes cannot read the memory", forbid_tracing()),
        protection("memory_lock", "all memory is locked", lock_memory()),
    ]
}

fn forbid_core_files() -> Option<String> {
    // The hard limit too, so that nothing in the process can raise it again.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).err().map(|error| {
        format!(
            "core files are not forbidden ({error}): a crash may write secrets to the disk; \
             set LimitCORE=0 (systemd), `ulimits: core: 0` (compose) or `ulimit -c 0`"
        )
    })
}

/// `PR_SET_DUMPABLE` 0: no core file even through a pipe handler, no ptrace and no /proc/PID/mem for other
/// processes of the same user.
#[cfg(target_os = "linux")]
fn forbid_tracing() -> Option<String> {
    nix::sys::prctl::set_dumpable(false).err().map(|error| {
        format!(
            "the process stays dumpable ({error}): other processes of its user can read its memory; \
             run symbolond as a user of its own and allow prctl(2)"
        )
    })
}

#[cfg(not(target_os = "linux"))]
fn forbid_tracing() -> Option<String> {
    Some(
        "other processes of the same user can read the memory of symbolond on this system; \
         run it on Linux, or as a user of its own"
            .to_owned(),
    )
}

fn lock_memory() -> Option<String> {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok(limits) => limits,
        Err(error) => return Some(not_locked(&error.to_string())),
    };
    if let Some(warning) = memory_limit_warning(hard) {
        return Some(warning);
    }
    if soft != RLIM_INFINITY
        && let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)
    {
        return Some(not_locked(&error.to_string()));
    }
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).err().map(|error| not_locked(&error.to_string()))
}

/// Why memory is not locked under this hard limit (in bytes); `None` when there is no limit.
fn memory_limit_warning(hard: rlim_t) -> Option<String> {
    (hard != RLIM_INFINITY).then(|| not_locked(&format!("RLIMIT_MEMLOCK is {hard} bytes, not unlimited")))
}

fn not_locked(why: &str) -> String {
    format!(
        "memory is not locked ({why}): secrets may be swapped to the disk; set LimitMEMLOCK=infinity (systemd), \
         `ulimits: memlock: -1` (compose) or `ulimit -l unlimited`, or run without swap"
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    // `lock_memory` is not called here: it would lock the memory of every other test in this process.

    #[test]
    fn core_files_are_forbidden_for_good() {
        assert_eq!(forbid_core_files(), None);
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_is_not_dumpable() {
        assert_eq!(forbid_tracing(), None);
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
    }

    #[test]
    fn a_memory_limit_is_named_with_its_cure() {
        assert_eq!(memory_limit_warning(RLIM_INFINITY), None);
        let warning = memory_limit_warning(8 * 1024 * 1024).unwrap();
        assert!(warning.contains("8388608 bytes") && warning.contains("LimitMEMLOCK=infinity"), "{warning}");
    }
}
