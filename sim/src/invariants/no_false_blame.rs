//! An honest node is never blamed with evidence, by anybody; nor by an honest node for what it is supposed to have said. (That it
//! was silent may be said of an honest node: nobody can tell silence from a slow network. An evil node says what it likes.)

use std::collections::BTreeSet;

use symbolon_protocol::generate::{FaultKind, Vote};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::redistribute::DealingVote;

use super::{NO_FALSE_BLAME, Violation, safety};
use crate::count::{Counters, situation};

/// A vote was ordered and accepted.
pub(super) fn ordered(evil: &BTreeSet<NodeId>, vote: &Vote, count: &mut Counters) -> Result<(), Violation> {
    let Vote::Fault { node, report, .. } = vote else { return Ok(()) };
    if let Some(evidence) = &report.evidence {
        count.situation(situation::SPLIT_PROVED);
        if !evil.contains(&evidence.node) {
            return Err(safety(NO_FALSE_BLAME, format!("node {} is honest, and proved to have lied", evidence.node)));
        }
    }
    let said = matches!(
        report.kind,
        FaultKind::BadMessage
            | FaultKind::BadProof
            | FaultKind::BadShare
            | FaultKind::SplitView
            | FaultKind::WrongResult
    );
    match report.culprits.iter().find(|culprit| !evil.contains(culprit)) {
        Some(culprit) if said && !evil.contains(node) => {
            let what = format!("node {node} blames node {culprit} for `{}`; both are honest", report.kind);
            Err(safety(NO_FALSE_BLAME, what))
        }
        _ => Ok(()),
    }
}

/// A dealing or an acknowledgement was ordered and accepted.
pub(super) fn dealt(evil: &BTreeSet<NodeId>, vote: &DealingVote, count: &mut Counters) -> Result<(), Violation> {
    let DealingVote::Acknowledged { node, accused, .. } = vote else { return Ok(()) };
    if accused.is_empty() {
        return Ok(());
    }
    count.situation(situation::DEALING_ACCUSED);
    match accused.iter().find(|dealer| !evil.contains(dealer)) {
        Some(dealer) if !evil.contains(node) => {
            let what = format!("holder {node} accuses dealer {dealer}; both are honest");
            Err(safety(NO_FALSE_BLAME, what))
        }
        _ => Ok(()),
    }
}

/// An honest coordinator blames.
pub(super) fn coordinator(
    evil: &BTreeSet<NodeId>,
    node: NodeId,
    culprits: &[NodeId],
    what: &str,
) -> Result<(), Violation> {
    match culprits.iter().find(|culprit| !evil.contains(culprit)) {
        Some(culprit) => {
            Err(safety(NO_FALSE_BLAME, format!("coordinator {node} blames the honest node {culprit}: {what}")))
        }
        None => Ok(()),
    }
}

/// An honest holder says that a coordinator attempted to use nonces twice.
pub(super) fn alarm(evil: &BTreeSet<NodeId>, node: NodeId, against: NodeId) -> Result<(), Violation> {
    if evil.contains(&against) {
        return Ok(());
    }
    Err(safety(NO_FALSE_BLAME, format!("holder {node} says that the honest coordinator {against} reused nonces")))
}
