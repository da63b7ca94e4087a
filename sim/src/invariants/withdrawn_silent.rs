//! A key that was suspended, revoked, expired or destroyed signs nothing once every node has applied that.

use symbolon_protocol::lifecycle::{Event, Verdict, decide};
use symbolon_protocol::state::records::VersionRecord;

use super::{Violation, WITHDRAWN_SILENT, safety};

/// Whether a current version must not sign.
pub(crate) fn must_be_silent(version: &VersionRecord, now_ms: u64) -> bool {
    decide(version.state_at(now_ms), Event::Sign) == Verdict::No
}

/// A client got a signature that it should not have got.
pub(crate) fn spoke(what: &str) -> Violation {
    safety(WITHDRAWN_SILENT, what)
}
