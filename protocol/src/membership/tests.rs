//! Walking the chain: good links lead on, everything else ends the walk.

use super::*;
use crate::state::members::tests::{World, add, appoint, dismiss, identity, node, remove};

/// Version 1 adds an administrator, 2 removes one of genesis, 3 adds a voter, 4 removes a voter of genesis.
fn world() -> World {
    let mut world = World::new(3);
    world.change(appoint("third", 102));
    world.change(dismiss("second"));
    world.change(add(4, MemberRole::Learner));
    world.change(remove(3));
    world
}

/// The walk up to a link that is changed first.
fn taken(world: &World, version: usize, change: impl FnOnce(&mut Link)) -> Result<(), ChainError> {
    let mut links = world.links();
    let mut followed = Followed::genesis(&world.genesis);
    let rest = links.split_off(version - 1);
    followed.take_all(links).unwrap();
    let mut link = rest.into_iter().next().unwrap();
    change(&mut link);
    let before = followed.version();
    let result = followed.take(link);
    assert_eq!(followed.version(), before + u64::from(result.is_ok()));
    result
}

/// A link as a majority of liars would make it: another request, with a place and heads that fit.
fn forge(world: &World, link: &Link, request: SignedRequest, voters: &[u16]) -> Link {
    let cluster = world.genesis.cluster_id();
    let verified = request.verify(&cluster).unwrap();
    let followed = world.followed();
    let before = followed.at(link.place.head.membership - 1).unwrap();
    let next = before.after(&verified.body().action).ok().flatten();
    let outcome = next.map_or(Outcome::Noted, |next| next.outcome(&verified));
    let mut place = link.place.clone();
    // A history of one's own, in which the change comes a little later.
    let index = 1u64 << (u64::BITS - place.head.index.leading_zeros());
    let leaf = Leaf { index, entry: place.entry, outcome: outcome.digest(), writes: place.writes };
    let (path, root) = crate::history::made_up(&leaf);
    place.path = path;
    place.head = Head { index, root, ..place.head };
    let heads = voters
        .iter()
        .map(|number| (node(*number), identity(*number).sign(Domain::Head, &cluster, &encode(&place.head))));
    Link { request, heads: heads.collect(), place }
}

#[test]
fn good_links_lead_on_and_come_twice() {
    let world = world();
    let mut followed = Followed::genesis(&world.genesis);
    let links = world.links();
    assert_eq!(followed.take_all(links[..2].to_vec()), Ok(2));
    assert_eq!(followed.take_all(links.clone()), Ok(2), "the two that were known are passed over");
    assert_eq!(followed.take_all(links), Ok(0));
    assert_eq!((followed.version(), followed.newest().members.len()), (4, 3));
    for version in 1..=4 {
        assert_eq!(taken(&world, version, |_| {}), Ok(()));
    }
}

#[test]
fn a_forged_link_would_be_taken_with_an_administrator_and_a_majority_only() {
    let mut world = world();
    let link = world.links()[2].clone();
    let action = || add(9, MemberRole::Voter);
    let (by_root, by_new, by_gone) =
        (world.signed(100, action()), world.signed(102, action()), world.signed(101, action()));
    let by_nobody = world.signed(77, action());
    let walk = |request: &SignedRequest, voters: &[u16]| {
        let forged = forge(&world, &link, request.clone(), voters);
        taken(&world, 3, |link| *link = forged)
    };
    assert_eq!(walk(&by_root, &[1, 2]), Ok(()), "the forgery itself is sound");
    assert_eq!(walk(&by_new, &[2, 3]), Ok(()), "an administrator since version 1");
    assert_eq!(
        walk(&by_gone, &[1, 2, 3]),
        Err(ChainError::Signer(Box::new(identity(101).public()))),
        "none since version 2"
    );
    assert_eq!(walk(&by_nobody, &[1, 2, 3]), Err(ChainError::Signer(Box::new(identity(77).public()))));
    for too_few in [&[][..], &[1], &[1, 4], &[1, 9]] {
        assert_eq!(walk(&by_root, too_few), Err(ChainError::Heads), "{too_few:?}");
    }
}

#[test]
fn voters_of_before_decide_not_those_of_after() {
    let mut world = World::new(3);
    world.change(add(4, MemberRole::Voter));
    let link = world.links()[0].clone();
    let request = link.request.clone();
    let walk = |voters: &[u16]| {
        let forged = forge(&world, &link, request.clone(), voters);
        taken(&world, 1, |link| *link = forged)
    };
    assert_eq!(walk(&[1, 4]), Err(ChainError::Heads));
    assert_eq!(walk(&[1, 3]), Ok(()));
}

#[test]
fn links_are_neither_skipped_nor_exchanged() {
    let world = world();
    let links = world.links();
    let mut followed = Followed::genesis(&world.genesis);
    assert_eq!(followed.take(links[1].clone()), Err(ChainError::Version { expected: 1, found: 2 }));
    followed.take(links[0].clone()).unwrap();
    assert_eq!(followed.take(links[0].clone()), Err(ChainError::Version { expected: 2, found: 1 }));
    // The version in the head is signed: a link cannot be given another one.
    let renumbered = taken(&world, 2, |link| {
        *link = links[2].clone();
        link.place.head.membership = 2;
    });
    assert!(matches!(renumbered, Err(ChainError::History | ChainError::Heads)), "{renumbered:?}");
}

#[test]
fn every_part_of_a_link_is_bound() {
    let mut world = world();
    let other = world.links()[3].clone();
    let request = world.signed(100, add(9, MemberRole::Learner));
    let history =
        |change: &dyn Fn(&mut Link)| assert_eq!(taken(&world, 3, |link| change(link)), Err(ChainError::History));
    history(&|link| link.request = request.clone());
    history(&|link| link.place.entry = Digest::from_bytes([1; 32]));
    history(&|link| link.place.writes = Digest::from_bytes([1; 32]));
    history(&|link| link.place.head.root = Digest::from_bytes([1; 32]));
    history(&|link| link.place.path.clear());
    assert_eq!(taken(&world, 3, |link| link.heads = other.heads.clone()), Err(ChainError::Heads));
    assert_eq!(
        taken(&world, 3, |link| link.place.head.state = Some(Digest::from_bytes([1; 32]))),
        Err(ChainError::Heads)
    );
    let broken = taken(&world, 3, |link| link.request.body.0[40] ^= 1);
    assert!(matches!(broken, Err(ChainError::Request(_))), "{broken:?}");
    let ordinary = world.signed(100, Action::Status);
    assert_eq!(taken(&world, 3, |link| link.request = ordinary.clone()), Err(ChainError::NoChange));
    let impossible = world.signed(100, remove(9));
    assert!(matches!(taken(&world, 3, |link| link.request = impossible.clone()), Err(ChainError::Rule(_))));
}

#[test]
fn another_cluster_is_another_chain() {
    let (world, mut other) = (world(), World::new(3));
    other.genesis.salt = [8; 16];
    let mut followed = Followed::genesis(&other.genesis);
    assert!(matches!(followed.take(world.links()[0].clone()), Err(ChainError::Request(_))));
    let ticket = JoinTicket::of(&world.followed());
    assert!(ticket.follow(&other.genesis).unwrap_err().contains("cluster"));
}

#[test]
fn a_head_lies_within_its_version() {
    let world = world();
    let followed = world.followed();
    let at = |version: usize| world.links()[version - 1].place.head.index;
    let head = |index, membership| Head { index, root: Digest::from_bytes([0; 32]), membership, state: None };
    assert!(followed.spans(&head(0, 0)) && followed.spans(&head(at(1) - 1, 0)) && !followed.spans(&head(at(1), 0)));
    assert!(followed.spans(&head(at(1), 1)) && !followed.spans(&head(at(1) - 1, 1)));
    assert!(followed.spans(&head(u64::MAX, 4)) && !followed.spans(&head(u64::MAX, 3)) && !followed.spans(&head(9, 5)));
}

#[test]
fn a_ticket_goes_through_its_file_and_proves_itself() {
    let world = world();
    let ticket = JoinTicket::of(&world.followed());
    let text = ticket.to_file();
    assert!(text.lines().all(|line| line.len() <= 110));
    let read = JoinTicket::parse_file(&text).unwrap();
    assert_eq!(read, ticket);
    let followed = read.follow(&world.genesis).unwrap();
    assert_eq!((followed.version(), followed.links().len()), (4, 4));
    let mut short = ticket.clone();
    short.links.pop();
    assert!(short.follow(&world.genesis).is_err(), "it names version 4");
    assert!(JoinTicket::parse_file("symbolon-genesis-v1\n00").is_err());
    assert!(JoinTicket::parse_file("symbolon-ticket-v1\nzz").is_err());
}
