//! What is made of views of a key whose shares are being moved, and of lists.

use symbolon_protocol::generate::FaultKind;
use symbolon_protocol::id::{OperationId, Threshold};
use symbolon_protocol::identity::Identity;
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::state::records::Trigger;
use symbolon_protocol::state::view::{KeyView, OperationPhase};

use super::*;
use crate::client::Config;
use crate::trust::tests::{genesis, name, renewed};

fn epoch(number: u32) -> Epoch {
    Epoch::new(number).unwrap()
}

fn node(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn trust() -> Trust {
    Trust::new(genesis(), None)
}

/// A refresh from epoch 1 on, begun by entry 7.
fn begun() -> ShareMove {
    ShareMove {
        key: name("release"),
        key_id: KeyId::from_bytes([50; 32]),
        version: KeyVersion::FIRST,
        epoch: epoch(2),
        absent: Vec::new(),
        index: 7,
        request_id: RequestId::from_bytes([1; 16]),
    }
}

fn running(of: u32) -> OperationView {
    OperationView {
        id: OperationId::from_bytes([3; 32]),
        key: name("release"),
        version: KeyVersion::FIRST,
        trigger: Trigger::Refresh,
        epoch: epoch(of),
        attempt: of - 1,
        begun_ms: 1,
        deadline_ms: 6_001,
        phase: OperationPhase::Dealing,
        waiting: vec![node(3)],
    }
}

fn ended(of: u32, culprits: &[u16]) -> AttemptRecord {
    AttemptRecord {
        trigger: Trigger::Refresh,
        epoch: epoch(of),
        roster: [1, 2, 3].map(node).into(),
        threshold: Threshold::new(2, 3).unwrap(),
        ended_ms: 1,
        fault: Some(FaultKind::Unresponsive),
        reporter: None,
        culprits: culprits.iter().copied().map(node).collect(),
    }
}

/// What is made of a view from right after entry `index`, with a change to its only version.
fn seen(mut view: KeyView, index: u64, change: impl Fn(&mut VersionView)) -> Result<Look, Error> {
    view.versions.iter_mut().for_each(change);
    look(&trust().check_key(view, index, 1).unwrap(), &begun(), &trust())
}

#[test]
fn a_change_of_shares_is_over_when_they_are_certified() {
    let runs = seen(renewed(1), 7, |version| version.running = Some(running(2)));
    assert!(matches!(&runs, Ok(Look::Runs(operation)) if *operation == running(2)), "{runs:?}");
    // An operation of before, or a node that is behind.
    for before in [
        seen(renewed(1), 6, |version| version.running = Some(running(1))),
        seen(renewed(1), 6, |_| {}),
        seen(renewed(1), 7, |_| {}),
    ] {
        assert!(matches!(before, Ok(Look::Nothing)), "{before:?}");
    }
    // Committed, and shown with the certificate before.
    let committed = seen(renewed(1), 8, |version| version.shares.as_mut().unwrap().epoch = epoch(2));
    assert!(matches!(committed, Ok(Look::Nothing)), "{committed:?}");
    // A later operation has overtaken this one: its shares are new too.
    for of in [2, 3] {
        let done = seen(renewed(of), 9, |version| version.shares.as_mut().unwrap().stale = vec![node(3)]);
        let told = |look| match look {
            Look::Done(shares) => Some((shares.certified.core.epoch, shares.stale)),
            _ => None,
        };
        assert_eq!(done.ok().and_then(told), Some((epoch(of), vec![node(3)])));
    }
}

#[test]
fn a_change_of_shares_that_failed_names_who_was_at_fault() {
    let after = |attempts: &[AttemptRecord]| {
        let attempts = [&[ended(1, &[1])][..], attempts].concat();
        seen(renewed(1), 9, |version| version.attempts.clone_from(&attempts))
    };
    // Another attempt begins in the same entry that ends one.
    let three = [ended(2, &[3]), ended(3, &[]), ended(4, &[2, 3])];
    assert!(matches!(after(&three), Ok(Look::Nothing)));
    let error = after(&[&three[..], &[ended(5, &[])]].concat()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::RosterUnreachable);
    assert!(error.message().contains("epoch 2: unresponsive of node3; epoch 3: unresponsive; "), "{error}");
    let blamed = ["node2", "node3"].map(str::to_owned).to_vec();
    assert_eq!(error.details().get("culprits"), Some(&Detail::List(blamed)));
}

#[test]
fn a_version_that_was_withdrawn_is_not_waited_for() {
    for (state, over) in [(KeyState::Suspended, false), (KeyState::Rotated, false), (KeyState::Revoked, true)] {
        let seen = seen(renewed(1), 9, |version| version.state = state);
        let code = seen.map_or_else(|error| Some(error.code()), |_| None);
        assert_eq!(code, over.then_some(ErrorCode::WrongState), "{state}");
    }
}

#[tokio::test]
async fn too_few_are_refused_by_name() {
    let client = Client::connect(Config::new(genesis(), Identity::from_seed(&[99; 32]))).await.unwrap();
    let key = trust().check_key(renewed(1), 1, 1).unwrap();
    let check = |roster: &[u16], t: usize, absent: &[u16]| {
        let roster: Vec<NodeId> = roster.iter().copied().map(node).collect();
        let plan = RosterPlan { threshold: Threshold::new(t, roster.len()).unwrap(), roster, spares: Vec::new() };
        let absent: Vec<NodeId> = absent.iter().copied().map(node).collect();
        client.check_parties(&key, KeyVersion::FIRST, &plan, &absent)
    };
    assert_eq!(check(&[1, 2, 3], 2, &[]), Ok(()));
    // One more than the threshold has to take a share, or everybody.
    let refusal = check(&[1, 2, 3], 2, &[2]).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::RosterUnreachable);
    assert!(refusal.message.contains("3 of the 3 nodes") && refusal.message.contains("absent: node2"), "{refusal}");
    assert_eq!(check(&[1, 3], 2, &[2]), Ok(()));
    // The threshold of the holders deals, wherever the shares go.
    let refusal = check(&[1, 2, 3], 3, &[1, 2]).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::BelowThreshold);
    let unreachable = ["node1", "node2"].map(str::to_owned).to_vec();
    assert_eq!(refusal.details.get("unreachable"), Some(&Detail::List(unreachable)));
}

#[test]
fn a_list_of_operations_must_move_forward() {
    let id = |byte| [byte; OPERATION_ID];
    assert_eq!(page_end(&id(2), &[]), Ok(None));
    assert_eq!(page_end(&[], &id(2)), Ok(Some(id(2).to_vec())));
    assert_eq!(page_end(&id(2), &id(3)), Ok(Some(id(3).to_vec())));
    assert!(page_end(&id(2), &id(2)).is_err() && page_end(&id(2), &id(1)).is_err() && page_end(&id(2), &[3]).is_err());
}
