//! What a node does not do while it waits for the log.

use super::*;
use crate::fresh::withdrawn::means_current;
use crate::fresh::{Subject, Withdrawals};
use crate::id::{KeyId, KeyVersion, RequestId};
use crate::outcome::Outcome;
use crate::request::{Action, Purpose, RequestBody, SignedRequest, VerifiedRequest, VersionSelector};
use crate::state::records::RequestRecord;

const NOW: u64 = 1_800_000_000_000;
const KEY: KeyId = KeyId::from_bytes([5; 32]);

fn body(client: u16, action: Action, id: u8) -> RequestBody {
    RequestBody {
        cluster: CLUSTER,
        client: identity(client).public(),
        request_id: RequestId::from_bytes([id; 16]),
        not_before_ms: NOW,
        expires_ms: NOW + 60_000,
        action,
        key: Some(KEY),
        version: VersionSelector::Active,
        purpose: Purpose::Sign,
        payload_type: "raw".to_owned(),
        context: BTreeMap::new(),
        messages: Vec::new(),
    }
}

fn suspend(id: u8) -> VerifiedRequest {
    SignedRequest::sign(&body(100, Action::SuspendKey, id), &identity(100)).verify(&CLUSTER).unwrap()
}

#[test]
fn what_is_withdrawn_stays_so_until_the_state_knows_or_it_expires() {
    let mut withdrawals = Withdrawals::default();
    let sign = body(101, Action::Sign, 9);
    assert!(!withdrawals.hit(&sign, NOW));
    withdrawals.note(&suspend(1), Subject::Key(KEY));
    assert!(withdrawals.hit(&sign, NOW) && withdrawals.hit(&sign, NOW + 59_999));
    assert!(!withdrawals.hit(&sign, NOW + 60_000), "expired");
    assert!(!withdrawals.hit(&RequestBody { key: Some(KeyId::from_bytes([6; 32])), ..sign.clone() }, NOW));
    // The outcome of another request with this id is not the one that is waited for.
    let record = |digest| RequestRecord { digest, expires_ms: 0, outcome: Outcome::Noted };
    let place = schema::request(&identity(100).public(), &RequestId::from_bytes([1; 16]));
    let mut tables = BTreeMap::from([(place.clone(), encode(&record(root(0, 0))))]);
    assert!(!withdrawals.settle(&tables, NOW, |_, _| true).unwrap() && withdrawals.hit(&sign, NOW));
    tables.insert(place, encode(&record(suspend(1).digest())));
    assert!(withdrawals.settle(&tables, NOW, |_, _| true).unwrap() && withdrawals.is_empty());
    // What cannot be there is not looked up.
    withdrawals.note(&suspend(2), Subject::Key(KEY));
    let unreadable =
        BTreeMap::from([(schema::request(&identity(100).public(), &RequestId::from_bytes([2; 16])), vec![0xff])]);
    assert!(withdrawals.settle(&unreadable, NOW, |_, _| true).is_err());
    let other = RequestId::from_bytes([3; 16]);
    assert!(!withdrawals.settle(&unreadable, NOW, |_, id| *id == other).unwrap() && withdrawals.hit(&sign, NOW));
    assert!(withdrawals.settle(&BTreeMap::new(), NOW + 60_000, |_, _| false).unwrap() && withdrawals.is_empty());
}

#[test]
fn a_client_that_is_removed_loses_every_key() {
    let mut withdrawals = Withdrawals::default();
    withdrawals.note(&suspend(1), Subject::Client(identity(101).public()));
    assert!(withdrawals.hit(&body(101, Action::Sign, 9), NOW));
    assert!(!withdrawals.hit(&body(102, Action::Sign, 9), NOW));
}

#[test]
fn only_the_current_version_signs() {
    let current = Some(KeyVersion::FIRST);
    assert!(means_current(VersionSelector::Active, current) && means_current(VersionSelector::All, None));
    assert!(means_current(VersionSelector::Number(KeyVersion::FIRST), current));
    assert!(!means_current(VersionSelector::Number(KeyVersion::new(2).unwrap()), current));
}
