//! No secret share occurs in the ordered log, raw or in hexadecimal.

use std::collections::BTreeSet;

use super::{NO_SECRET_IN_LOG, Violation, safety};

/// Shares of honest nodes.
#[derive(Default)]
pub(super) struct Secrets {
    raw: BTreeSet<[u8; 32]>,
    hexadecimal: BTreeSet<[u8; 64]>,
}

impl Secrets {
    pub(super) fn add(&mut self, share: [u8; 32]) {
        self.raw.insert(share);
        let mut digits = [0; 64];
        if hex::encode_to_slice(share, &mut digits).is_ok() {
            self.hexadecimal.insert(digits);
        }
    }

    pub(super) fn check(&self, index: u64, entry: &[u8]) -> Result<(), Violation> {
        let raw = entry.windows(32).any(|window| self.raw.contains(window));
        if raw || entry.windows(64).any(|window| self.hexadecimal.contains(window)) {
            return Err(safety(NO_SECRET_IN_LOG, format!("the entry at index {index} holds a share")));
        }
        Ok(())
    }
}
