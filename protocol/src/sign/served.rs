//! What a holder remembers of the requests that it served, so that nobody gets too much of it.

use std::collections::{BTreeMap, BTreeSet};

use super::misbehaved;
use super::nonce::Slot;
use crate::error::{ErrorCode, Refusal};
use crate::id::{Digest, Epoch, NodeId, SigningSession};
use crate::limits;
use crate::request::VerifiedRequest;

/// Which sessions were served for which request, until the request expires. An honest holder that remembers them never signs
/// two commitments for one session, so nobody can frame it.
#[derive(Debug, Default)]
pub(super) struct Served {
    requests: BTreeMap<(NodeId, Digest), ServedRequest>,
    expiries: BTreeSet<(u64, NodeId, Digest)>,
    /// Requests that expire until then may have been forgotten: a clock that goes back does not bring them back.
    forgotten_ms: u64,
}

/// What one coordinator got for one request.
#[derive(Debug, Default)]
struct ServedRequest {
    sessions: Vec<(SigningSession, Epoch)>,
    /// Sessions in which shares were given, of all epochs.
    shares: usize,
}

impl Served {
    pub(super) fn expire(&mut self, now_ms: u64) {
        while let Some((expires_ms, coordinator, request)) = self.expiries.first().copied() {
            if expires_ms > now_ms {
                return;
            }
            self.expiries.pop_first();
            self.requests.remove(&(coordinator, request));
            self.forgotten_ms = self.forgotten_ms.max(expires_ms);
        }
    }

    /// Whether another session may be served. When the shares change under a request, it begins anew with the new ones.
    pub(super) fn check(
        &self,
        slot: &Slot,
        epoch: Epoch,
        request: &VerifiedRequest,
        allowed: usize,
    ) -> Result<(), Refusal> {
        let (coordinator, session) = *slot;
        if request.body().expires_ms <= self.forgotten_ms {
            return Err(Refusal::new(ErrorCode::RequestExpired, "requests of this time have expired here"));
        }
        let Some(served) = self.requests.get(&(coordinator, request.digest())) else {
            if self.requests.len() < limits::SEEN_REQUESTS {
                return Ok(());
            }
            return Err(Refusal::new(ErrorCode::Overloaded, "this node remembers as many requests as it can"));
        };
        if served.sessions.iter().any(|(known, _)| *known == session) {
            return Err(misbehaved(coordinator, "used a session again"));
        }
        if served.sessions.iter().filter(|(_, of)| *of == epoch).count() >= allowed {
            return Err(too_often(coordinator, allowed));
        }
        Ok(())
    }

    pub(super) fn note(&mut self, slot: &Slot, epoch: Epoch, request: &VerifiedRequest) {
        let (coordinator, session) = *slot;
        let digest = request.digest();
        self.requests.entry((coordinator, digest)).or_default().sessions.push((session, epoch));
        self.expiries.insert((request.body().expires_ms, coordinator, digest));
    }

    /// Counts that shares are given. A request gets no more of them than sessions can be needed, whatever happens.
    pub(super) fn grant(&mut self, coordinator: NodeId, request: Digest, allowed: usize) -> Result<(), Refusal> {
        match self.requests.get_mut(&(coordinator, request)) {
            Some(served) if served.shares < allowed => {
                served.shares += 1;
                Ok(())
            }
            Some(_) => Err(too_often(coordinator, allowed)),
            None => Err(Refusal::new(ErrorCode::RequestExpired, "the request has expired here")),
        }
    }
}

fn too_often(coordinator: NodeId, allowed: usize) -> Refusal {
    let what = format!("asked for one request more often than the {allowed} times that can be needed");
    misbehaved(coordinator, &what)
}
