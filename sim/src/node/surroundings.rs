//! What a node is told, what it wants done, and what is around it while it handles one event.

use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::error::Refusal;
use symbolon_protocol::fresh::{Position, Report};
use symbolon_protocol::id::{Digest, Epoch, KeyId, KeyVersion, NodeId};
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::peer::WorkAnswer;
use symbolon_protocol::request::SignedRequest;
use symbolon_protocol::sign::CommitmentPair;
use symbolon_protocol::wire::{Bytes, encode};

use super::Halt;
use crate::bugs::Bug;
use crate::count::Counters;
use crate::draw::Draw;
use crate::invariants::Violation;

/// A message between nodes as it travels; `call` joins an answer to its call.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) call: u64,
    pub(crate) answer: bool,
    /// A [`WorkCall`] or a [`WorkAnswer`], encoded.
    pub(crate) bytes: Vec<u8>,
}

/// What a node is woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    Reconcile,
    Ceremony(Digest),
    Move(Digest),
    /// A call that had no answer by now has none.
    Call(u64),
    /// Something that is wanted waited for a while.
    Want(u64),
    /// A peer's question waited for an index.
    Question(u64),
    /// A client waits for a barrier.
    Barrier(u64),
}

/// What a client is answered.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Signed { signatures: Vec<[u8; 64]>, certificate: Box<KeyCertificate> },
    Created { certificate: Box<KeyCertificate>, report: Option<Box<Report>> },
    Ordered { index: u64, outcome: Outcome, report: Option<Box<Report>> },
    Refused(Refusal),
}

/// What a node does that only the oracle sees.
#[derive(Debug)]
pub(crate) enum Seen {
    /// A share was stored.
    Staged { key: KeyId, version: KeyVersion, epoch: Epoch, share: [u8; 32] },
    /// A payload is to be ordered: whether it follows what the node has applied.
    Promised(Result<(), Violation>),
    /// As a holder it decides that a request may be signed with a version, and gives commitments.
    Permitted(Box<Permitted>),
    /// Signature shares leave.
    Released(Box<Released>),
    /// As a coordinator it says that nodes broke the protocol.
    Blamed { culprits: Vec<NodeId>, what: String },
    /// As a holder it says that a coordinator attempted to use nonces twice.
    Alarm { against: NodeId },
    /// It signed where it is; and where its log ended at the start.
    Position { position: Position, log_end: u64 },
    /// It has the proof that a voter signed two histories.
    Equivocates(NodeId),
}

/// What a holder decided.
#[derive(Debug)]
pub(crate) struct Permitted {
    pub(crate) key: KeyId,
    pub(crate) version: KeyVersion,
    pub(crate) client: PublicKey,
}

/// Signature shares as they leave a holder.
#[derive(Debug)]
pub(crate) struct Released {
    pub(crate) permitted: Permitted,
    pub(crate) request: SignedRequest,
    /// The messages that the coordinator sent.
    pub(crate) messages: Vec<Bytes>,
    /// The package that the shares are for.
    pub(crate) package: Digest,
    /// Voters whose answers count for the holder's lease.
    pub(crate) counted: Vec<NodeId>,
    /// The holder's own commitments, one pair for each message.
    pub(crate) pairs: Vec<CommitmentPair>,
}

/// What a node wants done.
#[derive(Debug)]
pub(crate) enum Out {
    Send {
        to: NodeId,
        frame: Frame,
    },
    /// A payload to be ordered, encoded.
    Propose(Vec<u8>),
    Wake {
        after_ms: u64,
        timer: Timer,
    },
    Reply {
        ticket: u64,
        reply: Box<Reply>,
    },
    Saw(Seen),
}

/// A node's surroundings while it handles one event.
pub(crate) struct Env<'a> {
    /// The node's clock, milliseconds since 1970.
    pub(crate) now_ms: u64,
    /// The node's clock that nobody sets, milliseconds.
    pub(crate) boot_ms: u64,
    /// How long a slow disk takes, at most, milliseconds; 0 for a fast one.
    pub(crate) slow_ms: u64,
    /// Whether it helps to sign with what was taken away, as evil nodes do while a siege lasts.
    pub(crate) treason: bool,
    /// Whether it leads.
    pub(crate) leads: bool,
    pub(crate) bug: Option<Bug>,
    /// Crashes of a thousand persist points.
    pub(crate) crash: u32,
    /// Persist points that this run has met.
    pub(crate) points: &'a mut u64,
    /// The one at which power is lost; 0 for none.
    pub(crate) crash_at: u64,
    pub(crate) chaos: &'a mut Draw,
    pub(crate) count: &'a mut Counters,
    /// Whether something was made durable.
    pub(crate) persisted: bool,
    pub(crate) out: Vec<Out>,
}

impl Env<'_> {
    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }
    pub(super) fn send(&mut self, to: NodeId, call: u64, bytes: Vec<u8>) {
        self.out.push(Out::Send { to, frame: Frame { call, answer: false, bytes } });
    }
    pub(super) fn answer(&mut self, to: NodeId, call: u64, answer: &WorkAnswer) {
        self.out.push(Out::Send { to, frame: Frame { call, answer: true, bytes: encode(answer) } });
    }
    pub(super) fn wake(&mut self, after_ms: u64, timer: Timer) {
        self.out.push(Out::Wake { after_ms, timer });
    }
    pub(super) fn reply(&mut self, ticket: u64, reply: Reply) {
        self.out.push(Out::Reply { ticket, reply: Box::new(reply) });
    }
    pub(super) fn saw(&mut self, seen: Seen) {
        self.out.push(Out::Saw(seen));
    }
    /// A place where power may be lost.
    pub(super) fn crash_point(&mut self, place: &'static str) -> Result<(), Halt> {
        *self.points += 1;
        let chosen = *self.points == self.crash_at;
        if chosen || (self.crash > 0 && self.chaos.chance(self.crash)) {
            self.count.situation(place);
            return Err(Halt::Crash);
        }
        Ok(())
    }
}
