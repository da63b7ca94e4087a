//! A sign request with t reachable honest holders is answered: asked for every active key when faults are over, while evil nodes
//! go on.

use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::state::records::VersionRecord;

use super::{Oracle, SIGN_ANSWERED, Violation, liveness};

/// The core under which a version must sign; none when it need not.
pub(crate) fn must_sign<'a>(oracle: &Oracle, version: &'a VersionRecord, now_ms: u64) -> Option<&'a CertificateCore> {
    let core = &version.certificate.as_ref()?.core;
    let able = oracle.honest_holders(core) >= core.threshold.get();
    (able && version.state_at(now_ms) == KeyState::Active).then_some(core)
}

/// A request that should have been answered was not.
pub(crate) fn unanswered(what: &str) -> Violation {
    liveness(SIGN_ANSWERED, what)
}
