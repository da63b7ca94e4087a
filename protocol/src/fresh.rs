//! The right to act on one's own state: only a node that knows its state to be current may contribute to a signature.
//!
//! [`Fresh`] is made in one place. In this release it is assumed, not proved: a node that is cut off from the majority goes
//! on signing by its last state until its requests expire. Every start and every status says so.

/// Proof that the state of this node is current.
#[derive(Debug)]
pub struct Fresh(());

/// What an operator is told while freshness is assumed.
pub const ASSUMED_WARNING: &str = "freshness is assumed, not proved: a node that is cut off from the majority goes on signing by \
     its last known state, so a revocation reaches it only when it is connected again";

impl Fresh {
    /// Freshness without proof.
    #[must_use]
    pub const fn assumed() -> Self {
        Self(())
    }
}
