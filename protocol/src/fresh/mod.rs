//! The right to act on one's own state: only a node whose state is current may contribute to a signature, and a right is gone
//! once nobody can be current without knowing it (`docs/spec/fresh.md`).
//!
//! - [`Lease`]: asks all voters where they are, and holds the evidence that a majority of them is no further. From it comes
//!   [`Fresh`], without which [`crate::contribute`] permits nothing.
//! - [`Barrier`]: what a request that takes a right away waits for, and the [`Report`] by which a client checks it.
//! - [`Electorate`]: voters on whose word a lease may rest, the ones from before a change included.
//! - [`SignedPosition`], [`Equivocation`]: what voters sign, and the proof against one that signs two histories.
//! - [`Withdrawals`]: requests that take something away and are on their way to the log.

mod barrier;
mod electorate;
mod lease;
mod position;
mod report;
mod scope;
#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod tests;
mod withdrawn;

pub use barrier::{Barrier, Enforced, Progress};
pub use electorate::Electorate;
pub use lease::{Evidence, Lease, LeaseView, Notice, Tally};
pub use position::{Equivocation, Position, Question, SignedPosition};
pub use report::{Checked, Claim, Expected, Place, Placed, Report};
pub use scope::{Holders, holders_of_change, holders_of_rotation};
pub use withdrawn::{Subject, Withdrawals};

/// Proof that the state of this node is current.
#[derive(Debug)]
pub struct Fresh(());

impl Fresh {
    /// A proof for tests of who asks for it.
    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self(())
    }
}

/// How many voters it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorums {
    /// Voters whose positions make a lease: more than half.
    pub lease: usize,
    /// Voters whose positions make a barrier: so many that they share more than the liars with every lease.
    pub barrier: usize,
}

impl Quorums {
    /// Of so many voters, of which one may lie if there are others.
    #[must_use]
    pub const fn of(voters: usize) -> Self {
        let lease = voters / 2 + 1;
        let liars = if voters > 1 { 1 } else { 0 };
        Self { lease, barrier: voters.saturating_sub(lease) + liars + 1 }
    }
}
