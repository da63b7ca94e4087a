//! The one decision of a share holder: may a share leave for this request?

use std::sync::Arc;

use crate::certificate::CertificateCore;
use crate::error::{ErrorCode, Refusal};
use crate::fresh::Fresh;
use crate::id::{Digest, Epoch, KeyId, KeyVersion, NodeId};
use crate::lifecycle::{Event, Verdict, decide};
use crate::limits;
use crate::request::{Action, Purpose, VerifiedRequest};
use crate::schema::replicated as schema;
use crate::state::records::{self, VersionRecord};
use crate::state::{decide_right, unknown_client};
use crate::table::{StoreFault, Tables, read};

/// Permission for one request with one version and epoch of one key; made only by [`may_contribute`].
#[derive(Debug)]
pub struct Permit {
    request: Digest,
    core: Arc<CertificateCore>,
}

impl Permit {
    /// The key.
    #[must_use]
    pub fn key(&self) -> KeyId {
        self.core.key
    }
    /// The version.
    #[must_use]
    pub fn version(&self) -> KeyVersion {
        self.core.version
    }
    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.core.epoch
    }
    /// Digest of the request body.
    #[must_use]
    pub fn request_digest(&self) -> Digest {
        self.request
    }
    /// The certificate core of the version.
    #[must_use]
    pub fn core(&self) -> &Arc<CertificateCore> {
        &self.core
    }
    /// Whether shares that were made with a version may leave under this permit: a rotation since then took that right away.
    ///
    /// # Errors
    /// `epoch_changed`.
    pub fn covers(&self, version: KeyVersion) -> Result<(), Refusal> {
        if version == self.core.version {
            return Ok(());
        }
        let message = format!("key `{}` was rotated to version {}", self.core.name, self.core.version);
        Err(Refusal::new(ErrorCode::EpochChanged, message))
    }
    /// A permit for tests of the machines behind this door.
    #[cfg(test)]
    pub(crate) fn for_test(request: Digest, core: CertificateCore) -> Self {
        Self { request, core: Arc::new(core) }
    }
}

/// What the state says of a client and a key, whatever the time is: valid until the state changes.
#[derive(Debug)]
pub struct Standing {
    core: Arc<CertificateCore>,
    purpose: Purpose,
    version: VersionRecord,
    staleness_ms: u64,
}

/// The two clocks of a decision, milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// The node's own.
    pub now_ms: u64,
    /// State time.
    pub state_ms: u64,
}

impl Clocks {
    /// Entries come at least every minute, if only to let state time go on: a state that is older has not heard of the last one.
    ///
    /// # Errors
    /// `not_fresh`.
    pub(crate) fn check_behind(self) -> Result<(), Refusal> {
        let behind = self.now_ms.saturating_sub(self.state_ms);
        if behind <= limits::STATE_BEHIND_MS {
            return Ok(());
        }
        let message = format!("state time is {} s behind the clock of this node", behind / 1000);
        Err(Refusal::new(ErrorCode::NotFresh, message))
    }
}

impl Standing {
    /// Looks up the client of a request and the key that it names, and whether the one may use the other.
    ///
    /// # Errors
    /// Inside: the refusal, naming the first rule that is broken. Outside: [`StoreFault`] when the state cannot be read.
    pub fn of<T: Tables>(tables: &T, request: &VerifiedRequest) -> Result<Result<Self, Refusal>, StoreFault> {
        let body = request.body();
        let refuse = |code, message: String| Ok(Err(Refusal::new(code, message)));
        if !matches!(body.action, Action::Sign) {
            return refuse(ErrorCode::InvalidArgument, format!("`{}` is not signed for", body.action.name()));
        }
        let Some(client) = records::client_of(tables, &body.client)? else { return Ok(Err(unknown_client(request))) };
        if let Err(refusal) = decide_right(tables, &client, body)? {
            return Ok(Err(refusal));
        }
        let key = match body.key {
            Some(id) => read::<records::KeyRecord>(tables, &schema::key_record(&id))?,
            None => None,
        };
        let Some(key) = key else { return refuse(ErrorCode::NotFound, "there is no such key".to_owned()) };
        let version = match key.current {
            Some(number) => read::<VersionRecord>(tables, &schema::version(&key.id, number))?,
            None => None,
        };
        let Some(mut version) = version else {
            return refuse(ErrorCode::WrongState, format!("key `{}` has no active version", key.name));
        };
        match version.certificate.take() {
            Some(certificate) => Ok(Ok(Self {
                core: Arc::new(certificate.core),
                purpose: key.purpose,
                version,
                staleness_ms: key.policy.max_staleness_ms.into(),
            })),
            None => refuse(ErrorCode::Internal, format!("key `{}` is active without a certificate", key.name)),
        }
    }

    /// How old the evidence of a lease may be for this key, milliseconds.
    #[must_use]
    pub fn staleness_ms(&self) -> u64 {
        self.staleness_ms
    }

    /// Whether a request may be signed now, and with which version.
    ///
    /// # Errors
    /// The refusal, naming the first rule that is broken.
    pub fn allows(&self, clocks: Clocks, request: &VerifiedRequest) -> Result<&Arc<CertificateCore>, Refusal> {
        let body = request.body();
        // State time lags behind, so it may only say that a request is too old.
        request.check_time(clocks.now_ms)?;
        request.check_time(clocks.state_ms.max(body.not_before_ms))?;
        let name = &self.core.name;
        if self.purpose != body.purpose || body.key != Some(self.core.key) {
            return Err(Refusal::new(ErrorCode::WrongState, format!("key `{name}` is not for this")));
        }
        let state = self.version.state_at(clocks.state_ms.max(clocks.now_ms));
        if decide(state, Event::Sign) == Verdict::No {
            return Err(Refusal::new(ErrorCode::WrongState, format!("key `{name}` is {state}: it does not sign")));
        }
        Ok(&self.core)
    }

    /// Decides, alone, whether a share of this node may leave for a request: the one door in front of every share. `fresh` is
    /// asked last, when all else is decided: so nothing lies between the age of the evidence and the permit.
    ///
    /// # Errors
    /// The refusal, naming the first rule that is broken.
    pub fn may_contribute(
        &self,
        node: NodeId,
        clocks: Clocks,
        request: &VerifiedRequest,
        fresh: impl FnOnce() -> Result<Fresh, Refusal>,
    ) -> Result<Permit, Refusal> {
        clocks.check_behind()?;
        let core = self.allows(clocks, request)?;
        if !core.holders.contains(&node) {
            // Whoever knows these shares does not ask this node.
            let message = format!("node {node} holds no share of key `{}`", core.name);
            return Err(Refusal::new(ErrorCode::EpochChanged, message));
        }
        let Fresh { .. } = fresh()?;
        Ok(Permit { request: request.digest(), core: Arc::clone(core) })
    }
}

/// [`Standing::may_contribute`] from the state itself.
///
/// # Errors
/// Inside: the refusal, naming the first rule that is broken. Outside: [`StoreFault`] when the state cannot be read.
pub fn may_contribute<T: Tables>(
    tables: &T,
    node: NodeId,
    now_ms: u64,
    request: &VerifiedRequest,
    fresh: impl FnOnce() -> Result<Fresh, Refusal>,
) -> Result<Result<Permit, Refusal>, StoreFault> {
    let clocks = Clocks { now_ms, state_ms: records::cluster(tables)?.time_ms };
    Ok(Standing::of(tables, request)?.and_then(|standing| standing.may_contribute(node, clocks, request, fresh)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::id::{ClusterId, RequestId};
    use crate::identity::Identity;
    use crate::lifecycle::KeyState;
    use crate::request::{MessageDigest, RequestBody, SignedRequest, VersionSelector};
    use crate::sign::arithmetic::testing::core_of;

    const NOW: u64 = 1_800_000_000_000;
    const EXPIRES: u64 = NOW + 60_000;
    const CLOCKS: Clocks = Clocks { now_ms: NOW, state_ms: NOW };

    fn node(number: u16) -> NodeId {
        NodeId::new(number).unwrap()
    }

    /// Of a key in this state that expires at this time; nodes 1 to 3 are its holders.
    fn standing(state: KeyState, expires_ms: Option<u64>) -> Standing {
        let core = core_of([1; 32], 2, &[1, 2, 3].map(|number| (node(number), [2; 32])));
        let version = VersionRecord {
            number: core.version,
            state,
            created_ms: NOW,
            expires_ms,
            reason: None,
            roster: core.roster.clone(),
            threshold: core.threshold,
            attempts: Vec::new(),
            epoch: core.epoch,
            certificate: None,
            retiring: None,
            shares: Vec::new(),
            stale: BTreeSet::new(),
            committed_ms: NOW,
            refresh_ms: None,
            healed: BTreeMap::new(),
            destruction: None,
        };
        Standing { core: Arc::new(core), purpose: Purpose::Sign, version, staleness_ms: 1_000 }
    }

    /// A signature with this key is asked for, from [`NOW`] to [`EXPIRES`].
    fn request(key: KeyId) -> VerifiedRequest {
        let (client, cluster) = (Identity::from_seed(&[4; 32]), ClusterId::from_bytes([7; 32]));
        let body = RequestBody {
            cluster,
            client: client.public(),
            request_id: RequestId::from_bytes([5; 16]),
            not_before_ms: NOW,
            expires_ms: EXPIRES,
            action: Action::Sign,
            key: Some(key),
            version: VersionSelector::Active,
            purpose: Purpose::Sign,
            payload_type: "raw".to_owned(),
            context: BTreeMap::new(),
            messages: vec![MessageDigest::of(b"message")],
        };
        SignedRequest::sign(&body, &client).verify(&cluster).unwrap()
    }

    /// What is decided when the evidence is this, and whether it was asked for.
    fn ask(
        standing: &Standing,
        number: u16,
        clocks: Clocks,
        request: &VerifiedRequest,
        evidence: Result<Fresh, Refusal>,
    ) -> (Result<(), ErrorCode>, bool) {
        let mut asked = false;
        let decided = standing.may_contribute(node(number), clocks, request, || {
            asked = true;
            evidence
        });
        (decided.map(|_| ()).map_err(|refusal| refusal.code), asked)
    }

    #[test]
    fn who_is_refused_for_another_reason_is_not_asked_for_evidence() {
        let active = standing(KeyState::Active, None);
        let (own, other) = (request(active.core.key), request(KeyId::from_bytes([9; 32])));
        let clocks = |now_ms, state_ms| Clocks { now_ms, state_ms };
        let behind = clocks(NOW, NOW - limits::STATE_BEHIND_MS - 1);
        let suspended = standing(KeyState::Suspended, None);
        let expired = standing(KeyState::Active, Some(NOW));
        let cases = [
            ("state behind", &active, 1, behind, &own, ErrorCode::NotFresh),
            ("too early", &active, 1, clocks(NOW - 1, NOW), &own, ErrorCode::RequestNotYetValid),
            ("too late by the clock", &active, 1, clocks(EXPIRES, NOW), &own, ErrorCode::RequestExpired),
            ("too late by state time", &active, 1, clocks(NOW, EXPIRES), &own, ErrorCode::RequestExpired),
            ("another key", &active, 1, CLOCKS, &other, ErrorCode::WrongState),
            ("suspended", &suspended, 1, CLOCKS, &own, ErrorCode::WrongState),
            ("past its date", &expired, 1, CLOCKS, &own, ErrorCode::WrongState),
            ("no holder", &active, 4, CLOCKS, &own, ErrorCode::EpochChanged),
        ];
        for (why, standing, number, clocks, request, code) in cases {
            assert_eq!(ask(standing, number, clocks, request, Ok(Fresh::for_test())), (Err(code), false), "{why}");
        }
    }

    #[test]
    fn a_permit_takes_evidence() {
        let active = standing(KeyState::Active, None);
        let own = request(active.core.key);
        let stale = Err(Refusal::new(ErrorCode::NotFresh, "no evidence"));
        assert_eq!(ask(&active, 1, CLOCKS, &own, stale), (Err(ErrorCode::NotFresh), true));
        assert_eq!(ask(&active, 1, CLOCKS, &own, Ok(Fresh::for_test())), (Ok(()), true));
    }
}
