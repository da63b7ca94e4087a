//! Persist, then send, as a type.
//!
//! A machine answers every input with a [`Step`]: writes first, effects second. The effects come out only against the
//! [`Receipt`] for exactly these writes, and a receipt is made only from writes that a store has made durable. The driver in
//! `node` and the one in `sim` obey the same rule because there is no other way to the effects.

use std::sync::Arc;

/// One write to a node's private store (shares, votes, boot counter); never to the replicated state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The key; prefixes stand in `schema`.
    pub key: Vec<u8>,
    /// The new value; none removes the key.
    pub value: Option<Vec<u8>>,
}

/// What must be durable before the effects of a step may be seen by anybody.
#[derive(Debug)]
pub struct Writes {
    list: Vec<Write>,
    ticket: Arc<()>,
}

impl Writes {
    /// The writes, in order.
    #[must_use]
    pub fn list(&self) -> &[Write] {
        &self.list
    }
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
    /// Said by a store once all of the writes are durable, in order; by nobody else.
    #[must_use]
    pub fn durable(self) -> Receipt {
        Receipt { ticket: self.ticket }
    }
}

/// Proof that the writes of one step are durable.
#[derive(Debug)]
pub struct Receipt {
    ticket: Arc<()>,
}

/// Effects that wait for their receipt.
#[derive(Debug)]
#[must_use = "effects that are not released are lost"]
pub struct Sealed<E> {
    effects: Vec<E>,
    ticket: Arc<()>,
}

impl<E> Sealed<E> {
    /// The effects, against the receipt for the writes of the same step. With the receipt of another step nothing comes out.
    #[must_use]
    pub fn release(self, receipt: &Receipt) -> Vec<E> {
        if Arc::ptr_eq(&self.ticket, &receipt.ticket) { self.effects } else { Vec::new() }
    }
}

/// What a machine answers: writes, and the effects that may follow them.
#[derive(Debug)]
#[must_use = "a step must be persisted and released"]
pub struct Step<E> {
    writes: Vec<Write>,
    effects: Vec<E>,
}

impl<E> Default for Step<E> {
    fn default() -> Self {
        Self { writes: Vec::new(), effects: Vec::new() }
    }
}

impl<E> Step<E> {
    /// Adds a write.
    pub fn write(mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Self {
        self.writes.push(Write { key, value });
        self
    }
    /// Adds an effect.
    pub fn effect(mut self, effect: E) -> Self {
        self.effects.push(effect);
        self
    }
    /// Adds effects.
    pub fn effects(mut self, effects: impl IntoIterator<Item = E>) -> Self {
        self.effects.extend(effects);
        self
    }
    /// Whether nothing is to be written or done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.effects.is_empty()
    }
    /// Parts for the driver: writes for the store, effects for later.
    pub fn split(self) -> (Writes, Sealed<E>) {
        let ticket = Arc::new(());
        (Writes { list: self.writes, ticket: Arc::clone(&ticket) }, Sealed { effects: self.effects, ticket })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_come_out_only_against_their_own_receipt() {
        let (writes, sealed) = Step::default().write(b"vote".to_vec(), Some(b"x".to_vec())).effect("send").split();
        assert_eq!(writes.list().len(), 1);
        assert_eq!(sealed.release(&writes.durable()), ["send"]);
    }

    #[test]
    fn another_receipt_releases_nothing() {
        let (other, _sealed) = Step::<&str>::default().split();
        let (_writes, sealed) = Step::default().write(b"vote".to_vec(), None).effect("send").split();
        assert!(sealed.release(&other.durable()).is_empty());
    }
}
