//! What nodes say to each other. Every call has one answer; the channel says who the other side is, never the message.

use crate::entry::Payload;
use crate::error::Refusal;
use crate::fresh::{Question, SignedPosition};
use crate::generate::SignedMessage;
use crate::genesis::{NewStore, StartCertificate};
use crate::history::Head;
use crate::id::BootId;
use crate::identity::Signature;
use crate::membership::Link;
use crate::outcome::Outcome;
use crate::redistribute::SubshareMessage;
use crate::request::SignedRequest;
use crate::sign::{Commitments, Round1, Round2, Shares};
use crate::wire::Bytes;

/// A call on the Raft stream. The inner bytes are Raft's own structures in their storage encoding; they are never signed.
#[derive(Debug, Clone)]
pub enum RaftCall {
    /// Append entries, or a heartbeat.
    Append(Bytes),
    /// Request a vote.
    Vote(Bytes),
    /// Ask whether a vote would be granted.
    PreVote(Bytes),
    /// Begin a snapshot: vote and metadata, the head of its checkpoint, signatures over that head, size of the stream in bytes.
    SnapshotBegin {
        /// Vote and metadata.
        meta: Bytes,
        /// The checkpoint.
        head: Head,
        /// Signed by voters.
        signatures: Vec<(crate::id::NodeId, Signature)>,
    },
    /// The next pairs of the stream, in order.
    SnapshotChunk {
        /// Index of the checkpoint.
        index: u64,
        /// Number of the chunk, from 0.
        number: u64,
        /// Keys and values, ascending.
        pairs: Vec<(Bytes, Bytes)>,
    },
    /// All chunks were sent: install.
    SnapshotEnd {
        /// Index of the checkpoint.
        index: u64,
        /// Number of chunks.
        chunks: u64,
    },
}
crate::wire_enum!(RaftCall {
    1 => Append(bytes),
    2 => Vote(bytes),
    3 => PreVote(bytes),
    4 => SnapshotBegin { meta, head, signatures },
    5 => SnapshotChunk { index, number, pairs },
    6 => SnapshotEnd { index, chunks },
});

/// An answer on the Raft stream.
#[derive(Debug, Clone)]
pub enum RaftAnswer {
    /// Raft's own answer.
    Raft(Bytes),
    /// Taken; go on.
    Taken,
    /// Refused at the door.
    Refused(Refusal),
}
crate::wire_enum!(RaftAnswer { 1 => Raft(bytes), 2 => Taken, 3 => Refused(refusal) });

/// A call on the work stream.
#[derive(Debug)]
pub enum WorkCall {
    /// How are you?
    Status,
    /// Is your store new? Asked before the cluster starts.
    NewStore,
    /// The start certificate, before Raft starts.
    Start(StartCertificate),
    /// Which start certificate do you have?
    StartCertificate,
    /// To the leader: order this.
    Propose(Payload),
    /// To the leader: which index is certainly applied by now?
    ReadIndex,
    /// A message of a Generate operation.
    Generate(SignedMessage),
    /// Commitments for a request, please.
    SignRound1(Round1),
    /// Shares for a package, please.
    SignRound2(Round2),
    /// A signed head of a checkpoint.
    Checkpoint {
        /// The head.
        head: Head,
        /// By the caller.
        signature: Signature,
    },
    /// A subshare of a redistribution.
    Subshare(SubshareMessage),
    /// Which changes of the membership came after a version?
    Chain {
        /// The version.
        after: u64,
    },
    /// Where are you? (`docs/spec/fresh.md`)
    Position(Question),
    /// A request that takes a right away is on its way to the log.
    Withdrawn(SignedRequest),
}
crate::wire_enum!(WorkCall {
    1 => Status,
    2 => NewStore,
    3 => Start(certificate),
    4 => StartCertificate,
    5 => Propose(payload),
    6 => ReadIndex,
    7 => Generate(message),
    8 => SignRound1(round),
    9 => SignRound2(round),
    10 => Checkpoint { head, signature },
    20 => Subshare(message),
    21 => Chain { after },
    11 => Position(question),
    12 => Withdrawn(request),
});

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its role in Raft.
    pub role: String,
    /// What it applied.
    pub applied_index: u64,
    /// Its release.
    pub release: String,
    /// Its boot.
    pub boot: BootId,
    /// Newest state version that its release knows.
    pub state_version: u32,
    /// Its clock when it answered, milliseconds since 1970.
    pub time_ms: u64,
}
crate::wire_struct!(PeerStatus { role, applied_index, release, boot, state_version, time_ms });

/// An answer on the work stream.
#[derive(Debug, Clone)]
pub enum WorkAnswer {
    /// Taken; nothing to say.
    Taken,
    /// Refused.
    Refused(Refusal),
    /// How the node is.
    Status(PeerStatus),
    /// The store is new.
    NewStore(NewStore),
    /// The start certificate.
    Start(StartCertificate),
    /// Ordered and applied.
    Proposed {
        /// Index of the entry.
        index: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// Applied at least.
    ReadIndex(u64),
    /// Commitments.
    Commitments(Commitments),
    /// Shares.
    Shares(Shares),
    /// The answering node's own signature over the same checkpoint; none when it has another one or is not there yet.
    Checkpoint(Option<Signature>),
    /// Changes of the membership, the first ones after the version that was asked for.
    Chain(Vec<Link>),
    /// Where the node is.
    Position(SignedPosition),
}
crate::wire_enum!(WorkAnswer {
    1 => Taken,
    2 => Refused(refusal),
    3 => Status(status),
    4 => NewStore(answer),
    5 => Start(certificate),
    6 => Proposed { index, outcome },
    7 => ReadIndex(index),
    8 => Commitments(commitments),
    9 => Shares(shares),
    10 => Checkpoint(signature),
    21 => Chain(links),
    11 => Position(position),
});
