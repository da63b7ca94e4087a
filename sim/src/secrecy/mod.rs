//! What was drawn at random in a run, and who learned what of it: linear equations, for the rank test of `invariants/secrecy.rs`.
//!
//! A coefficient of a polynomial is an unknown, and its name is the public commitment to it: what has the same commitment is the
//! same number, so a polynomial or a coefficient that is used twice is one unknown here too. No secret value is needed for that.
//! Whatever a node holds (its own coefficients, subshares, shares of every epoch, staged and old) is a row over the unknowns.
//! Everything is taken from what nodes send, receive and stage; the nodes know nothing of it.

pub(crate) mod span;

use std::collections::{BTreeMap, BTreeSet};

use symbolon_protocol::entry::Payload;
use symbolon_protocol::generate::message::{Body, parse_round1};
use symbolon_protocol::generate::{Ceremony, SignedMessage};
use symbolon_protocol::id::{Digest, Epoch, KeyId, KeyVersion, NodeId};
use symbolon_protocol::peer::WorkCall;
use symbolon_protocol::redistribute::{DealingVote, SubshareMessage};
use symbolon_protocol::state::records::OperationRecord;
use symbolon_protocol::wire::decode;

use self::span::{Row, add, evaluate, weight};

/// A key version.
pub(crate) type Place = (KeyId, KeyVersion);

/// One attempt to make or move shares.
#[derive(Debug)]
pub(crate) struct Attempt {
    place: Place,
    pub(crate) epoch: Epoch,
    /// Shares that tell the key.
    pub(crate) threshold: usize,
    /// The epoch whose shares are dealt; none for a new key.
    base: Option<Epoch>,
    ceremony: Ceremony,
    /// Coefficients, constant term first.
    polynomials: BTreeMap<NodeId, Vec<Row>>,
    /// Whose polynomials add up to the result, once that is fixed.
    dealers: Option<Vec<NodeId>>,
}

impl Attempt {
    /// Whether anything was drawn in it.
    pub(crate) fn is_dealt(&self) -> bool {
        !self.polynomials.is_empty()
    }

    /// The share of a node that comes out of it; none before it is fixed.
    fn share(&self, node: NodeId) -> Option<Row> {
        let dealers = self.dealers.as_ref()?;
        let numbers: Vec<u16> = dealers.iter().map(|dealer| dealer.get()).collect();
        let mut share = Row::new();
        for dealer in dealers {
            let factor = if self.base.is_some() { weight(dealer.get(), &numbers) } else { 1 };
            add(&mut share, &evaluate(self.polynomials.get(dealer)?, node.get()), factor);
        }
        Some(share)
    }
}

/// Something that a node knows.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub(crate) node: NodeId,
    /// In which epoch it was there to be known.
    pub(crate) epoch: Epoch,
    pub(crate) row: Row,
}

/// A secret number that occurred, by value.
#[derive(Debug, Clone)]
pub(crate) struct Secret {
    pub(crate) place: Place,
    pub(crate) epoch: Epoch,
    /// A subshare, which lives in memory only; else a share.
    pub(crate) subshare: bool,
    row: Row,
}

/// The book of all that was drawn and learned.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Unknowns and what they make, by commitment.
    names: BTreeMap<[u8; 32], Row>,
    unknowns: u32,
    attempts: BTreeMap<Digest, Attempt>,
    facts: BTreeMap<Place, Vec<Fact>>,
    /// Sender, number and receiver of the subshares of an attempt that were noted.
    heard: BTreeSet<(Digest, NodeId, NodeId, NodeId)>,
    secrets: BTreeMap<[u8; 32], Secret>,
    /// The secret of a version: the constant term that nobody may know.
    keys: BTreeMap<Place, Row>,
}

impl Ledger {
    /// An operation as it stands after an entry.
    pub(crate) fn operation(&mut self, record: &OperationRecord) {
        let ceremony = &record.ceremony;
        let digest = ceremony.digest();
        let base = record.moved.as_ref().map(|moved| moved.base.epoch);
        self.attempts.entry(digest).or_insert_with(|| Attempt {
            place: (ceremony.key, ceremony.version),
            epoch: ceremony.epoch,
            threshold: ceremony.threshold.get(),
            base,
            ceremony: ceremony.clone(),
            polynomials: BTreeMap::new(),
            // A new key is the sum of what everybody drew.
            dealers: base.is_none().then(|| ceremony.roster.clone()),
        });
        let Some(moved) = &record.moved else { return };
        for (dealer, commitments) in &moved.dealings.dealt {
            self.drawn(digest, *dealer, commitments);
        }
        let chosen = moved.dealings.result.as_ref();
        let Some(attempt) = self.attempts.get_mut(&digest) else { return };
        if let (None, Some(chosen)) = (&attempt.dealers, chosen) {
            attempt.dealers = Some(chosen.dealers.clone());
            for node in &attempt.ceremony.roster {
                if let (Some(point), Some(row)) = (chosen.core.verifying_share(*node), attempt.share(*node)) {
                    self.names.insert(*point, row);
                }
            }
        }
    }

    /// A version is active: its secret is what everybody drew for the constant term.
    pub(crate) fn committed(
        &mut self,
        place: Place,
        epoch: Epoch,
        verifying_share: impl Fn(NodeId) -> Option<[u8; 32]>,
    ) {
        let attempt = self.attempts.values().find(|attempt| attempt.place == place && attempt.epoch == epoch);
        let Some(attempt) = attempt.filter(|attempt| attempt.base.is_none()) else { return };
        let mut secret = Row::new();
        for node in &attempt.ceremony.roster {
            let Some(constant) = attempt.polynomials.get(node).and_then(|polynomial| polynomial.first()) else {
                return;
            };
            add(&mut secret, constant, 1);
        }
        let points =
            attempt.ceremony.roster.iter().filter_map(|node| Some((verifying_share(*node)?, attempt.share(*node)?)));
        self.names.extend(points.collect::<Vec<_>>());
        self.keys.insert(place, secret);
    }

    /// Something leaves a node, before anything evil is made of it: what it drew, and for whom.
    pub(crate) fn sent(&mut self, from: NodeId, call: &[u8]) {
        match shares_in(call) {
            Some(WorkCall::Generate(message)) => self.said(from, &message),
            Some(WorkCall::Subshare(message)) => {
                if let Ok(value) = message.subshare.expose().try_into() {
                    self.secret(&message.ceremony, from, message.to, value);
                }
            }
            _ => {}
        }
    }

    fn said(&mut self, from: NodeId, message: &SignedMessage) {
        let Some(attempt) = self.attempts.get(&message.ceremony) else { return };
        match (&message.body, message.to) {
            (Body::Round1 { package }, _) if !attempt.polynomials.contains_key(&from) => {
                let package = parse_round1(&package.0, attempt.ceremony.threshold);
                let points = package.and_then(|package| package.commitment().serialize().ok()).unwrap_or_default();
                let points: Option<Vec<[u8; 32]>> =
                    points.iter().map(|point| point.as_slice().try_into().ok()).collect();
                self.drawn(message.ceremony, from, &points.unwrap_or_default());
            }
            (Body::Round2 { package }, Some(to)) => {
                let scalar = package.expose().len().checked_sub(32).and_then(|at| package.expose().get(at..));
                if let Some(value) = scalar.and_then(|scalar| scalar.try_into().ok()) {
                    self.secret(&message.ceremony, from, to, value);
                }
            }
            _ => {}
        }
    }

    /// A node wants something ordered.
    pub(crate) fn proposed(&mut self, payload: &[u8]) {
        const DEAL: u8 = 8;
        if payload.get(1) != Some(&DEAL) {
            return;
        }
        if let Ok(Payload::Deal(vote)) = decode(payload)
            && let DealingVote::Dealt { node, operation, epoch, commitments, .. } = vote
        {
            let of = |attempt: &Attempt| attempt.ceremony.operation == operation && attempt.epoch == epoch;
            if let Some(digest) = self.attempts.iter().find(|(_, attempt)| of(attempt)).map(|(digest, _)| *digest) {
                self.drawn(digest, node, &commitments);
            }
        }
    }

    /// A dealer committed to a polynomial: it knows all of it.
    fn drawn(&mut self, digest: Digest, dealer: NodeId, commitments: &[[u8; 32]]) {
        let Some(attempt) = self.attempts.get_mut(&digest) else { return };
        if commitments.is_empty() || attempt.polynomials.contains_key(&dealer) {
            return;
        }
        let mut polynomial = Vec::new();
        for point in commitments {
            let row = self.names.entry(*point).or_insert_with(|| {
                self.unknowns += 1;
                Row::from([(self.unknowns, 1)])
            });
            polynomial.push(row.clone());
        }
        // Of a share that is dealt the node knows it while it deals, which is in the epoch that is moved.
        let (epoch, skip) = attempt.base.map_or((attempt.epoch, 0), |base| (base, 1));
        let facts = self.facts.entry(attempt.place).or_default();
        facts.extend(polynomial.iter().skip(skip).map(|row| Fact { node: dealer, epoch, row: row.clone() }));
        attempt.polynomials.insert(dealer, polynomial);
    }

    fn subshare(&self, digest: &Digest, from: NodeId, to: NodeId) -> Option<(Place, Epoch, Row)> {
        let attempt = self.attempts.get(digest)?;
        Some((attempt.place, attempt.epoch, evaluate(attempt.polynomials.get(&from)?, to.get())))
    }

    fn secret(&mut self, digest: &Digest, from: NodeId, to: NodeId, value: [u8; 32]) {
        if let Some((place, epoch, row)) = self.subshare(digest, from, to) {
            self.secrets.entry(value).or_insert(Secret { place, epoch, subshare: true, row });
        }
    }

    /// Something reached a node. What an evil sender gives away that is not its own does not count: everybody may give away what
    /// it knows.
    pub(crate) fn received(&mut self, from: NodeId, receiver: NodeId, honest: bool, call: &[u8]) {
        let (digest, to) = match shares_in(call) {
            Some(WorkCall::Generate(SignedMessage { ceremony, to: Some(to), body: Body::Round2 { .. }, .. })) => {
                (ceremony, to)
            }
            Some(WorkCall::Subshare(SubshareMessage { ceremony, to, .. })) => (ceremony, to),
            _ => return,
        };
        if !(honest || to == receiver) || self.heard.contains(&(digest, from, to, receiver)) {
            return;
        }
        if let Some((place, epoch, row)) = self.subshare(&digest, from, to) {
            self.heard.insert((digest, from, to, receiver));
            self.facts.entry(place).or_default().push(Fact { node: receiver, epoch, row });
        }
    }

    /// A share was staged.
    pub(crate) fn staged(&mut self, node: NodeId, place: Place, epoch: Epoch, value: [u8; 32]) {
        let attempt = self.attempts.values().find(|attempt| attempt.place == place && attempt.epoch == epoch);
        if let Some(row) = attempt.and_then(|attempt| attempt.share(node)) {
            self.facts.entry(place).or_default().push(Fact { node, epoch, row: row.clone() });
            self.secrets.entry(value).or_insert(Secret { place, epoch, subshare: false, row });
        }
    }

    /// A secret was found with a node in an epoch that it does not belong to.
    pub(crate) fn kept(&mut self, node: NodeId, secret: &Secret, epoch: Epoch) {
        let fact = Fact { node, epoch, row: secret.row.clone() };
        self.facts.entry(secret.place).or_default().push(fact);
    }

    /// Secrets that stand somewhere in bytes, raw.
    pub(crate) fn secrets_in<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = &'a Secret> {
        bytes.windows(32).filter_map(|window| self.secrets.get(window))
    }

    /// Versions that have a secret.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&Place, &Row)> {
        self.keys.iter()
    }

    pub(crate) fn key(&self, place: &Place) -> Option<&Row> {
        self.keys.get(place)
    }

    /// What is known of a version, in the order in which it was learned.
    pub(crate) fn facts(&self, place: &Place) -> &[Fact] {
        self.facts.get(place).map_or(&[], Vec::as_slice)
    }

    /// Attempts for a version in which something was drawn.
    pub(crate) fn attempts(&self, place: Place) -> impl Iterator<Item = &Attempt> {
        self.attempts.values().filter(move |attempt| attempt.place == place && attempt.is_dealt())
    }
}

/// A call that may bear shares; others are not decoded.
fn shares_in(call: &[u8]) -> Option<WorkCall> {
    const GENERATE: u8 = 7;
    const SUBSHARE: u8 = 20;
    match call.get(1) {
        Some(&(GENERATE | SUBSHARE)) => decode(call).ok(),
        _ => None,
    }
}
