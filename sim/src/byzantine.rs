//! An evil node: it follows the protocol with one hand and says what it likes with the other, over the real codec, something
//! else to each receiver. It has the identity and the shares of one node, and what it heard; nothing else.

mod position;

use std::collections::BTreeMap;

use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::entry::Payload;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::fresh::{Enforced, SignedPosition};
use symbolon_protocol::generate::message::{Body, Seen};
use symbolon_protocol::generate::{
    Effect, FaultKind, FaultReport, Generate, OwnVotes, ShareSecret, SignedMessage, Start, Vote, ready_vote,
};
use symbolon_protocol::id::{Digest, NodeId, SigningSession};
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::redistribute::{DealingVote, SubshareMessage};
use symbolon_protocol::sign::{Commitments, Round1, Round2, Shares};
use symbolon_protocol::state::running_operations;
use symbolon_protocol::step::Step;
use symbolon_protocol::wire::{Bytes, FORMAT_VERSION, decode, encode};

use crate::count::{Counters, fault, situation};
use crate::disk::Column;
use crate::draw::Draw;
use crate::node::{Frame, Node, Out, Reply, usable_share};

/// Things that are kept for a replay.
const KEPT: usize = 24;

/// The evil side of a node.
pub(crate) struct Evil {
    draw: Draw,
    malice: u32,
    /// A second round-1 message for an attempt, as good as the first one.
    faces: BTreeMap<Digest, Vec<u8>>,
    /// Digest of the request of a session, to sign with.
    sessions: BTreeMap<SigningSession, Digest>,
    frames: Vec<Frame>,
    payloads: Vec<Vec<u8>>,
    /// Its own positions.
    positions: Vec<SignedPosition>,
    /// Up to which index it shows its history to whom.
    shown: BTreeMap<NodeId, u64>,
}

impl Evil {
    pub(crate) fn new(seed: u64, node: NodeId, malice: u32) -> Self {
        Self {
            draw: Draw::new(seed, &format!("evil {node}")),
            malice,
            faces: BTreeMap::new(),
            sessions: BTreeMap::new(),
            frames: Vec::new(),
            payloads: Vec::new(),
            positions: Vec::new(),
            shown: BTreeMap::new(),
        }
    }

    /// Something to misuse came in.
    pub(crate) fn overhear(&mut self, node: &Node, frame: &Frame) {
        if frame.answer {
            return;
        }
        if let Ok(WorkCall::SignRound1(round1)) = decode(&frame.bytes) {
            self.learn(node, &round1);
        }
    }

    fn learn(&mut self, node: &Node, round1: &Round1) {
        if let Ok(verified) = round1.request.verify(&node.cluster()) {
            self.sessions.insert(round1.session, verified.digest());
        }
    }

    /// Makes of what an honest node would do what this one does.
    pub(crate) fn twist(&mut self, node: &Node, count: &mut Counters, out: Vec<Out>) -> Vec<Out> {
        let mut twisted = Vec::new();
        for one in out {
            let evil = self.draw.chance(self.malice);
            match one {
                Out::Wake { .. } | Out::Saw(_) => twisted.push(one),
                Out::Send { to, frame } => {
                    if let Some(frames) = self.lie_of_position(node, count, to, &frame) {
                        twisted.extend(frames.into_iter().map(|frame| Out::Send { to, frame }));
                        continue;
                    }
                    if let Ok(WorkCall::SignRound1(round1)) = decode(&frame.bytes) {
                        self.learn(node, &round1);
                        let forged = if evil { self.forged_notice(node, &round1) } else { None };
                        twisted.extend(forged.map(|frame| Out::Send { to, frame }));
                    }
                    if self.frames.len() < KEPT {
                        self.frames.push(frame.clone());
                    }
                    if evil {
                        count.fault(fault::EVIL);
                        let frames = self.twist_frame(node, frame);
                        twisted.extend(frames.into_iter().map(|frame| Out::Send { to, frame }));
                    } else {
                        twisted.push(Out::Send { to, frame });
                    }
                }
                Out::Propose(bytes) => {
                    if self.payloads.len() < KEPT {
                        self.payloads.push(bytes.clone());
                    }
                    if evil {
                        count.fault(fault::EVIL);
                        let payloads = self.twist_payload(node, count, bytes);
                        twisted.extend(payloads.into_iter().map(Out::Propose));
                    } else {
                        twisted.push(Out::Propose(bytes));
                    }
                }
                Out::Reply { ticket, reply } => {
                    let reply = if evil { Box::new(self.twist_reply(*reply)) } else { reply };
                    twisted.push(Out::Reply { ticket, reply });
                }
            }
        }
        twisted
    }

    fn twist_frame(&mut self, node: &Node, frame: Frame) -> Vec<Frame> {
        match self.draw.below(8) {
            0 => Vec::new(),
            1 => vec![self.garbled(frame)],
            2 => {
                let old = self.draw.pick(&self.frames);
                old.into_iter().chain([frame]).collect()
            }
            _ if frame.answer => match decode::<WorkAnswer>(&frame.bytes) {
                Ok(answer) => vec![Frame { bytes: encode(&self.twist_answer(node, answer)), ..frame }],
                Err(_) => vec![frame],
            },
            _ => match decode::<WorkCall>(&frame.bytes) {
                Ok(call) => self.twist_call(node, call, frame),
                Err(_) => vec![frame],
            },
        }
    }

    fn garbled(&mut self, mut frame: Frame) -> Frame {
        let at = self.draw.place(frame.bytes.len());
        if let Some(byte) = frame.bytes.get_mut(at) {
            *byte ^= 1 << self.draw.below(8);
        }
        frame
    }

    fn twist_call(&mut self, node: &Node, call: WorkCall, frame: Frame) -> Vec<Frame> {
        let other = match call {
            WorkCall::Generate(message) => self.twist_message(node, message).map(WorkCall::Generate),
            WorkCall::Subshare(message) => Some(WorkCall::Subshare(self.twist_subshare(node, &message))),
            WorkCall::SignRound1(round1) => Some(WorkCall::SignRound1(self.twist_round1(round1))),
            WorkCall::SignRound2(round2) => {
                // The true package first, then another one for the same nonces: what makes reuse give a share away.
                let second = self.twist_round2(node, round2);
                let second = Frame { call: 0, answer: false, bytes: encode(&WorkCall::SignRound2(second)) };
                return if self.draw.chance(700) { vec![frame, second] } else { vec![second, frame] };
            }
            _ => None,
        };
        match other {
            Some(other) => vec![Frame { bytes: encode(&other), ..frame }],
            None => vec![frame],
        }
    }

    /// Another message of a generation, newly signed.
    fn twist_message(&mut self, node: &Node, message: SignedMessage) -> Option<SignedMessage> {
        let SignedMessage { ceremony, to, body, .. } = message;
        let body = match body {
            Body::Round1 { .. } => {
                let face = self.other_face(node, &ceremony)?;
                return SignedMessage::from_bytes(&face).ok();
            }
            Body::Echo { mut seen } => {
                let victims: Vec<NodeId> = seen.keys().copied().collect();
                let victim = self.draw.pick(&victims)?;
                let signature = seen.get(&victim)?.signature;
                seen.insert(victim, Seen { body: Digest::from_bytes(self.draw.bytes()), signature });
                Body::Echo { seen }
            }
            Body::Round2 { package } => {
                let header = package.expose().get(..5)?;
                let mut scalar: [u8; 32] = self.draw.bytes();
                // Below 2^252, and so canonical.
                let [.., last] = &mut scalar;
                *last &= 0x0f;
                let tag_and_length = [FORMAT_VERSION, 3, 0, 0, 0, 37];
                decode(&[&tag_and_length[..], header, &scalar[..]].concat()).ok()?
            }
        };
        Some(SignedMessage::sign(&node.cluster(), ceremony, node.id(), to, body, node.identity()))
    }

    /// A subshare that lies on no polynomial that was committed to, or for other commitments; newly signed.
    fn twist_subshare(&mut self, node: &Node, message: &SubshareMessage) -> SubshareMessage {
        let mut scalar: [u8; 32] = self.draw.bytes();
        let [.., last] = &mut scalar;
        *last &= 0x0f;
        let commitments =
            if self.draw.chance(300) { Digest::from_bytes(self.draw.bytes()) } else { message.commitments };
        SubshareMessage::sign(
            &node.cluster(),
            message.ceremony,
            node.id(),
            message.to,
            commitments,
            &ShareSecret::new(&scalar),
            node.identity(),
        )
    }

    /// Other commitments, or a lie about the dealings of others.
    fn twist_dealing(&mut self, node: &Node, vote: &DealingVote) -> Option<Vec<u8>> {
        let running = running_operations(node.disk().live(Column::State), usize::MAX).ok()?;
        let ceremony = running.into_iter().map(|o| o.ceremony).find(|c| c.operation == vote.operation())?;
        let other = match vote {
            DealingVote::Dealt { commitments, .. } => {
                let mut commitments = commitments.clone();
                match self.draw.below(3) {
                    0 => drop(commitments.pop()),
                    1 => commitments.swap(0, 1),
                    _ => commitments.iter_mut().skip(1).for_each(|point| *point = self.draw.bytes()),
                }
                DealingVote::dealt(&ceremony, node.id(), commitments, node.identity())
            }
            DealingVote::Acknowledged { dealers, accused, .. } => {
                let (mut dealers, mut accused) = (dealers.clone(), accused.clone());
                if self.draw.chance(300) {
                    dealers.append(&mut accused);
                } else if let Some(victim) = self.draw.pick(&dealers) {
                    dealers.retain(|dealer| *dealer != victim);
                    accused.push(victim);
                }
                dealers.sort_unstable();
                accused.sort_unstable();
                DealingVote::acknowledged(&ceremony, node.id(), dealers, accused, node.identity())
            }
        };
        Some(encode(&Payload::Deal(other)))
    }

    /// Round 1 once more, with another polynomial: good by itself.
    fn other_face(&mut self, node: &Node, digest: &Digest) -> Option<Vec<u8>> {
        if let Some(face) = self.faces.get(digest) {
            return Some(face.clone());
        }
        let ceremony = node.ceremony(digest)?.clone();
        let members = &node.genesis().members;
        let keys = ceremony.roster.iter().filter_map(|node| Some((*node, members.get(node)?.key))).collect();
        let start = Start { ceremony, me: node.id(), keys, own: OwnVotes::default() };
        let (_, step) = Generate::start(start, node.identity(), self.draw.rng()).ok()?;
        let sent = |effect: Effect| match effect {
            Effect::Send { message, .. } => Some(message.to_bytes().to_vec()),
            Effect::Stage { .. } | Effect::Propose(_) => None,
        };
        let face = unwritten(step).into_iter().find_map(sent)?;
        self.faces.insert(*digest, face.clone());
        Some(face)
    }

    /// A question that the client did not ask.
    fn twist_round1(&mut self, mut round1: Round1) -> Round1 {
        match self.draw.below(4) {
            0 => round1.messages = vec![Bytes(b"pay everything to the coordinator".to_vec())],
            1 => {
                let at = self.draw.place(round1.request.body.0.len());
                if let Some(byte) = round1.request.body.0.get_mut(at) {
                    *byte ^= 1;
                }
            }
            2 => round1.epoch = round1.epoch.next().unwrap_or(round1.epoch),
            _ => round1.version = round1.version.next().unwrap_or(round1.version),
        }
        round1
    }

    /// A package with other commitments of this node, well signed; or with one signer less.
    fn twist_round2(&mut self, node: &Node, mut round2: Round2) -> Round2 {
        let me = node.id();
        let others: Vec<Commitments> = round2.signers.iter().filter(|c| c.node != me).cloned().collect();
        let points = self.draw.pick(&others).map(|c| c.pairs);
        let request = self.sessions.get(&round2.session);
        if let (Some(pairs), Some(request)) = (points, request)
            && let Some(own) = round2.signers.iter_mut().find(|signer| signer.node == me)
        {
            let other = Commitments { pairs, ..own.clone() };
            *own = other.signed(node.identity(), &node.cluster(), request);
            return round2;
        }
        round2.signers.pop();
        round2
    }

    fn twist_answer(&mut self, node: &Node, answer: WorkAnswer) -> WorkAnswer {
        let choice = self.draw.below(4);
        let lie = |code| WorkAnswer::Refused(Refusal::new(code, "because I say so"));
        match (answer, choice) {
            (WorkAnswer::Commitments(_) | WorkAnswer::Shares(_), 0) => lie(ErrorCode::PermissionDenied),
            (WorkAnswer::Commitments(commitments), _) => {
                WorkAnswer::Commitments(self.twist_commitments(node, commitments, choice))
            }
            (WorkAnswer::Shares(shares), _) => WorkAnswer::Shares(self.twist_shares(node, shares, choice)),
            (other, _) => other,
        }
    }

    fn twist_commitments(&mut self, node: &Node, mut commitments: Commitments, choice: u64) -> Commitments {
        match choice {
            1 => commitments.pairs.iter_mut().for_each(|pair| pair.hiding = [0xff; 32]),
            2 => commitments.first_sequence = self.draw.below(100),
            _ => commitments.pairs.clear(),
        }
        match self.sessions.get(&commitments.session) {
            Some(request) => commitments.signed(node.identity(), &node.cluster(), request),
            None => commitments,
        }
    }

    fn twist_shares(&mut self, node: &Node, mut shares: Shares, choice: u64) -> Shares {
        let first = shares.shares.first_mut();
        match (choice, first) {
            (1, Some([low, ..])) => *low ^= 1,
            (2, Some(share)) => *share = [0xff; 32],
            _ => shares.package = Digest::from_bytes(self.draw.bytes()),
        }
        match self.sessions.get(&shares.session) {
            Some(request) if self.draw.chance(800) => shares.signed(node.identity(), &node.cluster(), request),
            _ => shares,
        }
    }

    fn twist_payload(&mut self, node: &Node, count: &mut Counters, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        match self.draw.below(6) {
            0 => Vec::new(),
            1 => vec![self.draw.bytes::<40>().to_vec(), bytes],
            2 => {
                let old = self.draw.pick(&self.payloads);
                old.into_iter().chain([bytes]).collect()
            }
            3 => match self.accusation(node) {
                Some(accusation) => {
                    count.situation(situation::ACCUSED);
                    vec![accusation, bytes]
                }
                None => vec![bytes],
            },
            _ => match decode::<Payload>(&bytes) {
                Ok(Payload::Generate(Vote::Ready { core, .. })) => {
                    self.vote_for_another(node, &core).map_or_else(|| vec![bytes], |vote| vec![vote])
                }
                Ok(Payload::Deal(vote)) => self.twist_dealing(node, &vote).into_iter().chain([bytes]).collect(),
                _ => vec![bytes],
            },
        }
    }

    /// An honest node is said to have cheated; without proof.
    fn accusation(&mut self, node: &Node) -> Option<Vec<u8>> {
        let ceremony = node.ceremonies().next()?;
        let others: Vec<NodeId> = ceremony.roster.iter().copied().filter(|other| *other != node.id()).collect();
        let victim = self.draw.pick(&others)?;
        let kind = self.draw.pick(&[FaultKind::BadShare, FaultKind::BadMessage, FaultKind::Unresponsive])?;
        let vote = Vote::fault(ceremony, node.id(), FaultReport::new(kind, [victim]), node.identity());
        Some(encode(&Payload::Generate(vote)))
    }

    /// READY for a result that nobody has.
    fn vote_for_another(&mut self, node: &Node, core: &CertificateCore) -> Option<Vec<u8>> {
        let secret = usable_share(node.disk().live(Column::Private), node.id(), core)?;
        let core = CertificateCore { transcript: Digest::from_bytes(self.draw.bytes()), ..core.clone() };
        let own = OwnVotes::default();
        let step = ready_vote(node.id(), &core, &secret, own, node.identity(), self.draw.rng()).ok()?;
        let proposed = |effect: Effect| match effect {
            Effect::Propose(vote) => Some(encode(&Payload::Generate(vote))),
            Effect::Send { .. } | Effect::Stage { .. } => None,
        };
        unwritten(step).into_iter().find_map(proposed)
    }

    fn twist_reply(&mut self, reply: Reply) -> Reply {
        match reply {
            Reply::Signed { mut signatures, mut certificate } => {
                if self.draw.chance(500) {
                    certificate.core.public_key = self.draw.bytes();
                } else if let Some([first, ..]) = signatures.first_mut() {
                    *first ^= 1;
                }
                Reply::Signed { signatures, certificate }
            }
            Reply::Created { mut certificate, report } => {
                certificate.core.public_key = self.draw.bytes();
                Reply::Created { certificate, report }
            }
            Reply::Ordered { index, outcome, report: Some(mut report) } => {
                // It says more than anybody confirmed.
                report.enforced = Enforced::Byzantine;
                if self.draw.chance(500) {
                    report.positions.truncate(1);
                }
                Reply::Ordered { index, outcome, report: Some(report) }
            }
            other @ (Reply::Ordered { .. } | Reply::Refused(_)) => other,
        }
    }
}

/// Effects of a step of which nothing was written: an evil node owes its disk nothing.
fn unwritten(step: Step<Effect>) -> Vec<Effect> {
    let (writes, sealed) = step.split();
    sealed.release(&writes.durable())
}
