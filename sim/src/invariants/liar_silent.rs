//! From the moment on at which an honest node has the proof that a voter signed two histories, none of its answers count there.

use std::collections::BTreeSet;

use symbolon_protocol::id::NodeId;

use super::{LIAR_SILENT, Violation, safety};
use crate::node::Released;

/// Who has proof against whom, durably.
#[derive(Default)]
pub(super) struct Proved(BTreeSet<(NodeId, NodeId)>);

impl Proved {
    pub(super) fn add(&mut self, node: NodeId, liar: NodeId) {
        self.0.insert((node, liar));
    }

    pub(super) fn check(&self, node: NodeId, released: &Released) -> Result<(), Violation> {
        match released.counted.iter().find(|voter| self.0.contains(&(node, **voter))) {
            Some(liar) => Err(safety(
                LIAR_SILENT,
                format!("node {node} gave a share on the word of {liar}, which it can prove a liar"),
            )),
            None => Ok(()),
        }
    }
}
