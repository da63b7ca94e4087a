//! This node as a holder: its shares and its usage log, and what it gives to a coordinator.

use std::collections::BTreeMap;
use std::sync::Arc;

use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::contribute::{Clocks, Permit, Standing};
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::generate::ShareSecret;
use symbolon_protocol::id::{Digest, Epoch, KeyId, KeyVersion, NodeId, RequestId};
use symbolon_protocol::identity::{PublicKey, tagged_hash};
use symbolon_protocol::request::{RequestBody, SignedRequest, VerifiedRequest};
use symbolon_protocol::schema::private;
use symbolon_protocol::sign::holder::{Context, Lookup, SignRefusal};
use symbolon_protocol::sign::{CheckedSigners, Commitments, HolderShare, KeyGroup, Round1, Round2, Shares};
use symbolon_protocol::state::records;
use symbolon_protocol::table::{StoreFault, Tables as _, read};
use symbolon_protocol::usage::{NO_RECORD, UsageRecord};
use symbolon_protocol::wire::{decode, encode};

use super::want::Made;
use super::{Env, Halt, Node, Permitted, Released, Seen, Stop};
use crate::bugs::Bug;
use crate::count::situation;
use crate::disk::{Batch, Column, Map};
use crate::draw;

/// A share as it lies on the simulated disk.
pub(crate) struct ShareRecord {
    /// Digest of the certificate core that it belongs to.
    pub(crate) core: Digest,
    /// The share.
    pub(crate) secret: [u8; 32],
}
symbolon_protocol::wire_struct!(ShareRecord { core, secret });

/// The share for a certificate core that lies in a private store, when it is the certified one.
pub(crate) fn usable_share(store: &Map, node: NodeId, core: &CertificateCore) -> Option<ShareSecret> {
    let bytes = store.get(&private::share(&core.key, core.version, core.epoch))?;
    let record: ShareRecord = decode(bytes).ok()?;
    let secret = ShareSecret::new(&record.secret);
    let certified = secret.verifying_share().as_ref() == core.verifying_share(node);
    (record.core == core.digest() && certified).then_some(secret)
}

/// A key as the signing path needs it.
pub(super) struct Loaded {
    pub(super) core: CertificateCore,
    pub(super) group: Arc<KeyGroup>,
    pub(super) members: Arc<BTreeMap<NodeId, PublicKey>>,
    share: Option<HolderShare>,
}

/// The end of the usage log.
pub(super) struct Usage {
    sequence: u64,
    digest: Digest,
    /// Requests that were seen: digest of the body.
    seen: BTreeMap<RequestId, Digest>,
}

const RECORD: u8 = b'u';
const BY_REQUEST: u8 = b'q';

fn record_key(sequence: u64) -> Vec<u8> {
    [&[RECORD][..], &sequence.to_be_bytes()[..]].concat()
}

fn request_prefix(request: &RequestId) -> Vec<u8> {
    [&[BY_REQUEST][..], &request.as_bytes()[..]].concat()
}

fn body_digest(request: &SignedRequest) -> Digest {
    tagged_hash("symbolon/seen/v1", &request.body.0)
}

/// Whether a usage log holds a record that a share was given for a request.
pub(crate) fn has_usage_record(log: &Map, request: &RequestId) -> bool {
    let prefix = request_prefix(request);
    let entries = log.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
    let granted = |number: &Vec<u8>| {
        let sequence: [u8; 8] = number.as_slice().try_into().ok()?;
        let record: UsageRecord = decode(log.get(&record_key(u64::from_be_bytes(sequence)))?).ok()?;
        Some(record.refused.is_none())
    };
    entries.map(|(_, number)| number).any(|number| granted(number) == Some(true))
}

/// What goes into a usage record.
struct Decision<'a> {
    coordinator: NodeId,
    request: &'a SignedRequest,
    id: RequestId,
    refused: Option<&'a Refusal>,
    used: Option<(KeyId, (KeyVersion, Epoch))>,
}

impl Usage {
    /// Reads the log of an earlier start; the chain must hold.
    pub(super) fn open(log: &Map) -> Result<Self, Halt> {
        let mut usage = Self { sequence: 0, digest: NO_RECORD, seen: BTreeMap::new() };
        for bytes in log.range(vec![RECORD]..vec![RECORD + 1]).map(|(_, bytes)| bytes) {
            let record: UsageRecord = decode(bytes)?;
            if record.sequence != usage.sequence + 1 || record.previous != usage.digest {
                return Err(Halt::Fault("the usage log has a gap".to_owned()));
            }
            usage.sequence = record.sequence;
            usage.digest = record.digest();
            let body: RequestBody = decode(&record.request.body.0)?;
            usage.seen.entry(body.request_id).or_insert_with(|| body_digest(&record.request));
        }
        Ok(usage)
    }

    fn check_replay(&self, id: &RequestId, request: &SignedRequest) -> Result<(), Refusal> {
        match self.seen.get(id) {
            Some(digest) if *digest != body_digest(request) => {
                Err(Refusal::new(ErrorCode::RequestReplayed, "this request id was used for another request"))
            }
            _ => Ok(()),
        }
    }

    /// The next record, as a batch.
    fn append(&mut self, now_ms: u64, decision: &Decision<'_>) -> Batch {
        let record = UsageRecord {
            sequence: self.sequence + 1,
            time_ms: now_ms,
            request: decision.request.clone(),
            coordinator: decision.coordinator,
            refused: decision.refused.map(|refusal| refusal.code),
            reason: decision.refused.map(|refusal| refusal.message.clone()).unwrap_or_default(),
            used: decision.used,
            previous: self.digest,
        };
        self.sequence = record.sequence;
        self.digest = record.digest();
        self.seen.entry(decision.id).or_insert_with(|| body_digest(decision.request));
        let number = record.sequence.to_be_bytes();
        let by_request = [&request_prefix(&decision.id)[..], &number[..]].concat();
        vec![
            (Column::Usage, record_key(record.sequence), Some(encode(&record))),
            (Column::Usage, by_request, Some(number.to_vec())),
        ]
    }
}

impl Node {
    /// The share for a certificate core; none when it is not there or another one.
    pub(super) fn read_share(&self, core: &CertificateCore) -> Result<Option<ShareSecret>, Halt> {
        let key = private::share(&core.key, core.version, core.epoch);
        let record: Option<ShareRecord> = read(self.disk.live(Column::Private), &key)?;
        Ok(record.filter(|record| record.core == core.digest()).map(|record| ShareSecret::new(&record.secret)))
    }

    /// The key of a certificate core, decoded once per state of the cluster.
    pub(super) fn loaded(&mut self, core: &CertificateCore) -> Result<Arc<Loaded>, Stop> {
        if let Some(known) = self.keys.get(&core.key).filter(|known| known.core == *core) {
            return Ok(Arc::clone(known));
        }
        let share = if core.holders.contains(&self.me) {
            let secret = self.read_share(core)?.ok_or_else(|| no_share(self.me, core))?;
            Some(HolderShare::new(self.me, (*secret.expose()).into(), core)?)
        } else {
            None
        };
        let group = match &share {
            Some(share) => Arc::clone(share.group()),
            None => Arc::new(KeyGroup::new(core)?),
        };
        let members = &self.genesis.members;
        let members = core.roster.iter().filter_map(|node| Some((*node, members.get(node)?.key))).collect();
        let loaded = Arc::new(Loaded { core: core.clone(), group, members: Arc::new(members), share });
        self.keys.insert(core.key, Arc::clone(&loaded));
        Ok(loaded)
    }

    /// What the state says of a request's client and key; looked up once per state.
    pub(super) fn standing(&mut self, request: &VerifiedRequest) -> Result<Arc<Standing>, Stop> {
        let name = (*request.body().client.as_bytes(), request.body().key);
        if let Some(known) = self.standings.get(&name) {
            return Ok(Arc::clone(known));
        }
        let standing = Arc::new(Standing::of(self.tables(), request).map_err(Halt::from)??);
        self.standings.insert(name, Arc::clone(&standing));
        Ok(standing)
    }

    pub(super) fn clocks(&self, env: &Env<'_>) -> Result<Clocks, Halt> {
        Ok(Clocks { now_ms: env.now_ms, state_ms: records::cluster(self.tables())?.time_ms })
    }

    /// The state changed: what was looked up in it may be another now. A planted bug goes on deciding by the old one.
    pub(super) fn forget_what_was_looked_up(&mut self, env: &Env<'_>) {
        self.keys.clear();
        if !env.has(Bug::StalePermit) && !env.treason {
            self.standings.clear();
        }
    }

    /// The one decision, by this node's own state, as long as that is current.
    pub(super) fn permit(&mut self, env: &Env<'_>, request: &VerifiedRequest) -> Result<Permit, Stop> {
        // Taken before the state is read: what is read is at least as new as what the evidence proves.
        let evidence = self.evidence();
        let clocks = self.clocks(env)?;
        let standing = self.standing(request)?;
        if !env.treason && self.withholds(request.body(), env.now_ms) {
            return Err(Refusal::new(ErrorCode::NotFresh, "a request that takes this right away is on its way").into());
        }
        let staleness_ms = standing.staleness_ms();
        let fresh = || self.fresh_by(env, evidence, staleness_ms).ok_or_else(|| self.not_fresh(env, staleness_ms));
        Ok(standing.may_contribute(self.me, clocks, request, fresh)?)
    }

    /// Round 1 as a holder.
    pub(super) fn sign_round1(
        &mut self,
        env: &mut Env<'_>,
        coordinator: NodeId,
        round1: &Arc<Round1>,
    ) -> Result<Commitments, Stop> {
        let verified = match round1.request.verify(&self.cluster) {
            Ok(verified) => Arc::new(verified),
            Err(refusal) => {
                env.count.situation(situation::CHANGED_REFUSED);
                return Err(refusal.into());
            }
        };
        match self.commit_nonces(env, coordinator, round1, &verified) {
            Ok(commitments) => {
                self.asked.insert((coordinator, round1.session), round1.messages.clone());
                Ok(commitments)
            }
            Err(Stop::Refused(refusal)) => {
                if refusal.code == ErrorCode::BadSignature {
                    env.count.situation(situation::CHANGED_REFUSED);
                }
                // Refusals are logged too; they wait for nobody.
                let id = verified.body().request_id;
                let request = &round1.request;
                let decision = Decision { coordinator, request, id, refused: Some(&refusal), used: None };
                let batch = self.usage.append(env.now_ms, &decision);
                self.disk.write(batch);
                Err(refusal.into())
            }
            Err(halt) => Err(halt),
        }
    }

    fn commit_nonces(
        &mut self,
        env: &mut Env<'_>,
        coordinator: NodeId,
        round1: &Arc<Round1>,
        verified: &Arc<VerifiedRequest>,
    ) -> Result<Commitments, Stop> {
        self.usage.check_replay(&verified.body().request_id, &round1.request)?;
        let permit = self.permit(env, verified)?;
        let (key, version, client) = (permit.key(), permit.version(), verified.body().client);
        env.saw(Seen::Permitted(Box::new(Permitted { key, version, client })));
        let key = self.loaded(permit.core())?;
        let share = key.share.as_ref().ok_or_else(|| no_share(self.me, &key.core))?;
        let context = Context { now_ms: env.now_ms, coordinator, permit: &permit, share, identity: &self.identity };
        if env.has(Bug::ReuseNonce) {
            let mut always_the_same = draw::stream(0, "a generator that never moves");
            return Ok(self.holder.round1(&context, round1, verified, &mut always_the_same)?);
        }
        Ok(self.holder.round1(&context, round1, verified, &mut self.rng)?)
    }

    /// Round 2 as a holder: asked by a peer, or by this node's own coordinator, which checked everything already. Shares that were
    /// given before, or made now: whether those may leave is asked once more.
    pub(super) fn sign_round2(
        &mut self,
        env: &mut Env<'_>,
        coordinator: NodeId,
        round2: &Arc<Round2>,
        checked: Option<Arc<CheckedSigners>>,
    ) -> Result<Result<Shares, Made>, Stop> {
        let now_ms = env.now_ms;
        let verified = self.holder.request_of(coordinator, round2.session, now_ms).cloned();
        let gone = || Refusal::new(ErrorCode::DeadlineExceeded, "the nonces of this session are gone");
        let verified = verified.ok_or_else(gone)?;
        let permit = self.permit(env, &verified)?;
        let key = self.loaded(permit.core())?;
        let share = key.share.as_ref().ok_or_else(|| no_share(self.me, &key.core))?;
        let context = Context { now_ms, coordinator, permit: &permit, share, identity: &self.identity };
        let pending = match self.holder.lookup(&context, round2) {
            Ok(Lookup::Answered(shares)) => {
                env.count.situation(situation::REPEATED_SHARE);
                return Ok(Ok(shares));
            }
            Ok(Lookup::Open(pending)) => pending,
            Err(refused) => return Err(alarmed(env, &key, coordinator, refused)),
        };
        let signers = match checked {
            Some(checked) => checked,
            None => Arc::new(pending.check(share, &key.members, round2)?),
        };
        // From here on the nonces are gone, whatever happens.
        let taken = match self.holder.take(&context, &signers) {
            Ok(taken) => taken,
            Err(refused) => return Err(alarmed(env, &key, coordinator, refused)),
        };
        let used = Some((key.core.key, (key.core.version, key.core.epoch)));
        let id = verified.body().request_id;
        let decision = Decision { coordinator, request: signers.request(), id, refused: None, used };
        let batch = self.usage.append(now_ms, &decision);
        if env.has(Bug::ShareBeforeUsage) {
            self.disk.write(batch);
        } else {
            self.persist(env, batch, true)?;
        }
        let shares = taken.sign(share, &self.identity)?;
        self.holder.keep(coordinator, &shares);
        Ok(Err(Made { shares, signers, verified, key: (key.core.key, key.core.version) }))
    }

    /// Tells the oracle what leaves.
    pub(super) fn release(&self, env: &mut Env<'_>, coordinator: NodeId, made: &Made) -> Result<(), Halt> {
        let Made { shares, signers, verified, key: (key, version) } = made;
        let staleness_ms = self.staleness_ms(verified.body())?;
        let own = signers.round2().signers.iter().find(|signer| signer.node == self.me);
        let released = Released {
            permitted: Permitted { key: *key, version: *version, client: verified.body().client },
            counted: self.counted(env, staleness_ms),
            request: signers.request().clone(),
            messages: self.asked.get(&(coordinator, shares.session)).cloned().unwrap_or_default(),
            package: shares.package,
            pairs: own.map(|own| own.pairs.clone()).unwrap_or_default(),
        };
        env.saw(Seen::Released(Box::new(released)));
        Ok(())
    }

    /// Share records of attempts that are over without a key, and of versions that failed.
    pub(super) fn orphans(&self) -> Result<Vec<(KeyId, KeyVersion, Epoch)>, StoreFault> {
        let mut orphans = Vec::new();
        for (key, _) in self.disk.live(Column::Private).scan(private::SHARES, b"", usize::MAX)? {
            let (id, (number, epoch)) = share_key(&key)?;
            if super::reconcile::is_orphan(self.tables(), &id, number, epoch)? {
                orphans.push((id, number, epoch));
            }
        }
        Ok(orphans)
    }
}

/// What the key of a share record names.
pub(super) fn share_key(key: &[u8]) -> Result<(KeyId, (KeyVersion, Epoch)), StoreFault> {
    let mut reader = symbolon_protocol::wire::Reader::new(key.get(1..).unwrap_or_default());
    Ok(symbolon_protocol::wire::Wire::take(&mut reader)?)
}

fn no_share(node: NodeId, core: &CertificateCore) -> Refusal {
    Refusal::new(ErrorCode::StorageFailed, format!("node {node} has no usable share of key `{}`", core.name))
}

fn alarmed(env: &mut Env<'_>, key: &Loaded, coordinator: NodeId, refused: SignRefusal) -> Stop {
    if refused.alarm {
        env.count.situation(situation::REUSE_REFUSED);
        env.saw(Seen::Alarm { against: coordinator });
    }
    for blame in refused.blames.iter().filter(|blame| blame.verifies(&key.core, &key.members)) {
        env.count.situation(situation::SPLIT_PROVED);
        env.saw(Seen::Blamed { culprits: vec![blame.accused], what: blame.kind().to_string() });
    }
    Stop::Refused(refused.refusal)
}
