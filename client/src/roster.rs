//! Who holds the shares of a new key version, where the caller leaves that open.
//!
//! The order is a rendezvous hash: a member's weight for a key is `SHA-256("symbolon/roster/v1", key name, node id)`, and the
//! lowest weights come first. So the keys of a large cluster spread evenly, and a member that joins or leaves moves few of
//! them. Members that can be reached come before those that cannot.

use std::collections::{BTreeMap, BTreeSet};

use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::genesis::Member;
use symbolon_protocol::id::{Digest, Name, NodeId, Threshold};
use symbolon_protocol::identity::tagged_hash;
use symbolon_protocol::limits;
use symbolon_protocol::request::RosterPlan;

/// What a caller says about the holders of a key; everything may be left open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// Holders needed for a signature; without it floor(n/2) + 1, or what the version before has.
    pub threshold: Option<usize>,
    /// Holders by name or number, in this order and without a spare; without it by rendezvous hash, with spares.
    pub roster: Vec<Name>,
}

/// Who holds the shares of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holders {
    /// Its roster, in order.
    pub roster: Vec<NodeId>,
    /// Holders needed for a signature.
    pub threshold: Threshold,
}

impl From<&CertificateCore> for Holders {
    fn from(core: &CertificateCore) -> Self {
        Self { roster: core.roster.clone(), threshold: core.threshold }
    }
}

/// All members in the order in which they are to hold shares of a key.
#[must_use]
pub fn ordered(key: &Name, members: impl IntoIterator<Item = NodeId>, reachable: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let mut all: Vec<NodeId> = members.into_iter().collect();
    all.sort_by_cached_key(|node| (!reachable.contains(node), weight(key, *node)));
    all
}

fn weight(key: &Name, node: NodeId) -> Digest {
    let mut payload = key.as_str().as_bytes().to_vec();
    payload.extend_from_slice(&node.get().to_be_bytes());
    tagged_hash("symbolon/roster/v1", &payload)
}

/// The plan for a new key.
///
/// # Errors
/// `invalid_argument` when the options do not fit the cluster.
pub fn plan(
    key: &Name,
    members: &BTreeMap<NodeId, Member>,
    options: &PlanOptions,
    reachable: &BTreeSet<NodeId>,
) -> Result<RosterPlan, Refusal> {
    let (roster, spares) = if options.roster.is_empty() {
        let mut all = ordered(key, members.keys().copied(), reachable);
        let mut spares = all.split_off(all.len().min(limits::DEFAULT_ROSTER_NODES));
        spares.truncate(limits::SPARES);
        (all, spares)
    } else {
        (named(members, &options.roster)?, Vec::new())
    };
    finish(roster, spares, options.threshold)
}

/// The plan for a new version of a key: like the version before, with the other members as spares.
///
/// # Errors
/// `invalid_argument` when the options do not fit the cluster.
pub fn plan_like(
    before: &Holders,
    key: &Name,
    members: &BTreeMap<NodeId, Member>,
    options: &PlanOptions,
    reachable: &BTreeSet<NodeId>,
) -> Result<RosterPlan, Refusal> {
    if !options.roster.is_empty() {
        return plan_move(before, members, options);
    }
    let others = members.keys().copied().filter(|node| !before.roster.contains(node));
    let mut spares = ordered(key, others, reachable);
    spares.truncate(limits::SPARES);
    finish(before.roster.clone(), spares, Some(options.threshold.unwrap_or(before.threshold.get())))
}

/// The plan for moving the shares of a version: to the roster that is named, else to the one that it has. Without spares.
///
/// # Errors
/// `invalid_argument` when the options do not fit the cluster.
pub fn plan_move(
    before: &Holders,
    members: &BTreeMap<NodeId, Member>,
    options: &PlanOptions,
) -> Result<RosterPlan, Refusal> {
    let roster = if options.roster.is_empty() { before.roster.clone() } else { named(members, &options.roster)? };
    // Another roster has another natural threshold; the old one is kept where it still means something.
    let kept = (roster.len() == before.roster.len()).then(|| before.threshold.get());
    finish(roster, Vec::new(), options.threshold.or(kept))
}

/// Members by their names or, where no member has such a name, by their numbers.
///
/// # Errors
/// `invalid_argument` naming who is no member.
pub fn named(members: &BTreeMap<NodeId, Member>, names: &[Name]) -> Result<Vec<NodeId>, Refusal> {
    let numbered = |name: &Name| {
        let id = name.as_str().parse().ok().and_then(NodeId::new)?;
        members.contains_key(&id).then_some(id)
    };
    names
        .iter()
        .map(|name| {
            let found = members.iter().find(|(_, member)| member.name == *name).map(|(id, _)| *id);
            found.or_else(|| numbered(name)).ok_or_else(|| {
                let known: Vec<&str> = members.values().map(|member| member.name.as_str()).collect();
                let message = format!("the cluster has no node `{name}`; its nodes are {}", known.join(", "));
                Refusal::new(ErrorCode::InvalidArgument, message)
            })
        })
        .collect()
}

fn finish(roster: Vec<NodeId>, spares: Vec<NodeId>, threshold: Option<usize>) -> Result<RosterPlan, Refusal> {
    let n = roster.len();
    let threshold = match threshold {
        Some(t) => Threshold::new(t, n),
        None => Threshold::default_for(n),
    }
    .ok_or_else(|| {
        let message = match threshold {
            Some(t) => format!("threshold {t} does not fit a roster of {n}: it must be between 2 and {n}"),
            None => format!("a roster of {n} is too small: at least 2 nodes hold shares"),
        };
        Refusal::new(ErrorCode::InvalidArgument, message)
    })?;
    let plan = RosterPlan { roster, spares, threshold };
    plan.check()?;
    Ok(plan)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::trust::tests::{genesis, name};

    fn nodes(numbers: &[u16]) -> Vec<NodeId> {
        numbers.iter().map(|number| NodeId::new(*number).unwrap()).collect()
    }

    #[test]
    fn the_order_depends_on_key_and_members_only() {
        let members = nodes(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let all: BTreeSet<NodeId> = members.iter().copied().collect();
        let order = ordered(&name("release"), members.clone(), &all);
        let backwards = members.iter().rev().copied();
        assert_eq!(ordered(&name("release"), backwards, &all), order);
        assert_ne!(ordered(&name("another"), members.clone(), &all), order);
        // A member that leaves moves nobody else.
        let gone = *order.get(4).unwrap();
        let left: Vec<NodeId> = order.iter().copied().filter(|node| *node != gone).collect();
        let members = members.into_iter().filter(|node| *node != gone);
        assert_eq!(ordered(&name("release"), members, &all), left);
    }

    #[test]
    fn the_weight_is_what_the_specification_says() {
        use sha2::{Digest as _, Sha256};
        let tag = "symbolon/roster/v1";
        let hash =
            Sha256::new().chain_update([0, 0, 0, 18]).chain_update(tag).chain_update("release").chain_update([0, 3]);
        assert_eq!(weight(&name("release"), NodeId::new(3).unwrap()).as_bytes().as_slice(), hash.finalize().as_slice());
    }

    #[test]
    fn reachable_members_come_first() {
        let members = nodes(&[1, 2, 3, 4, 5]);
        let reachable: BTreeSet<NodeId> = nodes(&[2, 4]).into_iter().collect();
        let order = ordered(&name("release"), members, &reachable);
        let first: BTreeSet<NodeId> = order.iter().copied().take(2).collect();
        assert_eq!(first, reachable);
        assert_eq!(order.len(), 5);
    }

    #[test]
    fn default_and_named_rosters() {
        let (members, none) = (genesis().members, BTreeSet::new());
        let default = plan(&name("release"), &members, &PlanOptions::default(), &none).unwrap();
        assert_eq!((default.roster.len(), default.spares.len(), default.threshold.get()), (3, 0, 2));
        let options = PlanOptions { threshold: None, roster: vec![name("node3"), name("node1")] };
        let two = plan(&name("release"), &members, &options, &none).unwrap();
        assert_eq!((two.roster, two.threshold.get()), (nodes(&[3, 1]), 2));
        for (threshold, roster) in [(Some(4), vec![]), (Some(1), vec![]), (None, vec!["node1"]), (None, vec!["node9"])]
        {
            let options = PlanOptions { threshold, roster: roster.into_iter().map(name).collect() };
            let refusal = plan(&name("release"), &members, &options, &none).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::InvalidArgument);
        }
        let twice = PlanOptions { threshold: None, roster: vec![name("node1"), name("node1")] };
        assert!(plan(&name("release"), &members, &twice, &none).unwrap_err().message.contains("twice"));
    }

    #[test]
    fn members_are_named_by_name_or_number() {
        let members = genesis().members;
        assert_eq!(named(&members, &[name("3"), name("node1")]), Ok(nodes(&[3, 1])));
        for stranger in ["4", "0", "65536", "node4"] {
            assert!(named(&members, &[name(stranger)]).unwrap_err().message.contains(stranger), "{stranger}");
        }
    }

    #[test]
    fn shares_move_where_the_options_say() {
        let before = Holders { roster: nodes(&[3, 1]), threshold: Threshold::new(2, 2).unwrap() };
        let members = genesis().members;
        let move_to = |threshold, roster: &[&str]| {
            let roster = roster.iter().copied().map(name).collect();
            plan_move(&before, &members, &PlanOptions { threshold, roster })
        };
        let same = move_to(None, &[]).unwrap();
        assert_eq!((same.roster, same.spares, same.threshold), (before.roster.clone(), vec![], before.threshold));
        let more = move_to(None, &["node1", "node2", "node3"]).unwrap();
        assert_eq!((more.roster, more.threshold.get()), (nodes(&[1, 2, 3]), 2));
        assert_eq!(move_to(Some(3), &["1", "2", "3"]).unwrap().threshold.get(), 3);
        for refused in [move_to(Some(3), &[]), move_to(None, &["node1"]), move_to(None, &["node1", "1"])] {
            assert_eq!(refused.unwrap_err().code, ErrorCode::InvalidArgument);
        }
    }

    #[test]
    fn a_new_version_keeps_roster_and_threshold() {
        let before = Holders { roster: nodes(&[2, 3]), threshold: Threshold::new(2, 2).unwrap() };
        let (members, none) = (genesis().members, BTreeSet::new());
        let plan = plan_like(&before, &name("release"), &members, &PlanOptions::default(), &none).unwrap();
        assert_eq!((plan.roster, plan.spares, plan.threshold.get()), (nodes(&[2, 3]), nodes(&[1]), 2));
        let three = PlanOptions { threshold: Some(3), roster: vec![name("node1"), name("node2"), name("node3")] };
        let plan = plan_like(&before, &name("release"), &members, &three, &none).unwrap();
        assert_eq!((plan.roster.len(), plan.spares.len(), plan.threshold.get()), (3, 0, 3));
    }
}
