//! An honest node of the simulated cluster: a driver over floor 0 that obeys the rules of the real one.
//!
//! Writes first, effects against the receipt; what is in RAM is gone after a crash, and the next start has nothing but the bytes
//! of the disk. The node knows no time, no network and no log of its own: it is told ([`Node::hear`], [`Node::wake`],
//! [`Node::apply`], [`Node::ask`]) and says what is to be done ([`Out`]).

mod barrier;
mod ceremony;
mod coordinate;
mod fresh;
mod hold;
mod moves;
mod reconcile;
mod surroundings;
mod want;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rand_chacha::ChaCha20Rng;
use rand_core::RngCore as _;
use symbolon_protocol::contribute::Standing;
use symbolon_protocol::entry::Payload;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::generate::{Ceremony, SignedMessage};
use symbolon_protocol::genesis::Genesis;
use symbolon_protocol::id::{BootId, ClusterId, Digest, Epoch, KeyId, KeyVersion, NodeId, SigningSession};
use symbolon_protocol::identity::{Identity, tagged_hash};
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::redistribute::SubshareMessage;
use symbolon_protocol::request::{Path, SignedRequest};
use symbolon_protocol::schema::private;
use symbolon_protocol::sign::holder::Holder;
use symbolon_protocol::state::records;
use symbolon_protocol::state::unknown_client;
use symbolon_protocol::step::{Receipt, Writes};
use symbolon_protocol::table::{StoreFault, Tables as _, read};
use symbolon_protocol::wire::{Bytes, WireError, decode, encode};

use crate::count::situation;
use crate::disk::{Batch, Column, Disk, Map};
use crate::invariants::promises;

pub(crate) use self::hold::{ShareRecord, has_usage_record, usable_share};
pub(crate) use self::surroundings::{Env, Frame, Out, Permitted, Released, Reply, Seen, Timer};
use self::want::{Asker, Want};

/// Why a node does not go on.
#[derive(Debug)]
pub(crate) enum Halt {
    /// Power is gone.
    Crash,
    /// Its store failed it or holds what nobody wrote: an honest node must never see that here.
    Fault(String),
}

impl From<StoreFault> for Halt {
    fn from(fault: StoreFault) -> Self {
        Self::Fault(fault.to_string())
    }
}

impl From<WireError> for Halt {
    fn from(error: WireError) -> Self {
        Self::Fault(format!("a stored record is damaged: {error}"))
    }
}

/// Why something was not done: refused, or the node does not go on.
#[derive(Debug)]
pub(crate) enum Stop {
    Refused(Refusal),
    Halt(Halt),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Halt> for Stop {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

/// Takes refusals and halts apart.
fn settled<T>(result: Result<T, Stop>) -> Result<Result<T, Refusal>, Halt> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Stop::Refused(refusal)) => Ok(Err(refusal)),
        Err(Stop::Halt(halt)) => Err(halt),
    }
}

/// A payload that is to be ordered.
struct Proposal {
    bytes: Vec<u8>,
    until_ms: u64,
    again_ms: u64,
}

/// How long a proposal is repeated, milliseconds.
const PROPOSE_MS: u64 = 5_000;
/// Between two tries to have a proposal ordered, milliseconds.
const AGAIN_MS: u64 = 700;
/// How long a client's request is tried to be ordered, milliseconds.
const ORDER_MS: u64 = 8_000;
/// Between two looks at the state without a reason, milliseconds.
const RECONCILE_MS: u64 = 300;

const GENESIS: &[u8] = b"genesis";
const IDENTITY: &[u8] = b"identity";
const NODE: &[u8] = b"node";
/// Where the applied index lies.
pub(crate) const APPLIED: &[u8] = b"applied";

/// A node while it runs.
pub(crate) struct Node {
    me: NodeId,
    identity: Identity,
    genesis: Genesis,
    cluster: ClusterId,
    rng: ChaCha20Rng,
    disk: Disk,
    applied: Option<u64>,
    parts: BTreeMap<Digest, ceremony::Part>,
    /// Messages of attempts that this node has not heard of yet.
    early: VecDeque<(NodeId, SignedMessage)>,
    /// Attempts that this node took part in, or refused to, in this start.
    joined: BTreeSet<Digest>,
    moves: BTreeMap<Digest, moves::Move>,
    /// Subshares of attempts that this node has not heard of yet.
    early_subshares: VecDeque<(NodeId, SubshareMessage)>,
    /// Versions of which this node may lack its share, and when to ask for it.
    needs: BTreeMap<(KeyId, KeyVersion), u64>,
    proposals: BTreeMap<Digest, Proposal>,
    /// Clients that wait for a payload to be applied.
    orders: BTreeMap<Digest, BTreeSet<u64>>,
    /// Clients that wait for a version to be certified.
    waiting: BTreeMap<u64, (KeyId, KeyVersion)>,
    /// Versions that lack this node's witness, and when to say it again.
    owed: BTreeMap<(KeyId, KeyVersion), u64>,
    /// Versions whose share is erased here, and when to say it again.
    erased: BTreeMap<(KeyId, KeyVersion, Epoch), u64>,
    usage: hold::Usage,
    holder: Holder,
    /// What was asked in the sessions of this start.
    asked: BTreeMap<(NodeId, SigningSession), Vec<Bytes>>,
    keys: BTreeMap<KeyId, Arc<hold::Loaded>>,
    /// What the state says of clients and keys; emptied whenever it changes.
    standings: BTreeMap<([u8; 32], Option<KeyId>), Arc<Standing>>,
    jobs: BTreeMap<u64, coordinate::Job>,
    calls: BTreeMap<u64, coordinate::Call>,
    keeper: fresh::Keeper,
    barriers: barrier::Barriers,
    /// Shares that are wanted and wait.
    wanted: BTreeMap<u64, want::Waiting>,
    counter: u64,
    /// Nodes that did not answer, until when they are asked last.
    silent: BTreeMap<NodeId, u64>,
}

impl Node {
    /// The disk of a node that was never started.
    pub(crate) fn install(genesis: &Genesis, me: NodeId, seed: [u8; 32]) -> Disk {
        let mut disk = Disk::default();
        disk.write(vec![
            (Column::Files, GENESIS.to_vec(), Some(encode(genesis))),
            (Column::Files, IDENTITY.to_vec(), Some(encode(&seed))),
            (Column::Files, NODE.to_vec(), Some(encode(&me))),
        ]);
        disk.sync();
        disk
    }

    /// Starts a node from its disk, and from nothing else. `log_end` is the index after the last entry in its log.
    pub(crate) fn start(mut disk: Disk, mut rng: ChaCha20Rng, log_end: u64) -> Result<Self, Halt> {
        let file = |name: &[u8]| {
            let bytes = disk.live(Column::Files).get(name);
            bytes.cloned().ok_or_else(|| Halt::Fault("a file of the node is missing".to_owned()))
        };
        let genesis: Genesis = decode(&file(GENESIS)?)?;
        let identity = Identity::from_seed(&decode(&file(IDENTITY)?)?);
        let me: NodeId = decode(&file(NODE)?)?;

        let mut batch: Batch = Vec::new();
        if disk.live(Column::State).is_empty() {
            batch.extend(records::initial(&genesis).into_iter().map(|(key, value)| (Column::State, key, Some(value))));
        }
        let mut random = [0; 16];
        rng.fill_bytes(&mut random);
        let before: Option<BootId> = read(disk.live(Column::Private), &private::boot())?;
        let boot = BootId { counter: before.map_or(1, |boot| boot.counter.saturating_add(1)), random };
        batch.push((Column::Private, private::boot(), Some(encode(&boot))));
        // Erasures that a crash interrupted.
        for (intent, record) in disk.live(Column::Private).scan(private::ERASE_INTENTS, b"", 1024)? {
            batch.push((Column::Private, record, None));
            batch.push((Column::Private, intent, None));
        }
        // Synced before anything is said.
        disk.write(batch);
        disk.sync();

        let applied: Option<u64> = read(disk.live(Column::Position), APPLIED)?;
        let usage = hold::Usage::open(disk.live(Column::Usage))?;
        let cluster = genesis.cluster_id();
        let keeper = fresh::Keeper::open(me, cluster, boot, disk.live(Column::Private), log_end)?;
        let mut node = Self {
            me,
            identity,
            genesis,
            cluster,
            rng,
            disk,
            applied,
            parts: BTreeMap::new(),
            joined: BTreeSet::new(),
            moves: BTreeMap::new(),
            early_subshares: VecDeque::new(),
            needs: BTreeMap::new(),
            proposals: BTreeMap::new(),
            orders: BTreeMap::new(),
            waiting: BTreeMap::new(),
            owed: BTreeMap::new(),
            erased: BTreeMap::new(),
            usage,
            holder: Holder::new(boot),
            asked: BTreeMap::new(),
            keys: BTreeMap::new(),
            standings: BTreeMap::new(),
            early: VecDeque::new(),
            jobs: BTreeMap::new(),
            calls: BTreeMap::new(),
            keeper,
            barriers: barrier::Barriers::default(),
            wanted: BTreeMap::new(),
            // A late answer to what was asked before this start answers nothing.
            counter: boot.counter << 32,
            silent: BTreeMap::new(),
        };
        node.find_owed()?;
        Ok(node)
    }

    /// Stops for ever; what is left is the disk.
    pub(crate) fn into_disk(self) -> Disk {
        self.disk
    }
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }
    pub(crate) fn id(&self) -> NodeId {
        self.me
    }
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }
    pub(crate) fn cluster(&self) -> ClusterId {
        self.cluster
    }
    pub(crate) fn genesis(&self) -> &Genesis {
        &self.genesis
    }
    /// Attempts in which it takes part.
    pub(crate) fn ceremonies(&self) -> impl Iterator<Item = &Ceremony> {
        self.parts.values().map(|part| part.machine.ceremony())
    }
    /// One of them.
    pub(crate) fn ceremony(&self, digest: &Digest) -> Option<&Ceremony> {
        self.parts.get(digest).map(|part| part.machine.ceremony())
    }
    /// Index of the entry that it applies next.
    pub(crate) fn next_index(&self) -> u64 {
        self.applied.map_or(0, |index| index + 1)
    }

    fn tables(&self) -> &Map {
        self.disk.live(Column::State)
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// A message of a peer arrived; `from` comes from the channel.
    pub(crate) fn hear(&mut self, env: &mut Env<'_>, from: NodeId, frame: &Frame) -> Result<(), Halt> {
        if frame.answer && frame.call == fresh::POSITION {
            return match decode(&frame.bytes) {
                Ok(WorkAnswer::Position(signed)) => self.hear_position(env, from, &signed),
                _ => Ok(()),
            };
        }
        if frame.answer {
            return self.answered(env, from, frame.call, &frame.bytes);
        }
        let Ok(call) = decode::<WorkCall>(&frame.bytes) else {
            let refusal = Refusal::new(ErrorCode::InvalidArgument, "malformed input");
            env.answer(from, frame.call, &WorkAnswer::Refused(refusal));
            return Ok(());
        };
        let asker = Asker::Peer { node: from, call: frame.call };
        match call {
            WorkCall::Generate(message) => self.hear_ceremony(env, from, message),
            WorkCall::Subshare(message) => self.hear_subshare(env, from, message),
            WorkCall::SignRound1(round1) => self.want(env, asker, Want::Commitments(Arc::new(round1))),
            WorkCall::SignRound2(round2) => self.want(env, asker, Want::Shares(Arc::new(round2), None)),
            WorkCall::Position(question) => self.answer_position(env, from, question),
            WorkCall::Withdrawn(request) => self.hear_withdrawn(env, from, frame.call, &request),
            // The rest belongs to the real node: Raft, start, checkpoints, questions of people.
            _ => Ok(()),
        }
    }

    /// A timer went off.
    pub(crate) fn wake(&mut self, env: &mut Env<'_>, timer: Timer) -> Result<(), Halt> {
        match timer {
            Timer::Reconcile => {
                env.wake(RECONCILE_MS, Timer::Reconcile);
                self.holder.expire(env.now_ms);
                self.repeat_proposals(env);
                self.reconcile(env)?;
                self.erase_orphans(env)
            }
            Timer::Ceremony(digest) => self.look_after(env, digest),
            Timer::Move(digest) => self.look_after_move(env, digest),
            Timer::Call(call) => self.unanswered(env, call),
            Timer::Want(number) => self.waited(env, number),
            Timer::Question(number) => self.question_waited(env, number),
            Timer::Barrier(ticket) => self.barrier_waited(env, ticket),
        }
    }

    /// A client asks.
    pub(crate) fn ask(
        &mut self,
        env: &mut Env<'_>,
        ticket: u64,
        request: &SignedRequest,
        messages: &[Bytes],
    ) -> Result<(), Halt> {
        let asked = self.admit(env, ticket, request, messages);
        if let Err(refusal) = settled(asked)? {
            env.reply(ticket, Reply::Refused(refusal));
        }
        Ok(())
    }

    fn admit(
        &mut self,
        env: &mut Env<'_>,
        ticket: u64,
        request: &SignedRequest,
        messages: &[Bytes],
    ) -> Result<(), Stop> {
        let verified = request.verify(&self.cluster)?;
        match verified.body().action.path() {
            Path::Direct => self.coordinate(env, ticket, request, messages, &verified),
            Path::Ordered => {
                verified.check_time(env.now_ms)?;
                let client = records::client_of(self.tables(), &verified.body().client).map_err(Halt::from)?;
                if client.is_none() {
                    return Err(unknown_client(&verified).into());
                }
                if verified.body().action.takes_away() {
                    self.spread_withdrawal(env, request)?;
                }
                let payload = self.propose(env, &Payload::Request(request.clone()), ORDER_MS);
                self.orders.entry(payload).or_default().insert(ticket);
                Ok(())
            }
            Path::Read => Err(Refusal::new(ErrorCode::Unsupported, "the simulated node answers no reads").into()),
        }
    }

    /// Has a payload ordered, by whoever leads; repeated until it is applied here or the patience is over. Votes and requests
    /// are idempotent, so it may be ordered more than once.
    fn propose(&mut self, env: &mut Env<'_>, payload: &Payload, patience_ms: u64) -> Digest {
        let bytes = encode(payload);
        let digest = payload_digest(&bytes);
        let until_ms = env.now_ms + patience_ms;
        match self.proposals.get_mut(&digest) {
            Some(known) => known.until_ms = known.until_ms.max(until_ms),
            None => {
                env.saw(Seen::Promised(promises::check(self.me, &bytes, self.tables())));
                env.out.push(Out::Propose(bytes.clone()));
                self.proposals.insert(digest, Proposal { bytes, until_ms, again_ms: env.now_ms + AGAIN_MS });
            }
        }
        digest
    }

    fn repeat_proposals(&mut self, env: &mut Env<'_>) {
        let now_ms = env.now_ms;
        self.proposals.retain(|_, proposal| proposal.until_ms > now_ms);
        for proposal in self.proposals.values_mut().filter(|proposal| proposal.again_ms <= now_ms) {
            proposal.again_ms = now_ms + AGAIN_MS;
            env.out.push(Out::Propose(proposal.bytes.clone()));
        }
    }

    /// Makes the writes of a step durable.
    fn commit(&mut self, env: &mut Env<'_>, writes: Writes, sync: bool) -> Result<Receipt, Halt> {
        let change = |write: &symbolon_protocol::step::Write| (Column::Private, write.key.clone(), write.value.clone());
        let batch: Batch = writes.list().iter().map(change).collect();
        self.persist(env, batch, sync)?;
        Ok(writes.durable())
    }

    /// Makes a batch durable, with a crash before or after it now and then. Only a planted bug does not sync.
    fn persist(&mut self, env: &mut Env<'_>, batch: Batch, sync: bool) -> Result<(), Halt> {
        if batch.is_empty() {
            return Ok(());
        }
        self.disk.write(batch);
        env.crash_point(situation::BEFORE_SYNC)?;
        if sync {
            self.disk.sync();
        }
        env.persisted = true;
        env.crash_point(situation::AFTER_SYNC)
    }
}

/// What a payload is known by, from its stand-alone encoding.
fn payload_digest(bytes: &[u8]) -> Digest {
    tagged_hash("symbolon/sim/payload", bytes)
}
