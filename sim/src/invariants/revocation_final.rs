//! What was taken away is gone, in true time: once a client accepted that as enforced against crashes or liars, and no more lie
//! than that allows for, no honest holder decides for a request with it and no share of one leaves, on any side of any partition.
//!
//! That is more than that no later request is signed: a signature needs a share of an honest holder.

use std::collections::{BTreeMap, BTreeSet};

use symbolon_protocol::id::{KeyId, KeyVersion, NodeId};
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::lifecycle::{Event, KeyState, Verdict, decide};
use symbolon_protocol::outcome::Outcome;

use super::{REVOCATION_FINAL, Violation, safety};
use crate::node::Permitted;

/// What is gone.
#[derive(Default)]
pub(super) struct Gone {
    versions: BTreeSet<(KeyId, KeyVersion)>,
    /// Versions of a key below this one.
    rotated: BTreeMap<KeyId, KeyVersion>,
    clients: BTreeSet<PublicKey>,
    /// Index of the entry that gave a version back last.
    restored: BTreeMap<(KeyId, KeyVersion), u64>,
}

impl Gone {
    /// An entry may give something back.
    pub(super) fn ordered(&mut self, index: u64, outcome: &Outcome) {
        let Outcome::KeyChanged { key, versions } = outcome else { return };
        for (version, _) in versions.iter().filter(|(_, state)| *state == KeyState::Active) {
            self.versions.remove(&(*key, *version));
            self.restored.insert((*key, *version), index);
        }
    }

    /// A client was told that the entry at an index took away what its outcome says.
    pub(super) fn accepted(&mut self, index: u64, outcome: &Outcome) {
        let Outcome::KeyChanged { key, versions } = outcome else { return };
        for (version, state) in versions {
            let later = self.restored.get(&(*key, *version)).is_some_and(|restored| *restored > index);
            if decide(*state, Event::Sign) == Verdict::No && !later {
                self.versions.insert((*key, *version));
            }
        }
    }

    /// The same of a rotation.
    pub(super) fn rotated(&mut self, key: KeyId, to: KeyVersion) {
        let newest = self.rotated.entry(key).or_insert(to);
        *newest = to.max(*newest);
    }

    /// The same of a client that never comes back.
    pub(super) fn removed(&mut self, client: PublicKey) {
        self.clients.insert(client);
    }

    /// An honest holder decided for a request, or its share leaves.
    pub(super) fn check(&self, node: NodeId, permitted: &Permitted) -> Result<(), Violation> {
        let Permitted { key, version, client } = permitted;
        let of_client = self.clients.contains(client);
        let rotated = self.rotated.get(key).is_some_and(|newest| version < newest);
        if !of_client && !rotated && !self.versions.contains(&(*key, *version)) {
            return Ok(());
        }
        let what = if of_client { "a client that is removed" } else { "a version that was taken away" };
        Err(safety(REVOCATION_FINAL, format!("node {node} contributed for {what}: key {key}, version {version}")))
    }
}
