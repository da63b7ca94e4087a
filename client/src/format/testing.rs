//! What the tests of this module share: a directory of their own, and the installed tools run in
//! it. The tools are required: a test that lacks one fails.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that is removed when this is dropped.
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(super) fn new(test: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("symbolon-format-{test}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Not create_dir_all: a directory that is there already is not ours to use and remove.
        fs::create_dir(&path).unwrap();
        Self { path }
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path.join(name), bytes).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path.join(name)).unwrap()
    }

    /// Runs a tool here, with the file `stdin` as its input; it has to succeed.
    pub(super) fn run(&self, program: &str, arguments: &[&str], stdin: Option<&str>) -> Vec<u8> {
        let stdin: Stdio = match stdin {
            Some(name) => fs::File::open(self.path.join(name)).unwrap().into(),
            None => Stdio::null(),
        };
        let output = Command::new(program).args(arguments).current_dir(&self.path).stdin(stdin).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
        output.stdout
    }

    /// Has ssh-keygen make an Ed25519 key with the comment "tester": `name` and `name.pub`.
    pub(super) fn ssh_key(&self, name: &str) {
        let make = ["-q", "-t", "ed25519", "-N", "", "-C", "tester", "-f", name];
        self.run("ssh-keygen", &make, None);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory left in the temporary one is no reason to fail a test.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The bytes of a published value in hex.
pub(super) fn hex_array<const N: usize>(digits: &str) -> [u8; N] {
    hex::decode(digits).unwrap().try_into().unwrap()
}

/// Checks that `parse` refuses `whole` cut at every byte (and does not panic over it).
pub(super) fn assert_prefixes_refused<T, E>(whole: &[u8], parse: impl Fn(&[u8]) -> Result<T, E>) {
    for length in 0..whole.len() {
        let prefix = whole.get(..length).unwrap();
        assert!(parse(prefix).is_err(), "cut at {length} of {}", whole.len());
    }
}
