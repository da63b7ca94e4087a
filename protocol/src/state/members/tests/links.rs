//! Links: what is ordered of a change, who signs it, and when nobody can go on by what was before.

use super::*;
use crate::fresh::{Electorate, Enforced};
use crate::state::links::{electorates, endorsements_beside};

#[test]
fn each_change_is_a_link_that_leads_to_the_same_membership() {
    let mut world = World::new(3);
    world.settle(add(4, MemberRole::Voter));
    world.settle(add(5, MemberRole::Learner));
    world.settle(Action::MoveMember {
        id: node(2),
        peer_address: "elsewhere:1".to_owned(),
        client_address: "elsewhere:2".to_owned(),
    });
    world.settle(appoint("third", 102));
    world.settle(dismiss("second"));
    world.settle(replace(1, 6));
    world.settle(remove(5));
    let now = world.membership();
    assert_eq!((now.version, now.members.len(), now.departed.len()), (7, 4, 2));
    let followed = world.followed();
    assert_eq!(**followed.newest(), now, "who walks the links arrives where apply is");
    assert_eq!(followed.store_of(node(6)), Some(store(6)));
    for version in 0..=7 {
        let voters = voters_at(&world.tables, version).unwrap().unwrap();
        assert_eq!(followed.at(version).unwrap().voters(), voters, "{version}");
    }
    assert_eq!(store_of(&world.tables, node(1)).unwrap(), None);
    let gone = departed(&world.tables).unwrap();
    assert_eq!((gone[&node(1)].version, gone[&node(5)].version, gone[&node(1)].leaked), (6, 7, 0));
}

#[test]
fn the_next_change_waits_until_the_one_before_is_proved() {
    let mut world = World::new(3);
    assert!(matches!(world.ask(add(4, MemberRole::Learner)), Outcome::MembershipChanged { version: 1, .. }));
    assert!(world.links().is_empty() && !is_proved(&world.tables, 1).unwrap());
    assert_eq!(world.code(add(5, MemberRole::Learner)), ErrorCode::OperationRunning);
    assert_eq!(world.code(appoint("third", 102)), ErrorCode::OperationRunning);
    assert!(world.endorse(1) && world.endorse(4));
    assert_eq!(world.code(add(5, MemberRole::Learner)), ErrorCode::OperationRunning, "a learner proves nothing");
    assert!(world.endorse(3));
    assert_eq!(world.links().len(), 1);
    // Two of three prove it. A barrier needs the third, too; then nobody has anything to sign any more.
    assert!(world.endorse(2) && !world.endorse(2));
    world.change(add(5, MemberRole::Learner));
}

#[test]
fn endorsements_are_of_voters_from_before_or_members_and_verify() {
    let mut world = World::new(3);
    world.ask(replace(3, 4));
    let (version, head) = owed_endorsements(&world.tables, node(3)).unwrap()[0];
    assert_eq!((version, head.membership), (1, 1), "the one that leaves votes on it, and the head names what comes");
    assert_eq!(owed_endorsements(&world.tables, node(4)).unwrap(), [(version, head)], "who comes says it, too");
    assert_eq!(owed_endorsements(&world.tables, node(5)).unwrap(), []);
    let cluster = world.genesis.cluster_id();
    let signed = |by: u16, domain| identity(by).sign(domain, &cluster, &encode(&head));
    for (by, signature) in
        [(5, signed(5, Domain::Head)), (1, signed(2, Domain::Head)), (1, signed(1, Domain::Position))]
    {
        let outcome = world.order(Payload::Endorse(Endorsement { version, node: node(by), signature }));
        assert!(matches!(outcome, Outcome::Refused(Refusal { code: ErrorCode::BadSignature, .. })), "{outcome:?}");
    }
    for version in [0, 2] {
        let signature = signed(1, Domain::Head);
        let outcome = world.order(Payload::Endorse(Endorsement { version, node: node(1), signature }));
        assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }
    assert!(world.endorse(3) && world.endorse(1));
    assert!(is_proved(&world.tables, 1).unwrap());
}

#[test]
fn a_request_that_comes_again_changes_nothing() {
    let mut world = World::new(3);
    let request = world.signed(100, add(4, MemberRole::Learner));
    let first = world.order(Payload::Request(request.clone()));
    for voter in 1..=3 {
        world.endorse(voter);
    }
    world.change(add(5, MemberRole::Learner));
    let links = world.links();
    assert_eq!(world.order(Payload::Request(request)), first);
    assert_eq!((world.membership().version, world.links()), (2, links));
}

#[test]
fn an_index_has_the_version_that_it_had() {
    let mut world = World::new(1);
    let at = |world: &World| version_at(&world.tables, world.index - 1).unwrap();
    let genesis = world.index - 1;
    world.change(add(2, MemberRole::Learner));
    let first = world.index - 1;
    assert_eq!(at(&world), 1);
    world.change(add(3, MemberRole::Learner));
    let versions = [genesis, first, world.index - 1].map(|index| version_at(&world.tables, index).unwrap());
    assert_eq!(versions, [0, 1, 2]);
}

/// A change that so many voters sign.
fn signed_by(world: &mut World, action: Action, voters: &[u16]) -> u64 {
    let index = world.index;
    assert!(matches!(world.ask(action), Outcome::MembershipChanged { .. }));
    voters.iter().for_each(|number| assert!(world.endorse(*number), "{number} owes nothing"));
    index
}

fn nodes(numbers: &[u16]) -> BTreeSet<NodeId> {
    numbers.iter().map(|number| node(*number)).collect()
}

fn level(world: &World, index: u64, confirmed: &[u16]) -> Enforced {
    let confirmed = nodes(confirmed);
    let all = electorates(&world.tables, index).unwrap();
    all.iter().map(|electorate| electorate.level(|node| confirmed.contains(&node))).min().unwrap()
}

#[test]
fn a_majority_moves_the_members_and_b_end_the_leases_from_before() {
    let mut world = World::new(5);
    let change = signed_by(&mut world, replace(5, 6), &[1, 2, 3]);
    assert!(is_proved(&world.tables, 1).unwrap(), "three of five go on without the others");
    let later = world.index;
    // Four of those who vote now, of whom three did before: 4, 5 and a liar would be a majority of the old ones.
    assert_eq!(level(&world, later, &[1, 2, 3, 6]), Enforced::Crash);
    assert_eq!(level(&world, later, &[1, 2, 3, 4]), Enforced::Byzantine, "the fourth of before has confirmed");
    assert_eq!(level(&world, later, &[1, 2, 5, 6]), Enforced::Crash, "too few of now");
    // For the change itself only those from before count: who has the new voters has it.
    assert_eq!(electorates(&world.tables, change).unwrap().len(), 1);
    assert_eq!(level(&world, change, &[]), Enforced::Crash);
    assert_eq!(level(&world, change, &[5]), Enforced::Byzantine, "the one that leaves confirms that, too");
    assert!(world.endorse(4) && !world.endorse(5), "late, and then nobody owes anything");
    let expected = [Electorate::of(nodes(&[1, 2, 3, 4, 6]))];
    assert_eq!(electorates(&world.tables, later).unwrap(), expected);
    assert_eq!(level(&world, later, &[1, 2, 3, 6]), Enforced::Byzantine);
}

#[test]
fn each_of_several_changes_is_waited_for() {
    let mut world = World::new(5);
    // Two are gone for good and are replaced, one after the other.
    signed_by(&mut world, replace(4, 6), &[1, 2, 3]);
    world.raft(&[&[1, 2, 3, 5, 6]]);
    assert!(world.endorse(6), "a member that came says that it knows");
    signed_by(&mut world, replace(5, 7), &[1, 2, 3, 6]);
    world.raft(&[&[1, 2, 3, 6, 7]]);
    let later = world.index;
    assert_eq!(electorates(&world.tables, later).unwrap().len(), 2, "the second change ended what was before it");
    assert_eq!(level(&world, later, &[1, 2, 3, 6]), Enforced::Crash, "the two may live on, and 7 go by what they say");
    assert_eq!(level(&world, later, &[1, 2, 3, 4, 6]), Enforced::Byzantine);
    assert_eq!(level(&world, later, &[1, 2, 3, 6, 7]), Enforced::Byzantine, "all who are left know of both");
    // What is shown beside positions: of the first change all that there is, of the second what the positions lack.
    let beside = |confirmed: &[u16]| -> Vec<(u64, u16)> {
        let list = endorsements_beside(&world.tables, later, &nodes(confirmed)).unwrap();
        list.iter().map(|endorsement| (endorsement.version, endorsement.node.get())).collect()
    };
    assert_eq!(beside(&[1, 2, 3, 6, 7]), [], "all who are left speak for everything before");
    let first = [(1, 1), (1, 2), (1, 3), (1, 6)];
    assert_eq!(beside(&[1, 2, 3, 6]), first);
    let second = [(2, 1), (2, 2), (2, 3), (2, 6)];
    assert_eq!(beside(&[1, 2, 3, 7]), [first, second].concat());
}

/// Of three voters and a learner, 4. One of them, 3, is gone for good: 5 has its place.
fn without_the_third() -> World {
    let mut world = World::new(3);
    world.settle(add(4, MemberRole::Learner));
    signed_by(&mut world, replace(3, 5), &[1, 2]);
    world.raft(&[&[1, 2, 5]]);
    world
}

#[test]
fn members_that_stayed_end_the_leases_from_before_without_those_that_left() {
    let mut world = without_the_third();
    let later = world.index;
    // The learner may hold a lease by the word of 3 and a liar.
    assert_eq!(level(&world, later, &[1, 2, 5]), Enforced::Crash);
    assert_eq!(level(&world, later, &[1, 2, 4, 5]), Enforced::Byzantine, "it knows more: nobody else is left");
    assert_eq!(electorates(&world.tables, later).unwrap().len(), 2);
    assert!(world.endorse(5));
    assert_eq!(level(&world, later, &[1, 2, 5]), Enforced::Crash);
    assert!(world.endorse(4) && !world.endorse(4));
    assert_eq!(electorates(&world.tables, later).unwrap().len(), 1, "that is kept, and 3 is asked no more");
    assert_eq!(level(&world, later, &[1, 2, 5]), Enforced::Byzantine);
    assert_eq!(level(&world, later, &[1, 2, 4]), Enforced::Crash, "of now a barrier needs all three");
}

#[test]
fn who_left_before_an_entry_is_not_waited_for() {
    let mut world = without_the_third();
    let earlier = world.index - 1;
    world.change(remove(4));
    assert!(!world.endorse(4), "who left and did not vote owes nothing");
    assert_eq!(level(&world, world.index, &[1, 2, 5]), Enforced::Byzantine);
    // Who has walked no further than this entry still counts the learner.
    assert_eq!(level(&world, earlier, &[1, 2, 5]), Enforced::Crash);
    assert_eq!(level(&world, earlier, &[1, 2, 4, 5]), Enforced::Byzantine);
}
