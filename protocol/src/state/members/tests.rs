//! Changes of the membership through `apply`, and a cluster to try them on: what is allowed when. Beside it what a link gets, and
//! whose shares hold a node back.

mod links;
mod shares;

use super::*;
use crate::entry::{Entry, LogEntry, Payload};
use crate::genesis::NewStore;
use crate::id::RequestId;
use crate::identity::{Domain, Identity};
use crate::membership::{Endorsement, Followed, Link};
use crate::request::SignedRequest;
use crate::request::{Grant, Purpose, RequestBody, Role, VersionSelector};
use crate::state::apply;
use crate::state::links::{is_proved, links_after, owed_endorsements, version_at};
use crate::table::write_to;

pub(crate) fn node(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Of a node by its number; of administrators from 100 on.
pub(crate) fn identity(number: u16) -> Identity {
    Identity::from_seed(&[u8::try_from(number).unwrap(); 32])
}

pub(crate) fn member(number: u16, role: MemberRole) -> Member {
    Member {
        name: name(&format!("node{number}")),
        key: identity(number).public(),
        peer_address: format!("node{number}:1"),
        client_address: format!("node{number}:2"),
        zone: String::new(),
        role,
    }
}

pub(super) fn store(number: u16) -> StoreId {
    StoreId::from_bytes([u8::try_from(number).unwrap(); 16])
}

pub(crate) fn add(number: u16, role: MemberRole) -> Action {
    Action::AddMember { id: node(number), member: member(number, role), store: store(number) }
}

pub(crate) fn remove(number: u16) -> Action {
    Action::RemoveMember { id: node(number), lost: false }
}

pub(crate) fn replace(old: u16, number: u16) -> Action {
    let member = member(number, MemberRole::Voter);
    Action::ReplaceMember { old: node(old), id: node(number), member, store: store(number), lost: false }
}

pub(crate) fn appoint(text: &str, number: u16) -> Action {
    let grant = Grant { role: Role::Admin, keys: "*".to_owned() };
    Action::AddClient { name: name(text), key: identity(number).public(), grant }
}

pub(crate) fn dismiss(text: &str) -> Action {
    Action::RemoveClient { name: name(text) }
}

/// A cluster that started, of voters 1 to n, with the administrators `root` (100) and `second` (101).
pub(crate) struct World {
    pub(crate) genesis: Genesis,
    pub(crate) tables: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) index: u64,
    requests: u8,
}

impl World {
    pub(crate) fn new(voters: u16) -> Self {
        let genesis = Genesis {
            name: name("test"),
            members: (1..=voters).map(|number| (node(number), member(number, MemberRole::Voter))).collect(),
            administrators: [("root", 100), ("second", 101)]
                .map(|(text, key)| (name(text), identity(key).public()))
                .into(),
            checkpoint_entries: limits::CHECKPOINT_ENTRIES,
            salt: [7; 16],
        };
        let tables = records::initial(&genesis);
        let mut world = Self { genesis, tables, index: 0, requests: 0 };
        let answers = (1..=voters).map(|number| {
            let payload = NewStore::payload(node(number), store(number));
            let signature = identity(number).sign(Domain::Start, &world.genesis.cluster_id(), &payload);
            NewStore { node: node(number), store: store(number), signature }
        });
        let certificate = StartCertificate { answers: answers.collect() };
        assert_eq!(world.order(Payload::Start(certificate)), Outcome::Started);
        world
    }

    fn log(&mut self, entry: LogEntry<'_>) -> Outcome {
        let mut overlay = Overlay::new(&self.tables);
        let applied = apply(&mut overlay, &self.genesis, self.index, entry).unwrap();
        let writes = overlay.into_writes();
        write_to(&mut self.tables, writes);
        self.index += 1;
        applied.outcome
    }

    pub(crate) fn order(&mut self, payload: Payload) -> Outcome {
        let bytes = encode(&Entry { time_ms: 1_000, payload });
        self.log(LogEntry::Normal(&bytes))
    }

    /// Orders a request that takes a right away: its index, its outcome, its place.
    pub(crate) fn place(&mut self, request: &SignedRequest) -> (u64, Outcome, crate::fresh::Placed) {
        let entry = encode(&Entry { time_ms: 1_000, payload: Payload::Request(request.clone()) });
        let (index, mut overlay) = (self.index, Overlay::new(&self.tables));
        let outcome = apply(&mut overlay, &self.genesis, index, LogEntry::Normal(&entry)).unwrap().outcome;
        let writes = overlay.into_writes();
        let cluster = self.genesis.cluster_id();
        let placed = crate::fresh::Placed::of(&cluster, index, &entry, &outcome, &writes).unwrap();
        write_to(&mut self.tables, writes);
        self.index += 1;
        (index, outcome, placed)
    }

    pub(crate) fn signed(&mut self, by: u16, action: Action) -> SignedRequest {
        self.requests += 1;
        let body = RequestBody {
            cluster: self.genesis.cluster_id(),
            client: identity(by).public(),
            request_id: RequestId::from_bytes([self.requests; 16]),
            not_before_ms: 1_000,
            expires_ms: 61_000,
            action,
            key: None,
            version: VersionSelector::All,
            purpose: Purpose::Sign,
            payload_type: "raw".to_owned(),
            context: BTreeMap::new(),
            messages: Vec::new(),
        };
        SignedRequest::sign(&body, &identity(by))
    }

    /// A request of an administrator.
    pub(crate) fn ask(&mut self, action: Action) -> Outcome {
        let request = self.signed(100, action);
        self.order(Payload::Request(request))
    }

    pub(crate) fn refusal(&mut self, action: Action) -> Refusal {
        match self.ask(action) {
            Outcome::Refused(refusal) => refusal,
            outcome => panic!("not refused: {outcome:?}"),
        }
    }

    pub(crate) fn code(&mut self, action: Action) -> ErrorCode {
        self.refusal(action).code
    }

    /// A change that is made, with the endorsement of as many voters from before it as are needed.
    pub(crate) fn change(&mut self, action: Action) {
        let before: Vec<u16> = membership(&self.tables).unwrap().voters().keys().map(|node| node.get()).collect();
        let outcome = self.ask(action);
        assert!(matches!(outcome, Outcome::MembershipChanged { .. }), "{outcome:?}");
        for number in before {
            while self.endorse(number) {}
        }
    }

    /// The same, and Raft moves.
    pub(super) fn settle(&mut self, action: Action) {
        self.change(action);
        let wanted: Vec<u16> = self.membership().voters().keys().map(|node| node.get()).collect();
        self.raft(&[&wanted]);
    }

    /// A node signs the first change that it owes; true when it owed something.
    pub(crate) fn endorse(&mut self, number: u16) -> bool {
        let owed = owed_endorsements(&self.tables, node(number)).unwrap();
        let Some((version, head)) = owed.first().copied() else { return false };
        let signature = identity(number).sign(Domain::Head, &self.genesis.cluster_id(), &encode(&head));
        let outcome = self.order(Payload::Endorse(Endorsement { version, node: node(number), signature }));
        assert_eq!(outcome, Outcome::Noted);
        true
    }

    /// A membership entry of Raft.
    pub(super) fn raft(&mut self, sets: &[&[u16]]) -> Outcome {
        let voters: Option<BTreeSet<NodeId>> = match sets {
            [one] => Some(one.iter().map(|number| node(*number)).collect()),
            _ => None,
        };
        self.log(LogEntry::Membership { stored: b"stored", voters: voters.as_ref() })
    }

    pub(crate) fn membership(&self) -> Membership {
        membership(&self.tables).unwrap()
    }

    pub(crate) fn links(&self) -> Vec<Link> {
        links_after(&self.tables, 0, 1_000).unwrap()
    }

    pub(crate) fn followed(&self) -> Followed {
        let mut followed = Followed::genesis(&self.genesis);
        followed.take_all(self.links()).unwrap();
        followed
    }
}

fn configuration(sets: &[&[u16]]) -> Vec<BTreeSet<NodeId>> {
    sets.iter().map(|set| set.iter().map(|number| node(*number)).collect()).collect()
}

#[test]
fn genesis_needs_no_link_and_its_rows_are_those_of_its_membership() {
    let world = World::new(3);
    assert_eq!(world.membership(), Membership::genesis(&world.genesis));
    assert_eq!(voters_at(&world.tables, 0).unwrap().unwrap(), world.membership().voters());
    assert_eq!(store_of(&world.tables, node(2)).unwrap(), Some(store(2)));
    assert!(is_proved(&world.tables, 0).unwrap() && world.links().is_empty());
    assert_eq!(owed_endorsements(&world.tables, node(1)).unwrap(), []);
}

#[test]
fn only_administrators_change_members() {
    let mut world = World::new(3);
    let grant = Grant { role: Role::KeyAdmin, keys: "*".to_owned() };
    let key = identity(110).public();
    assert!(matches!(world.ask(Action::AddClient { name: name("k"), key, grant }), Outcome::ClientChanged { .. }));
    assert_eq!(world.membership().version, 0, "other roles are not of the membership");
    for action in [add(4, MemberRole::Voter), remove(1), replace(1, 4)] {
        let request = world.signed(110, action);
        let Outcome::Refused(refusal) = world.order(Payload::Request(request)) else { panic!("not refused") };
        assert_eq!(refusal.code, ErrorCode::PermissionDenied);
    }
    // Who became one since may, who is none any more may not.
    world.change(appoint("k", 110));
    let request = world.signed(110, add(4, MemberRole::Learner));
    assert!(matches!(world.order(Payload::Request(request)), Outcome::MembershipChanged { version: 2, .. }));
    for voter in 1..=3 {
        world.endorse(voter);
    }
    world.change(dismiss("k"));
    let request = world.signed(110, add(5, MemberRole::Learner));
    assert!(matches!(world.order(Payload::Request(request)), Outcome::Refused(_)));
}

#[test]
fn numbers_names_identities_and_addresses_are_not_used_twice() {
    let mut world = World::new(3);
    world.settle(add(4, MemberRole::Learner));
    world.settle(remove(4));
    let with = |change: &dyn Fn(&mut Member)| {
        let mut member = member(5, MemberRole::Learner);
        change(&mut member);
        Action::AddMember { id: node(5), member, store: store(5) }
    };
    let taken = [
        Action::AddMember { id: node(4), member: member(5, MemberRole::Learner), store: store(5) },
        Action::AddMember { id: node(3), member: member(5, MemberRole::Learner), store: store(5) },
        with(&|member| member.name = name("node1")),
        with(&|member| member.key = identity(1).public()),
        with(&|member| member.key = identity(4).public()),
        with(&|member| member.key = identity(100).public()),
        with(&|member| member.peer_address = "node1:1".to_owned()),
        with(&|member| member.client_address = "node1:2".to_owned()),
        Action::MoveMember { id: node(1), peer_address: "node2:1".to_owned(), client_address: "x:1".to_owned() },
    ];
    for action in taken {
        let what = format!("{action:?}");
        assert_eq!(world.code(action), ErrorCode::AlreadyExists, "{what}");
    }
    for number in [1, 4] {
        let refusal = world.refusal(appoint("third", number));
        assert_eq!(refusal.code, ErrorCode::AlreadyExists);
        assert!(refusal.message.contains(&format!("node {number}")), "{}", refusal.message);
    }
    assert_eq!(world.code(remove(9)), ErrorCode::NotFound);
    assert_eq!(world.code(replace(9, 5)), ErrorCode::NotFound);
    let same =
        Action::MoveMember { id: node(1), peer_address: "node1:1".to_owned(), client_address: "node1:2".to_owned() };
    assert_eq!(world.code(same), ErrorCode::InvalidArgument);
    // The name of one that left is free again, and of one that leaves at the same time.
    let mut renamed = member(5, MemberRole::Voter);
    renamed.name = name("node1");
    let replaced = Action::ReplaceMember { old: node(1), id: node(5), member: renamed, store: store(5), lost: false };
    world.settle(replaced);
    assert_eq!(world.membership().version, 3);
}

#[test]
fn the_number_of_voters_has_limits() {
    let mut world = World::new(7);
    assert_eq!(world.code(add(8, MemberRole::Voter)), ErrorCode::InvalidArgument);
    world.settle(add(8, MemberRole::Learner));
    world.settle(replace(7, 9));
    let mut alone = World::new(1);
    assert_eq!(alone.code(remove(1)), ErrorCode::WrongState);
    let mut learner = replace(1, 2);
    if let Action::ReplaceMember { member, .. } = &mut learner {
        member.role = MemberRole::Learner;
    }
    assert_eq!(alone.code(learner), ErrorCode::WrongState);
    alone.settle(replace(1, 2));
    assert_eq!(alone.membership().voters().len(), 1);
}

#[test]
fn the_last_administrator_stays() {
    let mut world = World::new(1);
    world.settle(dismiss("second"));
    assert_eq!(world.code(dismiss("root")), ErrorCode::LastAdministrator);
    let left: Option<super::super::records::ClientRecord> =
        read(&world.tables, &schema::client(&name("root"))).unwrap();
    assert!(left.is_some());
}

#[test]
fn voters_change_one_set_at_a_time_and_raft_follows() {
    let mut world = World::new(3);
    let sets = |world: &World| voter_sets(&world.tables).unwrap();
    world.change(add(4, MemberRole::Voter));
    assert!(!sets(&world).is_settled());
    // What does not change the voters need not wait for a node that does not come up.
    world.change(appoint("third", 102));
    world.change(add(5, MemberRole::Learner));
    let refusal = world.refusal(add(6, MemberRole::Voter));
    assert_eq!(refusal.code, ErrorCode::OperationRunning);
    assert!(refusal.message.contains("node4"), "{}", refusal.message);
    assert_eq!(world.code(remove(1)), ErrorCode::OperationRunning);
    let allowed = |world: &World, sets: &[&[u16]]| voter_sets(&world.tables).unwrap().allows(&configuration(sets));
    for good in [&[&[1u16, 2, 3][..]][..], &[&[1, 2, 3], &[1, 2, 3, 4]], &[&[1, 2, 3, 4]]] {
        assert!(allowed(&world, good), "{good:?}");
    }
    for bad in
        [&[&[1u16, 2][..]][..], &[], &[&[1, 2, 3], &[1, 2, 3]], &[&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 3, 4]], &[&[4]]]
    {
        assert!(!allowed(&world, bad), "{bad:?}");
    }
    assert_eq!(world.raft(&[&[1, 2, 3]]), Outcome::Noted);
    assert_eq!(world.raft(&[&[1, 2, 3], &[1, 2, 3, 4]]), Outcome::Noted, "a joint configuration is on the way only");
    assert_eq!(world.raft(&[&[1, 2, 3, 4]]), Outcome::VotersMoved { version: 3 });
    assert!(sets(&world).is_settled() && !allowed(&world, &[&[1, 2, 3]]));
    assert_eq!(world.raft(&[&[1, 2, 3, 4]]), Outcome::Noted);
    world.settle(remove(1));
}

#[test]
fn a_voter_that_does_not_come_up_is_taken_back() {
    let mut world = World::new(3);
    world.change(add(4, MemberRole::Voter));
    world.change(remove(4));
    let sets = voter_sets(&world.tables).unwrap();
    assert_eq!(sets.sets.len(), 3, "Raft may be on the way to the set that was taken back");
    assert!(sets.allows(&configuration(&[&[1, 2, 3], &[1, 2, 3, 4]])));
    assert_eq!(world.code(add(5, MemberRole::Voter)), ErrorCode::OperationRunning);
    assert_eq!(world.code(remove(1)), ErrorCode::OperationRunning);
    assert_eq!(world.raft(&[&[1, 2, 3, 4]]), Outcome::Noted, "it was, and goes back");
    assert_eq!(world.raft(&[&[1, 2, 3]]), Outcome::VotersMoved { version: 2 });
    world.settle(add(5, MemberRole::Voter));
}
