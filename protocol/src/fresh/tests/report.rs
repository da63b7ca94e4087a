//! What a client believes of a barrier, and that every lie in it is found.

use std::collections::BTreeSet;

use super::*;
use crate::entry::{Entry, LogEntry, Payload};
use crate::fresh::{Claim, Enforced, Expected, Placed, Report};
use crate::genesis::{Genesis, Member, MemberRole};
use crate::history::{self, Leaf};
use crate::id::{Name, RequestId};
use crate::membership::Followed;
use crate::outcome::Outcome;
use crate::request::{Action, Grant, Purpose, RequestBody, Role, SignedRequest, VersionSelector};
use crate::state::links::endorsements_beside;
use crate::state::members::tests::{World as Members, add, replace};
use crate::state::records::ClientRecord;
use crate::state::{apply, records};
use crate::table::{Overlay, write_to};

const NOW: u64 = 1_800_000_000_000;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn genesis() -> Genesis {
    let member = |number: u16| Member {
        name: name(&format!("node{number}")),
        key: identity(number).public(),
        peer_address: format!("node{number}:1"),
        client_address: format!("node{number}:2"),
        zone: String::new(),
        role: if number == 6 { MemberRole::Learner } else { MemberRole::Voter },
    };
    let administrators = BTreeMap::from([(name("alice"), identity(100).public())]);
    Genesis {
        name: name("test"),
        members: (1..=6).map(|number| (node(number), member(number))).collect(),
        administrators,
        checkpoint_entries: 4096,
        salt: [7; 16],
    }
}

/// The history of a cluster in which alice removes bob at index 3.
struct Scene {
    genesis: Genesis,
    tables: BTreeMap<Vec<u8>, Vec<u8>>,
    request: SignedRequest,
    outcome: Outcome,
    placed: Placed,
}

const INDEX: u64 = 3;

fn request(genesis: &Genesis, action: Action) -> SignedRequest {
    let body = RequestBody {
        cluster: genesis.cluster_id(),
        client: identity(100).public(),
        request_id: RequestId::from_bytes([3; 16]),
        not_before_ms: NOW,
        expires_ms: NOW + 60_000,
        action,
        key: None,
        version: VersionSelector::All,
        purpose: Purpose::Sign,
        payload_type: "raw".to_owned(),
        context: BTreeMap::new(),
        messages: Vec::new(),
    };
    SignedRequest::sign(&body, &identity(100))
}

impl Scene {
    /// Bob is a client like others.
    fn new() -> Self {
        let genesis = genesis();
        let grant = Grant { role: Role::Signer, keys: "*".to_owned() };
        let (bob, key) = (name("bob"), identity(101).public());
        let record = ClientRecord { name: bob.clone(), key, grants: [grant].into(), added_ms: 1 };
        let rows = [(schema::client(&bob), encode(&record)), (schema::client_name(&key), encode(&bob))];
        Self::with(genesis, rows)
    }

    /// Bob is an administrator, and part of the membership.
    fn of_administrators() -> Self {
        let mut genesis = genesis();
        genesis.administrators.insert(name("bob"), identity(101).public());
        Self::with(genesis, [])
    }

    fn with(genesis: Genesis, rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        let mut tables = records::initial(&genesis);
        let mut cluster = records::cluster(&tables).unwrap();
        cluster.started = true;
        tables.insert(schema::cluster(), encode(&cluster));
        tables.extend(rows);
        let request = request(&genesis, Action::RemoveClient { name: name("bob") });
        let mut found = None;
        for index in 0..10 {
            let tick = Entry { time_ms: NOW + index, payload: Payload::Tick };
            let ordered = Entry { time_ms: NOW + index, payload: Payload::Request(request.clone()) };
            let entry = encode(if index == INDEX { &ordered } else { &tick });
            let mut overlay = Overlay::new(&tables);
            let applied = apply(&mut overlay, &genesis, index, LogEntry::Normal(&entry)).unwrap();
            let writes = overlay.into_writes();
            let placed = Placed::of(&genesis.cluster_id(), index, &entry, &applied.outcome, &writes);
            assert_eq!(placed.is_some(), index == INDEX, "only a request that takes a right away has a place");
            found = placed.map(|placed| (placed, applied.outcome)).or(found);
            write_to(&mut tables, writes);
        }
        let (placed, outcome) = found.unwrap();
        Self { genesis, tables, request, outcome, placed }
    }

    fn sign(&self, of: u16, applied: u64) -> SignedPosition {
        let head = history::root_at(&self.tables, applied).unwrap().unwrap();
        position(of, 0, applied, head).sign(&identity(of), &self.genesis.cluster_id())
    }

    fn report(&self, voters: impl IntoIterator<Item = u16>, enforced: Enforced) -> Report {
        let positions: Vec<_> = (INDEX..).zip(voters).map(|(applied, of)| self.sign(of, applied)).collect();
        let applied = positions.iter().map(|signed| signed.position.applied);
        let place = self.placed.place(&self.tables, applied).unwrap();
        let holders = BTreeSet::from([node(1), node(6)]);
        Report { index: INDEX, enforced, positions, holders, staleness_ms: 0, place, endorsements: Vec::new() }
    }

    fn check(&self, report: &Report) -> Result<crate::fresh::Checked, String> {
        let claim = Claim::Request(&self.request, &self.outcome, INDEX);
        let followed = Followed::genesis(&self.genesis);
        report.check(&Expected { cluster: self.genesis.cluster_id(), followed: &followed, claim })
    }
}

#[test]
fn a_true_report_is_believed() {
    let scene = Scene::new();
    let report: Report = crate::wire::decode(&encode(&scene.report([1, 2, 4, 5], Enforced::Byzantine))).unwrap();
    let checked = scene.check(&report).unwrap();
    assert_eq!((checked.enforced, checked.index), (Enforced::Byzantine, INDEX));
    assert_eq!(checked.missing, BTreeSet::from([node(3), node(6)]), "a voter and a holder");
    let crash = scene.check(&scene.report([1, 2, 3], Enforced::Crash)).unwrap();
    assert_eq!(crash.enforced, Enforced::Crash);
    // Less may be claimed than could be: the wait was not over.
    assert_eq!(scene.check(&scene.report(1..=5, Enforced::No)).unwrap().enforced, Enforced::No);
    let nothing = Report { place: None, ..scene.report([], Enforced::No) };
    assert_eq!(scene.check(&nothing).unwrap().missing.len(), 6);
}

#[test]
fn a_change_of_the_membership_has_its_place_too() {
    let scene = Scene::of_administrators();
    assert!(matches!(scene.outcome, Outcome::MembershipChanged { .. }), "{:?}", scene.outcome);
    assert!(scene.check(&scene.report([1, 2, 4, 5], Enforced::Byzantine)).is_ok());
}

#[test]
fn every_lie_is_found() {
    let scene = Scene::new();
    let good = scene.report([1, 2, 3, 4], Enforced::Byzantine);
    assert!(scene.check(&good).is_ok());
    let mut lies: Vec<(&str, Report)> = Vec::new();
    lies.push(("three are not four", scene.report([1, 2, 3], Enforced::Byzantine)));
    lies.push(("two are no majority", scene.report([1, 2], Enforced::Crash)));
    lies.push(("a learner does not vote", scene.report([1, 2, 3, 6], Enforced::Byzantine)));
    let mut twice = good.clone();
    twice.positions[3] = scene.sign(1, 9);
    twice.place = scene.placed.place(&scene.tables, [3, 4, 5, 9]).unwrap();
    lies.push(("one voter twice", twice));
    let mut low = good.clone();
    low.positions[0] = scene.sign(1, INDEX - 1);
    lies.push(("a position below the index", low));
    let mut forged = good.clone();
    forged.positions[0].signature = forged.positions[1].signature;
    lies.push(("a signature of somebody else", forged));
    let mut stranger = good.clone();
    stranger.positions[0] = position(7, 0, INDEX, root(0, 1)).sign(&identity(7), &scene.genesis.cluster_id());
    lies.push(("no member", stranger));
    let mut fork = good.clone();
    fork.positions[0] = position(1, 0, INDEX, root(1, 1)).sign(&identity(1), &scene.genesis.cluster_id());
    lies.push(("a voter with another history", fork));
    lies.push(("no place", Report { place: None, ..good.clone() }));
    lies.push(("another index", Report { index: INDEX + 1, ..good.clone() }));
    let place = good.place.clone().unwrap();
    for (what, changed) in [
        ("another time", crate::fresh::Place { time_ms: place.time_ms + 1, ..place.clone() }),
        ("other writes", crate::fresh::Place { writes: root(0, 0), ..place.clone() }),
        ("no paths", crate::fresh::Place { paths: BTreeMap::new(), ..place.clone() }),
    ] {
        lies.push((what, Report { place: Some(changed), ..good.clone() }));
    }
    for (what, lie) in &lies {
        assert!(scene.check(lie).is_err(), "{what}");
    }
}

#[test]
fn a_request_that_was_not_ordered_is_not_believed() {
    let scene = Scene::new();
    let good = scene.report(1..=5, Enforced::Byzantine);
    let followed = &Followed::genesis(&scene.genesis);
    let cluster = scene.genesis.cluster_id();
    let check = |request: &SignedRequest, outcome: &Outcome, index: u64| {
        good.check(&Expected { cluster, followed, claim: Claim::Request(request, outcome, index) })
    };
    assert!(check(&scene.request, &scene.outcome, INDEX).is_ok());
    let other = request(&scene.genesis, Action::RemoveClient { name: name("carol") });
    assert!(check(&other, &scene.outcome, INDEX).is_err(), "another request stands there");
    let told = Outcome::ClientChanged { name: name("carol") };
    assert!(check(&scene.request, &told, INDEX).is_err(), "another outcome stands there");
    assert!(check(&scene.request, &scene.outcome, INDEX + 1).is_err());
    // Where a certificate proves the entry, nothing else is asked.
    let place = good.place.clone().unwrap();
    let entry = encode(&Entry { time_ms: place.time_ms, payload: Payload::Request(scene.request.clone()) });
    let (entry, outcome) = (LogEntry::Normal(&entry).digest(), scene.outcome.digest());
    let leaf = Leaf { index: INDEX, entry, outcome, writes: place.writes };
    let certified = |leaf| good.check(&Expected { cluster, followed, claim: Claim::Leaf(leaf) });
    assert!(certified(leaf).is_ok());
    assert!(certified(Leaf { index: INDEX + 1, ..leaf }).is_err());
    assert!(certified(Leaf { writes: root(0, 0), ..leaf }).is_err(), "heads of a history with another entry there");
}

/// Five voters; 5 is replaced by 6, which so many of them sign, and a client is removed behind that. The report of the removal,
/// with positions of so many nodes.
fn behind_a_change(signed: &[u16], confirmed: &[u16]) -> (Followed, Report, SignedRequest, Outcome) {
    behind(Members::new(5), replace(5, 6), signed, confirmed)
}

fn behind(
    mut world: Members,
    change: Action,
    signed: &[u16],
    confirmed: &[u16],
) -> (Followed, Report, SignedRequest, Outcome) {
    let grant = Grant { role: Role::Signer, keys: "*".to_owned() };
    world.ask(Action::AddClient { name: name("bob"), key: identity(111).public(), grant });
    world.ask(change);
    signed.iter().for_each(|number| assert!(world.endorse(*number)));
    let request = world.signed(100, Action::RemoveClient { name: name("bob") });
    let (index, outcome, placed) = world.place(&request);
    let head = history::root_at(&world.tables, index).unwrap().unwrap();
    let cluster = world.genesis.cluster_id();
    let membership = world.membership().version;
    let sign = |of: &u16| Position { membership, ..position(*of, 0, index, head) }.sign(&identity(*of), &cluster);
    let positions: Vec<_> = confirmed.iter().map(sign).collect();
    let place = placed.place(&world.tables, [index]).unwrap();
    let nodes = confirmed.iter().map(|number| node(*number)).collect();
    let endorsements = endorsements_beside(&world.tables, index, &nodes).unwrap();
    let (holders, enforced) = (BTreeSet::new(), Enforced::Byzantine);
    let report = Report { index, enforced, positions, holders, staleness_ms: 0, place, endorsements };
    (world.followed(), report, request, outcome)
}

fn believed(found: &(Followed, Report, SignedRequest, Outcome), report: &Report) -> Result<Enforced, String> {
    let (followed, _, request, outcome) = found;
    let claim = Claim::Request(request, outcome, report.index);
    report.check(&Expected { cluster: followed.cluster(), followed, claim }).map(|checked| checked.enforced)
}

#[test]
fn voters_of_now_do_not_speak_for_those_from_before() {
    // 4, 5 and one liar among 1, 2 and 3 can be a majority that never heard of the change.
    let open = behind_a_change(&[1, 2, 3], &[1, 2, 3, 6]);
    assert!(believed(&open, &open.1).unwrap_err().contains("missing"));
    let crash = Report { enforced: Enforced::Crash, ..open.1.clone() };
    assert_eq!(believed(&open, &crash), Ok(Enforced::Crash));
    let fourth = behind_a_change(&[1, 2, 3], &[1, 2, 3, 4]);
    assert_eq!(believed(&fourth, &fourth.1), Ok(Enforced::Byzantine));
    let closed = behind_a_change(&[1, 2, 3, 4], &[1, 2, 3, 6]);
    assert_eq!(believed(&closed, &closed.1), Ok(Enforced::Byzantine));
    // Who left speaks for those from before, and for nobody now.
    let left = behind_a_change(&[1, 2, 3, 4], &[1, 2, 3, 5]);
    assert!(believed(&left, &left.1).is_err());
}

#[test]
fn endorsements_that_a_client_has_not_seen_count_when_they_verify() {
    // The client walked the link when three had signed it; the fourth is in the report.
    let (mut found, late) = (behind_a_change(&[1, 2, 3], &[1, 2, 3, 6]), behind_a_change(&[1, 2, 3, 4], &[1, 2, 3, 6]));
    let mut told = late.1.endorsements.clone();
    told.retain(|endorsement| endorsement.node == node(4));
    let good = Report { endorsements: told.clone(), ..found.1.clone() };
    assert_eq!(believed(&found, &good), Ok(Enforced::Byzantine));
    for change in [
        |endorsement: &mut crate::membership::Endorsement| endorsement.node = node(6),
        |endorsement: &mut crate::membership::Endorsement| endorsement.node = node(5),
        |endorsement: &mut crate::membership::Endorsement| endorsement.version = 2,
        |endorsement: &mut crate::membership::Endorsement| endorsement.version = 0,
    ] {
        let mut lie = told.clone();
        lie.iter_mut().for_each(change);
        found.1.endorsements = lie;
        assert!(believed(&found, &found.1).is_err());
    }
}

#[test]
fn all_members_that_stayed_speak_for_the_voters_from_before() {
    // Of three voters 3 is gone for good; 7 is a learner.
    let replaced = |signed: &[u16], confirmed: &[u16]| {
        let mut world = Members::new(3);
        world.change(add(7, MemberRole::Learner));
        behind(world, replace(3, 4), signed, confirmed)
    };
    let open = replaced(&[1, 2], &[1, 2, 4]);
    assert!(believed(&open, &open.1).unwrap_err().contains("missing"), "7 may go by what 3 and a liar say");
    let crash = Report { enforced: Enforced::Crash, ..open.1.clone() };
    let (followed, _, request, outcome) = &open;
    let claim = Claim::Request(request, outcome, crash.index);
    let checked = crash.check(&Expected { cluster: followed.cluster(), followed, claim }).unwrap();
    assert_eq!(checked.missing, BTreeSet::from([node(3), node(7)]), "either of them would do");
    let confirmed = replaced(&[1, 2], &[1, 2, 4, 7]);
    assert_eq!(believed(&confirmed, &confirmed.1), Ok(Enforced::Byzantine));
    // The learner has signed the change; the client takes that from the report.
    let signed = replaced(&[1, 2, 4, 7], &[1, 2, 4]);
    assert_eq!(believed(&signed, &signed.1), Ok(Enforced::Byzantine));
    for change in [
        |told: &mut Vec<crate::membership::Endorsement>| told.retain(|endorsement| endorsement.node != node(7)),
        |told: &mut Vec<crate::membership::Endorsement>| {
            let other = told[0].signature;
            told.iter_mut().for_each(|endorsement| endorsement.signature = other);
        },
    ] {
        let mut lie = signed.1.clone();
        change(&mut lie.endorsements);
        assert!(believed(&signed, &lie).is_err());
    }
}
