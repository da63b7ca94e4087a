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

impl std::fmt::Display for BootRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
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

    /// The highest boot of a peer so far; asked before it is dialled.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn highest(&self, peer: NodeId) -> Result<Option<BootId>, StoreFault> {
        Ok(self.known(peer)?.map(|known| known.highest))
    }

    /// A peer that dialled shows its boot. A lower one than was seen is refused and no more: packets of an earlier start may
    /// simply have been on their way for long. What is learnt is durable before this returns.
    ///
    /// # Errors
    /// [`BootRefused`].
    pub async fn dialled_us(&self, peer: NodeId, boot: BootId) -> Result<(), BootRefused> {
        self.meet(peer, boot, None).await
    }

    /// A peer that was dialled shows its boot, in answer to this node and therefore now. `before` is the highest boot that was
    /// known when the dialling began: a lower one is a store that went back in time.
    ///
    /// # Errors
    /// [`BootRefused`].
    pub async fn was_dialled(&self, peer: NodeId, boot: BootId, before: Option<BootId>) -> Result<(), BootRefused> {
        self.meet(peer, boot, before).await
    }

    async fn meet(&self, peer: NodeId, boot: BootId, before: Option<BootId>) -> Result<(), BootRefused> {
        let known = self.known(peer)?;
        let is_back = |than: BootId| boot.counter <= than.counter && boot != than;
        let next = PeerBoot {
            // One that is refused is not remembered: with an equal counter it would take the place of the true one.
            highest: known.map(|known| known.highest).filter(|highest| is_back(*highest)).unwrap_or(boot),
            quarantined: known.is_some_and(|known| known.quarantined) || before.is_some_and(is_back),
        };
        if known != Some(next) {
            let mut batch = Batch::default();
            batch.put(Column::Private, schema::peer_boot(peer), encode(&next));
            self.store.write(batch)?;
            self.store.sync().await?;
        }
        if !next.quarantined && !known.is_some_and(|known| is_back(known.highest)) {
            return Ok(());
        }
        if next.quarantined && !known.is_some_and(|known| known.quarantined) {
            tracing::error!(
                peer = %peer, counter = boot.counter, highest = next.highest.counter,
                "a peer came back with an older or an empty store, or runs twice: it is quarantined and takes no part"
            );
        }
        let message = format!(
            "the store of node {peer} is older than one that it showed before (boot {} after {}), or it runs twice",
            boot.counter, next.highest.counter
        );
        Err(BootRefused::Refused(Refusal::new(ErrorCode::Quarantined, message)))
    }
}
