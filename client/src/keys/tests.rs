//! Replies about keys: which are taken, and what is told of them.

use symbolon_protocol::generate::FaultKind;
use symbolon_protocol::id::Epoch;
use symbolon_protocol::state::records::{AttemptRecord, Trigger};
use symbolon_protocol::wire::encode;

use super::*;
use crate::trust::tests::{genesis, name, verified};

#[test]
fn a_list_must_move_forward() {
    assert_eq!(page_end("b", String::new()), Ok(None));
    assert_eq!(page_end("b", "c".to_owned()), Ok(Some("c".to_owned())));
    assert!(page_end("b", "b".to_owned()).is_err() && page_end("b", "a".to_owned()).is_err());
}

#[test]
fn an_outcome_must_be_of_the_request() {
    let (key, version) = (KeyId::from_bytes([1; 32]), KeyVersion::FIRST);
    let outcome = Outcome::Generating { key, version };
    assert_eq!(check_outcome(outcome.clone(), Some(key)), Ok(outcome.clone()));
    let other = check_outcome(outcome, Some(KeyId::from_bytes([2; 32]))).unwrap_err();
    assert_eq!(other.code, ErrorCode::BadCertificate);
    for outcome in [Outcome::Redistributing { key, version, epoch: Epoch::FIRST }, Outcome::PolicyChanged { key }] {
        assert_eq!(check_outcome(outcome.clone(), Some(key)), Ok(outcome.clone()));
        assert!(check_outcome(outcome, Some(KeyId::from_bytes([2; 32]))).is_err());
    }
    let client = Outcome::ClientChanged { name: name("bob") };
    assert!(check_outcome(client.clone(), None).is_ok() && check_outcome(client, Some(key)).is_err());
    let refusal = Refusal::new(ErrorCode::WrongState, "why");
    assert_eq!(check_outcome(Outcome::Refused(refusal.clone()), Some(key)), Err(refusal));
}

#[test]
fn a_reply_must_be_about_the_key_that_was_asked_for() {
    let trust = Trust::new(genesis(), None);
    let key = verified(50, KeyState::Active);
    let reply = v1::KeyReply { index: 3, key: encode(&key.view).into(), time_ms: 4 };
    let good = check_reply(&trust, &name("release"), reply.clone()).unwrap();
    assert_eq!((good.index, good.time_ms), (3, 4));
    let refusal = check_reply(&trust, &name("other"), reply).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::BadCertificate);
    let garbage = v1::KeyReply { index: 3, key: vec![1, 2, 3].into(), time_ms: 4 };
    assert_eq!(check_reply(&trust, &name("release"), garbage).unwrap_err().code, ErrorCode::BadCertificate);
}

#[test]
fn a_generation_that_failed_names_who_was_at_fault() {
    let trust = Trust::new(genesis(), None);
    let mut key = verified(50, KeyState::Pending);
    assert!(!is_certified(&key, KeyVersion::FIRST, &trust).unwrap());
    for version in &mut key.view.versions {
        version.state = KeyState::Failed;
        version.attempts.push(AttemptRecord {
            trigger: Trigger::Generate,
            epoch: Epoch::FIRST,
            roster: version.roster.clone(),
            threshold: version.threshold,
            ended_ms: 1,
            fault: Some(FaultKind::Unresponsive),
            reporter: None,
            culprits: vec![NodeId::new(2).unwrap()],
        });
    }
    let error = is_certified(&key, KeyVersion::FIRST, &trust).unwrap_err();
    assert_eq!(error.code(), ErrorCode::GenerationFailed);
    assert!(error.message().contains("unresponsive of node2"), "{error}");
    assert_eq!(error.details().get("culprits"), Some(&Detail::List(vec!["node2".to_owned()])));
    assert!(is_certified(&verified(50, KeyState::Active), KeyVersion::FIRST, &trust).unwrap());
}
