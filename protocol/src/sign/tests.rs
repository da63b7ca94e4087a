//! Both machines together: honest runs, and every way of cheating that the design names.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod backends;
mod blames;
mod holders;
mod requests;
mod schedules;

use std::collections::{BTreeMap, VecDeque};

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::arithmetic::testing::deal;
use super::coordinator::{Answer, Coordinator, Effect, Input, Plan};
use super::holder::{Context, Holder, Lookup, SignRefusal};
use super::*;
use crate::blame::{Blame, BlameKind, Evidence};
use crate::contribute::Permit;
use crate::id::{Name, RequestId, Threshold};
use crate::limits;
use crate::request::{Action, MessageDigest, Purpose, RequestBody, Suite, VerifiedRequest, VersionSelector};
use crate::wire::{decode, encode};

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 32]);
const KEY: KeyId = KeyId::from_bytes([1; 32]);
const NOW: u64 = 1_700_000_000_000;

fn id(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn session(number: u8) -> SigningSession {
    SigningSession::from_bytes([number; 16])
}

fn identity_of(node: NodeId) -> Identity {
    Identity::from_seed(&[u8::try_from(node.get()).unwrap(); 32])
}

struct Node {
    holder: Holder,
    share: HolderShare,
    identity: Identity,
}

/// Some of the nodes 1 to n sign; node 1 coordinates.
struct World {
    nodes: BTreeMap<NodeId, Node>,
    core: CertificateCore,
    members: Arc<BTreeMap<NodeId, PublicKey>>,
    request: SignedRequest,
    verified: Arc<VerifiedRequest>,
    messages: Vec<Bytes>,
    rng: ChaCha20Rng,
}

impl World {
    /// Three of five.
    fn new(messages: &[&[u8]]) -> Self {
        Self::of(5, 3, messages)
    }

    fn of(size: u16, threshold: u16, messages: &[&[u8]]) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(9);
        let ids: Vec<NodeId> = (1..=size).map(id).collect();
        let dealt = deal(&ids, threshold, &mut rng);
        let core = CertificateCore {
            cluster: CLUSTER,
            key: KEY,
            name: Name::new("release").unwrap(),
            version: KeyVersion::FIRST,
            suite: Suite::Ed25519,
            public_key: dealt.public_key,
            roster: ids.clone(),
            holders: ids.clone(),
            threshold: Threshold::new(usize::from(threshold), ids.len()).unwrap(),
            membership: 1,
            epoch: Epoch::new(4).unwrap(),
            verifying_shares: dealt.shares.iter().map(|(_, _, verifying)| *verifying).collect(),
            transcript: Digest::from_bytes([2; 32]),
            previous: None,
        };
        let mut nodes = BTreeMap::new();
        for (node, secret, _) in dealt.shares {
            let holder = Holder::new(BootId { counter: 1, random: [8; 16] });
            let share = HolderShare::new(node, secret, &core).unwrap();
            nodes.insert(node, Node { holder, share, identity: identity_of(node) });
        }
        let members = Arc::new(ids.iter().map(|node| (*node, identity_of(*node).public())).collect());
        let messages: Vec<Bytes> = messages.iter().map(|message| Bytes(message.to_vec())).collect();
        let request = client_request(&messages, 1);
        let verified = Arc::new(request.verify(&CLUSTER).unwrap());
        Self { nodes, core, members, request, verified, messages, rng }
    }

    /// All nodes forget what they were asked.
    fn restart(&mut self) {
        for node in self.nodes.values_mut() {
            node.holder = Holder::new(BootId { counter: 1, random: [8; 16] });
        }
    }

    /// The client asks for something else, or for the same once more.
    fn ask(&mut self, number: u16) {
        self.request = client_request(&self.messages, number);
        self.verified = Arc::new(self.request.verify(&CLUSTER).unwrap());
    }

    fn permit(&self) -> Permit {
        Permit::for_test(self.verified.digest(), self.core.clone())
    }

    fn round1(&self, number: u8) -> Arc<Round1> {
        Arc::new(Round1 {
            session: session(number),
            key: KEY,
            version: self.core.version,
            epoch: self.core.epoch,
            request: self.request.clone(),
            messages: self.messages.clone(),
        })
    }

    fn first(&mut self, node: u16, round1: &Arc<Round1>, now_ms: u64) -> Result<Commitments, Refusal> {
        let permit = self.permit();
        let Node { holder, share, identity } = self.nodes.get_mut(&id(node)).unwrap();
        let context = Context { now_ms, coordinator: id(1), permit: &permit, share: &*share, identity: &*identity };
        holder.round1(&context, round1, &self.verified, &mut self.rng)
    }

    fn second(&mut self, node: u16, round2: &Round2, now_ms: u64) -> Result<Shares, SignRefusal> {
        let permit = self.permit();
        let Node { holder, share, identity } = self.nodes.get_mut(&id(node)).unwrap();
        let context = Context { now_ms, coordinator: id(1), permit: &permit, share: &*share, identity: &*identity };
        holder.round2(&context, &Arc::new(round2.clone()), &self.members)
    }

    /// Round 1 with these nodes, and the package of it.
    fn package(&mut self, number: u8, nodes: &[u16]) -> Round2 {
        let round1 = self.round1(number);
        let signers = nodes.iter().map(|node| self.first(*node, &round1, NOW).unwrap()).collect();
        Round2 { session: session(number), signers }
    }

    fn start(&self, number: u8, preference: &[u16], excluded: &[u16]) -> (Coordinator, Vec<Effect>) {
        Coordinator::new(self.plan(number, preference, excluded))
    }

    /// `number` is the first session.
    fn plan(&self, number: u8, preference: &[u16], excluded: &[u16]) -> Plan {
        Plan {
            coordinator: id(1),
            group: Arc::new(KeyGroup::new(&self.core).unwrap()),
            members: Arc::clone(&self.members),
            request: self.request.clone(),
            digest: self.verified.digest(),
            messages: Arc::new(self.messages.clone()),
            sessions: (number..).take(16).map(session).collect(),
            preference: preference.iter().copied().map(id).collect(),
            excluded: excluded.iter().copied().map(id).collect(),
        }
    }

    /// Runs a request to its end while nobody's patience ends; `bend` changes what a node answers, or makes it unreachable.
    fn drive(
        &mut self,
        (mut coordinator, effects): (Coordinator, Vec<Effect>),
        mut bend: impl FnMut(NodeId, &mut Reply) -> bool,
    ) -> Ended {
        let mut queue = VecDeque::from(effects);
        let mut misbehaved = BTreeMap::new();
        while let Some(effect) = queue.pop_front() {
            let (node, session, mut reply) = match effect {
                Effect::Ask(node, round1) => {
                    (node, round1.session, Reply::First(self.first(node.get(), &round1, NOW).unwrap()))
                }
                Effect::Finish(node, signers) => {
                    let round2 = signers.round2();
                    (node, round2.session, Reply::Second(self.second(node.get(), round2, NOW).unwrap()))
                }
                Effect::Wait(_) => continue,
                Effect::Misbehaved { node, refusal, blame } => {
                    assert_eq!(refusal.code, ErrorCode::PeerMisbehaved);
                    assert!(blame.iter().all(|blame| blame.accused == node && self.proves(blame)));
                    misbehaved.insert(node, (refusal, blame.map(|blame| *blame)));
                    continue;
                }
                last @ (Effect::Done { .. } | Effect::Failed(_)) => {
                    assert!(coordinator.has_ended());
                    return Ended { last, misbehaved };
                }
            };
            let answer = match (bend(node, &mut reply), reply) {
                (false, _) => Answer::Silent,
                (true, Reply::First(commitments)) => Answer::Commitments(commitments),
                (true, Reply::Second(shares)) => Answer::Shares(shares),
            };
            queue.extend(coordinator.handle(Input::Answer { from: node, session, answer }));
        }
        Ended { last: Effect::Failed(Refusal::new(ErrorCode::Internal, "no end")), misbehaved }
    }

    /// Whether anybody who knows the key and the members would believe it.
    fn proves(&self, blame: &Blame) -> bool {
        assert_eq!(decode::<Blame>(&encode(blame)).as_ref(), Ok(blame));
        blame.verifies(&self.core, &self.members)
    }

    fn assert_signed(&self, ended: &Ended, by: &[u16]) {
        let Effect::Done { signatures, holders, .. } = &ended.last else {
            return assert_eq!(format!("{:?}", ended.last), "");
        };
        assert_eq!(holders, &by.iter().copied().map(id).collect::<Vec<_>>());
        assert_eq!(signatures.len(), self.messages.len());
        let key = PublicKey::from_bytes(&self.core.public_key).unwrap();
        for (message, signature) in self.messages.iter().zip(signatures) {
            assert!(key.verifies_raw(&message.0, &Signature::from_bytes(*signature)));
        }
    }
}

enum Reply {
    First(Commitments),
    Second(Shares),
}

struct Ended {
    last: Effect,
    misbehaved: BTreeMap<NodeId, (Refusal, Option<Blame>)>,
}

impl Ended {
    fn refusal(self) -> Refusal {
        match self.last {
            Effect::Failed(refusal) => refusal,
            other => Refusal::new(ErrorCode::Internal, format!("{other:?}")),
        }
    }
    fn sessions(&self) -> usize {
        match &self.last {
            Effect::Done { sessions, .. } => *sessions,
            _ => 0,
        }
    }
    fn kind(&self, node: u16) -> Option<BlameKind> {
        self.misbehaved.get(&id(node)).and_then(|(_, blame)| blame.as_ref()).map(Blame::kind)
    }
}

fn client_request(messages: &[Bytes], number: u16) -> SignedRequest {
    let client = Identity::from_seed(&[0xc1; 32]);
    let body = RequestBody {
        cluster: CLUSTER,
        client: client.public(),
        request_id: RequestId::from_bytes([number.to_be_bytes(); 8].concat().try_into().unwrap()),
        not_before_ms: NOW - 1_000,
        expires_ms: NOW + 60_000,
        action: Action::Sign,
        key: Some(KEY),
        version: VersionSelector::Active,
        purpose: Purpose::Sign,
        payload_type: "raw".to_owned(),
        context: BTreeMap::new(),
        messages: messages.iter().map(|message| MessageDigest::of(&message.0)).collect(),
    };
    SignedRequest::sign(&body, &client)
}

fn honest(_: NodeId, _: &mut Reply) -> bool {
    true
}

fn resign(commitments: &Commitments, request: &Digest) -> Commitments {
    commitments.clone().signed(&identity_of(commitments.node), &CLUSTER, request)
}

fn assert_refused(result: Result<Shares, SignRefusal>, part: &str) {
    let SignRefusal { refusal, alarm, .. } = result.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::PeerMisbehaved);
    assert!(refusal.message.contains(part) && !alarm, "{}", refusal.message);
}
