//! How a signature comes about on this node: as a holder, which decides alone, and as a coordinator, which has no authority.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::type_config::TypeConfigExt as _;
use rand_core::RngCore as _;
use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::contribute::{Clocks, Permit, Standing};
use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::fresh::Fresh;
use symbolon_protocol::id::{Digest, NodeId, SigningSession};
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::request::{SignedRequest, VerifiedRequest};
use symbolon_protocol::sign::coordinator::{Coordinator, Effect, Failure, Plan};
use symbolon_protocol::sign::holder::{Context, Lookup, OwnPairs};
use symbolon_protocol::sign::{CheckedSigners, Commitments, HolderShare, KeyGroup, Round1, Round2, Shares};
use symbolon_protocol::state::records;
use symbolon_protocol::wire::Bytes;

use super::types::{NodeTypes, Surroundings, Transport};
use super::usage::Decision;
use super::{Core, lock};
use crate::store::Store;

/// A key as the signing path needs it.
pub(crate) struct LoadedKey {
    core: CertificateCore,
    group: Arc<KeyGroup>,
    members: Arc<BTreeMap<NodeId, PublicKey>>,
    /// This node's share, where it holds one.
    share: Option<Arc<HolderShare>>,
}

/// How long a holder may take for one round.
const ROUND: Duration = Duration::from_millis(1_500);

/// Clients and keys whose standing is remembered.
const STANDINGS: usize = 65_536;

/// Between two sweeps of nonces that nobody came back for.
const SWEEP: Duration = Duration::from_secs(5);

/// What a coordinated request led to.
#[derive(Debug)]
pub struct Signed {
    /// One signature per message.
    pub signatures: Vec<[u8; 64]>,
    /// The certificate core under which they verify.
    pub core: CertificateCore,
    /// Who signed.
    pub holders: Vec<NodeId>,
    /// Sets of holders that were tried.
    pub attempts: u32,
}

enum Reply {
    Commitments(Result<Commitments, Option<Refusal>>),
    Own(Commitments, OwnPairs),
    Shares(Result<Shares, Option<Refusal>>),
}

type Answers = FuturesUnordered<BoxFuture<'static, (NodeId, Reply)>>;

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// The key of a certificate core, decoded once per state of the cluster.
    fn loaded(&self, core: &CertificateCore) -> Result<Arc<LoadedKey>, Refusal> {
        let known = lock(&self.0.keys).get(&core.key).cloned();
        if let Some(known) = known.filter(|known| known.core == *core) {
            return Ok(known);
        }
        let share = if core.roster.contains(&self.0.me) {
            Some(Arc::new(HolderShare::new(self.0.me, self.read_share(core)?, core)?))
        } else {
            None
        };
        let group = match &share {
            Some(share) => Arc::clone(share.group()),
            None => Arc::new(KeyGroup::new(core)?),
        };
        let members = core.roster.iter().filter_map(|node| Some((*node, self.member_key(*node)?))).collect();
        let loaded = Arc::new(LoadedKey { core: core.clone(), group, members: Arc::new(members), share });
        lock(&self.0.keys).insert(core.key, Arc::clone(&loaded));
        Ok(loaded)
    }

    /// What the state says of a request's client and key; looked up once per generation of the state.
    fn standing(&self, request: &VerifiedRequest) -> Result<Arc<Standing>, Refusal> {
        let body = request.body();
        let name = (*body.client.as_bytes(), body.key);
        let generation = self.0.generation.load(Ordering::Acquire);
        if let Some((_, known)) = lock(&self.0.standings).get(&name).filter(|(of, _)| *of == generation) {
            return Ok(Arc::clone(known));
        }
        let standing = Arc::new(Standing::of(&self.tables(), request).map_err(|e| self.fail(&e))??);
        let mut standings = lock(&self.0.standings);
        if standings.len() >= STANDINGS {
            standings.clear();
        }
        standings.insert(name, (generation, Arc::clone(&standing)));
        Ok(standing)
    }

    fn clocks(&self) -> Result<Clocks, Refusal> {
        let cluster = records::cluster(&self.tables()).map_err(|e| self.fail(&e))?;
        Ok(Clocks { now_ms: self.now_ms(), state_ms: cluster.time_ms })
    }

    /// The one decision, by this node's own state.
    fn permit(&self, request: &VerifiedRequest) -> Result<Permit, Refusal> {
        self.standing(request)?.may_contribute(self.0.me, self.clocks()?, &Fresh::assumed(), request)
    }

    /// Round 1 as a holder.
    pub(crate) fn sign_round1(&self, coordinator: NodeId, round1: Round1) -> Result<Commitments, Refusal> {
        let verified = Arc::new(round1.request.verify(&self.0.cluster)?);
        self.commit_or_log(coordinator, &Arc::new(round1), &verified)
    }

    fn commit_or_log(
        &self,
        coordinator: NodeId,
        round1: &Arc<Round1>,
        verified: &Arc<VerifiedRequest>,
    ) -> Result<Commitments, Refusal> {
        let result = self.commit_nonces(coordinator, round1, verified);
        // Refusals are logged too; they wait for nobody. A stranger's are not worth a place.
        if let Err(refusal) = &result
            && refusal.code != ErrorCode::UnknownClient
        {
            self.log_usage(coordinator, &round1.request, verified, Some(refusal), None)?;
        }
        result
    }

    fn commit_nonces(
        &self,
        coordinator: NodeId,
        round1: &Arc<Round1>,
        verified: &Arc<VerifiedRequest>,
    ) -> Result<Commitments, Refusal> {
        self.0.usage.check_replay(verified.body(), &round1.request)?;
        let permit = self.permit(verified)?;
        let key = self.loaded(permit.core())?;
        let share = key.share.as_ref().ok_or_else(|| self.holds_nothing(&key.core))?;
        let context =
            Context { now_ms: self.now_ms(), coordinator, permit: &permit, share, identity: &self.0.identity };
        lock(&self.0.holder).round1(&context, round1, verified, &mut self.0.surroundings.rng())
    }

    fn holds_nothing(&self, core: &CertificateCore) -> Refusal {
        let message = format!("{} holds no share of key `{}`", self.name_of(self.0.me), core.name);
        Refusal::new(ErrorCode::WrongState, message)
    }

    /// Round 2 as a holder, asked by a peer.
    pub(crate) async fn sign_round2(&self, coordinator: NodeId, round2: Round2) -> Result<Shares, Refusal> {
        self.finish_signing(coordinator, Arc::new(round2), None).await
    }

    async fn finish_signing(
        &self,
        coordinator: NodeId,
        round2: Arc<Round2>,
        checked: Option<Arc<CheckedSigners>>,
    ) -> Result<Shares, Refusal> {
        let now_ms = self.now_ms();
        let verified = lock(&self.0.holder).request_of(coordinator, round2.session, now_ms).cloned();
        let Some(verified) = verified else {
            return Err(Refusal::new(ErrorCode::DeadlineExceeded, "the nonces of this session are gone"));
        };
        let permit = self.permit(&verified)?;
        let key = self.loaded(permit.core())?;
        let share = key.share.as_ref().ok_or_else(|| self.holds_nothing(&key.core))?;
        let context = Context { now_ms, coordinator, permit: &permit, share, identity: &self.0.identity };
        let alarm = |refused: symbolon_protocol::sign::holder::SignRefusal| {
            if refused.alarm {
                tracing::error!(peer = %coordinator, refusal = %refused.refusal, "a second use of nonces was attempted");
            }
            refused.refusal
        };
        let pending = match lock(&self.0.holder).lookup(&context, &round2).map_err(alarm)? {
            Lookup::Answered(shares) => return Ok(shares),
            Lookup::Open(pending) => pending,
        };
        let signers = match checked {
            Some(checked) => checked,
            None => Arc::new(pending.check(share, &key.members, &round2)?),
        };
        self.0.usage.check_replay(verified.body(), signers.request())?;
        // From here on the nonces are gone, whatever happens.
        let taken = lock(&self.0.holder).take(&context, &signers).map_err(alarm)?;
        let core = &key.core;
        self.log_usage(coordinator, signers.request(), &verified, None, Some(core))?;
        self.0.store.sync().await.map_err(|e| self.fail(&e))?;
        let shares = taken.sign(share, &self.0.identity)?;
        lock(&self.0.holder).keep(coordinator, &shares);
        // The state may have changed while the record was written: asked once more, right before the share leaves.
        if let Err(refusal) = self.permit(&verified) {
            self.log_usage(coordinator, signers.request(), &verified, Some(&refusal), None)?;
            return Err(refusal);
        }
        tracing::info!(request = %verified.body().request_id, key = %core.name, %coordinator, "a signature share leaves");
        Ok(shares)
    }

    fn log_usage(
        &self,
        coordinator: NodeId,
        request: &SignedRequest,
        verified: &VerifiedRequest,
        refused: Option<&Refusal>,
        core: Option<&CertificateCore>,
    ) -> Result<(), Refusal> {
        let used = core.map(|core| (core.key, (core.version, core.epoch)));
        let decision = Decision { now_ms: self.now_ms(), request, coordinator, refused, used };
        self.0.usage.append(verified.body(), &decision).map_err(|e| self.fail(&e))?
    }

    /// Coordinates a request of a client.
    ///
    /// # Errors
    /// Why there is no signature: the caller's fault by this node's state, too few holders, or holders that misbehave.
    pub async fn coordinate(&self, request: SignedRequest, messages: Vec<Bytes>) -> Result<Signed, Refusal> {
        let verified = Arc::new(request.verify(&self.0.cluster)?);
        verified.check_messages(&messages)?;
        let core = self.may_coordinate(&verified).await?;
        let key = self.loaded(&core)?;
        let mut excluded = BTreeSet::new();
        let mut last = None;
        let attempts_max = core.roster.len() - core.threshold.get() + 1;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let round1 = self.new_round1(&core, &request, &messages);
            let plan = self.plan(&key, verified.digest(), round1, excluded.clone());
            match self.run_attempt(plan, &verified).await {
                Ok((signatures, holders)) => {
                    tracing::info!(request = %verified.body().request_id, key = %core.name, ?holders, "signed");
                    let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
                    return Ok(Signed { signatures, core: CertificateCore::clone(&core), holders, attempts });
                }
                Err(Failure::Blamed { culprits, .. }) => {
                    for (node, refusal) in culprits {
                        tracing::error!(peer = %node, %refusal, "a holder is left out of a signature");
                        excluded.insert(node);
                        last = Some((node, refusal));
                    }
                }
                Err(Failure::Lost { node, refusal }) => {
                    // Whatever it said: one holder alone cannot deny a signature.
                    tracing::warn!(peer = %node, ?refusal, "a holder did not finish a signature");
                    excluded.insert(node);
                    last = refusal.map(|refusal| (node, refusal)).or(last);
                }
                Err(Failure::Refused(refusal)) => return Err(self.with_names(refusal)),
            }
            if attempts >= attempts_max {
                return Err(self.nobody_signed(&core, attempts, last));
            }
        }
    }

    /// Why no set of holders signed, with what the last of them said.
    fn nobody_signed(&self, core: &CertificateCore, attempts: usize, last: Option<(NodeId, Refusal)>) -> Refusal {
        let tried = format!("key `{}` was not signed with; sets of holders that were tried: {attempts}", core.name);
        match last {
            Some((node, refusal)) => {
                let message = format!("{tried}; {} said: {}", self.name_of(node), refusal.message);
                Refusal::new(refusal.code, message).with("node", Detail::Text(self.name_of(node)))
            }
            None => Refusal::new(ErrorCode::DeadlineExceeded, format!("{tried}; holders did not answer in time")),
        }
    }

    /// Whether this node, by its own state, would coordinate a request. A state that lags is brought up before it refuses.
    async fn may_coordinate(&self, verified: &VerifiedRequest) -> Result<Arc<CertificateCore>, Refusal> {
        let decide = || Ok(Arc::clone(self.standing(verified)?.allows(self.clocks()?, verified)?));
        match decide() {
            Err(Refusal {
                code:
                    ErrorCode::UnknownClient | ErrorCode::PermissionDenied | ErrorCode::NotFound | ErrorCode::WrongState,
                ..
            }) => {
                self.catch_up(Duration::from_millis(800)).await;
                decide()
            }
            decided => decided,
        }
    }

    fn new_round1(&self, core: &CertificateCore, request: &SignedRequest, messages: &[Bytes]) -> Arc<Round1> {
        let mut session = [0; 16];
        self.0.surroundings.rng().fill_bytes(&mut session);
        Arc::new(Round1 {
            session: SigningSession::from_bytes(session),
            key: core.key,
            version: core.version,
            epoch: core.epoch,
            request: request.clone(),
            messages: messages.to_vec(),
        })
    }

    /// This node first, where it holds a share, then the reachable holders from a place that differs per request, so that
    /// the work spreads.
    fn plan(&self, key: &LoadedKey, request: Digest, round1: Arc<Round1>, excluded: BTreeSet<NodeId>) -> Plan {
        let roster = &key.core.roster;
        let start = usize::from(round1.session.as_bytes()[0]) % roster.len().max(1);
        let (head, tail) = roster.split_at(start.min(roster.len()));
        let mut preference: Vec<NodeId> =
            tail.iter().chain(head).copied().filter(|node| *node != self.0.me && self.is_reachable(*node)).collect();
        if roster.contains(&self.0.me) {
            preference.insert(0, self.0.me);
        }
        Plan {
            coordinator: self.0.me,
            group: Arc::clone(&key.group),
            members: Arc::clone(&key.members),
            request,
            round1,
            preference,
            excluded,
        }
    }

    async fn run_attempt(
        &self,
        plan: Plan,
        verified: &Arc<VerifiedRequest>,
    ) -> Result<(Vec<[u8; 64]>, Vec<NodeId>), Failure> {
        let (mut coordinator, mut effects) = Coordinator::new(plan);
        let mut answers: Answers = FuturesUnordered::new();
        loop {
            for effect in effects {
                match effect {
                    Effect::Ask(node, round1) => answers.push(self.ask(node, round1, verified)),
                    Effect::Finish(node, signers) => answers.push(Box::pin(self.clone().finish(node, signers))),
                    Effect::Misbehaved(node, refusal) => {
                        tracing::error!(peer = %node, %refusal, "a holder broke the protocol");
                    }
                    Effect::Done { signatures, holders } => return Ok((signatures, holders)),
                    Effect::Failed(failure) => return Err(failure),
                }
            }
            effects = match answers.next().await {
                Some((node, Reply::Commitments(Ok(commitments)))) => coordinator.commitments(node, commitments),
                Some((_, Reply::Own(commitments, pairs))) => coordinator.own_commitments(commitments, pairs),
                Some((node, Reply::Shares(Ok(shares)))) => coordinator.shares(node, shares),
                Some((node, Reply::Commitments(Err(refusal)) | Reply::Shares(Err(refusal)))) => match refusal {
                    Some(refusal) => coordinator.refused(node, refusal),
                    None => coordinator.unreachable(node),
                },
                None => {
                    let message = "an attempt to sign waits for nobody";
                    return Err(Failure::Refused(Refusal::new(ErrorCode::Internal, message)));
                }
            };
        }
    }

    fn ask(
        &self,
        node: NodeId,
        round1: Arc<Round1>,
        verified: &Arc<VerifiedRequest>,
    ) -> BoxFuture<'static, (NodeId, Reply)> {
        if node == self.0.me {
            let reply = self.commit_here(node, &round1, verified);
            return Box::pin(std::future::ready((node, reply)));
        }
        let core = self.clone();
        Box::pin(async move {
            let call = WorkCall::SignRound1(Round1::clone(&round1));
            let result = match core.call_work(node, &call, ROUND).await {
                Ok(WorkAnswer::Commitments(commitments)) => Ok(commitments),
                Ok(WorkAnswer::Refused(refusal)) => Err(Some(refusal)),
                Ok(_) | Err(_) => Err(None),
            };
            (node, Reply::Commitments(result))
        })
    }

    /// Round 1 of the holder beside the coordinator: the request was verified already, and its points are its own.
    fn commit_here(&self, node: NodeId, round1: &Arc<Round1>, verified: &Arc<VerifiedRequest>) -> Reply {
        let commitments = match self.commit_or_log(node, round1, verified) {
            Ok(commitments) => commitments,
            Err(refusal) => return Reply::Commitments(Err(Some(refusal))),
        };
        match lock(&self.0.holder).own_pairs(node, round1.session, self.now_ms()) {
            Some(pairs) => Reply::Own(commitments, pairs),
            None => Reply::Commitments(Ok(commitments)),
        }
    }

    async fn finish(self, node: NodeId, signers: Arc<CheckedSigners>) -> (NodeId, Reply) {
        let result = if node == self.0.me {
            let round2 = Arc::clone(signers.round2());
            self.finish_signing(node, round2, Some(signers)).await.map_err(Some)
        } else {
            let call = WorkCall::SignRound2(Round2::clone(signers.round2()));
            match self.call_work(node, &call, ROUND).await {
                Ok(WorkAnswer::Shares(shares)) => Ok(shares),
                Ok(WorkAnswer::Refused(refusal)) => Err(Some(refusal)),
                Ok(_) | Err(_) => Err(None),
            }
        };
        (node, Reply::Shares(result))
    }

    /// Puts names where floor 0 knows only numbers.
    fn with_names(&self, mut refusal: Refusal) -> Refusal {
        if refusal.code == ErrorCode::BelowThreshold {
            for list in ["unreachable", "excluded"] {
                if let Some(Detail::List(ids)) = refusal.details.get_mut(list) {
                    for id in ids {
                        if let Some(node) = id.parse().ok().and_then(NodeId::new) {
                            *id = self.name_of(node);
                        }
                    }
                }
            }
            let number = |name: &str| match refusal.details.get(name) {
                Some(Detail::Number(n)) => *n,
                _ => 0,
            };
            let down = match refusal.details.get("unreachable") {
                Some(Detail::List(names)) if !names.is_empty() => format!("; unreachable: {}", names.join(", ")),
                _ => String::new(),
            };
            refusal.message =
                format!("{} holders are needed and {} can be reached{down}", number("needed"), number("reachable"));
        }
        refusal
    }

    /// Wipes nonces that nobody came back for.
    pub(crate) async fn sweep_nonces(self) {
        loop {
            C::sleep(SWEEP).await;
            lock(&self.0.holder).expire(self.now_ms());
        }
    }
}
