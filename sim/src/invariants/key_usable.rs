//! A key that was acknowledged as created stays usable with any t of its holders.
//!
//! Stronger, and checked from the commit on: at every step each honest holder has the certified share on what is durable of its
//! disk, until the destruction of the version is due. At the end every set of t of these shares is interpolated to the public key.

use std::collections::BTreeMap;

use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::generate::transcript::on_one_polynomial;
use symbolon_protocol::id::{Epoch, KeyId, KeyVersion, NodeId};
use symbolon_protocol::schema::private;

use super::{Disks, KEY_USABLE, Reference, Violation, safety};
use crate::disk::{Column, Disk};
use crate::node::usable_share;

/// What was committed, and what was looked at.
#[derive(Default)]
pub(super) struct Usable {
    /// Every epoch of a version, ascending; the last one signs.
    committed: BTreeMap<(KeyId, KeyVersion), Vec<CertificateCore>>,
    /// Records that were checked and good, so that most looks are a comparison.
    good: BTreeMap<(NodeId, KeyId, KeyVersion, Epoch), Vec<u8>>,
    looked: BTreeMap<NodeId, u64>,
}

impl Usable {
    /// A new epoch was committed. True when it has another roster or threshold than the one before.
    pub(super) fn committed(&mut self, core: CertificateCore) -> Result<bool, Violation> {
        self.looked.clear();
        let epochs = self.committed.entry((core.key, core.version)).or_default();
        let before = epochs.last();
        let chained = before.is_none_or(|before| {
            before.public_key == core.public_key && before.epoch < core.epoch && core.previous == Some(before.digest())
        });
        if !chained {
            let what = format!("epoch {} of key `{}` does not continue the one before", core.epoch, core.name);
            return Err(safety(KEY_USABLE, what));
        }
        let moved = before.is_some_and(|b| b.roster != core.roster || b.threshold != core.threshold);
        epochs.push(core);
        Ok(moved)
    }

    /// The epochs that sign.
    pub(super) fn cores(&self) -> impl Iterator<Item = &CertificateCore> {
        self.committed.values().filter_map(|epochs| epochs.last())
    }

    pub(super) fn is_committed(&self, core: &CertificateCore) -> bool {
        self.committed.get(&(core.key, core.version)).is_some_and(|epochs| epochs.contains(core))
    }

    /// A client was told that a version exists.
    pub(super) fn acknowledged(&self, core: &CertificateCore) -> Result<(), Violation> {
        if self.is_committed(core) {
            return Ok(());
        }
        let what =
            format!("a client was told of version {} of key `{}`, which was not committed", core.version, core.name);
        Err(safety(KEY_USABLE, what))
    }

    pub(super) fn check(&mut self, node: NodeId, disk: &Disk, reference: &Reference) -> Result<(), Violation> {
        if self.looked.insert(node, disk.changes()) == Some(disk.changes()) {
            return Ok(());
        }
        let store = disk.durable(Column::Private);
        for ((key, version), epochs) in &self.committed {
            let signs = epochs.last().map(|core| core.epoch);
            for core in epochs.iter().filter(|core| core.holders.contains(&node)) {
                let place = (node, *key, *version, core.epoch);
                let record = store.get(&private::share(key, *version, core.epoch));
                if record.is_some() && record == self.good.get(&place) {
                    continue;
                }
                match record.filter(|_| usable_share(store, node, core).is_some()) {
                    Some(record) => {
                        self.good.insert(place, record.clone());
                    }
                    None if reference.may_be_erased(key, *version)? => {}
                    // Earlier shares go once every holder of the new ones has activated them, and not before.
                    None if Some(core.epoch) != signs && reference.is_final(key, *version)? => {}
                    None if Some(core.epoch) != signs && was_final_before(epochs, core) => {}
                    None => {
                        let what = format!(
                            "node {node} lost its share of epoch {} of version {version} of key `{}`",
                            core.epoch, core.name
                        );
                        return Err(safety(KEY_USABLE, what));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn at_end(&self, disks: &Disks<'_>, reference: &Reference) -> Result<(), Violation> {
        for core in self.cores() {
            if reference.may_be_erased(&core.key, core.version)? {
                continue;
            }
            let mut shares = Vec::new();
            for (node, disk) in disks.iter().filter(|(node, _)| core.holders.contains(node)) {
                let secret = usable_share(disk.durable(Column::Private), *node, core);
                if let Some(point) = secret.and_then(|secret| secret.verifying_share()) {
                    shares.push((*node, point));
                }
            }
            for subset in subsets(&shares, core.threshold.get()) {
                if !on_one_polynomial(&subset, core.threshold, &core.public_key) {
                    let nodes: Vec<String> = subset.keys().map(NodeId::to_string).collect();
                    let what = format!("shares of nodes {} do not make key `{}`", nodes.join(", "), core.name);
                    return Err(safety(KEY_USABLE, what));
                }
            }
        }
        Ok(())
    }
}

/// Whether an epoch lies two or more before the one that signs: then one in between was activated by enough to begin the last.
fn was_final_before(epochs: &[CertificateCore], core: &CertificateCore) -> bool {
    epochs.iter().filter(|later| later.epoch > core.epoch).count() > 1
}

/// Every choice of `size` of the shares.
fn subsets(shares: &[(NodeId, [u8; 32])], size: usize) -> Vec<BTreeMap<NodeId, [u8; 32]>> {
    let masks = (0..1u32 << shares.len().min(16)).filter(|mask| mask.count_ones() as usize == size);
    let chosen = |mask: u32| shares.iter().enumerate().filter(move |(at, _)| (mask >> at) & 1 == 1);
    masks.map(|mask| chosen(mask).map(|(_, share)| *share).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_subsets_of_a_size() {
        let shares: Vec<(NodeId, [u8; 32])> = (1..=5).filter_map(NodeId::new).map(|node| (node, [0; 32])).collect();
        let all = subsets(&shares, 3);
        assert_eq!(all.len(), 10);
        assert!(all.iter().all(|subset| subset.len() == 3));
        assert!(subsets(&shares, 6).is_empty());
    }
}
