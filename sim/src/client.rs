//! Clients: what they ask at random, what they believe of what they are told, and when they ask somebody else.

mod withdraw;

use std::collections::{BTreeMap, BTreeSet};

use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::error::Refusal;
use symbolon_protocol::genesis::Genesis;
use symbolon_protocol::id::{ClusterId, Digest, KeyId, KeyVersion, Name, NodeId, RequestId, Threshold};
use symbolon_protocol::identity::{Identity, PublicKey, Signature};
use symbolon_protocol::limits;
use symbolon_protocol::membership::Followed;
use symbolon_protocol::request::{
    Action, Grant, KeyPolicy, MessageDigest, Purpose, RequestBody, Role, RosterPlan, SignedRequest, Suite,
    VersionSelector,
};
use symbolon_protocol::wire::Bytes;

use crate::draw::Draw;
use crate::options::Options;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The administrator of genesis.
    Admin,
    /// A client that may sign with every key.
    Signer,
    /// The guest that came last; gone, perhaps.
    Guest,
    /// Somebody whom nobody registered.
    Stranger,
}

/// Why something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Registers the signer.
    Register,
    /// A key or a version is to be made.
    Make,
    /// A state is to be changed.
    Change,
    /// Shares are to be moved.
    Move,
    /// Signatures.
    Sign,
    /// Signatures with what is being taken away, as long as that works.
    Siege,
    /// Signatures that must be refused.
    Forbidden,
    /// When faults are over: a key of honest nodes must come about.
    ProveMakes,
    /// When faults are over: signatures must be answered.
    ProveSigns,
    /// When faults are over: signatures must be refused by an honest node.
    ProveSilent,
}

impl Goal {
    /// Whether it is about signatures.
    pub(crate) const fn signs(self) -> bool {
        matches!(self, Self::Sign | Self::Siege | Self::Forbidden | Self::ProveSigns | Self::ProveSilent)
    }
    /// How long an answer is waited for, milliseconds.
    pub(crate) const fn patience_ms(self) -> u64 {
        match self {
            Self::Siege => 900,
            Self::Sign | Self::Forbidden | Self::Register | Self::Move => 5_000,
            // As long as a barrier may hold the answer.
            Self::Change => 14_000,
            Self::Make => 14_000,
            Self::ProveMakes | Self::ProveSigns | Self::ProveSilent => 12_000,
        }
    }
}

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) goal: Goal,
    pub(crate) who: Who,
    pub(crate) action: Action,
    pub(crate) key: Option<KeyId>,
    pub(crate) version: VersionSelector,
    pub(crate) messages: Vec<Bytes>,
}

/// Something that a client asked.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) wish: Wish,
    pub(crate) request: SignedRequest,
    pub(crate) expires_ms: u64,
    /// How often it was asked.
    pub(crate) tries: u32,
    /// How often since faults are over.
    pub(crate) calm_tries: u32,
    pub(crate) open: bool,
}

/// Lifetime of requests, milliseconds.
const LIFETIME_MS: u64 = 90_000;
/// How long before a request is made it is valid, because clocks differ, milliseconds.
const BEFORE_MS: u64 = 30_000;
/// At most so many keys are made at random.
const KEYS: u32 = 5;

/// All clients.
pub(crate) struct Clients {
    draw: Draw,
    cluster: ClusterId,
    followed: Followed,
    evil: BTreeSet<NodeId>,
    nodes: Vec<NodeId>,
    admin: Identity,
    signer: Identity,
    stranger: Identity,
    guests: Vec<Identity>,
    /// Whether the last one was not asked to go.
    guest_here: bool,
    ops: BTreeMap<u64, Op>,
    next: u64,
    registered: bool,
    named: u32,
    said: u64,
    /// Keys that a client was told of.
    keys: BTreeMap<KeyId, Name>,
    /// Keys that a client asked to be revoked.
    revoked: Vec<KeyId>,
    /// Certificates that were checked: digest of the core.
    believed: BTreeMap<(KeyId, KeyVersion), Digest>,
}

/// Seed of the administrator's identity, as genesis needs it.
pub(crate) fn admin_of(seed: u64) -> Identity {
    Identity::generate(Draw::new(seed, "administrator").rng())
}

impl Clients {
    pub(crate) fn new(options: &Options, genesis: &Genesis) -> Self {
        let mut draw = Draw::new(options.seed, "clients");
        let signer = Identity::generate(draw.rng());
        let stranger = Identity::generate(draw.rng());
        Self {
            draw,
            cluster: genesis.cluster_id(),
            followed: Followed::genesis(genesis),
            evil: options.evil.clone(),
            nodes: options.ids(),
            admin: admin_of(options.seed),
            signer,
            stranger,
            guests: Vec::new(),
            guest_here: false,
            ops: BTreeMap::new(),
            next: 1,
            registered: false,
            named: 0,
            said: 0,
            keys: BTreeMap::new(),
            revoked: Vec::new(),
            believed: BTreeMap::new(),
        }
    }

    fn identity(&self, who: Who) -> &Identity {
        match who {
            Who::Admin => &self.admin,
            Who::Signer => &self.signer,
            Who::Guest => self.guests.last().unwrap_or(&self.stranger),
            Who::Stranger => &self.stranger,
        }
    }

    /// What is asked next.
    pub(crate) fn next_wish(&mut self) -> Option<Wish> {
        if !self.registered {
            self.registered = true;
            return self.register();
        }
        let keys: Vec<KeyId> = self.keys.keys().copied().collect();
        let key = self.draw.pick(&keys);
        let choice = self.draw.below(115);
        let Some(key) = key else { return self.make_key() };
        match choice {
            0..25 if self.named < KEYS => self.make_key(),
            0..56 => Some(self.signing(Goal::Sign, Who::Signer, key)),
            56..63 => Some(self.change(Goal::Move, key, Action::RefreshKey { absent: Vec::new() })),
            63..66 => self.reshare(key),
            66..70 => Some(self.signing(Goal::Forbidden, Who::Stranger, key)),
            70..78 => {
                let plan = self.plan()?;
                Some(self.change(Goal::Make, key, Action::RotateKey { plan, expires_ms: None }))
            }
            78..84 => Some(self.change(Goal::Change, key, Action::SuspendKey)),
            84..89 => Some(self.change(Goal::Change, key, Action::ResumeKey)),
            89..93 => {
                self.revoked.push(key);
                Some(self.change(Goal::Change, key, Action::RevokeKey { reason: "lost".to_owned() }))
            }
            93..98 => {
                let revoked = self.draw.pick(&self.revoked);
                let key = revoked.filter(|_| self.draw.chance(800)).unwrap_or(key);
                let confirm = self.keys.get(&key)?.clone();
                let wait_ms = if self.draw.chance(500) { 0 } else { 2_500 };
                Some(self.change(Goal::Change, key, Action::DestroyKey { confirm, wait_ms }))
            }
            98..100 => Some(self.change(Goal::Change, key, Action::CancelDestroyKey)),
            100..104 => Some(self.change_staleness(key)),
            _ => self.guest(key),
        }
    }

    /// The next step of a script that knows every share operation; none when it is over.
    pub(crate) fn scripted(&mut self, step: u32) -> Option<Wish> {
        let all = self.nodes.clone();
        let fewer = all.get(..all.len().saturating_sub(1)).unwrap_or_default().to_vec();
        let plan = |roster: Vec<NodeId>| {
            let threshold = Threshold::default_for(roster.len())?;
            Some(RosterPlan { roster, spares: Vec::new(), threshold })
        };
        let key = self.keys.keys().next().copied();
        let reshare = |plan| Action::ReshareKey { plan, absent: Vec::new() };
        match step {
            0 => self.register(),
            1 => self.make(Goal::Make, plan(all)?),
            2 | 4 | 6 | 8 => Some(self.signing(Goal::Sign, Who::Signer, key?)),
            3 => Some(self.change(Goal::Move, key?, Action::RefreshKey { absent: Vec::new() })),
            5 => Some(self.change(Goal::Move, key?, reshare(plan(fewer)?))),
            7 => Some(self.change(Goal::Move, key?, reshare(plan(all)?))),
            9 => Some(self.change(Goal::Change, key?, Action::RevokeKey { reason: "lost".to_owned() })),
            10 => {
                let confirm = self.keys.get(&key?)?.clone();
                Some(self.change(Goal::Change, key?, Action::DestroyKey { confirm, wait_ms: 0 }))
            }
            _ => None,
        }
    }

    fn register(&self) -> Option<Wish> {
        let grant = Grant { role: Role::Signer, keys: "*".to_owned() };
        let action = Action::AddClient { name: Name::new("signer").ok()?, key: self.signer.public(), grant };
        let (goal, version) = (Goal::Register, VersionSelector::Active);
        Some(Wish { goal, who: Who::Admin, action, key: None, version, messages: Vec::new() })
    }

    fn make_key(&mut self) -> Option<Wish> {
        let plan = self.plan()?;
        self.make(Goal::Make, plan)
    }

    fn make(&mut self, goal: Goal, plan: RosterPlan) -> Option<Wish> {
        self.named += 1;
        let name = Name::new(&format!("key{}", self.named)).ok()?;
        let every = if goal == Goal::Make && self.draw.chance(200) { Some(limits::REFRESH_EVERY_MS) } else { None };
        let max_staleness_ms = if goal == Goal::Make { self.staleness_ms() } else { limits::STALENESS_MS };
        let policy = KeyPolicy { refresh_every_ms: every, max_staleness_ms };
        let (suite, tags) = (Suite::Ed25519, BTreeMap::new());
        let action = Action::CreateKey { name, suite, plan, tags, expires_ms: None, policy };
        let version = VersionSelector::Active;
        Some(Wish { goal, who: Who::Admin, action, key: None, version, messages: Vec::new() })
    }

    /// A key of honest nodes only; none when there are too few.
    pub(crate) fn make_honest_key(&mut self) -> Option<Wish> {
        let roster: Vec<NodeId> = self.nodes.iter().copied().filter(|node| !self.evil.contains(node)).collect();
        let threshold = Threshold::default_for(roster.len())?;
        self.make(Goal::ProveMakes, RosterPlan { roster, spares: Vec::new(), threshold })
    }

    /// Moves shares to another roster, in which fewer than t nodes are evil too.
    fn reshare(&mut self, key: KeyId) -> Option<Wish> {
        let plan = RosterPlan { spares: Vec::new(), ..self.plan()? };
        let evil = plan.roster.iter().filter(|node| self.evil.contains(node)).count();
        (evil < plan.threshold.get())
            .then(|| self.change(Goal::Move, key, Action::ReshareKey { plan, absent: Vec::new() }))
    }

    /// A random roster in which fewer than t nodes are evil, spares counted; honest nodes alone now and then.
    fn plan(&mut self) -> Option<RosterPlan> {
        let mut roster = self.nodes.clone();
        if self.draw.chance(350) {
            roster.retain(|node| !self.evil.contains(node));
        }
        self.draw.shuffle(&mut roster);
        let size = usize::try_from(self.draw.between(2, roster.len() as u64)).ok()?;
        let mut spares = roster.split_off(size.min(roster.len()));
        if self.draw.chance(500) {
            spares.clear();
        }
        let evil = roster.iter().chain(&spares).filter(|node| self.evil.contains(node)).count();
        let least = (evil + 1).max(2);
        if least > roster.len() {
            return None;
        }
        let t = usize::try_from(self.draw.between(least as u64, roster.len() as u64)).ok()?;
        Some(RosterPlan { threshold: Threshold::new(t, roster.len())?, roster, spares })
    }

    fn change(&mut self, goal: Goal, key: KeyId, action: Action) -> Wish {
        let version = match action {
            Action::RevokeKey { .. } | Action::DestroyKey { .. } if self.draw.chance(600) => VersionSelector::All,
            _ => VersionSelector::Active,
        };
        Wish { goal, who: Who::Admin, action, key: Some(key), version, messages: Vec::new() }
    }

    /// A request for signatures over messages that were never asked before.
    pub(crate) fn signing(&mut self, goal: Goal, who: Who, key: KeyId) -> Wish {
        let count = if self.draw.chance(250) { 2 } else { 1 };
        let mut messages = Vec::new();
        for _ in 0..count {
            self.said += 1;
            messages.push(Bytes(format!("message {}", self.said).into_bytes()));
        }
        let (action, version) = (Action::Sign, VersionSelector::Active);
        Wish { goal, who, action, key: Some(key), version, messages }
    }

    /// Makes a request of a wish; its ticket.
    pub(crate) fn open(&mut self, now_ms: u64, wish: Wish) -> u64 {
        let ticket = self.next;
        self.next += 1;
        let request = self.request(now_ms, &wish);
        let expires_ms = now_ms + LIFETIME_MS;
        let op = Op { wish, request, expires_ms, tries: 0, calm_tries: 0, open: true };
        self.ops.insert(ticket, op);
        ticket
    }

    fn request(&mut self, now_ms: u64, wish: &Wish) -> SignedRequest {
        let request_id = RequestId::from_bytes(self.draw.bytes());
        let identity = self.identity(wish.who);
        let body = RequestBody {
            cluster: self.cluster,
            client: identity.public(),
            request_id,
            not_before_ms: now_ms.saturating_sub(BEFORE_MS),
            expires_ms: now_ms + LIFETIME_MS,
            action: wish.action.clone(),
            key: wish.key,
            version: wish.version,
            purpose: Purpose::Sign,
            payload_type: "raw".to_owned(),
            context: BTreeMap::new(),
            messages: wish.messages.iter().map(|message| MessageDigest::of(&message.0)).collect(),
        };
        SignedRequest::sign(&body, identity)
    }

    /// Asks once more: whom. A request for signatures is a new one each time, a request that is ordered stays the same.
    pub(crate) fn ask_again(&mut self, now_ms: u64, ticket: u64, calm: bool) -> Option<(NodeId, SignedRequest)> {
        let op = self.ops.get(&ticket).filter(|op| op.open)?;
        let (tries, renew) = (op.tries, op.tries > 0 && op.wish.goal.signs());
        let wish = op.wish.clone();
        let nodes: Vec<NodeId> = match wish.goal {
            // An evil node's refusal proves nothing.
            Goal::ProveSilent => self.nodes.iter().copied().filter(|node| !self.evil.contains(node)).collect(),
            _ => self.nodes.clone(),
        };
        let at = (ticket.wrapping_mul(7) + u64::from(tries)) % nodes.len().max(1) as u64;
        let node = nodes.get(usize::try_from(at).ok()?).copied()?;
        let request = if renew { Some(self.request(now_ms, &wish)) } else { None };
        let op = self.ops.get_mut(&ticket)?;
        if let Some(request) = request {
            op.request = request;
            op.expires_ms = now_ms + LIFETIME_MS;
        }
        op.tries += 1;
        op.calm_tries += u32::from(calm);
        Some((node, op.request.clone()))
    }

    pub(crate) fn op(&self, ticket: u64) -> Option<&Op> {
        self.ops.get(&ticket)
    }

    pub(crate) fn close(&mut self, ticket: u64) {
        if let Some(op) = self.ops.get_mut(&ticket) {
            op.open = false;
        }
    }

    /// Something that is not answered yet; what it is.
    pub(crate) fn first_open(&self) -> Option<(u64, &Op)> {
        self.ops.iter().find(|(_, op)| op.open).map(|(ticket, op)| (*ticket, op))
    }

    /// Whether a client believes a certificate: it knows it, or the certificate verifies.
    pub(crate) fn believes(&mut self, certificate: &KeyCertificate) -> bool {
        let core = &certificate.core;
        let place = (core.key, core.version);
        let digest = core.digest();
        if self.believed.get(&place) == Some(&digest) {
            return true;
        }
        let good = certificate.verify(&self.cluster, 0, &self.followed.newest().members).is_ok();
        if good {
            self.believed.insert(place, digest);
        }
        good
    }

    /// Whether a client takes signatures for good: the certificate is, and they verify for what it asked.
    pub(crate) fn accepts(&mut self, ticket: u64, signatures: &[[u8; 64]], certificate: &KeyCertificate) -> bool {
        if !self.believes(certificate) {
            return false;
        }
        let Some(op) = self.ops.get(&ticket) else { return false };
        let Ok(public) = PublicKey::from_bytes(&certificate.core.public_key) else { return false };
        let messages = &op.wish.messages;
        op.wish.key == Some(certificate.core.key)
            && signatures.len() == messages.len()
            && messages
                .iter()
                .zip(signatures)
                .all(|(message, signature)| public.verifies_raw(&message.0, &Signature::from_bytes(*signature)))
    }

    /// A client was told of a key.
    pub(crate) fn learn(&mut self, certificate: &KeyCertificate) {
        self.keys.insert(certificate.core.key, certificate.core.name.clone());
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Whether evil nodes may keep a request from being answered: a generation needs its whole roster.
    pub(crate) fn may_fail(&self, wish: &Wish) -> bool {
        match &wish.action {
            Action::CreateKey { plan, .. } | Action::RotateKey { plan, .. } => {
                plan.roster.iter().chain(&plan.spares).any(|node| self.evil.contains(node))
            }
            _ => false,
        }
    }
}

/// Whether a refusal may pass by itself, or at another node.
pub(crate) fn may_pass(refusal: &Refusal) -> bool {
    refusal.code.row().retryable
}
