//! Whose shares hold a node back.

use super::*;
use crate::id::Threshold;
use crate::lifecycle::KeyState;
use crate::request::{KeyPolicy, RosterPlan, Suite};
use crate::state::records::ShareSet;

/// Writes a version as an entry would, and lets the index follow.
fn put_version(world: &mut World, key: KeyId, shares: Vec<ShareSet>) {
    let mut overlay = Overlay::new(&world.tables);
    let mut version: VersionRecord = read(&overlay, &schema::version(&key, KeyVersion::FIRST)).unwrap().unwrap();
    version.shares = shares;
    version.state = KeyState::Active;
    overlay.put(schema::version(&key, KeyVersion::FIRST), &version);
    overlay.remove(schema::operation(&operation_id(&key, KeyVersion::FIRST)));
    index_holders(&mut overlay).unwrap();
    let writes = overlay.into_writes();
    write_to(&mut world.tables, writes);
}

fn share_set(epoch: u32, holders: &[u16], erased: &[u16]) -> ShareSet {
    ShareSet {
        epoch: crate::id::Epoch::new(epoch).unwrap(),
        holders: holders.iter().map(|number| node(*number)).collect(),
        threshold: Threshold::new(2, holders.len()).unwrap(),
        erased: erased.iter().map(|number| node(*number)).collect(),
    }
}

fn create(world: &mut World, text: &str) -> KeyId {
    let roster: Vec<NodeId> = [1, 2, 3].map(node).into();
    let action = Action::CreateKey {
        name: name(text),
        suite: Suite::Ed25519,
        plan: RosterPlan { roster, spares: vec![node(4)], threshold: Threshold::new(2, 3).unwrap() },
        tags: BTreeMap::new(),
        expires_ms: None,
        policy: KeyPolicy::default(),
    };
    match world.ask(action) {
        Outcome::Generating { key, .. } => key,
        outcome => panic!("{outcome:?}"),
    }
}

fn needed(world: &World) -> [u64; 4] {
    [1, 2, 3, 4].map(|number| needed_shares(&world.tables, node(number)).unwrap())
}

#[test]
fn a_node_whose_shares_are_needed_does_not_leave() {
    let mut world = World::new(4);
    let keys: Vec<KeyId> = (0..7).map(|number| create(&mut world, &format!("key{number}"))).collect();
    assert_eq!(needed(&world), [7, 7, 7, 0], "while a key is made too; a spare is free to go");
    let refusal = world.refusal(remove(1));
    assert_eq!(refusal.code, ErrorCode::StillNeeded);
    assert_eq!(refusal.details["needed"], Detail::Number(7));
    assert!(matches!(&refusal.details["keys"], Detail::List(names) if names.len() == 5), "{refusal:?}");
    for key in &keys {
        put_version(&mut world, *key, vec![share_set(1, &[1, 2, 3], &[])]);
    }
    assert_eq!(needed(&world), [7, 7, 7, 0]);
    // Moved away from node 1: needed until so many have erased that the old set is the key no more, though one of them lies.
    put_version(&mut world, keys[0], vec![share_set(1, &[1, 2, 3], &[3]), share_set(2, &[2, 3, 4], &[])]);
    assert_eq!(needed(&world), [7, 7, 7, 1]);
    put_version(&mut world, keys[0], vec![share_set(1, &[1, 2, 3], &[2, 3]), share_set(2, &[2, 3, 4], &[])]);
    assert_eq!(needed(&world), [7, 7, 7, 1], "its share and that of one who lied are two");
    put_version(&mut world, keys[0], vec![share_set(2, &[2, 3, 4], &[])]);
    assert_eq!(needed(&world), [6, 7, 7, 1]);
    for key in &keys[1..] {
        put_version(&mut world, *key, vec![share_set(1, &[1, 2, 3], &[1]), share_set(2, &[2, 3, 4], &[])]);
    }
    assert_eq!(needed(&world), [0, 7, 7, 7]);
    world.settle(remove(1));
}

#[test]
fn a_lost_node_leaves_and_its_shares_are_counted() {
    let mut world = World::new(4);
    let keys: Vec<KeyId> = (0..3).map(|number| create(&mut world, &format!("key{number}"))).collect();
    for key in &keys {
        put_version(&mut world, *key, vec![share_set(1, &[1, 2, 3], &[])]);
    }
    world.settle(Action::RemoveMember { id: node(1), lost: true });
    assert_eq!(departed(&world.tables).unwrap()[&node(1)].leaked, 3);
    // The count at its going stays; what is still out falls as the keys move on.
    put_version(&mut world, keys[0], vec![share_set(1, &[1, 2, 3], &[2, 3]), share_set(2, &[2, 3, 4], &[])]);
    assert_eq!(needed(&world), [2, 3, 3, 1]);
    assert_eq!(departed(&world.tables).unwrap()[&node(1)].leaked, 3);
    // It proves nothing any more.
    let now = world.membership();
    assert!(!now.members.contains_key(&node(1)) && now.departed.contains_key(&node(1)));
}

#[test]
fn proofs_are_enough_when_one_of_them_may_be_a_lie() {
    let set = |holders: &[u16], threshold: usize, erased: &[u16]| ShareSet {
        threshold: Threshold::new(threshold, holders.len()).unwrap(),
        ..share_set(1, holders, erased)
    };
    let (three, five) = (&[1u16, 2, 3][..], &[1u16, 2, 3, 4, 5][..]);
    let stayed = |_: NodeId| false;
    assert!(!set(three, 2, &[1, 2]).is_closed(stayed), "the third and one that lied");
    assert!(set(three, 2, three).is_closed(stayed));
    assert!(!set(five, 3, &[1, 2, 3]).is_closed(stayed), "two and one that lied");
    assert!(set(five, 3, &[1, 2, 3, 4]).is_closed(stayed));
    // Who left proves nothing: then all others are enough, and nothing less.
    let left = |node: NodeId| node.get() > 3;
    assert!(set(five, 3, &[1, 2, 3]).is_closed(left));
    assert!(!set(five, 3, &[1, 2]).is_closed(left));
    assert!(set(three, 2, &[1, 2]).is_closed(|node| node.get() == 3));
    assert!(!set(three, 2, &[1]).is_closed(|node| node.get() == 3));
}

/// Time of everything in these tests, milliseconds.
const NOW: u64 = 1_000;

fn prove(world: &mut World, key: KeyId, number: u16) -> Outcome {
    let (version, below) = (KeyVersion::FIRST, crate::id::Epoch::new(2).unwrap());
    let payload = crate::entry::Erasure::payload(&key, version, below, node(number));
    let signature = identity(number).sign(Domain::Erased, &world.genesis.cluster_id(), &payload);
    world.order(Payload::Erased(crate::entry::Erasure { key, version, below, node: node(number), signature }))
}

fn owes(world: &World, number: u16) -> bool {
    !crate::state::owed_erasures(&world.tables, node(number), NOW, 10).unwrap().is_empty()
}

#[test]
fn a_destruction_ends_once_the_node_that_owes_is_given_up_for_lost() {
    let mut world = World::new(4);
    let key = create(&mut world, "key");
    put_version(&mut world, key, vec![share_set(1, &[1, 2, 3], &[])]);
    let mut record: VersionRecord = read(&world.tables, &schema::version(&key, KeyVersion::FIRST)).unwrap().unwrap();
    record.state = KeyState::Destroying;
    record.destruction = Some(records::DestructionRecord { at_ms: NOW, before: KeyState::Revoked });
    world.tables.insert(schema::version(&key, KeyVersion::FIRST), encode(&record));
    world.tables.insert(schema::destruction(NOW, &key, KeyVersion::FIRST), encode(&true));
    assert!(owes(&world, 2) && owes(&world, 3));
    assert_eq!((prove(&mut world, key, 2), prove(&mut world, key, 3)), (Outcome::Noted, Outcome::Noted));
    assert!(owes(&world, 1) && !owes(&world, 2), "two of three have proved it, and one of them may lie");
    assert_eq!(prove(&mut world, key, 2), Outcome::Noted, "said again it is no more");
    world.settle(Action::RemoveMember { id: node(1), lost: true });
    assert!(owes(&world, 2), "it says so again, so that somebody ends it");
    let destroyed = Outcome::KeyChanged { key, versions: vec![(KeyVersion::FIRST, KeyState::Destroyed)] };
    assert_eq!(prove(&mut world, key, 2), destroyed);
    assert!(!owes(&world, 2) && !owes(&world, 3));
    assert_eq!(departed(&world.tables).unwrap()[&node(1)].leaked, 1);
}
