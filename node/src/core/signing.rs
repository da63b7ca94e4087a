//! How a signature comes about on this node: as a holder, which decides alone, and as a coordinator, which has no authority.

mod coordinate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::type_config::TypeConfigExt as _;
use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::contribute::{Clocks, Permit, Standing};
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::request::{SignedRequest, VerifiedRequest};
use symbolon_protocol::sign::holder::{Context, Lookup};
use symbolon_protocol::sign::{CheckedSigners, Commitments, HolderShare, KeyGroup, Round1, Round2, Shares};
use symbolon_protocol::state::records;

pub use self::coordinate::Signed;
use super::types::{DISK_RESERVE_BYTES, NodeTypes, Surroundings, Transport};
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

/// Clients and keys whose standing is remembered.
const STANDINGS: usize = 65_536;

/// Between two sweeps of nonces that nobody came back for.
const SWEEP: Duration = Duration::from_secs(5);

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// The key of a certificate core, decoded once per state of the cluster.
    fn loaded(&self, core: &CertificateCore) -> Result<Arc<LoadedKey>, Refusal> {
        let known = lock(&self.0.keys).get(&core.key).cloned();
        if let Some(known) = known.filter(|known| known.core == *core) {
            return Ok(known);
        }
        let group = Arc::new(KeyGroup::with_backend(core, self.0.backend)?);
        let share = if core.holders.contains(&self.0.me) {
            let secret = self.read_share(core)?;
            Some(Arc::new(HolderShare::of_group(self.0.me, secret, Arc::clone(&group))?))
        } else {
            None
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

    /// The one decision, by this node's own state, as long as that is current.
    fn permit(&self, request: &VerifiedRequest) -> Result<Permit, Refusal> {
        // Taken before the state is read: what is read is at least as new as what the evidence proves.
        let evidence = self.evidence();
        let standing = self.standing(request)?;
        let clocks = self.clocks()?;
        self.check_withdrawn(request.body())?;
        let staleness_ms = standing.staleness_ms();
        let fresh = || {
            let fresh = evidence.and_then(|evidence| evidence.fresh(self.boot_ms(), staleness_ms));
            fresh.ok_or_else(|| self.not_fresh(staleness_ms))
        };
        standing.may_contribute(self.0.me, clocks, request, fresh)
    }

    /// Round 1 as a holder.
    pub(crate) async fn sign_round1(&self, coordinator: NodeId, round1: Round1) -> Result<Commitments, Refusal> {
        let verified = Arc::new(round1.request.verify(&self.0.cluster)?);
        self.await_fresh(&verified).await;
        self.commit_or_log(coordinator, &Arc::new(round1), &verified)
    }

    fn commit_or_log(
        &self,
        coordinator: NodeId,
        round1: &Arc<Round1>,
        verified: &Arc<VerifiedRequest>,
    ) -> Result<Commitments, Refusal> {
        let result = self.commit_nonces(coordinator, round1, verified);
        if result.is_err() {
            self.0.counters.share(&result);
        }
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
        Refusal::new(ErrorCode::EpochChanged, message)
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
        let result = self.give_shares(coordinator, round2, checked).await;
        self.0.counters.share(&result);
        result
    }

    async fn give_shares(
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
        self.await_fresh(&verified).await;
        let permit = self.permit(&verified)?;
        let key = self.loaded(permit.core())?;
        let share = key.share.as_ref().ok_or_else(|| self.holds_nothing(&key.core))?;
        let context = Context { now_ms, coordinator, permit: &permit, share, identity: &self.0.identity };
        let alarm = |refused: symbolon_protocol::sign::holder::SignRefusal| {
            if refused.alarm {
                tracing::error!(peer = %coordinator, refusal = %refused.refusal, "a second use of nonces was attempted");
                self.keep_blames(&key, refused.blames);
            }
            refused.refusal
        };
        let found = lock(&self.0.holder).lookup(&context, &round2);
        let pending = match found.map_err(alarm)? {
            Lookup::Answered(shares) => return Ok(shares),
            Lookup::Open(pending) => pending,
        };
        let signers = match checked {
            Some(checked) => checked,
            None => Arc::new(pending.check(share, &key.members, &round2)?),
        };
        self.0.usage.check_replay(verified.body(), signers.request())?;
        // From here on the nonces are gone, whatever happens.
        let taken = lock(&self.0.holder).take(&context, &signers);
        let taken = taken.map_err(alarm)?;
        let core = &key.core;
        self.log_usage(coordinator, signers.request(), &verified, None, Some(core))?;
        self.0.store.sync().await.map_err(|e| self.fail(&e))?;
        let shares = taken.sign(share, &self.0.identity)?;
        lock(&self.0.holder).keep(coordinator, &shares);
        // The state may have changed while the record was written: asked once more, right before the share leaves.
        self.await_fresh(&verified).await;
        // And for the version that they are of: another one may sign since.
        if let Err(refusal) = self.permit(&verified).and_then(|permit| permit.covers(core.version)) {
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
        if self.0.surroundings.disk_free() < DISK_RESERVE_BYTES {
            // A share needs its record; a refusal can do without.
            let full = || {
                format!(
                    "the disk of {} is nearly full: it gives no shares until there is room",
                    self.name_of(self.0.me)
                )
            };
            return refused.map(|_| ()).ok_or_else(|| Refusal::new(ErrorCode::StorageFailed, full()));
        }
        let used = core.map(|core| (core.key, (core.version, core.epoch)));
        let decision = Decision { now_ms: self.now_ms(), request, coordinator, refused, used };
        self.0.usage.append(verified.body(), &decision).map_err(|e| self.fail(&e))?
    }

    /// Wipes nonces that nobody came back for.
    pub(crate) async fn sweep_nonces(self) {
        loop {
            C::sleep(SWEEP).await;
            lock(&self.0.holder).expire(self.now_ms());
        }
    }
}
