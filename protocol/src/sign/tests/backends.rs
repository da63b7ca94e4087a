//! Nodes that compute differently sign together.

use zeroize::Zeroizing;

use super::*;
use crate::sign::arithmetic::Backend;

impl World {
    fn compute_with(&mut self, node: NodeId, backend: Backend) {
        let group = Arc::new(KeyGroup::with_backend(&self.core, backend).unwrap());
        let share = &mut self.nodes.get_mut(&node).unwrap().share;
        let secret = Zeroizing::new(share.secret().to_bytes());
        *share = HolderShare::of_group(node, secret, group).unwrap();
    }
}

/// All ways in which three nodes and their coordinator compute.
fn rosters() -> impl Iterator<Item = (World, Plan)> {
    (0_u8..16).map(|chosen| {
        let mut world = World::of(3, 2, &[b"one", b"", b"three"]);
        let backend = |at: u8| if chosen & (1 << at) == 0 { Backend::Fast } else { Backend::FrostCore };
        for (at, node) in (0..).zip([1, 2, 3]) {
            world.compute_with(id(node), backend(at));
        }
        let mut plan = world.plan(1, &[2, 3], &[]);
        plan.group = Arc::new(KeyGroup::with_backend(&world.core, backend(3)).unwrap());
        (world, plan)
    })
}

#[test]
fn a_mixed_roster_signs() {
    for (mut world, plan) in rosters() {
        let ended = world.drive(Coordinator::new(plan), honest);
        world.assert_signed(&ended, &[2, 3]);
        assert!(ended.misbehaved.is_empty());
    }
}

#[test]
fn a_mixed_roster_finds_who_lied() {
    for (mut world, mut plan) in rosters() {
        plan.preference = vec![id(2), id(3), id(1)];
        let identity = identity_of(id(2));
        let digest = world.verified.digest();
        let ended = world.drive(Coordinator::new(plan), |node, reply| {
            if let (2, Reply::Second(shares)) = (node.get(), reply) {
                shares.shares[1][0] ^= 1;
                *shares = shares.clone().signed(&identity, &CLUSTER, &digest);
            }
            true
        });
        world.assert_signed(&ended, &[1, 3]);
        assert_eq!(ended.kind(2), Some(BlameKind::BadShare));
    }
}
