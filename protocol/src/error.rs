//! The one error table: for each code whose fault it is, the gRPC status, the exit code and what to do next.

use std::collections::BTreeMap;
use std::fmt;

use crate::wire::{Reader, Wire, WireError, Writer};

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller asked for something that cannot be, or is not allowed.
    Caller,
    /// A named node misbehaved.
    Peer,
    /// The surroundings: nodes down, network cut, disk full.
    Environment,
    /// A bug of ours.
    Bug,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The code.
    pub code: ErrorCode,
    /// Its name on the wire and in JSON.
    pub name: &'static str,
    /// What went wrong, where nobody says more.
    pub words: &'static str,
    /// Whose fault.
    pub fault: Fault,
    /// The gRPC status code (number of google.rpc.Code).
    pub grpc: i32,
    /// Exit code of the command line.
    pub exit: u8,
    /// Whether the same request may succeed later without a change.
    pub retryable: bool,
    /// What to do next.
    pub hint: &'static str,
}

macro_rules! error_table {
    ($($(#[doc = $doc:literal])* $variant:ident = $tag:literal, $name:literal, $fault:ident, $grpc:literal, $exit:literal, $retry:literal, $hint:literal;)*) => {
        /// What went wrong. `symbolon help errors` prints the whole table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ErrorCode { $($(#[doc = $doc])* $variant,)* }

        /// Every row, in the order of the codes.
        pub const TABLE: &[Row] = &[$(Row {
            code: ErrorCode::$variant, name: $name, words: concat!($($doc),*), fault: Fault::$fault, grpc: $grpc, exit: $exit, retryable: $retry, hint: $hint,
        },)*];

        impl ErrorCode {
            /// The row of this code.
            #[must_use]
            pub const fn row(self) -> Row {
                match self { $(Self::$variant => Row {
                    code: Self::$variant, name: $name, words: concat!($($doc),*), fault: Fault::$fault, grpc: $grpc, exit: $exit, retryable: $retry, hint: $hint,
                },)* }
            }
        }

        impl Wire for ErrorCode {
            fn put(&self, w: &mut Writer) {
                let tag: u8 = match self { $(Self::$variant => $tag,)* };
                tag.put(w);
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
                match u8::take(r)? {
                    $($tag => Ok(Self::$variant),)*
                    _ => Err(WireError::Invalid("an error code")),
                }
            }
        }
    };
}

// gRPC: 3 INVALID_ARGUMENT, 4 DEADLINE_EXCEEDED, 5 NOT_FOUND, 6 ALREADY_EXISTS, 7 PERMISSION_DENIED, 8 RESOURCE_EXHAUSTED,
// 9 FAILED_PRECONDITION, 12 UNIMPLEMENTED, 13 INTERNAL, 14 UNAVAILABLE, 15 DATA_LOSS, 16 UNAUTHENTICATED.
error_table! {
    /// The request or its arguments make no sense.
    InvalidArgument = 1, "invalid_argument", Caller, 3, 2, false, "correct the argument that the message names";
    /// The request asks for something that this release does not do.
    Unsupported = 2, "unsupported", Caller, 12, 2, false, "use a feature that this release supports, or upgrade the cluster";
    /// The request or a message is larger than the limit.
    TooLarge = 3, "too_large", Caller, 3, 2, false, "sign a large file with --format sshsig, which hashes it first";
    /// The request was made for another cluster.
    WrongCluster = 4, "wrong_cluster", Caller, 7, 3, false, "use the genesis file of this cluster (SYMBOLON_GENESIS)";
    /// Nobody registered this client identity.
    UnknownClient = 5, "unknown_client", Caller, 16, 3, false, "ask an administrator to run `symbolon client add NAME --public-key KEY --role ROLE`";
    /// The signature over the request does not verify.
    BadSignature = 6, "bad_signature", Caller, 16, 3, false, "sign the request with the identity that it names";
    /// The client has no role that allows this.
    PermissionDenied = 7, "permission_denied", Caller, 7, 3, false, "ask an administrator for the role that the message names";
    /// The request is past its expiry.
    RequestExpired = 8, "request_expired", Caller, 7, 3, false, "send a new request; check that the clocks of client and nodes agree";
    /// The request is not valid yet.
    RequestNotYetValid = 9, "request_not_yet_valid", Caller, 7, 3, false, "check that the clocks of client and nodes agree";
    /// The request id was used before, with another body.
    RequestReplayed = 10, "request_replayed", Caller, 7, 3, false, "choose a new random request id for every request";
    /// There is no such key, version or client.
    NotFound = 11, "not_found", Caller, 5, 5, false, "list what there is with `symbolon key list` or `symbolon client list`";
    /// The name is taken.
    AlreadyExists = 12, "already_exists", Caller, 6, 5, false, "choose another name; the name of a key that was once active is never used again";
    /// The state of the key does not allow this.
    WrongState = 13, "wrong_state", Caller, 9, 5, false, "look at the state with `symbolon key show KEY`";
    /// The last administrator cannot be removed.
    LastAdministrator = 14, "last_administrator", Caller, 9, 5, false, "register another administrator first";
    /// Another share operation of this key is not finished.
    OperationRunning = 15, "operation_running", Environment, 9, 5, true, "wait until the operation ends; `symbolon key show KEY` shows its phase";
    /// The key's generation ended without a key.
    GenerationFailed = 16, "generation_failed", Environment, 9, 4, false, "the message names who was at fault; create the key again when they are well";
    /// Fewer than the threshold of signers can be reached.
    BelowThreshold = 17, "below_threshold", Environment, 14, 4, true, "bring back enough of the unreachable holders";
    /// Nodes of the roster cannot be reached.
    RosterUnreachable = 18, "roster_unreachable", Environment, 14, 4, true, "bring the named nodes back, or name another roster";
    /// No majority of the voters answers.
    NoQuorum = 19, "no_quorum", Environment, 14, 4, true, "bring back a majority of the voters";
    /// This node cannot prove that its state is current.
    NotFresh = 20, "not_fresh", Environment, 14, 4, true, "ask another node; this one is cut off from the majority or still catching up";
    /// The node has more work than it can take.
    Overloaded = 21, "overloaded", Environment, 8, 4, true, "try again a little later";
    /// No answer within the deadline.
    DeadlineExceeded = 22, "deadline_exceeded", Environment, 4, 4, true, "try again; `symbolon status` shows who is reachable";
    /// No node could be reached at all.
    Unreachable = 23, "unreachable", Environment, 14, 4, true, "check the endpoints (SYMBOLON_ENDPOINTS) and that the nodes run";
    /// A node answered with something that does not verify.
    BadCertificate = 24, "bad_certificate", Peer, 15, 6, true, "a node shows a key that the cluster did not certify: take it out of service and look at it";
    /// The signature does not verify.
    VerificationFailed = 25, "verification_failed", Caller, 3, 6, false, "the file, the signature or the key is not the one that was signed with";
    /// The nodes of this cluster do not know this version.
    VersionUnknown = 26, "version_unknown", Environment, 9, 4, false, "upgrade the program to the release that the message names";
    /// The node cannot use its store.
    StorageFailed = 27, "storage_failed", Environment, 14, 4, false, "look at the disk of the node that the message names";
    /// The node is quarantined.
    Quarantined = 28, "quarantined", Environment, 9, 4, false, "the node's store is older than what its peers saw: re-enrol it under a new identity";
    /// Something that cannot be.
    Internal = 29, "internal", Bug, 13, 1, false, "this is a bug: please report it with the request id and the nodes' logs";
    /// A peer broke the protocol.
    PeerMisbehaved = 30, "peer_misbehaved", Peer, 13, 4, true, "the message names the node: look at it";
    /// A local file cannot be read or written, or holds something else.
    LocalFile = 31, "local_file", Caller, 9, 1, false, "check the path and its permissions";
    /// A holder has, or waits for, the shares of another epoch than the coordinator means.
    EpochChanged = 32, "epoch_changed", Environment, 14, 4, true, "try again: the shares of the key have just changed, and not every node knows yet";
    /// Keys need the shares of a node that is to leave.
    StillNeeded = 33, "still_needed", Caller, 9, 5, false, "move its shares first with `symbolon member remove NODE --drain`; with --lost it leaves without";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().name)
    }
}

impl ErrorCode {
    /// The code with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name == name).map(|row| row.code)
    }
}

/// A detail that scripts can rely on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// A list of texts.
    List(Vec<String>),
}
crate::wire_enum!(Detail { 1 => Text(text), 2 => Number(number), 3 => List(list) });

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::List(list) => f.write_str(&list.join(", ")),
        }
    }
}

/// An error as it travels: in outcomes, replies and logs. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What went wrong.
    pub code: ErrorCode,
    /// What went wrong, in words, with names and numbers.
    pub message: String,
    /// For scripts.
    pub details: BTreeMap<String, Detail>,
}
crate::wire_struct!(Refusal { code, message, details });

impl Refusal {
    /// A refusal without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: BTreeMap::new() }
    }
    /// The same with words: those of the table and the details, when it has none of its own.
    #[must_use]
    pub fn in_words(mut self) -> Self {
        if self.message.is_empty() {
            let mut said = vec![self.code.row().words.trim().trim_end_matches('.').to_owned()];
            said.extend(self.details.iter().map(|(name, detail)| format!("{name}: {detail}")));
            self.message = said.join("; ");
        }
        self
    }
    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, name: &str, detail: Detail) -> Self {
        self.details.insert(name.to_owned(), detail);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self::new(ErrorCode::InvalidArgument, format!("malformed input: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode, encode};
    use std::collections::BTreeSet;

    #[test]
    fn every_code_has_its_own_name_and_tag() {
        let names: BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
        let tags: BTreeSet<_> = TABLE.iter().map(|row| encode(&row.code)).collect();
        assert_eq!((names.len(), tags.len()), (TABLE.len(), TABLE.len()));
        for row in TABLE {
            assert_eq!(ErrorCode::from_name(row.name), Some(row.code));
            assert_eq!(decode::<ErrorCode>(&encode(&row.code)), Ok(row.code));
            assert!(!row.hint.is_empty() && (1..=6).contains(&row.exit), "{}", row.name);
        }
    }

    #[test]
    fn a_refusal_without_words_is_put_in_those_of_the_table() {
        let bare = Refusal::new(ErrorCode::VersionUnknown, "")
            .with("lacking", Detail::List(vec!["a".to_owned(), "b".to_owned()]))
            .with("to", Detail::Number(2));
        let said = "The nodes of this cluster do not know this version; lacking: a, b; to: 2";
        assert_eq!(bare.in_words().message, said);
        assert_eq!(Refusal::new(ErrorCode::NotFound, "no key").in_words().message, "no key");
        for row in TABLE {
            assert!(row.words.trim().ends_with('.'), "{}", row.name);
        }
    }

    #[test]
    fn exit_codes_follow_the_fault() {
        for row in TABLE.iter().filter(|row| row.grpc == 14) {
            assert_eq!((row.exit, row.fault), (4, Fault::Environment), "{}", row.name);
        }
        assert_eq!(ErrorCode::PermissionDenied.row().exit, 3);
        assert_eq!(ErrorCode::WrongState.row().exit, 5);
        assert_eq!(ErrorCode::VerificationFailed.row().exit, 6);
    }
}
