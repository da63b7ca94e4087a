//! This node as a coordinator, which has no authority: it asks holders, adds up, and goes on without those that fail.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::type_config::TypeConfigExt as _;
use rand_core::RngCore as _;
use symbolon_protocol::blame::{Blame, BlameRecord};
use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::id::{Epoch, KeyVersion, NodeId, SigningSession};
use symbolon_protocol::limits;
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::request::{SignedRequest, VerifiedRequest};
use symbolon_protocol::sign::coordinator::{Answer, Coordinator, Effect, Input, Plan};
use symbolon_protocol::sign::{CheckedSigners, Round1, Round2, sessions_allowed};
use symbolon_protocol::wire::Bytes;

use super::LoadedKey;
use crate::core::types::{NodeTypes, Surroundings, Transport};
use crate::core::{Core, lock};
use crate::store::Store;

/// How long a holder may take for one round.
const ROUND: Duration = Duration::from_millis(1_500);
/// How long a holder may take until others are asked too.
const PATIENCE: Duration = Duration::from_millis(limits::SIGN_PATIENCE_MS);
/// How long this node's state is brought up to date before a request is refused or begins anew.
const CATCH_UP: Duration = Duration::from_millis(800);
/// How often a request begins anew when the shares change under it.
const EPOCHS: u32 = 3;
/// Pause before it does; each time one more, for holders that apply the change a little later.
const EPOCH_PAUSE: Duration = Duration::from_millis(50);
const _: () = assert!(PATIENCE.as_millis() < ROUND.as_millis());

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

/// A client's request while it is coordinated here.
struct Job {
    request: SignedRequest,
    verified: Arc<VerifiedRequest>,
    messages: Arc<Vec<Bytes>>,
    /// Who broke the protocol for it.
    excluded: BTreeSet<NodeId>,
    /// Sessions that are left with these shares of the key.
    left: Option<((KeyVersion, Epoch), Vec<SigningSession>)>,
}

type Inputs = FuturesUnordered<BoxFuture<'static, Input>>;

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// Coordinates a request of a client.
    ///
    /// # Errors
    /// Why there is no signature: the caller's fault by this node's state, too few holders, or holders that misbehave.
    pub async fn coordinate(&self, request: SignedRequest, messages: Vec<Bytes>) -> Result<Signed, Refusal> {
        let verified = Arc::new(request.verify(&self.0.cluster)?);
        verified.check_messages(&messages)?;
        let mut job = Job { request, verified, messages: Arc::new(messages), excluded: BTreeSet::new(), left: None };
        let mut epochs = 0;
        loop {
            let core = self.may_coordinate(&job.verified).await?;
            let key = self.loaded(&core)?;
            match self.run(&mut job, &key).await {
                // Some nodes know of other shares than the rest: with the state of now it begins anew.
                Err(refusal) if refusal.code == ErrorCode::EpochChanged && epochs < EPOCHS => {
                    epochs += 1;
                    tracing::info!(request = %job.verified.body().request_id, key = %core.name, %refusal, "begins anew");
                    self.catch_up(CATCH_UP).await;
                    C::sleep(EPOCH_PAUSE * epochs).await;
                }
                Err(refusal) => return Err(self.with_names(refusal)),
                Ok(signed) => {
                    let Signed { holders, attempts, .. } = &signed;
                    tracing::info!(request = %job.verified.body().request_id, key = %core.name, ?holders, attempts, "signed");
                    return Ok(signed);
                }
            }
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
                let current = self.catch_up(CATCH_UP).await;
                decide().map_err(|refusal| if current { refusal } else { self.may_lag(&refusal) })
            }
            decided => decided,
        }
    }

    /// This node first, where it holds a share, then the reachable holders from a place that differs per request, so that
    /// the work spreads.
    fn plan(&self, job: &Job, key: &LoadedKey) -> Plan {
        let core = &key.core;
        let mut rng = self.0.surroundings.rng();
        let mut random = || {
            let mut session = [0; 16];
            rng.fill_bytes(&mut session);
            session
        };
        let [first, ..] = random();
        let sessions = match &job.left {
            Some((shares, left)) if *shares == (core.version, core.epoch) => left.clone(),
            _ => (0..sessions_allowed(core)).map(|_| SigningSession::from_bytes(random())).collect(),
        };
        let (head, tail) = core.holders.split_at(usize::from(first) % core.holders.len().max(1));
        let others = tail.iter().chain(head).copied().filter(|node| *node != self.0.me && self.is_reachable(*node));
        let own = core.holders.contains(&self.0.me).then_some(self.0.me);
        Plan {
            coordinator: self.0.me,
            group: Arc::clone(&key.group),
            members: Arc::clone(&key.members),
            request: job.request.clone(),
            digest: job.verified.digest(),
            messages: Arc::clone(&job.messages),
            sessions,
            preference: own.into_iter().chain(others).collect(),
            excluded: job.excluded.clone(),
        }
    }

    /// Carries out what the coordinating machine says, with the shares of one epoch. What is still under way at the end is
    /// dropped: nonces that nobody comes back for are wiped after their time.
    async fn run(&self, job: &mut Job, key: &LoadedKey) -> Result<Signed, Refusal> {
        let (mut coordinator, mut effects) = Coordinator::new(self.plan(job, key));
        let mut inputs = Inputs::new();
        loop {
            for effect in effects {
                match effect {
                    Effect::Ask(node, round1) => {
                        inputs.push(Box::pin(self.clone().ask(node, round1, Arc::clone(&job.verified))));
                    }
                    Effect::Finish(node, signers) => inputs.push(Box::pin(self.clone().finish(node, signers))),
                    Effect::Wait(patience) => inputs.push(Box::pin(async move {
                        C::sleep(PATIENCE).await;
                        Input::Patience(patience)
                    })),
                    Effect::Misbehaved { node, refusal, blame } => {
                        tracing::error!(peer = %node, %refusal, proved = blame.is_some(), "a holder broke the protocol");
                        self.0.counters.blame.count(node);
                        job.excluded.insert(node);
                        self.keep_blames(key, blame.map(|blame| *blame));
                    }
                    Effect::Done { signatures, holders, sessions } => {
                        let attempts = u32::try_from(sessions).unwrap_or(u32::MAX);
                        return Ok(Signed { signatures, core: key.core.clone(), holders, attempts });
                    }
                    Effect::Failed(refusal) => {
                        let left = coordinator.unused_sessions().to_vec();
                        job.left = Some(((key.core.version, key.core.epoch), left));
                        return Err(refusal);
                    }
                }
            }
            effects = match inputs.next().await {
                Some(input) => coordinator.handle(input),
                None => return Err(Refusal::new(ErrorCode::Internal, "a request for a signature waits for nobody")),
            };
        }
    }

    async fn ask(self, node: NodeId, round1: Arc<Round1>, verified: Arc<VerifiedRequest>) -> Input {
        let answer = if node == self.0.me {
            self.await_fresh(&verified).await;
            self.commit_here(&round1, &verified)
        } else {
            let call = WorkCall::SignRound1(Round1::clone(&round1));
            match self.call_work(node, &call, ROUND).await {
                Ok(WorkAnswer::Commitments(commitments)) => Answer::Commitments(commitments),
                other => no_answer(other),
            }
        };
        Input::Answer { from: node, session: round1.session, answer }
    }

    /// Round 1 of the holder beside the coordinator: the request was verified already, and its points are its own.
    fn commit_here(&self, round1: &Arc<Round1>, verified: &Arc<VerifiedRequest>) -> Answer {
        let me = self.0.me;
        let commitments = match self.commit_or_log(me, round1, verified) {
            Ok(commitments) => commitments,
            Err(refusal) => return Answer::Refused(refusal),
        };
        match lock(&self.0.holder).own_pairs(me, round1.session, self.now_ms()) {
            Some(pairs) => Answer::Own(commitments, pairs),
            None => Answer::Commitments(commitments),
        }
    }

    async fn finish(self, node: NodeId, signers: Arc<CheckedSigners>) -> Input {
        let round2 = Arc::clone(signers.round2());
        let session = round2.session;
        let answer = if node == self.0.me {
            self.finish_signing(node, round2, Some(signers)).await.map_or_else(Answer::Refused, Answer::Shares)
        } else {
            let call = WorkCall::SignRound2(Round2::clone(&round2));
            match self.call_work(node, &call, ROUND).await {
                Ok(WorkAnswer::Shares(shares)) => Answer::Shares(shares),
                other => no_answer(other),
            }
        };
        Input::Answer { from: node, session, answer }
    }

    /// Keeps blames whose evidence proves them.
    pub(super) fn keep_blames(&self, key: &LoadedKey, blames: impl IntoIterator<Item = Blame>) {
        for blame in blames {
            if !blame.verifies(&key.core, &key.members) {
                continue;
            }
            tracing::error!(peer = %blame.accused, kind = %blame.kind(), "a node is proved to have broken the protocol");
            let record = BlameRecord { time_ms: self.now_ms(), core: key.core.clone(), blame };
            if let Err(fault) = self.0.blames.keep(&record) {
                self.fail(&fault);
            }
        }
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
}

/// A refusal, or nothing that could be used.
fn no_answer(answer: Result<WorkAnswer, String>) -> Answer {
    match answer {
        Ok(WorkAnswer::Refused(refusal)) => Answer::Refused(refusal),
        Ok(_) | Err(_) => Answer::Silent,
    }
}
