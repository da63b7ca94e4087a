//! Both machines together: honest runs, and every way of cheating that the design names.
#![expect(clippy::unwrap_used, reason = "tests")]

mod attempts;
mod holders;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::coordinator::{Coordinator, Effect, Failure, Plan};
use super::frost::testing::deal;
use super::holder::{Context, Holder, Lookup, SignRefusal};
use super::*;
use crate::certificate::CertificateCore;
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

/// Three of the five nodes 1 to 5 sign; node 1 coordinates.
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
    fn new(messages: &[&[u8]]) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(9);
        let ids: Vec<NodeId> = (1..=5).map(id).collect();
        let dealt = deal(&ids, 3, &mut rng);
        let core = CertificateCore {
            cluster: CLUSTER,
            key: KEY,
            name: Name::new("release").unwrap(),
            version: KeyVersion::FIRST,
            suite: Suite::Ed25519,
            public_key: dealt.public_key,
            roster: ids.clone(),
            threshold: Threshold::new(3, 5).unwrap(),
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
        Coordinator::new(Plan {
            coordinator: id(1),
            group: Arc::new(KeyGroup::new(&self.core).unwrap()),
            members: Arc::clone(&self.members),
            request: self.verified.digest(),
            round1: self.round1(number),
            preference: preference.iter().copied().map(id).collect(),
            excluded: excluded.iter().copied().map(id).collect(),
        })
    }

    /// Runs an attempt to its end; `bend` changes what a node answers, or makes it unreachable.
    fn drive(
        &mut self,
        (mut coordinator, effects): (Coordinator, Vec<Effect>),
        mut bend: impl FnMut(NodeId, &mut Reply) -> bool,
    ) -> Ended {
        let mut queue = VecDeque::from(effects);
        let mut misbehaved = BTreeSet::new();
        while let Some(effect) = queue.pop_front() {
            let (node, mut reply) = match effect {
                Effect::Ask(node, round1) => (node, Reply::First(self.first(node.get(), &round1, NOW).unwrap())),
                Effect::Finish(node, signers) => {
                    (node, Reply::Second(self.second(node.get(), signers.round2(), NOW).unwrap()))
                }
                Effect::Misbehaved(node, refusal) => {
                    assert_eq!(refusal.code, ErrorCode::PeerMisbehaved);
                    misbehaved.insert(node);
                    continue;
                }
                last @ (Effect::Done { .. } | Effect::Failed(_)) => {
                    assert!(coordinator.has_ended() && coordinator.waiting_for().is_empty() && queue.is_empty());
                    return Ended { last, misbehaved };
                }
            };
            assert!(coordinator.waiting_for().contains(&node));
            queue.extend(match (bend(node, &mut reply), reply) {
                (false, _) => coordinator.unreachable(node),
                (true, Reply::First(commitments)) => coordinator.commitments(node, commitments),
                (true, Reply::Second(shares)) => coordinator.shares(node, shares),
            });
            // Effects of round 2 still wait in the queue when an attempt fails early.
            if coordinator.has_ended() {
                queue.retain(|effect| {
                    matches!(effect, Effect::Done { .. } | Effect::Failed(_) | Effect::Misbehaved(..))
                });
            }
        }
        Ended { last: Effect::Failed(Failure::Refused(Refusal::new(ErrorCode::Internal, "no end"))), misbehaved }
    }

    fn assert_signed(&self, ended: &Ended, by: &[u16]) {
        let Effect::Done { signatures, holders } = &ended.last else {
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
    misbehaved: BTreeSet<NodeId>,
}

impl Ended {
    fn refusal(self) -> Refusal {
        match self.last {
            Effect::Failed(Failure::Refused(refusal)) => refusal,
            other => Refusal::new(ErrorCode::Internal, format!("{other:?}")),
        }
    }
    fn culprits(self) -> BTreeMap<NodeId, Refusal> {
        match self.last {
            Effect::Failed(Failure::Blamed { culprits, evidence }) => {
                assert!(culprits.keys().eq(evidence.shares.keys()));
                culprits
            }
            _ => BTreeMap::new(),
        }
    }
}

fn client_request(messages: &[Bytes], number: u8) -> SignedRequest {
    let client = Identity::from_seed(&[0xc1; 32]);
    let body = RequestBody {
        cluster: CLUSTER,
        client: client.public(),
        request_id: RequestId::from_bytes([number; 16]),
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
    let SignRefusal { refusal, alarm } = result.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::PeerMisbehaved);
    assert!(refusal.message.contains(part) && !alarm, "{}", refusal.message);
}
