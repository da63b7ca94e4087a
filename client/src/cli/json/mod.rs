//! The documents that `-o json` prints: one per command, complete, and the same in every release of the same major number.
//!
//! Rules: times are RFC 3339 in UTC; ids and public keys are hexadecimal; nodes are named as in genesis; what is unknown or
//! does not apply is `null`; fields may be added, never renamed or removed. Errors stand alone on standard error
//! ([`ErrorDocument`]); a warning beside a good result is a line `{"warning": text}` there.
//! One file for each group of commands.

mod clients;
mod doctor;
mod errors;
mod keys;
mod members;
mod shares;
mod signatures;
mod status;

pub(crate) use clients::{ClientChanged, Clients, Identity, Upgraded};
pub(crate) use doctor::{Doctor, NodeExamined};
pub(crate) use errors::{ErrorDocument, ErrorRow};
pub(crate) use keys::{Changed, Enforcement, Exported, Key, Keys, Made, VersionState};
pub(crate) use members::{MemberChanged, Members};
pub(crate) use shares::{Cause, Ended, KeptBy, KeyOperations, NewShares, Operation, Operations, SharesMoved};
pub(crate) use signatures::{Decision, Explained, NodeError, NodeExplained, Signed, Verified};
pub(crate) use status::Status;
