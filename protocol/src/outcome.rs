//! What became of an entry: the same on every node, part of the history.

use crate::certificate::CertificateCore;
use crate::error::Refusal;
use crate::id::{Digest, Epoch, KeyId, KeyVersion, Name, OperationId};
use crate::identity::tagged_hash;
use crate::lifecycle::KeyState;
use crate::wire::encode;

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to say: an empty entry, a tick, a vote that changed nothing yet.
    Noted,
    /// Refused, and nothing changed.
    Refused(Refusal),
    /// The cluster started.
    Started,
    /// A key version's generation began.
    Generating {
        /// The key.
        key: KeyId,
        /// The version.
        version: KeyVersion,
    },
    /// A key version is active.
    Activated {
        /// The key.
        key: KeyId,
        /// The version.
        version: KeyVersion,
        /// Digest of the certificate core.
        core: Digest,
    },
    /// Shares of a version are being moved.
    Redistributing {
        /// The key.
        key: KeyId,
        /// The version.
        version: KeyVersion,
        /// The first attempt.
        epoch: Epoch,
    },
    /// A redistribution is one step further.
    Advanced {
        /// The operation.
        operation: OperationId,
    },
    /// How a key is kept was changed.
    PolicyChanged {
        /// The key.
        key: KeyId,
    },
    /// An attempt ended; with another epoch the next one began, without one the operation ended without a result.
    AttemptEnded {
        /// The key.
        key: KeyId,
        /// The version.
        version: KeyVersion,
        /// The attempt that ended.
        epoch: Epoch,
        /// The attempt that began.
        next: Option<Epoch>,
    },
    /// Versions of a key changed their state.
    KeyChanged {
        /// The key.
        key: KeyId,
        /// Each version that changed, with its state now.
        versions: Vec<(KeyVersion, KeyState)>,
    },
    /// A client was registered, changed or removed.
    ClientChanged {
        /// Its name.
        name: Name,
    },
    /// The membership was changed.
    MembershipChanged {
        /// Its version from now on.
        version: u64,
        /// Digest of the request.
        request: Digest,
        /// Digest of the membership that it made.
        membership: Digest,
    },
    /// Raft was seen to have the voters that administrators want.
    VotersMoved {
        /// Version of the membership.
        version: u64,
    },
    /// The state version was raised.
    Upgraded {
        /// To this one.
        to: u32,
    },
}
crate::wire_enum!(Outcome {
    1 => Noted,
    2 => Refused(refusal),
    3 => Started,
    4 => Generating { key, version },
    5 => Activated { key, version, core },
    6 => AttemptEnded { key, version, epoch, next },
    7 => KeyChanged { key, versions },
    8 => ClientChanged { name },
    9 => Upgraded { to },
    10 => Redistributing { key, version, epoch },
    11 => PolicyChanged { key },
    12 => Advanced { operation },
    21 => MembershipChanged { version, request, membership },
    22 => VotersMoved { version },
});

impl Outcome {
    /// The outcome of the entry that makes a version active.
    #[must_use]
    pub fn activated(core: &CertificateCore) -> Self {
        Self::Activated { key: core.key, version: core.version, core: core.digest() }
    }
    /// The same without what a refusal says in words: what is stored and hashed. Two releases may say it differently and have
    /// one history all the same; code and details belong to the state version.
    #[must_use]
    pub fn without_words(&self) -> Self {
        match self {
            Self::Refused(refusal) => Self::Refused(Refusal { message: String::new(), ..refusal.clone() }),
            other => other.clone(),
        }
    }
    /// Its hash, as the history holds it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        tagged_hash("symbolon/outcome/v1", &encode(&self.without_words()))
    }
}
