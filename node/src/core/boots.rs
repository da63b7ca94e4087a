//! What this node remembers of the starts of its peers: the highest boot that was seen, and who went back in time.
//!
//! A boot counter that falls, or one that comes twice with other random bytes, is a store that was restored or a second process
//! with one identity. Such a peer is quarantined, durably: restarting until the counter is high enough does not help it.

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::{BootId, NodeId};
use symbolon_protocol::schema::private as schema;
use symbolon_protocol::table::StoreFault;
use symbolon_protocol::wire::{decode, encode};

use crate::store::{Batch, Column, Store};

/// What is remembered of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PeerBoot {
    highest: BootId,
    quarantined: bool,
}
symbolon_protocol::wire_struct!(PeerBoot { highest, quarantined });

/// The memory of peers' boots.
#[derive(Clone)]
pub struct PeerBoots<S> {
    store: S,
}

/// Refused, or the store failed and the node must stop.
#[derive(Debug)]
pub enum BootRefused {
    /// The peer is quarantined.
    Refused(Refusal),
    /// The store failed.
    Fault(StoreFault),
}

impl From<StoreFault> for BootRefused {
    fn from(fault: StoreFault) -> Self {
        Self::Fault(fault)
    }
}

impl<S: Store> PeerBoots<S> {
    /// In a node's store.
    pub fn new(store: S) -> Self {
        Self { store }
    }

    fn known(&self, peer: NodeId) -> Result<Option<PeerBoot>, StoreFault> {
        let bytes = self.store.get(Column::Private, &schema::peer_boot(peer))?;
        Ok(bytes.map(|bytes| decode(&bytes)).transpose()?)
    }

    /// Peers that are quarantined here.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn quarantined(&self, peers: &[NodeId]) -> Result<Vec<NodeId>, StoreFault> {
        let mut list = Vec::new();
        for peer in peers {
            if self.known(*peer)?.is_some_and(|known| known.quarantined) {
                list.push(*peer);
            }
        }
        Ok(list)
    }

    /// A peer shows its boot, whoever dialled. What is learnt is durable before this returns.
    ///
    /// # Errors
    /// [`BootRefused`].
    pub async fn meet(&self, peer: NodeId, boot: BootId) -> Result<(), BootRefused> {
        let known = self.known(peer)?;
        let mut next = PeerBoot { highest: boot, quarantined: false };
        if let Some(known) = known {
            if boot == known.highest && !known.quarantined {
                return Ok(());
            }
            let back = boot.counter <= known.highest.counter && boot != known.highest;
            next.quarantined = known.quarantined || back;
            next.highest = known.highest.max(boot);
        }
        if known != Some(next) {
            let mut batch = Batch::default();
            batch.put(Column::Private, schema::peer_boot(peer), encode(&next));
            self.store.write(batch)?;
            self.store.sync().await?;
        }
        if !next.quarantined {
            return Ok(());
        }
        tracing::error!(
            peer = %peer, counter = boot.counter, highest = next.highest.counter,
            "a peer came back with an older store, or runs twice: it is quarantined and takes no part"
        );
        let message =
            format!("node {peer} is quarantined: boot {} was seen after {}", boot.counter, next.highest.counter);
        Err(BootRefused::Refused(Refusal::new(ErrorCode::Quarantined, message)))
    }
}
