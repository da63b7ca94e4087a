//! The first moment: genesis, disks, the start certificate; all from the seed.

use std::collections::BTreeMap;

use symbolon_protocol::entry::{Entry, Payload};
use symbolon_protocol::genesis::{Genesis, Member, MemberRole, NewStore, StartCertificate};
use symbolon_protocol::id::{Name, NodeId, StoreId};
use symbolon_protocol::identity::{Domain, Identity};
use symbolon_protocol::limits;
use symbolon_protocol::wire::encode;

use super::{START_MS, Slot, World};
use crate::bugs::Bug;
use crate::byzantine::Evil;
use crate::client::{Clients, admin_of};
use crate::count::Counters;
use crate::draw::Draw;
use crate::invariants::Oracle;
use crate::network::Network;
use crate::node::Node;
use crate::options::Options;
use crate::order::{Logged, Order};
use crate::trace::Trace;

fn identity_seed(seed: u64, node: NodeId) -> [u8; 32] {
    Draw::new(seed, &format!("identity {node}")).bytes()
}

fn genesis_of(options: &Options) -> Option<Genesis> {
    let mut members = BTreeMap::new();
    for node in options.ids() {
        let member = Member {
            name: Name::new(&format!("node{node}")).ok()?,
            key: Identity::from_seed(&identity_seed(options.seed, node)).public(),
            peer_address: format!("node{node}:7001"),
            client_address: format!("node{node}:7002"),
            zone: String::new(),
            role: MemberRole::Voter,
        };
        members.insert(node, member);
    }
    let genesis = Genesis {
        name: Name::new("simulation").ok()?,
        members,
        administrators: BTreeMap::from([(Name::new("admin").ok()?, admin_of(options.seed).public())]),
        checkpoint_entries: limits::CHECKPOINT_ENTRIES,
        salt: Draw::new(options.seed, "salt").bytes(),
    };
    genesis.check().ok().map(|()| genesis)
}

/// The first entry: every voter says that its store is new.
fn start_entry(options: &Options, genesis: &Genesis) -> Logged {
    let cluster = genesis.cluster_id();
    let mut answers = Vec::new();
    for node in options.ids() {
        let store = StoreId::from_bytes(Draw::new(options.seed, &format!("store {node}")).bytes());
        let identity = Identity::from_seed(&identity_seed(options.seed, node));
        let signature = identity.sign(Domain::Start, &cluster, &NewStore::payload(node, store));
        answers.push(NewStore { node, store, signature });
    }
    let payload = Payload::Start(StartCertificate { answers });
    Logged::Normal(encode(&Entry { time_ms: START_MS, payload }))
}

impl World {
    pub(super) fn new(options: Options, bug: Option<Bug>, keep_lines: bool) -> Option<Self> {
        let genesis = genesis_of(&options)?;
        let mut chaos = Draw::new(options.seed, "chaos");
        let mut clocks = Draw::new(options.seed, "clocks");
        let mut slots = BTreeMap::new();
        for node in options.ids() {
            let disk = Node::install(&genesis, node, identity_seed(options.seed, node));
            let reach = i64::try_from(options.skew_ms).ok()?;
            let skew_ms = i64::try_from(chaos.below(2 * options.skew_ms + 1)).ok()? - reach;
            let evil = options.evil.contains(&node).then(|| Evil::new(options.seed, node, options.malice));
            let rate = 1000 - options.drift + clocks.below(2 * options.drift + 1);
            let slot = Slot {
                running: None,
                down: Some(disk),
                evil,
                boots: 0,
                skew_ms,
                rate,
                begun_ms: clocks.below(1_000_000),
                logged: 0,
                apply_due: false,
            };
            slots.insert(node, slot);
        }
        let clients = Clients::new(&options, &genesis);
        Some(Self {
            bug,
            now_ms: 0,
            calm_since: None,
            step: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            slots,
            network: Network::new(options.seed),
            order: Order::default(),
            clients,
            start: start_entry(&options, &genesis),
            oracle: Oracle::new(genesis, options.evil.clone(), options.seed),
            chaos,
            siege: Draw::new(options.seed, "siege"),
            siege_until_ms: 0,
            count: Counters::default(),
            trace: Trace::new(keep_lines),
            work_left: options.operations,
            points: 0,
            options,
        })
    }
}
