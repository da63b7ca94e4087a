//! Requests that are refused, and one that is not.

use super::*;
use crate::id::Name;
use crate::identity::Identity;

fn grant(keys: &str) -> Grant {
    Grant { role: Role::Signer, keys: keys.to_owned() }
}

#[test]
fn patterns() {
    let name = |text| Name::new(text).unwrap();
    for (pattern, key, covered) in [
        ("release", "release", true),
        ("release", "release2", false),
        ("release*", "release2", true),
        ("*", "anything", true),
        ("*-prod", "api-prod", true),
        ("*-prod", "api-prod-2", false),
        ("a*b*c", "aXXbYYc", true),
        ("a*b*c", "aXXcYYb", false),
        ("a*a", "a", false),
        ("a**a", "aa", true),
    ] {
        assert_eq!(grant(pattern).covers(&name(key)), covered, "{pattern} {key}");
    }
    assert!(grant("a b").check().is_err() && grant("").check().is_err());
}

fn body(identity: &Identity) -> RequestBody {
    RequestBody {
        cluster: ClusterId::from_bytes([7; 32]),
        client: identity.public(),
        request_id: RequestId::from_bytes([1; 16]),
        not_before_ms: 1_000,
        expires_ms: 61_000,
        action: Action::Sign,
        key: Some(KeyId::from_bytes([2; 32])),
        version: VersionSelector::Active,
        purpose: Purpose::Sign,
        payload_type: "raw".to_owned(),
        context: BTreeMap::new(),
        messages: vec![MessageDigest::of(b"hello")],
    }
}

fn code(result: Result<VerifiedRequest, Refusal>) -> ErrorCode {
    result.unwrap_err().code
}

#[test]
fn a_good_request_passes_and_binds_its_messages() {
    let identity = Identity::from_seed(&[3; 32]);
    let request = SignedRequest::sign(&body(&identity), &identity);
    let verified = request.verify(&ClusterId::from_bytes([7; 32])).unwrap();
    assert!(verified.check_messages(&[Bytes(b"hello".to_vec())]).is_ok());
    assert!(verified.check_messages(&[Bytes(b"hellO".to_vec())]).is_err());
    assert!(verified.check_messages(&[]).is_err());
    assert!(verified.check_time(1_000).is_ok());
    assert_eq!(verified.check_time(62_500).unwrap_err().code, ErrorCode::RequestExpired);
    assert_eq!(verified.check_time(999).unwrap_err().code, ErrorCode::RequestNotYetValid);
}

#[test]
fn every_changed_byte_of_the_body_is_refused() {
    let identity = Identity::from_seed(&[3; 32]);
    let request = SignedRequest::sign(&body(&identity), &identity);
    let cluster = ClusterId::from_bytes([7; 32]);
    for at in 0..request.body.0.len() {
        let mut changed = request.clone();
        changed.body.0[at] ^= 1;
        assert!(changed.verify(&cluster).is_err(), "byte {at}");
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let identity = Identity::from_seed(&[3; 32]);
    let cluster = ClusterId::from_bytes([7; 32]);
    let check = |change: &dyn Fn(&mut RequestBody)| {
        let mut body = body(&identity);
        change(&mut body);
        code(SignedRequest::sign(&body, &identity).verify(&cluster))
    };
    assert_eq!(check(&|b| b.payload_type = "ssh".to_owned()), ErrorCode::Unsupported);
    assert_eq!(check(&|b| b.context = BTreeMap::from([("a".to_owned(), "b".to_owned())])), ErrorCode::Unsupported);
    assert_eq!(check(&|b| b.version = VersionSelector::All), ErrorCode::Unsupported);
    assert_eq!(check(&|b| b.cluster = ClusterId::from_bytes([8; 32])), ErrorCode::WrongCluster);
    assert_eq!(check(&|b| b.messages = vec![]), ErrorCode::InvalidArgument);
    assert_eq!(
        check(&|b| b.expires_ms = b.not_before_ms + limits::REQUEST_LIFETIME_MS + 1),
        ErrorCode::InvalidArgument
    );
    assert_eq!(check(&|b| b.key = None), ErrorCode::InvalidArgument);
    let mut request = SignedRequest::sign(&body(&identity), &identity);
    request.signatures[0].role = SignatureRole::Approver;
    assert_eq!(code(request.verify(&cluster)), ErrorCode::Unsupported);
}
