//! Planted bugs: hooks in the simulated drivers, nowhere else. A simulator that never failed proves nothing.

use std::fmt;

use crate::invariants;

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A holder proposes READY before share and vote are synced.
    SendBeforePersist,
    /// A holder makes its nonces from a generator that always starts at the same place.
    ReuseNonce,
    /// A node applies entries with its own clock in the place of the entry's time.
    OwnClock,
    /// A node writes the applied index in a batch of its own, before what the entry changed.
    PositionFirst,
    /// A node that restarted in the middle of a generation begins again with another polynomial.
    BeginAgain,
    /// A holder decides by the state that it had when the key was first used.
    StalePermit,
    /// A node puts its share where its word of activation should be, into the ordered log.
    ShareInLog,
    /// A holder gives its signature share before the usage record is durable.
    ShareBeforeUsage,
    /// A node that restarted in the middle of a redistribution deals again with another polynomial.
    DealAgain,
    /// A node erases the shares before a new epoch as soon as that is committed.
    EraseAtCommit,
    /// A node says that shares are erased and keeps them.
    EraseInWords,
    /// A dealer draws the same polynomial in every redistribution.
    SamePolynomial,
    /// A dealer takes one number for all coefficients of its polynomials.
    SameCoefficient,
    /// A dealer sends the subshare of one holder to the other holders too.
    SubshareToAll,
    /// A holder keeps a subshare on its disk.
    SubshareOnDisk,
    /// A node keeps a copy of the shares that it erases.
    KeepCopy,
    /// A node says ACTIVATED before it has applied the commit.
    ActivatedEarly,
    /// A node goes on with an attempt that its own state says is over.
    ReadyLate,
    /// A node signs where it is before that is durable.
    SignBeforeSync,
    /// A node counts the answers of a voter that it can prove a liar.
    LiarCounts,
    /// A node says where it is before it has applied what its log held at the start.
    AnswerUnapplied,
}

/// All of them.
pub const BUGS: [Bug; 21] = [
    Bug::SendBeforePersist,
    Bug::ReuseNonce,
    Bug::OwnClock,
    Bug::PositionFirst,
    Bug::BeginAgain,
    Bug::StalePermit,
    Bug::ShareInLog,
    Bug::ShareBeforeUsage,
    Bug::DealAgain,
    Bug::EraseAtCommit,
    Bug::EraseInWords,
    Bug::SamePolynomial,
    Bug::SameCoefficient,
    Bug::SubshareToAll,
    Bug::SubshareOnDisk,
    Bug::KeepCopy,
    Bug::ActivatedEarly,
    Bug::ReadyLate,
    Bug::SignBeforeSync,
    Bug::LiarCounts,
    Bug::AnswerUnapplied,
];

impl Bug {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SendBeforePersist => "send-before-persist",
            Self::ReuseNonce => "reuse-nonce",
            Self::OwnClock => "own-clock",
            Self::PositionFirst => "position-first",
            Self::BeginAgain => "begin-again",
            Self::StalePermit => "stale-permit",
            Self::ShareInLog => "share-in-log",
            Self::ShareBeforeUsage => "share-before-usage",
            Self::DealAgain => "deal-again",
            Self::EraseAtCommit => "erase-at-commit",
            Self::EraseInWords => "erase-in-words",
            Self::SamePolynomial => "same-polynomial",
            Self::SameCoefficient => "same-coefficient",
            Self::SubshareToAll => "subshare-to-all",
            Self::SubshareOnDisk => "subshare-on-disk",
            Self::KeepCopy => "keep-copy",
            Self::ActivatedEarly => "activated-early",
            Self::ReadyLate => "ready-late",
            Self::SignBeforeSync => "sign-before-sync",
            Self::LiarCounts => "liar-counts",
            Self::AnswerUnapplied => "answer-unapplied",
        }
    }

    /// The bug with a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        BUGS.into_iter().find(|bug| bug.name() == name)
    }

    /// How many seeds may pass until it is found.
    #[must_use]
    pub const fn within(self) -> u64 {
        match self {
            Self::OwnClock | Self::SignBeforeSync => 5,
            Self::LiarCounts => 40,
            Self::ShareInLog => 10,
            Self::ReuseNonce
            | Self::ShareBeforeUsage
            | Self::EraseAtCommit
            | Self::EraseInWords
            | Self::ActivatedEarly => 20,
            Self::PositionFirst
            | Self::SameCoefficient
            | Self::SubshareToAll
            | Self::SubshareOnDisk
            | Self::KeepCopy
            | Self::AnswerUnapplied => 60,
            Self::BeginAgain => 100,
            Self::SendBeforePersist | Self::StalePermit | Self::DealAgain | Self::SamePolynomial => 150,
            Self::ReadyLate => 300,
        }
    }

    /// The invariants that may find it.
    #[must_use]
    pub const fn found_by(self) -> &'static [&'static str] {
        match self {
            // A node whose vote and share are gone also begins again, which its peers can prove.
            Self::SendBeforePersist => &[invariants::KEY_USABLE, invariants::NO_FALSE_BLAME],
            Self::ReuseNonce => &[invariants::NONCE_ONCE],
            Self::OwnClock => &[invariants::HEADS_EQUAL],
            // Floor 0 itself finds the hole in the history, and the node stops.
            Self::PositionFirst => &[invariants::NODE_RUNS, invariants::HEADS_EQUAL],
            // A second share may also take the place of the one that was voted for.
            Self::BeginAgain => &[invariants::NO_FALSE_BLAME, invariants::KEY_USABLE],
            // After a rotation old and new decisions do not fit together.
            Self::StalePermit => {
                &[invariants::REVOCATION_FINAL, invariants::WITHDRAWN_SILENT, invariants::SIGN_ANSWERED]
            }
            Self::ShareInLog => &[invariants::NO_SECRET_IN_LOG],
            Self::ShareBeforeUsage => &[invariants::USAGE_FIRST],
            // Its first word stands in the log: what it deals then fits nothing, and its peers say so.
            Self::DealAgain => &[invariants::NO_FALSE_BLAME, invariants::KEY_USABLE],
            Self::EraseAtCommit => &[invariants::KEY_USABLE],
            Self::EraseInWords => &[invariants::ERASED_GONE],
            Self::SamePolynomial => &[invariants::MOBILE, invariants::SECRET],
            Self::SameCoefficient => &[invariants::SECRET, invariants::MOBILE],
            Self::SubshareToAll => &[invariants::SECRET, invariants::MOBILE],
            Self::SubshareOnDisk => &[invariants::MEMORY_ONLY],
            Self::KeepCopy => &[invariants::MOBILE],
            Self::ActivatedEarly => &[invariants::VOTES_FOLLOW_LOG],
            Self::ReadyLate => &[invariants::VOTES_FOLLOW_LOG],
            Self::SignBeforeSync | Self::AnswerUnapplied => &[invariants::POSITION_DURABLE],
            Self::LiarCounts => &[invariants::LIAR_SILENT],
        }
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
