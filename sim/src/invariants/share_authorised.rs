//! A signature share leaves an honest holder only for messages that a client with the right asked for.

use std::collections::BTreeSet;

use symbolon_protocol::id::{Digest, KeyId, NodeId};
use symbolon_protocol::request::MessageDigest;
use symbolon_protocol::wire::Bytes;

use super::{SHARE_AUTHORISED, Violation, safety};
use crate::node::Released;

/// What clients with the right asked to be signed.
#[derive(Default)]
pub(super) struct Asked(BTreeSet<(KeyId, Digest)>);

impl Asked {
    pub(super) fn add(&mut self, key: KeyId, messages: &[Bytes]) {
        self.0.extend(messages.iter().map(|message| (key, MessageDigest::of(&message.0).digest)));
    }

    pub(super) fn check(&self, node: NodeId, released: &Released) -> Result<(), Violation> {
        let asked = |message: &Bytes| self.0.contains(&(released.permitted.key, MessageDigest::of(&message.0).digest));
        if !released.messages.is_empty() && released.messages.iter().all(asked) {
            return Ok(());
        }
        let what =
            format!("node {node} released a share of key {} for what no client asked for", released.permitted.key);
        Err(safety(SHARE_AUTHORISED, what))
    }
}
