//! What every release that knows a state version knows of it, no more and no less.

use std::collections::BTreeMap;

use super::*;
use crate::entry::{Entry, LogEntry, Payload};
use crate::error::{Detail, ErrorCode};
use crate::generate::{FaultKind, Vote};
use crate::genesis::{Genesis, MemberRole};
use crate::id::{Name, RequestId};
use crate::identity::Identity;
use crate::lifecycle::KeyState;
use crate::outcome::Outcome;
use crate::redistribute::DealingVote;
use crate::request::{Action, Purpose, RequestBody, Role, SignatureRole, Suite, VersionSelector};
use crate::schema::replicated as schema;
use crate::state::records::{self, ClusterRecord, RequestRecord, Trigger};
use crate::state::{apply, apply_request};
use crate::table::{Overlay, read};
use crate::wire::{Bytes, Reader, Wire, decode, encode};

/// The tags that this release can read of a type.
fn tags<T: Wire>() -> Vec<u8> {
    // Behind a tag that is known, something is missing or all is well.
    (0..=u8::MAX).filter(|tag| !matches!(T::take(&mut Reader::new(&[*tag])), Err(WireError::Invalid(_)))).collect()
}

fn upto(last: u8) -> Vec<u8> {
    (1..=last).collect()
}

/// Everything that can be part of an entry, an outcome or a table, at state version 1. Who adds to one of these makes the next
/// state version: old releases refuse what new ones take, and the histories of the two would differ. The new tag then goes into
/// the rules of that version (for what is nested in payloads and actions, a check of its own), and into a list of its own here.
/// An error code that no outcome has only has to be added here.
#[test]
fn nothing_is_added_to_a_state_version() {
    assert_eq!(records::STATE_VERSION, 1, "list what the next state version adds");
    assert_eq!(tags::<Payload>(), RULES.iter().flat_map(|rules| rules.payloads).copied().collect::<Vec<_>>());
    assert_eq!(tags::<Action>(), RULES.iter().flat_map(|rules| rules.actions).copied().collect::<Vec<_>>());
    assert_eq!(tags::<Payload>(), [upto(11), vec![20]].concat());
    assert_eq!(tags::<Action>(), [upto(25), vec![30]].concat());
    assert_eq!(tags::<Outcome>(), [upto(12), vec![21, 22]].concat());
    assert_eq!(tags::<ErrorCode>(), upto(33));
    assert_eq!(tags::<Detail>(), upto(3));
    assert_eq!(tags::<KeyState>(), upto(9));
    assert_eq!(tags::<Trigger>(), upto(5));
    assert_eq!(tags::<Suite>(), upto(1));
    assert_eq!(tags::<Role>(), upto(4));
    assert_eq!(tags::<Purpose>(), upto(1));
    assert_eq!(tags::<SignatureRole>(), upto(3));
    assert_eq!(tags::<VersionSelector>(), upto(3));
    assert_eq!(tags::<MemberRole>(), upto(2));
    assert_eq!(tags::<FaultKind>(), upto(7));
    assert_eq!(tags::<Vote>(), upto(2));
    assert_eq!(tags::<DealingVote>(), upto(2));
}

fn administrator() -> Identity {
    Identity::from_seed(&[100; 32])
}

fn genesis() -> Genesis {
    let administrators = Name::new("admin").map(|name| (name, administrator().public())).into_iter().collect();
    let name = Name::new("test").unwrap();
    Genesis { name, members: BTreeMap::new(), administrators, checkpoint_entries: 1_000, salt: [7; 16] }
}

/// Tables of a cluster that has started, at a state version.
fn tables(state_version: u32) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut tables = records::initial(&genesis());
    let cluster = ClusterRecord { started: true, state_version, ..records::cluster(&tables).unwrap() };
    tables.insert(schema::cluster(), encode(&cluster));
    tables
}

fn request() -> SignedRequest {
    let body = RequestBody {
        cluster: genesis().cluster_id(),
        client: administrator().public(),
        request_id: RequestId::from_bytes([1; 16]),
        not_before_ms: 0,
        expires_ms: 60_000,
        action: Action::RemoveClient { name: Name::new("nobody").unwrap() },
        key: None,
        version: VersionSelector::All,
        purpose: Purpose::Sign,
        payload_type: "raw".to_owned(),
        context: BTreeMap::new(),
        messages: Vec::new(),
    };
    SignedRequest::sign(&body, &administrator())
}

/// What an older release does with an entry whose tag it cannot read is what every release does with a tag that the state version
/// does not know yet.
#[test]
fn a_payload_of_a_later_version_is_refused_as_nonsense_is() {
    let refused = |bytes: &[u8], version| {
        let tables = tables(version);
        let mut overlay = Overlay::new(&tables);
        let outcome = apply(&mut overlay, &genesis(), 0, LogEntry::Normal(bytes)).unwrap().outcome;
        let mut writes = overlay.into_writes();
        // Every entry has a leaf of its own.
        writes.retain(|key, _| ![schema::TREE, schema::ROOTS].iter().any(|prefix| key.starts_with(prefix)));
        (outcome, writes)
    };
    let tick = encode(&Entry { time_ms: 70_000, payload: Payload::Tick });
    let mut strange = tick.clone();
    *strange.get_mut(PAYLOAD_TAG).unwrap() = 250;
    assert!(decode::<Entry>(&strange).is_err());
    let (taken, _) = refused(&tick, 1);
    assert_eq!(taken, Outcome::Noted, "version 1 knows it");
    let ((early, early_writes), (nonsense, nonsense_writes)) = (refused(&tick, 0), refused(&strange, 1));
    assert!(matches!(&early, Outcome::Refused(refusal) if refusal.code == ErrorCode::InvalidArgument), "{early:?}");
    assert_eq!((early.digest(), early_writes), (nonsense.digest(), nonsense_writes));
}

#[test]
fn an_action_of_a_later_version_is_refused_as_nonsense_is() {
    let order = |request: &SignedRequest, version| {
        let tables = tables(version);
        let cluster = records::cluster(&tables).unwrap();
        let mut overlay = Overlay::new(&tables);
        let outcome = apply_request(&mut overlay, &cluster, 5, request).unwrap();
        (outcome.without_words(), overlay.into_writes())
    };
    let known = request();
    assert_eq!(
        known.action_tag(),
        encode(&Action::RemoveClient { name: Name::new("nobody").unwrap() }).get(1).copied()
    );
    let mut strange = known.clone();
    let Bytes(body) = &mut strange.body;
    *body.get_mut(97).unwrap() = 250;
    assert_eq!(strange.action_tag(), Some(250));
    let nonsense = order(&strange, 1);
    assert_eq!(order(&known, 0), nonsense);
    assert_ne!(order(&known, 1), nonsense);
    // Whatever else is wrong with it: an older release does not come to that.
    let mut forged = known.clone();
    forged.signatures.clear();
    assert_eq!(order(&forged, 0), nonsense);
    let large = SignedRequest { body: Bytes(vec![1; limits::REQUEST_BODY_BYTES + 1]), signatures: Vec::new() };
    assert!(matches!(order(&large, 0).0, Outcome::Refused(refusal) if refusal.code == ErrorCode::TooLarge));
}

#[test]
fn words_are_no_part_of_what_is_stored_or_hashed() {
    let said =
        |message: &str| Outcome::Refused(Refusal::new(ErrorCode::NotFound, message).with("n", Detail::Number(1)));
    assert_eq!(said("there is no such client").digest(), said("no client").digest());
    let other = Outcome::Refused(Refusal::new(ErrorCode::NotFound, "no client").with("n", Detail::Number(2)));
    assert_ne!(said("no client").digest(), other.digest(), "details are");
    let code = Outcome::Refused(Refusal::new(ErrorCode::WrongState, "no client").with("n", Detail::Number(1)));
    assert_ne!(said("no client").digest(), code.digest(), "codes are");

    let tables = tables(1);
    let mut overlay = Overlay::new(&tables);
    let cluster = records::cluster(&tables).unwrap();
    let outcome = apply_request(&mut overlay, &cluster, 5, &request()).unwrap();
    let Outcome::Refused(refusal) = &outcome else { panic!("not refused: {outcome:?}") };
    assert!(refusal.message.contains("nobody"), "{refusal}");
    let key = schema::request(&administrator().public(), &RequestId::from_bytes([1; 16]));
    let record: Option<RequestRecord> = read(&overlay, &key).unwrap();
    assert_eq!(record.map(|record| record.outcome), Some(outcome.without_words()));
}
