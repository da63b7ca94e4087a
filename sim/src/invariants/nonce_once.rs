//! No nonce is ever used for two messages: tracked by the commitments behind the shares that leave, over all nodes and starts.

use std::collections::BTreeMap;

use symbolon_protocol::id::{Digest, NodeId};
use symbolon_protocol::identity::tagged_hash;

use super::{NONCE_ONCE, Violation, safety};
use crate::node::Released;

/// For each commitment (hiding or binding) the package and message that it was used for.
#[derive(Default)]
pub(super) struct Nonces(BTreeMap<[u8; 32], Digest>);

impl Nonces {
    pub(super) fn check(&mut self, node: NodeId, released: &Released) -> Result<(), Violation> {
        if released.pairs.len() != released.messages.len() {
            return Err(safety(NONCE_ONCE, format!("node {node} released shares without one nonce for each message")));
        }
        for (pair, message) in released.pairs.iter().zip(&released.messages) {
            let used = tagged_hash("symbolon/sim/nonce", &[&released.package.as_bytes()[..], &message.0[..]].concat());
            for commitment in [pair.hiding, pair.binding] {
                if *self.0.entry(commitment).or_insert(used) != used {
                    let what = format!("node {node} used nonce {} for two packages", hex::encode(commitment));
                    return Err(safety(NONCE_ONCE, what));
                }
            }
        }
        Ok(())
    }
}
